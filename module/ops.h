/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ops.h - between ops.c and list.c
 *
 * Theory of operation: ops.c maps one piece of memory, list.c those that belong together.
 */
#ifndef SLUICE_OPS_H
#define SLUICE_OPS_H

#include <linux/dma-map-ops.h>

#include "sluice.h"

/* ops.c */
enum sluice_map_way { SLUICE_MAP_ALONE, SLUICE_MAP_IN_LIST };

/* Before a mapping: 0, and it is counted as live; or an errno of sluice_complain()'s. */
int sluice_map_begin(struct sluice_device *sd, unsigned long attrs);
/* Map one piece of memory. Returns what sluice_dma_map() does, or another of sluice_complain()'s. */
int sluice_map_try(struct sluice_device *sd, phys_addr_t phys, size_t size,
		   enum dma_data_direction dir, unsigned long attrs, enum sluice_map_way way,
		   u32 claimed, dma_addr_t *addr);
void sluice_unmap_one(struct sluice_device *sd, dma_addr_t addr, size_t size,
		      enum dma_data_direction dir, unsigned long attrs);
void sluice_sync_one(struct device *dev, dma_addr_t addr, size_t size, enum dma_data_direction dir,
		     bool to_device);
/* Say why something could not be mapped. @phys is 0 for coherent memory. */
void sluice_complain(struct sluice_device *sd, int err, u64 phys, size_t size, int dir, bool quiet);
/* A call that made no sense: a bug of the driver, or ours. */
void sluice_misused(struct device *dev, const char *what, dma_addr_t addr, size_t size, int dir);

/* list.c: members of struct dma_map_ops */
int sluice_map_sg(struct device *dev, struct scatterlist *sgl, int nents,
		  enum dma_data_direction dir, unsigned long attrs);
void sluice_unmap_sg(struct device *dev, struct scatterlist *sgl, int nents,
		     enum dma_data_direction dir, unsigned long attrs);
void sluice_sync_sg_for_cpu(struct device *dev, struct scatterlist *sgl, int nents,
			    enum dma_data_direction dir);
void sluice_sync_sg_for_device(struct device *dev, struct scatterlist *sgl, int nents,
			       enum dma_data_direction dir);

#endif
