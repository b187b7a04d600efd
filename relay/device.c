/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * device.c - the front-end's other requests: features, configuration, status
 *
 * Theory of operation
 * -------------------
 * What is offered to the front-end is what the backend offers, less what would open a way around
 * the relay, plus what the relay does by itself:
 *   ACCESS_PLATFORM  added, and taken away again below: it makes the guest put its buffers where
 *		      its DMA layer says, and QEMU insists that the backend offers it
 *   LOG_ALL	      masked in filter mode: nobody tells the front-end which pages the backend writes,
 *		      so QEMU has to refuse live migration, and does. In shadow mode the relay does
 *   REPLY_ACK, CONFIGURE_MEM_SLOTS  always: the relay acknowledges and keeps the table by itself
 *   BACKEND_REQ     always: the channel ends at the relay (backchan.c), and QEMU 10 insists on it
 *		      where ACCESS_PLATFORM is offered; a backend without it has nothing to say
 *   other protocol features	     those of VU_P_PASSED only
 *
 * The configuration and the number of queues are kept, for when the backend is away.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "session.h"
#include "shadow.h"

uint64_t device_features(const struct relay *r)
{
	if (r->shadow)
		return shadow_features_up(r->be.features) | disk_features_up(r);
	return (r->be.features & ~VU_BIT(VHOST_F_LOG_ALL)) | VU_BIT(VIRTIO_F_ACCESS_PLATFORM);
}

uint64_t device_protocol(const struct relay *r)
{
	return (r->be.protocol & VU_P_PASSED) | VU_P_OWN | VU_BIT(VU_P_BACKEND_REQ) |
	       (r->shadow ? VU_P_SHADOW : 0);
}

static int outside(const char *what, uint64_t extra)
{
	relay_log_peer("refused %s: bits 0x%llx have not been offered", what,
		       (unsigned long long)extra);
	return REFUSE;
}

static int while_running(unsigned int index)
{
	relay_log_peer("refused SET_FEATURES: ring %u is running with other features", index);
	return REFUSE;
}

int device_set_features(struct relay *r, struct vu_msg *m)
{
	uint64_t extra = m->p.u64 & ~device_features(r), changed;

	if (extra)
		return outside("SET_FEATURES", extra);
	if (r->shadow)
		r->shadow->dirty.on = m->p.u64 & VU_BIT(VHOST_F_LOG_ALL);
	/* Logging is switched on and off while rings run; it is no business of the backend's. */
	changed = (m->p.u64 ^ r->fe.features) & ~VU_BIT(VHOST_F_LOG_ALL);
	for (unsigned int i = 0; i < RING_MAX; i++)
		if ((r->rings[i].live || r->rings[i].recover) && changed)
			return while_running(i);
	r->fe.features = m->p.u64;
	if (r->shadow && r->fe.features_set && !changed)
		return DONE;
	r->fe.features_set = true;
	if (backend_set_features(r) == -EREMOTEIO) {
		r->fe.features_set = false;
		return REFUSE;
	}
	return DONE;
}

int device_set_protocol(struct relay *r, struct vu_msg *m)
{
	uint64_t extra = m->p.u64 & ~device_protocol(r);

	if (extra)
		return outside("SET_PROTOCOL_FEATURES", extra);
	r->fe.protocol = m->p.u64;
	r->fe.protocol_set = true;
	return session_told(backend_agree(r));
}

int device_set_owner(struct relay *r, struct vu_msg *m)
{
	if (r->fe.owner)
		return 0;
	r->fe.owner = true;
	return session_told(backend_tell(r, m));
}

int device_set_channel(struct relay *r, struct vu_msg *m)
{
	int fd = vu_take_fd(m);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || !S_ISSOCK(st.st_mode)) {
		relay_log_peer("refused SET_BACKEND_REQ_FD: what came is not a socket");
		if (fd >= 0)
			close(fd);
		return REFUSE;
	}
	if (r->fe.channel >= 0)
		close(r->fe.channel);
	r->fe.channel = fd;
	return session_told(backchan_open(r));
}

