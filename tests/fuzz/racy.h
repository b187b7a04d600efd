/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * racy.h - memory that changes between two reads of it
 *
 * Theory of operation: tests/fuzz/racy.c.
 */
#ifndef TESTS_FUZZ_RACY_H
#define TESTS_FUZZ_RACY_H

#include <stddef.h>
#include <stdint.h>

/* Where the guest's memory begins: what a script may put for an address. */
#define RACY_ADDRESS UINT64_C(0x10000)

/* bytes of memory that nothing can be read or written beside; made once, cleared each time. */
uint8_t *racy_memory(size_t bytes);

/* From now on, loads from [at, at + bytes) find what the script says; an empty one ends it. */
void racy_script(uint8_t *at, size_t bytes, const uint8_t *script, size_t size);

#endif
