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
#define SLAB_SLOTS  16u /* the most that a slab is cut into */
#define KIND_FREE   1u
#define KIND_RUN    2u
#define KIND_SLAB   3u
#define KIND_SHIFT  30
#define CLASS_SHIFT 24
#define COUNT_MASK  0xffffffu

struct sluice_granule {
	uint32_t head;
	uint32_t prev; /* in a list of free runs or of slabs; number + 1 */
	uint32_t next;
	uint32_t free_slots; /* first granule of a slab: a bit for each free slot */
};

struct sluice_chunk {
	uint8_t *cpu;
	uint32_t granules; /* 512, or fewer in a short chunk */
	uint32_t joined;   /* 1 if joined to the chunk before */
	uint32_t lead;	   /* the run that reaches in from the chunk before: number + 1, or 0 */
	uint64_t heads[GRANULES / 64];
	struct sluice_granule granule[GRANULES];
	struct sluice_record record[UNITS];
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
	return head >> CLASS_SHIFT & 0x3fu;
}

static inline uint32_t head_count(uint32_t head)
{
	return head & COUNT_MASK;
}

/* The chunk of a granule that is known to be in one. Under the lock. */
static inline struct sluice_chunk *chunk_of(const struct sluice_pool *pool, uint32_t g)
{
	return pool->chunks[g >> CHUNK_INDEX];
}

static inline struct sluice_granule *granule_of(const struct sluice_pool *pool, uint32_t g)
{
	return &chunk_of(pool, g)->granule[g % GRANULES];
}

static inline uint64_t granule_dev(const struct sluice_pool *pool, uint32_t g)
{
	return pool->dev + ((uint64_t)g << SLUICE_GRANULE_SHIFT);
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

/* Granules of a run in the highest non-empty bin, 0 if all is taken. */
uint32_t sluice_runs_largest(const struct sluice_pool *pool);

/*
 * slab.c: slots smaller than a granule. Under the pool's lock, constant steps.
 */

/* The smallest class with slots of at least size bytes that are all aligned to align, or
 * SLUICE_POOL_CLASSES if there is none. */
uint32_t sluice_slab_class(uint64_t size, uint32_t align);

uint32_t sluice_slab_bytes(uint32_t class);
uint32_t sluice_slab_granules(uint32_t class);

/* The slot of a slab of this class that a byte at this offset in the slab lies in. */
uint32_t sluice_slab_index(uint32_t class, uint32_t offset);

/* Take a slot: sets its slab's first granule and its index. False if there is no room for a slab.
 */
bool sluice_slab_take(struct sluice_pool *pool, uint32_t class, uint32_t *g, uint32_t *index);

/* Give slot index of the slab that starts at g back. False if it is free already. */
bool sluice_slab_release(struct sluice_pool *pool, uint32_t g, uint32_t index);

/* Give back the slabs that are kept although empty. True if there were any. */
bool sluice_slab_reclaim(struct sluice_pool *pool);

#endif
