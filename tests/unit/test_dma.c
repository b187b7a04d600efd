/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_dma.c - what a device sees and what a driver gets back
 *
 * Theory of operation: the test plays both sides. The driver's side calls the DMA layer; the
 * device's side reads and writes shared memory at the addresses it was given and, as an attacker
 * would, anywhere else in the pool. Each test names the guarantee of THREAT-MODEL.md it attacks.
 */
#include <stdlib.h>

#include "rig.h"

#define KiB 1024u
#define MiB (1024u * 1024u)

static uint64_t addr_of(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static uint64_t map(struct rig *rig, const void *buf, size_t len, enum sluice_dir dir)
{
	uint64_t dev = 0;

	assert_int_equal(sluice_dma_map(&rig->dma, addr_of(buf), len, dir, &dev), 0);
	return dev;
}

static void unmap(struct rig *rig, uint64_t dev, size_t len, enum sluice_dir dir)
{
	assert_int_equal(sluice_dma_unmap(&rig->dma, dev, len, dir, 0), 0);
}

static const size_t lengths[] = {1,	2,	255,	256,	257,	 511,	  512,	   1500,
				 1536,	3584,	3585,	4095,	4096,	 4097,	  10000,   65535,
				 65536, 262144, 262145, 524288, 1048576, 1048577, 2097152, 3000000};
#define N_LENGTHS (sizeof(lengths) / sizeof(lengths[0]))

static void data_both_ways_for_every_length(void **state)
{
	uint8_t *buf = malloc(4 * MiB);
	struct rig rig;

	(void)state;
	rig_open(&rig, 8 * MiB);
	for (size_t i = 0; i < N_LENGTHS; i++) {
		size_t len = lengths[i];
		uint64_t dev;

		for (size_t j = 0; j < len; j++)
			buf[j] = (uint8_t)(j * 31 + i);
		dev = map(&rig, buf, len, SLUICE_TO_DEVICE);
		assert_memory_equal(rig_device(&rig, dev), buf, len);
		unmap(&rig, dev, len, SLUICE_TO_DEVICE);

		dev = map(&rig, buf, len, SLUICE_FROM_DEVICE);
		memset(rig_device(&rig, dev), 0x5a, len);
		unmap(&rig, dev, len, SLUICE_FROM_DEVICE);
		assert_true(rig_all(buf, len, 0x5a));

		dev = map(&rig, buf, len, SLUICE_BIDIRECTIONAL);
		assert_true(rig_all(rig_device(&rig, dev), len, 0x5a));
		memset(rig_device(&rig, dev), 0xa5, len);
		unmap(&rig, dev, len, SLUICE_BIDIRECTIONAL);
		assert_true(rig_all(buf, len, 0xa5));
	}
	rig_close(&rig);
	free(buf);
}

/* The whole pool, before and after: nothing of the buffer's neighbours, nothing left behind. */
static void g2_only_the_mapped_bytes_are_in_the_pool(void **state)
{
	uint8_t *page = malloc(16 * KiB);
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	for (size_t len = 1; len < 9000; len += 61) {
		uint64_t dev;
		uint8_t *seen;

		memset(page, 0xee, 16 * KiB); /* the neighbours */
		memset(page + 1000, 0x11, len);
		dev = map(&rig, page + 1000, len, SLUICE_TO_DEVICE);
		seen = rig_device(&rig, dev);
		assert_true(rig_all(seen, len, 0x11));
		memset(seen, 0, len);
		assert_true(rig_all(rig.mem->region.cpu, 2 * MiB, 0));
		memset(seen, 0x11, len);
		unmap(&rig, dev, len, SLUICE_TO_DEVICE);
		assert_true(rig_all(rig.mem->region.cpu, 2 * MiB, 0));
	}
	rig_close(&rig);
	free(page);
}

/* CVE-2022-0854: a device that writes nothing must not hand over what was there before. */
static void g2_a_reused_slot_shows_nothing_old(void **state)
{
	static const uint8_t secret[1500] = {0x77};
	uint8_t buf[1500], before[1500];
	uint64_t dev;
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	dev = map(&rig, secret, sizeof(secret), SLUICE_TO_DEVICE);
	unmap(&rig, dev, sizeof(secret), SLUICE_TO_DEVICE);
	for (size_t i = 0; i < sizeof(buf); i++)
		before[i] = buf[i] = (uint8_t)i;
	dev = map(&rig, buf, sizeof(buf), SLUICE_FROM_DEVICE);
	unmap(&rig, dev, sizeof(buf), SLUICE_FROM_DEVICE);
	assert_memory_equal(buf, before, sizeof(buf));
	rig_close(&rig);
}

/* A run from the cache that is longer than the mapping: nothing is seen in its tail, nor can it be ended as that. */
static void g2_a_longer_run_shows_nothing_old(void **state)
{
	const size_t longer = 33 * 4096, len = 30 * 4096 - 5;
	uint8_t *buf = malloc(2 * longer);
	struct sluice_slot slot;
	struct rig rig;
	uint64_t dev;
	int tries = 0;

	(void)state;
	rig_open(&rig, 64 * MiB);
	/* Again if the second came from another CPU's cache. */
	do {
		memset(buf, 0x77, 2 * longer);
		dev = map(&rig, buf, longer, SLUICE_TO_DEVICE);
		unmap(&rig, dev, longer, SLUICE_TO_DEVICE);
		dev = map(&rig, buf, len, SLUICE_FROM_DEVICE);
		assert_int_equal(sluice_pool_find(&rig.mem->pool, dev, &slot), 0);
		assert_true(rig_all((uint8_t *)slot.cpu + len, slot.size - len, 0));
		assert_int_equal(sluice_dma_unmap(&rig.dma, dev, longer, SLUICE_FROM_DEVICE, 0),
				 -EINVAL);
		assert_int_equal(
			sluice_dma_sync_for_cpu(&rig.dma, dev, len + 1, SLUICE_FROM_DEVICE),
			-EINVAL);
		memset(slot.cpu, 0x99, slot.size);
		unmap(&rig, dev, len, SLUICE_FROM_DEVICE);
		assert_true(rig_all(buf, len, 0x99));
		assert_true(rig_all(buf + len, 2 * longer - len, 0x77));
		memset(slot.cpu, 0, slot.size); /* what the device wrote beside it is its own */
	} while (slot.size < longer && ++tries < 100);
	assert_int_equal(slot.size, longer);
	rig_close(&rig);
	free(buf);
}

/* A driver that relies on a short write finds the rest of its buffer as it was. */
static void g2_a_short_write_leaves_the_rest(void **state)
{
	uint8_t buf[4096];
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	for (size_t written = 0; written <= sizeof(buf); written += 127) {
		uint64_t dev;

		memset(buf, 0x33, sizeof(buf));
		dev = map(&rig, buf, sizeof(buf), SLUICE_FROM_DEVICE);
		memset(rig_device(&rig, dev), 0x44, written);
		unmap(&rig, dev, sizeof(buf), SLUICE_FROM_DEVICE);
		assert_true(rig_all(buf, written, 0x44));
		assert_true(rig_all(buf + written, sizeof(buf) - written, 0x33));
	}
	rig_close(&rig);
}

/* What the device writes past its mapping, into padding and free slots, reaches no driver. */
static void g2_writes_outside_a_mapping_reach_nobody(void **state)
{
	uint8_t buf[3000];
	uint64_t dev;
	void *ring;
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	memset(rig.mem->region.cpu, 0xbd, 2 * MiB);
	memset(buf, 0x21, sizeof(buf));
	dev = map(&rig, buf, sizeof(buf), SLUICE_FROM_DEVICE);
	assert_true(rig_all(rig_device(&rig, dev), sizeof(buf), 0x21));
	unmap(&rig, dev, sizeof(buf), SLUICE_FROM_DEVICE);
	assert_true(rig_all(buf, sizeof(buf), 0x21));
	assert_int_equal(sluice_dma_alloc(&rig.dma, 5000, &dev, &ring), 0);
	assert_true(rig_all(ring, 8192, 0));
	assert_int_equal(sluice_dma_free(&rig.dma, dev, 5000), 0);
	rig_close(&rig);
}

static void g3_nothing_changes_after_unmap(void **state)
{
	uint8_t buf[2000];
	uint64_t dev;
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	dev = map(&rig, buf, sizeof(buf), SLUICE_FROM_DEVICE);
	memset(rig_device(&rig, dev), 1, sizeof(buf));
	unmap(&rig, dev, sizeof(buf), SLUICE_FROM_DEVICE);
	memset(rig.mem->region.cpu, 2, 2 * MiB);
	assert_true(rig_all(buf, sizeof(buf), 1));
	rig_close(&rig);
}

static void g3_nothing_changes_after_sync_for_cpu(void **state)
{
	uint8_t buf[2000];
	uint64_t dev;
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	memset(buf, 0, sizeof(buf));
	dev = map(&rig, buf, sizeof(buf), SLUICE_FROM_DEVICE);
	memset(rig_device(&rig, dev), 1, sizeof(buf));
	assert_true(rig_all(buf, sizeof(buf), 0));
	assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, dev, sizeof(buf), SLUICE_FROM_DEVICE),
			 0);
	memset(rig_device(&rig, dev), 2, sizeof(buf));
	assert_true(rig_all(buf, sizeof(buf), 1));
	assert_int_equal(
		sluice_dma_unmap(&rig.dma, dev, sizeof(buf), SLUICE_FROM_DEVICE, SLUICE_SKIP_SYNC),
		0);
	assert_true(rig_all(buf, sizeof(buf), 1));
	rig_close(&rig);
}

