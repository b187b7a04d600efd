/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * sluice.h - what the files of the module share with each other
 *
 * Theory of operation
 * -------------------
 *	main.c	   parameters, the order of coming and going
 *	pool.c	   what pools have in common, wherever their memory is
 *	bar.c	   pool=bar: memory of a PCI BAR, one pool for all devices
 *	system.c   pool=system: memory of this machine, a pool for each device
 *	grow.c	   chunks come and go
 *	lower.h	   what a device's DMA goes through below us: lower_iommu.c, lower_grant.c,
 *		   lower_direct.c
 *	stack.c	   a device's own pool and its policy, on top of a lower
 *	device.c   which devices are confined, from when to when
 *	sysfs.c	   which policy each is to have
 *	ops.c	   struct dma_map_ops, between the DMA API and the core; list.c has its scatter lists
 *	observe.c  mode=observe: see what is mapped, confine nothing
 *	debugfs.c  what can be read about it
 *	trace.h	   tracepoints
 *	core/	   the freestanding core (include/sluice/), port/ its port
 *
 * Lifetimes: a pool in a BAR outlives all devices, a device's own lives while it is confined. A struct
 * sluice_device is found through a hash table that is read under RCU by every DMA call and written
 * under a mutex by the notifiers of device.c.
 * The module cannot be unloaded while any device has something mapped: whoever takes a device from
 * nothing mapped to something takes a reference on the module.
 */
#ifndef SLUICE_MODULE_H
#define SLUICE_MODULE_H

#include <linux/dma-map-ops.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rcupdate.h>
#include <linux/workqueue.h>

#include <sluice/dma.h>
#include <sluice/pool.h>
#include <sluice/share.h>

struct dentry;
struct seq_file;
struct sluice_mem;
struct sluice_lower;
struct sluice_lower_ops;
struct sluice_stack;

/* Where the memory of a pool comes from. All may sleep. */
struct sluice_mem_ops {
	/*
	 * NULL, or memory for one more chunk, which may have to be waited for, or ERR_PTR(-ENOMEM) or
	 * ERR_PTR(-EIO): it could not be converted; and its end.
	 */
	void *(*get)(struct sluice_mem *mem, gfp_t gfp);
	void (*put)(struct sluice_mem *mem, void *cpu);
	/*
	 * Let devices reach a chunk: *cpu is what get() said, or is set. 0 or a negative errno.
	 * close() undoes it; when it fails, the memory stays reachable and is nobody's any more.
	 */
	int (*open)(struct sluice_mem *mem, void **cpu, u64 *dev, u32 *bytes);
	int (*close)(struct sluice_mem *mem, void *cpu, u64 dev, u32 bytes);
	phys_addr_t (*phys)(struct sluice_mem *mem, const void *cpu);
};

/* A pool and the memory that it is made of. */
struct sluice_mem {
	const struct sluice_mem_ops *ops;
	char name[32]; /* as the parameter pool= has it */
	u64 size;      /* of the pool when it has all its chunks */
	u64 last;      /* no device address is above */
	bool gone;     /* it has been unplugged: nothing may be mapped any more */
	struct sluice_pool pool;
	struct sluice_chunk_place *chunks;
	u32 nr_places;		      /* for chunks, in the pool's window */
	u32 nr_chunks;		      /* that it may have at a time */
	struct sluice_cache **caches; /* one for each CPU */
	u32 nr_caches;

	/* bar.c */
	struct pci_dev *pdev; /* whose BAR it is */
	unsigned int index;
	phys_addr_t phys;
	void *cpu;
	struct sluice_region region;

	/* system.c */
	struct sluice_lower *lower;
	u64 lost;   /* chunks that could not be taken back, or made private again */
	bool stuck; /* of these, one that the device still reaches */

	/* grow.c */
	u32 nr_start;		     /* chunks that it always has, without reserves */
	u32 nr_present;		     /* chunks that it has */
	unsigned long quiet;	     /* jiffies of surplus before it shrinks */
	struct mutex resize_lock;    /* of those who add and remove chunks */
	unsigned long surplus_since; /* jiffies */
	unsigned long trimmed;	     /* jiffies */
	bool short_of_memory;
	u64 grown, shrunk; /* chunks */
	u64 grow_failed;   /* times */
	struct workqueue_struct *workqueue;
	struct delayed_work balance;
};

/* How large a pool is to be: the parameters size, pool_max and quiet. */
struct sluice_limits {
	u64 size;	    /* bytes to start with; 0: a default */
	u64 max;	    /* bytes at most; 0: all of a BAR, or a default */
	unsigned int quiet; /* seconds */
};

/* Whether a device is confined, and how: enum sluice_policy_kind, and this. */
#define SLUICE_POLICY_OFF (SLUICE_POLICY_AUTO + 1)

