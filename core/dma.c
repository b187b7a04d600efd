/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * dma.c - map, unmap, sync and coherent memory for one device
 *
 * Theory of operation
 * -------------------
 * See sluice/dma.h for what the calls promise. A mapping's life is in the tag of its slot's record:
 *
 *	0 --map--> LIVE --unmap--> BUSY --> 0		0 --alloc--> COHERENT --free--> BUSY --> 0
 *
 *	bits 0-1 state, 2-3 direction, 4-15 offset of the mapping in its slot, 16-31 device
 *
 * map writes the record, then publishes the tag with release order; unmap and sync read the tag
 * with acquire order and the rest of the record after it. Only the step to BUSY, a compare and
 * swap, gives the right to touch the driver's buffer at unmap and to free the slot.
 *
 * Order towards the device: the image is laid down before map returns, and the driver publishes the
 * address to the device after that, with the barrier its transport asks for (virtio 1.3, 2.7.13).
 * On the way back the driver has read the device's completion with its own barrier before it calls
 * unmap or sync. Neither needs one more here.
 *
 * Invariant: pool memory is read and written only inside a slot that this layer holds, and a
 * driver's buffer only inside what its own record says.
 */
#include <sluice/dma.h>

#include "cache.h"
#include "place.h"
#include "reserve.h"
#include "turn.h"

#define STATE_LIVE     1u
#define STATE_BUSY     2u
#define STATE_COHERENT 3u
#define STATE_MASK     3u
#define DIR_SHIFT      2
#define DIR_MASK       3u
#define OFF_SHIFT      4
#define OFF_MASK       0xfffu
#define ID_SHIFT       16

/* Copying back and scrubbing alternate in pieces that stay in the first-level cache. */
#define PIECE 16384u

/* At least so many bytes behind a mapping are watched in the debug mode. */
#define GUARD 32u

static uint32_t tag_make(const struct sluice_dma *dma, uint32_t state, uint32_t dir, uint32_t off)
{
	return (uint32_t)dma->id << ID_SHIFT | off << OFF_SHIFT | dir << DIR_SHIFT | state;
}

/*
 * Counters are one set for each cache of the pool and belong to that cache's lock, so that counting
 * costs an addition and no line is fought over.
 */
static void bump(uint64_t *counter, uint64_t n)
{
	*counter += n;
}

static SLUICE_RARE int refuse(struct sluice_dma *dma)
{
	struct cache_hold hold = cache_lock(dma->pool);

	bump(&dma->stats[hold.index].refused, 1);
	cache_unlock(hold);
	return -EINVAL;
}

static uint32_t bucket_of(uint64_t len)
{
	uint32_t bucket = len <= 1 ? 0 : 64u - (uint32_t)__builtin_clzll(len - 1);

	return bucket < SLUICE_HISTOGRAM ? bucket : SLUICE_HISTOGRAM - 1;
}

void sluice_dma_init(struct sluice_dma *dma, struct sluice_pool *pool, uint16_t id,
		     struct sluice_dma_stats *stats)
{
	sluice_zero(dma, sizeof(*dma));
	sluice_zero(stats, pool->n_caches * sizeof(*stats));
	dma->stats = stats;
	dma->pool = pool;
	dma->policy.kind = SLUICE_POLICY_BOUNCE;
	dma->seg_boundary_mask = UINT64_MAX;
	dma->id = id;
}

/* Not now: it is another device's turn. */
static SLUICE_RARE int turn_away(struct sluice_dma *dma)
{
	struct cache_hold hold;

	sluice_count(&dma->pool->full, 1);
	hold = cache_lock(dma->pool);
	bump(&dma->stats[hold.index].full, 1);
	cache_unlock(hold);
	return -ENOSPC;
}

/* Count a request that was met (streaming, of len bytes) or not. Under the cache's lock. */
static inline void count_take(struct sluice_dma_stats *stats, int ret, uint64_t len)
{
	if (sluice_likely(!ret)) {
		/* How many there were is the sum of these. */
		bump(&stats->sizes[bucket_of(len)], 1);
		bump(&stats->bytes_to, len);
	} else if (ret == -ENOSPC) {
		bump(&stats->full, 1);
	} else {
		bump(&stats->refused, 1);
	}
}

