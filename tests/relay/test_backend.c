/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_backend.c - backends that misbehave, leave and come back
 *
 * Theory of operation: the scripted backend abuses its channel, answers wrongly or not at all, and
 * is killed while requests are open. Driver and device of the ring are played by the test, in the
 * pool's memory, so that it knows exactly what was open. Names begin with the guarantee
 * (THREAT-MODEL.md).
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "peer.h"

#define NUM 8u

static void start(struct peers *rig)
{
	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, NULL);
	peers_connect(rig);
	fe_hello(rig);
	assert_int_equal(fe_add_pool(rig), 0);
}

/* The driver's half and the device's half of the ring at the start of the pool. */
static uint16_t *avail(struct peers *rig)
{
	return (uint16_t *)(void *)(rig->mem + RING_AVAIL(NUM));
}

static void make_available(struct peers *rig, uint16_t head)
{
	uint16_t *a = avail(rig);

	a[2 + a[1] % NUM] = head;
	a[1]++;
}

static void use(struct peers *rig, uint16_t head)
{
	uint16_t *idx = (uint16_t *)(void *)(rig->mem + RING_USED(NUM) + 2);
	uint32_t *ring = (uint32_t *)(void *)(rig->mem + RING_USED(NUM) + 4);

	ring[2 * (*idx % NUM)] = head;
	ring[2 * (*idx % NUM) + 1] = 1;
	++*idx;
}

static void go(struct peers *rig)
{
	assert_int_equal(fe_ring(rig, 0, POOL_USER, NUM), 0);
}

static uint64_t drain(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static uint32_t told_base(struct peers *rig)
{
	struct vu_vring_state s;

	memcpy(&s, be_last(rig, VU_SET_VRING_BASE)->payload, sizeof(s));
	return s.num;
}

static void g5_open_requests_survive_a_killed_backend(void **state)
{
	struct peers *rig = *state;
	uint16_t *a = avail(rig);

	start(rig);
	go(rig);
	for (uint16_t i = 0; i < 6; i++)
		make_available(rig, i);
	use(rig, 3);
	use(rig, 0);
	use(rig, 5);
	peers_backend_kill(rig);
	peers_wait_log(rig, "the backend is away");
	make_available(rig, 3); /* the driver goes on meanwhile */
	drain(rig->kick);
	drain(rig->call);
	peers_backend_start(rig);
	be_wait(rig, VU_SET_VRING_ENABLE, 3);
	peers_wait_log(rig, "left 4 requests undone");
	/* 1, 2, 4 and 3 are open, in that order. */
	assert_int_equal(told_base(rig), 3);
	assert_int_equal(a[1], 7);
	assert_int_equal(a[2 + 3], 1);
	assert_int_equal(a[2 + 4], 2);
	assert_int_equal(a[2 + 5], 4);
	assert_int_equal(a[2 + 6], 3);
	/* All of the session is there again, and both sides are woken. */
	assert_int_equal(be_count(rig, VU_SET_OWNER), 2);
	assert_int_equal(be_count(rig, VU_SET_FEATURES), 2);
	assert_int_equal(be_count(rig, VU_ADD_MEM_REG), 2);
	assert_int_equal(fe_get(rig, VU_GET_PROTOCOL_FEATURES) != 0, 1);
	assert_true(drain(rig->kick) > 0);
	assert_true(drain(rig->call) > 0);
}

/* A backend may have taken the kick that came before, and forgotten it. */
static void g5_a_ring_that_is_enabled_later_is_kicked(void **state)
{
	struct peers *rig = *state;

	start(rig);
	go(rig);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_ENABLE, 0, 0), 0);
	make_available(rig, 0);
	drain(rig->kick);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_ENABLE, 0, 1), 0);
	assert_true(drain(rig->kick) > 0);
}

static void g5_a_second_death_is_survived_too(void **state)
{
	struct peers *rig = *state;
	uint16_t *a = avail(rig);

	start(rig);
	go(rig);
	for (uint16_t i = 0; i < 4; i++)
		make_available(rig, i);
	use(rig, 2);
	peers_backend_kill(rig);
	peers_backend_start(rig);
	be_wait(rig, VU_SET_VRING_ENABLE, 3);
	use(rig, 3);
	make_available(rig, 2);
	peers_backend_kill(rig);
	peers_backend_start(rig);
	be_wait(rig, VU_SET_VRING_ENABLE, 4);
	assert_int_equal(told_base(rig), 2);
	assert_int_equal(a[2 + 2], 0);
	assert_int_equal(a[2 + 3], 1);
	assert_int_equal(a[2 + 4], 2);
}

