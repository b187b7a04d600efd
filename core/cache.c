/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * cache.c - the front of the pool: a small cache for each CPU
 *
 * Theory of operation
 * -------------------
 * A cache is a stack of slots for each kind: the slab classes, and runs of each length up to 64
 * granules. What was freed last on this CPU is handed out first, because it is still warm; warm
 * bytes are worth more than any cleverness in choosing others. A request for a run whose stack is
 * empty takes one from the cache that is longer, by an eighth at most: there are 64 lengths, and a
 * cache cannot hold one of each. A miss takes one slot for the caller and, of a slab class, a few
 * more from the same slab; a stack that is full gives its older half back. Freeing on another CPU
 * than the one that allocated is nothing special: the slot goes to the freeing CPU's stack, and from
 * there back to the pool in batches.
 *
 * The lock of a cache belongs to its CPU in practice: another CPU takes it only to empty the cache
 * when the pool has run dry, or when a thread was moved between asking which CPU it runs on and
 * locking, and it never waits for it; if a cache is busy it goes to the next.
 *
 * Bounded holdings: a cache holds at most cache_limit units, 1/8 of the pool in all, and no more in all than
 * what is free; when a slot would exceed that, long runs are given back, one of each length in turn, and if
 * that was not enough 32 slots of a stack, the next in turn. While the pool runs low (pool.c) because little is free or a
 * device waits, nothing is put in, and each call gives back so much of its own cache and of another's; while it does
 * because a request has found no room of late, the same goes for long runs alone, since what comes together of short
 * ones is hardly ever what was missing. A call that finds no room empties caches, its own first, until there
 * is; or, where most of the pool is in use, leaves that to the calls after it (give_back_from()).
 *
 * Stacks are deep: where slots come and go at random their number drifts, by as many as the root of the calls, and a
 * stack that is found empty is refilled from slabs of which each has one slot to give.
 *
 * A cached slot counts as taken for runs.c and slab.c; its record's tag is TAG_FREE, which is how a
 * second free of it, or an unmap, is told from the first.
 *
 * Lock order: a cache, then the pool. Two caches only by trylock.
 */
#include "cache.h"

#define BATCH	  8u	  /* slots taken at a time */
#define GIVE	  16u	  /* and given back in one hold of the pool's lock */
#define STACK_MAX 524288u /* bytes in a stack of more than two slots */
#define LOOK_LONG 10u	  /* lengths of long runs looked at for one that there are any of */
/* One call that finds no room empties so many caches, and no further one after so many slots. */
#define EMPTY_MAX   16u
#define EMPTY_SLOTS 8192u

/* Runs of more than 16 KiB: few mappings, and most of the bytes. */
#define FIRST_LONG (SLUICE_POOL_CLASSES + 4u)
#define LONG_KINDS (CACHE_KINDS - FIRST_LONG)

size_t sluice_cache_size(void)
{
	return (sizeof(struct sluice_cache) + 63) & ~(size_t)63;
}

#define FIT(units)   (STACK_MAX / SLUICE_UNIT_BYTES / (units))
#define DEPTH(units) (FIT(units) < 2 ? 2 : FIT(units) > DEPTH_MAX ? DEPTH_MAX : FIT(units))

#define RUN(n)	     DEPTH(16u * (n))
#define FOUR_RUNS(n) (RUN(n) + RUN(n + 1) + RUN(n + 2) + RUN(n + 3))
#define SOME_RUNS(n) (FOUR_RUNS(n) + FOUR_RUNS(n + 4) + FOUR_RUNS(n + 8) + FOUR_RUNS(n + 12))
_Static_assert(DEPTH(8) == DEPTH_MAX, "as deep as any, like those of the shorter slots");
_Static_assert(STACK_SLOTS == 8 * DEPTH_MAX + DEPTH(10) + DEPTH(12) + DEPTH(14) + SOME_RUNS(1) +
				      SOME_RUNS(17) + SOME_RUNS(33) + SOME_RUNS(49),
	       "room for each stack, and no more");

