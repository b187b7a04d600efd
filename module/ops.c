// SPDX-License-Identifier: GPL-2.0-only
/*
 * ops.c - struct dma_map_ops, between Linux's DMA API and the core
 *
 * Theory of operation
 * -------------------
 * Every call finds its device in the table of device.c, asks the core, and translates the answer.
 * Nothing here sleeps but dma_alloc_pages() where its gfp flags allow it, and nothing takes longer
 * than the bytes it was asked to copy: these are called from interrupt handlers.
 *
 * A call that the core refuses (an unmap of what is not mapped, a sync outside the mapping) leaves
 * everything as it is, is counted, and is reported with its addresses at a limited rate; so is a
 * full pool, with what to do about it. Scatter lists are in list.c.
 *
 * Not copied is what is not memory: a peer device's registers (map_resource, P2PDMA) would be read
 * and written by memcpy, so mapping them is refused.
 *
 * DMA_ATTR_SKIP_CPU_SYNC at map time does not skip the copy: what the slot holds must be the
 * buffer's bytes or zeroes whatever the driver does next (include/sluice/dma.h). At unmap it says
 * that the driver has taken its data by sync, and the copy back is skipped.
 *
 * Invariant: live (device.c) is raised before the core is asked for a mapping and lowered after it
 * has ended one, so that it is never less than what is mapped.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/dma-map-ops.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/ratelimit.h>

#include "compat.h"
#include "ops.h"
#include "sluice.h"
#include "trace.h"

static_assert(SLUICE_BIDIRECTIONAL == (int)DMA_BIDIRECTIONAL);
static_assert(SLUICE_TO_DEVICE == (int)DMA_TO_DEVICE);
static_assert(SLUICE_FROM_DEVICE == (int)DMA_FROM_DEVICE);

/* A full pool is hit by every request in flight: once every few seconds is enough to read. */
static DEFINE_RATELIMIT_STATE(full_limit, 5 * HZ, 1);
static DEFINE_RATELIMIT_STATE(misuse_limit, 5 * HZ, 10);

static u64 pool_end(const struct sluice_device *sd)
{
	return sd->mem->last;
}

/* Whether a device that drives the address bits of mask reaches all of the pool. */
static bool reaches(const struct sluice_device *sd, u64 mask)
{
	return pool_end(sd) <= min_not_zero(mask, sd->pdev->dev.bus_dma_limit);
}

void sluice_complain(struct sluice_device *sd, int err, u64 phys, size_t size, int dir, bool quiet)
{
	struct device *dev = &sd->pdev->dev;
	struct sluice_pool_stats stats;

	if (err == -ENOSPC || err == -E2BIG)
		trace_full(sluice_bdf_word(dev), phys, size, dir);
	if (quiet || !__ratelimit(err == -ENOSPC ? &full_limit : &misuse_limit))
		return;
	switch (err) {
	case -ENOSPC:
		sluice_pool_get_stats(&sd->mem->pool, &stats);
		if (stats.bytes < sd->mem->size) {
			dev_warn(
				dev,
				"sluice: pool %s, %llu of %llu KiB so far, has no room yet for %zu "
				"bytes: it grows; load the module with a larger size= if this "
				"comes "
				"often\n",
				sd->mem->name, stats.bytes >> 10, sd->mem->size >> 10, size);
			break;
		}
		dev_warn(dev,
			 "sluice: pool %s is full: no room for %zu bytes, %llu of %llu KiB in use, "
			 "longest free piece %llu KiB; give it a larger BAR (or pool_max=), or its "
			 "devices fewer or shallower queues or shorter requests (max_sectors_kb of "
			 "a disk)\n",
			 sd->mem->name, size, stats.used >> 10, stats.bytes >> 10,
			 stats.largest >> 10);
		break;
	case -E2BIG:
		dev_warn(dev,
			 "sluice: pool %s of %llu KiB can never hold %zu bytes in one piece: give "
			 "it a larger BAR\n",
			 sd->mem->name, sd->mem->size >> 10, size);
		break;
	case -ENODEV:
		dev_warn(dev,
			 "sluice: nothing is mapped any more: the pool or the module is going\n");
		break;
	case -EBUSY:
		dev_warn(dev,
			 "sluice: the device's end holds 0x%llx, which has not been given to it\n",
			 phys);
		break;
	case -ERANGE:
		dev_warn(dev,
			 "sluice: pool %s ends at 0x%llx, beyond the device's DMA mask: let "
			 "firmware place the BAR below 4 GiB\n",
			 sd->mem->name, pool_end(sd));
		break;
	case -EREMOTEIO:
		dev_warn(dev,
			 "sluice: 0x%llx is another device's memory, which cannot be bounced\n",
			 phys);
		break;
	default:
		dev_warn(dev,
			 "sluice: no mapping of %zu bytes is possible under this device's limits "
			 "(alignment mask 0x%x, segment boundary 0x%lx)\n",
			 size, dma_get_min_align_mask(dev), dma_get_seg_boundary(dev));
	}
}

