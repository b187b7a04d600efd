// SPDX-License-Identifier: GPL-2.0-only
/*
 * main.c - parameters, and the order of coming and going
 *
 * Theory of operation
 * -------------------
 * Sluice gives each device that it is told of its own dma_map_ops, which copy everything through a
 * pool of shared memory, so that what stands behind the device (a virtio backend, an emulated NVMe
 * disk) can be shown that pool and nothing else of this machine. It does so on kernels as they are:
 * the DMA API looks for such ops in every struct device.
 *
 *	insmod sluice.ko pool=bar:0000:00:04.0/2 devices=virtio
 *
 * A parameter that is wrong fails the load with one line that says what, why and what to do. The
 * pool comes first and goes last; devices are taken in between.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>

#include "sluice.h"

static char *pool;
module_param(pool, charp, 0444);
MODULE_PARM_DESC(pool, "memory to bounce through: bar:DDDD:BB:DD.F/N, a BAR of a PCI device");

static char *size;
module_param(size, charp, 0444);
MODULE_PARM_DESC(size, "how much of the BAR to start with (default: 16M, or all of a smaller BAR)");

static char *pool_max;
module_param(pool_max, charp, 0444);
MODULE_PARM_DESC(pool_max, "how far the pool may grow (default: all of the BAR)");

static unsigned int quiet = 5;
module_param(quiet, uint, 0444);
MODULE_PARM_DESC(quiet,
		 "seconds of surplus before a pool that has grown shrinks again (default: 5)");

static char *devices;
module_param(devices, charp, 0444);
MODULE_PARM_DESC(devices, "what to confine: virtio, or DDDD:BB:DD.F[,DDDD:BB:DD.F...]");

static char *mode = "bounce";
module_param(mode, charp, 0444);
MODULE_PARM_DESC(mode, "bounce: copy every transfer through the pool (default)");

static bool guard;
module_param(guard, bool, 0444);
MODULE_PARM_DESC(guard, "debug: report devices that write beside what was mapped for them");

static struct sluice_bar the_bar;
static struct sluice_selection the_selection;

/**
 * sluice_bdf_parse - read "DDDD:BB:DD.F"
 * @at:	 the text; moved behind what was read
 * @bdf: filled in
 *
 * Return: 0, or -EINVAL.
 * Context: any.
 */
int sluice_bdf_parse(const char **at, struct sluice_bdf *bdf)
{
	unsigned int domain, bus, device, function;
	int n = 0;

	/* Domains of five digits exist (VMD). */
	if (sscanf(*at, "%5x:%2x:%2x.%1x%n", &domain, &bus, &device, &function, &n) != 4 || !n ||
	    device > 31 || function > 7)
		return -EINVAL;
	*at += n;
	bdf->domain = domain;
	bdf->bus = bus;
	bdf->devfn = PCI_DEVFN(device, function);
	return 0;
}

static int parse_bytes(const char *name, const char *text, u64 *bytes)
{
	char *end;

	*bytes = memparse(text, &end);
	if (*bytes && !*end && IS_ALIGNED(*bytes, SLUICE_CHUNK_BYTES))
		return 0;
	pr_err("%s=%s is no multiple of 2 MiB: write it as in %s=16M\n", name, text, name);
	return -EINVAL;
}

/* The smallest quiet time is one second, the longest an hour: all fits into jiffies. */
static int parse_limits(struct sluice_bar_limits *limits)
{
	int err = 0;

	if (size)
		err = parse_bytes("size", size, &limits->size);
	if (!err && pool_max)
		err = parse_bytes("pool_max", pool_max, &limits->max);
	if (!err && (quiet < 1 || quiet > 3600)) {
		pr_err("quiet=%u is not between 1 and 3600 seconds\n", quiet);
		err = -EINVAL;
	}
	limits->quiet = quiet;
	return err;
}

