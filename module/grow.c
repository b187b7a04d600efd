// SPDX-License-Identifier: GPL-2.0-only
/*
 * grow.c - the pool gets larger before it runs out, and smaller when it has been quiet
 *
 * Theory of operation
 * -------------------
 * The pool starts with the first chunks of its window (the parameter size) and may have all of them
 * (pool_max). The core says when its free room falls below a watermark, from wherever somebody maps
 * something, which may be an interrupt handler; a worker that may sleep then adds chunks. While
 * anything is used, or the pool is larger than at the start, the worker also looks by itself, once a
 * second. It gives back a part of what caches keep; and once there has been a surplus at each look
 * for a quiet time (the parameter quiet), it takes chunks out again that are all free, down to the
 * size at the start. None of this is done by a call that maps or unmaps.
 *
 * dma_alloc_coherent() with a gfp mask that lets it sleep need not rely on the worker: it has the
 * pool grown for itself. A driver asks for its rings once, in its probe, and gives up if it is
 * refused.
 *
 * What growing costs is zeroing 2 MiB, which makes the host provide them, and 7 % of that in
 * private memory of this machine. What shrinking gives back is the private memory. The BAR's pages
 * stay with the host: a guest has no way to hand back a part of a BAR, and the host can only do it
 * behind its back. But a chunk that is not in the pool is not written to.
 *
 * While memory is short there is no growing, and no harm in that: a pool that stays small is a pool
 * whose callers try again when a transfer has ended. For the same reason the worker may wait for
 * memory until something has been written to a disk of ours: the pool that there is serves that.
 * Nobody waits for memory with a lock held.
 *
 * A lookup by address takes no lock, and if the address is not that of a live mapping it may be
 * reading the private data of a chunk that is being taken out. All lookups are in RCU read-side
 * sections, so that data is freed a grace period later.
 *
 * Invariant: chunks come and go under resize_lock, and none comes after the BAR's device has gone:
 * its address may be somebody else's then.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "sluice.h"

#define LOOK  HZ /* from one look to the next; what sluice_pool_trim() asks for */
#define BATCH 16 /* chunks whose private data waits for one grace period */

/**
 * sluice_grow_add - add the first chunk that is missing
 * @bar: its pool has been made
 * @gfp: GFP_KERNEL, GFP_NOFS or GFP_NOIO: what the private memory may wait for
 *
 * Return: 0; -ENOSPC if all are there; -ENODEV if the BAR has gone; -ENOMEM.
 * Context: may sleep.
 */
int sluice_grow_add(struct sluice_bar *bar, gfp_t gfp)
{
	struct sluice_chunk *meta;
	int err = -ENOSPC;
	u32 c = 0;
	u64 at;

	if (READ_ONCE(bar->nr_present) == bar->nr_chunks)
		return -ENOSPC;
	meta = __vmalloc(sluice_chunk_size(), gfp | __GFP_NOWARN);
	if (!meta)
		return -ENOMEM;
	mutex_lock(&bar->resize_lock);
	while (c < bar->nr_chunks && bar->chunks[c])
		c++;
	at = (u64)c << SLUICE_CHUNK_SHIFT;
	if (bar->gone)
		err = -ENODEV;
	else if (c < bar->nr_chunks)
		err = sluice_pool_add(&bar->pool, meta, bar->cpu + at, bar->region.dev + at,
				      min_t(u64, bar->size - at, SLUICE_CHUNK_BYTES));
	if (!err) {
		WRITE_ONCE(bar->nr_present, bar->nr_present + 1);
		bar->grown++;
	}
	mutex_unlock(&bar->resize_lock);
	if (err)
		vfree(meta);
	cond_resched();
	return err;
}

/**
 * sluice_grow_floor - what the pool shrinks to: reserves of devices come on top of what it started with
 * @bar: the pool
 *
 * Return: chunks.
 * Context: any. Takes the lock of each cache of the pool.
 */
u32 sluice_grow_floor(struct sluice_bar *bar)
{
	struct sluice_pool_stats stats;

	sluice_pool_get_stats(&bar->pool, &stats);
	return min_t(u64, bar->nr_chunks,
		     bar->nr_start + DIV_ROUND_UP_ULL(stats.reserved, SLUICE_CHUNK_BYTES));
}

/* Add so many chunks; how many it were. */
static u32 grow(struct sluice_bar *bar, u32 want, gfp_t gfp)
{
	u32 n = 0;
	int err = 0;

	while (n < want && !err) {
		err = sluice_grow_add(bar, gfp);
		n += !err;
	}
	WRITE_ONCE(bar->surplus_since, jiffies);
	WRITE_ONCE(bar->short_of_memory, err == -ENOMEM);
	if (err == -ENOMEM) {
		WRITE_ONCE(bar->grow_failed, bar->grow_failed + 1);
		pr_warn_ratelimited("pool %s cannot grow for want of memory: it stays at %u of "
				    "%u MiB for now\n",
				    bar->name, bar->nr_present * 2, bar->nr_chunks * 2);
	}
	return n;
}

/* Take up to so many free chunks out, and free what was kept about them. */
static void shrink(struct sluice_bar *bar, u32 surplus)
{
	u32 floor = sluice_grow_floor(bar);
	struct sluice_chunk *out[BATCH];
	void *cpu;
	u32 n = 0;
	u64 dev;

	mutex_lock(&bar->resize_lock);
	surplus = min3(surplus, bar->nr_present - min(bar->nr_present, floor), (u32)BATCH);
	while (n < surplus && !sluice_pool_remove(&bar->pool, &out[n], &cpu, &dev))
		n++;
	WRITE_ONCE(bar->nr_present, bar->nr_present - n);
	bar->shrunk += n;
	mutex_unlock(&bar->resize_lock);
	if (!n)
		return;
	synchronize_rcu();
	while (n > 0)
		vfree(out[--n]);
}

