/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * drain.c - bringing a queue to rest before its ring is stopped
 *
 * Theory of operation
 * -------------------
 * GET_VRING_BASE asks a backend to finish what it has begun (the spec, "Suspended device state"),
 * but not all do: some answer at once and go on writing, and would write into slots that have new
 * owners. So the relay waits first until nothing is in flight, then asks, then compares.
 *
 * Some chains are never finished: a network device's empty receive buffers. The device has not even
 * looked at those, and with EVENT_IDX its event index says so; without, nothing happening for a
 * while has to do. The base that the backend answers with says it for certain: what lies behind it
 * has not been taken. If anything before it has not been used either, the backend is still at work
 * on it: its connection is given up, and with it the pool, so that what it goes on writing reaches
 * nobody.
 *
 * Each wait is bounded.
 */
#include <poll.h>

#include "log.h"
#include "shadow.h"
#include "state.h"

#define WAIT_QUIET   5000 /* ms for requests that the device has taken */
#define WAIT_NOTHING 100  /* ms without any progress, where that cannot be known */
#define WAIT_POLLED  1000 /* the same for a device that polls, and so leaves its event index alone */
#define WAIT_AFTER   1000 /* ms for what it finishes after it has answered */

/* Reaps until nothing is left that the device is known to work on. */
static void reap_until(struct queue *q, bool after, uint32_t base, int64_t bound)
{
	int64_t deadline = relay_now_ms() + bound, moved = relay_now_ms();

	while (q->back.busy && !q->shadow->backend_broke) {
		uint16_t before = q->back.busy;
		int64_t now;

		flow_reap_rest(q);
		now = relay_now_ms();
		if (q->back.busy != before)
			moved = now;
		if (now >= deadline)
			return;
		if (after ? driver_end_untaken(&q->back, base)
			  : driver_end_seems_untaken(&q->back, now - moved >= WAIT_NOTHING) ||
				    now - moved >= WAIT_POLLED)
			return;
		poll(NULL, 0, 1);
	}
}

bool drain_begin(struct queue *q)
{
	if (!q->back_on)
		return true;
	reap_until(q, false, 0, WAIT_QUIET);
	return !q->shadow->backend_broke;
}

bool drain_end(struct queue *q, uint32_t base)
{
	if (!q->back_on)
		return true;
	reap_until(q, true, base, WAIT_AFTER);
	return !q->shadow->backend_broke && driver_end_untaken(&q->back, base);
}