static void sync_of_interior_and_partial_ranges(void **state)
{
	uint8_t buf[10000];
	uint64_t dev;
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	memset(buf, 0, sizeof(buf));
	dev = map(&rig, buf, sizeof(buf), SLUICE_BIDIRECTIONAL);
	memset(rig_device(&rig, dev), 9, sizeof(buf));
	assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, dev + 5001, 333, SLUICE_BIDIRECTIONAL),
			 0);
	assert_true(rig_all(buf, 5001, 0));
	assert_true(rig_all(buf + 5001, 333, 9));
	assert_true(rig_all(buf + 5334, sizeof(buf) - 5334, 0));
	buf[7777] = 4;
	assert_int_equal(sluice_dma_sync_for_device(&rig.dma, dev + 7777, 1, SLUICE_BIDIRECTIONAL),
			 0);
	assert_int_equal(rig_device(&rig, dev)[7776], 9);
	assert_int_equal(rig_device(&rig, dev)[7777], 4);
	assert_int_equal(rig_device(&rig, dev)[7778], 9);
	assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, dev + 10000, 0, SLUICE_BIDIRECTIONAL),
			 0);
	unmap(&rig, dev, sizeof(buf), SLUICE_BIDIRECTIONAL);
	rig_close(&rig);
}

