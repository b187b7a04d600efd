/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * sluice_port.h (Linux kernel) - what the core asks of its surroundings, inside a kernel
 *
 * Theory of operation: see sluice/os.h for the contract. Driver memory is named by its physical
 * address and reached through the direct map, which covers every page that has been given to a
 * driver as memory; the callers in ops.c keep everything else (MMIO) away from the core.
 *
 * The lock keeps interrupts out, because DMA is mapped and unmapped from interrupt handlers. It is
 * a raw one: what it guards is bounded and never sleeps, and on PREEMPT_RT an interrupt handler
 * could not take any other.
 */
#ifndef SLUICE_PORT_H
#define SLUICE_PORT_H

#include <linux/align.h>
#include <linux/atomic.h>
#include <linux/errno.h>
#include <linux/io.h>
#include <linux/limits.h>
#include <linux/math.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/types.h>
#include <asm/page.h>

#include "compat_string.h"

#define UINT32_MAX  U32_MAX
#define UINT64_MAX  U64_MAX
#define UINT32_C(x) x##U
#define UINT64_C(x) x##ULL

struct sluice_lock {
	raw_spinlock_t lock;
};

static inline void sluice_lock_init(struct sluice_lock *l)
{
	raw_spin_lock_init(&l->lock);
}

static inline unsigned long sluice_lock(struct sluice_lock *l)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&l->lock, flags);
	return flags;
}

static inline void sluice_unlock(struct sluice_lock *l, unsigned long flags)
{
	raw_spin_unlock_irqrestore(&l->lock, flags);
}

static inline bool sluice_trylock(struct sluice_lock *l, unsigned long *flags)
{
	return raw_spin_trylock_irqsave(&l->lock, *flags);
}

static inline uint32_t sluice_cpu(void)
{
	/* A hint: whoever is moved meanwhile takes another CPU's cache. */
	return raw_smp_processor_id();
}

static inline uint32_t sluice_load_u32(const uint32_t *p)
{
	return READ_ONCE(*p);
}

static inline void sluice_store_u32(uint32_t *p, uint32_t v)
{
	WRITE_ONCE(*p, v);
}

static inline uint64_t sluice_load_u64(const uint64_t *p)
{
	return READ_ONCE(*p);
}

static inline void sluice_store_u64(uint64_t *p, uint64_t v)
{
	WRITE_ONCE(*p, v);
}

static inline uint32_t sluice_load_acquire_u32(const uint32_t *p)
{
	return smp_load_acquire(p);
}

static inline void sluice_store_release_u32(uint32_t *p, uint32_t v)
{
	smp_store_release(p, v);
}

static inline void *sluice_load_acquire_ptr(void *const *p)
{
	return smp_load_acquire(p);
}

static inline void sluice_store_release_ptr(void **p, void *v)
{
	smp_store_release(p, v);
}

static inline bool sluice_cas_u32(uint32_t *p, uint32_t old, uint32_t new_value)
{
	return cmpxchg(p, old, new_value) == old;
}

static inline void sluice_count(uint64_t *p, uint64_t n)
{
	/* A 64-bit kernel's atomic64_t is one such word and nothing else. */
	BUILD_BUG_ON(sizeof(atomic64_t) != sizeof(*p));
	atomic64_add((s64)n, (atomic64_t *)p);
}

/*
 * Bounced data is mostly whole pages. copy_page() and memset64() move words. Where memcpy() and
 * memset() move bytes, that is as fast on hardware that says so, and many times faster in an
 * emulator, which takes one step for each (QEMU's TCG, a page: 7.2 and 3.9 us by bytes, 0.8 and
 * 0.5 us by words). Where they do not, they are the best there is.
 */
static inline void sluice_copy(void *to, const void *from, size_t n)
{
	while (SLUICE_COMPAT_BYTE_STRINGS && n >= PAGE_SIZE &&
	       IS_ALIGNED((unsigned long)to | (unsigned long)from, PAGE_SIZE)) {
		copy_page(to, (void *)from);
		to += PAGE_SIZE;
		from += PAGE_SIZE;
		n -= PAGE_SIZE;
	}
	memcpy(to, from, n);
}

static inline void sluice_zero(void *to, size_t n)
{
	if (SLUICE_COMPAT_BYTE_STRINGS && IS_ALIGNED((unsigned long)to, sizeof(u64))) {
		memset64(to, 0, n / sizeof(u64));
		to += round_down(n, sizeof(u64));
		n %= sizeof(u64);
	}
	memset(to, 0, n);
}

static inline void *sluice_orig(uint64_t orig)
{
	return phys_to_virt(orig);
}

#endif
