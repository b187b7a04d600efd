/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * setup.c - the front-end's requests that set up memory and rings
 *
 * Theory of operation
 * -------------------
 * These change what the relay knows, and then let backend_memory() and rings_start() work out what
 * the backend has to be told. So the order in which they come does not matter: a ring is started
 * when the last thing that it lacked is there, and memory is told when there is a ring to start.
 *
 * Memory that goes while rings run in it (a BAR that moves: the front-end removes the region and
 * adds it elsewhere): the rings are stopped at the backend first, which would otherwise follow
 * pointers into what it has unmapped, and started again when the memory is back.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "session.h"
#include "shadow.h"

static void replace_fd(int *slot, int fd)
{
	if (*slot >= 0)
		close(*slot);
	*slot = fd;
}

static int drop_region(struct relay *r, struct region *region)
{
	if (region->fd >= 0) {
		rings_stop_in(r, region);
		if (region->pushed && backend_memory(r, region) == -EREMOTEIO)
			backend_lost(r, "it will not give up memory");
	}
	memory_drop(region);
	return 0;
}

/* New memory: the backend is told if it has memory already, and rings may have become usable. */
static int memory_came(struct relay *r)
{
	int rc = 0;

	if (r->be.fd >= 0 && r->be.memory_live)
		rc = backend_memory(r, NULL);
	if (rc == -ENOSPC)
		relay_log_peer(
			"the backend takes %llu memory regions and no more: share fewer files",
			(unsigned long long)r->be.slots);
	if (rc == -EREMOTEIO || rc == -ENOSPC)
		return REFUSE;
	rings_start(r);
	return 0;
}

static int refused_memory(int rc)
{
	return rc == -EPERM ? FATAL : rc ? REFUSE : 0;
}

/* ---- shadow mode: the guest's memory is the relay's alone ---- */

static int shadow_drop(struct relay *r, const struct vu_region *v)
{
	struct guest *g = &r->shadow->guest;
	struct guest_region *region = guest_find(g, v);

	if (!region)
		return REFUSE;
	shadow_stop_in(r, v);
	guest_drop(g, region);
	return 0;
}

static int shadow_table(struct relay *r, struct vu_msg *m)
{
	struct guest *g = &r->shadow->guest;
	uint32_t n = m->p.table.nregions;
	int rc = 0;

	for (unsigned int i = 0; i < g->n; i++)
		g->regions[i].stale = true;
	for (unsigned int i = 0; i < n; i++) {
		if (!guest_keep(g, &m->p.table.regions[i], m->fds[i]))
			continue;
		close(m->fds[i]);
		m->fds[i] = -1;
	}
	for (unsigned int i = g->n; i-- > 0;) {
		const struct vu_region v = g->regions[i].v;

		if (g->regions[i].stale)
			shadow_drop(r, &v);
	}
	m->nfds = 0;
	for (unsigned int i = 0; i < n; i++) {
		if (m->fds[i] < 0)
			continue;
		if (!rc)
			rc = guest_map(g, &m->p.table.regions[i], m->fds[i]);
		else
			close(m->fds[i]);
	}
	rings_start(r);
	return rc ? REFUSE : 0;
}

int setup_mem_table(struct relay *r, struct vu_msg *m)
{
	uint32_t n = m->p.table.nregions;
	int rc;

	if (n != m->nfds || m->h.size != 8 + n * sizeof(struct vu_region)) {
		relay_log_peer("refused SET_MEM_TABLE: %u regions, but %u file descriptors and %u "
			       "bytes",
			       n, m->nfds, m->h.size);
		return REFUSE;
	}
	if (r->shadow)
		return shadow_table(r, m);
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++)
		r->mem.regions[i].stale = r->mem.regions[i].used;
	for (unsigned int i = 0; i < n; i++) {
		if (!memory_keep(&r->mem, &m->p.table.regions[i], m->fds[i]))
			continue;
		close(m->fds[i]);
		m->fds[i] = -1;
	}
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++)
		if (r->mem.regions[i].stale)
			drop_region(r, &r->mem.regions[i]);
	m->nfds = 0;
	rc = 0;
	for (unsigned int i = 0; i < n; i++) {
		if (m->fds[i] < 0)
			continue;
		if (!rc)
			rc = memory_add(&r->mem, &m->p.table.regions[i], m->fds[i]);
		else
			close(m->fds[i]);
	}
	return rc ? refused_memory(rc) : memory_came(r);
}

