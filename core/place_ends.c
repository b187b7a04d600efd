/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * place_ends.c - the parts of granules at the ends of a mapping that stays where it is
 *
 * Theory of operation
 * -------------------
 * A page table can only show whole granules. What lies beside a buffer in its first and its last one is
 * not the device's (the sub-page bounce of 2020), so there the device gets a granule of the pool each, with
 * the buffer's bytes at the same offset and zeroes beside them; the granules between are the driver's own. To
 * the device they are one range.
 *
 * Invariant: a granule of the pool goes back to it zeroed.
 */
#include "internal.h"
#include "place.h"

/* Bytes of a buffer in its first granule if it does not start with it; the same for the last. */
static uint64_t head_bytes(uint64_t orig, uint64_t len)
{
	uint64_t head = (0 - orig) & SLUICE_GRANULE_MASK;

	return head < len ? head : len;
}

static uint64_t tail_bytes(uint64_t orig, uint64_t len)
{
	return (orig + len) & SLUICE_GRANULE_MASK;
}

uint64_t sluice_place_end_bytes(uint64_t orig, uint64_t len)
{
	return head_bytes(orig, len) + tail_bytes(orig, len);
}

void sluice_place_give_ends(struct sluice_dma *dma, struct sluice_placed *placed)
{
	for (uint32_t i = 0; i < 2; i++) {
		if (!placed->end_cpu[i])
			continue;
		sluice_zero(placed->end_cpu[i], SLUICE_GRANULE_BYTES);
		(void)sluice_pool_free(dma->pool, placed->end_dev[i]);
		placed->end_cpu[i] = NULL;
	}
}

/* Take a granule of the pool for an end and lay its bytes down at the same offset. */
static int take_end(struct sluice_dma *dma, struct sluice_placed *placed, uint32_t i, uint64_t orig,
		    uint64_t len)
{
	struct sluice_slot slot;
	int ret = sluice_pool_alloc(dma->pool, SLUICE_GRANULE_BYTES, SLUICE_GRANULE_BYTES, &slot);

	if (ret)
		return ret;
	placed->end_cpu[i] = slot.cpu;
	placed->end_dev[i] = slot.dev;
	sluice_copy((uint8_t *)slot.cpu + (orig & SLUICE_GRANULE_MASK), sluice_orig(orig),
		    (size_t)len);
	return 0;
}

void sluice_place_copy_ends(const struct sluice_placed *placed, uint64_t at, uint64_t len,
			    bool to_device)
{
	uint64_t tail = tail_bytes(placed->orig, placed->len);
	uint64_t starts[2] = {0, placed->len - tail};
	uint64_t sizes[2] = {head_bytes(placed->orig, placed->len), tail};

	for (uint32_t i = 0; i < 2; i++) {
		uint64_t from = at > starts[i] ? at : starts[i];
		uint64_t to = at + len < starts[i] + sizes[i] ? at + len : starts[i] + sizes[i];
		uint8_t *mine, *theirs;

		if (!placed->end_cpu[i] || from >= to)
			continue;
		mine = sluice_orig(placed->orig + from);
		theirs = (uint8_t *)placed->end_cpu[i] +
			 ((placed->orig + from) & SLUICE_GRANULE_MASK);
		if (to_device)
			sluice_copy(theirs, mine, (size_t)(to - from));
		else
			sluice_copy(mine, theirs, (size_t)(to - from));
	}
}

int sluice_place_cut(struct sluice_dma *dma, struct sluice_placed *placed, enum sluice_route route,
		     struct sluice_piece *pieces, uint32_t *n)
{
	const struct sluice_share *share = dma->place->config.share;
	uint64_t orig = placed->orig, len = placed->len;
	uint64_t head = head_bytes(orig, len), tail = tail_bytes(orig, len);
	int ret;

	*n = 0;
	if (route == SLUICE_ROUTE_SHARE) {
		/* Exact, or with what lies beside it, which is reachable as it is. */
		pieces[0].orig = orig & ~SLUICE_GRANULE_MASK;
		pieces[0].bytes =
			(orig + len + SLUICE_GRANULE_MASK - pieces[0].orig) & ~SLUICE_GRANULE_MASK;
		*n = 1;
		return 0;
	}
	if (head) {
		ret = take_end(dma, placed, 0, orig, head);
		if (ret)
			return ret;
		pieces[(*n)++] = (struct sluice_piece){sluice_share_name(share, placed->end_cpu[0]),
						       SLUICE_GRANULE_BYTES};
	}
	pieces[(*n)++] = (struct sluice_piece){orig + head, len - head - tail};
	if (tail) {
		ret = take_end(dma, placed, 1, orig + len - tail, tail);
		if (ret)
			return ret;
		pieces[(*n)++] = (struct sluice_piece){sluice_share_name(share, placed->end_cpu[1]),
						       SLUICE_GRANULE_BYTES};
	}
	return 0;
}
