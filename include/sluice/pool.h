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
 * Two levels. Below, runs of whole granules (4 KiB), found in a bounded number of steps through
 * bitmaps over the run length (as in the two-level segregated fit of Masmano, Ripoll, Crespo and
 * Real, ECRTS 2004) and over the place in the window, merged with their free neighbours when they
 * come back: short runs are taken from the top, long ones, fitting as closely as possible, from the
 * bottom, which is what keeps the pool dense (docs/POOL.md). A run may
 * reach across chunks that are neighbours in both address spaces. Above, slabs: a run cut into up
 * to 16 equal slots of one size class, for what is smaller than a granule. Large requests thus
 * never break up what small ones hold, and the reverse.
 *
 * From any address inside a slot the pool finds the slot in constant time, without a lock: address
 * to chunk by division, chunk to run by a bitmap of run heads, run to slot by the class.
 *
 * In front of both stands a small cache for each CPU, under a lock of its own that nobody else
 * normally touches: slots that were freed on this CPU, by size, last in first out, so that a slot
 * is handed out again while it is still warm. What the caches hold is bounded (1/8 of the pool in
 * all, and what is free), and is given back when the pool runs low: below 3/16 or 12 MiB free, whichever is
 * less, nothing is put into a cache any more, and every call empties a little of them; after a request has found no
 * room, so it is with runs of more than 16 KiB.
 *
 * Every slot has a private record of 16 bytes for its owner; the DMA layer keeps there what it has
 * to know at unmap time, so that nothing is looked up in anything that a device could write.
 *
 * Invariant (G2): the bytes of a free slot are zero, unless the device itself wrote them after the
 * slot was freed. Whoever frees a slot has scrubbed it first; sluice_pool_free() does not.
 *
 * Bounds: alloc and free take the lock of a cache and, inside it, at most twice that of the pool,
 * for a number of steps that does not depend on the size of the pool, its occupancy or its
 * fragmentation (docs/DESIGN.md states the number); find takes none.
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
#define SLUICE_POOL_ROWS    21 /* powers of two of a run length in granules, up to 4 GiB */
#define SLUICE_POOL_SHELVES 8  /* steps between two of them, below 4 MiB */
#define SLUICE_POOL_BINS    91
#define SLUICE_POOL_ZONES   64 /* parts of the window, by which runs are ordered */

/* Private data of one chunk. Opaque; sluice_chunk_size() bytes, aligned to 64. */
struct sluice_chunk;

/*
 * A place for a chunk in the window: what is there. Here and not in the chunk, because each map and each unmap asks, and
 * in a large pool one line for each four chunks is more likely to be in a cache than one for each. Private; the
 * array is the caller's.
 */
struct sluice_chunk_place {
	struct sluice_chunk *meta; /* NULL if there is none */
	uint8_t *cpu;		   /* its memory */
};

struct sluice_dma;

/* Private data of one CPU's cache. Opaque; sluice_cache_size() bytes, aligned to 64. */
struct sluice_cache;

/* Private data that a slot's owner keeps with it. */
struct sluice_record {
	uint64_t orig; /* the owner's */
	uint32_t len;  /* the owner's */
	uint32_t tag;  /* the owner's: its low two bits are zero whenever it gives the slot back */
};

struct sluice_slot {
	void *cpu;     /* first byte, for this program */
	uint64_t dev;  /* the same, for the device */
	uint64_t size; /* bytes */
	struct sluice_record *record;
	uint32_t kind; /* the pool's */
};

struct sluice_pool_stats {
	uint64_t bytes;	     /* in all chunks */
	uint64_t used;	     /* in slots that are handed out, as slots count, not payload */
	uint64_t used_max;   /* the most that was in runs: used, cached, and free slots of slabs */
	uint64_t cached;     /* in slots that wait in a cache */
	uint64_t slabs;	     /* bytes in slabs, used or not */
	uint64_t allocs;     /* slots handed out */
	uint64_t cache_hits; /* of these, from a cache */
	uint64_t full;	     /* requests that found no room */
	uint64_t waited;     /* times that somebody waited for room */
	uint64_t refused;    /* frees of what is not allocated */
	uint64_t largest;    /* bytes of a run in the highest bin: a request this long is met now */
	uint64_t span;	     /* bytes of the longest request that the empty pool would meet */
	uint64_t reserved;   /* in reserves of devices; what is in slots there is in used, too */
};

/* A free run at the head of a list: its first granule's number in the window plus one, 0 if none. */
struct sluice_run_link {
	uint32_t link;
	uint32_t count; /* its granules */
};

/* A pool. The caller owns the memory; the fields are private. */
struct sluice_pool {
	/* One line, that every call reads and that is written seldom. */
	struct sluice_chunk_place *chunks __attribute__((aligned(64)));
	struct sluice_cache **caches;
	uint64_t dev; /* device address of chunk 0 */
	uint32_t max_chunks;
	uint32_t n_caches;
	/*
	 * Units that one cache may hold without looking closer: cache_limit, or 0 while the pool runs low or somebody
	 * wants to hear of space. So whoever gives a slot back asks one question.
	 */
	uint32_t keep;
	uint32_t cache_limit; /* units that one cache may hold */
	uint32_t low;  /* what is not cached: 1 long runs, 2 anything (LOW_ in core/internal.h) */
	uint32_t gate; /* whether devices wait for their turn; see core/turn.c */
	uint32_t waiters; /* who want to hear of space */

