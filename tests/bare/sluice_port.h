/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice_port.h (bare) - the smallest port: one CPU, no threads, no interrupts, no libc
 *
 * Theory of operation: what a bare-metal or RTOS guest starts from. With one thread of control a
 * lock is nothing, and volatile is enough to keep the compiler from repeating an access. What has an
 * order, or is a compare-and-swap, may be in a table that a hypervisor changes at the same time, on
 * another CPU: those are the real ones. A guest with interrupts that call into the core replaces the
 * lock by masking them.
 */
#ifndef SLUICE_PORT_H
#define SLUICE_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENOENT	   2
#define EIO	   5
#define E2BIG	   7
#define EACCES	   13
#define EBUSY	   16
#define EINVAL	   22
#define ENOSPC	   28
#define ERANGE	   34
#define EOPNOTSUPP 95

struct sluice_lock {
	uint32_t held;
};

static inline void sluice_lock_init(struct sluice_lock *l)
{
	l->held = 0;
}

static inline unsigned long sluice_lock(struct sluice_lock *l)
{
	l->held = 1;
	return 0;
}

static inline void sluice_unlock(struct sluice_lock *l, unsigned long flags)
{
	(void)flags;
	l->held = 0;
}

static inline bool sluice_trylock(struct sluice_lock *l, unsigned long *flags)
{
	*flags = sluice_lock(l);
	return true;
}

static inline uint32_t sluice_cpu(void)
{
	return 0;
}

static inline uint32_t sluice_load_u32(const uint32_t *p)
{
	return *(const volatile uint32_t *)p;
}

static inline void sluice_store_u32(uint32_t *p, uint32_t v)
{
	*(volatile uint32_t *)p = v;
}

static inline uint64_t sluice_load_u64(const uint64_t *p)
{
	return *(const volatile uint64_t *)p;
}

static inline void sluice_store_u64(uint64_t *p, uint64_t v)
{
	*(volatile uint64_t *)p = v;
}

static inline uint32_t sluice_load_acquire_u32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void sluice_store_release_u32(uint32_t *p, uint32_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline void *sluice_load_acquire_ptr(void *const *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void sluice_store_release_ptr(void **p, void *v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline bool sluice_cas_u32(uint32_t *p, uint32_t old, uint32_t new_value)
{
	return __atomic_compare_exchange_n(p, &old, new_value, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_RELAXED);
}

static inline void sluice_count(uint64_t *p, uint64_t n)
{
	*p += n;
}

static inline void sluice_copy(void *to, const void *from, size_t n)
{
	uint8_t *t = to;
	const uint8_t *f = from;

	while (n--)
		*t++ = *f++;
}

static inline void sluice_zero(void *to, size_t n)
{
	uint8_t *t = to;

	while (n--)
		*t++ = 0;
}

static inline void *sluice_orig(uint64_t orig)
{
	return (void *)(uintptr_t)orig;
}

#endif
