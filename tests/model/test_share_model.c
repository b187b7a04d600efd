/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_share_model.c - sharing in place against simple references, at random
 *
 * Theory of operation
 * -------------------
 * numbers and ranges: the allocator and the tree against arrays. one_of_each: every mechanism, in one
 * thread: the reference knows for every mapping what its buffer holds and who holds it, and that
 * whatever is not mapped is not there. Between buffers lie secrets, which must neither be seen nor
 * change. threads: two drivers map and unmap, two backends hold, read, write and drop what they have
 * heard of, be it mapped still or not; a backend writes only into mappings that it may write and only
 * while it holds them, so a driver that gets its buffer back finds it unchanged from then on. Under
 * ThreadSanitizer that is also checked byte by byte: a backend that still reaches a buffer which its
 * driver has back is a data race.
 *
 * SLUICE_SEED and SLUICE_STEPS repeat and prolong a run; the seed is printed.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "rig.h"
#include "world.h"

/* One thread has no races: under ThreadSanitizer, which is ten times as slow, a few steps of those tests will do. */
#ifdef __SANITIZE_THREAD__
#define STEPS(n) ((n) / 10)
#else
#define STEPS(n) (n)
#endif

#define G	 4096u
#define NUMBERS	 5000u
#define RANGES	 400u
#define LIVE_MAX 200u
#define STRIDE	 (40u * G) /* of buffers */
#define SECRET	 0xa5

