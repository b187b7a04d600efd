// SPDX-License-Identifier: GPL-2.0-only
/*
 * list.c - the scatter lists of struct dma_map_ops
 *
 * Theory of operation
 * -------------------
 * A list is mapped as a whole or not at all, and each element for itself: it has its own slot or its own
 * range, so that it can take its own way (bounced, in place, split) and none becomes longer than the driver
 * made it. What is common to elements is what is waited for below: with a place, up to SLUICE_PLACE_LIST of
 * them are handed to the core at a time, which asks the lower for several at once.
 *
 * Errors of map_sg are those that dma_map_sgtable() documents: -ENOMEM to try again later, -EINVAL for never.
 *
 * Invariant: as in ops.c, of live.
 */
#include <linux/dma-map-ops.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>

#include <sluice/place.h>

#include "compat.h"
#include "ops.h"
#include "sluice.h"
#include "trace.h"

/*
 * End some mappings of a device with a place in one go: what is waited for below is waited for once.
 * If one of them was none, how many were is not known; then all are counted on, so that the module stays.
 */
static void unmap_some(struct sluice_device *sd, const struct sluice_sg *sg, u32 n,
		       enum dma_data_direction dir, unsigned long attrs)
{
	u32 flags = attrs & DMA_ATTR_SKIP_CPU_SYNC ? SLUICE_SKIP_SYNC : 0;
	int ret = sluice_dma_unmap_sg(&sd->dma, sg, n, (enum sluice_dir)dir, flags);

	if (ret < 0 && ret != -EBUSY) {
		sluice_misused(&sd->pdev->dev, "unmap a list of", sg->dma, sg->len, dir);
		return;
	}
	while (n--)
		sluice_device_release(sd);
}

static void unmap_list(struct sluice_device *sd, struct scatterlist *sgl, int nents,
		       enum dma_data_direction dir, unsigned long attrs)
{
	struct sluice_sg some[SLUICE_PLACE_LIST];
	/* Asked once: what has been put into some is ended, whoever begins to trace meanwhile. */
	bool one_by_one = !sd->dma.place || trace_unmap_enabled();
	struct scatterlist *sg;
	u32 n = 0;
	int i;

	for_each_sg (sgl, sg, nents, i) {
		if (one_by_one) {
			sluice_unmap_one(sd, sg_dma_address(sg), sg_dma_len(sg), dir, attrs);
			continue;
		}
		some[n].dma = sg_dma_address(sg);
		some[n].len = sg_dma_len(sg);
		if (++n == ARRAY_SIZE(some) || i == nents - 1) {
			unmap_some(sd, some, n, dir, attrs);
			n = 0;
		}
	}
}

/* What is not memory. */
static unsigned long mmio_of(struct scatterlist *sg)
{
	return is_pci_p2pdma_page(sg_page(sg)) ? DMA_ATTR_MMIO : 0;
}

/* What dma_map_sgtable() may return for a reason of sluice_map_try()'s. */
static int sg_error(int err)
{
	switch (err) {
	case -ENOSPC:
		return -ENOMEM;
	case -EREMOTEIO:
		return -EREMOTEIO;
	case -ENODEV:
	case -EBUSY:
		return -EIO;
	default:
		return -EINVAL;
	}
}

/*
 * Map the first of n elements, as many as go together: what the lower waits for, it waits for once for some
 * of them. Sets how many are mapped; with an error the one after them is what it is about.
 */
static int try_some(struct sluice_device *sd, struct scatterlist *sgl, u32 n,
		    enum dma_data_direction dir, unsigned long attrs, u32 *done)
{
	struct sluice_sg some[SLUICE_PLACE_LIST];
	u32 held = 0, most = min_t(u32, n, ARRAY_SIZE(some));
	struct scatterlist *sg = sgl;
	int err = 0, ret = 0;

	for (; held < most; held++, sg = sg_next(sg)) {
		err = sluice_map_begin(sd, attrs | mmio_of(sg));
		if (err)
			break;
		some[held].orig = sg_phys(sg);
		some[held].len = sg->length;
	}
	*done = 0;
	if (held)
		ret = sluice_place_map_sg(&sd->dma, some, held, (enum sluice_dir)dir, done);
	sg = sgl;
	for (u32 i = 0; i < *done; i++, sg = sg_next(sg)) {
		sg->dma_address = some[i].dma;
		sg_dma_len(sg) = sg->length;
	}
	for (u32 i = *done; i < held; i++)
		sluice_device_release(sd);
	return ret ?: err;
}

