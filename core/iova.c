/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * iova.c - numbers for what is shared
 *
 * Theory of operation: see sluice/iova.h. Run i of order o is the numbers base + (i << o) to
 * base + ((i + 1) << o) - 1; base is a multiple of the longest run, so runs are aligned outside as
 * they are inside. Bit w of a word on level l + 1 says that word w below is not zero.
 *
 * Invariant: a number is in at most one free run, in at most one cache, and never in both; two
 * free runs that are each other's other half do not exist.
 *
 * Locks: a cache's, then the allocator's inside it; never two caches'.
 */
#include <sluice/iova.h>

#define BATCH (SLUICE_IOVA_DEPTH / 2)

/* The least order with runs of count numbers. */
static uint32_t order_of(uint64_t count)
{
	return count <= 1 ? 0 : 64u - (uint32_t)__builtin_clzll(count - 1);
}

static uint32_t top_order(uint64_t first, uint64_t last)
{
	uint64_t count = last - first + 1;
	uint32_t order = 63u - (uint32_t)__builtin_clzll(count);

	return order < SLUICE_IOVA_ORDERS ? order : SLUICE_IOVA_ORDERS - 1;
}

/* The geometry of [first, last]: false if it is none. */
static bool shape(uint64_t first, uint64_t last, uint32_t *top, uint64_t *base, uint64_t *span)
{
	if (first > last || last - first >= SLUICE_IOVA_MAX)
		return false;
	*top = top_order(first, last);
	*base = first & ~((UINT64_C(1) << *top) - 1);
	*span = last - *base + 1;
	return *span <= SLUICE_IOVA_MAX;
}

/* Words of one level that has so many bits. */
static uint64_t words(uint64_t bits)
{
	return (bits + 63) / 64;
}

static uint64_t runs_of_order(uint64_t span, uint32_t order)
{
	return (span + (UINT64_C(1) << order) - 1) >> order;
}

size_t sluice_iova_size(uint64_t first, uint64_t last)
{
	uint64_t base, span, total = 0;
	uint32_t top;

	if (!shape(first, last, &top, &base, &span))
		return 0;
	for (uint32_t o = 0; o <= top; o++) {
		uint64_t n = runs_of_order(span, o);

		for (uint32_t l = 0; l < SLUICE_IOVA_LEVELS; l++)
			total += n = words(n);
	}
	return (size_t)(total * sizeof(uint64_t));
}

int sluice_iova_init(struct sluice_iova *iova, uint64_t first, uint64_t last, void *memory,
		     struct sluice_iova_cache *caches, uint32_t n_caches)
{
	uint64_t *at = memory, base, span;
	uint32_t top;

	if (!shape(first, last, &top, &base, &span) || n_caches > 4096)
		return -EINVAL;
	sluice_zero(iova, sizeof(*iova));
	sluice_zero(memory, sluice_iova_size(first, last));
	for (uint32_t o = 0; o <= top; o++) {
		uint64_t n = runs_of_order(span, o);

		for (uint32_t l = 0; l < SLUICE_IOVA_LEVELS; l++) {
			iova->bits[o][l] = at;
			at += n = words(n);
		}
	}
	iova->base = base;
	iova->span = span;
	iova->first = first;
	iova->last = last;
	iova->top_order = top;
	iova->caches = caches;
	iova->n_caches = n_caches;
	sluice_lock_init(&iova->lock);
	for (uint32_t i = 0; i < n_caches; i++) {
		sluice_zero(&caches[i], sizeof(caches[i]));
		sluice_lock_init(&caches[i].lock);
	}
	return 0;
}

static bool is_free(const struct sluice_iova *iova, uint32_t order, uint64_t i)
{
	return i < runs_of_order(iova->span, order) && iova->bits[order][0][i / 64] >> (i % 64) & 1;
}

static void set(struct sluice_iova *iova, uint32_t order, uint64_t i)
{
	iova->orders |= 1u << order;
	iova->free += UINT64_C(1) << order;
	for (uint32_t l = 0; l < SLUICE_IOVA_LEVELS; l++, i /= 64) {
		uint64_t *word = &iova->bits[order][l][i / 64], old = *word;

		*word = old | UINT64_C(1) << (i % 64);
		if (old)
			return;
	}
}

static void clear(struct sluice_iova *iova, uint32_t order, uint64_t i)
{
	iova->free -= UINT64_C(1) << order;
	for (uint32_t l = 0; l < SLUICE_IOVA_LEVELS; l++, i /= 64) {
		uint64_t *word = &iova->bits[order][l][i / 64];

		*word &= ~(UINT64_C(1) << (i % 64));
		if (*word)
			return;
	}
	iova->orders &= ~(1u << order);
}

/* The first free run of an order that has any. The highest level is one word: 64^5 > 2^28. */
static uint64_t lowest(const struct sluice_iova *iova, uint32_t order)
{
	uint64_t i = 0;

	for (uint32_t l = SLUICE_IOVA_LEVELS; l-- > 0;)
		i = i * 64 + (uint64_t)__builtin_ctzll(iova->bits[order][l][i]);
	return i;
}

/* Take one run; its number on success. Under the lock. */
static bool take(struct sluice_iova *iova, uint32_t order, uint64_t *number)
{
	uint32_t can = order < 32 ? iova->orders >> order << order : 0, o;
	uint64_t i;

	if (!can)
		return false;
	o = (uint32_t)__builtin_ctz(can);
	i = lowest(iova, o);
	clear(iova, o, i);
	while (o > order) {
		o--;
		i *= 2;
		set(iova, o, i + 1);
	}
	*number = iova->base + (i << order);
	return true;
}

