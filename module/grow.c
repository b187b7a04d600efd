// SPDX-License-Identifier: GPL-2.0-only
/*
 * grow.c - the pool gets larger before it runs out, and smaller when it has been quiet
 *
 * Theory of operation
 * -------------------
 * The pool starts with some chunks (the parameter size) and may have all that its window has room for
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
 * private memory of this machine; with pool=system the 2 MiB as well, and having devices reach them.
 * What shrinking gives back is the same, but for a BAR's pages, which stay with the host: a guest has no
 * way to hand back a part of a BAR, and the host can only do it behind its back. But a chunk that is
 * not in the pool is not written to.
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

#include <linux/err.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "sluice.h"

#define LOOK  HZ /* from one look to the next; what sluice_pool_trim() asks for */
#define BATCH 16 /* chunks whose private data waits for one grace period */

/* With the memory for it there, open a chunk and hand it to the core. Under resize_lock. */
static int add(struct sluice_mem *mem, struct sluice_chunk *meta, void **cpu)
{
	u32 bytes;
	u64 dev;
	int err;

	if (mem->nr_present == mem->nr_chunks)
		return -ENOSPC;
	err = mem->ops->open(mem, cpu, &dev, &bytes);
	if (err)
		return err;
	err = sluice_pool_add(&mem->pool, meta, *cpu, dev, bytes);
	if (err) {
		if (mem->ops->close(mem, *cpu, dev, bytes))
			*cpu = NULL;
		return err;
	}
	WRITE_ONCE(mem->nr_present, mem->nr_present + 1);
	mem->grown++;
	return 0;
}

/**
 * sluice_grow_add - add one more chunk
 * @mem: its pool has been made
 * @gfp: GFP_KERNEL, GFP_NOFS or GFP_NOIO: what memory may wait for
 *
 * Return: 0; -ENOSPC if all are there; -ENODEV if the BAR has gone; -ENOMEM; -EIO if the memory could not
 * be converted; what opening it said.
 * Context: may sleep.
 */
int sluice_grow_add(struct sluice_mem *mem, gfp_t gfp)
{
	struct sluice_chunk *meta;
	void *cpu = NULL;
	int err;

	if (READ_ONCE(mem->nr_present) == mem->nr_chunks)
		return -ENOSPC;
	meta = __vmalloc(sluice_chunk_size(), gfp | __GFP_NOWARN);
	err = meta ? 0 : -ENOMEM;
	if (!err && mem->ops->get) {
		cpu = mem->ops->get(mem, gfp);
		if (IS_ERR(cpu)) {
			err = PTR_ERR(cpu);
			cpu = NULL;
		}
	}
	if (!err) {
		mutex_lock(&mem->resize_lock);
		err = add(mem, meta, &cpu);
		mutex_unlock(&mem->resize_lock);
	}
	if (err) {
		vfree(meta);
		if (cpu && mem->ops->put)
			mem->ops->put(mem, cpu);
	}
	cond_resched();
	return err;
}

/**
 * sluice_grow_floor - what the pool shrinks to: reserves of devices come on top of what it started with
 * @mem: the pool
 *
 * Return: chunks.
 * Context: any. Takes the lock of each cache of the pool.
 */
u32 sluice_grow_floor(struct sluice_mem *mem)
{
	struct sluice_pool_stats stats;

	sluice_pool_get_stats(&mem->pool, &stats);
	return min_t(u64, mem->nr_chunks,
		     mem->nr_start + DIV_ROUND_UP_ULL(stats.reserved, SLUICE_CHUNK_BYTES));
}

/* Add so many chunks; how many it were. */
static u32 grow(struct sluice_mem *mem, u32 want, gfp_t gfp)
{
	bool failed;
	u32 n = 0;
	int err = 0;

	while (n < want && !err) {
		err = sluice_grow_add(mem, gfp);
		n += !err;
	}
	WRITE_ONCE(mem->surplus_since, jiffies);
	failed = err == -ENOMEM || err == -EIO;
	WRITE_ONCE(mem->short_of_memory, failed);
	if (failed) {
		WRITE_ONCE(mem->grow_failed, mem->grow_failed + 1);
		pr_warn_ratelimited(
			"pool %s cannot grow %s: it stays at %u of %u MiB for now\n", mem->name,
			err == -ENOMEM ? "for want of memory"
				       : "as memory could not be converted, or taken back",
			mem->nr_present * 2, mem->nr_chunks * 2);
	}
	return n;
}

/* A chunk that is no longer in the pool. */
struct leaving {
	struct sluice_chunk *meta;
	void *cpu; /* to be given back; NULL if it cannot be */
};

/* Take up to so many free chunks out, and give back their memory and what was kept about them. */
static u32 take_out(struct sluice_mem *mem, u32 surplus)
{
	struct leaving out[BATCH];
	void *cpu;
	u32 n = 0, done;
	u64 dev;

	mutex_lock(&mem->resize_lock);
	surplus = min(surplus, (u32)BATCH);
	for (; n < surplus && !sluice_pool_remove(&mem->pool, &out[n].meta, &cpu, &dev); n++)
		out[n].cpu = mem->ops->close(mem, cpu, dev, SLUICE_CHUNK_BYTES) ? NULL : cpu;
	WRITE_ONCE(mem->nr_present, mem->nr_present - n);
	mem->shrunk += n;
	mutex_unlock(&mem->resize_lock);
	if (!n)
		return 0;
	synchronize_rcu();
	for (done = n; n > 0;) {
		vfree(out[--n].meta);
		if (out[n].cpu && mem->ops->put)
			mem->ops->put(mem, out[n].cpu);
	}
	return done;
}

