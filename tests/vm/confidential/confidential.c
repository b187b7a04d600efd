// SPDX-License-Identifier: GPL-2.0-only
/*
 * confidential.c - has sluice.ko believe that it is in a confidential guest, and watches what it does
 *
 * Theory of operation
 * -------------------
 * Without the hardware set_memory_decrypted() and set_memory_encrypted() do nothing, and what was done
 * with memory before, between and after them does not show. So here, for calls from sluice.ko only,
 * they are replaced through ftrace, as a live patch would: they sleep, lose what the memory held, note
 * what is shared, and fail when told to (fail_shared, fail_private), halfway. The question whether the
 * guest is confidential (sluice_memory_is_private()) is answered with yes. No line of sluice.ko is there for that.
 *
 * What is wrong is counted in parameters, each of which has to stay 0:
 *
 *	atomic	   converted where one may not sleep
 *	twice	   converted to what it was
 *	stale	   shared with something in it: not every way of sharing memory loses that
 *	unshared   put into the pool without being shared
 *	unscrubbed put into the pool with something in it
 *	outside	   a device address that is not of shared memory
 *	freed	   given back to the machine while it is shared
 *
 * Memory is looked at in pieces of 2 MiB, which is what is converted. When this is loaded, free memory is
 * filled with something, in so far as it can be had, that would show.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/delay.h>
#include <linux/ftrace.h>
#include <linux/io.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sizes.h>
#include <linux/string.h>

#define ORDER	9
#define PIECES	(SZ_4G / SZ_2M) /* sluice.ko takes memory below that */
#define GARBAGE 0xdb
#define SECRET	0xc3
#define FILL	64 /* pieces */

static DECLARE_BITMAP(shared, PIECES);

#define COUNTER(name)                                                                              \
	static atomic_t name;                                                                      \
	module_param_named(name, name.counter, int, 0444)

COUNTER(pieces);    /* and this says what is shared now, */
COUNTER(to_shared); /* and these how often it has been converted */
COUNTER(to_private);
COUNTER(atomic);
COUNTER(twice);
COUNTER(stale);
COUNTER(unshared);
COUNTER(unscrubbed);
COUNTER(outside);
COUNTER(freed);

static bool fail_shared, fail_private;
module_param(fail_shared, bool, 0644);
module_param(fail_private, bool, 0644);

static bool is_shared(u64 phys)
{
	return phys < SZ_4G && test_bit(phys / SZ_2M, shared);
}

/* What both conversions have in common; true if it fails. */
static bool convert(unsigned long addr, int pages, bool to, bool fail)
{
	u64 phys = virt_to_phys((void *)addr);

	if (in_atomic() || irqs_disabled())
		atomic_inc(&atomic);
	else
		msleep(2);
	if (pages != 1 << ORDER || phys % SZ_2M || phys >= SZ_4G) {
		pr_err("not a piece: %d pages at 0x%llx\n", pages, phys);
		atomic_inc(&twice);
		return true;
	}
	/* If it fails, half of it is shared. */
	memset((void *)addr, GARBAGE, fail ? SZ_1M : SZ_2M);
	if (to || fail)
		atomic_add(!test_and_set_bit(phys / SZ_2M, shared), &pieces);
	else
		atomic_sub(test_and_clear_bit(phys / SZ_2M, shared), &pieces);
	return fail;
}

static int make_shared(unsigned long addr, int pages)
{
	if (is_shared(virt_to_phys((void *)addr)))
		atomic_inc(&twice);
	if (memchr_inv((void *)addr, 0, (size_t)pages << PAGE_SHIFT))
		atomic_inc(&stale);
	if (convert(addr, pages, true, READ_ONCE(fail_shared)))
		return -EIO;
	atomic_inc(&to_shared);
	return 0;
}

static int make_private(unsigned long addr, int pages)
{
	if (!is_shared(virt_to_phys((void *)addr)))
		atomic_inc(&twice);
	if (convert(addr, pages, false, READ_ONCE(fail_private)))
		return -EIO;
	atomic_inc(&to_private);
	return 0;
}

static bool yes(void)
{
	return true;
}

static void note_free(u64 phys)
{
	if (is_shared(phys))
		atomic_inc(&freed);
}

/*
 * What is put into the pool: sluice_pool_add(pool, meta, cpu, dev, bytes), one at a time. It is looked at just
 * before the pool has it, under the pool's lock: when sluice_pool_add() returns somebody may have mapped some of it.
 */
static struct {
	struct task_struct *by; /* NULL: nobody, or it has been looked at */
	void *cpu;
	u32 bytes;
} adding;

/* sluice_runs_insert(), which sluice_pool_add() calls; an interrupt's unmap does so, too. */
static void look_at_adding(void)
{
	if (READ_ONCE(adding.by) != current || !in_task())
		return;
	if (memchr_inv(adding.cpu, 0, adding.bytes))
		atomic_inc(&unscrubbed);
	WRITE_ONCE(adding.by, NULL);
}

