/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * dirty.h - which pages of the guest have been written, for live migration
 *
 * Theory of operation
 * -------------------
 * While a guest is being migrated, the front-end gives a bitmap, one bit for each page of 4 KiB by
 * guest address (the spec, "Migration"). In shadow mode only the relay writes to the guest, so it
 * keeps that log itself, and a backend need not know of it.
 *
 * A bit is set after the page has been written: set before, the front-end could clear it and copy
 * the page in between. Setting is an atomic OR with release, since the front-end clears words of the
 * same map meanwhile.
 */
#ifndef RELAY_DIRTY_H
#define RELAY_DIRTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIRTY_PAGE_SHIFT 12

struct dirty {
	bool on; /* VHOST_F_LOG_ALL has been negotiated */
	uint8_t *map;
	size_t len; /* bytes */
};

/**
 * dirty_mark - a range of the guest has been written
 *
 * What the map does not reach is left out: it is the front-end's to make it large enough.
 */
static inline void dirty_mark(const struct dirty *d, uint64_t gpa, uint64_t len)
{
	uint64_t page = gpa >> DIRTY_PAGE_SHIFT, last;

	if (__builtin_expect(!d->on || !d->map || !len, 1))
		return;
	last = (gpa + len - 1) >> DIRTY_PAGE_SHIFT;
	for (; page <= last && page / 8 < d->len; page++)
		__atomic_fetch_or(&d->map[page / 8], (uint8_t)(1u << (page % 8)), __ATOMIC_RELEASE);
}

struct relay;
struct vu_msg;

/* SET_LOG_BASE and SET_LOG_FD (session.h). */
int dirty_set_base(struct relay *r, struct vu_msg *m);
int dirty_set_fd(struct relay *r, struct vu_msg *m);

/**
 * dirty_close - forget the map
 */
void dirty_close(struct dirty *d);

#endif
