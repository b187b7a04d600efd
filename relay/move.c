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
 * The other half of the time is for the lines of the guest's buffer, each of which is read before it is
 * written over. Where so much is in flight that the guest's processor finds none of it in its own
 * caches anyway, it is written past them ("streaming" stores), which read nothing.
 *
 * Both sides may change the bytes meanwhile. Nothing here looks at them.
 */
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

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
#define LINE 64u
#define HALF (LINE / 2)

/* Returns how many bytes it has moved: whole lines. To stream, @to has to be at the beginning of a line. */
__attribute__((target("avx2"), always_inline)) static inline size_t
by_lines(uint8_t *to, uint8_t *from, size_t len, bool stream)
{
	const __m256i zero = _mm256_setzero_si256();
	size_t at;

	for (at = 0; at + LINE <= len; at += LINE) {
		__m256i low = _mm256_loadu_si256((const void *)(from + at));
		__m256i high = _mm256_loadu_si256((const void *)(from + at + HALF));

		if (stream) {
			_mm256_stream_si256((void *)(to + at), low);
			_mm256_stream_si256((void *)(to + at + HALF), high);
		} else {
			_mm256_storeu_si256((void *)(to + at), low);
			_mm256_storeu_si256((void *)(to + at + HALF), high);
		}
		_mm256_storeu_si256((void *)(from + at), zero);
		_mm256_storeu_si256((void *)(from + at + HALF), zero);
	}
	return at;
}

/* A loop for each way, since the choice does not belong into one. */
__attribute__((target("avx2"))) static size_t through_caches(uint8_t *to, uint8_t *from, size_t len)
{
	return by_lines(to, from, len, false);
}

__attribute__((target("avx2"))) static size_t past_caches(uint8_t *to, uint8_t *from, size_t len)
{
	size_t moved = by_lines(to, from, len, true);

	/* Streaming stores are in no order with others, not even with a release: whoever is told next that
	 * the bytes are there has to find them. */
	_mm_sfence();
	return moved;
}
#endif

void move_and_clear(uint8_t *to, uint8_t *from, size_t len, bool stream)
{
	size_t done = 0;

#ifdef __x86_64__
	if (len >= PIECE && __builtin_cpu_supports("avx2")) {
		if (stream) {
			done = -(uintptr_t)to % LINE;
			in_pieces(to, from, done);
			done += past_caches(to + done, from + done, len - done);
		} else {
			done = through_caches(to, from, len);
		}
	}
#else
	(void)stream;
#endif
	in_pieces(to + done, from + done, len - done);
}
