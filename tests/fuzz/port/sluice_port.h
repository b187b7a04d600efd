/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice_port.h (fuzzing) - a port in which shared memory changes before it is read
 *
 * Theory of operation: the core reads what another party can write through the accessors of
 * sluice/os.h and in no other way. Here each of them first lets the target change the word, as that
 * party could at that very moment, and is otherwise that of user space.
 */
#ifndef SLUICE_FUZZ_PORT_H
#define SLUICE_FUZZ_PORT_H

#define sluice_load_u32		port_load_u32
#define sluice_load_acquire_u32 port_load_acquire_u32
#define sluice_cas_u32		port_cas_u32
#include "lib/port/sluice_port.h"
#undef sluice_load_u32
#undef sluice_load_acquire_u32
#undef sluice_cas_u32

/* The target's: somebody is about to look at this word. */
void fuzz_touch(const uint32_t *p);

static inline uint32_t sluice_load_u32(const uint32_t *p)
{
	fuzz_touch(p);
	return port_load_u32(p);
}

static inline uint32_t sluice_load_acquire_u32(const uint32_t *p)
{
	fuzz_touch(p);
	return port_load_acquire_u32(p);
}

static inline bool sluice_cas_u32(uint32_t *p, uint32_t old, uint32_t new_value)
{
	fuzz_touch(p);
	return port_cas_u32(p, old, new_value);
}

#endif
