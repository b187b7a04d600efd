/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * place_auto.c - what bouncing and sharing cost, measured
 *
 * Theory of operation: see sluice/policy.h. Of every 256 bounces of a CPU one is timed, of every 256
 * mappings in place of the device one, and after it the next unmap that is long enough for there to be a
 * choice. Timing and learning cost as much as some 32 looks at the clock: where a mapping takes less than
 * that, up to 4096 go by, so that it stays 0.4 % of the time. Which one is drawn: a fixed step could fall in
 * with the driver's own rhythm, and see one kind of mapping only. Each such map also earns the CPU some
 * credit, in time: 1/256 of what the maps since the last one were worth. When there is enough for it, a
 * few maps in a row are sent the other way and the later half of them is timed: the first ones find
 * everything cold, and would make what is seldom done look dearer than it is. The cheaper a mapping, the
 * more of that shows, and the more there are in a row. Looking costs 0.4 % at most, however bad the other
 * way is.
 *
 * What only the device sees. One that translates by itself (PCI ATS, a vhost back-end with an IOTLB) has to ask
 * for each granule of a mapping in place, in its own time and after the map has returned; what stays mapped it
 * asks for once. No clock here sees that. What is seen is the way to the device and back at the unmap, which it is
 * told of and has to acknowledge: a question is taken to be as long as the unmap of one granule is when it is measured.
 */
#include "place.h"

#define CREDIT	   256u /* of the time, the part that exploring may take */
#define CHEAP	   32u	/* looks at the clock, that timing a mapping and learning from it take */
#define BURST	   2u	/* maps in a row that go the other way */
#define BURST_MAX  8u	/* of cheap ones */
#define OFTEN	   4u	/* times that what is timed of them counts, together */
#define CHARGE_MAX 64u	/* times its price, that what was tried counts at most */
#define ROUNDS_MAX 15u

static uint64_t now(const struct sluice_dma *dma)
{
	return dma->place->config.clock(dma->place->config.context);
}

static bool is_split(const struct sluice_place *place, uint64_t orig, uint64_t len)
{
	return !(place->can & SLUICE_SHARE_WHOLE) && (orig | len) & 4095;
}

/* The time since start, without what looking at the clock takes. */
static uint64_t elapsed(const struct sluice_dma *dma, uint64_t start)
{
	uint64_t time = now(dma) - start;

	return time > dma->place->clock_cost ? time - dma->place->clock_cost : 0;
}

/* What the device itself takes to get at a mapping of this length in place. */
static uint64_t asked(const struct sluice_dma *dma, uint64_t len)
{
	return dma->place->ask * ((len + 4095) / 4096);
}

static struct sluice_place_cpu *this_cpu(const struct sluice_dma *dma)
{
	return sluice_place_cpu(dma->place);
}

/* The other way, if there is one. */
static enum sluice_route other(struct sluice_dma *dma, enum sluice_route route, uint64_t orig,
			       uint64_t len, enum sluice_dir dir)
{
	const struct sluice_policy all = {.kind = SLUICE_POLICY_SHARE};
	uint32_t can = dma->place->can;

	if (route != SLUICE_ROUTE_BOUNCE)
		return SLUICE_ROUTE_BOUNCE;
	return sluice_policy_route(&all, orig, len, (uint32_t)dir, can & SLUICE_SHARE_WHOLE,
				   can & SLUICE_SHARE_JOINS);
}

/*
 * The less a mapping takes beside what timing it does, the more of them go by untimed: that many take no
 * longer, so what has changed is seen as soon.
 */
static void pace(const struct sluice_dma *dma, uint64_t time)
{
	uint64_t cost = CHEAP * dma->place->clock_cost * SLUICE_PLACE_PERIOD;
	uint32_t period = SLUICE_PLACE_PERIOD;

	while (period < SLUICE_PLACE_SELDOM && period * time < cost)
		period *= 2;
	sluice_store_u32(&this_cpu(dma)->period, period);
}

static uint32_t burst_of(const struct sluice_place_cpu *cpu)
{
	return sluice_load_u32(&cpu->period) > SLUICE_PLACE_PERIOD ? BURST_MAX : BURST;
}