int setup_add_region(struct relay *r, struct vu_msg *m)
{
	int fd = vu_take_fd(m), rc;

	if (fd < 0) {
		relay_log_peer("refused ADD_MEM_REG: it carries no file descriptor");
		return REFUSE;
	}
	if (r->shadow) {
		rc = guest_map(&r->shadow->guest, &m->p.one.region, fd);
		shadow_memory_came(r);
		if (!rc)
			rings_start(r);
		return rc ? REFUSE : 0;
	}
	rc = memory_add(&r->mem, &m->p.one.region, fd);
	if (rc)
		return refused_memory(rc);
	rc = memory_came(r);
	if (rc == REFUSE)
		drop_region(r, memory_find(&r->mem, &m->p.one.region));
	return rc;
}

int setup_rem_region(struct relay *r, struct vu_msg *m)
{
	struct region *region = NULL;
	int rc = 0;

	if (r->shadow) {
		rc = shadow_drop(r, &m->p.one.region);
		if (!rc)
			shadow_memory_goes(r);
	} else {
		region = memory_find(&r->mem, &m->p.one.region);
	}
	if (rc || (!r->shadow && !region)) {
		relay_log_peer("refused REM_MEM_REG: there is no such region");
		return REFUSE;
	}
	return region ? drop_region(r, region) : 0;
}

static struct ring *ring_of(struct relay *r, uint32_t index, const char *what)
{
	if (index < RING_MAX)
		return &r->rings[index];
	relay_log_peer("refused %s: there is no ring %u", what, index);
	return NULL;
}

static int running(const char *what, uint32_t index)
{
	relay_log_peer("refused %s: ring %u is running", what, index);
	return REFUSE;
}

int setup_vring_num(struct relay *r, struct vu_msg *m)
{
	struct ring *ring = ring_of(r, m->p.state.index, "SET_VRING_NUM");

	if (!ring)
		return REFUSE;
	if (!ring_check_num(m->p.state.num, r->fe.features)) {
		relay_log_peer("refused SET_VRING_NUM: ring %u cannot have %u entries",
			       m->p.state.index, m->p.state.num);
		return REFUSE;
	}
	if ((ring->live || ring->recover) && ring->num != m->p.state.num)
		return running("SET_VRING_NUM", m->p.state.index);
	ring->owed = ring->owed && ring->num == m->p.state.num;
	ring->num = m->p.state.num;
	rings_start(r);
	return 0;
}

int setup_vring_base(struct relay *r, struct vu_msg *m)
{
	struct ring *ring = ring_of(r, m->p.state.index, "SET_VRING_BASE");

	if (!ring)
		return REFUSE;
	if (!(r->fe.features & VU_BIT(VIRTIO_F_PACKED)) && m->p.state.num > UINT16_MAX) {
		relay_log_peer("refused SET_VRING_BASE: ring %u cannot start at %u",
			       m->p.state.index, m->p.state.num);
		return REFUSE;
	}
	if (ring->live || ring->recover)
		return running("SET_VRING_BASE", m->p.state.index);
	ring->owed = ring->owed && ring->base == m->p.state.num;
	ring->base = m->p.state.num;
	return 0;
}

int setup_vring_addr(struct relay *r, struct vu_msg *m)
{
	const struct vu_vring_addr *a = &m->p.addr;
	struct ring *ring = ring_of(r, a->index, "SET_VRING_ADDR");

	if (!ring)
		return REFUSE;
	if ((ring->live || ring->recover) &&
	    (a->desc != ring->desc || a->used != ring->used || a->avail != ring->avail))
		return running("SET_VRING_ADDR", a->index);
	ring->desc = a->desc;
	ring->used = a->used;
	ring->avail = a->avail;
	ring->addr_set = true;
	rings_start(r);
	return 0;
}

