/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_audit.c - the audit's parser, its ranges and its search
 *
 * Theory of operation: lines as Linux writes them; sets of ranges against a map of bytes; a search
 * over blocks of every size against one over the whole.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <cmocka.h>

#include "tools/audit_proc.h"

static void lines_of_maps_are_understood(void **state)
{
	struct audit_map m;

	(void)state;
	assert_true(audit_parse_map("7f3214000000-7f3234000000 rw-s 00100000 00:01 2052"
				    "                       /memfd:pool name (deleted)\n",
				    &m));
	assert_int_equal(m.start, 0x7f3214000000);
	assert_int_equal(m.end, 0x7f3234000000);
	assert_int_equal(m.offset, 0x100000);
	assert_int_equal(m.dev, makedev(0, 1));
	assert_int_equal(m.ino, 2052);
	assert_true(m.shared && m.readable && m.writable && !m.executable);
	assert_string_equal(m.name, "/memfd:pool name (deleted)");
	assert_true(audit_parse_map("55d0c0c00000-55d0c0c21000 ---p 00000000 00:00 0 \n", &m));
	assert_int_equal(m.ino, 0);
	assert_true(!m.shared && !m.readable);
	assert_string_equal(m.name, "");
	assert_true(audit_parse_map(
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]", &m));
	assert_int_equal(m.end, 0xffffffffff601000);
	assert_string_equal(m.name, "[vsyscall]");
}

static void other_lines_are_not(void **state)
{
	static char longest[2000] = "1000-2000 rw-s 0 fe:01 77 /";
	struct audit_map m;

	(void)state;
	assert_false(audit_parse_map("", &m));
	assert_false(audit_parse_map("nonsense", &m));
	assert_false(audit_parse_map("2000-1000 rw-s 0 00:01 1 x", &m));
	assert_false(audit_parse_map("1000-2000 rw 0 00:01 1 x", &m));
	assert_false(audit_parse_map("1000-2000 rw-s", &m));
	memset(longest + strlen(longest), 'x', sizeof(longest) - 1 - strlen(longest));
	assert_true(audit_parse_map(longest, &m));
	assert_int_equal(strlen(m.name), AUDIT_NAME - 1);
}

static void ranges_count_each_byte_once(void **state)
{
	struct audit_ranges a = {0}, b = {0};
	bool in_a[200] = {0}, in_b[200] = {0};
	unsigned int seed = 7;

	(void)state;
	for (int i = 0; i < 40; i++) {
		uint64_t from = (seed = seed * 1103515245 + 12345) >> 16 & 127;
		uint64_t len = (seed = seed * 1103515245 + 12345) >> 16 & 15, sum = 0;
		bool *in = i & 1 ? in_a : in_b;

		assert_true(audit_ranges_add(i & 1 ? &a : &b, from, from + len));
		for (uint64_t j = from; j < from + len; j++)
			in[j] = true;
		for (int j = 0; j < 200; j++)
			sum += in_a[j] && in_b[j];
		assert_int_equal(audit_ranges_common(&a, &b), sum);
		assert_int_equal(audit_ranges_common(&b, &a), sum);
	}
	free(a.r);
	free(b.r);
}

static void hits_on_block_borders_count_once(void **state)
{
	static const uint8_t text[] = "abababab-secretsecret-ssecret-secre", pattern[] = "abab";
	static const uint8_t secret[] = "secret";

	(void)state;
	for (size_t size = 1; size < sizeof(text); size++) {
		struct audit_scan s = {.pattern = pattern, .len = 4};
		struct audit_scan t = {.pattern = secret, .len = 6};
		struct audit_scan u = {.pattern = secret, .len = 1};

		for (size_t at = 0; at < sizeof(text) - 1; at += size) {
			size_t n = sizeof(text) - 1 - at < size ? sizeof(text) - 1 - at : size;

			audit_scan_block(&s, text + at, n);
			audit_scan_block(&t, text + at, n);
			audit_scan_block(&u, text + at, n);
		}
		assert_int_equal(s.hits, 3);
		assert_int_equal(t.hits, 3);
		assert_int_equal(u.hits, 5);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_of_maps_are_understood),
		cmocka_unit_test(other_lines_are_not),
		cmocka_unit_test(ranges_count_each_byte_once),
		cmocka_unit_test(hits_on_block_borders_count_once),
	};

	return cmocka_run_group_tests_name("audit", tests, NULL, NULL);
}
