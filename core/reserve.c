/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * reserve.c - a part of the pool that is one device's own
 *
 * Theory of operation
 * -------------------
 * What never ends (a ring, the receive buffers of an idle network, a backend that keeps what it was
 * given) can take the pool for ever, and no order among those who wait helps against that. So a
 * device may have a run set aside that nobody else can take from: when its request finds no room, or
 * is not let in because it is another's turn, it is met from there.
 *
 * The reserve is whole, or it is being used. Whoever finds it whole claims it and takes slot after slot
 * from its start; when he has let go of it and all of its slots have been given back, it is whole
 * again. So there is no fragmentation, and no request finds it half taken by another that cannot go on
 * either:
 *
 * - A list claims it for itself. Nobody else gets what the list leaves.
 * - Most drivers map the parts of a request one by one, and no call says what belongs together
 *   (virtio's do: header, data, status, descriptor table). These are made one after the other on one
 *   CPU. So a mapping that is no list's claims it for its CPU: later ones of the same CPU get what is
 *   left, those of other CPUs nothing.
 *
 * All others wait, as they would without a reserve. When a list has been refused, requests that are
 * shorter are refused too until it comes again (RESERVE_PATIENCE times at most), so that a device's
 * own short requests do not keep its longest list out.
 *
 * Metadata. The reserve is an allocated run for the rest of the pool. Inside it lies a row of pieces
 * without a gap, each with a head of its own as any run has: KIND_RUN with the class RUN_TAKEN for a
 * slot, RUN_IDLE for the rest and for a slot that has been given back. So the way from an interior
 * address to a slot is that of all runs. In its first granule, the fields that a free run or a slab
 * would use tell of the reserve:
 *
 *	next	    slots that are taken, and 1 for each who has claimed it and not let go
 *	free_slots  its length in granules, and RESERVE_CLOSED
 *
 * and in the first granule of each slot:
 *
 *	prev	    the reserve that it is in: its first granule + 1
 *
 * Nothing in there points to the device, whose memory may be gone before the last slot comes back: a
 * reserve that is closed while slots are taken goes back to the pool with the last one.
 *
 * Bound: taking and giving back is a constant number of steps, but that the last slot of all clears
 * the bitmap of heads over the reserve: at most RESERVE_MAX / 64 + 3 words. All under the pool's lock.
 */
#include "reserve.h"

#include "cache.h"
#include "turn.h"

#define RESERVE_CLOSED	 (1u << 31) /* goes back to the pool when it is whole */
#define RESERVE_MAX	 (SLUICE_RESERVE_MAX >> SLUICE_GRANULE_SHIFT)
#define RESERVE_PATIENCE 64u

static uint32_t length_of(const struct sluice_granule *reserve)
{
	return reserve->free_slots & ~RESERVE_CLOSED;
}

/* Make count granules from g on one piece. */
static void make_piece(struct sluice_pool *pool, uint32_t g, uint32_t count, uint32_t class)
{
	sluice_store_u32(&granule_of(pool, g)->head, head_make(KIND_RUN, class, count));
	runs_set_lead(pool, g, count, g + 1);
	runs_set_head(pool, g, true);
}

/* Make the whole reserve that starts at r one idle piece. */
static void make_whole(struct sluice_pool *pool, uint32_t r)
{
	uint32_t count = length_of(granule_of(pool, r)), end = r + count;

	for (uint32_t g = r, n; g < end; g += n) {
		uint64_t *word = &chunk_of(pool, g)->heads[g % GRANULES / 64];

		n = 64 - g % 64 < end - g ? 64 - g % 64 : end - g;
		sluice_store_u64(word, *word & ~(~UINT64_C(0) >> (64 - n) << g % 64));
	}
	make_piece(pool, r, count, RUN_IDLE);
}

/* The size of the pool without its reserves has changed. */
static void reserved(struct sluice_pool *pool, uint32_t r, uint32_t count, bool more)
{
	while (count) {
		uint32_t n = GRANULES - r % GRANULES < count ? GRANULES - r % GRANULES : count;
		struct sluice_chunk *chunk = chunk_of(pool, r);

		chunk->reserved = more ? chunk->reserved + n : chunk->reserved - n;
		pool->reserved = more ? pool->reserved + n : pool->reserved - n;
		r += n;
		count -= n;
	}
	sluice_pool_resized(pool);
}

/* One of those who kept the reserve from being whole is done with it. */
static void let_go(struct sluice_pool *pool, uint32_t r)
{
	struct sluice_granule *reserve = granule_of(pool, r);
	uint32_t count;

	if (--reserve->next)
		return;
	make_whole(pool, r);
	if (!(reserve->free_slots & RESERVE_CLOSED))
		return;
	count = length_of(reserve);
	sluice_runs_release(pool, r);
	reserved(pool, r, count, false);
	pool->silence = 0;
}

/*
 * Set count granules aside: the first one's number + 1, or 0. What is left must be able to hold as
 * much in one piece: nobody is to be told that the pool could never hold what is in his reserve.
 */
static uint32_t carve(struct sluice_pool *pool, uint32_t count)
{
	unsigned long flags = sluice_lock(&pool->lock);
	uint32_t link = sluice_runs_take(pool, count, 1, KIND_RUN, RUN_IDLE);

	if (link) {
		struct sluice_granule *reserve = granule_of(pool, link - 1);

		reserve->next = 0;
		reserve->free_slots = count;
		reserved(pool, link - 1, count, true);
		if (pool->span_max < count) {
			sluice_runs_release(pool, link - 1);
			reserved(pool, link - 1, count, false);
			link = 0;
		}
	}
	sluice_unlock(&pool->lock, flags);
	return link;
}

void sluice_reserve_close(struct sluice_dma *dma)
{
	struct sluice_pool *pool = dma->pool;
	struct sluice_granule *reserve;
	uint32_t r;

	if (!dma->reserve.first)
		return;
	r = dma->reserve.first - 1;
	reserve = granule_of(pool, r);
	sluice_store_u32(&dma->reserve.first, 0);
	dma->reserve.bytes = 0;
	reserve->free_slots |= RESERVE_CLOSED;
	reserve->next++;
	let_go(pool, r);
}

int sluice_dma_reserve(struct sluice_dma *dma, uint64_t bytes)
{
	struct sluice_pool *pool = dma->pool;
	unsigned long flags;
	uint32_t count, first;

	if (bytes > SLUICE_RESERVE_MAX)
		return -EINVAL;
	if (!bytes) {
		flags = sluice_lock(&pool->lock);
		sluice_reserve_close(dma);
		sluice_unlock(&pool->lock, flags);
		return 0;
	}
	if (sluice_load_u32(&dma->reserve.first))
		return -EBUSY;
	count = (uint32_t)((bytes + SLUICE_GRANULE_BYTES - 1) >> SLUICE_GRANULE_SHIFT);
	first = carve(pool, count);
	if (!first) {
		sluice_cache_empty_all(pool);
		first = carve(pool, count);
	}
	if (!first)
		return -ENOSPC;
	flags = sluice_lock(&pool->lock);
	dma->reserve.wants = 0;
	dma->reserve.bytes = (uint64_t)count << SLUICE_GRANULE_SHIFT;
	sluice_store_u32(&dma->reserve.first, first);
	sluice_unlock(&pool->lock, flags);
	return 0;
}

/* Claim the reserve, which has to be whole, and not kept for something longer. */
static bool claim_whole(struct sluice_dma *dma, uint64_t bytes, uint32_t owner)
{
	struct sluice_granule *reserve = granule_of(dma->pool, dma->reserve.first - 1);

	if (reserve->next || bytes > dma->reserve.bytes)
		return false;
	if (bytes < dma->reserve.wants && dma->reserve.patience) {
		dma->reserve.patience--;
		return false;
	}
	reserve->next = 1;
	dma->reserve.wants = 0;
	dma->reserve.used = 0;
	dma->reserve.owner = owner;
	return true;
}

uint32_t sluice_dma_reserve_begin(struct sluice_dma *dma, uint64_t bytes)
{
	struct sluice_pool *pool = dma->pool;
	uint32_t first = 0;
	unsigned long flags;

	/* Relaxed: most devices that find no room have none. Looked at again under the lock. */
	if (!sluice_load_u32(&dma->reserve.first))
		return 0;
	flags = sluice_lock(&pool->lock);
	if (dma->reserve.first && claim_whole(dma, bytes, 0)) {
		first = dma->reserve.first;
	} else if (dma->reserve.first && bytes <= dma->reserve.bytes &&
		   bytes >= dma->reserve.wants) {
		dma->reserve.wants = bytes;
		dma->reserve.patience = RESERVE_PATIENCE;
	}
	sluice_unlock(&pool->lock, flags);
	return first;
}

uint32_t sluice_reserve_join(struct sluice_dma *dma, uint64_t bytes)
{
	struct sluice_pool *pool = dma->pool;
	uint32_t first = 0, owner = sluice_cpu() + 1;
	unsigned long flags;

	if (!sluice_load_u32(&dma->reserve.first))
		return 0;
	flags = sluice_lock(&pool->lock);
	if (dma->reserve.first && claim_whole(dma, bytes, owner)) {
		first = dma->reserve.first;
	} else if (dma->reserve.first && dma->reserve.owner == owner) {
		struct sluice_granule *reserve = granule_of(pool, dma->reserve.first - 1);

		/* Whole, and kept for a list: then it is nobody's. */
		if (reserve->next) {
			first = dma->reserve.first;
			reserve->next++;
		}
	}
	sluice_unlock(&pool->lock, flags);
	return first;
}

void sluice_dma_reserve_end(struct sluice_dma *dma, uint32_t claim)
{
	struct sluice_pool *pool = dma->pool;
	unsigned long flags = sluice_lock(&pool->lock);

	let_go(pool, claim - 1);
	sluice_unlock(&pool->lock, flags);
}

/* Cut count granules, the first a multiple of align, off what is left. Its first + 1, or 0. */
static uint32_t cut(struct sluice_dma *dma, uint32_t claim, uint32_t count, uint32_t align)
{
	struct sluice_pool *pool = dma->pool;
	uint32_t r = claim - 1, end, g, skip;
	struct sluice_granule *granule;
	uint64_t used;

	/* Closed meanwhile: what is taken comes to an end. */
	if (dma->reserve.first != claim)
		return 0;
	end = r + length_of(granule_of(pool, r));
	g = r + dma->reserve.used;
	skip = runs_skip(pool, g, align);
	if ((uint64_t)g + skip + count > end)
		return 0;
	/* From the end, so that the row of pieces never has a gap. */
	if (g + skip + count < end)
		make_piece(pool, g + skip + count, end - g - skip - count, RUN_IDLE);
	granule = granule_of(pool, g + skip);
	granule->prev = claim;
	make_piece(pool, g + skip, count, RUN_TAKEN);
	if (skip)
		make_piece(pool, g, skip, RUN_IDLE);
	granule_of(pool, r)->next++;
	dma->reserve.used += skip + count;
	dma->reserve.maps++;
	pool->reserved_taken += count;
	used = sluice_pool_in_runs(pool);
	if (used > pool->stats.used_max)
		pool->stats.used_max = used;
	return g + skip + 1;
}

struct cache_took sluice_reserve_take(struct sluice_dma *dma, struct sluice_cache *cache,
				      uint32_t claim, uint64_t size, uint32_t align)
{
	uint64_t count = (size + SLUICE_GRANULE_BYTES - 1) >> SLUICE_GRANULE_SHIFT;
	struct sluice_pool *pool = dma->pool;
	unsigned long flags;
	uint32_t link;

	if (count > RESERVE_MAX)
		return (struct cache_took){.ret = -ENOSPC};
	align = align > SLUICE_GRANULE_BYTES ? align >> SLUICE_GRANULE_SHIFT : 1;
	flags = sluice_lock(&pool->lock);
	link = cut(dma, claim, (uint32_t)count, align);
	sluice_unlock(&pool->lock, flags);
	if (!link)
		return (struct cache_took){.ret = -ENOSPC};
	note_kind(pool, link - 1, KIND_RESERVED);
	cache_drew(cache, (uint32_t)granule_unit((uint32_t)count));
	return (struct cache_took){0, KIND_RESERVED, (uint32_t)granule_unit(link - 1),
				   (uint32_t)granule_unit((uint32_t)count)};
}

void sluice_reserve_release(struct sluice_pool *pool, uint32_t g)
{
	struct sluice_granule *granule = granule_of(pool, g);
	uint32_t count = head_count(granule->head);

	pool->reserved_taken -= count;
	sluice_store_u32(&granule->head, head_make(KIND_RUN, RUN_IDLE, count));
	let_go(pool, granule->prev - 1);
}
