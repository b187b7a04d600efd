/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_hostile_backend.c - a backend that does what the specs forbid, behind mode shadow
 *
 * Theory of operation
 * -------------------
 * The backend is a process at the other end of the socket (tests/lib/device.h). It sins once, at a
 * chain, and is good afterwards. Then, whatever it did:
 *   - no byte of the guest has changed but those that the guest offered for writing (G3, G4)
 *   - the backend has seen none that the guest did not offer for reading (G1, G2)
 *   - the guest's request is answered, by this connection or the next (G5)
 *   - the relay lives, says in its log what was wrong, and has not grown (G4, G6)
 * All of it for the four pairings of ring formats.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pair.h"

#define ARRAY(a) (sizeof(a) / sizeof((a)[0]))

/* ---- the tests' own peers ---- */

static void g1_without_a_relay_the_device_sees_all(void **state)
{
	struct pair *p = *state;

	pair_up(p);
	pair_well(p);
	assert_true(p->device.script->canaries > 0);
	assert_int_equal(p->device.script->foreign, 0);
}

/* ---- good behaviour ---- */

static void g1_chains_pass_and_nothing_else_does(void **state)
{
	struct pair *p = *state;

	pair_up(p);
	for (unsigned int i = 0; i < 20; i++)
		pair_well(p);
	assert_int_equal(p->device.script->connections, 1);
	assert_int_equal(p->device.script->foreign, 0);
	assert_int_equal(p->device.script->readable, 100);
	assert_int_equal(p->device.script->writable, 300);
}

static void g3_short_answers_leave_the_rest_as_it_was(void **state)
{
	const struct piece pieces[] = {
		{VM_BUFFER, 32, false},
		{VM_BUFFER + 0x1000, 100, true},
		{VM_BUFFER + 0x2000, 100, true},
	};
	struct pair *p = *state;
	struct vm *v = &p->vm;
	const uint64_t word = VM_CANARY;
	uint8_t old[8];
	uint32_t id, len;

	memcpy(old, &word, 8);
	pair_up(p);
	for (unsigned int by = 0; by <= 200; by += 25) {
		p->device.script->short_by = by;
		for (unsigned int i = 0; i < 100; i++) {
			*vm_at(v, pieces[1].gpa + i) = old[i % 8];
			*vm_at(v, pieces[2].gpa + i) = old[i % 8];
		}
		vm_write(v, VM_BUFFER, "abcdefghijklmnopqrstuvwxyz012345", 32);
		vm_offer(v, 0, pieces, 3);
		vm_kick(v, 0);
		vm_wait(v, 0, &id, &len);
		assert_int_equal(len, 200 - by);
		/* Of a device that says it wrote nothing the relay believes nothing (used_len.c): then the
		 * rest is what it was, or zero. */
		for (unsigned int i = 0; i < 200; i++) {
			const uint64_t at = (i < 100 ? pieces[1].gpa : pieces[2].gpa) + i % 100;
			const uint8_t is = *vm_at(v, at);
			const uint8_t want =
				i < len ? *vm_at(v, VM_BUFFER + i % 32) ^ 0xa5 : old[i % 100 % 8];

			assert_true(is == want || (!len && !is));
		}
		vm_check(v);
	}
	p->device.script->short_by = 0;
	p->device.script->dirty = 0;
	pair_well(p);
}

static void g5_answers_in_any_order_find_their_chains(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;

	pair_up(p);
	p->device.script->reverse = true;
	for (unsigned int round = 0; round < 20; round++) {
		struct piece pieces[2][2];
		uint16_t ids[2];
		uint32_t id, len;

		for (unsigned int i = 0; i < 2; i++) {
			const uint8_t byte = (uint8_t)(2 * round + i);

			pieces[i][0] = (struct piece){VM_BUFFER + 0x100 * i, 1, false};
			pieces[i][1] = (struct piece){VM_BUFFER + 0x1000 * (i + 1), 50, true};
			vm_write(v, pieces[i][0].gpa, &byte, 1);
			ids[i] = vm_offer(v, 0, pieces[i], 2);
		}
		vm_kick(v, 0);
		for (unsigned int i = 0; i < 2; i++) {
			const unsigned int which = 1 - i;

			vm_wait(v, 0, &id, &len);
			assert_int_equal(id, ids[which]);
			for (unsigned int j = 0; j < 50; j++)
				assert_int_equal(*vm_at(v, pieces[which][1].gpa + j),
						 (uint8_t)(2 * round + which) ^ 0xa5);
		}
	}
	p->device.script->reverse = false;
	pair_well(p);
}

