/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_auto.c - auto follows what mappings cost, at a cost of its own that is bounded
 *
 * Theory of operation: a device with virtio-iommu and a clock of the test's. A map or an unmap that is
 * bounced takes BOUNCE, one in place what the test says: so the price of both ways is known to the
 * nanosecond, whatever the machine does, and what auto makes of it is a matter of arithmetic.
 */
#include <sched.h>

#include "rig.h"
#include "world.h"

#define BOUNCE 1000u
#define SELDOM 4096u /* mappings in place, after which anybody is due */

static struct world world;
static uint64_t time_now;
static bool asked;	    /* the mechanism, since the last look at the clock */
static uint64_t price;	    /* of a request */
static uint64_t price_cold; /* of one that does not follow another mapping in place, added */
static uint32_t cold = 3;   /* how many, that is */
static uint32_t in_a_row;   /* mappings in place since the last that bounced */
static uint64_t spent;	    /* by requests */

static uint64_t clock_look(void *context)
{
	(void)context;
	time_now += asked ? 0 : BOUNCE;
	asked = false;
	return time_now;
}

static void request(struct world *w)
{
	(void)w;
	asked = true;
	spent += price + (in_a_row < cold ? price_cold : 0);
	time_now += price + (in_a_row < cold ? price_cold : 0);
}

/* Both ways cost the same at all lengths. clock: what auto takes off as the clock's own. */
static void open_world(uint64_t bounce, uint64_t share, uint64_t clock)
{
	assert_true(world_open(&world, WORLD_IOMMU));
	time_now = 0;
	in_a_row = 0;
	price_cold = 0;
	cold = 3;
	spent = 0;
	world.trip = request;
	world.place.config.clock = clock_look;
	world.place.clock_cost = clock;
	world.dma.policy.kind = SLUICE_POLICY_AUTO;
	for (uint32_t i = 0; i < SLUICE_COST_POINTS; i++) {
		for (uint32_t phase = 0; phase < 2; phase++) {
			sluice_costs_set(&world.costs, world.costs.bounce[SLUICE_TO_DEVICE],
					 (enum sluice_phase)phase, i, bounce / 2);
			sluice_costs_set(&world.costs, world.costs.share[0],
					 (enum sluice_phase)phase, i, share / 2);
		}
	}
}

/* Map and unmap once: true if it was in place. */
static bool transfer(uint64_t len)
{
	uint64_t addr;
	bool placed;

	assert_int_equal(
		sluice_dma_map(&world.dma, (uintptr_t)world.buffers, len, SLUICE_TO_DEVICE, &addr),
		0);
	placed = addr - world.pool.dev >= 8u << 20;
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, len, SLUICE_TO_DEVICE, 0), 0);
	in_a_row = placed ? in_a_row + 1 : 0;
	return placed;
}

static uint32_t transfers(uint64_t len, uint32_t n)
{
	uint32_t placed = 0;

	for (uint32_t i = 0; i < n; i++)
		placed += transfer(len);
	return placed;
}

/* A driver whose every 256th mapping is another kind: neither kind is lost sight of. */
static void a_rhythm_hides_nothing(void **state)
{
	static const uint32_t rhythms[] = {2, 16, 256, 512};

	(void)state;
	for (uint32_t r = 0; r < sizeof(rhythms) / sizeof(*rhythms); r++) {
		uint32_t placed = 0;

		open_world(2 * BOUNCE, 200, 0);
		price = 20 * BOUNCE;
		for (uint32_t i = 0; i < 1u << 17; i++)
			(void)transfer(i % rhythms[r] ? 65536 : 4096);
		for (uint32_t i = 0; i < 4096; i++)
			placed += transfer(i % rhythms[r] ? 65536 : 4096);
		print_message("# 1 of %u another kind: %u of 4096 in place\n", rhythms[r], placed);
		assert_in_range(placed, 0, 4096 / 64);
		world_close(&world);
	}
}

/* What is seldom done finds everything cold, which is not what it would cost if it were the rule. */
static void the_first_of_a_row_does_not_count(void **state)
{
	uint32_t placed;

	(void)state;
	/* The clock's own cost is such that all is cheap. In a row a share takes 600, alone 6600. */
	open_world(2 * BOUNCE, 6600, 100);
	price = 300;
	price_cold = 3000;
	(void)transfers(16384, 1u << 18);
	placed = transfers(16384, 4096);
	print_message("# %u of 4096 in place\n", placed);
	assert_in_range(placed, 4096 - 64, 4096);
	world_close(&world);
}

/* Either way may become the cheaper one, and is then taken. */
static void changes_are_followed(void **state)
{
	(void)state;
	open_world(2 * BOUNCE, 200 * BOUNCE, 0);
	price = 100 * BOUNCE;
	assert_in_range(transfers(16384, 20000), 0, 200);
	price = BOUNCE / 4;
	(void)transfers(16384, 1u << 18);
	assert_in_range(transfers(16384, 4096), 4096 - 64, 4096);
	price = 10 * BOUNCE;
	(void)transfers(16384, 20000);
	assert_in_range(transfers(16384, 4096), 0, 64);
	world_close(&world);
}