void sluice_misused(struct device *dev, const char *what, dma_addr_t addr, size_t size, int dir)
{
	if (__ratelimit(&misuse_limit))
		dev_err(dev,
			"sluice: refused to %s %zu bytes at %pad, direction %d: no such mapping of "
			"this device\n",
			what, size, &addr, dir);
}

/*
 * A driver sets its device's limits in its probe, before it maps: following them at each map means
 * no hook for that. What is mapped already keeps its own offset in its record.
 */
static void follow_limits(struct sluice_device *sd)
{
	u64 boundary = dma_get_seg_boundary(&sd->pdev->dev);
	u32 align = dma_get_min_align_mask(&sd->pdev->dev);

	if (unlikely(READ_ONCE(sd->dma.min_align_mask) != align))
		WRITE_ONCE(sd->dma.min_align_mask, align);
	if (unlikely(READ_ONCE(sd->dma.seg_boundary_mask) != boundary))
		WRITE_ONCE(sd->dma.seg_boundary_mask, boundary);
}

int sluice_map_begin(struct sluice_device *sd, unsigned long attrs)
{
	if (unlikely(attrs & DMA_ATTR_MMIO))
		return -EREMOTEIO;
	if (unlikely(!reaches(sd, dma_get_mask(&sd->pdev->dev))))
		return -ERANGE;
	if (unlikely(!sluice_device_hold(sd)))
		return -ENODEV;
	follow_limits(sd);
	return 0;
}

int sluice_map_try(struct sluice_device *sd, phys_addr_t phys, size_t size,
		   enum dma_data_direction dir, unsigned long attrs, enum sluice_map_way way,
		   u32 claimed, dma_addr_t *addr)
{
	struct device *dev = &sd->pdev->dev;
	int err = sluice_map_begin(sd, attrs);
	u64 dma;

	if (unlikely(err))
		return err;
	if (way == SLUICE_MAP_ALONE)
		err = sluice_dma_map(&sd->dma, phys, size, (enum sluice_dir)dir, &dma);
	else
		err = sluice_dma_list_map(&sd->dma, phys, size, (enum sluice_dir)dir, claimed,
					  &dma);
	if (unlikely(err)) {
		sluice_device_release(sd);
		return err;
	}
	if (trace_map_enabled())
		trace_map(sluice_bdf_word(dev), phys, dma, size, dir, sluice_page_kind(phys));
	*addr = dma;
	return 0;
}

static int map_one(struct sluice_device *sd, phys_addr_t phys, size_t size,
		   enum dma_data_direction dir, unsigned long attrs, dma_addr_t *addr)
{
	int err = sluice_map_try(sd, phys, size, dir, attrs, SLUICE_MAP_ALONE, 0, addr);

	if (unlikely(err))
		sluice_complain(sd, err, phys, size, dir, attrs & DMA_ATTR_NO_WARN);
	return err;
}