/* A request that kills each backend that sees it: said once, and served when it can be. */
static void g5_a_backend_that_always_leaves_is_reported(void **state)
{
	struct peers *rig = *state;

	start(rig);
	go(rig);
	make_available(rig, 0);
	/* On a busy machine one or the other may have been there for too long to count. */
	for (unsigned int n = 0; !peers_logged(rig, "as soon as it had come"); n++) {
		assert_true(n < 60);
		peers_backend_kill(rig);
		peers_backend_start(rig);
		be_wait(rig, VU_SET_VRING_ENABLE, n + 3);
	}
	assert_true(peers_logged(rig, "left 5 times running as soon as it had come"));
	assert_int_equal(fe_get(rig, VU_GET_PROTOCOL_FEATURES) != 0, 1);
}

static void g5_what_cannot_be_told_is_not_guessed(void **state)
{
	struct peers *rig = *state;

	start(rig);
	go(rig);
	/* 0 is open all the time, and its entry is overwritten; 1 to 3 come and go. Memory looks
	 * the same as if 0 had been done long ago and the last one were open. */
	*(uint64_t *)(void *)rig->mem = POOL_GPA + 8192; /* descriptor 0 is in use */
	*(uint32_t *)(void *)(rig->mem + 8) = 512;
	make_available(rig, 0);
	for (uint16_t i = 0; i < 20; i++) {
		make_available(rig, 1);
		use(rig, 1);
	}
	drain(rig->err);
	peers_backend_kill(rig);
	peers_backend_start(rig);
	peers_wait_log(rig, "ring 0 stays stopped");
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 1);
	assert_true(drain(rig->err) > 0);
	/* It stops where nothing is run twice, and can be set up anew. */
	assert_int_equal(fe_get_base(rig, 0), 21);
	memset(rig->mem, 0, 4096);
	go(rig);
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 2);
}

static void g4_ring_full_of_nonsense_is_not_believed(void **state)
{
	struct peers *rig = *state;

	start(rig);
	go(rig);
	avail(rig)[1] = 5;
	for (int i = 0; i < 8; i++)
		avail(rig)[2 + i] = 0xfff0;
	peers_backend_kill(rig);
	peers_backend_start(rig);
	peers_wait_log(rig, "into the avail ring that does not exist");
	avail(rig)[1] = 0x8000;
	assert_int_equal(fe_get_base(rig, 0), 5);
	go(rig);
	peers_backend_kill(rig);
	peers_backend_start(rig);
	peers_wait_log(rig, "further apart than it has entries");
}

static void g5_truncated_pool_does_not_kill_the_relay(void **state)
{
	struct peers *rig = *state;

	start(rig);
	go(rig);
	make_available(rig, 0);
	assert_int_equal(ftruncate(rig->pool, 0), 0);
	peers_backend_kill(rig);
	peers_backend_start(rig);
	peers_wait_log(rig, "cannot be read or written any more");
	assert_int_equal(fe_get(rig, VU_GET_MAX_MEM_SLOTS), 509);
}

static void g5_front_end_is_served_while_the_backend_is_away(void **state)
{
	struct vu_config c = {.size = 60};
	struct peers *rig = *state;
	struct vu_msg m;

	start(rig);
	go(rig);
	assert_int_equal(fe_get(rig, VU_GET_QUEUE_NUM), 4);
	fe_send(rig, VU_GET_CONFIG, 0, &c, VU_CONFIG_HEAD + 60, NULL, 0);
	assert_true(fe_recv(rig, &m));
	make_available(rig, 0);
	make_available(rig, 1);
	use(rig, 1);
	peers_backend_kill(rig);
	peers_wait_log(rig, "the backend is away");
	assert_int_equal(fe_get(rig, VU_GET_QUEUE_NUM), 4);
	fe_send(rig, VU_GET_CONFIG, 0, &c, VU_CONFIG_HEAD + 60, NULL, 0);
	assert_true(fe_recv(rig, &m));
	assert_int_equal(m.p.config.region[59], 0x5a);
	assert_int_equal(fe_get_base(rig, 0), 1);
	assert_int_equal(avail(rig)[2 + 1], 0);
	assert_int_equal(fe_ring(rig, 1, POOL_USER + 0x8000, NUM), 0);
	peers_backend_start(rig);
	/* Ring 0 was stopped meanwhile, ring 1 started. */
	be_wait(rig, VU_SET_VRING_ENABLE, 3);
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 2);
	assert_int_equal(be_last(rig, VU_SET_VRING_KICK)->payload[0], 1);
}

