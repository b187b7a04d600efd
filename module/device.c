// SPDX-License-Identifier: GPL-2.0-only
/*
 * device.c - which devices are confined, from when to when
 *
 * Theory of operation
 * -------------------
 * A device gets our dma_map_ops while nothing is mapped for it, and gives them back while nothing
 * is. The moment is the bus's note that a driver is about to be bound: dma_configure() has run, so
 * it is known whether an IOMMU has taken the device, and probe() has not. A PCI function that is
 * bound already when the module comes cannot be taken, with one exception: what maps for a virtio
 * function is the driver of the virtio device behind it, its child, and while that has none,
 * nothing is mapped. Where virtio_pci is built in, that is the usual case. So we listen on the
 * virtio bus as well, which also is where one sees that a device does not offer
 * VIRTIO_F_ACCESS_PLATFORM: its driver will then bypass the DMA API, and no ops can do anything
 * about it.
 *
 * The virtio bus is not exported, and virtio may be a module that is loaded after us or never. So
 * it is found through the first virtio device behind a function of ours, and is held from then on.
 * Until then no event of that bus is missed that matters: a function's device is looked at when the
 * function has been bound, and its own driver may be there by then.
 *
 * Going: the module is held while anything is mapped, so that it cannot be unloaded then. A first
 * mapping that races with the unload finds the module going, and fails. After the ops have been
 * taken off every device, a CPU may still be on its way into them (it had read the pointer) or out
 * of them (it has dropped the last reference on the module): the former ends in a lookup that
 * fails, and both are waited for before the module's text goes away.
 *
 * Locks: device_lock() of a function, then that of its child, then sluice_devices_lock. The
 * notifiers are called with the first or the second held.
 *
 * Invariant: the ops of a device change only while nothing is mapped for it, or when it has left.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/hashtable.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

#include "compat.h"
#include "lower.h"
#include "sluice.h"

static DEFINE_MUTEX(sluice_devices_lock); /* of writers */
static DEFINE_HASHTABLE(sluice_devices, 6);
static DEFINE_IDA(sluice_ids);
static struct sluice_mem *shared_mem; /* the pool of all devices; NULL if each has its own */
static const struct sluice_limits *sluice_limits; /* of those */

/* Why a device is not confined of which nothing else is known. */
static const char no_driver[] = "no driver is bound";
static const struct sluice_selection *sluice_selection;

/* Both set once, by watch_virtio(). */
static typeof(&is_virtio_device) is_virtio;
static typeof_member(struct device, bus) virtio_bus; /* const in later kernels */

/**
 * sluice_device_find - what we know of a device
 * @dev: any device
 *
 * Return: it, or NULL if it is none of ours.
 * Context: inside rcu_read_lock(), or with sluice_devices_lock held. The answer is good until that
 * is released.
 */
struct sluice_device *sluice_device_find(const struct device *dev)
{
	struct sluice_device *sd;

	hash_for_each_possible_rcu(sluice_devices, sd, node, (unsigned long)dev,
				   lockdep_is_held(&sluice_devices_lock))
	{
		if (&sd->pdev->dev == dev)
			return sd;
	}
	return NULL;
}

/**
 * sluice_device_hold - count something that is about to be mapped
 * @sd: the device
 *
 * The first one takes a reference on the module, so that what is mapped keeps it loaded. No lock:
 * those who race for being first each take one, and all but the one that raised the count from
 * zero give it back.
 *
 * Return: false if nothing can be mapped any more: the module or the pool is going, or the device
 * has been given back.
 * Context: any.
 */
bool sluice_device_hold(struct sluice_device *sd)
{
	/* Acquire: whoever sees it attached sees its pool. */
	if (unlikely(!smp_load_acquire(&sd->attached) || READ_ONCE(sd->mem->gone)))
		return false;
	if (likely(atomic_inc_not_zero(&sd->live)))
		return true;
	if (!try_module_get(THIS_MODULE))
		return false;
	if (atomic_inc_return(&sd->live) > 1)
		module_put(THIS_MODULE);
	return true;
}

/**
 * sluice_device_release - count something that has been unmapped
 * @sd: the device; whoever calls has called sluice_device_hold() for it
 *
 * Context: any.
 */