/*
 * For the trace, before unmap makes the record go away: the buffer's address, and what the device
 * has written. If this is no mapping, it is not traced either; a record may then say anything, so
 * nothing is read by it that does not agree with the call.
 */
static u64 look_at_mapping(struct sluice_device *sd, dma_addr_t addr, size_t size,
			   enum dma_data_direction dir, u32 *changed, u32 *extent)
{
	struct sluice_slot slot;
	u64 phys;

	if (sluice_pool_find(&sd->mem->pool, addr, &slot) ||
	    sluice_load_u32(&slot.record->len) != size || addr - slot.dev + size > slot.size)
		return 0;
	phys = sluice_load_u64(&slot.record->orig);
	if (dir != DMA_TO_DEVICE && pfn_valid(PHYS_PFN(phys)) &&
	    pfn_valid(PHYS_PFN(phys + size - 1)))
		sluice_observe_changed(slot.cpu + (addr - slot.dev), sluice_orig(phys), size,
				       changed, extent);
	return phys;
}

void sluice_unmap_one(struct sluice_device *sd, dma_addr_t addr, size_t size,
		      enum dma_data_direction dir, unsigned long attrs)
{
	struct device *dev = &sd->pdev->dev;
	u32 flags = attrs & DMA_ATTR_SKIP_CPU_SYNC ? SLUICE_SKIP_SYNC : 0;
	u32 changed = SLUICE_UNKNOWN, extent = SLUICE_UNKNOWN;
	u64 phys = 0;
	int ret;

	if (trace_unmap_enabled())
		phys = look_at_mapping(sd, addr, size, dir, &changed, &extent);
	ret = sluice_dma_unmap(&sd->dma, addr, size, (enum sluice_dir)dir, flags);
	/* -EBUSY: it is unmapped, but its pages are kept (stack.c). */
	if (ret < 0 && ret != -EBUSY) {
		sluice_misused(dev, "unmap", addr, size, dir);
		return;
	}
	if (ret > 0 && __ratelimit(&misuse_limit))
		dev_err(dev, "sluice: the device wrote beside its mapping of %zu bytes at %pad\n",
			size, &addr);
	trace_unmap(sluice_bdf_word(dev), phys, addr, size, dir, changed, extent);
	sluice_device_release(sd);
}

static dma_addr_t sluice_map(struct device *dev, phys_addr_t phys, size_t size,
			     enum dma_data_direction dir, unsigned long attrs)
{
	dma_addr_t addr = DMA_MAPPING_ERROR;
	struct sluice_device *sd;

	rcu_read_lock();
	sd = sluice_device_find(dev);
	if (sd && map_one(sd, phys, size, dir, attrs, &addr))
		addr = DMA_MAPPING_ERROR;
	rcu_read_unlock();
	return addr;
}

SLUICE_COMPAT_MAP(sluice_map)

static void sluice_unmap(struct device *dev, dma_addr_t addr, size_t size,
			 enum dma_data_direction dir, unsigned long attrs)
{
	struct sluice_device *sd;

	rcu_read_lock();
	sd = sluice_device_find(dev);
	if (sd)
		sluice_unmap_one(sd, addr, size, dir, attrs);
	rcu_read_unlock();
}

void sluice_sync_one(struct device *dev, dma_addr_t addr, size_t size, enum dma_data_direction dir,
		     bool to_device)
{
	struct sluice_device *sd;
	int err = 0;

	rcu_read_lock();
	sd = sluice_device_find(dev);
	if (sd)
		err = (to_device ? sluice_dma_sync_for_device : sluice_dma_sync_for_cpu)(
			&sd->dma, addr, size, (enum sluice_dir)dir);
	rcu_read_unlock();
	if (err)
		sluice_misused(dev, to_device ? "sync for the device" : "sync for the CPU", addr,
			       size, dir);
}

static void sluice_sync_single_for_cpu(struct device *dev, dma_addr_t addr, size_t size,
				       enum dma_data_direction dir)
{
	sluice_sync_one(dev, addr, size, dir, false);
}