/*
 * The alignment of a slot that keeps a mapping of len bytes, off bytes into it, inside one segment of
 * the device, or 0 if there is none. In a pool that lies in one segment that is any.
 */
static uint32_t segment_align(const struct sluice_dma *dma, uint32_t off, uint64_t len)
{
	const struct sluice_pool *pool = dma->pool;
	uint64_t last = pool->dev + ((uint64_t)pool->max_chunks << SLUICE_CHUNK_SHIFT) - 1;
	uint64_t mask = sluice_load_u64(&dma->seg_boundary_mask), size = off + len;

	/* No slot crosses such a boundary where chunks do not lie across it (see can_join()). */
	if (sluice_likely((uint32_t)mask == UINT32_MAX && pool->dev % SLUICE_CHUNK_BYTES == 0))
		return 1;
	if (!((pool->dev ^ last) & ~mask))
		return 1;
	if (size > SLUICE_CHUNK_BYTES || (off & mask) + len - 1 > mask)
		return 0;
	/* A segment that is shorter than the offset divides the alignment that the offset needs. */
	if (size - 1 > mask)
		return 1;
	/* Segments and slots are powers of two: one that is no longer does not cross. */
	return size <= 1 ? 1 : 1u << (32 - __builtin_clz((uint32_t)size - 1));
}

/*
 * The debug mode: what the slot has beside the mapping is filled with a byte that depends on its
 * address, and looked at again at unmap. A device that writes there is caught, whatever it wrote but
 * that byte. It can see the bytes and put them back: this finds bugs, not attackers.
 */
static uint8_t guard_byte(uint64_t dev)
{
	return (uint8_t)(0x5a ^ dev ^ dev >> 8);
}

static void guard_fill(const struct sluice_slot *slot, uint64_t from, uint64_t to)
{
	uint8_t *cpu = slot->cpu;

	for (uint64_t i = from; i < to; i++)
		cpu[i] = guard_byte(slot->dev + i);
}

/* True if nobody has written there. Clears it. */
static bool guard_check(const struct sluice_slot *slot, uint64_t from, uint64_t to)
{
	const volatile uint8_t *cpu = slot->cpu;
	bool whole = true;

	for (uint64_t i = from; i < to; i++)
		whole = cpu[i] == guard_byte(slot->dev + i) && whole;
	sluice_zero((uint8_t *)slot->cpu + from, (size_t)(to - from));
	return whole;
}

/* Make the slot an image of the buffer, and the mapping live. */
static uint64_t lay_down(const struct sluice_dma *dma, const struct sluice_slot *slot,
			 uint64_t orig, uint64_t len, enum sluice_dir dir, uint32_t off)
{
	sluice_copy((uint8_t *)slot->cpu + off, sluice_orig(orig), len);
	if (dma->guard) {
		guard_fill(slot, 0, off);
		guard_fill(slot, off + len, slot->size);
	}
	sluice_store_u64(&slot->record->orig, orig);
	sluice_store_u32(&slot->record->len, (uint32_t)len);
	/* Release: whoever sees the mapping live sees its record. */
	sluice_store_release_u32(&slot->record->tag, tag_make(dma, STATE_LIVE, (uint32_t)dir, off));
	return slot->dev + off;
}

/*
 * Map through a slot of the pool or, with a claim on the device's reserve, through one of that: which
 * is nobody else's turn, and nothing to wait for.
 */
