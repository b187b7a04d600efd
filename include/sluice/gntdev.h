/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/gntdev.h - the device's end of Xen grants on a real hypervisor, for a backend on Linux
 *
 * Theory of operation
 * -------------------
 * The view of sluice/view.h over /dev/xen/gntdev: device addresses are bit 63 | reference << 12 |
 * offset, as sluice/grant.h and Linux's grant-dma-ops have them. The hypervisor checks the other
 * domain's table, marks entries as in use and maps the frames; nothing of that table is read here.
 *
 * Holding is a map of up to 64 consecutive references in one go, or, if one of them cannot be mapped,
 * of the first alone. Reading and writing copy through the hypervisor instead (GNTTABOP_copy), up to 64
 * in one go: that touches no mapping, and is cheaper than a map and an unmap. In neither way is
 * a grant ever touched that is not held.
 */
#ifndef SLUICE_GNTDEV_H
#define SLUICE_GNTDEV_H

#include <sluice/view.h>

struct sluice_gntdev {
	struct sluice_view view; /* view.stats is for reading */
	int fd;
	uint16_t domid;
};

/**
 * sluice_gntdev_open - reach what a domain grants to this one
 * @gntdev: filled in; owned by the caller
 * @domid:  the domain that grants
 *
 * Return: 0, or the negative errno of opening /dev/xen/gntdev.
 */
SLUICE_API int sluice_gntdev_open(struct sluice_gntdev *gntdev, uint16_t domid);

/**
 * sluice_gntdev_close - stop; nothing is held any more
 */
SLUICE_API void sluice_gntdev_close(struct sluice_gntdev *gntdev);

#endif
