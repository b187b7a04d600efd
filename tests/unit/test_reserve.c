/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_reserve.c - whatever others keep for ever, a device with a reserve goes on (G5)
 *
 * Theory of operation: a hoarder maps all that it can get and never unmaps it. Then the attacks: on
 * what the reserve promises (requests of its whole length, again and again, from one thread and from
 * several), on its metadata (G4: what is given back twice, or is none of its slots), on what it leaves
 * behind (G2), and on those who have none.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"

#define KiB  1024u
#define MiB  (1024u * KiB)
#define POOL (4 * MiB)
#define PAGE 4096u
#define MOST (POOL / 256)

static uint8_t buf[POOL];
static struct rig rig; /* its device is the hoarder */
static uint64_t hoard[MOST];
static uint32_t n_hoard;

struct device {
	struct sluice_dma dma;
	struct sluice_dma_stats *stats;
};

static void device_open(struct device *device, uint16_t id, uint64_t reserve)
{
	device->stats = calloc(rig.mem->pool.n_caches, sizeof(*device->stats));
	assert_non_null(device->stats);
	sluice_dma_init(&device->dma, &rig.mem->pool, id, device->stats);
	assert_int_equal(sluice_dma_reserve(&device->dma, reserve), 0);
}

static void device_close(struct device *device)
{
	sluice_dma_close(&device->dma);
	free(device->stats);
}

static struct sluice_dma_stats stats_of(struct device *device)
{
	struct sluice_dma_stats stats;

	sluice_dma_get_stats(&device->dma, &stats);
	return stats;
}

static struct sluice_pool_stats pool_stats(void)
{
	struct sluice_pool_stats stats;

	sluice_pool_get_stats(&rig.mem->pool, &stats);
	return stats;
}

static int map(struct device *device, uint64_t len, uint64_t *addr)
{
	return sluice_dma_map(&device->dma, (uintptr_t)buf, len, SLUICE_BIDIRECTIONAL, addr);
}

/* A list of one element: it claims the reserve for itself. */
static int map_long(struct device *device, uint64_t len, uint64_t *addr)
{
	struct sluice_sg sg = {.orig = (uintptr_t)buf, .len = len};
	int ret = sluice_dma_map_sg(&device->dma, &sg, 1, SLUICE_BIDIRECTIONAL);

	*addr = sg.dma;
	return ret;
}

static int unmap(struct device *device, uint64_t addr, uint64_t len)
{
	return sluice_dma_unmap(&device->dma, addr, len, SLUICE_BIDIRECTIONAL, 0);
}

/* All that is to be had, down to the last 256 bytes. */
static void hoard_all(void)
{
	/* The gate may close on the hoarder as on any: until nobody waits any more. */
	while (!sluice_dma_map(&rig.dma, (uintptr_t)buf, PAGE, SLUICE_TO_DEVICE, &hoard[n_hoard]))
		n_hoard++;
	while (!sluice_dma_map(&rig.dma, (uintptr_t)buf, 256, SLUICE_TO_DEVICE, &hoard[n_hoard]))
		n_hoard++;
}

static void give_up_hoard(void)
{
	while (n_hoard) {
		uint64_t addr = hoard[--n_hoard];

		if (sluice_dma_unmap(&rig.dma, addr, PAGE, SLUICE_TO_DEVICE, 0))
			assert_int_equal(sluice_dma_unmap(&rig.dma, addr, 256, SLUICE_TO_DEVICE, 0),
					 0);
	}
}

/* Nothing is left of anybody: the pool is one run again, as it was at first, and clean (G2). */
static void nothing_is_left(void)
{
	struct sluice_pool_stats stats;

	for (int i = 0; i < 10; i++)
		(void)sluice_pool_trim(&rig.mem->pool);
	stats = pool_stats();
	assert_int_equal(stats.used, 0);
	assert_int_equal(stats.reserved, 0);
	assert_int_equal(stats.largest, POOL);
	assert_int_equal(stats.span, POOL);
	assert_int_equal(rig.mem->pool.reserved_taken, 0);
	assert_true(rig_all(rig.mem->region.cpu, POOL, 0));
}

