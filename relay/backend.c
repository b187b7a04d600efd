/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * backend.c - the backend's connection: asking, replaying, losing it and getting it back
 *
 * Theory of operation
 * -------------------
 * To the backend the relay is a front-end. It never forwards a message: it keeps what the real
 * front-end has said (struct relay) and tells the backend what follows from that, in messages of
 * its own. So bringing a backend to where the front-end is takes the same steps the first time as
 * after it has died, and the front-end need not know of it.
 *
 * Order (the spec, "Starting and stopping rings", and what back-ends insist on): GET_FEATURES,
 * GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_OWNER, SET_FEATURES, the channel, memory,
 * rings, STATUS. Memory is told when the first ring can be started and not before: by then the
 * front-end has shown all its memory, so that a file with a second region in it is noticed before
 * it is passed on.
 *
 * Every request is waited for, with REPLY_ACK or behind it a GET_FEATURES: an error shows at the
 * request that caused it. While waiting, the backend's own requests are served, since it may be
 * waiting for those. A backend that answers late, wrongly, or not at all is given up, and tried
 * again from the start.
 *
 * One that is given up while requests are with it gets time to finish them, since it
 * may go on with them whatever becomes of the connection: only the sending side is closed at first, and no
 * new connection is made until the backend has closed its own. In mode shadow not if that takes too long: there
 * it cannot reach what the next one uses. In mode filter it can, since both have the guest's ring and pool.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "shadow.h"
#include "state.h"

uint64_t backend_features(const struct relay *r)
{
	if (r->shadow)
		return disk_features_down(shadow_features_down(r->fe.features, r->be.features),
					  r->be.features);
	/* ACCESS_PLATFORM is between the guest and the front-end. PROTOCOL is between the relay and
	 * the backend, whatever the front-end thinks of it. */
	return (r->fe.features & ~VU_BIT(VIRTIO_F_ACCESS_PLATFORM)) | VU_BIT(VU_F_PROTOCOL);
}

/*
 * A backend that leaves whenever it is given the rings is most likely given a request that it cannot
 * serve, and it will be given it again: there is no hurry, and somebody has to be told.
 */
static void leaves_at_once(struct relay *r)
{
	struct backend *be = &r->be;

	if (relay_now_ms() - be->came >= RETRY_MOST) {
		be->left_at_once = 0;
		return;
	}
	if (++be->left_at_once < LEAVES_AT_ONCE)
		return;
	be->retry = LEAVES_PAUSE;
	if (be->left_at_once == LEAVES_AT_ONCE)
		relay_log_peer("the backend has left %d times running as soon as it had come: see "
			       "its own log. If that speaks of addresses, descriptors or buffers, "
			       "the guest has put some outside the shared memory: is sluice.ko in "
			       "charge of this device (or all of swiotlb in a shared file)? Trying "
			       "again more slowly",
			       be->left_at_once);
}

static void parting_ends(struct backend *be)
{
	if (be->parting >= 0)
		close(be->parting);
	be->parting = -1;
	be->parting_said = 0;
}

bool backend_parted(struct relay *r, int64_t until)
{
	struct backend *be = &r->be;

	if (until > be->parting_until)
		until = be->parting_until;
	while (be->parting >= 0 && !vu_left(be->parting)) {
		struct pollfd p[2] = {
			{.fd = be->parting, .events = POLLRDHUP},
			{.fd = r->fe.fd, .events = POLLRDHUP},
		};
		int64_t left = until - relay_now_ms();

		if (left <= 0 || (poll(p, 2, (int)left) > 0 && p[1].revents))
			return false;
	}
	parting_ends(be);
	return true;
}

/* Keeps half of the connection, if the backend may be at work on something of it. */
static void part(struct relay *r)
{
	struct backend *be = &r->be;

	if (vu_left(be->fd) || !(r->shadow ? shadow_at_work(r->shadow) : rings_at_work(r)))
		return;
	parting_ends(be);
	/* What it may still send is not read: it has been given up. */
	shutdown(be->fd, SHUT_WR);
	be->parting = be->fd;
	be->parting_until = relay_now_ms() + r->drain_ms;
	be->fd = -1;
}

void backend_close(struct relay *r)
{
	struct backend *be = &r->be;

	part(r);
	if (be->fd >= 0)
		close(be->fd);
	if (be->channel >= 0)
		close(be->channel);
	be->fd = be->channel = -1;
	be->agreed = 0;
	be->agreed_set = be->memory_live = false;
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++)
		r->mem.regions[i].pushed = false;
	for (unsigned int i = 0; i < RING_MAX; i++) {
		r->rings[i].recover |= r->rings[i].live;
		r->rings[i].live = false;
	}
	if (r->shadow)
		shadow_backend_gone(r);
}