/* What is explored is seen seldom, and counts more: it is what tells that something has changed. */
static uint32_t weight_of(const struct sluice_place_cpu *cpu)
{
	return OFTEN / (burst_of(cpu) / 2);
}

/* Half a period to one and a half, evenly. */
static uint32_t draw(struct sluice_place_cpu *cpu)
{
	uint32_t period = sluice_load_u32(&cpu->period);
	uint32_t seed = sluice_load_u32(&cpu->seed) * 1664525u + 1013904223u;

	sluice_store_u32(&cpu->seed, seed);
	return period / 2 + ((seed >> 16) & (period - 1));
}

/* Till the next one of this way is timed. */
static void wait_for_next(struct sluice_place *place, enum sluice_route route)
{
	struct sluice_place_cpu *cpu = sluice_place_cpu(place);
	uint32_t wait = draw(cpu);

	if (route == SLUICE_ROUTE_BOUNCE) {
		sluice_store_u32(&cpu->waited, wait);
		sluice_store_u32(&cpu->left, wait);
	} else {
		sluice_store_u32(&place->waited, wait);
		sluice_store_u32(&place->left, wait);
		sluice_store_u32(&place->due, 0);
	}
}

/* The next mapping of this CPU is to be looked at, whichever way it would go. */
static void go_on(struct sluice_place *place)
{
	uint32_t index = sluice_place_index(place);

	sluice_store_u32(&place->config.cpus[index].left, 0);
	/* Should this CPU map no more, somebody else is due by and by. */
	sluice_store_u32(&place->left, SLUICE_PLACE_SELDOM);
	sluice_store_u32(&place->due, index + 1);
}

static void learn_from(struct sluice_costs *costs, uint32_t table[2][SLUICE_COST_POINTS],
		       enum sluice_phase phase, uint64_t len, uint64_t time, uint32_t times)
{
	for (uint32_t i = times; i > 0; i--)
		sluice_costs_learn(costs, table, phase, len, time);
}

/*
 * Which way it goes this time, and whether that is to be learnt from. One that goes its usual way is
 * always learnt from; if there is credit enough, a row of others begins with the next map. In a row each
 * goes the way that is the other one for it, at the price that is set for it.
 */
static enum sluice_route choose(struct sluice_dma *dma, enum sluice_route route, uint64_t orig,
				uint64_t len, enum sluice_dir dir, bool *learn, uint64_t *price)
{
	struct sluice_place_cpu *cpu = this_cpu(dma);
	const uint32_t *waited = route == SLUICE_ROUTE_BOUNCE ? &cpu->waited : &dma->place->waited;
	struct sluice_costs *costs = dma->policy.costs;
	uint64_t bounce = sluice_costs_of(costs->bounce[dir], len);
	uint64_t share = sluice_costs_of(costs->share[is_split(dma->place, orig, len)], len);
	uint64_t worse = route == SLUICE_ROUTE_BOUNCE ? share : bounce;
	uint64_t have = sluice_load_u64(&cpu->credit), debt = sluice_load_u64(&cpu->debt), more;
	uint32_t row = burst_of(cpu), burst = sluice_load_u32(&cpu->burst), next = 0;
	bool explore = false;

	*learn = !burst;
	*price = worse;
	if (dma->policy.break_even || !bounce || !share) {
		/* Nothing to choose by. */
	} else if (!burst) {
		more = (bounce + share - worse) * ((uint64_t)sluice_load_u32(waited) + 1) / CREDIT;
		sluice_store_u64(&cpu->debt, debt > more ? debt - more : 0);
		more = have + (more > debt ? more - debt : 0);
		if (more >= row * worse)
			next = row;
		/* Enough for a row is enough, but what another kind of mapping saves for is let be. */
		if (more > row * worse)
			more = have > row * worse ? have : row * worse;
		sluice_store_u64(&cpu->credit, more);
	} else if (have >= worse) {
		explore = true;
		next = burst - 1;
		*learn = burst <= row / 2;
		sluice_store_u64(&cpu->credit, have - worse);
		sluice_count(&dma->place->stats.explored, 1);
	}
	sluice_store_u32(&cpu->burst, next);
	if (next) {
		go_on(dma->place);
	} else if (burst) {
		wait_for_next(dma->place, SLUICE_ROUTE_BOUNCE);
		wait_for_next(dma->place, SLUICE_ROUTE_SHARE);
	} else {
		wait_for_next(dma->place, route);
	}
	return explore ? other(dma, route, orig, len, dir) : route;
}

