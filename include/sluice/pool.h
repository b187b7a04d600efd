/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/pool.h - buffers out of the memory that is shared with a device
 *
 * Theory of operation
 * -------------------
 * A pool is a window of device addresses, filled chunk by chunk (2 MiB; the last one may be
 * shorter) with shared memory. It hands out slots. What the device can write is only the slots'
 * bytes: everything that the pool knows about them is kept in private memory, one struct
 * sluice_chunk for each chunk, which the caller provides.
 *
 * Two levels. Below, runs of whole granules (4 KiB), found in a constant number of steps through
 * two levels of bitmaps over the run length (the two-level segregated fit of Masmano, Ripoll,
 * Crespo and Real, ECRTS 2004), merged with their free neighbours when they come back. A run may
 * reach across chunks that are neighbours in both address spaces. Above, slabs: a run cut into up
 * to 16 equal slots of one size class, for what is smaller than a granule. Large requests thus
 * never break up what small ones hold, and the reverse.
 *
 * From any address inside a slot the pool finds the slot in constant time, without a lock: address
 * to chunk by division, chunk to run by a bitmap of run heads, run to slot by the class.
 *
 * Every slot has a private record of 16 bytes for its owner; the DMA layer keeps there what it has
 * to know at unmap time, so that nothing is looked up in anything that a device could write.
 *
 * Invariant (G2): the bytes of a free slot are zero, unless the device itself wrote them after the
 * slot was freed. Whoever frees a slot has scrubbed it first; sluice_pool_free() does not.
 *
 * Bounds: alloc and free take one lock for a number of steps that does not depend on the size of
 * the pool, its occupancy or its fragmentation (docs/DESIGN.md states the number); find takes none.
 */
#ifndef SLUICE_POOL_H
#define SLUICE_POOL_H

#include <sluice/os.h>
#include <sluice/share.h>

#define SLUICE_CHUNK_SHIFT   21
#define SLUICE_CHUNK_BYTES   (UINT32_C(1) << SLUICE_CHUNK_SHIFT)
#define SLUICE_GRANULE_SHIFT 12
#define SLUICE_GRANULE_BYTES (UINT32_C(1) << SLUICE_GRANULE_SHIFT)
#define SLUICE_UNIT_SHIFT    8 /* slots start on multiples of this */
#define SLUICE_UNIT_BYTES    (UINT32_C(1) << SLUICE_UNIT_SHIFT)

#define SLUICE_POOL_CLASSES 11 /* slab classes */
#define SLUICE_POOL_FL	    21 /* powers of two of a run length in granules, up to 4 GiB */
#define SLUICE_POOL_SL	    8  /* steps between two of them */

/* Private data of one chunk. Opaque; sluice_chunk_size() bytes, aligned to 64. */
struct sluice_chunk;

/* Private data that a slot's owner keeps with it. */
struct sluice_record {
	uint64_t orig; /* the owner's */
	uint32_t len;  /* the owner's */
	uint32_t tag;  /* the owner's; zero while the slot is free */
};

struct sluice_slot {
	void *cpu;     /* first byte, for this program */
	uint64_t dev;  /* the same, for the device */
	uint64_t size; /* bytes */
	struct sluice_record *record;
};

struct sluice_pool_stats {
	uint64_t bytes;	   /* in all chunks */
	uint64_t used;	   /* in slots that are handed out, as slots count, not payload */
	uint64_t used_max; /* the most that used has been */
	uint64_t slabs;	   /* bytes in slabs, used or not */
	uint64_t allocs;   /* slots handed out */
	uint64_t full;	   /* requests that found no room */
	uint64_t refused;  /* frees of what is not allocated */
	uint64_t largest;  /* bytes of a run in the highest bin: a request this long is met now */
	uint64_t span;	   /* bytes of the longest request that the empty pool would meet */
};

/* A pool. The caller owns the memory; the fields are private. */
struct sluice_pool {
	struct sluice_lock lock;
	const char *name;
	struct sluice_chunk **chunks;
	uint32_t max_chunks;
	uint32_t span_max; /* granules of the longest stretch of joined chunks */
	uint64_t dev;	   /* device address of chunk 0 */
	/* Links below are a granule's number in the window plus one; 0 is none. */
	uint32_t fl_map; /* which rows of free_runs have any */
	uint32_t sl_map[SLUICE_POOL_FL];
	uint32_t free_runs[SLUICE_POOL_FL][SLUICE_POOL_SL];
	uint32_t partial[SLUICE_POOL_CLASSES]; /* slabs with both free and taken slots */
	uint32_t empty[SLUICE_POOL_CLASSES];   /* one slab kept although all its slots are free */
	struct sluice_pool_stats stats;
};