/* So much in flight that it goes back past the caches (place.c): all of it arrives, and what is written next starts clear. */
static void g2_much_in_flight_leaves_nothing(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;

	pair_up(p);
	p->device.script->reverse = true;
	for (unsigned int round = 0; round < 6; round++) {
		/* Two of 1.2 MB, over the border between the halves and at odd places; the last piece again
		 * where the first one begins. */
		const uint32_t odd = round % 2 ? 33 : 0;
		uint32_t id, len;

		for (unsigned int i = 0; i < 2; i++) {
			const uint64_t to = VM_BUFFER + 0x1000 + 0xf0000 * i + odd * i;
			const uint8_t bytes[2] = {(uint8_t)(2 * round + i), 0x77};
			const struct piece pieces[] = {
				{VM_BUFFER + 0x100 * i, 2, false},
				{to, 0xe0000, true},
				{to, 0x40000, true},
			};

			vm_write(v, pieces[0].gpa, bytes, 2);
			vm_offer(v, 0, pieces, 3);
		}
		vm_kick(v, 0);
		for (unsigned int i = 0; i < 2; i++) {
			vm_wait(v, 0, &id, &len);
			assert_int_equal(len, 0x120000);
		}
		for (unsigned int i = 0; i < 2; i++)
			for (unsigned int j = 0; j < 0xe0000; j++)
				assert_int_equal(
					*vm_at(v, VM_BUFFER + 0x1000 + 0xf0000 * i + odd * i + j),
					(uint8_t)(j % 2 ? 0x77 : 2 * round + i) ^ 0xa5);
		assert_int_equal(p->device.script->dirty, 0);
	}
	p->device.script->reverse = false;
	pair_well(p);
}

/* ---- rings ---- */

/* What a guest may see of each sin. answered: the data has to be right all the same. */
static const struct {
	enum sin sin;
	bool answered;
	const char *logged; /* what the operator has to be told; NULL: nothing is wrong */
} sins[] = {
	{SIN_ID_RANGE, true, "refused: queue"},
	{SIN_ID_WILD, true, "refused: queue"},
	{SIN_ID_IDLE, true, "refused: queue"},
	{SIN_TWICE, true, "refused: queue"},
	{SIN_LEN_ONE, true, "refused: queue"},
	{SIN_LEN_WILD, true, "refused: queue"},
	{SIN_JUMP, false, "refused: queue"},
	{SIN_BACK, true, NULL},
	{SIN_TABLE, true, NULL},
	{SIN_TABLE_FIRST, false, NULL},
	{SIN_READABLE, true, NULL},
	{SIN_BEYOND, false, NULL},
	{SIN_ALL, false, NULL},
	{SIN_STORM, false, NULL},
	{SIN_CALLS, true, NULL},
};

/* The backend stays silent after some sins: it is killed then, as an operator would. */
static void answer_or_kill(struct pair *p, unsigned int q)
{
	struct vm *v = &p->vm;
	uint16_t was = v->rings[q].used;
	bool wrap = v->rings[q].used_wrap;
	uint32_t id, len;

	for (int i = 0; i < 1000; i++) {
		if (vm_poll(v, q, &id, &len)) {
			v->rings[q].used = was;
			v->rings[q].used_wrap = wrap;
			return;
		}
		poll(NULL, 0, 1);
	}
	device_kill(&p->device);
	device_start(&p->device);
}