/* The debug mode notices a write on either side, by whatever distance inside the slot. */
static void a_write_beside_a_mapping_is_noticed(void **state)
{
	uint8_t *buf = aligned_alloc(4096, 64 * KiB);
	uint64_t seen = 0;
	struct rig rig;

	(void)state;
	memset(buf, 0, 64 * KiB);
	rig_open(&rig, 4 * MiB);
	rig.dma.guard = true;
	rig.dma.min_align_mask = 511;
	for (size_t i = 0; i < 15; i++) {
		for (int where = -2; where <= 2; where++) {
			uint64_t dev = map(&rig, buf + 300, lengths[i], SLUICE_BIDIRECTIONAL);
			uint8_t *at = rig_device(&rig, dev);

			memset(at, 0x77, lengths[i]);
			if (where < 0)
				at[where * 100] ^= 1;
			else if (where > 0)
				at[lengths[i] + (where == 1 ? 0 : 31)] ^= 1;
			assert_int_equal(sluice_dma_unmap(&rig.dma, dev, lengths[i],
							  SLUICE_BIDIRECTIONAL, 0),
					 where != 0);
			seen += where != 0;
			assert_int_equal(rig_stats(&rig).overruns, seen);
		}
	}
	assert_true(rig_all(rig.mem->region.cpu, 4 * MiB, 0));
	rig_close(&rig);
	free(buf);
}

