/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_in_order.c - IN_ORDER on either side of mode shadow, and those who break it
 *
 * Theory of operation: the feature is negotiated on each side by itself. A guest that has taken it gets its
 * chains back in the order in which it offered them, whatever the device does; a device that has taken it
 * may answer several chains by one used entry. What a device that breaks its promise can do is what any
 * hostile device can: nothing to the guest's other memory (G1..G4), and the operator is told (G6).
 */
#include <string.h>
#include <unistd.h>

#include "pair.h"

#define OUT 5u
#define IN  40u

static const struct pairing guest_split = {"guest, split", false, false, false, true, false, 0};
static const struct pairing guest_packed = {"guest, packed", true, false, false, true, false, 0};
static const struct pairing guest_both_packed = {
	"guest, both packed", true, true, false, true, false, 0};
static const struct pairing device_split = {"device, split", false, false, false, false, true, 0};
static const struct pairing device_packed = {"device, packed", false, true, false, false, true, 0};

static void offer_all(struct vm *v, uint8_t seed, uint16_t *ids, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		const struct piece pieces[] = {{VM_BUFFER + 0x100 * i, 1, false},
					       {VM_BUFFER + 0x1000 * (i + 1), IN, true}};
		const uint8_t byte = (uint8_t)(seed + i);

		vm_write(v, pieces[0].gpa, &byte, 1);
		ids[i] = vm_offer(v, 0, pieces, 2);
	}
	vm_kick(v, 0);
}

static void right(struct vm *v, uint8_t seed, unsigned int i, uint32_t len)
{
	for (uint32_t j = 0; j < len; j++)
		assert_int_equal(*vm_at(v, VM_BUFFER + 0x1000 * (i + 1) + j),
				 (uint8_t)(seed + i) ^ 0xa5);
}

static void back_in_order(struct vm *v, uint8_t seed, const uint16_t *ids, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		uint32_t id, len;

		vm_wait(v, 0, &id, &len);
		assert_int_equal(id, ids[i]);
		assert_int_equal(len, IN);
		right(v, seed, i, IN);
	}
	vm_check(v);
}

static void g5_a_guest_gets_them_in_its_order(void **state)
{
	struct pair *p = *state;
	uint16_t ids[OUT];

	pair_up(p);
	for (unsigned int round = 0; round < 20; round++) {
		p->device.script->reverse = true;
		p->device.script->pause = round < 3 ? 5000 : 0;
		offer_all(&p->vm, (uint8_t)(7 * round), ids, 4);
		back_in_order(&p->vm, (uint8_t)(7 * round), ids, 4);
	}
	p->device.script->reverse = false;
	p->device.script->pause = 0;
	pair_well(p);
	assert_int_equal(p->device.script->connections, 1);
}

/* What a dead device had answered is not asked again, nor given back before its turn. */
static void g5_answers_that_wait_outlive_the_device(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;
	uint16_t ids[OUT];
	uint32_t id, len, chains;

	pair_up(p);
	p->device.script->keep = 2;
	chains = p->device.script->chains;
	offer_all(v, 1, ids, OUT);
	device_wait(&p->device, &p->device.script->chains, chains + OUT);
	usleep(50000);
	assert_false(vm_poll(v, 0, &id, &len));
	device_kill(&p->device);
	p->device.script->keep = 0;
	device_start(&p->device);
	back_in_order(v, 1, ids, OUT);
	assert_int_equal(p->device.script->chains, chains + OUT + 2);
	pair_well(p);
}

/* One used entry for several chains, of which only the last one's length is said. */
static void g3_a_batch_is_taken_apart(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;
	uint16_t ids[OUT];

	pair_up(p);
	p->device.script->batch = true;
	for (unsigned int round = 0; round < 40; round++) {
		const uint8_t seed = (uint8_t)(11 * round);

		offer_all(v, seed, ids, 1 + round % 5);
		back_in_order(v, seed, ids, 1 + round % 5);
	}
	p->device.script->batch = false;
	pair_well(p);
	assert_int_equal(p->device.script->connections, 1);
}

/* A later one first, which it has promised not to do. */
static void g6_a_device_that_breaks_the_order_is_told_off(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;
	uint16_t ids[OUT];

	pair_up(p);
	p->device.script->reverse = true;
	p->device.script->pause = 30000;
	offer_all(v, 3, ids, 4);
	if (!p->pairing->device_packed)
		peers_wait_log(p->rig, "a chain is used before an earlier one");
	p->device.script->reverse = false;
	p->device.script->pause = 0;
	/* In a packed ring it reads as one entry for all: they were answered by then. */
	back_in_order(v, 3, ids, 4);
	pair_well(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TEST(g5_a_guest_gets_them_in_its_order, guest_split),
		PAIR_TEST(g5_a_guest_gets_them_in_its_order, guest_packed),
		PAIR_TEST(g5_a_guest_gets_them_in_its_order, guest_both_packed),
		PAIR_TEST(g5_answers_that_wait_outlive_the_device, guest_split),
		PAIR_TEST(g5_answers_that_wait_outlive_the_device, guest_both_packed),
		PAIR_TEST(g3_a_batch_is_taken_apart, device_split),
		PAIR_TEST(g3_a_batch_is_taken_apart, device_packed),
		PAIR_TEST(g3_a_batch_is_taken_apart, pair_in_order_split),
		PAIR_TEST(g3_a_batch_is_taken_apart, pair_in_order_packed),
		PAIR_TEST(g6_a_device_that_breaks_the_order_is_told_off, device_split),
		PAIR_TEST(g6_a_device_that_breaks_the_order_is_told_off, pair_in_order_split),
		PAIR_TEST(g6_a_device_that_breaks_the_order_is_told_off, pair_in_order_packed),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("in order", tests, NULL, NULL);
}
