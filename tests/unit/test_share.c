/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_share.c - transfers that stay where they are, by every mechanism, from both ends
 *
 * Theory of operation
 * -------------------
 * Every test is run over every mechanism in a world of its own (tests/lib/world.h): the driver's
 * side is the ordinary calls of sluice/dma.h, the device's is the view, which is all that a backend
 * has. What a mechanism cannot promise is named where it is left out:
 *
 *	window		reaches all of its banks always: no G1, no G2, no end of access
 *	iommu lazy	reaches for a while what has been unmapped: tested in lazy_*
 *	grant v1	cannot say "write only", nor "nobody new" while somebody holds an entry
 */
#include <stdio.h>
#include <stdlib.h>

#include "rig.h"
#include "world.h"

#define G      4096u /* a granule */
#define SECRET 0xa5

static struct world world;

static bool confines(void)
{
	return world.kind != WORLD_WINDOW;
}

static bool ends_at_once(void)
{
	return world.kind != WORLD_WINDOW && world.kind != WORLD_LAZY;
}

/* A buffer inside a field of secrets: len bytes of fill at off from a granule's start. */
static uint64_t buffer(uint64_t off, uint64_t len, uint8_t fill)
{
	memset(world.buffers, SECRET, WORLD_BUFFERS / 8);
	memset(world.buffers + 16 * G + off, fill, len);
	return (uintptr_t)world.buffers + 16 * G + off;
}

static uint64_t map(uint64_t orig, uint64_t len, enum sluice_dir dir)
{
	uint64_t addr = 0;

	assert_int_equal(sluice_dma_map(&world.dma, orig, len, dir, &addr), 0);
	return addr;
}

static void g1_only_while_mapped(void)
{
	uint64_t orig = buffer(0, 4 * G, 0x11), addr;
	uint8_t got[4 * G];

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	addr = map(orig, 4 * G, SLUICE_BIDIRECTIONAL);
	assert_int_equal(sluice_view_read(world.view, addr, got, sizeof(got)), 0);
	assert_true(rig_all(got, sizeof(got), 0x11));
	/* It is the buffer itself. */
	memset(got, 0x22, sizeof(got));
	assert_int_equal(sluice_view_write(world.view, addr, got, sizeof(got)), 0);
	assert_true(rig_all((void *)(uintptr_t)orig, 4 * G, 0x22));
	if (confines()) {
		/* One byte before and one after. */
		assert_int_equal(sluice_view_read(world.view, addr - 1, got, 1), -ENOENT);
		assert_int_equal(sluice_view_read(world.view, addr + 4 * G, got, 1), -ENOENT);
		/* Its address for the guest says nothing to the device. */
		assert_int_not_equal(sluice_view_read(world.view, WORLD_PHYS + (20u << 20), got, 1),
				     0);
	}
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 4 * G, SLUICE_BIDIRECTIONAL, 0), 0);
	if (ends_at_once()) {
		for (uint64_t at = 0; at < 4 * G; at += 512) {
			assert_int_equal(sluice_view_read(world.view, addr + at, got, 1), -ENOENT);
			assert_int_equal(sluice_view_write(world.view, addr + at, got, 1), -ENOENT);
		}
	}
}

static void g1_permissions(void)
{
	uint64_t orig = buffer(0, 2 * G, 0x11), addr;
	uint8_t byte = 0x33;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	if (!confines())
		return;
	addr = map(orig, 2 * G, SLUICE_TO_DEVICE);
	assert_int_equal(sluice_view_read(world.view, addr + G, &byte, 1), 0);
	assert_int_equal(sluice_view_write(world.view, addr + G, &byte, 1), -EACCES);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 2 * G, SLUICE_TO_DEVICE, 0), 0);
	addr = map(orig, 2 * G, SLUICE_FROM_DEVICE);
	byte = 0x44;
	assert_int_equal(sluice_view_write(world.view, addr, &byte, 1), 0);
	assert_int_equal(sluice_view_read(world.view, addr, &byte, 1),
			 world.kind == WORLD_GRANT ? 0 : -EACCES);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 2 * G, SLUICE_FROM_DEVICE, 0), 0);
	assert_int_equal(*(uint8_t *)(uintptr_t)orig, 0x44);
}

