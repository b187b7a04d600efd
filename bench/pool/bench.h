/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * bench.h - candidates and workloads of the pool's benchmark
 *
 * Theory of operation: a candidate is anything that hands out buffers of a bounded memory and takes
 * them back by address. Every workload runs on every candidate, interleaved in one process, so that
 * what the machine does meanwhile hits all of them alike.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct candidate {
	const char *name;
	bool bounded; /* has a pool of the size given to open(), which can be full */
	/* Make the pool, for so many threads; false if there is not the memory. */
	bool (*open)(size_t pool, unsigned int threads);
	void (*close)(void);
	/* 0 if full. thread: which of the threads calls. taken: bytes of the pool that it took. */
	uint64_t (*map)(size_t len, unsigned int thread, uint32_t *taken);
	void (*unmap)(uint64_t addr, size_t len, unsigned int thread);
};

extern const struct candidate cand_sluice, cand_scan, cand_classes, cand_malloc;

/* Linux's own, if its source was there (bench/pool.sh); otherwise its address is NULL. */
extern const struct candidate cand_swiotlb __attribute__((weak));

/* xorshift64*; lengths as the cc-swiotlb series of 2023 reports them, capped at 256 KiB. */
uint64_t next_random(uint64_t *state);
uint32_t next_length(uint64_t *state);

#define PAIRS_A_THREAD 400000

/* What is no allocator: nothing at all, and a line that is written and claimed. */
extern const struct candidate cand_nothing, cand_line;

/* One line, or two, of as much memory as Sluice keeps about a pool of the size given to open(). */
extern const struct candidate cand_cold, cand_cold_two;

/*
 * ns for a map and its unmap, PAIRS_A_THREAD of each thread (1 or 2), of these lengths; 0 if there is not the memory. If
 * crossed, each unmaps what the other has mapped, and to handed is added which share of all that was.
 */
double pair_round(const struct candidate *c, uint32_t *lengths, unsigned int threads, bool crossed,
		  double *handed);

/*
 * ns for a map and its unmap of a stream that `sluice survey` recorded, in its order and with what
 * was alive in it alive, over and over again; 0 if the stream cannot be had or does not fit.
 */
double stream_round(const struct candidate *c, const char *path);

/* ns for a map and unmap by the DMA layer, 1500 bytes with the copy; 0 if it cannot be had. */
enum reserve_way { RESERVE_NONE, RESERVE_IDLE, RESERVE_USED };
double reserve_round(enum reserve_way way);

/* Of the monotonic clock. */
double seconds(void);

/* Time-stamp counter ticks, their length, and what reading it costs. */
uint64_t ticks(void);
double tick_ns(void);

#endif
