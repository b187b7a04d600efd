/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * internal.h - what the files of core/ share with each other
 *
 * Theory of operation
 * -------------------
 * Granules are numbered through the whole window, across chunks: granule g is granule g % 512 of
 * chunk g / 512. Two chunks are joined if they are neighbours in the window, the first one is
 * whole, and their memory is contiguous for the CPU too (for the device it always is); runs merge
 * and reach across a joint and across nothing else.
 *
 * The state of a granule is one word, its head:
 *
 *	kind << 30 | class << 24 | length of the run in granules
 *
 * It means something in the first granule of every run, and in the last one as far as its kind
 * goes: FREE (with the length, so that a neighbour finds the start of the run to merge with), or
 * anything else. Words in between are left over from earlier and are never looked at: whoever asks
 * "which run is this address in" goes by the chunk's bitmap of allocated heads.
 *
 * Heads and bitmaps are written under the pool's lock and read without it by sluice_pool_find(), so
 * they go through the accessors of os.h. All else in here is the lock's.
 */
#ifndef SLUICE_INTERNAL_H
#define SLUICE_INTERNAL_H

#include <sluice/pool.h>

#define GRANULES    (SLUICE_CHUNK_BYTES >> SLUICE_GRANULE_SHIFT) /* in a chunk */
#define UNITS	    (SLUICE_CHUNK_BYTES >> SLUICE_UNIT_SHIFT)
#define CHUNK_INDEX (SLUICE_CHUNK_SHIFT - SLUICE_GRANULE_SHIFT) /* granule number to chunk */
#define MAX_CHUNKS  2048u
#define MAX_WINDOW  524288u /* chunks; its units have numbers of 32 bits */
#define MAX_CACHES  4096u
#define CACHE_SHARE 8u /* of the pool, that all caches together may hold */
/* With fewer than three quarters of them free a pool runs low, however large it is... */
#define LOW_GRANULES 4096u
/* ...and for so many trips after a request that was put off. */
#define SHORTAGE 16u
/* How low the pool runs: no long runs are cached; nothing is. */
#define LOW_LONG    1u
#define LOW_ALL	    2u
#define TAG_FREE    4u	/* record of a slot that waits in a cache or is free in a slab */
#define SLAB_SLOTS  16u /* the most that a slab is cut into */
#define KIND_FREE   1u
#define KIND_RUN    2u
#define KIND_SLAB   3u
#define RUN_TAKEN   1u /* classes of KIND_RUN: a slot in a reserve */
#define RUN_IDLE    2u /* and what is free there */
#define KIND_SHIFT  30
#define CLASS_SHIFT 24
#define CLASS_MASK  0x3fu
#define COUNT_MASK  0xffffffu

/* What happens so seldom that its code is to stand beside the way. */
#define SLUICE_RARE   __attribute__((__noinline__, __cold__))
#define SLUICE_INLINE inline __attribute__((__always_inline__))

#define sluice_likely(x)   __builtin_expect(!!(x), 1)
#define sluice_unlikely(x) __builtin_expect(!!(x), 0)

/* What a cache keeps apart: the slab classes, and runs by their length up to 256 KiB. */
#define CACHE_RUNS    64u
#define CACHE_KINDS   (SLUICE_POOL_CLASSES + CACHE_RUNS)
#define NO_KIND	      CACHE_KINDS	 /* too long for a cache */
#define KIND_RESERVED (CACHE_KINDS + 1u) /* in a reserve */
#define NO_SLOT	      (CACHE_KINDS + 2u)

struct sluice_granule {
	uint32_t head;
	uint32_t prev; /* in a list of free runs or of slabs; number + 1 */
	uint32_t next;
	union {
		uint32_t free_slots; /* first granule of a slab: a bit for each free slot */
		uint32_t next_count; /* of a free run: the length of the next one in its list */
	};
};