static void g2_partial_granules(void)
{
	static const struct {
		uint32_t off, len;
	} cases[] = {{100, 3 * G}, {0, 2 * G + 1}, {4095, G + 1}, {1, 2 * G - 1}, {2048, 64 * G}};
	static uint8_t got[80 * G];

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]) && confines(); i++) {
		uint32_t off = cases[i].off, len = cases[i].len;
		uint32_t span = (off + len + G - 1) / G * G;
		uint64_t orig = buffer(off, len, 0x11), start;
		uint8_t *mine = (uint8_t *)(uintptr_t)orig;
		uint64_t addr = map(orig, len, SLUICE_BIDIRECTIONAL);
		struct sluice_place_stats stats;

		sluice_place_get_stats(&world.dma, &stats);
		assert_int_equal(stats.split, i + 1);
		/* One range, at the same offset, with the bytes of the buffer and zeroes. */
		assert_int_equal(addr % G, off);
		start = addr - off;
		assert_int_equal(sluice_view_read(world.view, start, got, span), 0);
		assert_true(rig_all(got, off, 0));
		assert_true(rig_all(got + off, len, 0x11));
		assert_true(rig_all(got + off + len, span - off - len, 0));
		assert_int_equal(sluice_view_read(world.view, start - 1, got, 1), -ENOENT);
		assert_int_equal(sluice_view_read(world.view, start + span, got, 1), -ENOENT);
		/* All of it written: of the guest's memory that is the buffer, after unmap. */
		memset(got, 0x77, sizeof(got));
		assert_int_equal(sluice_view_write(world.view, start, got, span), 0);
		assert_int_equal(sluice_dma_unmap(&world.dma, addr, len, SLUICE_BIDIRECTIONAL, 0),
				 0);
		assert_true(rig_all(mine, len, 0x77));
		assert_true(rig_all(mine - off - G, off + G, SECRET));
		assert_true(rig_all(mine + len, G, SECRET));
		assert_int_equal(sluice_share_flush(world.share), 0);
	}
}

static bool keeps_nothing(void *context, uint64_t orig, uint64_t len)
{
	(void)context;
	(void)orig;
	(void)len;
	return false;
}

/* Memory that would be somebody else's while the device still has it is not shared in the first place. */
static void g1_what_cannot_be_kept_is_copied(void)
{
	uint64_t orig = buffer(0, 2 * G, 0x11), addr;
	struct sluice_place_stats stats;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	world.place.config.keeps = keeps_nothing;
	addr = map(orig, 2 * G, SLUICE_TO_DEVICE);
	sluice_place_get_stats(&world.dma, &stats);
	assert_int_equal(stats.shared, 0);
	assert_int_equal(stats.live, 0);
	assert_int_equal(stats.unshareable, 1);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 2 * G, SLUICE_TO_DEVICE, 0), 0);
	/* All records are there again. */
	world.place.config.keeps = NULL;
	addr = map(orig, 2 * G, SLUICE_TO_DEVICE);
	sluice_place_get_stats(&world.dma, &stats);
	assert_int_equal(stats.live, 1);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 2 * G, SLUICE_TO_DEVICE, 0), 0);
}

/* The granules at the ends go back to the pool as clean as they came. */
static void g2_ends_are_scrubbed(void)
{
	static uint8_t got[8u << 20];
	uint64_t orig = buffer(300, 3 * G, 0x11), addr;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	addr = map(orig, 3 * G, SLUICE_TO_DEVICE);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 3 * G, SLUICE_TO_DEVICE, 0), 0);
	assert_int_equal(sluice_share_flush(world.share), 0);
	assert_int_equal(sluice_view_read(world.view, world.pool.dev, got, 2u << 20), 0);
	assert_true(rig_all(got, 2u << 20, 0));
}

/* A device that writes less than it may leaves the rest, in the middle and at the ends. */
static void g2_short_writes(void)
{
	uint64_t orig = buffer(1000, 3 * G, 0x11), addr;
	uint8_t some[3] = {1, 2, 3};
	uint8_t *mine = (uint8_t *)(uintptr_t)orig;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	addr = map(orig, 3 * G, SLUICE_FROM_DEVICE);
	assert_int_equal(sluice_view_write(world.view, addr + 1, some, 3), 0);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 3 * G, SLUICE_FROM_DEVICE, 0), 0);
	assert_int_equal(mine[0], 0x11);
	assert_memory_equal(mine + 1, some, 3);
	assert_true(rig_all(mine + 4, 3 * G - 4, 0x11));
}

static void g3_nothing_after_unmap(void)
{
	uint64_t orig = buffer(1000, 3 * G, 0x11), addr;
	uint8_t byte = 0x99;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	addr = map(orig, 3 * G, SLUICE_FROM_DEVICE);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 3 * G, SLUICE_FROM_DEVICE, 0), 0);
	for (uint64_t at = 0; at < 3 * G && ends_at_once(); at += 100)
		assert_int_equal(sluice_view_write(world.view, addr + at, &byte, 1), -ENOENT);
	if (ends_at_once())
		assert_true(rig_all((void *)(uintptr_t)orig, 3 * G, 0x11));
}

