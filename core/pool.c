/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * pool.c - the pool's front: checks, the lock, the way from an address to its slot
 *
 * Theory of operation: see sluice/pool.h. This file holds no policy of its own: it decides between
 * slab and run, counts, and translates between slots as callers see them and granules as runs.c and
 * slab.c do.
 */
#include "internal.h"

#define MAX_ALIGN SLUICE_CHUNK_BYTES

size_t sluice_chunk_size(void)
{
	return sizeof(struct sluice_chunk);
}

int sluice_pool_init(struct sluice_pool *pool, const char *name, struct sluice_chunk **chunks,
		     uint32_t max_chunks, uint64_t dev)
{
	if (max_chunks == 0 || max_chunks > MAX_CHUNKS || dev % SLUICE_GRANULE_BYTES)
		return -EINVAL;
	if (dev > UINT64_MAX - ((uint64_t)max_chunks << SLUICE_CHUNK_SHIFT))
		return -EINVAL;
	sluice_zero(pool, sizeof(*pool));
	sluice_lock_init(&pool->lock);
	pool->name = name;
	pool->chunks = chunks;
	pool->max_chunks = max_chunks;
	pool->dev = dev;
	for (uint32_t c = 0; c < max_chunks; c++)
		chunks[c] = NULL;
	return 0;
}

static bool can_join(const struct sluice_chunk *first, const struct sluice_chunk *second)
{
	return first->granules == GRANULES && first->cpu + SLUICE_CHUNK_BYTES == second->cpu;
}

/* The longest stretch of joined chunks, in granules. */
static uint32_t longest_span(const struct sluice_pool *pool)
{
	uint32_t longest = 0, span = 0;

	for (uint32_t c = 0; c < pool->max_chunks; c++) {
		const struct sluice_chunk *chunk = pool->chunks[c];

		if (!chunk)
			continue;
		span = chunk->joined ? span + chunk->granules : chunk->granules;
		if (span > longest)
			longest = span;
	}
	return longest;
}

int sluice_pool_add(struct sluice_pool *pool, struct sluice_chunk *meta, void *cpu, uint64_t dev,
		    uint32_t size)
{
	struct sluice_chunk *after;
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
	if (pool->chunks[c])
		return -EBUSY;

	sluice_zero(meta, sizeof(*meta));
	sluice_zero(cpu, size);
	meta->cpu = cpu;
	meta->granules = size >> SLUICE_GRANULE_SHIFT;

	flags = sluice_lock(&pool->lock);
	if (c > 0 && pool->chunks[c - 1])
		meta->joined = can_join(pool->chunks[c - 1], meta);
	/* Release: whoever finds the chunk without the lock finds it filled in. */
	sluice_store_release_ptr((void **)&pool->chunks[c], meta);
	after = c + 1 < pool->max_chunks ? pool->chunks[c + 1] : NULL;
	if (after)
		after->joined = can_join(meta, after);
	sluice_runs_insert(pool, (uint32_t)c << CHUNK_INDEX, meta->granules);
	sluice_store_u64(&pool->stats.bytes, pool->stats.bytes + size);
	pool->span_max = longest_span(pool);
	sluice_unlock(&pool->lock, flags);
	return 0;
}

static void fill_slot(struct sluice_chunk *chunk, uint64_t dev, uint32_t offset, uint64_t size,
		      struct sluice_slot *slot)
{
	slot->cpu = chunk->cpu + offset;
	slot->dev = dev;
	slot->size = size;
	slot->record = &chunk->record[offset >> SLUICE_UNIT_SHIFT];
}

/* A slot inside a slab, from the slab's first granule. A slab may reach into the next chunk, and
 * then so does the slot's place; its memory is contiguous there, its record is not. */
static void slab_slot(const struct sluice_pool *pool, uint32_t g, uint32_t class, uint32_t index,
		      struct sluice_slot *slot)
{
	uint32_t bytes = sluice_slab_bytes(class);
	uint64_t dev = granule_dev(pool, g) + (uint64_t)index * bytes;
	uint64_t at = dev - pool->dev;
	struct sluice_chunk *chunk =
		sluice_load_acquire_ptr((void **)&pool->chunks[at >> SLUICE_CHUNK_SHIFT]);

	fill_slot(chunk, dev, (uint32_t)(at % SLUICE_CHUNK_BYTES), bytes, slot);
}

static bool take(struct sluice_pool *pool, uint32_t class, uint32_t count, uint32_t align,
		 uint32_t *g, uint32_t *index)
{
	uint32_t link;

	if (class < SLUICE_POOL_CLASSES)
		return sluice_slab_take(pool, class, g, index);
	link = sluice_runs_take(pool, count, align, KIND_RUN, 0);
	if (!link)
		return false;
	*g = link - 1;
	return true;
}

int sluice_pool_alloc(struct sluice_pool *pool, uint64_t size, uint32_t align,
		      struct sluice_slot *slot)
{
	uint32_t class, count, index = 0, g = 0, granule_align;
	unsigned long flags;
	bool found;

	if (size == 0 || align == 0 || (align & (align - 1)) || align > MAX_ALIGN)
		return -EINVAL;
	class = sluice_slab_class(size, align);
	granule_align = align > SLUICE_GRANULE_BYTES ? align >> SLUICE_GRANULE_SHIFT : 1;