/* dma-debug allows it, and drivers do it. */
static void a_mapping_both_ways_is_synced_one_way(void **state)
{
	uint8_t buf[100] = {1};
	uint64_t dev;
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	dev = map(&rig, buf, sizeof(buf), SLUICE_BIDIRECTIONAL);
	buf[0] = 2;
	assert_int_equal(sluice_dma_sync_for_device(&rig.dma, dev, 100, SLUICE_TO_DEVICE), 0);
	assert_int_equal(*rig_device(&rig, dev), 2);
	*rig_device(&rig, dev) = 3;
	assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, dev, 100, SLUICE_TO_DEVICE), 0);
	assert_int_equal(buf[0], 2);
	assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, dev, 100, SLUICE_FROM_DEVICE), 0);
	assert_int_equal(buf[0], 3);
	unmap(&rig, dev, sizeof(buf), SLUICE_BIDIRECTIONAL);
	rig_close(&rig);
}

static void no_mapping_crosses_a_segment(void **state)
{
	static uint64_t dev[256];
	uint8_t *buf = calloc(1, 1 * MiB);
	struct rig rig;

	(void)state;
	rig_open(&rig, 4 * MiB);
	for (uint64_t mask = 0xfff; mask <= 0x3fffff; mask = mask * 2 + 1) {
		uint32_t n = 0;

		rig.dma.seg_boundary_mask = mask;
		for (size_t len = 200; len <= mask + 1 && len < MiB; len = len * 5 / 3) {
			for (int i = 0; i < 3; i++)
				if (!sluice_dma_map(&rig.dma, addr_of(buf), len, SLUICE_TO_DEVICE,
						    &dev[n])) {
					assert_int_equal(dev[n] & ~mask,
							 (dev[n] + len - 1) & ~mask);
					unmap(&rig, dev[n], len, SLUICE_TO_DEVICE);
					dev[n] = map(&rig, buf, 100, SLUICE_TO_DEVICE);
					n++;
				}
		}
		assert_true(n >= 15);
		while (n > 0)
			unmap(&rig, dev[--n], 100, SLUICE_TO_DEVICE);
	}
	rig.dma.seg_boundary_mask = 0xffff;
	assert_int_equal(sluice_dma_map(&rig.dma, addr_of(buf), 65537, SLUICE_TO_DEVICE, &dev[0]),
			 -EINVAL);
	rig_close(&rig);
	free(buf);
}

/* Every mask up to NVMe's, every offset class: the low bits of the address are the buffer's. */
static void low_address_bits_are_kept(void **state)
{
	uint8_t *buf = aligned_alloc(4096, 64 * KiB);
	struct sluice_pool_stats stats;
	struct rig rig;

	(void)state;
	rig_open(&rig, 4 * MiB);
	memset(buf, 0x66, 64 * KiB);
	for (uint32_t mask = 0; mask <= 4095; mask = mask * 2 + 1) {
		rig.dma.min_align_mask = mask;
		for (uint32_t off = 0; off < 4096; off += 127) {
			for (size_t i = 0; i < 15; i++) {
				uint64_t dev = map(&rig, buf + off, lengths[i], SLUICE_TO_DEVICE);

				assert_int_equal(dev & mask, addr_of(buf + off) & mask);
				/* Of NVMe's mask, the pages that the buffer lies in and no more. */
				sluice_pool_get_stats(&rig.mem->pool, &stats);
				assert_true(mask < 4095 ||
					    stats.used <= (off + lengths[i] + 4095) / 4096 * 4096);
				assert_true(rig_all(rig_device(&rig, dev), lengths[i], 0x66));
				unmap(&rig, dev, lengths[i], SLUICE_TO_DEVICE);
			}
		}
	}
	assert_true(rig_all(rig.mem->region.cpu, 4 * MiB, 0));
	rig_close(&rig);
	free(buf);
}