static void sluice_sync_single_for_device(struct device *dev, dma_addr_t addr, size_t size,
					  enum dma_data_direction dir)
{
	sluice_sync_one(dev, addr, size, dir, true);
}

static int alloc_coherent(struct sluice_device *sd, size_t size, dma_addr_t *addr, void **cpu)
{
	u64 dma;
	int err;

	if (!reaches(sd, sd->pdev->dev.coherent_dma_mask))
		return -ERANGE;
	if (!sluice_device_hold(sd))
		return -ENODEV;
	err = sluice_dma_alloc(&sd->dma, size, &dma, cpu);
	if (err) {
		sluice_device_release(sd);
		return err;
	}
	trace_alloc(sluice_bdf_word(&sd->pdev->dev), dma, size);
	*addr = dma;
	return 0;
}

/*
 * The core zeroes it and aligns it by its size. Where gfp lets it sleep, a pool without room is made
 * larger for it. Not under RCU then: as in sluice_mmap(), the driver is bound.
 */
static void *sluice_alloc(struct device *dev, size_t size, dma_addr_t *addr, gfp_t gfp,
			  unsigned long attrs)
{
	bool quiet = (gfp & __GFP_NOWARN) || (attrs & DMA_ATTR_NO_WARN);
	struct sluice_device *sd;
	void *cpu;
	int err;

	rcu_read_lock();
	sd = sluice_device_find(dev);
	rcu_read_unlock();
	if (!sd)
		return NULL;
	err = alloc_coherent(sd, size, addr, &cpu);
	/* One more chunk, as what is free at present may not be beside the new ones. */
	if ((err == -ENOSPC || err == -E2BIG) && size <= sd->mem->size &&
	    gfpflags_allow_blocking(gfp) &&
	    sluice_grow_by(sd->mem, DIV_ROUND_UP(size, SLUICE_CHUNK_BYTES) + 1, gfp & GFP_KERNEL))
		err = alloc_coherent(sd, size, addr, &cpu);
	if (!err)
		return cpu;
	sluice_complain(sd, err, 0, size, DMA_BIDIRECTIONAL, quiet);
	return NULL;
}

static void sluice_free(struct device *dev, size_t size, void *cpu, dma_addr_t addr,
			unsigned long attrs)
{
	struct sluice_device *sd;

	rcu_read_lock();
	sd = sluice_device_find(dev);
	if (sd && sluice_dma_free(&sd->dma, addr, size)) {
		sluice_misused(dev, "free", addr, size, DMA_BIDIRECTIONAL);
	} else if (sd) {
		trace_free(sluice_bdf_word(dev), addr, size);
		sluice_device_release(sd);
	}
	rcu_read_unlock();
}

/*
 * dma_alloc_pages() gives memory that has a struct page and that is handed over by sync, which is
 * what a bounced mapping of ordinary pages is. dma_alloc_noncontiguous() comes here too.
 */
static struct page *sluice_alloc_pages(struct device *dev, size_t size, dma_addr_t *addr,
				       enum dma_data_direction dir, gfp_t gfp)
{
	struct page *page = alloc_pages_node(dev_to_node(dev), gfp | __GFP_ZERO, get_order(size));

	if (!page)
		return NULL;
	*addr = sluice_map(dev, page_to_phys(page), size, dir,
			   gfp & __GFP_NOWARN ? DMA_ATTR_NO_WARN : 0);
	if (*addr != DMA_MAPPING_ERROR)
		return page;
	__free_pages(page, get_order(size));
	return NULL;
}

static void sluice_free_pages(struct device *dev, size_t size, struct page *page, dma_addr_t addr,
			      enum dma_data_direction dir)
{
	sluice_unmap(dev, addr, size, dir, DMA_ATTR_SKIP_CPU_SYNC);
	__free_pages(page, get_order(size));
}

