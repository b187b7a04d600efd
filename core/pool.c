/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * pool.c - the pool's front: checks, the lock, the way from an address to its slot
 *
 * Theory of operation: see sluice/pool.h. This file holds no policy of its own: it decides between
 * slab and run, counts, and translates between slots as callers see them and granules as runs.c and
 * slab.c do.
 */
#include "cache.h"

#define MAX_ALIGN SLUICE_CHUNK_BYTES

size_t sluice_chunk_size(void)
{
	return sizeof(struct sluice_chunk);
}

int sluice_pool_init(struct sluice_pool *pool, const struct sluice_pool_config *config)
{
	uint32_t most = config->max_present ? config->max_present : config->max_chunks;

	if (config->max_chunks == 0 || config->max_chunks > MAX_WINDOW || most > MAX_CHUNKS ||
	    most > config->max_chunks || config->n_caches == 0 || config->n_caches > MAX_CACHES ||
	    config->dev % SLUICE_GRANULE_BYTES)
		return -EINVAL;
	if (config->dev > UINT64_MAX - ((uint64_t)config->max_chunks << SLUICE_CHUNK_SHIFT))
		return -EINVAL;
	sluice_zero(pool, sizeof(*pool));
	sluice_lock_init(&pool->lock);
	pool->name = config->name;
	pool->dev = config->dev;
	pool->chunks = config->chunks;
	pool->max_chunks = config->max_chunks;
	pool->max_present = most;
	/* In a window of which every chunk may be there, a chunk's rank is its place. */
	pool->sparse = most < config->max_chunks;
	pool->caches = config->caches;
	pool->n_caches = config->n_caches;
	pool->grow = config->grow;
	pool->space = config->space;
	pool->context = config->context;
	pool->frugal = config->frugal;
	while ((uint64_t)pool->max_present << CHUNK_INDEX >> pool->zone_shift > SLUICE_POOL_ZONES)
		pool->zone_shift++;
	for (uint32_t c = 0; c < pool->max_chunks; c++)
		pool->chunks[c] = (struct sluice_chunk_place){NULL, NULL};
	for (uint32_t i = 0; i < pool->n_caches; i++)
		sluice_cache_init(pool->caches[i]);
	sluice_pool_check_low(pool);
	return 0;
}

/*
 * No run reaches across a multiple of 4 GiB, so that none crosses the segment boundary that nearly all
 * devices have.
 */
static bool can_join(const struct sluice_pool *pool, uint64_t c)
{
	const struct sluice_chunk_place *first = &pool->chunks[c - 1], *second = &pool->chunks[c];

	return first->meta && second->meta && first->meta->granules == GRANULES &&
	       first->cpu + SLUICE_CHUNK_BYTES == second->cpu &&
	       (uint32_t)granule_dev(pool, (uint32_t)c << CHUNK_INDEX) != 0;
}

static struct sluice_chunk *present_at(const struct sluice_pool *pool, uint32_t c)
{
	return pool->chunks[c].meta;
}

/* The lowest rank that no chunk has. There is one. */
static uint32_t take_rank(struct sluice_pool *pool, uint32_t c)
{
	uint32_t word = c / 64;

	if (pool->sparse) {
		for (word = 0; !~pool->ranks[word]; word++)
			continue;
		c = word * 64 + (uint32_t)__builtin_ctzll(~pool->ranks[word]);
	}
	pool->ranks[word] |= UINT64_C(1) << c % 64;
	return c;
}

/* The longest stretch of joined chunks, in granules, without what is reserved there. */
static uint32_t longest_span(const struct sluice_pool *pool)
{
	uint32_t longest = 0;

	/* Each stretch from its first chunk on: no chunk is looked at more than twice. */
	for (uint32_t link = pool->present; link; link = present_at(pool, link - 1)->next_present) {
		const struct sluice_chunk *chunk = present_at(pool, link - 1);
		uint32_t c = link - 1, span = 0;

		if (chunk->joined)
			continue;
		do {
			span += chunk->granules - chunk->reserved;
			c++;
			chunk = c < pool->max_chunks ? pool->chunks[c].meta : NULL;
		} while (chunk && chunk->joined);
		if (span > longest)
			longest = span;
	}
	return longest;
}

static uint64_t unreserved(const struct sluice_pool *pool)
{
	return (pool->stats.bytes >> SLUICE_GRANULE_SHIFT) - pool->reserved;
}

