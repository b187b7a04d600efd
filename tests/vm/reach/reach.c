// SPDX-License-Identifier: GPL-2.0-only
/*
 * reach.c - what a device can reach: a driver that has its device try
 *
 * Theory of operation
 * -------------------
 * QEMU's edu device (1234:11e8, docs/specs/edu of QEMU) copies up to 4 KiB between memory and a buffer
 * of its own, from and to any address that it is told. Its driver here maps buffers by the DMA API, as
 * any driver does, and then has the device read and write what it has not been given: a buffer's
 * neighbours in its page, buffers after their unmap, a page that was never mapped. What it has read
 * comes back through a coherent page, and is searched for what was there. So what is reported is what
 * a malicious device gets, under whatever stands between it and the memory.
 *
 * Each probe makes one run of a second or two, and prints a line "it got: WHAT N" for each thing that
 * was tried: how many bytes of what is not the device's it has got (or changed, "wrote_..."), 0 at
 * best. What it must get ("data_...") says 0, too, if all of it was right.
 *
 * A transfer takes the device 100 ms, however short: hence so few.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#define REG_SRC	  0x80
#define REG_DST	  0x88
#define REG_COUNT 0x90
#define REG_CMD	  0x98
#define CMD_GO	  BIT(0)
#define CMD_WRITE BIT(1) /* from its buffer to memory */
#define BUFFER	  0x40000
#define ROOM	  4095 /* bytes in it; the device's check of a range takes the last one for too many */

/*
 * Bytes of a transfer that is one of a row. None of them begins with a page's last byte: of that QEMU's virtio-iommu (7.2)
 * asks for two, which are of two mappings, and may take the other one's address.
 */
#define STEP 4000

#define OURS   0x5a /* bytes that the device is to have */
#define SECRET 0xc3 /* bytes that it is not */
#define DONE   0x77 /* bytes that it writes */

#define SMALL	     256
#define SMALL_AT     1024
#define LONG_PAGES   8			      /* longer than any break-even here */
#define UNALIGNED    (5 * (u32)PAGE_SIZE / 2) /* a head, whole pages, a tail */
#define UNALIGNED_AT 100

struct edu {
	struct pci_dev *pdev;
	void __iomem *regs;
	u8 *back; /* coherent: where the device's buffer is looked at */
	dma_addr_t back_dma;
};

static void say(struct edu *edu, const char *what, u32 n)
{
	pci_info(edu->pdev, "it got: %s %u\n", what, n);
}

/* A transfer of n bytes begins, and will be made in 100 ms. */
static void start(struct edu *edu, u64 src, u64 dst, u32 n, u32 cmd)
{
	writeq(src, edu->regs + REG_SRC);
	writeq(dst, edu->regs + REG_DST);
	writeq(n, edu->regs + REG_COUNT);
	writeq(CMD_GO | cmd, edu->regs + REG_CMD);
}

/*
 * mdelay() goes by what was measured when the guest booted, which on a busy machine can be a hundredth of
 * the truth; so this is no time limit, but keeps a device that never ends from going unnoticed.
 */
static void finish(struct edu *edu, void (*wait)(struct edu *edu))
{
	int tries = 20000;

	do
		wait(edu);
	while (readq(edu->regs + REG_CMD) & CMD_GO && --tries);
	if (!tries)
		say(edu, "error", 1);
}

static void sleep(struct edu *edu)
{
	msleep(10);
}

static void spin(struct edu *edu)
{
	mdelay(10);
}

/* Have the device read memory into its buffer at at, or write it from there. */
static void device_reads(struct edu *edu, u64 from, u32 at, u32 n)
{
	start(edu, from, BUFFER + at, n, 0);
	finish(edu, sleep);
}

static void device_writes(struct edu *edu, u64 to, u32 at, u32 n)
{
	start(edu, BUFFER + at, to, n, CMD_WRITE);
	finish(edu, sleep);
}

/* What is in the device's buffer. */
static const u8 *look(struct edu *edu)
{
	device_writes(edu, edu->back_dma, 0, ROOM);
	return edu->back;
}

/* Fill it with a byte. */
static void preset(struct edu *edu, u8 byte)
{
	memset(edu->back, byte, PAGE_SIZE);
	device_reads(edu, edu->back_dma, 0, ROOM);
}

static u32 count(const u8 *bytes, u32 n, u8 byte)
{
	u32 found = 0;

	for (u32 i = 0; i < n; i++)
		found += bytes[i] == byte;
	return found;
}

#define PIECES 24 /* of a list: more than are ended in one go from a stack */
#define TRIES  5

/* A mapping of a buffer; or of every page of it, or every other one, as a list, of which dma is the last piece. */
struct mapping {
	u8 *cpu;
	u32 n;
	u32 step; /* of a list: pages from one piece to the next */
	dma_addr_t dma;
};

static struct scatterlist pieces[PIECES]; /* of the one that is a list */

