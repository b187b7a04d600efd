/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * copy.c - what this machine's memcpy reaches on the relay's working set
 *
 * Theory of operation: `copy BLOCK_SIZE DEPTH SECONDS` prints MiB/s of copying blocks between two
 * shared memories of DEPTH blocks each, as the relay does between guest memory and its pool with
 * that many requests in flight: block by block, each source and destination in a random pairing, so
 * that the prefetcher knows as little as it does there. That is the limit that the relay's own
 * copying is held against.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint8_t *memory(size_t size)
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

int main(int argc, char **argv)
{
	size_t block = argc == 4 ? strtoul(argv[1], NULL, 0) : 0;
	size_t depth = argc == 4 ? strtoul(argv[2], NULL, 0) : 0;
	double seconds = argc == 4 ? strtod(argv[3], NULL) : 0, begin, end;
	uint8_t *from = memory(block * depth), *to = memory(block * depth);
	uint64_t copied = 0;
	uint32_t x = 1;

	if (!block || !depth || !from || !to) {
		fprintf(stderr, "usage: copy BLOCK_SIZE DEPTH SECONDS\n");
		return 1;
	}
	begin = now();
	do {
		for (unsigned int i = 0; i < 64; i++) {
			x = x * 1664525 + 1013904223;
			memcpy(to + (x >> 8) % depth * block, from + (x >> 20) % depth * block,
			       block);
			/* The compiler must not know that nobody reads it. */
			__asm__ volatile("" ::: "memory");
		}
		copied += 64 * block;
		end = now();
	} while (end - begin < seconds);
	printf("%.0f\n", (double)copied / (end - begin) / (1 << 20));
	return 0;
}