void sluice_cache_init(struct sluice_cache *cache)
{
	uint32_t next = 0;

	sluice_zero(cache, sizeof(*cache));
	sluice_lock_init(&cache->lock);
	for (uint32_t kind = 0; kind <= NO_SLOT + 1; kind++) {
		cache->stack[kind].base = cache->stack[kind].top = (uint16_t)next;
		next += kind < CACHE_KINDS ? DEPTH(sluice_kind_units[kind]) : 0;
	}
}

struct cache_hold sluice_cache_lock_another(struct sluice_pool *pool, uint32_t index)
{
	struct cache_hold hold = {.index = index};

	/* Busy: its holder is another thread, perhaps preempted. Another cache does as well. */
	for (uint32_t tries = 0; tries < 4; tries++) {
		hold.index = hold.index + 1 < pool->n_caches ? hold.index + 1 : 0;
		hold.cache = pool->caches[hold.index];
		if (sluice_trylock(&hold.cache->lock, &hold.flags))
			return hold;
	}
	hold.index = index;
	hold.cache = pool->caches[index];
	hold.flags = sluice_lock(&hold.cache->lock);
	return hold;
}

/* Hand one slot back to runs.c or slab.c. Under both locks. */
static void to_pool(struct sluice_pool *pool, uint32_t unit, uint32_t kind)
{
	uint32_t g = unit >> (SLUICE_GRANULE_SHIFT - SLUICE_UNIT_SHIFT), first;
	uint32_t head;

	/* Nobody else can have it. */
	if (kind == KIND_RESERVED) {
		sluice_reserve_release(pool, g);
		return;
	}
	pool->silence = 0;
	if (kind >= SLUICE_POOL_CLASSES) {
		sluice_runs_release(pool, g);
		return;
	}
	if (!run_at(pool, g, &first, &head))
		return; /* cannot be: a slab with a taken slot stays */
	(void)sluice_slab_release(
		pool, first,
		slab_index(kind, (unit << SLUICE_UNIT_SHIFT) - (first << SLUICE_GRANULE_SHIFT)));
}

static void one_to_pool(struct sluice_pool *pool, uint32_t unit, uint32_t kind)
{
	unsigned long flags;

	prefetch_run(pool, unit >> (SLUICE_GRANULE_SHIFT - SLUICE_UNIT_SHIFT));
	flags = sluice_lock(&pool->lock);
	to_pool(pool, unit, kind);
	sluice_pool_check_low(pool);
	sluice_unlock(&pool->lock, flags);
}

/* The n oldest slots of a stack are not in it any more. */
static void forget(struct sluice_cache *cache, uint32_t kind, uint32_t n)
{
	uint32_t *stack = cache->slot + cache->stack[kind].base,
		 left = cache_height(cache, kind) - n;

	for (uint32_t i = 0; i < left; i++)
		stack[i] = stack[i + n];
	cache->stack[kind].top = (uint16_t)(cache->stack[kind].base + left);
	cache->drawn -= n * sluice_kind_units[kind];
	sluice_store_u32(&cache->held, cache->held - n * sluice_kind_units[kind]);
}

static uint32_t at_most(uint32_t n, uint32_t most)
{
	return n < most ? n : most;
}

/* Give back the n oldest slots of a stack. */
static void give_back(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t kind,
		      uint32_t n)
{
	const uint32_t *slot = cache->slot + cache->stack[kind].base;

	for (uint32_t done = 0; done < n;) {
		uint32_t end = done + at_most(n - done, GIVE);
		unsigned long flags = sluice_lock(&pool->lock);

		for (; done < end; done++)
			to_pool(pool, slot[done], kind);
		sluice_pool_check_low(pool);
		sluice_unlock(&pool->lock, flags);
	}
	if (n)
		forget(cache, kind, n);
}

/* The stack that gives something next, and then the one after it. One that is not empty, if there is any. */
static uint32_t next_stack(struct sluice_cache *cache)
{
	uint32_t kind = cache->next, looked = 0;

	while (!cache_height(cache, kind) && ++looked < CACHE_KINDS)
		kind = kind + 1 < CACHE_KINDS ? kind + 1 : 0;
	cache->next = kind + 1 < CACHE_KINDS ? kind + 1 : 0;
	return kind;
}

