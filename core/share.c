/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * share.c - what all mechanisms have in common, and the mechanism region
 *
 * Theory of operation: see sluice/share.h. The checks that every mechanism needs are made here,
 * once, before it is called.
 *
 * region: memory that the device has reached from the start. Opening is arithmetic and a bounds
 * check; closing is nothing, because nothing can take the region away from the device.
 */
#include <sluice/share.h>

#define GRANULE_MASK UINT64_C(4095)

/* Check a span to be shared and add its pieces up. */
static int check_span(const struct sluice_share *share, struct sluice_span *span)
{
	if (span->n == 0 || span->access == 0 || span->access & ~(SLUICE_READ | SLUICE_WRITE))
		return -EINVAL;
	if (span->n > 1 && !(share->ops->flags & SLUICE_SHARE_JOINS))
		return -EOPNOTSUPP;
	span->bytes = 0;
	for (uint32_t i = 0; i < span->n; i++) {
		const struct sluice_piece *piece = &span->pieces[i];

		if (piece->bytes == 0 || (piece->orig | piece->bytes) & GRANULE_MASK ||
		    piece->orig > UINT64_MAX - piece->bytes ||
		    piece->bytes > (UINT64_C(1) << 40) - span->bytes)
			return -EINVAL;
		span->bytes += piece->bytes;
	}
	return 0;
}

int sluice_share_spans(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	int ret = n == 0 ? -EINVAL : share->ops->share ? 0 : -EOPNOTSUPP;

	for (uint32_t i = 0; i < n && !ret; i++)
		ret = check_span(share, &spans[i]);
	if (!ret)
		ret = share->ops->share(share, spans, n);
	if (ret)
		sluice_count(&share->stats.refused, n);
	else
		sluice_count(&share->stats.shares, n);
	for (uint32_t i = 0; i < n; i++) {
		/* What could not be taken back again is shared, too. */
		if (!ret || (ret == -EBUSY && spans[i].result == -EBUSY))
			sluice_count(&share->stats.granules, spans[i].bytes / (GRANULE_MASK + 1));
	}
	return ret;
}

int sluice_share_end(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	int ret;

	if (n == 0 || !share->ops->unshare)
		return -EINVAL;
	ret = share->ops->unshare(share, spans, n);
	for (uint32_t i = 0; i < n; i++) {
		if (spans[i].result == -EBUSY) {
			sluice_count(&share->stats.busy, 1);
		} else if (!spans[i].result) {
			sluice_count(&share->stats.unshares, 1);
			sluice_count(&share->stats.granules,
				     0 - spans[i].bytes / (GRANULE_MASK + 1));
		}
	}
	return ret;
}

int sluice_share_flush(struct sluice_share *share)
{
	return share->ops->flush ? share->ops->flush(share) : 0;
}

#define CHUNK_SHIFT 21 /* as in sluice/pool.h */

bool sluice_chunk_window_take(struct sluice_chunk_window *window, uint64_t *dev)
{
	for (uint32_t i = 0; i < window->chunks; i++) {
		uint64_t bit = UINT64_C(1) << i % 64;

		if (window->taken[i / 64] & bit)
			continue;
		window->taken[i / 64] |= bit;
		*dev = window->dev + ((uint64_t)i << CHUNK_SHIFT);
		return true;
	}
	return false;
}

void sluice_chunk_window_give(struct sluice_chunk_window *window, uint64_t dev)
{
	uint64_t i = (dev - window->dev) >> CHUNK_SHIFT;

	if (i < window->chunks)
		window->taken[i / 64] &= ~(UINT64_C(1) << i % 64);
}

/* share is the first member of struct sluice_region. */
static const struct sluice_region *region_of(const struct sluice_share *share)
{
	return (const struct sluice_region *)share;
}

static int region_open(struct sluice_share *share, void *cpu, uint64_t size, uint64_t *dev)
{
	const struct sluice_region *region = region_of(share);
	uint64_t offset = (uint64_t)((uintptr_t)cpu - (uintptr_t)region->cpu);

	if ((uintptr_t)cpu < (uintptr_t)region->cpu || offset > region->size ||
	    size > region->size - offset)
		return -ERANGE;
	*dev = region->dev + offset;
	return 0;
}

static int region_close(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev)
{
	(void)share;
	(void)cpu;
	(void)size;
	(void)dev;
	return 0;
}

static const struct sluice_share_ops region_ops = {
	.name = "region",
	.open = region_open,
	.close = region_close,
};

int sluice_region_init(struct sluice_region *region, void *cpu, uint64_t dev, uint64_t size)
{
	if (size == 0 || dev > UINT64_MAX - size || (uintptr_t)cpu > UINTPTR_MAX - size)
		return -EINVAL;
	sluice_zero(region, sizeof(*region));
	region->share.ops = &region_ops;
	region->cpu = cpu;
	region->dev = dev;
	region->size = size;
	return 0;
}
