// SPDX-License-Identifier: GPL-2.0-only
/*
 * lower_iommu.c - below us: an IOMMU that Linux uses for the DMA API
 *
 * Theory of operation
 * -------------------
 * A device behind an IOMMU (Intel's, a virtio-iommu, any that Linux has a driver for) is in a domain,
 * and reaches what is mapped there. For the DMA API that domain is kept by dma-iommu, which hands out
 * the addresses in it. We take one range of addresses for the device and map in it by ourselves, by
 * iommu_map() and iommu_unmap(), which do not ask who an address belongs to: chunks of the pool in its
 * first part, where they stay; transfers in the rest. An unmap waits until the IOMMU has forgotten it
 * ("strict"), also where Linux's own unmaps for the same domain are put off.
 *
 * How to get the range. Nobody but dma-iommu may say which addresses are free: devices of one group
 * share a domain, other drivers go on mapping in it, and firmware has reserved parts. dma-iommu has no
 * call for addresses alone, but a scatter list becomes one range. So before the device is ours, a list
 * that names one 2 MiB page over and over is mapped for it through the DMA API itself, and then that
 * page is unmapped from the domain behind dma-iommu's back. What is left is a range that is allocated,
 * by dma-iommu's own count, and empty; it cannot be handed out to anybody while we have it. When the
 * device is given back, the page is mapped again at each place and the list is unmapped by the DMA
 * API, which finds all as it left it. Rounding up to a power of two and aligning to that is the
 * allocator's own habit. Considered and not taken: addresses above what dma-iommu hands out (it
 * goes there when the room below 4 GiB is used up), and a domain of our own (there is one owner of
 * DMA for all devices of a group, and this is it).
 *
 * The list is mapped with a 32-bit mask: a driver that finds its device can do no more than that must
 * find it works. One that can do less is refused by dma_set_mask().
 *
 * The DMA API asks dma-iommu before it asks a device's ops (since 6.12), so the device's mark for that
 * is taken off while it is ours; before, dma-iommu was ops like any other, and they are kept.
 *
 * Invariant: between take and give nothing is mapped in the range but what this file has mapped.
 */
#include <linux/iommu.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include <sluice/iova.h>
#include <sluice/pool.h>

#include "compat.h"
#include "lower.h"

#define FILLER_ORDER (SLUICE_CHUNK_SHIFT - PAGE_SHIFT)
#define MOST_BYTES   SZ_1G  /* what is asked for first, for transfers and all */
#define LEAST_PLACES SZ_16M /* for transfers, beside the pool's chunks */
#define JOINT_PIECES 24	    /* that are mapped in one go */

struct lower_iommu {
	struct sluice_lower lower;
	struct sluice_share share;
	struct iommu_domain *domain;
	struct sluice_compat_dma was; /* what the device had before */
	struct page *filler;	      /* the page that the range was had with */
	struct sg_table sgt;	      /* the list; what dma-iommu wrote into it is wanted again */
	u64 base, bytes;	      /* the range */
	struct sluice_chunk_window chunks;
	struct sluice_iova iova; /* of the rest of it, in granules */
	void *iova_memory;
	struct sluice_iova_cache *caches;
};

static struct lower_iommu *of_share(struct sluice_share *share)
{
	return container_of(share, struct lower_iommu, share);
}

static u64 name(const void *cpu)
{
	return virt_to_phys((void *)cpu);
}

static int prot_of(u32 access)
{
	return (access & SLUICE_READ ? IOMMU_READ : 0) | (access & SLUICE_WRITE ? IOMMU_WRITE : 0) |
	       IOMMU_CACHE;
}

/* Take a range out of the domain, at once. True if all of it was there. */
static bool unmap_now(struct lower_iommu *li, u64 dev, u64 bytes)
{
	sluice_count(&li->share.stats.trips, 1);
	return iommu_unmap(li->domain, dev, bytes) == bytes;
}

static int iommu_open(struct sluice_share *share, void *cpu, uint64_t size, uint64_t *dev)
{
	struct lower_iommu *li = of_share(share);
	int err;

	if (!sluice_chunk_window_take(&li->chunks, dev))
		return -ENOSPC;
	err = sluice_compat_iommu_map(li->domain, *dev, virt_to_phys(cpu), size,
				      prot_of(SLUICE_READ | SLUICE_WRITE), GFP_KERNEL);
	sluice_count(&share->stats.operations, 1);
	if (err)
		sluice_chunk_window_give(&li->chunks, *dev);
	return err;
}

static int iommu_close(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev)
{
	struct lower_iommu *li = of_share(share);

	if (!unmap_now(li, dev, size))
		return -EBUSY;
	sluice_chunk_window_give(&li->chunks, dev);
	return 0;
}

