/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * front.c - the front-end of a relay under test: its messages, and what it does with several of them
 *
 * Theory of operation: tests/lib/peer.h.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "peer.h"

void fe_send(struct peers *rig, uint32_t request, uint32_t flags, const void *payload,
	     uint32_t size, const int *fds, unsigned int nfds)
{
	struct vu_msg m;

	vu_set(&m, request);
	m.h.flags |= flags;
	m.h.size = size;
	if (size)
		memcpy(&m.p, payload, size);
	for (unsigned int i = 0; i < nfds; i++)
		m.fds[m.nfds++] = fds[i];
	vu_send(rig->fe, &m, PEERS_WAIT_MS);
}

void fe_bytes(struct peers *rig, const void *bytes, size_t n)
{
	assert_int_equal(send(rig->fe, bytes, n, MSG_NOSIGNAL), n);
}

bool fe_recv(struct peers *rig, struct vu_msg *m)
{
	int rc = vu_recv(rig->fe, m, PEERS_WAIT_MS);

	if (rc == -ETIMEDOUT)
		fail_msg("the relay does not answer");
	return rc == 0;
}

bool fe_closed(struct peers *rig)
{
	struct vu_msg m;

	return !fe_recv(rig, &m);
}

int fe_ack(struct peers *rig, uint32_t request, const void *payload, uint32_t size, int fd)
{
	struct vu_msg m;

	fe_send(rig, request, VU_NEED_REPLY, payload, size, &fd, fd >= 0);
	if (!fe_recv(rig, &m))
		return -1;
	assert_int_equal(m.h.request, request);
	assert_int_equal(m.h.flags, VU_VERSION | VU_REPLY);
	assert_int_equal(m.h.size, 8);
	return (int)m.p.u64;
}

int fe_ack_u64(struct peers *rig, uint32_t request, uint64_t value, int fd)
{
	return fe_ack(rig, request, &value, sizeof(value), fd);
}

int fe_ack_state(struct peers *rig, uint32_t request, uint32_t index, uint32_t num)
{
	struct vu_vring_state s = {index, num};

	return fe_ack(rig, request, &s, sizeof(s), -1);
}

uint64_t fe_get(struct peers *rig, uint32_t request)
{
	struct vu_msg m;

	fe_send(rig, request, 0, NULL, 0, NULL, 0);
	assert_true(fe_recv(rig, &m));
	assert_int_equal(m.h.request, request);
	assert_int_equal(m.h.flags, VU_VERSION | VU_REPLY);
	assert_int_equal(m.h.size, 8);
	return m.p.u64;
}

void fe_hello(struct peers *rig)
{
	uint64_t features, protocol;

	features = fe_get(rig, VU_GET_FEATURES);
	protocol = fe_get(rig, VU_GET_PROTOCOL_FEATURES);
	fe_send(rig, VU_SET_PROTOCOL_FEATURES, 0, &protocol, 8, NULL, 0);
	assert_int_equal(fe_ack(rig, VU_SET_OWNER, NULL, 0, -1), 0);
	assert_int_equal(
		fe_ack_u64(rig, VU_SET_FEATURES, features & ~VU_BIT(VIRTIO_F_ACCESS_PLATFORM), -1),
		0);
}

int fe_region(struct peers *rig, uint32_t request, uint64_t gpa, uint64_t user, uint64_t size,
	      uint64_t offset, int fd)
{
	struct vu_mem_one one = {.region = {gpa, size, user, offset}};

	return fe_ack(rig, request, &one, sizeof(one), fd);
}

int fe_add_pool(struct peers *rig)
{
	return fe_region(rig, VU_ADD_MEM_REG, POOL_GPA, POOL_USER, POOL_BYTES, 0, rig->pool);
}

int fe_ring(struct peers *rig, uint32_t index, uint64_t user, uint32_t num)
{
	struct vu_vring_addr addr = {
		.index = index,
		.desc = user,
		.avail = user + RING_AVAIL(num),
		.used = user + RING_USED(num),
		.log = user,
	};

	assert_int_equal(fe_ack_u64(rig, VU_SET_VRING_CALL, index, rig->call), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_VRING_ERR, index, rig->err), 0);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_NUM, index, num), 0);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_BASE, index, 0), 0);
	assert_int_equal(fe_ack(rig, VU_SET_VRING_ADDR, &addr, sizeof(addr), -1), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_VRING_KICK, index, rig->kick), 0);
	return fe_ack_state(rig, VU_SET_VRING_ENABLE, index, 1);
}

uint32_t fe_get_base(struct peers *rig, uint32_t index)
{
	struct vu_vring_state s = {index, 0};
	struct vu_msg m;

	fe_send(rig, VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0);
	assert_true(fe_recv(rig, &m));
	assert_int_equal(m.h.request, VU_GET_VRING_BASE);
	assert_int_equal(m.p.state.index, index);
	return m.p.state.num;
}

void fe_stop_begin(struct peers *rig, uint32_t index)
{
	const struct vu_vring_state s = {index, 0};

	fe_send(rig, VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0);
}

bool fe_stop_answered(struct peers *rig, int ms)
{
	struct pollfd p = {.fd = rig->fe, .events = POLLIN};

	return poll(&p, 1, ms) > 0;
}

uint32_t fe_stop_end(struct peers *rig)
{
	struct vu_msg m;

	assert_true(fe_stop_answered(rig, 20000));
	assert_true(fe_recv(rig, &m));
	assert_int_equal(m.h.request, VU_GET_VRING_BASE);
	return m.p.state.num;
}

void fe_flood_log(struct peers *rig)
{
	for (int i = 0; i < 100; i++)
		assert_int_equal(fe_ack_state(rig, VU_SET_VRING_NUM, 1000, 1), 1);
}
