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
static int parse(struct sluice_mem *mem, const char *spec, struct sluice_bdf *bdf)
{
	const char *at = spec;

	if (strncmp(at, "bar:", 4))
		goto bad;
	at += 4;
	if (sluice_bdf_parse(&at, bdf))
		goto bad;
	if (at[0] != '/' || at[1] < '0' || at[1] >= '0' + PCI_STD_NUM_BARS || at[2])
		goto bad;
	mem->index = at[1] - '0';
	/* Fits: sluice_bdf_parse() takes a domain of five digits at most. */
	strscpy(mem->name, spec, sizeof(mem->name));
	return 0;
bad:
	pr_err("pool=%s is not bar:DOMAIN:BUS:DEVICE.FUNCTION/N, N from 0 to %d: name a BAR as in "
	       "pool=bar:0000:00:04.0/2\n",
	       spec, PCI_STD_NUM_BARS - 1);
	return -EINVAL;
}

static int check(const struct sluice_mem *mem, const struct sluice_limits *limits)
{
	const struct resource *res = &mem->pdev->resource[mem->index];
	u64 most = min_not_zero(limits->max, (u64)pci_resource_len(mem->pdev, mem->index));

	if (!pci_resource_len(mem->pdev, mem->index)) {
		pr_err("pool=%s: the device has no BAR %u: see lspci -v for those it has "
		       "(ivshmem's memory is BAR 2)\n",
		       mem->name, mem->index);
		return -ENXIO;
	}
	if (!(res->flags & IORESOURCE_MEM)) {
		pr_err("pool=%s: BAR %u is I/O ports, not memory: name a memory BAR\n", mem->name,
		       mem->index);
		return -EINVAL;
	}
	if (res->flags & IORESOURCE_UNSET || !res->parent) {
		pr_err("pool=%s: BAR %u has been given no address, %pR: leave it room (a smaller "
		       "BAR, or firmware that maps above 4 GiB)\n",
		       mem->name, mem->index, res);
		return -EADDRNOTAVAIL;
	}
	if (resource_size(res) < MIN_BYTES) {
		pr_err("pool=%s: BAR %u has %llu KiB, which is too small, a pool needs at least %u "
		       "KiB: make it larger "
		       "(ivshmem: the size of its memory backend)\n",
		       mem->name, mem->index, (u64)resource_size(res) >> 10, (u32)MIN_BYTES >> 10);
		return -ENOSPC;
	}
	if (limits->size > most) {
		pr_err("pool=%s: it cannot start with %llu MiB (size), as it can have %llu at most "
		       "(pool_max, or the size of the BAR): lower size, or leave it out\n",
		       mem->name, limits->size >> 20, most >> 20);
		return -EINVAL;
	}
	return 0;
}

/* Claim the BAR and map it. */
static int claim(struct sluice_mem *mem, u64 max)
{
	int err;

	err = pci_enable_device_mem(mem->pdev);
	if (err) {
		pr_err("pool=%s: the device cannot be enabled (%d): see what the kernel said of it "
		       "before\n",
		       mem->name, err);
		return err;
	}
	err = pci_request_region(mem->pdev, mem->index, KBUILD_MODNAME);
	if (err) {
		pr_err("pool=%s: BAR %u is in use by somebody else: unbind the device's driver, "
		       "see /proc/iomem\n",
		       mem->name, mem->index);
		goto disable;
	}
	mem->phys = pci_resource_start(mem->pdev, mem->index);
	mem->size = min3((u64)pci_resource_len(mem->pdev, mem->index), MAX_BYTES, max ?: MAX_BYTES);
	mem->cpu = memremap(mem->phys, mem->size, MEMREMAP_WB);
	if (!mem->cpu) {
		pr_err("pool=%s: %llu KiB at %pa cannot be mapped write-back: something else has "
		       "them mapped in another way\n",
		       mem->name, mem->size >> 10, &mem->phys);
		err = -ENOMEM;
		goto release;
	}
	return 0;
release:
	pci_release_region(mem->pdev, mem->index);
disable:
	pci_disable_device(mem->pdev);
	return err;
}

static void unclaim(struct sluice_mem *mem)
{
	pci_release_region(mem->pdev, mem->index);
	pci_disable_device(mem->pdev);
}