/* The same for one: without a place, in a reserve, or traced. */
static int try_first(struct sluice_device *sd, struct scatterlist *sg, enum dma_data_direction dir,
		     unsigned long attrs, u32 claimed, u32 *done)
{
	int err = sluice_map_try(sd, sg_phys(sg), sg->length, dir, attrs | mmio_of(sg),
				 SLUICE_MAP_IN_LIST, claimed, &sg->dma_address);

	sg_dma_len(sg) = sg->length;
	*done = !err;
	return err;
}

/* All elements or none; failed is the one that could not be mapped. */
static int try_list(struct sluice_device *sd, struct scatterlist *sgl, int nents,
		    enum dma_data_direction dir, unsigned long attrs, u32 claimed,
		    struct scatterlist **failed)
{
	bool some = sd->dma.place && !claimed && !trace_map_enabled();
	struct scatterlist *sg = sgl;
	int mapped = 0, err = 0;
	u32 done;

	while (mapped < nents && !err) {
		err = some ? try_some(sd, sg, nents - mapped, dir, attrs, &done)
			   : try_first(sd, sg, dir, attrs, claimed, &done);
		mapped += done;
		while (done--)
			sg = sg_next(sg);
	}
	if (err) {
		/* The device has not seen the others: there is nothing to copy back. */
		unmap_list(sd, sgl, mapped, dir, attrs | DMA_ATTR_SKIP_CPU_SYNC);
		*failed = sg;
	}
	return err;
}

/*
 * Every element gets a slot of its own, so the list keeps its length, unmap goes by the original
 * number of elements as it should, and no element becomes longer than the driver made it. A list
 * that finds no room is mapped into the device's reserve as a whole.
 */
static int map_list(struct sluice_device *sd, struct scatterlist *sgl, int nents,
		    enum dma_data_direction dir, unsigned long attrs)
{
	struct scatterlist *sg, *failed;
	u64 bytes = 0;
	u32 claimed;
	int i, err;

	for_each_sg (sgl, sg, nents, i)
		bytes += sg->length;
	err = try_list(sd, sgl, nents, dir, attrs, 0, &failed);
	if (err == -ENOSPC) {
		claimed = sluice_dma_reserve_begin(&sd->dma, bytes);
		if (claimed) {
			err = try_list(sd, sgl, nents, dir, attrs, claimed, &failed);
			sluice_dma_reserve_end(&sd->dma, claimed);
		}
	}
	sluice_dma_list_done(&sd->dma, bytes, err);
	if (!err)
		return nents;
	sluice_complain(sd, err, sg_phys(failed), failed->length, dir, attrs & DMA_ATTR_NO_WARN);
	return sg_error(err);
}

int sluice_map_sg(struct device *dev, struct scatterlist *sgl, int nents,
		  enum dma_data_direction dir, unsigned long attrs)
{
	struct sluice_device *sd;
	int ret = -EIO;

	rcu_read_lock();
	sd = sluice_device_find(dev);
	if (sd)
		ret = map_list(sd, sgl, nents, dir, attrs);
	rcu_read_unlock();
	return ret;
}

void sluice_unmap_sg(struct device *dev, struct scatterlist *sgl, int nents,
		     enum dma_data_direction dir, unsigned long attrs)
{
	struct sluice_device *sd;

	rcu_read_lock();
	sd = sluice_device_find(dev);
	if (sd)
		unmap_list(sd, sgl, nents, dir, attrs);
	rcu_read_unlock();
}

static void sync_list(struct device *dev, struct scatterlist *sgl, int nents,
		      enum dma_data_direction dir, bool to_device)
{
	struct scatterlist *sg;
	int i;

	for_each_sg (sgl, sg, nents, i)
		sluice_sync_one(dev, sg_dma_address(sg), sg_dma_len(sg), dir, to_device);
}

void sluice_sync_sg_for_cpu(struct device *dev, struct scatterlist *sgl, int nents,
			    enum dma_data_direction dir)
{
	sync_list(dev, sgl, nents, dir, false);
}

void sluice_sync_sg_for_device(struct device *dev, struct scatterlist *sgl, int nents,
			       enum dma_data_direction dir)
{
	sync_list(dev, sgl, nents, dir, true);
}
