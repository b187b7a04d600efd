// SPDX-License-Identifier: GPL-2.0-only
/*
 * debugfs.c - what can be read about the pool and the devices
 *
 * Theory of operation
 * -------------------
 *	/sys/kernel/debug/sluice/pool
 *	/sys/kernel/debug/sluice/DEVICE/stats
 *	/sys/kernel/debug/sluice/DEVICE/histogram
 *
 * pool is there only if there is one for all; a device's own is in its stats.
 *
 * One "key value" a line, so that a script needs no parser; keys are only ever added. Each number
 * is true by itself; they are not all of one moment. histogram has one line for each power of two:
 * the length up to which it counts, and how many mappings.
 *
 * debugfs is for looking at: if it cannot be created, everything else works on.
 */
#include <linux/debugfs.h>
#include <linux/pci.h>
#include <linux/seq_file.h>

#include "sluice.h"

static struct dentry *root;

static void show_pool(struct seq_file *m, struct sluice_mem *mem)
{
	struct sluice_pool_stats stats;

	sluice_pool_get_stats(&mem->pool, &stats);
	seq_printf(m, "pool %s\n", mem->name);
	seq_printf(m, "pool_bytes %llu\n", stats.bytes);
	seq_printf(m, "pool_used %llu\n", stats.used);
	seq_printf(m, "pool_used_max %llu\n", stats.used_max);
	seq_printf(m, "pool_largest %llu\n", stats.largest);
}

static void show_pool_more(struct seq_file *m, struct sluice_mem *mem)
{
	struct sluice_pool_stats stats;

	show_pool(m, mem);
	sluice_pool_get_stats(&mem->pool, &stats);
	seq_printf(m, "pool_cached %llu\n", stats.cached);
	seq_printf(m, "pool_slabs %llu\n", stats.slabs);
	seq_printf(m, "pool_allocs %llu\n", stats.allocs);
	seq_printf(m, "pool_cache_hits %llu\n", stats.cache_hits);
	seq_printf(m, "pool_full %llu\n", stats.full);
	seq_printf(m, "pool_refused %llu\n", stats.refused);
	seq_printf(m, "pool_span %llu\n", stats.span);
	seq_printf(m, "pool_reserved %llu\n", stats.reserved);
	seq_printf(m, "pool_start %llu\n", (u64)sluice_grow_floor(mem) << SLUICE_CHUNK_SHIFT);
	seq_printf(m, "pool_max %llu\n", mem->size);
	seq_printf(m, "pool_grown %llu\n", READ_ONCE(mem->grown));
	seq_printf(m, "pool_shrunk %llu\n", READ_ONCE(mem->shrunk));
	seq_printf(m, "pool_grow_failed %llu\n", READ_ONCE(mem->grow_failed));
	seq_printf(m, "pool_address 0x%llx\n", mem->pool.dev);
	seq_printf(m, "pool_gone %d\n", READ_ONCE(mem->gone));
}

static int pool_show(struct seq_file *m, void *unused)
{
	show_pool_more(m, m->private);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(pool);

static int stats_show(struct seq_file *m, void *unused)
{
	struct sluice_device *sd = m->private;
	const char *why = READ_ONCE(sd->why);
	struct sluice_dma_stats stats;

	seq_printf(m, "confined %d\n", !why);
	seq_printf(m, "reason %s\n", why ?: "-");
	seq_printf(m, "live %d\n", atomic_read(&sd->live));
	mutex_lock(&sd->lock);
	if (!sd->mem)
		goto out;
	sluice_dma_get_stats(&sd->dma, &stats);
	seq_printf(m, "maps %llu\n", stats.maps);
	seq_printf(m, "unmaps %llu\n", stats.unmaps);
	seq_printf(m, "bytes_to %llu\n", stats.bytes_to);
	seq_printf(m, "bytes_from %llu\n", stats.bytes_from);
	seq_printf(m, "scrubbed %llu\n", stats.scrubbed);
	seq_printf(m, "syncs %llu\n", stats.syncs);
	seq_printf(m, "coherent %llu\n", stats.coherent);
	seq_printf(m, "full %llu\n", stats.full);
	seq_printf(m, "waited %llu\n", stats.waited);
	seq_printf(m, "turned_away %llu\n", stats.turned_away);
	seq_printf(m, "lapsed %llu\n", stats.lapsed);
	seq_printf(m, "reserved %llu\n", stats.reserved);
	seq_printf(m, "reserve_maps %llu\n", stats.reserve_maps);
	seq_printf(m, "refused %llu\n", stats.refused);
	seq_printf(m, "overruns %llu\n", stats.overruns);
	if (sd->stack) {
		sluice_stack_show(sd->stack, &sd->dma, m);
		show_pool_more(m, sd->mem);
	} else {
		show_pool(m, sd->mem);
	}
out:
	mutex_unlock(&sd->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stats);

static int histogram_show(struct seq_file *m, void *unused)
{
	struct sluice_device *sd = m->private;
	struct sluice_dma_stats stats = {};

	mutex_lock(&sd->lock);
	if (sd->mem)
		sluice_dma_get_stats(&sd->dma, &stats);
	mutex_unlock(&sd->lock);
	for (int i = 0; i < SLUICE_HISTOGRAM - 1; i++)
		seq_printf(m, "%llu %llu\n", 1ULL << i, stats.sizes[i]);
	seq_printf(m, "more %llu\n", stats.sizes[SLUICE_HISTOGRAM - 1]);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(histogram);

/**
 * sluice_debugfs_start - make the folder, with what is known of the pool
 * @mem: the pool; lives until sluice_debugfs_stop(). NULL if each device has its own
 *
 * Context: may sleep.
 */
void sluice_debugfs_start(struct sluice_mem *mem)
{
	root = debugfs_create_dir(KBUILD_MODNAME, NULL);
	if (mem)
		debugfs_create_file("pool", 0444, root, mem, &pool_fops);
}

/**
 * sluice_debugfs_stop - remove all of it, and wait for who is reading it
 *
 * Context: may sleep.
 */
void sluice_debugfs_stop(void)
{
	debugfs_remove_recursive(root);
}

/**
 * sluice_debugfs_add - make a device's folder
 * @sd: lives until sluice_debugfs_remove()
 *
 * Context: may sleep.
 */
void sluice_debugfs_add(struct sluice_device *sd)
{
	sd->debugfs = debugfs_create_dir(pci_name(sd->pdev), root);
	debugfs_create_file("stats", 0444, sd->debugfs, sd, &stats_fops);
	debugfs_create_file("histogram", 0444, sd->debugfs, sd, &histogram_fops);
}

/**
 * sluice_debugfs_remove - remove a device's folder, and wait for who is reading in it
 * @sd: the device
 *
 * Context: may sleep.
 */
void sluice_debugfs_remove(struct sluice_device *sd)
{
	debugfs_remove_recursive(sd->debugfs);
}