/* However bad the other way is, trying it takes no more than 0.4 % of the time. */
static void looking_is_bounded(void **state)
{
	static const uint64_t dear[] = {2, 10, 100, 1000};
	struct sluice_place_stats stats;

	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		uint64_t all = 0;

		open_world(2 * BOUNCE, 2 * BOUNCE * dear[i], 0);
		price = BOUNCE * dear[i];
		for (uint32_t k = 0; k < 200000; k++)
			all += transfer(16384) ? 0 : 2 * BOUNCE;
		sluice_place_get_stats(&world.dma, &stats);
		print_message("# %lu times as dear: tried %lu times\n", (unsigned long)dear[i],
			      (unsigned long)stats.explored);
		assert_int_equal(stats.explored > 0, dear[i] <= 100);
		assert_true(stats.explored * 2 * BOUNCE * dear[i] <= all / 256);
		world_close(&world);
	}
}

/* Not even if it takes longer than it did when it was learnt from: the first of two, to a peer asleep. */
static void looking_is_paid_for(void **state)
{
	uint64_t all = 0;

	(void)state;
	open_world(2 * BOUNCE, 6 * BOUNCE, 0);
	price = 3 * BOUNCE;
	price_cold = 50 * BOUNCE;
	cold = 1;
	for (uint32_t i = 0; i < 1u << 19; i++)
		all += transfer(16384) ? 0 : 2 * BOUNCE;
	print_message("# %lu of %lu spent\n", (unsigned long)spent, (unsigned long)all);
	assert_in_range(spent, all / 1024, all / 128);
	world_close(&world);
}

/* Nor does timing: what takes no longer than looking at the clock is timed the more seldom. */
static void timing_is_bounded(void **state)
{
	static const uint64_t prices[] = {1, 10, 100, 1000, 10000};
	const uint64_t clock = 20, maps = 1u << 18;
	struct sluice_place_stats stats;

	(void)state;
	for (uint32_t i = 0; i < sizeof(prices) / sizeof(*prices); i++) {
		uint64_t most = maps / 256,
			 seldom = maps * (prices[i] + clock) / (32 * clock * 256);

		open_world(20000 * BOUNCE, prices[i], clock);
		price = prices[i] + clock;
		(void)transfers(4096, (uint32_t)maps);
		sluice_place_get_stats(&world.dma, &stats);
		print_message("# %lu a mapping: timed %lu of %lu\n", (unsigned long)prices[i],
			      (unsigned long)stats.sampled, (unsigned long)(2 * maps));
		most = seldom < most ? seldom : most;
		most = most < maps / 4096 ? maps / 4096 : most;
		/* Maps and unmaps; drawn, so that it is about that many. */
		assert_in_range(stats.sampled, most, 3 * most);
		world_close(&world);
	}
}

/* A CPU that began a row and maps no more does not keep the others from learning. */
static void a_row_can_be_left_alone(void **state)
{
	struct sluice_place_stats before, after;

	(void)state;
	open_world(20 * BOUNCE, BOUNCE, 0);
	price = BOUNCE / 2;
	(void)transfers(4096, 4096);
	world.place.due = 4000;
	world.place.left = SELDOM;
	sluice_place_get_stats(&world.dma, &before);
	(void)transfers(4096, SELDOM - 1);
	sluice_place_get_stats(&world.dma, &after);
	assert_int_equal(after.sampled, before.sampled);
	(void)transfers(4096, 4096);
	sluice_place_get_stats(&world.dma, &after);
	assert_in_range(after.sampled - before.sampled, 16, 256);
	world_close(&world);
}

/* A clock that costs nothing to look at: BOUNCE for each map and unmap that was bounced. */
static uint64_t clock_of_bounces(void *context)
{
	static uint64_t seen;
	struct sluice_dma_stats stats;

	(void)context;
	sluice_dma_get_stats(&world.dma, &stats);
	time_now += BOUNCE * (stats.maps + stats.unmaps - seen);
	seen = stats.maps + stats.unmaps;
	return time_now;
}

/*
 * A device that asks for each granule does so when nobody times it: auto reckons that a question takes as long as the
 * unmap of one granule, at the start and as it follows.
 */
static void what_a_device_asks_for_counts(void **state)
{
	(void)state;
	for (uint32_t asks = 0; asks < 2; asks++) {
		uint32_t shorter, longer;

		open_world(2 * BOUNCE, 800, 0);
		price = 400;
		world.place.config.asks = asks;
		world.place.config.clock = clock_of_bounces;
		assert_int_equal(
			sluice_place_measure(&world.dma, (uintptr_t)world.buffers, 1u << 20, 3), 0);
		for (uint32_t i = 0; i < 2; i++) {
			shorter = transfers(4096, 4096);
			longer = transfers(65536, 1u << 16);
			print_message("# asks %u: in place %u of 4096 short, %u of %u long\n", asks,
				      shorter, longer, 1u << 16);
			assert_in_range(shorter, 4096 - 4096 / 64, 4096);
			if (asks)
				assert_in_range(longer, 0, (1u << 16) / 64);
			else
				assert_in_range(longer, (1u << 16) - (1u << 16) / 64, 1u << 16);
		}
		world_close(&world);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_rhythm_hides_nothing),
		cmocka_unit_test(the_first_of_a_row_does_not_count),
		cmocka_unit_test(changes_are_followed),
		cmocka_unit_test(looking_is_bounded),
		cmocka_unit_test(looking_is_paid_for),
		cmocka_unit_test(timing_is_bounded),
		cmocka_unit_test(a_row_can_be_left_alone),
		cmocka_unit_test(what_a_device_asks_for_counts),
	};
	cpu_set_t here;

	/* What auto has seen is kept by CPU: to be moved to another would make it a matter of luck. */
	CPU_ZERO(&here);
	CPU_SET((size_t)sched_getcpu(), &here);
	if (sched_setaffinity(0, sizeof(here), &here))
		return 1;

	return cmocka_run_group_tests(tests, NULL, NULL);
}
