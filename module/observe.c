// SPDX-License-Identifier: GPL-2.0-only
/*
 * observe.c - see what is mapped, without having a hand in it
 *
 * Theory of operation
 * -------------------
 * mode=observe confines nothing. It puts probes on the DMA API's own functions and reports what
 * passes through them as the tracepoints of trace.h, for the devices that were named. The devices'
 * ops stay as they are, so every mapping is made by whoever made it before, and a function may be
 * observed that is bound already, is behind an IOMMU, or could not be confined. What goes past the
 * DMA API (a virtio device without VIRTIO_F_ACCESS_PLATFORM, a balloon's pages) goes past us, too;
 * so do map_resource() and dma_alloc_pages(), which none of the drivers surveyed calls.
 *
 * A call whose answer is needed (the device address, whether it succeeded) has a return probe. The
 * kernel has a fixed number of those in flight; beyond that it counts instead of calling us, and
 * that count is in debugfs (observe, key missed) for the recorder to read. Nothing else is lost
 * here. A scatter list is reported element by element under its elements' physical addresses,
 * also as dma: an IOMMU may merge elements, and what is needed is a name that unmap knows as well.
 *
 * sluice_observe_changed() is for the confined: only where the device writes into a slot and the
 * buffer still is as it was can one tell at unmap what it wrote.
 *
 * Invariant: nothing here writes to anything of the device's or its driver's.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
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
 * A byte that was overwritten with itself cannot be told from one that was not written.
 *
 * Context: any.
 */
void sluice_observe_changed(const void *slot, const void *buffer, size_t len, u32 *changed,
			    u32 *extent)
{
	const u8 *now = slot, *then = buffer;
	size_t i = 0;

	*changed = 0;
	*extent = 0;
	while (i < len) {
		u64 a, b;

		if (len - i >= 8 && IS_ALIGNED((unsigned long)(now + i), 8)) {
			a = READ_ONCE(*(const u64 *)(now + i));
			memcpy(&b, then + i, 8);
			if (a == b) {
				i += 8;
				continue;
			}
			for (int k = 0; k < 8; k++, i++) {
				/* x86 is little-endian: byte k is bits 8k and up. */
				if ((a ^ b) >> 8 * k & 0xff) {
					(*changed)++;
					*extent = i + 1;
				}
			}
			continue;
		}
		if (READ_ONCE(now[i]) != then[i]) {
			(*changed)++;
			*extent = i + 1;
		}
		i++;
	}
}

/* The function that a call is for, as a word, or 0 if it is not to be observed. */
static bool wanted(struct device *dev, u32 *bdf)
{
	if (!dev || !dev_is_pci(dev) || !sluice_selected(selection, to_pci_dev(dev)))
		return false;
	*bdf = sluice_bdf_word(dev);
	return true;
}

/* What a return probe keeps from the call's entry. */
struct call {
	u64 phys; /* map: physical address */
	union {
		u64 len;
		struct scatterlist *sgl;
	};
	u64 aux; /* map_sg: elements; alloc: where the address is returned */
	u32 bdf;
	int dir;
};

static int map_page_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct call *call = (void *)ri->data;

	if (!wanted((void *)regs_get_kernel_argument(regs, 0), &call->bdf))
		return 1; /* and no return probe for this call */
	call->phys = page_to_phys((struct page *)regs_get_kernel_argument(regs, 1)) +
		     regs_get_kernel_argument(regs, 2);
	call->len = regs_get_kernel_argument(regs, 3);
	call->dir = (int)regs_get_kernel_argument(regs, 4);
	return 0;
}

static int map_page_return(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	const struct call *call = (void *)ri->data;
	dma_addr_t dma = regs_return_value(regs);

	if (dma != DMA_MAPPING_ERROR)
		trace_map(call->bdf, call->phys, dma, call->len, call->dir,
			  sluice_page_kind(call->phys));
	return 0;
}

static int map_sg_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct call *call = (void *)ri->data;

	if (!wanted((void *)regs_get_kernel_argument(regs, 0), &call->bdf))
		return 1;
	call->sgl = (void *)regs_get_kernel_argument(regs, 1);
	call->aux = (int)regs_get_kernel_argument(regs, 2);
	call->dir = (int)regs_get_kernel_argument(regs, 3);
	return 0;
}

static void map_list(const struct call *call)
{
	struct scatterlist *sg;
	int i;

	for_each_sg (call->sgl, sg, (int)call->aux, i)
		trace_map(call->bdf, sg_phys(sg), sg_phys(sg), sg->length, call->dir,
			  sluice_page_kind(sg_phys(sg)));
}

static int map_sg_return(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	if ((int)regs_return_value(regs) > 0)
		map_list((void *)ri->data);
	return 0;
}

static int map_sgtable_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct call *call = (void *)ri->data;
	const struct sg_table *sgt = (void *)regs_get_kernel_argument(regs, 1);

	if (!wanted((void *)regs_get_kernel_argument(regs, 0), &call->bdf))
		return 1;
	call->sgl = sgt->sgl;
	call->aux = sgt->orig_nents;
	call->dir = (int)regs_get_kernel_argument(regs, 2);
	return 0;
}

