// SPDX-License-Identifier: GPL-2.0-only
/*
 * stack.c - a device's own pool and its policy, on top of what its DMA goes through below us
 *
 * Theory of operation
 * -------------------
 *	ops.c	struct dma_map_ops
 *	core	dma, policy, place, pool
 *	here	which of them a device gets, of what size
 *	lower	IOMMU, nothing, grants
 *
 * With policy bounce a device has a pool and no place: its transfers touch nothing below, which it
 * pays for with a copy. With share and auto it has a place, too: whole granules of a transfer can be
 * mapped for just that transfer. auto measures both ways when the device is taken, before its driver is
 * there, on pages that hold zeroes; and goes on measuring (sluice/policy.h).
 *
 * Pages that could not be taken back. The kernel's unmap returns nothing, and its caller frees the
 * pages. So those of a mapping that lingers (sluice/place.h) get a reference more, which is dropped when
 * the device has let go of them. Memory that a reference would not keep is copied, where the other end can
 * hold on to it. For memory of the slab allocator a reference is not enough: it gives its pages' bytes
 * out again by itself. Such pages are taken out of its reach only as a whole, so this is said in the
 * log: the device is to be reset.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/timex.h>

#include <sluice/place.h>

#include "compat.h"
#include "lower.h"
#include "sluice.h"

#define RECORDS	      1024 /* mappings in place at a time; more bounce */
#define SCRATCH_ORDER 8	   /* 1 MiB to measure with */
#define ROUNDS	      5

struct sluice_stack {
	struct sluice_lower *lower;
	struct sluice_mem mem;
	u32 asked;  /* policy that it was to have */
	u32 policy; /* and has */
	struct sluice_place place;
	struct sluice_placed *records;
	struct sluice_place_cpu *cpus;
	struct sluice_costs costs;
};

/* In the order in which they are asked. */
static const struct sluice_lower_ops *const lowers[] = {
#ifdef CONFIG_XEN
	&sluice_lower_grant,
#endif
	&sluice_lower_iommu,
	&sluice_lower_direct,
};

static u64 cycles(void *context)
{
	return get_cycles();
}

static void for_pages(u64 orig, u64 len, void (*what)(struct page *))
{
	for (u64 at = round_down(orig, PAGE_SIZE); at < orig + len; at += PAGE_SIZE)
		what(pfn_to_page(PHYS_PFN(at)));
}

/*
 * Can a reference keep these pages from being given to somebody else? Not those behind the first one of an allocation
 * of several pages that is not a compound page: they have no count of their own, and are freed whatever it says.
 */
static bool keeps(void *context, u64 orig, u64 len)
{
	for (u64 at = round_down(orig, PAGE_SIZE); at < orig + len; at += PAGE_SIZE) {
		if (!page_count(pfn_to_page(PHYS_PFN(at))))
			return false;
	}
	return true;
}

/* (An IOMMU that has unmapped a part only has no keeps(); it has no ended() either, as that stays so.) */
static void hold(struct page *page)
{
	if (page_count(page))
		get_page(page);
}

/* A mapping could not be taken back. */
static void lingers(void *context, u64 orig, u64 len)
{
	struct sluice_device *sd = context;

	for_pages(orig, len, hold);
	dev_err_ratelimited(&sd->pdev->dev,
			    "sluice: the device's end does not let go of %llu bytes at 0x%llx: "
			    "they are kept out of "
			    "use; reset the device if it stays that way\n",
			    len, orig);
}

/* And now it has been. */
static void ended(void *context, u64 orig, u64 len)
{
	for_pages(orig, len, put_page);
}

/* Find out what bouncing and sharing cost here. Without it auto bounces. */
static void measure(struct sluice_device *sd)
{
	u32 pages = 1u << SCRATCH_ORDER;
	struct page *page;
	int err = -ENOMEM;

	page = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | __GFP_COMP |
				   sd->stack->lower->ops->zone,
			   SCRATCH_ORDER);
	if (page) {
		err = sluice_place_measure(&sd->dma, page_to_phys(page), pages * PAGE_SIZE, ROUNDS);
		__free_pages(page, SCRATCH_ORDER);
	}
	if (err)
		pci_warn(sd->pdev,
			 "sluice: what sharing in place costs could not be measured (%d): its "
			 "transfers bounce\n",
			 err);
	/* What was counted was not the device's. */
	memset(sd->stats, 0, sizeof(sd->stats[0]) * sd->stack->mem.nr_caches);
	memset(&sd->stack->place.stats, 0, sizeof(sd->stack->place.stats));
	memset(&sd->stack->lower->share->stats, 0, sizeof(sd->stack->lower->share->stats));
}

