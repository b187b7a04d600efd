/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * viommu.h - what viommu.c (requests) and view_iommu.c (accesses) share
 *
 * Theory of operation: see viommu.c. All of it is under the device's lock.
 */
#ifndef SLUICE_CORE_VIOMMU_H
#define SLUICE_CORE_VIOMMU_H

#include <sluice/viommu.h>

static inline struct sluice_viommu_mapping *mapping_of(struct sluice_node *node)
{
	return (struct sluice_viommu_mapping *)node; /* its first member */
}

/* Take a mapping that nobody holds out of its domain. */
void sluice_viommu_forget(struct sluice_viommu *viommu, struct sluice_viommu_mapping *mapping);

/* Find a pending request that can be answered now, and free its entry: its cookie. */
bool sluice_viommu_ready(struct sluice_viommu *viommu, uint64_t *cookie);

/* view_iommu.c: make an endpoint's view. */
void sluice_viommu_view_init(struct sluice_viommu *viommu, struct sluice_viommu_endpoint *endpoint,
			     uint32_t id);

#endif
