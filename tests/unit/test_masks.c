/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_masks.c - what a device asks of an address, on small pools, all of it
 *
 * Theory of operation
 * -------------------
 * Each size, offset, min_align_mask, seg_boundary_mask and alignment of a grid is mapped in an empty
 * pool, in pools of several sizes that begin at addresses of several alignments, and again with the
 * pool half full of pages. Where it succeeds, the place has to have what was asked for, checked
 * against the words of the DMA API and not against how the pool goes about it. Where it fails, a
 * search over all granules of the pool has to agree:
 *
 *   - if no place in any address space has it, it is -EINVAL, and only then;
 *   - if an empty pool has a place whose slot is aligned to the power of two above it (what the pool
 *     looks for where it crosses a segment), or any place where it crosses none, it succeeds.
 */
#include <stdlib.h>

#include "rig.h"

#define KiB 1024u

static uint8_t buf[512 * KiB + 8192];

static const uint64_t windows[] = {UINT64_C(1) << 32, 0x7ff000, 0xfffff000, 0x1000};
static const uint32_t pools[] = {4 * KiB, 12 * KiB, 64 * KiB, 256 * KiB};
static const uint64_t boundaries[] = {0,       255,	 511,	     1023,	 2047,
				      4095,    8191,	 0x7fff,     0xffff,	 0x1ffff,
				      0xfffff, 0xffffff, 0x7fffffff, 0xffffffff, UINT64_MAX};
static const uint32_t offsets[] = {0,	1,    17,   255,  256,	257,  511,
				   512, 1024, 1536, 2047, 2048, 3584, 4095};

static uint32_t sizes[100], n_sizes;

static void make_sizes(void)
{
	n_sizes = 0;
	for (uint32_t s = 1; s <= 512 * KiB; s *= 2) {
		if (s > 4)
			sizes[n_sizes++] = s - 1;
		sizes[n_sizes++] = s;
		if (s > 1)
			sizes[n_sizes++] = s + 1;
		if (s >= 256)
			sizes[n_sizes++] = s + s / 2;
	}
}

static uint64_t power_above(uint64_t n)
{
	uint64_t p = 1;

	while (p < n)
		p *= 2;
	return p;
}

struct asked {
	uint64_t dev, size; /* of the pool */
	uint64_t len, boundary;
	uint32_t off, mask; /* off: of the buffer in its page */
};

static bool crosses(uint64_t first, uint64_t len, uint64_t boundary)
{
	return ((first ^ (first + len - 1)) & ~boundary) != 0;
}

/* Is there an address anywhere? Where the low bits are fixed, the lowest such one is the best. */
static bool possible(const struct asked *a)
{
	uint64_t at = a->off & a->mask;

	return !crosses(at, a->len, a->boundary) || !crosses(at & a->boundary, a->len, a->boundary);
}

/* Has the empty pool a granule at which a slot can begin, aligned to align and the mask? */
static bool has_place(const struct asked *a, uint64_t align)
{
	uint64_t off = a->off & a->mask;

	if (align < (uint64_t)a->mask + 1)
		align = (uint64_t)a->mask + 1;
	for (uint64_t at = a->dev; at + off + a->len <= a->dev + a->size; at += 4096) {
		if (at % align == 0 && !crosses(at + off, a->len, a->boundary))
			return true;
	}
	return false;
}

static void check_place(const struct asked *a, uint64_t addr)
{
	assert_true(addr >= a->dev && addr + a->len <= a->dev + a->size);
	assert_int_equal(addr & a->mask, a->off & a->mask);
	assert_false(crosses(addr, a->len, a->boundary));
	if (a->mask)
		return;
	assert_int_equal(addr % 256, 0);
	if (a->len % 512 == 0)
		assert_int_equal(addr % 512, 0);
	if (a->len >= 3585)
		assert_int_equal(addr % 4096, 0);
}

/* One mapping. In an empty pool its failure has to be right, too. */
static void one(struct rig *rig, const struct asked *a, bool empty, uint64_t *met)
{
	uint8_t *page = buf + (4096 - (uintptr_t)buf % 4096) % 4096;
	uint64_t orig = (uintptr_t)page + a->off, addr, last = a->dev + SLUICE_CHUNK_BYTES - 1;
	int ret = sluice_dma_map(&rig->dma, orig, a->len, SLUICE_TO_DEVICE, &addr);

	if (ret == 0) {
		check_place(a, addr);
		assert_int_equal(sluice_dma_unmap(&rig->dma, addr, a->len, SLUICE_TO_DEVICE, 0), 0);
		(*met)++;
		return;
	}
	if (ret == -EINVAL)
		assert_false(possible(a));
	else
		assert_true(ret == -ENOSPC || ret == -E2BIG);
	if (!empty)
		return;
	if (!(a->dev ^ last) || !((a->dev ^ last) & ~a->boundary))
		assert_false(has_place(a, 1));
	else
		assert_false(has_place(a, power_above((a->off & a->mask) + a->len)));
}