static int check_device(const struct sluice_bdf *bdf)
{
	struct pci_dev *pdev = pci_get_domain_bus_and_slot(bdf->domain, bdf->bus, bdf->devfn);
	int err = 0;

	if (!pdev) {
		pr_err("devices=%s: there is no PCI device %04x:%02x:%02x.%x: see lspci -D\n",
		       devices, bdf->domain, bdf->bus, PCI_SLOT(bdf->devfn), PCI_FUNC(bdf->devfn));
		return -ENODEV;
	}
	if (pdev == the_bar.pdev) {
		pr_err("devices=%s: %s is the pool's own device, which cannot be confined to "
		       "itself: leave it out\n",
		       devices, pci_name(pdev));
		err = -EINVAL;
	}
	pci_dev_put(pdev);
	return err;
}

static int parse_devices(struct sluice_selection *sel)
{
	const char *at = devices;
	unsigned int n = 1;
	int err;

	if (!strcmp(at, "virtio")) {
		sel->virtio = true;
		return 0;
	}
	for (const char *c = at; *c; c++)
		n += *c == ',';
	sel->bdf = kcalloc(n, sizeof(*sel->bdf), GFP_KERNEL);
	if (!sel->bdf)
		return -ENOMEM;
	for (; sel->count < n; sel->count++) {
		err = sluice_bdf_parse(&at, &sel->bdf[sel->count]);
		if (err || *at != (sel->count + 1 < n ? ',' : '\0')) {
			pr_err("devices=%s is neither \"virtio\" nor a list of PCI addresses: "
			       "write them as in devices=0000:00:05.0,0000:00:06.0\n",
			       devices);
			err = -EINVAL;
			goto out;
		}
		at++;
		err = check_device(&sel->bdf[sel->count]);
		if (err)
			goto out;
	}
	return 0;
out:
	kfree(sel->bdf);
	return err;
}

static int check_params(void)
{
	if (!pool) {
		pr_err("pool= is missing: name the memory to bounce through, as in "
		       "pool=bar:0000:00:04.0/2\n");
		return -EINVAL;
	}
	if (!devices) {
		pr_err("devices= is missing: say devices=virtio, or list PCI addresses\n");
		return -EINVAL;
	}
	if (!strcmp(mode, "auto")) {
		pr_err("mode=auto is not there yet: use mode=bounce\n");
		return -EOPNOTSUPP;
	}
	if (strcmp(mode, "bounce")) {
		pr_err("mode=%s is unknown: use mode=bounce\n", mode);
		return -EINVAL;
	}
	return 0;
}

static int __init sluice_init(void)
{
	struct sluice_bar_limits limits = {};
	int err;

	err = check_params();
	if (err)
		return err;
	err = parse_limits(&limits);
	if (err)
		return err;
	err = sluice_bar_open(&the_bar, pool, &limits);
	if (err)
		return err;
	err = parse_devices(&the_selection);
	if (err)
		goto close;
	sluice_debugfs_start(&the_bar);
	pr_info("pool %s: %llu KiB of %llu at %pa\n", the_bar.name,
		(u64)the_bar.nr_start << (SLUICE_CHUNK_SHIFT - 10), the_bar.size >> 10,
		&the_bar.phys);
	the_selection.guard = guard;
	err = sluice_devices_start(&the_bar, &the_selection);
	if (err) {
		pr_err("cannot watch for devices (%d)\n", err);
		goto stop;
	}
	return 0;
stop:
	sluice_debugfs_stop();
	kfree(the_selection.bdf);
close:
	sluice_bar_close(&the_bar);
	return err;
}

static void __exit sluice_exit(void)
{
	sluice_devices_stop();
	sluice_debugfs_stop();
	kfree(the_selection.bdf);
	sluice_bar_close(&the_bar);
}

module_init(sluice_init);
module_exit(sluice_exit);

MODULE_DESCRIPTION("Limited memory sharing: confines the DMA of devices to a pool");
MODULE_LICENSE("GPL");
