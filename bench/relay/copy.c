/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * copy.c - what this machine's memcpy reaches on the relay's working set
 *
 * Theory of operation
 * -------------------
 *	copy alone|in|back|in-shared|back-shared BLOCK_SIZE DEPTH SECONDS memcpy|clear|stream [BLOCKS_A_SECOND]
 *
 * prints MiB/s of copying blocks between two shared memories of DEPTH blocks each, as the relay does
 * between guest memory and its pool with that many requests in flight: block by block, each source
 * and destination in a random pairing, so that the prefetcher knows as little as it does there. That
 * is the limit that the relay's own copying is held against.
 *
 * "alone", all of it stays in this processor's caches. That is not the relay's working set: what it
 * copies back has just been written by the backend, on another processor, and what it copies in is
 * read there next, while the relay goes on copying. So with "back" a second process fills half of the
 * sources, out of a file's worth of memory, while the other half is being copied, and then the other
 * way round; with "in" it reads half of the destinations so. With "-shared" it has no processor of its own, but
 * takes turns with the copying on the one, as the backend and the relay do while the load has the other. Only copying is
 * counted, in time of the processor.
 *
 * All this goes as fast as it can, so that each block comes round again ten times as soon as it does through a relay and
 * a disk, and on a machine whose caches others use, too, it makes a difference by a factor of two to
 * three whether a line was used 100 us ago or 1 ms. So with BLOCKS_A_SECOND blocks go by at that pace, which
 * bench/relay.sh takes from the relay.
 *
 * "clear" copies as relay/move.c does, which clears the source; "stream" does so past the caches.
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "relay/move.h"

#define FILE_BYTES ((size_t)256 << 20) /* bench/relay.sh's disk: more than caches hold */

struct copy {
	enum { ALONE, IN, BACK } peer;
	bool clear;
	bool stream;
	bool shared;
	double turn_seconds; /* the least that half of the blocks take; 0: as fast as can be */
	size_t block, depth;
	uint8_t *from, *to, *file;
	atomic_uint *turn; /* even: ours; odd: the peer's */
	uint32_t random;
};

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *memory(size_t size)
{
	int fd = memfd_create("copy", MFD_CLOEXEC);
	void *p;

	if (fd < 0 || ftruncate(fd, (off_t)size))
		return NULL;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return NULL;
	memset(p, 0x5a, size);
	return p;
}

static uint32_t next_random(struct copy *c)
{
	c->random = c->random * 1664525 + 1013904223;
	return c->random >> 8;
}

static void pin(unsigned int which)
{
	unsigned int n = 0;
	cpu_set_t all, one;

	if (sched_getaffinity(0, sizeof(all), &all))
		return;
	CPU_ZERO(&one);
	for (unsigned int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++)
		if (CPU_ISSET(i, &all) && n++ == which)
			CPU_SET(i, &one);
	if (CPU_COUNT(&one))
		(void)sched_setaffinity(0, sizeof(one), &one);
}

/* The blocks of one half, of those that the peer has or of ours. */
static uint8_t *block_of(const struct copy *c, uint8_t *memory, unsigned int half, size_t i)
{
	return memory + (half * (c->depth / 2) + i) * c->block;
}

/* The backend: fills what is copied back, or takes what has been copied in. Until it is killed. */
static _Noreturn void peer(struct copy *c)
{
	double begin;

	pin(!c->shared);
	for (;;) {
		unsigned int turn;

		while (!((turn = atomic_load_explicit(c->turn, memory_order_acquire)) & 1))
			sched_yield();
		begin = now(CLOCK_MONOTONIC);
		for (size_t i = 0; i < c->depth / 2; i++) {
			uint8_t *f = c->file + next_random(c) % (FILE_BYTES / c->block) * c->block;

			if (c->peer == BACK)
				memcpy(block_of(c, c->from, turn / 2 % 2, i), f, c->block);
			else
				memcpy(f, block_of(c, c->to, turn / 2 % 2, i), c->block);
		}
		while (now(CLOCK_MONOTONIC) - begin < c->turn_seconds)
			sched_yield();
		atomic_store_explicit(c->turn, turn + 1, memory_order_release);
	}
}

