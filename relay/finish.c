/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * finish.c - waiting for a backend that has answered for a ring and is still at work on it
 *
 * Theory of operation
 * -------------------
 * GET_VRING_BASE is to be answered when all that has been begun is finished (drain.c), and some backends answer at
 * once. What is still open shows in the ring, in mode shadow in the relay's own, in mode filter in the
 * guest's: so each mode brings a function that counts it. In between the backend's own requests are served,
 * and it is asked for something now and then, so that one which hangs altogether is given up for that.
 *
 * A front-end that has left waits for nothing, so the time is short then.
 */
#include <poll.h>

#include "log.h"
#include "state.h"

#define SAY_AFTER  5000 /* ms after which the log says what is waited for */
#define PING_EVERY 1000 /* ms in between: whether it is still there */

bool backend_finishes(struct relay *r, unsigned int index, uint32_t (*count)(void *), void *arg,
		      int64_t until)
{
	int64_t begin = relay_now_ms(), ping = begin + PING_EVERY;
	bool said = false;

	for (;;) {
		struct pollfd p = {.fd = r->be.channel, .events = POLLIN};
		/* Before the count: who has left has written all that it will. */
		bool left = vu_left(r->be.fd);
		uint32_t open = count(arg);
		int64_t now = relay_now_ms();

		if (!open)
			return true;
		if (left || now >= until || (now - begin >= WAIT_AFTER && vu_left(r->fe.fd)))
			return false;
		if (!said && now - begin >= SAY_AFTER) {
			said = true;
			relay_log_peer(
				"ring %u is to be stopped, and the backend is still at work on %u "
				"requests of it: the front-end waits for them, %d seconds at most. "
				"To end it sooner, see to the backend's storage, or kill the "
				"backend",
				index, open, (int)((until - now) / 1000));
		}
		if (poll(&p, 1, 1) > 0)
			backchan_serve(r);
		if (now >= ping) {
			backend_ping(r);
			ping = relay_now_ms() + PING_EVERY;
		}
	}
}

void backend_unfinished(struct relay *r, unsigned int index, uint32_t open)
{
	if (!vu_left(r->fe.fd))
		relay_log("ring %u is stopped, but the backend has not finished %u requests of it: "
			  "they are not given back, since another backend would run them beside "
			  "this one. If the ring is started here again, they go on; if the "
			  "guest goes on elsewhere, it waits for them until its driver resets "
			  "the device",
			  index, open);
}