static inline int bounce(struct sluice_dma *dma, uint64_t orig, uint64_t len, enum sluice_dir dir,
			 uint32_t mask, uint32_t claimed, uint64_t *addr)
{
	uint32_t off = (uint32_t)(orig & mask);
	uint64_t size = off + len + (dma->guard ? GUARD : 0);
	uint32_t align = segment_align(dma, off, len);
	struct cache_took took;
	struct cache_hold hold;
	struct sluice_slot slot;
	bool anyone = false;

	if (!align)
		return refuse(dma);
	if (align < mask + 1)
		align = mask + 1;
	if (!claimed) {
		anyone = turn_anyone(dma->pool);
		if (anyone && !sluice_turn_may_map(dma, len))
			return turn_away(dma);
	}
	hold = cache_lock(dma->pool);
	if (claimed)
		took = sluice_reserve_take(dma, hold.cache, claimed, size, align);
	else
		took = cache_take(dma->pool, hold.cache, size, align);
	count_take(&dma->stats[hold.index], took.ret, len);
	cache_unlock(hold);
	if (sluice_unlikely(took.ret)) {
		if (!claimed && took.ret == -ENOSPC)
			sluice_turn_wait(dma, len);
		return took.ret;
	}
	if (anyone)
		sluice_turn_met(dma, len, 1);
	slot = slot_at(dma->pool, took.unit, took.kind, took.units);
	*addr = lay_down(dma, &slot, orig, len, dir, off);
	return 0;
}

/* What place.c asks for. */
int sluice_dma_refuse(struct sluice_dma *dma)
{
	return refuse(dma);
}

int sluice_dma_bounce(struct sluice_dma *dma, uint64_t orig, uint64_t len, enum sluice_dir dir,
		      uint32_t mask, uint64_t *addr)
{
	return bounce(dma, orig, len, dir, mask, 0, addr);
}

bool sluice_dma_valid(const struct sluice_dma *dma, uint64_t orig, uint64_t len,
		      enum sluice_dir dir)
{
	uint32_t mask = sluice_load_u32(&dma->min_align_mask);

	return len && len <= UINT32_MAX && orig <= UINT64_MAX - len &&
	       (uint32_t)dir <= SLUICE_FROM_DEVICE && mask <= OFF_MASK && !(mask & (mask + 1));
}

/* By the pool or, if that is what the caller has claimed, by the reserve. */
static inline int map(struct sluice_dma *dma, uint64_t orig, uint64_t len, enum sluice_dir dir,
		      uint32_t claimed, uint64_t *addr)
{
	uint32_t mask = sluice_load_u32(&dma->min_align_mask);

	if (!sluice_dma_valid(dma, orig, len, dir))
		return refuse(dma);
	/* With a claim all other ways have been tried: it bounces. */
	if (dma->place && !claimed)
		return sluice_place_map(dma, orig, len, dir, mask, addr);
	return bounce(dma, orig, len, dir, mask, claimed, addr);
}

/* The pool had no room: but perhaps the reserve has, if the device has one. */
__attribute__((__noinline__)) static int map_in_reserve(struct sluice_dma *dma, uint64_t orig,
							uint64_t len, enum sluice_dir dir,
							uint64_t *addr)
{
	uint32_t claimed = sluice_reserve_join(dma, len);
	int ret;

	if (!claimed)
		return -ENOSPC;
	ret = map(dma, orig, len, dir, claimed, addr);
	sluice_dma_reserve_end(dma, claimed);
	if (ret == 0)
		sluice_dma_list_done(dma, len, 0);
	return ret;
}

int sluice_dma_map(struct sluice_dma *dma, uint64_t orig, uint64_t len, enum sluice_dir dir,
		   uint64_t *addr)
{
	int ret = map(dma, orig, len, dir, 0, addr);

	return ret == -ENOSPC ? map_in_reserve(dma, orig, len, dir, addr) : ret;
}

int sluice_dma_list_map(struct sluice_dma *dma, uint64_t orig, uint64_t len, enum sluice_dir dir,
			uint32_t claimed, uint64_t *addr)
{
	if (claimed)
		return map(dma, orig, len, dir, claimed, addr);
	return map(dma, orig, len, dir, 0, addr);
}

/*
 * The slot of a mapping of this device in the given state whose tag says that it contains addr;
 * fills in the tag and the address at which the mapping starts.
 */
static bool find_mapping(struct sluice_dma *dma, uint64_t addr, uint32_t state,
			 struct sluice_slot *slot, uint32_t *tag, uint64_t *start)
{
	if (find_slot(dma->pool, addr, slot))
		return false;
	/* Acquire: pairs with the release in bounce() and sluice_dma_alloc(). */
	*tag = sluice_load_acquire_u32(&slot->record->tag);
	*start = slot->dev + (*tag >> OFF_SHIFT & OFF_MASK);
	return (*tag & STATE_MASK) == state && *tag >> ID_SHIFT == dma->id && addr >= *start;
}

