// SPDX-License-Identifier: GPL-2.0-only
/*
 * dev.c - the driver's end of the Xen test in a Linux domU: a PCI function, and a driver for it
 *
 * Theory of operation
 * -------------------
 * What sluice.ko confines are PCI functions, and a PV or PVH guest has none. So this makes one, out of
 * configuration space and nothing else, on a root bus in a PCI domain of its own; no register does
 * anything. Its driver does with the DMA API what the other end asks for (control.h), in a kernel
 * thread, on 2 MiB of its own; the device's end is libsluice's view in domain 0, which is told the
 * addresses that came of it. The driver knows nothing of sluice or of grants, but for the control page,
 * which it grants to domain 0 by itself; at which reference is a parameter, for reading.
 *
 * unmap tells nobody whether the device's end still held what was unmapped: debugfs does.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <xen/grant_table.h>
#include <xen/page.h>

#include "control.h"

#define PCI_DOMAIN 0x5c00
#define VENDOR	   0x1b36 /* Red Hat's, and of its functions the one for tests */
#define DEVICE	   0x0005
#define BACKEND	   0 /* the domain */

static __le16 config[128];
static struct pci_sysdata sysdata = {.domain = PCI_DOMAIN, .node = NUMA_NO_NODE};
static struct pci_bus *bus;

static int config_read(struct pci_bus *b, unsigned int devfn, int where, int size, u32 *value)
{
	*value = ~0u;
	if (devfn || where + size > sizeof(config))
		return PCIBIOS_DEVICE_NOT_FOUND;
	*value = 0;
	memcpy(value, (u8 *)config + where, size);
	return PCIBIOS_SUCCESSFUL;
}

/* Only the command word is kept: it has no BARs, no interrupt and no capabilities. */
static int config_write(struct pci_bus *b, unsigned int devfn, int where, int size, u32 value)
{
	if (where == PCI_COMMAND && size == 2)
		config[PCI_COMMAND / 2] = cpu_to_le16(value);
	return PCIBIOS_SUCCESSFUL;
}

static int reference = -1;
module_param(reference, int, 0444);
MODULE_PARM_DESC(reference, "of the control page");

static bool finished;
module_param(finished, bool, 0444);
MODULE_PARM_DESC(finished, "the other end is done");

static struct pci_ops config_ops = {.read = config_read, .write = config_write};

struct tester {
	struct device *dev;
	struct page *area; /* 2 MiB, one compound page */
	struct control *control;
	int ref;
	struct task_struct *thread;
	struct scatterlist sg[LIST_PIECES];
	void *coherent;
	dma_addr_t coherent_dma;
};

static bool inside(u64 offset, u64 len)
{
	return offset < AREA_BYTES && len && len <= AREA_BYTES - offset;
}

static s64 map(struct tester *t, u64 offset, u64 len, u64 dir, u64 *values)
{
	dma_addr_t dma;

	if (!inside(offset, len) || dir > DMA_FROM_DEVICE)
		return -EINVAL;
	dma = dma_map_single(t->dev, page_address(t->area) + offset, len, dir);
	if (dma_mapping_error(t->dev, dma))
		return -ENOMEM;
	values[0] = dma;
	return 0;
}

/* A list of LIST_PIECES pieces of len bytes, a quarter of the area apart. */
static s64 map_sg(struct tester *t, u64 offset, u64 len, u64 dir, u64 *values)
{
	u64 apart = AREA_BYTES / 4;
	int n;

	if (!inside(offset + (LIST_PIECES - 1) * apart, len) || dir > DMA_FROM_DEVICE)
		return -EINVAL;
	sg_init_table(t->sg, LIST_PIECES);
	for (int i = 0; i < LIST_PIECES; i++)
		sg_set_buf(&t->sg[i], page_address(t->area) + offset + i * apart, len);
	n = dma_map_sg(t->dev, t->sg, LIST_PIECES, dir);
	for (int i = 0; i < n; i++)
		values[i] = sg_dma_address(&t->sg[i]);
	return n == LIST_PIECES ? 0 : -ENOMEM;
}

static s64 serve(struct tester *t, u32 want, const u64 *args, u64 *values)
{
	u8 *bytes = page_address(t->area);

	switch (want) {
	case WANT_MAP:
		return map(t, args[1], args[2], args[3], values);
	case WANT_UNMAP:
		dma_unmap_single(t->dev, args[0], args[1], args[2]);
		return 0;
	case WANT_MAP_LIST:
		return map_sg(t, args[1], args[2], args[3], values);
	case WANT_UNMAP_LIST:
		dma_unmap_sg(t->dev, t->sg, LIST_PIECES, args[2]);
		return 0;
	case WANT_SYNC:
		dma_sync_single_for_cpu(t->dev, args[0], args[1], args[2]);
		return 0;
	case WANT_FILL:
		if (!inside(args[0], args[1]))
			return -EINVAL;
		memset(bytes + args[0], args[2], args[1]);
		return 0;
	case WANT_CHECK:
		if (!inside(args[0], args[1]))
			return -EINVAL;
		return !memchr_inv(bytes + args[0], args[2], args[1]);
	case WANT_COHERENT:
		memset(t->coherent, args[2], PAGE_SIZE);
		values[0] = t->coherent_dma;
		return 0;
	case WANT_QUIT:
		finished = true;
		return 0;
	default:
		return -EINVAL;
	}
}

