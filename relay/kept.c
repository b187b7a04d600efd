/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * kept.c - runs that the device has read, kept for the next chain that it reads
 *
 * Theory of operation
 * -------------------
 * A slot is clear when it is given back (G2). For what the device reads that is work for nothing if
 * the next chain writes all of the slot over: so a queue keeps such runs as they are, and places the
 * next chain of about the same length there. What the chain does not cover is cleared then; what is
 * not used again is cleared and given back.
 *
 * What stays in a kept run is what this very device has been given to read, and never where it may
 * write. It is gone when the queue has been quiet for KEPT_NS, when the pool runs full, and when
 * keeping would make the pool larger than a quarter above what the queue has ever had in flight.
 *
 * When the pool runs full, a thread flushes what queues of all threads keep: so what queues of a loop keep
 * is under a lock of that loop, where there is more than one. A run that has been taken out is
 * nobody else's, and cleared without it.
 */
#include <string.h>

#include "shadow.h"

#define SLACK 4096u /* how much longer than asked for a run may be */
#define LOOK  4u    /* how many are looked at */

static void lock(struct queue *q)
{
	shadow_lock(q->shadow, &q->loop->kept_lock);
}

static void unlock(struct queue *q)
{
	shadow_unlock(q->shadow, &q->loop->kept_lock);
}

/* One more or less in the loop, which is looked at without the lock. */
static void add(struct loop *l, unsigned int n)
{
	__atomic_store_n(&l->nkept, l->nkept + n, __ATOMIC_RELAXED);
}

/* With the lock. */
static struct kept take_out(struct queue *q, unsigned int i)
{
	struct kept k = q->kept[i];

	q->kept[i] = q->kept[--q->nkept];
	q->kept_bytes -= k.size;
	add(q->loop, -1u);
	return k;
}

/* Without: it takes long. */
static void drop(struct shadow *s, struct kept k)
{
	memset(s->pool + k.at, 0, k.size);
	sluice_pool_free(&s->memfd->pool, SHADOW_DEV + k.at);
}

bool kept_flush(struct queue *q)
{
	bool any = false;

	for (;;) {
		struct kept k = {0};
		bool one;

		lock(q);
		one = q->nkept != 0;
		if (one)
			k = take_out(q, q->nkept - 1u);
		unlock(q);
		if (!one)
			return any;
		drop(q->shadow, k);
		any = true;
	}
}

void kept_forget(struct queue *q)
{
	add(q->loop, -(unsigned int)q->nkept);
	q->nkept = 0;
	q->kept_bytes = 0;
}

void kept_put(struct queue *q, uint32_t at)
{
	struct shadow *s = q->shadow;
	struct kept oldest = {0};
	struct sluice_slot slot;
	bool full;

	if (sluice_pool_find(&s->memfd->pool, SHADOW_DEV + at, &slot))
		return;
	lock(q);
	full = q->nkept == KEPT_MAX;
	if (full)
		oldest = take_out(q, 0);
	q->kept[q->nkept++] = (struct kept){at, (uint32_t)slot.size};
	q->kept_bytes += slot.size;
	add(q->loop, 1);
	unlock(q);
	if (full)
		drop(s, oldest);
}

bool kept_take(struct queue *q, uint64_t len, uint32_t *at, uint64_t *size)
{
	struct kept k = {0};
	bool found = false;
	unsigned int from;

	lock(q);
	from = q->nkept > LOOK ? q->nkept - LOOK : 0;
	for (unsigned int i = q->nkept; !found && i-- > from;) {
		k = q->kept[i];
		found = k.size >= len && k.size - len < SLACK;
		if (found)
			(void)take_out(q, i);
	}
	unlock(q);
	if (!found)
		return false;
	memset(q->shadow->pool + k.at + len, 0, k.size - len);
	*at = k.at;
	*size = k.size;
	return true;
}

void kept_make_room(struct queue *q, uint64_t len)
{
	bool over;

	lock(q);
	over = q->nkept && q->held + q->kept_bytes + len > q->held_max + q->held_max / 4;
	unlock(q);
	if (over)
		kept_flush(q);
}

bool kept_flush_all(struct shadow *s)
{
	bool any = false;

	for (unsigned int l = 0; l < s->nloops; l++)
		for (unsigned int i = l;
		     __atomic_load_n(&s->loops[l].nkept, __ATOMIC_RELAXED) && i < RING_MAX;
		     i += s->nloops)
			if (s->queues[i].back_on)
				any |= kept_flush(&s->queues[i]);
	return any;
}
