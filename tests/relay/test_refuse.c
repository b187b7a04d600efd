/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_refuse.c - what a front-end may not say
 *
 * Theory of operation: messages that are malformed, unknown, out of order or out of range. The
 * relay has to answer with an error where the protocol has one and end the session where it has
 * not; it must neither die nor pass anything of it on. Names begin with the guarantee
 * (THREAT-MODEL.md).
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "peer.h"

static void start(struct peers *rig)
{
	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, NULL);
	peers_connect(rig);
}

static void ready(struct peers *rig)
{
	start(rig);
	fe_hello(rig);
	assert_int_equal(fe_add_pool(rig), 0);
}

/* The relay is there and well, and serves a ring. */
static void still_serves(struct peers *rig)
{
	assert_int_equal(fe_ring(rig, 3, POOL_USER + 0x8000, 64), 0);
	assert_true(be_count(rig, VU_SET_VRING_KICK) > 0);
}

static unsigned int open_fds(pid_t pid)
{
	FILE *f = peers_proc(pid, "ls", "fd");
	unsigned int n = 0;
	char line[64];

	while (fgets(line, sizeof(line), f))
		n++;
	assert_int_equal(pclose(f), 0);
	return n;
}

static void g4_features_are_added_and_masked(void **state)
{
	struct peers *rig = *state;
	uint64_t features, protocol, told;

	start(rig);
	features = fe_get(rig, VU_GET_FEATURES);
	assert_int_equal(features, (QEMU_FEATURES | VU_BIT(VIRTIO_F_ACCESS_PLATFORM)) &
					   ~VU_BIT(VHOST_F_LOG_ALL));
	protocol = fe_get(rig, VU_GET_PROTOCOL_FEATURES);
	assert_int_equal(protocol, VU_BIT(VU_P_MQ) | VU_BIT(VU_P_REPLY_ACK) |
					   VU_BIT(VU_P_BACKEND_REQ) | VU_BIT(VU_P_CONFIG) |
					   VU_BIT(VU_P_MEM_SLOTS));
	fe_send(rig, VU_SET_PROTOCOL_FEATURES, 0, &protocol, 8, NULL, 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_FEATURES, features, -1), 0);
	memcpy(&told, be_last(rig, VU_SET_FEATURES)->payload, 8);
	assert_int_equal(told, QEMU_FEATURES & ~VU_BIT(VHOST_F_LOG_ALL));
	memcpy(&told, be_last(rig, VU_SET_PROTOCOL_FEATURES)->payload, 8);
	assert_int_equal(told, protocol);
	assert_int_equal(fe_get(rig, VU_GET_MAX_MEM_SLOTS), 509);
}

static void g4_reply_ack_is_there_for_a_backend_without(void **state)
{
	struct peers *rig = *state;

	rig->script->protocol = VU_BIT(VU_P_CONFIG);
	ready(rig);
	still_serves(rig);
	assert_int_equal(be_count(rig, VU_ADD_MEM_REG), 0);
	assert_int_equal(be_count(rig, VU_SET_MEM_TABLE), 1);
}

static void g4_features_not_offered_are_refused(void **state)
{
	struct peers *rig = *state;

	ready(rig);
	assert_int_equal(fe_ack_u64(rig, VU_SET_FEATURES, VU_BIT(VHOST_F_LOG_ALL), -1), 1);
	assert_int_equal(fe_ack_u64(rig, VU_SET_FEATURES, VU_BIT(60), -1), 1);
	assert_int_equal(fe_ack_u64(rig, VU_SET_PROTOCOL_FEATURES, VU_BIT(12) | VU_BIT(3), -1), 1);
	assert_true(peers_logged(rig, "have not been offered"));
	still_serves(rig);
}

