/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * shadow.c - all queues of shadow mode: start and stop
 *
 * Theory of operation
 * -------------------
 * A pool (pool.c) belongs to one connection to one backend. It is made when the first ring is to be started,
 * told to the backend as all its memory, and given up when the connection ends.
 *
 * Which features go where: those of the device (virtio 1.2, section 6: bits 0 to 23 and from 50 on,
 * but also those reserved before) are between the guest and the backend. Those of the ring are
 * between the guest and the relay, and again between the relay and the backend: each side has the
 * best that it can do. ACCESS_PLATFORM is between the guest and the front-end.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "ledger.h"
#include "log.h"
#include "shadow.h"
#include "state.h"

/* A region that moves is removed, then added elsewhere, in two messages or more. */
#define GONE_NS UINT64_C(500000000)
#define CAME_NS UINT64_C(20000000)

#define DEVICE_BITS                                                                                \
	(UINT64_C(0xffffff) | VU_BIT(VIRTIO_F_ANY_LAYOUT) | VU_BIT(VIRTIO_F_VERSION_1) |           \
	 ~UINT64_C(0) << 42)
#define RING_BITS (VU_BIT(VIRTIO_F_INDIRECT) | VU_BIT(VIRTIO_F_EVENT_IDX))

uint64_t shadow_features_up(uint64_t backend)
{
	uint64_t own = RING_BITS | VU_BIT(VIRTIO_F_ACCESS_PLATFORM) | VU_BIT(VU_F_PROTOCOL) |
		       VU_BIT(VHOST_F_LOG_ALL);

	if (backend & VU_BIT(VIRTIO_F_VERSION_1))
		own |= VU_BIT(VIRTIO_F_PACKED) | VU_BIT(VIRTIO_F_IN_ORDER);
	return (backend & DEVICE_BITS) | own;
}

uint64_t shadow_features_down(uint64_t frontend, uint64_t backend)
{
	uint64_t rings = RING_BITS;

	if (frontend & VU_BIT(VIRTIO_F_VERSION_1))
		rings |= VU_BIT(VIRTIO_F_PACKED) | VU_BIT(VIRTIO_F_IN_ORDER);
	return (frontend & DEVICE_BITS) | (backend & rings) | VU_BIT(VU_F_PROTOCOL);
}

uint64_t now_ns(void)
{
	struct timespec ts = {0};

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void shadow_refused(struct queue *q, const char *side, enum refusal what, const char *why,
		    uint64_t value, uint32_t len)
{
	__atomic_fetch_add(&q->shadow->refused[what], 1, __ATOMIC_RELAXED);
	relay_log_peer("refused: queue %u, %s: %s (0x%" PRIx64 ", %" PRIu32 ")", q->index, side,
		       why, value, len);
}

static int init_loop(struct shadow *s, unsigned int index)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u32 = LOOP_WAKE};
	struct loop *l = &s->loops[index];

	l->shadow = s;
	l->index = index;
	l->wake = -1;
	pthread_mutex_init(&l->kept_lock, NULL);
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0)
		return -errno;
	if (s->nloops == 1)
		return 0;
	l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake < 0 || epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->wake, &ev))
		return -errno;
	return 0;
}

int shadow_init(struct shadow *s, struct relay *r, const struct shadow_options *options)
{
	s->relay = r;
	s->options = *options;
	s->seg_bytes = UINT32_MAX;
	s->nloops = options->threads;
	s->trouble_fd = -1;
	pthread_mutex_init(&s->alone, NULL);
	pthread_mutex_init(&s->growing, NULL);
	pthread_mutex_init(&s->rest.lock, NULL);
	pthread_cond_init(&s->rest.resting_changed, NULL);
	pthread_cond_init(&s->rest.released, NULL);
	for (unsigned int i = 0; i < s->nloops; i++) {
		int rc = init_loop(s, i);

		if (rc)
			return rc;
	}
	for (uint16_t i = 0; i < RING_MAX; i++) {
		struct queue *q = &s->queues[i];

		q->shadow = s;
		q->loop = &s->loops[i % s->nloops];
		q->index = i;
		q->kick = q->call = q->back_kick = q->back_call = -1;
		q->first = q->last = q->parked = FLIGHT_NONE;
	}
	guest_watch(&s->guest);
	return 0;
}

/* ---- rings ---- */

