/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_life.c - rings of mode shadow from their start to another relay's
 *
 * Theory of operation: orders in which a ring may be started, and what a relay that is killed leaves
 * to the next one, which is told by the in-flight buffer that the front-end keeps. Names begin with
 * the guarantee (THREAT-MODEL.md).
 */
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pair.h"

/* Some front-ends (QEMU 7.2) kick first and enable then, and some devices (rust-vmm's) forget a kick
 * that comes while the ring is disabled. */
static void g5_a_chain_from_before_the_ring_is_enabled_is_served(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;

	p->device.script->kicked = true;
	pair_up(p);
	fe_get_base(p->rig, 0);
	assert_int_equal(fe_ack_state(p->rig, VU_SET_VRING_ENABLE, 0, 0), 0);
	vm_ring_disabled(v, 0);
	vm_echo_start(v, 0);
	/* Answered after the relay has looked at the ring. */
	fe_get(p->rig, VU_GET_FEATURES);
	usleep(50000);
	assert_int_equal(fe_ack_state(p->rig, VU_SET_VRING_ENABLE, 0, 1), 0);
	vm_echo_end(v, 0, true);
	pair_well(p);
}

/* DPDK's front-end says where a packed ring's avail half begins and leaves the used half 0, which by the
 * spec would be a ring that is full (GET_VRING_BASE). */
static void g4_a_packed_ring_begins_where_its_avail_half_does(void **state)
{
	struct pair *p = *state;

	pair_up(p);
	for (unsigned int q = 0; q < VM_RINGS; q++) {
		vm_ring_revive(&p->vm, q);
		assert_int_equal(fe_get_base(p->rig, q), VM_PACKED_NEW);
		vm_ring_again(&p->vm, q, VM_PACKED_NEW & 0xffff);
	}
	pair_well(p);
}

/* ---- the relay is killed ---- */

static int inflight; /* the buffer that the front-end keeps */
static struct vu_inflight layout;

static void get_inflight(struct pair *p)
{
	const struct vu_inflight want = {.queues = VM_RINGS, .num = VM_NUM};
	struct vu_msg m;

	fe_send(p->rig, VU_GET_INFLIGHT_FD, 0, &want, VU_INFLIGHT_BYTES, NULL, 0);
	assert_true(fe_recv(p->rig, &m));
	assert_int_equal(m.nfds, 1);
	assert_true(m.p.inflight.bytes >= VM_RINGS * VM_NUM * 16);
	inflight = vu_take_fd(&m);
	layout = m.p.inflight;
}

static void set_inflight(struct pair *p)
{
	assert_int_equal(fe_ack(p->rig, VU_SET_INFLIGHT_FD, &layout, VU_INFLIGHT_BYTES, inflight),
			 0);
}

static void relay_killed(struct pair *p)
{
	kill(p->rig->relay, SIGKILL);
	assert_int_equal(waitpid(p->rig->relay, NULL, 0), p->rig->relay);
	p->rig->relay = 0;
}

/* Another relay, and what QEMU says to it then. */
static void relay_again(struct pair *p, const char *pool)
{
	struct vm *v = &p->vm;

	peers_relay_shadow(p->rig, "--pool-size", pool, "--pool-max", pool, "--keep", NULL);
	peers_connect(p->rig);
	vm_hello(v);
	vm_memory(v);
	set_inflight(p);
	for (unsigned int q = 0; q < VM_RINGS; q++) {
		uint16_t used;

		/* It does not know where a packed ring stands: where that began. */
		memcpy(&used, vm_at(v, v->rings[q].base + RING_USED(VM_NUM) + 2), 2);
		vm_ring_again(v, q, v->packed ? VM_PACKED_NEW : used);
		assert_int_equal(fe_ack_state(p->rig, VU_SET_VRING_ENABLE, q, 1), 0);
	}
}

#define OUT 4u

static void offer_all(struct vm *v, unsigned int round, uint16_t *ids)
{
	for (unsigned int i = 0; i < OUT; i++) {
		const struct piece pieces[] = {{VM_BUFFER + 0x100 * i, 1, false},
					       {VM_BUFFER + 0x1000 * (i + 1), 20, true},
					       {VM_BUFFER + 0x1000 * (i + 1) + 0x800, 30, true}};
		const uint8_t byte = (uint8_t)(OUT * round + i);

		vm_write(v, pieces[0].gpa, &byte, 1);
		ids[i] = vm_offer(v, 0, pieces, i % 2 ? 3 : 2);
	}
	vm_kick(v, 0);
}

/* The front-end keeps what is in flight, and all rings run. */
static void rings_with_inflight(struct pair *p)
{
	get_inflight(p);
	set_inflight(p);
	for (unsigned int q = 0; q < VM_RINGS; q++)
		vm_ring_up(&p->vm, q);
}

static void start_with_inflight(struct pair *p)
{
	pair_start(p);
	vm_hello(&p->vm);
	vm_memory(&p->vm);
	rings_with_inflight(p);
}