/* Lists of many shapes, all of them of so many granules. */
static uint32_t make_list(struct sluice_sg *sg, uint32_t granules, uint64_t *seed)
{
	uint32_t n = 0;

	for (uint64_t at = 0; granules; n++) {
		uint32_t take = 1 + (uint32_t)(rig_random(seed) % granules) % 40;

		sg[n] = (struct sluice_sg){
			.orig = (uintptr_t)buf + at,
			.len = take * PAGE - (uint32_t)(rig_random(seed) % PAGE),
		};
		at += sg[n].len;
		granules -= take;
	}
	return n;
}

/* One thread has no races to look for. */
#ifdef __SANITIZE_THREAD__
#define LONGEST_ROUNDS 30
#else
#define LONGEST_ROUNDS 300
#endif

/* G5: again and again with the longest list, which stretches over two chunks, beside a hoarder. */
static void g5_the_longest_list_goes_on(void **state)
{
	enum { GRANULES = 300 };
	static struct device victim, filler;
	struct sluice_sg sg[GRANULES];
	uint64_t seed = 1;

	(void)state;
	rig_open(&rig, POOL);
	/* So that the reserve lies across the border between the chunks. */
	device_open(&filler, 2, 400 * PAGE);
	device_open(&victim, 3, GRANULES * PAGE);
	device_close(&filler);
	assert_int_equal(pool_stats().reserved, GRANULES * PAGE);
	assert_int_equal(pool_stats().used, 0);
	for (int round = 0; round < LONGEST_ROUNDS; round++) {
		uint32_t n = make_list(sg, GRANULES, &seed);
		struct sluice_slot slot;
		uint64_t last = 0;

		hoard_all();
		memset(buf, round, GRANULES * PAGE);
		assert_int_equal(sluice_dma_map_sg(&victim.dma, sg, n, SLUICE_BIDIRECTIONAL), 0);
		for (uint32_t i = 0; i < n; i++) {
			uint64_t inside = sg[i].dma + rig_random(&seed) % sg[i].len;

			assert_true(
				rig_all(rig_device(&rig, sg[i].dma), sg[i].len, (uint8_t)round));
			/* From any interior address, as for any slot. */
			assert_int_equal(sluice_pool_find(&rig.mem->pool, inside, &slot), 0);
			assert_int_equal(slot.dev, sg[i].dma);
			assert_true(sg[i].dma >= last);
			last = slot.dev + slot.size;
			*rig_device(&rig, inside) = 0xee;
			assert_int_equal(sluice_dma_sync_for_cpu(&victim.dma, inside, 1,
								 SLUICE_BIDIRECTIONAL),
					 0);
			assert_int_equal(*(uint8_t *)(uintptr_t)(sg[i].orig + inside - sg[i].dma),
					 0xee);
		}
		/* In any order. */
		for (uint32_t i = n; i > 0; i--) {
			uint32_t k = (uint32_t)(rig_random(&seed) % i);
			struct sluice_sg one = sg[k];

			assert_int_equal(unmap(&victim, one.dma, one.len), 0);
			assert_int_equal(unmap(&victim, one.dma, one.len), -EINVAL);
			assert_true(rig_all(rig_device(&rig, one.dma), one.len, 0));
			sg[k] = sg[i - 1];
		}
	}
	assert_true(n_hoard * (uint64_t)PAGE >= POOL - GRANULES * PAGE);
	assert_true(stats_of(&victim).reserve_maps >= 300);
	assert_int_equal(victim.dma.turn.wants, 0);
	give_up_hoard();
	device_close(&victim);
	nothing_is_left();
	rig_close(&rig);
}

