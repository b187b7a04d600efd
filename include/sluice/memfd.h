/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/memfd.h - a pool in a memfd of its own, for a user-space program
 *
 * Theory of operation
 * -------------------
 * Whoever holds the fd of a file can map all of it, whatever part was meant: a pool that is to
 * confine somebody has to be a file of its own. This makes one, sealed so that nobody can shrink it
 * under the others' mappings (they would get SIGBUS), maps it, and fills a pool with its chunks.
 * The metadata is ordinary private memory, of a large pool in huge pages where the system has any to give.
 *
 * The pool may grow: the file then has its largest size from the start, because whoever has mapped
 * it should not have to map it again, but only the chunks that are in the pool have memory behind
 * them. Growing puts a chunk in; shrinking takes one out and punches its pages out of the file. Both,
 * and giving back what caches keep after a load (sluice_pool_trim()), happen in
 * sluice_memfd_balance(), called from the program's own loop whenever wake_fd becomes readable and
 * once in a while, or from a thread that sluice_memfd_start() makes.
 *
 * A file with nothing behind most of it is of no use to a device's side that pins all that it is told of, or where memory is
 * reserved as soon as it is mapped, as huge pages are. For these a pool may grow by parts: each a sealed file of its
 * own, that is made when the pool is to grow, told to the device's side by the program, and used from then on. Addresses stay
 * in one range, taken at the beginning. 2 MiB of it between two parts stay empty, so that no slot reaches from one file
 * into another: many a device's side refuses a buffer that does. Parts are not given back before the pool is.
 */
#ifndef SLUICE_MEMFD_H
#define SLUICE_MEMFD_H

#include <sluice/dma.h>
#include <sluice/pool.h>

#define SLUICE_MEMFD_PARTS 8 /* as many memory regions as every vhost-user back-end takes */

/* A file of a pool. */
struct sluice_memfd_part {
	int fd;	       /* to be handed to the device's side; stays the library's */
	uint64_t dev;  /* device address of its first byte */
	uint64_t size; /* bytes, all of the file */
};

/* Owned by the library from create to destroy; the fields are for reading. */
struct sluice_memfd {
	struct sluice_pool pool;
	struct sluice_region region;
	struct sluice_chunk_place *chunks;
	struct sluice_cache **caches;
	void *chunk_memory;
	void *cache_memory;
	int fd;	     /* to be handed to the device's side; stays the library's; that of parts[0] */
	int wake_fd; /* readable when the pool wants to be balanced */
	struct sluice_memfd_part parts[SLUICE_MEMFD_PARTS];
	uint32_t n_parts; /* that are used; behind them may be one that is made and not used yet */
	uint32_t max_parts; /* 1: the pool grows inside its file, if at all */
	uint64_t part_size; /* of all parts but the first and the last */
	const char *name;
	bool huge_pages;
	uint64_t size_max;
	uint64_t size_min;
	uint32_t space;		/* counts the times that there may have been space; a futex */
	uint64_t surplus_since; /* ms; 0 if there is none */
	uint64_t trimmed;	/* ms; when that was last done */
	uint64_t kept;		/* bytes in use or in caches then */
	int stop_fd;		/* ends the thread; -1 if there is none */
	unsigned long thread;
};

/**
 * sluice_memfd_create - make a pool in a sealed memfd
 * @name: for messages and /proc/PID/maps; copied by nobody, must outlive the pool
 * @size: bytes, a multiple of 4096, up to 4 GiB
 * @dev:  device address of its first byte, a multiple of 4096
 * @out:  set to the pool; the caller gives it back with sluice_memfd_destroy()
 *
 * Return: 0; -EINVAL for a size or address outside those limits; else the negative errno of the
 * system call that failed (-ENOMEM, -EMFILE, ...), with nothing left behind.
 * Context: may sleep.
 */
SLUICE_API int sluice_memfd_create(const char *name, uint64_t size, uint64_t dev,
				   struct sluice_memfd **out);

/**
 * sluice_memfd_create_growing - make a pool that grows and shrinks
 * @size: bytes at first and at least, a multiple of 2 MiB
 * @max:  bytes at most, a multiple of 2 MiB, up to 4 GiB
 *
 * All else as for sluice_memfd_create().
 */
SLUICE_API int sluice_memfd_create_growing(const char *name, uint64_t size, uint64_t max,
					   uint64_t dev, struct sluice_memfd **out);

/* What sluice_memfd_open() wants to know. */
struct sluice_memfd_config {
	const char *name; /* as for sluice_memfd_create() */
	uint64_t size;	  /* bytes at first and at least, a multiple of 2 MiB */
	uint64_t max; /* bytes at most, a multiple of 2 MiB, up to 4 GiB;  if it does not grow */
	uint64_t dev; /* device address of its first byte, a multiple of 4096 */
	uint32_t n_caches; /* caches of the pool; 0: as many as the machine has CPUs. A program that
			      has given up the file system cannot count those, and says it here. */
	/*
	 * 0 or 1: one file. More: a pool that grows by parts, so many in all, up to SLUICE_MEMFD_PARTS; the first has
	 * @size bytes. @max with 2 MiB for each further part is 4 GiB at most.
	 */
	uint32_t parts;
	bool huge_pages; /* pages of 2 MiB from the system's reserve; it grows by parts or not at all */
	bool frugal;	 /* as in struct sluice_pool_config */
};

