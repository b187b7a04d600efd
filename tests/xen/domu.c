/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * domu.c - the driver's end of the Xen test: libsluice over a guest's own grant table
 *
 * Theory of operation
 * -------------------
 * A guest with nothing in it but the core (pvh.c starts it): a device with a place, the mechanism
 * grant over the table that Xen gave this domain, and a pool that is granted once, through the same
 * mechanism. It does what domain 0 asks for (control.h) and judges nothing.
 *
 * Entries of the table, by reference: 0 to 7 Xen's own, 8 the control page, from FIRST on those of
 * the device, from OTHER_FIRST on those granted to a domain that does not exist.
 */
#include <sluice/dma.h>
#include <sluice/grant.h>
#include <sluice/place.h>

#include "control.h"
#include "pvh.h"

#define TABLE	    UINT64_C(0x40000000)
#define FRAMES	    4u
#define ENTRIES	    (FRAMES * 512u)
#define FIRST	    16u
#define OTHER_FIRST 1984u
#define OTHER_DOMID 77u
#define RECORDS	    16u

/* A page of its own: it is shared. */
static union {
	struct control control;
	uint8_t page[4096];
} shared __attribute__((aligned(4096)));
static uint8_t area[AREA_BYTES] __attribute__((aligned(4096)));
static uint8_t chunk[SLUICE_CHUNK_BYTES] __attribute__((aligned(4096)));
/* Private memory of pool and allocators: as much as init functions ask for is checked there. */
static uint8_t chunk_meta[SLUICE_CHUNK_BYTES / 8] __attribute__((aligned(64)));
static uint8_t cache_memory[65536] __attribute__((aligned(64)));
static uint64_t iova_memory[2][8192];
static struct sluice_iova_cache iova_caches[2];
static uint8_t states[2][ENTRIES];
static struct sluice_placed records[RECORDS];
static struct sluice_place_cpu cpus[1];
static struct sluice_dma_stats dma_stats[1] __attribute__((aligned(64)));
static struct sluice_chunk_place chunks[1];
static struct sluice_cache *caches[1] = {(void *)cache_memory};

static struct sluice_grant grant, other;
static struct sluice_pool pool;
static struct sluice_dma dma;
static struct sluice_place place;

static bool set_grants(void)
{
	struct sluice_grant_config config = {
		.entries = (void *)(uintptr_t)TABLE,
		.n_entries = OTHER_FIRST,
		.first = FIRST,
		.iova_memory = iova_memory[0],
		.caches = &iova_caches[0],
		.n_caches = 1,
		.states = states[0],
		.pool_bytes = SLUICE_CHUNK_BYTES,
	};

	if (sluice_iova_size(FIRST, ENTRIES - 1) > sizeof(iova_memory[0]) ||
	    sluice_grant_init(&grant, &config))
		return false;
	config.n_entries = ENTRIES;
	config.first = OTHER_FIRST;
	config.domid = OTHER_DOMID;
	config.iova_memory = iova_memory[1];
	config.caches = &iova_caches[1];
	config.states = states[1];
	config.pool_bytes = 0;
	return !sluice_grant_init(&other, &config);
}

static bool set_device(void)
{
	struct sluice_pool_config config = {
		.name = "domu", .chunks = chunks, .max_chunks = 1, .caches = caches, .n_caches = 1};
	struct sluice_place_config there = {.share = &grant.share,
					    .records = records,
					    .n_records = RECORDS,
					    .cpus = cpus,
					    .n_cpus = 1};
	uint64_t dev;

	if (sluice_chunk_size() > sizeof(chunk_meta) ||
	    sluice_cache_size() > sizeof(cache_memory) ||
	    grant.share.ops->open(&grant.share, chunk, sizeof(chunk), &dev))
		return false;
	config.dev = dev;
	if (sluice_pool_init(&pool, &config) ||
	    sluice_pool_add(&pool, (void *)chunk_meta, chunk, dev, sizeof(chunk)))
		return false;
	sluice_dma_init(&dma, &pool, 1, dma_stats);
	return !sluice_place_init(&place, &dma, &there);
}