/* Every request number, known or not, with a payload and an fd that it does not expect. */
static void g4_masked_and_unknown_requests_are_refused(void **state)
{
	static const uint8_t masked[] = {6,  7,	 22, 23, 26, 27, 28, 29, 30, 31, 32, 33,
					 35, 41, 42, 43, 44, 45, 46, 47, 99, 0,	 255};
	uint8_t payload[64] = {0};
	struct peers *rig = *state;
	unsigned int before, fds;

	ready(rig);
	before = rig->script->n;
	fds = open_fds(rig->relay);
	for (size_t i = 0; i < sizeof(masked); i++)
		for (unsigned int size = 0; size <= sizeof(payload); size += 8) {
			assert_int_equal(fe_ack(rig, masked[i], payload, size, rig->ram), 1);
			assert_int_equal(fe_ack(rig, masked[i], payload, size, -1), 1);
		}
	assert_int_equal(rig->script->n, before);
	assert_int_equal(open_fds(rig->relay), fds);
	assert_true(peers_logged(rig, "refused SET_LOG_BASE"));
	still_serves(rig);
}

static void g6_refusal_without_an_answer_ends_the_session(void **state)
{
	struct peers *rig = *state;

	ready(rig);
	fe_send(rig, 33, 0, NULL, 0, &rig->ram, 1);
	assert_true(fe_closed(rig));
	assert_int_equal(peers_status(rig), 2);
	assert_true(peers_logged(rig, "refused GPU_SET_SOCKET"));
}

static void g4_wrong_sizes_are_refused(void **state)
{
	uint8_t payload[256] = {0};
	struct peers *rig = *state;

	ready(rig);
	for (uint32_t request = 2; request < VU_REQUESTS; request++)
		for (uint32_t size = 1; size < 64; size++)
			if (size % 8 && request != VU_SET_CONFIG && request != VU_GET_CONFIG)
				assert_int_equal(fe_ack(rig, request, payload, size, -1), 1);
	still_serves(rig);
}

static void broken_stream(struct peers *rig, const void *bytes, size_t n, const char *why)
{
	ready(rig);
	fe_bytes(rig, bytes, n);
	if (!strcmp(why, "not a vhost-user message"))
		shutdown(rig->fe, SHUT_WR);
	assert_true(fe_closed(rig));
	assert_int_equal(peers_status(rig), 2);
	assert_true(peers_logged(rig, why));
}

static void g4_oversized_message_ends_the_session(void **state)
{
	const struct vu_header h = {VU_SET_MEM_TABLE, VU_VERSION, 0x10000000};

	broken_stream(*state, &h, sizeof(h), "longer than any that is known");
}

static void g4_wrong_version_ends_the_session(void **state)
{
	const struct vu_header h = {VU_GET_FEATURES, 2, 0};

	broken_stream(*state, &h, sizeof(h), "not a vhost-user message");
}

static void g4_truncated_header_ends_the_session(void **state)
{
	broken_stream(*state, "\1\0\0\0\1", 5, "not a vhost-user message");
}

static void g4_truncated_payload_ends_the_session(void **state)
{
	const uint32_t m[] = {VU_SET_FEATURES, VU_VERSION, 8, 0};

	broken_stream(*state, m, sizeof(m), "not a vhost-user message");
}

static void g5_half_a_message_does_not_hold_the_relay_for_ever(void **state)
{
	struct peers *rig = *state;

	ready(rig);
	fe_bytes(rig, "\1\0\0\0\1", 5);
	assert_true(fe_closed(rig));
	assert_int_equal(peers_status(rig), 2);
	assert_true(peers_logged(rig, "did not finish a message in time"));
}

static void g4_reply_as_a_request_is_refused(void **state)
{
	struct peers *rig = *state;

	ready(rig);
	fe_send(rig, VU_GET_FEATURES, VU_REPLY, NULL, 0, NULL, 0);
	assert_true(fe_closed(rig));
	assert_int_equal(peers_status(rig), 2);
}

static void send_many_fds(struct peers *rig, unsigned int n)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(64 * sizeof(int))];
	} control = {0};
	struct vu_header h = {VU_SET_MEM_TABLE, VU_VERSION, 0};
	struct iovec iov = {&h, sizeof(h)};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = CMSG_SPACE(n * sizeof(int)),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	for (unsigned int i = 0; i < n; i++)
		memcpy(CMSG_DATA(c) + i * sizeof(int), &rig->ram, sizeof(int));
	assert_int_equal(sendmsg(rig->fe, &msg, 0), sizeof(h));
}

