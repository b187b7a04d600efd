// SPDX-License-Identifier: GPL-2.0-only
/*
 * lower_direct.c - below us: nothing
 *
 * Theory of operation
 * -------------------
 * A device without an IOMMU finds memory at its physical address, and all of it, whatever we do: this
 * lower confines nothing, and says so. What is left of Sluice then is that what is bounced stays as it
 * was when it was handed over, and a common way to measure. In the core that is the mechanism window,
 * of one bank over what a device with addresses of 32 bits reaches; policy auto then has nothing to
 * gain by copying, and shares. What lies higher bounces.
 *
 * In a confidential guest it is the other way round: the device reaches nothing but what has been made
 * shared, which system.c does with the chunks of a pool before it opens them; a transfer's own pages
 * are private, so everything bounces. That is the mechanism region, and it is called private.
 *
 * 32 bits, because it is not known yet what the device's driver will say of its addresses.
 */
#include <linux/dma-direct.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include <sluice/window.h>

#include "compat.h"
#include "lower.h"
#include "sluice.h"

struct lower_direct {
	struct sluice_lower lower;
	struct sluice_bank bank;
	union {
		struct sluice_window window;
		struct sluice_region region;
	};
};

static u64 name(const void *cpu)
{
	return virt_to_phys((void *)cpu);
}

static void give(struct sluice_lower *lower)
{
	kfree(container_of(lower, struct lower_direct, lower));
}

static const struct sluice_lower_ops private_ops = {
	.name = "private",
	.confines = true,
	.zone = GFP_DMA32,
	.give = give,
};

static struct sluice_lower *take(struct device *dev, u64 pool_bytes, const char **why)
{
	struct lower_direct *ld;
	int err;

	if (sluice_compat_iommu(dev) || get_dma_ops(dev)) {
		*why = "something else than an IOMMU maps its DMA";
		return ERR_PTR(-EBUSY);
	}
	ld = kzalloc(sizeof(*ld), GFP_KERNEL);
	if (!ld)
		return ERR_PTR(-ENOMEM);
	ld->lower.ops = &sluice_lower_direct;
	ld->lower.dev = dev;
	ld->lower.pool_window = SZ_4G;
	ld->lower.last = SZ_4G - 1;
	if (sluice_memory_is_private()) {
		ld->lower.ops = &private_ops;
		err = sluice_region_init(&ld->region, phys_to_virt(0),
					 phys_to_dma_unencrypted(dev, 0), SZ_4G);
		ld->lower.share = &ld->region.share;
	} else {
		ld->bank = (struct sluice_bank){.bytes = SZ_4G};
		err = sluice_window_init(&ld->window, &ld->bank, 1, NULL, NULL);
		ld->lower.share = &ld->window.share;
	}
	if (err) {
		kfree(ld);
		return ERR_PTR(err);
	}
	ld->lower.share->name = name;
	return &ld->lower;
}

const struct sluice_lower_ops sluice_lower_direct = {
	.name = "direct",
	.zone = GFP_DMA32,
	.take = take,
	.give = give,
};