void backend_lost(struct relay *r, const char *why)
{
	if (r->be.fd < 0)
		return;
	backend_close(r);
	if (!r->be.missed)
		relay_log_peer("the backend is away (%s); the front-end is kept, and its requests "
			       "wait until the backend is back on its socket",
			       why);
	r->be.missed = true;
	if (!r->be.retry)
		r->be.retry = RETRY_FIRST;
	leaves_at_once(r);
	r->be.retry_at = relay_now_ms() + r->be.retry;
}

/*
 * Waits for the answer on the main connection, serving the backend's own channel meanwhile. A long
 * wait is said; and it is of no use to anybody once the front-end has left.
 */
static int wait_answer(struct relay *r, uint32_t request, int timeout_ms)
{
	int64_t begin = relay_now_ms(), deadline = begin + timeout_ms;
	bool patient = timeout_ms > WAIT_MESSAGE;

	while (r->be.fd >= 0) {
		struct pollfd p[3] = {
			{.fd = r->be.fd, .events = POLLIN},
			{.fd = r->be.channel, .events = POLLIN},
			{.fd = patient ? r->fe.fd : -1, .events = POLLRDHUP},
		};
		int64_t now = relay_now_ms(), left = deadline - now;
		int n = poll(p, 3,
			     left <= 0			     ? 0
			     : patient && left > SAY_WAITING ? SAY_WAITING
							     : (int)left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n > 0 && p[0].revents)
			return 0;
		/* Requests of its own, however many, do not stand in for the answer. */
		if (left <= 0)
			return -ETIMEDOUT;
		if (p[1].revents)
			backchan_serve(r);
		if (p[2].revents) {
			patient = false;
			deadline = relay_now_ms() + WAIT_MESSAGE;
		} else if (!n && patient) {
			relay_log_peer(
				"waiting for the backend to answer %s: for %d seconds now, %d at "
				"most. The front-end waits, too. To end it sooner, see to the "
				"backend's storage, or kill the backend",
				vu_rule(request)->name, (int)((relay_now_ms() - begin) / 1000),
				timeout_ms / 1000);
		}
	}
	return -ENOTCONN;
}

int backend_ask(struct relay *r, struct vu_msg *m, int timeout_ms)
{
	uint32_t request = m->h.request;
	char why[128];
	int rc;

	if (r->be.fd < 0)
		return -ENOTCONN;
	rc = vu_send(r->be.fd, m, WAIT_MESSAGE);
	if (!rc)
		rc = wait_answer(r, request, timeout_ms);
	if (rc == -ETIMEDOUT)
		snprintf(why, sizeof(why), "it has not answered %s for %d seconds",
			 vu_rule(request)->name, timeout_ms / 1000);
	else if (rc)
		snprintf(why, sizeof(why), "%s", strerror(-rc));
	if (!rc) {
		rc = vu_recv_plain(r->be.fd, m, WAIT_MESSAGE);
		if (rc)
			snprintf(why, sizeof(why), "%s", vu_recv_error(rc));
	}
	if (!rc && (m->dropped || m->h.request != request || !(m->h.flags & VU_REPLY))) {
		snprintf(why, sizeof(why), "it sent something else where %s was to be answered",
			 vu_rule(request)->name);
		rc = -EBADMSG;
	}
	if (!rc)
		return 0;
	backend_lost(r, why);
	return -ENOTCONN;
}

/* Ask for one number. */
static int ask_u64(struct relay *r, uint32_t request, uint64_t *value)
{
	struct vu_msg m;

	vu_set(&m, request);
	if (backend_ask(r, &m, WAIT_MESSAGE))
		return -ENOTCONN;
	if (m.h.size != sizeof(m.p.u64)) {
		backend_lost(r, "it sent an answer of the wrong size");
		return -ENOTCONN;
	}
	*value = m.p.u64;
	return 0;
}

void backend_ping(struct relay *r)
{
	uint64_t ignored;

	if (r->be.fd >= 0)
		(void)ask_u64(r, VU_GET_FEATURES, &ignored);
}