/* G5: while it is another's turn, a device goes on in its reserve, and that turn comes to its end. */
static void g5_anothers_turn_is_no_obstacle(void **state)
{
	static struct device victim, hopeless;
	uint64_t addr, got = 0;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&victim, 2, 64 * KiB);
	device_open(&hopeless, 3, 0);
	hoard_all();
	for (uint32_t i = 0; i < 50 * SLUICE_TURN_PASSES; i++) {
		assert_int_equal(map(&hopeless, MiB, &addr), -ENOSPC);
		assert_int_equal(map(&victim, 64 * KiB, &addr), 0);
		assert_int_equal(unmap(&victim, addr, 64 * KiB), 0);
		/* The hoarder has one page of what it has unmapped, for which others wait. */
		if (n_hoard && i % 2)
			assert_int_equal(
				sluice_dma_unmap(&rig.dma, hoard[0], PAGE, SLUICE_TO_DEVICE, 0), 0),
				hoard[0] = hoard[--n_hoard];
		while (!sluice_dma_map(&rig.dma, (uintptr_t)buf, PAGE, SLUICE_TO_DEVICE,
				       &hoard[n_hoard]))
			n_hoard++, got++;
		if (got && !map(&hopeless, MiB, &addr))
			break;
	}
	/* What others need came together, or their turns were not kept for ever by the victim. */
	assert_true(got > 0);
	assert_true(stats_of(&victim).maps > SLUICE_TURN_PASSES);
	give_up_hoard();
	if (stats_of(&hopeless).maps)
		assert_int_equal(unmap(&hopeless, addr, MiB), 0);
	device_close(&hopeless);
	device_close(&victim);
	nothing_is_left();
	rig_close(&rig);
}

/* The coming and going in a reserve says nothing about room for others: a turn in vain ends. */
static void a_reserve_is_no_sign_of_life(void **state)
{
	static struct device victim, hopeless;
	uint64_t addr;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&victim, 2, 64 * KiB);
	device_open(&hopeless, 3, 0);
	while (n_hoard < 600) {
		assert_int_equal(sluice_dma_map(&rig.dma, (uintptr_t)buf, PAGE, SLUICE_TO_DEVICE,
						&hoard[n_hoard]),
				 0);
		n_hoard++;
	}
	/* It insists on what does not come; what is free is too little to let others pass. */
	while (!hopeless.dma.turn.insists) {
		assert_int_equal(map(&hopeless, 2 * MiB - PAGE, &addr), -ENOSPC);
		assert_int_equal(map(&victim, 16 * KiB, &addr), 0);
		assert_int_equal(unmap(&victim, addr, 16 * KiB), 0);
	}
	for (uint32_t tries = 0; stats_of(&hopeless).lapsed == 0; tries++) {
		assert_true(tries <= SLUICE_TURN_SILENCE);
		assert_int_equal(map(&victim, 16 * KiB, &addr), 0);
		assert_int_equal(unmap(&victim, addr, 16 * KiB), 0);
	}
	give_up_hoard();
	device_close(&hopeless);
	device_close(&victim);
	nothing_is_left();
	rig_close(&rig);
}

/* A list that does not fit after all gives its part back, and nothing of it is ever half there. */
static void a_list_that_fails_half_way(void **state)
{
	static struct device victim;
	struct sluice_sg sg[20];
	struct sluice_pool_stats before;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&victim, 2, 16 * PAGE);
	hoard_all();
	before = pool_stats();
	for (int round = 0; round < 100; round++) {
		/* By its bytes it would fit, by granules it does not. */
		for (uint32_t i = 0; i < 20; i++)
			sg[i] = (struct sluice_sg){.orig = (uintptr_t)buf, .len = 1000};
		assert_int_equal(sluice_dma_map_sg(&victim.dma, sg, 20, SLUICE_FROM_DEVICE),
				 -ENOSPC);
		assert_int_equal(pool_stats().used, before.used);
		/* An element that makes no sense, in the midst of the list. */
		sg[10].len = 0;
		assert_int_equal(sluice_dma_map_sg(&victim.dma, sg, 16, SLUICE_FROM_DEVICE),
				 -EINVAL);
		sg[10].len = 1000;
		assert_int_equal(sluice_dma_map_sg(&victim.dma, sg, 16, SLUICE_FROM_DEVICE), 0);
		/* The next request waits, and does not get what is left of it. */
		assert_int_equal(map(&victim, 1, &(uint64_t){0}), -ENOSPC);
		for (uint32_t i = 0; i < 16; i++) {
			assert_int_equal(map(&victim, 1, &(uint64_t){0}), -ENOSPC);
			assert_int_equal(sluice_dma_unmap(&victim.dma, sg[i].dma, 1000,
							  SLUICE_FROM_DEVICE, 0),
					 0);
		}
	}
	assert_int_equal(pool_stats().used, before.used);
	give_up_hoard();
	device_close(&victim);
	nothing_is_left();
	rig_close(&rig);
}

