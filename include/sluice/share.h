/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/share.h - how memory becomes reachable for a device
 *
 * Theory of operation
 * -------------------
 * A share mechanism turns memory that the driver's side can address into memory that the device
 * can address. Mechanisms differ in what that costs (nothing, a hypercall, a request to a virtual
 * IOMMU), so they stand behind one small table of functions. The pool keeps its chunks shared for
 * as long as it has them: a bounce then costs a copy, whatever the mechanism.
 *
 * region is the mechanism in which everything has been shared from the start and only the address
 * differs: a BAR (ivshmem, VIRTIO_PCI_CAP_SWIOTLB), a reserved memory region, a memfd.
 */
#ifndef SLUICE_SHARE_H
#define SLUICE_SHARE_H

#include <sluice/os.h>

struct sluice_share;

/*
 * Operations of a mechanism. Both may sleep (a mechanism may have to ask a hypervisor), so they
 * are called when a pool grows or shrinks and never while a transfer is mapped.
 */
struct sluice_share_ops {
	const char *name;
	/* Make size bytes at cpu reachable; *dev is the address at which the device finds them.
	 * Returns 0, or -ERANGE if the mechanism cannot reach that memory. */
	int (*open)(struct sluice_share *share, void *cpu, uint64_t size, uint64_t *dev);
	/* Undo open(). The caller has scrubbed the memory. */
	void (*close)(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev);
};

struct sluice_share {
	const struct sluice_share_ops *ops;
};

/* The mechanism region. The caller owns it; it lives as long as what uses it. */
struct sluice_region {
	struct sluice_share share;
	void *cpu;
	uint64_t dev;
	uint64_t size;
};

/**
 * sluice_region_init - describe memory that the device reaches already
 * @region: filled in; owned by the caller
 * @cpu:    address of its first byte for this program
 * @dev:    address of the same byte for the device
 * @size:   bytes
 *
 * Return: 0, or -EINVAL if it is empty or wraps around the end of either address space.
 * Context: any.
 */
SLUICE_API int sluice_region_init(struct sluice_region *region, void *cpu, uint64_t dev,
				  uint64_t size);

#endif