static void g4_what_makes_no_sense_is_refused(void **state)
{
	uint8_t buf[8192] = {0};
	static struct sluice_dma_stats other_stats[4096];
	struct sluice_dma other;
	uint64_t dev, ring, refused, dummy;
	void *cpu;
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	sluice_dma_init(&other, &rig.mem->pool, 8, other_stats);
	assert_int_equal(sluice_dma_map(&rig.dma, addr_of(buf), 0, 0, &dummy), -EINVAL);
	assert_int_equal(sluice_dma_map(&rig.dma, addr_of(buf), UINT64_C(1) << 32, 0, &dummy),
			 -EINVAL);
	assert_int_equal(sluice_dma_map(&rig.dma, UINT64_MAX, 2, 0, &dummy), -EINVAL);
	assert_int_equal(sluice_dma_map(&rig.dma, addr_of(buf), 10, 3, &dummy), -EINVAL);
	rig.dma.min_align_mask = 8191;
	assert_int_equal(sluice_dma_map(&rig.dma, addr_of(buf), 10, 0, &dummy), -EINVAL);
	rig.dma.min_align_mask = 5;
	assert_int_equal(sluice_dma_map(&rig.dma, addr_of(buf), 10, 0, &dummy), -EINVAL);
	rig.dma.min_align_mask = 0;
	assert_int_equal(sluice_dma_map(&rig.dma, addr_of(buf), 3 * MiB, 0, &dummy), -E2BIG);
	assert_int_equal(sluice_dma_alloc(&rig.dma, 0, &dummy, &cpu), -EINVAL);

	assert_int_equal(sluice_dma_alloc(&rig.dma, 4096, &ring, &cpu), 0);
	dev = map(&rig, buf, 6000, SLUICE_FROM_DEVICE);
	memset(rig_device(&rig, dev), 0xff, 6000);
	refused = rig_stats(&rig).refused;
	/* interior, wrong length, wrong direction, never mapped, outside, another kind */
	assert_int_equal(sluice_dma_unmap(&rig.dma, dev + 1, 5999, SLUICE_FROM_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_unmap(&rig.dma, dev, 5999, SLUICE_FROM_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_unmap(&rig.dma, dev, 6001, SLUICE_FROM_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_unmap(&rig.dma, dev, 6000, SLUICE_TO_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_unmap(&rig.dma, dev, 6000, 7, 0), -EINVAL);
	assert_int_equal(sluice_dma_unmap(&rig.dma, dev + MiB, 6000, SLUICE_FROM_DEVICE, 0),
			 -EINVAL);
	assert_int_equal(sluice_dma_unmap(&rig.dma, 0, 6000, SLUICE_FROM_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_unmap(&rig.dma, ring, 4096, SLUICE_BIDIRECTIONAL, 0), -EINVAL);
	assert_int_equal(sluice_dma_free(&rig.dma, dev, 6000), -EINVAL);
	assert_int_equal(sluice_dma_free(&rig.dma, ring, 4095), -EINVAL);
	/* ranges that leave the mapping */
	assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, dev, 6001, SLUICE_FROM_DEVICE), -EINVAL);
	assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, dev + 6000, 1, SLUICE_FROM_DEVICE),
			 -EINVAL);
	assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, dev + 1, UINT64_MAX, SLUICE_FROM_DEVICE),
			 -EINVAL);
	assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, dev + 8000, 1, SLUICE_FROM_DEVICE),
			 -EINVAL);
	assert_int_equal(sluice_dma_sync_for_device(&rig.dma, dev, 1, SLUICE_BIDIRECTIONAL),
			 -EINVAL);
	assert_int_equal(rig_stats(&rig).refused, refused + 15);
	/* another device */
	assert_int_equal(sluice_dma_unmap(&other, dev, 6000, SLUICE_FROM_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_sync_for_cpu(&other, dev, 1, SLUICE_FROM_DEVICE), -EINVAL);
	assert_int_equal(sluice_dma_free(&other, ring, 4096), -EINVAL);
	assert_true(rig_all(buf, sizeof(buf), 0));

	unmap(&rig, dev, 6000, SLUICE_FROM_DEVICE);
	assert_int_equal(sluice_dma_unmap(&rig.dma, dev, 6000, SLUICE_FROM_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, dev, 1, SLUICE_FROM_DEVICE), -EINVAL);
	assert_int_equal(sluice_dma_free(&rig.dma, ring, 4096), 0);
	assert_int_equal(sluice_dma_free(&rig.dma, ring, 4096), -EINVAL);
	assert_int_equal(sluice_dma_live(&rig.dma), 0);
	rig_close(&rig);
}