static void give_back_next(struct sluice_pool *pool, struct sluice_cache *cache)
{
	uint32_t kind = next_stack(cache);

	give_back(pool, cache, kind, at_most(cache_height(cache, kind), 2 * GIVE));
}

/*
 * In a frugal pool, before it takes more than it ever has: a few slots of a stack, under the pool's lock. So its
 * high-water mark is that of what is in use, and a cache keeps what there is room for below it.
 */
static void economize(struct sluice_pool *pool, struct sluice_cache *cache, uint64_t bytes)
{
	uint32_t kind, n;

	if (!cache->held || sluice_pool_in_runs(pool) + bytes <= pool->stats.used_max)
		return;
	kind = next_stack(cache);
	n = at_most(cache_height(cache, kind), BATCH);
	for (uint32_t i = 0; i < n; i++)
		to_pool(pool, cache->slot[cache->stack[kind].base + i], kind);
	forget(cache, kind, n);
}

/*
 * Give back long runs, of each length in turn the oldest, until no more than this many units are held:
 * of what a cache can hold, they take the most room for the fewest hits. At most BATCH.
 */
static void give_back_long(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t units)
{
	unsigned long flags = sluice_lock(&pool->lock);
	uint32_t n = 0;

	for (uint32_t i = 0; i < LONG_KINDS && n < BATCH && cache->held > units; i++) {
		uint32_t kind = FIRST_LONG + cache->next_long;

		cache->next_long = cache->next_long + 1 < LONG_KINDS ? cache->next_long + 1 : 0;
		if (!cache_height(cache, kind))
			continue;
		to_pool(pool, cache->slot[cache->stack[kind].base], kind);
		forget(cache, kind, 1);
		n++;
	}
	sluice_pool_check_low(pool);
	sluice_unlock(&pool->lock, flags);
}

/* Give back what there is of one length of the long runs. Each of them has been looked at after LONG_KINDS / LOOK_LONG calls. */
static void give_back_next_long(struct sluice_pool *pool, struct sluice_cache *cache)
{
	for (uint32_t i = 0; i < LOOK_LONG; i++) {
		uint32_t kind = FIRST_LONG + cache->next_long, height = cache_height(cache, kind);

		cache->next_long = cache->next_long + 1 < LONG_KINDS ? cache->next_long + 1 : 0;
		if (!height)
			continue;
		give_back(pool, cache, kind, height);
		return;
	}
}

/* Give back everything in a cache, from a kind on. At most CACHE_KINDS stacks. Returns how many slots. */
static uint32_t empty(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t kind)
{
	uint32_t slots = 0;

	for (; cache->held && kind < CACHE_KINDS; kind++) {
		slots += cache_height(cache, kind);
		give_back(pool, cache, kind, cache_height(cache, kind));
	}
	return slots;
}

/* Try to lock a cache that is another CPU's and holds more than so many units. */
static bool try_another(const struct sluice_cache *mine, struct sluice_cache *other, uint32_t units,
			unsigned long *flags)
{
	return other != mine && sluice_load_u32(&other->held) > units &&
	       sluice_trylock(&other->lock, flags);
}

/* Empty the caches of other CPUs that hold anything. True if any did. */
static bool empty_others(struct sluice_pool *pool, const struct sluice_cache *mine, uint32_t from)
{
	uint32_t n = at_most(pool->n_caches, EMPTY_MAX), slots = 0, i;
	uint32_t first = sluice_load_u32(&pool->swept);
	bool any = false;

	for (i = 0; i < n && slots < EMPTY_SLOTS; i++) {
		struct sluice_cache *cache = pool->caches[(first + i) % pool->n_caches];
		unsigned long flags;

		if (!try_another(mine, cache, 0, &flags))
			continue;
		slots += empty(pool, cache, from);
		any = true;
		sluice_unlock(&cache->lock, flags);
	}
	/* The next call goes on where this one ends, so that no cache is left out for long. */
	sluice_store_u32(&pool->swept, (first + i) % pool->n_caches);
	return any;
}

