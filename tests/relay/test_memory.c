/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_memory.c - which memory gets through the relay
 *
 * Theory of operation: a front-end that offers what must not be passed on, and a backend that
 * records by device and inode every file that reaches it. The names begin with the guarantee that
 * they try to break (THREAT-MODEL.md).
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "peer.h"

static void start(struct peers *rig)
{
	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, NULL);
	peers_connect(rig);
	fe_hello(rig);
}

static int add_ram(struct peers *rig)
{
	return fe_region(rig, VU_ADD_MEM_REG, 0, RAM_USER, 0xa0000, 0, rig->ram);
}

static void g1_private_memory_never_reaches_the_backend(void **state)
{
	struct peers *rig = *state;

	start(rig);
	assert_int_equal(add_ram(rig), 0);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, 0xc0000, RAM_USER + 0xc0000, 0x100000,
				   0xc0000, rig->ram),
			 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	assert_true(be_saw_file(rig, rig->pool));
	assert_false(be_saw_file(rig, rig->ram));
	assert_int_equal(be_count(rig, VU_ADD_MEM_REG), 1);
}

static void g1_memory_is_not_told_before_a_ring_needs_it(void **state)
{
	struct peers *rig = *state;

	start(rig);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_false(be_saw_file(rig, rig->pool));
	assert_int_equal(fe_ring(rig, 0, RAM_USER, 64), 0);
	assert_false(be_saw_file(rig, rig->pool));
	assert_int_equal(fe_ring(rig, 1, POOL_USER, 64), 0);
	assert_true(be_saw_file(rig, rig->pool));
}

static void g1_addresses_of_the_vmm_do_not_show(void **state)
{
	const uint64_t pages = POOL_USER >> 24, ram = RAM_USER >> 24;
	struct peers *rig = *state;
	const struct seen *s;
	struct vu_vring_addr addr;
	struct vu_mem_one one;

	start(rig);
	assert_int_equal(add_ram(rig), 0);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER + 0x3000, 64), 0);
	/* The high bytes, so that an address with another offset would be found too. */
	assert_false(be_saw_bytes(rig, &pages, 3));
	assert_false(be_saw_bytes(rig, &ram, 3));
	s = be_last(rig, VU_SET_VRING_ADDR);
	assert_non_null(s);
	memcpy(&addr, s->payload, sizeof(addr));
	s = be_last(rig, VU_ADD_MEM_REG);
	assert_non_null(s);
	memcpy(&one, s->payload, sizeof(one));
	assert_int_equal(one.region.gpa, POOL_GPA);
	assert_int_equal(one.region.size, POOL_BYTES);
	assert_int_equal(one.region.offset, 0);
	assert_int_equal(addr.desc - one.region.user, 0x3000);
	assert_int_equal(addr.avail - one.region.user, 0x3000 + RING_AVAIL(64));
	assert_int_equal(addr.used - one.region.user, 0x3000 + RING_USED(64));
	assert_int_equal(addr.flags, 0);
	assert_int_equal(addr.log, 0);
}

/* A refusal that ends the session: the log says why, the status is 2, the file was not seen. */
static void refused(struct peers *rig, const char *why, int fd)
{
	assert_int_equal(peers_status(rig), 2);
	assert_true(peers_logged(rig, why));
	assert_true(peers_logged(rig, "give the pool a file of its own"));
	assert_false(be_saw_file(rig, fd));
}

static void g6_part_of_a_file_is_refused(void **state)
{
	struct peers *rig = *state;

	start(rig);
	assert_int_equal(
		fe_region(rig, VU_ADD_MEM_REG, POOL_GPA, POOL_USER, POOL_BYTES / 2, 0, rig->pool),
		-1);
	refused(rig, "the region is only a part of it", rig->pool);
}

static void g6_end_of_a_file_is_refused(void **state)
{
	struct peers *rig = *state;

	start(rig);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, POOL_GPA, POOL_USER, POOL_BYTES / 2,
				   POOL_BYTES / 2, rig->pool),
			 -1);
	refused(rig, "the region is only a part of it", rig->pool);
}

static void g6_low_memory_is_refused(void **state)
{
	struct peers *rig = *state;

	start(rig);
	assert_int_equal(
		fe_region(rig, VU_ADD_MEM_REG, 0xc0000, POOL_USER, POOL_BYTES, 0, rig->pool), -1);
	refused(rig, "first MiB", rig->pool);
}

