/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * loop.c - whose turn it is: queues with work, spinning, sleeping
 *
 * Theory of operation
 * -------------------
 * The loop takes turns among the queues that have something to do. One that has had nothing for as
 * long as it may spin is asked, on both sides, to notify, looked at once more, and left alone until
 * an eventfd says so. How long it may spin follows what happens, for answers and for requests on their own: where
 * all that it may spin for would have been enough it should have waited longer, and otherwise not
 * at all. The eventfds are watched by an epoll fd, edge-triggered: each signal is one event,
 * and the counters need not be read.
 *
 * Room in the pool (G5). A queue whose next chain does not fit waits until there may be room. Where
 * loops have threads, nobody may free room unseen by one who goes to sleep over it:
 *   - who finds no room says so (nwaits), and then tries once more before it sleeps
 *   - who has freed some looks at nwaits afterwards
 * with a full barrier in between on both sides, so that one of the two sees the other. Two chains that both
 * do not fit hold, while they are tried, room that the other one would need. Therefore whoever has found no
 * room tries again alone (flow.c), and says that room has come when it begins to wait, but not again:
 * queues for which there is no room would have each other try for ever.
 */
#include <sched.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "shadow.h"
#include "state.h"

#define SLICE_NS      UINT64_C(200000) /* after which the sockets are looked at */
#define EVENTS	      64
#define CROWDED_NS    UINT64_C(60000)
#define CROWDED_TIMES 16

void loop_activate(struct queue *q)
{
	struct loop *l = q->loop;

	if (q->active || !q->back_on)
		return;
	q->active = true;
	q->used_at = l->now;
	l->active[l->nactive++] = q->index;
	device_end_quiet(&q->guest);
	driver_end_quiet(&q->back);
}

void loop_deactivate(struct queue *q)
{
	struct loop *l = q->loop;

	if (!q->active)
		return;
	q->active = false;
	for (unsigned int i = 0; i < l->nactive; i++) {
		if (l->active[i] == q->index) {
			l->active[i] = l->active[--l->nactive];
			return;
		}
	}
}

void loop_watch(struct queue *q, int fd, unsigned int side)
{
	struct epoll_event ev = {
		.events = EPOLLIN | EPOLLET,
		.data.u32 = (uint32_t)(q->index * 2u + side),
	};

	/* It is an eventfd, and those can be watched; twice is as good as once. */
	if (fd >= 0)
		epoll_ctl(q->loop->epoll, EPOLL_CTL_ADD, fd, &ev);
}

void loop_unwatch(struct queue *q, int fd)
{
	/* The front-end has the same file open: closing the fd here would not end it. */
	if (fd >= 0)
		epoll_ctl(q->loop->epoll, EPOLL_CTL_DEL, fd, NULL);
}

/* Asks both sides to notify. Returns whether there is something to do after all. */
static bool listen_to(struct queue *q)
{
	bool more = !q->broken && !q->waits && device_end_listen(&q->guest);

	queue_log_ring(q);
	return driver_end_listen(&q->back) || more;
}

static void rest(struct queue *q)
{
	if (q->waits && !q->tried && q->shadow->nloops > 1) {
		q->tried = true;
		return;
	}
	if (listen_to(q)) {
		device_end_quiet(&q->guest);
		driver_end_quiet(&q->back);
		q->used_at = q->loop->now;
		return;
	}
	loop_deactivate(q);
}

/* What it waits for: an answer, or a request. How long that takes has little to do with each other. */
static uint64_t *spin_of(struct queue *q)
{
	return &q->spin[q->nflights ? 1 : 0];
}

static void woken(struct queue *q)
{
	uint64_t most = q->shadow->options.poll_ns, *spin = spin_of(q);

	if (q->active)
		return;
	if (q->loop->now - q->used_at < most)
		*spin = *spin * 2 + most / 8 < most ? *spin * 2 + most / 8 : most;
	else
		*spin /= 2;
	loop_activate(q);
}

void loop_events(struct loop *l, int timeout)
{
	struct epoll_event ev[EVENTS];
	int n = epoll_wait(l->epoll, ev, EVENTS, timeout);

	l->now = now_ns();
	for (int i = 0; i < n; i++) {
		struct queue *q = &l->shadow->queues[ev[i].data.u32 / 2 % RING_MAX];

		if (ev[i].data.u32 == LOOP_WAKE || !q->back_on)
			continue;
		stats_add(ev[i].data.u32 % 2 ? &q->stats.calls_in : &q->stats.kicks_in, 1);
		woken(q);
	}
}

void loop_broke(struct relay *r, const struct queue *q)
{
	struct ring *ring = &r->rings[q->index];

	if (ring->broken)
		return;
	ring->broken = true;
	ring_signal(ring->err);
}

/* The peers may need the processor that this one spins on. If it is long until it comes back, others
 * need it too: then to spin is to be taken off it when there is work, and sleeping is the faster
 * way, since who wakes up is let in soon. So nothing is spun for until the loss is a small part of
 * the time that has passed. */