void sluice_device_release(struct sluice_device *sd)
{
	if (atomic_dec_and_test(&sd->live))
		module_put(THIS_MODULE);
}

static bool is_wanted(const struct pci_dev *pdev)
{
	return !(shared_mem && pdev == shared_mem->pdev) && sluice_selected(sluice_selection, pdev);
}

/* Find a device, or begin to know it. NULL if it is not to be confined, or memory is short. */
static struct sluice_device *find_or_add(struct pci_dev *pdev)
{
	struct sluice_device *sd = sluice_device_find(&pdev->dev);
	int id;

	if (sd || !is_wanted(pdev))
		return sd;
	sd = kvzalloc(struct_size(sd, stats, nr_cpu_ids), GFP_KERNEL);
	/* Zero stays unused, so that a mapping's private tag is never all zeroes by its id. */
	id = ida_alloc_range(&sluice_ids, 1, U16_MAX, GFP_KERNEL);
	if (!sd || id < 0) {
		if (id >= 0)
			ida_free(&sluice_ids, id);
		kvfree(sd);
		pci_err(pdev, "sluice: no memory, this device is NOT confined\n");
		return NULL;
	}
	sd->pdev = pci_dev_get(pdev);
	sd->mem = shared_mem;
	sd->why = no_driver;
	sd->policy = sluice_selection->policy;
	mutex_init(&sd->lock);
	sd->dma.id = id;
	if (shared_mem)
		sluice_dma_init(&sd->dma, &shared_mem->pool, id, sd->stats);
	sd->dma.guard = sluice_selection->guard;
	sluice_debugfs_add(sd);
	sluice_sysfs_add(sd);
	hash_add_rcu(sluice_devices, &sd->node, (unsigned long)&pdev->dev);
	return sd;
}

/* Each reason once for each binding: several events of one lead here. */
static void refuse(struct sluice_device *sd, const char *why, const char *way_out)
{
	WRITE_ONCE(sd->why, why);
	if (shared_mem) {
		sluice_dma_reserve(&sd->dma, 0); /* it takes nothing from the pool */
		sluice_grow_look(shared_mem);
	}
	if (sd->said == why)
		return;
	sd->said = why;
	pci_err(sd->pdev, "sluice: NOT confined: %s; %s\n", why, way_out);
}

/*
 * Take our ops off. With something still mapped they stay: whoever unmaps it later must reach
 * them, and the next driver may just as well go on with them.
 */
static void detach(struct sluice_device *sd)
{
	struct device *dev = &sd->pdev->dev;

	if (atomic_read(&sd->live)) {
		pci_warn(sd->pdev, "sluice: its driver has left %d mappings behind\n",
			 atomic_read(&sd->live));
		return;
	}
	WRITE_ONCE(sd->attached, false);
	/* Something may have replaced them, which then is what belongs there. */
	if (get_dma_ops(dev) == &sluice_ops)
		set_dma_ops(dev, NULL);
	sluice_compat_skip_sync(dev, sd->skip_sync);
	if (!sd->stack) {
		sluice_dma_close(&sd->dma);
		sluice_grow_look(sd->mem);
		return;
	}
	/* For calls that make no sense any more, but are being made. */
	synchronize_rcu();
	mutex_lock(&sd->lock);
	sluice_stack_close(sd, false);
	mutex_unlock(&sd->lock);
}

/*
 * What a request of the longest kind takes that a disk is given by default, with its ends that do not
 * fill a page, and virtio's header, status and descriptor table.
 */
#define RESERVE (SLUICE_COMPAT_LONGEST_REQUEST + SZ_64K)

/*
 * A part of the pool that is this device's own, so that it goes on whatever others keep. All reserves
 * together take up to an eighth of what the pool may grow to: who comes later, or has a small pool,
 * works without, and competes for room as all do.
 */
static void reserve(struct sluice_device *sd)
{
	struct sluice_pool_stats stats;

	sluice_pool_get_stats(&sd->mem->pool, &stats);
	if (stats.reserved + RESERVE <= sd->mem->size / 8)
		sluice_grow_reserve(sd->mem, &sd->dma, RESERVE);
}