static void grid(struct rig *rig, struct asked *a, bool empty, uint64_t *met, uint64_t *tried)
{
	for (a->mask = 0; a->mask <= 4095; a->mask = a->mask * 2 + 1) {
		for (uint32_t b = 0; b < sizeof(boundaries) / sizeof(boundaries[0]); b++) {
			a->boundary = boundaries[b];
			rig->dma.min_align_mask = a->mask;
			rig->dma.seg_boundary_mask = a->boundary;
			for (uint32_t s = 0; s < n_sizes && sizes[s] <= a->size + 4096; s++) {
				a->len = sizes[s];
				for (uint32_t o = 0; o < sizeof(offsets) / sizeof(offsets[0]);
				     o++) {
					a->off = offsets[o];
					one(rig, a, empty, met);
					(*tried)++;
				}
			}
		}
	}
}

static void open_at(struct rig *rig, uint64_t size, uint64_t dev)
{
	assert_int_equal(sluice_memfd_create("masks", size, dev, &rig->mem), 0);
	rig->stats = calloc(rig->mem->pool.n_caches, sizeof(*rig->stats));
	assert_non_null(rig->stats);
	sluice_dma_init(&rig->dma, &rig->mem->pool, 7, rig->stats);
}

static void all_masks(bool empty)
{
	uint64_t met = 0, tried = 0;

	make_sizes();
	for (uint32_t w = 0; w < sizeof(windows) / sizeof(windows[0]); w++) {
		for (uint32_t p = 0; p < sizeof(pools) / sizeof(pools[0]); p++) {
			struct asked a = {.dev = windows[w], .size = pools[p]};
			struct sluice_slot slot[128];
			uint32_t n = 0, left = 0;
			struct rig rig;

			open_at(&rig, a.size, a.dev);
			while (!empty && n < a.size / 4096)
				assert_int_equal(
					sluice_pool_alloc(&rig.mem->pool, 4096, 1, &slot[n++]), 0);
			/* Every second page comes back, and where there are enough, some more. */
			for (uint32_t i = 0; i < n; i++) {
				if (i % 2 && i % 16 < 12)
					slot[left++] = slot[i];
				else
					assert_int_equal(
						sluice_pool_free(&rig.mem->pool, slot[i].dev), 0);
			}
			grid(&rig, &a, empty, &met, &tried);
			while (left)
				assert_int_equal(sluice_pool_free(&rig.mem->pool, slot[--left].dev),
						 0);
			/* Nothing has been left behind. */
			assert_int_equal(sluice_pool_alloc(&rig.mem->pool, a.size, 1, &slot[0]), 0);
			assert_true(rig_all(slot[0].cpu, a.size, 0));
			rig_close(&rig);
		}
	}
	print_message("%llu of %llu were met\n", (unsigned long long)met,
		      (unsigned long long)tried);
	assert_true(met > tried / 8);
}

static void masks_in_an_empty_pool(void **state)
{
	(void)state;
	all_masks(true);
}

static void masks_in_a_pool_in_pieces(void **state)
{
	(void)state;
	all_masks(false);
}

/* Each alignment and size by itself: met if and only if the empty pool has such a place. */
static void alignments(void **state)
{
	(void)state;
	make_sizes();
	for (uint32_t w = 0; w < sizeof(windows) / sizeof(windows[0]); w++) {
		for (uint32_t p = 0; p < sizeof(pools) / sizeof(pools[0]); p++) {
			struct rig rig;

			open_at(&rig, pools[p], windows[w]);
			for (uint32_t align = 1; align <= SLUICE_CHUNK_BYTES; align *= 2) {
				for (uint32_t s = 0; s < n_sizes; s++) {
					struct asked a = {windows[w], pools[p], sizes[s],
							  UINT64_MAX, 0,	0};
					struct sluice_slot slot;
					int ret = sluice_pool_alloc(&rig.mem->pool, sizes[s], align,
								    &slot);

					assert_int_equal(ret == 0, has_place(&a, align));
					if (ret)
						continue;
					assert_int_equal(slot.dev % align, 0);
					assert_true(slot.size >= sizes[s]);
					assert_int_equal(sluice_pool_free(&rig.mem->pool, slot.dev),
							 0);
				}
			}
			rig_close(&rig);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(masks_in_an_empty_pool),
		cmocka_unit_test(masks_in_a_pool_in_pieces),
		cmocka_unit_test(alignments),
	};

	return cmocka_run_group_tests_name("masks", tests, NULL, NULL);
}
