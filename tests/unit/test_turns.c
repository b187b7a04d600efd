/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_turns.c - no device starves another (G5), by counting and not by time
 *
 * Theory of operation: one thread plays all devices, so that every order is the worst one and every
 * run the same. Pages of one device are replaced at random, which by itself never lets a long run
 * come together; another device needs one. Others never come back, or need what cannot be had. The
 * same with threads is in tests/model/test_devices.c.
 */
#include <stdlib.h>

#include "rig.h"

#define MiB  (1024u * 1024u)
#define POOL (2 * MiB)
#define PAGE 4096u
#define MOST (POOL / PAGE)

static uint8_t buf[POOL];
static struct rig rig;

struct device {
	struct sluice_dma dma;
	struct sluice_dma_stats *stats;
	uint64_t addr[MOST];
	uint32_t n;
};

static void device_open(struct device *device, uint16_t id)
{
	device->n = 0;
	device->stats = calloc(rig.mem->pool.n_caches, sizeof(*device->stats));
	assert_non_null(device->stats);
	sluice_dma_init(&device->dma, &rig.mem->pool, id, device->stats);
}

static void device_close(struct device *device)
{
	sluice_dma_close(&device->dma);
	free(device->stats);
}

static int map(struct device *device, uint64_t len)
{
	int ret = sluice_dma_map(&device->dma, (uintptr_t)buf, len, SLUICE_TO_DEVICE,
				 &device->addr[device->n]);

	device->n += ret == 0;
	return ret;
}

static void unmap(struct device *device, uint32_t i, uint64_t len)
{
	assert_int_equal(sluice_dma_unmap(&device->dma, device->addr[i], len, SLUICE_TO_DEVICE, 0),
			 0);
	device->addr[i] = device->addr[--device->n];
}

static struct sluice_dma_stats stats_of(struct device *device)
{
	struct sluice_dma_stats stats;

	sluice_dma_get_stats(&device->dma, &stats);
	return stats;
}

/* One step of a device that always has as many pages as it can get. Returns how many it got. */
static uint32_t greedy_step(struct device *device, uint64_t *seed)
{
	uint32_t got = 0;

	if (device->n)
		unmap(device, (uint32_t)(rig_random(seed) % device->n), PAGE);
	while (map(device, PAGE) == 0)
		got++;
	return got;
}

/* G5: a device that takes every page as soon as it is free, and one that needs many in one piece. */
static void g5_the_largest_mapping_gets_through(void **state)
{
	static struct device greedy, victim;
	uint64_t seed = 1, len;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&greedy, 1);
	device_open(&victim, 2);
	len = sluice_dma_max_mapping(&victim.dma);
	(void)greedy_step(&greedy, &seed);
	for (int round = 0; round < 20; round++) {
		uint32_t passed = 0, steps = 0;

		while (map(&victim, len)) {
			passed += greedy_step(&greedy, &seed);
			/* Each step gives back a page at least: in so many the pool is empty. */
			assert_true(++steps <= SLUICE_TURN_PASSES + MOST);
			assert_true(passed <= SLUICE_TURN_PASSES);
		}
		/* Otherwise nobody was in the way. */
		assert_true(passed > 0);
		unmap(&victim, 0, len);
		(void)greedy_step(&greedy, &seed);
	}
	assert_int_equal(stats_of(&victim).waited, 20);
	assert_int_equal(stats_of(&victim).lapsed, 0);
	assert_true(stats_of(&greedy).turned_away > 0);
	assert_true(stats_of(&greedy).turned_away <= stats_of(&greedy).full);
	device_close(&victim);
	device_close(&greedy);
	rig_close(&rig);
}

/* G5: several that need as much as there is. Each has its turn before another has a second one. */
static void g5_turns_go_round(void **state)
{
	enum { DEVICES = 5 };
	static struct device greedy, device[DEVICES];
	uint32_t served[DEVICES] = {0}, total = 0;
	uint64_t seed = 2;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&greedy, 1);
	for (uint16_t d = 0; d < DEVICES; d++)
		device_open(&device[d], (uint16_t)(d + 2));
	(void)greedy_step(&greedy, &seed);
	for (uint32_t steps = 0; total < 50; steps++) {
		uint32_t least = UINT32_MAX, most = 0;

		assert_true(steps <= 50 * (SLUICE_TURN_PASSES + MOST));
		(void)greedy_step(&greedy, &seed);
		for (uint32_t d = 0; d < DEVICES; d++) {
			if (device[d].n)
				unmap(&device[d], 0, POOL / 2 + PAGE);
			else if (!map(&device[d], POOL / 2 + PAGE))
				served[d]++, total++;
			least = served[d] < least ? served[d] : least;
			most = served[d] > most ? served[d] : most;
		}
		assert_true(most - least <= 1);
	}
	/* The one with small requests has not been forgotten over it. */
	assert_true(stats_of(&greedy).maps > 50 / DEVICES * SLUICE_TURN_PASSES);
	for (uint32_t d = 0; d < DEVICES; d++)
		device_close(&device[d]);
	device_close(&greedy);
	rig_close(&rig);
}