/* The worker. */
static void balance(struct work_struct *work)
{
	struct sluice_bar *bar = container_of(work, struct sluice_bar, balance.work);
	bool kept = true;
	int want;

	/* Once a look, however often it is asked to grow: what is in constant use is worth keeping. */
	if (time_after_eq(jiffies, bar->trimmed + LOOK)) {
		kept = sluice_pool_trim(&bar->pool);
		bar->trimmed = jiffies;
	}
	want = sluice_pool_want(&bar->pool);
	if (want > 0)
		grow(bar, want, GFP_KERNEL);
	else if (want == 0)
		WRITE_ONCE(bar->surplus_since, jiffies);
	else if (time_after_eq(jiffies, READ_ONCE(bar->surplus_since) + bar->quiet))
		shrink(bar, -want);
	/* If it has been asked for meanwhile it runs at once, and this does nothing. */
	if (kept || READ_ONCE(bar->nr_present) > sluice_grow_floor(bar))
		queue_delayed_work(bar->workqueue, &bar->balance, LOOK);
}

/* The core's call for more, with interrupts off. */
static void asked(void *context)
{
	struct sluice_bar *bar = context;

	if (READ_ONCE(bar->short_of_memory))
		queue_delayed_work(bar->workqueue, &bar->balance, HZ);
	else
		mod_delayed_work(bar->workqueue, &bar->balance, 0);
}

/**
 * sluice_grow_by - add chunks now, for a caller that may sleep and has found no room
 * @bar: the pool
 * @n:   how many, as far as pool_max allows
 * @gfp: GFP_KERNEL, GFP_NOFS or GFP_NOIO
 *
 * Return: how many were added.
 * Context: may sleep.
 */
u32 sluice_grow_by(struct sluice_bar *bar, u32 n, gfp_t gfp)
{
	n = grow(bar, n, gfp);
	if (n)
		queue_delayed_work(bar->workqueue, &bar->balance, LOOK);
	return n;
}

/**
 * sluice_grow_reserve - set a part of the pool aside for a device, on top of its size at the start
 * @bar:   the pool
 * @dma:   the device, which has none
 * @bytes: how much
 *
 * With as many chunks added as that takes, as far as there are more and there is memory; otherwise it
 * is the others' room that becomes less.
 *
 * Return: as sluice_dma_reserve().
 * Context: may sleep.
 */
int sluice_grow_reserve(struct sluice_bar *bar, struct sluice_dma *dma, u64 bytes)
{
	int err = sluice_dma_reserve(dma, bytes);
	u32 floor;

	if (err == -ENOSPC && sluice_grow_by(bar, 2, GFP_KERNEL))
		err = sluice_dma_reserve(dma, bytes);
	floor = sluice_grow_floor(bar);
	if (!err && floor > READ_ONCE(bar->nr_present))
		sluice_grow_by(bar, floor - READ_ONCE(bar->nr_present), GFP_KERNEL);
	return err;
}

/**
 * sluice_grow_look - a reserve has been given back: the pool may be larger than it has to be
 * @bar: the pool
 *
 * Context: any.
 */
void sluice_grow_look(struct sluice_bar *bar)
{
	queue_delayed_work(bar->workqueue, &bar->balance, LOOK);
}

/**
 * sluice_grow_prepare - before the pool is made: what it needs in order to ask for more
 * @bar:    zeroed but for what its pool will be made of
 * @config: of the pool; its calls are filled in
 *
 * Return: 0 or -ENOMEM. sluice_grow_stop() undoes it.
 * Context: may sleep.
 */
int sluice_grow_prepare(struct sluice_bar *bar, struct sluice_pool_config *config)
{
	mutex_init(&bar->resize_lock);
	INIT_DELAYED_WORK(&bar->balance, balance);
	bar->trimmed = jiffies;
	/* Of its own, as it may wait for memory. */
	bar->workqueue = alloc_workqueue(KBUILD_MODNAME, WQ_UNBOUND, 1);
	if (!bar->workqueue)
		return -ENOMEM;
	config->grow = asked;
	config->context = bar;
	return 0;
}

/**
 * sluice_grow_start - begin to look after the pool
 * @bar: its pool is there
 *
 * The first look finds nothing in use, and from then on the core says when there is.
 *
 * Context: any.
 */
void sluice_grow_start(struct sluice_bar *bar)
{
	queue_delayed_work(bar->workqueue, &bar->balance, LOOK);
}

/**
 * sluice_grow_lost - the BAR has gone: add no more of it
 * @bar: the pool
 *
 * Context: may sleep. When this returns, nothing is adding a chunk.
 */
void sluice_grow_lost(struct sluice_bar *bar)
{
	mutex_lock(&bar->resize_lock);
	WRITE_ONCE(bar->gone, true);
	mutex_unlock(&bar->resize_lock);
}

/**
 * sluice_grow_stop - let the pool alone
 * @bar: nobody maps from it any more
 *
 * Context: may sleep.
 */
void sluice_grow_stop(struct sluice_bar *bar)
{
	if (!bar->workqueue)
		return;
	cancel_delayed_work_sync(&bar->balance);
	destroy_workqueue(bar->workqueue);
}