/* Map one piece, from interrupts too. */
static int share_piece(struct lower_iommu *li, struct sluice_span *span)
{
	u64 granule;
	int err = sluice_iova_alloc(&li->iova, span->bytes >> SLUICE_GRANULE_SHIFT, &granule);

	if (err)
		return err;
	span->dev = granule << SLUICE_GRANULE_SHIFT;
	err = sluice_compat_iommu_map(li->domain, span->dev, span->pieces->orig, span->bytes,
				      prot_of(span->access), GFP_ATOMIC);
	sluice_count(&li->share.stats.operations, 1);
	if (!err)
		return 0;
	(void)sluice_iova_free(&li->iova, granule, span->bytes >> SLUICE_GRANULE_SHIFT);
	return err == -ENOMEM ? -ENOSPC : -EIO;
}

/* What some spans need together. */
struct joint {
	u32 spans, pieces;
	u64 granules; /* of addresses */
};

/*
 * How many spans, from the first on, can lie one behind the other in a range of addresses that each gives its own
 * part of back: where it begins a span has to be aligned to its length, rounded up to a power of two, and
 * where that leaves a hole it is the last one. At least one. Nor may two that meet be neighbours in memory:
 * iommu_map_sg() would make one mapping of them, of which a part cannot be unmapped (a virtio-iommu refuses, a large
 * page goes as a whole).
 */
static void join(const struct sluice_span *spans, u32 n, struct joint *joint)
{
	u64 end = U64_MAX; /* of the one before, in memory */

	*joint = (struct joint){};
	while (joint->spans < n) {
		const struct sluice_span *span = &spans[joint->spans];
		const struct sluice_piece *last = &span->pieces[span->n - 1];
		u64 granules = span->bytes >> SLUICE_GRANULE_SHIFT;
		u64 whole = roundup_pow_of_two(granules);

		if (joint->granules & (whole - 1) || joint->pieces + span->n > JOINT_PIECES ||
		    span->access != spans->access || span->pieces->orig == end)
			return;
		end = last->orig + last->bytes;
		joint->spans++;
		joint->pieces += span->n;
		joint->granules += whole;
		if (whole != granules)
			return;
	}
}

/* Addresses for them, and not more than they give back. */
static int take_addresses(struct lower_iommu *li, const struct joint *joint, u64 *granule)
{
	u64 end = roundup_pow_of_two(joint->granules);
	int err = sluice_iova_alloc(&li->iova, joint->granules, granule);

	for (u64 at = joint->granules; !err && at < end; at += at & -at)
		(void)sluice_iova_free(&li->iova, *granule + at, at & -at);
	return err;
}

static void give_addresses(struct lower_iommu *li, const struct sluice_span *spans, u32 n)
{
	for (u32 i = 0; i < n; i++)
		(void)sluice_iova_free(&li->iova, spans[i].dev >> SLUICE_GRANULE_SHIFT,
				       spans[i].bytes >> SLUICE_GRANULE_SHIFT);
}

/*
 * Map the pieces of some spans one behind the other in one go, which is all that is waited for; or none. A domain
 * has a call for that which takes a scatter list.
 */
static int share_joint(struct lower_iommu *li, struct sluice_span *spans, const struct joint *joint)
{
	struct scatterlist sgl[JOINT_PIECES], *sg = sgl;
	u64 granule, at;
	ssize_t mapped;
	int err = take_addresses(li, joint, &granule);

	if (err)
		return err;
	at = granule << SLUICE_GRANULE_SHIFT;
	sg_init_table(sgl, joint->pieces);
	for (u32 i = 0; i < joint->spans; i++) {
		spans[i].dev = at;
		at += spans[i].bytes;
		for (u32 k = 0; k < spans[i].n; k++, sg = sg_next(sg))
			sg_set_page(sg, pfn_to_page(PHYS_PFN(spans[i].pieces[k].orig)),
				    spans[i].pieces[k].bytes, 0);
	}
	mapped = sluice_compat_iommu_map_sg(li->domain, spans->dev, sgl, joint->pieces,
					    prot_of(spans->access));
	sluice_count(&li->share.stats.operations, 1);
	if (mapped == at - spans->dev)
		return 0;
	/* It has taken back what it had mapped, as iommu_map() does; if not, the pages are kept. */
	for (u64 a = spans->dev; a < at; a += SLUICE_GRANULE_BYTES) {
		if (iommu_iova_to_phys(li->domain, a))
			return -EBUSY;
	}
	give_addresses(li, spans, joint->spans);
	return mapped == -ENOMEM ? -ENOSPC : -EIO;
}