/* Give user space a coherent allocation, or a part of it by vm_pgoff; whole pages, all its own. */
static int mmap_coherent(struct sluice_device *sd, struct vm_area_struct *vma, void *cpu,
			 dma_addr_t addr, size_t size)
{
	unsigned long pages = PAGE_ALIGN(size) >> PAGE_SHIFT;
	struct sluice_slot slot;
	phys_addr_t phys;
	int err;

	if (vma->vm_pgoff >= pages || vma_pages(vma) > pages - vma->vm_pgoff)
		return -ENXIO;
	rcu_read_lock(); /* for an address that is no live slot's: grow.c */
	err = sluice_pool_find(&sd->mem->pool, addr, &slot);
	rcu_read_unlock();
	if (err || slot.cpu != cpu || slot.dev != addr || slot.size < (u64)pages << PAGE_SHIFT)
		return -ENXIO;
	phys = sd->mem->ops->phys(sd->mem, cpu);
	return remap_pfn_range(vma, vma->vm_start, PHYS_PFN(phys) + vma->vm_pgoff,
			       vma_pages(vma) << PAGE_SHIFT, vma->vm_page_prot);
}

static int sluice_mmap(struct device *dev, struct vm_area_struct *vma, void *cpu, dma_addr_t addr,
		       size_t size, unsigned long attrs)
{
	struct sluice_device *sd;

	/* It may sleep, so not under RCU: a driver that maps its own live memory is bound. */
	rcu_read_lock();
	sd = sluice_device_find(dev);
	rcu_read_unlock();
	return sd ? mmap_coherent(sd, vma, cpu, addr, size) : -ENXIO;
}

/* dma_set_mask() fails for a device that could not reach the pool: better now than at each map. */
static int sluice_dma_supported(struct device *dev, u64 mask)
{
	struct sluice_device *sd;
	bool ok;

	rcu_read_lock();
	sd = sluice_device_find(dev);
	ok = sd && reaches(sd, mask);
	rcu_read_unlock();
	return ok;
}

static u64 sluice_get_required_mask(struct device *dev)
{
	struct sluice_device *sd;
	u64 mask = DMA_BIT_MASK(32);

	rcu_read_lock();
	sd = sluice_device_find(dev);
	if (sd)
		mask = DMA_BIT_MASK(fls64(pool_end(sd)));
	rcu_read_unlock();
	return mask;
}

static size_t sluice_max_mapping_size(struct device *dev)
{
	struct sluice_device *sd;
	size_t size = SIZE_MAX;

	rcu_read_lock();
	sd = sluice_device_find(dev);
	if (sd)
		size = sluice_dma_max_mapping(&sd->dma);
	rcu_read_unlock();
	return size;
}

/*
 * Not set, and what the DMA API does then is right:
 *   get_sgtable	-ENXIO: an sg_table is made of struct pages, and a BAR has none.
 *   unmap_resource	nothing: there never is one.
 *   opt_mapping_size	what max_mapping_size says: a copy has no best length below it.
 *   get_merge_boundary	0: elements are never merged, each has its own slot.
 *   alloc_noncontiguous (6.1)	one piece by alloc_pages.
 */
const struct dma_map_ops sluice_ops = {
	.alloc = sluice_alloc,
	.free = sluice_free,
	SLUICE_COMPAT_ALLOC_PAGES_OP(sluice_alloc_pages),
	.free_pages = sluice_free_pages,
	.mmap = sluice_mmap,
	SLUICE_COMPAT_MAP_OPS(sluice_map, sluice_unmap),
	.map_sg = sluice_map_sg,
	.unmap_sg = sluice_unmap_sg,
	.sync_single_for_cpu = sluice_sync_single_for_cpu,
	.sync_single_for_device = sluice_sync_single_for_device,
	.sync_sg_for_cpu = sluice_sync_sg_for_cpu,
	.sync_sg_for_device = sluice_sync_sg_for_device,
	.dma_supported = sluice_dma_supported,
	.get_required_mask = sluice_get_required_mask,
	.max_mapping_size = sluice_max_mapping_size,
};
