/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * lane.h - large chains through a ring, several at once, each answer checked
 *
 * Theory of operation
 * -------------------
 * A chain is a word of its own and up to LANE_MAX bytes to be read, the same ones for all, and LANE_BACK bytes to be
 * written. So a few of them fill a pool, in a guest's memory that is much smaller.
 */
#ifndef TESTS_LIB_LANE_H
#define TESTS_LIB_LANE_H

#include "vm.h"

#define LANE_OUT 4u /* chains of a ring that are out at once */
#define LANE_LARGE                                                                                 \
	(VM_BUFFER + 0x30000) /* what all of them have to be read, behind a word of their own */
#define LANE_MAX  (700u << 10)
#define LANE_BACK 1024u /* bytes that come back */

struct lane {
	unsigned int q;
	unsigned int offered;
	unsigned int back;
	uint64_t random;
	bool all_large;
	uint16_t id[LANE_OUT]; /* by which the ring knows the chain in each place */
	bool busy[LANE_OUT];
	uint32_t large[LANE_OUT];
};

/* Write what they have to be read. */
void lane_fill(struct vm *v);
/* Offer one in place @i, without a kick. */
void lane_offer(struct vm *v, struct lane *l, unsigned int i);
/* Take one that is back, if there is one, and check it. */
bool lane_take(struct vm *v, struct lane *l);
/* Offer until so many have been, take until all are back. */
void lanes_move(struct vm *v, struct lane lanes[VM_RINGS], unsigned int chains);

#endif