int device_queue_num(struct relay *r, struct vu_msg *m)
{
	if (!r->cache.queues_valid) {
		if (backend_wait(r) || backend_ask(r, m, WAIT_MESSAGE))
			return REFUSE;
		if (m->h.size != sizeof(m->p.u64) || !m->p.u64) {
			relay_log_peer("the backend says it has no queues: refused");
			return REFUSE;
		}
		r->cache.queues = m->p.u64 < RING_MAX ? m->p.u64 : RING_MAX;
		r->cache.queues_valid = true;
	}
	return session_reply_u64(r, m->h.request, r->cache.queues);
}

static bool config_fits(const struct vu_msg *m)
{
	const struct vu_config *c = &m->p.config;

	return c->size <= VU_CONFIG_MAX && c->offset <= VU_CONFIG_MAX - c->size &&
	       m->h.size == VU_CONFIG_HEAD + c->size;
}

int device_get_config(struct relay *r, struct vu_msg *m)
{
	struct vu_msg ask = *m, *cached = &r->cache.config;
	int rc;

	if (!config_fits(m)) {
		relay_log_peer("refused GET_CONFIG: %u bytes at %u do not fit", m->p.config.size,
			       m->p.config.offset);
		return REFUSE;
	}
	if (r->be.fd < 0 && r->cache.config_valid &&
	    cached->p.config.offset == m->p.config.offset &&
	    cached->p.config.size == m->p.config.size) {
		*m = *cached;
		return session_reply(r, m);
	}
	ask.h.flags = VU_VERSION;
	/* What the front-end left where the answer will be is not for the backend's eyes. */
	memset(ask.p.config.region, 0, sizeof(ask.p.config.region));
	rc = backend_wait(r);
	if (!rc)
		rc = backend_ask(r, &ask, WAIT_MESSAGE);
	/* An answer without payload is the protocol's error. */
	if (rc || !config_fits(&ask) || ask.p.config.offset != m->p.config.offset ||
	    ask.p.config.size != m->p.config.size || disk_limit(r, &ask)) {
		m->h.size = 0;
		return session_reply(r, m);
	}
	r->cache.config = ask;
	r->cache.config_valid = true;
	*m = ask;
	return session_reply(r, m);
}

int device_set_config(struct relay *r, struct vu_msg *m)
{
	if (!config_fits(m)) {
		relay_log_peer("refused SET_CONFIG: %u bytes at %u do not fit", m->p.config.size,
			       m->p.config.offset);
		return REFUSE;
	}
	r->cache.config_valid = false;
	if (backend_wait(r))
		return REFUSE;
	return backend_tell(r, m) ? REFUSE : 0;
}

int device_set_status(struct relay *r, struct vu_msg *m)
{
	if (m->p.u64 > UINT8_MAX) {
		relay_log_peer("refused SET_STATUS: a device status has eight bits");
		return REFUSE;
	}
	if (!m->p.u64)
		setup_reset_kicks(r);
	r->fe.status = (uint8_t)m->p.u64;
	return session_told(backend_tell(r, m));
}

int device_get_status(struct relay *r, struct vu_msg *m)
{
	struct vu_msg ask = *m;

	if (backend_ask(r, &ask, WAIT_MESSAGE) || ask.h.size != sizeof(ask.p.u64))
		return session_reply_u64(r, m->h.request, r->fe.status);
	return session_reply_u64(r, m->h.request, ask.p.u64 & UINT8_MAX);
}

int device_net(struct relay *r, struct vu_msg *m)
{
	if (m->h.request == VU_NET_SET_MTU) {
		r->fe.mtu = m->p.u64;
		r->fe.mtu_set = true;
	}
	return session_told(backend_tell(r, m));
}

int device_reset(struct relay *r, struct vu_msg *m)
{
	setup_reset_all(r);
	return session_told(backend_tell(r, m));
}
