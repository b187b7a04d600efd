/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_bounds_dma.c - what fairness and statistics cost, and what happens between two steps of theirs
 *
 * Theory of operation: as test_bounds.c, with the core that counts itself. Here devices map; and
 * between two locks "another CPU" does something, at exactly the worst moment.
 */
#include "tests/bounds/sluice_port.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "rig.h"

#define MiB    (1024u * 1024u)
#define POOL   (4 * MiB)
#define CACHES 64
#define MOST   (POOL / 4096)

struct bounds bounds;

/* Called very often: ThreadSanitizer has nothing to find in it. */
__attribute__((no_sanitize("thread"))) void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
	bounds.blocks++;
}

struct device {
	struct sluice_dma dma;
	struct sluice_dma_stats stats[CACHES];
	uint64_t addr[MOST];
	uint32_t n;
};

static struct sluice_pool pool;
static struct device device[66];
static uint8_t *memory, buf[MiB];
static void *metas[POOL / SLUICE_CHUNK_BYTES], *caches[CACHES];

static void *aligned(size_t size)
{
	void *p = aligned_alloc(64, (size + 63) & ~(size_t)63);

	assert_non_null(p);
	return p;
}

static int world_open(void **state)
{
	static struct sluice_chunk_place chunks[POOL / SLUICE_CHUNK_BYTES];
	static struct sluice_cache *cache_list[CACHES];

	(void)state;
	bounds = (struct bounds){.pool_lock = &pool.lock};
	memory = mmap(NULL, POOL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(memory != MAP_FAILED);
	for (uint32_t i = 0; i < CACHES; i++)
		cache_list[i] = caches[i] = aligned(sluice_cache_size());
	assert_int_equal(sluice_pool_init(&pool,
					  &(struct sluice_pool_config){
						  .name = "bounds",
						  .dev = RIG_DEV,
						  .chunks = chunks,
						  .max_chunks = POOL / SLUICE_CHUNK_BYTES,
						  .caches = cache_list,
						  .n_caches = CACHES,
					  }),
			 0);
	for (uint32_t c = 0; c < POOL / SLUICE_CHUNK_BYTES; c++) {
		uint32_t at = c * SLUICE_CHUNK_BYTES;

		metas[c] = aligned(sluice_chunk_size());
		assert_int_equal(sluice_pool_add(&pool, metas[c], memory + at, RIG_DEV + at,
						 SLUICE_CHUNK_BYTES),
				 0);
	}
	for (uint16_t d = 0; d < sizeof(device) / sizeof(device[0]); d++) {
		device[d].n = 0;
		sluice_dma_init(&device[d].dma, &pool, (uint16_t)(d + 1), device[d].stats);
	}
	return 0;
}

static int world_close(void **state)
{
	(void)state;
	assert_int_equal(bounds.misuse, 0);
	assert_int_equal(bounds.depth, 0);
	munmap(memory, POOL);
	for (uint32_t c = 0; c < POOL / SLUICE_CHUNK_BYTES; c++)
		free(metas[c]);
	for (uint32_t i = 0; i < CACHES; i++)
		free(caches[i]);
	return 0;
}

static int map(uint32_t d, uint64_t len)
{
	struct device *dev = &device[d];
	int ret = sluice_dma_map(&dev->dma, (uintptr_t)buf, len, SLUICE_TO_DEVICE,
				 &dev->addr[dev->n]);

	dev->n += ret == 0;
	return ret;
}

static void unmap(uint32_t d, uint64_t len)
{
	struct device *dev = &device[d];

	assert_int_equal(sluice_dma_unmap(&dev->dma, dev->addr[--dev->n], len, SLUICE_TO_DEVICE, 0),
			 0);
}

/* Another CPU maps with the first cache, and yet another unmaps with the last. */
static void hand_over(void)
{
	void *cpu;
	uint64_t ring;

	bounds.cpu = 0;
	assert_int_equal(map(0, 4096), 0);
	assert_int_equal(sluice_dma_alloc(&device[0].dma, 4096, &ring, &cpu), 0);
	bounds.cpu = CACHES - 1;
	unmap(0, 4096);
	assert_int_equal(sluice_dma_free(&device[0].dma, ring, 4096), 0);
}

static void statistics_never_wrap(void **state)
{
	struct sluice_pool_stats stats;
	struct sluice_dma_stats sum;

	(void)state;
	bounds.elsewhere = hand_over;
	sluice_pool_get_stats(&pool, &stats);
	assert_true(stats.used <= POOL);
	sluice_dma_get_stats(&device[0].dma, &sum);
	assert_true(sum.coherent <= POOL);
	assert_true(sum.unmaps <= sum.maps);
	assert_true(sum.frees <= sum.allocs);
	assert_true(sluice_dma_live(&device[0].dma) <= 2 * CACHES);
	bounds.elsewhere = NULL;
	sluice_pool_get_stats(&pool, &stats);
	assert_int_equal(stats.used, 0);
	sluice_dma_get_stats(&device[0].dma, &sum);
	assert_int_equal(sum.coherent, 0);
}

/* G5: what idle CPUs keep is found in the end, by one CPU that asks again and again. */
static void all_caches_are_emptied_in_the_end(void **state)
{
	struct sluice_slot slot;
	uint32_t tries = 1;

	(void)state;
	for (bounds.cpu = 0; bounds.cpu < CACHES; bounds.cpu++) {
		assert_int_equal(map(0, 256), 0);
		unmap(0, 256);
	}
	bounds.cpu = 5;
	while (sluice_pool_alloc(&pool, POOL, 1, &slot)) {
		/* 16 others in each try. */
		assert_true(++tries <= CACHES / 16 + 1);
	}
}

static uint64_t steps_of_map(uint32_t d, uint64_t len, int expected)
{
	uint64_t before = bounds.blocks, hold_before = bounds.hold_max;

	bounds.hold_max = 0;
	assert_int_equal(map(d, len), expected);
	assert_true(bounds.hold_max <= 4500);
	if (hold_before > bounds.hold_max)
		bounds.hold_max = hold_before;
	return bounds.blocks - before;
}

/* What turns add to a map is the same with two devices that wait and with 64. */
static void turns_cost_the_same_for_many_devices(void **state)
{
	uint64_t alone, one, many, away[2] = {0, 0};

	(void)state;
	assert_int_equal(map(0, 4096), 0);
	unmap(0, 4096);
	alone = steps_of_map(0, 4096, 0);
	/* One load and a branch, which are no block of their own or one. */
	assert_in_range(alone, 1, 75 + 30);
	while (map(0, 4096) == 0)
		continue;
	for (uint32_t waiting = 1; waiting <= 64; waiting++)
		(void)steps_of_map(waiting, MiB, -ENOSPC);
	unmap(0, 4096);
	many = steps_of_map(65, 4096, 0);
	unmap(65, 4096);
	for (uint32_t waiting = 2; waiting <= 64; waiting++)
		sluice_dma_close(&device[waiting].dma);
	one = steps_of_map(65, 4096, 0);
	assert_in_range(many, 1, one + 20);

	/* And one that is turned away finds that out at once. */
	for (uint32_t waiting = 2; waiting <= 64; waiting++)
		(void)steps_of_map(waiting, MiB, -ENOSPC);
	for (uint32_t i = 0; !device[1].dma.turn.insists; i++) {
		assert_true(i < 4 * SLUICE_TURN_PASSES);
		unmap(0, 4096);
		assert_int_equal(map(0, 4096), 0);
		(void)steps_of_map(1, MiB, -ENOSPC);
	}
	unmap(0, 4096);
	for (uint32_t i = 0; i < 400; i++) {
		uint64_t steps = steps_of_map(2 + i % 63, 4096, -ENOSPC);

		away[i >= 200] = steps > away[i >= 200] ? steps : away[i >= 200];
	}
	assert_in_range(away[0], 1, 120);
	assert_in_range(away[1], 1, 120);
}

/* Trimming holds a lock for half a stack, whatever the caches have, and takes as many as there is. */
static void trimming_is_done_in_small_steps(void **state)
{
	(void)state;
	for (bounds.cpu = 0; bounds.cpu < 2; bounds.cpu++) {
		for (uint32_t len = 256; len <= 4096; len += 256) {
			for (int i = 0; i < 4; i++)
				assert_int_equal(map(0, len), 0);
			while (device[0].n)
				unmap(0, len);
		}
	}
	for (int round = 0; round < 6; round++) {
		bounds.hold_max = bounds.locks = 0;
		(void)sluice_pool_trim(&pool);
		/* 16 slots, each a run to merge. */
		assert_in_range(bounds.hold_max, 1, 16 * 150);
		/* Two caches that have any, each stack and the pool's for it; and the statistics. */
		assert_in_range(bounds.locks, 1, 2 * 75 * 2 + 2 * CACHES + 4);
	}
	assert_int_equal(sluice_pool_trim(&pool), 0);
}

/* A chunk comes and goes in so many steps, however long the window is. */
static void chunks_cost_the_same_in_a_long_window(void **state)
{
	static struct sluice_pool far_pool;
	struct sluice_chunk_place *chunks = calloc(524288, sizeof(*chunks));
	struct sluice_chunk *meta;
	uint64_t steps[2][2], dev;
	struct sluice_slot slot;
	void *cpu;

	(void)state;
	assert_non_null(chunks);
	bounds.pool_lock = &far_pool.lock;
	for (uint32_t far = 0; far < 2; far++) {
		uint32_t window = far ? 524288 : 8;

		assert_int_equal(sluice_pool_init(&far_pool,
						  &(struct sluice_pool_config){
							  .dev = RIG_DEV,
							  .chunks = chunks,
							  .max_chunks = window,
							  .max_present = 4,
							  .caches = (struct sluice_cache **)caches,
							  .n_caches = 1}),
				 0);
		steps[far][0] = bounds.blocks;
		for (uint32_t c = 0; c < 2; c++)
			assert_int_equal(sluice_pool_add(&far_pool, metas[c],
							 memory + c * SLUICE_CHUNK_BYTES,
							 RIG_DEV + (uint64_t)(c * (window - 1)) *
									   SLUICE_CHUNK_BYTES,
							 SLUICE_CHUNK_BYTES),
					 0);
		assert_int_equal(sluice_pool_alloc(&far_pool, 4096, 1, &slot), 0);
		assert_int_equal(sluice_pool_find(&far_pool, slot.dev, &slot), 0);
		assert_int_equal(sluice_pool_free(&far_pool, slot.dev), 0);
		assert_int_equal(sluice_pool_remove(&far_pool, &meta, &cpu, &dev), 0);
		steps[far][1] = bounds.blocks;
	}
	/* But for the one or other bit that an address has more. */
	assert_in_range(steps[1][1] - steps[1][0], 1, steps[0][1] - steps[0][0] + 8);
	bounds.pool_lock = &pool.lock;
	free(chunks);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(statistics_never_wrap, world_open, world_close),
		cmocka_unit_test_setup_teardown(all_caches_are_emptied_in_the_end, world_open,
						world_close),
		cmocka_unit_test_setup_teardown(turns_cost_the_same_for_many_devices, world_open,
						world_close),
		cmocka_unit_test_setup_teardown(trimming_is_done_in_small_steps, world_open,
						world_close),
		cmocka_unit_test_setup_teardown(chunks_cost_the_same_in_a_long_window, world_open,
						world_close),
	};

	return cmocka_run_group_tests_name("bounds of devices", tests, NULL, NULL);
}
