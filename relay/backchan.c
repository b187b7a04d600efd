/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * backchan.c - the requests that the backend makes by itself
 *
 * Theory of operation
 * -------------------
 * The channel of SET_BACKEND_REQ_FD turns the roles around: the backend asks, the front-end obeys.
 * What it may ask for is the way into the VMM: mapping an fd into the guest as device memory,
 * mapping or looking up shared objects. So the two ends are never joined. The backend gets a socket
 * of the relay's, and the only thing that goes on is CONFIG_CHANGE, a message without content, made
 * anew. Everything else is answered with an error where the backend wants an answer (the spec,
 * "Back-end message types"), and fds are dropped by the kernel before they are installed.
 *
 * CONFIG_CHANGE goes up without need_reply and is acknowledged here: a front-end that waits for the
 * backend at that moment would otherwise wait for ever. If the front-end does not read, it is
 * dropped; the next one says the same.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "state.h"

int backchan_open(struct relay *r)
{
	struct vu_msg m;
	int pair[2], rc;

	if (!(r->be.agreed & VU_BIT(VU_P_BACKEND_REQ)))
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		rc = -errno;
		relay_log("no channel for the backend's requests: it gets none, so the guest is "
			  "not told of changes of the device's configuration");
		return rc;
	}
	if (r->be.channel >= 0)
		close(r->be.channel);
	r->be.channel = pair[0];
	vu_set(&m, VU_SET_BACKEND_REQ_FD);
	m.fds[m.nfds++] = pair[1];
	rc = backend_tell(r, &m);
	close(pair[1]);
	return rc;
}

static uint64_t config_change(struct relay *r)
{
	struct vu_msg up;

	r->cache.config_valid = false;
	if (r->fe.channel < 0)
		return 1;
	vu_set(&up, VU_BACKEND_CONFIG_CHANGE);
	return vu_send(r->fe.channel, &up, 0) ? 1 : 0;
}

void backchan_serve(struct relay *r)
{
	struct vu_msg m;
	uint64_t result = 1;
	int rc = vu_recv_plain(r->be.channel, &m, WAIT_CHANNEL);

	if (rc) {
		if (rc != -ENOTCONN) {
			backend_lost(r, vu_recv_error(rc));
			return;
		}
		close(r->be.channel);
		r->be.channel = -1;
		return;
	}
	if (m.h.request == VU_BACKEND_CONFIG_CHANGE && !m.h.size && !m.dropped &&
	    !(m.h.flags & VU_REPLY))
		result = config_change(r);
	else
		relay_log_peer(
			"refused request %u of the backend (%u bytes%s): of its own requests "
			"only CONFIG_CHANGE reaches the front-end",
			m.h.request, m.h.size, m.dropped ? ", with files" : "");
	if (!(m.h.flags & VU_NEED_REPLY) || !(r->be.agreed & VU_BIT(VU_P_REPLY_ACK)))
		return;
	vu_set_u64(&m, m.h.request, result);
	m.h.flags |= VU_REPLY;
	rc = vu_send(r->be.channel, &m, WAIT_CHANNEL);
	if (rc)
		backend_lost(r, "it does not read the answers to its own requests");
}