static void g4_no_used_entry_harms(void **state)
{
	struct pair *p = *state;
	struct weight before, after;

	pair_up(p);
	pair_well(p);
	before = relay_weight(p->rig);
	for (size_t i = 0; i < ARRAY(sins); i++) {
		struct device_script *s = p->device.script;
		const uint32_t done = s->sinned;

		print_message("  %s\n", sin_name(sins[i].sin));
		if (sins[i].logged)
			unlink(p->rig->log);
		s->times = 1;
		s->sin = sins[i].sin;
		vm_echo_start(&p->vm, 0);
		device_wait(&p->device, &s->sinned, done + 1);
		answer_or_kill(p, 0);
		vm_echo_end(&p->vm, 0, sins[i].answered);
		s->sin = SIN_NONE;
		/* One of the entries that it wrote may have been right when it was read: then the chain is used, which the
		 * backend does not know, and where it writes the next one nobody looks. */
		if (sins[i].sin == SIN_STORM) {
			device_kill(&p->device);
			device_start(&p->device);
		}
		pair_well(p);
	}
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	assert_true(after.kib < before.kib + 1024);
}

static void g6_what_the_backend_did_is_logged(void **state)
{
	struct pair *p = *state;

	pair_up(p);
	for (size_t i = 0; i < ARRAY(sins); i++) {
		if (!sins[i].logged)
			continue;
		/* Each in a relay of its own: the log is limited in its rate. */
		p->device.script->times = 1;
		p->device.script->sin = sins[i].sin;
		vm_echo_start(&p->vm, 0);
		answer_or_kill(p, 0);
		vm_echo_end(&p->vm, 0, sins[i].answered);
		p->device.script->sin = SIN_NONE;
		if (i == 0)
			peers_wait_log(p->rig, "refused: queue 0, backend:");
	}
	pair_well(p);
}

/* With everything wrong all the time nothing gets done, and nothing else happens either. */
static void g4_a_backend_that_only_sins_does_no_harm(void **state)
{
	struct pair *p = *state;
	struct weight before, after;

	pair_up(p);
	pair_well(p);
	before = relay_weight(p->rig);
	for (enum sin sin = SIN_ID_RANGE; sin < SIN_SINS; sin++) {
		uint32_t id, len;

		p->device.script->times = UINT32_MAX;
		p->device.script->sin = sin;
		vm_echo_start(&p->vm, 0);
		vm_echo_start(&p->vm, 1);
		poll(NULL, 0, 60);
		device_kill(&p->device);
		p->device.script->sin = SIN_NONE;
		p->device.script->times = 0;
		device_start(&p->device);
		for (unsigned int q = 0; q < VM_RINGS; q++)
			vm_wait(&p->vm, q, &id, &len);
		vm_check(&p->vm);
		p->device.script->dirty = 0;
		pair_well(p);
	}
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	assert_true(after.kib < before.kib + 1024);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TEST(g1_without_a_relay_the_device_sees_all, pair_direct_split),
		PAIR_TEST(g1_without_a_relay_the_device_sees_all, pair_direct_packed),
		PAIR_TEST(g3_short_answers_leave_the_rest_as_it_was, pair_direct_split),
		PAIR_TEST(g3_short_answers_leave_the_rest_as_it_was, pair_direct_packed),
		PAIR_TEST(g5_answers_in_any_order_find_their_chains, pair_direct_split),
		PAIR_TEST(g5_answers_in_any_order_find_their_chains, pair_direct_packed),
		PAIR_TESTS(g1_chains_pass_and_nothing_else_does),
		PAIR_TESTS(g3_short_answers_leave_the_rest_as_it_was),
		PAIR_TESTS(g5_answers_in_any_order_find_their_chains),
		PAIR_TEST(g2_much_in_flight_leaves_nothing, pair_split),
		PAIR_TEST(g2_much_in_flight_leaves_nothing, pair_packed),
		PAIR_TESTS(g4_no_used_entry_harms),
		PAIR_TESTS(g6_what_the_backend_did_is_logged),
		PAIR_TESTS(g4_a_backend_that_only_sins_does_no_harm),
		PAIR_THREADS_TESTS(g5_answers_in_any_order_find_their_chains),
		PAIR_TEST(g4_no_used_entry_harms, pair_threads_split),
		PAIR_TEST(g4_a_backend_that_only_sins_does_no_harm, pair_threads_packed),
		PAIR_TEST(g4_no_used_entry_harms, pair_in_order_split),
		PAIR_TEST(g4_no_used_entry_harms, pair_in_order_packed),
		PAIR_TEST(g4_a_backend_that_only_sins_does_no_harm, pair_in_order_split),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("a hostile backend", tests, NULL, NULL);
}