/* How many kinds a cache keeps: the short ones come first. */
static uint32_t kinds_kept(uint32_t low)
{
	return low == LOW_ALL ? 0 : low == LOW_LONG ? FIRST_LONG : CACHE_KINDS;
}

/* Of what a pool that runs low does not want caches to keep, one stack. */
static void give_back_one(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t low)
{
	if (low == LOW_LONG)
		give_back_next_long(pool, cache);
	else
		give_back_next(pool, cache);
}

/* The caches take turns. */
static struct sluice_cache *next_cache(const struct sluice_pool *pool, struct sluice_cache *cache)
{
	cache->another = cache->another + 1 < pool->n_caches ? cache->another + 1 : 0;
	return pool->caches[cache->another];
}

/*
 * While the pool runs low, each call takes it upon itself to give back one stack of its own cache
 * and one of another CPU's that may be idle: little by little, so that no call pays for all.
 */
static void give_back_some(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t low)
{
	struct sluice_cache *other = next_cache(pool, cache);
	unsigned long flags;

	give_back_one(pool, cache, low);
	if (!try_another(cache, other, 0, &flags))
		return;
	give_back_one(pool, other, low);
	sluice_unlock(&other->lock, flags);
}

/* The limit sinks with what is free. A cache that is in use sees to it by itself; of those that are not, one has a look. */
static void give_back_another(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t limit)
{
	struct sluice_cache *other = next_cache(pool, cache);
	unsigned long flags;

	if (!try_another(cache, other, limit, &flags))
		return;
	give_back_next(pool, other);
	sluice_unlock(&other->lock, flags);
}

/* Take a slot from the pool, and a few more for the cache if wanted. Sets the slot's unit. */
static bool from_pool(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t class,
		      uint32_t count, uint32_t align, uint32_t *unit)
{
	uint32_t g = 0, taken = 0, link;
	unsigned long flags = sluice_lock(&pool->lock);
	bool found, ask;

	if (pool->frugal)
		economize(pool, cache, (uint64_t)count << SLUICE_GRANULE_SHIFT);
	if (class < SLUICE_POOL_CLASSES) {
		found = sluice_slab_take(pool, class, pool->low == LOW_ALL ? 1 : BATCH, &g, &taken);
	} else {
		link = sluice_runs_take(pool, count, align, KIND_RUN, 0);
		found = link != 0;
		g = link - 1;
	}
	if (found) {
		uint64_t used = sluice_pool_in_runs(pool);

		sluice_pool_check_low(pool);
		if (used > pool->stats.used_max)
			pool->stats.used_max = used;
	}
	ask = pool->grow && ((!pool->asked && sluice_pool_wanted(pool) > 0) || pool->idle);
	pool->asked |= ask;
	pool->idle = false;
	sluice_unlock(&pool->lock, flags);
	if (ask)
		pool->grow(pool->context);
	if (!found)
		return false;
	*unit = g << (SLUICE_GRANULE_SHIFT - SLUICE_UNIT_SHIFT);
	if (class < SLUICE_POOL_CLASSES) {
		uint32_t first = *unit, units = sluice_kind_units[class];

		*unit = first + (uint32_t)__builtin_ctz(taken) * units;
		for (taken &= taken - 1; taken; taken &= taken - 1) {
			cache_push(cache, class, first + (uint32_t)__builtin_ctz(taken) * units);
			cache->drawn += units;
		}
		if (cache_height(cache, class))
			cache_prefetch(pool, cache->slot[cache->stack[class].top - 1u]);
	} else {
		note_kind(pool, g, run_kind(count));
	}
	return true;
}

static bool reclaim(struct sluice_pool *pool)
{
	unsigned long flags = sluice_lock(&pool->lock);
	bool any = sluice_slab_reclaim(pool);

	sluice_pool_check_low(pool);
	sluice_unlock(&pool->lock, flags);
	return any;
}

