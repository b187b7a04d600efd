/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_reset.c - mode shadow: a device that is reset while rings run
 *
 * Theory of operation
 * -------------------
 * After a reset the guest's memory is the guest's again: where a ring was may be anything now, and a device that
 * went on with it would take that for requests, and write there. A ring runs again when it has been
 * kicked again (the spec, "Ring states"), whatever is done to the other ones meanwhile. Here the old memory
 * looks just like a ring with a request in it.
 *
 * Names begin with the guarantee (THREAT-MODEL.md).
 */
#include <poll.h>

#include "pair.h"

#define SOON 300 /* ms: in which the relay does the wrong thing, if at all */

static void up(struct pair *p)
{
	p->device.script->protocol |= VU_BIT(VU_P_STATUS) | VU_BIT(VU_P_RESET_DEVICE);
	pair_up(p);
	pair_well(p);
}

static void others_rest(struct pair *p)
{
	uint32_t id, len;

	vm_echo_start(&p->vm, 1);
	vm_ring_up(&p->vm, 0);
	vm_echo(&p->vm, 0);
	poll(NULL, 0, SOON);
	assert_false(vm_poll(&p->vm, 1, &id, &len));
	/* It is as good as new. */
	vm_ring_up(&p->vm, 1);
	pair_well(p);
}

static void g4_after_status_0_a_ring_waits_for_its_kick(void **state)
{
	struct pair *p = *state;

	up(p);
	assert_int_equal(fe_ack_u64(p->rig, VU_SET_STATUS, 0, -1), 0);
	others_rest(p);
}

static void g4_after_reset_owner_a_ring_waits_for_its_kick(void **state)
{
	struct pair *p = *state;

	up(p);
	assert_int_equal(fe_ack(p->rig, VU_RESET_OWNER, NULL, 0, -1), 0);
	others_rest(p);
}

static void g4_after_reset_device_a_ring_waits_for_its_kick(void **state)
{
	struct pair *p = *state;

	up(p);
	assert_int_equal(fe_ack(p->rig, VU_RESET_DEVICE, NULL, 0, -1), 0);
	others_rest(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TEST(g4_after_status_0_a_ring_waits_for_its_kick, pair_split),
		PAIR_TEST(g4_after_status_0_a_ring_waits_for_its_kick, pair_threads_packed),
		PAIR_TEST(g4_after_reset_owner_a_ring_waits_for_its_kick, pair_split),
		PAIR_TEST(g4_after_reset_device_a_ring_waits_for_its_kick, pair_split),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("a device is reset", tests, NULL, NULL);
}
