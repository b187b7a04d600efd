/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_drain.c - mode shadow: a ring is stopped while a slow backend is at work on it
 *
 * Theory of operation
 * -------------------
 * Who has the answer to GET_VRING_BASE may have all requests behind that base run by another backend, on
 * another host. So a request that this backend may still carry out must not be behind it. The backend here is the
 * worst of those that mean well: like qemu-storage-daemon it answers GET_VRING_BASE at once and
 * finishes what it has taken when it can, which is when the test lets it. The test looks at what has been
 * said and done at that moment, so nothing depends on how long anything takes, but for how long a relay is given
 * to do the wrong thing.
 *
 * Names begin with the guarantee (THREAT-MODEL.md).
 */
#include <unistd.h>

#include "pair.h"

#define LONG 2500 /* ms: longer than anything may be waited for but the backend */
#define SOON 300  /* ms: where it does the wrong thing at once, if at all */

/* Where the driver is in a ring, as GET_VRING_BASE has it. */
static uint32_t where(const struct vm *v, unsigned int q)
{
	const struct vm_ring *r = &v->rings[q];

	if (!v->packed)
		return r->avail;
	return (r->avail | (uint32_t)r->avail_wrap << 15) | (r->used | (uint32_t)r->used_wrap << 15)
								    << 16;
}

/* A chain that the backend has begun and does not finish. */
static void begin(struct pair *p, unsigned int q)
{
	struct device_script *s = p->device.script;
	const uint32_t before = s->chains;

	s->late = s->hold = true;
	vm_echo_start(&p->vm, q);
	device_wait(&p->device, &s->chains, before + 1);
}

static void start_again(struct pair *p, unsigned int q, uint32_t base)
{
	vm_ring_again(&p->vm, q, base);
	assert_int_equal(fe_ack_state(p->rig, VU_SET_VRING_ENABLE, q, 1), 0);
}

static void g5_a_stop_waits_for_a_backend_that_answers_too_early(void **state)
{
	struct pair *p = *state;
	uint32_t base;

	pair_up(p);
	begin(p, 0);
	fe_stop_begin(p->rig, 0);
	assert_false(fe_stop_answered(p->rig, LONG));
	p->device.script->hold = false;
	base = fe_stop_end(p->rig);
	/* It has been answered, once, by the connection that it was given to. */
	vm_echo_end(&p->vm, 0, true);
	assert_int_equal(base, where(&p->vm, 0));
	assert_int_equal(p->device.script->connections, 1);
	start_again(p, 0, base);
	pair_well(p);
}

/* QEMU disables a ring before it stops it: a backend that hangs is given up at that. */
static void g5_a_stop_waits_for_a_backend_that_was_given_up(void **state)
{
	struct pair *p = *state;
	struct device_script *s = p->device.script;
	uint32_t before, base;

	pair_up(p);
	before = where(&p->vm, 0);
	begin(p, 0);
	s->slip = SLIP_REQUEST;
	s->slip_request = VU_SET_VRING_ENABLE;
	s->times = 1;
	assert_int_equal(fe_ack_state(p->rig, VU_SET_VRING_ENABLE, 0, 0), 0);
	peers_wait_log(p->rig, "the backend is away");
	fe_stop_begin(p->rig, 0);
	assert_false(fe_stop_answered(p->rig, SOON));
	/* Nor is anything given to a backend twice here. */
	assert_int_equal(s->connections, 1);
	s->hold = false;
	base = fe_stop_end(p->rig);
	/* The relay cannot know what became of it, but nobody is at work on it any more. */
	assert_int_equal(base, before);
	start_again(p, 0, base);
	vm_echo_end(&p->vm, 0, true);
	pair_well(p);
}

/* The operator's way out. */
static void g5_a_stop_ends_when_the_backend_is_killed(void **state)
{
	struct pair *p = *state;
	uint32_t before, base;

	pair_up(p);
	before = where(&p->vm, 0);
	begin(p, 0);
	fe_stop_begin(p->rig, 0);
	assert_false(fe_stop_answered(p->rig, SOON));
	device_kill(&p->device);
	base = fe_stop_end(p->rig);
	assert_int_equal(base, before);
	p->device.script->hold = false;
	device_start(&p->device);
	start_again(p, 0, base);
	vm_echo_end(&p->vm, 0, true);
	pair_well(p);
}

/* A backend that never finishes holds up a VMM for --drain seconds, and the other rings no longer. */
static void g5_a_stop_is_bounded_and_gives_nothing_back_that_may_be_at_work(void **state)
{
	struct pair *p = *state;
	uint32_t base[VM_RINGS], id, len;

	device_start(&p->device);
	peers_relay(p->rig, "--mode", "shadow", "--pool-size", "4M", "--pool-max", "4M", "--keep",
		    "--drain", "2", NULL);
	peers_connect(p->rig);
	vm_up(&p->vm);
	for (unsigned int q = 0; q < VM_RINGS; q++)
		begin(p, q);
	for (unsigned int q = 0; q < VM_RINGS; q++) {
		fe_stop_begin(p->rig, q);
		base[q] = fe_stop_end(p->rig);
		assert_int_equal(base[q], where(&p->vm, q));
		assert_false(vm_poll(&p->vm, q, &id, &len));
	}
	assert_true(peers_logged(p->rig, "they are not given back"));
	/* The guest has stayed here after all. */
	p->device.script->hold = false;
	for (unsigned int q = 0; q < VM_RINGS; q++)
		start_again(p, q, base[q]);
	for (unsigned int q = 0; q < VM_RINGS; q++)
		vm_echo_end(&p->vm, q, true);
	pair_well(p);
}