static int map_sgtable_return(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	if (!(int)regs_return_value(regs))
		map_list((void *)ri->data);
	return 0;
}

static int alloc_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct call *call = (void *)ri->data;

	if (!wanted((void *)regs_get_kernel_argument(regs, 0), &call->bdf))
		return 1;
	call->len = regs_get_kernel_argument(regs, 1);
	call->aux = regs_get_kernel_argument(regs, 2);
	return 0;
}

static int alloc_return(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	const struct call *call = (void *)ri->data;

	if (regs_return_value(regs))
		trace_alloc(call->bdf, *(dma_addr_t *)call->aux, call->len);
	return 0;
}

static int unmap_page(struct kprobe *probe, struct pt_regs *regs)
{
	u32 bdf;

	if (wanted((void *)regs_get_kernel_argument(regs, 0), &bdf))
		trace_unmap(bdf, 0, regs_get_kernel_argument(regs, 1),
			    regs_get_kernel_argument(regs, 2),
			    (int)regs_get_kernel_argument(regs, 3), SLUICE_UNKNOWN, SLUICE_UNKNOWN);
	return 0;
}

static int unmap_sg(struct kprobe *probe, struct pt_regs *regs)
{
	struct scatterlist *sgl = (void *)regs_get_kernel_argument(regs, 1), *sg;
	int n = (int)regs_get_kernel_argument(regs, 2), i;
	int dir = (int)regs_get_kernel_argument(regs, 3);
	u32 bdf;

	if (!wanted((void *)regs_get_kernel_argument(regs, 0), &bdf))
		return 0;
	for_each_sg (sgl, sg, n, i)
		trace_unmap(bdf, sg_phys(sg), sg_phys(sg), sg->length, dir, SLUICE_UNKNOWN,
			    SLUICE_UNKNOWN);
	return 0;
}

static int free_coherent(struct kprobe *probe, struct pt_regs *regs)
{
	u32 bdf;

	if (wanted((void *)regs_get_kernel_argument(regs, 0), &bdf))
		trace_free(bdf, regs_get_kernel_argument(regs, 3),
			   regs_get_kernel_argument(regs, 1));
	return 0;
}

#define RETURN_PROBE(symbol, entry, ret)                                                           \
	{                                                                                          \
		.kp.symbol_name = (symbol), .entry_handler = (entry), .handler = (ret),            \
		.data_size = sizeof(struct call), .maxactive = RETURN_PROBES,                      \
	}
#define RETURN_PROBES 64

static struct kretprobe return_probes[] = {
	RETURN_PROBE("dma_map_page_attrs", map_page_entry, map_page_return),
	RETURN_PROBE("dma_map_sg_attrs", map_sg_entry, map_sg_return),
	RETURN_PROBE("dma_map_sgtable", map_sgtable_entry, map_sgtable_return),
	RETURN_PROBE("dma_alloc_attrs", alloc_entry, alloc_return),
};

static struct kprobe entry_probes[] = {
	{.symbol_name = "dma_unmap_page_attrs", .pre_handler = unmap_page},
	{.symbol_name = "dma_unmap_sg_attrs", .pre_handler = unmap_sg},
	{.symbol_name = "dma_free_attrs", .pre_handler = free_coherent},
};

static int observe_show(struct seq_file *m, void *unused)
{
	unsigned long missed = 0;

	for (size_t i = 0; i < ARRAY_SIZE(return_probes); i++)
		missed += READ_ONCE(return_probes[i].nmissed) +
			  READ_ONCE(return_probes[i].kp.nmissed);
	for (size_t i = 0; i < ARRAY_SIZE(entry_probes); i++)
		missed += READ_ONCE(entry_probes[i].nmissed);
	seq_printf(m, "missed %lu\n", missed);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(observe);

static void remove_probes(size_t returns, size_t entries)
{
	while (entries--)
		unregister_kprobe(&entry_probes[entries]);
	while (returns--)
		unregister_kretprobe(&return_probes[returns]);
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
	size_t returns, entries = 0;
	const char *symbol;
	int err;

	if (!SLUICE_COMPAT_OBSERVE) {
		pr_err("mode=observe is for kernels up to 6.17, whose DMA API it knows\n");
		return -EOPNOTSUPP;
	}
	if (!SLUICE_COMPAT_OBSERVE) {
		pr_err("mode=observe knows the DMA API of kernels up to 6.17: use one of those\n");
		return -EOPNOTSUPP;
	}
	selection = sel;
	for (returns = 0; returns < ARRAY_SIZE(return_probes); returns++) {
		symbol = return_probes[returns].kp.symbol_name;
		err = register_kretprobe(&return_probes[returns]);
		if (err)
			goto undo;
	}
	for (; entries < ARRAY_SIZE(entry_probes); entries++) {
		symbol = entry_probes[entries].symbol_name;
		err = register_kprobe(&entry_probes[entries]);
		if (err)
			goto undo;
	}
	folder = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_file("observe", 0444, folder, NULL, &observe_fops);
	return 0;
undo:
	remove_probes(returns, entries);
	pr_err("mode=observe: %s cannot be probed (%d): it needs a kernel with CONFIG_KRETPROBES\n",
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
	remove_probes(ARRAY_SIZE(return_probes), ARRAY_SIZE(entry_probes));
}