static void g4_too_many_fds_end_the_session_and_are_closed(void **state)
{
	static const unsigned int numbers[] = {9, 10, 64};
	struct peers *rig = *state;
	unsigned int fds = 0;

	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, "--keep", NULL);
	for (size_t i = 0; i < 3; i++) {
		peers_connect(rig);
		fe_hello(rig);
		if (!fds)
			fds = open_fds(rig->relay);
		send_many_fds(rig, numbers[i]);
		assert_true(fe_closed(rig));
	}
	peers_connect(rig);
	fe_hello(rig);
	assert_int_equal(open_fds(rig->relay), fds);
	assert_true(peers_logged(rig, "more file descriptors than a message may carry"));
}

static void g1_only_eventfds_pass_as_eventfds(void **state)
{
	struct peers *rig = *state;
	int fds[2];

	ready(rig);
	assert_int_equal(pipe(fds), 0);
	for (uint32_t request = VU_SET_VRING_KICK; request <= VU_SET_VRING_ERR; request++) {
		assert_int_equal(fe_ack_u64(rig, request, 0, rig->ram), 1);
		assert_int_equal(fe_ack_u64(rig, request, 0, fds[0]), 1);
		assert_int_equal(fe_ack_u64(rig, request, 0, -1), 1);
		assert_int_equal(fe_ack_u64(rig, request, VU_VRING_NOFD, rig->kick), 1);
		assert_int_equal(fe_ack_u64(rig, request, 0x10000, rig->kick), 1);
	}
	assert_true(peers_logged(rig, "what came is not an eventfd"));
	still_serves(rig);
	assert_false(be_saw_file(rig, rig->ram));
	close(fds[0]);
	close(fds[1]);
}

static void g4_ring_numbers_are_checked(void **state)
{
	static const uint32_t sizes[] = {0, 3, 100, 32769, 65536, UINT32_MAX};
	struct peers *rig = *state;
	struct vu_vring_addr addr = {.index = 256};

	ready(rig);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		assert_int_equal(fe_ack_state(rig, VU_SET_VRING_NUM, 0, sizes[i]), 1);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_NUM, 256, 64), 1);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_NUM, UINT32_MAX, 64), 1);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_BASE, 256, 0), 1);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_BASE, 0, 65536), 1);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_ENABLE, 256, 1), 1);
	assert_int_equal(fe_ack_state(rig, VU_GET_VRING_BASE, 256, 1), 1);
	assert_int_equal(fe_ack(rig, VU_SET_VRING_ADDR, &addr, sizeof(addr), -1), 1);
	still_serves(rig);
	/* Of a running ring nothing may change. */
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_NUM, 3, 128), 1);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_BASE, 3, 1), 1);
	addr.index = 3;
	assert_int_equal(fe_ack(rig, VU_SET_VRING_ADDR, &addr, sizeof(addr), -1), 1);
	assert_int_equal(fe_ack_u64(rig, VU_SET_FEATURES, VU_BIT(32), -1), 1);
}

static void g6_ring_outside_the_pool_is_refused_and_can_come_again(void **state)
{
	struct peers *rig = *state;
	uint64_t n = 0;

	ready(rig);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, 0, RAM_USER, 0xa0000, 0, rig->ram), 0);
	assert_int_equal(fe_ring(rig, 0, RAM_USER + 0x1000, 128), 0);
	assert_true(peers_logged(rig, "refused to start ring 0"));
	assert_int_equal(read(rig->err, &n, sizeof(n)), 8);
	assert_int_equal(be_count(rig, VU_SET_VRING_ADDR), 0);
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 0);
	assert_int_equal(be_count(rig, VU_SET_VRING_CALL), 0);
	assert_int_equal(be_count(rig, VU_SET_VRING_ENABLE), 0);
	assert_int_equal(fe_get_base(rig, 0), 0);
	assert_int_equal(be_count(rig, VU_GET_VRING_BASE), 0);
	/* The driver comes along. */
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 128), 0);
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 1);
	assert_true(be_count(rig, VU_SET_VRING_ENABLE) > 0);
}