int backend_agree(struct relay *r)
{
	struct vu_msg m;
	int rc;

	r->be.agreed = r->be.protocol & (VU_P_OWN | (r->fe.protocol & VU_P_PASSED));
	r->be.agreed_set = true;
	/* REPLY_ACK holds for what comes after this one. */
	vu_set_u64(&m, VU_SET_PROTOCOL_FEATURES, r->be.agreed);
	if (r->be.fd < 0)
		return -ENOTCONN;
	rc = vu_send(r->be.fd, &m, WAIT_MESSAGE);
	if (rc) {
		backend_lost(r, strerror(-rc));
		return -ENOTCONN;
	}
	if (!(r->be.agreed & VU_BIT(VU_P_MEM_SLOTS))) {
		r->be.slots = VU_TABLE_REGIONS;
		return 0;
	}
	return ask_u64(r, VU_GET_MAX_MEM_SLOTS, &r->be.slots);
}

int backend_tell(struct relay *r, struct vu_msg *m)
{
	uint32_t request = m->h.request;
	uint64_t ignored;
	int rc;

	if (r->be.fd >= 0 && !r->be.agreed_set) {
		rc = backend_agree(r);
		if (rc)
			return rc;
	}
	if (r->be.agreed & VU_BIT(VU_P_REPLY_ACK)) {
		m->h.flags |= VU_NEED_REPLY;
		if (backend_ask(r, m, WAIT_MESSAGE))
			return -ENOTCONN;
		if (m->h.size == sizeof(m->p.u64) && !m->p.u64)
			return 0;
		relay_log_peer("the backend refused %s", vu_rule(request)->name);
		return -EREMOTEIO;
	}
	if (r->be.fd < 0)
		return -ENOTCONN;
	rc = vu_send(r->be.fd, m, WAIT_MESSAGE);
	if (rc) {
		backend_lost(r, strerror(-rc));
		return -ENOTCONN;
	}
	return ask_u64(r, VU_GET_FEATURES, &ignored);
}

int backend_set_features(struct relay *r)
{
	struct vu_msg m;

	vu_set_u64(&m, VU_SET_FEATURES, backend_features(r));
	return backend_tell(r, &m);
}

static struct vu_region as_told(const struct region *region)
{
	struct vu_region v = region->v;

	v.user = ring_backend_addr(region, v.user);
	return v;
}

static int tell_region(struct relay *r, uint32_t request, struct region *region)
{
	struct vu_msg m;

	vu_set(&m, request);
	m.h.size = sizeof(m.p.one);
	m.p.one = (struct vu_mem_one){.region = as_told(region)};
	if (request == VU_ADD_MEM_REG)
		m.fds[m.nfds++] = region->fd;
	return backend_tell(r, &m);
}

static int tell_table(struct relay *r, const struct region *gone)
{
	struct vu_msg m;
	int rc;

	vu_set(&m, VU_SET_MEM_TABLE);
	m.p.table = (struct vu_mem_table){0};
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++) {
		struct region *region = &r->mem.regions[i];

		if (region->fd < 0 || region == gone)
			continue;
		if (m.nfds == VU_TABLE_REGIONS)
			return -ENOSPC;
		m.p.table.regions[m.nfds] = as_told(region);
		m.fds[m.nfds++] = region->fd;
	}
	m.p.table.nregions = m.nfds;
	m.h.size = (uint32_t)(8 + m.nfds * sizeof(struct vu_region));
	rc = backend_tell(r, &m);
	if (rc)
		return rc;
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++)
		r->mem.regions[i].pushed = r->mem.regions[i].fd >= 0 && &r->mem.regions[i] != gone;
	return 0;
}

int backend_memory(struct relay *r, struct region *gone)
{
	bool slots = r->be.agreed & VU_BIT(VU_P_MEM_SLOTS), changed = gone && gone->pushed;
	uint64_t count = 0;
	int rc;

	if (r->be.fd < 0)
		return -ENOTCONN;
	if (changed && slots) {
		gone->pushed = false;
		rc = tell_region(r, VU_REM_MEM_REG, gone);
		if (rc)
			return rc;
	}
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++) {
		struct region *region = &r->mem.regions[i];

		if (region->fd < 0 || region == gone)
			continue;
		if (++count > r->be.slots)
			return -ENOSPC;
		if (region->pushed)
			continue;
		changed = true;
		if (!slots)
			continue;
		rc = tell_region(r, VU_ADD_MEM_REG, region);
		if (rc)
			return rc;
		region->pushed = true;
	}
	r->be.memory_live = true;
	return changed && !slots ? tell_table(r, gone) : 0;
}

static int unfit(struct relay *r, const char *why)
{
	if (!r->be.unfit)
		relay_log_peer("the backend is of no use: %s", why);
	r->be.unfit = r->be.missed = true;
	backend_lost(r, why);
	return -EPROTO;
}

