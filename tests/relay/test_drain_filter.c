/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_drain_filter.c - mode filter: a ring is stopped while a slow backend is at work on it
 *
 * Theory of operation
 * -------------------
 * As test_drain.c, for the mode in which the backend has the guest's own ring: what it is still at work on is what
 * that ring shows. The scripted backend answers GET_VRING_BASE at once, and the test finishes its requests for
 * it when it likes. A backend that has been given up keeps its end of the connection until the test says so.
 *
 * Names begin with the guarantee (THREAT-MODEL.md).
 */
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "peer.h"

#define NUM  8u
#define LONG 1500 /* ms: longer than anything may be waited for but the backend */
#define SOON 300  /* ms: where the relay does the wrong thing at once, if at all */

static uint16_t *avail(struct peers *rig)
{
	return (uint16_t *)(void *)(rig->mem + RING_AVAIL(NUM));
}

static void make_available(struct peers *rig, uint16_t head)
{
	uint16_t *a = avail(rig);

	a[2 + a[1] % NUM] = head;
	__atomic_store_n(&a[1], (uint16_t)(a[1] + 1), __ATOMIC_RELEASE);
}

static void use(struct peers *rig, uint16_t head)
{
	uint16_t *idx = (uint16_t *)(void *)(rig->mem + RING_USED(NUM) + 2);
	uint32_t *ring = (uint32_t *)(void *)(rig->mem + RING_USED(NUM) + 4);

	ring[2 * (*idx % NUM)] = head;
	ring[2 * (*idx % NUM) + 1] = 1;
	__atomic_store_n(idx, (uint16_t)(*idx + 1), __ATOMIC_RELEASE);
}

/* Three requests of which the first is done, and a backend that says that it has taken @base. */
static void up(struct peers *rig, const char *drain, uint32_t base)
{
	uint64_t n;

	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, "--drain", drain, "--keep", NULL);
	peers_connect(rig);
	fe_hello(rig);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, NUM), 0);
	for (uint16_t i = 0; i < 3; i++)
		make_available(rig, i);
	use(rig, 0);
	rig->script->base = base;
	(void)!read(rig->call, &n, sizeof(n));
}

static void start_again(struct peers *rig, uint32_t base)
{
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_BASE, 0, base), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_VRING_KICK, 0, rig->kick), 0);
}

static uint32_t told_base(struct peers *rig)
{
	struct vu_vring_state s;

	memcpy(&s, be_last(rig, VU_SET_VRING_BASE)->payload, sizeof(s));
	return s.num;
}

static void let_it_go(struct peers *rig)
{
	__atomic_store_n(&rig->script->lingers, false, __ATOMIC_RELEASE);
}

static void g5_a_stop_waits_for_a_backend_that_answers_too_early(void **state)
{
	struct peers *rig = *state;
	uint64_t n = 0;

	up(rig, "60", 3);
	fe_stop_begin(rig, 0);
	assert_false(fe_stop_answered(rig, LONG));
	use(rig, 2);
	assert_false(fe_stop_answered(rig, SOON));
	use(rig, 1);
	assert_int_equal(fe_stop_end(rig), 3);
	assert_int_equal(rig->script->connections, 1);
	/* It has closed its call eventfd by then. */
	assert_int_equal(read(rig->call, &n, sizeof(n)), sizeof(n));
}

static void g5_a_stop_waits_for_a_backend_that_was_given_up(void **state)
{
	struct peers *rig = *state;

	up(rig, "60", 0x10000);
	rig->script->lingers = true;
	fe_stop_begin(rig, 0);
	assert_false(fe_stop_answered(rig, LONG));
	/* It is at work until it has closed its end, and nobody else is meanwhile. */
	assert_int_equal(rig->script->connections, 1);
	use(rig, 2);
	let_it_go(rig);
	assert_int_equal(fe_stop_end(rig), 2);
	assert_int_equal(avail(rig)[2 + 2], 1);
}

/* The operator's way out. */
static void g5_a_stop_ends_when_the_backend_is_killed(void **state)
{
	struct peers *rig = *state;

	up(rig, "60", 3);
	fe_stop_begin(rig, 0);
	assert_false(fe_stop_answered(rig, SOON));
	use(rig, 1);
	peers_backend_kill(rig);
	assert_int_equal(fe_stop_end(rig), 2);
	assert_int_equal(avail(rig)[2 + 2], 2);
}