/*
 * What was tried can take many times what it is known to, to which a single measurement does not move it:
 * a peer that has not been asked for long is asleep. That is paid off before anything else is tried. Taken
 * as if its unmap took as long as this map.
 */
static void charge(struct sluice_place_cpu *cpu, uint64_t time, uint64_t price)
{
	uint64_t more = 2 * time > price ? 2 * time - price : 0;

	/* Or whoever is interrupted for a second would try nothing for minutes. */
	if (more > CHARGE_MAX * price)
		more = CHARGE_MAX * price;
	sluice_store_u64(&cpu->debt, sluice_load_u64(&cpu->debt) + more);
}

int sluice_place_map_sampled(struct sluice_dma *dma, enum sluice_route route, uint64_t orig,
			     uint64_t len, enum sluice_dir dir, uint32_t mask, uint64_t *addr)
{
	struct sluice_costs *costs = dma->policy.costs;
	enum sluice_route usual = route;
	uint64_t start, time, price;
	bool learn;
	int ret;

	/* What is in place is counted whatever the policy. */
	if (!costs || !dma->place->follows || dma->policy.kind != SLUICE_POLICY_AUTO) {
		wait_for_next(dma->place, route);
		return sluice_place_map_routed(dma, route, orig, len, dir, mask, addr);
	}
	route = choose(dma, route, orig, len, dir, &learn, &price);
	start = now(dma);
	ret = sluice_place_map_routed(dma, route, orig, len, dir, mask, addr);
	time = elapsed(dma, start);
	if (route != usual)
		charge(this_cpu(dma), time, price);
	/* Only what went the way that it was sent. */
	if (ret || !learn || sluice_place_owns(dma, *addr) != (route != SLUICE_ROUTE_BOUNCE))
		return ret;
	sluice_store_u64(&dma->place->watched, route == usual ? SLUICE_PLACE_ANY : *addr);
	sluice_count(&dma->place->stats.sampled, 1);
	if (route == usual)
		pace(dma, time);
	learn_from(costs,
		   route == SLUICE_ROUTE_BOUNCE ? costs->bounce[dir]
						: costs->share[route == SLUICE_ROUTE_SPLIT],
		   SLUICE_PHASE_MAP, len, time, route == usual ? 1 : weight_of(this_cpu(dma)));
	return 0;
}

int sluice_place_unmap_sampled(struct sluice_dma *dma, uint64_t addr, uint64_t len,
			       enum sluice_dir dir, uint32_t flags)
{
	struct sluice_costs *costs = dma->policy.costs;
	bool placed = sluice_place_owns(dma, addr), split = false;
	bool explored = sluice_load_u64(&dma->place->watched) == addr;
	uint64_t start = now(dma), time;
	int ret = sluice_place_unmap_routed(dma, addr, len, dir, flags, &split);

	time = elapsed(dma, start);
	sluice_store_u64(&dma->place->watched, 0);
	if (ret || !costs || flags & SLUICE_SKIP_SYNC)
		return ret;
	sluice_count(&dma->place->stats.sampled, 1);
	learn_from(costs, placed ? costs->share[split] : costs->bounce[dir], SLUICE_PHASE_UNMAP,
		   len, time + (placed ? asked(dma, len) : 0),
		   explored ? weight_of(this_cpu(dma)) : 1);
	return 0;
}

static uint64_t median(uint64_t *times, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++) {
		for (uint32_t k = i; k > 0 && times[k - 1] > times[k]; k--) {
			uint64_t swap = times[k];

			times[k] = times[k - 1];
			times[k - 1] = swap;
		}
	}
	return times[n / 2];
}