/* A device's own short requests do not keep its longest one out, nor the reverse for ever. */
static void short_ones_do_not_keep_the_longest_out(void **state)
{
	static struct device victim;
	uint64_t addr, other;
	uint32_t tries = 0;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&victim, 2, 64 * KiB);
	hoard_all();
	for (int round = 0; round < 100; round++) {
		assert_int_equal(map(&victim, 256, &addr), 0);
		assert_int_equal(map_long(&victim, 64 * KiB, &other), -ENOSPC);
		assert_int_equal(unmap(&victim, addr, 256), 0);
		/* Whoever is quicker. */
		assert_int_equal(map(&victim, 256, &addr), -ENOSPC);
		assert_int_equal(map_long(&victim, 64 * KiB, &addr), 0);
		assert_int_equal(unmap(&victim, addr, 64 * KiB), 0);
	}
	/* The long one does not come again. */
	assert_int_equal(map(&victim, 256, &addr), 0);
	assert_int_equal(map_long(&victim, 64 * KiB, &other), -ENOSPC);
	assert_int_equal(unmap(&victim, addr, 256), 0);
	while (map(&victim, 256, &addr))
		assert_true(++tries <= 64);
	assert_int_equal(unmap(&victim, addr, 256), 0);
	give_up_hoard();
	device_close(&victim);
	nothing_is_left();
	rig_close(&rig);
}

/*
 * What virtio's drivers do: the parts of a request one by one, and all of them given back if one finds
 * no room. Another CPU does the same; the test says which one this is by the owner that is noted.
 */