	const char *name;
	void (*space)(void *context);
	void *context;
	uint32_t max_present; /* chunks that may be there at a time */
	uint32_t zone_shift;  /* granule number to zone */
	uint32_t span_max;    /* granules of the longest stretch of joined chunks */

	/* Without a lock. */
	uint32_t swept; /* the cache that is emptied next when there is no room */
	uint64_t refused;
	uint64_t full;
	uint64_t waited;

	/* Under the lock. Links are a granule's number in the window plus one; 0 is none. */
	struct sluice_lock lock __attribute__((aligned(64)));
	uint32_t rows;			      /* which rows have free runs */
	uint32_t shelves[SLUICE_POOL_ROWS];   /* which bins of a row */
	uint64_t row_zones[SLUICE_POOL_ROWS]; /* in which zones a row has any */
	uint64_t bin_zones[SLUICE_POOL_BINS]; /* in which zones a bin has any */
	struct sluice_run_link runs[SLUICE_POOL_BINS][SLUICE_POOL_ZONES];
	uint32_t partial[SLUICE_POOL_CLASSES]; /* slabs with both free and taken slots */
	uint32_t empty[SLUICE_POOL_CLASSES];   /* one slab kept although all its slots are free */
	uint64_t free_granules;
	uint32_t cache_max; /* cache_limit while enough is free */
	uint32_t shortage;  /* trips until a request that was put off is forgotten */
	bool few;	    /* few granules are free */
	bool frugal;
	uint64_t reserved;	 /* granules in reserves, of which nothing counts as free */
	uint64_t reserved_taken; /* of these, in slots */
	uint32_t n_chunks;
	uint32_t present;   /* a list of all chunks that are there: number + 1 */
	bool sparse;	    /* the window has room for more chunks than may be there */
	uint64_t ranks[32]; /* which ranks chunks have */
	bool asked;	    /* grow() has been called and sluice_pool_want() not yet */
	bool idle; /* sluice_pool_trim() has found nothing, and nothing has been taken since */
	uint32_t silence; /* turned away since anything was given back, or the first is first */
	uint32_t small;	  /* mappings of the first in its turn, not what it waits for */

	uint64_t passes;			   /* mappings made while any device waited */
	uint64_t insisted;			   /* bytes that those who insist wait for */
	struct sluice_dma *turn_first, *turn_last; /* who waits */
	struct sluice_dma *turn_insists;	   /* the last of those that insist */
	void (*grow)(void *context);
	struct sluice_pool_stats stats;
};

/* What sluice_pool_init() wants to know. All memory is the caller's and is kept by the pool. */
struct sluice_pool_config {
	const char *name;		   /* for messages */
	uint64_t dev;			   /* device address at which the window starts */
	struct sluice_chunk_place *chunks; /* array of max_chunks */
	uint32_t max_chunks; /* how many chunks the window has room for, up to 524288 (1 TiB) */
	/*
	 * How many of them may be there at a time, at most 2048 (4 GiB) and no more than max_chunks; 0 for
	 * all. Where chunks are found wherever there is memory, the window is all that devices reach, at
	 * the price of 16 bytes in chunks[] for each 2 MiB of it; a lookup costs the same.
	 */
	uint32_t max_present;
	struct sluice_cache **caches; /* array of n_caches, each sluice_cache_size() bytes */
	uint32_t n_caches;	      /* 1 to 4096; one for each CPU is best */
	/*
	 * Before the pool takes more than it ever has (used_max), the cache that asks for it gives back some of
	 * what it keeps: for one whose memory is dear, and whose loads are so steady that they fit into what an
	 * earlier one took. With one cache, used_max then is what was in use at once, and little more.
	 */
	bool frugal;
	/*
	 * NULL, or called when somebody should look after the pool: when it should get more chunks,
	 * once until sluice_pool_want() is called, and when it is used again after
	 * sluice_pool_trim() has found it unused. From inside a call that allocates, in its context and with a cache's lock held:
	 * it wakes somebody up and does nothing else.
	 */
	void (*grow)(void *context);
	/* NULL, or called in the same way when a slot has been given back while somebody waits. */
	void (*space)(void *context);
	void *context;
};

/**
 * sluice_pool_init - make an empty pool
 * @pool:   owned by the caller, who keeps it until nothing uses it
 * @config: read, not kept
 *
 * Return: 0; -EINVAL if dev is no multiple of 4096, a count is outside its limits, or the window
 * wraps.
 * Context: any; nobody else uses @pool yet.
 */
SLUICE_API int sluice_pool_init(struct sluice_pool *pool, const struct sluice_pool_config *config);

/**
 * sluice_cache_size - bytes of private memory that the cache of one CPU needs
 */
