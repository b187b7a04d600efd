/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * cache.h - the fast path: a slot from this CPU's cache, and back into it
 *
 * Theory of operation: see cache.c. Inline, because what happens nearly always is a few dozen
 * instructions around one lock, and calls between the files would cost as much again. What happens
 * rarely is handed to functions of cache.c by value, and comes back by value: an address of
 * a local variable given away there would keep it in memory here.
 */
#ifndef SLUICE_CACHE_H
#define SLUICE_CACHE_H

#include "internal.h"

#define DEPTH_MAX   256u  /* slots in a stack */
#define STACK_SLOTS 3149u /* in all of them */

/*
 * Where a stack lies in slot[]: it ends where the next one begins. Four bytes, so that those of the long lengths, which come
 * by seldom, share few lines. The kinds that no cache keeps have one that is empty and full, so that nobody
 * has to ask for the kind first.
 */
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
	/*
	 * Units of the slots that were given back through this cache, and what it has had of the pool less what it gave
	 * back there. What was taken is drawn - held + given, and need not be counted.
	 */
	uint64_t given, drawn;
	struct sluice_stack stack[NO_SLOT + 2];
	uint32_t slot[STACK_SLOTS]; /* unit numbers */
};

/* A cache that is locked, and its number. */
struct cache_hold {
	struct sluice_cache *cache;
	unsigned long flags;
	uint32_t index;
};

/* A slot that was taken, or why none was: 0, -ENOSPC or -E2BIG. */
struct cache_took {
	int32_t ret;
	uint32_t kind, unit, units;
};

/*
 * cache.c: what happens rarely. refill takes a slot of a kind from the pool, or of another one that
 * meets the request as well; give_back gives a slot back that does not go into its stack without more ado.
 */
SLUICE_RARE struct cache_hold sluice_cache_lock_another(struct sluice_pool *pool, uint32_t index);
__attribute__((__noinline__)) struct cache_took sluice_cache_refill(struct sluice_pool *pool,
								    struct sluice_cache *cache,
								    uint64_t size, uint32_t align,
								    uint32_t kind);
__attribute__((__noinline__)) void sluice_cache_give_back(struct sluice_pool *pool,
							  struct sluice_cache *cache, uint32_t unit,
							  uint32_t kind);

static inline uint32_t cache_height(const struct sluice_cache *cache, uint32_t kind)
{
	return (uint32_t)cache->stack[kind].top - cache->stack[kind].base;
}

static inline bool cache_full(const struct sluice_cache *cache, uint32_t kind)
{
	return cache->stack[kind].top == cache->stack[kind + 1].base;
}

/* Put a slot onto a stack that is not full; with it the cache holds so many units. */
static inline void stack_push(struct sluice_cache *cache, struct sluice_stack *stack, uint32_t unit,
			      uint32_t held)
{
	uint32_t top = stack->top;

	cache->slot[top] = unit;
	stack->top = (uint16_t)(top + 1);
	sluice_store_u32(&cache->held, held);
}

static inline void cache_push(struct sluice_cache *cache, uint32_t kind, uint32_t unit)
{
	struct sluice_stack *stack = &cache->stack[kind];

	stack_push(cache, stack, unit, cache->held + sluice_kind_units[kind]);
}

/* Try to lock this CPU's cache. */
static inline bool cache_try(struct sluice_pool *pool, struct cache_hold *hold)
{
	uint32_t i = sluice_cpu();

	if (sluice_unlikely(i >= pool->n_caches))
		i %= pool->n_caches;
	hold->index = i;
	hold->cache = pool->caches[i];
	return sluice_likely(sluice_trylock(&hold->cache->lock, &hold->flags));
}

/* Lock this CPU's cache, or another one if it is busy. */
static inline struct cache_hold cache_lock(struct sluice_pool *pool)
{
	struct cache_hold hold;

	return cache_try(pool, &hold) ? hold : sluice_cache_lock_another(pool, hold.index);
}

