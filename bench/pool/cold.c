/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * cold.c - no allocator, but what one cannot do without in a large pool: lines that nobody has looked at for long
 *
 * Theory of operation: as much private memory as Sluice keeps about a pool of this size, in huge pages as there. A map
 * looks at one line of it, at random, and writes to it, an unmap claims that line again: what is known about a slot or
 * a free run lies outside shared memory, in a line of its own, and of a pool that is much larger than the caches it is in none
 * of them. "2 cold lines" looks at a second one, which the first one leads to: a free run, and what it is cut out of. So
 * beside each percentile of a map stands what this machine takes, at this moment, for the one or the two
 * lines alone.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <sluice/pool.h>

#include "bench.h"

#define HUGE_BYTES ((size_t)2 << 20)

static struct cold_line {
	uint64_t taken;
	uint64_t other; /* leads to another one */
	uint64_t rest[6];
} * lines;
static uint64_t n_lines, seed;

static bool cold_open(size_t pool, unsigned int threads)
{
	size_t bytes = pool / SLUICE_CHUNK_BYTES * sluice_chunk_size();

	(void)threads;
	bytes = (bytes + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
	lines = aligned_alloc(HUGE_BYTES, bytes);
	if (!lines)
		return false;
	(void)madvise(lines, bytes, MADV_HUGEPAGE);
	memset(lines, 0, bytes);
	n_lines = bytes / sizeof(*lines);
	seed = 11;
	for (uint64_t i = 0; i < n_lines; i++)
		lines[i].other = next_random(&seed) % n_lines;
	return true;
}

static void cold_close(void)
{
	free(lines);
}

static uint64_t take(struct cold_line *line)
{
	__atomic_store_n(&line->taken, 1, __ATOMIC_RELEASE);
	return (uintptr_t)line;
}

static uint64_t one_map(size_t len, unsigned int thread, uint32_t *taken)
{
	struct cold_line *line = &lines[next_random(&seed) % n_lines];

	(void)thread;
	*taken = (uint32_t)len;
	/* Looked at before it is written: a store alone nobody would wait for. */
	return line->other < n_lines ? take(line) : 0;
}

static uint64_t two_map(size_t len, unsigned int thread, uint32_t *taken)
{
	struct cold_line *line = &lines[lines[next_random(&seed) % n_lines].other];

	(void)thread;
	*taken = (uint32_t)len;
	return line->other < n_lines ? take(line) : 0;
}

static void cold_unmap(uint64_t addr, size_t len, unsigned int thread)
{
	struct cold_line *line = (void *)(uintptr_t)addr;
	uint64_t mapped = 1;

	(void)len;
	(void)thread;
	(void)__atomic_compare_exchange_n(&line->taken, &mapped, 0, false, __ATOMIC_ACQUIRE,
					  __ATOMIC_RELAXED);
}

const struct candidate cand_cold = {"1 cold line", false,   cold_open,
				    cold_close,	   one_map, cold_unmap};
const struct candidate cand_cold_two = {"2 cold lines", false,	 cold_open,
					cold_close,	two_map, cold_unmap};
