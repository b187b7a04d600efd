/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * guest.h - the guest's memory, as shadow mode has it mapped
 *
 * Theory of operation: relay/guest.c.
 */
#ifndef RELAY_GUEST_H
#define RELAY_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vu.h"

struct guest_region {
	struct vu_region v;
	uint8_t *host; /* where v.gpa is */
	void *map;     /* the whole mapping, NULL if it is not this file's to unmap */
	size_t map_len;
	uint64_t dev;
	uint64_t ino;
	bool stale; /* scratch for guest_table() */
};

struct guest {
	unsigned int n;
	bool gone; /* a file has been shrunk: nothing read from here on means anything; atomic */
	struct {
		void *map;
		size_t len;
	} also[2]; /* other files of the front-end: the log, the in-flight buffer */
	struct guest_region regions[VU_MEM_SLOTS]; /* sorted by v.gpa, none overlaps another */
};

/* Where this thread found its last answer: an index below VU_MEM_SLOTS. */
extern _Thread_local unsigned int guest_hint;

/**
 * guest_map - take a region from the front-end and map it (the spec, ADD_MEM_REG)
 * @g:	the memory
 * @v:	the region
 * @fd: its file; the function takes it over and closes it
 *
 * Return: 0; -EINVAL if it is no region or not a part of the file, -EEXIST if it overlaps another,
 * -ENOSPC if there are too many, or the errno of mmap(); each with a line in the log.
 */
int guest_map(struct guest *g, const struct vu_region *v, int fd);

/**
 * guest_map_raw - a region of this program's own memory
 * @host: @size bytes, the caller's, which keeps them until the region is dropped
 *
 * For tests. Return: 0, -EINVAL, -EEXIST or -ENOSPC.
 */
int guest_map_raw(struct guest *g, uint64_t gpa, uint64_t user, uint64_t size, void *host);

/**
 * guest_find - the region that equals @v, or NULL
 */
struct guest_region *guest_find(struct guest *g, const struct vu_region *v);

/**
 * guest_drop - unmap one region
 * @region: of @g; pointers to its other regions are stale afterwards
 */
void guest_drop(struct guest *g, struct guest_region *region);

/**
 * guest_keep - is @fd, given as @v, a region that is here already
 *
 * Return: whether so; its stale mark is then gone.
 */
bool guest_keep(struct guest *g, const struct vu_region *v, int fd);

/**
 * guest_reset - unmap everything
 */
void guest_reset(struct guest *g);

/**
 * guest_user - find memory by an address of the front-end
 * @user: the front-end's user address
 * @len:  bytes
 *
 * Return: where it is mapped, or NULL if no one region holds all of it.
 */
void *guest_user(const struct guest *g, uint64_t user, uint64_t len);

/**
 * guest_watch - have SIGBUS in the mappings of @g replace the lost memory by nothing
 * @g: kept; NULL to watch nothing
 *
 * Afterwards @g->gone says that it has happened. Whatever else raises SIGBUS ends the process.
 */
void guest_watch(struct guest *g);

/**
 * guest_watch_also - the same for another mapping of what the front-end has sent
 * @which: 0 or 1, which of the places for such; @map NULL forgets it
 */
void guest_watch_also(struct guest *g, unsigned int which, void *map, size_t len);

/**
 * guest_find_at - guest_at() where the hint was wrong
 */
uint8_t *guest_find_at(struct guest *g, uint64_t gpa, uint64_t len, uint64_t *have);

/**
 * guest_at - find memory by its guest address
 * @gpa:  guest address
 * @len:  bytes wanted
 * @have: set to how many of them follow in one piece, at least 1
 *
 * Return: where it is mapped, or NULL if @gpa is not memory.
 */
static inline uint8_t *guest_at(struct guest *g, uint64_t gpa, uint64_t len, uint64_t *have)
{
	const struct guest_region *r = &g->regions[guest_hint];
	uint64_t at = gpa - r->v.gpa;

	/* An unused entry has size 0. */
	if (at >= r->v.size)
		return guest_find_at(g, gpa, len, have);
	*have = len < r->v.size - at ? len : r->v.size - at;
	return r->host + at;
}

/**
 * guest_has - whether all of a range is memory
 */
bool guest_has(struct guest *g, uint64_t gpa, uint64_t len);

#endif