/* The backend holds memory while the driver takes it back: put off, visible, and then done. */
static void g3_unmap_while_held(void)
{
	uint64_t orig = buffer(512, 3 * G, 0x11), addr, live;
	struct sluice_place_stats stats;
	struct sluice_hold holds[8], more[8];
	uint32_t n, n_more;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	if (!ends_at_once())
		return;
	addr = map(orig, 3 * G, SLUICE_BIDIRECTIONAL);
	assert_int_equal(
		sluice_view_map(world.view, addr, 3 * G, SLUICE_READ | SLUICE_WRITE, holds, 8, &n),
		0);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 3 * G, SLUICE_BIDIRECTIONAL, 0),
			 -EBUSY);
	/* What is held stays memory of this mapping: nobody else is given it. */
	for (uint32_t i = 0; i < n; i++)
		memset(holds[i].cpu, 0x55, holds[i].bytes);
	sluice_place_get_stats(&world.dma, &stats);
	assert_int_equal(stats.lingering, 1);
	assert_int_equal(stats.lingered, 1);
	live = world.share->stats.granules;
	assert_true(live >= 4);
	assert_int_equal(world.ended, 0);
	/* Nobody new, and no second unmap. */
	if (world.kind != WORLD_GRANT)
		assert_int_equal(
			sluice_view_map(world.view, addr, G, SLUICE_READ, more, 8, &n_more),
			-ENOENT);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 3 * G, SLUICE_BIDIRECTIONAL, 0),
			 -EINVAL);
	assert_int_equal(sluice_place_retry(&world.dma), 1);
	/* A backend that never lets go keeps that memory, and nothing else: all goes on. */
	for (uint32_t i = 0; i < 100; i++) {
		uint64_t other =
			map((uintptr_t)world.buffers + (1u << 20), 2 * G, SLUICE_TO_DEVICE);

		assert_true(other + 2 * G <= addr - 512 || other >= addr + 3 * G);
		assert_int_equal(sluice_dma_unmap(&world.dma, other, 2 * G, SLUICE_TO_DEVICE, 0),
				 0);
	}
	assert_int_equal(world.ended, 0);
	sluice_view_unmap(world.view, holds, n);
	assert_int_equal(sluice_place_retry(&world.dma), 0);
	assert_int_equal(world.ended, 1);
	assert_int_equal(sluice_view_map(world.view, addr, G, SLUICE_READ, more, 8, &n_more),
			 -ENOENT);
	assert_int_equal(world.share->stats.granules, 0);
}

static void g4_nonsense_is_refused(void)
{
	uint64_t orig = buffer(0, 2 * G, 0x11), addr;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	addr = map(orig, 2 * G, SLUICE_TO_DEVICE);
	assert_int_equal(sluice_dma_live(&world.dma), 1);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, G, SLUICE_TO_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr + 1, 2 * G, SLUICE_TO_DEVICE, 0),
			 -EINVAL);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 2 * G, SLUICE_FROM_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 0, SLUICE_TO_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_unmap(&world.dma, UINT64_MAX - G, 2 * G, SLUICE_TO_DEVICE, 0),
			 -EINVAL);
	assert_int_equal(sluice_dma_sync_for_cpu(&world.dma, addr, 2 * G + 1, SLUICE_TO_DEVICE),
			 -EINVAL);
	assert_int_equal(sluice_dma_sync_for_cpu(&world.dma, addr, 1, SLUICE_FROM_DEVICE), -EINVAL);
	assert_int_equal(sluice_dma_sync_for_device(&world.dma, addr + G, G, SLUICE_TO_DEVICE), 0);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 2 * G, SLUICE_TO_DEVICE, 0), 0);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 2 * G, SLUICE_TO_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_live(&world.dma), 0);
}

static void g4_accesses_are_checked(void)
{
	struct sluice_hold holds[2];
	uint64_t phys, bytes;
	uint8_t byte;
	uint32_t n;

	assert_int_equal(sluice_view_read(world.view, UINT64_MAX, &byte, 1), -EINVAL);
	assert_int_equal(sluice_view_map(world.view, 0, 0, SLUICE_READ, holds, 2, &n), -EINVAL);
	assert_int_equal(sluice_view_map(world.view, 0, 1, 0, holds, 2, &n), -EINVAL);
	assert_int_equal(sluice_view_translate(world.view, 4096, 1, 8, &phys, &bytes), -EINVAL);
	for (uint32_t bit = 0; bit < 64; bit++) {
		uint64_t dev = UINT64_C(1) << bit;

		(void)sluice_view_read(world.view, dev, &byte, 1);
		(void)sluice_view_read(world.view, dev - 1, &byte, 1);
		(void)sluice_view_read(world.view, ~dev, &byte, 1);
	}
}