/* Nor for the rings that run on: two backends on one ring would tear it apart. */
static void g5_a_backend_that_was_given_up_has_no_successor_beside_it(void **state)
{
	struct peers *rig = *state;

	up(rig, "1", 3);
	rig->script->lingers = true;
	/* A base that is none ends its connection. */
	assert_int_equal(fe_ring(rig, 1, POOL_USER + 0x8000, NUM), 0);
	rig->script->base = 0x10000;
	(void)fe_get_base(rig, 1);
	peers_wait_log(rig, "still not closed its end");
	assert_int_equal(rig->script->connections, 1);
	use(rig, 2);
	let_it_go(rig);
	be_wait(rig, VU_SET_VRING_KICK, 3);
	assert_int_equal(told_base(rig), 2);
	assert_int_equal(avail(rig)[2 + 2], 1);
}

static void given_up(struct peers *rig)
{
	up(rig, "1", 3);
	rig->script->lingers = true;
	/* A peer that has a lot logged must not hide it. */
	fe_flood_log(rig);
	fe_stop_begin(rig, 0);
	assert_int_equal(fe_stop_end(rig), 3);
	assert_true(
		peers_logged(rig, "has not finished 2 requests of it: they are not given back"));
}

/* A guest that has stayed here after all gets what it is owed, once, and not beside the old backend. */
static void g5_what_was_not_given_back_goes_on_here(void **state)
{
	struct peers *rig = *state;

	given_up(rig);
	start_again(rig, 3);
	poll(NULL, 0, SOON);
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 1);
	use(rig, 2);
	let_it_go(rig);
	be_wait(rig, VU_SET_VRING_KICK, 2);
	assert_int_equal(told_base(rig), 2);
	assert_int_equal(avail(rig)[2 + 2], 1);
}

/* A driver that has reset the device has forgotten them. */
static void g5_what_was_not_given_back_is_not_the_next_drivers(void **state)
{
	struct peers *rig = *state;

	given_up(rig);
	memset(rig->mem, 0, 4096);
	make_available(rig, 5);
	start_again(rig, 0);
	let_it_go(rig);
	be_wait(rig, VU_SET_VRING_KICK, 2);
	assert_int_equal(told_base(rig), 0);
	assert_int_equal(avail(rig)[2], 5);
}

/* A VMM that is started again has the same pool, and what is still written there is written to its guest. */
static void g5_the_next_front_end_waits_for_the_last_ones_backend(void **state)
{
	struct peers *rig = *state;
	struct vu_msg m;

	up(rig, "60", 3);
	rig->script->lingers = true;
	peers_connect(rig);
	fe_send(rig, VU_GET_FEATURES, 0, NULL, 0, NULL, 0);
	assert_false(fe_stop_answered(rig, 2 * LONG));
	assert_int_equal(rig->script->connections, 1);
	let_it_go(rig);
	assert_true(fe_recv(rig, &m));
	assert_int_equal(rig->script->connections, 2);
	fe_hello(rig);
}

/* Memory that has become something else since, as after a kexec, says nothing, and is not waited for. */
static void g5_a_ring_that_has_been_cleared_is_not_waited_for(void **state)
{
	struct peers *rig = *state;

	up(rig, "60", 3);
	memset(rig->mem, 0, 4096);
	fe_stop_begin(rig, 0);
	assert_int_equal(fe_stop_end(rig), 3);
	assert_false(peers_logged(rig, "away"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, peers_setup, peers_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(g5_a_stop_waits_for_a_backend_that_answers_too_early),
		T(g5_a_stop_waits_for_a_backend_that_was_given_up),
		T(g5_a_stop_ends_when_the_backend_is_killed),
		T(g5_a_backend_that_was_given_up_has_no_successor_beside_it),
		T(g5_a_ring_that_has_been_cleared_is_not_waited_for),
		T(g5_the_next_front_end_waits_for_the_last_ones_backend),
		T(g5_what_was_not_given_back_goes_on_here),
		T(g5_what_was_not_given_back_is_not_the_next_drivers),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("drain, mode filter", tests, NULL, NULL);
}
