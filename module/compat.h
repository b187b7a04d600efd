/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * compat.h - what differs between the kernels that this module builds for
 *
 * Theory of operation
 * -------------------
 * From Linux 6.1 to 7.x a few things have changed that we touch: the members of struct dma_map_ops,
 * the mark of a device whose DMA an IOMMU has taken over, the mark of one whose sync calls are
 * skipped, how a virtio device is asked for its features, how long a disk's requests are, and
 * what memcpy() is made of. Each has one name here, so that no other file knows a version number;
 * the last one's is in compat_string.h, for the core's files, which need nothing else of it.
 */
#ifndef SLUICE_COMPAT_H
#define SLUICE_COMPAT_H

#include <linux/dma-map-ops.h>
#include <linux/iommu.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/version.h>
#include <linux/virtio_config.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/iommu-dma.h>
#endif

/* What the block layer lets a disk's request grow to by default; a private constant of it. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
#define SLUICE_COMPAT_LONGEST_REQUEST SZ_4M
#else
#define SLUICE_COMPAT_LONGEST_REQUEST (SZ_1M + SZ_256K)
#endif

/*
 * Whether the functions that observe.c watches are all that the DMA API maps by (6.18 maps by
 * physical address), and ftrace hands over registers as it expects (6.13 does it otherwise).
 */
#define SLUICE_COMPAT_OBSERVE (LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0))

/*
 * Mapping: 7.x asks for everything by physical address and tells what is not memory by an
 * attribute; earlier kernels ask for a page, or for a resource by a call of its own. Both are
 * brought into the 7.x form: SLUICE_COMPAT_MAP(map) defines the calls around map, and
 * SLUICE_COMPAT_MAP_OPS(map, unmap) are the members of struct dma_map_ops.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)

#define SLUICE_COMPAT_MAP(map)
#define SLUICE_COMPAT_MAP_OPS(map, unmap) .map_phys = (map), .unmap_phys = (unmap)

#else

#define DMA_ATTR_MMIO (1UL << 10) /* its value there, and none of these kernels' own */

#define SLUICE_COMPAT_MAP(map)                                                                     \
	static dma_addr_t map##_page(struct device *dev, struct page *page, unsigned long offset,  \
				     size_t size, enum dma_data_direction dir,                     \
				     unsigned long attrs)                                          \
	{                                                                                          \
		if (is_pci_p2pdma_page(page))                                                      \
			attrs |= DMA_ATTR_MMIO;                                                    \
		return map(dev, page_to_phys(page) + offset, size, dir, attrs);                    \
	}                                                                                          \
	static dma_addr_t map##_resource(struct device *dev, phys_addr_t phys, size_t size,        \
					 enum dma_data_direction dir, unsigned long attrs)         \
	{                                                                                          \
		return map(dev, phys, size, dir, attrs | DMA_ATTR_MMIO);                           \
	}
#define SLUICE_COMPAT_MAP_OPS(map, unmap)                                                          \
	.map_page = map##_page, .unmap_page = (unmap), .map_resource = map##_resource

#endif

/* dma_alloc_pages(): renamed, the same otherwise. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
#define SLUICE_COMPAT_ALLOC_PAGES_OP(alloc) .alloc_pages_op = (alloc)
#else
#define SLUICE_COMPAT_ALLOC_PAGES_OP(alloc) .alloc_pages = (alloc)
#endif

/*
 * Whether the IOMMU layer maps for this device without looking at its dma_map_ops. Before 6.12 it
 * installed ops like everybody else, and get_dma_ops() tells.
 */
static inline bool sluice_compat_iommu(struct device *dev)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	return use_dma_iommu(dev);
#else
	return false;
#endif
}

/* Whether a device translates addresses by itself (PCI ATS); its domain's driver has switched that on. */
static inline bool sluice_compat_ats(const struct pci_dev *pdev)
{
#ifdef CONFIG_PCI_ATS
	return pdev->ats_enabled;
#else
	return false;
#endif
}

/*
 * Take a device away from dma-iommu, and give it back: it is either the device's ops or, since 6.12,
 * a mark that is looked at before those. While nothing is mapped, under the device's lock.
 */
struct sluice_compat_dma {
	const struct dma_map_ops *ops;
	bool iommu;
};

static inline void sluice_compat_take_dma(struct device *dev, struct sluice_compat_dma *was)
{
	was->ops = get_dma_ops(dev);
	was->iommu = sluice_compat_iommu(dev);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
	dev_assign_dma_iommu(dev, false);
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	dev->dma_iommu = false;
#endif
}

static inline void sluice_compat_give_dma(struct device *dev, const struct sluice_compat_dma *was)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
	dev_assign_dma_iommu(dev, was->iommu);
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	dev->dma_iommu = was->iommu;
#endif
	set_dma_ops(dev, was->ops);
}

/* iommu_map(), which since 6.3 is told whether it may sleep. */
static inline int sluice_compat_iommu_map(struct iommu_domain *domain, unsigned long iova,
					  phys_addr_t phys, size_t size, int prot, gfp_t gfp)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	return iommu_map(domain, iova, phys, size, prot, gfp);
#else
	return gfpflags_allow_blocking(gfp) ? iommu_map(domain, iova, phys, size, prot)
					    : iommu_map_atomic(domain, iova, phys, size, prot);
#endif
}

/*
 * iommu_map_sg() from any context: all of the list, or a negative errno and none of it. Before 6.3 a module has it
 * for those only who may sleep; then it is as many calls as the list has elements, and as many waits, if the IOMMU
 * has any.
 */
static inline ssize_t sluice_compat_iommu_map_sg(struct iommu_domain *domain, unsigned long iova,
						 struct scatterlist *sgl, unsigned int nents,
						 int prot)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	return iommu_map_sg(domain, iova, sgl, nents, prot, GFP_ATOMIC);
#else
	struct scatterlist *sg;
	size_t mapped = 0;
	unsigned int i;

	for_each_sg (sgl, sg, nents, i) {
		int err = iommu_map_atomic(domain, iova + mapped, sg_phys(sg), sg->length, prot);

		if (err) {
			if (mapped)
				iommu_unmap(domain, iova, mapped);
			return err;
		}
		mapped += sg->length;
	}
	return mapped;
#endif
}

/*
 * Make the sync calls reach the ops, and say whether they did not before. Since 6.10
 * dma_set_mask() marks a device that is mapped directly as one whose sync calls do nothing; that
 * mark outlives a change of its ops, and the driver would read stale bytes. Under the device's
 * lock.
 */
static inline bool sluice_compat_need_sync(struct device *dev)
{
	bool skipped = false;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
#ifdef CONFIG_DMA_NEED_SYNC
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 2, 0)
	skipped = dev_dma_skip_sync(dev);
#else
	skipped = dev->dma_skip_sync;
#endif
#endif
	dma_reset_need_sync(dev);
#endif
	return skipped;
}

/* Put back what sluice_compat_need_sync() found. Under the device's lock. */
static inline void sluice_compat_skip_sync(struct device *dev, bool skip)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0) && defined(CONFIG_DMA_NEED_SYNC)
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 2, 0)
	dev_assign_dma_skip_sync(dev, skip);
#else
	dev->dma_skip_sync = skip;
#endif
#endif
}

/* The first 64 feature bits that a virtio device offers, whether or not its driver has come. */
static inline u64 sluice_compat_features(struct virtio_device *vdev)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
	u64 features[VIRTIO_FEATURES_U64S];

	virtio_get_features(vdev, features);
	return features[0];
#else
	return vdev->config->get_features(vdev);
#endif
}

#endif