static void sync_of_the_ends(void)
{
	uint64_t orig = buffer(3000, 4 * G, 0x11), addr;
	uint8_t *mine = (uint8_t *)(uintptr_t)orig;
	uint8_t got[4 * G];

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	addr = map(orig, 4 * G, SLUICE_BIDIRECTIONAL);
	memset(mine, 0x22, 4 * G);
	assert_int_equal(sluice_dma_sync_for_device(&world.dma, addr, 4 * G, SLUICE_BIDIRECTIONAL),
			 0);
	assert_int_equal(sluice_view_read(world.view, addr, got, sizeof(got)), 0);
	assert_true(rig_all(got, sizeof(got), 0x22));
	memset(got, 0x33, sizeof(got));
	assert_int_equal(sluice_view_write(world.view, addr, got, sizeof(got)), 0);
	/* Only what is asked for: the head's last 10 bytes, and the tail. */
	assert_int_equal(
		sluice_dma_sync_for_cpu(&world.dma, addr + G - 3000 - 10, 10, SLUICE_FROM_DEVICE),
		0);
	if (confines()) {
		assert_true(rig_all(mine, G - 3000 - 10, 0x22));
		assert_true(rig_all(mine + G - 3000 - 10, 10, 0x33));
		assert_true(rig_all(mine + 4 * G - 3000, 3000, 0x22));
	}
	assert_int_equal(sluice_dma_sync_for_cpu(&world.dma, addr, 4 * G, SLUICE_BIDIRECTIONAL), 0);
	assert_true(rig_all(mine, 4 * G, 0x33));
	memset(mine, 0x44, 4 * G);
	assert_int_equal(
		sluice_dma_unmap(&world.dma, addr, 4 * G, SLUICE_BIDIRECTIONAL, SLUICE_SKIP_SYNC),
		0);
	assert_true(rig_all(mine, 4 * G, 0x44));
}

