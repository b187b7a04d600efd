/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * drain.c - bringing a queue to rest before its ring is stopped
 *
 * Theory of operation
 * -------------------
 * GET_VRING_BASE has a backend finish what it has begun before it answers (the spec, on
 * VHOST_USER_GET_VRING_BASE and "Suspended device state"), because whoever is told the base may have the
 * requests behind it run by somebody else: by the backend on the host that the guest moves to. A
 * write that the old backend still has under way would land on top of what the guest writes there later,
 * and nobody would notice.
 *
 * Not all backends do that: some answer at once and go on working (qemu-storage-daemon 7.2). So the relay
 * waits a little, until nothing is in flight; then it asks; then it compares the base with what is in
 * flight, and waits again until all that lies before the base has been used. It does not want to be
 * notified of that: that backend has closed the call eventfd by then, and a notification is its end. If it came
 * to that all the same, it notices when it gets another message.
 *
 * Some chains are never finished: a network device's empty receive buffers. The device has not even
 * looked at those, and with EVENT_IDX its event index says so; without, nothing happening for a
 * while has to do. The base that the backend answers with says it for certain: what lies behind it
 * has not been taken.
 *
 * When the front-end asks for the base, all waits of one stop together are bounded by --drain: a backend must not be able to hold a VMM for
 * ever, which does nothing else while it waits. When the time is over, or if the connection had to be
 * given up before, the pool is gone, so that what the backend goes on writing there reaches nobody. But what it
 * goes on doing to its disk cannot be taken back. So the requests that it was given go back to the guest only
 * when it has let go of the connection (backend_parted()). Until then they stay with the relay, which
 * gives them to the next connection if the ring is started again here. A ring that is stopped for another
 * reason (its memory goes, the device is reset, the front-end has left) is started here or not at all: there
 * the time is short.
 */
#include <poll.h>

#include "log.h"
#include "shadow.h"
#include "state.h"

#define WAIT_QUIET   5000 /* ms for requests that the device has taken, before it is asked */
#define WAIT_NOTHING 100  /* ms without any progress, where that cannot be known */
#define WAIT_POLLED  1000 /* the same for a device that polls, and so leaves its event index alone */

/* Reaps until nothing is left that the device is known to work on before it is asked. */
static void reap_before(struct queue *q)
{
	int64_t deadline = relay_now_ms() + WAIT_QUIET, moved = relay_now_ms();

	while (q->back.busy && !q->shadow->backend_broke) {
		uint16_t before = q->back.busy;
		int64_t now;

		flow_reap_rest(q);
		now = relay_now_ms();
		if (q->back.busy != before)
			moved = now;
		if (now >= deadline || now - moved >= WAIT_POLLED ||
		    driver_end_seems_untaken(&q->back, now - moved >= WAIT_NOTHING))
			return;
		poll(NULL, 0, 1);
	}
}

/* What it is still at work on when it has answered: for backend_finishes(). */
struct answered {
	struct queue *q;
	uint32_t base;
};

static uint32_t open_requests(void *arg)
{
	const struct answered *a = arg;
	struct queue *q = a->q;

	if (q->back_on && !q->shadow->backend_broke)
		flow_reap_rest(q);
	if (!q->back_on || q->shadow->backend_broke || driver_end_untaken(&q->back, a->base))
		return 0;
	return q->back.busy;
}

static void stop(struct relay *r, struct queue *q, bool asked, int64_t until)
{
	struct answered a = {.q = q};
	struct shadow *s = r->shadow;
	int64_t left;
	struct vu_msg m;

	reap_before(q);
	if (s->backend_broke)
		return;
	vu_set(&m, VU_GET_VRING_BASE);
	m.h.size = sizeof(m.p.state);
	m.p.state = (struct vu_vring_state){.index = q->index};
	driver_end_quiet(&q->back);
	left = until - relay_now_ms();
	if (backend_ask(r, &m, left > WAIT_ASKED ? (int)left : WAIT_ASKED))
		return;
	r->rings[q->index].live = false;
	a.base = m.p.state.num;
	if (backend_finishes(r, q->index, open_requests, &a,
			     asked ? until : relay_now_ms() + WAIT_AFTER))
		return;
	if (vu_left(r->be.fd))
		backend_lost(r, "it left while a ring was being stopped");
	else
		s->backend_broke = "it answered GET_VRING_BASE and is still at work";
}

bool drain(struct relay *r, struct queue *q, bool asked)
{
	struct shadow *s = r->shadow;
	int64_t until = relay_now_ms() + (asked ? r->drain_ms : WAIT_DRAIN);

	if (r->rings[q->index].live && r->be.fd >= 0 && q->back_on)
		stop(r, q, asked, until);
	/* What it works on must not get slots back; and then all of the pool goes. */
	if (s->backend_broke)
		backend_lost(r, s->backend_broke);
	s->backend_broke = NULL;
	/* Its other rings have had the same time by then. */
	if (asked && r->be.parting >= 0 && r->be.parting_until > until)
		r->be.parting_until = until;
	return !q->nflights || backend_parted(r, asked ? until : 0);
}