/* Our ops are to be the device's from now on. */
static void put_on(struct sluice_device *sd)
{
	struct device *dev = &sd->pdev->dev;

	sd->skip_sync = sluice_compat_need_sync(dev);
	smp_store_release(&sd->attached, true);
	set_dma_ops(dev, &sluice_ops);
	WRITE_ONCE(sd->why, NULL);
}

/* With a pool in a BAR, at a bus address. */
static void attach_shared(struct sluice_device *sd)
{
	struct device *dev = &sd->pdev->dev;
	const struct dma_map_ops *ops = get_dma_ops(dev);

	if (sluice_compat_iommu(dev) || (ops && ops != &sluice_ops)) {
		if (sd->attached)
			detach(sd);
		refuse(sd, "its DMA goes through an IOMMU (or another layer) already",
		       "the pool is at a bus address, which that would translate: use pool=system, "
		       "or start the machine without the IOMMU, or with iommu=pt");
		return;
	}
	WRITE_ONCE(sd->why, NULL);
	reserve(sd);
	if (sd->attached)
		return;
	put_on(sd);
	pci_info(sd->pdev, "sluice: its DMA API calls go through pool %s\n", sd->mem->name);
}

/* With a pool of its own. */
static void attach_own(struct sluice_device *sd)
{
	const char *why = NULL;
	int err;

	mutex_lock(&sd->lock);
	err = sluice_stack_open(sd, sluice_limits, &why);
	mutex_unlock(&sd->lock);
	if (err) {
		refuse(sd, why,
		       "give the machine more memory or the pools less (size=, pool_max=), "
		       "and bind the driver again");
		return;
	}
	sd->dma.guard = sluice_selection->guard;
	put_on(sd);
	if (sluice_stack_lower(sd->stack)->confines)
		pci_info(sd->pdev,
			 "sluice: its DMA API calls go through a pool of its own: policy %s "
			 "over %s\n",
			 sluice_policy_names[sluice_stack_policy(sd->stack)],
			 sluice_stack_lower(sd->stack)->name);
	else
		pci_warn(sd->pdev,
			 "sluice: policy %s, but NOTHING PROTECTS memory from it: there is no "
			 "IOMMU for it (intel_iommu=on?), and it reaches all of it\n",
			 sluice_policy_names[sluice_stack_policy(sd->stack)]);
}

/*
 * Put our ops on, before a driver maps anything. Under the device_lock() that keeps drivers of it
 * from being bound.
 */
static void attach(struct sluice_device *sd)
{
	u32 policy = READ_ONCE(sd->policy);

	/* It has been told to be otherwise from this binding on. */
	if (sd->attached &&
	    (policy == SLUICE_POLICY_OFF || (sd->stack && sluice_stack_asked(sd->stack) != policy)))
		detach(sd);
	if (policy == SLUICE_POLICY_OFF && !sd->attached)
		WRITE_ONCE(sd->why, "switched off (policy in sysfs)");
	else if (shared_mem)
		attach_shared(sd);
	else if (!sd->attached)
		attach_own(sd);
	else
		WRITE_ONCE(sd->why, NULL);
}

static void unbound(struct sluice_device *sd)
{
	if (sd->attached)
		detach(sd);
	if (!sd->attached)
		WRITE_ONCE(sd->why, no_driver);
	sd->said = NULL;
}

/*
 * The device has left the machine, what is below it has gone with it, and what was mapped for it is
 * nobody's any more.
 */
static void forget(struct sluice_device *sd)
{
	hash_del_rcu(&sd->node);
	sluice_sysfs_remove(sd);
	sluice_debugfs_remove(sd);
	synchronize_rcu();
	if (sd->stack) { /* a driver has left mappings behind */
		sluice_stack_close(sd, true);
	} else if (shared_mem) {
		sluice_dma_close(&sd->dma);
		sluice_grow_look(shared_mem);
	}
	if (get_dma_ops(&sd->pdev->dev) == &sluice_ops)
		set_dma_ops(&sd->pdev->dev, NULL);
	if (atomic_read(&sd->live)) /* its id is not given out again: those slots still bear it */
		module_put(THIS_MODULE);
	else
		ida_free(&sluice_ids, sd->dma.id);
	pci_dev_put(sd->pdev);
	kvfree(sd);
}

