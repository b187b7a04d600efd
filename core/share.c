/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * share.c - the mechanism region: memory that the device has reached from the start
 *
 * Theory of operation: see sluice/share.h. Opening is arithmetic and a bounds check; closing is
 * nothing, because nothing can take the region away from the device.
 */
#include <sluice/share.h>

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

static void region_close(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev)
{
	(void)share;
	(void)cpu;
	(void)size;
	(void)dev;
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
	region->share.ops = &region_ops;
	region->cpu = cpu;
	region->dev = dev;
	region->size = size;
	return 0;
}