static int make_place(struct sluice_device *sd)
{
	struct sluice_stack *stack = sd->stack;
	struct sluice_place_config config = {
		.share = stack->lower->share,
		.n_records = RECORDS,
		.n_cpus = nr_cpu_ids,
		.clock = cycles,
		.asks = sluice_compat_ats(sd->pdev),
		.keeps = stack->lower->ops->lingers ? keeps : NULL,
		.lingers = lingers,
		.ended = ended,
		.context = sd,
	};
	int err;

	stack->records = kvcalloc(RECORDS, sizeof(*stack->records), GFP_KERNEL);
	stack->cpus = kvcalloc(nr_cpu_ids, sizeof(*stack->cpus), GFP_KERNEL);
	if (!stack->records || !stack->cpus)
		return -ENOMEM;
	config.records = stack->records;
	config.cpus = stack->cpus;
	err = sluice_place_init(&stack->place, &sd->dma, &config);
	if (err)
		return err;
	sd->dma.policy.kind = (enum sluice_policy_kind)stack->policy;
	if (stack->policy == SLUICE_POLICY_AUTO) {
		sd->dma.policy.costs = &stack->costs;
		measure(sd);
	}
	return 0;
}

/* The lower that is a device's; or the reason why there is none. */
static struct sluice_lower *take_lower(struct device *dev, u64 pool_bytes, const char **why)
{
	struct sluice_lower *lower = ERR_PTR(-ENODEV);

	for (unsigned int i = 0; i < ARRAY_SIZE(lowers) && lower == ERR_PTR(-ENODEV); i++)
		lower = lowers[i]->take(dev, pool_bytes, why);
	return lower;
}

static void free_stack(struct sluice_stack *stack)
{
	kvfree(stack->records);
	kvfree(stack->cpus);
	kvfree(stack);
}

static void say_kept(struct sluice_device *sd)
{
	pci_err(sd->pdev,
		"sluice: it has not let go of memory, or its driver has not: its pool is kept, "
		"unused, until the machine starts again\n");
}

/*
 * Give back what is below, and free all, after its sluice_mem_exit(). Where the device still reaches a chunk, the
 * addresses of it must not become anybody else's: they are the lower's, which stays.
 */
static void release(struct sluice_device *sd, struct sluice_stack *stack)
{
	if (READ_ONCE(stack->mem.stuck)) {
		say_kept(sd);
		return;
	}
	stack->lower->ops->give(stack->lower);
	free_stack(stack);
}

/**
 * sluice_stack_open - give a device its own pool, its policy and what is below
 * @sd:	    its driver is not bound, nothing is mapped; its dma is made anew
 * @limits: of the pool
 * @why:    set to why not, for the log
 *
 * Return: 0 or a negative errno, with the device as it was.
 * Context: may sleep, with the device_lock() held.
 */
int sluice_stack_open(struct sluice_device *sd, const struct sluice_limits *limits,
		      const char **why)
{
	struct sluice_stack *stack = kvzalloc(sizeof(*stack), GFP_KERNEL);
	u16 id = sd->dma.id;
	int err = -ENOMEM;

	*why = "there is not enough memory for its pool";
	if (!stack)
		return err;
	stack->asked = stack->policy = READ_ONCE(sd->policy);
	stack->lower = take_lower(&sd->pdev->dev, limits->max, why);
	if (IS_ERR(stack->lower)) {
		err = PTR_ERR(stack->lower);
		goto free;
	}
	err = sluice_system_open(&stack->mem, stack->lower, limits);
	if (err == -EIO)
		*why = "memory for its pool cannot be shared with the host";
	if (err)
		goto release;
	sd->stack = stack;
	sluice_dma_init(&sd->dma, &stack->mem.pool, id, sd->stats);
	/* The pages of a confidential guest are private: what is not converted reaches nobody. */
	if (!stack->lower->share->ops->share || sluice_memory_is_private())
		stack->policy = SLUICE_POLICY_BOUNCE;
	if (stack->policy != SLUICE_POLICY_BOUNCE) {
		err = make_place(sd);
		if (err)
			goto close;
	}
	WRITE_ONCE(sd->mem, &stack->mem);
	return 0;
close:
	sd->stack = NULL;
	sluice_dma_close(&sd->dma);
	(void)sluice_mem_exit(&stack->mem);
release:
	release(sd, stack);
	return err;
free:
	free_stack(stack);
	return err;
}

