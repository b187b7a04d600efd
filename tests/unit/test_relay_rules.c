/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_relay_rules.c - the relay's policy table, its memory rules and where a ring may lie
 *
 * Theory of operation: the functions that decide, without a peer. That the decisions are kept to is
 * for tests/relay/ to show.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "relay/memory.h"
#include "relay/ring.h"
#include "relay/vu.h"

#define ALL_PROTOCOL (VU_P_PASSED | VU_P_OWN)

static void g4_every_request_has_a_rule(void **state)
{
	(void)state;
	for (uint32_t request = 0; request < 1000; request++) {
		const struct vu_rule *rule = vu_rule(request);
		struct vu_msg m = {.h = {request, VU_VERSION, rule->size_min}};
		const char *why;

		assert_non_null(rule->name);
		assert_int_equal(vu_check(&m, ALL_PROTOCOL, &why) == 0, rule->reason == NULL);
		if (rule->reason)
			continue;
		/* Taken: then with the right size only, and not without its feature. */
		m.h.size = rule->size_max + 1u;
		assert_int_equal(vu_check(&m, ALL_PROTOCOL, &why), -EPROTO);
		assert_non_null(why);
		m.h.size = rule->size_min;
		m.nfds = rule->fds_max + 1u;
		assert_int_equal(vu_check(&m, ALL_PROTOCOL, &why), -EPROTO);
		m.nfds = 0;
		m.h.flags |= VU_REPLY;
		assert_int_equal(vu_check(&m, ALL_PROTOCOL, &why), -EPROTO);
		m.h.flags = VU_VERSION;
		assert_int_equal(vu_check(&m, 0, &why) == 0, rule->needs < 0);
	}
	assert_non_null(vu_rule(UINT32_MAX)->reason);
	assert_non_null(vu_rule(0)->reason);
}

static void g4_what_must_not_pass_is_refused(void **state)
{
	static const uint8_t never[] = {6,  7,	22, 23, 26, 27, 28, 29, 30,
					31, 32, 33, 35, 41, 42, 43, 44, 45};
	const uint64_t masked = VU_BIT(1) | VU_BIT(6) | VU_BIT(7) | VU_BIT(8) | VU_BIT(10) |
				VU_BIT(11) | VU_BIT(12) | VU_BIT(14) | VU_BIT(17) | VU_BIT(18) |
				VU_BIT(19) | VU_BIT(20) | VU_BIT(21) | ~(VU_BIT(22) - 1);

	(void)state;
	for (size_t i = 0; i < sizeof(never); i++)
		assert_non_null(vu_rule(never[i])->reason);
	assert_int_equal(ALL_PROTOCOL & masked, 0);
	assert_int_equal(ALL_PROTOCOL | masked, UINT64_MAX);
}

static struct memory mem;

static struct stat file(uint64_t size)
{
	struct stat st = {.st_mode = S_IFREG, .st_size = (off_t)size, .st_ino = 7};

	return st;
}

static void g6_only_whole_files_of_their_own_may_pass(void **state)
{
	struct vu_region v = {.gpa = 0x100000, .size = 0x200000, .user = 0x7f0000000000};
	struct stat st = file(0x200000);

	(void)state;
	memory_init(&mem, NULL, NULL, 0);
	assert_null(memory_rule(&mem, &v, &st, true));
	assert_non_null(memory_rule(&mem, &v, &st, false));
	v.gpa = 0xff000;
	assert_non_null(memory_rule(&mem, &v, &st, true));
	v.gpa = 0x100000;
	v.offset = 0x1000;
	assert_non_null(memory_rule(&mem, &v, &st, true));
	v.offset = 0;
	v.size = 0x1ff000;
	assert_non_null(memory_rule(&mem, &v, &st, true));
	v.size = 0x200000;
	st.st_mode = S_IFCHR;
	assert_non_null(memory_rule(&mem, &v, &st, true));
	st.st_mode = S_IFREG;
	mem.regions[5] = (struct region){.used = true, .fd = -1, .ino = 7, .v = {.gpa = 1 << 30}};
	assert_non_null(memory_rule(&mem, &v, &st, true));
	mem.regions[5].ino = 8;
	assert_null(memory_rule(&mem, &v, &st, true));
	mem.regions[5].v = (struct vu_region){.gpa = 0x2ff000, .size = 0x2000};
	assert_non_null(memory_rule(&mem, &v, &st, true));
	mem.regions[5].v.gpa = 0x300000;
	assert_null(memory_rule(&mem, &v, &st, true));
}