static void g5_backend_may_come_late(void **state)
{
	struct peers *rig = *state;

	peers_relay(rig, "--share", rig->pool_path, NULL);
	peers_connect(rig);
	fe_send(rig, VU_GET_FEATURES, 0, NULL, 0, NULL, 0);
	peers_wait_log(rig, "cannot be reached");
	peers_backend_start(rig);
	assert_false(fe_closed(rig));
	fe_hello(rig);
}

static void g6_backend_that_never_comes_is_reported(void **state)
{
	struct peers *rig = *state;

	peers_relay(rig, "--share", rig->pool_path, NULL);
	peers_connect(rig);
	assert_true(fe_closed(rig));
	assert_int_equal(peers_status(rig), 2);
	assert_true(peers_logged(rig, "the backend does not come"));
}

static void g6_backend_that_lost_a_feature_is_not_used(void **state)
{
	struct peers *rig = *state;

	start(rig);
	go(rig);
	peers_backend_kill(rig);
	rig->script->features &= ~VU_BIT(VIRTIO_F_EVENT_IDX);
	peers_backend_start(rig);
	peers_wait_log(rig, "lacks features that the guest uses");
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 1);
	rig->script->features |= VU_BIT(VIRTIO_F_EVENT_IDX);
	be_wait(rig, VU_SET_VRING_KICK, 2);
}

static void g5_silent_backend_is_given_up(void **state)
{
	struct peers *rig = *state;

	start(rig);
	rig->script->mute = VU_SET_VRING_ADDR;
	go(rig);
	assert_true(peers_logged(rig, "has not answered SET_VRING_ADDR for 10 seconds"));
	rig->script->mute = 0;
	be_wait(rig, VU_SET_VRING_ENABLE, 1);
}

static void g4_backend_that_answers_wrongly_is_given_up(void **state)
{
	struct peers *rig = *state;

	start(rig);
	rig->script->base = 0x10000;
	go(rig);
	assert_int_equal(fe_get_base(rig, 0), 0);
	assert_true(peers_logged(rig, "with a base that is none"));
	rig->script->base = 0;
	rig->script->short_reply = VU_GET_QUEUE_NUM;
	fe_send(rig, VU_GET_QUEUE_NUM, VU_NEED_REPLY, NULL, 0, NULL, 0);
	assert_false(fe_closed(rig));
}

static void g6_refused_ring_setup_is_reported(void **state)
{
	struct peers *rig = *state;

	start(rig);
	rig->script->nack = VU_SET_VRING_ADDR;
	go(rig);
	assert_true(peers_logged(rig, "the backend refused SET_VRING_ADDR"));
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 0);
	assert_true(drain(rig->err) > 0);
}

static void with_channel(struct peers *rig, uint32_t request, uint32_t fds, int channel[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), 0);
	rig->script->channel_request = request;
	rig->script->channel_fds = fds;
	start(rig);
	assert_int_equal(fe_ack(rig, VU_SET_BACKEND_REQ_FD, NULL, 0, channel[1]), 0);
	close(channel[1]);
	go(rig);
	for (int i = 0; i < 12000 && rig->script->channel_result < 0; i++)
		poll(NULL, 0, 5);
}

static void g1_config_change_is_all_that_reaches_the_front_end(void **state)
{
	struct peers *rig = *state;
	struct vu_msg m;
	int channel[2];

	with_channel(rig, VU_BACKEND_CONFIG_CHANGE, 0, channel);
	assert_int_equal(rig->script->channel_result, 0);
	assert_int_equal(vu_recv(channel[0], &m, 10000), 0);
	assert_int_equal(m.h.request, VU_BACKEND_CONFIG_CHANGE);
	assert_int_equal(m.h.size, 0);
	assert_int_equal(m.nfds, 0);
	/* The front-end's socket itself went nowhere. */
	assert_false(be_saw_file(rig, channel[0]));
	close(channel[0]);
}