struct sluice_chunk {
	/* A line of its own: of all that is in this struct but the runs' granules, a trip to the pool touches no other. */
	uint64_t heads[GRANULES / 64] __attribute__((aligned(64)));
	/* What is looked at where runs reach across chunks, or chunks come and go. */
	uint32_t lead;	   /* the run that reaches in from the chunk before: number + 1, or 0 */
	uint32_t granules; /* 512, or fewer in a short chunk */
	uint32_t joined;   /* 1 if joined to the chunk before */
	uint32_t rank;	   /* of those that are there; what the zones of a sparse window go by */
	uint32_t reserved; /* granules in reserves */
	uint32_t next_present; /* the list of all chunks that are there: number + 1 */
	struct sluice_granule granule[GRANULES] __attribute__((aligned(64)));
	/* Four to a line, and none across two. */
	struct sluice_record record[UNITS] __attribute__((aligned(64)));
	/*
	 * The kind of the slots that start in this granule, or did last: a slab has slots of one kind only, and where a run
	 * starts nothing else does. Written when the run is taken or the slab is cut, while all their tags say that
	 * they are free, and read by who has claimed one: so it never changes while it is read.
	 */
	uint8_t kind[GRANULES] __attribute__((aligned(64)));
};

static inline uint32_t head_make(uint32_t kind, uint32_t class, uint32_t count)
{
	return kind << KIND_SHIFT | class << CLASS_SHIFT | count;
}

static inline uint32_t head_kind(uint32_t head)
{
	return head >> KIND_SHIFT;
}

static inline uint32_t head_class(uint32_t head)
{
	return head >> CLASS_SHIFT & CLASS_MASK;
}

static inline uint32_t head_count(uint32_t head)
{
	return head & COUNT_MASK;
}

/*
 * A line that is about to be written. In a large pool what is known about a slot or a run lies in half a dozen lines
 * that nobody has looked at for long: asked for together they cost little more than one of them. What does only that has
 * to be inlined: a function without any other effect need not be called, says GCC (12.2), and leaves the call out.
 */
static SLUICE_INLINE void sluice_prefetch(const void *line)
{
	__builtin_prefetch(line, 1);
}

/* Whether nothing of a chunk is in an allocated run. Under the lock. */
static inline bool chunk_all_free(const struct sluice_chunk *chunk)
{
	uint64_t heads = 0;

	for (uint32_t word = 0; word < GRANULES / 64; word++)
		heads |= chunk->heads[word];
	return !heads && !chunk->lead && chunk->granules == GRANULES;
}

/* The chunk of a granule that is known to be in one. Under the lock. */
static inline struct sluice_chunk *chunk_of(const struct sluice_pool *pool, uint32_t g)
{
	return pool->chunks[g >> CHUNK_INDEX].meta;
}

static inline struct sluice_granule *granule_of(const struct sluice_pool *pool, uint32_t g)
{
	return &chunk_of(pool, g)->granule[g % GRANULES];
}

/* What changes in a chunk, and of the first granule, when a run that starts at g comes or goes. */
static SLUICE_INLINE void prefetch_run(const struct sluice_pool *pool, uint32_t g)
{
	const struct sluice_chunk *chunk = chunk_of(pool, g);

	sluice_prefetch(chunk->heads);
	sluice_prefetch(&chunk->granule[g % GRANULES]);
}

static inline uint32_t zone_of(const struct sluice_pool *pool, uint32_t g)
{
	uint32_t at = pool->sparse ? chunk_of(pool, g)->rank << CHUNK_INDEX | g % GRANULES : g;

	return at >> pool->zone_shift;
}

static inline uint64_t granule_dev(const struct sluice_pool *pool, uint32_t g)
{
	return pool->dev + ((uint64_t)g << SLUICE_GRANULE_SHIFT);
}

static inline uint64_t granule_unit(uint32_t g)
{
	return (uint64_t)g << (SLUICE_GRANULE_SHIFT - SLUICE_UNIT_SHIFT);
}

/*
 * runs.c: runs of granules. All under the pool's lock, all in a constant number of steps but for
 * the number of chunks that one run reaches across.
 */

/* Put granules [g, g + count) into the free runs, merged with what is free beside them. */
void sluice_runs_insert(struct sluice_pool *pool, uint32_t g, uint32_t count);

/*
 * Take count granules, the first a multiple of align granules in device address space, and mark
 * them with kind and class. Returns the first one's number + 1, or 0 if there is no such run.
 */
uint32_t sluice_runs_take(struct sluice_pool *pool, uint32_t count, uint32_t align, uint32_t kind,
			  uint32_t class);

/* Give back the allocated run that starts at g. */
void sluice_runs_release(struct sluice_pool *pool, uint32_t g);

/* Take all granules of a chunk that are all free out of the free runs, as if there were no chunk. */
void sluice_runs_withdraw(struct sluice_pool *pool, uint32_t c);

