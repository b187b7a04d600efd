/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * lower.h - what a device's DMA goes through below us
 *
 * Theory of operation
 * -------------------
 * With pool=system the memory of the pool is the machine's own, and whether a device reaches that,
 * and nothing but that, is up to what the device had before: an IOMMU (lower_iommu.c), nothing
 * (lower_direct.c), Xen's grants (lower_grant.c). Each such is a struct sluice_lower: something that one
 * device gets when it becomes ours and loses when it is given back, with a share mechanism of the
 * core's (sluice/share.h) in it. Nobody above knows more of it than is declared here: stack.c puts
 * pool, place and policy on top of it, system.c has its pool's chunks opened through it.
 *
 *	take	while nothing is mapped for the device, before its driver is probed
 *	share	open and close for chunks of the pool, one caller at a time, may sleep;
 *		share and unshare for transfers, in any context, interrupts too
 *	give	while nothing is shared or open any more
 *
 * A mechanism that can find memory in use when it is to be taken back (grants) says -EBUSY, as
 * sluice/share.h has it: place.c of the core keeps such a mapping until it can be, and stack.c holds
 * its pages.
 *
 * Invariant: from take to give, only what has been opened or shared through the lower is reachable for
 * the device by the addresses that the lower has given out. Whether it reaches anything else is what
 * confines says.
 */
#ifndef SLUICE_LOWER_H
#define SLUICE_LOWER_H

#include <linux/errno.h>
#include <linux/types.h>

#include <sluice/share.h>

struct device;
struct seq_file;
struct sluice_lower;

struct sluice_lower_ops {
	const char *name; /* for debugfs, one word */
	bool confines; /* false: the device reaches all memory, whatever we do; said to the user */
	/*
	 * For pool chunks: what alloc_pages() has to be told besides GFP_KERNEL so that the lower can
	 * open what it gets (GFP_DMA32, or 0).
	 */
	gfp_t zone;
	bool lingers; /* the other end can hold what has been unmapped, for as long as it likes */
	/*
	 * Make one for a device whose driver is not bound yet, with room for pool_bytes of chunks (a
	 * multiple of 2 MiB). Returns it, an ERR_PTR(-ENODEV) if this is not how the device's DMA
	 * goes (the next one is asked), or another ERR_PTR with *why set to a static sentence for
	 * the log. May sleep, with the device_lock() held.
	 */
	struct sluice_lower *(*take)(struct device *dev, u64 pool_bytes, const char **why);
	/*
	 * Give the device back to what it had before, and free @lower. Not called if something could not
	 * be taken back, nor once the device has left the machine. May sleep.
	 */
	void (*give)(struct sluice_lower *lower);
	/* NULL, or more lines of "key value" for debugfs. */
	void (*show)(struct sluice_lower *lower, struct seq_file *m);
};

/* The common part; a lower's own struct begins with it. Filled in by take(). */
struct sluice_lower {
	const struct sluice_lower_ops *ops;
	struct device *dev;
	struct sluice_share *share;
	/*
	 * Device addresses: open() puts chunks at multiples of 2 MiB from pool_dev on, inside
	 * pool_window bytes; everything that the device is ever told ends at last. Addresses that
	 * share() gives lie outside the pool's window.
	 */
	u64 pool_dev;
	u64 pool_window;
	u64 last;
};

/*
 * Share spans one after the other: all or none, as sluice_share_spans() has it. @one returns 0; -EBUSY if
 * it could not undo what it began, and the span lingers; or another errno with nothing left shared.
 */
static inline int
sluice_lower_share_each(struct sluice_share *share, struct sluice_span *spans, u32 n,
			int (*one)(struct sluice_share *share, struct sluice_span *span))
{
	u32 done = 0;
	int err = 0;

	for (; done < n && !err; done++) {
		err = one(share, &spans[done]);
		spans[done].result = err;
	}
	if (err && done > 1 && share->ops->unshare(share, spans, done - 1))
		err = -EBUSY;
	return err;
}

extern const struct sluice_lower_ops sluice_lower_iommu;
extern const struct sluice_lower_ops sluice_lower_grant;
extern const struct sluice_lower_ops sluice_lower_direct;

#endif