/* What check_low() says, in one word. Each map and unmap on any CPU reads its line: written only when it changes. */
static void set_keep(struct sluice_pool *pool)
{
	uint32_t keep = pool->low || pool->waiters ? 0 : pool->cache_limit;

	if (keep != pool->keep)
		sluice_store_u32(&pool->keep, keep);
}

void sluice_pool_resized(struct sluice_pool *pool)
{
	uint64_t units = granule_unit(1) * unreserved(pool);

	sluice_store_u32(&pool->span_max, longest_span(pool));
	pool->cache_max = (uint32_t)(units / CACHE_SHARE / pool->n_caches);
	sluice_store_u32(&pool->cache_limit, pool->cache_max);
	sluice_pool_check_low(pool);
}

int sluice_pool_add(struct sluice_pool *pool, struct sluice_chunk *meta, void *cpu, uint64_t dev,
		    uint32_t size)
{
	unsigned long flags;
	uint64_t c;

	if (size == 0 || size > SLUICE_CHUNK_BYTES || size % SLUICE_GRANULE_BYTES ||
	    (uintptr_t)cpu % SLUICE_GRANULE_BYTES)
		return -EINVAL;
	if (dev < pool->dev || (dev - pool->dev) % SLUICE_CHUNK_BYTES)
		return -EINVAL;
	c = (dev - pool->dev) >> SLUICE_CHUNK_SHIFT;
	if (c >= pool->max_chunks)
		return -EINVAL;
	if (pool->chunks[c].meta)
		return -EBUSY;
	if (pool->n_chunks == pool->max_present)
		return -ENOSPC;

	sluice_zero(meta, sizeof(*meta));
	sluice_zero(cpu, size);
	meta->granules = size >> SLUICE_GRANULE_SHIFT;
	/* Not 0, which says that a slot is held: a run is marked a moment before its slot is taken. */
	for (uint32_t unit = 0; unit < UNITS; unit++)
		meta->record[unit].tag = TAG_FREE;

	flags = sluice_lock(&pool->lock);
	meta->rank = take_rank(pool, (uint32_t)c);
	meta->next_present = pool->present;
	pool->present = (uint32_t)c + 1;
	sluice_store_release_ptr((void **)&pool->chunks[c].cpu, cpu);
	/* Release: whoever finds the chunk without the lock finds it filled in. */
	sluice_store_release_ptr((void **)&pool->chunks[c].meta, meta);
	meta->joined = c > 0 && can_join(pool, c);
	if (c + 1 < pool->max_chunks && pool->chunks[c + 1].meta)
		pool->chunks[c + 1].meta->joined = can_join(pool, c + 1);
	sluice_runs_insert(pool, (uint32_t)c << CHUNK_INDEX, meta->granules);
	pool->n_chunks++;
	pool->stats.bytes += size;
	sluice_pool_resized(pool);
	sluice_unlock(&pool->lock, flags);
	return 0;
}

int sluice_pool_remove(struct sluice_pool *pool, struct sluice_chunk **meta, void **cpu,
		       uint64_t *dev)
{
	unsigned long flags;
	uint32_t c, link, found = 0, *before;

	sluice_cache_empty_all(pool);
	flags = sluice_lock(&pool->lock);
	/* The highest that is all free. */
	for (link = pool->present; link; link = present_at(pool, link - 1)->next_present) {
		if (link > found && chunk_all_free(present_at(pool, link - 1)))
			found = link;
	}
	if (!found) {
		sluice_unlock(&pool->lock, flags);
		return -EBUSY;
	}
	c = found - 1;
	*meta = pool->chunks[c].meta;
	*cpu = pool->chunks[c].cpu;
	*dev = granule_dev(pool, c << CHUNK_INDEX);
	sluice_runs_withdraw(pool, c);
	pool->ranks[(*meta)->rank / 64] &= ~(UINT64_C(1) << (*meta)->rank % 64);
	before = &pool->present;
	while (*before != found)
		before = &present_at(pool, *before - 1)->next_present;
	*before = (*meta)->next_present;
	sluice_store_release_ptr((void **)&pool->chunks[c].meta, NULL);
	if (c + 1 < pool->max_chunks && pool->chunks[c + 1].meta)
		pool->chunks[c + 1].meta->joined = 0;
	pool->n_chunks--;
	pool->stats.bytes -= SLUICE_CHUNK_BYTES;
	sluice_pool_resized(pool);
	sluice_unlock(&pool->lock, flags);
	return 0;
}