static void g1_ring_over_the_edge_of_the_pool_is_refused(void **state)
{
	const uint32_t num = 128, bytes = RING_USED(num) + 4 + 8 * num + 2;
	struct peers *rig = *state;

	ready(rig);
	/* With its last byte outside, with its first byte outside, wrapping, misaligned. */
	assert_int_equal(fe_ring(rig, 0, POOL_USER + ((POOL_BYTES - bytes) & ~15u) + 16, num), 0);
	assert_int_equal(fe_ring(rig, 1, POOL_USER - 16, num), 0);
	assert_int_equal(fe_ring(rig, 2, UINT64_MAX - 4095, num), 0);
	assert_int_equal(fe_ring(rig, 4, POOL_USER + 8, num), 0);
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 0);
	assert_int_equal(fe_ring(rig, 5, POOL_USER + ((POOL_BYTES - bytes) & ~15u), num), 0);
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 1);
}

static void g5_setup_may_come_in_any_order(void **state)
{
	struct peers *rig = *state;
	struct vu_vring_addr addr = {
		.desc = POOL_USER,
		.avail = POOL_USER + RING_AVAIL(64),
		.used = POOL_USER + RING_USED(64),
	};
	const struct seen *s;

	start(rig);
	fe_hello(rig);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_VRING_KICK, 0, rig->kick), 0);
	assert_int_equal(fe_ack(rig, VU_SET_VRING_ADDR, &addr, sizeof(addr), -1), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_VRING_CALL, 0, rig->call), 0);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_BASE, 0, 0), 0);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_NUM, 0, 64), 0);
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 0);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 1);
	/* In the backend's order all the same. */
	s = be_last(rig, VU_SET_VRING_NUM);
	assert_true(be_last(rig, VU_ADD_MEM_REG) < s);
	assert_true(s < be_last(rig, VU_SET_VRING_BASE));
	assert_true(s < be_last(rig, VU_SET_VRING_ADDR));
	assert_true(be_last(rig, VU_SET_VRING_CALL) < be_last(rig, VU_SET_VRING_KICK));
	assert_true(be_last(rig, VU_SET_VRING_KICK) < be_last(rig, VU_SET_VRING_ENABLE));
}

static void g2_config_request_carries_nothing_down(void **state)
{
	struct vu_config c = {.size = 60};
	struct peers *rig = *state;
	struct vu_msg m;

	ready(rig);
	memset(c.region, 0xee, sizeof(c.region)); /* the front-end's stack, say */
	fe_send(rig, VU_GET_CONFIG, VU_NEED_REPLY, &c, VU_CONFIG_HEAD + 60, NULL, 0);
	assert_true(fe_recv(rig, &m));
	assert_int_equal(m.h.size, VU_CONFIG_HEAD + 60);
	assert_int_equal(m.p.config.region[0], 0x5a);
	assert_false(be_saw_bytes(rig, "\xee\xee\xee", 3));
	/* Sizes that do not fit get the protocol's error. */
	c.size = 300;
	fe_send(rig, VU_GET_CONFIG, 0, &c, VU_CONFIG_HEAD + 60, NULL, 0);
	assert_true(fe_recv(rig, &m));
	assert_int_equal(m.h.size, 0);
	c.offset = UINT32_MAX;
	c.size = 60;
	assert_int_equal(fe_ack(rig, VU_SET_CONFIG, &c, VU_CONFIG_HEAD + 60, -1), 1);
	still_serves(rig);
}

static void g4_random_messages_do_no_harm(void **state)
{
	struct peers *rig = *state;
	uint8_t payload[sizeof(((struct vu_msg *)NULL)->p)];
	uint64_t seed = 0x5eed;
	unsigned int fds = 0;

	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, "--keep", NULL);
	peers_connect(rig);
	fe_hello(rig);
	fds = open_fds(rig->relay);
	for (int i = 0; i < 3000; i++) {
		uint32_t size, request;
		int fd[8], nfds;

		for (size_t j = 0; j < sizeof(payload); j++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			payload[j] = seed >> 56 < 128 ? 0 : (uint8_t)(seed >> 40);
		}
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		request = (uint32_t)(seed >> 33) % 48;
		size = (seed >> 20) % 2 ? vu_rule(request)->size_min
					: (uint32_t)(seed >> 22) % sizeof(payload);
		nfds = (int)(seed >> 60) % 4;
		for (int j = 0; j < nfds; j++)
			fd[j] = (seed >> j) % 2 ? rig->ram : rig->kick;
		fe_send(rig, request, (uint32_t)(seed >> 50) % 2 ? VU_NEED_REPLY : 0, payload, size,
			fd, (unsigned int)nfds);
		if (i % 20 == 19) {
			peers_connect(rig);
			fe_hello(rig);
		}
	}
	peers_connect(rig);
	fe_hello(rig);
	assert_int_equal(open_fds(rig->relay), fds);
	assert_false(be_saw_file(rig, rig->ram));
}

