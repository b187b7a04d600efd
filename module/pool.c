// SPDX-License-Identifier: GPL-2.0-only
/*
 * pool.c - what pools have in common, wherever their memory is
 *
 * Theory of operation
 * -------------------
 * A struct sluice_mem is a pool of the core's, with the private memory that the core wants for it: a
 * cache for each CPU, an array of chunks. Where the chunks' memory comes from, and how devices reach
 * it, is behind struct sluice_mem_ops: bar.c and system.c. They fill in ops, size, nr_chunks,
 * nr_places and last, and call this; chunks then come and go by grow.c.
 */
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "sluice.h"

static void free_private(struct sluice_mem *mem)
{
	for (u32 i = 0; mem->chunks && i < mem->nr_places; i++)
		vfree(mem->chunks[i].meta);
	kvfree(mem->chunks);
	for (u32 i = 0; mem->caches && i < mem->nr_caches; i++)
		kvfree(mem->caches[i]);
	kvfree(mem->caches);
}

/* A cache for each CPU there can be, on its own node. */
static int alloc_private(struct sluice_mem *mem)
{
	mem->chunks = kvcalloc(mem->nr_places, sizeof(*mem->chunks), GFP_KERNEL);
	mem->nr_caches = nr_cpu_ids;
	mem->caches = kvcalloc(mem->nr_caches, sizeof(*mem->caches), GFP_KERNEL);
	if (!mem->chunks || !mem->caches)
		return -ENOMEM;
	for (u32 i = 0; i < mem->nr_caches; i++) {
		int node = cpu_possible(i) ? cpu_to_node(i) : NUMA_NO_NODE;

		mem->caches[i] = kvzalloc_node(sluice_cache_size(), GFP_KERNEL, node);
		if (!mem->caches[i])
			return -ENOMEM;
	}
	return 0;
}

/**
 * sluice_mem_init - make the pool, with its first chunks
 * @mem:    zeroed but for ops, name, size, last, nr_chunks, nr_places and what ops need; the caller's
 * @limits: size is set
 * @dev:    device address at which the pool's window begins
 *
 * Return: 0 or a negative errno, with nothing kept, unless stuck is set: then @mem is as after an
 * sluice_mem_exit() that has failed.
 * Context: may sleep.
 */
int sluice_mem_init(struct sluice_mem *mem, const struct sluice_limits *limits, u64 dev)
{
	struct sluice_pool_config config = {.name = mem->name, .dev = dev};
	int err;

	err = alloc_private(mem);
	if (err)
		goto out;
	config.chunks = mem->chunks;
	config.max_chunks = mem->nr_places;
	config.max_present = mem->nr_chunks;
	config.caches = mem->caches;
	config.n_caches = mem->nr_caches;
	err = sluice_grow_prepare(mem, &config);
	if (err)
		goto out;
	err = sluice_pool_init(&mem->pool, &config);
	if (err)
		goto out;
	mem->quiet = limits->quiet * HZ;
	mem->nr_start = DIV_ROUND_UP_ULL(limits->size, SLUICE_CHUNK_BYTES);
	while (mem->nr_present < mem->nr_start && !err)
		err = sluice_grow_add(mem, GFP_KERNEL);
	if (err)
		goto out;
	mem->grown = 0; /* from here on */
	sluice_grow_start(mem);
	return 0;
out:
	(void)sluice_mem_exit(mem);
	return err;
}

/**
 * sluice_mem_exit - undo sluice_mem_init(), as far as it came
 * @mem: nothing is mapped from it and nobody will try
 *
 * Return: 0, or -EBUSY if there is memory that cannot be taken back from the device: then all that
 * belongs to the pool stays as it is, for good, and so has to @mem.
 * Context: may sleep.
 */
int sluice_mem_exit(struct sluice_mem *mem)
{
	sluice_grow_stop(mem);
	if (mem->ops->get && mem->nr_present && sluice_grow_drain(mem))
		return -EBUSY;
	/* What a chunk was opened through is the device's way to it, and has to stay. */
	if (mem->stuck)
		return -EBUSY;
	free_private(mem);
	return 0;
}