/*
 * Several spans are taken out one by one and forgotten by the IOMMU's caches in one go, over the range
 * from the lowest to the highest: that is the part that is waited for.
 */
static int iommu_unshare(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	struct lower_iommu *li = of_share(share);
	struct iommu_iotlb_gather gather;
	u64 first = U64_MAX, last = 0;
	int ret = 0;

	if (n == 1) {
		spans->result = unmap_now(li, spans->dev, spans->bytes) ? 0 : -EBUSY;
		ret = spans->result;
	} else {
		iommu_iotlb_gather_init(&gather);
		gather.queued = true; /* leave the caches to us */
		for (u32 i = 0; i < n; i++) {
			u64 bytes =
				iommu_unmap_fast(li->domain, spans[i].dev, spans[i].bytes, &gather);

			spans[i].result = bytes == spans[i].bytes ? 0 : -EBUSY;
			first = min(first, spans[i].dev);
			last = max(last, spans[i].dev + spans[i].bytes - 1);
			if (spans[i].result)
				ret = spans[i].result;
		}
		gather.queued = false;
		gather.pgsize = SLUICE_GRANULE_BYTES;
		iommu_iotlb_gather_add_range(&gather, first, last - first + 1);
		iommu_iotlb_sync(li->domain, &gather);
		sluice_count(&share->stats.trips, 1);
	}
	sluice_count(&share->stats.operations, n);
	for (u32 i = 0; i < n; i++) {
		if (!spans[i].result)
			give_addresses(li, &spans[i], 1);
	}
	return ret;
}

static int iommu_share(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	struct lower_iommu *li = of_share(share);
	struct joint joint;
	u32 done = 0;
	int err = 0;

	while (done < n && !err) {
		join(&spans[done], n - done, &joint);
		err = joint.pieces == 1 ? share_piece(li, &spans[done])
					: share_joint(li, &spans[done], &joint);
		for (u32 i = 0; i < joint.spans; i++)
			spans[done + i].result = err;
		if (!err)
			done += joint.spans;
	}
	if (err && done && iommu_unshare(share, spans, done))
		err = -EBUSY;
	return err;
}

static const struct sluice_share_ops iommu_share_ops = {
	.name = "iommu",
	.flags = SLUICE_SHARE_JOINS,
	.open = iommu_open,
	.close = iommu_close,
	.share = iommu_share,
	.unshare = iommu_unshare,
};

/* A list that names the filler so often that it makes bytes. */
static int make_list(struct lower_iommu *li, u64 bytes)
{
	struct scatterlist *sg;
	unsigned int i;

	if (sg_alloc_table(&li->sgt, bytes >> SLUICE_CHUNK_SHIFT, GFP_KERNEL))
		return -ENOMEM;
	for_each_sgtable_sg(&li->sgt, sg, i) sg_set_page(sg, li->filler, SLUICE_CHUNK_BYTES, 0);
	return 0;
}

/* Whether the DMA API has made one range of the list, at addresses of 32 bits. */
static bool one_range(struct lower_iommu *li)
{
	struct scatterlist *sg;
	unsigned int i;
	u64 at = sg_dma_address(li->sgt.sgl);

	li->base = at;
	for_each_sgtable_dma_sg(&li->sgt, sg, i)
	{
		if (sg_dma_address(sg) != at)
			return false;
		at += sg_dma_len(sg);
	}
	li->bytes = at - li->base;
	return at <= SZ_4G && IS_ALIGNED(li->base, SLUICE_CHUNK_BYTES);
}

/* Get a range of just that length: 0, or -ENOSPC if there is none. */
static int reserve_bytes(struct lower_iommu *li, u64 bytes)
{
	struct device *dev = li->lower.dev;

	if (make_list(li, bytes))
		return -ENOSPC;
	if (dma_map_sgtable(dev, &li->sgt, DMA_TO_DEVICE, DMA_ATTR_SKIP_CPU_SYNC))
		goto free;
	if (one_range(li) && li->bytes == bytes &&
	    iommu_unmap(li->domain, li->base, bytes) == bytes)
		return 0;
	dma_unmap_sgtable(dev, &li->sgt, DMA_TO_DEVICE, DMA_ATTR_SKIP_CPU_SYNC);
free:
	sg_free_table(&li->sgt);
	return -ENOSPC;
}