static bool map_list(struct edu *edu, struct mapping *m)
{
	struct scatterlist *last = &pieces[PIECES - 1];

	sg_init_table(pieces, PIECES);
	for (u32 i = 0; i < PIECES; i++)
		sg_set_buf(&pieces[i], m->cpu + m->step * i * PAGE_SIZE, PAGE_SIZE);
	if (!dma_map_sg(&edu->pdev->dev, pieces, PIECES, DMA_BIDIRECTIONAL))
		return false;
	/* Linux may have made fewer of them; whatever it is, the end of the last is a piece's. */
	while (last > pieces && !sg_dma_len(last))
		last--;
	m->dma = sg_dma_address(last) + sg_dma_len(last) - PAGE_SIZE;
	return true;
}

/* Map it in both directions. Says so and returns false if that fails. */
static bool map(struct edu *edu, struct mapping *m)
{
	struct device *dev = &edu->pdev->dev;
	bool ok;

	if (m->step) {
		ok = map_list(edu, m);
	} else {
		m->dma = dma_map_single(dev, m->cpu, m->n, DMA_BIDIRECTIONAL);
		ok = !dma_mapping_error(dev, m->dma);
	}
	if (ok)
		return true;
	say(edu, "error", 1);
	return false;
}

static void unmap(struct edu *edu, struct mapping *m)
{
	if (m->step)
		dma_unmap_sg(&edu->pdev->dev, pieces, PIECES, DMA_BIDIRECTIONAL);
	else
		dma_unmap_single(&edu->pdev->dev, m->dma, m->n, DMA_BIDIRECTIONAL);
}

/*
 * The device begins a transfer at the start of a mapping which is unmapped before the transfer is made;
 * the buffer holds something else then. Interrupts are off, as they might be anyhow: so nothing that
 * waits for a timer to come by (Linux's lazy unmap, 10 ms) happens in between. False if the transfer
 * was made too early (this machine had something else to do): then it says nothing.
 */
static bool late(struct edu *edu, struct mapping *m, u32 n, u32 cmd)
{
	unsigned long flags;
	bool in_time;

	local_irq_save(flags);
	if (cmd)
		start(edu, BUFFER, m->dma, n, cmd);
	else
		start(edu, m->dma, BUFFER, n, cmd);
	unmap(edu, m);
	memset(m->cpu, SECRET, m->n);
	in_time = readq(edu->regs + REG_CMD) & CMD_GO;
	finish(edu, spin);
	local_irq_restore(flags);
	return in_time;
}

/* What the device gets, or changes, of n bytes after their unmap: it has used them before. */
static void after_unmap(struct edu *edu, const char *what, struct mapping *m, u32 n, u32 cmd)
{
	for (u32 i = 0; i < TRIES; i++) {
		memset(m->cpu, OURS, m->n);
		if (cmd)
			preset(edu, DONE);
		if (!map(edu, m))
			return;
		/* After a read there are OURS in the buffer. */
		if (cmd)
			device_writes(edu, m->dma, 0, n);
		else
			device_reads(edu, m->dma, 0, n);
		if (late(edu, m, n, cmd))
			return say(edu, what,
				   cmd ? count(m->cpu, m->n, DONE) : count(look(edu), n, SECRET));
	}
	say(edu, "error", 1);
}

/* A small buffer in a page with other things in it. */
static void small(struct edu *edu, u8 *page)
{
	struct mapping m = {.cpu = page + SMALL_AT, .n = SMALL};
	const u8 *got;

	memset(page, SECRET, PAGE_SIZE);
	memset(m.cpu, OURS, SMALL);
	if (!map(edu, &m))
		return;
	/* All of its granule, wherever in it the buffer is. */
	device_reads(edu, m.dma & PAGE_MASK, 0, ROOM);
	got = look(edu);
	say(edu, "data_small", SMALL - count(got + (m.dma & ~PAGE_MASK), SMALL, OURS));
	say(edu, "neighbours", count(got, ROOM, SECRET));
	unmap(edu, &m);
	after_unmap(edu, "small_after_unmap", &m, SMALL, 0);
}

/* Whole pages, and lists of such, whose unmap may be made in one go: scattered ones, and neighbours. */
static void whole(struct edu *edu, u8 *pages)
{
	struct mapping m = {.cpu = pages, .n = LONG_PAGES * PAGE_SIZE};
	struct mapping list = {.cpu = pages, .n = 2 * PIECES * PAGE_SIZE, .step = 2};
	struct mapping adjacent = {.cpu = pages, .n = PIECES * PAGE_SIZE, .step = 1};
	u32 half = PAGE_SIZE / 2;

	memset(pages, OURS, m.n);
	if (!map(edu, &m))
		return;
	device_reads(edu, m.dma, 0, half);
	device_reads(edu, m.dma + m.n - half, half, half - 1);
	say(edu, "data_whole", ROOM - count(look(edu), ROOM, OURS));
	unmap(edu, &m);
	after_unmap(edu, "whole_after_unmap", &m, half, 0);
	after_unmap(edu, "wrote_after_unmap", &m, half, CMD_WRITE);
	after_unmap(edu, "list_after_unmap", &list, half, 0);
	after_unmap(edu, "adjacent_after_unmap", &adjacent, half, 0);
}