/* What the other end writes is read once: see control.h. */
static int run(void *data)
{
	struct tester *t = data;
	struct control *control = t->control;
	u64 args[4], values[TOLD_COUNT] = {};

	while (!kthread_should_stop()) {
		u32 asked = smp_load_acquire(&control->asked);

		if (asked == READ_ONCE(control->answered)) {
			usleep_range(100, 200);
			continue;
		}
		for (int i = 0; i < ARRAY_SIZE(args); i++)
			args[i] = READ_ONCE(control->args[i]);
		control->result = serve(t, READ_ONCE(control->want), args, values);
		memcpy(control->values, values, sizeof(values));
		smp_store_release(&control->answered, asked);
	}
	return 0;
}

/* Two pages that are none of a compound page: a reference to the second one would not keep it. */
static int map_loose(struct tester *t)
{
	dma_addr_t dma;
	struct page *page =
		dma_alloc_pages(t->dev, 2 * PAGE_SIZE, &dma, DMA_FROM_DEVICE, GFP_KERNEL);

	if (!page)
		return -ENOMEM;
	dma_free_pages(t->dev, 2 * PAGE_SIZE, page, dma, DMA_FROM_DEVICE);
	return 0;
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct tester *t = devm_kzalloc(&pdev->dev, sizeof(*t), GFP_KERNEL);
	int err;

	if (!t)
		return -ENOMEM;
	t->dev = &pdev->dev;
	err = dma_set_mask_and_coherent(t->dev, DMA_BIT_MASK(64));
	if (err)
		return err;
	t->area = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_COMP, get_order(AREA_BYTES));
	t->control = (void *)get_zeroed_page(GFP_KERNEL);
	t->coherent = dma_alloc_coherent(t->dev, PAGE_SIZE, &t->coherent_dma, GFP_KERNEL);
	err = -ENOMEM;
	if (!t->area || !t->control || !t->coherent || map_loose(t))
		goto free;
	t->thread = kthread_run(run, t, "sluice-test");
	if (IS_ERR(t->thread)) {
		err = PTR_ERR(t->thread);
		goto free;
	}
	t->control->ready = CONTROL_READY;
	t->ref = gnttab_grant_foreign_access(BACKEND, virt_to_gfn(t->control), 0);
	err = t->ref;
	if (err < 0)
		goto stop;
	finished = false;
	reference = t->ref;
	pci_set_drvdata(pdev, t);
	return 0;
stop:
	kthread_stop(t->thread);
free:
	if (t->coherent)
		dma_free_coherent(t->dev, PAGE_SIZE, t->coherent, t->coherent_dma);
	if (t->area)
		__free_pages(t->area, get_order(AREA_BYTES));
	free_page((unsigned long)t->control);
	return err;
}

static void remove(struct pci_dev *pdev)
{
	struct tester *t = pci_get_drvdata(pdev);

	kthread_stop(t->thread);
	dma_free_coherent(t->dev, PAGE_SIZE, t->coherent, t->coherent_dma);
	__free_pages(t->area, get_order(AREA_BYTES));
	/* When the other end has let go of it. */
	gnttab_end_foreign_access(t->ref, virt_to_page(t->control));
}

static const struct pci_device_id ids[] = {{PCI_DEVICE(VENDOR, DEVICE)}, {}};

static struct pci_driver driver = {
	.name = "sluice-test",
	.id_table = ids,
	.probe = probe,
	.remove = remove,
};

static int __init dev_init(void)
{
	LIST_HEAD(resources);
	int err;

	config[PCI_VENDOR_ID / 2] = cpu_to_le16(VENDOR);
	config[PCI_DEVICE_ID / 2] = cpu_to_le16(DEVICE);
	config[PCI_CLASS_DEVICE / 2] = cpu_to_le16(PCI_CLASS_NOT_DEFINED);
	pci_lock_rescan_remove();
	bus = pci_scan_root_bus(NULL, 0, &config_ops, &sysdata, &resources);
	if (bus)
		pci_bus_add_devices(bus);
	pci_unlock_rescan_remove();
	if (!bus)
		return -ENOMEM;
	err = pci_register_driver(&driver);
	if (!err)
		return 0;
	pci_lock_rescan_remove();
	pci_stop_root_bus(bus);
	pci_remove_root_bus(bus);
	pci_unlock_rescan_remove();
	return err;
}

static void __exit dev_exit(void)
{
	pci_unregister_driver(&driver);
	pci_lock_rescan_remove();
	pci_stop_root_bus(bus);
	pci_remove_root_bus(bus);
	pci_unlock_rescan_remove();
}

module_init(dev_init);
module_exit(dev_exit);

MODULE_DESCRIPTION("A PCI function and its driver, for sluice's test under Xen");
MODULE_LICENSE("GPL");
