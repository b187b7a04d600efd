/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * models.c - the two designs that the pool replaces, each as good as its description allows
 *
 * Theory of operation
 * -------------------
 * scan, after kernel/dma/swiotlb.c of Linux 6.12 as its documentation describes it: slots of 2 KiB
 * in segments of 128; for each slot the number of free slots from it to the end of its free stretch
 * inside the segment; next-fit search from where the last one ended, under the lock of an area, an
 * area for each thread; the whole area and then the others are scanned before a request fails.
 * Lengths up to 256 KiB. Made better than life: no interrupts to disable, no statistics shared
 * between CPUs, areas on lines of their own.
 *
 * classes, after the RFC "swiotlb: Add a new cc-swiotlb implementation" (Yu, 2023): free lists of
 * 512 B, 2 KiB, 4 KiB, 16 KiB and 512 KiB buffers, a lock for each, the shares of the pool as in
 * the RFC's half watermarks. Made better than life: the way from an address to its class is a
 * division and not a lookup in a tree, and an empty list falls through to the next larger class.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <sluice/os.h>

#include "bench.h"

#define BASE  UINT64_C(0x100000000)
#define ALIGN 64

/* scan */

#define SLOT	2048u
#define SEGMENT 128u

struct area {
	struct sluice_lock lock;
	uint32_t index, used;
} __attribute__((aligned(ALIGN)));

static struct {
	struct area *areas;
	uint8_t *list;	 /* free slots from here on in this segment; 0 if taken */
	uint16_t *taken; /* slots of the mapping that starts here */
	uint64_t *orig;	 /* what a mapping remembers for each slot */
	uint32_t n_areas, area_slots;
} scan;

static bool scan_open(size_t pool, unsigned int threads)
{
	uint32_t slots = (uint32_t)(pool / SLOT);

	scan.n_areas = threads;
	scan.area_slots = slots / threads / SEGMENT * SEGMENT;
	scan.areas = aligned_alloc(ALIGN, threads * sizeof(*scan.areas));
	scan.list = malloc(slots);
	scan.taken = calloc(slots, sizeof(*scan.taken));
	scan.orig = calloc(slots, sizeof(*scan.orig));
	if (!scan.areas || !scan.list || !scan.taken || !scan.orig)
		return false;
	memset(scan.areas, 0, threads * sizeof(*scan.areas));
	for (uint32_t i = 0; i < slots; i++)
		scan.list[i] = (uint8_t)(SEGMENT - i % SEGMENT);
	return true;
}

static void scan_close(void)
{
	free(scan.areas);
	free(scan.list);
	free(scan.taken);
	free(scan.orig);
}

static uint64_t scan_area(uint32_t a, uint32_t n, uint64_t orig)
{
	struct area *area = &scan.areas[a];
	uint32_t first = a * scan.area_slots, i = area->index;
	unsigned long flags = sluice_lock(&area->lock);
	uint32_t stride = n >= 2 ? 2 : 1; /* from a page on, whole pages */

	if (n > scan.area_slots - area->used)
		goto full;
	i = area->index / stride * stride;
	for (uint32_t seen = 0; seen < scan.area_slots; seen += stride) {
		uint32_t slot = first + i;

		if (scan.list[slot] >= n) {
			for (uint32_t k = 0; k < n; k++) {
				scan.list[slot + k] = 0;
				scan.orig[slot + k] = orig + k * SLOT;
			}
			for (uint32_t k = slot;
			     k-- > first && k % SEGMENT != SEGMENT - 1 && scan.list[k];)
				scan.list[k] = (uint8_t)(slot - k);
			scan.taken[slot] = (uint16_t)n;
			area->used += n;
			area->index = i + n < scan.area_slots ? i + n : 0;
			sluice_unlock(&area->lock, flags);
			return BASE + (uint64_t)slot * SLOT;
		}
		i += stride;
		if (i >= scan.area_slots)
			i = 0;
	}
full:
	sluice_unlock(&area->lock, flags);
	return 0;
}

static uint64_t scan_map(size_t len, unsigned int thread, uint32_t *taken)
{
	uint32_t n = (uint32_t)((len + SLOT - 1) / SLOT);

	*taken = n * SLOT;
	if (n > SEGMENT)
		return 0;
	for (uint32_t i = 0; i < scan.n_areas; i++) {
		uint64_t addr = scan_area((thread + i) % scan.n_areas, n, len);

		if (addr)
			return addr;
	}
	return 0;
}

