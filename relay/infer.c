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
 * Positions count from 0 at the used index: U ends at -1 and A at pending - 1. What is known:
 *   (1) a head is made available again only after it was used, so its events alternate. Counting
 *	 from the newest, its entries in A and U thus pair up in one of two ways: the last of U
 *	 completed the last of A (the head is done), or the one before that (it is in flight)
 *   (2) let t(p) be how many requests had been used when A[p] was made available, counted from the
 *	 same zero. It does not fall with p; it is at most p, and more than p - num
 *   (3) if U[u] completed A[p], then t(p) <= u
 *   (4) if U[u] is the use of a head before it became A[p], then t(p) > u
 * So each way of pairing up a head gives bounds for t. As long as a head's way is open, the weaker
 * bounds of both are taken: low[] from below, high[] from above. A head for which one way
 * contradicts the bounds goes the other way, which makes the bounds tighter for the rest. That is
 * done over until nothing changes.
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

#define MAX_ROUNDS 64 /* each strengthens bounds; in practice a handful are enough */

enum fate { UNSEEN, OPEN, DONE, FLYING };

static int32_t prev_avail[RING_MAX_NUM]; /* index of the same head's entry before, or -1 */
static int32_t prev_used[RING_MAX_NUM];
static int32_t last_avail[RING_MAX_NUM]; /* by head */
static int32_t last_used[RING_MAX_NUM];
static int32_t low[RING_MAX_NUM]; /* bounds for t, by index in avail */
static int32_t high[RING_MAX_NUM];
static uint8_t fate[RING_MAX_NUM]; /* by head */

static int32_t avail_pos(const struct infer_history *h, int32_t i)
{
	return (int32_t)h->pending - (int32_t)h->navail + i;
}

static int32_t used_pos(const struct infer_history *h, int32_t j)
{
	return j - (int32_t)h->nused;
}

static int32_t min(int32_t a, int32_t b)
{
	return a < b ? a : b;
}

static int32_t max(int32_t a, int32_t b)
{
	return a > b ? a : b;
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

/* What is certain without bounds: no use on record though all are visible. */
static void first_look(const struct infer_history *h)
{
	for (uint32_t head = 0; head < h->num; head++) {
		if (last_avail[head] < 0)
			fate[head] = UNSEEN;
		else
			fate[head] = h->from_start && last_used[head] < 0 ? FLYING : OPEN;
	}
}

/* The bounds that the heads give, each by its fate, then those that follow from (2). */
static void bound(const struct infer_history *h)
{
	int32_t n = (int32_t)h->navail, edge;

	for (int32_t i = 0; i < n; i++) {
		low[i] = avail_pos(h, i) + 1 - (int32_t)h->num;
		high[i] = avail_pos(h, i);
	}
	for (uint32_t head = 0; head < h->num; head++) {
		int32_t i = last_avail[head], j = last_used[head];

		/* (4): j is the use before i, as far as that is certain. */
		if (fate[head] != FLYING && j >= 0)
			j = prev_used[j];
		for (; i >= 0 && j >= 0; i = prev_avail[i], j = prev_used[j])
			low[i] = max(low[i], used_pos(h, j) + 1);
		/* (3): j completed i, as far as that is certain. */
		i = last_avail[head];
		j = last_used[head];
		if (fate[head] != DONE && i >= 0)
			i = prev_avail[i];
		for (; i >= 0 && j >= 0; i = prev_avail[i], j = prev_used[j])
			high[i] = min(high[i], used_pos(h, j));
	}
	edge = INT32_MIN;
	for (int32_t i = 0; i < n; i++)
		edge = low[i] = max(low[i], edge);
	edge = INT32_MAX;
	for (int32_t i = n - 1; i >= 0; i--)
		edge = high[i] = min(high[i], edge);
}

/* Whether the bounds allow a head to be done, and to be in flight. */
static bool may_be(const struct infer_history *h, uint32_t head, enum fate f)
{
	int32_t i = last_avail[head], j = last_used[head];

	if (f == FLYING) {
		if (j >= 0 && used_pos(h, j) >= high[i])
			return false;
		i = prev_avail[i];
	} else if (j < 0) {
		/* Used before what is visible of U, if at all. */
		return low[i] < -(int32_t)h->nused;
	}
	for (; i >= 0 && j >= 0; i = prev_avail[i]) {
		if (low[i] > used_pos(h, j))
			return false;
		j = prev_used[j];
		if (j >= 0 && used_pos(h, j) >= high[i])
			return false;
	}
	return true;
}

/* One round; returns whether anything was found, with *sound cleared at a contradiction. */
static bool round_of(const struct infer_history *h, bool *sound)
{
	bool found = false;

	bound(h);
	for (uint32_t head = 0; head < h->num; head++) {
		bool done, flying;

		if (fate[head] != OPEN)
			continue;
		done = may_be(h, head, DONE);
		flying = may_be(h, head, FLYING);
		if (!done && !flying)
			*sound = false;
		if (done == flying)
			continue;
		fate[head] = done ? DONE : FLYING;
		found = true;
	}
	return found && *sound;
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
	bool sound = true;

	chain(h->avail, h->navail, h->num, last_avail, prev_avail);
	chain(h->used, h->nused, h->num, last_used, prev_used);
	if (h->from_start && h->all_avail) {
		if (difference(h) != INFER_PROVEN || count(h, FLYING) != h->pending)
			return INFER_NONSENSE;
		collect(h, false, heads);
		return INFER_PROVEN;
	}
	first_look(h);
	while (round_of(h, &sound) && ++rounds < MAX_ROUNDS)
		;
	flying = count(h, FLYING);
	open = count(h, OPEN);
	if (!sound || flying > h->pending)
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