static void g1_translation_stays_inside_one_region(void **state)
{
	const uint64_t user = 0x7f0000000000, size = 0x10000;

	(void)state;
	memory_init(&mem, NULL, NULL, 0);
	mem.regions[3] = (struct region){
		.used = true, .fd = 0, .v = {.gpa = 0x40000000, .size = size, .user = user}};
	mem.regions[4] = (struct region){
		.used = true, .fd = 0, .v = {.gpa = 0x50000000, .size = size, .user = user + size}};
	mem.regions[5] = (struct region){
		.used = true, .fd = -1, .v = {.gpa = 0, .size = size, .user = user - size}};
	assert_ptr_equal(memory_translate(&mem, user, size), &mem.regions[3]);
	assert_ptr_equal(memory_translate(&mem, user + size - 1, 1), &mem.regions[3]);
	assert_ptr_equal(memory_translate(&mem, user + size, 1), &mem.regions[4]);
	assert_null(memory_translate(&mem, user, size + 1));
	assert_null(memory_translate(&mem, user + 1, size));
	assert_null(memory_translate(&mem, user - 1, 1));
	assert_null(memory_translate(&mem, user + 1, UINT64_MAX));
	assert_null(memory_translate(&mem, UINT64_MAX, 2));
	assert_int_equal(ring_backend_addr(&mem.regions[4], user + size + 0x123), 0x50000123);
}

/* A ring whose last byte is the region's last must be found, with one byte less it must not. */
static void last_byte(uint32_t num, uint64_t features, uint64_t avail_len, uint64_t used_len)
{
	const uint64_t user = 0x7f0000000000;
	struct ring_area area;
	struct ring r;

	ring_init(&r);
	r.num = num;
	r.desc = user;
	r.avail = user + 0x100000;
	r.used = user + 0x200000;
	for (int part = 0; part < 3; part++) {
		const uint64_t at[] = {0, 0x100000, 0x200000};
		const uint64_t len[] = {16ull * num, avail_len, used_len};

		memory_init(&mem, NULL, NULL, 0);
		for (unsigned int i = 0; i < 3; i++)
			mem.regions[i] = (struct region){
				.used = true,
				.fd = 0,
				.v = {.gpa = 0x40000000 + at[i],
				      .size = len[i],
				      .user = user + at[i]},
			};
		assert_null(ring_locate(&r, &mem, features, &area));
		mem.regions[part].v.size--;
		assert_non_null(ring_locate(&r, &mem, features, &area));
	}
}

static void g1_rings_are_measured_to_the_last_byte(void **state)
{
	(void)state;
	for (uint32_t num = 1; num <= 32768; num *= 2) {
		last_byte(num, 0, 4 + 2ull * num, 4 + 8ull * num);
		last_byte(num, VU_BIT(VIRTIO_F_EVENT_IDX), 6 + 2ull * num, 6 + 8ull * num);
		last_byte(num, VU_BIT(VIRTIO_F_PACKED), 4, 4);
	}
	last_byte(100, VU_BIT(VIRTIO_F_PACKED), 4, 4);
	assert_false(ring_check_num(100, 0));
	assert_false(ring_check_num(0, VU_BIT(VIRTIO_F_PACKED)));
	assert_false(ring_check_num(65536, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g4_every_request_has_a_rule),
		cmocka_unit_test(g4_what_must_not_pass_is_refused),
		cmocka_unit_test(g6_only_whole_files_of_their_own_may_pass),
		cmocka_unit_test(g1_translation_stays_inside_one_region),
		cmocka_unit_test(g1_rings_are_measured_to_the_last_byte),
	};

	return cmocka_run_group_tests_name("relay rules", tests, NULL, NULL);
}
