// SPDX-License-Identifier: GPL-2.0-only
/*
 * sysfs.c - which policy each device is to have
 *
 * Theory of operation
 * -------------------
 *	/sys/bus/pci/devices/DDDD:BB:DD.F/sluice/policy		auto, bounce, share or off
 *
 * One for each device that the parameter devices= names, beside what else is said about it there. A
 * policy is a device's from the moment its driver is bound until it is unbound: while anything is
 * mapped a new one is refused (EBUSY), otherwise it counts from the next binding on. It starts as the
 * parameter policy= says. What it is now, and what has come of it, is in debugfs.
 *
 * Invariant: nothing here takes sluice_devices_lock, under which these files are removed.
 */
#include <linux/device.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "sluice.h"

static ssize_t policy_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct sluice_device *sd;
	u32 policy = SLUICE_POLICY_OFF;

	rcu_read_lock();
	sd = sluice_device_find(dev);
	if (sd)
		policy = READ_ONCE(sd->policy);
	rcu_read_unlock();
	return sysfs_emit(buf, "%s\n", sluice_policy_names[policy]);
}

static ssize_t policy_store(struct device *dev, struct device_attribute *attr, const char *buf,
			    size_t n)
{
	int policy = __sysfs_match_string(sluice_policy_names, SLUICE_POLICY_OFF + 1, buf);
	struct sluice_device *sd;
	ssize_t ret = -ENODEV;

	if (policy < 0)
		return policy;
	rcu_read_lock();
	sd = sluice_device_find(dev);
	if (sd && atomic_read(&sd->live)) {
		ret = -EBUSY;
	} else if (sd && !sluice_policy_possible(policy)) {
		ret = -EOPNOTSUPP;
	} else if (sd) {
		WRITE_ONCE(sd->policy, policy);
		ret = n;
	}
	rcu_read_unlock();
	return ret;
}
static DEVICE_ATTR_RW(policy);

static struct attribute *sluice_attrs[] = {
	&dev_attr_policy.attr,
	NULL,
};

static const struct attribute_group sluice_group = {
	.name = KBUILD_MODNAME,
	.attrs = sluice_attrs,
};

/**
 * sluice_sysfs_add - make a device's folder
 * @sd: about to be known
 *
 * Without it, it has the policy that it begins with, which is said in the log.
 *
 * Context: may sleep.
 */
void sluice_sysfs_add(struct sluice_device *sd)
{
	sd->has_sysfs = !sysfs_create_group(&sd->pdev->dev.kobj, &sluice_group);
	if (!sd->has_sysfs)
		pci_warn(sd->pdev, "sluice: its policy cannot be changed: no room in sysfs\n");
}

/**
 * sluice_sysfs_remove - remove it, and wait for who is using it
 * @sd: the device; no longer in the table, or about to go
 *
 * Context: may sleep.
 */
void sluice_sysfs_remove(struct sluice_device *sd)
{
	if (sd->has_sysfs)
		sysfs_remove_group(&sd->pdev->dev.kobj, &sluice_group);
}