static void g6_two_regions_of_a_file_are_refused_in_a_table(void **state)
{
	struct peers *rig = *state;
	struct vu_mem_table t = {
		.nregions = 2,
		.regions = {{POOL_GPA, POOL_BYTES, POOL_USER, 0},
			    {POOL_GPA * 2, POOL_BYTES, POOL_USER * 2, 0}},
	};
	int fds[] = {rig->pool, rig->pool};

	start(rig);
	fe_send(rig, VU_SET_MEM_TABLE, 0, &t, 8 + 2 * 32, fds, 2);
	assert_true(fe_closed(rig));
	refused(rig, "another region of the guest's memory is in it", rig->pool);
}

static void g6_second_region_of_a_passed_file_ends_the_session(void **state)
{
	struct peers *rig = *state;

	start(rig);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, POOL_GPA * 2, POOL_USER * 2, POOL_BYTES, 0,
				   rig->pool),
			 -1);
	assert_int_equal(peers_status(rig), 2);
	assert_true(peers_logged(rig, "another region of the guest's memory is in it"));
	/* The backend's connection went without a word: no further message reached it. */
	assert_int_equal(be_count(rig, VU_ADD_MEM_REG), 1);
	assert_int_equal(be_count(rig, VU_GET_VRING_BASE), 0);
}

static void g6_renaming_the_file_does_not_hide_its_second_region(void **state)
{
	struct peers *rig = *state;

	start(rig);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	assert_int_equal(unlink(rig->pool_path), 0);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, 0, POOL_USER * 2, POOL_BYTES, 0, rig->pool),
			 -1);
	assert_int_equal(peers_status(rig), 2);
}

static void g6_overlapping_guest_addresses_are_refused(void **state)
{
	struct peers *rig = *state;

	start(rig);
	assert_int_equal(
		fe_region(rig, VU_ADD_MEM_REG, POOL_GPA + 4096, RAM_USER, 1u << 21, 0, rig->ram),
		0);
	assert_int_equal(fe_add_pool(rig), -1);
	refused(rig, "overlaps another region", rig->pool);
}

static void g1_memfd_of_the_name_is_shared(void **state)
{
	struct peers *rig = *state;
	int pool = make_memfd("the pool", POOL_BYTES);

	peers_backend_start(rig);
	peers_relay(rig, "--share", "memfd:the pool", NULL);
	peers_connect(rig);
	fe_hello(rig);
	assert_int_equal(add_ram(rig), 0);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, POOL_GPA, POOL_USER, POOL_BYTES, 0, pool),
			 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	assert_true(be_saw_file(rig, pool));
	assert_false(be_saw_file(rig, rig->ram));
	assert_false(peers_logged(rig, "sealed"));
	close(pool);
}

static void g6_two_memfds_of_the_name_are_refused(void **state)
{
	struct peers *rig = *state;
	int pool = make_memfd("alike", POOL_BYTES), other = make_memfd("alike", POOL_BYTES);

	peers_backend_start(rig);
	peers_relay(rig, "--share", "memfd:alike", NULL);
	peers_connect(rig);
	fe_hello(rig);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, POOL_GPA, POOL_USER, POOL_BYTES, 0, pool),
			 0);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, 0, RAM_USER, 0xa0000, 0, other), -1);
	refused(rig, "two files are called memfd:alike", other);
	assert_false(be_saw_file(rig, pool));
	close(pool);
	close(other);
}

static void g6_second_memfd_of_a_passed_name_ends_the_session(void **state)
{
	struct peers *rig = *state;
	int pool = make_memfd("alike", POOL_BYTES), other = make_memfd("alike", POOL_BYTES);

	peers_backend_start(rig);
	peers_relay(rig, "--share", "memfd:alike", NULL);
	peers_connect(rig);
	fe_hello(rig);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, POOL_GPA, POOL_USER, POOL_BYTES, 0, pool),
			 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	assert_int_equal(
		fe_region(rig, VU_ADD_MEM_REG, POOL_GPA * 2, RAM_USER, POOL_BYTES, 0, other), -1);
	refused(rig, "two files are called memfd:alike", other);
	close(pool);
	close(other);
}

