/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_low.c - what caches keep while little is free (G5)
 *
 * Theory of operation: pools of 256 MiB, in which 20 MiB are little as a share and enough for caches all
 * the same, are brought to where the rules of sluice_pool_check_low() and put_off() change, and the
 * counters are looked at.
 */
#include <stdlib.h>

#include "rig.h"

#define KiB   1024u
#define MiB   (1024u * 1024u)
#define SIZE  (256 * (uint64_t)MiB)
#define SLOTS 200000u

struct full {
	struct rig rig;
	uint64_t *dev, used, seed;
	size_t n;
};

static void full_open(struct full *full)
{
	rig_open(&full->rig, SIZE);
	full->dev = malloc(SLOTS * sizeof(*full->dev));
	assert_non_null(full->dev);
	full->n = 0;
	full->used = 0;
	full->seed = 41;
}

static int take(struct full *full, uint64_t size)
{
	struct sluice_slot slot;
	int ret = sluice_pool_alloc(&full->rig.mem->pool, size, 1, &slot);

	if (ret)
		return ret;
	assert_true(full->n < SLOTS);
	full->dev[full->n++] = slot.dev;
	full->used += slot.size;
	return 0;
}

static void drop(struct full *full, size_t i)
{
	struct sluice_slot slot;

	assert_int_equal(sluice_pool_find(&full->rig.mem->pool, full->dev[i], &slot), 0);
	full->used -= slot.size;
	assert_int_equal(sluice_pool_free(&full->rig.mem->pool, full->dev[i]), 0);
	full->dev[i] = full->dev[--full->n];
}

static struct sluice_pool_stats stats_of(struct full *full)
{
	struct sluice_pool_stats stats;

	sluice_pool_get_stats(&full->rig.mem->pool, &stats);
	return stats;
}

static void full_close(struct full *full)
{
	while (full->n)
		drop(full, full->n - 1);
	assert_int_equal(stats_of(full).used, 0);
	free(full->dev);
	rig_close(&full->rig);
}

/* Replace at random, with no more than this in slots; how many of 100 came from a cache. */
static uint64_t replace(struct full *full, uint64_t most)
{
	struct sluice_pool_stats before, after;

	for (int i = 0; i < 40000; i++) {
		uint32_t len = rig_length(&full->seed) % (32 * KiB) + 1;

		if (i == 20000)
			before = stats_of(full);
		while (full->n && full->used + len > most)
			drop(full, rig_random(&full->seed) % full->n);
		(void)take(full, len);
	}
	after = stats_of(full);
	return 100 * (after.cache_hits - before.cache_hits) / (after.allocs - before.allocs);
}

/* Little as a share, but enough: most maps are met by a cache, which keep no more than what is free. */
static void caches_go_on_in_a_large_pool(void **state)
{
	struct sluice_pool_stats stats;
	struct full full;

	(void)state;
	full_open(&full);
	while (full.used < SIZE - 24 * MiB)
		assert_int_equal(take(&full, rig_length(&full.seed) % (32 * KiB) + 1), 0);
	assert_true(replace(&full, SIZE - 24 * MiB) >= 70);
	stats = stats_of(&full);
	assert_true(stats.cached > 0);
	assert_true(stats.cached <= (stats.bytes - stats.used) / 2);
	/* And with very little they stop. */
	while (full.used < SIZE - 4 * MiB)
		assert_int_equal(take(&full, 2048), 0);
	assert_true(replace(&full, SIZE - 4 * MiB) <= 1);
	assert_int_equal(stats_of(&full).cached, 0);
	full_close(&full);
}

/*
 * What comes and goes at random in a pool that has room is met by the caches, however much is in use. And a long run
 * that finds none has them give back long ones, and nothing that it is of no use to.
 */