static int64_t repeat(uint64_t way, uint64_t orig, uint64_t len, uint64_t times)
{
	uint64_t addr;
	int ret = 0;

	dma.policy.kind = (enum sluice_policy_kind)way;
	for (; times > 0 && !ret; times--) {
		ret = sluice_dma_map(&dma, orig, len, SLUICE_TO_DEVICE, &addr);
		if (!ret)
			ret = sluice_dma_unmap(&dma, addr, len, SLUICE_TO_DEVICE, 0);
	}
	return ret;
}

static void tell(uint64_t *values)
{
	struct sluice_place_stats placed;
	struct sluice_dma_stats all;

	sluice_place_get_stats(&dma, &placed);
	sluice_dma_get_stats(&dma, &all);
	values[TOLD_SHARED] = placed.shared;
	values[TOLD_SPLIT] = placed.split;
	values[TOLD_BOUNCED] = all.maps;
	values[TOLD_LINGERED] = placed.lingered;
	values[TOLD_BUSY] = grant.share.stats.busy;
	values[TOLD_GRANULES] = grant.share.stats.granules;
	values[TOLD_OPERATIONS] = grant.share.stats.operations;
	values[TOLD_TRIPS] = grant.share.stats.trips;
}

/* A page of the area granted to a domain that is not domain 0. */
static int64_t grant_other(uint64_t orig, uint64_t *dev)
{
	struct sluice_piece piece = {.orig = orig, .bytes = 4096};
	struct sluice_span span = {.pieces = &piece, .n = 1, .access = SLUICE_READ};
	int ret = sluice_share_spans(&other.share, &span, 1);

	*dev = span.dev;
	return ret;
}

static int64_t serve(uint32_t want, const uint64_t *args, uint64_t *values)
{
	uint64_t orig = (uintptr_t)area + args[0];
	uint8_t *bytes = (void *)(uintptr_t)orig;

	switch (want) {
	case WANT_MAP:
		dma.policy.kind = (enum sluice_policy_kind)args[0];
		return sluice_dma_map(&dma, (uintptr_t)area + args[1], args[2],
				      (enum sluice_dir)args[3], &values[0]);
	case WANT_UNMAP:
		return sluice_dma_unmap(&dma, args[0], args[1], (enum sluice_dir)args[2], 0);
	case WANT_RETRY:
		return (int64_t)sluice_place_retry(&dma);
	case WANT_FILL:
		memset(bytes, (int)args[2], args[1]);
		return 0;
	case WANT_CHECK:
		for (uint64_t i = 0; i < args[1]; i++) {
			if (bytes[i] != args[2])
				return 0;
		}
		return 1;
	case WANT_STATS:
		tell(values);
		return 0;
	case WANT_OTHER:
		return grant_other(orig, &values[0]);
	case WANT_REPEAT:
		return repeat(args[0], (uintptr_t)area + args[1], args[2], args[3]);
	default:
		return -EINVAL;
	}
}

void pvh_main(void)
{
	struct control *control = &shared.control;
	struct sluice_grant_entry *entries = (void *)(uintptr_t)TABLE;

	if (!pvh_init() || !pvh_grant_table(TABLE, FRAMES) || !set_grants() || !set_device())
		pvh_crash();
	control->ready = CONTROL_READY;
	entries[CONTROL_REF].frame = (uint32_t)((uintptr_t)control >> 12);
	sluice_store_release_u32(&entries[CONTROL_REF].word, SLUICE_GTF_PERMIT);
	for (;;) {
		uint32_t asked = sluice_load_acquire_u32(&control->asked);

		if (asked == control->answered) {
			pvh_yield();
			continue;
		}
		control->result = serve(control->want, control->args, control->values);
		sluice_store_release_u32(&control->answered, asked);
	}
}