static void lists(void)
{
	struct sluice_sg sg[20];
	uint64_t trips;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	memset(world.buffers, 0x11, 1u << 20);
	for (uint32_t i = 0; i < 20; i++) {
		/* Whole, split and bounced ones. */
		sg[i].orig = (uintptr_t)world.buffers + i * 8 * G + i % 3 * 100;
		sg[i].len = i % 4 == 3 ? 200 : 2 * G + i % 2 * G;
	}
	trips = world.share->stats.trips;
	assert_int_equal(sluice_dma_map_sg(&world.dma, sg, 20, SLUICE_TO_DEVICE), 0);
	/* Runs of three between bounced ones, each asked for in one go. */
	assert_true(world.share->stats.trips - trips <= 5);
	for (uint32_t i = 0; i < 20; i++) {
		uint8_t got[3 * G];

		assert_int_equal(sluice_view_read(world.view, sg[i].dma, got, sg[i].len), 0);
		assert_true(rig_all(got, sg[i].len, 0x11));
	}
	trips = world.share->stats.trips;
	assert_int_equal(sluice_dma_unmap_sg(&world.dma, sg, 20, SLUICE_TO_DEVICE, 0), 0);
	/* 15 of them are in place, and are ended in one go. */
	assert_true(world.share->stats.trips - trips <= 1);
	assert_int_equal(sluice_dma_unmap_sg(&world.dma, sg, 20, SLUICE_TO_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_live(&world.dma), 0);
}

/* A list for which there is no room is not lost: what fits is shared, the rest bounces. */
static void g5_lists_without_room(void)
{
	static uint64_t addr[WORLD_RECORDS];
	struct sluice_place_stats before, after;
	struct sluice_sg sg[32];
	uint32_t n = WORLD_RECORDS - 5;
	uint64_t trips;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	memset(world.buffers, 0x11, 1u << 20);
	for (uint32_t i = 0; i < 32; i++)
		sg[i] = (struct sluice_sg){.orig = (uintptr_t)world.buffers + (32 - i) * G,
					   .len = G};
	trips = world.share->stats.trips;
	assert_int_equal(sluice_dma_map_sg(&world.dma, sg, 32, SLUICE_TO_DEVICE), 0);
	if (world.kind == WORLD_IOMMU)
		assert_int_equal(world.share->stats.trips - trips, 4);
	trips = world.share->stats.trips;
	assert_int_equal(sluice_dma_unmap_sg(&world.dma, sg, 32, SLUICE_TO_DEVICE, 0), 0);
	/* As many as one submission of requests holds; of another list meanwhile, eight. */
	if (world.kind == WORLD_IOMMU)
		assert_int_equal(world.share->stats.trips - trips, 2);
	assert_int_equal(sluice_dma_map_sg(&world.dma, sg, 32, SLUICE_TO_DEVICE), 0);
	world.place.list_taken = 1;
	trips = world.share->stats.trips;
	assert_int_equal(sluice_dma_unmap_sg(&world.dma, sg, 32, SLUICE_TO_DEVICE, 0), 0);
	if (world.kind == WORLD_IOMMU)
		assert_int_equal(world.share->stats.trips - trips, 4);
	world.place.list_taken = 0;

	for (uint32_t i = 0; i < n; i++)
		addr[i] = map((uintptr_t)world.buffers + i % 64 * G, G, SLUICE_TO_DEVICE);
	sluice_place_get_stats(&world.dma, &before);
	assert_int_equal(sluice_dma_map_sg(&world.dma, sg, 32, SLUICE_TO_DEVICE), 0);
	sluice_place_get_stats(&world.dma, &after);
	assert_int_equal(after.shared - before.shared, 5);
	assert_int_equal(after.unshareable - before.unshareable, 27);
	for (uint32_t i = 0; i < 32; i++) {
		uint8_t got[G];

		assert_int_equal(sluice_view_read(world.view, sg[i].dma, got, G), 0);
		assert_true(rig_all(got, G, 0x11));
	}
	assert_int_equal(sluice_dma_unmap_sg(&world.dma, sg, 32, SLUICE_TO_DEVICE, 0), 0);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(sluice_dma_unmap(&world.dma, addr[i], G, SLUICE_TO_DEVICE, 0), 0);
	assert_int_equal(sluice_dma_live(&world.dma), 0);
	/* An element that makes no sense: nothing of the list stays mapped. */
	sg[20].len = 0;
	assert_int_equal(sluice_dma_map_sg(&world.dma, sg, 32, SLUICE_TO_DEVICE), -EINVAL);
	assert_int_equal(sluice_dma_live(&world.dma), 0);
}

/* What cannot be shared bounces, what cannot bounce is shared; when neither can be, it says so. */
static void g5_either_way(void)
{
	struct sluice_place_stats stats;
	uint64_t addr, big = 16u << 20;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	/* Less than a granule inside one. */
	addr = map(buffer(10, 100, 1), 100, SLUICE_TO_DEVICE);
	assert_int_equal((addr - world.pool.dev) >> 23,
			 confines() ? 0 : (addr - world.pool.dev) >> 23);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 100, SLUICE_TO_DEVICE, 0), 0);
	/* Longer than the pool. */
	world.dma.policy.kind = SLUICE_POLICY_AUTO;
	world.dma.policy.break_even = UINT64_MAX;
	addr = map((uintptr_t)world.buffers, big, SLUICE_TO_DEVICE);
	sluice_place_get_stats(&world.dma, &stats);
	assert_int_equal(stats.unbounceable, 1);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, big, SLUICE_TO_DEVICE, 0), 0);
	world.dma.policy.kind = SLUICE_POLICY_BOUNCE;
	assert_int_equal(
		sluice_dma_map(&world.dma, (uintptr_t)world.buffers, big, SLUICE_TO_DEVICE, &addr),
		-E2BIG);
	/* No records left. */
	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	world.place.free = NULL;
	addr = map((uintptr_t)world.buffers, 4 * G, SLUICE_TO_DEVICE);
	assert_true(addr - world.pool.dev < 8u << 20);
	sluice_place_get_stats(&world.dma, &stats);
	assert_int_equal(stats.unshareable, 1);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 4 * G, SLUICE_TO_DEVICE, 0), 0);
}

/* Addresses and entries run out: an error, and all is well again when some come back. */
static void g5_no_addresses(void)
{
	static struct sluice_span spans[4096];
	struct sluice_piece piece = {(uintptr_t)world.buffers, 32u << 20};
	uint32_t n = 0;
	int ret = 0;

	if (!confines())
		return;
	while (n < 4096) {
		spans[n] = (struct sluice_span){.pieces = &piece, .n = 1, .access = SLUICE_READ};
		ret = sluice_share_spans(world.share, &spans[n], 1);
		if (ret)
			break;
		n++;
	}
	assert_int_equal(ret, -ENOSPC);
	assert_true(n > 0);
	assert_int_equal(sluice_share_end(world.share, spans, n), 0);
	assert_int_equal(sluice_share_flush(world.share), 0);
	assert_int_equal(world.share->stats.granules, 0);
	assert_int_equal(sluice_share_spans(world.share, spans, n), 0);
	assert_int_equal(sluice_share_end(world.share, spans, n), 0);
}

