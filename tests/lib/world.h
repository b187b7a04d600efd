/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * world.h - a guest and a device, with one share mechanism between them
 *
 * Theory of operation
 * -------------------
 * For tests and benchmarks of sharing in place: a piece of memory that plays the guest's, with a pool
 * of four chunks in it that is opened through the mechanism, a device with a place on the driver's
 * side, and the view on the other. Guest-physical, device and CPU addresses all differ.
 *
 *	guest	+0	8 MiB of pool		+8 MiB	tables
 *		+16 MiB	buffers, WORLD_BUFFERS bytes
 */
#ifndef WORLD_H
#define WORLD_H

#include <sluice/grant.h>
#include <sluice/iommu.h>
#include <sluice/place.h>
#include <sluice/window.h>

#include <pthread.h>

#define WORLD_PHYS    UINT64_C(0x40000000)
#define WORLD_BUFFERS (48u << 20)
#define WORLD_BYTES   ((16u << 20) + WORLD_BUFFERS)
#define WORLD_RECORDS 4096u
#define WORLD_TOKENS  64u
#define WORLD_DOMID   3u

enum world_kind { WORLD_WINDOW, WORLD_IOMMU, WORLD_LAZY, WORLD_GRANT, WORLD_PT, WORLD_KINDS };

extern const char *const world_names[WORLD_KINDS];

struct world {
	enum world_kind kind;
	uint8_t *guest, *buffers;
	struct sluice_memory memory;
	struct sluice_share *share;
	struct sluice_view *view;

	/* The driver's end. */
	struct sluice_pool pool;
	struct sluice_chunk_place chunks[4];
	struct sluice_cache **caches;
	struct sluice_dma dma;
	struct sluice_dma_stats *dma_stats;
	struct sluice_place place;
	struct sluice_placed *records;
	struct sluice_place_cpu *cpus;
	struct sluice_costs costs;
	struct sluice_iova_cache *iova_caches;
	void *iova_memory;
	uint8_t *states;

	/* The mechanisms. */
	struct sluice_bank bank[2];
	struct sluice_window window;
	struct sluice_window_view window_view;
	struct sluice_iommu iommu;
	struct sluice_viommu viommu;
	pthread_mutex_t queue; /* one request at a time */
	struct sluice_span *lazy;
	uint8_t properties[64];
	struct sluice_grant grant;
	struct sluice_grant_view grant_view;
	struct sluice_pt pt;
	struct sluice_pt_view pt_view;
	void *device_memory[4];

	/* What the transport and the callbacks of the test have seen. */
	uint64_t done, ended;
	/* Requests that were not answered at once: the answers, by token. */
	uint8_t answers[WORLD_TOKENS];
	bool waiting[WORLD_TOKENS];
	/* Replaces the transport of requests, if set: round trips of another kind. */
	void (*trip)(struct world *world);
};

/* Make a world; false if there is not enough memory. n_caches as many as CPUs. */
bool world_open(struct world *world, enum world_kind kind);
void world_close(struct world *world);

/* Where a buffer is for the guest. */
static inline uint64_t world_phys(const struct world *world, const void *cpu)
{
	return WORLD_PHYS + (uint64_t)((const uint8_t *)cpu - world->guest);
}

#endif
