// SPDX-License-Identifier: GPL-2.0-only
/*
 * bar.c - a pool in the memory of a PCI BAR
 *
 * Theory of operation
 * -------------------
 * A device whose BAR is memory that the other side of the virtual machine can see (QEMU's ivshmem,
 * a BAR of a virtio device's own) gives us a region that is shared from the start. We claim it, map
 * it write-back (it is memory, whatever the bus says) and hand it to the core in chunks, some at
 * once and others when they are needed (grow.c); what the core has to remember about a chunk is
 * ordinary private memory.
 *
 * Devices find the region at its address on the PCI bus, so this pool serves devices that reach
 * that bus without translation; device.c refuses those behind an IOMMU.
 *
 * Invariant: from open to close the BAR's memory is decoded and is nobody else's, unless its device
 * is unplugged.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/io.h>
#include <linux/log2.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "compat.h"
#include "sluice.h"

/*
 * The smallest pool that is of any use. A request of a disk is mapped as a whole or not at all: if
 * the pool could not hold the longest one beside the rings, it would be tried again for ever.
 */
#define MIN_BYTES roundup_pow_of_two(SLUICE_COMPAT_LONGEST_REQUEST + 1)
#define MAX_BYTES ((u64)2048 << SLUICE_CHUNK_SHIFT) /* the core's limit */

/* With less to start with, a disk would be told to keep its requests shorter (an eighth of it). */
#define DEFAULT_SIZE ((u64)8 << SLUICE_CHUNK_SHIFT)

/* "bar:DDDD:BB:DD.F/N" */
static int parse(struct sluice_bar *bar, const char *spec, struct sluice_bdf *bdf)
{
	const char *at = spec;

	if (strncmp(at, "bar:", 4))
		goto bad;
	at += 4;
	if (sluice_bdf_parse(&at, bdf))
		goto bad;
	if (at[0] != '/' || at[1] < '0' || at[1] >= '0' + PCI_STD_NUM_BARS || at[2])
		goto bad;
	bar->index = at[1] - '0';
	/* Fits: sluice_bdf_parse() takes a domain of five digits at most. */
	strscpy(bar->name, spec, sizeof(bar->name));
	return 0;
bad:
	pr_err("pool=%s is not bar:DOMAIN:BUS:DEVICE.FUNCTION/N, N from 0 to %d: name a BAR as in "
	       "pool=bar:0000:00:04.0/2\n",
	       spec, PCI_STD_NUM_BARS - 1);
	return -EINVAL;
}

static int check(const struct sluice_bar *bar, const struct sluice_bar_limits *limits)
{
	const struct resource *res = &bar->pdev->resource[bar->index];
	u64 most = min_not_zero(limits->max, (u64)pci_resource_len(bar->pdev, bar->index));

	if (!pci_resource_len(bar->pdev, bar->index)) {
		pr_err("pool=%s: the device has no BAR %u: see lspci -v for those it has "
		       "(ivshmem's memory is BAR 2)\n",
		       bar->name, bar->index);
		return -ENXIO;
	}
	if (!(res->flags & IORESOURCE_MEM)) {
		pr_err("pool=%s: BAR %u is I/O ports, not memory: name a memory BAR\n", bar->name,
		       bar->index);
		return -EINVAL;
	}
	if (res->flags & IORESOURCE_UNSET || !res->parent) {
		pr_err("pool=%s: BAR %u has been given no address, %pR: leave it room (a smaller "
		       "BAR, or firmware that maps above 4 GiB)\n",
		       bar->name, bar->index, res);
		return -EADDRNOTAVAIL;
	}
	if (resource_size(res) < MIN_BYTES) {
		pr_err("pool=%s: BAR %u has %llu KiB, which is too small, a pool needs at least %u "
		       "KiB: make it larger "
		       "(ivshmem: the size of its memory backend)\n",
		       bar->name, bar->index, (u64)resource_size(res) >> 10, (u32)MIN_BYTES >> 10);
		return -ENOSPC;
	}
	if (limits->size > most) {
		pr_err("pool=%s: it cannot start with %llu MiB (size), as it can have %llu at most "
		       "(pool_max, or the size of the BAR): lower size, or leave it out\n",
		       bar->name, limits->size >> 20, most >> 20);
		return -EINVAL;
	}
	return 0;
}

/* Claim the BAR and map it. */
static int claim(struct sluice_bar *bar, u64 max)
{
	int err;

	err = pci_enable_device_mem(bar->pdev);
	if (err) {
		pr_err("pool=%s: the device cannot be enabled (%d): see what the kernel said of it "
		       "before\n",
		       bar->name, err);
		return err;
	}
	err = pci_request_region(bar->pdev, bar->index, KBUILD_MODNAME);
	if (err) {
		pr_err("pool=%s: BAR %u is in use by somebody else: unbind the device's driver, "
		       "see /proc/iomem\n",
		       bar->name, bar->index);
		goto disable;
	}
	bar->phys = pci_resource_start(bar->pdev, bar->index);
	bar->size = min3((u64)pci_resource_len(bar->pdev, bar->index), MAX_BYTES, max ?: MAX_BYTES);
	bar->cpu = memremap(bar->phys, bar->size, MEMREMAP_WB);
	if (!bar->cpu) {
		pr_err("pool=%s: %llu KiB at %pa cannot be mapped write-back: something else has "
		       "them mapped in another way\n",
		       bar->name, bar->size >> 10, &bar->phys);
		err = -ENOMEM;
		goto release;
	}
	return 0;
release:
	pci_release_region(bar->pdev, bar->index);
disable:
	pci_disable_device(bar->pdev);
	return err;
}