static void yield(struct loop *l)
{
	uint64_t before = l->now, lost;

	sched_yield();
	l->now = now_ns();
	lost = l->now - before;
	if (lost > CROWDED_NS)
		l->crowded = l->now + lost * CROWDED_TIMES;
}

void loop_room_came(struct shadow *s, struct loop *from)
{
	const uint64_t one = 1;

	/* The room before the look at who waits: see above. */
	if (s->nloops > 1)
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (unsigned int i = 0; i < s->nloops; i++) {
		struct loop *l = &s->loops[i];

		if (!__atomic_load_n(&l->nwaits, __ATOMIC_RELAXED))
			continue;
		/* Release: who finds it set finds the room. Whoever has set it before has woken the loop. */
		if (!__atomic_exchange_n(&l->room, true, __ATOMIC_ACQ_REL) && l != from &&
		    l->wake >= 0)
			(void)!write(l->wake, &one, sizeof(one));
	}
}

/* What one queue gives back may be what another one waits for. */
static void wake_waiting(struct loop *l)
{
	struct shadow *s = l->shadow;

	if (!__atomic_load_n(&l->room, __ATOMIC_RELAXED) ||
	    !__atomic_exchange_n(&l->room, false, __ATOMIC_ACQ_REL))
		return;
	for (unsigned int i = l->index; l->nwaits && i < RING_MAX; i += s->nloops)
		if (s->queues[i].waits)
			loop_activate(&s->queues[i]);
}

/* Whether the control thread has to see to something before any chain is looked at. */
static bool stands_still(const struct shadow *s)
{
	return __atomic_load_n(&s->backend_broke, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&s->guest.gone, __ATOMIC_RELAXED);
}

/* All queues that have something to do, once. Returns whether any had. */
static bool turn(struct loop *l)
{
	struct shadow *s = l->shadow;
	bool worked = false;

	for (unsigned int i = 0; i < l->nactive; i++) {
		struct queue *q = &s->queues[l->active[i]];
		bool was_broken = q->broken;

		if (flow_step(q)) {
			worked = true;
			q->used_at = l->now;
		} else if (l->now - q->used_at >= *spin_of(q) || l->now < l->crowded) {
			rest(q);
		}
		if (q->broken && !was_broken)
			q->broke = l->trouble = true;
		if (stands_still(s)) {
			l->trouble = true;
			break;
		}
	}
	return worked;
}

bool loop_run(struct loop *l)
{
	struct shadow *s = l->shadow;
	uint64_t end;

	wake_waiting(l);
	if (stands_still(s)) {
		/* Waking a queue writes to its ring, so this may be who has found it. */
		l->trouble = true;
		return false;
	}
	if (!l->nactive)
		return false;
	l->now = now_ns();
	if (l->now < s->memory_moves)
		return false;
	end = l->now + SLICE_NS;
	do {
		bool worked = turn(l);

		if (worked || l->freed) {
			l->freed = false;
			loop_room_came(s, l);
			wake_waiting(l);
		}
		if (stands_still(s))
			return false;
		if (!worked && l->nactive)
			yield(l);
		else
			l->now = now_ns();
	} while (l->nactive && l->now < end && !threads_held(s));
	return l->nactive != 0;
}

void loop_trouble(struct relay *r)
{
	struct shadow *s = r->shadow;

	if (s->backend_broke)
		backend_lost(r, s->backend_broke);
	for (unsigned int i = 0; i < RING_MAX; i++) {
		if (s->queues[i].broke)
			loop_broke(r, &s->queues[i]);
		s->queues[i].broke = false;
	}
}

/* Returns whether there is nothing left to flush. */
static bool flush_quiet(struct loop *l, uint64_t now)
{
	struct shadow *s = l->shadow;
	bool any = false;

	for (unsigned int i = l->index; i < RING_MAX; i += s->nloops)
		if (s->queues[i].back_on && now - s->queues[i].used_at >= KEPT_NS)
			any |= kept_flush(&s->queues[i]);
	/* Between being kept and being free it was for nobody to find. With one thread there is no between. */
	if (any && s->nloops > 1)
		loop_room_came(s, NULL);
	return !__atomic_load_n(&l->nkept, __ATOMIC_RELAXED);
}

int loop_pause(struct loop *l)
{
	struct shadow *s = l->shadow;
	uint64_t now = now_ns();

	if (stands_still(s))
		return -1;
	if (l->nactive && now < s->memory_moves)
		return (int)((s->memory_moves - now) / 1000000) + 1;
	if (__atomic_load_n(&l->nkept, __ATOMIC_RELAXED) && !flush_quiet(l, now))
		return (int)(KEPT_NS / 1000000);
	/* Nobody says when a grown pool falls idle: look once a second, as long as it is larger than at
	 * first. */
	if (!pool_shrinks(s))
		return -1;
	(void)pool_grow(s);
	return 1000;
}
