/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_bounds_claim.c - the worst moment for an unmap or a free that should not have been made
 *
 * Theory of operation: as test_bounds_dma.c. A slot is given back twice, and between the second
 * call's lookup and its claim another CPU ends the first one's mapping and puts one of the same
 * length in its place, in a slot of another kind. (tests/proof/cache.pml finds both, as KIND_FIRST.)
 * Whatever the answer is, what is taken and what is given back have to be the same in the end.
 */
#include "tests/bounds/sluice_port.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "rig.h"

#define LEN 256u

struct bounds bounds;

/* Called very often: ThreadSanitizer has nothing to find in it. */
__attribute__((no_sanitize("thread"))) void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
	bounds.blocks++;
}

static struct sluice_pool pool;
static struct sluice_dma dma;
static struct sluice_dma_stats stats[1];
static struct sluice_chunk_place chunks[1];
static struct sluice_cache *caches[1];
static uint8_t *memory, buf[8192] __attribute__((aligned(4096)));
static uint64_t first, second;

static int world_open(void **state)
{
	void *meta = aligned_alloc(64, (sluice_chunk_size() + 63) & ~(size_t)63);

	(void)state;
	bounds = (struct bounds){.pool_lock = &pool.lock};
	memory = mmap(NULL, SLUICE_CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	caches[0] = aligned_alloc(64, (sluice_cache_size() + 63) & ~(size_t)63);
	assert_true(memory != MAP_FAILED && meta && caches[0]);
	assert_int_equal(sluice_pool_init(&pool, &(struct sluice_pool_config){.name = "claim",
									      .dev = RIG_DEV,
									      .chunks = chunks,
									      .max_chunks = 1,
									      .caches = caches,
									      .n_caches = 1}),
			 0);
	assert_int_equal(sluice_pool_add(&pool, meta, memory, RIG_DEV, SLUICE_CHUNK_BYTES), 0);
	sluice_dma_init(&dma, &pool, 1, stats);
	return 0;
}

static int world_close(void **state)
{
	(void)state;
	assert_int_equal(bounds.misuse, 0);
	munmap(memory, SLUICE_CHUNK_BYTES);
	free(chunks[0].meta);
	free(caches[0]);
	return 0;
}

static void give_all_back(void)
{
	while (sluice_pool_trim(&pool))
		continue;
}

/* Nothing is in use, and all of the pool can be had in one piece. */
static void expect_empty(void)
{
	struct sluice_pool_stats now;
	struct sluice_slot slot;

	for (int i = 0; i < 8; i++)
		(void)sluice_pool_trim(&pool);
	sluice_pool_get_stats(&pool, &now);
	assert_int_equal(now.used, 0);
	assert_int_equal(now.slabs, 0);
	assert_int_equal(sluice_pool_alloc(&pool, SLUICE_CHUNK_BYTES, 1, &slot), 0);
}

/* From a slab's slot to a run of a granule, which is what an alignment of 4096 asks for. */
static void remap(void)
{
	assert_int_equal(sluice_dma_unmap(&dma, first, LEN, SLUICE_TO_DEVICE, 0), 0);
	give_all_back();
	dma.min_align_mask = 4095;
	assert_int_equal(sluice_dma_map(&dma, (uintptr_t)buf, LEN, SLUICE_TO_DEVICE, &second), 0);
}

static void test_unmap(void **state)
{
	int ret;

	(void)state;
	assert_int_equal(sluice_dma_map(&dma, (uintptr_t)buf, LEN, SLUICE_TO_DEVICE, &first), 0);
	bounds.before_claim = remap;
	ret = sluice_dma_unmap(&dma, first, LEN, SLUICE_TO_DEVICE, 0);
	assert_null(bounds.before_claim);
	assert_int_equal(second, first); /* or this is no test */
	if (ret < 0)
		assert_int_equal(sluice_dma_unmap(&dma, second, LEN, SLUICE_TO_DEVICE, 0), 0);
	expect_empty();
}

static void retake(void)
{
	struct sluice_slot slot;

	assert_int_equal(sluice_pool_free(&pool, first), 0);
	give_all_back();
	assert_int_equal(sluice_pool_alloc(&pool, 4096, 1, &slot), 0);
	second = slot.dev;
}

static void test_double_free(void **state)
{
	struct sluice_slot slot;
	int ret;

	(void)state;
	assert_int_equal(sluice_pool_alloc(&pool, LEN, 1, &slot), 0);
	first = slot.dev;
	bounds.before_claim = retake;
	ret = sluice_pool_free(&pool, first);
	assert_null(bounds.before_claim);
	assert_int_equal(second, first);
	if (ret < 0)
		assert_int_equal(sluice_pool_free(&pool, second), 0);
	expect_empty();
}

/* A record says that its slot is held only from when the slot has been handed out. */
static void test_new_records(void **state)
{
	struct sluice_slot slot;

	(void)state;
	assert_int_equal(sluice_pool_alloc(&pool, 4096, 1, &slot), 0);
	for (uint32_t unit = 1; unit < 16; unit++)
		assert_int_not_equal(slot.record[unit].tag, 0);
	assert_int_equal(sluice_pool_free(&pool, slot.dev), 0);
	expect_empty();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_unmap, world_open, world_close),
		cmocka_unit_test_setup_teardown(test_double_free, world_open, world_close),
		cmocka_unit_test_setup_teardown(test_new_records, world_open, world_close),
	};

	return cmocka_run_group_tests_name("claims at the worst moment", tests, NULL, NULL);
}
