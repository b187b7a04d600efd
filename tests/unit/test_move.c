/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_move.c - copying out of a slot and clearing it (G2)
 *
 * Theory of operation: relay/move.c works on whole lines where it can and on the rest otherwise, so
 * what can go wrong is at the ends. Every length up to a few lines beyond where the ways part, at
 * every offset within a line on either side, through the caches and past them: all bytes arrive,
 * none of them stays, and nothing beside them changes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "relay/move.h"

#define LINE   64u
#define LENGTH (1024u + 3 * LINE)
#define BYTES  (LENGTH + 2 * LINE)

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i % 251 + 1);
}

static void try_one(size_t to_at, size_t from_at, size_t len, bool stream)
{
	_Alignas(64) static uint8_t to[BYTES], from[BYTES];

	memset(to, 0xee, sizeof(to));
	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = pattern(i);
	move_and_clear(to + to_at, from + from_at, len, stream);
	for (size_t i = 0; i < BYTES; i++) {
		size_t in_to = i - to_at, in_from = i - from_at;

		assert_int_equal(to[i], in_to < len ? pattern(from_at + in_to) : 0xee);
		assert_int_equal(from[i], in_from < len ? 0 : pattern(i));
	}
}

static void try(size_t to_at, size_t from_at, size_t len)
{
	try_one(to_at, from_at, len, false);
	try_one(to_at, from_at, len, true);
}

static void g2_all_is_moved_and_nothing_stays(void **state)
{
	(void)state;
	for (size_t len = 0; len <= LENGTH; len++)
		try(len * 7 % LINE, len * 13 % LINE, len);
	for (size_t at = 0; at < LINE; at++) {
		try(at, 0, 1024 + 33);
		try(0, at, 1024 + 33);
		try(at, LINE - 1 - at, 1024);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(g2_all_is_moved_and_nothing_stays)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