	flags = sluice_lock(&pool->lock);
	if (size > (uint64_t)pool->span_max << SLUICE_GRANULE_SHIFT) {
		sluice_unlock(&pool->lock, flags);
		return -E2BIG;
	}
	count = (uint32_t)((size + SLUICE_GRANULE_BYTES - 1) >> SLUICE_GRANULE_SHIFT);
	found = take(pool, class, count, granule_align, &g, &index);
	if (!found && sluice_slab_reclaim(pool))
		found = take(pool, class, count, granule_align, &g, &index);
	if (!found) {
		pool->stats.full++;
		sluice_unlock(&pool->lock, flags);
		return -ENOSPC;
	}
	if (class < SLUICE_POOL_CLASSES)
		slab_slot(pool, g, class, index, slot);
	else
		fill_slot(chunk_of(pool, g), granule_dev(pool, g),
			  g % GRANULES << SLUICE_GRANULE_SHIFT,
			  (uint64_t)count << SLUICE_GRANULE_SHIFT, slot);
	pool->stats.allocs++;
	pool->stats.used += slot->size;
	if (pool->stats.used > pool->stats.used_max)
		pool->stats.used_max = pool->stats.used;
	sluice_unlock(&pool->lock, flags);
	return 0;
}

/*
 * The first granule of the run that granule g is in, by the bitmap of heads: the nearest head at or
 * before g in its chunk, or else the run that reaches in from the chunk before. A run that ended
 * before g is told by its length. At most GRANULES / 64 words are looked at.
 */
static bool find_run(const struct sluice_pool *pool, const struct sluice_chunk *chunk, uint32_t g,
		     uint32_t *first, uint32_t *head)
{
	uint32_t in_chunk = g % GRANULES, word = in_chunk / 64;
	uint64_t bits = sluice_load_u64(&chunk->heads[word]) & (~UINT64_C(0) >> (63 - g % 64));
	const struct sluice_chunk *home = chunk;

	while (!bits && word > 0)
		bits = sluice_load_u64(&chunk->heads[--word]);
	if (bits) {
		*first = g - in_chunk + word * 64 + 63 - (uint32_t)__builtin_clzll(bits);
	} else {
		uint32_t lead = sluice_load_u32(&chunk->lead);

		if (!lead)
			return false;
		*first = lead - 1;
		home = sluice_load_acquire_ptr((void **)&pool->chunks[*first >> CHUNK_INDEX]);
	}
	*head = sluice_load_u32(&home->granule[*first % GRANULES].head);
	return head_kind(*head) >= KIND_RUN && g - *first < head_count(*head);
}

int sluice_pool_find(struct sluice_pool *pool, uint64_t dev, struct sluice_slot *slot)
{
	uint64_t at = dev - pool->dev; /* wraps to something large if dev is below */
	uint32_t g, first, head, class;
	struct sluice_chunk *chunk;

	if (at >> SLUICE_CHUNK_SHIFT >= pool->max_chunks)
		return -ENOENT;
	chunk = sluice_load_acquire_ptr((void **)&pool->chunks[at >> SLUICE_CHUNK_SHIFT]);
	g = (uint32_t)(at >> SLUICE_GRANULE_SHIFT);
	if (!chunk || g % GRANULES >= chunk->granules)
		return -ENOENT;
	if (!find_run(pool, chunk, g, &first, &head))
		return -ENOENT;
	class = head_class(head);
	if (head_kind(head) == KIND_SLAB) {
		uint64_t offset = dev - granule_dev(pool, first);

		slab_slot(pool, first, class, sluice_slab_index(class, (uint32_t)offset), slot);
		return 0;
	}
	chunk = sluice_load_acquire_ptr((void **)&pool->chunks[first >> CHUNK_INDEX]);
	fill_slot(chunk, granule_dev(pool, first), first % GRANULES << SLUICE_GRANULE_SHIFT,
		  (uint64_t)head_count(head) << SLUICE_GRANULE_SHIFT, slot);
	return 0;
}

static bool release(struct sluice_pool *pool, uint64_t dev, const struct sluice_slot *slot)
{
	uint64_t at = dev - pool->dev;
	uint32_t first, head, g = (uint32_t)(at >> SLUICE_GRANULE_SHIFT);

	if (slot->dev != dev || !find_run(pool, chunk_of(pool, g), g, &first, &head))
		return false;
	if (head_kind(head) == KIND_SLAB) {
		uint32_t offset = (uint32_t)(dev - granule_dev(pool, first));

		return sluice_slab_release(pool, first,
					   sluice_slab_index(head_class(head), offset));
	}
	sluice_runs_release(pool, first);
	return true;
}

int sluice_pool_free(struct sluice_pool *pool, uint64_t dev)
{
	struct sluice_slot slot;
	unsigned long flags;
	bool done;

	flags = sluice_lock(&pool->lock);
	done = sluice_pool_find(pool, dev, &slot) == 0 && release(pool, dev, &slot);
	if (done)
		pool->stats.used -= slot.size;
	else
		pool->stats.refused++;
	sluice_unlock(&pool->lock, flags);
	return done ? 0 : -EINVAL;
}

void sluice_pool_get_stats(struct sluice_pool *pool, struct sluice_pool_stats *stats)
{
	unsigned long flags = sluice_lock(&pool->lock);

	*stats = pool->stats;
	stats->largest = (uint64_t)sluice_runs_largest(pool) << SLUICE_GRANULE_SHIFT;
	stats->span = (uint64_t)pool->span_max << SLUICE_GRANULE_SHIFT;
	sluice_unlock(&pool->lock, flags);
}
