// SPDX-License-Identifier: GPL-2.0-only
/*
 * lower_grant.c - below us: Xen's grants
 *
 * Theory of operation
 * -------------------
 * In a Xen guest the backend of a device can be in a domain that reaches nothing of this one's memory
 * but what is granted to it. A device address is then bit 63 | reference << 12 | offset, as Linux's own
 * grant-dma-ops have it (CONFIG_XEN_VIRTIO, which Debian's kernels lack), with consecutive references for
 * a range. The core has that mechanism too (core/share_grant.c), but over a table of its own; here the
 * table is Linux's, and so we go through its functions.
 *
 * Two ranges of references are taken from Linux when a device becomes ours and kept: one for the
 * pool's chunks, which are granted when they come and stay so, and one for transfers, out of which
 * the core's allocator gives runs. So nothing is asked of anybody to share a page, and the table never
 * grows in an interrupt: both are stores.
 *
 * Ending access is a compare-and-swap, which fails while the other domain has the page mapped, or is
 * copying. Then the reference stays ours, and the page the caller's, until a later try succeeds; the
 * other references of that span have ended meanwhile, and to end those again does nothing. Linux
 * warns in the log for each reference that is in use, so after a first try there is one a second at
 * most (for each device).
 *
 * Whether a device's backend goes by grants cannot be seen from here: it is the administrator who says so,
 * and to which domain, by the parameter grants. A device that was passed through is refused: its
 * addresses are translated by another layer already, and no domain maps anything for it.
 *
 * Not covered: migration and save/restore give the domain a new, empty table. Drivers have to be unbound
 * before, which takes back all that is granted.
 *
 * Invariant: a reference is free in the allocator only if access through it has ended.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/dma-map-ops.h>
#include <linux/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <xen/grant_table.h>
#include <xen/page.h>
#include <xen/xen.h>

#include <sluice/grant.h>
#include <sluice/iova.h>
#include <sluice/pool.h>

#include "compat.h"
#include "lower.h"
#include "sluice.h"

#define TRANSFER_REFS 4096 /* for transfers: 16 MiB; as few as LEAST_REFS if the table is small */
#define LEAST_REFS    256

static_assert(XEN_PAGE_SHIFT == SLUICE_GRANULE_SHIFT && PAGE_SHIFT == SLUICE_GRANULE_SHIFT);

struct refs {
	grant_ref_t first;
	u32 n;
};

struct lower_grant {
	struct sluice_lower lower;
	struct sluice_share share;
	domid_t domid;
	struct refs pool, transfers;
	struct sluice_chunk_window chunks;
	struct sluice_iova free;
	void *iova_memory;
	struct sluice_iova_cache *caches;
	unsigned long next_try; /* jiffies: not before, for what was in use at its first try */
};

static int backend = -1; /* the parameter grants */

static struct lower_grant *of_share(struct sluice_share *share)
{
	return container_of(share, struct lower_grant, share);
}

static u64 name(const void *cpu)
{
	return virt_to_phys((void *)cpu);
}

static u64 dev_of(u64 ref)
{
	return SLUICE_GRANT_ADDR | ref << SLUICE_GRANULE_SHIFT;
}

static u64 ref_of(u64 dev)
{
	return (dev & ~SLUICE_GRANT_ADDR) >> SLUICE_GRANULE_SHIFT;
}

static void permit(struct lower_grant *lg, u64 ref, u64 phys, u64 bytes, u32 access)
{
	for (u64 at = 0; at < bytes; at += PAGE_SIZE, ref++)
		gnttab_grant_foreign_access_ref(ref, lg->domid,
						xen_page_to_gfn(pfn_to_page(PHYS_PFN(phys + at))),
						!(access & SLUICE_WRITE));
	sluice_count(&lg->share.stats.operations, bytes >> SLUICE_GRANULE_SHIFT);
}

/* End access to all of a range, as far as that goes. True if it is all of it. */
static bool end(struct lower_grant *lg, u64 ref, u64 bytes)
{
	u64 n = bytes >> SLUICE_GRANULE_SHIFT;
	bool ended = true;

	for (u64 i = ref; i < ref + n; i++)
		ended &= gnttab_end_foreign_access_ref(i);
	sluice_count(&lg->share.stats.operations, n);
	return ended;
}

static int grant_open(struct sluice_share *share, void *cpu, uint64_t size, uint64_t *dev)
{
	struct lower_grant *lg = of_share(share);

	if (!sluice_chunk_window_take(&lg->chunks, dev))
		return -ENOSPC;
	permit(lg, ref_of(*dev), virt_to_phys(cpu), size, SLUICE_READ | SLUICE_WRITE);
	return 0;
}

static int grant_close(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev)
{
	struct lower_grant *lg = of_share(share);

	if (!end(lg, ref_of(dev), size))
		return -EBUSY;
	sluice_chunk_window_give(&lg->chunks, dev);
	return 0;
}

static int share_span(struct sluice_share *share, struct sluice_span *span)
{
	struct lower_grant *lg = of_share(share);
	u64 ref;
	int err;

	err = sluice_iova_alloc(&lg->free, span->bytes >> SLUICE_GRANULE_SHIFT, &ref);
	if (err)
		return err == -EINVAL ? -ENOSPC : err;
	span->dev = dev_of(ref);
	for (u32 i = 0; i < span->n; i++) {
		permit(lg, ref, span->pieces[i].orig, span->pieces[i].bytes, span->access);
		ref += span->pieces[i].bytes >> SLUICE_GRANULE_SHIFT;
	}
	return 0;
}