/* Where the slot starts whose mapping starts at addr, by the slow way; UINT64_MAX if there is none. */
static SLUICE_RARE uint64_t find_start(struct sluice_dma *dma, uint64_t addr, uint32_t state)
{
	struct sluice_slot slot;
	uint64_t start;
	uint32_t tag;

	if (!find_mapping(dma, addr, state, &slot, &tag, &start) || addr != start)
		return UINT64_MAX;
	return slot.dev;
}

/* A mapping that is being ended, and its slot. */
struct claimed {
	struct sluice_record *record; /* NULL: there is no such mapping */
	uint8_t *cpu;		      /* its first byte */
	uint32_t unit, kind;
};

/*
 * Claim what a unit's record says that starts there. What was found before says where to look; that a slot
 * starts there, and is mapped like this, says the tag that is claimed. Its length is compared again after the
 * claim, and its kind asked for only then: from the claim on nothing of it changes. (See
 * tests/proof/cache.pml: NO_RECHECK, KIND_FIRST.)
 */
static inline struct claimed claim_at(const struct sluice_pool *pool, uint64_t unit,
				      struct sluice_chunk *chunk, uint32_t tag, uint64_t len)
{
	uint32_t off = tag >> OFF_SHIFT & OFF_MASK;
	struct sluice_record *record = &chunk->record[unit % UNITS];

	/* Acquire: pairs with the release in lay_down() and sluice_dma_alloc(). */
	if (sluice_unlikely(sluice_load_u32(&record->len) != len) ||
	    sluice_unlikely(!sluice_cas_u32(&record->tag, tag, (tag & ~STATE_MASK) | STATE_BUSY)))
		return (struct claimed){.record = NULL};
	if (sluice_unlikely(sluice_load_u32(&record->len) != len)) {
		sluice_store_release_u32(&record->tag, tag);
		return (struct claimed){.record = NULL};
	}
	return (struct claimed){
		.record = record,
		.cpu = pool->chunks[unit / UNITS].cpu +
		       ((size_t)(unit % UNITS) << SLUICE_UNIT_SHIFT) + off,
		.unit = (uint32_t)unit,
		.kind = claimed_kind(chunk, (uint32_t)unit),
	};
}

/* The same for a mapping that starts further into its slot than in the first unit. */
static SLUICE_RARE struct claimed claim_further(struct sluice_dma *dma, uint64_t addr, uint64_t len,
						uint32_t dir, uint32_t state)
{
	uint64_t start = find_start(dma, addr, state), unit;
	struct sluice_chunk *chunk;

	if (start == UINT64_MAX)
		return (struct claimed){.record = NULL};
	unit = (start - dma->pool->dev) >> SLUICE_UNIT_SHIFT;
	chunk = chunk_of_unit(dma->pool, unit);
	if (!chunk)
		return (struct claimed){.record = NULL};
	return claim_at(dma->pool, unit, chunk, tag_make(dma, state, dir, (uint32_t)(addr - start)),
			len);
}

/* Claim the mapping that starts at addr for ending it. */
static inline struct claimed claim(struct sluice_dma *dma, uint64_t addr, uint64_t len,
				   uint32_t dir, uint32_t state)
{
	uint64_t at = addr - dma->pool->dev, unit = at >> SLUICE_UNIT_SHIFT;
	struct sluice_chunk *chunk = chunk_of_unit(dma->pool, unit);
	struct claimed claimed;

	if (sluice_unlikely(!chunk))
		return (struct claimed){.record = NULL};
	claimed = claim_at(dma->pool, unit, chunk,
			   tag_make(dma, state, dir, (uint32_t)at % SLUICE_UNIT_BYTES), len);
	if (sluice_unlikely(!claimed.record))
		return claim_further(dma, addr, len, dir, state);
	return claimed;
}