/* Get the longest range there is, from MOST_BYTES down to what makes sense. */
static int reserve(struct lower_iommu *li, u64 pool_bytes)
{
	struct device *dev = li->lower.dev;
	u64 mask = dma_get_mask(dev), least = roundup_pow_of_two(pool_bytes + LEAST_PLACES);
	u64 bytes = max_t(u64, MOST_BYTES, 2 * least);
	int err = -ENOSPC;

	li->filler = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN, FILLER_ORDER);
	if (!li->filler)
		return -ENOMEM;
	if (dma_set_mask(dev, DMA_BIT_MASK(32)))
		return -EINVAL;
	for (; bytes >= least && err; bytes /= 2)
		err = reserve_bytes(li, bytes);
	(void)dma_set_mask(dev, mask);
	return err;
}

/* Give the range back to dma-iommu, as it knows it. */
static void unreserve(struct lower_iommu *li)
{
	u64 end = li->base + li->bytes;

	for (u64 at = li->base; at < end; at += SLUICE_CHUNK_BYTES) {
		/* Then it stays taken: better than telling dma-iommu what is not so. */
		if (sluice_compat_iommu_map(li->domain, at, page_to_phys(li->filler),
					    SLUICE_CHUNK_BYTES, IOMMU_READ | IOMMU_CACHE,
					    GFP_KERNEL)) {
			iommu_unmap(li->domain, li->base, at - li->base);
			dev_warn(
				li->lower.dev,
				"sluice: no memory to give 0x%llx device addresses back: they stay "
				"unused until the machine starts again\n",
				li->bytes);
			goto free;
		}
	}
	dma_unmap_sgtable(li->lower.dev, &li->sgt, DMA_TO_DEVICE, DMA_ATTR_SKIP_CPU_SYNC);
free:
	sg_free_table(&li->sgt);
}

/* Divide the range: the pool's window first, then addresses for transfers. */
static int divide(struct lower_iommu *li, u64 pool_bytes)
{
	u64 first = (li->base + pool_bytes) >> SLUICE_GRANULE_SHIFT;
	u64 last = (li->base + li->bytes - 1) >> SLUICE_GRANULE_SHIFT;
	int err;

	li->chunks.dev = li->base;
	li->chunks.chunks = pool_bytes >> SLUICE_CHUNK_SHIFT;
	li->iova_memory = vzalloc(sluice_iova_size(first, last));
	li->caches = kvcalloc(nr_cpu_ids, sizeof(*li->caches), GFP_KERNEL);
	if (!li->iova_memory || !li->caches)
		return -ENOMEM;
	err = sluice_iova_init(&li->iova, first, last, li->iova_memory, li->caches, nr_cpu_ids);
	return err ?: sluice_iova_add(&li->iova, first, last);
}

static void free_all(struct lower_iommu *li)
{
	vfree(li->iova_memory);
	kvfree(li->caches);
	if (li->filler)
		__free_pages(li->filler, FILLER_ORDER);
	kfree(li);
}

static struct sluice_lower *take(struct device *dev, u64 pool_bytes, const char **why)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(dev);
	struct lower_iommu *li;
	int err;

	if (!domain || !(domain->type & __IOMMU_DOMAIN_DMA_API))
		return ERR_PTR(-ENODEV);
	li = kzalloc(sizeof(*li), GFP_KERNEL);
	if (!li)
		return ERR_PTR(-ENOMEM);
	li->lower.ops = &sluice_lower_iommu;
	li->lower.dev = dev;
	li->lower.share = &li->share;
	li->share.ops = &iommu_share_ops;
	li->share.name = name;
	li->domain = domain;
	err = reserve(li, pool_bytes);
	if (err) {
		*why = "there is no range of device addresses below 4 GiB for the pool";
		goto free;
	}
	err = divide(li, pool_bytes);
	if (err) {
		unreserve(li);
		goto free;
	}
	li->lower.pool_dev = li->base;
	li->lower.pool_window = pool_bytes;
	li->lower.last = li->base + li->bytes - 1;
	sluice_compat_take_dma(dev, &li->was);
	return &li->lower;
free:
	free_all(li);
	return ERR_PTR(err);
}

static void give(struct sluice_lower *lower)
{
	struct lower_iommu *li = container_of(lower, struct lower_iommu, lower);

	sluice_compat_give_dma(lower->dev, &li->was);
	unreserve(li);
	free_all(li);
}

static void show(struct sluice_lower *lower, struct seq_file *m)
{
	struct lower_iommu *li = container_of(lower, struct lower_iommu, lower);

	seq_printf(m, "range 0x%llx\n", li->base);
	seq_printf(m, "range_bytes %llu\n", li->bytes);
}

const struct sluice_lower_ops sluice_lower_iommu = {
	.name = "iommu",
	.confines = true,
	.take = take,
	.give = give,
	.show = show,
};