static void caches_meet_what_comes_and_goes_at_random(void **state)
{
	struct sluice_pool_stats before;
	struct full full;

	(void)state;
	full_open(&full);
	(void)replace(&full, SIZE / 4);
	assert_true(replace(&full, SIZE / 4) >= 98);
	/* Holes of two granules in all the rest, and nothing longer. */
	while (!take(&full, 8 * KiB))
		continue;
	for (size_t i = 0; full.used > SIZE - 32 * MiB; i++)
		drop(&full, i);
	while (!take(&full, 200 * KiB))
		continue;
	before = stats_of(&full);
	assert_true(before.cached > 0);
	for (int i = 0; i < 2000; i++) {
		assert_int_equal(take(&full, 2048), 0);
		drop(&full, full.n - 1);
	}
	assert_in_range(stats_of(&full).cache_hits - before.cache_hits, 1998, 2000);
	full_close(&full);
}

/* Trips to the pool: more of one size than a stack holds, there and back. */
static void trips(struct full *full)
{
	for (int round = 0; round < 20; round++) {
		size_t from = full->n;

		for (int i = 0; i < 300; i++)
			assert_int_equal(take(full, 2048), 0);
		while (full->n > from)
			drop(full, full->n - 1);
	}
}

/*
 * Where most of the pool is in use, a request that finds no room may be told so although a cache keeps
 * what it needs; but not the third time.
 */
static void what_a_cache_keeps_is_had_at_the_third_try(void **state)
{
	struct full full;
	size_t first, tries = 0;

	(void)state;
	full_open(&full);
	/* All single granules, of which every second of the first 40 MiB is free, and two long runs. */
	assert_int_equal(take(&full, 240 * KiB), 0);
	assert_int_equal(take(&full, 240 * KiB), 0);
	first = full.n;
	while (!take(&full, 4096))
		continue;
	for (size_t i = 0; i < 40 * MiB / 8192; i++) {
		/* By their addresses, which go down but for what the caches turn round. */
		drop(&full, first + 2 * i);
		if (full.n > first + 2 * i) {
			uint64_t moved = full.dev[first + 2 * i];

			full.dev[first + 2 * i] = full.dev[full.n - 1];
			full.dev[full.n - 1] = moved;
		}
	}
	trips(&full);
	drop(&full, 1);
	drop(&full, 0);
	assert_true(stats_of(&full).cached >= 2 * 240 * KiB);
	while (take(&full, 200 * KiB)) {
		tries++;
		assert_true(tries < 3);
	}
	full_close(&full);
}

/* What is taken of a frugal pool is what was in use at once, and a few slots, whatever came before. */
static void a_frugal_pool_takes_what_is_in_use(void **state)
{
	static const uint32_t sizes[] = {4 * KiB, 8 * KiB, 12 * KiB, 16 * KiB, 20 * KiB};
	const struct sluice_memfd_config config = {.name = "frugal",
						   .size = 64 * MiB,
						   .max = 64 * MiB,
						   .dev = RIG_DEV,
						   .n_caches = 1,
						   .frugal = true};
	struct full full = {.dev = malloc(SLOTS * sizeof(*full.dev))};

	(void)state;
	assert_non_null(full.dev);
	assert_int_equal(sluice_memfd_open(&config, &full.rig.mem), 0);
	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		struct sluice_pool_stats before = stats_of(&full);

		for (int round = 0; round < 10; round++) {
			while (full.n < 64)
				assert_int_equal(take(&full, sizes[s]), 0);
			while (full.n)
				drop(&full, full.n - 1);
		}
		assert_in_range(stats_of(&full).used_max, 64 * sizes[s], 64 * sizes[s] * 5 / 4);
		/* That is no reason not to keep what there is room for. */
		assert_true(stats_of(&full).cache_hits > before.cache_hits);
	}
	sluice_memfd_destroy(full.rig.mem);
	free(full.dev);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(caches_go_on_in_a_large_pool),
		cmocka_unit_test(caches_meet_what_comes_and_goes_at_random),
		cmocka_unit_test(what_a_cache_keeps_is_had_at_the_third_try),
		cmocka_unit_test(a_frugal_pool_takes_what_is_in_use),
	};

	return cmocka_run_group_tests_name("low", tests, NULL, NULL);
}
