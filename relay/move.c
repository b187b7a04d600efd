/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * move.c - bytes out of a slot, which is clear afterwards
 *
 * Theory of operation
 * -------------------
 * What a device has written is copied to the guest, and its slot has to be zero again (G2). To copy
 * first and clear afterwards reads each line of the slot from the processor on which the backend
 * wrote it, and then asks for it once more, to write to it. In one loop, the store follows its load
 * so closely that the second question is hidden in the first; the clearing costs next to nothing,
 * and the whole is as fast as copying alone (docs/SHADOW.md has the figures, bench/relay/copy.c takes
 * them). That needs loads of half a line: with AVX2. Elsewhere the bytes are copied and cleared in
 * pieces as short as are worth a call.
 *
 * Both sides may change the bytes meanwhile. Nothing here looks at them.
 */
#include <string.h>

#include "move.h"

#define PIECE 512u

static void in_pieces(uint8_t *to, uint8_t *from, size_t len)
{
	while (len) {
		size_t n = len < PIECE ? len : PIECE;

		/* A compiler that sees the bound copies in line, by string instructions, which is slower
		 * than what the C library has for this processor. */
		__asm__("" : "+r"(n));
		memcpy(to, from, n);
		memset(from, 0, n);
		to += n;
		from += n;
		len -= n;
	}
}

#ifdef __x86_64__
typedef uint64_t half_line __attribute__((vector_size(32), aligned(1), may_alias));

#define LINE 64u

/* Returns how many bytes it has moved: whole lines. */
__attribute__((target("avx2"))) static size_t by_lines(uint8_t *to, uint8_t *from, size_t len)
{
	const half_line zero = {0};
	size_t at;

	for (at = 0; at + LINE <= len; at += LINE) {
		half_line low = *(const half_line *)(from + at);
		half_line high = *(const half_line *)(from + at + LINE / 2);

		*(half_line *)(to + at) = low;
		*(half_line *)(to + at + LINE / 2) = high;
		*(half_line *)(from + at) = zero;
		*(half_line *)(from + at + LINE / 2) = zero;
	}
	return at;
}
#endif

void move_and_clear(uint8_t *to, uint8_t *from, size_t len)
{
	size_t done = 0;

#ifdef __x86_64__
	if (len >= PIECE && __builtin_cpu_supports("avx2"))
		done = by_lines(to, from, len);
#endif
	in_pieces(to + done, from + done, len - done);
}