static uint64_t env(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

static void numbers(void **state)
{
	static uint16_t owner[NUMBERS + 100];
	static struct sluice_iova_cache caches[4];
	static uint64_t first[2000];
	static uint32_t count[2000];
	uint64_t seed = env("SLUICE_SEED", 4711), got;
	struct sluice_iova iova;
	void *memory = malloc(sluice_iova_size(100, NUMBERS + 99));
	uint32_t live = 0, full = 0;

	(void)state;
	printf("# seed %lu\n", (unsigned long)seed);
	assert_int_equal(sluice_iova_init(&iova, 100, NUMBERS + 99, memory, caches, 4), 0);
	assert_int_equal(sluice_iova_alloc(&iova, 1, &got), -ENOSPC);
	/* A hole in the middle. */
	assert_int_equal(sluice_iova_add(&iova, 100, 2999), 0);
	assert_int_equal(sluice_iova_add(&iova, 3010, NUMBERS + 99), 0);
	for (uint64_t step = 0; step < env("SLUICE_STEPS", STEPS(100000)); step++) {
		/* Fills up, then empties, by turns. */
		bool more = rig_random(&seed) % 100 < (step / 3000 % 2 ? 40 : 60);

		if (more && live < 2000) {
			uint32_t n = 1 + (uint32_t)(rig_random(&seed) %
						    (rig_random(&seed) % 8 ? 8 : 200));
			uint32_t align = 1;

			if (sluice_iova_alloc(&iova, n, &got)) {
				full++;
				continue;
			}
			while (align < n)
				align *= 2;
			assert_int_equal(got % align, 0);
			assert_true(got >= 100 && got + n <= NUMBERS + 100);
			assert_true(got + n <= 3000 || got >= 3010);
			for (uint64_t i = got; i < got + n; i++) {
				assert_int_equal(owner[i], 0);
				owner[i] = 1;
			}
			first[live] = got;
			count[live++] = n;
		} else if (live > 0) {
			uint32_t i = (uint32_t)(rig_random(&seed) % live);

			memset(owner + first[i], 0, count[i] * sizeof(owner[0]));
			assert_int_equal(sluice_iova_free(&iova, first[i], count[i]), 0);
			live--;
			first[i] = first[live];
			count[i] = count[live];
		}
	}
	assert_true(full > 0);
	while (live-- > 0)
		assert_int_equal(sluice_iova_free(&iova, first[live], count[live]), 0);
	/* All of it has come back and grown together: the longest aligned run is there. */
	assert_int_equal(sluice_iova_alloc(&iova, 1024, &got), 0);
	assert_int_equal(sluice_iova_free(&iova, got, 1024), 0);
	assert_int_equal(sluice_iova_free(&iova, got, 1024), -EINVAL);
	assert_int_equal(sluice_iova_free(&iova, 99, 1), -EINVAL);
	assert_int_equal(sluice_iova_free(&iova, NUMBERS + 99, 2), -EINVAL);
	assert_int_equal(sluice_iova_alloc(&iova, 0, &got), -EINVAL);
	assert_int_equal(sluice_iova_alloc(&iova, 1u << 21, &got), -EINVAL);
	assert_int_equal(sluice_iova_size(5, 4), 0);
	assert_int_equal(sluice_iova_size(0, UINT64_MAX), 0);
	free(memory);
}

/* Heights and reaches of a subtree, and its size. */
static uint32_t check_tree(const struct sluice_node *node)
{
	uint32_t left, right;
	uint64_t reach;

	if (!node)
		return 0;
	left = node->child[0] ? node->child[0]->height : 0;
	right = node->child[1] ? node->child[1]->height : 0;
	assert_true(left <= right + 1 && right <= left + 1);
	assert_int_equal(node->height, 1 + (left > right ? left : right));
	reach = node->last;
	for (uint32_t i = 0; i < 2; i++) {
		if (node->child[i] && node->child[i]->reach > reach)
			reach = node->child[i]->reach;
	}
	assert_int_equal(node->reach, reach);
	return 1 + check_tree(node->child[0]) + check_tree(node->child[1]);
}

static void ranges(void **state)
{
	static struct sluice_node nodes[RANGES];
	static bool in[RANGES];
	uint64_t seed = env("SLUICE_SEED", 4711);
	struct sluice_node *root = NULL;
	uint32_t n = 0;

	(void)state;
	for (uint64_t step = 0; step < env("SLUICE_STEPS", STEPS(30000)); step++) {
		uint32_t i = (uint32_t)(rig_random(&seed) % RANGES);
		uint64_t start = rig_random(&seed) % 1000, last = start + rig_random(&seed) % 50;
		const struct sluice_node *lowest = NULL, *found;
		bool exact = false;

		if (in[i]) {
			sluice_tree_remove(&root, &nodes[i]);
			n--;
		} else {
			nodes[i].start = start;
			nodes[i].last = last;
			nodes[i].key = i % 2;
			sluice_tree_insert(&root, &nodes[i]);
			n++;
		}
		in[i] = !in[i];
		if (step % 64 == 0)
			assert_int_equal(check_tree(root), n);
		start = rig_random(&seed) % 1000;
		last = start + rig_random(&seed) % 20;
		for (uint32_t k = 0; k < RANGES; k++) {
			if (!in[k])
				continue;
			exact = exact || (nodes[k].start == start && nodes[k].last == last &&
					  nodes[k].key == step % 2);
			if (nodes[k].start <= last && nodes[k].last >= start &&
			    (!lowest || nodes[k].start < lowest->start))
				lowest = &nodes[k];
		}
		found = sluice_tree_first(root, start, last);
		assert_int_equal(!found, !lowest);
		if (found) {
			assert_int_equal(found->start, lowest->start);
			assert_true(found->last >= start);
		}
		found = sluice_tree_exact(root, start, last, step % 2);
		assert_int_equal(!!found, exact);
		if (found)
			assert_true(found->start == start && found->last == last &&
				    found->key == step % 2);
	}
	/* In order, each once. */
	uint32_t seen = 0;
	for (const struct sluice_node *node = sluice_tree_first(root, 0, UINT64_MAX),
				      *before = NULL;
	     node; before = node, node = sluice_tree_next(root, node)) {
		assert_true(!before || before->start <= node->start);
		seen++;
	}
	assert_int_equal(seen, n);
}

struct live {
	uint64_t orig, len, addr;
	uint32_t place;
	enum sluice_dir dir;
	uint8_t fill;
	uint32_t n_holds;
	bool unmapped; /* -EBUSY was the answer */
	struct sluice_hold holds[64];
};

static struct world world;
static struct live live[LIVE_MAX];
static uint32_t n_live;
static bool taken[WORLD_BUFFERS / STRIDE];

static void step_map(uint64_t *seed)
{
	struct live *m = &live[n_live];
	uint32_t place = (uint32_t)(rig_random(seed) % (WORLD_BUFFERS / STRIDE));
	int ret;

	if (n_live == LIVE_MAX || taken[place])
		return;
	memset(m, 0, sizeof(*m));
	m->place = place;
	m->len = 1 + rig_random(seed) % (rig_random(seed) % 2 ? 3 * G : 32 * G);
	m->orig = (uintptr_t)world.buffers + (uint64_t)place * STRIDE + G +
		  (rig_random(seed) % 3 ? rig_random(seed) % (4 * G) : 0);
	if (rig_random(seed) % 3 == 0)
		m->len = (m->len + G - 1) / G * G;
	m->dir = (enum sluice_dir)(rig_random(seed) % 3);
	m->fill = (uint8_t)(rig_random(seed) | 1);
	memset((void *)(uintptr_t)m->orig, m->fill, m->len);
	ret = sluice_dma_map(&world.dma, m->orig, m->len, m->dir, &m->addr);
	if (ret) {
		assert_int_equal(ret, -ENOSPC);
		memset((void *)(uintptr_t)m->orig, SECRET, m->len);
		return;
	}
	taken[place] = true;
	n_live++;
}

static void forget(struct live *m)
{
	memset((void *)(uintptr_t)m->orig, SECRET, m->len);
	taken[m->place] = false;
	*m = live[--n_live];
}

static void step_unmap(uint64_t *seed)
{
	struct live *m = &live[rig_random(seed) % n_live];
	const uint8_t *mine = (const void *)(uintptr_t)m->orig;
	int ret;

	if (m->unmapped)
		return;
	assert_int_equal(sluice_dma_unmap(&world.dma, m->addr, m->len + 1, m->dir, 0), -EINVAL);
	ret = sluice_dma_unmap(&world.dma, m->addr, m->len, m->dir, 0);
	assert_true(rig_all(mine, m->len, m->fill));
	if (ret) {
		assert_int_equal(ret, -EBUSY);
		assert_true(m->n_holds > 0);
		m->unmapped = true;
		return;
	}
	/* Bounced ones may be held through the end: the pool is the device's. */
	if (m->n_holds)
		sluice_view_unmap(world.view, m->holds, m->n_holds);
	forget(m);
}

static void step_hold(uint64_t *seed)
{
	struct live *m = &live[rig_random(seed) % n_live];
	uint64_t at = rig_random(seed) % m->len, len = 1 + rig_random(seed) % (m->len - at);
	uint32_t access = m->dir == SLUICE_TO_DEVICE ? SLUICE_READ : SLUICE_WRITE;
	int ret;

	if (m->n_holds) {
		sluice_view_unmap(world.view, m->holds, m->n_holds);
		m->n_holds = 0;
		if (m->unmapped) {
			uint64_t before = world.ended;

			while (world.ended == before)
				(void)sluice_place_retry(&world.dma);
			assert_int_equal(world.ended, before + 1);
			assert_true(rig_all((void *)(uintptr_t)m->orig, m->len, m->fill));
			forget(m);
		}
		return;
	}
	ret = sluice_view_map(world.view, m->addr + at, len, access, m->holds, 64, &m->n_holds);
	assert_int_equal(ret, 0);
}

static void step_access(uint64_t *seed)
{
	static uint8_t got[STRIDE];
	struct live *m = &live[rig_random(seed) % n_live];
	uint64_t at = rig_random(seed) % m->len, len = 1 + rig_random(seed) % (m->len - at);
	bool placed = m->addr - world.pool.dev >= 8u << 20;

	if (m->unmapped)
		return;
	if (m->dir != SLUICE_FROM_DEVICE) {
		assert_int_equal(sluice_view_read(world.view, m->addr + at, got, len), 0);
		assert_true(rig_all(got, len, m->fill));
	}
	memset(got, m->fill, len);
	if (m->dir != SLUICE_TO_DEVICE)
		assert_int_equal(sluice_view_write(world.view, m->addr + at, got, len), 0);
	else if (placed && world.kind != WORLD_WINDOW)
		assert_int_equal(sluice_view_write(world.view, m->addr + at, got, len), -EACCES);
	if (rig_random(seed) % 4 == 0) {
		enum sluice_dir way = m->dir;

		assert_int_equal(sluice_dma_sync_for_cpu(&world.dma, m->addr + at, len, way), 0);
		assert_int_equal(sluice_dma_sync_for_device(&world.dma, m->addr + at, len, way), 0);
	}
}

/* Somewhere, for a byte: it is in a mapping, in the pool, or not there. */
static void step_probe(uint64_t *seed)
{
	uint64_t dev = n_live ? live[rig_random(seed) % n_live].addr : world.pool.dev;
	uint8_t byte;
	bool known = false;

	dev += rig_random(seed) % (200 * G) - 100 * G;
	for (uint32_t i = 0; i < n_live; i++) {
		uint64_t start = live[i].addr & ~(uint64_t)(G - 1);
		uint64_t last = (live[i].addr + live[i].len - 1) | (G - 1);

		known = known || (dev >= start && dev <= last);
	}
	if (known || dev - world.pool.dev < 8u << 20)
		return;
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ENOENT);
	assert_int_equal(sluice_view_write(world.view, dev, &byte, 1), -ENOENT);
}