SLUICE_API size_t sluice_cache_size(void);

/**
 * sluice_chunk_size - bytes of private memory that a chunk needs
 *
 * About 7 % of a chunk: 16 bytes for each 256, and 17 for each granule.
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
 * Chunks that are neighbours for device and CPU make one stretch in which runs may lie, but for a
 * multiple of 4 GiB, which none reaches across.
 *
 * Return: 0; -EINVAL for an address or size outside those limits; -EBUSY if there is a chunk; -ENOSPC
 * if there are as many as there may be.
 * Context: any context in which @size bytes may be written. One caller at a time for each pool;
 * alloc and free may run meanwhile.
 */
SLUICE_API int sluice_pool_add(struct sluice_pool *pool, struct sluice_chunk *meta, void *cpu,
			       uint64_t dev, uint32_t size);

/**
 * sluice_pool_want - how many chunks the pool should get or give up
 * @pool: the pool
 *
 * It should have at least an eighth of its size (without reserves) free, and a chunk; below that it wants as many as
 * make it twice that, as far as its window has room. Above three times that and a chunk, it can do
 * without some: whoever calls waits for a while before it believes that.
 *
 * Return: chunks to add if positive, to remove if negative.
 * Context: any. Takes the pool's lock for a bounded time.
 */
SLUICE_API int32_t sluice_pool_want(struct sluice_pool *pool);

/**
 * sluice_pool_trim - give back some of what is kept without being in use
 * @pool: the pool
 *
 * Caches keep up to 1/8 of the pool warm, and each slab class one empty slab. This gives the slabs
 * back, and of each stack in each cache the older half, 32 slots at most: after 13 calls without maps in between,
 * nothing is kept. What is in constant use comes back at once, at the price of a few trips to the pool.
 *
 * Meant for whoever also calls sluice_pool_want(), a worker that may sleep between the calls: once a
 * second while this returns anything but 0, and after a 0 not until grow() is called (without a
 * grow(): once a second). So 30 s after a load has ended nothing of it is left, and an unused pool
 * wakes nobody.
 *
 * Return: bytes that are in use or kept in caches.
 * Context: any, but not for a hard interrupt: takes the lock of each cache that keeps anything 75
 * times, for at most 32 slots each, and in it the pool's for 16.
 */
SLUICE_API uint64_t sluice_pool_trim(struct sluice_pool *pool);

/**
 * sluice_pool_remove - take a chunk that is all free out of the pool
 * @pool: the pool
 * @meta: set to what sluice_pool_add() was given, the caller's again
 * @cpu:  set to its memory; scrubbed, but for what the device wrote into it while it was free
 * @dev:  set to its device address
 *
 * A call of sluice_pool_find() with an address that is no live slot's may be reading @meta at this
 * moment: the caller keeps it until none can be (in a kernel, a grace period).
 *
 * Return: 0; -EBUSY if every whole chunk has a slot in use.
 * Context: may be called where sluice_pool_add() may; one caller of either at a time. Empties the
 * caches, for which it waits for their locks.
 */
SLUICE_API int sluice_pool_remove(struct sluice_pool *pool, struct sluice_chunk **meta, void **cpu,
				  uint64_t *dev);

/**
 * sluice_pool_alloc - take a slot
 * @pool:  the pool
 * @size:  bytes wanted, at least 1
 * @align: power of two that the slot's device address has to be a multiple of, relative to the
 *	   address space and not to the pool; 1 to 2 MiB
 * @slot:  filled in on success
 *
 * Return: 0; -ENOSPC if no free run is long enough now (where three quarters of the pool are in use, a
 * first and a second try may miss one of up to 256 KiB that a cache keeps; the third does not); -E2BIG if it
 * could not be met even by the empty pool; -EINVAL if @size is 0 or @align is no such power of two.
 * Context: any, hard interrupts too. Takes locks for a bounded time.
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
 * Return: 0; -EINVAL if no allocated slot starts there or its tag is not zero (nothing is changed,
 * and counted as refused).
 * Context: any, hard interrupts too. Takes locks for a bounded time.
 */
SLUICE_API int sluice_pool_free(struct sluice_pool *pool, uint64_t dev);

/**
 * sluice_pool_wait_begin - say that somebody waits for space
 * @pool: the pool
 *
 * From now on, until as many calls of sluice_pool_wait_end(), config's space() is called whenever a
 * slot has been given back. A slot that is given back at this very moment may go unsaid: whoever
 * waits tries again once in a while.
 *
 * Context: any, hard interrupts too. Takes a lock for a bounded time.
 */
SLUICE_API void sluice_pool_wait_begin(struct sluice_pool *pool);
SLUICE_API void sluice_pool_wait_end(struct sluice_pool *pool);

/**
 * sluice_pool_get_stats - a consistent copy of the counters
 *
 * Context: any. Takes the pool's lock, and that of each cache, for a bounded time each.
 */
SLUICE_API void sluice_pool_get_stats(struct sluice_pool *pool, struct sluice_pool_stats *stats);

#endif
