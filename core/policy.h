/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * policy.h - the part of a decision that is made for each mapping
 *
 * Theory of operation: see sluice/policy.h. It stands here so that it becomes part of the mapping itself:
 * where sharing takes some 60 ns, a call and a table of three dimensions were 2 % of it.
 */
#ifndef SLUICE_CORE_POLICY_H
#define SLUICE_CORE_POLICY_H

#include <sluice/policy.h>

/* The point at or below a length; lengths outside the table go by its ends. */
static inline uint32_t sluice_policy_point(uint64_t len)
{
	uint32_t log = 63u - (uint32_t)__builtin_clzll(len | 1);

	if (log < SLUICE_COST_FIRST)
		return 0;
	log -= SLUICE_COST_FIRST;
	return log < SLUICE_COST_POINTS - 1 ? log : SLUICE_COST_POINTS - 2;
}

/* auto: is sharing the cheaper way? dir is an enum sluice_dir. */
static inline bool sluice_policy_pays(const struct sluice_policy *policy, uint64_t len,
				      uint32_t dir, bool split)
{
	if (policy->break_even || !policy->costs)
		return policy->break_even && len >= policy->break_even;
	return len > sluice_load_u32(&policy->costs->cut[sluice_policy_point(len)][split][dir]);
}

#endif
