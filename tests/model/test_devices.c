/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_devices.c - many devices on one pool that is far too small, and a pool that grows under load
 *
 * Theory of operation
 * -------------------
 * The seed of 2023 was tried with 20 disks at once, which hung on the allocator that it replaced.
 * Here 20 devices want several times what the pool has. Each does as a block driver does: requests
 * are scatter lists, mapped as a whole or not at all; several are in flight; one that finds no room
 * is tried again after one of the device's own has ended, or, if it has none, after others have had
 * their turn. Each device has a share of work to get done, and all go on and compete until the last
 * one has: a device that were starved would let another do many times its share, and a deadlock
 * would be tries in vain without end, by all. Both are counted, so that nothing depends on how fast
 * the machine is.
 *
 * The second test begins with one chunk in the midst of a window. Workers fill it while another
 * thread adds chunks, each when requests have failed since the last: out of order, some with memory
 * that goes on where the neighbour's ends and some without, the last one short. Once all are there,
 * what is asked for is a quarter of the pool, and no request may fail any more.
 *
 * Data is checked on both sides of every transfer: the device finds the driver's bytes and answers
 * with others, which the driver has to find. In the end the pool is as it was: nothing live, all
 * bytes zero, and one piece.
 *
 * SLUICE_SEED and SLUICE_STEPS repeat and prolong a run.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "rig.h"

#define MiB	 (1024u * 1024u)
#define THREADS	 8  /* of the second test */
#define DEPTH	 64 /* requests in flight, at most */
#define SEGMENTS 4
#define TRIES	 4000000 /* in vain, while nobody else makes a request */

struct request {
	struct sluice_sg sg[SEGMENTS];
	uint8_t *buf; /* the elements, one after the other */
	uint32_t n;   /* elements */
	uint32_t bytes;
	uint8_t fill;
	uint8_t dir;
	bool mapped; /* in flight */
};

struct device {
	struct sluice_dma dma;
	struct sluice_dma_stats *stats;
	struct request request[DEPTH];
	uint32_t in_flight, bytes_in_flight;
	uint32_t longest;     /* bytes of one element */
	struct request *next; /* made, but not mapped yet */
	uint64_t since;	      /* what made was when it was first tried in vain; 0 if it was not */
	uint64_t due;	      /* what made was when it insisted; 0 if it did not */
	uint64_t lapsed;      /* turns in vain until it was: after one, another rule holds */
	uint64_t tries;	      /* in vain, since made was seen */
	uint64_t seen;
	uint64_t passed,
		overdue; /* the most made by others while one waited, and once it insisted */
	uint64_t done;	 /* requests made */
	uint64_t seed;
};

static uint8_t *(*shared)(uint64_t dev); /* where the devices find an address */
static const char *failure;
static atomic_ullong made; /* requests, by all devices */
static uint32_t running;   /* threads */

static uint64_t env(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

/* cmocka's assertions are for the main thread: others note the first thing that went wrong. */
static bool holds(bool condition, const char *what)
{
	if (!condition)
		__atomic_store_n(&failure, what, __ATOMIC_RELAXED);
	return condition;
}
#define HOLDS(condition) holds(condition, #condition)

static bool failed(void)
{
	return __atomic_load_n(&failure, __ATOMIC_RELAXED) != NULL;
}

static void device_open(struct device *device, struct sluice_pool *pool, uint16_t id)
{
	static const uint32_t masks[] = {0, 0, 511, 4095};

	memset(device, 0, sizeof(*device));
	device->stats = calloc(pool->n_caches, sizeof(*device->stats));
	assert_non_null(device->stats);
	sluice_dma_init(&device->dma, pool, id, device->stats);
	device->dma.min_align_mask = masks[id % 4];
	device->seed = env("SLUICE_SEED", 20261121) * 1000 + id;
}

static void device_close(struct device *device)
{
	struct sluice_dma_stats sum;

	sluice_dma_get_stats(&device->dma, &sum);
	assert_int_equal(sluice_dma_live(&device->dma), 0);
	assert_int_equal(sum.refused, 0);
	sluice_dma_close(&device->dma);
	free(device->stats);
}

/* A request of one to four elements, of lengths as the seed saw them. */
static void request_make(struct device *device, struct request *request)
{
	uint32_t n = 1 + (uint32_t)(rig_random(&device->seed) % SEGMENTS), at = 0;

	request->bytes = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t len = rig_length(&device->seed);

		request->sg[i].len = len < device->longest ? len : device->longest;
		request->bytes += (uint32_t)request->sg[i].len;
	}
	request->buf = malloc(request->bytes);
	if (!HOLDS(request->buf != NULL))
		abort();
	for (uint32_t i = 0; i < n; i++) {
		request->sg[i].orig = (uintptr_t)request->buf + at;
		at += (uint32_t)request->sg[i].len;
	}
	request->fill = (uint8_t)(rig_random(&device->seed) | 1);
	request->dir = (uint8_t)(rig_random(&device->seed) % 3);
	memset(request->buf, request->fill, request->bytes);
	request->n = n;
}

