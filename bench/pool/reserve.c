/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * reserve.c - what a reserve costs those that do not use it, and those that do
 *
 * Theory of operation: one device maps and unmaps through the whole DMA layer, copy included, 1500 bytes
 * that the device reads. Without a reserve, with one and room in the pool, and with one while somebody
 * keeps all the rest: then each map has looked for room in vain before.
 */
#include <stdlib.h>

#include <sluice/dma.h>
#include <sluice/memfd.h>

#include "bench.h"

#define POOL  ((uint64_t)64 << 20)
#define PAIRS 100000
#define LEN   1500u

static double pairs(struct sluice_dma *dma)
{
	static uint8_t buffer[LEN];
	uint64_t start = ticks(), addr;

	for (uint32_t i = 0; i < PAIRS; i++) {
		if (sluice_dma_map(dma, (uintptr_t)buffer, LEN, SLUICE_TO_DEVICE, &addr) ||
		    sluice_dma_unmap(dma, addr, LEN, SLUICE_TO_DEVICE, 0))
			return 0;
	}
	return (double)(ticks() - start) * tick_ns() / PAIRS;
}

double reserve_round(enum reserve_way way)
{
	struct sluice_dma dma;
	struct sluice_dma_stats *stats;
	struct sluice_memfd *mem;
	struct sluice_slot slot;
	double ns = 0;

	if (sluice_memfd_create("reserve", POOL, 0, &mem))
		return 0;
	stats = calloc(mem->pool.n_caches, sizeof(*stats));
	if (stats) {
		sluice_dma_init(&dma, &mem->pool, 1, stats);
		if (way == RESERVE_NONE || !sluice_dma_reserve(&dma, 1344u << 10)) {
			while (way == RESERVE_USED && !sluice_pool_alloc(&mem->pool, 256, 1, &slot))
				continue;
			ns = pairs(&dma);
		}
		sluice_dma_close(&dma);
	}
	sluice_memfd_destroy(mem);
	free(stats);
	return ns;
}
