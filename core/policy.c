/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * policy.c - which way a transfer takes
 *
 * Theory of operation: see sluice/policy.h. What may be shared is decided here, first and by
 * arithmetic; cost only chooses among what may.
 */
#include "policy.h"

#define GRANULE_MASK UINT64_C(4095)
#define LAST	     (SLUICE_COST_POINTS - 1)
#define WEIGHT	     8 /* a measurement moves a point by an eighth of the difference, at most */

static uint64_t length_of(uint32_t point)
{
	return UINT64_C(1) << (point + SLUICE_COST_FIRST);
}

enum sluice_route sluice_policy_route(const struct sluice_policy *policy, uint64_t orig,
				      uint64_t len, uint32_t dir, bool whole, bool joins)
{
	bool split = !whole && (orig | len) & GRANULE_MASK;

	if (policy->kind == SLUICE_POLICY_BOUNCE)
		return SLUICE_ROUTE_BOUNCE;
	if (split) {
		uint64_t first = (orig + GRANULE_MASK) & ~GRANULE_MASK;

		/* Not even one whole granule, or no way to have its ends elsewhere. */
		if (!joins || first < orig || orig + len < first + GRANULE_MASK + 1)
			return SLUICE_ROUTE_BOUNCE;
	}
	/* Where all is reachable, sharing is an addition: finding out more would cost more. */
	if (policy->kind == SLUICE_POLICY_AUTO && (!whole || policy->break_even) &&
	    !sluice_policy_pays(policy, len, dir, split))
		return SLUICE_ROUTE_BOUNCE;
	return split ? SLUICE_ROUTE_SPLIT : SLUICE_ROUTE_SHARE;
}

static uint64_t both(uint32_t table[2][SLUICE_COST_POINTS], uint32_t i)
{
	uint64_t map = sluice_load_u32(&table[SLUICE_PHASE_MAP][i]);
	uint64_t unmap = sluice_load_u32(&table[SLUICE_PHASE_UNMAP][i]);

	return map && unmap ? map + unmap : 0;
}

/* On the straight line through the two points beside len; beyond the last one, further along it. */
static uint64_t between(uint64_t low, uint64_t high, uint32_t i, uint64_t len)
{
	uint64_t base = length_of(i), at = len > base ? len - base : 0;

	if (high < low)
		return at >= base ? high : low - (low - high) * at / base;
	return low + (high - low) * at / base;
}

uint64_t sluice_costs_of(uint32_t table[2][SLUICE_COST_POINTS], uint64_t len)
{
	uint32_t i = sluice_policy_point(len);
	uint64_t low = both(table, i), high = both(table, i + 1);

	if (!low || !high)
		return 0;
	return between(low, high, i, len);
}

/* From which length on, between point i and the next, is sharing cheaper? */
static uint32_t cut_of(struct sluice_costs *costs, uint32_t split, uint32_t dir, uint32_t i)
{
	uint64_t share[2], bounce[2], less, more;

	for (uint32_t k = 0; k < 2; k++) {
		share[k] = both(costs->share[split], i + k);
		bounce[k] = both(costs->bounce[dir], i + k);
		if (!k && (!share[0] || !bounce[0])) /* not known: copying is always right */
			return UINT32_MAX;
		if (k && (!share[1] || !bounce[1])) /* beyond what is known, as at its end */
			return share[0] < bounce[0] ? 0 : UINT32_MAX;
	}
	if (share[0] >= bounce[0] && share[1] >= bounce[1])
		return UINT32_MAX;
	if (share[0] <= bounce[0] && share[1] <= bounce[1])
		return 0;
	/* Only shorter ones: by the shorter end, where most lengths are, and which is known better. */
	if (share[0] < bounce[0])
		return 0;
	less = share[0] - bounce[0];
	more = bounce[1] - share[1];
	return (uint32_t)(length_of(i) + length_of(i) * less / (less + more));
}