static int run(struct peers *rig, const char *a, const char *b)
{
	peers_relay(rig, a, b, NULL);
	return peers_status(rig);
}

static void g6_wrong_usage_is_named(void **state)
{
	static const char *const wrong[][3] = {
		{"--mode", "iommu", "filter and shadow, not yet: iommu"},
		{"--mode", "all", "not a mode, it has to be filter or shadow: all"},
		{"--depth", "3", "unknown option: --depth"},
		{"--threads", "3", "are for --mode shadow"},
		{"--threads", "0", "--threads wants a number from 1 to 64: 0"},
		{"--threads", "65", "--threads wants a number from 1 to 64: 65"},
		{"--threads", "-1", "--threads wants a number from 1 to 64: -1"},
		{"--threads", "2x", "--threads wants a number from 1 to 64: 2x"},
		{"--threads", "", "--threads wants a number from 1 to 64: "},
		{"--poll", "3", "are for --mode shadow"},
		{"--poll", "soon", "--poll wants microseconds"},
		{"--pool-size", "3M", "--pool-size wants a multiple of 2M"},
		{"--pool-max", "8G", "--pool-max wants a multiple of 2M, up to 4G"},
		{"--share", "memfd:", "--share memfd: wants a name"},
		{"--share", "", "--share wants a path"},
		{"more", NULL, "unexpected argument: more"},
		{"--share", NULL, "an argument is missing after: --share"},
		{"--listen", "/nowhere/at/all", "cannot listen on /nowhere/at/all"},
	};
	struct peers *rig = *state;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(run(rig, wrong[i][0], wrong[i][1]), 1);
		assert_true(peers_logged(rig, wrong[i][2]));
		unlink(rig->log);
	}
	/* What two options have to do with each other. */
	peers_relay(rig, "--mode", "shadow", "--hugetlb", "--pool-max", "4G", NULL);
	assert_int_equal(peers_status(rig), 1);
	assert_true(peers_logged(rig, "a pool on huge pages grows to 4082M at most"));
	unlink(rig->log);
	peers_relay(rig, "--mode", "shadow", "--pool-size", "4M", "--pool-max", "2M", NULL);
	assert_int_equal(peers_status(rig), 1);
	assert_true(peers_logged(rig, "--pool-max is less than --pool-size"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, peers_setup, peers_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(g4_features_are_added_and_masked),
		T(g4_reply_ack_is_there_for_a_backend_without),
		T(g4_features_not_offered_are_refused),
		T(g4_masked_and_unknown_requests_are_refused),
		T(g6_refusal_without_an_answer_ends_the_session),
		T(g4_wrong_sizes_are_refused),
		T(g4_oversized_message_ends_the_session),
		T(g4_wrong_version_ends_the_session),
		T(g4_truncated_header_ends_the_session),
		T(g4_truncated_payload_ends_the_session),
		T(g5_half_a_message_does_not_hold_the_relay_for_ever),
		T(g4_reply_as_a_request_is_refused),
		T(g4_too_many_fds_end_the_session_and_are_closed),
		T(g1_only_eventfds_pass_as_eventfds),
		T(g4_ring_numbers_are_checked),
		T(g6_ring_outside_the_pool_is_refused_and_can_come_again),
		T(g1_ring_over_the_edge_of_the_pool_is_refused),
		T(g5_setup_may_come_in_any_order),
		T(g2_config_request_carries_nothing_down),
		T(g4_random_messages_do_no_harm),
		T(g6_wrong_usage_is_named),
	};

	return cmocka_run_group_tests_name("relay refusals", tests, NULL, NULL);
}