static void check_secrets(void)
{
	for (uint32_t place = 0; place < WORLD_BUFFERS / STRIDE; place++) {
		if (!taken[place])
			assert_true(rig_all(world.buffers + place * STRIDE, STRIDE, SECRET));
	}
	for (uint32_t i = 0; i < n_live; i++) {
		const uint8_t *from = world.buffers + live[i].place * STRIDE;
		const uint8_t *mine = (const void *)(uintptr_t)live[i].orig;

		assert_true(rig_all(from, (size_t)(mine - from), SECRET));
		assert_true(rig_all(mine + live[i].len,
				    (size_t)(from + STRIDE - mine) - live[i].len, SECRET));
	}
}

static void run_one(enum world_kind kind, uint64_t seed, uint64_t steps)
{
	struct sluice_pool_stats pool;

	assert_true(world_open(&world, kind));
	memset(world.buffers, SECRET, WORLD_BUFFERS);
	memset(taken, 0, sizeof(taken));
	n_live = 0;
	world.dma.policy.kind = SLUICE_POLICY_AUTO;
	for (uint64_t step = 0; step < steps; step++) {
		uint32_t what = (uint32_t)(rig_random(&seed) % 100);

		/* Mostly in place, sometimes not. */
		world.dma.policy.break_even = rig_random(&seed) % 4 ? 1 : UINT64_MAX;
		if (what < 30 || !n_live)
			step_map(&seed);
		else if (what < 55)
			step_unmap(&seed);
		else if (what < 70)
			step_hold(&seed);
		else if (what < 90)
			step_access(&seed);
		else if (kind != WORLD_WINDOW && kind != WORLD_LAZY)
			step_probe(&seed);
		else
			(void)sluice_share_flush(world.share);
		if (step % 1000 == 0)
			check_secrets();
	}
	check_secrets();
	for (uint32_t i = 0; i < n_live; i++) {
		struct live *m = &live[i];

		sluice_view_unmap(world.view, m->holds, m->n_holds);
		m->n_holds = 0;
		if (!m->unmapped)
			assert_int_equal(sluice_dma_unmap(&world.dma, m->addr, m->len, m->dir, 0),
					 0);
	}
	n_live = 0;
	assert_int_equal(sluice_place_retry(&world.dma), 0);
	assert_int_equal(sluice_share_flush(world.share), 0);
	assert_int_equal(world.share->stats.granules, 0);
	assert_int_equal(world.share->stats.exposed, 0);
	assert_int_equal(sluice_dma_live(&world.dma), 0);
	sluice_pool_get_stats(&world.pool, &pool);
	assert_int_equal(pool.used, 0);
	world_close(&world);
}