/* G5: a list is waited for as a whole, not for the first element that did not fit. */
static void g5_a_list_gets_through(void **state)
{
	enum { ELEMENTS = 12 };
	static struct device greedy, victim;
	struct sluice_sg sg[ELEMENTS];
	uint64_t seed = 3;
	uint32_t passed = 0;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&greedy, 1);
	device_open(&victim, 2);
	(void)greedy_step(&greedy, &seed);
	/* Three quarters of the pool, the last element the longest. */
	for (uint32_t i = 0; i < ELEMENTS; i++)
		sg[i] = (struct sluice_sg){.orig = (uintptr_t)buf,
					   .len = i < ELEMENTS - 1 ? 100000u : POOL / 5};
	while (sluice_dma_map_sg(&victim.dma, sg, ELEMENTS, SLUICE_TO_DEVICE)) {
		passed += greedy_step(&greedy, &seed);
		assert_true(passed <= SLUICE_TURN_PASSES);
	}
	assert_int_equal(stats_of(&victim).waited, 1);
	/* And the turn ends with it. */
	assert_true(greedy_step(&greedy, &seed) > 0 || map(&greedy, PAGE) == -ENOSPC);
	assert_int_equal(rig.mem->pool.turn_first == &victim.dma, 0);
	device_close(&victim);
	device_close(&greedy);
	rig_close(&rig);
}

/* A driver that drops what does not fit does not keep others waiting where there is room. */
static void who_never_comes_back_keeps_nobody_out(void **state)
{
	static struct device other, absent;
	uint64_t seed = 4, got = 0;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&other, 1);
	device_open(&absent, 2);
	(void)greedy_step(&other, &seed);
	assert_int_equal(map(&absent, 64 * 1024), -ENOSPC);
	while (other.n)
		unmap(&other, 0, PAGE);
	for (uint32_t i = 0; i < 10 * SLUICE_TURN_PASSES; i++) {
		assert_int_equal(map(&other, PAGE), 0);
		unmap(&other, 0, PAGE);
	}
	assert_int_equal(stats_of(&other).turned_away, 0);
	/* And is forgotten, so that maps are as quick as ever. */
	for (uint32_t i = 0; i < SLUICE_TURN_FORGET; i++) {
		assert_int_equal(map(&other, PAGE), 0);
		unmap(&other, 0, PAGE);
	}
	assert_null(rig.mem->pool.turn_first);
	(void)greedy_step(&other, &seed);
	assert_int_equal(map(&absent, 64 * 1024), -ENOSPC);
	/* Where there is none, for a bounded number of tries; it is the other's own that is needed. */
	for (uint32_t i = 0; i < 10 * SLUICE_TURN_PASSES; i++)
		got += greedy_step(&other, &seed);
	assert_true(got >= 5 * SLUICE_TURN_PASSES);
	device_close(&absent);
	assert_int_equal(rig.mem->pool.turn_first == &absent.dma, 0);
	device_close(&other);
	rig_close(&rig);
}

/* What cannot be had, because something that never ends is in the way, costs others less and less. */
static void what_is_not_to_be_had_costs_little(void **state)
{
	static struct device other, hopeless;
	uint64_t ring[2], seed = 5, before;
	void *cpu;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&other, 1);
	device_open(&hopeless, 2);
	assert_int_equal(sluice_dma_alloc(&other.dma, PAGE, &ring[0], &cpu), 0);
	assert_int_equal(sluice_dma_alloc(&other.dma, PAGE, &ring[1], &cpu), 0);
	for (int i = 0; i < 20000; i++) {
		assert_int_equal(map(&hopeless, POOL - PAGE), -ENOSPC);
		(void)greedy_step(&other, &seed);
	}
	assert_true(stats_of(&hopeless).lapsed > 5);
	before = stats_of(&other).maps;
	for (int i = 0; i < 20000; i++) {
		assert_int_equal(map(&hopeless, POOL - PAGE), -ENOSPC);
		(void)greedy_step(&other, &seed);
	}
	/* Two maps in three steps, where three in three were possible. */
	assert_true(stats_of(&other).maps - before > 20000 / 3 * 2);
	/* And is had when it can be. */
	assert_int_equal(sluice_dma_free(&other.dma, ring[0], PAGE), 0);
	assert_int_equal(sluice_dma_free(&other.dma, ring[1], PAGE), 0);
	for (uint32_t steps = 0; map(&hopeless, POOL - PAGE); steps++) {
		assert_true(steps <= 2 * (SLUICE_TURN_PASSES + MOST));
		(void)greedy_step(&other, &seed);
	}
	device_close(&hopeless);
	device_close(&other);
	rig_close(&rig);
}

/* A turn is for what was waited for. Memory for rings is not a matter of turns. */
static void a_turn_is_not_for_ever(void **state)
{
	static struct device greedy, victim;
	uint64_t seed = 6, ring;
	uint32_t small = 0;
	void *cpu;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&greedy, 1);
	device_open(&victim, 2);
	(void)greedy_step(&greedy, &seed);
	while (!victim.dma.turn.insists) {
		assert_int_equal(map(&victim, POOL / 2), -ENOSPC);
		(void)greedy_step(&greedy, &seed);
	}
	unmap(&greedy, 0, PAGE);
	assert_int_equal(map(&greedy, PAGE), -ENOSPC);
	assert_int_equal(sluice_dma_alloc(&greedy.dma, PAGE, &ring, &cpu), 0);
	assert_int_equal(sluice_dma_free(&greedy.dma, ring, PAGE), 0);
	while (map(&greedy, PAGE)) {
		assert_int_equal(map(&victim, PAGE), 0);
		unmap(&victim, 0, PAGE);
		assert_true(++small <= SLUICE_TURN_SMALL);
	}
	assert_int_equal(stats_of(&victim).lapsed, 1);
	device_close(&victim);
	device_close(&greedy);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g5_the_largest_mapping_gets_through),
		cmocka_unit_test(g5_turns_go_round),
		cmocka_unit_test(g5_a_list_gets_through),
		cmocka_unit_test(who_never_comes_back_keeps_nobody_out),
		cmocka_unit_test(what_is_not_to_be_had_costs_little),
		cmocka_unit_test(a_turn_is_not_for_ever),
	};

	return cmocka_run_group_tests_name("turns", tests, NULL, NULL);
}
