/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_pool.c - the pool's promises, one by one
 *
 * Theory of operation: each test says which guarantee of THREAT-MODEL.md it tries to break.
 */
#include <stdlib.h>

#include "rig.h"

#define KiB 1024u
#define MiB (1024u * 1024u)

/* A pool without chunks and with one cache. */
static int empty_pool(struct sluice_pool *pool, struct sluice_chunk_place *chunks,
		      uint32_t max_chunks, uint64_t dev)
{
	static _Alignas(64) uint8_t memory[65536];
	static struct sluice_cache *cache = (void *)memory;
	const struct sluice_pool_config config = {
		.name = "test",
		.dev = dev,
		.chunks = chunks,
		.max_chunks = max_chunks,
		.caches = &cache,
		.n_caches = 1,
	};

	assert_true(sluice_cache_size() <= sizeof(memory));
	return sluice_pool_init(pool, &config);
}

static void fresh(struct rig *rig, uint64_t size)
{
	rig_open(rig, size);
}

/* The slot at dev, which must be found, and from every byte that is looked at. */
static void expect_found(struct rig *rig, const struct sluice_slot *slot)
{
	const uint64_t at[] = {0, 1, slot->size / 2, slot->size - 1};

	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		struct sluice_slot found;

		assert_int_equal(sluice_pool_find(&rig->mem->pool, slot->dev + at[i], &found), 0);
		assert_int_equal(found.dev, slot->dev);
		assert_int_equal(found.size, slot->size);
		assert_ptr_equal(found.cpu, slot->cpu);
		assert_ptr_equal(found.record, slot->record);
	}
}

static void every_size_up_to_4_mib(void **state)
{
	struct sluice_slot slot;
	struct rig rig;

	(void)state;
	fresh(&rig, 8 * MiB);
	for (uint64_t size = 1; size <= 4 * MiB; size += size < 9000 ? 1 : size / 7) {
		assert_int_equal(sluice_pool_alloc(&rig.mem->pool, size, 1, &slot), 0);
		assert_true(slot.size >= size);
		assert_ptr_equal(slot.cpu, rig_device(&rig, slot.dev));
		expect_found(&rig, &slot);
		assert_int_equal(sluice_pool_free(&rig.mem->pool, slot.dev), 0);
	}
	rig_close(&rig);
}

/* What a slot may cost beyond what was asked for. */
static void waste_is_bounded(void **state)
{
	struct sluice_slot slot;
	struct rig rig;

	(void)state;
	fresh(&rig, 4 * MiB);
	for (uint32_t size = 1; size <= 64 * KiB; size++) {
		uint64_t bound = size <= 256	? 256
				 : size <= 2048 ? size + 255u
				 : size <= 3584 ? size + 511u
						: size + 4095u;

		assert_int_equal(sluice_pool_alloc(&rig.mem->pool, size, 1, &slot), 0);
		assert_true(slot.size <= bound);
		assert_int_equal(sluice_pool_free(&rig.mem->pool, slot.dev), 0);
	}
	rig_close(&rig);
}

static uint64_t granules_of(uint64_t bytes)
{
	return (bytes + 4095) / 4096;
}

/* A cached run may be up to an eighth longer than it has to be, but not while the pool runs low. */
static void a_longer_run_is_longer_by_an_eighth(void **state)
{
	struct sluice_slot slot, most;
	unsigned int longer = 0;
	uint64_t seed = 11;
	struct rig rig;

	(void)state;
	fresh(&rig, 64 * MiB);
	for (int i = 0; i < 20000; i++) {
		uint64_t size = 3585 + rig_random(&seed) % (300 * KiB), need = granules_of(size);

		assert_int_equal(sluice_pool_alloc(&rig.mem->pool, size, 1, &slot), 0);
		assert_int_equal(slot.size % 4096, 0);
		assert_in_range(slot.size / 4096, need, need <= 64 ? need + need / 8 : need);
		longer += slot.size / 4096 > need;
		expect_found(&rig, &slot);
		assert_int_equal(sluice_pool_free(&rig.mem->pool, slot.dev), 0);
	}
	assert_true(longer > 0);

	assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 60 * MiB, 1, &most), 0);
	for (uint64_t size = 3585; size <= 256 * KiB; size += 4096) {
		assert_int_equal(sluice_pool_alloc(&rig.mem->pool, size, 1, &slot), 0);
		assert_int_equal(slot.size, granules_of(size) * 4096);
		assert_int_equal(sluice_pool_free(&rig.mem->pool, slot.dev), 0);
	}
	rig_close(&rig);
}

