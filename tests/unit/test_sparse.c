/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_sparse.c - chunks wherever there is memory: a window of 1 TiB with a few chunks in it
 *
 * Theory of operation: the promises of test_pool.c once more, where chunks are far apart: every byte
 * of a slot leads to it, what is between chunks leads nowhere, neighbours join unless at a multiple of
 * 4 GiB, the pool is as dense as one in a row, and chunks come and go.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "rig.h"

#define MiB	(1024u * 1024u)
#define WINDOW	524288u
#define PRESENT 32u
#define DEV	UINT64_C(0x200000) /* so that a multiple of 4 GiB is chunk 2047 and so on */
#define BORDER	2047u

static struct sluice_pool pool;
static struct sluice_chunk_place *chunks;
static struct sluice_cache *cache;
static void *metas[PRESENT];
static uint8_t *memory;
static uint32_t place[PRESENT];
static uint64_t seed;

static void *aligned(size_t size)
{
	void *p = aligned_alloc(64, (size + 63) & ~(size_t)63);

	assert_non_null(p);
	return p;
}

static int add(uint32_t i)
{
	return sluice_pool_add(&pool, metas[i], memory + (size_t)i * SLUICE_CHUNK_BYTES,
			       DEV + (uint64_t)place[i] * SLUICE_CHUNK_BYTES, SLUICE_CHUNK_BYTES);
}

static int open_sparse(void **state)
{
	(void)state;
	seed = 99;
	chunks = calloc(WINDOW, sizeof(*chunks));
	cache = aligned(sluice_cache_size());
	memory = mmap(NULL, (size_t)PRESENT * SLUICE_CHUNK_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_true(chunks && memory != MAP_FAILED);
	assert_int_equal(
		sluice_pool_init(&pool, &(struct sluice_pool_config){.name = "sparse",
								     .dev = DEV,
								     .chunks = chunks,
								     .max_chunks = WINDOW,
								     .max_present = PRESENT,
								     .caches = &cache,
								     .n_caches = 1}),
		0);
	/* Two that join, two that do not, the first, the last, and others, none beside another. */
	place[0] = 100, place[1] = 101, place[2] = BORDER - 1, place[3] = BORDER, place[4] = 0;
	place[5] = WINDOW - 1;
	for (uint32_t i = 0; i < PRESENT; i++) {
		metas[i] = aligned(sluice_chunk_size());
		if (i > 5)
			place[i] = 4000 * i + (uint32_t)(rig_random(&seed) % 3998);
		assert_int_equal(add(i), 0);
	}
	return 0;
}

static int close_sparse(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < PRESENT; i++)
		free(metas[i]);
	munmap(memory, (size_t)PRESENT * SLUICE_CHUNK_BYTES);
	free(cache);
	free(chunks);
	return 0;
}

/* The memory that the device finds at dev, or NULL. */
static uint8_t *memory_at(uint64_t dev)
{
	for (uint32_t i = 0; i < PRESENT; i++) {
		uint64_t first = DEV + (uint64_t)place[i] * SLUICE_CHUNK_BYTES;

		if (dev - first < SLUICE_CHUNK_BYTES)
			return memory + (size_t)i * SLUICE_CHUNK_BYTES + (dev - first);
	}
	return NULL;
}

static void expect_found(const struct sluice_slot *slot)
{
	const uint64_t at[] = {0, 1, slot->size / 3, slot->size - 1};
	struct sluice_slot found;

	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		assert_ptr_equal((uint8_t *)slot->cpu + at[i], memory_at(slot->dev + at[i]));
		assert_int_equal(sluice_pool_find(&pool, slot->dev + at[i], &found), 0);
		assert_int_equal(found.dev, slot->dev);
		assert_int_equal(found.size, slot->size);
		assert_ptr_equal(found.record, slot->record);
	}
}

static struct sluice_slot slots[70000];

static void drop(size_t i, size_t *n)
{
	assert_int_equal(sluice_pool_free(&pool, slots[i].dev), 0);
	slots[i] = slots[--*n];
}

