/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * cache.h - the fast path: a slot from this CPU's cache, and back into it
 *
 * Theory of operation: see cache.c. Inline, because what happens nearly always is a few dozen
 * instructions around one lock, and calls between the files would cost as much again.
 */
#ifndef SLUICE_CACHE_H
#define SLUICE_CACHE_H

#include "internal.h"

#define DEPTH_MAX 32u /* slots in a stack */

struct sluice_cache {
	struct sluice_lock lock;
	uint32_t held; /* units in all stacks */
	uint32_t next; /* the stack that is emptied next */
	uint64_t allocs, hits;
	uint64_t bytes_taken, bytes_given; /* of slots, through this cache */
	uint8_t height[CACHE_KINDS];
	uint8_t depth[CACHE_KINDS];		/* the most that height may be */
	uint32_t stack[CACHE_KINDS][DEPTH_MAX]; /* unit numbers */
};

/* cache.c: what happens rarely. refill sets class to SLUICE_POOL_CLASSES if it is a granule instead. */
struct sluice_cache *sluice_cache_lock_another(struct sluice_pool *pool, uint32_t *index,
					       unsigned long *flags);
bool sluice_cache_refill(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t *class,
			 uint32_t count, uint32_t align, uint32_t *unit);
void sluice_cache_give_back(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t unit,
			    uint32_t kind);

static inline uint32_t kind_units(uint32_t kind)
{
	return kind_bytes(kind) >> SLUICE_UNIT_SHIFT;
}

static inline void cache_push(struct sluice_cache *cache, uint32_t kind, uint32_t unit)
{
	cache->stack[kind][cache->height[kind]++] = unit;
	sluice_store_u32(&cache->held, cache->held + kind_units(kind));
}

/* Lock this CPU's cache, or another one if it is busy; index is the number of the one that it is.
 */
static inline struct sluice_cache *cache_lock(struct sluice_pool *pool, uint32_t *index,
					      unsigned long *flags)
{
	uint32_t i = sluice_cpu();

	if (i >= pool->n_caches)
		i %= pool->n_caches;
	*index = i;
	if (sluice_trylock(&pool->caches[i]->lock, flags))
		return pool->caches[i];
	return sluice_cache_lock_another(pool, index, flags);
}

static inline void cache_unlock(struct sluice_cache *cache, unsigned long flags)
{
	sluice_unlock(&cache->lock, flags);
}

/* The slot is the caller's. With the lock. */
static inline void cache_taken(struct sluice_cache *cache, const struct sluice_slot *slot)
{
	sluice_store_u32(&slot->record->tag, 0);
	cache->allocs++;
	cache->bytes_taken += slot->size;
}

/* As sluice_pool_alloc(); size and align have been checked. With the cache's lock. */
static inline int cache_take(struct sluice_pool *pool, struct sluice_cache *cache, uint64_t size,
			     uint32_t align, struct sluice_slot *slot)
{
	uint32_t class = slab_class(size, align), kind = class, count = 0, unit;
	uint64_t bytes;

	if (class < SLUICE_POOL_CLASSES) {
		bytes = sluice_slab_shapes[class].bytes;
		align = 1; /* all slots of the class have it */
	} else {
		if (size > (uint64_t)sluice_load_u32(&pool->span_max) << SLUICE_GRANULE_SHIFT)
			return -E2BIG;
		count = (uint32_t)((size + SLUICE_GRANULE_BYTES - 1) >> SLUICE_GRANULE_SHIFT);
		bytes = (uint64_t)count << SLUICE_GRANULE_SHIFT;
		kind = count <= CACHE_RUNS ? SLUICE_POOL_CLASSES + count - 1 : NO_KIND;
		align = align > SLUICE_GRANULE_BYTES ? align >> SLUICE_GRANULE_SHIFT : 1;
	}
	if (kind < CACHE_KINDS && align == 1 && cache->height[kind]) {
		unit = cache->stack[kind][--cache->height[kind]];
		sluice_store_u32(&cache->held, cache->held - kind_units(kind));
		cache->hits++;
	} else {
		uint32_t from = class;

		if (!sluice_cache_refill(pool, cache, &from, count, align, &unit))
			return -ENOSPC;
		if (from != class) {
			kind = from;
			bytes = SLUICE_GRANULE_BYTES;
		}
	}
	(void)slot_at(pool, unit, kind, bytes, slot);
	cache_taken(cache, slot);
	return 0;
}

/* Give back a slot that is the caller's. Its record's tag becomes TAG_FREE. With the lock. */
static inline void cache_give(struct sluice_pool *pool, struct sluice_cache *cache,
			      const struct sluice_slot *slot)
{
	uint32_t kind = slot->kind;
	uint32_t unit = (uint32_t)((slot->dev - pool->dev) >> SLUICE_UNIT_SHIFT);

	sluice_store_u32(&slot->record->tag, TAG_FREE);
	cache->bytes_given += slot->size;
	if (kind < CACHE_KINDS && !sluice_load_u32(&pool->low) &&
	    cache->height[kind] < cache->depth[kind] &&
	    cache->held + kind_units(kind) <= sluice_load_u32(&pool->cache_limit))
		cache_push(cache, kind, unit);
	else
		sluice_cache_give_back(pool, cache, unit, kind);
	if (sluice_load_u32(&pool->waiters) && pool->space)
		pool->space(pool->context);
}

#endif