int32_t sluice_pool_wanted(const struct sluice_pool *pool)
{
	uint64_t low = unreserved(pool) / 8, room;
	int32_t want;

	if (low < GRANULES)
		low = GRANULES;
	if (pool->free_granules < low) {
		want = (int32_t)((2 * low - pool->free_granules + GRANULES - 1) / GRANULES);
		room = pool->max_present - pool->n_chunks;
		return (uint64_t)want > room ? (int32_t)room : want;
	}
	/* Half as much again as growing aims at stays, so that the two do not take turns. */
	if (pool->free_granules >= 3 * low + GRANULES)
		return -(int32_t)((pool->free_granules - 3 * low) / GRANULES);
	return 0;
}

int32_t sluice_pool_want(struct sluice_pool *pool)
{
	unsigned long flags = sluice_lock(&pool->lock);
	int32_t want = sluice_pool_wanted(pool);

	pool->asked = false;
	sluice_unlock(&pool->lock, flags);
	return want;
}

/*
 * The pool runs low, and density counts for more than warm slots, while less than three sixteenths of
 * it are free: but not with 12 MiB, which is enough for what caches keep and for the longest requests,
 * whatever share of the pool it is. Above that, what caches may keep goes by what is free.
 */
void sluice_pool_check_low(struct sluice_pool *pool)
{
	uint64_t units = granule_unit(1) * pool->free_granules;
	uint64_t edge = unreserved(pool) / 4;
	uint32_t low, limit = pool->cache_limit;

	if (edge > LOW_GRANULES)
		edge = LOW_GRANULES;
	/* More room to leave the state than to enter it, so that it does not flicker. */
	pool->few = pool->free_granules < (pool->few ? edge : edge / 4 * 3);
	if (pool->shortage)
		pool->shortage--;
	low = pool->few || pool->turn_first ? LOW_ALL : pool->shortage ? LOW_LONG : 0;
	/* Each map and unmap on any CPU reads this line: written only when there is something new. */
	if (low != pool->low)
		sluice_store_u32(&pool->low, low);
	/*
	 * No more than a cache's share of what is free, and from four times as much on more. One step a trip is enough:
	 * what is free changes little in one. (A product: a division would take as long as the rest of this.)
	 */
	if ((uint64_t)limit * pool->n_caches > units)
		sluice_store_u32(&pool->cache_limit, limit / 2);
	else if (limit < pool->cache_max && (limit + UINT64_C(1)) * 4 * pool->n_caches <= units)
		sluice_store_u32(&pool->cache_limit,
				 limit < pool->cache_max / 2 ? 2 * limit + 1 : pool->cache_max);
	set_keep(pool);
}

enum put_off sluice_pool_put_off(struct sluice_pool *pool)
{
	if (pool->few || pool->turn_first || pool->free_granules >= unreserved(pool) / 4)
		return PUT_OFF_NEVER;
	if (pool->shortage && pool->shortage <= SHORTAGE / 2)
		return PUT_OFF_TWICE;
	pool->shortage = pool->shortage ? SHORTAGE / 2 : SHORTAGE;
	sluice_pool_check_low(pool);
	return PUT_OFF;
}

/*
 * The two calls that nearly all time goes into are written so that the way that is nearly always taken has no call in it:
 * what is rare is another function's, which they end with. So nothing has to be kept over a call.
 */

/* This CPU's cache is busy: lock another, unless it is locked already. */
static struct cache_hold hold_some(struct sluice_pool *pool, struct sluice_cache *cache,
				   unsigned long flags)
{
	if (cache)
		return (struct cache_hold){cache, flags, 0};
	return sluice_cache_lock_another(pool, sluice_cpu() % pool->n_caches);
}

/* The slot is the caller's, who need not know more about it than where it is to give it back. */
static inline void hand_out(const struct sluice_pool *pool, const struct cache_took *took,
			    struct sluice_slot *slot)
{
	*slot = slot_at(pool, took->unit, took->kind, took->units);
	/* Release: whoever claims the slot knows its kind. */
	sluice_store_release_u32(&slot->record->tag, 0);
}