/* Each of them once, with the right bytes. */
static void all_come_back(struct vm *v, unsigned int round, const uint16_t *ids)
{
	bool back[OUT] = {false};
	uint32_t id, len;

	for (unsigned int n = 0; n < OUT; n++) {
		unsigned int i = 0;

		vm_wait(v, 0, &id, &len);
		while (i < OUT && ids[i] != id)
			i++;
		assert_true(i < OUT && !back[i]);
		back[i] = true;
		assert_int_equal(len, i % 2 ? 50 : 20);
		for (unsigned int j = 0; j < 20; j++)
			assert_int_equal(*vm_at(v, VM_BUFFER + 0x1000 * (i + 1) + j),
					 (uint8_t)(OUT * round + i) ^ 0xa5);
	}
	assert_false(vm_poll(v, 0, &id, &len));
	vm_check(v);
}

static void g5_a_killed_relay_leaves_nothing_undone(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;
	uint16_t ids[OUT];

	start_with_inflight(p);
	pair_well(p);
	for (unsigned int round = 0; round < 12; round++) {
		/* All in flight; some of them, in any order; at any moment. */
		p->device.script->hold = round % 3 == 0;
		p->device.script->reverse = round % 2;
		const uint32_t before = p->device.script->chains;

		offer_all(v, round, ids);
		if (round % 3 == 0)
			device_wait(&p->device, &p->device.script->chains, before + OUT);
		else
			usleep(round * 100);
		relay_killed(p);
		p->device.script->hold = false;
		relay_again(p, "4M");
		all_come_back(v, round, ids);
		p->device.script->reverse = false;
		/* What is stopped in order goes on where the front-end says. */
		if (round % 4 == 3) {
			vm_ring_revive(v, 0);
			vm_echo(v, 0);
		}
	}
	pair_well(p);
	close(inflight);
}

static void wait_broken(struct vm *v, unsigned int q)
{
	uint64_t n;

	for (unsigned int i = 0; read(v->rings[q].err, &n, sizeof(n)) < 0; i++) {
		assert_true(i < 10000);
		poll(NULL, 0, 1);
	}
}

/* The guest has changed a chain that is in flight, so it cannot be read again: the front-end hears of that, too. */
static void g6_what_cannot_be_read_again_is_refused(void **state)
{
	const struct piece piece = {VM_BUFFER, 1, false};
	struct pair *p = *state;
	struct vm *v = &p->vm;
	uint16_t head;

	start_with_inflight(p);
	p->device.script->hold = true;
	head = vm_offer(v, 0, &piece, 1);
	vm_kick(v, 0);
	device_wait(&p->device, &p->device.script->chains, 1);
	relay_killed(p);
	vm_descriptor(v, 0, head, UINT64_C(0x7fffffff0000), 1, 0, 0);
	p->device.script->hold = false;
	relay_again(p, "4M");
	wait_broken(v, 0);
	assert_true(peers_logged(p->rig, "refused: queue 0, guest"));
	vm_echo(v, 1);
	/* A device that is reset gets another buffer (QEMU's vhost-user-blk). */
	for (unsigned int q = 0; q < VM_RINGS; q++)
		fe_get_base(p->rig, q);
	close(inflight);
	rings_with_inflight(p);
	pair_well(p);
	close(inflight);
}

/* The operator has made the pool smaller than what is in flight: that is said, and nothing else waits for it. */
static void g6_what_a_smaller_pool_cannot_hold_is_refused(void **state)
{
	const struct piece large[] = {{VM_BUFFER, 1, false}, {VM_BUFFER + 0x1000, 0x100000, true}};
	struct pair *p = *state;
	struct vm *v = &p->vm;

	start_with_inflight(p);
	p->device.script->hold = true;
	vm_offer(v, 0, large, 2);
	vm_kick(v, 0);
	device_wait(&p->device, &p->device.script->chains, 1);
	relay_killed(p);
	p->device.script->hold = false;
	relay_again(p, "2M");
	wait_broken(v, 0);
	assert_true(peers_logged(p->rig, "raise --pool-max"));
	vm_echo(v, 1);
	vm_ring_revive(v, 0);
	pair_well(p);
	close(inflight);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TESTS(g5_a_chain_from_before_the_ring_is_enabled_is_served),
		PAIR_TEST(g4_a_packed_ring_begins_where_its_avail_half_does, pair_packed),
		PAIR_TEST(g4_a_packed_ring_begins_where_its_avail_half_does, pair_to_split),
		PAIR_TESTS(g5_a_killed_relay_leaves_nothing_undone),
		PAIR_TEST(g6_what_a_smaller_pool_cannot_hold_is_refused, pair_split),
		PAIR_TEST(g6_what_cannot_be_read_again_is_refused, pair_split),
		PAIR_TEST(g6_what_a_smaller_pool_cannot_hold_is_refused, pair_packed),
		PAIR_THREADS_TESTS(g5_a_killed_relay_leaves_nothing_undone),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("life", tests, NULL, NULL);
}