/* Free a run that is known to be inside. Under the lock. */
static void give(struct sluice_iova *iova, uint32_t order, uint64_t number)
{
	uint64_t i = (number - iova->base) >> order;

	while (order < iova->top_order && is_free(iova, order, i ^ 1)) {
		clear(iova, order, i ^ 1);
		i /= 2;
		order++;
	}
	set(iova, order, i);
}

int sluice_iova_add(struct sluice_iova *iova, uint64_t first, uint64_t last)
{
	unsigned long flags;

	if (first > last || first < iova->first || last > iova->last)
		return -EINVAL;
	flags = sluice_lock(&iova->lock);
	while (first <= last) {
		uint32_t order = 0;

		while (order < iova->top_order &&
		       !((first - iova->base) & ((UINT64_C(2) << order) - 1)) &&
		       last - first >= (UINT64_C(2) << order) - 1)
			order++;
		give(iova, order, first);
		first += UINT64_C(1) << order;
		if (!first)
			break;
	}
	sluice_unlock(&iova->lock, flags);
	return 0;
}

static struct sluice_iova_cache *cache_of(struct sluice_iova *iova)
{
	uint32_t cpu = sluice_cpu(), n = iova->n_caches;

	/* A division takes as long as all the rest. */
	return &iova->caches[cpu < n ? cpu : cpu % n];
}

/* Give up to n numbers of a stack back. Under the cache's lock. */
static void empty(struct sluice_iova *iova, struct sluice_iova_cache *cache, uint32_t order,
		  uint32_t n)
{
	unsigned long flags = sluice_lock(&iova->lock);

	while (n-- > 0 && cache->height[order] > 0)
		give(iova, order, iova->base + cache->stack[order][--cache->height[order]]);
	sluice_unlock(&iova->lock, flags);
}

static bool take_locked(struct sluice_iova *iova, uint32_t order, uint64_t *number)
{
	unsigned long flags = sluice_lock(&iova->lock);
	bool ok = take(iova, order, number);

	sluice_unlock(&iova->lock, flags);
	return ok;
}

/* Refill an empty stack and take one from it. */
static bool refill(struct sluice_iova *iova, struct sluice_iova_cache *cache, uint32_t order,
		   uint64_t *number)
{
	unsigned long flags = sluice_lock(&iova->lock);
	bool ok = take(iova, order, number);
	uint64_t more;

	/* Only while there is plenty: a small space is not to be locked up in caches. */
	for (uint32_t i = 1;
	     ok && i < BATCH && iova->free >> order > (uint64_t)iova->n_caches * BATCH &&
	     take(iova, order, &more);
	     i++)
		cache->stack[order][cache->height[order]++] = (uint32_t)(more - iova->base);
	sluice_unlock(&iova->lock, flags);
	return ok;
}

static bool take_cached(struct sluice_iova *iova, uint32_t order, uint64_t *number)
{
	struct sluice_iova_cache *cache = cache_of(iova);
	unsigned long flags = sluice_lock(&cache->lock);
	bool ok = true;

	if (cache->height[order] > 0)
		*number = iova->base + cache->stack[order][--cache->height[order]];
	else
		ok = refill(iova, cache, order, number);
	sluice_unlock(&cache->lock, flags);
	return ok;
}

/* Take back what all caches hold. */
static void drain(struct sluice_iova *iova)
{
	for (uint32_t i = 0; i < iova->n_caches; i++) {
		unsigned long flags = sluice_lock(&iova->caches[i].lock);

		for (uint32_t order = 0; order < SLUICE_IOVA_KEPT; order++)
			empty(iova, &iova->caches[i], order, SLUICE_IOVA_DEPTH);
		sluice_unlock(&iova->caches[i].lock, flags);
	}
}

int sluice_iova_alloc(struct sluice_iova *iova, uint64_t count, uint64_t *first)
{
	uint32_t order = order_of(count);

	if (count == 0 || order >= SLUICE_IOVA_ORDERS)
		return -EINVAL;
	if (iova->n_caches > 0 && order < SLUICE_IOVA_KEPT) {
		if (take_cached(iova, order, first))
			return 0;
	} else if (take_locked(iova, order, first)) {
		return 0;
	}
	drain(iova);
	return take_locked(iova, order, first) ? 0 : -ENOSPC;
}

/* True if the run, or a longer one that it is part of, is free. Under the lock. */
static bool seen_free(const struct sluice_iova *iova, uint32_t order, uint64_t first)
{
	for (; order <= iova->top_order; order++) {
		if (is_free(iova, order, (first - iova->base) >> order))
			return true;
	}
	return false;
}

int sluice_iova_free(struct sluice_iova *iova, uint64_t first, uint64_t count)
{
	uint32_t order = order_of(count);
	struct sluice_iova_cache *cache;
	unsigned long flags;
	bool twice;

	if (count == 0 || order > iova->top_order || first < iova->first || first > iova->last ||
	    count - 1 > iova->last - first || first & ((UINT64_C(1) << order) - 1))
		return -EINVAL;
	if (iova->n_caches > 0 && order < SLUICE_IOVA_KEPT) {
		cache = cache_of(iova);
		flags = sluice_lock(&cache->lock);
		if (cache->height[order] == SLUICE_IOVA_DEPTH)
			empty(iova, cache, order, BATCH);
		cache->stack[order][cache->height[order]++] = (uint32_t)(first - iova->base);
		sluice_unlock(&cache->lock, flags);
		return 0;
	}
	flags = sluice_lock(&iova->lock);
	twice = seen_free(iova, order, first);
	if (!twice)
		give(iova, order, first);
	sluice_unlock(&iova->lock, flags);
	return twice ? -EINVAL : 0;
}
