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

#define DEPTH_MAX   32u	 /* slots in a stack */
#define STACK_SLOTS 632u /* in all of them */

/* Where a stack lies in slot[]: it ends where the next one begins. */
struct sluice_stack {
	uint16_t base;
	uint16_t top; /* where the next slot goes */
};

struct sluice_cache {
	struct sluice_lock lock;
	uint32_t held;	    /* units in all stacks */
	uint32_t next;	    /* the stack that is emptied next */
	uint32_t next_long; /* and of the long ones, that which gives one slot next */
	uint32_t another;   /* the cache that is looked at next */
	uint64_t allocs, misses;
	uint64_t taken, given; /* units of slots, through this cache */
	struct sluice_stack stack[CACHE_KINDS + 1];
	uint32_t slot[STACK_SLOTS]; /* unit numbers */
};

/*
 * cache.c: what happens rarely. refill takes a slot from the pool and says what kind it is and how
 * long: 0, -ENOSPC or -E2BIG.
 */
SLUICE_RARE struct sluice_cache *sluice_cache_lock_another(struct sluice_pool *pool,
							   uint32_t *index, unsigned long *flags);
SLUICE_RARE int sluice_cache_refill(struct sluice_pool *pool, struct sluice_cache *cache,
				    uint64_t size, uint32_t align, uint32_t *kind, uint64_t *units,
				    uint32_t *unit);
SLUICE_RARE void sluice_cache_give_back(struct sluice_pool *pool, struct sluice_cache *cache,
					uint32_t unit, uint32_t kind);

static inline uint32_t cache_height(const struct sluice_cache *cache, uint32_t kind)
{
	return (uint32_t)cache->stack[kind].top - cache->stack[kind].base;
}

static inline bool cache_full(const struct sluice_cache *cache, uint32_t kind)
{
	return cache->stack[kind].top == cache->stack[kind + 1].base;
}

static inline void cache_push(struct sluice_cache *cache, uint32_t kind, uint32_t unit)
{
	cache->slot[cache->stack[kind].top++] = unit;
	sluice_store_u32(&cache->held, cache->held + sluice_kind_units[kind]);
}

static inline uint32_t cache_pop(struct sluice_cache *cache, uint32_t kind)
{
	sluice_store_u32(&cache->held, cache->held - sluice_kind_units[kind]);
	return cache->slot[--cache->stack[kind].top];
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

/* The slot, whose kind has been noted, is the caller's. With the lock. */
static inline void cache_taken(struct sluice_cache *cache, const struct sluice_slot *slot)
{
	/* Release: whoever claims the slot knows its kind. */
	sluice_store_release_u32(&slot->record->tag, 0);
	cache->allocs++;
	cache->taken += slot->size >> SLUICE_UNIT_SHIFT;
}

/* The kind of slots that meet a request, or NO_KIND if none that caches keep is sure to. */
static inline uint32_t kind_for(uint64_t size, uint32_t align)
{
	uint32_t class = slab_class(size, align);

	if (class < SLUICE_POOL_CLASSES)
		return class;
	if (size > CACHE_RUNS << SLUICE_GRANULE_SHIFT || align > SLUICE_GRANULE_BYTES)
		return NO_KIND;
	return SLUICE_POOL_CLASSES + (uint32_t)((size - 1) >> SLUICE_GRANULE_SHIFT);
}

/* As sluice_pool_alloc(); size and align have been checked. With the cache's lock. */
static inline int cache_take(struct sluice_pool *pool, struct sluice_cache *cache, uint64_t size,
			     uint32_t align, struct sluice_slot *slot)
{
	uint32_t kind = kind_for(size, align), unit;
	uint64_t units;

	if (kind < CACHE_KINDS && cache_height(cache, kind)) {
		unit = cache_pop(cache, kind);
		units = sluice_kind_units[kind];
	} else {
		int ret = sluice_cache_refill(pool, cache, size, align, &kind, &units, &unit);

		if (ret)
			return ret;
	}
	(void)slot_at(pool, unit, kind, units << SLUICE_UNIT_SHIFT, slot);
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
	cache->given += slot->size >> SLUICE_UNIT_SHIFT;
	if (kind < CACHE_KINDS && !sluice_load_u32(&pool->low) && !cache_full(cache, kind) &&
	    cache->held + sluice_kind_units[kind] <= sluice_load_u32(&pool->cache_limit))
		cache_push(cache, kind, unit);
	else
		sluice_cache_give_back(pool, cache, unit, kind);
	if (sluice_load_u32(&pool->waiters) && pool->space)
		pool->space(pool->context);
}

#endif
