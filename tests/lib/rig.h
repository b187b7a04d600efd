/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * rig.h - what the tests of the pool and the DMA layer have in common
 *
 * A pool in a memfd whose device address differs from every CPU address, a device on it, and the
 * device's own look at shared memory.
 */
#ifndef RIG_H
#define RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <sluice/dma.h>
#include <sluice/memfd.h>

#define RIG_DEV UINT64_C(0x100000000)

struct rig {
	struct sluice_memfd *mem;
	struct sluice_dma dma;
	struct sluice_dma_stats *stats;
};

/* Make a pool of size bytes and a device with id 7 on it; fails the test if it cannot. */
void rig_open(struct rig *rig, uint64_t size);
void rig_close(struct rig *rig);

/* The device's counters. */
struct sluice_dma_stats rig_stats(struct rig *rig);

/* The byte of shared memory that the device finds at dev. */
uint8_t *rig_device(struct rig *rig, uint64_t dev);

/* True if n bytes at p all are value. */
bool rig_all(const void *p, size_t n, uint8_t value);

/* A small generator: tests that use it say their seed when they fail. */
uint64_t rig_random(uint64_t *state);

/* A length drawn from the distribution that the cc-swiotlb series of 2023 reports (in bands:
 * <=512 3.5 %, <=2K 57.7 %, <=4K 91.3 %, <=16K 96.0 %, <=512K 100 %), uniform in a band. */
uint32_t rig_length(uint64_t *state);

#endif