/*
 * What a request that found no room may have given back before it is tried again: the kinds from this one on. NO_KIND: it
 * fails now, and what caches keep is given back by the calls that come next. So it is in a pool that is not small and
 * mostly in use: there what the caches keep is hardly ever what is missing, and giving it all back takes a thousand times
 * as long as to say so. The third time in a row a long run has the long ones given back. Never so while a device waits.
 */
static uint32_t give_back_from(struct sluice_pool *pool, uint32_t kind)
{
	unsigned long flags;
	enum put_off want;

	if (kind >= CACHE_KINDS)
		return 0;
	flags = sluice_lock(&pool->lock);
	want = sluice_pool_put_off(pool);
	sluice_unlock(&pool->lock, flags);
	if (want == PUT_OFF)
		return NO_KIND;
	return want == PUT_OFF_TWICE && kind >= FIRST_LONG ? FIRST_LONG : 0;
}

/* The same, with everything of these kinds given back first that is held without being in use. */
static bool from_pool_hard(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t class,
			   uint32_t count, uint32_t align, uint32_t from, uint32_t *unit)
{
	bool more = cache->held != 0;

	if (from == NO_KIND)
		return false;
	(void)empty(pool, cache, from);
	more = empty_others(pool, cache, from) || more;
	more = reclaim(pool) || more;
	return more && from_pool(pool, cache, class, count, align, unit);
}

/* A run in the cache that is longer than one of this kind, by an eighth at most. Its kind, or NO_KIND. */
static uint32_t longer(const struct sluice_cache *cache, uint32_t kind)
{
	uint32_t most = kind + (kind - SLUICE_POOL_CLASSES + 1) / 8;

	while (++kind <= most && kind < CACHE_KINDS) {
		if (cache_height(cache, kind))
			return kind;
	}
	return NO_KIND;
}

struct cache_took sluice_cache_refill(struct sluice_pool *pool, struct sluice_cache *cache,
				      uint64_t size, uint32_t align, uint32_t kind)
{
	uint32_t class = kind < SLUICE_POOL_CLASSES ? kind : SLUICE_POOL_CLASSES, count = 1;
	struct cache_took took = {.ret = -ENOSPC, .kind = kind};

	if (class < SLUICE_POOL_CLASSES) {
		took.units = sluice_kind_units[class];
		align = 1; /* all slots of the class have it */
	} else {
		if (size > (uint64_t)sluice_load_u32(&pool->span_max) << SLUICE_GRANULE_SHIFT)
			return (struct cache_took){.ret = -E2BIG};
		if (kind < CACHE_KINDS && !sluice_load_u32(&pool->low)) {
			uint32_t found = longer(cache, kind);

			if (found < CACHE_KINDS)
				return cache_take_kind(pool, cache, found);
		}
		count = (uint32_t)((size + SLUICE_GRANULE_BYTES - 1) >> SLUICE_GRANULE_SHIFT);
		align = align > SLUICE_GRANULE_BYTES ? align >> SLUICE_GRANULE_SHIFT : 1;
		took.units = (uint32_t)granule_unit(count);
		took.kind = run_kind(count);
	}
	if (from_pool(pool, cache, class, count, align, &took.unit) ||
	    from_pool_hard(pool, cache, class, count, align, give_back_from(pool, took.kind),
			   &took.unit)) {
		took.ret = 0;
	} else if (class < SLUICE_POOL_CLASSES) {
		/* Slabs of most classes are longer than a granule; one of those may still be there. */
		took.kind = SLUICE_POOL_CLASSES;
		took.units = (uint32_t)granule_unit(1);
		if (from_pool(pool, cache, SLUICE_POOL_CLASSES, 1, 1, &took.unit))
			took.ret = 0;
	}
	if (took.ret) {
		sluice_count(&pool->full, 1);
	} else {
		cache->misses++;
		cache_drew(cache, took.units);
	}
	return took;
}

