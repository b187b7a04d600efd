/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * session.c - one front-end, from its first message to its last
 *
 * Theory of operation
 * -------------------
 * One loop waits for the front-end, the backend and the backend's own channel. A message of the
 * front-end is held against the policy (vu_table.c), its handler changes what the relay knows
 * (struct relay), and tells the backend what has to be told. In filter mode nothing here runs once for
 * each request of the guest: kicks and calls go from one peer to the other through the eventfds. In
 * shadow mode the loop takes turns with that of the queues (loop.c).
 *
 * A request that is refused gets an error if the front-end wanted an answer. Otherwise it is the
 * end of the session, since the front-end would go on in the belief that it had been done.
 *
 * Where the queues have threads of their own (threads.c), these go on while this one waits, and rest
 * while it does anything but giving statistics.
 *
 * While the backend is away, what the front-end says is kept and counts as done: the next backend
 * is told.
 *
 * When the front-end leaves, the rings are stopped and the backend's connection is closed, so that
 * it has given up the guest's memory before the next front-end is served.
 */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "ledger.h"
#include "log.h"
#include "session.h"
#include "shadow.h"

static int reply(struct relay *r, struct vu_msg *m)
{
	int rc;

	m->h.flags = VU_VERSION | VU_REPLY; /* some front-ends insist on exactly these */
	rc = vu_send(r->fe.fd, m, WAIT_MESSAGE);
	/* A front-end that has left is noticed at the next read. */
	return !rc || rc == -EPIPE || rc == -ECONNRESET ? ANSWERED : FATAL;
}

int session_reply(struct relay *r, struct vu_msg *m)
{
	m->nfds = 0;
	return reply(r, m);
}

int session_reply_fd(struct relay *r, struct vu_msg *m, int fd)
{
	int rc;

	m->fds[0] = fd;
	m->nfds = 1;
	rc = reply(r, m);
	m->nfds = 0;
	return rc;
}

int session_reply_u64(struct relay *r, uint32_t request, uint64_t value)
{
	struct vu_msg m;

	vu_set_u64(&m, request, value);
	return session_reply(r, &m);
}

/* Whether the backend did what it was told, or will be told when it is back. */
int session_told(int rc)
{
	return rc == -EREMOTEIO ? REFUSE : 0;
}

static int dispatch(struct relay *r, struct vu_msg *m)
{
	switch (m->h.request) {
	case VU_GET_FEATURES:
		return session_reply_u64(r, m->h.request, device_features(r));
	case VU_SET_FEATURES:
		return device_set_features(r, m);
	case VU_SET_OWNER:
		return device_set_owner(r, m);
	case VU_RESET_OWNER: /* deprecated: once meant "stop all rings" */
		setup_reset_kicks(r);
		return 0;
	case VU_RESET_DEVICE:
		return device_reset(r, m);
	case VU_SET_MEM_TABLE:
		return setup_mem_table(r, m);
	case VU_ADD_MEM_REG:
		return setup_add_region(r, m);
	case VU_REM_MEM_REG:
		return setup_rem_region(r, m);
	case VU_GET_MAX_MEM_SLOTS:
		return session_reply_u64(r, m->h.request, VU_MEM_SLOTS);
	case VU_SET_VRING_NUM:
		return setup_vring_num(r, m);
	case VU_SET_VRING_ADDR:
		return setup_vring_addr(r, m);
	case VU_SET_VRING_BASE:
		return setup_vring_base(r, m);
	case VU_GET_VRING_BASE:
		return setup_get_vring_base(r, m);
	case VU_SET_VRING_KICK:
	case VU_SET_VRING_CALL:
	case VU_SET_VRING_ERR:
		return setup_vring_fd(r, m);
	case VU_SET_VRING_ENABLE:
		return setup_vring_enable(r, m);
	case VU_GET_PROTOCOL_FEATURES:
		return session_reply_u64(r, m->h.request, device_protocol(r));
	case VU_SET_PROTOCOL_FEATURES:
		return device_set_protocol(r, m);
	case VU_GET_QUEUE_NUM:
		return device_queue_num(r, m);
	case VU_SEND_RARP:
	case VU_NET_SET_MTU:
		return device_net(r, m);
	case VU_SET_BACKEND_REQ_FD:
		return device_set_channel(r, m);
	case VU_SET_LOG_BASE:
		return dirty_set_base(r, m);
	case VU_SET_LOG_FD:
		return dirty_set_fd(r, m);
	case VU_GET_INFLIGHT_FD:
		return ledger_get(r, m);
	case VU_SET_INFLIGHT_FD:
		return ledger_set(r, m);
	case VU_GET_CONFIG:
		return device_get_config(r, m);
	case VU_SET_CONFIG:
		return device_set_config(r, m);
	case VU_SET_STATUS:
		return device_set_status(r, m);
	case VU_GET_STATUS:
		return device_get_status(r, m);
	default:
		return REFUSE; /* the policy lets no other pass */
	}
}