static void alignment_is_kept(void **state)
{
	struct sluice_slot slots[64];
	struct rig rig;

	(void)state;
	fresh(&rig, 16 * MiB);
	for (uint32_t align = 1; align <= 2 * MiB; align *= 2) {
		uint32_t n = 0;

		for (uint32_t size = 1; n < 64 && size < 300 * KiB; size = size * 3 / 2 + 1) {
			int ret = sluice_pool_alloc(&rig.mem->pool, size, align, &slots[n]);

			if (ret == -ENOSPC)
				break;
			assert_int_equal(ret, 0);
			assert_int_equal(slots[n].dev % align, 0);
			expect_found(&rig, &slots[n]);
			n++;
		}
		assert_true(n >= 5);
		while (n > 0)
			assert_int_equal(sluice_pool_free(&rig.mem->pool, slots[--n].dev), 0);
	}
	rig_close(&rig);
}

/* An aligned request finds an aligned place inside a run that does not start at one. */
static void alignment_in_a_window_that_is_not_aligned(void **state)
{
	const uint64_t dev = UINT64_C(0x7ff000);
	struct sluice_memfd *mem;
	struct sluice_slot slot;

	(void)state;
	assert_int_equal(sluice_memfd_create("odd", 2 * MiB, dev, &mem), 0);
	for (uint32_t align = 4096; align <= 1 * MiB; align *= 2) {
		assert_int_equal(sluice_pool_alloc(&mem->pool, 64 * KiB, align, &slot), 0);
		assert_int_equal(slot.dev % align, 0);
		assert_int_equal(sluice_pool_free(&mem->pool, slot.dev), 0);
	}
	sluice_memfd_destroy(mem);
}

/* Runs reach across chunks, and come together again. */
static void larger_than_a_chunk(void **state)
{
	struct sluice_slot a, b;
	struct rig rig;

	(void)state;
	fresh(&rig, 16 * MiB);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 5 * MiB + 1, 1, &a), 0);
		assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 10 * MiB, 1, &b), 0);
		expect_found(&rig, &a);
		expect_found(&rig, &b);
		assert_int_equal(sluice_pool_free(&rig.mem->pool, a.dev), 0);
		assert_int_equal(sluice_pool_free(&rig.mem->pool, b.dev), 0);
		assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 16 * MiB, 1, &a), 0);
		assert_int_equal(sluice_pool_free(&rig.mem->pool, a.dev), 0);
	}
	rig_close(&rig);
}

/* Chunks whose memory is not contiguous are not taken for one. */
static void chunks_that_do_not_join(void **state)
{
	struct sluice_chunk_place chunks[2];
	struct sluice_slot slot;
	struct sluice_pool pool;
	uint8_t *memory = aligned_alloc(4096, 5 * MiB);
	void *meta[2];

	(void)state;
	assert_non_null(memory);
	for (int i = 0; i < 2; i++)
		meta[i] = aligned_alloc(64, (sluice_chunk_size() + 63) & ~63ul);
	assert_int_equal(empty_pool(&pool, chunks, 2, RIG_DEV), 0);
	assert_int_equal(sluice_pool_add(&pool, meta[0], memory, RIG_DEV, 2 * MiB), 0);
	assert_int_equal(
		sluice_pool_add(&pool, meta[1], memory + 3 * MiB, RIG_DEV + 2 * MiB, 2 * MiB), 0);
	assert_int_equal(sluice_pool_alloc(&pool, 2 * MiB + 1, 1, &slot), -E2BIG);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(sluice_pool_alloc(&pool, 2 * MiB, 1, &slot), 0);
		assert_ptr_equal(slot.cpu, memory + (slot.dev == RIG_DEV ? 0 : 3 * MiB));
	}
	for (int i = 0; i < 2; i++)
		free(meta[i]);
	free(memory);
}