static void give_back_slot(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t unit,
			   uint32_t kind)
{
	uint64_t units = slot_units(pool, unit, kind);
	uint32_t limit = sluice_load_u32(&pool->cache_limit);
	uint32_t low = sluice_load_u32(&pool->low);

	cache->given += units;
	if (!low)
		give_back_another(pool, cache, limit);
	else if (cache->held)
		give_back_some(pool, cache, low);
	if (kind < kinds_kept(low) && units <= limit) {
		if (cache_full(cache, kind))
			give_back(pool, cache, kind,
				  at_most((cache_height(cache, kind) + 1u) / 2, GIVE));
		if (cache->held + units > limit)
			give_back_long(pool, cache, limit - (uint32_t)units);
		if (cache->held + units > limit)
			give_back_next(pool, cache);
		if (cache->held + units <= limit) {
			cache_push(cache, kind, unit);
			return;
		}
	}
	cache->drawn -= units;
	one_to_pool(pool, unit, kind);
}

void sluice_cache_give_back(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t unit,
			    uint32_t kind)
{
	give_back_slot(pool, cache, unit, kind);
	/* Perhaps this is why it came here: somebody wants to hear of it. */
	if (sluice_load_u32(&pool->waiters) && pool->space)
		pool->space(pool->context);
}

void sluice_cache_empty_all(struct sluice_pool *pool)
{
	for (uint32_t i = 0; i < pool->n_caches; i++) {
		unsigned long flags = sluice_lock(&pool->caches[i]->lock);

		(void)empty(pool, pool->caches[i], 0);
		sluice_unlock(&pool->caches[i]->lock, flags);
	}
	(void)reclaim(pool);
}

/* Give back the older half of each stack. Each in a lock of its own, so that nobody waits for long. */
static void halve(struct sluice_pool *pool, struct sluice_cache *cache)
{
	for (uint32_t kind = 0; kind < CACHE_KINDS; kind++) {
		unsigned long flags = sluice_lock(&cache->lock);

		give_back(pool, cache, kind,
			  at_most((cache_height(cache, kind) + 1u) / 2, 2 * GIVE));
		sluice_unlock(&cache->lock, flags);
	}
}

uint64_t sluice_pool_trim(struct sluice_pool *pool)
{
	struct sluice_pool_stats stats;
	unsigned long flags;

	for (uint32_t i = 0; i < pool->n_caches; i++) {
		if (sluice_load_u32(&pool->caches[i]->held))
			halve(pool, pool->caches[i]);
	}
	(void)reclaim(pool);
	/*
	 * Before looking: whoever takes something from the pool after this says so, and what was taken
	 * before is seen.
	 */
	flags = sluice_lock(&pool->lock);
	pool->idle = true;
	sluice_unlock(&pool->lock, flags);
	sluice_zero(&stats, sizeof(stats));
	sluice_cache_add_stats(pool, &stats);
	if (stats.used + stats.cached) {
		flags = sluice_lock(&pool->lock);
		pool->idle = false;
		sluice_unlock(&pool->lock, flags);
	}
	return stats.used + stats.cached;
}

void sluice_cache_add_stats(struct sluice_pool *pool, struct sluice_pool_stats *stats)
{
	uint64_t taken = 0, given = 0;

	/*
	 * First what was given back, everywhere: a slot that goes from one cache's count to
	 * another's meanwhile has then been counted as taken, too. The locks see to it that what
	 * happened before is seen.
	 */
	for (uint32_t i = 0; i < pool->n_caches; i++) {
		struct sluice_cache *cache = pool->caches[i];
		unsigned long flags = sluice_lock(&cache->lock);

		stats->cached += (uint64_t)cache->held << SLUICE_UNIT_SHIFT;
		given += cache->given;
		sluice_unlock(&cache->lock, flags);
	}
	for (uint32_t i = 0; i < pool->n_caches; i++) {
		struct sluice_cache *cache = pool->caches[i];
		unsigned long flags = sluice_lock(&cache->lock);

		stats->allocs += cache->allocs;
		stats->cache_hits += cache->allocs - cache->misses;
		taken += cache->drawn - cache->held + cache->given;
		sluice_unlock(&cache->lock, flags);
	}
	stats->used = (taken - given) << SLUICE_UNIT_SHIFT;
	stats->full = sluice_load_u64(&pool->full);
}