/* Takes one message and sees it through. Returns whether the session goes on, FATAL if it was
 * refused. */
static int serve_message(struct relay *r)
{
	struct vu_msg m;
	const char *why;
	uint32_t request;
	bool want_ack;
	int rc = vu_recv(r->fe.fd, &m, WAIT_MESSAGE);

	if (rc == -ENOTCONN)
		return 0;
	if (rc) {
		relay_log_peer("refused the front-end: %s", vu_recv_error(rc));
		return FATAL;
	}
	request = m.h.request;
	want_ack = (m.h.flags & VU_NEED_REPLY) && (r->fe.protocol & VU_BIT(VU_P_REPLY_ACK));
	m.h.flags = m.h.flags & ~VU_NEED_REPLY;
	if (vu_check(&m, r->fe.protocol, &why)) {
		relay_log_peer("refused %s (request %u) of the front-end: %s",
			       vu_rule(request)->name, request, why);
		rc = REFUSE;
	} else {
		rc = dispatch(r, &m);
	}
	vu_close_fds(&m);
	if (rc == FATAL)
		return FATAL;
	if (rc == ANSWERED || (rc == 0 && !want_ack))
		return ANSWERED;
	vu_set(&m, request);
	if (vu_rule(request)->replies && (request == VU_GET_CONFIG || !want_ack)) {
		/* Of the requests with an answer of their own only this one has an error. */
		return request == VU_GET_CONFIG ? session_reply(r, &m) : FATAL;
	}
	return want_ack ? session_reply_u64(r, request, rc ? 1 : 0) : FATAL;
}

/* Moves chains, or has them moved, and says whether there are more. */
static bool run_queues(struct relay *r)
{
	struct shadow *s = r->shadow;
	bool busy = false;

	if (s->nloops == 1) {
		busy = loop_run(&s->loops[0]);
		if (s->loops[0].trouble)
			loop_trouble(r);
		s->loops[0].trouble = false;
	} else if (!__atomic_load_n(&s->guest.gone, __ATOMIC_RELAXED)) {
		threads_release(s);
	}
	return busy;
}

/* What becomes readable when they have to be seen to. */
static int queues_fd(const struct shadow *s)
{
	return s->nloops == 1 ? s->loops[0].epoll : s->trouble_fd;
}

/* Something has happened but for statistics. */
static void queues_woke(struct relay *r, bool notified)
{
	struct shadow *s = r->shadow;
	uint64_t n;

	if (s->nloops == 1) {
		if (notified)
			loop_events(&s->loops[0], 0);
		return;
	}
	threads_hold(s);
	if (notified)
		(void)!read(s->trouble_fd, &n, sizeof(n));
	loop_trouble(r);
}

/* The shorter one of two pauses in milliseconds, of which each may be -1: none. */
static int64_t sooner(int64_t a, int64_t b)
{
	if (a < 0)
		return b;
	return b < 0 || a < b ? a : b;
}