static void abuse(struct peers *rig, uint32_t request, uint32_t fds)
{
	struct pollfd p = {.events = POLLIN};
	int channel[2];

	with_channel(rig, request, fds, channel);
	assert_int_equal(rig->script->channel_result, 1);
	p.fd = channel[0];
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_true(peers_logged(rig, "of its own requests only CONFIG_CHANGE"));
	assert_int_equal(fe_get(rig, VU_GET_MAX_MEM_SLOTS), 509);
	close(channel[0]);
}

static void g1_host_notifier_is_refused(void **state)
{
	abuse(*state, 3, 1);
}

static void g1_iotlb_request_is_refused(void **state)
{
	abuse(*state, 1, 0);
}

static void g1_shared_object_is_refused(void **state)
{
	abuse(*state, 8, 8);
}

static void g1_config_change_with_a_file_is_refused(void **state)
{
	abuse(*state, VU_BACKEND_CONFIG_CHANGE, 1);
}

static void g4_channel_must_be_a_socket(void **state)
{
	struct peers *rig = *state;

	start(rig);
	assert_int_equal(fe_ack(rig, VU_SET_BACKEND_REQ_FD, NULL, 0, rig->ram), 1);
	assert_int_equal(fe_ack(rig, VU_SET_BACKEND_REQ_FD, NULL, 0, -1), 1);
	assert_int_equal(be_count(rig, VU_SET_BACKEND_REQ_FD), 0);
}

static void g5_front_end_may_leave_and_the_next_is_served(void **state)
{
	struct peers *rig = *state;

	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, "--keep", NULL);
	for (unsigned int i = 1; i <= 3; i++) {
		peers_connect(rig);
		fe_hello(rig);
		assert_int_equal(fe_add_pool(rig), 0);
		go(rig);
		/* A connection of its own, the ring stopped at the end of the last. */
		assert_int_equal(rig->script->connections, i);
		assert_int_equal(be_count(rig, VU_SET_OWNER), i);
		assert_int_equal(be_count(rig, VU_GET_VRING_BASE), i - 1);
	}
	/* One that is refused does not keep the next one away. */
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, 0, 0x1000, POOL_BYTES, 0, rig->pool), -1);
	peers_connect(rig);
	fe_hello(rig);
}

static void g5_relay_ends_when_the_front_end_leaves(void **state)
{
	struct peers *rig = *state;

	start(rig);
	go(rig);
	close(rig->fe);
	rig->fe = -1;
	assert_int_equal(peers_status(rig), 0);
	assert_int_equal(be_count(rig, VU_GET_VRING_BASE), 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, peers_setup, peers_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(g5_open_requests_survive_a_killed_backend),
		T(g5_a_ring_that_is_enabled_later_is_kicked),
		T(g5_a_second_death_is_survived_too),
		T(g5_a_backend_that_always_leaves_is_reported),
		T(g5_what_cannot_be_told_is_not_guessed),
		T(g4_ring_full_of_nonsense_is_not_believed),
		T(g5_truncated_pool_does_not_kill_the_relay),
		T(g5_front_end_is_served_while_the_backend_is_away),
		T(g5_backend_may_come_late),
		T(g6_backend_that_never_comes_is_reported),
		T(g6_backend_that_lost_a_feature_is_not_used),
		T(g5_silent_backend_is_given_up),
		T(g4_backend_that_answers_wrongly_is_given_up),
		T(g6_refused_ring_setup_is_reported),
		T(g1_config_change_is_all_that_reaches_the_front_end),
		T(g1_host_notifier_is_refused),
		T(g1_iotlb_request_is_refused),
		T(g1_shared_object_is_refused),
		T(g1_config_change_with_a_file_is_refused),
		T(g4_channel_must_be_a_socket),
		T(g5_front_end_may_leave_and_the_next_is_served),
		T(g5_relay_ends_when_the_front_end_leaves),
	};

	return cmocka_run_group_tests_name("relay and its backend", tests, NULL, NULL);
}
