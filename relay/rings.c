/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * rings.c - starting, stopping and recovering the backend's rings
 *
 * Theory of operation
 * -------------------
 * A ring is live if the backend has been told to run it. That is brought about here and nowhere
 * else, whenever something has changed: a ring is complete, memory has come, a backend is back.
 *
 *   front-end's state	   backend's state
 *   not kicked		   -		    nothing to do
 *   kicked, area private  -		    refused: one line, the err fd; waits for memory, a reset
 *   kicked, area shared   -		    started: NUM, BASE, ADDR, CALL, ERR, KICK, ENABLE
 *   kicked, area shared   backend left    recovered (inflight.c), then started
 *   kicked, unrecovered   -		    broken: one line, the err fd; waits for a reset
 *
 * A refused ring is the normal case for firmware, which puts its rings wherever it likes. The
 * backend never hears of it. To the front-end all seems well, so that the device stays: it is the
 * firmware that waits in vain for an answer.
 *
 * A ring that is stopped may have requests that the backend is still at work on, though it has answered for it
 * (finish.c). A split ring shows them, between its used index and the base: they are waited for, as
 * long as --drain says. A packed one does not; there the answer is believed. What is not finished then, or
 * when the backend had been given up before and has not closed its end, is owed: the base is told behind it, so that
 * nobody runs it beside that backend. If the ring is started there again, by which time that one has
 * closed its end, what it has left is found out and given to the next.
 *
 * After a start the kick fd is signalled, since the driver's own kick may have come before anybody
 * listened; after a recovery the call fd too, since the dead backend may have used requests and
 * not said so. One notification too many is harmless in either direction (virtio 1.2, 2.3).
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "inflight.h"
#include "log.h"
#include "shadow.h"
#include "state.h"

static struct inflight_start starts[RING_MAX];

static const char *state_of(struct relay *r, unsigned int index, struct ring_area *area)
{
	return ring_locate(&r->rings[index], &r->mem, r->fe.features, area);
}

static void refuse(struct relay *r, unsigned int index, const char *why)
{
	struct ring *ring = &r->rings[index];

	if (ring->refused)
		return;
	ring->refused = true;
	relay_log_peer("refused to start ring %u (%u entries at the front-end's addresses 0x%llx, "
		       "0x%llx, 0x%llx): %s. Firmware that looks at the disk does this, and cannot "
		       "boot from it: boot from elsewhere (QEMU: -kernel, or a bootindex, with "
		       "-boot strict=on). A driver that puts its ring into the shared memory is "
		       "served when it comes",
		       index, ring->num, (unsigned long long)ring->desc,
		       (unsigned long long)ring->avail, (unsigned long long)ring->used, why);
	ring_signal(ring->err);
}

static void give_up(struct relay *r, unsigned int index, const char *why)
{
	struct ring *ring = &r->rings[index];

	ring->broken = true;
	ring->recover = false;
	relay_log_peer("ring %u stays stopped: %s. Requests in it are not completed, so that none "
		       "is lost or run twice; reset the device in the guest (unbind and bind its "
		       "driver, or reboot) to use it again",
		       index, why);
	ring_signal(ring->err);
}

/* Finds out where the next backend has to go on. */
static void recover(struct relay *r, unsigned int index, const struct ring_area *area)
{
	struct ring *ring = &r->rings[index];
	uint16_t base, count;
	const char *why = inflight_recover(&starts[index], ring, area, &r->mem, r->fe.features,
					   &base, &count);

	if (why) {
		give_up(r, index, why);
		if (!(r->fe.features & VU_BIT(VIRTIO_F_PACKED)) && inflight_skip(ring, area, &base))
			ring->base = base;
		else
			ring->lost = true;
		return;
	}
	ring->recover = false;
	ring->base = base;
	relay_log_peer("ring %u: the backend left %u requests undone; the next one gets them",
		       index, count);
}

/* It cannot be found out, because it may be going on. */
static void withhold(struct relay *r, unsigned int index, const struct ring_area *area)
{
	struct ring *ring = &r->rings[index];
	uint16_t base;

	if ((r->fe.features & VU_BIT(VIRTIO_F_PACKED)) || !inflight_skip(ring, area, &base)) {
		recover(r, index, area);
		return;
	}
	ring->recover = false;
	ring->owed = true;
	ring->base = base;
	backend_unfinished(r, index, inflight_open(ring, area, base));
}

