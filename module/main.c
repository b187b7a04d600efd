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
 *	insmod sluice.ko pool=system policy=auto devices=virtio
 *	insmod sluice.ko mode=observe devices=all
 *
 * The second form has each device copy through memory of this machine's own, on top of its IOMMU, and
 * map in place what is long. The third confines nothing and only reports what is mapped.
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
MODULE_PARM_DESC(pool,
		 "memory to bounce through: bar:DDDD:BB:DD.F/N, a BAR of a PCI device, or system, "
		 "this machine's own, a pool for each device");

static char *size;
module_param(size, charp, 0444);
MODULE_PARM_DESC(size, "how large the pool is at first (default: 16M, or all of a smaller BAR)");

static char *pool_max;
module_param(pool_max, charp, 0444);
MODULE_PARM_DESC(pool_max,
		 "how far the pool may grow (default: all of the BAR; system: 64M, or size)");

static unsigned int quiet = 5;
module_param(quiet, uint, 0444);
MODULE_PARM_DESC(quiet,
		 "seconds of surplus before a pool that has grown shrinks again (default: 5)");

static char *devices;
module_param(devices, charp, 0444);
MODULE_PARM_DESC(
	devices,
	"what to confine: virtio, or DDDD:BB:DD.F[,DDDD:BB:DD.F...]; with mode=observe also all");

static char *mode = "bounce";
module_param(mode, charp, 0444);
MODULE_PARM_DESC(mode, "bounce: copy every transfer through the pool (default); "
		       "observe: confine nothing, report what is mapped as tracepoints");

static char *policy;
module_param(policy, charp, 0444);
MODULE_PARM_DESC(policy, "with pool=system: auto (default): copy or map in place, whichever is "
			 "cheaper; bounce: always copy; share: map in place all that can be. Each "
			 "device's own: /sys/bus/pci/devices/*/sluice/policy");

static int grants = -1;
module_param(grants, int, 0444);
MODULE_PARM_DESC(grants,
		 "with pool=system in a Xen guest: the domain that has the devices' backends; "
		 "their memory is granted to it, and to nobody else");

static bool guard;
module_param(guard, bool, 0444);
MODULE_PARM_DESC(guard, "debug: report devices that write beside what was mapped for them");

#define VENDOR_VIRTIO 0x1af4 /* and from here to there all devices are virtio's */
#define VIRTIO_FIRST  0x1000
#define VIRTIO_LAST   0x107f

const char *const sluice_policy_names[SLUICE_POLICY_OFF + 1] = {
	[SLUICE_POLICY_BOUNCE] = "bounce",
	[SLUICE_POLICY_SHARE] = "share",
	[SLUICE_POLICY_AUTO] = "auto",
	[SLUICE_POLICY_OFF] = "off",
};

static struct sluice_mem the_mem; /* unless each device has its own */
static struct sluice_limits the_limits;
static struct sluice_selection the_selection;
static bool observing;
static bool own_pools;

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

/**
 * sluice_selected - whether a selection has a function in it
 * @sel:  what devices= says
 * @pdev: any function
 *
 * Context: any.
 */
bool sluice_selected(const struct sluice_selection *sel, const struct pci_dev *pdev)
{
	if (sel->virtio)
		return pdev->vendor == VENDOR_VIRTIO && pdev->device >= VIRTIO_FIRST &&
		       pdev->device <= VIRTIO_LAST;
	for (unsigned int i = 0; i < sel->count; i++) {
		if (pci_domain_nr(pdev->bus) == sel->bdf[i].domain &&
		    pdev->bus->number == sel->bdf[i].bus && pdev->devfn == sel->bdf[i].devfn)
			return true;
	}
	return sel->all;
}

/**
 * sluice_policy_possible - whether a device can have a policy, with the pools that there are
 * @policy: an enum sluice_policy_kind, or SLUICE_POLICY_OFF
 *
 * A BAR's mechanism shares nothing in place.
 *
 * Context: any.
 */
bool sluice_policy_possible(u32 policy)
{
	return own_pools || policy == SLUICE_POLICY_BOUNCE || policy == SLUICE_POLICY_OFF;
}

