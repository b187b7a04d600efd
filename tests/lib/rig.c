/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * rig.c - what the tests of the pool and the DMA layer have in common
 *
 * Theory of operation: see rig.h.
 */
#include <stdlib.h>
#include <string.h>

#include "rig.h"

void rig_open(struct rig *rig, uint64_t size)
{
	assert_int_equal(sluice_memfd_create("rig", size, RIG_DEV, &rig->mem), 0);
	rig->stats = calloc(rig->mem->pool.n_caches, sizeof(*rig->stats));
	assert_non_null(rig->stats);
	sluice_dma_init(&rig->dma, &rig->mem->pool, 7, rig->stats);
}

void rig_close(struct rig *rig)
{
	sluice_dma_close(&rig->dma);
	sluice_memfd_destroy(rig->mem);
	free(rig->stats);
}

struct sluice_dma_stats rig_stats(struct rig *rig)
{
	struct sluice_dma_stats sum;

	sluice_dma_get_stats(&rig->dma, &sum);
	return sum;
}

uint8_t *rig_device(struct rig *rig, uint64_t dev)
{
	return (uint8_t *)rig->mem->region.cpu + (dev - rig->mem->region.dev);
}

/* By memcmp(): sanitizers check its whole range at once, and a loop's bytes one by one. */
bool rig_all(const void *p, size_t n, uint8_t value)
{
	const uint8_t *b = p;

	return !n || (*b == value && !memcmp(b, b + 1, n - 1));
}

/* xorshift64* (Vigna 2016). */
uint64_t rig_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return x * UINT64_C(0x2545f4914f6cdd1d);
}

uint32_t rig_length(uint64_t *state)
{
	static const struct {
		uint32_t per_mille, low, high;
	} bands[] = {
		{35, 1, 512},	   {542, 513, 2048},	{336, 2049, 4096},
		{47, 4097, 16384}, {40, 16385, 524288},
	};
	uint32_t pick = (uint32_t)(rig_random(state) % 1000);
	size_t i = 0;

	while (i + 1 < sizeof(bands) / sizeof(bands[0]) && pick >= bands[i].per_mille)
		pick -= bands[i++].per_mille;
	return bands[i].low + (uint32_t)(rig_random(state) % (bands[i].high - bands[i].low + 1));
}