/* A span whose token is set was in use before. */
static int unshare_span(struct lower_grant *lg, struct sluice_span *span)
{
	u64 ref = ref_of(span->dev);

	if (span->token && time_before(jiffies, READ_ONCE(lg->next_try)))
		return -EBUSY;
	if (!end(lg, ref, span->bytes)) {
		span->token = 1;
		WRITE_ONCE(lg->next_try, jiffies + HZ);
		return -EBUSY;
	}
	(void)sluice_iova_free(&lg->free, ref, span->bytes >> SLUICE_GRANULE_SHIFT);
	return 0;
}

static int grant_unshare(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	struct lower_grant *lg = of_share(share);
	int ret = 0;

	for (u32 i = 0; i < n; i++) {
		spans[i].result = unshare_span(lg, &spans[i]);
		ret = ret ?: spans[i].result;
	}
	return ret;
}

static int grant_share(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	return sluice_lower_share_each(share, spans, n, share_span);
}

static const struct sluice_share_ops grant_share_ops = {
	.name = "grant",
	.flags = SLUICE_SHARE_JOINS,
	.open = grant_open,
	.close = grant_close,
	.share = grant_share,
	.unshare = grant_unshare,
};

static int take_range(struct refs *refs, u32 n, u32 least)
{
	int err = -ENOSPC;

	for (; n >= least && err; n /= 2) {
		err = gnttab_alloc_grant_reference_seq(n, &refs->first);
		if (!err)
			refs->n = n;
	}
	return err;
}

static int take_refs(struct lower_grant *lg, u64 pool_bytes)
{
	u32 n = pool_bytes >> SLUICE_GRANULE_SHIFT;
	u64 first, last;
	int err;

	err = take_range(&lg->pool, n, n) ?: take_range(&lg->transfers, TRANSFER_REFS, LEAST_REFS);
	if (err)
		return err;
	first = lg->transfers.first;
	last = first + lg->transfers.n - 1;
	lg->iova_memory = vzalloc(sluice_iova_size(first, last));
	lg->caches = kvcalloc(nr_cpu_ids, sizeof(*lg->caches), GFP_KERNEL);
	if (!lg->iova_memory || !lg->caches)
		return -ENOMEM;
	err = sluice_iova_init(&lg->free, first, last, lg->iova_memory, lg->caches, nr_cpu_ids);
	return err ?: sluice_iova_add(&lg->free, first, last);
}

/* Access through none of the references is permitted. */
static void free_all(struct lower_grant *lg)
{
	if (lg->transfers.n)
		gnttab_free_grant_reference_seq(lg->transfers.first, lg->transfers.n);
	if (lg->pool.n)
		gnttab_free_grant_reference_seq(lg->pool.first, lg->pool.n);
	vfree(lg->iova_memory);
	kvfree(lg->caches);
	kfree(lg);
}

static struct sluice_lower *take(struct device *dev, u64 pool_bytes, const char **why)
{
	struct lower_grant *lg;
	int err;

	if (backend < 0)
		return ERR_PTR(-ENODEV);
	if (sluice_compat_iommu(dev) || get_dma_ops(dev)) {
		*why = "grants= is set, but something else maps its DMA: it has been passed "
		       "through";
		return ERR_PTR(-EBUSY);
	}
	lg = kzalloc(sizeof(*lg), GFP_KERNEL);
	if (!lg)
		return ERR_PTR(-ENOMEM);
	lg->domid = backend;
	err = take_refs(lg, pool_bytes);
	if (err) {
		*why = "Xen's grant table has no room for its pool (max_grant_frames= of the "
		       "domain)";
		free_all(lg);
		return ERR_PTR(err);
	}
	lg->share.ops = &grant_share_ops;
	lg->share.name = name;
	lg->chunks.dev = dev_of(lg->pool.first);
	lg->chunks.chunks = pool_bytes >> SLUICE_CHUNK_SHIFT;
	lg->lower.ops = &sluice_lower_grant;
	lg->lower.dev = dev;
	lg->lower.share = &lg->share;
	lg->lower.pool_dev = lg->chunks.dev;
	lg->lower.pool_window = pool_bytes;
	lg->lower.last =
		dev_of(max(lg->pool.first + lg->pool.n, lg->transfers.first + lg->transfers.n)) - 1;
	return &lg->lower;
}

static void give(struct sluice_lower *lower)
{
	free_all(container_of(lower, struct lower_grant, lower));
}

static void show(struct sluice_lower *lower, struct seq_file *m)
{
	struct lower_grant *lg = container_of(lower, struct lower_grant, lower);

	seq_printf(m, "granted_to %u\n", lg->domid);
	seq_printf(m, "references %u\n", lg->pool.n + lg->transfers.n);
	seq_printf(m, "references_transfers %u\n", lg->transfers.n);
}

/**
 * sluice_grants_to - grant the memory of devices, to one domain
 * @domid: the parameter grants; below 0: no
 *
 * Return: 0, or -EINVAL with a line in the log.
 * Context: before devices are taken.
 */
int sluice_grants_to(int domid)
{
	if (domid >= 0 &&
	    (!xen_domain() || xen_initial_domain() || domid >= DOMID_FIRST_RESERVED)) {
		pr_err("grants=%d: %s: leave it out\n", domid,
		       !xen_domain()	      ? "this is no Xen guest"
		       : xen_initial_domain() ? "this is domain 0, whose devices are real"
					      : "there is no such domain");
		return -EINVAL;
	}
	backend = domid;
	return 0;
}

const struct sluice_lower_ops sluice_lower_grant = {
	.name = "grant",
	.confines = true,
	.lingers = true,
	.take = take,
	.give = give,
	.show = show,
};