static void g4_nonsense_is_refused(void **state)
{
	struct sluice_slot slot, small;
	struct sluice_pool_stats before, after;
	struct rig rig;

	(void)state;
	fresh(&rig, 2 * MiB);
	assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 0, 1, &slot), -EINVAL);
	assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 1, 0, &slot), -EINVAL);
	assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 1, 3, &slot), -EINVAL);
	assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 1, 4 * MiB, &slot), -EINVAL);
	assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 2 * MiB + 1, 1, &slot), -E2BIG);
	assert_int_equal(sluice_pool_alloc(&rig.mem->pool, UINT64_MAX, 1, &slot), -E2BIG);

	assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 10 * KiB, 1, &slot), 0);
	assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 700, 1, &small), 0);
	sluice_pool_get_stats(&rig.mem->pool, &before);
	/* interior, foreign, below, above, free */
	const uint64_t wrong[] = {slot.dev + 1,
				  slot.dev + 4096,
				  small.dev + 256,
				  small.dev + 1,
				  RIG_DEV - 4096,
				  RIG_DEV + 2 * MiB,
				  0,
				  UINT64_MAX,
				  small.dev + 768,
				  RIG_DEV + 1 * MiB};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(sluice_pool_free(&rig.mem->pool, wrong[i]), -EINVAL);
	assert_int_equal(sluice_pool_free(&rig.mem->pool, slot.dev), 0);
	assert_int_equal(sluice_pool_free(&rig.mem->pool, slot.dev), -EINVAL);
	assert_int_equal(sluice_pool_free(&rig.mem->pool, small.dev), 0);
	assert_int_equal(sluice_pool_free(&rig.mem->pool, small.dev), -EINVAL);
	sluice_pool_get_stats(&rig.mem->pool, &after);
	assert_int_equal(after.refused - before.refused, sizeof(wrong) / sizeof(wrong[0]) + 2);
	assert_int_equal(after.used, 0);
	rig_close(&rig);
}

