// SPDX-License-Identifier: GPL-2.0-only
/*
 * system.c - a pool in the memory of this machine, for one device
 *
 * Theory of operation
 * -------------------
 * Chunks are 2 MiB of ordinary memory, opened for the device through what is below it (lower.h) and
 * left open for as long as they are in the pool. One pool for each device: devices that share a pool
 * see each other's transfers in flight (G1), and memory that is the machine's own costs nothing to
 * divide, unlike a BAR.
 *
 * In a confidential guest all memory is private until it is converted, which is slow, may sleep, and
 * loses the contents. So a chunk is converted by whoever adds it, which is the worker of grow.c, ahead
 * of need, and made private again before it is given back. If that fails, the chunk is shared for good:
 * it is left allocated, so that nobody puts a secret there, and counted as lost. A host that does that
 * over and over gets no more to do it with. Elsewhere the calls that convert do nothing, and the path is
 * the same.
 *
 * Memory comes with zeroes in it, before anybody else can look: not every way of sharing it loses what
 * it held.
 *
 * Invariant: a chunk is given back to the machine only when the device cannot reach it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cc_platform.h>
#include <linux/err.h>
#include <linux/mm.h>
#include <linux/set_memory.h>
#include <linux/sizes.h>

#include "lower.h"
#include "sluice.h"

#define ORDER	     (SLUICE_CHUNK_SHIFT - PAGE_SHIFT)
#define DEFAULT_SIZE SZ_16M
#define DEFAULT_MAX  SZ_64M
#define MOST	     ((u64)2048 << SLUICE_CHUNK_SHIFT) /* the core's limit */
#define LOST_MOST    4				       /* chunks; then the pool stays as it is */

/**
 * sluice_memory_is_private - whether this is a confidential guest, whose memory no device reaches
 *
 * What is converted is reached all the same, by every device.
 *
 * Context: any.
 */
bool sluice_memory_is_private(void)
{
	return cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT);
}

static void lose(struct sluice_mem *mem, const char *what)
{
	WRITE_ONCE(mem->lost, mem->lost + 1);
	pr_err("pool %s of %s: 2 MiB could not be %s: they are kept, unused, until the machine "
	       "starts "
	       "again\n",
	       mem->name, dev_name(mem->lower->dev), what);
}

/* Make a chunk private again and free it. */
static void put(struct sluice_mem *mem, void *cpu)
{
	if (set_memory_encrypted((unsigned long)cpu, 1 << ORDER))
		lose(mem, "made private again");
	else
		free_pages((unsigned long)cpu, ORDER);
}

/*
 * It is tried for, by moving other pages too, but nothing is killed for it: a pool that stays small
 * is no harm. The core scrubs it again, as converting it leaves anything in it.
 */
static void *get(struct sluice_mem *mem, gfp_t gfp)
{
	struct page *page;

	if (READ_ONCE(mem->lost) >= LOST_MOST)
		return ERR_PTR(-EIO);
	page = alloc_pages_node(dev_to_node(mem->lower->dev),
				gfp | mem->lower->ops->zone | __GFP_ZERO | __GFP_NOWARN |
					__GFP_RETRY_MAYFAIL,
				ORDER);
	if (!page)
		return ERR_PTR(-ENOMEM);
	if (!set_memory_decrypted((unsigned long)page_address(page), 1 << ORDER))
		return page_address(page);
	/* Nobody can say how far it came. */
	put(mem, page_address(page));
	return ERR_PTR(-EIO);
}

static int open(struct sluice_mem *mem, void **cpu, u64 *dev, u32 *bytes)
{
	*bytes = SLUICE_CHUNK_BYTES;
	return mem->lower->share->ops->open(mem->lower->share, *cpu, *bytes, dev);
}

static int close(struct sluice_mem *mem, void *cpu, u64 dev, u32 bytes)
{
	int err = mem->lower->share->ops->close(mem->lower->share, cpu, bytes, dev);

	if (err) {
		WRITE_ONCE(mem->stuck, true);
		lose(mem, "taken back from the device");
	}
	return err;
}

static phys_addr_t phys(struct sluice_mem *mem, const void *cpu)
{
	return virt_to_phys((void *)cpu);
}

static const struct sluice_mem_ops system_ops = {
	.get = get,
	.put = put,
	.open = open,
	.close = close,
	.phys = phys,
};

/**
 * sluice_system_check - whether pools can have these sizes, and what they are where nothing is said
 * @limits: filled in
 *
 * Return: 0, or -EINVAL with a line in the log.
 * Context: any.
 */
int sluice_system_check(struct sluice_limits *limits)
{
	limits->size = limits->size ?: min_not_zero(limits->max, (u64)DEFAULT_SIZE);
	limits->max = limits->max ?: max_t(u64, limits->size, DEFAULT_MAX);
	if (limits->max <= MOST && limits->size <= limits->max)
		return 0;
	pr_err("pool=system: size (%llu MiB) must not be above pool_max (%llu MiB), nor that above "
	       "%llu "
	       "MiB: lower them, or leave them out\n",
	       limits->size >> 20, limits->max >> 20, MOST >> 20);
	return -EINVAL;
}

/**
 * sluice_system_open - make a device's pool
 * @mem:    filled in; zeroed, the caller's
 * @lower:  through which its chunks are opened; outlives the pool
 * @limits: as sluice_system_check() left them
 *
 * Return: 0 or a negative errno, with nothing kept, or as sluice_mem_init() has it.
 * Context: may sleep.
 */
int sluice_system_open(struct sluice_mem *mem, struct sluice_lower *lower,
		       const struct sluice_limits *limits)
{
	mem->ops = &system_ops;
	mem->lower = lower;
	strscpy(mem->name, "system", sizeof(mem->name));
	mem->size = limits->max;
	mem->last = lower->last;
	mem->nr_chunks = limits->max >> SLUICE_CHUNK_SHIFT;
	mem->nr_places = lower->pool_window >> SLUICE_CHUNK_SHIFT;
	return sluice_mem_init(mem, limits, lower->pool_dev);
}
