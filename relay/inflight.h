/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * inflight.h - the requests that a backend left undone
 *
 * Theory of operation: relay/inflight.c (what is read and written) and relay/infer.c (what follows
 * from it).
 */
#ifndef RELAY_INFLIGHT_H
#define RELAY_INFLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "memory.h"
#include "ring.h"

#define INFLIGHT_SNAPSHOT 1024 /* entries of the largest ring that can be recovered */

/* What is remembered of a ring from when it was started. Owned by the caller. */
struct inflight_start {
	bool valid;
	uint16_t used;			   /* used index then: everything before it was complete */
	uint16_t slots[INFLIGHT_SNAPSHOT]; /* a digest of each entry of the used ring */
};

/**
 * inflight_begin - remember where a ring starts
 * @start: filled in
 * @ring:  split ring with its base set
 * @area:  where it lies
 *
 * Call it before the backend hears of the ring. Without it, and for a ring that is larger than
 * INFLIGHT_SNAPSHOT, nothing is recovered but a ring that completes in order or has nothing open.
 */
void inflight_begin(struct inflight_start *start, const struct ring *ring,
		    const struct ring_area *area);

/**
 * inflight_recover - put the requests that a dead backend left undone back into the ring
 * @start:    as inflight_begin() left it
 * @ring:     split ring, not live any more
 * @area:     where it lies
 * @mem:      the memory, to look behind descriptors
 * @features: as negotiated
 * @base:     set to where the next backend has to go on
 * @count:    set to how many requests it will find there
 *
 * Afterwards exactly the requests that were made available and not completed are in the avail ring
 * from @base on, in the order in which they were made available.
 *
 * Return: NULL; otherwise why that cannot be done: the ring is as it was then, and @base is not
 * set.
 */
const char *inflight_recover(const struct inflight_start *start, const struct ring *ring,
			     const struct ring_area *area, struct memory *mem, uint64_t features,
			     uint16_t *base, uint16_t *count);

/**
 * inflight_open - how many requests before a base have not been completed
 * @ring: split ring
 * @base: up to which the backend says that it has taken them
 *
 * Return: that number; 0 also if the ring cannot be read, or @base is not between its indices. (A driver that has
 * begun anew without a word may have cleared it.)
 */
uint32_t inflight_open(const struct ring *ring, const struct ring_area *area, uint16_t base);

/**
 * inflight_skip - where a ring that cannot be recovered may go on
 * @base: set to the avail index: nothing that was open is run again
 *
 * Return: whether that could be read.
 */
bool inflight_skip(const struct ring *ring, const struct ring_area *area, uint16_t *base);

/* infer.c */

/* The visible end of a ring's history, the newest last. */
struct infer_history {
	const uint16_t *avail;
	const uint16_t *used;
	uint32_t navail;
	uint32_t nused;
	uint32_t pending; /* made available and not used */
	uint32_t num;	  /* of ring entries */
	bool from_start;  /* used[] reaches back to where the ring was started */
	bool all_avail;	  /* and avail[] does too */
};

enum infer_result {
	INFER_PROVEN,	  /* the answer holds whatever happened before what is visible */
	INFER_UNLESS_OLD, /* it holds unless a head that is not in avail[] is in flight */
	INFER_LOST,	  /* a head that is not in avail[] is in flight */
	INFER_AMBIGUOUS,  /* more than one set of requests explains what is visible */
	INFER_NONSENSE,	  /* no driver and device that keep to the rules leave this behind */
};

/**
 * infer_inflight - which heads have been made available and not been used
 * @h:	   the history; every head is below @h->num
 * @heads: filled with @h->pending heads, in the order in which they were made available, where the
 *	   result is INFER_PROVEN or INFER_UNLESS_OLD
 *
 * Context: uses static memory; one caller at a time.
 */
enum infer_result infer_inflight(const struct infer_history *h, uint16_t *heads);

#endif
