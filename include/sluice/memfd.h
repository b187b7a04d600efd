/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/memfd.h - a pool in a memfd of its own, for a user-space program
 *
 * Theory of operation
 * -------------------
 * Whoever holds the fd of a file can map all of it, whatever part was meant: a pool that is to
 * confine somebody has to be a file of its own. This makes one, sealed so that nobody can shrink it
 * under the others' mappings (they would get SIGBUS), maps it, and fills a pool with its chunks.
 * The metadata is ordinary private memory.
 */
#ifndef SLUICE_MEMFD_H
#define SLUICE_MEMFD_H

#include <sluice/pool.h>

/* Owned by the library from create to destroy; the fields are for reading. */
struct sluice_memfd {
	struct sluice_pool pool;
	struct sluice_region region;
	struct sluice_chunk **chunks;
	struct sluice_cache **caches;
	void *chunk_memory;
	void *cache_memory;
	int fd; /* to be handed to the device's side; stays the library's */
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
 * sluice_memfd_destroy - unmap and close a pool
 * @memfd: from sluice_memfd_create(), or NULL; nothing is mapped from it any more
 */
SLUICE_API void sluice_memfd_destroy(struct sluice_memfd *memfd);

#endif
