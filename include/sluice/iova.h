/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/iova.h - numbers for what is shared: I/O virtual addresses, grant references
 *
 * Theory of operation
 * -------------------
 * An allocator of consecutive numbers (granules of an I/O address space, or references of a grant
 * table), each run a power of two long and a multiple of its length. Numbers cost nothing, so
 * rounding up is cheap, and in return no call depends on how many runs are live: for each power of
 * two there is a bitmap of the free runs with bitmaps of its non-empty words above it, 64 to one,
 * so that finding one, splitting it and joining it again with its other half (Knowlton's buddies,
 * CACM 1965) takes a bounded number of steps: 21 powers of two, 5 levels. Two bits of memory for
 * each number, and none for a live run: whoever has it knows its length.
 *
 * In front of that, for each CPU and each length up to 128 KiB, stacks of numbers that were given
 * back there, under a lock that nobody else normally takes.
 *
 * All of it is private memory. Numbers are handed out again at once, last in first out: whoever
 * must not reuse one yet does not give it back yet.
 */
#ifndef SLUICE_IOVA_H
#define SLUICE_IOVA_H

#include <sluice/os.h>

#define SLUICE_IOVA_ORDERS 21 /* lengths 1 to 2^20 */
#define SLUICE_IOVA_LEVELS 5
#define SLUICE_IOVA_MAX	   (UINT64_C(1) << 28) /* numbers in one allocator, aligned ends included */
#define SLUICE_IOVA_KEPT   6		       /* lengths that are cached: 1 to 32 */
#define SLUICE_IOVA_DEPTH  32

/* One CPU's. Private. */
struct sluice_iova_cache {
	struct sluice_lock lock __attribute__((aligned(64)));
	uint8_t height[SLUICE_IOVA_KEPT];
	uint32_t stack[SLUICE_IOVA_KEPT][SLUICE_IOVA_DEPTH];
};

/* The caller owns the memory; the fields are private. */
struct sluice_iova {
	uint64_t base; /* number of bit 0 */
	uint64_t span; /* bits at order 0 */
	uint64_t first, last;
	uint32_t top_order;
	uint32_t n_caches;
	struct sluice_iova_cache *caches;
	struct sluice_lock lock __attribute__((aligned(64)));
	uint32_t orders; /* a bit for each order with a free run */
	uint64_t free;	 /* numbers that are free and in no cache */
	uint64_t *bits[SLUICE_IOVA_ORDERS][SLUICE_IOVA_LEVELS];
};

/**
 * sluice_iova_size - bytes of private memory for an allocator of the numbers [first, last]
 *
 * Return: the number of bytes, 0 if there would be more than SLUICE_IOVA_MAX numbers, or none.
 */
SLUICE_API size_t sluice_iova_size(uint64_t first, uint64_t last);

/**
 * sluice_iova_init - make an allocator in which nothing is free yet
 * @iova:     owned by the caller, who keeps it until nothing uses it
 * @first:    lowest number
 * @last:     highest number
 * @memory:   sluice_iova_size() bytes, aligned to 8; owned by the caller, kept
 * @caches:   array of @n_caches; owned by the caller, kept; NULL if @n_caches is 0
 * @n_caches: 0 to 4096; one for each CPU is best
 *
 * Return: 0; -EINVAL for a range that sluice_iova_size() says 0 to, or too many caches.
 * Context: any; nobody else uses @iova yet.
 */
SLUICE_API int sluice_iova_init(struct sluice_iova *iova, uint64_t first, uint64_t last,
				void *memory, struct sluice_iova_cache *caches, uint32_t n_caches);

/**
 * sluice_iova_add - let the numbers [first, last] be handed out
 *
 * Not twice the same; leave out what is reserved.
 *
 * Return: 0, or -EINVAL if they are not inside the allocator's or first > last.
 * Context: any; a number of steps that grows with the logarithm of the range.
 */
SLUICE_API int sluice_iova_add(struct sluice_iova *iova, uint64_t first, uint64_t last);

/**
 * sluice_iova_alloc - take count consecutive numbers
 * @iova:  the allocator
 * @count: how many, 1 to 2^20
 * @first: set to the lowest, a multiple of the power of two at or above @count
 *
 * Return: 0; -ENOSPC if no free run is long enough now; -EINVAL for another count.
 * Context: any, interrupts too. Takes at most a cache's lock, the allocator's inside it, and, when
 * that finds nothing, the other caches' one after the other.
 */
SLUICE_API int sluice_iova_alloc(struct sluice_iova *iova, uint64_t count, uint64_t *first);

/**
 * sluice_iova_free - give them back
 * @iova:  the allocator
 * @first: what sluice_iova_alloc() set
 * @count: as it was asked for
 *
 * Return: 0; -EINVAL, changing nothing, if that is no run of the allocator's, or it is seen to be
 * free already (a run that waits in a cache is not seen: this finds bugs, it is no defence).
 * Context: as sluice_iova_alloc().
 */
SLUICE_API int sluice_iova_free(struct sluice_iova *iova, uint64_t first, uint64_t count);

#endif
