/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * memory.h - the front-end's memory, and the part of it that may be passed on
 *
 * Theory of operation: relay/memory.c.
 */
#ifndef RELAY_MEMORY_H
#define RELAY_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "door.h"
#include "vu.h"

/* One --share. */
struct share {
	const char *name; /* as given, for messages; the path or, for a memfd, its name */
	bool memfd;
	bool pinned; /* a memfd of that name has been seen: it is dev, ino */
	bool warned;
	unsigned int path; /* index in the door's plan */
	uint64_t dev;
	uint64_t ino;
};

/* One region as the front-end gave it. */
struct region {
	struct vu_region v;
	uint64_t dev;
	uint64_t ino;
	int fd;		     /* of a shared region; -1 of any other */
	bool used;	     /* this entry holds a region */
	bool pushed;	     /* the backend has it */
	bool stale;	     /* scratch for memory_mark() */
	struct share *share; /* NULL if private */
};

struct memory {
	struct door *door;
	struct share *shares;
	unsigned int nshares;
	struct region regions[VU_MEM_SLOTS];
};

/**
 * memory_init - no region, nothing pinned
 * @mem:     filled in
 * @door:    tells files apart; kept
 * @shares:  @nshares entries; kept, and their pins changed
 */
void memory_init(struct memory *mem, struct door *door, struct share *shares, unsigned int nshares);

/**
 * memory_reset - forget all regions and pins, closing the fds
 */
void memory_reset(struct memory *mem);

/**
 * memory_add - take a region from the front-end (the spec, ADD_MEM_REG)
 * @mem: the memory
 * @v:	 the region
 * @fd:	 its file; the function takes it over in every case
 *
 * Keeps the fd if the region's file is one that may be passed on, and closes it otherwise.
 *
 * Return: 0; -EINVAL if it is no region, -ENOSPC if there are too many: both leave everything as
 * it was; -EPERM if its file is named by a --share and may all the same not be passed on. Each
 * with a line in the log.
 */
int memory_add(struct memory *mem, const struct vu_region *v, int fd);

/**
 * memory_find - the region that equals @v (the spec, REM_MEM_REG), or NULL
 */
struct region *memory_find(struct memory *mem, const struct vu_region *v);

/**
 * memory_drop - forget one region and close its fd
 */
void memory_drop(struct region *region);

/**
 * memory_keep - is @fd, given as @v, a region that is here already
 *
 * For SET_MEM_TABLE, which repeats what stays: all regions are marked stale before, and those that
 * are not repeated are still so afterwards.
 *
 * Return: true if so; its stale mark is then gone.
 */
bool memory_keep(struct memory *mem, const struct vu_region *v, int fd);

/**
 * memory_translate - find shared memory by an address of the front-end
 * @user: the front-end's user address
 * @len:  bytes
 *
 * Return: the shared region that holds the whole range, or NULL.
 */
struct region *memory_translate(struct memory *mem, uint64_t user, uint64_t len);

/**
 * memory_rule - may a region whose file is named by a --share be passed on
 * @mem: the regions there are already
 * @v:	 the region
 * @st:	 its file's fstat()
 * @in_memory: whether the file's file system lives in memory
 *
 * Return: NULL if it may, otherwise the reason.
 */
const char *memory_rule(const struct memory *mem, const struct vu_region *v, const struct stat *st,
			bool in_memory);

#endif