/* The device's part, and then the driver's. */
static void request_end(struct device *device, struct request *request)
{
	uint8_t answer = (uint8_t)~request->fill;

	for (uint32_t i = 0; i < request->n; i++) {
		uint8_t *p = shared(request->sg[i].dma);

		HOLDS(rig_all(p, request->sg[i].len, request->fill));
		memset(p, answer, request->sg[i].len);
	}
	HOLDS(!sluice_dma_unmap_sg(&device->dma, request->sg, request->n,
				   (enum sluice_dir)request->dir, 0));
	HOLDS(rig_all(request->buf, request->bytes,
		      request->dir == SLUICE_TO_DEVICE ? request->fill : answer));
	free(request->buf);
	device->in_flight--;
	device->bytes_in_flight -= request->bytes;
	request->mapped = false;
}

static void end_any(struct device *device)
{
	uint32_t i = (uint32_t)(rig_random(&device->seed) % DEPTH);

	while (!device->request[i].mapped)
		i = (i + 1) % DEPTH;
	request_end(device, &device->request[i]);
}

/*
 * Keep account of waiting, after a try that began when before requests had been made and ended when
 * now had. The pool's promise is about a device that tries: it is passed SLUICE_TURN_PASSES times,
 * and if it tries again then, by the others' turns and what is just being mapped, for as long as its
 * tries are in vain: that there was room while it did not try is not the pool's doing. Each thread may
 * have mapped a request that it has not counted yet.
 */
static void waited(struct device *device, uint64_t before, uint64_t now, int ret)
{
	struct sluice_dma_stats sum;

	if (device->since && before > device->since + device->passed)
		device->passed = before - device->since;
	if (ret && !device->since) {
		sluice_dma_get_stats(&device->dma, &sum);
		device->lapsed = sum.lapsed;
		device->since = now + 1;
	} else if (ret && !device->due && before >= device->since + running + SLUICE_TURN_PASSES) {
		device->due = now;
	} else if (ret && device->due && before > device->due + device->overdue) {
		sluice_dma_get_stats(&device->dma, &sum);
		if (sum.lapsed == device->lapsed)
			device->overdue = before - device->due;
	}
}

/*
 * Try once to map the request that is next. One that finds no room waits for one of the device's
 * own to end, as a driver does, or else for whoever has the room: the caller comes again. True if
 * it was mapped.
 */
static bool device_try(struct device *device, bool may_fail)
{
	struct request *request = device->next;
	uint64_t before, now;
	int ret;

	if (!request) {
		for (request = device->request; request->mapped;)
			request++;
		request_make(device, request);
		device->next = request;
		device->since = device->due = device->tries = 0;
	}
	before = atomic_load(&made);
	ret = sluice_dma_map_sg(&device->dma, request->sg, request->n,
				(enum sluice_dir)request->dir);
	now = atomic_load(&made);
	waited(device, before, now, ret);
	if (ret) {
		if (now != device->seen)
			device->tries = 0;
		device->seen = now;
		HOLDS(ret == -ENOSPC && may_fail);
		HOLDS(++device->tries < TRIES);
		if (device->in_flight)
			end_any(device);
		return false;
	}
	atomic_fetch_add(&made, 1);
	request->mapped = true;
	device->next = NULL;
	device->done++;
	device->in_flight++;
	device->bytes_in_flight += request->bytes;
	return true;
}

static void device_drain(struct device *device)
{
	while (device->in_flight)
		end_any(device);
	if (device->next) {
		free(device->next->buf);
		/* It is given up: nobody has to wait for it. */
		sluice_dma_close(&device->dma);
	}
	device->next = NULL;
}

/* What was handed out has all come back, refused was nothing. */
static void pool_is_unused(struct sluice_pool *pool)
{
	struct sluice_pool_stats stats;

	sluice_pool_get_stats(pool, &stats);
	assert_int_equal(stats.used, 0);
	assert_int_equal(stats.refused, 0);
	/* Otherwise the pool was not too small. */
	assert_true(stats.full > 0);
}

/* Take and give back runs of these lengths: only if nothing stayed behind in a cache or a slab. */
static void pool_is_whole(struct sluice_pool *pool, const uint32_t *mib, uint32_t n)
{
	struct sluice_slot slot[8];

	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(sluice_pool_alloc(pool, mib[i] * MiB, 1, &slot[i]), 0);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(sluice_pool_free(pool, slot[i].dev), 0);
}