static void g4_pipe_as_memory_is_refused(void **state)
{
	struct peers *rig = *state;
	int fds[2];

	start(rig);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, POOL_GPA, POOL_USER, 4096, 0, fds[0]), 1);
	assert_true(peers_logged(rig, "not memory"));
	assert_int_equal(fe_add_pool(rig), 0);
	close(fds[0]);
	close(fds[1]);
}

static void g4_wrapping_regions_are_refused(void **state)
{
	struct peers *rig = *state;

	start(rig);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, UINT64_MAX - 4095, POOL_USER, POOL_BYTES, 0,
				   rig->pool),
			 1);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, POOL_GPA, UINT64_MAX - 4095, POOL_BYTES, 0,
				   rig->pool),
			 1);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, POOL_GPA, POOL_USER, 0, 0, rig->pool), 1);
	assert_int_equal(fe_add_pool(rig), 0);
}

static void g5_moving_region_takes_its_ring_along(void **state)
{
	struct peers *rig = *state;
	struct vu_vring_addr addr;
	struct vu_vring_state base;

	start(rig);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	/* Seven requests, all of them done. */
	*(uint16_t *)(void *)(rig->mem + RING_AVAIL(64) + 2) = 7;
	*(uint16_t *)(void *)(rig->mem + RING_USED(64) + 2) = 7;
	rig->script->base = 7;
	assert_int_equal(fe_region(rig, VU_REM_MEM_REG, POOL_GPA, POOL_USER, POOL_BYTES, 0, -1), 0);
	/* The ring stops before its memory goes. */
	assert_int_equal(be_count(rig, VU_GET_VRING_BASE), 1);
	assert_int_equal(be_count(rig, VU_REM_MEM_REG), 1);
	assert_true(be_last(rig, VU_GET_VRING_BASE) < be_last(rig, VU_REM_MEM_REG));
	assert_int_equal(
		fe_region(rig, VU_ADD_MEM_REG, POOL_GPA * 3, POOL_USER, POOL_BYTES, 0, rig->pool),
		0);
	assert_int_equal(be_count(rig, VU_SET_VRING_KICK), 2);
	memcpy(&addr, be_last(rig, VU_SET_VRING_ADDR)->payload, sizeof(addr));
	memcpy(&base, be_last(rig, VU_SET_VRING_BASE)->payload, sizeof(base));
	assert_int_equal(addr.desc, POOL_GPA * 3);
	assert_int_equal(base.num, 7);
}

static void g5_private_hotplug_does_not_disturb(void **state)
{
	struct peers *rig = *state;
	unsigned int before;

	start(rig);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	before = rig->script->n;
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, POOL_GPA * 4, RAM_USER, 1u << 21, 0,
					   rig->ram),
				 0);
		assert_int_equal(fe_region(rig, VU_REM_MEM_REG, POOL_GPA * 4, RAM_USER, 1u << 21, 0,
					   i & 1 ? rig->ram : -1),
				 0);
	}
	assert_int_equal(rig->script->n, before);
}

static void g5_more_regions_than_there_is_room_are_refused(void **state)
{
	struct peers *rig = *state;

	start(rig);
	for (uint64_t i = 0; i < VU_MEM_SLOTS; i++)
		assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, i << 30, RAM_USER + (i << 30),
					   1u << 21, 0, rig->ram),
				 0);
	assert_int_equal(fe_add_pool(rig), 1);
	assert_int_equal(fe_region(rig, VU_REM_MEM_REG, 0, RAM_USER, 1u << 21, 0, -1), 0);
	assert_int_equal(
		fe_region(rig, VU_ADD_MEM_REG, POOL_GPA << 16, POOL_USER, POOL_BYTES, 0, rig->pool),
		0);
}