/* The next place that is free. The memory is there already. */
static int bar_open(struct sluice_mem *mem, void **cpu, u64 *dev, u32 *bytes)
{
	u64 at;
	u32 c = 0;

	if (mem->gone)
		return -ENODEV;
	while (c < mem->nr_chunks && mem->chunks[c].meta)
		c++;
	if (c == mem->nr_chunks)
		return -ENOSPC;
	at = (u64)c << SLUICE_CHUNK_SHIFT;
	*cpu = mem->cpu + at;
	*bytes = min_t(u64, mem->size - at, SLUICE_CHUNK_BYTES);
	return mem->region.share.ops->open(&mem->region.share, *cpu, *bytes, dev);
}

static int bar_close(struct sluice_mem *mem, void *cpu, u64 dev, u32 bytes)
{
	return mem->region.share.ops->close(&mem->region.share, cpu, bytes, dev);
}

static phys_addr_t bar_phys(struct sluice_mem *mem, const void *cpu)
{
	return mem->phys + (cpu - mem->cpu);
}

static const struct sluice_mem_ops bar_ops = {
	.open = bar_open,
	.close = bar_close,
	.phys = bar_phys,
};

/* Hand the mapped memory to the core. */
static int fill(struct sluice_mem *mem, struct sluice_limits limits)
{
	u64 dev = pci_bus_address(mem->pdev, mem->index);
	int err;

	mem->ops = &bar_ops;
	mem->nr_chunks = mem->nr_places = DIV_ROUND_UP_ULL(mem->size, SLUICE_CHUNK_BYTES);
	mem->last = dev + mem->size - 1;
	limits.size = min(limits.size ?: DEFAULT_SIZE, mem->size);
	err = sluice_region_init(&mem->region, mem->cpu, dev, mem->size);
	return err ?: sluice_mem_init(mem, &limits, dev);
}

/**
 * sluice_bar_open - make a pool of a BAR's memory
 * @mem:    filled in; owned by the caller, zeroed
 * @spec:   "bar:DDDD:BB:DD.F/N"
 * @limits: how much of the BAR to use; multiples of a chunk
 *
 * Return: 0; otherwise a negative errno, with nothing left claimed and one line in the log that
 * says why and what to do.
 * Context: may sleep.
 */
int sluice_bar_open(struct sluice_mem *mem, const char *spec, const struct sluice_limits *limits)
{
	struct sluice_bdf bdf;
	int err;

	err = parse(mem, spec, &bdf);
	if (err)
		return err;
	mem->pdev = pci_get_domain_bus_and_slot(bdf.domain, bdf.bus, bdf.devfn);
	if (!mem->pdev) {
		pr_err("pool=%s: there is no such PCI device: see lspci -D\n", mem->name);
		return -ENODEV;
	}
	err = check(mem, limits);
	if (err)
		goto put;
	err = claim(mem, limits->max);
	if (err)
		goto put;
	err = fill(mem, *limits);
	if (err) {
		pr_err("pool=%s: no private memory for keeping track of %llu KiB (%d): use a "
		       "smaller BAR or size\n",
		       mem->name, mem->size >> 10, err);
		goto unmap;
	}
	if (mem->size == MAX_BYTES && mem->size < pci_resource_len(mem->pdev, mem->index))
		pr_info("pool %s: only the first %llu MiB of the BAR are used\n", mem->name,
			mem->size >> 20);
	return 0;
unmap:
	memunmap(mem->cpu);
	unclaim(mem);
put:
	pci_dev_put(mem->pdev);
	return err;
}

/**
 * sluice_bar_lost - the BAR's device is being removed from the machine
 * @mem: nothing will be mapped from it any more; what is mapped can still be unmapped
 *
 * Context: may sleep. Called while the device's resources are still its own.
 */
void sluice_bar_lost(struct sluice_mem *mem)
{
	pr_err("the device of pool %s has been unplugged: no confined device can do DMA until the "
	       "module is loaded with another pool\n",
	       mem->name);
	sluice_grow_lost(mem);
	unclaim(mem);
}

/**
 * sluice_bar_close - undo sluice_bar_open()
 * @mem: nothing is mapped from it and nobody will try
 *
 * Context: may sleep.
 */
void sluice_bar_close(struct sluice_mem *mem)
{
	(void)sluice_mem_exit(mem); /* A BAR's chunks need no taking back. */
	memunmap(mem->cpu);
	/* Once the device has gone, its address and its place on the bus may be another's. */
	if (!mem->gone)
		unclaim(mem);
	pci_dev_put(mem->pdev);
}
