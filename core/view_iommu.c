/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * view_iommu.c - the virtio-iommu device: its endpoints' accesses
 *
 * Theory of operation: see viommu.c. An entry of an endpoint's cache names a mapping and the
 * generation in which it was found; whatever ends a mapping or moves an endpoint starts a new
 * generation, so an entry is good if, under the lock, the numbers are equal. No entry outlives what
 * it names, and nothing has to be searched for and removed.
 */
#include "viommu.h"

static void report(struct sluice_viommu *viommu, const struct sluice_viommu_endpoint *endpoint,
		   uint64_t dev, uint32_t access, uint8_t reason)
{
	uint32_t flags = SLUICE_VIOMMU_FAULT_F_ADDRESS;
	uint8_t *to;

	if (viommu->fault_count == SLUICE_VIOMMU_FAULTS) {
		viommu->stats.faults_lost++;
		return;
	}
	to = viommu->faults[(viommu->fault_first + viommu->fault_count++) % SLUICE_VIOMMU_FAULTS];
	if (access & SLUICE_READ)
		flags |= SLUICE_VIOMMU_FAULT_F_READ;
	if (access & SLUICE_WRITE)
		flags |= SLUICE_VIOMMU_FAULT_F_WRITE;
	sluice_put_le32(to, reason);
	sluice_put_le32(to + 4, flags);
	sluice_put_le32(to + 8, endpoint->id);
	sluice_put_le32(to + 12, 0);
	sluice_put_le64(to + 16, dev);
	viommu->stats.faults++;
}

/* The mapping that an address is in, dying or not. */
static struct sluice_viommu_mapping *lookup(struct sluice_viommu *viommu,
					    struct sluice_viommu_endpoint *endpoint, uint64_t dev)
{
	uint64_t page = dev >> 12;
	uint32_t i = (uint32_t)(page % SLUICE_VIOMMU_TLB);
	struct sluice_node *node;

	viommu->stats.lookups++;
	if (endpoint->tlb[i].generation == viommu->generation && endpoint->tlb[i].page == page) {
		viommu->stats.tlb_hits++;
		return endpoint->tlb[i].mapping;
	}
	node = sluice_tree_first(endpoint->domain->root, dev, dev);
	if (!node)
		return NULL;
	endpoint->tlb[i].generation = viommu->generation;
	endpoint->tlb[i].page = page;
	endpoint->tlb[i].mapping = mapping_of(node);
	return mapping_of(node);
}

static int hold_locked(struct sluice_viommu *viommu, struct sluice_viommu_endpoint *endpoint,
		       uint64_t len, struct sluice_hold *hold)
{
	struct sluice_viommu_mapping *mapping;
	uint64_t at, rest;

	if (!endpoint->domain) {
		report(viommu, endpoint, hold->dev, hold->access, SLUICE_VIOMMU_FAULT_R_DOMAIN);
		return -ENOENT;
	}
	mapping = lookup(viommu, endpoint, hold->dev);
	if (!mapping || mapping->dying) {
		report(viommu, endpoint, hold->dev, hold->access, SLUICE_VIOMMU_FAULT_R_MAPPING);
		return -ENOENT;
	}
	if (hold->access & ~mapping->access) {
		report(viommu, endpoint, hold->dev, hold->access, SLUICE_VIOMMU_FAULT_R_MAPPING);
		return -EACCES;
	}
	at = hold->dev - mapping->node.start;
	rest = mapping->node.last - hold->dev; /* one less than there are: all may be 2^64 */
	hold->phys = mapping->phys + at;
	hold->cpu = sluice_view_memory(&endpoint->view, hold->phys, len - 1 < rest ? len : rest + 1,
				       &hold->bytes);
	if (!hold->cpu) {
		report(viommu, endpoint, hold->dev, hold->access, SLUICE_VIOMMU_FAULT_R_MAPPING);
		return -ERANGE;
	}
	if (mapping->uses == UINT32_MAX || endpoint->holds == UINT32_MAX)
		return -EBUSY;
	mapping->uses++;
	endpoint->holds++;
	hold->owner = mapping;
	return 0;
}

static int iommu_hold(struct sluice_view *view, uint64_t len, struct sluice_hold *hold)
{
	struct sluice_viommu_endpoint *endpoint = (struct sluice_viommu_endpoint *)view;
	struct sluice_viommu *viommu = endpoint->viommu;
	unsigned long flags = sluice_lock(&viommu->lock);
	int ret = hold_locked(viommu, endpoint, len, hold);

	sluice_unlock(&viommu->lock, flags);
	return ret;
}

static void iommu_drop(struct sluice_view *view, const struct sluice_hold *hold)
{
	struct sluice_viommu_endpoint *endpoint = (struct sluice_viommu_endpoint *)view;
	struct sluice_viommu_mapping *mapping = hold->owner;
	struct sluice_viommu *viommu = endpoint->viommu;
	unsigned long flags = sluice_lock(&viommu->lock);
	bool answer;
	uint64_t cookie;

	endpoint->holds--;
	if (--mapping->uses == 0 && mapping->dying) {
		sluice_viommu_forget(viommu, mapping);
		view->stats.deferred++;
	}
	answer = viommu->stats.pending > 0 && sluice_viommu_ready(viommu, &cookie);
	while (answer) {
		sluice_unlock(&viommu->lock, flags);
		viommu->config.done(viommu->config.context, cookie, SLUICE_VIOMMU_S_OK);
		flags = sluice_lock(&viommu->lock);
		answer = sluice_viommu_ready(viommu, &cookie);
	}
	sluice_unlock(&viommu->lock, flags);
}

static const struct sluice_view_ops iommu_view_ops = {
	.name = "iommu",
	.hold = iommu_hold,
	.drop = iommu_drop,
};

void sluice_viommu_view_init(struct sluice_viommu *viommu, struct sluice_viommu_endpoint *endpoint,
			     uint32_t id)
{
	sluice_zero(endpoint, sizeof(*endpoint));
	endpoint->view.ops = &iommu_view_ops;
	endpoint->view.memory = viommu->config.memory;
	endpoint->view.n_memory = viommu->config.n_memory;
	endpoint->viommu = viommu;
	endpoint->id = id;
}
