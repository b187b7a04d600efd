// SPDX-License-Identifier: GPL-2.0-only
/*
 * observe.c - see what is mapped, without having a hand in it
 *
 * Theory of operation
 * -------------------
 * mode=observe confines nothing. It is called by ftrace when one of the DMA API's own functions is
 * entered, and reports what passes as the tracepoints of trace.h, for the devices that were named.
 * The devices' ops stay as they are, so every mapping is made by whoever made it before, and a
 * function may be observed that is bound already or could not be confined. What goes past the DMA
 * API (a virtio device without VIRTIO_F_ACCESS_PLATFORM, a balloon's pages) goes past us, too; so
 * do map_resource() and dma_alloc_pages(), which none of the drivers surveyed calls.
 *
 * Why ftrace and not kprobes: a kprobe that is hit inside another one's handler, by an interrupt,
 * is skipped, which loses up to about 1 % of an NVMe disk's unmaps. ftrace keeps the contexts apart.
 *
 * A function's entry knows all but the device address, and that is the physical one as long as
 * nothing translates: a device behind an IOMMU or with ops of another layer is left out and said.
 * A mapping that fails, or that swiotlb bounces, is reported as if it had been made in place. For
 * coherent memory the address is what matters, so its allocation alone has a return probe; what
 * that misses is counted in debugfs (observe, key missed) for the recorder to read.
 *
 * sluice_observe_changed() is for the confined: only where the device writes into a slot and the
 * buffer still is as it was can one tell at unmap what it wrote.
 *
 * Invariant: nothing here writes to anything of the device's or its driver's.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/seq_file.h>

#include "compat.h"
#include "sluice.h"
#include "trace.h"

static const struct sluice_selection *selection;
static struct dentry *folder;

/**
 * sluice_page_kind - what the memory of a buffer is used for
 * @phys: its first byte
 *
 * Slab: other objects of the kernel's are on the page. User: a page of a file's or a process's.
 *
 * Context: any. @phys is the caller's, so its page is not given back meanwhile.
 */
u32 sluice_page_kind(u64 phys)
{
	struct folio *folio;

	if (!pfn_valid(PHYS_PFN(phys)))
		return SLUICE_PAGE_KERNEL;
	folio = page_folio(pfn_to_page(PHYS_PFN(phys)));
	if (folio_test_slab(folio))
		return SLUICE_PAGE_SLAB;
	return READ_ONCE(folio->mapping) ? SLUICE_PAGE_USER : SLUICE_PAGE_KERNEL;
}

/**
 * sluice_observe_changed - what a device has written into a slot
 * @slot:    the slot's bytes; the device may be writing them now, so each is read once
 * @buffer:  what they were when the slot was handed over
 * @len:     bytes
 * @changed: set to the number of bytes that differ: at least so many were written
 * @extent:  set to the number of bytes up to the last one that differs
 *
 * A byte that was overwritten with itself cannot be told from one that was not written, and what a
 * driver has taken by sync before is in the buffer already.
 *
 * Context: any.
 */
void sluice_observe_changed(const void *slot, const void *buffer, size_t len, u32 *changed,
			    u32 *extent)
{
	const u64 low = 0x7f7f7f7f7f7f7f7fULL;
	const u8 *now = slot, *then = buffer;
	size_t i = 0;

	*changed = 0;
	*extent = 0;
	/* Slots are aligned, but a mapping may begin inside one. */
	for (; i < len && !IS_ALIGNED((unsigned long)(now + i), 8); i++) {
		if (READ_ONCE(now[i]) != then[i]) {
			(*changed)++;
			*extent = i + 1;
		}
	}
	for (; len - i >= 8; i += 8) {
		u64 x, top;

		memcpy(&x, then + i, 8);
		x ^= READ_ONCE(*(const u64 *)(now + i));
		if (!x)
			continue;
		/* The top bit of each byte that is not zero; x86 is little-endian. */
		top = ((x & low) + low) | x | low;
		*changed += hweight64(~low & top);
		*extent = i + (fls64(x) + 7) / 8;
	}
	for (; i < len; i++) {
		if (READ_ONCE(now[i]) != then[i]) {
			(*changed)++;
			*extent = i + 1;
		}
	}
}

