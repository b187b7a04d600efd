/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_dma_model.c - the pool and the DMA layer against a simple reference, at random
 *
 * Theory of operation
 * -------------------
 * The reference knows, for every 256 bytes of the pool, which mapping has them (an array), and for
 * every mapping what its buffer should hold. Random maps, unmaps, syncs, device writes, coherent
 * allocations and pure nonsense are done to both; after each step the reference says what must
 * hold, and from time to time the whole pool is looked at: a byte outside every mapping is zero.
 *
 * The second test does the same from several threads, without the array: each mapping carries a
 * pattern of its own that the unmapping thread, which often is another one, has to find.
 *
 * SLUICE_SEED and SLUICE_STEPS repeat and prolong a run; the seed is printed.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "rig.h"

#define MiB	  (1024u * 1024u)
#define POOL_SIZE (6 * MiB)
#define UNITS	  (POOL_SIZE / 256)
#define GUEST	  (8 * MiB)
#define LIVE_MAX  2048
/* Under ThreadSanitizer a step takes three times as long, and what it looks for shows early. */
#ifdef __SANITIZE_THREAD__
#define STEPS 20000
#else
#define STEPS 60000
#endif

struct live {
	uint64_t dev;
	uint32_t len, orig; /* orig: offset into guest */
	uint8_t dir, coherent, device_wrote;
};

static struct rig rig;
static uint8_t *guest;	    /* the driver's memory; each mapping's part is filled with fill */
static uint8_t busy[GUEST]; /* bytes of it that are mapped */
static uint16_t owner[UNITS];
static struct live live[LIVE_MAX];
static uint32_t n_live;