/*
 * The memory with the ring in it goes while the backend is at work: what is not finished stays with the relay, and
 * the ring can be stopped, and started again when the memory is back.
 */
static void g4_a_ring_whose_memory_has_gone_can_be_stopped(void **state)
{
	struct pair *p = *state;
	uint32_t base;

	pair_up(p);
	begin(p, 0);
	vm_memory_goes(&p->vm, 0);
	p->device.script->hold = false;
	base = fe_get_base(p->rig, 0);
	vm_memory_comes(&p->vm, 0);
	start_again(p, 0, base);
	vm_echo_end(&p->vm, 0, true);
	pair_well(p);
}

/* QEMU gives the in-flight buffer of a disk once more whenever it starts it, and does not ask for an answer. */
static void g5_what_was_not_given_back_goes_on_with_the_in_flight_buffer(void **state)
{
	const struct vu_inflight want = {.queues = VM_RINGS, .num = VM_NUM};
	struct pair *p = *state;
	struct vu_msg m;
	uint32_t base;

	device_start(&p->device);
	peers_relay_shadow(p->rig, "--pool-size", "4M", "--pool-max", "4M", "--keep", "--drain",
			   "1", NULL);
	peers_connect(p->rig);
	vm_hello(&p->vm);
	vm_memory(&p->vm);
	fe_send(p->rig, VU_GET_INFLIGHT_FD, 0, &want, VU_INFLIGHT_BYTES, NULL, 0);
	assert_true(fe_recv(p->rig, &m));
	assert_int_equal(m.nfds, 1);
	fe_send(p->rig, VU_SET_INFLIGHT_FD, 0, &m.p.inflight, VU_INFLIGHT_BYTES, m.fds, 1);
	for (unsigned int q = 0; q < VM_RINGS; q++)
		vm_ring_up(&p->vm, q);
	begin(p, 0);
	base = fe_get_base(p->rig, 0);
	assert_int_equal(base, where(&p->vm, 0));
	p->device.script->hold = false;
	fe_send(p->rig, VU_SET_INFLIGHT_FD, 0, &m.p.inflight, VU_INFLIGHT_BYTES, m.fds, 1);
	start_again(p, 0, base);
	vm_echo_end(&p->vm, 0, true);
	pair_well(p);
	/* Another one would know nothing of it. */
	begin(p, 0);
	base = fe_get_base(p->rig, 0);
	m.p.inflight.offset = 4096;
	assert_int_equal(
		fe_ack(p->rig, VU_SET_INFLIGHT_FD, &m.p.inflight, VU_INFLIGHT_BYTES, m.fds[0]), 1);
	vu_close_fds(&m);
}

/* A VMM that is killed while it waits: the next one does not wait as long. */
static void g5_a_front_end_that_leaves_ends_the_wait(void **state)
{
	struct pair *p = *state;

	pair_up(p);
	begin(p, 0);
	fe_stop_begin(p->rig, 0);
	assert_false(fe_stop_answered(p->rig, SOON));
	close(p->rig->fe);
	p->device.script->hold = false;
	peers_connect(p->rig);
	fe_hello(p->rig);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TEST(g5_a_stop_waits_for_a_backend_that_answers_too_early, pair_split),
		PAIR_TEST(g5_a_stop_waits_for_a_backend_that_answers_too_early, pair_packed),
		PAIR_TEST(g5_a_stop_waits_for_a_backend_that_answers_too_early, pair_threads_split),
		PAIR_TEST(g5_a_stop_waits_for_a_backend_that_was_given_up, pair_split),
		PAIR_TEST(g5_a_stop_waits_for_a_backend_that_was_given_up, pair_threads_packed),
		PAIR_TEST(g5_a_stop_ends_when_the_backend_is_killed, pair_split),
		PAIR_TEST(g5_a_stop_is_bounded_and_gives_nothing_back_that_may_be_at_work,
			  pair_split),
		PAIR_TEST(g5_a_stop_is_bounded_and_gives_nothing_back_that_may_be_at_work,
			  pair_packed),
		PAIR_TEST(g5_what_was_not_given_back_goes_on_with_the_in_flight_buffer, pair_split),
		PAIR_TEST(g4_a_ring_whose_memory_has_gone_can_be_stopped, pair_split),
		PAIR_TEST(g4_a_ring_whose_memory_has_gone_can_be_stopped, pair_threads_packed),
		PAIR_TEST(g5_a_front_end_that_leaves_ends_the_wait, pair_split),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("drain", tests, NULL, NULL);
}