static void parts_of_a_request_stay_together(void **state)
{
	enum { PARTS = 16 };
	static struct device victim;
	uint64_t part[PARTS], addr;
	cpu_set_t all, one;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	CPU_SET((size_t)sched_getcpu(), &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	rig_open(&rig, POOL);
	device_open(&victim, 2, PARTS * PAGE);
	hoard_all();
	for (int round = 0; round < 100; round++) {
		for (uint32_t i = 0; i < PARTS; i++) {
			uint32_t owner;

			assert_int_equal(map(&victim, i % 2 ? PAGE : 16, &part[i]), 0);
			/* Another CPU, and a list: neither gets between the parts. */
			owner = victim.dma.reserve.owner;
			victim.dma.reserve.owner = owner + 1;
			assert_int_equal(map(&victim, 16, &addr), -ENOSPC);
			victim.dma.reserve.owner = owner;
			assert_int_equal(map_long(&victim, 16, &addr), -ENOSPC);
		}
		/* One part too many. */
		assert_int_equal(map(&victim, 16, &addr), -ENOSPC);
		for (uint32_t i = 0; i < PARTS; i++) {
			assert_int_equal(unmap(&victim, part[i], i % 2 ? PAGE : 16), 0);
			/* Not before it is whole again. */
			assert_int_equal(map_long(&victim, PARTS * PAGE, &addr),
					 i < PARTS - 1 ? -ENOSPC : 0);
		}
		assert_int_equal(unmap(&victim, addr, PARTS * PAGE), 0);
	}
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	give_up_hoard();
	device_close(&victim);
	nothing_is_left();
	rig_close(&rig);
}

/* G4: in a reserve as anywhere else, what is no mapping is refused and nothing comes of it. */
static void g4_nonsense_is_refused(void **state)
{
	static struct device victim, other;
	struct sluice_pool *pool;
	struct sluice_slot slot;
	uint64_t a, base;

	(void)state;
	rig_open(&rig, POOL);
	pool = &rig.mem->pool;
	device_open(&victim, 2, 64 * KiB);
	device_open(&other, 3, 64 * KiB);
	base = RIG_DEV + (uint64_t)(victim.dma.reserve.first - 1) * PAGE;
	/* Idle: there is no slot at all. */
	for (uint64_t at = base; at < base + 64 * KiB; at += 256) {
		assert_int_equal(sluice_pool_find(pool, at, &slot), -ENOENT);
		assert_int_equal(sluice_pool_free(pool, at), -EINVAL);
		assert_int_equal(unmap(&victim, at, 256), -EINVAL);
		assert_int_equal(sluice_dma_free(&victim.dma, at, 64 * KiB), -EINVAL);
	}
	hoard_all();
	assert_int_equal(map(&victim, 20 * KiB, &a), 0);
	assert_int_equal(a, base);
	assert_int_equal(unmap(&other, a, 20 * KiB), -EINVAL);
	assert_int_equal(unmap(&victim, a, 20 * KiB + 1), -EINVAL);
	assert_int_equal(unmap(&victim, a, 64 * KiB), -EINVAL);
	assert_int_equal(unmap(&victim, a + PAGE, 16 * KiB), -EINVAL);
	assert_int_equal(sluice_dma_unmap(&victim.dma, a, 20 * KiB, SLUICE_TO_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_free(&victim.dma, a, 20 * KiB), -EINVAL);
	assert_int_equal(sluice_pool_free(pool, a), -EINVAL); /* it is the DMA layer's */
	assert_int_equal(sluice_pool_find(pool, a + 20 * KiB, &slot), -ENOENT);
	assert_int_equal(
		sluice_dma_sync_for_cpu(&victim.dma, a + 20 * KiB - 1, 2, SLUICE_BIDIRECTIONAL),
		-EINVAL);
	assert_int_equal(unmap(&victim, a, 20 * KiB), 0);
	assert_int_equal(unmap(&victim, a, 20 * KiB), -EINVAL);
	assert_int_equal(sluice_pool_free(pool, a), -EINVAL);
	/* It is nobody else's, and nobody has two. */
	assert_int_equal(map(&victim, 64 * KiB, &a), 0);
	assert_int_equal(map(&victim, 1, &(uint64_t){0}), -ENOSPC);
	assert_int_equal(sluice_dma_reserve(&victim.dma, 64 * KiB), -EBUSY);
	assert_int_equal(unmap(&victim, a, 64 * KiB), 0);
	/* Longer than it is. */
	assert_int_equal(map(&victim, 64 * KiB + 1, &a), -ENOSPC);
	give_up_hoard();
	device_close(&other);
	device_close(&victim);
	nothing_is_left();
	rig_close(&rig);
}

/* Closed while something is mapped there, it goes back with the last of it; and trim and shrink. */
static void closed_with_live_mappings(void **state)
{
	static struct device victim, next;
	struct sluice_chunk *meta;
	uint64_t dev;
	void *cpu;
	struct sluice_sg sg[3];

	(void)state;
	rig_open(&rig, POOL);
	device_open(&victim, 2, 48 * KiB);
	for (uint32_t i = 0; i < 3; i++)
		sg[i] = (struct sluice_sg){.orig = (uintptr_t)buf, .len = 16 * KiB};
	hoard_all();
	assert_int_equal(sluice_dma_map_sg(&victim.dma, sg, 3, SLUICE_BIDIRECTIONAL), 0);
	assert_int_equal(pool_stats().used, POOL);
	sluice_dma_close(&victim.dma);
	sluice_dma_close(&victim.dma);
	assert_int_equal(stats_of(&victim).reserved, 0);
	/* Not there for the next one, nor for anybody. */
	assert_int_equal(map(&victim, PAGE, &dev), -ENOSPC);
	assert_int_equal(sluice_dma_reserve(&victim.dma, PAGE), -ENOSPC);
	assert_int_equal(unmap(&victim, sg[1].dma, 16 * KiB), 0);
	assert_int_equal(unmap(&victim, sg[0].dma, 16 * KiB), 0);
	assert_int_equal(map(&victim, PAGE, &dev), -ENOSPC);
	assert_int_equal(pool_stats().reserved, 48 * KiB);
	assert_int_equal(unmap(&victim, sg[2].dma, 16 * KiB), 0);
	assert_int_equal(pool_stats().reserved, 0);
	give_up_hoard();
	sluice_dma_close(&victim.dma);

	/* Closed between claim and end, by a driver with a bug. */
	assert_int_equal(sluice_dma_reserve(&victim.dma, 48 * KiB), 0);
	{
		uint32_t claimed = sluice_dma_reserve_begin(&victim.dma, 48 * KiB);

		assert_int_not_equal(claimed, 0);
		assert_int_equal(sluice_dma_reserve_begin(&victim.dma, PAGE), 0);
		assert_int_equal(sluice_dma_list_map(&victim.dma, (uintptr_t)buf, PAGE,
						     SLUICE_BIDIRECTIONAL, claimed, &dev),
				 0);
		assert_int_equal(sluice_dma_reserve(&victim.dma, 0), 0);
		assert_int_equal(sluice_dma_list_map(&victim.dma, (uintptr_t)buf, PAGE,
						     SLUICE_BIDIRECTIONAL, claimed, &sg[0].dma),
				 -ENOSPC);
		sluice_dma_reserve_end(&victim.dma, claimed);
		assert_int_equal(pool_stats().reserved, 48 * KiB);
		assert_int_equal(unmap(&victim, dev, PAGE), 0);
	}
	nothing_is_left();

	/* A pool that shrinks leaves the chunk with the reserve alone, and nothing else. */
	device_open(&next, 3, 64 * KiB);
	(void)sluice_pool_trim(&rig.mem->pool);
	assert_int_equal(pool_stats().reserved, 64 * KiB);
	assert_int_equal(sluice_pool_remove(&rig.mem->pool, &meta, &cpu, &dev), 0);
	assert_int_equal(dev, RIG_DEV + SLUICE_CHUNK_BYTES);
	assert_int_equal(pool_stats().span, SLUICE_CHUNK_BYTES - 64 * KiB);
	hoard_all();
	assert_int_equal(map(&next, 64 * KiB, &sg[0].dma), 0);
	assert_int_equal(sluice_pool_remove(&rig.mem->pool, &(struct sluice_chunk *){NULL},
					    &(void *){NULL}, &(uint64_t){0}),
			 -EBUSY);
	assert_int_equal(sluice_pool_add(&rig.mem->pool, meta, cpu, dev, SLUICE_CHUNK_BYTES), 0);
	assert_int_equal(unmap(&next, sg[0].dma, 64 * KiB), 0);
	give_up_hoard();
	device_close(&next);
	nothing_is_left();
	free(victim.stats);
	rig_close(&rig);
}

/* What may be set aside, and what that means to others. */
static void limits(void **state)
{
	static struct device a, b;
	uint64_t addr;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&a, 2, 0);
	device_open(&b, 3, 1);
	assert_int_equal(pool_stats().reserved, PAGE);
	assert_int_equal(sluice_dma_reserve(&a.dma, SLUICE_RESERVE_MAX + UINT64_C(1)), -EINVAL);
	assert_int_equal(sluice_dma_reserve(&a.dma, UINT64_MAX), -EINVAL);
	/* Not so much that the pool could not hold the same without it. */
	assert_int_equal(sluice_dma_reserve(&a.dma, POOL / 2 + PAGE), -ENOSPC);
	assert_int_equal(sluice_dma_reserve(&a.dma, POOL / 2 - PAGE), 0);
	assert_int_equal(stats_of(&a).reserved, POOL / 2 - PAGE);
	assert_int_equal(pool_stats().span, POOL / 2);
	/* Nobody gets it, and nobody waits for what there never is. */
	assert_int_equal(map(&b, POOL / 2 + 1, &addr), -E2BIG);
	assert_int_equal(map(&b, POOL / 2, &addr), 0);
	assert_int_equal(unmap(&b, addr, POOL / 2), 0);
	/* It counts neither as used nor as free. */
	assert_int_equal(pool_stats().used, 0);
	assert_int_equal(pool_stats().used_max, POOL / 2);
	assert_int_equal(sluice_dma_reserve(&a.dma, 0), 0);
	device_close(&b);
	device_close(&a);
	nothing_is_left();
	rig_close(&rig);
}

/* With an offset to keep, a segment not to cross, and guard bytes: as everywhere, in the reserve. */
static void what_the_device_needs(void **state)
{
	static struct device victim;
	uint64_t addr, seed = 9;

	(void)state;
	rig_open(&rig, POOL);
	device_open(&victim, 2, 256 * KiB);
	victim.dma.min_align_mask = 4095;
	victim.dma.seg_boundary_mask = 64 * KiB - 1;
	victim.dma.guard = true;
	hoard_all();
	for (int round = 0; round < 2000; round++) {
		uint64_t len = 1 + rig_random(&seed) % (48 * KiB), off = rig_random(&seed) % PAGE;

		assert_int_equal(sluice_dma_map(&victim.dma, (uintptr_t)buf + off, len,
						SLUICE_TO_DEVICE, &addr),
				 0);
		assert_int_equal(addr % PAGE, ((uintptr_t)buf + off) % PAGE);
		assert_int_equal(addr / (64 * KiB), (addr + len - 1) / (64 * KiB));
		if (round % 2)
			rig_device(&rig, addr)[len] ^= 1;
		assert_int_equal(sluice_dma_unmap(&victim.dma, addr, len, SLUICE_TO_DEVICE, 0),
				 round % 2);
	}
	give_up_hoard();
	device_close(&victim);
	nothing_is_left();
	rig_close(&rig);
}

#define THREADS	 4
#define ELEMENTS 24

static struct device shared[2];
static atomic_int failures;
/* ThreadSanitizer sees in a few lists what it would see in many. */
#ifdef __SANITIZE_THREAD__
#define LISTS 40
#else
#define LISTS 150
#endif
static atomic_uint served[THREADS];

/* Two threads for each of two devices, each with lists of the whole length of the reserve. */
static void *worker(void *arg)
{
	uint32_t me = (uint32_t)(uintptr_t)arg;
	struct device *device = &shared[me % 2];
	static uint8_t mine[THREADS][ELEMENTS * PAGE];
	struct sluice_sg sg[ELEMENTS];

	for (uint32_t round = 0; atomic_load(&served[me]) < LISTS && round < 5000000; round++) {
		uint8_t fill = (uint8_t)(me << 6 | (round & 63));

		memset(mine[me], fill, PAGE);
		for (uint32_t i = 0; i < ELEMENTS; i++)
			sg[i] = (struct sluice_sg){.orig = (uintptr_t)mine[me], .len = PAGE};
		if (sluice_dma_map_sg(&device->dma, sg, ELEMENTS, SLUICE_TO_DEVICE)) {
			sched_yield();
			continue;
		}
		atomic_fetch_add(&served[me], 1);
		for (uint32_t i = 0; i < ELEMENTS; i++) {
			if (!rig_all(rig_device(&rig, sg[i].dma), PAGE, fill))
				atomic_fetch_add(&failures, 1);
			if (sluice_dma_unmap(&device->dma, sg[i].dma, PAGE, SLUICE_TO_DEVICE, 0))
				atomic_fetch_add(&failures, 1);
		}
	}
	return NULL;
}

/* G5: the same with threads, of which two share a reserve. */
static void g5_with_threads(void **state)
{
	pthread_t threads[THREADS];

	(void)state;
	rig_open(&rig, POOL);
	device_open(&shared[0], 2, ELEMENTS * PAGE);
	device_open(&shared[1], 3, ELEMENTS * PAGE);
	hoard_all();
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, worker, (void *)i), 0);
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(failures, 0);
	for (uint32_t i = 0; i < THREADS; i++)
		assert_int_equal(served[i], LISTS);
	give_up_hoard();
	device_close(&shared[1]);
	device_close(&shared[0]);
	nothing_is_left();
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g5_the_longest_list_goes_on),
		cmocka_unit_test(g5_anothers_turn_is_no_obstacle),
		cmocka_unit_test(a_reserve_is_no_sign_of_life),
		cmocka_unit_test(a_list_that_fails_half_way),
		cmocka_unit_test(short_ones_do_not_keep_the_longest_out),
		cmocka_unit_test(parts_of_a_request_stay_together),
		cmocka_unit_test(g4_nonsense_is_refused),
		cmocka_unit_test(closed_with_live_mappings),
		cmocka_unit_test(limits),
		cmocka_unit_test(what_the_device_needs),
		cmocka_unit_test(g5_with_threads),
	};

	return cmocka_run_group_tests_name("reserve", tests, NULL, NULL);
}