static void spans_are_checked(void)
{
	struct sluice_piece pieces[2] = {{(uintptr_t)world.buffers, G},
					 {(uintptr_t)world.buffers + 9 * G, G}};
	struct sluice_span span = {.pieces = pieces, .n = 1, .access = SLUICE_READ};
	uint64_t dev;

	pieces[0].orig++;
	assert_int_equal(sluice_share_spans(world.share, &span, 1), -EINVAL);
	pieces[0].orig--;
	pieces[0].bytes = G + 1;
	assert_int_equal(sluice_share_spans(world.share, &span, 1), -EINVAL);
	pieces[0].bytes = 0;
	assert_int_equal(sluice_share_spans(world.share, &span, 1), -EINVAL);
	pieces[0].bytes = G;
	span.access = 0;
	assert_int_equal(sluice_share_spans(world.share, &span, 1), -EINVAL);
	span.access = SLUICE_READ;
	span.n = 2;
	assert_int_equal(sluice_share_spans(world.share, &span, 1), confines() ? 0 : -EOPNOTSUPP);
	if (!confines())
		return;
	assert_int_equal(span.bytes, 2 * G);
	dev = span.dev;
	span.dev += 7;
	assert_int_equal(sluice_share_end(world.share, &span, 1), -EINVAL);
	span.dev = UINT64_MAX - 4095;
	assert_int_equal(sluice_share_end(world.share, &span, 1), -EINVAL);
	span.dev = dev;
	assert_int_equal(sluice_share_end(world.share, &span, 1), 0);
	if (ends_at_once() && world.kind != WORLD_IOMMU)
		assert_int_equal(sluice_share_end(world.share, &span, 1), -EINVAL);
}

static void lazy_says_what_is_exposed(void)
{
	uint64_t orig = buffer(0, 2 * G, 0x11), addr[80];
	struct sluice_hold hold;
	uint32_t n;
	uint8_t byte;

	if (world.kind != WORLD_LAZY)
		return;
	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	addr[0] = map(orig, 2 * G, SLUICE_TO_DEVICE);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr[0], 2 * G, SLUICE_TO_DEVICE, 0), 0);
	/* This is what lazy costs. */
	assert_int_equal(sluice_view_read(world.view, addr[0], &byte, 1), 0);
	assert_int_equal(world.share->stats.exposed, 2);
	/* Its address is not used again. */
	addr[1] = map(orig, 2 * G, SLUICE_TO_DEVICE);
	assert_int_not_equal(addr[0], addr[1]);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr[1], 2 * G, SLUICE_TO_DEVICE, 0), 0);
	assert_int_equal(sluice_share_flush(world.share), 0);
	assert_int_equal(world.share->stats.exposed, 0);
	assert_int_equal(world.share->stats.exposed_max, 4);
	assert_int_equal(sluice_view_read(world.view, addr[0], &byte, 1), -ENOENT);
	/* A full queue flushes itself. */
	for (uint32_t i = 0; i < 80; i++)
		addr[i] = map(orig, 2 * G, SLUICE_TO_DEVICE);
	for (uint32_t i = 0; i < 80; i++)
		assert_int_equal(sluice_dma_unmap(&world.dma, addr[i], 2 * G, SLUICE_TO_DEVICE, 0),
				 0);
	assert_int_equal(world.share->stats.exposed, 32);
	assert_int_equal(world.share->stats.exposed_max, 128);
	assert_int_equal(sluice_share_flush(world.share), 0);
	/* What is held at the flush stays in the queue and stays counted. */
	addr[0] = map(orig, 2 * G, SLUICE_TO_DEVICE);
	assert_int_equal(sluice_view_map(world.view, addr[0], 1, SLUICE_READ, &hold, 1, &n), 0);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr[0], 2 * G, SLUICE_TO_DEVICE, 0), 0);
	assert_int_equal(sluice_share_flush(world.share), -EBUSY);
	assert_int_equal(world.share->stats.exposed, 2);
	sluice_view_unmap(world.view, &hold, 1);
	assert_int_equal(sluice_share_flush(world.share), 0);
	assert_int_equal(world.share->stats.exposed, 0);
}