/* It is stopped, and starts again when it has been kicked again (the spec, "Ring states"). */
static void forget_kick(struct ring *ring)
{
	if (ring->kick >= 0)
		close(ring->kick);
	ring->kick = -1;
	ring->kick_set = ring->refused = ring->broken = false;
}

int setup_get_vring_base(struct relay *r, struct vu_msg *m)
{
	struct ring *ring = ring_of(r, m->p.state.index, "GET_VRING_BASE");

	if (!ring)
		return REFUSE;
	rings_stop(r, m->p.state.index, true);
	forget_kick(ring);
	m->p.state.num = ring->base;
	m->h.size = sizeof(m->p.state);
	return session_reply(r, m);
}

/* The fd of a kick, call or err message: it must be an eventfd. A peer that holds another kind of
 * fd holds what that fd reaches: memory, a virtual CPU, a disk. */
static int take_eventfd(struct relay *r, struct vu_msg *m, unsigned int *index, int *fd)
{
	const char *what = vu_rule(m->h.request)->name;
	char name[DOOR_NAME];

	*index = m->p.u64 & VU_VRING_INDEX;
	if ((m->p.u64 & ~(uint64_t)(VU_VRING_INDEX | VU_VRING_NOFD)) ||
	    m->nfds != (m->p.u64 & VU_VRING_NOFD ? 0 : 1)) {
		relay_log_peer("refused %s: its value 0x%llx does not go with %u file descriptors",
			       what, (unsigned long long)m->p.u64, m->nfds);
		return REFUSE;
	}
	if (m->nfds &&
	    (door_name(&r->door, m->fds[0], name) || strcmp(name, "anon_inode:[eventfd]") != 0)) {
		relay_log_peer("refused %s: what came is not an eventfd", what);
		return REFUSE;
	}
	*fd = vu_take_fd(m);
	return 0;
}

int setup_vring_fd(struct relay *r, struct vu_msg *m)
{
	struct vu_msg down = *m; /* the fds stay valid: the ring keeps them */
	struct ring *ring;
	unsigned int index;
	int fd, rc = take_eventfd(r, m, &index, &fd);

	if (rc)
		return rc;
	ring = &r->rings[index];
	switch (m->h.request) {
	case VU_SET_VRING_KICK:
		if (r->shadow)
			shadow_kick_goes(r, index);
		replace_fd(&ring->kick, fd);
		ring->kick_set = true;
		ring->broken = false;
		break;
	case VU_SET_VRING_CALL:
		replace_fd(&ring->call, fd);
		ring->call_set = true;
		break;
	default:
		replace_fd(&ring->err, fd);
		break;
	}
	if ((ring->live || ring->recover) && r->shadow) {
		shadow_ring_fds(r, index);
		return 0;
	}
	if (ring->live) {
		down.h.flags = VU_VERSION;
		return session_told(backend_tell(r, &down));
	}
	rings_start(r);
	return 0;
}

int setup_vring_enable(struct relay *r, struct vu_msg *m)
{
	const uint32_t index = m->p.state.index;
	struct ring *ring = ring_of(r, index, "SET_VRING_ENABLE");
	int rc;

	if (!ring)
		return REFUSE;
	ring->enabled = m->p.state.num != 0;
	if (!ring->live)
		return 0;
	rc = backend_tell(r, m);
	/* Kicks from before may be lost: there are backends that forget those of a disabled ring. */
	if (!rc && ring->enabled)
		ring_signal(r->shadow ? r->shadow->queues[index].back_kick : ring->kick);
	return session_told(rc);
}

void setup_stop_all(struct relay *r)
{
	for (unsigned int i = 0; i < RING_MAX; i++)
		if (r->rings[i].live || (r->shadow && r->rings[i].recover))
			rings_stop(r, i, false);
}

void setup_reset_kicks(struct relay *r)
{
	setup_stop_all(r);
	for (unsigned int i = 0; i < RING_MAX; i++) {
		forget_kick(&r->rings[i]);
		r->rings[i].lost = r->rings[i].owed = false;
	}
}

void setup_reset_all(struct relay *r)
{
	setup_stop_all(r);
	for (unsigned int i = 0; i < RING_MAX; i++)
		ring_reset(&r->rings[i]);
}
