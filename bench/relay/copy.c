/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * copy.c - what this machine's memcpy reaches on the relay's working set
 *
 * Theory of operation: `copy BLOCK_SIZE DEPTH SECONDS [PIECE]` prints MiB/s of copying blocks between
 * two shared memories of DEPTH blocks each, as the relay does between guest memory and its pool with
 * that many requests in flight: block by block, each source and destination in a random pairing, so
 * that the prefetcher knows as little as it does there. That is the limit that the relay's own
 * copying is held against.
 *
 * With PIECE each block is copied in pieces of so many bytes, and each piece cleared at its source
 * when it has been copied, as the relay does with what a device has written: relay/place.c has
 * its PIECE from here.
 */
#include <stdbool.h>
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

static void move(uint8_t *to, uint8_t *from, size_t len, size_t piece)
{
	while (len) {
		size_t n = len < piece ? len : piece;

		__asm__("" : "+r"(n)); /* as in place.c */
		memcpy(to, from, n);
		memset(from, 0, n);
		to += n;
		from += n;
		len -= n;
	}
}

int main(int argc, char **argv)
{
	bool right = argc == 4 || argc == 5;
	size_t block = right ? strtoul(argv[1], NULL, 0) : 0;
	size_t depth = right ? strtoul(argv[2], NULL, 0) : 0;
	size_t piece = argc == 5 ? strtoul(argv[4], NULL, 0) : 0;
	double seconds = right ? strtod(argv[3], NULL) : 0, begin, end;
	uint8_t *from = memory(block * depth), *to = memory(block * depth);
	uint64_t copied = 0;
	uint32_t x = 1;

	if (!block || !depth || !from || !to || (argc == 5 && !piece)) {
		fprintf(stderr, "usage: copy BLOCK_SIZE DEPTH SECONDS [PIECE]\n");
		return 1;
	}
	begin = now();
	do {
		for (unsigned int i = 0; i < 64; i++) {
			uint8_t *src, *dst;

			x = x * 1664525 + 1013904223;
			dst = to + (x >> 8) % depth * block;
			src = from + (x >> 20) % depth * block;
			if (piece)
				move(dst, src, block, piece);
			else
				memcpy(dst, src, block);
			/* The compiler must not know that nobody reads it. */
			__asm__ volatile("" ::: "memory");
		}
		copied += 64 * block;
		end = now();
	} while (end - begin < seconds);
	printf("%.0f\n", (double)copied / (end - begin) / (1 << 20));
	return 0;
}