static inline void cache_unlock(struct cache_hold hold)
{
	sluice_unlock(&hold.cache->lock, hold.flags);
}

/* The kind of slots that meet a request, or NO_KIND if none that caches keep is sure to. */
static inline uint32_t kind_for(uint64_t size, uint32_t align)
{
	uint32_t class;

	if (sluice_likely(size <= SLUICE_GRANULE_BYTES && align <= SLUICE_UNIT_BYTES))
		return sluice_kind_by_units[(size + SLUICE_UNIT_BYTES - 1) >> SLUICE_UNIT_SHIFT];
	class = slab_class(size, align);
	if (class < SLUICE_POOL_CLASSES)
		return class;
	if (size > CACHE_RUNS << SLUICE_GRANULE_SHIFT || align > SLUICE_GRANULE_BYTES)
		return NO_KIND;
	return SLUICE_POOL_CLASSES + (uint32_t)((size - 1) >> SLUICE_GRANULE_SHIFT);
}

/* A slot of so many units goes straight from the pool to who asked for it. With the lock. */
static inline void cache_drew(struct sluice_cache *cache, uint32_t units)
{
	cache->allocs++;
	cache->drawn += units;
}

/* The record of a slot that the cache has. With its lock, so that the slot's chunk stays. */
static SLUICE_INLINE void cache_prefetch(const struct sluice_pool *pool, uint32_t unit)
{
	sluice_prefetch(&pool->chunks[unit / UNITS].meta->record[unit % UNITS]);
}

/* Take a slot of a kind that the cache has. With its lock. */
static inline struct cache_took cache_take_kind(const struct sluice_pool *pool,
						struct sluice_cache *cache, uint32_t kind)
{
	struct sluice_stack *stack = &cache->stack[kind];
	uint32_t top = stack->top - 1u, units = sluice_kind_units[kind];

	stack->top = (uint16_t)top;
	/*
	 * What lies on top now is handed out next, and its record, in a large pool, has been looked at by nobody for long: there
	 * is time to fetch it until then. If nothing does, the slot itself will do: a branch would go either way.
	 */
	cache_prefetch(pool, cache->slot[top - (top != stack->base)]);
	sluice_store_u32(&cache->held, cache->held - units);
	cache->allocs++;
	return (struct cache_took){0, kind, cache->slot[top], units};
}

/*
 * Take a slot, of a size and alignment that have been checked. Its record is still that of a free one: the
 * caller says what it is, with release order. With the cache's lock.
 */
static inline struct cache_took cache_take(struct sluice_pool *pool, struct sluice_cache *cache,
					   uint64_t size, uint32_t align)
{
	uint32_t kind = kind_for(size, align);

	if (sluice_unlikely(!cache_height(cache, kind)))
		return sluice_cache_refill(pool, cache, size, align, kind);
	return cache_take_kind(pool, cache, kind);
}

/*
 * Keep a slot, if it may just be put onto its stack, with nothing else to see to. Its record says that it is
 * free. With the lock.
 */
static inline bool cache_keep(const struct sluice_pool *pool, struct sluice_cache *cache,
			      uint32_t unit, uint32_t kind)
{
	struct sluice_stack *stack = &cache->stack[kind];
	uint32_t units = sluice_kind_units[kind], held = cache->held + units;

	if (sluice_unlikely(cache_full(cache, kind)) ||
	    sluice_unlikely(held > sluice_load_u32(&pool->keep)))
		return false;
	cache->given += units;
	stack_push(cache, stack, unit, held);
	return true;
}

/* Give back a slot that is the caller's and whose record says that it is free. With the lock. */
static inline void cache_give(struct sluice_pool *pool, struct sluice_cache *cache, uint32_t unit,
			      uint32_t kind)
{
	if (!cache_keep(pool, cache, unit, kind))
		sluice_cache_give_back(pool, cache, unit, kind);
}

#endif
