/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * dma_stats.c - what a device's counters say
 *
 * Theory of operation
 * -------------------
 * A device has a set of counters for each cache of the pool, which that cache's lock guards (dma.c). Here they
 * are added up, one lock after the other: so the sum is of no one moment.
 *
 * Invariant: what is live by these counters (maps less unmaps) is never below 0.
 */
#include <sluice/dma.h>

#include "cache.h"
#include "place.h"

/* Add up some counters of each cache, under its lock: what happened before what is seen is seen. */
static void add_counters(struct sluice_dma *dma, struct sluice_dma_stats *sum, bool ends)
{
	for (uint32_t i = 0; i < dma->pool->n_caches; i++) {
		struct sluice_cache *cache = dma->pool->caches[i];
		const struct sluice_dma_stats *from = &dma->stats[i];
		unsigned long flags = sluice_lock(&cache->lock);

		if (ends) {
			sum->unmaps += from->unmaps;
			sum->frees += from->frees;
			sum->coherent_freed += from->coherent_freed;
			sum->bytes_from += from->bytes_from;
			sum->scrubbed += from->scrubbed;
			sum->overruns += from->overruns;
		} else {
			sum->allocs += from->allocs;
			sum->coherent += from->coherent;
			sum->bytes_to += from->bytes_to;
			sum->syncs += from->syncs;
			sum->full += from->full;
			sum->refused += from->refused;
			for (uint32_t k = 0; k < SLUICE_HISTOGRAM; k++) {
				sum->sizes[k] += from->sizes[k];
				sum->maps += from->sizes[k];
			}
		}
		sluice_unlock(&cache->lock, flags);
	}
}

void sluice_dma_get_stats(struct sluice_dma *dma, struct sluice_dma_stats *sum)
{
	unsigned long flags;

	sluice_zero(sum, sizeof(*sum));
	/* Ends before starts: what begins and ends meanwhile, elsewhere, must not count as -1. */
	add_counters(dma, sum, true);
	add_counters(dma, sum, false);
	sum->coherent -= sum->coherent_freed;
	flags = sluice_lock(&dma->pool->lock);
	sum->waited = dma->turn.waits;
	sum->turned_away = dma->turn.turned_away;
	sum->lapsed = dma->turn.lapses;
	sum->reserved = dma->reserve.bytes;
	sum->reserve_maps = dma->reserve.maps;
	sluice_unlock(&dma->pool->lock, flags);
}

uint64_t sluice_dma_live(struct sluice_dma *dma)
{
	struct sluice_dma_stats sum;

	sluice_dma_get_stats(dma, &sum);
	return sum.maps + sum.allocs - sum.unmaps - sum.frees +
	       (dma->place ? sluice_load_u64(&dma->place->stats.live) : 0);
}