static void one_of_each(void **state)
{
	uint64_t seed = env("SLUICE_SEED", 815);

	(void)state;
	printf("# seed %lu\n", (unsigned long)seed);
	for (uint32_t kind = 0; kind < WORLD_KINDS; kind++)
		run_one((enum world_kind)kind, seed + kind, env("SLUICE_STEPS", STEPS(6000)));
}

/* Threads. */

#define SHOWN 8u

static struct {
	_Atomic uint64_t addr, len; /* len: with the direction in the low two bits */
} shown[SHOWN];
static atomic_bool stop;
static atomic_ulong reads, denials;

static void *backend(void *arg)
{
	uint64_t seed = 77 + (uintptr_t)arg;

	while (!atomic_load(&stop)) {
		uint32_t i = (uint32_t)(rig_random(&seed) % SHOWN);
		uint64_t len = atomic_load(&shown[i].len), addr = atomic_load(&shown[i].addr);
		uint32_t access = len % 4 == SLUICE_TO_DEVICE ? SLUICE_READ : SLUICE_WRITE, n;
		struct sluice_hold holds[16];

		len /= 4;
		if (!addr || !len)
			continue;
		if (sluice_view_map(world.view, addr, len, access, holds, 16, &n)) {
			atomic_fetch_add(&denials, 1);
			continue;
		}
		atomic_fetch_add(&reads, 1);
		for (uint32_t k = 0; k < n; k++) {
			/* Two backends at one buffer are the device's affair: a byte each. */
			volatile uint8_t *byte = (uint8_t *)holds[k].cpu;

			/* The pool is theirs all the time. */
			if (byte < world.buffers)
				continue;
			if (holds[k].bytes <= 8)
				continue;
			if (access == SLUICE_READ)
				(void)byte[8];
			else
				byte[(uintptr_t)arg] = 0x77;
		}
		sluice_view_unmap(world.view, holds, n);
	}
	return NULL;
}

