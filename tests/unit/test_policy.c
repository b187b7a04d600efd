/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_policy.c - which way a transfer takes, decided by numbers
 *
 * Theory of operation: cost tables are filled with straight lines, whose crossing is known.
 */
#include <sluice/policy.h>

#include "rig.h"

#define G 4096u

/* Costs: a line through two points, and what follows from two lines. */
static void costs_decide(void **state)
{
	static struct sluice_costs costs;
	struct sluice_policy policy = {.kind = SLUICE_POLICY_AUTO, .costs = &costs};

	(void)state;
	memset(&costs, 0, sizeof(costs));
	memset(costs.cut, 0xff, sizeof(costs.cut));
	assert_int_equal(sluice_policy_route(&policy, 0, 1u << 20, 1, false, true),
			 SLUICE_ROUTE_BOUNCE); /* not known */
	for (uint32_t i = 0; i < SLUICE_COST_POINTS; i++) {
		uint64_t len = UINT64_C(64) << i;

		/* 1000 + len / 16 against 11000 + len / 64: even at 213333 bytes. */
		for (uint32_t phase = 0; phase < 2; phase++) {
			sluice_costs_set(&costs, costs.bounce[1], (enum sluice_phase)phase, i,
					 500 + len / 32);
			sluice_costs_set(&costs, costs.share[0], (enum sluice_phase)phase, i,
					 5500 + len / 128);
		}
	}
	assert_in_range(sluice_costs_break_even(&costs, false, 1), 213300, 213400);
	assert_int_equal(sluice_policy_route(&policy, 0, 52 * G, 1, false, true),
			 SLUICE_ROUTE_BOUNCE);
	assert_int_equal(sluice_policy_route(&policy, 0, 53 * G, 1, false, true),
			 SLUICE_ROUTE_SHARE);
	/* The other direction and split ones have no figures. */
	assert_int_equal(sluice_policy_route(&policy, 0, 53 * G, 2, false, true),
			 SLUICE_ROUTE_BOUNCE);
	assert_int_equal(sluice_policy_route(&policy, 1, 53 * G, 1, false, true),
			 SLUICE_ROUTE_BOUNCE);
	/* Sharing gets four times dearer: the tables follow. */
	for (uint32_t i = 0; i < 2000; i++) {
		uint64_t len = (1 + i % 256) * G;

		for (uint32_t phase = 0; phase < 2; phase++)
			sluice_costs_learn(&costs, costs.share[0], (enum sluice_phase)phase, len,
					   4 * (5500 + len / 128));
	}
	assert_int_equal(sluice_policy_route(&policy, 0, 100 * G, 1, false, true),
			 SLUICE_ROUTE_BOUNCE);
	/* One outlier moves nothing much. */
	uint64_t before = sluice_costs_of(costs.bounce[1], 64 * G);
	sluice_costs_learn(&costs, costs.bounce[1], SLUICE_PHASE_MAP, 64 * G, UINT32_MAX);
	assert_true(sluice_costs_of(costs.bounce[1], 64 * G) <= before * 9 / 8);
}

/* What auto starts from is what docs/SURVEY.md assumes: 5 us against copying break even where it says. */
static void it_starts_where_the_survey_says(void **state)
{
	static struct sluice_costs costs;
	struct sluice_policy policy = {.kind = SLUICE_POLICY_AUTO, .costs = &costs};

	(void)state;
	sluice_costs_start(&costs, SLUICE_START_SHARE, SLUICE_START_COPY);
	assert_in_range(sluice_costs_break_even(&costs, false, SLUICE_FROM_DEVICE), 44u << 10,
			45u << 10);
	assert_in_range(sluice_costs_break_even(&costs, false, SLUICE_TO_DEVICE), 74u << 10,
			75u << 10);
	assert_true(sluice_costs_break_even(&costs, true, SLUICE_TO_DEVICE) > 75u << 10);
	assert_int_equal(sluice_policy_route(&policy, 0, 11 * G, SLUICE_FROM_DEVICE, false, true),
			 SLUICE_ROUTE_BOUNCE);
	assert_int_equal(sluice_policy_route(&policy, 0, 12 * G, SLUICE_FROM_DEVICE, false, true),
			 SLUICE_ROUTE_SHARE);
	/* From there on it follows: here sharing takes a tenth. */
	for (uint32_t i = 0; i < 200; i++) {
		for (uint32_t phase = 0; phase < 2; phase++)
			sluice_costs_learn(&costs, costs.share[0], (enum sluice_phase)phase,
					   (2 + i % 14) * G, 250);
	}
	assert_int_equal(sluice_policy_route(&policy, 0, 6 * G, SLUICE_FROM_DEVICE, false, true),
			 SLUICE_ROUTE_SHARE);
}

/* A partial granule is never shared, whatever the policy. */
static void g2_routes(void **state)
{
	struct sluice_policy policy = {.kind = SLUICE_POLICY_SHARE};

	(void)state;
	for (uint64_t orig = 0; orig < 2 * G; orig += 37) {
		for (uint64_t len = 1; len < 4 * G; len += 61) {
			uint64_t first = (orig + G - 1) / G * G;
			enum sluice_route route =
				sluice_policy_route(&policy, orig, len, 0, false, true);

			if (orig % G == 0 && len % G == 0)
				assert_int_equal(route, SLUICE_ROUTE_SHARE);
			else if (orig + len >= first + G)
				assert_int_equal(route, SLUICE_ROUTE_SPLIT);
			else
				assert_int_equal(route, SLUICE_ROUTE_BOUNCE);
			if (route == SLUICE_ROUTE_SPLIT)
				assert_int_equal(
					sluice_policy_route(&policy, orig, len, 0, false, false),
					SLUICE_ROUTE_BOUNCE);
		}
	}
	assert_int_equal(sluice_policy_route(&policy, UINT64_MAX - 2 * G, G, 0, false, true),
			 SLUICE_ROUTE_BOUNCE);
}
int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(costs_decide),
		cmocka_unit_test(it_starts_where_the_survey_says),
		cmocka_unit_test(g2_routes),
	};

	return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