static uint64_t env(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

static void own(uint64_t dev, uint32_t len, uint16_t who, uint16_t was)
{
	uint64_t first = (dev - RIG_DEV) / 256, last = (dev - RIG_DEV + len - 1) / 256;

	assert_true(dev >= RIG_DEV && last < UNITS);
	for (uint64_t u = first; u <= last; u++) {
		assert_int_equal(owner[u], was);
		owner[u] = who;
	}
}

static void forget(uint32_t i)
{
	own(live[i].dev, live[i].len, 0, (uint16_t)(i + 1));
	if (!live[i].coherent)
		memset(busy + live[i].orig, 0, live[i].len);
	if (i != --n_live) {
		live[i] = live[n_live];
		own(live[i].dev, live[i].len, (uint16_t)(i + 1), (uint16_t)(n_live + 1));
	}
}

static void step_map(uint64_t *seed)
{
	uint32_t len = rig_length(seed), off = (uint32_t)(rig_random(seed) % (GUEST - len));
	struct live *m = &live[n_live];
	uint8_t fill = (uint8_t)(rig_random(seed) | 1);
	int ret;

	if (n_live == LIVE_MAX || memchr(busy + off, 1, len))
		return;
	*m = (struct live){.len = len, .orig = off, .dir = (uint8_t)(rig_random(seed) % 3)};
	memset(guest + off, fill, len);
	rig.dma.min_align_mask = (uint32_t[]){0, 0, 0, 511, 4095}[rig_random(seed) % 5];
	ret = sluice_dma_map(&rig.dma, (uintptr_t)guest + off, len, m->dir, &m->dev);
	if (ret) {
		assert_int_equal(ret, -ENOSPC);
		return;
	}
	assert_int_equal(m->dev & rig.dma.min_align_mask,
			 ((uintptr_t)guest + off) & rig.dma.min_align_mask);
	own(m->dev, len, (uint16_t)(n_live + 1), 0);
	assert_true(rig_all(rig_device(&rig, m->dev), len, fill));
	memset(busy + off, 1, len);
	n_live++;
}

static void step_alloc(uint64_t *seed)
{
	uint32_t len = (uint32_t)(1 + rig_random(seed) % 40000);
	struct live *m = &live[n_live];
	void *cpu;

	if (n_live == LIVE_MAX)
		return;
	*m = (struct live){.len = len, .coherent = 1};
	if (sluice_dma_alloc(&rig.dma, len, &m->dev, &cpu))
		return;
	own(m->dev, len, (uint16_t)(n_live + 1), 0);
	assert_true(rig_all(cpu, len, 0));
	memset(cpu, 0xc0, len);
	n_live++;
}

static void step_unmap(uint64_t *seed)
{
	uint32_t i = (uint32_t)(rig_random(seed) % n_live);
	struct live *m = &live[i];
	uint8_t was = guest[m->orig], byte = (uint8_t)rig_random(seed);

	if (m->coherent) {
		assert_true(rig_all(rig_device(&rig, m->dev), m->len, 0xc0));
		assert_int_equal(sluice_dma_free(&rig.dma, m->dev, m->len), 0);
	} else {
		uint32_t wrote = (uint32_t)(rig_random(seed) % (m->len + 1));

		memset(rig_device(&rig, m->dev), byte, wrote);
		assert_int_equal(sluice_dma_unmap(&rig.dma, m->dev, m->len, m->dir, 0), 0);
		if (m->dir == SLUICE_TO_DEVICE)
			wrote = 0;
		assert_true(rig_all(guest + m->orig, wrote, byte));
		assert_true(rig_all(guest + m->orig + wrote, m->len - wrote, was));
	}
	assert_true(rig_all(rig_device(&rig, m->dev), m->len, 0));
	forget(i);
}

static void step_sync(uint64_t *seed)
{
	struct live *m = &live[rig_random(seed) % n_live];
	uint32_t at = (uint32_t)(rig_random(seed) % m->len);
	uint32_t n = (uint32_t)(rig_random(seed) % (m->len - at + 1));
	uint8_t was;

	if (m->coherent)
		return;
	was = guest[m->orig];
	if (m->dir == SLUICE_FROM_DEVICE) {
		memset(rig_device(&rig, m->dev) + at, 0xd0, n);
		assert_int_equal(sluice_dma_sync_for_cpu(&rig.dma, m->dev + at, n, m->dir), 0);
		assert_true(rig_all(guest + m->orig + at, n, 0xd0));
		memset(guest + m->orig + at, was, n);
		memset(rig_device(&rig, m->dev) + at, was, n);
	} else {
		memset(guest + m->orig + at, 0xd1, n);
		assert_int_equal(sluice_dma_sync_for_device(&rig.dma, m->dev + at, n, m->dir), 0);
		assert_true(rig_all(rig_device(&rig, m->dev) + at, n, 0xd1));
		memset(guest + m->orig + at, was, n);
		assert_int_equal(sluice_dma_sync_for_device(&rig.dma, m->dev + at, n, m->dir), 0);
	}
}

/* Anything that a driver with a bug could say. It is refused unless it happens to be right. */
static void step_nonsense(uint64_t *seed)
{
	uint64_t dev = RIG_DEV - 4096 + rig_random(seed) % (POOL_SIZE + 8192);
	uint32_t len = rig_length(seed);

	for (uint32_t i = 0; i < n_live; i++) {
		if (live[i].dev == dev)
			return;
	}
	assert_int_equal(sluice_dma_unmap(&rig.dma, dev, len, SLUICE_FROM_DEVICE, 0), -EINVAL);
	assert_int_equal(sluice_dma_free(&rig.dma, dev, len), -EINVAL);
	/* The slot is a live mapping's as far as the pool knows only at its very first byte. */
	if (dev % 256)
		assert_int_equal(sluice_pool_free(&rig.mem->pool, dev), -EINVAL);
}

static void whole_pool_is_clean(void)
{
	for (uint32_t u = 0; u < UNITS; u++) {
		if (!owner[u])
			assert_true(rig_all(rig_device(&rig, RIG_DEV + u * 256), 256, 0));
	}
}

static void random_operations(void **state)
{
	uint64_t seed = env("SLUICE_SEED", 20261120), steps = env("SLUICE_STEPS", STEPS);

	(void)state;
	print_message("seed %llu, %llu steps\n", (unsigned long long)seed,
		      (unsigned long long)steps);
	rig_open(&rig, POOL_SIZE);
	guest = calloc(1, GUEST);
	assert_non_null(guest);
	for (uint64_t i = 0; i < steps; i++) {
		/* In turns more maps than unmaps and the reverse: full, and empty. */
		uint32_t lean = i / 5000 % 2 ? 30 : 50, pick = (uint32_t)(rig_random(&seed) % 100);

		if (pick < lean)
			step_map(&seed);
		else if (pick < lean + 3)
			step_alloc(&seed);
		else if (pick > 95)
			step_nonsense(&seed);
		else if (n_live && pick > 90)
			step_sync(&seed);
		else if (n_live)
			step_unmap(&seed);
		if (i % 20000 == 0)
			whole_pool_is_clean();
	}
	while (n_live)
		step_unmap(&seed);
	whole_pool_is_clean();
	assert_int_equal(sluice_dma_live(&rig.dma), 0);
	rig_close(&rig);
	free(guest);
}

#define THREADS 4
#define MAILBOX 64
#define PER_BOX 70000 /* guest bytes of a mailbox */

struct mail {
	_Atomic uint64_t state; /* 0 empty, 1 in work, else the device address */
	uint32_t len;
	uint8_t fill;
	uint8_t buf[PER_BOX];
};

static struct mail *mails;
static atomic_int failures;

/* Each mailbox is a buffer; whoever finds it empty maps it, whoever finds it mapped unmaps it. */
static void *worker(void *arg)
{
	uint64_t seed = 77 + (uint64_t)(uintptr_t)arg;
	uint64_t steps = env("SLUICE_STEPS", STEPS) / 3;

	for (uint64_t i = 0; i < steps; i++) {
		struct mail *mail = &mails[rig_random(&seed) % MAILBOX];
		uint64_t dev = atomic_exchange(&mail->state, 1);

		if (dev == 1)
			continue; /* another thread's; it will store over our 1, which equals its
				     own */
		if (dev == 0) {
			mail->len = rig_length(&seed);
			if (mail->len > PER_BOX)
				mail->len = PER_BOX;
			mail->fill = (uint8_t)(rig_random(&seed) | 1);
			memset(mail->buf, mail->fill, mail->len);
			if (sluice_dma_map(&rig.dma, (uintptr_t)mail->buf, mail->len,
					   SLUICE_BIDIRECTIONAL, &dev))
				dev = 0;
		} else {
			if (!rig_all(rig_device(&rig, dev), mail->len, mail->fill))
				atomic_fetch_add(&failures, 1);
			memset(rig_device(&rig, dev), ~mail->fill, mail->len);
			if (sluice_dma_unmap(&rig.dma, dev, mail->len, SLUICE_BIDIRECTIONAL, 0))
				atomic_fetch_add(&failures, 1);
			if (!rig_all(mail->buf, mail->len, (uint8_t)~mail->fill))
				atomic_fetch_add(&failures, 1);
			/* The same again must be refused; the other direction is nobody's. */
			if (!sluice_dma_unmap(&rig.dma, dev + 1, mail->len, SLUICE_FROM_DEVICE, 0))
				atomic_fetch_add(&failures, 1);
			dev = 0;
		}
		atomic_store(&mail->state, dev);
	}
	return NULL;
}

static void threads_hand_mappings_over(void **state)
{
	pthread_t threads[THREADS];

	(void)state;
	mails = calloc(MAILBOX, sizeof(*mails));
	assert_non_null(mails);
	rig_open(&rig, 2 * MiB); /* small enough to be full now and then */
	rig.dma.min_align_mask = 0;
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, worker, (void *)i), 0);
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(failures, 0);
	for (uint32_t i = 0; i < MAILBOX; i++) {
		if (mails[i].state)
			assert_int_equal(sluice_dma_unmap(&rig.dma, mails[i].state, mails[i].len,
							  SLUICE_BIDIRECTIONAL, 0),
					 0);
	}
	assert_int_equal(sluice_dma_live(&rig.dma), 0);
	assert_true(rig_all(rig.mem->region.cpu, 2 * MiB, 0));
	rig_close(&rig);
	free(mails);
}