static void coherent_memory_is_zeroed_and_aligned(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, 8 * MiB);
	for (uint64_t len = 1; len <= 2 * MiB; len = len * 2 + 1) {
		uint64_t addr, align = 4096;
		void *cpu;

		while (align < len && align < 2 * MiB)
			align *= 2;
		assert_int_equal(sluice_dma_alloc(&rig.dma, len, &addr, &cpu), 0);
		assert_int_equal(addr % align, 0);
		assert_ptr_equal(cpu, rig_device(&rig, addr));
		assert_true(rig_all(cpu, len, 0));
		memset(cpu, 0xcc, len);
		assert_int_equal(sluice_dma_live(&rig.dma), 1);
		assert_int_equal(sluice_dma_free(&rig.dma, addr, len), 0);
		assert_int_equal(rig_stats(&rig).coherent, 0);
	}
	assert_true(rig_all(rig.mem->region.cpu, 8 * MiB, 0));
	rig_close(&rig);
}

static void g5_a_list_is_mapped_whole_or_not_at_all(void **state)
{
	uint8_t *buf = calloc(1, 4 * MiB);
	struct sluice_sg sg[8];
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	memset(buf, 0x12, 4 * MiB);
	for (uint32_t i = 0; i < 8; i++)
		sg[i] = (struct sluice_sg){.orig = addr_of(buf + i * 512 * KiB), .len = 100 + i};
	assert_int_equal(sluice_dma_map_sg(&rig.dma, sg, 8, SLUICE_FROM_DEVICE), 0);
	for (uint32_t i = 0; i < 8; i++)
		memset(rig_device(&rig, sg[i].dma), (int)i, sg[i].len);
	assert_int_equal(sluice_dma_unmap_sg(&rig.dma, sg, 8, SLUICE_FROM_DEVICE, 0), 0);
	for (uint32_t i = 0; i < 8; i++) {
		assert_true(rig_all(buf + i * 512 * KiB, 100 + i, (uint8_t)i));
		assert_true(rig_all(buf + i * 512 * KiB + 100 + i, 100, 0x12));
	}

	memset(buf, 0x12, 4 * MiB);
	for (uint32_t i = 0; i < 8; i++)
		sg[i].len = 512 * KiB;
	assert_int_equal(sluice_dma_map_sg(&rig.dma, sg, 8, SLUICE_FROM_DEVICE), -ENOSPC);
	assert_int_equal(sluice_dma_live(&rig.dma), 0);
	assert_int_equal(rig_stats(&rig).full, 1);
	assert_true(rig_all(buf, 4 * MiB, 0x12));
	assert_true(rig_all(rig.mem->region.cpu, 2 * MiB, 0));
	sg[3].len = 0;
	assert_int_equal(sluice_dma_map_sg(&rig.dma, sg, 8, SLUICE_FROM_DEVICE), -EINVAL);
	assert_int_equal(sluice_dma_map_sg(&rig.dma, sg, 0, SLUICE_FROM_DEVICE), -EINVAL);
	assert_int_equal(sluice_dma_live(&rig.dma), 0);
	rig_close(&rig);
	free(buf);
}

static void g5_a_full_pool_says_so_and_recovers(void **state)
{
	static uint64_t dev[512];
	uint8_t buf[4096] = {0};
	uint64_t more;
	size_t n = 0;
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	while (!sluice_dma_map(&rig.dma, addr_of(buf), sizeof(buf), SLUICE_TO_DEVICE, &more))
		dev[n++] = more;
	assert_int_equal(n, 512);
	assert_int_equal(sluice_dma_map(&rig.dma, addr_of(buf), 1, SLUICE_TO_DEVICE, &more),
			 -ENOSPC);
	assert_int_equal(rig_stats(&rig).full, 2);
	unmap(&rig, dev[200], sizeof(buf), SLUICE_TO_DEVICE);
	dev[200] = map(&rig, buf, sizeof(buf), SLUICE_TO_DEVICE);
	while (n > 0)
		unmap(&rig, dev[--n], sizeof(buf), SLUICE_TO_DEVICE);
	rig_close(&rig);
}