static void shrink(struct sluice_mem *mem, u32 surplus)
{
	u32 present = READ_ONCE(mem->nr_present);

	take_out(mem, min(surplus, present - min(present, sluice_grow_floor(mem))));
}

/**
 * sluice_grow_drain - take all chunks out
 * @mem: nothing is mapped from it and nobody will try; sluice_grow_stop() has been called
 *
 * Return: how many are still there: something in them is not free.
 * Context: may sleep.
 */
u32 sluice_grow_drain(struct sluice_mem *mem)
{
	while (take_out(mem, BATCH))
		;
	return mem->nr_present;
}

/* The worker. */
static void balance(struct work_struct *work)
{
	struct sluice_mem *mem = container_of(work, struct sluice_mem, balance.work);
	bool kept = true;
	int want;

	/* Once a look, however often it is asked to grow: what is in constant use is worth keeping. */
	if (time_after_eq(jiffies, mem->trimmed + LOOK)) {
		kept = sluice_pool_trim(&mem->pool);
		mem->trimmed = jiffies;
	}
	want = sluice_pool_want(&mem->pool);
	if (want > 0)
		grow(mem, want, GFP_KERNEL);
	else if (want == 0)
		WRITE_ONCE(mem->surplus_since, jiffies);
	else if (time_after_eq(jiffies, READ_ONCE(mem->surplus_since) + mem->quiet))
		shrink(mem, -want);
	/* If it has been asked for meanwhile it runs at once, and this does nothing. */
	if (kept || READ_ONCE(mem->nr_present) > sluice_grow_floor(mem))
		queue_delayed_work(mem->workqueue, &mem->balance, LOOK);
}

/* The core's call for more, with interrupts off. */
static void asked(void *context)
{
	struct sluice_mem *mem = context;

	if (READ_ONCE(mem->short_of_memory))
		queue_delayed_work(mem->workqueue, &mem->balance, HZ);
	else
		mod_delayed_work(mem->workqueue, &mem->balance, 0);
}

/**
 * sluice_grow_by - add chunks now, for a caller that may sleep and has found no room
 * @mem: the pool
 * @n:   how many, as far as pool_max allows
 * @gfp: GFP_KERNEL, GFP_NOFS or GFP_NOIO
 *
 * Return: how many were added.
 * Context: may sleep.
 */
u32 sluice_grow_by(struct sluice_mem *mem, u32 n, gfp_t gfp)
{
	n = grow(mem, n, gfp);
	if (n)
		queue_delayed_work(mem->workqueue, &mem->balance, LOOK);
	return n;
}

/**
 * sluice_grow_reserve - set a part of the pool aside for a device, on top of its size at the start
 * @mem:   the pool
 * @dma:   the device, which has none
 * @bytes: how much
 *
 * With as many chunks added as that takes, as far as there are more and there is memory; otherwise it
 * is the others' room that becomes less.
 *
 * Return: as sluice_dma_reserve().
 * Context: may sleep.
 */
int sluice_grow_reserve(struct sluice_mem *mem, struct sluice_dma *dma, u64 bytes)
{
	int err = sluice_dma_reserve(dma, bytes);
	u32 floor;

	if (err == -ENOSPC && sluice_grow_by(mem, 2, GFP_KERNEL))
		err = sluice_dma_reserve(dma, bytes);
	floor = sluice_grow_floor(mem);
	if (!err && floor > READ_ONCE(mem->nr_present))
		sluice_grow_by(mem, floor - READ_ONCE(mem->nr_present), GFP_KERNEL);
	return err;
}

/**
 * sluice_grow_look - a reserve has been given back: the pool may be larger than it has to be
 * @mem: the pool
 *
 * Context: any.
 */
void sluice_grow_look(struct sluice_mem *mem)
{
	queue_delayed_work(mem->workqueue, &mem->balance, LOOK);
}

/**
 * sluice_grow_prepare - before the pool is made: what it needs in order to ask for more
 * @mem:    zeroed but for what its pool will be made of
 * @config: of the pool; its calls are filled in
 *
 * Return: 0 or -ENOMEM. sluice_grow_stop() undoes it.
 * Context: may sleep.
 */
int sluice_grow_prepare(struct sluice_mem *mem, struct sluice_pool_config *config)
{
	mutex_init(&mem->resize_lock);
	INIT_DELAYED_WORK(&mem->balance, balance);
	mem->trimmed = jiffies;
	/* Of its own, as it may wait for memory. */
	mem->workqueue = alloc_workqueue(KBUILD_MODNAME, WQ_UNBOUND, 1);
	if (!mem->workqueue)
		return -ENOMEM;
	config->grow = asked;
	config->context = mem;
	return 0;
}

/**
 * sluice_grow_start - begin to look after the pool
 * @mem: its pool is there
 *
 * The first look finds nothing in use, and from then on the core says when there is.
 *
 * Context: any.
 */
void sluice_grow_start(struct sluice_mem *mem)
{
	queue_delayed_work(mem->workqueue, &mem->balance, LOOK);
}

/**
 * sluice_grow_lost - the BAR has gone: add no more of it
 * @mem: the pool
 *
 * Context: may sleep. When this returns, nothing is adding a chunk.
 */
void sluice_grow_lost(struct sluice_mem *mem)
{
	mutex_lock(&mem->resize_lock);
	WRITE_ONCE(mem->gone, true);
	mutex_unlock(&mem->resize_lock);
}

/**
 * sluice_grow_stop - let the pool alone
 * @mem: nobody maps from it any more
 *
 * Context: may sleep.
 */
void sluice_grow_stop(struct sluice_mem *mem)
{
	if (!mem->workqueue)
		return;
	cancel_delayed_work_sync(&mem->balance);
	destroy_workqueue(mem->workqueue);
	mem->workqueue = NULL;
}
