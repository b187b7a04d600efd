/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * ledger_packed.c - the in-flight buffer of a packed ring
 *
 * Theory of operation
 * -------------------
 * A packed ring's descriptors are overwritten when chains are used, out of order too, so this layout
 * (the spec, "Inflight I/O tracking", packed virtqueue) holds copies of them: a chain takes as many
 * entries as it has descriptors, linked, from a list of free ones. It also holds the used position,
 * since the ring itself does not tell it and front-ends do not know it after a relay's death (QEMU
 * then hands over the base that the ring was first started at). The avail position follows: it is ahead
 * of it by the descriptors that are in flight.
 *
 * Each of free_head, used_idx and used_wrap_counter is there twice, and what is written counts from the
 * moment when the old one follows:
 *   fetched: entries are filled from free_head on; the head's inflight; old_free_head follows
 *   used:    the entries go back to the free list, the used position moves on; the descriptor in the
 *	      ring is written; inflight is cleared; all three old ones follow
 * After a death in the middle of the latter, the descriptor at the old position tells whether the driver
 * has got it: not if it is still as the driver made it available. (That it is marked used would be the
 * wrong question: meanwhile the driver may have come round and made another one available there.)
 *
 * The links and the head of the free list are kept in private memory and only ever written to the
 * buffer, which the front-end shares. It is read at the start of a ring, each value once, and what it
 * says is checked as if the guest had said it.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "ledger.h"
#include "log.h"
#include "shadow.h"

#define LEDGER_VERSION 1u

struct packed_desc {
	uint8_t inflight; /* this and the next ones: of a chain's first entry */
	uint8_t padding;
	uint16_t next;
	uint16_t last;
	uint16_t num;
	uint64_t counter;
	uint64_t half; /* id, flags, len */
	uint64_t addr;
};

struct packed_queue {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t free_head;
	uint16_t old_free_head;
	/* used_idx, old_used_idx (16 bits each), used_wrap_counter, old_used_wrap_counter (8 bits
	 * each): one word, so that they change together. */
	uint64_t position;
	uint64_t padding;
	struct packed_desc desc[];
};

_Static_assert(sizeof(struct packed_desc) == 32 && sizeof(struct packed_queue) == 32 &&
		       offsetof(struct packed_queue, position) == 16,
	       "the spec's layout");

size_t ledger_packed_bytes(uint16_t num)
{
	return sizeof(struct packed_queue) + num * sizeof(struct packed_desc);
}

