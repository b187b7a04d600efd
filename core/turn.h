/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * turn.h - devices that found no room, and whose turn it is
 *
 * Theory of operation: see turn.c. Inline is only the question whether there is anything to ask:
 * while nobody waits, fairness costs a map one load and a branch.
 */
#ifndef SLUICE_TURN_H
#define SLUICE_TURN_H

#include <sluice/dma.h>

#include "internal.h"

#define GATE_NONE   0u /* no device waits */
#define GATE_OPEN   1u /* some do; others may still pass them */
#define GATE_CLOSED 2u /* only the first one may map */

/* turn.c: while some device waits. */
bool sluice_turn_may_map(struct sluice_dma *dma, uint64_t bytes);
void sluice_turn_met(struct sluice_dma *dma, uint64_t bytes, uint32_t mappings);
void sluice_turn_wait(struct sluice_dma *dma, uint64_t bytes);

/*
 * Relaxed: the word only says whether to go and look under the lock. Whoever reads it late maps as
 * if he had come a moment earlier; there is one such call for each CPU at most.
 */
static inline bool turn_anyone(const struct sluice_pool *pool)
{
	return __builtin_expect(sluice_load_u32(&pool->gate) != GATE_NONE, 0);
}

#endif