static int serve(struct relay *r)
{
	for (;;) {
		bool busy = r->shadow && run_queues(r);
		struct pollfd p[6] = {
			{.fd = r->fe.fd, .events = POLLIN},
			{.fd = r->be.fd, .events = POLLIN},
			{.fd = r->be.channel, .events = POLLIN},
			{.fd = r->door.fd, .events = POLLIN},
			{.fd = r->shadow ? queues_fd(r->shadow) : -1, .events = POLLIN},
			{.fd = -1},
		};
		int stats = r->shadow ? stats_poll(r->shadow, &p[5]) : -1;
		int part = r->shadow ? pool_pause(r->shadow) : -1;
		int64_t pause = r->be.fd < 0 ? r->be.retry_at - relay_now_ms() : -1;
		int rc;

		if (r->shadow && __atomic_load_n(&r->shadow->guest.gone, __ATOMIC_RELAXED)) {
			relay_log("the front-end has made the file of the guest's memory shorter: "
				  "nothing can be relayed any more");
			return FATAL;
		}
		if (r->shadow && r->shadow->nloops == 1 && !busy && r->be.fd >= 0)
			pause = loop_pause(&r->shadow->loops[0]);

		if (r->be.fd < 0 && pause < 0)
			pause = 0;
		pause = busy ? 0 : sooner(pause, sooner(stats, part));
		if (poll(p, 6, (int)pause) < 0) {
			if (errno != EINTR)
				return FATAL;
			continue; /* what poll() has not filled in says nothing */
		}
		if (r->shadow && (p[0].revents || p[1].revents || p[2].revents || p[3].revents ||
				  p[4].revents || r->be.fd < 0))
			queues_woke(r, p[4].revents);
		if (p[5].revents || !stats)
			stats_serve(r->shadow);
		if (p[3].revents || r->door.gone) {
			/* It speaks only when asked. */
			r->door.gone = true;
			return FATAL;
		}
		if (p[1].revents && r->be.fd >= 0) {
			/* Nothing has been asked, so this is its end, or the end of trusting it. */
			backend_lost(r, p[1].revents & POLLHUP ? "it left"
							       : "it spoke without being asked");
			continue;
		}
		if (p[2].revents && r->be.channel >= 0)
			backchan_serve(r);
		if (r->be.fd < 0 && relay_now_ms() >= r->be.retry_at)
			backend_connect(r);
		if (r->shadow && !pool_pause(r->shadow)) {
			threads_hold(r->shadow);
			pool_see_to(r);
		}
		if (p[0].revents) {
			rc = serve_message(r);
			if (rc != ANSWERED)
				return rc;
		}
	}
}

void session_init(struct relay *r, struct share *shares, unsigned int nshares)
{
	memory_init(&r->mem, &r->door, shares, nshares);
	r->be.parting = -1;
	for (unsigned int i = 0; i < RING_MAX; i++)
		ring_init(&r->rings[i]);
}

int session_run(struct relay *r, int fd)
{
	const struct backend last = r->be;
	int rc;

	r->fe = (struct frontend){.fd = fd, .channel = -1};
	/* The memory may be the same, and be written to still. */
	r->be = (struct backend){
		.fd = -1,
		.channel = -1,
		.parting = last.parting,
		.parting_until = last.parting_until,
	};
	r->cache.config_valid = r->cache.queues_valid = false;
	if (backend_wait(r)) {
		if (!r->door.gone)
			relay_log("the backend does not come: start it, and see that its socket is "
				  "the one "
				  "given with --backend");
		rc = FATAL;
	} else {
		rc = serve(r);
	}
	if (r->shadow)
		threads_hold(r->shadow);
	/* After a refusal the backend goes first: it may be reaching what it must not. */
	if (rc == 0)
		setup_stop_all(r);
	backend_close(r);
	for (unsigned int i = 0; i < RING_MAX; i++)
		ring_reset(&r->rings[i]);
	memory_reset(&r->mem);
	if (r->shadow)
		shadow_session_end(r);
	if (r->fe.channel >= 0)
		close(r->fe.channel);
	close(r->fe.fd);
	if (r->door.gone) {
		relay_log("the helper process is gone, and nothing can be told apart without it: "
			  "start the relay again");
		return 1;
	}
	return rc == 0 ? 0 : 2;
}