/*
 * Without VIRTIO_F_ACCESS_PLATFORM the rings hold physical addresses, whatever the ops are. The
 * device may not offer it, which is known before the driver is bound; or the driver may decline it
 * (virtio_balloon does: what it hands over are addresses), which is known afterwards.
 */
static void check_access_platform(struct sluice_device *sd, struct virtio_device *vdev, bool bound)
{
	u64 bit = BIT_ULL(VIRTIO_F_ACCESS_PLATFORM);

	if (sd->why)
		return;
	if (!(sluice_compat_features(vdev) & bit))
		refuse(sd,
		       "it does not offer VIRTIO_F_ACCESS_PLATFORM, so its driver bypasses the DMA "
		       "API",
		       "start it with that feature (QEMU: iommu_platform=on,disable-legacy=on)");
	else if (bound && !virtio_has_feature(vdev, VIRTIO_F_ACCESS_PLATFORM))
		refuse(sd,
		       "its driver declined VIRTIO_F_ACCESS_PLATFORM, and so bypasses the DMA API",
		       "unbind the driver, or take the device out of the machine");
}

/*
 * Before a driver is bound to a virtio device, and as soon as one is unbound, the function below it
 * has nothing mapped.
 */
static int virtio_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct device *dev = data;
	bool bound = event == BUS_NOTIFY_BOUND_DRIVER;
	struct sluice_device *sd;

	if (!bound && event != BUS_NOTIFY_BIND_DRIVER && event != BUS_NOTIFY_UNBOUND_DRIVER)
		return NOTIFY_OK;
	if (!dev->parent || !dev_is_pci(dev->parent))
		return NOTIFY_OK;
	mutex_lock(&sluice_devices_lock);
	sd = find_or_add(to_pci_dev(dev->parent));
	if (sd && !bound)
		attach(sd);
	if (sd) {
		check_access_platform(sd, dev_to_virtio(dev), bound);
		if (event == BUS_NOTIFY_UNBOUND_DRIVER)
			sd->said = NULL;
	}
	mutex_unlock(&sluice_devices_lock);
	return NOTIFY_OK;
}

static struct notifier_block virtio_events = {.notifier_call = virtio_event};

/* Listen on the virtio bus if dev is a device of it. With sluice_devices_lock held. */
static bool watch_virtio(struct device *dev)
{
	if (!is_virtio)
		is_virtio = symbol_get(is_virtio_device);
	if (!is_virtio || !is_virtio(dev))
		return false;
	/* Nobody holds this chain and waits for our lock: we are not on it yet. */
	if (!virtio_bus && !bus_register_notifier(dev->bus, &virtio_events))
		virtio_bus = dev->bus;
	return true;
}

/* What is behind a function that is bound: if a virtio device, judge by that, and return 1. */
static int look_at_child(struct device *dev, void *data)
{
	struct sluice_device *sd;
	bool virtio;

	mutex_lock(&sluice_devices_lock);
	virtio = watch_virtio(dev);
	mutex_unlock(&sluice_devices_lock);
	if (!virtio)
		return 0;

	device_lock(dev);
	mutex_lock(&sluice_devices_lock);
	sd = sluice_device_find(dev->parent);
	if (sd && !dev->driver)
		attach(sd);
	else if (sd && !sd->attached && sd->why == no_driver) /* not judged when that came */
		refuse(sd, "a driver is bound to its virtio device, which has live rings",
		       "unbind that and bind it again (/sys/bus/virtio/drivers/*/unbind, bind), or "
		       "load sluice earlier");
	if (sd)
		check_access_platform(sd, dev_to_virtio(dev), dev->driver);
	mutex_unlock(&sluice_devices_lock);
	device_unlock(dev);
	return 1;
}

