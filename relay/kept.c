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
 */
#include <string.h>

#include "shadow.h"

#define SLACK 4096u /* how much longer than asked for a run may be */
#define LOOK  4u    /* how many are looked at */

static void drop(struct queue *q, unsigned int i)
{
	struct shadow *s = q->shadow;
	struct kept k = q->kept[i];

	q->kept[i] = q->kept[--q->nkept];
	q->kept_bytes -= k.size;
	s->nkept--;
	memset(s->pool + k.at, 0, k.size);
	sluice_pool_free(&s->memfd->pool, SHADOW_DEV + k.at);
}

void kept_flush(struct queue *q)
{
	while (q->nkept)
		drop(q, q->nkept - 1u);
}

void kept_forget(struct queue *q)
{
	q->shadow->nkept -= q->nkept;
	q->nkept = 0;
	q->kept_bytes = 0;
}

void kept_put(struct queue *q, uint32_t at)
{
	struct shadow *s = q->shadow;
	struct sluice_slot slot;

	if (sluice_pool_find(&s->memfd->pool, SHADOW_DEV + at, &slot))
		return;
	if (q->nkept == KEPT_MAX)
		drop(q, 0);
	q->kept[q->nkept++] = (struct kept){at, (uint32_t)slot.size};
	q->kept_bytes += slot.size;
	s->nkept++;
}

bool kept_take(struct queue *q, uint64_t len, uint32_t *at, uint64_t *size)
{
	unsigned int from = q->nkept > LOOK ? q->nkept - LOOK : 0;

	for (unsigned int i = q->nkept; i-- > from;) {
		struct kept k = q->kept[i];

		if (k.size < len || k.size - len >= SLACK)
			continue;
		q->kept[i] = q->kept[--q->nkept];
		q->kept_bytes -= k.size;
		q->shadow->nkept--;
		memset(q->shadow->pool + k.at + len, 0, k.size - len);
		*at = k.at;
		*size = k.size;
		return true;
	}
	return false;
}

void kept_make_room(struct queue *q, uint64_t len)
{
	if (q->nkept && q->held + q->kept_bytes + len > q->held_max + q->held_max / 4)
		kept_flush(q);
}

bool kept_flush_all(struct shadow *s)
{
	if (!s->nkept)
		return false;
	for (unsigned int i = 0; i < RING_MAX; i++)
		kept_flush(&s->queues[i]);
	return true;
}
