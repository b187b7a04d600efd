/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
#ifndef SLUICE_RELAY_MOVE_H
#define SLUICE_RELAY_MOVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * move_and_clear - copy bytes, and leave zeroes where they were
 * @to:	    where to; may be memory that others change meanwhile, as may @from
 * @from:   where from; does not overlap @to
 * @len:    bytes, 0 and more
 * @stream: write past the caches, where the processor can: faster, if nobody would find @to there anyway
 *
 * Any thread; does not sleep but for page faults. When it returns all of @from is zero, unless
 * somebody else has written to it since. A release store that follows covers
 * what was written to @to, past the caches or not.
 */
void move_and_clear(uint8_t *to, uint8_t *from, size_t len, bool stream);

#endif
