/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * reserve.h - a part of the pool that is one device's own
 *
 * Theory of operation: see reserve.c.
 */
#ifndef SLUICE_RESERVE_H
#define SLUICE_RESERVE_H

#include <sluice/dma.h>

#include "cache.h"

/*
 * Take a slot out of the reserve that has been claimed; as cache_take(), with the lock of the cache
 * that counts it. -ENOSPC if too little is left of it.
 */
struct cache_took sluice_reserve_take(struct sluice_dma *dma, struct sluice_cache *cache,
				      uint32_t claim, uint64_t size, uint32_t align);

/*
 * Claim the reserve for one mapping that found no room, with what this CPU has in it already. As
 * sluice_dma_reserve_begin(), and to be ended in the same way.
 */
uint32_t sluice_reserve_join(struct sluice_dma *dma, uint64_t bytes);

/* Give a device's reserve back, now or with the last slot that is taken of it. Under the pool's lock. */
void sluice_reserve_close(struct sluice_dma *dma);

#endif