static void auto_measures_and_decides(void)
{
	uint64_t orig = (uintptr_t)world.buffers, addr;
	struct sluice_place_stats stats;

	assert_int_equal(sluice_place_measure(&world.dma, orig + 1, 1u << 20, 3), -EINVAL);
	assert_int_equal(sluice_place_measure(&world.dma, orig, 1u << 20, 0), -EINVAL);
	assert_int_equal(sluice_place_measure(&world.dma, orig, 1u << 20, 3), 0);
	assert_int_equal(world.dma.policy.kind, SLUICE_POLICY_AUTO);
	assert_true(sluice_costs_of(world.costs.bounce[0], 65536) > 0);
	assert_true(sluice_costs_of(world.costs.share[0], 65536) > 0);
	assert_int_equal(sluice_costs_of(world.costs.share[1], 65536) > 0, confines());
	assert_int_equal(sluice_dma_live(&world.dma), 0);
	for (uint32_t i = 0; i < 2000; i++) {
		uint64_t len = 1 + (i * 7919u) % (256u << 10);

		addr = map(orig + i % 5 * 1000, len, (enum sluice_dir)(i % 3));
		assert_int_equal(
			sluice_dma_unmap(&world.dma, addr, len, (enum sluice_dir)(i % 3), 0), 0);
	}
	sluice_place_get_stats(&world.dma, &stats);
	assert_int_equal(stats.sampled > 0, confines());
	/* The caller's own break-even counts instead. */
	world.dma.policy.break_even = 64 * G;
	addr = map(orig, 64 * G - 1, SLUICE_TO_DEVICE);
	assert_true(addr - world.pool.dev < 8u << 20);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 64 * G - 1, SLUICE_TO_DEVICE, 0), 0);
	addr = map(orig, 64 * G, SLUICE_TO_DEVICE);
	assert_false(addr - world.pool.dev < 8u << 20);
	assert_int_equal(sluice_dma_unmap(&world.dma, addr, 64 * G, SLUICE_TO_DEVICE, 0), 0);
}

/* Whatever others keep of the pool: what can only bounce finds its reserve, alone and as a list. */
static void g5_a_reserve_for_what_bounces(void)
{
	static uint64_t hoard[(8u << 20) / 256];
	static uint8_t fill[256];
	struct sluice_dma_stats *stats = calloc(world.pool.n_caches, sizeof(*stats));
	struct sluice_dma hoarder;
	uint64_t orig = buffer(100, 3 * G, 0x11), addr;
	struct sluice_sg sg[4];
	uint32_t n = 0;

	assert_non_null(stats);
	assert_int_equal(sluice_dma_reserve(&world.dma, 8 * G), 0);
	sluice_dma_init(&hoarder, &world.pool, 9, stats);
	while (!sluice_dma_map(&hoarder, (uintptr_t)fill, 256, SLUICE_TO_DEVICE, &hoard[n]))
		n++;
	for (uint32_t policy = SLUICE_POLICY_BOUNCE; policy <= SLUICE_POLICY_AUTO; policy++) {
		uint8_t got[200];

		world.dma.policy.kind = policy;
		/* No whole granule in it: of the mechanisms that confine, none can share it. */
		addr = map(orig, 200, SLUICE_BIDIRECTIONAL);
		if (confines() || policy == SLUICE_POLICY_BOUNCE)
			assert_true(addr - world.pool.dev < 8u << 20);
		assert_int_equal(sluice_view_read(world.view, addr, got, 200), 0);
		assert_true(rig_all(got, 200, 0x11));
		memset(got, 0x22, 200);
		assert_int_equal(sluice_view_write(world.view, addr, got, 200), 0);
		assert_int_equal(sluice_dma_unmap(&world.dma, addr, 200, SLUICE_BIDIRECTIONAL, 0),
				 0);
		assert_true(rig_all((void *)(uintptr_t)orig, 200, 0x22));
		memset((void *)(uintptr_t)orig, 0x11, 200);
		for (uint32_t i = 0; i < 4; i++)
			sg[i] = (struct sluice_sg){.orig = orig + i * 2000, .len = 2000};
		assert_int_equal(sluice_dma_map_sg(&world.dma, sg, 4, SLUICE_BIDIRECTIONAL), 0);
		assert_int_equal(sluice_dma_unmap_sg(&world.dma, sg, 4, SLUICE_BIDIRECTIONAL, 0),
				 0);
	}
	while (n)
		assert_int_equal(sluice_dma_unmap(&hoarder, hoard[--n], 256, SLUICE_TO_DEVICE, 0),
				 0);
	sluice_dma_close(&hoarder);
	assert_int_equal(sluice_dma_reserve(&world.dma, 0), 0);
	free(stats);
}