/* Copies one half, each block once: what has been copied is not the peer's any more. */
static double copy_half(struct copy *c, unsigned int half)
{
	size_t shift = next_random(c), n = c->depth / 2;
	double begin = now(CLOCK_THREAD_CPUTIME_ID);

	for (size_t i = 0; i < n; i++) {
		uint8_t *to = block_of(c, c->to, half, (i * 7 + shift) % n);
		uint8_t *from = block_of(c, c->from, half, (i * 5 + shift) % n);

		if (c->clear)
			move_and_clear(to, from, c->block, c->stream);
		else
			memcpy(to, from, c->block);
		/* The compiler must not know that nobody reads it. */
		__asm__ volatile("" ::: "memory");
	}
	return now(CLOCK_THREAD_CPUTIME_ID) - begin;
}

/* Both halves change hands. */
static double one_turn(struct copy *c)
{
	unsigned int turn = atomic_load_explicit(c->turn, memory_order_relaxed) + 1;
	double spent;

	if (c->peer == ALONE) {
		atomic_store_explicit(c->turn, turn + 1, memory_order_relaxed);
		return copy_half(c, turn / 2 % 2);
	}
	atomic_store_explicit(c->turn, turn, memory_order_release);
	spent = copy_half(c, (turn / 2 + 1) % 2);
	while (atomic_load_explicit(c->turn, memory_order_acquire) == turn)
		sched_yield();
	return spent;
}

static bool parse(struct copy *c, int argc, char **argv, double *seconds)
{
	static const char *const peers[] = {[ALONE] = "alone", [IN] = "in", [BACK] = "back"};
	bool known = false;

	if (argc != 6 && argc != 7)
		return false;
	for (unsigned int i = 0; i < 3; i++) {
		size_t n = strlen(peers[i]);

		if (strncmp(argv[1], peers[i], n) != 0)
			continue;
		c->peer = i;
		c->shared = i && !strcmp(argv[1] + n, "-shared");
		known = c->shared || !argv[1][n];
	}
	c->block = strtoul(argv[2], NULL, 0);
	c->depth = strtoul(argv[3], NULL, 0);
	*seconds = strtod(argv[4], NULL);
	c->stream = !strcmp(argv[5], "stream");
	c->clear = c->stream || !strcmp(argv[5], "clear");
	if (argc == 7)
		c->turn_seconds = (double)c->depth / 2 / strtod(argv[6], NULL);
	/* 5 and 7 lead through all blocks of a half if they do not divide their number. */
	return known && c->block && c->block <= FILE_BYTES && c->depth && !(c->depth % 2) &&
	       c->depth % 5 && c->depth % 7 && *seconds > 0 &&
	       (c->clear || !strcmp(argv[5], "memcpy"));
}

int main(int argc, char **argv)
{
	struct copy c = {.random = 1};
	double seconds, spent = 0, end;
	uint64_t copied = 0;
	pid_t child = 0;

	if (!parse(&c, argc, argv, &seconds)) {
		fprintf(stderr, "usage: copy alone|in|back|in-shared|back-shared BLOCK_SIZE DEPTH "
				"SECONDS memcpy|clear|stream [BLOCKS_A_SECOND]\n"
				"DEPTH is even, and no multiple of 5 or 7.\n");
		return 1;
	}
	c.from = memory(c.block * c.depth);
	c.to = memory(c.block * c.depth);
	c.turn = memory(sizeof(*c.turn));
	c.file = c.peer == ALONE ? NULL : memory(FILE_BYTES);
	if (!c.from || !c.to || !c.turn || (c.peer != ALONE && !c.file)) {
		perror("copy: memory");
		return 1;
	}
	atomic_store(c.turn, 0);
	pin(0);
	if (c.peer != ALONE) {
		child = fork();
		if (child < 0) {
			perror("copy: fork");
			return 1;
		}
		if (!child) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			peer(&c);
		}
	}
	end = now(CLOCK_MONOTONIC) + seconds;
	do {
		spent += one_turn(&c);
		copied += c.block * c.depth / 2;
	} while (now(CLOCK_MONOTONIC) < end);
	if (child)
		kill(child, SIGKILL);
	printf("%.0f\n", (double)copied / spent / (1 << 20));
	return 0;
}
