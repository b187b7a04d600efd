/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice_port.h (user space) - what the core asks of its surroundings, for a hosted program
 *
 * Theory of operation: see sluice/os.h for the contract. Here driver memory is named by its
 * pointer. The lock is a test-and-set spin lock that yields the CPU after a short while: its
 * critical sections are a few dozen instructions long, so a waiter either gets it at once or its
 * holder has been preempted, and then spinning on would only keep the holder off the CPU.
 */
#ifndef SLUICE_PORT_H
#define SLUICE_PORT_H

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/rseq.h>

#define SLUICE_API __attribute__((visibility("default")))

struct sluice_lock {
	uint32_t held;
};

static inline void sluice_lock_init(struct sluice_lock *l)
{
	__atomic_store_n(&l->held, 0, __ATOMIC_RELAXED);
}

static inline unsigned long sluice_lock(struct sluice_lock *l)
{
	unsigned int spins = 0;

	/* Acquire: what the last holder wrote is seen by this one. The plain load in between keeps
	 * the line shared while waiting. */
	while (__atomic_exchange_n(&l->held, 1, __ATOMIC_ACQUIRE)) {
		while (__atomic_load_n(&l->held, __ATOMIC_RELAXED)) {
			if (++spins % 64 == 0)
				sched_yield();
		}
	}
	return 0;
}

static inline void sluice_unlock(struct sluice_lock *l, unsigned long flags)
{
	(void)flags;
	__atomic_store_n(&l->held, 0, __ATOMIC_RELEASE);
}

static inline bool sluice_trylock(struct sluice_lock *l, unsigned long *flags)
{
	*flags = 0;
	return !__atomic_exchange_n(&l->held, 1, __ATOMIC_ACQUIRE);
}

static inline uint32_t sluice_cpu(void)
{
	const char *self = __builtin_thread_pointer();
	const struct rseq *area = (const void *)(self + __rseq_offset);
	uint32_t cpu = *(const volatile uint32_t *)&area->cpu_id;

	/*
	 * glibc has an area for restartable sequences in each thread, in which the kernel keeps the number of the CPU.
	 * Where it does not (an old kernel, or switched off) glibc says so there by a negative number, and what
	 * would be a CPU's is a thread's. (Not sched_getcpu(): a call here, however rare, costs all others the registers
	 * that they have to keep over it.)
	 */
	return __builtin_expect(cpu <= INT32_MAX, 1) ? cpu : (uint32_t)((uintptr_t)self >> 12);
}

static inline uint32_t sluice_load_u32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void sluice_store_u32(uint32_t *p, uint32_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline uint64_t sluice_load_u64(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void sluice_store_u64(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
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
	__atomic_fetch_add(p, n, __ATOMIC_RELAXED);
}

static inline void sluice_copy(void *to, const void *from, size_t n)
{
	memcpy(to, from, n);
}

static inline void sluice_zero(void *to, size_t n)
{
	memset(to, 0, n);
}

static inline void *sluice_orig(uint64_t orig)
{
	return (void *)(uintptr_t)orig;
}

#endif