static int tell_state(struct relay *r, uint32_t request, unsigned int index, uint32_t num)
{
	struct vu_msg m;

	vu_set(&m, request);
	m.h.size = sizeof(m.p.state);
	m.p.state = (struct vu_vring_state){.index = index, .num = num};
	return backend_tell(r, &m);
}

static int tell_fd(struct relay *r, uint32_t request, unsigned int index, int fd)
{
	struct vu_msg m;

	vu_set_u64(&m, request, index | (fd < 0 ? VU_VRING_NOFD : 0));
	if (fd >= 0)
		m.fds[m.nfds++] = fd;
	return backend_tell(r, &m);
}

static int tell_addr(struct relay *r, unsigned int index, const struct ring_told *told)
{
	struct vu_msg m;

	vu_set(&m, VU_SET_VRING_ADDR);
	m.h.size = sizeof(m.p.addr);
	/* No log: the backend is never told of live migration. */
	m.p.addr = (struct vu_vring_addr){
		.index = index,
		.desc = told->desc,
		.used = told->used,
		.avail = told->avail,
	};
	return backend_tell(r, &m);
}

int rings_tell(struct relay *r, unsigned int index, const struct ring_told *told)
{
	int rc = tell_state(r, VU_SET_VRING_NUM, index, told->num);

	if (!rc)
		rc = tell_state(r, VU_SET_VRING_BASE, index, told->base);
	if (!rc)
		rc = tell_addr(r, index, told);
	if (!rc && told->call_set)
		rc = tell_fd(r, VU_SET_VRING_CALL, index, told->call);
	if (!rc && told->err >= 0)
		rc = tell_fd(r, VU_SET_VRING_ERR, index, told->err);
	if (rc)
		return rc;
	/* From the kick on the backend may touch the ring, whatever it answers. */
	r->rings[index].live = true;
	rc = tell_fd(r, VU_SET_VRING_KICK, index, told->kick);
	if (!rc)
		rc = tell_state(r, VU_SET_VRING_ENABLE, index, told->enabled);
	return rc;
}

static int start(struct relay *r, unsigned int index, const struct ring_area *area)
{
	const struct ring *ring = &r->rings[index];
	const struct ring_told told = {
		.num = ring->num,
		.base = ring->base,
		.desc = ring_backend_addr(area->desc, ring->desc),
		.used = ring_backend_addr(area->used, ring->used),
		.avail = ring_backend_addr(area->avail, ring->avail),
		.call = ring->call,
		.err = ring->err,
		.kick = ring->kick,
		.call_set = ring->call_set,
		.enabled = ring->enabled || !(r->fe.features & VU_BIT(VU_F_PROTOCOL)),
	};

	return rings_tell(r, index, &told);
}

static void start_ready(struct relay *r, unsigned int index)
{
	struct ring *ring = &r->rings[index];
	struct ring_area area;
	const char *why = state_of(r, index, &area);
	bool again;
	int rc;

	if (why) {
		refuse(r, index, why);
		return;
	}
	if (r->be.fd < 0)
		return;
	/* It goes on there, unless a driver has begun anew. */
	ring->recover |= ring->owed && inflight_open(ring, &area, (uint16_t)ring->base);
	ring->owed = false;
	again = ring->recover;
	rc = r->be.memory_live ? 0 : backend_memory(r, NULL);
	if (rc == -ENOSPC) {
		give_up(r, index, "the backend does not take as many memory regions");
		return;
	}
	if (ring->recover)
		recover(r, index, &area);
	if (rc || ring->broken)
		return;
	if (!(r->fe.features & VU_BIT(VIRTIO_F_PACKED)))
		inflight_begin(&starts[index], ring, &area);
	rc = start(r, index, &area);
	if (rc == -EREMOTEIO)
		give_up(r, index, "the backend refused to run it");
	if (rc)
		return;
	ring->refused = false;
	ring_signal(ring->kick);
	if (again)
		ring_signal(ring->call);
}