/**
 * sluice_stack_close - undo sluice_stack_open()
 * @sd:	  nobody maps for it or is in a call that does
 * @keep: something is mapped, or the device has left the machine, and what is below it too
 *
 * What cannot be taken back from the device stays allocated, for good, and is said in the log.
 *
 * Context: may sleep.
 */
void sluice_stack_close(struct sluice_device *sd, bool keep)
{
	struct sluice_stack *stack = sd->stack;

	WRITE_ONCE(sd->mem, NULL);
	sd->stack = NULL;
	sluice_dma_close(&sd->dma);
	if (!keep && sd->dma.place && sluice_place_retry(&sd->dma))
		keep = true;
	if (keep)
		sluice_grow_stop(&stack->mem);
	if (keep || sluice_mem_exit(&stack->mem))
		say_kept(sd);
	else
		release(sd, stack);
}

/**
 * sluice_stack_asked - which policy a device was to have when it was taken
 */
u32 sluice_stack_asked(const struct sluice_stack *stack)
{
	return stack->asked;
}

/**
 * sluice_stack_policy - which policy a device has now; an enum sluice_policy_kind
 */
u32 sluice_stack_policy(const struct sluice_stack *stack)
{
	return stack->policy;
}

/**
 * sluice_stack_lower - what a device's DMA goes through below us
 */
const struct sluice_lower_ops *sluice_stack_lower(const struct sluice_stack *stack)
{
	return stack->lower->ops;
}

static void show_break_even(struct seq_file *m, const char *key, const struct sluice_dma *dma,
			    bool split)
{
	u32 bytes = sluice_costs_break_even(dma->policy.costs, split, SLUICE_TO_DEVICE);

	if (bytes == U32_MAX)
		seq_printf(m, "%s never\n", key);
	else
		seq_printf(m, "%s %u\n", key, bytes);
}

/**
 * sluice_stack_show - what has been decided for a device's transfers, and why
 * @stack: the device's
 * @dma:   the device's
 * @m:	   "key value" a line
 *
 * invalidations_saved: how many more there would have been if each mapping (each element of a list)
 * had been mapped and unmapped for itself.
 *
 * Context: may sleep, with the device's lock held.
 */
void sluice_stack_show(struct sluice_stack *stack, struct sluice_dma *dma, struct seq_file *m)
{
	const struct sluice_share_stats *share = &stack->lower->share->stats;
	struct sluice_place_stats place = {};
	struct sluice_dma_stats stats;

	sluice_dma_get_stats(dma, &stats);
	if (dma->place)
		sluice_place_get_stats(dma, &place);
	seq_printf(m, "policy %s\n", sluice_policy_names[stack->policy]);
	seq_printf(m, "lower %s\n", stack->lower->ops->name);
	seq_printf(m, "protected %d\n", stack->lower->ops->confines);
	seq_printf(m, "bounced %llu\n", stats.maps);
	seq_printf(m, "shared %llu\n", place.shared);
	seq_printf(m, "split %llu\n", place.split);
	seq_printf(m, "bytes_placed %llu\n", place.bytes_placed);
	seq_printf(m, "unshareable %llu\n", place.unshareable);
	seq_printf(m, "unbounceable %llu\n", place.unbounceable);
	seq_printf(m, "lingering %llu\n", place.lingering);
	seq_printf(m, "sampled %llu\n", place.sampled);
	seq_printf(m, "explored %llu\n", place.explored);
	if (dma->place && dma->policy.kind == SLUICE_POLICY_AUTO) {
		show_break_even(m, "break_even", dma, false);
		show_break_even(m, "break_even_split", dma, true);
		seq_printf(m, "ats %d\n", dma->place->config.asks);
	}
	seq_printf(m, "lower_operations %llu\n", READ_ONCE(share->operations));
	seq_printf(m, "invalidations %llu\n", READ_ONCE(share->trips));
	seq_printf(
		m, "invalidations_saved %lld\n",
		max_t(s64, 0, stats.maps + READ_ONCE(share->unshares) - READ_ONCE(share->trips)));
	seq_printf(m, "chunks_lost %llu\n", READ_ONCE(stack->mem.lost));
	if (stack->lower->ops->show)
		stack->lower->ops->show(stack->lower, m);
}