static void bad_pools_are_refused(void **state)
{
	struct sluice_chunk_place chunks[2];
	struct sluice_memfd *mem;
	struct sluice_region region;
	struct sluice_pool pool;
	void *meta = aligned_alloc(64, (sluice_chunk_size() + 63) & ~63ul);
	uint8_t *memory = aligned_alloc(4096, 2 * MiB);
	uint64_t dev;

	(void)state;
	assert_int_equal(empty_pool(&pool, chunks, 0, 0), -EINVAL);
	assert_int_equal(empty_pool(&pool, chunks, 2049, 0), -EINVAL);
	assert_int_equal(empty_pool(&pool, chunks, 2, 1), -EINVAL);
	assert_int_equal(empty_pool(&pool, chunks, 2, UINT64_MAX - 4095), -EINVAL);
	assert_int_equal(empty_pool(&pool, chunks, 2, RIG_DEV), 0);
	assert_int_equal(sluice_pool_add(&pool, meta, memory, RIG_DEV, 0), -EINVAL);
	assert_int_equal(sluice_pool_add(&pool, meta, memory, RIG_DEV, 4095), -EINVAL);
	assert_int_equal(sluice_pool_add(&pool, meta, memory, RIG_DEV, 4 * MiB), -EINVAL);
	assert_int_equal(sluice_pool_add(&pool, meta, memory + 1, RIG_DEV, 4096), -EINVAL);
	assert_int_equal(sluice_pool_add(&pool, meta, memory, RIG_DEV + 4096, 4096), -EINVAL);
	assert_int_equal(sluice_pool_add(&pool, meta, memory, RIG_DEV - 2 * MiB, 4096), -EINVAL);
	assert_int_equal(sluice_pool_add(&pool, meta, memory, RIG_DEV + 4 * MiB, 4096), -EINVAL);
	assert_int_equal(sluice_pool_add(&pool, meta, memory, RIG_DEV, 64 * KiB), 0);
	assert_int_equal(sluice_pool_add(&pool, meta, memory, RIG_DEV, 64 * KiB), -EBUSY);
	assert_int_equal(sluice_memfd_create("m", 0, 0, &mem), -EINVAL);
	assert_int_equal(sluice_memfd_create("m", 4097, 0, &mem), -EINVAL);
	assert_int_equal(sluice_memfd_create("m", 4096, 1, &mem), -EINVAL);
	assert_int_equal(sluice_region_init(&region, memory, 0, 0), -EINVAL);
	assert_int_equal(sluice_region_init(&region, memory, UINT64_MAX, 2), -EINVAL);
	assert_int_equal(sluice_region_init(&region, memory, RIG_DEV, 64 * KiB), 0);
	struct sluice_share *share = &region.share;

	assert_int_equal(share->ops->open(share, memory, 64 * KiB, &dev), 0);
	assert_int_equal(share->ops->open(share, memory + 4096, 64 * KiB, &dev), -ERANGE);
	assert_int_equal(share->ops->open(share, memory - 4096, 4096, &dev), -ERANGE);
	free(memory);
	free(meta);
}

/* Small and large do not break each other up: fill with one, free it, fill with the other. */
static void g5_emptied_is_whole_again(void **state)
{
	static uint64_t taken[32768];
	struct sluice_pool_stats stats;
	uint64_t seed = 42;
	struct rig rig;

	(void)state;
	fresh(&rig, 4 * MiB);
	for (int round = 0; round < 20; round++) {
		struct sluice_slot slot;
		size_t n = 0;

		while (!sluice_pool_alloc(&rig.mem->pool, rig_length(&seed), 1, &slot))
			taken[n++] = slot.dev;
		for (size_t i = n; i > 1; i--) {
			size_t j = rig_random(&seed) % i;
			uint64_t other = taken[j];

			taken[j] = taken[i - 1];
			taken[i - 1] = other;
		}
		while (n > 0)
			assert_int_equal(sluice_pool_free(&rig.mem->pool, taken[--n]), 0);
		assert_int_equal(sluice_pool_alloc(&rig.mem->pool, 4 * MiB, 1, &slot), 0);
		assert_int_equal(sluice_pool_free(&rig.mem->pool, slot.dev), 0);
	}
	sluice_pool_get_stats(&rig.mem->pool, &stats);
	assert_int_equal(stats.used, 0);
	assert_int_equal(stats.slabs, 0);
	assert_int_equal(stats.largest, 4 * MiB);
	assert_int_equal(stats.full, 20);
	rig_close(&rig);
}

static void a_256_byte_slot_takes_256_bytes(void **state)
{
	struct sluice_slot slot;
	struct rig rig;
	size_t n = 0;

	(void)state;
	fresh(&rig, 2 * MiB);
	while (!sluice_pool_alloc(&rig.mem->pool, 256, 1, &slot))
		n++;
	assert_int_equal(n, 2 * MiB / 256);
	rig_close(&rig);
}

