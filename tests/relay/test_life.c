/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_life.c - rings of mode shadow from their start to another relay's
 *
 * Theory of operation: orders in which a ring may be started, and what a relay that is killed leaves
 * to the next one, which is told by the in-flight buffer that the front-end keeps. Names begin with
 * the guarantee (THREAT-MODEL.md).
 */
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

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TESTS(g5_a_chain_from_before_the_ring_is_enabled_is_served),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("life", tests, NULL, NULL);
}
