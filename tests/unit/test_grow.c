/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_grow.c - a pool that grows before it runs out and shrinks when it is quiet
 *
 * Theory of operation: the tests call sluice_memfd_balance() where a program's loop would, so that
 * nothing depends on time; the quiet time is made to have passed. The last test leaves it to the
 * library's thread and runs mappings against it.
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rig.h"

#define MiB (1024u * 1024u)

static uint64_t taken[200000];

static bool wants_balance(const struct sluice_memfd *mem)
{
	struct pollfd fd = {.fd = mem->wake_fd, .events = POLLIN};

	return poll(&fd, 1, 0) == 1;
}

static struct sluice_pool_stats stats_of(struct sluice_memfd *mem)
{
	struct sluice_pool_stats stats;

	sluice_pool_get_stats(&mem->pool, &stats);
	return stats;
}

static uint64_t resident(const struct sluice_memfd *mem)
{
	struct stat st;

	assert_int_equal(fstat(mem->fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* The quiet time has passed. */
static int balance_later(struct sluice_memfd *mem)
{
	(void)sluice_memfd_balance(mem);
	if (mem->surplus_since)
		mem->surplus_since = 1;
	return sluice_memfd_balance(mem);
}

static void g5_grows_before_it_runs_out(void **state)
{
	struct sluice_memfd *mem;
	uint64_t seed = 5, live = 0;
	size_t n = 0;

	(void)state;
	assert_int_equal(sluice_memfd_create_growing("grow", 4 * MiB, 64 * MiB, RIG_DEV, &mem), 0);
	assert_int_equal(stats_of(mem).bytes, 4 * MiB);
	while (stats_of(mem).used < 48 * MiB) {
		struct sluice_slot slot;
		uint32_t len = rig_length(&seed);

		assert_int_equal(sluice_pool_alloc(&mem->pool, len, 1, &slot), 0);
		memset(slot.cpu, 1, len);
		taken[n++] = slot.dev;
		live += len;
		if (wants_balance(mem))
			assert_true(sluice_memfd_balance(mem) > 0);
		/* What it takes for what is live: from 1 MiB on; below, a rounded slot is much of it. */
		if (live > MiB)
			assert_true(stats_of(mem).used <= live + live / 4);
		assert_true(stats_of(mem).used + stats_of(mem).cached <=
			    live + live / 4 + (uint64_t)SLUICE_POOL_CLASSES * SLUICE_CHUNK_BYTES);
	}
	/* And no more than it needed. */
	assert_true(stats_of(mem).bytes <= 64 * MiB);
	while (n > 0) {
		struct sluice_slot slot;

		assert_int_equal(sluice_pool_find(&mem->pool, taken[--n], &slot), 0);
		memset(slot.cpu, 0, slot.size);
		assert_int_equal(sluice_pool_free(&mem->pool, taken[n]), 0);
	}
	assert_true(balance_later(mem) < 0);
	while (balance_later(mem) < 0)
		continue;
	/* Back to where it began, but for what hysteresis keeps; the pages are the system's again. */
	assert_true(stats_of(mem).bytes <= 10 * MiB);
	assert_true(resident(mem) <= stats_of(mem).bytes);
	assert_int_equal(stats_of(mem).used, 0);
	sluice_memfd_destroy(mem);
}

/* Chunks in use stay; the others go, whichever they are; and room comes back where it was. */
static void only_free_chunks_go(void **state)
{
	struct sluice_memfd *mem;
	struct sluice_slot keep[4], whole[8];
	struct sluice_chunk *meta;
	uint64_t dev;
	void *cpu;

	(void)state;
	assert_int_equal(sluice_memfd_create("keep", 16 * MiB, RIG_DEV, &mem), 0);
	for (int i = 0; i < 8; i++)
		assert_int_equal(sluice_pool_alloc(&mem->pool, 2 * MiB, 1, &whole[i]), 0);
	/* One in each second chunk. */
	for (int i = 0; i < 8; i++) {
		assert_int_equal(sluice_pool_free(&mem->pool, whole[i].dev), 0);
		if (i % 2)
			assert_int_equal(
				sluice_pool_alloc(&mem->pool, 2 * MiB - 4096, 1, &keep[i / 2]), 0);
	}
	for (int i = 0; i < 4; i++) {
		assert_int_equal(sluice_pool_remove(&mem->pool, &meta, &cpu, &dev), 0);
		for (int k = 0; k < 4; k++)
			assert_true(keep[k].dev >> 21 != dev >> 21);
		assert_int_equal(sluice_pool_find(&mem->pool, dev, &whole[0]), -ENOENT);
	}
	assert_int_equal(sluice_pool_remove(&mem->pool, &meta, &cpu, &dev), -EBUSY);
	assert_int_equal(stats_of(mem).bytes, 8 * MiB);
	for (int k = 0; k < 4; k++)
		assert_int_equal(sluice_pool_free(&mem->pool, keep[k].dev), 0);
	for (uint64_t c = 0; c < 8; c++) {
		int ret = sluice_pool_add(
			&mem->pool,
			(void *)((uint8_t *)mem->chunk_memory +
				 c * ((sluice_chunk_size() + 63) & ~UINT64_C(63))),
			(uint8_t *)mem->region.cpu + c * 2 * MiB, RIG_DEV + c * 2 * MiB, 2 * MiB);

		assert_true(ret == 0 || ret == -EBUSY);
	}
	/* In one piece again. */
	assert_int_equal(sluice_pool_alloc(&mem->pool, 16 * MiB, 1, &keep[0]), 0);
	sluice_memfd_destroy(mem);
}

/* Let the time between two trims pass, so often that nothing is left. Returns how many it took. */
static uint32_t trim_all(struct sluice_memfd *mem)
{
	uint32_t n = 0;

	do {
		mem->trimmed = 0;
		(void)sluice_memfd_balance(mem);
		n++;
	} while (mem->kept && n < 100);
	return n;
}

/* What caches and slabs keep after a load goes back, and an unused pool is left in peace. */
static void g5_nothing_is_kept_after_a_load(void **state)
{
	struct sluice_memfd *mem;
	struct sluice_slot slot;
	uint64_t seed = 8;

	(void)state;
	assert_int_equal(sluice_memfd_create("trim", 64 * MiB, RIG_DEV, &mem), 0);
	for (int round = 0; round < 3; round++) {
		size_t n = 0;

		while (n < 3000 && !sluice_pool_alloc(&mem->pool, rig_length(&seed), 1, &slot))
			taken[n++] = slot.dev;
		while (n > 1)
			assert_int_equal(sluice_pool_free(&mem->pool, taken[--n]), 0);
		/* Enough to be worth it, and one slot that is not given back. */
		assert_true(stats_of(mem).cached > MiB);
		for (int i = 0; i < 13; i++) {
			mem->trimmed = 0;
			(void)sluice_memfd_balance(mem);
		}
		assert_int_equal(stats_of(mem).cached, 0);
		assert_true(stats_of(mem).slabs <= 7 * 4096);
		assert_true(mem->kept > 0 && mem->kept == stats_of(mem).used);
		assert_int_equal(sluice_pool_free(&mem->pool, taken[0]), 0);
		assert_true(trim_all(mem) <= 2);
		assert_int_equal(stats_of(mem).slabs, 0);
		assert_int_equal(stats_of(mem).largest, 64 * MiB);
		/* Nobody is woken until there is something to do again; then once. */
		assert_false(wants_balance(mem));
		assert_int_equal(sluice_pool_alloc(&mem->pool, 256, 1, &slot), 0);
		assert_true(wants_balance(mem));
		(void)sluice_memfd_balance(mem);
		assert_true(mem->kept > 0);
		assert_int_equal(sluice_pool_alloc(&mem->pool, 4096, 1, &slot), 0);
		assert_int_equal(sluice_pool_free(&mem->pool, slot.dev), 0);
		assert_false(wants_balance(mem));
		sluice_memfd_destroy(mem);
		assert_int_equal(sluice_memfd_create("trim", 64 * MiB, RIG_DEV, &mem), 0);
	}
	/* What is in use comes back into the cache at once, and is not lost. */
	assert_int_equal(sluice_pool_alloc(&mem->pool, 256, 1, &slot), 0);
	for (uint32_t i = 0; i < 1000; i++) {
		struct sluice_slot other;

		assert_int_equal(sluice_pool_alloc(&mem->pool, 256 + i, 1, &other), 0);
		assert_true(sluice_pool_trim(&mem->pool) >= 512);
		assert_int_equal(sluice_pool_free(&mem->pool, other.dev), 0);
	}
	assert_int_equal(sluice_pool_free(&mem->pool, slot.dev), 0);
	assert_true(trim_all(mem) <= 7);
	assert_int_equal(stats_of(mem).used, 0);
	assert_int_equal(stats_of(mem).largest, 64 * MiB);
	sluice_memfd_destroy(mem);
}

static int asked;

static void ask(void *context)
{
	(void)context;
	asked++;
}

/* A chunk source that has nothing: the pool asks once, is full when it is full, and goes on later. */
static void g5_a_source_that_fails(void **state)
{
	struct sluice_memfd *mem;
	struct sluice_slot slot;
	size_t n = 0;

	(void)state;
	assert_int_equal(sluice_memfd_create_growing("dry", 2 * MiB, 8 * MiB, RIG_DEV, &mem), 0);
	asked = 0;
	mem->pool.grow = ask;
	while (!sluice_pool_alloc(&mem->pool, 4096, 1, &slot))
		taken[n++] = slot.dev;
	assert_int_equal(n, 512);
	assert_int_equal(asked, 1);
	assert_true(sluice_pool_want(&mem->pool) > 0);
	assert_int_equal(sluice_pool_alloc(&mem->pool, 4096, 1, &slot), -ENOSPC);
	assert_int_equal(asked, 2);
	assert_true(sluice_memfd_balance(mem) > 0);
	assert_int_equal(sluice_pool_alloc(&mem->pool, 4096, 1, &slot), 0);
	sluice_memfd_destroy(mem);
}

#define THREADS 3
static struct rig rig;
static atomic_int failed;

static void *mapper(void *arg)
{
	static _Thread_local uint8_t buf[64 * 1024];
	struct {
		uint64_t dev;
		uint32_t len;
	} live[64];
	uint64_t seed = 9 + (uint64_t)(uintptr_t)arg;

	/* Waves: many mappings, then none. */
	for (int wave = 0; wave < 40; wave++) {
		size_t n = 0;

		while (n < 64) {
			uint32_t len = rig_length(&seed) % sizeof(buf) + 1;

			memset(buf, (int)len, len);
			if (sluice_dma_map(&rig.dma, (uintptr_t)buf, len, SLUICE_TO_DEVICE,
					   &live[n].dev))
				break;
			if (!rig_all(rig_device(&rig, live[n].dev), len, (uint8_t)len))
				atomic_fetch_add(&failed, 1);
			live[n++].len = len;
		}
		while (n-- > 0) {
			if (sluice_dma_unmap(&rig.dma, live[n].dev, live[n].len, SLUICE_TO_DEVICE,
					     0))
				atomic_fetch_add(&failed, 1);
		}
	}
	return NULL;
}

static atomic_bool done;

/* Shrinks and grows as fast as it can, whatever the pool wants. */
static void *balancer(void *arg)
{
	(void)arg;
	while (!atomic_load(&done)) {
		(void)sluice_memfd_balance(rig.mem);
		if (rig.mem->surplus_since)
			rig.mem->surplus_since = 1;
		rig.mem->trimmed = 0;
		sched_yield();
	}
	return NULL;
}

static void g5_grows_and_shrinks_under_load(void **state)
{
	pthread_t threads[THREADS], other;

	(void)state;
	assert_int_equal(sluice_memfd_create_growing("load", 2 * MiB, 32 * MiB, RIG_DEV, &rig.mem),
			 0);
	rig.stats = calloc(rig.mem->pool.n_caches, sizeof(*rig.stats));
	assert_non_null(rig.stats);
	sluice_dma_init(&rig.dma, &rig.mem->pool, 7, rig.stats);
	assert_int_equal(pthread_create(&other, NULL, balancer, NULL), 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, mapper, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&done, true);
	pthread_join(other, NULL);
	assert_int_equal(failed, 0);
	assert_int_equal(sluice_dma_live(&rig.dma), 0);
	rig_close(&rig);
}

static void the_thread_does_it(void **state)
{
	struct sluice_memfd *mem;
	struct sluice_slot slot;
	int tries = 0;

	(void)state;
	assert_int_equal(sluice_memfd_create_growing("thread", 2 * MiB, 64 * MiB, RIG_DEV, &mem),
			 0);
	assert_int_equal(sluice_memfd_start(mem), 0);
	assert_int_equal(sluice_memfd_start(mem), -EINVAL);
	for (int n = 0; n < 8 * 512; n++) {
		while (sluice_pool_alloc(&mem->pool, 4096, 1, &slot)) {
			/* It has been asked; it only has to get a CPU. */
			assert_true(++tries < 100000);
			poll(NULL, 0, 1);
		}
	}
	assert_true(stats_of(mem).bytes >= 16 * MiB);
	sluice_memfd_destroy(mem);
}

static void *giver(void *arg)
{
	uint64_t *dev = arg;

	poll(NULL, 0, 20);
	for (int i = 0; i < 256; i++) {
		if (sluice_dma_unmap(&rig.dma, dev[i], 4096, SLUICE_TO_DEVICE, 0))
			atomic_fetch_add(&failed, 1);
	}
	return NULL;
}

static void g5_whoever_may_wait_gets_space(void **state)
{
	static uint8_t buf[MiB];
	uint64_t addr;
	pthread_t thread;
	size_t n = 0;

	(void)state;
	rig_open(&rig, 2 * MiB);
	failed = 0;
	while (!sluice_dma_map(&rig.dma, (uintptr_t)buf, 4096, SLUICE_TO_DEVICE, &taken[n]))
		n++;
	assert_int_equal(n, 512);
	assert_int_equal(sluice_memfd_map_wait(rig.mem, &rig.dma, (uintptr_t)buf, 4096,
					       SLUICE_TO_DEVICE, 10, &addr),
			 -ENOSPC);
	/* Pages are taken from the top on, so that the first half of them is one piece. */
	assert_int_equal(pthread_create(&thread, NULL, giver, taken), 0);
	assert_int_equal(sluice_memfd_map_wait(rig.mem, &rig.dma, (uintptr_t)buf, sizeof(buf),
					       SLUICE_TO_DEVICE, 60000, &addr),
			 0);
	pthread_join(thread, NULL);
	assert_int_equal(failed, 0);
	assert_int_equal(stats_of(rig.mem).waited, 2);
	rig_close(&rig);
}

static void bad_arguments(void **state)
{
	struct sluice_memfd *mem;

	(void)state;
	assert_int_equal(sluice_memfd_create_growing("x", 0, 4 * MiB, 0, &mem), -EINVAL);
	assert_int_equal(sluice_memfd_create_growing("x", 4096, 4 * MiB, 0, &mem), -EINVAL);
	assert_int_equal(sluice_memfd_create_growing("x", 4 * MiB, 2 * MiB, 0, &mem), -EINVAL);
	assert_int_equal(sluice_memfd_create("x", 2 * MiB, 0, &mem), 0);
	assert_int_equal(sluice_memfd_start(mem), 0);
	assert_int_equal(sluice_memfd_start(mem), -EINVAL);
	sluice_memfd_destroy(mem);
	sluice_memfd_destroy(NULL);
}

/* Whether the kernel has been asked for huge pages at this address: "hg" among the flags of its mapping. */
static bool asks_for_huge_pages(const void *at)
{
	FILE *maps = fopen("/proc/self/smaps", "r");
	bool inside = false, advised = false;
	char line[512];

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = from <= (uintptr_t)at && (uintptr_t)at < to;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			advised = strstr(line, " hg") != NULL;
	}
	fclose(maps);
	return advised;
}

/* As much of what is known about the chunks as is written at once in any case, and no byte more. */
static void large_pools_keep_their_data_in_huge_pages(void **state)
{
	const size_t stride = (sluice_chunk_size() + 63) & ~(size_t)63, huge = 2 * MiB;
	struct sluice_memfd *mem;
	const uint8_t *data;

	(void)state;
	if (access("/sys/kernel/mm/transparent_hugepage", F_OK))
		skip();
	assert_int_equal(sluice_memfd_create_growing("large", 64 * MiB, 256 * MiB, RIG_DEV, &mem),
			 0);
	data = mem->chunk_memory;
	assert_int_equal((uintptr_t)data % huge, 0);
	assert_true(asks_for_huge_pages(data));
	assert_true(asks_for_huge_pages(data + 32 * stride / huge * huge - 1));
	assert_false(asks_for_huge_pages(data + 32 * stride / huge * huge));
	sluice_memfd_destroy(mem);

	assert_int_equal(sluice_memfd_create_growing("small", 16 * MiB, 256 * MiB, RIG_DEV, &mem),
			 0);
	assert_false(asks_for_huge_pages(mem->chunk_memory));
	sluice_memfd_destroy(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g5_grows_before_it_runs_out),
		cmocka_unit_test(only_free_chunks_go),
		cmocka_unit_test(g5_nothing_is_kept_after_a_load),
		cmocka_unit_test(g5_a_source_that_fails),
		cmocka_unit_test(g5_grows_and_shrinks_under_load),
		cmocka_unit_test(the_thread_does_it),
		cmocka_unit_test(g5_whoever_may_wait_gets_space),
		cmocka_unit_test(bad_arguments),
		cmocka_unit_test(large_pools_keep_their_data_in_huge_pages),
	};

	return cmocka_run_group_tests_name("grow", tests, NULL, NULL);
}