/* Drivers of functions come and go; functions go. */
static int pci_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct pci_dev *pdev = to_pci_dev(data);
	struct sluice_device *sd;

	if (event == BUS_NOTIFY_BOUND_DRIVER) {
		if (is_wanted(pdev))
			device_for_each_child(&pdev->dev, NULL, look_at_child);
		return NOTIFY_OK;
	}
	mutex_lock(&sluice_devices_lock);
	switch (event) {
	case BUS_NOTIFY_BIND_DRIVER:
		sd = find_or_add(pdev);
		if (sd)
			attach(sd);
		break;
	case BUS_NOTIFY_UNBOUND_DRIVER:
	case BUS_NOTIFY_DRIVER_NOT_BOUND: /* its probe has failed */
		sd = sluice_device_find(&pdev->dev);
		if (sd)
			unbound(sd);
		break;
	case BUS_NOTIFY_DEL_DEVICE: /* without a driver now; what it left may have ended since */
		sd = sluice_device_find(&pdev->dev);
		if (sd && sd->attached && !atomic_read(&sd->live))
			detach(sd);
		break;
	case BUS_NOTIFY_REMOVED_DEVICE:
		sd = sluice_device_find(&pdev->dev);
		if (sd)
			forget(sd);
		if (shared_mem && pdev == shared_mem->pdev)
			sluice_bar_lost(shared_mem);
		break;
	}
	mutex_unlock(&sluice_devices_lock);
	return NOTIFY_OK;
}

static struct notifier_block pci_events = {.notifier_call = pci_event};

/* Judge a function that was there before us. One without a driver is taken when it gets one. */
static void take_present(struct pci_dev *pdev)
{
	struct sluice_device *sd;

	if (!is_wanted(pdev))
		return;
	device_lock(&pdev->dev);
	mutex_lock(&sluice_devices_lock);
	sd = find_or_add(pdev);
	mutex_unlock(&sluice_devices_lock);
	if (!sd || !pdev->dev.driver || device_for_each_child(&pdev->dev, NULL, look_at_child))
		goto out;
	mutex_lock(&sluice_devices_lock);
	sd = sluice_device_find(&pdev->dev);
	/* Attached: its driver has come since we listen. */
	if (sd && !sd->attached)
		refuse(sd, "a driver is bound to it and may have mappings",
		       "unbind that and bind it again (/sys/bus/pci/drivers/*/unbind, bind), or "
		       "load sluice earlier");
	mutex_unlock(&sluice_devices_lock);
out:
	device_unlock(&pdev->dev);
}

/**
 * sluice_devices_start - confine devices from now on
 * @mem:       the pool; outlives the devices. NULL: each gets one of its own, of the size @limits
 * @limits:    kept
 * @selection: which devices; kept
 *
 * Return: 0, or a negative errno with no device taken.
 * Context: may sleep.
 */
int sluice_devices_start(struct sluice_mem *mem, const struct sluice_limits *limits,
			 const struct sluice_selection *selection)
{
	struct pci_dev *pdev = NULL;
	int err;

	shared_mem = mem;
	sluice_limits = limits;
	sluice_selection = selection;
	err = bus_register_notifier(&pci_bus_type, &pci_events);
	if (err)
		return err;
	for_each_pci_dev (pdev)
		take_present(pdev);
	return 0;
}

/**
 * sluice_devices_stop - give all devices back
 *
 * Nothing is mapped, and as the module is going, nothing will be.
 *
 * Context: may sleep; takes the device_lock() of each device.
 */
void sluice_devices_stop(void)
{
	struct sluice_device *sd;
	struct hlist_node *next;
	int bucket;

	bus_unregister_notifier(&pci_bus_type, &pci_events);
	if (virtio_bus)
		bus_unregister_notifier(virtio_bus, &virtio_events);
	if (is_virtio)
		symbol_put(is_virtio_device);

	hash_for_each(sluice_devices, bucket, sd, node)
	{
		device_lock(&sd->pdev->dev);
		if (sd->attached)
			detach(sd);
		device_unlock(&sd->pdev->dev);
	}
	/*
	 * Tasks: whoever was preempted between reading the ops and calling them, or on the way out
	 * of them. RCU: the same in interrupt handlers and on idle CPUs.
	 */
	synchronize_rcu_tasks();
	synchronize_rcu();
	/* Whoever reads one device's files may be walking past another one: all files first. */
	hash_for_each(sluice_devices, bucket, sd, node)
	{
		sluice_sysfs_remove(sd);
		sluice_debugfs_remove(sd);
	}
	hash_for_each_safe(sluice_devices, bucket, next, sd, node)
	{
		hash_del(&sd->node);
		if (shared_mem)
			sluice_dma_close(&sd->dma);
		pci_dev_put(sd->pdev);
		kvfree(sd);
	}
	ida_destroy(&sluice_ids);
}
