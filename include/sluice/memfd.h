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
 */
#ifndef SLUICE_MEMFD_H
#define SLUICE_MEMFD_H

#include <sluice/dma.h>
#include <sluice/pool.h>

/* Owned by the library from create to destroy; the fields are for reading. */
struct sluice_memfd {
	struct sluice_pool pool;
	struct sluice_region region;
	struct sluice_chunk_place *chunks;
	struct sluice_cache **caches;
	void *chunk_memory;
	void *cache_memory;
	int fd;	     /* to be handed to the device's side; stays the library's */
	int wake_fd; /* readable when the pool wants to be balanced */
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
	bool huge_pages;   /* pages of 2 MiB from the system's reserve; such a pool does not grow */
	bool frugal;	   /* as in struct sluice_pool_config */
};

/**
 * sluice_memfd_open - make a pool, with everything that can be chosen
 * @config: read, not kept, but for the name
 * @out:    set to the pool; the caller gives it back with sluice_memfd_destroy()
 *
 * Return: as sluice_memfd_create(); -ENOMEM also if there are too few huge pages.
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
 * empty.
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
 * Return: 0; -EINVAL if there is a thread; or the negative errno of what failed.
 */
SLUICE_API int sluice_memfd_start(struct sluice_memfd *memfd);

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