/* G3: of any number of mappings in one granule each can be ended, and synced, whichever it is. */
static void g3_many_in_one_granule(void)
{
	enum { N = G / 16 };
	uint64_t orig = buffer(0, G, 0x11), addr[N];

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	for (uint32_t i = 0; i < N; i++)
		addr[i] = map(orig + i * 16, 16, SLUICE_TO_DEVICE);
	/* Twice the same one, and another that only differs in its direction. */
	assert_int_equal(map(orig, 16, SLUICE_TO_DEVICE) == addr[0], !confines());
	(void)map(orig, 16, SLUICE_FROM_DEVICE);
	for (uint32_t i = N; i-- > 0;) {
		assert_int_equal(
			sluice_dma_sync_for_device(&world.dma, addr[i], 16, SLUICE_TO_DEVICE), 0);
		assert_int_equal(
			sluice_dma_sync_for_device(&world.dma, addr[i] + 4, 8, SLUICE_TO_DEVICE),
			0);
		assert_int_equal(sluice_dma_unmap(&world.dma, addr[i], 16, SLUICE_TO_DEVICE, 0), 0);
	}
	assert_int_equal(sluice_dma_live(&world.dma), 2);
}

/* Nothing is lost: not a granule of the pool, not a record, not an address. */
static void nothing_leaks(void)
{
	struct sluice_pool_stats before, after;
	uint64_t seed = 1, addr;

	world.dma.policy.kind = SLUICE_POLICY_SHARE;
	sluice_pool_get_stats(&world.pool, &before);
	for (uint32_t i = 0; i < 3 * WORLD_RECORDS; i++) {
		uint64_t len = 1 + rig_random(&seed) % (8 * G);

		addr = map((uintptr_t)world.buffers + rig_random(&seed) % (1u << 20), len,
			   SLUICE_FROM_DEVICE);
		assert_int_equal(sluice_dma_unmap(&world.dma, addr, len, SLUICE_FROM_DEVICE, 0), 0);
	}
	sluice_pool_get_stats(&world.pool, &after);
	assert_int_equal(before.used, after.used);
	assert_int_equal(sluice_share_flush(world.share), 0);
	assert_int_equal(world.share->stats.granules, 0);
}

#define OVER_ALL(test)                                                                             \
	static void test##_all(void **state)                                                       \
	{                                                                                          \
		(void)state;                                                                       \
		for (uint32_t kind = 0; kind < WORLD_KINDS; kind++) {                              \
			assert_true(world_open(&world, (enum world_kind)kind));                    \
			print_message("# %s\n", world_names[kind]);                                \
			test();                                                                    \
			world_close(&world);                                                       \
		}                                                                                  \
	}

OVER_ALL(g1_only_while_mapped)
OVER_ALL(g1_permissions)
OVER_ALL(g2_partial_granules)
OVER_ALL(g1_what_cannot_be_kept_is_copied)
OVER_ALL(g2_ends_are_scrubbed)
OVER_ALL(g2_short_writes)
OVER_ALL(g3_nothing_after_unmap)
OVER_ALL(g3_unmap_while_held)
OVER_ALL(g4_nonsense_is_refused)
OVER_ALL(g4_accesses_are_checked)
OVER_ALL(sync_of_the_ends)
OVER_ALL(lists)
OVER_ALL(g3_many_in_one_granule)
OVER_ALL(g5_lists_without_room)
OVER_ALL(g5_either_way)
OVER_ALL(g5_no_addresses)
OVER_ALL(spans_are_checked)
OVER_ALL(lazy_says_what_is_exposed)
OVER_ALL(auto_measures_and_decides)
OVER_ALL(g5_a_reserve_for_what_bounces)
OVER_ALL(nothing_leaks)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g1_only_while_mapped_all),
		cmocka_unit_test(g1_permissions_all),
		cmocka_unit_test(g2_partial_granules_all),
		cmocka_unit_test(g1_what_cannot_be_kept_is_copied_all),
		cmocka_unit_test(g2_ends_are_scrubbed_all),
		cmocka_unit_test(g2_short_writes_all),
		cmocka_unit_test(g3_nothing_after_unmap_all),
		cmocka_unit_test(g3_unmap_while_held_all),
		cmocka_unit_test(g4_nonsense_is_refused_all),
		cmocka_unit_test(g4_accesses_are_checked_all),
		cmocka_unit_test(sync_of_the_ends_all),
		cmocka_unit_test(lists_all),
		cmocka_unit_test(g3_many_in_one_granule_all),
		cmocka_unit_test(g5_lists_without_room_all),
		cmocka_unit_test(g5_either_way_all),
		cmocka_unit_test(g5_no_addresses_all),
		cmocka_unit_test(spans_are_checked_all),
		cmocka_unit_test(lazy_says_what_is_exposed_all),
		cmocka_unit_test(auto_measures_and_decides_all),
		cmocka_unit_test(g5_a_reserve_for_what_bounces_all),
		cmocka_unit_test(nothing_leaks_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