void rings_start(struct relay *r)
{
	if (!r->fe.features_set)
		return;
	if (r->shadow) {
		shadow_rings_start(r);
		return;
	}
	for (unsigned int i = 0; i < RING_MAX; i++) {
		const struct ring *ring = &r->rings[i];

		if (ring->kick_set && ring->addr_set && ring->num && !ring->live && !ring->broken &&
		    !ring->lost)
			start_ready(r, i);
	}
}

/* What the backend is still at work on when it has answered: for backend_finishes(). */
struct answered {
	struct relay *r;
	unsigned int index;
	uint32_t base;
};

static uint32_t open_requests(void *arg)
{
	const struct answered *a = arg;
	struct ring_area area;

	if (!a->r->rings[a->index].live || state_of(a->r, a->index, &area))
		return 0;
	return inflight_open(&a->r->rings[a->index], &area, (uint16_t)a->base);
}

/* Whether it can be a base. */
static bool is_base(struct relay *r, const struct answered *a, const struct vu_msg *m)
{
	if (m->h.size != sizeof(m->p.state) || m->p.state.index != a->index)
		return false;
	return (r->fe.features & VU_BIT(VIRTIO_F_PACKED)) || a->base <= UINT16_MAX;
}

/* Returns whether the backend has stopped it. If not it has been given up. */
static bool stop(struct relay *r, unsigned int index, int64_t until)
{
	const bool packed = r->fe.features & VU_BIT(VIRTIO_F_PACKED);
	struct answered a = {.r = r, .index = index};
	struct ring *ring = &r->rings[index];
	int64_t left = until - relay_now_ms();
	struct vu_msg m;

	vu_set(&m, VU_GET_VRING_BASE);
	m.h.size = sizeof(m.p.state);
	m.p.state = (struct vu_vring_state){.index = index};
	if (backend_ask(r, &m, left > WAIT_ASKED ? (int)left : WAIT_ASKED))
		return false;
	a.base = m.p.state.num;
	if (!is_base(r, &a, &m)) {
		backend_lost(r, "it answered GET_VRING_BASE with a base that is none");
		return false;
	}
	if (!packed && open_requests(&a)) {
		/* qemu-storage-daemon 7.2 has closed it, and ends when it would notify. */
		if (ring->call >= 0)
			(void)tell_fd(r, VU_SET_VRING_CALL, index, ring->call);
		if (!backend_finishes(r, index, open_requests, &a, until))
			backend_lost(r,
				     vu_left(r->be.fd)
					     ? "it left while a ring was being stopped"
					     : "it answered GET_VRING_BASE and is still at work");
		/* It does not say so any more. */
		ring_signal(ring->call);
	}
	if (!ring->live)
		return false;
	ring->live = false;
	ring->base = a.base;
	return true;
}

void rings_stop(struct relay *r, unsigned int index, bool asked)
{
	struct ring *ring = &r->rings[index];
	struct ring_area area;
	int64_t until;

	if (r->shadow) {
		shadow_ring_stop(r, index, asked);
		return;
	}
	until = relay_now_ms() + (asked ? r->drain_ms : WAIT_DRAIN);
	if (ring->live && r->be.fd >= 0 && stop(r, index, until))
		return;
	/* Giving up the backend has left it to be recovered. Its other rings have had the same time by then. */
	if (asked && r->be.parting >= 0 && r->be.parting_until > until)
		r->be.parting_until = until;
	if (!ring->recover || state_of(r, index, &area))
		return;
	if (backend_parted(r, asked ? until : 0))
		recover(r, index, &area);
	else
		withhold(r, index, &area);
}

bool rings_at_work(struct relay *r)
{
	for (unsigned int i = 0; i < RING_MAX; i++) {
		struct ring_area area;
		uint16_t avail;

		if (!r->rings[i].live || state_of(r, i, &area))
			continue;
		if ((r->fe.features & VU_BIT(VIRTIO_F_PACKED)) ||
		    (inflight_skip(&r->rings[i], &area, &avail) &&
		     inflight_open(&r->rings[i], &area, avail)))
			return true;
	}
	return false;
}

void rings_stop_in(struct relay *r, const struct region *region)
{
	for (unsigned int i = 0; i < RING_MAX; i++) {
		struct ring *ring = &r->rings[i];
		struct ring_area area;

		if ((ring->live || ring->recover) && !state_of(r, i, &area) &&
		    (area.desc == region || area.used == region || area.avail == region))
			rings_stop(r, i, false);
	}
}