static int add_enters(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	adding.cpu = (void *)regs->dx;
	adding.bytes = regs->r8;
	if (!is_shared(virt_to_phys(adding.cpu)))
		atomic_inc(&unshared);
	WRITE_ONCE(adding.by, current);
	return 0;
}

static int add_returns(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	/* Not looked at is as bad. */
	if (READ_ONCE(adding.by) == current && !regs_return_value(regs))
		atomic_inc(&unscrubbed);
	WRITE_ONCE(adding.by, NULL);
	return 0;
}

/* Functions that are replaced, for calls from sluice.ko, or looked at: they have no instead. */
static struct patch {
	const char *symbol;
	void *instead;
	bool by_page; /* its first argument is one, not an address */
	void (*look)(void);
	struct ftrace_ops ops;
	bool there;
} patches[] = {
	{.symbol = "set_memory_decrypted", .instead = make_shared},
	{.symbol = "set_memory_encrypted", .instead = make_private},
	{.symbol = "sluice_memory_is_private", .instead = yes},
	{.symbol = "free_pages"},
	{.symbol = "__free_pages", .by_page = true},
	{.symbol = "sluice_runs_insert", .look = look_at_adding},
};

static bool from_sluice(unsigned long at)
{
	char name[KSYM_SYMBOL_LEN];

	sprint_symbol(name, at);
	return strstr(name, "[sluice]");
}

static void entered(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
		    struct ftrace_regs *fregs)
{
	struct patch *patch = container_of(ops, struct patch, ops);
	struct pt_regs *regs = ftrace_get_regs(fregs);

	if (!regs)
		return;
	if (patch->look)
		patch->look();
	else if (!patch->instead)
		note_free(patch->by_page ? page_to_phys((struct page *)regs->di)
					 : virt_to_phys((void *)regs->di));
	else if (from_sluice(parent))
		regs->ip = (unsigned long)patch->instead;
}

/* What a device is told: sluice_dma_map(dma, orig, len, dir, addr), sluice_dma_alloc(dma, len, addr, cpu). */
struct telling {
	const u64 *addr;
};

static int map_enters(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	((struct telling *)ri->data)->addr = (void *)regs->r8;
	return 0;
}

static int alloc_enters(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	((struct telling *)ri->data)->addr = (void *)regs->dx;
	return 0;
}

static int told(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	const struct telling *telling = (void *)ri->data;

	if (!(int)regs_return_value(regs) && !is_shared(*telling->addr))
		atomic_inc(&outside);
	return 0;
}

#define PROBE(function, size, enters, returns)                                                     \
	{                                                                                          \
		.kp.symbol_name = (function), .data_size = (size), .entry_handler = (enters),      \
		.handler = (returns), .maxactive = 64,                                             \
	}

static struct kretprobe probes[] = {
	PROBE("sluice_pool_add", 0, add_enters, add_returns),
	PROBE("sluice_dma_map", sizeof(struct telling), map_enters, told),
	PROBE("sluice_dma_alloc", sizeof(struct telling), alloc_enters, told),
};

static void stop(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(probes); i++) {
		if (probes[i].kp.addr)
			unregister_kretprobe(&probes[i]);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(patches); i++) {
		if (patches[i].there)
			unregister_ftrace_function(&patches[i].ops);
		ftrace_free_filter(&patches[i].ops);
	}
}

static int patch(struct patch *patch)
{
	int err;

	patch->ops.func = entered;
	patch->ops.flags = FTRACE_OPS_FL_SAVE_REGS | (patch->instead ? FTRACE_OPS_FL_IPMODIFY : 0);
	err = ftrace_set_filter(&patch->ops, (unsigned char *)patch->symbol, strlen(patch->symbol),
				1);
	err = err ?: register_ftrace_function(&patch->ops);
	patch->there = !err;
	return err;
}

/* Something in memory that is free. */
static void litter(void)
{
	static struct page *pages[FILL];

	for (int i = 0; i < FILL; i++) {
		pages[i] =
			alloc_pages(GFP_KERNEL | GFP_DMA32 | __GFP_NOWARN | __GFP_NORETRY, ORDER);
		if (pages[i])
			memset(page_address(pages[i]), SECRET, SZ_2M);
	}
	for (int i = 0; i < FILL; i++) {
		if (pages[i])
			__free_pages(pages[i], ORDER);
	}
}

/* sluice.ko is there, and has no device yet. */
static int __init confidential_init(void)
{
	int err = 0;

	litter();
	for (unsigned int i = 0; i < ARRAY_SIZE(patches) && !err; i++) {
		err = patch(&patches[i]);
		if (err)
			pr_err("%s cannot be replaced (%d)\n", patches[i].symbol, err);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(probes) && !err; i++) {
		err = register_kretprobe(&probes[i]);
		if (err)
			pr_err("%s cannot be probed (%d)\n", probes[i].kp.symbol_name, err);
	}
	if (err)
		stop();
	return err;
}

static void __exit confidential_exit(void)
{
	stop();
}

module_init(confidential_init);
module_exit(confidential_exit);
MODULE_DESCRIPTION("Sluice's tests: pretends that the guest is a confidential one");
MODULE_LICENSE("GPL");
