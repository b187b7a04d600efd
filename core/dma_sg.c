/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * dma_sg.c - scatter lists of one device
 *
 * Theory of operation
 * -------------------
 * A list is its elements, mapped one by one (dma.c), or several at once where they stay in place (place.c).
 * One that finds no room as a whole tries again in the device's reserve (reserve.c), of which it has all or nothing.
 *
 * Invariant: a list is mapped as a whole or not at all.
 */
#include <sluice/dma.h>

#include "place.h"
#include "reserve.h"

/* All elements or none. */
static int map_elements(struct sluice_dma *dma, struct sluice_sg *sg, uint32_t n,
			enum sluice_dir dir, uint32_t claimed)
{
	uint32_t i = 0;
	int ret = 0;

	if (dma->place && !claimed)
		ret = sluice_place_map_sg(dma, sg, n, dir, &i);
	for (; i < n && !ret; i += !ret)
		ret = sluice_dma_list_map(dma, sg[i].orig, sg[i].len, dir, claimed, &sg[i].dma);
	/* The device has never heard of these: there is nothing to copy back. */
	if (ret && i > 0)
		(void)sluice_dma_unmap_sg(dma, sg, i, dir, SLUICE_SKIP_SYNC);
	return ret;
}

int sluice_dma_map_sg(struct sluice_dma *dma, struct sluice_sg *sg, uint32_t n, enum sluice_dir dir)
{
	uint64_t bytes = 0;
	uint32_t claimed;
	int ret;

	if (n == 0)
		return sluice_dma_refuse(dma);
	/* No element is longer than 4 GiB that is not refused, and of the rest no sum matters. */
	for (uint32_t i = 0; i < n; i++)
		bytes += sg[i].len <= UINT32_MAX ? sg[i].len : 0;
	ret = map_elements(dma, sg, n, dir, 0);
	if (ret == -ENOSPC) {
		claimed = sluice_dma_reserve_begin(dma, bytes);
		if (claimed) {
			ret = map_elements(dma, sg, n, dir, claimed);
			sluice_dma_reserve_end(dma, claimed);
		}
	}
	sluice_dma_list_done(dma, bytes, ret);
	return ret;
}

int sluice_dma_unmap_sg(struct sluice_dma *dma, const struct sluice_sg *sg, uint32_t n,
			enum sluice_dir dir, uint32_t flags)
{
	int ret = 0;

	if (dma->place && (uint32_t)dir <= SLUICE_FROM_DEVICE)
		return sluice_place_unmap_sg(dma, sg, n, dir, flags);
	for (uint32_t i = 0; i < n; i++) {
		if (sluice_dma_unmap(dma, sg[i].dma, sg[i].len, dir, flags) < 0)
			ret = -EINVAL;
	}
	return ret;
}
