/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * sluice.h - what the files of the module share with each other
 *
 * Theory of operation
 * -------------------
 *	main.c	   parameters, the order of coming and going
 *	bar.c	   the pool: memory of a PCI BAR, cut into the core's chunks
 *	device.c   which devices are confined, from when to when
 *	grow.c	   chunks come and go
 *	ops.c	   struct dma_map_ops, between the DMA API and the core
 *	observe.c  mode=observe: see what is mapped, confine nothing
 *	debugfs.c  what can be read about it
 *	trace.h	   tracepoints
 *	core/	   the freestanding core (include/sluice/), port/ its port
 *
 * Lifetimes: the pool outlives all devices. A struct sluice_device is found through a hash table
 * that is read under RCU by every DMA call and written under a mutex by the notifiers of device.c.
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

/* A pool in the memory of a PCI BAR. */
struct sluice_bar {
	struct pci_dev *pdev; /* whose BAR it is */
	unsigned int index;
	char name[32]; /* as the parameter pool= has it */
	phys_addr_t phys;
	void *cpu;
	u64 size;  /* of the pool when it has all its chunks */
	bool gone; /* the device has been unplugged: nothing may be mapped any more */
	struct sluice_region region;
	struct sluice_pool pool;
	struct sluice_chunk **chunks;
	u32 nr_chunks;
	struct sluice_cache **caches; /* one for each CPU */
	u32 nr_caches;

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

/* How large the pool is to be: the parameters size, pool_max and quiet. */
struct sluice_bar_limits {
	u64 size;	    /* bytes to start with */
	u64 max;	    /* bytes at most; 0: all of the BAR */
	unsigned int quiet; /* seconds */
};

/* One PCI function, and through sluice_dma what is mapped for it. */
struct sluice_device {
	struct hlist_node node; /* in the table by the address of its struct device */
	struct pci_dev *pdev;	/* referenced */
	struct sluice_bar *bar;
	struct sluice_dma dma;
	atomic_t live;	  /* what is mapped and allocated; the module is held while not zero */
	bool attached;	  /* the ops are ours */
	bool skip_sync;	  /* the device's mark before they were */
	const char *why;  /* why it is not confined; NULL if it is */
	const char *said; /* the reason that has been said in this binding */
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
	unsigned int count;
	struct sluice_bdf *bdf;
};

/* main.c */
int sluice_bdf_parse(const char **at, struct sluice_bdf *bdf);
bool sluice_selected(const struct sluice_selection *sel, const struct pci_dev *pdev);

/* bar.c */
int sluice_bar_open(struct sluice_bar *bar, const char *spec,
		    const struct sluice_bar_limits *limits);
void sluice_bar_lost(struct sluice_bar *bar);
void sluice_bar_close(struct sluice_bar *bar);

/* grow.c */
int sluice_grow_prepare(struct sluice_bar *bar, struct sluice_pool_config *config);
void sluice_grow_start(struct sluice_bar *bar);
u32 sluice_grow_floor(struct sluice_bar *bar);
int sluice_grow_reserve(struct sluice_bar *bar, struct sluice_dma *dma, u64 bytes);
void sluice_grow_look(struct sluice_bar *bar);
int sluice_grow_add(struct sluice_bar *bar, gfp_t gfp);
u32 sluice_grow_by(struct sluice_bar *bar, u32 n, gfp_t gfp);
void sluice_grow_lost(struct sluice_bar *bar);
void sluice_grow_stop(struct sluice_bar *bar);

/* device.c */
int sluice_devices_start(struct sluice_bar *bar, const struct sluice_selection *selection);
void sluice_devices_stop(void);
struct sluice_device *sluice_device_find(const struct device *dev);
bool sluice_device_hold(struct sluice_device *sd);
void sluice_device_release(struct sluice_device *sd);

/* ops.c */
extern const struct dma_map_ops sluice_ops;

/* observe.c */
#define SLUICE_UNKNOWN 0xffffffffU /* in a trace: not measured */
enum { SLUICE_PAGE_KERNEL, SLUICE_PAGE_SLAB, SLUICE_PAGE_USER };
int sluice_observe_start(const struct sluice_selection *sel);
void sluice_observe_stop(void);
u32 sluice_page_kind(u64 phys);
void sluice_observe_changed(const void *slot, const void *buffer, size_t len, u32 *changed,
			    u32 *extent);

/* debugfs.c */
void sluice_debugfs_start(struct sluice_bar *bar);
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
