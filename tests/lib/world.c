/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * world.c - a guest and a device, with one share mechanism between them
 *
 * Theory of operation: see world.h. Requests to the virtio-iommu are handled where they are
 * submitted; one that the device does not answer at once is not waited for.
 */
#include "world.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define POOL_BYTES    (8u << 20)
#define TABLES	      (8u << 20)
#define IOMMU_FIRST   UINT64_C(0x100000)
#define IOMMU_LAST    UINT64_C(0x1ffffffff)
#define PT_GRANULES   (UINT64_C(1) << 18)
#define GRANT_ENTRIES (1u << 17)
#define MAPPINGS      65536u
#define LAZY_SPANS    64u
#define ENDPOINT      5u
#define WINDOW_OFFSET UINT64_C(0x800000000000)

const char *const world_names[WORLD_KINDS] = {"window", "iommu", "iommu lazy", "grant v1",
					      "grant pt"};

static const struct sluice_viommu_reserved reserved[] = {
	{UINT64_C(0xfee00000), UINT64_C(0xfeefffff), 1},
	{UINT64_C(0x10000000), UINT64_C(0x10000fff), 0},
};

/* A place for an answer that is late: its token, or 0. */
static uint32_t take_token(struct world *world)
{
	for (uint32_t i = 1; i < WORLD_TOKENS; i++) {
		bool no = false;

		if (__atomic_compare_exchange_n(&world->waiting[i], &no, true, false,
						__ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
			__atomic_store_n(&world->answers[i], SLUICE_IOMMU_UNANSWERED,
					 __ATOMIC_RELEASE);
			return i;
		}
	}
	return 0;
}

static void submit(void *context, struct sluice_iommu_message *messages, uint32_t n)
{
	struct world *world = context;

	if (world->trip)
		world->trip(world);
	pthread_mutex_lock(&world->queue);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t in[SLUICE_VIOMMU_TAIL_BYTES];
		uint32_t token = take_token(world), written = 0;

		/* A queue that is full takes nothing. */
		if (token &&
		    sluice_viommu_request(&world->viommu, messages[i].out, messages[i].out_len, in,
					  sizeof(in), &written, token)) {
			messages[i].token = token;
			continue;
		}
		if (written == sizeof(in))
			messages[i].status = in[0];
		__atomic_store_n(&world->waiting[token], false, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&world->queue);
}

static uint8_t poll_answer(void *context, uint64_t token)
{
	struct world *world = context;
	uint8_t status = __atomic_load_n(&world->answers[token], __ATOMIC_ACQUIRE);

	if (status != SLUICE_IOMMU_UNANSWERED)
		__atomic_store_n(&world->waiting[token], false, __ATOMIC_RELEASE);
	return status;
}

static uint32_t probe(void *context, const uint8_t *out, uint32_t out_len, uint8_t *in,
		      uint32_t in_len)
{
	struct world *world = context;
	uint32_t written;

	(void)sluice_viommu_request(&world->viommu, out, out_len, in, in_len, &written, 0);
	return written;
}

static void done(void *context, uint64_t cookie, uint8_t status)
{
	struct world *world = context;

	__atomic_store_n(&world->answers[cookie], status, __ATOMIC_RELEASE);
	__atomic_add_fetch(&world->done, 1, __ATOMIC_RELAXED);
}

static void ended(void *context, uint64_t orig, uint64_t len)
{
	struct world *world = context;

	(void)orig;
	(void)len;
	__atomic_add_fetch(&world->ended, 1, __ATOMIC_RELAXED);
}

static uint64_t clock_ns(void *context)
{
	struct timespec t;

	(void)context;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Whole cache lines. */
static void *lines_alloc(size_t bytes)
{
	return aligned_alloc(64, (bytes + 63) & ~(size_t)63);
}

static uint64_t to_phys(const struct world *world)
{
	return WORLD_PHYS - (uint64_t)(uintptr_t)world->guest;
}

static bool set_window(struct world *world)
{
	/* Two banks of 32 MiB, with a gap between them for the device. */
	for (uint32_t i = 0; i < 2; i++) {
		world->bank[i].orig = (uintptr_t)world->guest + i * (WORLD_BYTES / 2);
		world->bank[i].dev = WINDOW_OFFSET + i * UINT64_C(0x100000000);
		world->bank[i].bytes = WORLD_BYTES / 2;
	}
	world->share = &world->window.share;
	world->view = &world->window_view.view;
	if (sluice_window_init(&world->window, world->bank, 2, NULL, NULL))
		return false;
	/* The device's end has guest-physical addresses where the driver's has names. */
	struct sluice_bank *banks = world->device_memory[0] = calloc(2, sizeof(*banks));

	if (!banks)
		return false;
	for (uint32_t i = 0; i < 2; i++) {
		banks[i] = world->bank[i];
		banks[i].orig += to_phys(world);
	}
	return !sluice_window_view_init(&world->window_view, banks, 2, &world->memory, 1) &&
	       !sluice_window_view_switch(&world->window_view, true);
}

static bool set_iommu(struct world *world, uint32_t n_cpus)
{
	static const uint32_t ids[] = {ENDPOINT, ENDPOINT + 1};
	struct sluice_viommu_config device = {
		.input_start = 0x1000,
		.input_last = UINT64_MAX,
		.domain_last = 15,
		.reserved = reserved,
		.n_reserved = 2,
		.probe_size = 56,
		.n_mappings = MAPPINGS,
		.n_domains = 4,
		.endpoint_ids = ids,
		.n_endpoints = 2,
		.n_pending = 64,
		.memory = &world->memory,
		.n_memory = 1,
		.done = done,
		.context = world,
	};
	struct sluice_iommu_config driver = {
		.submit = submit,
		.poll = poll_answer,
		.probe = probe,
		.context = world,
		.domain = 1,
		.endpoint = ENDPOINT,
		.first = IOMMU_FIRST,
		.last = IOMMU_LAST,
		.to_phys = to_phys(world),
		.caches = world->iova_caches,
		.n_caches = n_cpus,
		.properties = world->properties,
		.probe_size = device.probe_size,
		.pool_bytes = POOL_BYTES,
	};

	device.mappings = world->device_memory[0] = calloc(MAPPINGS, sizeof(*device.mappings));
	device.domains = world->device_memory[1] = calloc(4, sizeof(*device.domains));
	device.endpoints = world->device_memory[2] = calloc(2, sizeof(*device.endpoints));
	device.pending = world->device_memory[3] = calloc(64, sizeof(*device.pending));
	driver.iova_memory = world->iova_memory =
		calloc(1, sluice_iova_size(IOMMU_FIRST >> 12, IOMMU_LAST >> 12));
	if (world->kind == WORLD_LAZY) {
		driver.lazy_spans = LAZY_SPANS;
		driver.lazy = world->lazy =
			calloc(LAZY_SPANS + SLUICE_IOMMU_BATCH, sizeof(*driver.lazy));
	}
	if (!device.mappings || !device.domains || !device.endpoints || !device.pending ||
	    !driver.iova_memory || (driver.lazy_spans && !driver.lazy) ||
	    sluice_viommu_init(&world->viommu, &device) ||
	    sluice_iommu_init(&world->iommu, &driver) || sluice_iommu_attach(&world->iommu))
		return false;
	world->share = &world->iommu.share;
	world->view = sluice_viommu_endpoint(&world->viommu, ENDPOINT);
	return true;
}

static bool set_grant(struct world *world, uint32_t n_cpus)
{
	struct sluice_grant_config config = {
		.entries = (void *)(world->guest + TABLES),
		.n_entries = GRANT_ENTRIES,
		.first = 8,
		.domid = WORLD_DOMID,
		.to_phys = to_phys(world),
		.caches = world->iova_caches,
		.n_caches = n_cpus,
		.pool_bytes = POOL_BYTES,
	};
	struct sluice_grant_use *uses = world->device_memory[0] =
		calloc(GRANT_ENTRIES, sizeof(*uses));

	config.iova_memory = world->iova_memory = calloc(1, sluice_iova_size(8, GRANT_ENTRIES - 1));
	config.states = world->states = calloc(1, GRANT_ENTRIES);
	world->share = &world->grant.share;
	world->view = &world->grant_view.view;
	return uses && config.iova_memory && config.states &&
	       !sluice_grant_init(&world->grant, &config) &&
	       !sluice_grant_view_init(&world->grant_view, config.entries, GRANT_ENTRIES,
				       WORLD_DOMID, uses, &world->memory, 1);
}

static bool set_pt(struct world *world, uint32_t n_cpus)
{
	struct sluice_pt_config config = {
		.tables = (void *)(world->guest + TABLES),
		.tables_phys = WORLD_PHYS + TABLES,
		.granules = PT_GRANULES,
		.to_phys = to_phys(world),
		.caches = world->iova_caches,
		.n_caches = n_cpus,
		.pool_bytes = POOL_BYTES,
	};
	struct sluice_pt_use *uses = world->device_memory[0] = calloc(PT_GRANULES, sizeof(*uses));

	config.iova_memory = world->iova_memory = calloc(1, sluice_iova_size(1, PT_GRANULES - 1));
	config.states = world->states = calloc(1, PT_GRANULES);
	world->share = &world->pt.share;
	world->view = &world->pt_view.view;
	return uses && config.iova_memory && config.states &&
	       !sluice_pt_init(&world->pt, &config) &&
	       !sluice_pt_view_init(&world->pt_view, config.tables_phys, PT_GRANULES, uses,
				    &world->memory, 1);
}

static bool set_mechanism(struct world *world, uint32_t n_cpus)
{
	switch (world->kind) {
	case WORLD_WINDOW:
		return set_window(world);
	case WORLD_IOMMU:
	case WORLD_LAZY:
		return set_iommu(world, n_cpus);
	case WORLD_GRANT:
		return set_grant(world, n_cpus);
	default:
		return set_pt(world, n_cpus);
	}
}

/* The pool, its chunks opened through the mechanism. */
static bool set_pool(struct world *world, uint32_t n_cpus)
{
	struct sluice_pool_config config = {
		.name = "world", .chunks = world->chunks, .max_chunks = 4, .n_caches = n_cpus};
	uint64_t dev[4];

	for (uint32_t i = 0; i < 4; i++) {
		if (world->share->ops->open(world->share,
					    world->guest + i * (uint64_t)SLUICE_CHUNK_BYTES,
					    SLUICE_CHUNK_BYTES, &dev[i]))
			return false;
	}
	world->caches = calloc(n_cpus, sizeof(*world->caches));
	for (uint32_t i = 0; world->caches && i < n_cpus; i++) {
		world->caches[i] = lines_alloc(sluice_cache_size());
		if (!world->caches[i])
			return false;
	}
	config.caches = world->caches;
	config.dev = dev[0];
	if (!world->caches || sluice_pool_init(&world->pool, &config))
		return false;
	for (uint32_t i = 0; i < 4; i++) {
		void *chunk = lines_alloc(sluice_chunk_size());

		if (!chunk || sluice_pool_add(&world->pool, chunk,
					      world->guest + i * (uint64_t)SLUICE_CHUNK_BYTES,
					      dev[i], SLUICE_CHUNK_BYTES))
			return false;
	}
	return true;
}

bool world_open(struct world *world, enum world_kind kind)
{
	uint32_t n_cpus = (uint32_t)sysconf(_SC_NPROCESSORS_CONF);
	struct sluice_place_config config = {.n_records = WORLD_RECORDS,
					     .n_cpus = n_cpus,
					     .clock = clock_ns,
					     .ended = ended,
					     .context = world};

	memset(world, 0, sizeof(*world));
	world->kind = kind;
	pthread_mutex_init(&world->queue, NULL);
	world->guest =
		mmap(NULL, WORLD_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (world->guest == MAP_FAILED)
		return false;
	world->buffers = world->guest + (16u << 20);
	world->memory = (struct sluice_memory){WORLD_PHYS, WORLD_BYTES, world->guest};
	world->iova_caches = lines_alloc(n_cpus * sizeof(*world->iova_caches));
	world->records = calloc(WORLD_RECORDS, sizeof(*world->records));
	world->cpus = lines_alloc(n_cpus * sizeof(*world->cpus));
	world->dma_stats = lines_alloc(n_cpus * sizeof(*world->dma_stats));
	if (!world->iova_caches || !world->records || !world->cpus || !world->dma_stats ||
	    !set_mechanism(world, n_cpus) || !set_pool(world, n_cpus))
		return false;
	sluice_dma_init(&world->dma, &world->pool, 7, world->dma_stats);
	world->dma.policy.costs = &world->costs;
	config.share = world->share;
	config.records = world->records;
	config.cpus = world->cpus;
	return !sluice_place_init(&world->place, &world->dma, &config);
}

void world_close(struct world *world)
{
	for (uint32_t i = 0; i < world->pool.n_caches; i++)
		free(world->caches[i]);
	for (uint32_t i = 0; i < 4; i++) {
		free(world->chunks[i].meta);
		free(world->device_memory[i]);
	}
	free(world->caches);
	free(world->iova_caches);
	free(world->iova_memory);
	free(world->states);
	free(world->records);
	free(world->cpus);
	free(world->dma_stats);
	free(world->lazy);
	munmap(world->guest, WORLD_BYTES);
}