/* The function that a call is for, as a word, or 0 if it is not to be observed. */
static bool wanted(struct device *dev, u32 *bdf)
{
	if (!dev || !dev_is_pci(dev) || !sluice_selected(selection, to_pci_dev(dev)))
		return false;
	if (unlikely(sluice_compat_iommu(dev) || get_dma_ops(dev))) {
		dev_warn_once(dev, "sluice: it is behind an IOMMU (or another layer), and is not "
				   "observed; so are all that are\n");
		return false;
	}
	*bdf = sluice_bdf_word(dev);
	return true;
}

static unsigned long arg(struct pt_regs *regs, unsigned int n)
{
	return regs_get_kernel_argument(regs, n);
}

/* dma_map_page_attrs(dev, page, offset, size, dir, attrs) */
static void map_page(u32 bdf, struct pt_regs *regs)
{
	u64 phys = page_to_phys((struct page *)arg(regs, 1)) + arg(regs, 2);

	if (!trace_map_enabled())
		return;
	trace_map(bdf, phys, phys, arg(regs, 3), (int)arg(regs, 4), sluice_page_kind(phys));
}

static void map_list(u32 bdf, struct scatterlist *sgl, int n, int dir)
{
	struct scatterlist *sg;
	int i;

	if (!trace_map_enabled())
		return;
	for_each_sg (sgl, sg, n, i)
		trace_map(bdf, sg_phys(sg), sg_phys(sg), sg->length, dir,
			  sluice_page_kind(sg_phys(sg)));
}

/* dma_map_sg_attrs(dev, sg, nents, dir, attrs) */
static void map_sg(u32 bdf, struct pt_regs *regs)
{
	map_list(bdf, (void *)arg(regs, 1), (int)arg(regs, 2), (int)arg(regs, 3));
}

/* dma_map_sgtable(dev, sgt, dir, attrs) */
static void map_sgtable(u32 bdf, struct pt_regs *regs)
{
	const struct sg_table *sgt = (void *)arg(regs, 1);

	map_list(bdf, sgt->sgl, sgt->orig_nents, (int)arg(regs, 2));
}

/* dma_unmap_page_attrs(dev, addr, size, dir, attrs) */
static void unmap_page(u32 bdf, struct pt_regs *regs)
{
	trace_unmap(bdf, 0, arg(regs, 1), arg(regs, 2), (int)arg(regs, 3), SLUICE_UNKNOWN,
		    SLUICE_UNKNOWN);
}

/* dma_unmap_sg_attrs(dev, sg, nents, dir, attrs) */
static void unmap_sg(u32 bdf, struct pt_regs *regs)
{
	struct scatterlist *sgl = (void *)arg(regs, 1), *sg;
	int i;

	for_each_sg (sgl, sg, (int)arg(regs, 2), i)
		trace_unmap(bdf, sg_phys(sg), sg_phys(sg), sg->length, (int)arg(regs, 3),
			    SLUICE_UNKNOWN, SLUICE_UNKNOWN);
}

/* dma_free_attrs(dev, size, cpu_addr, dma_handle, attrs) */
static void free_coherent(u32 bdf, struct pt_regs *regs)
{
	trace_free(bdf, arg(regs, 3), arg(regs, 1));
}

static void entered(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
		    struct ftrace_regs *fregs)
{
	struct pt_regs *regs = ftrace_get_regs(fregs);
	void (*report)(u32 bdf, struct pt_regs * regs) = ops->private;
	u32 bdf;

	if (regs && wanted((void *)arg(regs, 0), &bdf))
		report(bdf, regs);
}

/*
 * PERMANENT: while we are there, ftrace cannot be turned off behind our back, and if it is off,
 * registering fails.
 */