/* Fill in one point of one table. */
static int measure(struct sluice_dma *dma, enum sluice_route route, uint64_t orig, uint64_t len,
		   enum sluice_dir dir, uint32_t rounds, uint32_t table[2][SLUICE_COST_POINTS],
		   uint32_t point)
{
	uint64_t times[2][ROUNDS_MAX], addr, start, unmap;
	bool split;
	int ret;

	/* The first round warms up and does not count. */
	for (uint32_t i = 0; i <= rounds; i++) {
		uint32_t slot = i ? i - 1 : 0;

		start = now(dma);
		ret = sluice_place_map_routed(dma, route, orig, len, dir,
					      sluice_load_u32(&dma->min_align_mask), &addr);
		if (ret)
			return ret;
		times[0][slot] = elapsed(dma, start);
		if (sluice_place_owns(dma, addr) != (route != SLUICE_ROUTE_BOUNCE))
			ret = -EOPNOTSUPP;
		start = now(dma);
		if (sluice_place_unmap_routed(dma, addr, len, dir, 0, &split) < 0 && !ret)
			ret = -EBUSY;
		times[1][slot] = elapsed(dma, start);
		if (ret)
			return ret;
	}
	unmap = median(times[SLUICE_PHASE_UNMAP], rounds);
	if (route == SLUICE_ROUTE_SHARE && len == 4096 && dma->place->config.asks)
		dma->place->ask = unmap;
	unmap += route == SLUICE_ROUTE_BOUNCE ? 0 : asked(dma, len);
	sluice_costs_set(dma->policy.costs, table, SLUICE_PHASE_MAP, point,
			 median(times[SLUICE_PHASE_MAP], rounds));
	sluice_costs_set(dma->policy.costs, table, SLUICE_PHASE_UNMAP, point, unmap);
	return 0;
}

/* The least that the clock takes. */
static uint64_t clock_cost(const struct sluice_dma *dma)
{
	uint64_t least = UINT64_MAX;

	for (uint32_t i = 0; i < 64; i++) {
		uint64_t time = now(dma);

		time = now(dma) - time;
		least = time < least ? time : least;
	}
	return least;
}

int sluice_place_measure(struct sluice_dma *dma, uint64_t orig, uint64_t len, uint32_t rounds)
{
	struct sluice_costs *costs = dma->policy.costs;
	enum sluice_policy_kind was = dma->policy.kind;
	bool whole;
	int ret, first = 0;

	if (!dma->place || !dma->place->config.clock || !costs || rounds == 0 ||
	    rounds > ROUNDS_MAX || orig & 4095 || len < 8192)
		return -EINVAL;
	whole = dma->place->can & SLUICE_SHARE_WHOLE;
	sluice_zero(costs, sizeof(*costs));
	dma->place->clock_cost = clock_cost(dma);
	dma->place->ask = 0;
	for (uint32_t i = 0; i < 8 * SLUICE_COST_POINTS; i++)
		costs->cut[i / 8][i / 4 % 2][i % 4] = UINT32_MAX;
	/* Nothing is to be shared because it could not be bounced. */
	dma->policy.kind = SLUICE_POLICY_BOUNCE;
	for (uint32_t i = 0; i < SLUICE_COST_POINTS; i++) {
		uint64_t size = UINT64_C(1) << (i + SLUICE_COST_FIRST);

		if (size > len / 2)
			break;
		for (uint32_t dir = 0; dir < 3; dir++) {
			ret = measure(dma, SLUICE_ROUTE_BOUNCE, orig, size, (enum sluice_dir)dir,
				      rounds, costs->bounce[dir], i);
			if (!i && ret)
				first = ret;
		}
		if (whole || size >= 4096)
			(void)measure(dma, SLUICE_ROUTE_SHARE, orig, size, SLUICE_BIDIRECTIONAL,
				      rounds, costs->share[0], i);
		/* Half a granule on both ends: a mapping of 4 KiB cannot be split that way. */
		if (!whole && size >= 8192)
			(void)measure(dma, SLUICE_ROUTE_SPLIT, orig + 2048, size,
				      SLUICE_BIDIRECTIONAL, rounds, costs->share[1], i);
	}
	dma->policy.kind = first ? was : SLUICE_POLICY_AUTO;
	return first;
}
