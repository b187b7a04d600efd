/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * flow.c - chains through a queue
 *
 * Theory of operation
 * -------------------
 * One step reaps what the backend has used, then fetches what the guest has made available, both up
 * to a budget, so that no queue keeps the others waiting. What was reaped is published to the guest
 * in one go, with one notification if the guest wants any, and the same downwards.
 *
 * A chain for which the pool has no room stays in the guest's ring: it is fetched, and found not to
 * fit, and that is forgotten again. It is read anew, and checked anew, when there may be room.
 *
 * Flights that are parked (a backend has gone) go down before anything is fetched, in the order in
 * which they were fetched.
 */
#include <errno.h>

#include "ledger.h"
#include "shadow.h"

#define BUDGET 32 /* chains in each direction in one step */

/* Too large for the stack; filled anew each time. */
static _Thread_local struct chain chain;
static _Thread_local struct shadow_sg sg[FLIGHT_PARTS];

static unsigned int bucket_of(uint64_t ns, unsigned int first)
{
	uint64_t over = ns >> first;
	unsigned int bucket = over ? 64u - (unsigned int)__builtin_clzll(over) : 0;

	return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

static void count_latency(struct queue *q, const struct flight *f)
{
	uint64_t ns = q->loop->now > f->since ? q->loop->now - f->since : 0;

	stats_add(&q->stats.latency[bucket_of(ns, LATENCY_FIRST)], 1);
	stats_add(&q->stats.latency_sum, ns);
}

/* What the relay itself adds: from the beginning of a step to where all of it has been passed on. */
static void count_added(struct queue *q, int down, int up)
{
	uint64_t ns = now_ns() - q->loop->now;
	unsigned int bucket = bucket_of(ns, ADDED_FIRST);

	stats_add(&q->stats.added[0][bucket], (unsigned int)down);
	stats_add(&q->stats.added[1][bucket], (unsigned int)up);
	stats_add(&q->stats.added_sum[0], ns * (unsigned int)down);
	stats_add(&q->stats.added_sum[1], ns * (unsigned int)up);
}

static void give_back(struct queue *q, uint16_t n, uint32_t len)
{
	struct flight *f = &q->flights[n];

	ledger_used(q, f);
	device_end_use(&q->guest, f->id, f->count, len);
	stats_add(&q->stats.requests, 1);
	count_latency(q, f);
	queue_end_flight(q, n);
}

/* Nothing of it is in the pool any more. With IN_ORDER it waits for those that were fetched before it. */
static void finish(struct queue *q, uint16_t n, uint32_t len)
{
	struct flight *f = &q->flights[n];

	if (!q->in_order) {
		give_back(q, n, len);
		return;
	}
	f->placed = false;
	f->done = true;
	f->used_len = len;
	while (q->first != FLIGHT_NONE && q->flights[q->first].done)
		give_back(q, q->first, q->flights[q->first].used_len);
}

static void complete(struct queue *q, uint16_t n, uint32_t len)
{
	struct flight *f = &q->flights[n];
	uint32_t back = len;

	if (len > f->in) {
		/* With nothing to write a packed ring's length has no meaning (virtio 1.2, 2.8.4). */
		if (f->in || !q->back.packed)
			shadow_refused(q, "backend", REFUSED_LENGTH,
				       "a used length is more than was offered", len, f->in);
		back = len = f->in;
	} else if (len < f->in) {
		back = used_len_copy(q, f, len);
	}
	place_back(q, f, back);
	finish(q, n, len);
}

static void publish_used(struct queue *q)
{
	device_end_publish(&q->guest);
	ledger_published(q);
	queue_log_ring(q);
	if (device_end_must_call(&q->guest) && q->call >= 0) {
		ring_signal_often(q->call, q->loop->now);
		stats_add(&q->stats.calls, 1);
	}
}

/* Returns how many; -EBADMSG after the last one that was right. */
static int reap(struct queue *q, int budget)
{
	const char *why = NULL;
	uint32_t bad = 0, len;
	uint16_t n;
	int done = 0, rc = 0;

	while (done < budget && (rc = driver_end_reap(&q->back, &n, &len, &why, &bad)) > 0) {
		complete(q, n, rc == 2 ? q->flights[n].in : len);
		done++;
	}
	if (done)
		publish_used(q);
	if (rc < 0) {
		shadow_refused(q, "backend", REFUSED_USED, why, bad, 0);
		__atomic_store_n(&q->shadow->backend_broke, why, __ATOMIC_RELAXED);
		return rc;
	}
	return done;
}

/* Makes a placed flight available. */
static void send_down(struct queue *q, uint16_t n, uint32_t nsg)
{
	struct flight *f = &q->flights[n];
	uint64_t *table = NULL;
	uint32_t at = 0;

	if (q->back.indirect && nsg > 1) {
		at = f->table ? f->table : q->block_at + n * BLOCK_BYTES;
		table = (void *)(q->shadow->pool + at);
	}
	driver_end_add(&q->back, n, sg, nsg, table, SHADOW_DEV + at);
}

static bool no_room(struct queue *q)
{
	struct shadow *s = q->shadow;
	struct queue *nobody = NULL;

	if (!q->waits) {
		stats_add(&q->stats.full, 1);
		q->waits = true;
		q->tried = false;
		__atomic_store_n(&q->loop->nwaits, q->loop->nwaits + 1, __ATOMIC_RELAXED);
		/* That it waits before the next attempt, and what it held meanwhile: loop.c. */
		if (s->nloops > 1) {
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			q->loop->freed = true;
		}
	}
	/* What is given back is of no use to it, so it is not kept for it. */
	if (q->outgrows) {
		if (__atomic_load_n(&s->waiting, __ATOMIC_RELAXED) == q) {
			__atomic_store_n(&s->waiting, NULL, __ATOMIC_RELAXED);
			q->loop->freed = true;
		}
		return false;
	}
	if (!__atomic_load_n(&s->waiting, __ATOMIC_RELAXED))
		(void)__atomic_compare_exchange_n(&s->waiting, &nobody, q, false, __ATOMIC_RELAXED,
						  __ATOMIC_RELAXED);
	return false;
}

static void got_room(struct queue *q)
{
	struct shadow *s = q->shadow;

	if (q->waits)
		__atomic_store_n(&q->loop->nwaits, q->loop->nwaits - 1, __ATOMIC_RELAXED);
	q->waits = q->outgrows = false;
	if (__atomic_load_n(&s->waiting, __ATOMIC_RELAXED) == q) {
		__atomic_store_n(&s->waiting, NULL, __ATOMIC_RELAXED);
		q->loop->freed = true; /* for the others there is more now */
	}
}

/* As place_chain(). */
static int place(struct queue *q, struct flight *f)
{
	bool alone = q->waits && q->shadow->nloops > 1;
	int rc;

	if (!alone)
		return place_chain(q, f, &chain, sg);
	/* What it has had to give back again is nobody's, but for this: whoever is next here finds the rest. */
	pthread_mutex_lock(&q->shadow->alone);
	rc = place_chain(q, f, &chain, sg);
	if (rc < 0)
		kept_flush(q);
	pthread_mutex_unlock(&q->shadow->alone);
	return rc;
}

static void break_guest(struct queue *q, enum refusal what, const char *why)
{
	q->broken = true;
	got_room(q); /* it wants none any more */
	shadow_refused(q, "guest", what, why, chain.bad, chain.bad_len);
}

static void break_too_big(struct queue *q)
{
	chain.bad = (uint64_t)chain.out + chain.in;
	chain.bad_len = 0;
	break_guest(q, REFUSED_TOO_BIG,
		    "a chain is longer than the pool can hold; raise --pool-max");
}

static bool send_parked(struct queue *q)
{
	uint16_t n = q->parked;
	struct flight *f = &q->flights[n];
	uint16_t large = f->large;
	int nsg;

	if (f->done) {
		q->parked = f->next;
		return true;
	}
	place_chain_of(f, &chain);
	if (large != FLIGHT_NONE) {
		q->large_next[large] = q->large_free;
		q->large_free = large;
	}
	nsg = place(q, f);
	if (nsg < 0) {
		(void)place_keep(q, f, &chain); /* it was kept before */
		if (nsg != -E2BIG)
			return no_room(q);
		/* It was not for the pool that it was in before. None goes down any more: a driver that gets no
		 * answer resets its device. */
		q->parked = FLIGHT_NONE;
		break_too_big(q);
		return false;
	}
	got_room(q);
	send_down(q, n, (uint32_t)nsg);
	q->parked = f->next;
	stats_add(&q->stats.resubmitted, 1);
	return true;
}

static bool send_next(struct queue *q)
{
	const char *why = NULL;
	struct flight *f;
	uint16_t n;
	int rc;

	rc = device_end_fetch(&q->guest, &q->shadow->guest, &chain, &why);
	if (rc <= 0) {
		if (rc < 0)
			break_guest(q, REFUSED_CHAIN, why);
		return false;
	}
	n = ledger_room(q, chain.count) ? queue_take_flight(q) : FLIGHT_NONE;
	if (n == FLIGHT_NONE) {
		chain.bad = chain.id;
		chain.bad_len = 0;
		break_guest(q, REFUSED_CHAIN,
			    "more chains are in flight than the ring has entries");
		return false;
	}
	f = &q->flights[n];
	if (!chain.nout && !chain.nin) {
		/* Nothing to do for a device. */
		f->id = chain.id;
		f->count = chain.count;
		f->since = q->loop->now;
		ledger_fetched(q, f);
		device_end_take(&q->guest, &chain);
		finish(q, n, 0);
		publish_used(q);
		return true;
	}
	rc = place(q, f);
	if (rc < 0) {
		queue_end_flight(q, n);
		q->fetched--;
		if (rc != -E2BIG)
			return no_room(q);
		break_too_big(q);
		return false;
	}
	got_room(q);
	f->id = chain.id;
	f->count = chain.count;
	f->since = q->loop->now;
	ledger_fetched(q, f);
	device_end_take(&q->guest, &chain);
	send_down(q, n, (uint32_t)rc);
	return true;
}

static int submit(struct queue *q, int budget)
{
	int done = 0;

	while (done < budget) {
		if (q->parked != FLIGHT_NONE ? !send_parked(q) : q->broken || !send_next(q))
			break;
		done++;
	}
	if (!done)
		return 0;
	driver_end_publish(&q->back);
	if (driver_end_must_kick(&q->back)) {
		ring_signal_often(q->back_kick, q->loop->now);
		stats_add(&q->stats.kicks, 1);
	}
	return done;
}

bool flow_step(struct queue *q)
{
	int used = reap(q, BUDGET), sent;

	if (used < 0)
		return true;
	sent = submit(q, BUDGET);
	if (!used && !sent)
		return false;
	count_added(q, sent, used);
	return true;
}

void flow_reap_rest(struct queue *q)
{
	/* More than the ring has cannot be in flight. */
	(void)reap(q, SHADOW_NUM);
}
