/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/tree.h - ranges of addresses, in order
 *
 * Theory of operation
 * -------------------
 * A balanced tree (Adelson-Velsky and Landis 1962) of ranges, ordered by their first address, in
 * which every node also knows the highest last address below it, so that "what overlaps this range"
 * takes a number of steps that is logarithmic in the number of ranges, even if ranges overlap each
 * other. A node is part of its owner's structure: the tree allocates nothing and fails never.
 *
 * Both ends of sharing in place use it: the driver's for what it has mapped, the device's for what
 * has been mapped for it, where the addresses are the guest's choice. The depth does not depend on
 * the order in which they come.
 *
 * Nothing in here locks.
 */
#ifndef SLUICE_TREE_H
#define SLUICE_TREE_H

#include <sluice/os.h>

struct sluice_node {
	struct sluice_node *child[2];
	uint64_t start, last; /* the owner's; unchanged while in a tree; start <= last */
	uint64_t reach;	      /* highest last in this subtree */
	uint32_t height;
	uint32_t key; /* the owner's, as start and last: tells nodes of one range apart */
};

/**
 * sluice_tree_insert - put a node into a tree
 * @root: the tree: NULL if empty
 * @node: its start and last are set; owned by the caller, in no tree
 */
SLUICE_API void sluice_tree_insert(struct sluice_node **root, struct sluice_node *node);

/**
 * sluice_tree_remove - take a node out of the tree that it is in
 */
SLUICE_API void sluice_tree_remove(struct sluice_node **root, struct sluice_node *node);

/**
 * sluice_tree_first - the lowest range that has an address in common with [start, last]
 *
 * Return: it, or NULL.
 */
SLUICE_API struct sluice_node *sluice_tree_first(struct sluice_node *root, uint64_t start,
						 uint64_t last);

/**
 * sluice_tree_exact - a range that is [start, last] and has this key; of several, any
 */
SLUICE_API struct sluice_node *sluice_tree_exact(struct sluice_node *root, uint64_t start,
						 uint64_t last, uint32_t key);

/**
 * sluice_tree_next - the range after @node in the tree's order, or NULL
 */
SLUICE_API struct sluice_node *sluice_tree_next(struct sluice_node *root,
						const struct sluice_node *node);

#endif
