/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice_port.h (bounds) - a port that counts what the core asks of it
 *
 * Theory of operation
 * -------------------
 * The core reaches shared words and locks only through this header, so a core that is compiled
 * with this one in place of lib/port/ counts itself. There is one thread: which CPU it runs on,
 * and whether a lock is busy when it is tried, is what the test says, so every count can be
 * repeated exactly.
 *
 * Since nobody else is there, a lock that is taken while it is held would never be given back, and
 * any lock waited for while another is held has an order that can be checked: a cache, then the
 * pool, and nothing inside the pool's. What breaks these rules, or copies or clears memory under a
 * lock, is counted as misuse, which the test expects to be 0.
 *
 * The pool's memory is mapped without any right, so that a core which keeps something in it, or so
 * much as looks at it, dies. Only clearing a new chunk is expected, and left out here.
 *
 * struct sluice_lock is laid out as in lib/port/, so that parts of the library that were compiled
 * with that may be linked.
 */
#ifndef SLUICE_PORT_H
#define SLUICE_PORT_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct sluice_lock {
	uint32_t held;
};

struct bounds {
	/* What is counted. */
	uint64_t blocks;   /* basic blocks of the core, by the compiler's instrumentation */
	uint64_t accesses; /* to words that others may look at at the same time */
	uint64_t locks;	   /* taken, of any kind and in any way */
	uint64_t pool_locks;
	uint64_t tries;	   /* of these and of those that were busy, by trylock */
	uint64_t hold_max; /* blocks from taking the pool's lock to giving it back, the most */
	uint64_t misuse;
	uint64_t stores; /* to the lines below, that all CPUs read all the time */

	/* What the test says. */
	const struct sluice_lock *pool_lock;
	uint32_t cpu;
	uint64_t busy; /* a bit for each of 64 tries in turn: the lock is another CPU's */
	uintptr_t shared, shared_end;
	uintptr_t lines[2];	 /* the first bytes of lines; 0: none */
	void (*elsewhere)(void); /* what another CPU does just before a cache is locked, or NULL */
	void (*before_claim)(void); /* what it does just before a compare and swap, once; or NULL */

	uint32_t depth; /* locks held now */
	uint64_t hold_start;
};

extern struct bounds bounds;

static inline void sluice_lock_init(struct sluice_lock *l)
{
	l->held = 0;
}

static inline void bounds_taken(struct sluice_lock *l)
{
	bounds.misuse += l->held;
	l->held = 1;
	bounds.depth++;
	bounds.locks++;
	if (l == bounds.pool_lock) {
		bounds.pool_locks++;
		bounds.hold_start = bounds.blocks;
	} else if (bounds.pool_lock && bounds.pool_lock->held) {
		bounds.misuse++;
	}
}

static inline unsigned long sluice_lock(struct sluice_lock *l)
{
	if (bounds.elsewhere && !bounds.depth && l != bounds.pool_lock) {
		void (*once)(void) = bounds.elsewhere;

		bounds.elsewhere = NULL;
		once();
		bounds.elsewhere = once;
	}
	if (bounds.depth && l != bounds.pool_lock)
		bounds.misuse++;
	bounds_taken(l);
	return 0;
}

static inline bool sluice_trylock(struct sluice_lock *l, unsigned long *flags)
{
	bool busy = bounds.busy >> (bounds.tries++ % 64) & 1;

	*flags = 0;
	if (busy || l->held)
		return false;
	bounds_taken(l);
	return true;
}

static inline void sluice_unlock(struct sluice_lock *l, unsigned long flags)
{
	(void)flags;
	if (!l->held)
		bounds.misuse++;
	l->held = 0;
	bounds.depth--;
	if (l == bounds.pool_lock && bounds.blocks - bounds.hold_start > bounds.hold_max)
		bounds.hold_max = bounds.blocks - bounds.hold_start;
}

static inline uint32_t sluice_cpu(void)
{
	return bounds.cpu;
}

static inline void bounds_store(const void *p)
{
	bounds.accesses++;
	for (int i = 0; i < 2; i++)
		bounds.stores += (uintptr_t)p - bounds.lines[i] < 64;
}

static inline uint32_t sluice_load_u32(const uint32_t *p)
{
	bounds.accesses++;
	return *p;
}

static inline void sluice_store_u32(uint32_t *p, uint32_t v)
{
	bounds_store(p);
	*p = v;
}

static inline uint64_t sluice_load_u64(const uint64_t *p)
{
	bounds.accesses++;
	return *p;
}

static inline void sluice_store_u64(uint64_t *p, uint64_t v)
{
	bounds_store(p);
	*p = v;
}

static inline uint32_t sluice_load_acquire_u32(const uint32_t *p)
{
	return sluice_load_u32(p);
}

static inline void sluice_store_release_u32(uint32_t *p, uint32_t v)
{
	sluice_store_u32(p, v);
}

static inline void *sluice_load_acquire_ptr(void *const *p)
{
	bounds.accesses++;
	return *p;
}

static inline void sluice_store_release_ptr(void **p, void *v)
{
	bounds_store(p);
	*p = v;
}

static inline bool sluice_cas_u32(uint32_t *p, uint32_t old, uint32_t new_value)
{
	void (*other)(void) = bounds.before_claim;

	bounds.before_claim = NULL;
	if (other)
		other();
	bounds_store(p);
	if (*p != old)
		return false;
	*p = new_value;
	return true;
}

static inline void sluice_count(uint64_t *p, uint64_t n)
{
	bounds_store(p);
	*p += n;
}

static inline void sluice_copy(void *to, const void *from, size_t n)
{
	(void)to;
	(void)from;
	(void)n;
	bounds.misuse += bounds.depth;
}

static inline void sluice_zero(void *to, size_t n)
{
	bounds.misuse += bounds.depth;
	if ((uintptr_t)to >= bounds.shared && (uintptr_t)to < bounds.shared_end)
		return;
	memset(to, 0, n);
}

static inline void *sluice_orig(uint64_t orig)
{
	return (void *)(uintptr_t)orig;
}

#endif