/* Points of a table from first to last have changed: the stretches beside them may cut elsewhere. */
static void recut(struct sluice_costs *costs, uint32_t table[2][SLUICE_COST_POINTS], uint32_t first,
		  uint32_t last)
{
	for (uint32_t i = first ? first - 1 : 0; i <= last && i < LAST; i++) {
		for (uint32_t k = 0; k < 6; k++) {
			if (table != costs->share[k / 3] && table != costs->bounce[k % 3])
				continue;
			sluice_store_u32(&costs->cut[i][k / 3][k % 3],
					 cut_of(costs, k / 3, k % 3, i));
		}
	}
}

static void set_point(uint32_t *point, uint64_t time)
{
	sluice_store_u32(point, time == 0 ? 1 : time > UINT32_MAX ? UINT32_MAX : (uint32_t)time);
}

void sluice_costs_set(struct sluice_costs *costs, uint32_t table[2][SLUICE_COST_POINTS],
		      enum sluice_phase phase, uint32_t i, uint64_t time)
{
	set_point(&table[phase][i], time);
	recut(costs, table, i, i);
}

void sluice_costs_start(struct sluice_costs *costs, uint64_t share, uint64_t copy)
{
	/* Halves of a copy at map and at unmap, by direction: in, clearing; in, back and clearing. */
	static const uint8_t halves[3][2] = {{2, 3}, {2, 1}, {2, 3}};

	sluice_zero(costs, sizeof(*costs));
	for (uint32_t i = 0; i < SLUICE_COST_POINTS; i++) {
		/* Both ends of a split mapping are at most two granules. */
		uint64_t half = copy * length_of(i) >> 21, ends = copy * 8192 >> 21;

		for (uint32_t dir = 0; dir < 3; dir++) {
			for (uint32_t phase = 0; phase < 2; phase++)
				set_point(&costs->bounce[dir][phase][i], halves[dir][phase] * half);
		}
		for (uint32_t phase = 0; phase < 2; phase++) {
			set_point(&costs->share[0][phase][i], share / 2);
			set_point(&costs->share[1][phase][i], share / 2 + ends);
		}
	}
	for (uint32_t dir = 0; dir < 3; dir++)
		recut(costs, costs->bounce[dir], 0, LAST);
}

static void nudge(uint32_t *point, int64_t by)
{
	int64_t next = (int64_t)sluice_load_u32(point) + by;

	set_point(point, next > 0 ? (uint64_t)next : 1);
}

void sluice_costs_learn(struct sluice_costs *costs, uint32_t table[2][SLUICE_COST_POINTS],
			enum sluice_phase phase, uint64_t len, uint64_t time)
{
	uint32_t i = sluice_policy_point(len);
	uint64_t low = sluice_load_u32(&table[phase][i]);
	uint64_t high = sluice_load_u32(&table[phase][i + 1]), known, far;
	int64_t miss;

	if (!low || !high)
		return;
	known = between(low, high, i, len);
	if (time > 2 * known)
		time = 2 * known;
	miss = (int64_t)time - (int64_t)known;
	/* How far from point i to the next, in 16ths. */
	far = len <= length_of(i) ? 0 : (len - length_of(i)) * 16 / length_of(i);
	if (far > 16)
		far = 16;
	nudge(&table[phase][i], miss * (int64_t)(16 - far) / (16 * WEIGHT));
	nudge(&table[phase][i + 1], miss * (int64_t)far / (16 * WEIGHT));
	recut(costs, table, i, i + 1);
}

/* Is there anything to go by from point i on? */
static bool known(const struct sluice_costs *costs, bool split, uint32_t dir, uint32_t i)
{
	return sluice_load_u32(&costs->share[split][0][i]) &&
	       sluice_load_u32(&costs->bounce[dir][0][i]);
}

uint32_t sluice_costs_break_even(const struct sluice_costs *costs, bool split, uint32_t dir)
{
	uint32_t even = UINT32_MAX;

	for (uint32_t i = LAST; i-- > 0;) {
		uint32_t cut = sluice_load_u32(&costs->cut[i][split][dir]);

		if (cut == UINT32_MAX && even == UINT32_MAX && !known(costs, split, dir, i))
			continue;
		if (cut == UINT32_MAX)
			break;
		even = cut ? cut : (uint32_t)length_of(i);
		if (cut)
			break;
	}
	return even;
}