/* What lies before and behind a mapping in its slot. */
static SLUICE_RARE bool guards_check(struct sluice_dma *dma, uint32_t unit, uint32_t kind,
				     uint64_t addr, uint64_t len)
{
	uint64_t units = slot_units(dma->pool, unit, kind);
	struct sluice_slot slot = slot_at(dma->pool, unit, kind, units);
	bool whole = guard_check(&slot, 0, addr - slot.dev);

	return guard_check(&slot, addr - slot.dev + len, slot.size) && whole;
}

/* Nothing is mapped there any more: say so, and give the slot back. */
static inline struct cache_hold give(struct sluice_dma *dma, struct claimed claimed)
{
	struct cache_hold hold;

	/* Relaxed: whoever has the slot next gets it by a lock. */
	sluice_store_u32(&claimed.record->tag, TAG_FREE);
	hold = cache_lock(dma->pool);
	cache_give(dma->pool, hold.cache, claimed.unit, claimed.kind);
	return hold;
}

int sluice_dma_unbounce(struct sluice_dma *dma, uint64_t addr, uint64_t len, enum sluice_dir dir,
			uint32_t flags)
{
	bool copy = dir != SLUICE_TO_DEVICE && !(flags & SLUICE_SKIP_SYNC);
	struct sluice_dma_stats *stats;
	struct claimed claimed;
	struct cache_hold hold;
	uint8_t *from, *to;
	bool whole = true;

	claimed = claim(dma, addr, len, (uint32_t)dir, STATE_LIVE);
	if (sluice_unlikely(!claimed.record))
		return refuse(dma);
	from = claimed.cpu;
	to = sluice_orig(sluice_load_u64(&claimed.record->orig));
	for (uint64_t done = 0; done < len; done += PIECE) {
		size_t n = (size_t)(len - done < PIECE ? len - done : PIECE);

		if (copy)
			sluice_copy(to + done, from + done, n);
		sluice_zero(from + done, n);
	}
	if (sluice_unlikely(dma->guard))
		whole = guards_check(dma, claimed.unit, claimed.kind, addr, len);
	hold = give(dma, claimed);
	stats = &dma->stats[hold.index];
	bump(&stats->unmaps, 1);
	bump(&stats->scrubbed, len);
	if (copy)
		bump(&stats->bytes_from, len);
	if (sluice_unlikely(!whole))
		bump(&stats->overruns, 1);
	cache_unlock(hold);
	return whole ? 0 : 1;
}

int sluice_dma_unmap(struct sluice_dma *dma, uint64_t addr, uint64_t len, enum sluice_dir dir,
		     uint32_t flags)
{
	if ((uint32_t)dir > SLUICE_FROM_DEVICE)
		return refuse(dma);
	if (dma->place)
		return sluice_place_unmap(dma, addr, len, dir, flags);
	return sluice_dma_unbounce(dma, addr, len, dir, flags);
}

/* The two syncs differ in the direction that makes them do nothing and the way they copy. */
static int sync(struct sluice_dma *dma, uint64_t addr, uint64_t len, enum sluice_dir dir,
		enum sluice_dir idle, bool to_device)
{
	struct sluice_slot slot;
	uint64_t start, at;
	uint8_t *mine, *theirs;
	struct cache_hold hold;
	uint32_t tag, mapped;

	if ((uint32_t)dir > SLUICE_FROM_DEVICE)
		return refuse(dma);
	if (dma->place && sluice_place_owns(dma, addr))
		return sluice_place_sync(dma, addr, len, dir, to_device);
	if (!find_mapping(dma, addr, STATE_LIVE, &slot, &tag, &start))
		return refuse(dma);
	/* A mapping in both directions may be synced in one. */
	mapped = tag >> DIR_SHIFT & DIR_MASK;
	if (mapped != (uint32_t)dir && mapped != SLUICE_BIDIRECTIONAL)
		return refuse(dma);
	at = addr - start;
	if (at > sluice_load_u32(&slot.record->len) ||
	    len > sluice_load_u32(&slot.record->len) - at)
		return refuse(dma);
	if (dir == idle || len == 0)
		return 0;
	mine = (uint8_t *)sluice_orig(sluice_load_u64(&slot.record->orig)) + at;
	theirs = (uint8_t *)slot.cpu + (addr - slot.dev);
	if (to_device)
		sluice_copy(theirs, mine, (size_t)len);
	else
		sluice_copy(mine, theirs, (size_t)len);
	hold = cache_lock(dma->pool);
	bump(&dma->stats[hold.index].syncs, 1);
	bump(to_device ? &dma->stats[hold.index].bytes_to : &dma->stats[hold.index].bytes_from,
	     len);
	cache_unlock(hold);
	return 0;
}

