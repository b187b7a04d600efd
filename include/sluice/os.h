/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/os.h - the only thing that the core asks of its surroundings
 *
 * Theory of operation
 * -------------------
 * The files in core/ are compiled unchanged into a kernel module, a user-space library and a
 * bare-metal guest. What differs between those places is one header, sluice_port.h, found on the
 * include path: lib/port/ for user space, module/port/ for Linux, and whatever the author of
 * another guest writes (tests/bare/ is the smallest one, with no threads and no libc). This file
 * includes it and states what it has to give; the core uses nothing else, allocates nothing, and
 * has no #ifdef.
 *
 * sluice_port.h defines, as static inline functions or macros:
 *
 *   types      uint8_t uint16_t uint32_t uint64_t size_t uintptr_t bool NULL, UINT32_MAX UINT64_MAX
 *              UINT32_C UINT64_C
 *   errors     EINVAL ENOENT ENOSPC EBUSY EOPNOTSUPP ERANGE E2BIG EACCES EIO as positive numbers;
 *              the core returns them negated
 *
 *   struct sluice_lock
 *   void sluice_lock_init(struct sluice_lock *l)
 *   unsigned long sluice_lock(struct sluice_lock *l)
 *   void sluice_unlock(struct sluice_lock *l, unsigned long flags)
 *   bool sluice_trylock(struct sluice_lock *l, unsigned long *flags)
 *              a lock that spins and that may be taken wherever the core is called: in a kernel it
 *              has to keep interrupts of this CPU out, and flags is what to give back. The core
 *              holds a lock for a bounded number of steps, and copies nothing and calls nobody
 *              under it. Locks nest, the later one given back first.
 *
 *   uint32_t sluice_cpu(void)
 *              a number, the same for calls from one CPU (or, where that is not known at once, of one
 *              thread), preferably small and another one for each; it calls nobody, as every map and
 *              unmap asks; only speed depends on it, and that the parts of one request that are mapped one by
 *              one get into a reserve together
 *
 *   uint32_t sluice_load_u32(const uint32_t *p)             relaxed, never torn, never repeated
 *   void     sluice_store_u32(uint32_t *p, uint32_t v)      relaxed, never torn
 *   uint64_t sluice_load_u64(const uint64_t *p)             relaxed
 *   void     sluice_store_u64(uint64_t *p, uint64_t v)      relaxed
 *   uint32_t sluice_load_acquire_u32(const uint32_t *p)
 *   void     sluice_store_release_u32(uint32_t *p, uint32_t v)
 *   void    *sluice_load_acquire_ptr(void *const *p)
 *   void     sluice_store_release_ptr(void **p, void *v)
 *   bool     sluice_cas_u32(uint32_t *p, uint32_t old, uint32_t new_value)
 *              true if *p was old and is now new_value; acquire and release on success
 *   void     sluice_count(uint64_t *p, uint64_t n)          adds, relaxed, loses nothing
 *
 *   void sluice_copy(void *to, const void *from, size_t n)  bytes, no overlap
 *   void sluice_zero(void *to, size_t n)
 *   void *sluice_orig(uint64_t orig)
 *              the address at which the CPU reaches the driver's memory that a caller of
 *              sluice_dma_map() named as orig: a pointer's value in user space, a physical
 *              address in a kernel. Linear: sluice_orig(a + n) == sluice_orig(a) + n inside
 *              one mapping.
 */
#ifndef SLUICE_OS_H
#define SLUICE_OS_H

#include <sluice_port.h>

/* Marks what libsluice exports; a port that builds no shared object leaves it empty. */
#ifndef SLUICE_API
#define SLUICE_API
#endif

#endif