static void what_caches_hold_is_bounded(void **state)
{
	static uint64_t taken[32768];
	struct sluice_pool_stats stats;
	uint64_t seed = 3;
	struct rig rig;
	size_t n = 0;

	(void)state;
	fresh(&rig, 16 * MiB);
	for (int round = 0; round < 10; round++) {
		struct sluice_slot slot;

		for (int i = 0; i < 2000; i++) {
			if (!sluice_pool_alloc(&rig.mem->pool, rig_length(&seed), 1, &slot))
				taken[n++] = slot.dev;
		}
		while (n > 0) {
			assert_int_equal(sluice_pool_free(&rig.mem->pool, taken[--n]), 0);
			sluice_pool_get_stats(&rig.mem->pool, &stats);
			/* An eighth, and a few slots more that came along with a slab's first. */
			assert_true(stats.cached <= 16 * MiB / 8 + 8 * 4096);
		}
	}
	assert_true(stats.cache_hits > 0);
	assert_int_equal(stats.used, 0);
	rig_close(&rig);
}

/* The seed's mixture, its live set replaced at random for long. */
struct churn {
	struct rig rig;
	struct {
		uint64_t dev;
		uint32_t len;
	} live[200000];
	size_t n;
	uint64_t payload, seed;
};

static bool churn_add(struct churn *churn, uint32_t len)
{
	struct sluice_slot slot;

	if (sluice_pool_alloc(&churn->rig.mem->pool, len, 1, &slot))
		return false;
	churn->live[churn->n].dev = slot.dev;
	churn->live[churn->n++].len = len;
	churn->payload += len;
	return true;
}

static void churn_drop(struct churn *churn)
{
	size_t i = rig_random(&churn->seed) % churn->n;

	assert_int_equal(sluice_pool_free(&churn->rig.mem->pool, churn->live[i].dev), 0);
	churn->payload -= churn->live[i].len;
	churn->live[i] = churn->live[--churn->n];
}

static uint32_t churn_length(struct churn *churn)
{
	uint32_t len = rig_length(&churn->seed);

	return len > 256 * KiB ? 256 * KiB : len;
}

/* G5: a pool is full when it is full, not when it is in pieces. */
static void g5_churn_leaves_the_pool_dense(void **state)
{
	static struct churn churn;
	const uint64_t pool = 64 * MiB;
	unsigned int large = 0, large_failed = 0;

	(void)state;
	for (uint64_t run = 1; run <= 2; run++) {
		churn = (struct churn){.seed = run * 77};
		fresh(&churn.rig, pool);
		for (int i = 0; i < 100000; i++) {
			uint32_t len = churn_length(&churn);

			while (churn.n && churn.payload + len > pool / 4 * 3)
				churn_drop(&churn);
			(void)churn_add(&churn, len);
		}
		while (churn_add(&churn, churn_length(&churn)))
			continue;
		assert_true(churn.payload >= pool / 100 * 85);

		for (int i = 0; i < 50000; i++) {
			uint32_t len = churn_length(&churn);
			struct sluice_pool_stats stats;
			bool ok;

			for (;;) {
				sluice_pool_get_stats(&churn.rig.mem->pool, &stats);
				if (stats.used + len <= pool / 10 * 9)
					break;
				churn_drop(&churn);
			}
			ok = churn_add(&churn, len);
			assert_true(ok || len > 16 * KiB);
			large += len > 16 * KiB;
			large_failed += !ok;
		}
		rig_close(&churn.rig);
	}
	assert_true(large_failed * 20 < large);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_size_up_to_4_mib),
		cmocka_unit_test(waste_is_bounded),
		cmocka_unit_test(a_longer_run_is_longer_by_an_eighth),
		cmocka_unit_test(alignment_is_kept),
		cmocka_unit_test(alignment_in_a_window_that_is_not_aligned),
		cmocka_unit_test(larger_than_a_chunk),
		cmocka_unit_test(chunks_that_do_not_join),
		cmocka_unit_test(g4_nonsense_is_refused),
		cmocka_unit_test(bad_pools_are_refused),
		cmocka_unit_test(g5_emptied_is_whole_again),
		cmocka_unit_test(a_256_byte_slot_takes_256_bytes),
		cmocka_unit_test(what_caches_hold_is_bounded),
		cmocka_unit_test(g5_churn_leaves_the_pool_dense),
	};

	return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