/* With the lock of a cache that has no such slot, or NULL. */
static __attribute__((__noinline__)) int alloc_slowly(struct sluice_pool *pool, uint64_t size,
						      uint32_t align, struct sluice_slot *slot,
						      struct sluice_cache *cache,
						      unsigned long flags)
{
	struct cache_hold hold = hold_some(pool, cache, flags);
	struct cache_took took = cache_take(pool, hold.cache, size, align);

	if (!took.ret)
		hand_out(pool, &took, slot);
	cache_unlock(hold);
	return took.ret;
}

int sluice_pool_alloc(struct sluice_pool *pool, uint64_t size, uint32_t align,
		      struct sluice_slot *slot)
{
	struct cache_took took;
	struct cache_hold hold;
	uint32_t kind;

	if (size == 0 || align == 0 || (align & (align - 1)) || align > MAX_ALIGN)
		return -EINVAL;
	if (!cache_try(pool, &hold))
		return alloc_slowly(pool, size, align, slot, NULL, 0);
	kind = kind_for(size, align);
	if (sluice_unlikely(!cache_height(hold.cache, kind)))
		return alloc_slowly(pool, size, align, slot, hold.cache, hold.flags);
	took = cache_take_kind(pool, hold.cache, kind);
	hand_out(pool, &took, slot);
	cache_unlock(hold);
	return 0;
}

int sluice_pool_find(struct sluice_pool *pool, uint64_t dev, struct sluice_slot *slot)
{
	return find_slot(pool, dev, slot);
}

/* With the lock of a cache into which it does not go without more ado, or NULL. */
static __attribute__((__noinline__)) int free_slowly(struct sluice_pool *pool, uint32_t unit,
						     uint32_t kind, struct sluice_cache *cache,
						     unsigned long flags)
{
	struct cache_hold hold = hold_some(pool, cache, flags);

	cache_give(pool, hold.cache, unit, kind);
	cache_unlock(hold);
	return 0;
}

static SLUICE_RARE int refuse(struct sluice_pool *pool)
{
	sluice_count(&pool->refused, 1);
	return -EINVAL;
}

int sluice_pool_free(struct sluice_pool *pool, uint64_t dev)
{
	uint64_t unit = unit_starting(pool, dev);
	struct sluice_chunk *chunk = chunk_of_unit(pool, unit);
	struct cache_hold hold;
	uint32_t kind;

	/* The step from 0 to TAG_FREE is made once: a second free of the slot does not find 0. */
	if (sluice_unlikely(!chunk) ||
	    sluice_unlikely(!sluice_cas_u32(&chunk->record[unit % UNITS].tag, 0, TAG_FREE)))
		return refuse(pool);
	kind = claimed_kind(chunk, (uint32_t)unit);
	if (!cache_try(pool, &hold))
		return free_slowly(pool, (uint32_t)unit, kind, NULL, 0);
	if (!cache_keep(pool, hold.cache, (uint32_t)unit, kind))
		return free_slowly(pool, (uint32_t)unit, kind, hold.cache, hold.flags);
	cache_unlock(hold);
	return 0;
}

/* Who wants to hear of space becomes one more or one less. */
static void add_waiters(struct sluice_pool *pool, uint32_t n)
{
	unsigned long flags = sluice_lock(&pool->lock);

	sluice_store_u32(&pool->waiters, pool->waiters + n);
	set_keep(pool);
	sluice_unlock(&pool->lock, flags);
}

void sluice_pool_wait_begin(struct sluice_pool *pool)
{
	sluice_count(&pool->waited, 1);
	add_waiters(pool, 1);
}

void sluice_pool_wait_end(struct sluice_pool *pool)
{
	add_waiters(pool, UINT32_MAX);
}

void sluice_pool_get_stats(struct sluice_pool *pool, struct sluice_pool_stats *stats)
{
	unsigned long flags = sluice_lock(&pool->lock);

	*stats = pool->stats;
	stats->largest = (uint64_t)sluice_runs_largest(pool) << SLUICE_GRANULE_SHIFT;
	stats->span = (uint64_t)pool->span_max << SLUICE_GRANULE_SHIFT;
	stats->reserved = pool->reserved << SLUICE_GRANULE_SHIFT;
	sluice_unlock(&pool->lock, flags);
	stats->refused = sluice_load_u64(&pool->refused);
	stats->waited = sluice_load_u64(&pool->waited);
	sluice_cache_add_stats(pool, stats);
}