int sluice_dma_sync_for_cpu(struct sluice_dma *dma, uint64_t addr, uint64_t len,
			    enum sluice_dir dir)
{
	return sync(dma, addr, len, dir, SLUICE_TO_DEVICE, false);
}

int sluice_dma_sync_for_device(struct sluice_dma *dma, uint64_t addr, uint64_t len,
			       enum sluice_dir dir)
{
	return sync(dma, addr, len, dir, SLUICE_FROM_DEVICE, true);
}

/* The power of two at or above len, from a granule to a chunk. */
static uint32_t natural_align(uint64_t len)
{
	if (len <= SLUICE_GRANULE_BYTES)
		return SLUICE_GRANULE_BYTES;
	if (len >= SLUICE_CHUNK_BYTES)
		return SLUICE_CHUNK_BYTES;
	return 1u << (32 - __builtin_clz((uint32_t)len - 1));
}

int sluice_dma_alloc(struct sluice_dma *dma, uint64_t len, uint64_t *addr, void **cpu)
{
	struct cache_took took;
	struct cache_hold hold;
	struct sluice_slot slot;

	if (len == 0 || len > UINT32_MAX)
		return refuse(dma);
	hold = cache_lock(dma->pool);
	took = cache_take(dma->pool, hold.cache, len, natural_align(len));
	if (took.ret) {
		count_take(&dma->stats[hold.index], took.ret, len);
	} else {
		bump(&dma->stats[hold.index].allocs, 1);
		bump(&dma->stats[hold.index].coherent, (uint64_t)took.units << SLUICE_UNIT_SHIFT);
	}
	cache_unlock(hold);
	if (took.ret)
		return took.ret;
	slot = slot_at(dma->pool, took.unit, took.kind, took.units);
	/* The slot was scrubbed when it was freed, but the device may have written since. */
	sluice_zero(slot.cpu, (size_t)slot.size);
	sluice_store_u64(&slot.record->orig, 0);
	sluice_store_u32(&slot.record->len, (uint32_t)len);
	sluice_store_release_u32(&slot.record->tag, tag_make(dma, STATE_COHERENT, 0, 0));
	*addr = slot.dev;
	*cpu = slot.cpu;
	return 0;
}

int sluice_dma_free(struct sluice_dma *dma, uint64_t addr, uint64_t len)
{
	struct claimed claimed = claim(dma, addr, len, 0, STATE_COHERENT);
	struct cache_hold hold;
	uint64_t size;

	if (!claimed.record)
		return refuse(dma);
	size = slot_units(dma->pool, claimed.unit, claimed.kind) << SLUICE_UNIT_SHIFT;
	sluice_zero(claimed.cpu, (size_t)size);
	hold = give(dma, claimed);
	bump(&dma->stats[hold.index].frees, 1);
	bump(&dma->stats[hold.index].coherent_freed, size);
	cache_unlock(hold);
	return 0;
}

uint64_t sluice_dma_max_mapping(struct sluice_dma *dma)
{
	struct sluice_pool_stats stats;
	uint64_t most, slack;

	sluice_pool_get_stats(dma->pool, &stats);
	most = stats.bytes / 8;
	if (most < 65536)
		most = 65536;
	if (most > SLUICE_CHUNK_BYTES)
		most = SLUICE_CHUNK_BYTES;
	/* What min_align_mask may put in front and guard behind. */
	slack = OFF_MASK + 1 + (dma->guard ? GUARD : 0);
	if (stats.span >= slack && most > stats.span - slack)
		most = stats.span - slack;
	return most;
}