#define DEVICES 20
#define CROWDED (2 * MiB)
/*
 * Times its share that no device gets while another is behind. What the pool promises is checked by
 * waited(); this is about what comes of it, with devices that may not get a CPU for a while.
 */
#define STARVED 20
#define WAITING 16 /* requests in flight of each */

static struct rig rig;
static struct device devices[DEVICES];
static uint64_t share;	   /* requests that each device has to get done */
static atomic_uint behind; /* devices that have not yet */

static uint8_t *shared_rig(uint64_t dev)
{
	return rig_device(&rig, dev);
}

/* Each device has a thread of its own, as each disk has its queue. */
static void *crowd(void *arg)
{
	struct device *device = arg;

	while (atomic_load(&behind) && !failed()) {
		if (device->in_flight == WAITING)
			end_any(device);
		if (!device_try(device, true)) {
			/* The room is with other threads. */
			sched_yield();
			continue;
		}
		if (device->done == share)
			atomic_fetch_sub(&behind, 1);
		HOLDS(device->done < share * STARVED);
	}
	device_drain(device);
	return NULL;
}

static void twenty_devices_on_a_small_pool(void **state)
{
	uint64_t most = 0, passed = 0, overdue = 0, lapsed = 0;
	struct sluice_dma_stats sum;
	pthread_t threads[DEVICES];

	(void)state;
	failure = NULL;
	running = DEVICES;
	share = env("SLUICE_STEPS", 200);
	atomic_store(&behind, DEVICES);
	atomic_store(&made, 0);
	rig_open(&rig, CROWDED);
	shared = shared_rig;
	for (uint16_t d = 0; d < DEVICES; d++) {
		device_open(&devices[d], &rig.mem->pool, (uint16_t)(d + 1));
		devices[d].longest = (uint32_t)sluice_dma_max_mapping(&devices[d].dma);
	}
	for (uint32_t i = 0; i < DEVICES; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crowd, &devices[i]), 0);
	for (uint32_t i = 0; i < DEVICES; i++)
		pthread_join(threads[i], NULL);
	if (failed())
		fail_msg("%s", failure);
	for (uint32_t d = 0; d < DEVICES; d++) {
		assert_true(devices[d].done >= share);
		most = devices[d].done > most ? devices[d].done : most;
		passed = devices[d].passed > passed ? devices[d].passed : passed;
		overdue = devices[d].overdue > overdue ? devices[d].overdue : overdue;
		sluice_dma_get_stats(&devices[d].dma, &sum);
		lapsed += sum.lapsed;
		device_close(&devices[d]);
	}
	print_message("share %llu, the busiest made %llu; one request was passed by %llu of %llu, "
		      "once it "
		      "insisted by %llu; turns in vain: %llu\n",
		      (unsigned long long)share, (unsigned long long)most,
		      (unsigned long long)passed, (unsigned long long)atomic_load(&made),
		      (unsigned long long)overdue, (unsigned long long)lapsed);
	/* Each other device's turn, and what is being mapped; and some, for tries that met with those. */
	assert_in_range(overdue, 0, 4 * (DEVICES - 1 + DEVICES));
	pool_is_unused(&rig.mem->pool);
	pool_is_whole(&rig.mem->pool, (uint32_t[]){CROWDED / MiB}, 1);
	assert_true(rig_all(rig.mem->region.cpu, CROWDED, 0));
	rig_close(&rig);
}

#define CHUNKS	    8
#define SHORT	    (1 * MiB)					/* of the last one */
#define GROWN	    ((CHUNKS - 1) * SLUICE_CHUNK_BYTES + SHORT) /* bytes in the end */
#define MODEST	    (GROWN / 4 / THREADS) /* bytes in flight of each thread then */
#define PATIENCE    2000 /* requests after which a chunk is added although none has failed */
#define ELEMENT	    (64 * 1024)
#define BIG_ELEMENT (256 * 1024)

/* Where each chunk's memory is: 0 to 3 join, 6 and 7 too; 4 and 5 are neighbours to none. */
static const uint32_t place[CHUNKS] = {0, 1, 2, 3, 7, 5, 8, 9};
#define PLACES 10
static const uint32_t order[CHUNKS] = {2, 7, 0, 5, 1, 6, 3, 4};

static uint8_t *places;
static struct sluice_pool pool;
static pthread_barrier_t barrier;
static atomic_uint grown;

static uint8_t *shared_places(uint64_t dev)
{
	uint64_t at = dev - RIG_DEV;

	/* What reaches into the next chunk does so where the memory goes on. */
	return places + ((uint64_t)place[at / SLUICE_CHUNK_BYTES] * SLUICE_CHUNK_BYTES) +
	       at % SLUICE_CHUNK_BYTES;
}

static void *aligned(size_t size)
{
	void *p = aligned_alloc(64, (size + 63) & ~(size_t)63);

	if (!p)
		abort();
	return p;
}