static int parse_policy(struct sluice_selection *sel)
{
	int found = own_pools ? SLUICE_POLICY_AUTO : SLUICE_POLICY_BOUNCE;

	if (policy)
		found = match_string(sluice_policy_names, SLUICE_POLICY_OFF, policy);
	if (found < 0) {
		pr_err("policy=%s is unknown: use policy=auto, bounce or share\n", policy);
		return -EINVAL;
	}
	if (!sluice_policy_possible(found)) {
		pr_err("policy=%s: only pool=system can share in place: use that, or leave policy "
		       "out\n",
		       policy);
		return -EINVAL;
	}
	sel->policy = found;
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
static int parse_limits(struct sluice_limits *limits)
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
	if (pdev == the_mem.pdev) {
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
	if (observing && !strcmp(at, "all")) {
		sel->all = true;
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
	observing = !strcmp(mode, "observe");
	if (!pool && !observing) {
		pr_err("pool= is missing: name the memory to bounce through, as in "
		       "pool=bar:0000:00:04.0/2 or pool=system\n");
		return -EINVAL;
	}
	if (pool && observing) {
		pr_err("pool=%s: mode=observe has no use for a pool: leave it out, or use "
		       "mode=bounce to confine\n",
		       pool);
		return -EINVAL;
	}
	if (!devices) {
		pr_err("devices= is missing: say devices=virtio, or list PCI addresses\n");
		return -EINVAL;
	}
	if (strcmp(mode, "bounce") && !observing) {
		pr_err("mode=%s is unknown: use mode=bounce or mode=observe\n", mode);
		return -EINVAL;
	}
	return 0;
}

/* Confine nothing and report what is mapped. */
static int __init observe(void)
{
	int err = parse_devices(&the_selection);

	if (err)
		return err;
	err = sluice_observe_start(&the_selection);
	if (err) {
		kfree(the_selection.bdf);
		return err;
	}
	pr_info("observing devices=%s: nothing is confined\n", devices);
	return 0;
}

/* Make what outlives the devices. */
static int __init open_pool(void)
{
	if (own_pools)
		return sluice_system_check(&the_limits);
	return sluice_bar_open(&the_mem, pool, &the_limits);
}

static void close_pool(void)
{
	if (!own_pools)
		sluice_bar_close(&the_mem);
}

static int __init sluice_init(void)
{
	struct sluice_mem *mem;
	int err;

	err = check_params();
	if (err)
		return err;
	if (observing)
		return observe();
	own_pools = !strcmp(pool, "system");
	if (!own_pools && grants >= 0) {
		pr_err("grants=%d: only the machine's own memory can be granted: use pool=system\n",
		       grants);
		return -EINVAL;
	}
	mem = own_pools ? NULL : &the_mem;
	err = sluice_grants_to(grants) ?: parse_policy(&the_selection) ?:
	      parse_limits(&the_limits) ?: open_pool();
	if (err)
		return err;
	err = parse_devices(&the_selection);
	if (err)
		goto close;
	sluice_debugfs_start(mem);
	if (own_pools)
		pr_info("pool system: %llu MiB for each device, up to %llu\n",
			the_limits.size >> 20, the_limits.max >> 20);
	else
		pr_info("pool %s: %llu KiB of %llu at %pa\n", mem->name,
			(u64)mem->nr_start << (SLUICE_CHUNK_SHIFT - 10), mem->size >> 10,
			&mem->phys);
	the_selection.guard = guard;
	err = sluice_devices_start(mem, &the_limits, &the_selection);
	if (err) {
		pr_err("cannot watch for devices (%d)\n", err);
		goto stop;
	}
	return 0;
stop:
	sluice_debugfs_stop();
	kfree(the_selection.bdf);
close:
	close_pool();
	return err;
}

static void __exit sluice_exit(void)
{
	if (observing) {
		sluice_observe_stop();
		kfree(the_selection.bdf);
		return;
	}
	sluice_devices_stop();
	sluice_debugfs_stop();
	kfree(the_selection.bdf);
	close_pool();
}

module_init(sluice_init);
module_exit(sluice_exit);

MODULE_DESCRIPTION("Limited memory sharing: confines the DMA of devices to a pool");
MODULE_LICENSE("GPL");