static void max_mapping_can_always_be_mapped(void **state)
{
	const uint64_t sizes[] = {8192, 64 * KiB, 1 * MiB, 8 * MiB, 64 * MiB};
	uint8_t *buf = aligned_alloc(4096, 4 * MiB);

	(void)state;
	memset(buf, 1, 4 * MiB);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t most, dev;
		struct rig rig;

		rig_open(&rig, sizes[i]);
		rig.dma.min_align_mask = 4095;
		most = sluice_dma_max_mapping(&rig.dma);
		assert_true(most >= 4096 && most <= 2 * MiB);
		assert_true(sizes[i] < 8 * MiB || most >= 1 * MiB);
		dev = map(&rig, buf + 4095, most, SLUICE_TO_DEVICE);
		unmap(&rig, dev, most, SLUICE_TO_DEVICE);
		rig_close(&rig);
	}
	free(buf);
}

static void statistics_add_up(void **state)
{
	uint8_t buf[5000] = {0};
	uint64_t dev;
	struct rig rig;

	(void)state;
	rig_open(&rig, 2 * MiB);
	dev = map(&rig, buf, 5000, SLUICE_FROM_DEVICE);
	unmap(&rig, dev, 5000, SLUICE_FROM_DEVICE);
	dev = map(&rig, buf, 1, SLUICE_TO_DEVICE);
	unmap(&rig, dev, 1, SLUICE_TO_DEVICE);
	dev = map(&rig, buf, 4096, SLUICE_TO_DEVICE);
	assert_int_equal(sluice_dma_live(&rig.dma), 1);
	unmap(&rig, dev, 4096, SLUICE_TO_DEVICE);
	assert_int_equal(rig_stats(&rig).maps, 3);
	assert_int_equal(rig_stats(&rig).unmaps, 3);
	assert_int_equal(rig_stats(&rig).bytes_to, 9097);
	assert_int_equal(rig_stats(&rig).bytes_from, 5000);
	assert_int_equal(rig_stats(&rig).scrubbed, 9097);
	assert_int_equal(rig_stats(&rig).sizes[0], 1);
	assert_int_equal(rig_stats(&rig).sizes[12], 1);
	assert_int_equal(rig_stats(&rig).sizes[13], 1);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(data_both_ways_for_every_length),
		cmocka_unit_test(g2_only_the_mapped_bytes_are_in_the_pool),
		cmocka_unit_test(g2_a_reused_slot_shows_nothing_old),
		cmocka_unit_test(g2_a_longer_run_shows_nothing_old),
		cmocka_unit_test(g2_a_short_write_leaves_the_rest),
		cmocka_unit_test(g2_writes_outside_a_mapping_reach_nobody),
		cmocka_unit_test(g3_nothing_changes_after_unmap),
		cmocka_unit_test(g3_nothing_changes_after_sync_for_cpu),
		cmocka_unit_test(sync_of_interior_and_partial_ranges),
		cmocka_unit_test(a_write_beside_a_mapping_is_noticed),
		cmocka_unit_test(a_mapping_both_ways_is_synced_one_way),
		cmocka_unit_test(no_mapping_crosses_a_segment),
		cmocka_unit_test(low_address_bits_are_kept),
		cmocka_unit_test(g4_what_makes_no_sense_is_refused),
		cmocka_unit_test(coherent_memory_is_zeroed_and_aligned),
		cmocka_unit_test(g5_a_list_is_mapped_whole_or_not_at_all),
		cmocka_unit_test(g5_a_full_pool_says_so_and_recovers),
		cmocka_unit_test(max_mapping_can_always_be_mapped),
		cmocka_unit_test(statistics_add_up),
	};

	return cmocka_run_group_tests_name("dma", tests, NULL, NULL);
}