static bool add_chunk(uint32_t c, void *meta)
{
	return !sluice_pool_add(&pool, meta, places + (size_t)place[c] * SLUICE_CHUNK_BYTES,
				RIG_DEV + (uint64_t)c * SLUICE_CHUNK_BYTES,
				c == CHUNKS - 1 ? SHORT : SLUICE_CHUNK_BYTES);
}

/* Adds the others when requests fail; when no more do, all the same. */
static void *grow(void *metas)
{
	struct sluice_pool_stats stats;

	for (uint32_t i = 1; i < CHUNKS && !failed(); i++) {
		unsigned long long then = atomic_load(&made);
		uint64_t full;

		sluice_pool_get_stats(&pool, &stats);
		full = stats.full;
		while (stats.full == full && atomic_load(&made) < then + PATIENCE && !failed()) {
			sched_yield();
			sluice_pool_get_stats(&pool, &stats);
		}
		HOLDS(add_chunk(order[i], ((void **)metas)[i]));
	}
	atomic_store(&grown, 1);
	return NULL;
}

static void *use(void *arg)
{
	struct device *device = arg;

	while (!atomic_load(&grown) && !failed()) {
		if (device->in_flight == DEPTH)
			end_any(device);
		if (!device_try(device, true) && !device->in_flight)
			sched_yield();
	}
	device_drain(device);
	/* From here on nobody has more than his part, so there is room for each. */
	pthread_barrier_wait(&barrier);
	device->longest = ELEMENT;
	for (uint64_t left = env("SLUICE_STEPS", 200) * 5; left && !failed(); left--) {
		while (device->in_flight == DEPTH ||
		       device->bytes_in_flight > MODEST - SEGMENTS * ELEMENT)
			end_any(device);
		(void)device_try(device, false);
	}
	device_drain(device);
	return NULL;
}

static void a_pool_grows_under_load(void **state)
{
	struct sluice_chunk_place chunks[CHUNKS];
	struct sluice_cache *caches[2] = {aligned(sluice_cache_size()),
					  aligned(sluice_cache_size())};
	void *metas[CHUNKS];
	pthread_t threads[THREADS + 1];

	(void)state;
	failure = NULL;
	running = THREADS;
	atomic_store(&grown, 0);
	places = mmap(NULL, (size_t)PLACES * SLUICE_CHUNK_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(places, MAP_FAILED);
	/* What is not the pool's keeps this, what is loses it. */
	memset(places, 0x99, (size_t)PLACES * SLUICE_CHUNK_BYTES);
	shared = shared_places;
	assert_int_equal(sluice_pool_init(&pool, &(struct sluice_pool_config){.name = "grows",
									      .dev = RIG_DEV,
									      .chunks = chunks,
									      .max_chunks = CHUNKS,
									      .caches = caches,
									      .n_caches = 2}),
			 0);
	for (uint32_t i = 0; i < CHUNKS; i++)
		metas[i] = aligned(sluice_chunk_size());
	assert_true(add_chunk(order[0], metas[0]));
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (uint16_t d = 0; d < THREADS; d++) {
		device_open(&devices[d], &pool, (uint16_t)(d + 1));
		devices[d].longest = BIG_ELEMENT;
		assert_int_equal(pthread_create(&threads[d], NULL, use, &devices[d]), 0);
	}
	assert_int_equal(pthread_create(&threads[THREADS], NULL, grow, metas), 0);
	for (uint32_t i = 0; i <= THREADS; i++)
		pthread_join(threads[i], NULL);
	if (failed())
		fail_msg("%s", failure);
	for (uint32_t d = 0; d < THREADS; d++)
		device_close(&devices[d]);
	pool_is_unused(&pool);
	pool_is_whole(&pool, (uint32_t[]){8, 3, 2, 2}, 4);
	for (uint32_t i = 0, c; i < PLACES; i++) {
		for (c = 0; c < CHUNKS && place[c] != i; c++)
			;
		assert_true(rig_all(places + (size_t)i * SLUICE_CHUNK_BYTES,
				    c == CHUNKS - 1 ? SHORT : SLUICE_CHUNK_BYTES,
				    c == CHUNKS ? 0x99 : 0));
	}
	assert_true(rig_all(shared_places(RIG_DEV + GROWN), SHORT, 0x99));
	pthread_barrier_destroy(&barrier);
	for (uint32_t i = 0; i < CHUNKS; i++)
		free(metas[i]);
	free(caches[0]);
	free(caches[1]);
	munmap(places, (size_t)PLACES * SLUICE_CHUNK_BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(twenty_devices_on_a_small_pool),
		cmocka_unit_test(a_pool_grows_under_load),
	};

	return cmocka_run_group_tests_name("devices", tests, NULL, NULL);
}
