/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * loop.c - whose turn it is: queues with work, spinning, sleeping
 *
 * Theory of operation
 * -------------------
 * The loop takes turns among the queues that have something to do. One that has had nothing for as
 * long as it may spin is asked, on both sides, to notify, looked at once more, and left alone until
 * an eventfd says so. How long it may spin follows what happens: a queue that is woken soon after it
 * went to sleep should have waited a little longer, one that slept for long should not have
 * waited at all. The eventfds are watched by an epoll fd, edge-triggered: each signal is one event,
 * and the counters need not be read.
 */
#include <sched.h>
#include <sys/epoll.h>

#include "shadow.h"
#include "state.h"

#define SLICE_NS      UINT64_C(200000) /* after which the sockets are looked at */
#define EVENTS	      64
#define CROWDED_NS    UINT64_C(60000)
#define CROWDED_TIMES 16

void loop_activate(struct queue *q)
{
	struct shadow *s = q->shadow;

	if (q->active || !q->back_on)
		return;
	q->active = true;
	q->used_at = s->now;
	s->active[s->nactive++] = q->index;
	device_end_quiet(&q->guest);
	driver_end_quiet(&q->back);
}

void loop_deactivate(struct queue *q)
{
	struct shadow *s = q->shadow;

	if (!q->active)
		return;
	q->active = false;
	for (unsigned int i = 0; i < s->nactive; i++) {
		if (s->active[i] == q->index) {
			s->active[i] = s->active[--s->nactive];
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
		epoll_ctl(q->shadow->epoll, EPOLL_CTL_ADD, fd, &ev);
}

void loop_unwatch(struct queue *q, int fd)
{
	/* The front-end has the same file open: closing the fd here would not end it. */
	if (fd >= 0)
		epoll_ctl(q->shadow->epoll, EPOLL_CTL_DEL, fd, NULL);
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
	if (listen_to(q)) {
		device_end_quiet(&q->guest);
		driver_end_quiet(&q->back);
		q->used_at = q->shadow->now;
		return;
	}
	q->slept_at = q->shadow->now;
	loop_deactivate(q);
}

static void woken(struct queue *q)
{
	uint64_t most = q->shadow->options.poll_ns, slept = q->shadow->now - q->slept_at;

	if (q->active)
		return;
	if (slept < most)
		q->spin = q->spin * 2 + most / 8 < most ? q->spin * 2 + most / 8 : most;
	else
		q->spin /= 2;
	loop_activate(q);
}

void loop_events(struct relay *r)
{
	struct epoll_event ev[EVENTS];
	struct shadow *s = r->shadow;
	int n = epoll_wait(s->epoll, ev, EVENTS, 0);

	s->now = now_ns();
	for (int i = 0; i < n; i++) {
		struct queue *q = &s->queues[ev[i].data.u32 / 2 % RING_MAX];

		if (!q->back_on)
			continue;
		if (ev[i].data.u32 % 2)
			q->stats.calls_in++;
		else
			q->stats.kicks_in++;
		woken(q);
	}
}

static void one_broke(struct relay *r, struct queue *q)
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
static void yield(struct shadow *s)
{
	uint64_t before = s->now, lost;

	sched_yield();
	s->now = now_ns();
	lost = s->now - before;
	if (lost > CROWDED_NS)
		s->crowded = s->now + lost * CROWDED_TIMES;
}

/* What one queue gives back may be what another one waits for. */
static void wake_waiting(struct shadow *s)
{
	for (unsigned int i = 0; i < RING_MAX; i++)
		if (s->queues[i].waits)
			loop_activate(&s->queues[i]);
}

bool loop_run(struct relay *r)
{
	struct shadow *s = r->shadow;
	uint64_t end;

	if (!s->nactive)
		return false;
	s->now = now_ns();
	if (s->now < s->memory_moves)
		return false;
	end = s->now + SLICE_NS;
	do {
		bool worked = false;

		for (unsigned int i = 0; i < s->nactive; i++) {
			struct queue *q = &s->queues[s->active[i]];
			bool was_broken = q->broken;

			if (flow_step(q)) {
				worked = true;
				q->used_at = s->now;
			} else if (s->now - q->used_at >= q->spin || s->now < s->crowded) {
				rest(q);
			}
			if (s->backend_broke) {
				backend_lost(r, s->backend_broke);
				return s->nactive != 0;
			}
			if (q->broken && !was_broken)
				one_broke(r, q);
		}
		if (worked && s->nwaits)
			wake_waiting(s);
		if (!worked && s->nactive)
			yield(s);
		else
			s->now = now_ns();
	} while (s->nactive && s->now < end);
	return s->nactive != 0;
}

/* Returns whether there is nothing left to flush. */
static bool flush_quiet(struct shadow *s, uint64_t now)
{
	for (unsigned int i = 0; s->nkept && i < RING_MAX; i++)
		if (s->queues[i].nkept && now - s->queues[i].used_at >= KEPT_NS)
			kept_flush(&s->queues[i]);
	return !s->nkept;
}

int loop_pause(struct relay *r)
{
	struct shadow *s = r->shadow;
	uint64_t now = now_ns();

	if (s->nactive && now < s->memory_moves)
		return (int)((s->memory_moves - now) / 1000000) + 1;
	if (s->nkept && !flush_quiet(s, now))
		return (int)(KEPT_NS / 1000000);
	if (s->memfd && s->memfd->wake_fd >= 0) {
		struct sluice_pool_stats stats;

		/* Nobody says when a grown pool falls idle: look once a second, as long as it is
		 * larger than at first. */
		sluice_pool_get_stats(&s->memfd->pool, &stats);
		if (stats.bytes <= s->options.pool_size)
			return -1;
		(void)sluice_memfd_balance(s->memfd);
		return 1000;
	}
	return -1;
}