static void refuse(struct relay *r, unsigned int index, int rc)
{
	struct ring *ring = &r->rings[index];

	if (ring->refused)
		return;
	ring->refused = true;
	r->shadow->refused[REFUSED_RING]++;
	relay_log_peer(
		"refused to start ring %u (%u entries at the front-end's addresses 0x%" PRIx64
		", 0x%" PRIx64 ", 0x%" PRIx64 "): %s",
		index, ring->num, ring->desc, ring->avail, ring->used,
		rc == -ENOENT	? "it does not lie in the guest's memory as the front-end "
				  "has told it; with a vIOMMU a device needs --mode iommu"
		: rc == -EINVAL ? "its size is none that such a ring may have here (4096 are "
				  "the most)"
				: strerror(-rc));
	ring_signal(ring->err);
}

static void give_up(struct relay *r, unsigned int index, const char *why)
{
	r->rings[index].broken = true;
	relay_log_peer("ring %u stays stopped: %s", index, why);
	ring_signal(r->rings[index].err);
}

static int start(struct relay *r, unsigned int index)
{
	struct queue *q = &r->shadow->queues[index];
	struct ring *ring = &r->rings[index];
	uint64_t base;
	struct ring_told told = {
		.num = q->back.num,
		.base = driver_end_base(&q->back),
		.call = q->back_call,
		.call_set = true,
		.err = -1,
		.kick = q->back_kick,
		.enabled = ring->enabled || !(r->fe.features & VU_BIT(VU_F_PROTOCOL)),
	};
	uint32_t parts[3];

	driver_end_bytes(q->back.num, q->back.packed, parts);
	base = SHADOW_DEV + q->ring_at;
	told.desc = base + parts[0];
	told.avail = base + parts[1];
	told.used = base + parts[2];
	return rings_tell(r, index, &told);
}

/* Its shadow goes into the pool, which may have to grow for it. */
static int attach_back(struct relay *r, struct queue *q)
{
	int rc;

	do
		rc = queue_attach_back(q, backend_features(r));
	while (rc == -ENOSPC && pool_add_part(r));
	return rc && r->be.fd < 0 ? -ENOTCONN : rc;
}

static void start_ready(struct relay *r, unsigned int index)
{
	struct shadow *s = r->shadow;
	struct queue *q = &s->queues[index];
	struct ring *ring = &r->rings[index];
	bool again = ring->recover;
	int rc = again ? 0 : queue_attach_guest(q, ring, r->fe.features);

	if (rc) {
		refuse(r, index, rc);
		return;
	}
	q->kick = ring->kick;
	q->call = ring->call;
	ring->refused = false;
	/* By what was in flight already. */
	if (q->broken)
		loop_broke(r, q);
	if (r->be.fd < 0) {
		ring->recover = true;
		return;
	}
	rc = pool_open(r);
	if (!rc && !r->be.memory_live)
		rc = backend_memory(r, NULL);
	if (!rc)
		rc = attach_back(r, q);
	if (rc == -EREMOTEIO)
		backend_lost(r, "it refused the pool");
	/* Huge pages may still be those of the pool that the last backend had. */
	if (rc == -ENOMEM)
		backend_lost(r, "there is no memory for what it is to be given");
	if (rc == -EREMOTEIO || rc == -ENOMEM || rc == -ENOTCONN)
		return;
	if (rc) {
		give_up(r, index,
			rc == -ENOSPC ? "the pool has no room for its shadow; raise --pool-size"
				      : strerror(-rc));
		return;
	}
	pool_divide(s);
	s->strict_layout =
		!(backend_features(r) & (VU_BIT(VIRTIO_F_VERSION_1) | VU_BIT(VIRTIO_F_ANY_LAYOUT)));
	rc = start(r, index);
	/* Refused once, it may take it the next time; with half of a ring it is of no use. */
	if (rc == -EREMOTEIO)
		backend_lost(r, "it refused to run a ring");
	if (rc)
		return;
	ring->recover = false;
	loop_watch(q, q->kick, 0);
	loop_watch(q, q->back_call, 1);
	q->loop->now = now_ns();
	q->spin[0] = q->spin[1] = s->options.poll_ns;
	/* The driver's kick may have come before anybody listened. */
	loop_activate(q);
}

void shadow_rings_start(struct relay *r)
{
	for (unsigned int i = 0; i < RING_MAX; i++) {
		const struct ring *ring = &r->rings[i];

		if (ring->kick_set && ring->addr_set && ring->num && !ring->live && !ring->broken)
			start_ready(r, i);
	}
}