static void scan_unmap(uint64_t addr, size_t len, unsigned int thread)
{
	uint32_t slot = (uint32_t)((addr - BASE) / SLOT), n = scan.taken[slot], count;
	struct area *area = &scan.areas[slot / scan.area_slots];
	uint32_t first = slot / scan.area_slots * scan.area_slots;
	unsigned long flags = sluice_lock(&area->lock);

	(void)len;
	(void)thread;
	count = (slot + n) % SEGMENT ? scan.list[slot + n] : 0;
	for (uint32_t k = slot + n; k-- > slot;)
		scan.list[k] = (uint8_t)++count;
	for (uint32_t k = slot; k-- > first && k % SEGMENT != SEGMENT - 1 && scan.list[k];)
		scan.list[k] = (uint8_t)++count;
	area->used -= n;
	sluice_unlock(&area->lock, flags);
}

const struct candidate cand_scan = {"slot scan", true, scan_open, scan_close, scan_map, scan_unmap};

/* classes */

#define CLASSES 5
static const uint32_t class_size[CLASSES] = {512, 2048, 4096, 16384, 524288};
static const uint32_t class_share[CLASSES] = {256 * 1, 16384 * 4, 8192 * 8, 1024 * 32, 32 * 1024};

static struct {
	struct class_list {
		struct sluice_lock lock;
		uint32_t n;
		uint64_t *stack;
	} __attribute__((aligned(ALIGN))) list[CLASSES];
	uint64_t start[CLASSES + 1]; /* where a class's buffers begin */
} classes;

static bool classes_open(size_t pool, unsigned int threads)
{
	uint64_t sum = 0, at = BASE;

	(void)threads;
	for (int c = 0; c < CLASSES; c++)
		sum += class_share[c];
	for (int c = 0; c < CLASSES; c++) {
		uint64_t n = pool * class_share[c] / sum / class_size[c];

		classes.list[c].stack = malloc(n * sizeof(uint64_t));
		if (!classes.list[c].stack)
			return false;
		classes.list[c].n = (uint32_t)n;
		classes.start[c] = at;
		for (uint64_t i = 0; i < n; i++)
			classes.list[c].stack[n - 1 - i] = at + i * class_size[c];
		at += n * class_size[c];
	}
	classes.start[CLASSES] = at;
	return true;
}

static void classes_close(void)
{
	for (int c = 0; c < CLASSES; c++)
		free(classes.list[c].stack);
}

static uint64_t classes_map(size_t len, unsigned int thread, uint32_t *taken)
{
	(void)thread;
	for (int c = 0; c < CLASSES; c++) {
		struct class_list *list = &classes.list[c];
		unsigned long flags;
		uint64_t addr = 0;

		if (len > class_size[c])
			continue;
		flags = sluice_lock(&list->lock);
		if (list->n)
			addr = list->stack[--list->n];
		sluice_unlock(&list->lock, flags);
		*taken = class_size[c];
		if (addr)
			return addr;
	}
	return 0;
}

static void classes_unmap(uint64_t addr, size_t len, unsigned int thread)
{
	struct class_list *list = &classes.list[0];
	unsigned long flags;

	(void)len;
	(void)thread;
	for (int c = 1; c < CLASSES && addr >= classes.start[c]; c++)
		list = &classes.list[c];
	flags = sluice_lock(&list->lock);
	list->stack[list->n++] = addr;
	sluice_unlock(&list->lock, flags);
}

const struct candidate cand_classes = {"class locks", true,	   classes_open,
				       classes_close, classes_map, classes_unmap};

/* malloc: whatever is linked or preloaded; an upper bound, it has no fixed pool */

static bool malloc_open(size_t pool, unsigned int threads)
{
	(void)pool;
	(void)threads;
	return true;
}

static void malloc_close(void)
{
}

static uint64_t malloc_map(size_t len, unsigned int thread, uint32_t *taken)
{
	*taken = (uint32_t)len;
	(void)thread;
	return (uint64_t)(uintptr_t)malloc(len);
}

static void malloc_unmap(uint64_t addr, size_t len, unsigned int thread)
{
	(void)len;
	(void)thread;
	free((void *)(uintptr_t)addr);
}

const struct candidate cand_malloc = {"malloc",	    false,	malloc_open,
				      malloc_close, malloc_map, malloc_unmap};