static void unclaim(struct sluice_bar *bar)
{
	pci_release_region(bar->pdev, bar->index);
	pci_disable_device(bar->pdev);
}

static void free_private(struct sluice_bar *bar)
{
	for (u32 i = 0; bar->chunks && i < bar->nr_chunks; i++)
		vfree(bar->chunks[i]);
	kvfree(bar->chunks);
	for (u32 i = 0; bar->caches && i < bar->nr_caches; i++)
		kvfree(bar->caches[i]);
	kvfree(bar->caches);
}

/* A cache for each CPU there can be, on its own node. */
static int alloc_private(struct sluice_bar *bar)
{
	bar->nr_chunks = DIV_ROUND_UP_ULL(bar->size, SLUICE_CHUNK_BYTES);
	bar->chunks = kvcalloc(bar->nr_chunks, sizeof(*bar->chunks), GFP_KERNEL);
	bar->nr_caches = nr_cpu_ids;
	bar->caches = kvcalloc(bar->nr_caches, sizeof(*bar->caches), GFP_KERNEL);
	if (!bar->chunks || !bar->caches)
		return -ENOMEM;
	for (u32 i = 0; i < bar->nr_caches; i++) {
		int node = cpu_possible(i) ? cpu_to_node(i) : NUMA_NO_NODE;

		bar->caches[i] = kvzalloc_node(sluice_cache_size(), GFP_KERNEL, node);
		if (!bar->caches[i])
			return -ENOMEM;
	}
	return 0;
}

/* Hand the mapped memory to the core. */
static int fill(struct sluice_bar *bar, const struct sluice_bar_limits *limits)
{
	struct sluice_pool_config config = {.name = bar->name};
	u64 dev, start = min(limits->size ?: DEFAULT_SIZE, bar->size);
	int err;

	err = alloc_private(bar);
	if (err)
		goto out;
	err = sluice_region_init(&bar->region, bar->cpu, pci_bus_address(bar->pdev, bar->index),
				 bar->size);
	if (err)
		goto out;
	err = bar->region.share.ops->open(&bar->region.share, bar->cpu, bar->size, &dev);
	if (err)
		goto out;
	config.dev = dev;
	config.chunks = bar->chunks;
	config.max_chunks = bar->nr_chunks;
	config.caches = bar->caches;
	config.n_caches = bar->nr_caches;
	err = sluice_grow_prepare(bar, &config);
	if (err)
		goto out;
	err = sluice_pool_init(&bar->pool, &config);
	if (err)
		goto out;
	bar->quiet = limits->quiet * HZ;
	bar->nr_start = DIV_ROUND_UP_ULL(start, SLUICE_CHUNK_BYTES);
	while (bar->nr_present < bar->nr_start) {
		err = sluice_grow_add(bar, GFP_KERNEL);
		if (err)
			goto out;
	}
	bar->grown = 0; /* from here on */
	sluice_grow_start(bar);
	return 0;
out:
	sluice_grow_stop(bar);
	free_private(bar);
	return err;
}

/**
 * sluice_bar_open - make a pool of a BAR's memory
 * @bar:    filled in; owned by the caller, zeroed
 * @spec:   "bar:DDDD:BB:DD.F/N"
 * @limits: how much of the BAR to use; multiples of a chunk
 *
 * Return: 0; otherwise a negative errno, with nothing left claimed and one line in the log that
 * says why and what to do.
 * Context: may sleep.
 */
int sluice_bar_open(struct sluice_bar *bar, const char *spec,
		    const struct sluice_bar_limits *limits)
{
	struct sluice_bdf bdf;
	int err;

	err = parse(bar, spec, &bdf);
	if (err)
		return err;
	bar->pdev = pci_get_domain_bus_and_slot(bdf.domain, bdf.bus, bdf.devfn);
	if (!bar->pdev) {
		pr_err("pool=%s: there is no such PCI device: see lspci -D\n", bar->name);
		return -ENODEV;
	}
	err = check(bar, limits);
	if (err)
		goto put;
	err = claim(bar, limits->max);
	if (err)
		goto put;
	err = fill(bar, limits);
	if (err) {
		pr_err("pool=%s: no private memory for keeping track of %llu KiB (%d): use a "
		       "smaller BAR or size\n",
		       bar->name, bar->size >> 10, err);
		goto unmap;
	}
	if (bar->size == MAX_BYTES && bar->size < pci_resource_len(bar->pdev, bar->index))
		pr_info("pool %s: only the first %llu MiB of the BAR are used\n", bar->name,
			bar->size >> 20);
	return 0;
unmap:
	memunmap(bar->cpu);
	unclaim(bar);
put:
	pci_dev_put(bar->pdev);
	return err;
}

/**
 * sluice_bar_lost - the BAR's device is being removed from the machine
 * @bar: nothing will be mapped from it any more; what is mapped can still be unmapped
 *
 * Context: may sleep. Called while the device's resources are still its own.
 */
void sluice_bar_lost(struct sluice_bar *bar)
{
	pr_err("the device of pool %s has been unplugged: no confined device can do DMA until the "
	       "module is loaded with another pool\n",
	       bar->name);
	sluice_grow_lost(bar);
	unclaim(bar);
}

/**
 * sluice_bar_close - undo sluice_bar_open()
 * @bar: nothing is mapped from it and nobody will try
 *
 * Context: may sleep.
 */
void sluice_bar_close(struct sluice_bar *bar)
{
	sluice_grow_stop(bar);
	bar->region.share.ops->close(&bar->region.share, bar->cpu, bar->size, bar->region.dev);
	free_private(bar);
	memunmap(bar->cpu);
	/* Once the device has gone, its address and its place on the bus may be another's. */
	if (!bar->gone)
		unclaim(bar);
	pci_dev_put(bar->pdev);
}