static void store8(uint8_t *p, uint8_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static uint8_t load8(const uint8_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

/* The order of the stores is for a later process: the compiler has to keep it, no more. */
static void then(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* A descriptor's second half is len, id, flags in the ring, and id, flags, len in the buffer. */
static uint64_t swap(uint64_t half)
{
	return half >> 32 | half << 32;
}

/* ---- while it runs ---- */

static void set_position(struct queue *q, struct packed_queue *l, uint16_t used, bool wrap)
{
	then();
	vring_store64(&l->position, used | (uint64_t)q->guest.used << 16 | (uint64_t)wrap << 32 |
					    (uint64_t)q->guest.used_wrap << 40);
	then();
}

/* Both positions are the ring's, and nothing is half done. */
static void follow(struct queue *q, struct packed_queue *l)
{
	set_position(q, l, q->guest.used, q->guest.used_wrap);
	vring_store16(&l->old_free_head, q->ledger_free);
	then();
}

void ledger_packed_fetched(struct queue *q, struct flight *f)
{
	struct packed_queue *l = q->ledger;
	uint16_t at = q->guest.next, entry = q->ledger_free, last = entry;

	f->entry = entry;
	q->ledger_nfree = (uint16_t)(q->ledger_nfree - f->count);
	for (uint16_t i = 0; i < f->count; i++) {
		last = q->ledger_free;
		/* Read once more: if it has changed, the next relay finds a chain that the guest may
		 * as well have offered. */
		vring_store64(&l->desc[last].addr, vring_load64(&q->guest.desc[2 * at]));
		vring_store64(&l->desc[last].half, swap(vring_load64(&q->guest.desc[2 * at + 1])));
		q->ledger_free = q->ledger_next[last];
		at = (uint16_t)(at + 1 == q->guest.num ? 0 : at + 1);
	}
	vring_store16(&l->desc[entry].num, f->count);
	vring_store16(&l->desc[entry].last, last);
	vring_store64(&l->desc[entry].counter, q->ledger_counter++);
	store8(&l->desc[entry].inflight, 1);
	vring_store16(&l->free_head, q->ledger_free);
	follow(q, l);
}

static void put(struct queue *q, struct packed_queue *l, const struct flight *f)
{
	uint16_t last = f->entry;

	for (uint16_t i = 1; i < f->count; i++)
		last = q->ledger_next[last];
	q->ledger_next[last] = q->ledger_free;
	q->ledger_free = f->entry;
	q->ledger_nfree = (uint16_t)(q->ledger_nfree + f->count);
	vring_store16(&l->desc[last].next, q->ledger_next[last]);
	vring_store16(&l->free_head, q->ledger_free);
}

void ledger_packed_used(struct queue *q, const struct flight *f)
{
	struct packed_queue *l = q->ledger;
	uint32_t used = (uint32_t)q->guest.used + f->count;
	bool wrap = q->guest.used_wrap;

	ledger_packed_published(q);
	put(q, l, f);
	if (used >= q->guest.num) {
		used -= q->guest.num;
		wrap = !wrap;
	}
	set_position(q, l, (uint16_t)used, wrap);
	q->ledger_done = f->entry;
}

void ledger_packed_published(struct queue *q)
{
	struct packed_queue *l = q->ledger;

	if (q->ledger_done == FLIGHT_NONE)
		return;
	then();
	store8(&l->desc[q->ledger_done].inflight, 0);
	follow(q, l);
	q->ledger_done = FLIGHT_NONE;
}

void ledger_packed_handed_back(struct queue *q, const struct flight *f)
{
	struct packed_queue *l = q->ledger;

	store8(&l->desc[f->entry].inflight, 0);
	put(q, l, f);
	follow(q, l);
}

void ledger_packed_end(struct queue *q)
{
	struct packed_queue *l = q->ledger;

	/* Without a version it says nothing, and the ring goes on where the front-end says. */
	vring_store16(&l->version, 0);
	then();
}

/* ---- after another relay ---- */

struct left {
	uint64_t counter;
	uint16_t entry;
	uint16_t num;
};

static struct left left[SHADOW_NUM];
static uint8_t taken[SHADOW_NUM]; /* by entry: it is free, or part of a chain */
static uint64_t copy[2 * SHADOW_NUM];

static int by_counter(const void *a, const void *b)
{
	uint64_t x = ((const struct left *)a)->counter, y = ((const struct left *)b)->counter;

	return x < y ? -1 : x > y;
}

/* Goes back by one step if the driver has not seen it. Returns the list of free entries, or all bits. */
static uint16_t settle(struct queue *q, const struct packed_queue *l)
{
	const uint64_t word = vring_load64(&l->position);
	uint16_t flags, used = (uint16_t)word, old = (uint16_t)(word >> 16);
	bool wrap = word >> 32 & 1, old_wrap = word >> 40 & 1;
	uint16_t head = vring_load16(&l->free_head);

	if (used >= q->guest.num || old >= q->guest.num)
		return UINT16_MAX;
	flags = (uint16_t)(vring_load64(&q->guest.desc[2 * old + 1]) >> 48);
	if ((used == old && wrap == old_wrap) ||
	    (!!(flags & VRING_AVAIL) == old_wrap && !!(flags & VRING_USED) != old_wrap)) {
		used = old;
		wrap = old_wrap;
		head = vring_load16(&l->old_free_head);
	}
	q->guest.used = q->guest.signalled = q->guest.next = used;
	q->guest.used_wrap = q->guest.avail_wrap = wrap;
	return head;
}

/* Copies a chain's descriptors, and keeps its links. */
static bool read_chain(struct queue *q, const struct packed_queue *l, const struct left *c)
{
	uint16_t at = c->entry, next;

	for (uint16_t i = 0; i < c->num; i++, at = next) {
		if (at >= q->guest.num || taken[at])
			return false;
		taken[at] = 1;
		copy[2 * i] = vring_load64(&l->desc[at].addr);
		copy[2 * i + 1] = swap(vring_load64(&l->desc[at].half));
		next = vring_load16(&l->desc[at].next);
		q->ledger_next[at] = next;
	}
	return true;
}

/* Finds what is in flight. Returns how many, or -1. */
static int find(struct queue *q, const struct packed_queue *l)
{
	uint16_t num = q->guest.num, at = settle(q, l);
	uint32_t descs = 0;
	int n = 0;

	if (at == UINT16_MAX)
		return -1;
	memset(taken, 0, num);
	/* What is free may still say that it is in flight: it is that step. */
	for (; at < num; at = vring_load16(&l->desc[at].next)) {
		if (taken[at])
			return -1;
		taken[at] = 1;
	}
	for (uint16_t i = 0; i < num; i++) {
		if (taken[i] || !load8(&l->desc[i].inflight))
			continue;
		left[n] = (struct left){vring_load64(&l->desc[i].counter), i,
					vring_load16(&l->desc[i].num)};
		descs += left[n].num;
		if (!left[n].num || descs > num)
			return -1;
		n++;
	}
	/* Only chains are taken from here on. */
	memset(taken, 0, num);
	qsort(left, (size_t)n, sizeof(left[0]), by_counter);
	if (descs >= (uint32_t)(num - q->guest.next))
		q->guest.avail_wrap = !q->guest.avail_wrap;
	q->guest.next = (uint16_t)((q->guest.next + descs) % num);
	return n;
}

/* Makes flights of what an earlier relay has left. */
static void recover(struct queue *q, const struct packed_queue *l)
{
	static struct chain chain;
	const char *why = "the in-flight buffer makes no sense";
	int n = find(q, l);

	chain.bad = chain.bad_len = 0;
	for (int i = 0; i < n; i++) {
		struct flight *f;

		if (left[i].counter >= q->ledger_counter)
			q->ledger_counter = left[i].counter + 1;
		if (!read_chain(q, l, &left[i]) ||
		    device_end_parse(&q->guest, &q->shadow->guest, copy, left[i].num, &chain,
				     &why) < 0) {
			n = -1;
			break;
		}
		f = &q->flights[queue_take_flight(q)];
		f->id = chain.id;
		f->count = chain.count;
		f->entry = left[i].entry;
		f->since = q->loop->now;
		if (!place_keep(q, f, &chain)) {
			why = LEDGER_TOO_LONG;
			n = -1;
		}
	}
	if (n < 0) {
		q->broken = true;
		shadow_refused(q, "guest", REFUSED_CHAIN, why, chain.bad, chain.bad_len);
		return;
	}
	q->parked = q->first;
	if (n)
		relay_log_peer("ring %u: an earlier relay has left %d requests undone; they go "
			       "down again",
			       q->index, n);
}

void ledger_packed_begin(struct queue *q, uint16_t num)
{
	struct packed_queue *l = q->ledger;
	uint16_t free = q->guest.num;

	q->ledger_done = FLIGHT_NONE;
	q->ledger_nfree = 0;
	memset(taken, 0, q->guest.num);
	if (vring_load16(&l->version) == LEDGER_VERSION && vring_load16(&l->desc_num) == num)
		recover(q, l);
	else
		memset(l, 0, ledger_packed_bytes(num));
	/* All entries that no chain has are free. First of all none of them may be in flight, then they
	 * are linked from the end on, which makes no loop at any point: for a death right here. */
	for (uint16_t i = 0; i < q->guest.num; i++)
		if (!taken[i])
			store8(&l->desc[i].inflight, 0);
	then();
	for (uint16_t i = q->guest.num; i-- > 0;) {
		if (!taken[i]) {
			q->ledger_next[i] = free;
			free = i;
			q->ledger_nfree++;
		}
		vring_store16(&l->desc[i].next, q->ledger_next[i]);
		then();
	}
	q->ledger_free = free;
	vring_store16(&l->desc_num, num);
	vring_store16(&l->free_head, free);
	follow(q, l);
	vring_release16(&l->version, LEDGER_VERSION);
}
