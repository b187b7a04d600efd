/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * tree.c - ranges of addresses, in order
 *
 * Theory of operation: see sluice/tree.h. The order is that of (start, last, place in memory), so
 * no two nodes are equal and a node is found again by descending. Changes go down once, noting the
 * links that they passed, and up once, mending height, reach and balance.
 *
 * Invariant: the heights of a node's two subtrees differ by one at most, so a tree of n nodes is
 * at most 1.45 log2(n + 2) high: 64 levels are more than an address space of nodes can fill.
 */
#include <sluice/tree.h>

#define LEVELS 64u

static uint32_t height(const struct sluice_node *node)
{
	return node ? node->height : 0;
}

static void mend(struct sluice_node *node)
{
	uint32_t left = height(node->child[0]), right = height(node->child[1]);

	node->height = 1 + (left > right ? left : right);
	node->reach = node->last;
	for (uint32_t i = 0; i < 2; i++) {
		if (node->child[i] && node->child[i]->reach > node->reach)
			node->reach = node->child[i]->reach;
	}
}

/* Make the child on the given side the top of its parent's subtree. */
static void lift(struct sluice_node **link, uint32_t side)
{
	struct sluice_node *old = *link, *top = old->child[side];

	old->child[side] = top->child[!side];
	top->child[!side] = old;
	mend(old);
	mend(top);
	*link = top;
}

static void balance(struct sluice_node **link)
{
	struct sluice_node *node = *link;

	for (uint32_t side = 0; side < 2; side++) {
		struct sluice_node *high = node->child[side];

		if (height(high) <= height(node->child[!side]) + 1)
			continue;
		if (height(high->child[!side]) > height(high->child[side]))
			lift(&node->child[side], !side);
		lift(link, side);
		return;
	}
	mend(node);
}

/* Which side of at is (start, last, key, node) on? node may be NULL: before all equal ones. */
static uint32_t side_of(const struct sluice_node *at, uint64_t start, uint64_t last, uint32_t key,
			const struct sluice_node *node)
{
	if (start != at->start)
		return start > at->start;
	if (last != at->last)
		return last > at->last;
	if (key != at->key)
		return key > at->key;
	return (uintptr_t)node > (uintptr_t)at;
}

void sluice_tree_insert(struct sluice_node **root, struct sluice_node *node)
{
	struct sluice_node **path[LEVELS], **link = root;
	uint32_t n = 0;

	while (*link) {
		path[n++] = link;
		link = &(*link)->child[side_of(*link, node->start, node->last, node->key, node)];
	}
	node->child[0] = node->child[1] = NULL;
	mend(node);
	*link = node;
	while (n > 0)
		balance(path[--n]);
}

void sluice_tree_remove(struct sluice_node **root, struct sluice_node *node)
{
	struct sluice_node **path[LEVELS], **link = root;
	uint32_t n = 0;

	while (*link != node) {
		path[n++] = link;
		link = &(*link)->child[side_of(*link, node->start, node->last, node->key, node)];
	}
	if (node->child[0] && node->child[1]) {
		struct sluice_node **next = &node->child[1], *heir;
		uint32_t at = n;

		/* The next one in order takes its place. */
		path[n++] = link;
		while ((*next)->child[0]) {
			path[n++] = next;
			next = &(*next)->child[0];
		}
		heir = *next;
		*next = heir->child[1];
		heir->child[0] = node->child[0];
		heir->child[1] = node->child[1];
		*link = heir;
		if (n > at + 1)
			path[at + 1] = &heir->child[1];
	} else {
		*link = node->child[node->child[0] ? 0 : 1];
	}
	while (n > 0)
		balance(path[--n]);
}

struct sluice_node *sluice_tree_first(struct sluice_node *root, uint64_t start, uint64_t last)
{
	struct sluice_node *node = root;

	while (node) {
		/*
		 * If something on the left ends at or after start, the answer is there or nowhere:
		 * were that range too high to overlap, all to its right would be, too.
		 */
		if (node->child[0] && node->child[0]->reach >= start)
			node = node->child[0];
		else if (node->start > last)
			return NULL;
		else if (node->last >= start)
			return node;
		else
			node = node->child[1];
	}
	return NULL;
}

/* The lowest node that is above (start, last, key, node). */
static struct sluice_node *above(struct sluice_node *root, uint64_t start, uint64_t last,
				 uint32_t key, const struct sluice_node *node)
{
	struct sluice_node *best = NULL;

	while (root) {
		bool right = root == node || side_of(root, start, last, key, node);

		if (!right)
			best = root;
		root = root->child[right];
	}
	return best;
}

struct sluice_node *sluice_tree_exact(struct sluice_node *root, uint64_t start, uint64_t last,
				      uint32_t key)
{
	struct sluice_node *node = above(root, start, last, key, NULL);

	return node && node->start == start && node->last == last && node->key == key ? node : NULL;
}

struct sluice_node *sluice_tree_next(struct sluice_node *root, const struct sluice_node *node)
{
	return above(root, node->start, node->last, node->key, node);
}