/* How many granules from g on have to be skipped for the start of a run to be aligned. */
static inline uint32_t runs_skip(const struct sluice_pool *pool, uint32_t g, uint32_t align)
{
	uint32_t at = (uint32_t)(granule_dev(pool, g) >> SLUICE_GRANULE_SHIFT);

	return (0u - at) & (align - 1);
}

/* Say whether an allocated run starts at g. */
static inline void runs_set_head(struct sluice_pool *pool, uint32_t g, bool on)
{
	uint64_t *word = &chunk_of(pool, g)->heads[g % GRANULES / 64];
	uint64_t bit = UINT64_C(1) << g % 64;

	sluice_store_u64(word, on ? *word | bit : *word & ~bit);
}

/* Note, in every chunk that the run reaches into, where it starts. */
static inline void runs_set_lead(struct sluice_pool *pool, uint32_t g, uint32_t count,
				 uint32_t lead)
{
	for (uint32_t c = (g >> CHUNK_INDEX) + 1; c <= (g + count - 1) >> CHUNK_INDEX; c++)
		sluice_store_u32(&pool->chunks[c].meta->lead, lead);
}

/* Granules of a run in the highest non-empty bin, 0 if all is taken. */
uint32_t sluice_runs_largest(const struct sluice_pool *pool);

/*
 * slab.c: slots smaller than a granule. Under the pool's lock, constant steps.
 */

struct sluice_slab_shape {
	uint8_t units;	  /* slot size, in 256 bytes */
	uint8_t granules; /* slab size */
	uint8_t slots;	  /* granules * 16 / units, exact */
	uint16_t inverse; /* 65536 / units, rounded up: turns a division into a product */
	uint16_t bytes;	  /* slot size again */
};

extern const struct sluice_slab_shape sluice_slab_shapes[SLUICE_POOL_CLASSES];

#define SLAB_MAX_UNITS 14
#define GRANULE_UNITS  16u
/* The kind of slot that a number of units needs, up to a granule. */
extern const uint8_t sluice_kind_by_units[GRANULE_UNITS + 1];

/* The size of a slot of each kind that caches keep; 0 of the others, whose slots differ. */
extern const uint16_t sluice_kind_units[NO_SLOT + 1];

/* The smallest class with slots of at least size bytes that are all aligned to align, or
 * SLUICE_POOL_CLASSES if there is none. */
static inline uint32_t slab_class(uint64_t size, uint32_t align)
{
	uint32_t class;

	if (size > SLAB_MAX_UNITS << SLUICE_UNIT_SHIFT)
		return SLUICE_POOL_CLASSES;
	class = sluice_kind_by_units[(size + SLUICE_UNIT_BYTES - 1) >> SLUICE_UNIT_SHIFT];
	if (align <= SLUICE_UNIT_BYTES)
		return class;
	while (class < SLUICE_POOL_CLASSES && (sluice_slab_shapes[class].bytes & (align - 1)))
		class ++;
	return class;
}

/* The slot of a slab of this class that a byte at this offset in the slab lies in. */
static inline uint32_t slab_index(uint32_t class, uint32_t offset)
{
	uint32_t unit = offset >> SLUICE_UNIT_SHIFT;

	/* Exact for unit < 112, the most that a slab has. */
	return class == 0 ? unit : unit * sluice_slab_shapes[class].inverse >> 16;
}

/*
 * Take up to max slots out of one slab: sets its first granule and a bit for each slot taken.
 * False if there is no room for a slab.
 */
bool sluice_slab_take(struct sluice_pool *pool, uint32_t class, uint32_t max, uint32_t *g,
		      uint32_t *taken);

/* Give slot index of the slab that starts at g back. False if it is free already. */
bool sluice_slab_release(struct sluice_pool *pool, uint32_t g, uint32_t index);

/* Give back the slabs that are kept although empty. True if there were any. */
bool sluice_slab_reclaim(struct sluice_pool *pool);

/*
 * pool.c
 */

/* The slot of this kind and length that starts at a unit, which the caller has. */
static inline struct sluice_slot slot_at(const struct sluice_pool *pool, uint32_t unit,
					 uint32_t kind, uint64_t units)
{
	const struct sluice_chunk_place *place = &pool->chunks[unit / UNITS];

	/* Whoever has a slot knows of its chunk: by the locks that it came through. */
	return (struct sluice_slot){
		.cpu = place->cpu + ((size_t)(unit % UNITS) << SLUICE_UNIT_SHIFT),
		.dev = pool->dev + ((uint64_t)unit << SLUICE_UNIT_SHIFT),
		.size = units << SLUICE_UNIT_SHIFT,
		.record = &place->meta->record[unit % UNITS],
		.kind = kind,
	};
}