/**
 * sluice_memfd_open - make a pool, with everything that can be chosen
 * @config: read, not kept, but for the name
 * @out:    set to the pool; the caller gives it back with sluice_memfd_destroy()
 *
 * Return: as sluice_memfd_create(); -ENOMEM also if there are too few huge pages; -EINVAL also if it is to grow on huge
 * pages in one file.
 * Context: may sleep.
 */
SLUICE_API int sluice_memfd_open(const struct sluice_memfd_config *config,
				 struct sluice_memfd **out);

/**
 * sluice_memfd_balance - grow, shrink or trim the pool as far as it wants now
 * @memfd: the pool
 *
 * Growing is done at once. A chunk that can be done without is taken out when that has been so in
 * every call for SLUICE_QUIET_MS. Caches are trimmed once in SLUICE_TRIM_MS: 13 times, and they are
 * empty. A pool that grows by parts gets chunks of those that are used, and is not shrunk.
 *
 * Return: chunks added if positive, removed if negative; -ENOMEM is never among them: a pool that
 * cannot grow stays as it is, and its callers see -ENOSPC.
 * Context: may sleep. One caller at a time.
 */
#define SLUICE_QUIET_MS 5000
#define SLUICE_TRIM_MS	1000
SLUICE_API int sluice_memfd_balance(struct sluice_memfd *memfd);

/**
 * sluice_memfd_start - have a thread balance the pool until it is destroyed
 * @memfd: the pool; nobody else calls sluice_memfd_balance() from now on
 *
 * It sleeps as long as the pool is unused.
 *
 * Return: 0; -EINVAL if there is a thread, or if the pool grows by parts, which the program has to tell somebody of; or the
 * negative errno of what failed.
 */
SLUICE_API int sluice_memfd_start(struct sluice_memfd *memfd);

/**
 * sluice_memfd_part_make - make the next part of a pool that grows by parts
 * @memfd: the pool
 * @part:  filled in: what the device's side is to be told
 *
 * Memory is set aside for all of it (huge pages) or for nothing (ordinary ones). The pool does not use it before
 * sluice_memfd_part_use(), nor keep it after sluice_memfd_part_drop(). When to make one is for the caller to
 * know: most likely when sluice_memfd_balance() has added nothing although somebody has seen -ENOSPC.
 *
 * Return: 0; -ENOSPC if the pool has all its parts; -EBUSY if there is one that is made and not used;
 * -ENOMEM if there is no memory, or too few huge pages; another negative errno of a system call: the pool is then as before.
 * Context: may sleep. One caller at a time of this, the two below and sluice_memfd_balance(); slots may be taken and given back meanwhile.
 */
SLUICE_API int sluice_memfd_part_make(struct sluice_memfd *memfd, struct sluice_memfd_part *part);

/**
 * sluice_memfd_part_use - the device's side has the part that was made: let the pool have it
 * sluice_memfd_part_drop - it does not: undo it
 * @memfd: the pool
 *
 * A part's chunks get into the pool as it wants them (sluice_memfd_balance()).
 *
 * Return: 0; -EINVAL if there is none that is made and not used.
 * Context: as for sluice_memfd_part_make().
 */
SLUICE_API int sluice_memfd_part_use(struct sluice_memfd *memfd);
SLUICE_API int sluice_memfd_part_drop(struct sluice_memfd *memfd);

/**
 * sluice_memfd_map_wait - sluice_dma_map(), waiting for space if there is none
 * @memfd:	the pool that @dma is on
 * @timeout_ms: how long at most, in milliseconds
 *
 * All else as for sluice_dma_map(), whose -ENOSPC now means that there was no space all that time.
 * The devices of a pool wait in turn (sluice/dma.h, Fairness); threads of one device have its turn
 * together, and whoever of them comes first has what there is.
 *
 * Whoever waits while he himself holds mappings that nobody ends meanwhile (the same thread would, say,
 * or the device is not told of them before the list is complete) may wait for himself, and two who
 * do may wait for each other, for as long as the timeout says. Unmap them first, as
 * sluice_dma_map_sg() does with a list that does not fit as a whole.
 *
 * Context: may sleep. Not from a signal handler.
 */
SLUICE_API int sluice_memfd_map_wait(struct sluice_memfd *memfd, struct sluice_dma *dma,
				     uint64_t orig, uint64_t len, enum sluice_dir dir,
				     uint32_t timeout_ms, uint64_t *addr);

/**
 * sluice_memfd_destroy - unmap and close a pool
 * @memfd: from sluice_memfd_create(), or NULL; nothing is mapped from it any more
 */
SLUICE_API void sluice_memfd_destroy(struct sluice_memfd *memfd);

#endif