#define RACERS 3
static _Atomic uint64_t target;
static atomic_int wins, ready;

static void *racer(void *arg)
{
	uint64_t round = 0;
	uint32_t idle = 0;

	(void)arg;
	for (;;) {
		uint64_t dev = atomic_load(&target);

		if (dev == 1)
			return NULL;
		if (dev == round || dev == 0) {
			/* There may be fewer processors than racers; but who yields comes late. */
			if (++idle % 256 == 0)
				sched_yield();
			continue;
		}
		round = dev;
		if (!sluice_dma_unmap(&rig.dma, dev & ~UINT64_C(0xff), 1000, SLUICE_FROM_DEVICE, 0))
			atomic_fetch_add(&wins, 1);
		atomic_fetch_add(&ready, 1);
	}
}

/* G4: of several unmaps of one address at once, exactly one goes through. */
static void g4_one_of_two_unmaps_wins(void **state)
{
	uint64_t rounds = env("SLUICE_STEPS", STEPS) / 2;
	pthread_t threads[RACERS];
	uint8_t buf[1000];

	(void)state;
	rig_open(&rig, 2 * MiB);
	for (int i = 0; i < RACERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, racer, NULL), 0);
	for (uint64_t r = 0; r < rounds; r++) {
		uint64_t dev;

		assert_int_equal(sluice_dma_map(&rig.dma, (uintptr_t)buf, sizeof(buf),
						SLUICE_FROM_DEVICE, &dev),
				 0);
		atomic_store(&wins, 0);
		atomic_store(&ready, 0);
		/* The low byte tells one round from the next; slots are multiples of 256. */
		atomic_store(&target, dev | (2 + r % 250));
		while (atomic_load(&ready) != RACERS)
			sched_yield();
		assert_int_equal(atomic_load(&wins), 1);
	}
	atomic_store(&target, 1);
	for (int i = 0; i < RACERS; i++)
		pthread_join(threads[i], NULL);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations),
		cmocka_unit_test(threads_hand_mappings_over),
		cmocka_unit_test(g4_one_of_two_unmaps_wins),
	};

	return cmocka_run_group_tests_name("dma model", tests, NULL, NULL);
}