/* The same of any slot. False if there is no such chunk (any more). */
static inline bool slot_seen(const struct sluice_pool *pool, uint64_t unit, uint32_t kind,
			     uint64_t size, struct sluice_slot *slot)
{
	struct sluice_chunk *chunk =
		sluice_load_acquire_ptr((void **)&pool->chunks[unit / UNITS].meta);

	if (!chunk)
		return false; /* of a free slot only: its chunk has just been removed */

	slot->cpu = (uint8_t *)sluice_load_acquire_ptr((void **)&pool->chunks[unit / UNITS].cpu) +
		    (unit % UNITS << SLUICE_UNIT_SHIFT);
	slot->dev = pool->dev + (unit << SLUICE_UNIT_SHIFT);
	slot->size = size;
	slot->record = &chunk->record[unit % UNITS];
	slot->kind = kind;
	return true;
}

/*
 * The last allocated run that begins at or before granule g, as far as it begins in g's chunk or
 * reaches into it: its first granule, and its head as it was seen. By the bitmap of heads, GRANULES / 64 words at most. False if there is none. Needs no lock: what it says of a run holds while the run stays
 * allocated, and of anything else it says something harmless.
 */
static inline bool last_run(const struct sluice_pool *pool, uint32_t g, uint32_t *first,
			    uint32_t *head)
{
	const struct sluice_chunk *chunk =
		sluice_load_acquire_ptr((void **)&pool->chunks[g >> CHUNK_INDEX].meta);
	uint32_t in_chunk = g % GRANULES, word = in_chunk / 64;
	const struct sluice_chunk *home = chunk;
	uint64_t bits;

	if (!chunk)
		return false;
	bits = sluice_load_u64(&chunk->heads[word]) & (~UINT64_C(0) >> (63 - g % 64));
	while (!bits && word > 0)
		bits = sluice_load_u64(&chunk->heads[--word]);
	if (bits) {
		*first = g - in_chunk + word * 64 + 63 - (uint32_t)__builtin_clzll(bits);
	} else {
		uint32_t lead = sluice_load_u32(&chunk->lead);

		if (!lead)
			return false;
		*first = lead - 1;
		home = sluice_load_acquire_ptr((void **)&pool->chunks[*first >> CHUNK_INDEX].meta);
		if (!home)
			return false;
	}
	*head = sluice_load_u32(&home->granule[*first % GRANULES].head);
	return head_kind(*head) >= KIND_RUN;
}

/* The allocated run that granule g is in, in the same way. */
static inline bool run_at(const struct sluice_pool *pool, uint32_t g, uint32_t *first,
			  uint32_t *head)
{
	return last_run(pool, g, first, head) && g - *first < head_count(*head);
}

/* The kind of slot that an allocated run is, NO_SLOT for what is free in a reserve. */
static inline uint32_t run_kind(uint32_t head)
{
	uint32_t count = head & (CLASS_MASK << CLASS_SHIFT | COUNT_MASK);

	if (count <= CACHE_RUNS) /* and of class 0 */
		return SLUICE_POOL_CLASSES + count - 1;
	if (head_class(head) == 0)
		return NO_KIND;
	return head_class(head) == RUN_TAKEN ? KIND_RESERVED : NO_SLOT;
}