/* One PCI function, and through sluice_dma what is mapped for it. */
struct sluice_device {
	struct hlist_node node; /* in the table by the address of its struct device */
	struct pci_dev *pdev;	/* referenced */
	struct sluice_mem *mem; /* pool=bar: always; pool=system: while attached */
	struct sluice_dma dma;
	atomic_t live;	  /* what is mapped and allocated; the module is held while not zero */
	bool attached;	  /* the ops are ours */
	bool skip_sync;	  /* the device's mark before they were */
	const char *why;  /* why it is not confined; NULL if it is */
	const char *said; /* the reason that has been said in this binding */
	/*
	 * Of mem and stack against those who only look, and of policy. Taken with sluice_devices_lock
	 * held or without; with it held nothing else is locked but what stack.c needs.
	 */
	struct mutex lock;
	struct sluice_stack *stack; /* pool=system, while attached */
	u32 policy;		    /* what it is to have from the next binding on */
	bool has_sysfs;
	struct dentry *debugfs;
	struct sluice_dma_stats stats[]; /* dma's, one for each cache of the pool */
};

/* PCI devices named by the parameter devices=. */
struct sluice_bdf {
	int domain;
	u8 bus;
	u8 devfn;
};

struct sluice_selection {
	bool guard;  /* watch for writes beside a mapping */
	bool virtio; /* every virtio function */
	bool all;    /* every PCI function (only where nothing is confined) */
	u32 policy;  /* that devices start with */
	unsigned int count;
	struct sluice_bdf *bdf;
};

/* main.c */
int sluice_bdf_parse(const char **at, struct sluice_bdf *bdf);
bool sluice_selected(const struct sluice_selection *sel, const struct pci_dev *pdev);
bool sluice_policy_possible(u32 policy);
extern const char *const sluice_policy_names[SLUICE_POLICY_OFF + 1];

/* pool.c */
int sluice_mem_init(struct sluice_mem *mem, const struct sluice_limits *limits, u64 dev);
int sluice_mem_exit(struct sluice_mem *mem);

/* bar.c */
int sluice_bar_open(struct sluice_mem *mem, const char *spec, const struct sluice_limits *limits);
void sluice_bar_lost(struct sluice_mem *mem);
void sluice_bar_close(struct sluice_mem *mem);

/* system.c */
bool sluice_memory_is_private(void);
int sluice_system_check(struct sluice_limits *limits);
int sluice_system_open(struct sluice_mem *mem, struct sluice_lower *lower,
		       const struct sluice_limits *limits);

/* stack.c */
int sluice_stack_open(struct sluice_device *sd, const struct sluice_limits *limits,
		      const char **why);
void sluice_stack_close(struct sluice_device *sd, bool keep);
u32 sluice_stack_asked(const struct sluice_stack *stack);
u32 sluice_stack_policy(const struct sluice_stack *stack);
const struct sluice_lower_ops *sluice_stack_lower(const struct sluice_stack *stack);
void sluice_stack_show(struct sluice_stack *stack, struct sluice_dma *dma, struct seq_file *m);

/* grow.c */
int sluice_grow_prepare(struct sluice_mem *mem, struct sluice_pool_config *config);
void sluice_grow_start(struct sluice_mem *mem);
u32 sluice_grow_floor(struct sluice_mem *mem);
int sluice_grow_reserve(struct sluice_mem *mem, struct sluice_dma *dma, u64 bytes);
void sluice_grow_look(struct sluice_mem *mem);
int sluice_grow_add(struct sluice_mem *mem, gfp_t gfp);
u32 sluice_grow_by(struct sluice_mem *mem, u32 n, gfp_t gfp);
void sluice_grow_lost(struct sluice_mem *mem);
void sluice_grow_stop(struct sluice_mem *mem);
u32 sluice_grow_drain(struct sluice_mem *mem);

/* device.c */
int sluice_devices_start(struct sluice_mem *mem, const struct sluice_limits *limits,
			 const struct sluice_selection *selection);
void sluice_devices_stop(void);
struct sluice_device *sluice_device_find(const struct device *dev);
bool sluice_device_hold(struct sluice_device *sd);
void sluice_device_release(struct sluice_device *sd);

/* ops.c */
extern const struct dma_map_ops sluice_ops;

/* lower_grant.c */
#ifdef CONFIG_XEN
int sluice_grants_to(int domid);
#else
static inline int sluice_grants_to(int domid)
{
	return domid < 0 ? 0 : -EINVAL;
}
#endif

/* sysfs.c */
void sluice_sysfs_add(struct sluice_device *sd);
void sluice_sysfs_remove(struct sluice_device *sd);

/* observe.c */
#define SLUICE_UNKNOWN 0xffffffffU /* in a trace: not measured */
enum { SLUICE_PAGE_KERNEL, SLUICE_PAGE_SLAB, SLUICE_PAGE_USER };
int sluice_observe_start(const struct sluice_selection *sel);
void sluice_observe_stop(void);
u32 sluice_page_kind(u64 phys);
void sluice_observe_changed(const void *slot, const void *buffer, size_t len, u32 *changed,
			    u32 *extent);

/* debugfs.c */
void sluice_debugfs_start(struct sluice_mem *mem);
void sluice_debugfs_stop(void);
void sluice_debugfs_add(struct sluice_device *sd);
void sluice_debugfs_remove(struct sluice_device *sd);

/* The one word that a tracepoint names a PCI function by. */
static inline u32 sluice_bdf_word(const struct device *dev)
{
	const struct pci_dev *pdev = to_pci_dev(dev);

	return (u32)pci_domain_nr(pdev->bus) << 16 | pci_dev_id((struct pci_dev *)pdev);
}

#endif