static void every_address_leads_to_its_slot(void **state)
{
	uint64_t payload = 0;
	size_t n = 0;

	(void)state;
	for (int step = 0; step < 40000; step++) {
		struct sluice_slot found;
		uint64_t dev = DEV + rig_random(&seed) % ((uint64_t)WINDOW * SLUICE_CHUNK_BYTES);

		if (!sluice_pool_alloc(&pool, rig_length(&seed) % (256 * 1024) + 1, 1, &slots[n])) {
			expect_found(&slots[n]);
			n++;
		}
		if (!memory_at(dev))
			assert_int_equal(sluice_pool_find(&pool, dev, &found), -ENOENT);
		while (n && (n > 8000 || rig_random(&seed) % 9 < 4))
			drop(rig_random(&seed) % n, &n);
	}
	while (n)
		drop(n - 1, &n);
	/* As dense as in a row: the seed's mixture until the first that fails. */
	for (uint32_t len = rig_length(&seed); n < 70000; len = rig_length(&seed)) {
		if (len > 256 * 1024)
			len = 256 * 1024;
		if (sluice_pool_alloc(&pool, len, 1, &slots[n]))
			break;
		n++;
		payload += len;
	}
	assert_true(payload > (uint64_t)PRESENT * SLUICE_CHUNK_BYTES / 100 * 85);
	while (n)
		drop(n - 1, &n);
}

/* Neighbours make one stretch, but not across a multiple of 4 GiB. */
static void neighbours_join_but_not_everywhere(void **state)
{
	struct sluice_pool_stats stats;
	struct sluice_slot slot, other;

	(void)state;
	sluice_pool_get_stats(&pool, &stats);
	assert_int_equal(stats.span, 2 * SLUICE_CHUNK_BYTES);
	assert_int_equal(sluice_pool_alloc(&pool, 2 * SLUICE_CHUNK_BYTES, 1, &slot), 0);
	assert_int_equal(slot.dev, DEV + 100 * (uint64_t)SLUICE_CHUNK_BYTES);
	expect_found(&slot);
	assert_int_equal(sluice_pool_alloc(&pool, SLUICE_CHUNK_BYTES + 1, 1, &other), -ENOSPC);
	assert_int_equal(sluice_pool_alloc(&pool, 2 * SLUICE_CHUNK_BYTES + 1, 1, &other), -E2BIG);
	assert_int_equal(sluice_pool_free(&pool, slot.dev), 0);
}

/* Chunks go, from the highest on, and come back elsewhere; no more than there may be. */
static void chunks_come_and_go(void **state)
{
	struct sluice_chunk *meta;
	struct sluice_slot slot;
	struct sluice_pool_stats stats;
	void *spare = aligned(sluice_chunk_size()), *cpu;
	uint64_t dev, last = UINT64_MAX;

	(void)state;
	assert_int_equal(sluice_pool_add(&pool, spare, memory, DEV + 50 * MiB, SLUICE_CHUNK_BYTES),
			 -ENOSPC);
	free(spare);
	for (int round = 0; round < 50; round++) {
		uint32_t gone = 1 + (uint32_t)(rig_random(&seed) % PRESENT);

		last = UINT64_MAX;
		for (uint32_t k = 0; k < gone; k++) {
			assert_int_equal(sluice_pool_remove(&pool, &meta, &cpu, &dev), 0);
			assert_ptr_equal(cpu, memory_at(dev));
			assert_true(dev < last);
			last = dev;
			assert_int_equal(sluice_pool_find(&pool, dev, &slot), -ENOENT);
		}
		for (uint32_t i = 0; i < PRESENT; i++) {
			if (DEV + (uint64_t)place[i] * SLUICE_CHUNK_BYTES < last)
				continue;
			/* The last one's memory stays where it is found by its place. */
			if (place[i] > BORDER && place[i] < WINDOW - 1)
				place[i] += round % 2 ? 1u : UINT32_MAX;
			assert_int_equal(add(i), 0);
		}
		sluice_pool_get_stats(&pool, &stats);
		assert_int_equal(stats.bytes, (uint64_t)PRESENT * SLUICE_CHUNK_BYTES);
		assert_int_equal(sluice_pool_alloc(&pool, 2 * SLUICE_CHUNK_BYTES, 1, &slot), 0);
		assert_int_equal(sluice_pool_free(&pool, slot.dev), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_address_leads_to_its_slot, open_sparse,
						close_sparse),
		cmocka_unit_test_setup_teardown(neighbours_join_but_not_everywhere, open_sparse,
						close_sparse),
		cmocka_unit_test_setup_teardown(chunks_come_and_go, open_sparse, close_sparse),
	};

	return cmocka_run_group_tests_name("sparse", tests, NULL, NULL);
}