#define ENTRY(symbol, report)                                                                      \
	{                                                                                          \
		symbol,                                                                            \
			{                                                                          \
				.func = entered,                                                   \
				.private = (report),                                               \
				.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_PERMANENT,        \
			},                                                                         \
	}

static struct {
	char symbol[32];
	struct ftrace_ops ops;
} entries[] = {
	ENTRY("dma_map_page_attrs", map_page), ENTRY("dma_map_sg_attrs", map_sg),
	ENTRY("dma_map_sgtable", map_sgtable), ENTRY("dma_unmap_page_attrs", unmap_page),
	ENTRY("dma_unmap_sg_attrs", unmap_sg), ENTRY("dma_free_attrs", free_coherent),
};

/* What the return probe keeps from the entry of dma_alloc_attrs(dev, size, dma_handle, ...). */
struct allocation {
	u64 len;
	const dma_addr_t *dma;
	u32 bdf;
};

static int alloc_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct allocation *a = (void *)ri->data;

	if (!wanted((void *)arg(regs, 0), &a->bdf))
		return 1; /* and no return probe for this call */
	a->len = arg(regs, 1);
	a->dma = (void *)arg(regs, 2);
	return 0;
}

static int alloc_return(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	const struct allocation *a = (void *)ri->data;

	if (regs_return_value(regs))
		trace_alloc(a->bdf, *a->dma, a->len);
	return 0;
}

static struct kretprobe allocations = {
	.kp.symbol_name = "dma_alloc_attrs",
	.entry_handler = alloc_entry,
	.handler = alloc_return,
	.data_size = sizeof(struct allocation),
	.maxactive = 64,
};

static int observe_show(struct seq_file *m, void *unused)
{
	seq_printf(m, "missed %lu\n",
		   READ_ONCE(allocations.nmissed) + READ_ONCE(allocations.kp.nmissed));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(observe);

static void remove_entries(size_t n)
{
	while (n--) {
		unregister_ftrace_function(&entries[n].ops);
		ftrace_free_filter(&entries[n].ops);
	}
}

/**
 * sluice_observe_start - report what is mapped for these devices from now on
 * @sel: which; kept until sluice_observe_stop()
 *
 * Return: 0; otherwise a negative errno, with nothing probed and the reason in the log.
 * Context: may sleep.
 */
int sluice_observe_start(const struct sluice_selection *sel)
{
	const char *symbol = allocations.kp.symbol_name;
	size_t n;
	int err;

	if (!SLUICE_COMPAT_OBSERVE) {
		pr_err("mode=observe knows the DMA API of kernels up to 6.12: use one of those\n");
		return -EOPNOTSUPP;
	}
	selection = sel;
	for (n = 0; n < ARRAY_SIZE(entries); n++) {
		symbol = entries[n].symbol;
		err = ftrace_set_filter(&entries[n].ops, entries[n].symbol,
					strlen(entries[n].symbol), 1);
		if (!err)
			err = register_ftrace_function(&entries[n].ops);
		if (err) {
			ftrace_free_filter(&entries[n].ops);
			goto undo;
		}
	}
	symbol = allocations.kp.symbol_name;
	err = register_kretprobe(&allocations);
	if (err)
		goto undo;
	folder = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_file("observe", 0444, folder, NULL, &observe_fops);
	return 0;
undo:
	remove_entries(n);
	pr_err("mode=observe: calls of %s cannot be watched (%d): it needs a kernel with "
	       "CONFIG_DYNAMIC_FTRACE_WITH_REGS and CONFIG_KRETPROBES, and sysctl "
	       "kernel.ftrace_enabled=1\n",
	       symbol, err);
	return err;
}

/**
 * sluice_observe_stop - report nothing any more, and wait for who is reporting
 *
 * Context: may sleep.
 */
void sluice_observe_stop(void)
{
	debugfs_remove_recursive(folder);
	unregister_kretprobe(&allocations);
	remove_entries(ARRAY_SIZE(entries));
}
