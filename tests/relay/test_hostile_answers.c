/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_hostile_answers.c - a backend whose vhost-user messages are wrong, behind mode shadow
 *
 * Theory of operation
 * -------------------
 * As in test_hostile_backend.c, but what is wrong is an answer on the socket: each that the relay waits
 * for, in each way that it can be wrong, once, while the backend comes up. The relay parts with such a
 * backend and takes the next one, half a second later: that is what these tests spend their time on.
 */
#include <stdio.h>

#include "pair.h"

#define ARRAY(a) (sizeof(a) / sizeof((a)[0]))

static const uint32_t answered[] = {
	VU_GET_FEATURES,   VU_GET_PROTOCOL_FEATURES, VU_GET_QUEUE_NUM, VU_GET_MAX_MEM_SLOTS,
	VU_ADD_MEM_REG,	   VU_SET_MEM_TABLE,	     VU_SET_VRING_NUM, VU_SET_VRING_ADDR,
	VU_SET_VRING_KICK, VU_SET_VRING_ENABLE,	     VU_SET_FEATURES,
};

/* Which of these slips a request gets: all ways of being wrong for one of each kind, the ways that its
 * own handling sees for the others. */
static bool worth_it(uint32_t request, enum slip slip)
{
	if (request == VU_GET_FEATURES || request == VU_ADD_MEM_REG ||
	    request == VU_SET_MEM_TABLE || request == VU_SET_VRING_KICK)
		return true;
	return slip == SLIP_SIZE || slip == SLIP_FDS || slip == SLIP_REFUSE || slip == SLIP_CLOSE ||
	       slip == SLIP_WILD;
}

/* Each answer of the backend wrong in each way, once, while a front-end comes up. Some of it ends
 * the session, where the spec has no better error: then the front-end comes again. */
static void g4_no_answer_of_the_backend_harms(void **state)
{
	struct pair *p = *state;
	struct device_script *s = p->device.script;
	struct weight before, after;

	/* One of the two pairings brings its memory by a table. */
	if (p->pairing->device_packed)
		s->protocol &= ~VU_BIT(VU_P_MEM_SLOTS);
	pair_up(p);
	pair_well(p);
	before = relay_weight(p->rig);
	for (size_t i = 0; i < ARRAY(answered); i++)
		for (enum slip slip = SLIP_SIZE; slip < SLIP_SLIPS; slip++) {
			/* The pairing with a table is for that one. */
			if (!worth_it(answered[i], slip) ||
			    (p->pairing->device_packed && answered[i] != VU_SET_MEM_TABLE))
				continue;
			print_message("  %s: %s\n", vu_rule(answered[i])->name, slip_name(slip));
			/* The backend is new, and so slips while the relay brings it up. */
			device_kill(&p->device);
			s->slip = slip;
			s->slip_request = answered[i];
			s->times = 1;
			device_start(&p->device);
			vm_echo_start(&p->vm, 0);
			vm_echo_end(&p->vm, 0, true);
		}
	s->slip = SLIP_NONE;
	pair_well(p);
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	assert_true(after.kib < before.kib + 1024);
}

static void g4_a_first_backend_that_slips_is_asked_again(void **state)
{
	struct pair *p = *state;

	p->device.script->slip = SLIP_LONG;
	p->device.script->slip_request = VU_GET_FEATURES;
	p->device.script->times = 3;
	pair_up(p);
	pair_well(p);
	assert_int_equal(p->device.script->connections, 4);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TEST(g4_no_answer_of_the_backend_harms, pair_split),
		PAIR_TEST(g4_no_answer_of_the_backend_harms, pair_packed),
		PAIR_TEST(g4_a_first_backend_that_slips_is_asked_again, pair_split),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("a hostile backend's answers", tests, NULL, NULL);
}