/* A buffer that begins and ends inside pages which hold other things, read and written. */
static void unaligned(struct edu *edu, u8 *pages)
{
	u32 end = UNALIGNED_AT + UNALIGNED, rest = PAGE_ALIGN(end) - end;
	struct mapping m = {.cpu = pages + UNALIGNED_AT, .n = UNALIGNED};
	const u8 *got;
	dma_addr_t dma;

	memset(pages, SECRET, end + rest);
	memset(m.cpu, OURS, UNALIGNED);
	if (!map(edu, &m))
		return;
	dma = m.dma - UNALIGNED_AT;
	/* Around its beginning, across its first page boundary, and around its end. */
	device_reads(edu, dma, 0, 1024);
	device_reads(edu, dma + PAGE_SIZE - 512, 1024, 1024);
	device_reads(edu, dma + end - 1024, 2048, 2047);
	got = look(edu);
	say(edu, "data_unaligned",
	    3 * 1024 - UNALIGNED_AT - count(got + UNALIGNED_AT, 3 * 1024 - UNALIGNED_AT, OURS));
	say(edu, "unaligned_neighbours",
	    count(got, UNALIGNED_AT, SECRET) + count(got + 3 * 1024, 1023, SECRET));
	/* Now it writes, more than it may at both ends. */
	preset(edu, DONE);
	for (u32 at = 0; at < end; at += STEP)
		device_writes(edu, dma + at, 0, STEP);
	unmap(edu, &m);
	say(edu, "data_written", UNALIGNED - count(m.cpu, UNALIGNED, DONE));
	say(edu, "wrote_neighbours",
	    count(pages, UNALIGNED_AT, DONE) + count(pages + end, rest, DONE));
}

/* A page that was never mapped, by its physical address. */
static void other(struct edu *edu, u8 *page)
{
	memset(page, SECRET, PAGE_SIZE);
	device_reads(edu, virt_to_phys(page), 0, ROOM);
	say(edu, "other_memory", count(look(edu), ROOM, SECRET));
}

static void run(struct edu *edu)
{
	unsigned int order = get_order(2 * PIECES * PAGE_SIZE);
	u8 *pages = (u8 *)__get_free_pages(GFP_KERNEL | GFP_DMA32, order);

	if (!pages)
		return say(edu, "error", 1);
	preset(edu, 0);
	small(edu, pages);
	whole(edu, pages);
	unaligned(edu, pages);
	other(edu, pages);
	say(edu, "end", 0);
	free_pages((unsigned long)pages, order);
}

/*
 * A mapping that is left behind when the driver is unbound, and taken back at some time after that, as
 * networking does with buffers that are still on their way.
 */
static bool leave; /* parameter: do so, once; and when it is written as N, take it back */
static u8 *left;
static dma_addr_t left_dma;
static struct device *left_dev;

static void leave_mapping(struct edu *edu)
{
	if (left)
		return;
	left = (u8 *)get_zeroed_page(GFP_KERNEL);
	if (!left)
		return say(edu, "error", 1);
	left_dma = dma_map_single(&edu->pdev->dev, left, PAGE_SIZE, DMA_TO_DEVICE);
	left_dev = get_device(&edu->pdev->dev);
}

static int leave_set(const char *text, const struct kernel_param *param)
{
	int err = param_set_bool(text, param);

	if (err || leave || !left)
		return err;
	dma_unmap_single(left_dev, left_dma, PAGE_SIZE, DMA_TO_DEVICE);
	put_device(left_dev);
	free_page((unsigned long)left);
	left = NULL;
	return 0;
}

static const struct kernel_param_ops leave_ops = {.set = leave_set, .get = param_get_bool};
module_param_cb(leave, &leave_ops, &leave, 0644);

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct edu edu = {.pdev = pdev};
	int err;

	err = pci_enable_device(pdev);
	if (err)
		return err;
	pci_set_master(pdev);
	err = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(32));
	if (err)
		goto disable;
	err = -ENOMEM;
	edu.regs = pci_iomap(pdev, 0, 0);
	if (!edu.regs)
		goto disable;
	edu.back = dma_alloc_coherent(&pdev->dev, PAGE_SIZE, &edu.back_dma, GFP_KERNEL);
	if (edu.back) {
		if (leave)
			leave_mapping(&edu);
		else
			run(&edu);
		dma_free_coherent(&pdev->dev, PAGE_SIZE, edu.back, edu.back_dma);
		err = 0;
	}
	pci_iounmap(pdev, edu.regs);
disable:
	if (err)
		pci_disable_device(pdev);
	return err;
}

static void remove(struct pci_dev *pdev)
{
	pci_disable_device(pdev);
}

static const struct pci_device_id ids[] = {{PCI_DEVICE(0x1234, 0x11e8)}, {}};

static struct pci_driver reach_driver = {
	.name = KBUILD_MODNAME,
	.id_table = ids,
	.probe = probe,
	.remove = remove,
};
module_pci_driver(reach_driver);

MODULE_DESCRIPTION("Has QEMU's edu device try what it can reach");
MODULE_LICENSE("GPL");