static void g1_table_goes_to_a_backend_without_slots(void **state)
{
	struct peers *rig = *state;
	struct vu_mem_table t = {
		.nregions = 2,
		.regions = {{0, 0xa0000, RAM_USER, 0}, {POOL_GPA, POOL_BYTES, POOL_USER, 0}},
	};
	int fds[] = {rig->ram, rig->pool};
	const struct seen *s;

	rig->script->protocol &= ~VU_BIT(VU_P_MEM_SLOTS);
	start(rig);
	fe_send(rig, VU_SET_MEM_TABLE, 0, &t, 8 + 2 * 32, fds, 2);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	s = be_last(rig, VU_SET_MEM_TABLE);
	assert_non_null(s);
	memcpy(&t, s->payload, s->size);
	assert_int_equal(t.nregions, 1);
	assert_int_equal(s->nfds, 1);
	assert_int_equal(s->size, 8 + 32);
	assert_int_equal(t.regions[0].gpa, POOL_GPA);
	assert_false(be_saw_file(rig, rig->ram));
	assert_true(be_saw_file(rig, rig->pool));
	/* The same table again changes nothing. */
	t = (struct vu_mem_table){
		.nregions = 2,
		.regions = {{0, 0xa0000, RAM_USER, 0}, {POOL_GPA, POOL_BYTES, POOL_USER, 0}},
	};
	fe_send(rig, VU_SET_MEM_TABLE, 0, &t, 8 + 2 * 32, fds, 2);
	fe_get(rig, VU_GET_FEATURES);
	assert_int_equal(be_count(rig, VU_SET_MEM_TABLE), 1);
	assert_int_equal(be_count(rig, VU_GET_VRING_BASE), 0);
	/* One without the pool takes it away, after the ring has stopped. */
	t.nregions = 1;
	fe_send(rig, VU_SET_MEM_TABLE, 0, &t, 8 + 32, fds, 1);
	fe_get(rig, VU_GET_FEATURES);
	assert_int_equal(be_count(rig, VU_GET_VRING_BASE), 1);
	s = be_last(rig, VU_SET_MEM_TABLE);
	assert_int_equal(s->size, 8);
	assert_int_equal(s->nfds, 0);
}

static void g4_table_must_match_its_fds(void **state)
{
	struct peers *rig = *state;
	struct vu_mem_table t = {.nregions = 2};

	start(rig);
	assert_int_equal(fe_ack(rig, VU_SET_MEM_TABLE, &t, 8 + 2 * 32, rig->pool), 1);
	t.nregions = UINT32_MAX;
	assert_int_equal(fe_ack(rig, VU_SET_MEM_TABLE, &t, 8 + 32, rig->pool), 1);
	assert_int_equal(fe_region(rig, VU_REM_MEM_REG, 4096, 4096, 4096, 0, -1), 1);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, 4096, 4096, 4096, 0, -1), 1);
}

static void g1_path_that_appears_later_is_shared(void **state)
{
	struct peers *rig = *state;
	char late[96];

	snprintf(late, sizeof(late), "%s.late", rig->pool_path);
	peers_backend_start(rig);
	peers_relay(rig, "--share", late, NULL);
	peers_connect(rig);
	fe_hello(rig);
	assert_int_equal(rename(rig->pool_path, late), 0);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	assert_true(be_saw_file(rig, rig->pool));
	assert_true(peers_logged(rig, "not sealed"));
	unlink(late);
}

#define T(name) cmocka_unit_test_setup_teardown(name, peers_setup, peers_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(g1_private_memory_never_reaches_the_backend),
		T(g1_memory_is_not_told_before_a_ring_needs_it),
		T(g1_addresses_of_the_vmm_do_not_show),
		T(g6_part_of_a_file_is_refused),
		T(g6_end_of_a_file_is_refused),
		T(g6_low_memory_is_refused),
		T(g6_two_regions_of_a_file_are_refused_in_a_table),
		T(g6_second_region_of_a_passed_file_ends_the_session),
		T(g6_renaming_the_file_does_not_hide_its_second_region),
		T(g6_overlapping_guest_addresses_are_refused),
		T(g1_memfd_of_the_name_is_shared),
		T(g6_two_memfds_of_the_name_are_refused),
		T(g6_second_memfd_of_a_passed_name_ends_the_session),
		T(g4_pipe_as_memory_is_refused),
		T(g4_wrapping_regions_are_refused),
		T(g5_moving_region_takes_its_ring_along),
		T(g5_private_hotplug_does_not_disturb),
		T(g5_more_regions_than_there_is_room_are_refused),
		T(g1_table_goes_to_a_backend_without_slots),
		T(g4_table_must_match_its_fds),
		T(g1_path_that_appears_later_is_shared),
	};

	return cmocka_run_group_tests_name("relay memory", tests, NULL, NULL);
}