static void *driver(void *arg)
{
	uint32_t me = (uint32_t)(uintptr_t)arg, rounds = (uint32_t)env("SLUICE_STEPS", 400);
	uint8_t *mine = world.buffers + me * (1u << 20);
	uint64_t seed = 5 + me;

	for (uint32_t r = 0; r < rounds; r++) {
		uint32_t i = me * (SHOWN / 2) + r % (SHOWN / 2);
		uint64_t off = rig_random(&seed) % 2 ? rig_random(&seed) % G : 0, addr;
		uint64_t len = G + rig_random(&seed) % (8 * G);
		enum sluice_dir dir = (enum sluice_dir)(1 + rig_random(&seed) % 2);
		int ret;

		if (!off)
			len = len / G * G;
		memset(mine + off, 0x11, len);
		if (sluice_dma_map(&world.dma, (uintptr_t)mine + off, len, dir, &addr))
			continue;
		atomic_store(&shown[i].len, 0);
		atomic_store(&shown[i].addr, addr);
		atomic_store(&shown[i].len, len * 4 + (uint64_t)dir);
		if (r % 4 == 0)
			sched_yield();
		ret = sluice_dma_unmap(&world.dma, addr, len, dir, 0);
		/* Lingering: the buffer is not ours before all of them have ended. */
		while (ret == -EBUSY && sluice_place_retry(&world.dma))
			sched_yield();
		/* Written to without a lock: nobody else may be there. */
		memset(mine + off, 0x22, len);
		if (!rig_all(mine + off, len, 0x22))
			return (void *)1;
	}
	return NULL;
}

static void threads(void **state)
{
	(void)state;
	for (uint32_t kind = 0; kind < WORLD_KINDS; kind++) {
		pthread_t drivers[2], backends[2];
		void *result;

		/* What a window or a queue leaves reachable is written to by design. */
		if (kind == WORLD_WINDOW || kind == WORLD_LAZY)
			continue;
		assert_true(world_open(&world, (enum world_kind)kind));
		world.dma.policy.kind = SLUICE_POLICY_SHARE;
		memset(shown, 0, sizeof(shown));
		atomic_store(&stop, false);
		atomic_store(&reads, 0);
		for (uintptr_t i = 0; i < 2; i++) {
			assert_int_equal(pthread_create(&drivers[i], NULL, driver, (void *)i), 0);
			assert_int_equal(pthread_create(&backends[i], NULL, backend, (void *)i), 0);
		}
		for (uint32_t i = 0; i < 2; i++) {
			pthread_join(drivers[i], &result);
			assert_null(result);
		}
		atomic_store(&stop, true);
		for (uint32_t i = 0; i < 2; i++)
			pthread_join(backends[i], NULL);
		printf("# %s: %lu holds, %lu refused, %lu lingered\n", world_names[kind],
		       atomic_load(&reads), atomic_exchange(&denials, 0),
		       (unsigned long)world.place.stats.lingered);
		assert_int_equal(sluice_place_retry(&world.dma), 0);
		assert_int_equal(world.share->stats.granules, 0);
		world_close(&world);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers),
		cmocka_unit_test(ranges),
		cmocka_unit_test(one_of_each),
		cmocka_unit_test(threads),
	};

	return cmocka_run_group_tests_name("share model", tests, NULL, NULL);
}