/* As sluice_pool_find(). */
static inline int find_slot(const struct sluice_pool *pool, uint64_t dev, struct sluice_slot *slot)
{
	uint64_t at = dev - pool->dev; /* wraps to something large if dev is below */
	uint32_t g, first, head, count;
	struct sluice_chunk *chunk;

	if (at >> SLUICE_CHUNK_SHIFT >= pool->max_chunks)
		return -ENOENT;
	chunk = sluice_load_acquire_ptr((void **)&pool->chunks[at >> SLUICE_CHUNK_SHIFT].meta);
	g = (uint32_t)(at >> SLUICE_GRANULE_SHIFT);
	if (!chunk || g % GRANULES >= chunk->granules)
		return -ENOENT;
	if (!run_at(pool, g, &first, &head))
		return -ENOENT;
	if (head_kind(head) == KIND_SLAB) {
		uint32_t class = head_class(head), bytes = sluice_slab_shapes[class].bytes;
		uint32_t offset = (uint32_t)(dev - granule_dev(pool, first));
		uint32_t index = slab_index(class, offset);

		if (slot_seen(pool,
			      granule_unit(first) + (uint64_t)index * (bytes >> SLUICE_UNIT_SHIFT),
			      class, bytes, slot))
			return 0;
		return -ENOENT;
	}
	count = head_count(head);
	if (slot_seen(pool, granule_unit(first), run_kind(head),
		      (uint64_t)count << SLUICE_GRANULE_SHIFT, slot))
		return slot->kind == NO_SLOT ? -ENOENT : 0;
	return -ENOENT;
}

/* The number of the unit that starts at dev; something larger than any if none does. */
static inline uint64_t unit_starting(const struct sluice_pool *pool, uint64_t dev)
{
	uint64_t at = dev - pool->dev;

	/* To the right, and what falls out comes in again on the left. */
	return at >> SLUICE_UNIT_SHIFT | at << (64 - SLUICE_UNIT_SHIFT);
}

/*
 * The chunk that a unit lies in, or NULL. What is mapped or held starts where the tag of a unit's record is not TAG_FREE, and
 * nowhere else: a chunk's records begin so, and whoever gives a slot back leaves its record so.
 */
static inline struct sluice_chunk *chunk_of_unit(const struct sluice_pool *pool, uint64_t unit)
{
	uint64_t c = unit / UNITS;

	return sluice_likely(c < pool->max_chunks)
		       ? sluice_load_acquire_ptr((void **)&pool->chunks[c].meta)
		       : NULL;
}

static inline void note_kind(const struct sluice_pool *pool, uint32_t g, uint32_t kind)
{
	chunk_of(pool, g)->kind[g % GRANULES] = (uint8_t)kind;
}

/*
 * The kind of the slot that starts at a unit of a chunk. The caller has claimed it by its tag, and nothing about it
 * changes any more; what it was before the claim may have been another slot at the same place.
 */
static inline uint32_t claimed_kind(const struct sluice_chunk *chunk, uint32_t unit)
{
	return chunk->kind[unit % UNITS / GRANULE_UNITS];
}

/* How long a slot is that the caller has, in units. */
static inline uint64_t slot_units(const struct sluice_pool *pool, uint32_t unit, uint32_t kind)
{
	if (kind < CACHE_KINDS)
		return sluice_kind_units[kind];
	return granule_unit(
		head_count(sluice_load_u32(&granule_of(pool, unit / GRANULE_UNITS)->head)));
}

/* As sluice_pool_want(), under the lock. */
int32_t sluice_pool_wanted(const struct sluice_pool *pool);

/* What is taken of the pool: slots, what caches keep, and free slots of slabs. Locked. */
static inline uint64_t sluice_pool_in_runs(const struct sluice_pool *pool)
{
	return pool->stats.bytes - ((pool->free_granules + pool->reserved - pool->reserved_taken)
				    << SLUICE_GRANULE_SHIFT);
}

/* What follows from the size of the pool and of its reserves. A look at each chunk. Locked. */
void sluice_pool_resized(struct sluice_pool *pool);

/*
 * Whether what caches keep need not be given back at once for a request that found no room: never here; yes,
 * and the pool runs low for a while; or it was, twice. Locked.
 */
enum put_off { PUT_OFF_NEVER, PUT_OFF, PUT_OFF_TWICE };
enum put_off sluice_pool_put_off(struct sluice_pool *pool);

/* Note whether the pool runs low, after free_granules, its size or its queue has changed. Locked. */
void sluice_pool_check_low(struct sluice_pool *pool);

/* reserve.c: a slot of a reserve that starts at g is given back. Under the lock. */
void sluice_reserve_release(struct sluice_pool *pool, uint32_t g);

/* cache.c; the rest of its interface is cache.h. */
void sluice_cache_init(struct sluice_cache *cache);

/* Give back all that caches hold, waiting for their locks, and the slabs that are kept empty. */
void sluice_cache_empty_all(struct sluice_pool *pool);

/* Add what the caches hold and have counted. Takes their locks. */
void sluice_cache_add_stats(struct sluice_pool *pool, struct sluice_pool_stats *stats);

#endif