/**
 * sluice_pool_init - make an empty pool
 * @pool:	owned by the caller, who keeps it until nothing uses it
 * @name:	for messages; kept, not copied
 * @chunks:	array of @max_chunks pointers, owned by the caller, kept by the pool
 * @max_chunks: how many chunks the window has, 1 to 2048 (4 GiB)
 * @dev:	device address at which the window starts, a multiple of 4096
 *
 * Return: 0; -EINVAL if an argument is outside those limits or the window wraps.
 * Context: any; nobody else uses @pool yet.
 */
SLUICE_API int sluice_pool_init(struct sluice_pool *pool, const char *name,
				struct sluice_chunk **chunks, uint32_t max_chunks, uint64_t dev);

/**
 * sluice_chunk_size - bytes of private memory that a chunk needs
 *
 * About 7 % of a chunk: a record for each 256 bytes, and 16 bytes for each granule.
 */
SLUICE_API size_t sluice_chunk_size(void);

/**
 * sluice_pool_add - give a pool one chunk
 * @pool: the pool
 * @meta: sluice_chunk_size() bytes, aligned to 64, owned by the caller, kept by the pool
 * @cpu:  the chunk's memory, shared with the device, aligned to 4096
 * @dev:  its device address: the window's start plus a multiple of 2 MiB, inside the window and
 *	  not taken
 * @size: bytes: a multiple of 4096, at most 2 MiB
 *
 * The memory is scrubbed before any of it is handed out.
 *
 * Return: 0; -EINVAL for an address or size outside those limits; -EBUSY if there is a chunk.
 * Context: any context in which @size bytes may be written. One caller at a time for each pool;
 * alloc and free may run meanwhile.
 */
SLUICE_API int sluice_pool_add(struct sluice_pool *pool, struct sluice_chunk *meta, void *cpu,
			       uint64_t dev, uint32_t size);

/**
 * sluice_pool_alloc - take a slot
 * @pool:  the pool
 * @size:  bytes wanted, at least 1
 * @align: power of two that the slot's device address has to be a multiple of, relative to the
 *	   address space and not to the pool; 1 to 2 MiB
 * @slot:  filled in on success
 *
 * Return: 0; -ENOSPC if no free run is long enough now; -E2BIG if it could not be met even by the
 * empty pool; -EINVAL if @size is 0 or @align is no such power of two.
 * Context: any, hard interrupts too. Takes the pool's lock for a bounded time.
 */
SLUICE_API int sluice_pool_alloc(struct sluice_pool *pool, uint64_t size, uint32_t align,
				 struct sluice_slot *slot);

/**
 * sluice_pool_find - the slot that an address lies in
 * @pool: the pool
 * @dev:  any device address
 * @slot: filled in on success
 *
 * The answer holds for as long as the slot stays allocated, which is for its owner to know.
 *
 * Return: 0; -ENOENT if the address is outside the pool or in no slab or allocated run. An address
 * in a slot that is free inside a slab is found; its record's tag is zero.
 * Context: any; takes no lock.
 */
SLUICE_API int sluice_pool_find(struct sluice_pool *pool, uint64_t dev, struct sluice_slot *slot);

/**
 * sluice_pool_free - give a slot back
 * @pool: the pool
 * @dev:  device address of the slot's first byte
 *
 * The caller has scrubbed the slot and set its record's tag to zero.
 *
 * Return: 0; -EINVAL if no allocated slot starts there (nothing is changed, and counted as
 * refused).
 * Context: any, hard interrupts too. Takes the pool's lock for a bounded time.
 */
SLUICE_API int sluice_pool_free(struct sluice_pool *pool, uint64_t dev);

/**
 * sluice_pool_get_stats - a consistent copy of the counters
 *
 * Context: any. Takes the pool's lock for a bounded time.
 */
SLUICE_API void sluice_pool_get_stats(struct sluice_pool *pool, struct sluice_pool_stats *stats);

#endif