/* What is on offer, and whether it covers what has been negotiated with the one before. */
static int meet(struct relay *r)
{
	struct backend *be = &r->be;

	if (ask_u64(r, VU_GET_FEATURES, &be->features))
		return -ENOTCONN;
	if (!(be->features & VU_BIT(VU_F_PROTOCOL)))
		return unfit(r,
			     "it does not offer VHOST_USER_F_PROTOCOL_FEATURES; use a newer one");
	if (ask_u64(r, VU_GET_PROTOCOL_FEATURES, &be->protocol))
		return -ENOTCONN;
	if ((r->fe.features_set && (backend_features(r) & ~be->features)) ||
	    (r->fe.protocol & VU_P_PASSED & ~VU_BIT(VU_P_BACKEND_REQ) & ~be->protocol))
		return unfit(r,
			     "it lacks features that the guest uses already; start it as the one "
			     "before was started");
	return 0;
}

static int replay(struct relay *r)
{
	struct vu_msg m;
	int rc = 0;

	if (r->fe.protocol_set)
		rc = backend_agree(r);
	if (!rc && r->fe.owner) {
		vu_set(&m, VU_SET_OWNER);
		rc = backend_tell(r, &m);
	}
	if (!rc && r->fe.features_set)
		rc = backend_set_features(r);
	if (!rc && r->fe.mtu_set) {
		vu_set_u64(&m, VU_NET_SET_MTU, r->fe.mtu);
		rc = backend_tell(r, &m);
	}
	if (!rc && r->fe.channel >= 0)
		rc = backchan_open(r);
	if (rc)
		return rc;
	rings_start(r);
	if (r->fe.status) {
		vu_set_u64(&m, VU_SET_STATUS, r->fe.status);
		rc = backend_tell(r, &m);
	}
	return r->be.fd < 0 ? -ENOTCONN : rc;
}

/* Whether a connection that was given up is closed, or, in mode shadow, has had the time for it. */
static bool let_go(struct relay *r)
{
	struct backend *be = &r->be;
	bool late = relay_now_ms() >= be->parting_until;

	if (backend_parted(r, 0))
		return true;
	if (late && be->parting_said < 2)
		relay_log_peer("the backend has still not closed its end of the connection that "
			       "was given up: %s",
			       r->shadow ? "it is connected to again, and may run requests twice"
					 : "it can still write to the guest's ring and buffers, so "
					   "nothing is started beside it. Kill it and start it "
					   "again");
	else if (!late && !be->parting_said)
		relay_log_peer("the backend has not closed its end of the connection that was "
			       "given up, so it may be at work on requests of it: it is not "
			       "connected to again before it has%s. If it "
			       "hangs, kill it and start it again",
			       r->shadow ? " or --drain is over" : "");
	be->parting_said = late ? 2 : 1;
	return late && r->shadow;
}

int backend_connect(struct relay *r)
{
	struct backend *be = &r->be;
	int rc = let_go(r) ? door_connect(&r->door) : -EBUSY;

	if (rc >= 0) {
		be->fd = rc;
		rc = meet(r);
		if (!rc)
			rc = replay(r);
		if (rc && be->fd >= 0)
			rc = unfit(r, "it refuses what the one before had accepted");
	} else if (!be->missed) {
		relay_log_peer("the backend cannot be reached (%s): trying again until it can",
			       strerror(-rc));
		be->missed = true;
	}
	if (rc) {
		be->retry = be->retry ? be->retry * 2 : RETRY_FIRST;
		if (be->retry > RETRY_MOST)
			be->retry = RETRY_MOST;
		be->retry_at = relay_now_ms() + be->retry;
		return rc;
	}
	if (be->missed)
		relay_log_peer("the backend is there");
	be->missed = be->unfit = false;
	be->retry = 0;
	be->came = relay_now_ms();
	return 0;
}

int backend_wait(struct relay *r)
{
	int64_t deadline = relay_now_ms() + WAIT_BACKEND;

	while (r->be.fd < 0 && !r->door.gone) {
		int64_t now = relay_now_ms(), pause = r->be.retry_at - now;

		if (pause <= 0) {
			if (backend_connect(r) && relay_now_ms() >= deadline)
				return -ENOTCONN;
			continue;
		}
		if (now >= deadline)
			return -ENOTCONN;
		poll(NULL, 0, (int)pause);
	}
	return r->be.fd < 0 ? -ENOTCONN : 0;
}
