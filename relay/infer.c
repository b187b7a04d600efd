/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * infer.c - which requests of a split ring are in flight, from what the ring shows
 *
 * Theory of operation
 * -------------------
 * Two sequences describe all that ever happened on a ring: A, the heads in the order in which they
 * were made available, and U, the heads in the order in which they were used. A head is in flight
 * if its last event is in A. The ring shows only the newest num entries of each sequence, and not
 * how the two interleave. If A and U are visible from a point at which nothing was in flight, the
 * answer is the difference of the two. Later on it has to be inferred, and is not always there.
 *
 * Positions count from 0 at the used index: U ends at -1 and A at pending - 1. For a head, a is its
 * last position in A and u its last in U. What is known:
 *   (1) a head is made available again only after it was used, so its events alternate
 *   (2) when A[p] was made available, at most p requests had been used: a head that had been used
 *	 at u before has a > u. So u >= a means that it is done
 *   (3) let low(p) be a lower bound for how many requests had been used when A[p] was made
 *	 available, relative to the same zero. By (1) it is one more than the position at which that
 *	 head was used before; and it does not fall with p, as A is in order. If a head is done and
 *	 u < a then A[a] was made available before U[u], so low(a) <= u. If low(a) > u it is in
 *flight
 *
 * In (3) "used before" is the last U of the head if it is in flight, and the one before the last if
 * it is done; while that is open, the earlier one is taken, which only weakens the bound. A head
 * found in flight strengthens the bounds of others, so it is done over until nothing changes.
 *
 * If as many heads are shown to be in flight as are pending, these are they, whatever lies before
 * what is visible. If those that may be are just enough, they are the ones unless a request is in
 * flight whose entry in A has been overwritten; the caller has to exclude that. If there are too
 * few, that is what happened. If there are too many, it cannot be told.
 *
 * The driver writes A and can write anything; the device writes U. A contradiction is reported, and
 * no value is used as an index before it is checked (heads are below num: the caller has checked).
 */
#include "inflight.h"

#define NEVER	   INT32_MIN
#define MAX_ROUNDS 64 /* each strengthens bounds; in practice a handful are enough */

enum fate { UNSEEN, OPEN, DONE, FLYING };

static int32_t prev_avail[RING_MAX_NUM]; /* index of the same head's entry before, or -1 */
static int32_t prev_used[RING_MAX_NUM];
static int32_t last_avail[RING_MAX_NUM]; /* by head */
static int32_t last_used[RING_MAX_NUM];
static int32_t low[RING_MAX_NUM];  /* by index in avail */
static uint8_t fate[RING_MAX_NUM]; /* by head */

static int32_t avail_pos(const struct infer_history *h, int32_t i)
{
	return (int32_t)h->pending - (int32_t)h->navail + i;
}

static int32_t used_pos(const struct infer_history *h, int32_t j)
{
	return j < 0 ? NEVER : j - (int32_t)h->nused;
}

static void chain(const uint16_t *heads, uint32_t n, uint32_t num, int32_t *last, int32_t *prev)
{
	for (uint32_t i = 0; i < num; i++)
		last[i] = -1;
	for (uint32_t i = 0; i < n; i++) {
		prev[i] = last[heads[i]];
		last[heads[i]] = (int32_t)i;
	}
}

/* The difference of the two sequences, where both are complete. */
static enum infer_result difference(const struct infer_history *h)
{
	for (uint32_t head = 0; head < h->num; head++) {
		int32_t i = last_avail[head], j = last_used[head], more = 0;

		for (; i >= 0; i = prev_avail[i])
			more++;
		for (; j >= 0; j = prev_used[j])
			more--;
		if (more < 0 || more > 1)
			return INFER_NONSENSE;
		fate[head] = last_avail[head] < 0 ? UNSEEN : more ? FLYING : DONE;
	}
	return INFER_PROVEN;
}

/* Fate by (2), and whatever follows from having all of U. */
static void first_look(const struct infer_history *h)
{
	for (uint32_t head = 0; head < h->num; head++) {
		int32_t i = last_avail[head], j = last_used[head];

		if (i < 0)
			fate[head] = UNSEEN;
		else if (j < 0)
			fate[head] = h->from_start ? FLYING : OPEN;
		else
			fate[head] = used_pos(h, j) >= avail_pos(h, i) ? DONE : OPEN;
	}
}

/* The bounds of (3). */
static void bound(const struct infer_history *h)
{
	int32_t most = NEVER;

	for (uint32_t i = 0; i < h->navail; i++)
		low[i] = NEVER;
	for (uint32_t head = 0; head < h->num; head++) {
		int32_t i = last_avail[head], j = last_used[head];

		if (fate[head] != FLYING && j >= 0)
			j = prev_used[j];
		for (; i >= 0 && j >= 0; i = prev_avail[i], j = prev_used[j])
			low[i] = used_pos(h, j) + 1;
	}
	for (uint32_t i = 0; i < h->navail; i++) {
		int32_t full = avail_pos(h, (int32_t)i) + 1 - (int32_t)h->num;

		/* No more than num requests are ever in flight. */
		most = low[i] > most ? low[i] : most;
		most = full > most ? full : most;
		low[i] = most;
	}
}

/* One round of (3); returns whether anything was found. */
static bool round_of(const struct infer_history *h)
{
	bool found = false;

	bound(h);
	for (uint32_t head = 0; head < h->num; head++) {
		int32_t u = used_pos(h, last_used[head]);

		if (fate[head] != OPEN)
			continue;
		/* Not in the visible part of U: used before it, if at all. */
		if (u == NEVER)
			u = -(int32_t)h->nused - 1;
		if (low[last_avail[head]] > u) {
			fate[head] = FLYING;
			found = true;
		}
	}
	return found;
}

static uint32_t count(const struct infer_history *h, enum fate f)
{
	uint32_t n = 0;

	for (uint32_t head = 0; head < h->num; head++)
		n += fate[head] == f;
	return n;
}

static void collect(const struct infer_history *h, bool open_too, uint16_t *heads)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < h->navail; i++) {
		uint16_t head = h->avail[i];

		if (last_avail[head] == (int32_t)i &&
		    (fate[head] == FLYING || (open_too && fate[head] == OPEN)))
			heads[n++] = head;
	}
}

enum infer_result infer_inflight(const struct infer_history *h, uint16_t *heads)
{
	uint32_t flying, open, rounds = 0;

	chain(h->avail, h->navail, h->num, last_avail, prev_avail);
	chain(h->used, h->nused, h->num, last_used, prev_used);
	if (h->from_start && h->all_avail) {
		if (difference(h) != INFER_PROVEN || count(h, FLYING) != h->pending)
			return INFER_NONSENSE;
		collect(h, false, heads);
		return INFER_PROVEN;
	}
	first_look(h);
	while (round_of(h) && ++rounds < MAX_ROUNDS)
		;
	flying = count(h, FLYING);
	open = count(h, OPEN);
	if (flying > h->pending)
		return INFER_NONSENSE;
	if (flying == h->pending) {
		collect(h, false, heads);
		return INFER_PROVEN;
	}
	if (flying + open < h->pending)
		return INFER_LOST;
	if (flying + open > h->pending)
		return INFER_AMBIGUOUS;
	collect(h, true, heads);
	return INFER_UNLESS_OLD;
}