/*
 * Whether the guest's ring is still there. A ring that is stopped because its memory goes may leave flights, which
 * cannot be given back then. They stay until it is started, in other memory.
 */
static bool in_memory(const struct queue *q)
{
	return q->guest.desc;
}

void shadow_ring_stop(struct relay *r, unsigned int index, bool asked)
{
	struct queue *q = &r->shadow->queues[index];
	struct ring *ring = &r->rings[index];
	const bool ran = ring->live || ring->recover;
	bool at_rest;

	q->loop->now = now_ns();
	at_rest = drain(r, q, asked);
	if (!q->guest_on)
		return;
	loop_unwatch(q, q->kick);
	if (q->back_on) {
		loop_unwatch(q, q->back_call);
		flow_reap_rest(q);
		queue_detach_back(q, true);
		pool_divide(r->shadow);
	}
	/* Whoever serves the ring next need not know that kicks had been switched off. */
	if (in_memory(q)) {
		device_end_listen(&q->guest);
		queue_log_ring(q);
	}
	loop_deactivate(q);
	q->kick = q->call = -1;
	ring->recover = false;
	if (at_rest && in_memory(q) && queue_hand_back(q)) {
		ring->base = device_end_base(&q->guest);
		ledger_end(q);
		queue_detach_guest(q);
		return;
	}
	ring->base = device_end_base(&q->guest);
	if (ran && asked && !at_rest)
		backend_unfinished(r, index, q->nflights);
}

bool shadow_at_work(const struct shadow *s)
{
	for (unsigned int i = 0; i < RING_MAX; i++)
		if (s->queues[i].back_on && s->queues[i].back.busy)
			return true;
	return false;
}

static bool lies_in(const struct guest_region *region, const void *part)
{
	return (uintptr_t)part - (uintptr_t)region->host < region->v.size;
}

void shadow_stop_in(struct relay *r, const struct vu_region *v)
{
	const struct guest_region *region = guest_find(&r->shadow->guest, v);

	for (unsigned int i = 0; region && i < RING_MAX; i++) {
		struct queue *q = &r->shadow->queues[i];

		/* Where it is mapped: the front-end may have said since where it will be next. */
		if (!q->guest_on ||
		    !(lies_in(region, q->guest.desc) || lies_in(region, q->guest.driver) ||
		      lies_in(region, q->guest.device)))
			continue;
		shadow_ring_stop(r, i, false);
		q->guest.desc = NULL;
		q->guest.driver = q->guest.device = NULL;
	}
}

void shadow_memory_goes(struct relay *r)
{
	r->shadow->memory_moves = now_ns() + GONE_NS;
}

void shadow_memory_came(struct relay *r)
{
	uint64_t now = now_ns();

	if (r->shadow->memory_moves > now + CAME_NS)
		r->shadow->memory_moves = now + CAME_NS;
}

void shadow_kick_goes(struct relay *r, unsigned int index)
{
	struct queue *q = &r->shadow->queues[index];

	if (q->guest_on)
		loop_unwatch(q, q->kick);
}

void shadow_ring_fds(struct relay *r, unsigned int index)
{
	struct queue *q = &r->shadow->queues[index];

	if (!q->guest_on)
		return;
	q->kick = r->rings[index].kick;
	if (q->back_on)
		loop_watch(q, q->kick, 0); /* if it is watched already: an error that means so */
	q->loop->now = now_ns();
	loop_activate(q);
	q->call = r->rings[index].call;
	ring_signal(q->call);
}

void shadow_backend_gone(struct relay *r)
{
	struct shadow *s = r->shadow;

	for (unsigned int i = 0; i < RING_MAX; i++) {
		struct queue *q = &s->queues[i];

		if (!q->back_on)
			continue;
		loop_unwatch(q, q->back_call);
		loop_unwatch(q, q->kick);
		/* What it had completed before it went counts, unless it went over this. */
		if (!s->backend_broke)
			flow_reap_rest(q);
		queue_detach_back(q, false);
		loop_deactivate(q);
	}
	s->backend_broke = NULL;
	pool_close(r);
	pool_divide(s);
}

void shadow_session_end(struct relay *r)
{
	struct shadow *s = r->shadow;

	for (unsigned int i = 0; i < RING_MAX; i++)
		queue_detach_guest(&s->queues[i]);
	guest_reset(&s->guest);
	ledger_close(s);
	dirty_close(&s->dirty);
	guest_watch_also(&s->guest, 0, NULL, 0);
	s->dirty.on = false;
}
