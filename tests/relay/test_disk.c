/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_disk.c - a disk's guest is told to ask for no more at once than the pool holds
 *
 * Theory of operation: the backend is a script that answers with a configuration space; the test is the
 * front-end, and looks at what is offered and told. That such a request then fits is tried with a stock
 * backend (test_shadow_disk.c).
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "peer.h"

#define DISK	    (VU_BIT(2) | VU_BIT(6)) /* SEG_MAX, BLK_SIZE */
#define SIZE_MAX_OF VU_BIT(1)
#define SMALL	    (UINT32_C(2) << 20)

static void start(struct peers *rig, uint64_t features, const char *pool)
{
	rig->script->features = QEMU_FEATURES | features;
	rig->script->protocol = QEMU_PROTOCOL;
	peers_backend_start(rig);
	peers_relay_shadow(rig, "--pool-size", pool, "--pool-max", pool, NULL);
	peers_connect(rig);
	fe_hello(rig);
}

static struct vu_config config(struct peers *rig, uint32_t offset, uint32_t size)
{
	struct vu_config c = {.offset = offset, .size = size};
	struct vu_msg m;

	fe_send(rig, VU_GET_CONFIG, 0, &c, VU_CONFIG_HEAD + size, NULL, 0);
	assert_true(fe_recv(rig, &m));
	assert_int_equal(m.h.size, VU_CONFIG_HEAD + size);
	return m.p.config;
}

static uint32_t u32_at(const struct vu_config *c, uint32_t at)
{
	uint32_t value;

	memcpy(&value, c->region + at, sizeof(value));
	return value;
}

/* All but the two fields is the backend's. */
static void others_are_as_they_were(const struct vu_config *c)
{
	for (uint32_t i = 0; i < c->size; i++)
		if (i < 8 || i >= 16)
			assert_int_equal(c->region[i], 0x5a);
}

static void g5_a_disk_asks_for_no_more_than_the_pool_holds(void **state)
{
	struct peers *rig = *state;
	struct vu_config c;
	uint32_t size_max, seg_max;

	start(rig, DISK, "2M");
	assert_true(fe_get(rig, VU_GET_FEATURES) & SIZE_MAX_OF);
	c = config(rig, 0, 60);
	others_are_as_they_were(&c);
	size_max = u32_at(&c, 8);
	seg_max = u32_at(&c, 12);
	assert_true(size_max >= 4096 && size_max % 4096 == 0);
	assert_true(seg_max >= 64);
	assert_true((uint64_t)size_max * seg_max <= SMALL / 4);
	/* As much as it can be, too. */
	assert_true((uint64_t)size_max * seg_max > SMALL / 4 - 8192);
}

/* A front-end may read the fields one by one, or a part of one. */
static void g5_whatever_part_of_the_configuration_is_read(void **state)
{
	struct peers *rig = *state;
	struct vu_config all, c;

	start(rig, DISK, "2M");
	all = config(rig, 0, 60);
	for (uint32_t from = 0; from < 20; from++) {
		for (uint32_t size = 1; size <= 9; size += 4) {
			c = config(rig, from, size);
			assert_memory_equal(c.region, all.region + from, size);
		}
	}
}

static void g5_the_disks_own_limits_stand_where_they_fit(void **state)
{
	struct peers *rig = *state;
	struct vu_config c;

	rig->script->limits[0] = 8192;
	rig->script->limits[1] = 30;
	start(rig, DISK | SIZE_MAX_OF, "64M");
	c = config(rig, 0, 60);
	others_are_as_they_were(&c);
	assert_int_equal(u32_at(&c, 8), 8192);
	assert_int_equal(u32_at(&c, 12), 30);
}

/* What the relay has added is between it and the guest. */
static void g4_the_disk_hears_of_no_feature_that_it_has_not_offered(void **state)
{
	struct peers *rig = *state;
	uint64_t told;

	start(rig, DISK, "2M");
	assert_int_equal(
		fe_ack_u64(rig, VU_SET_FEATURES,
			   VU_BIT(VIRTIO_F_VERSION_1) | VU_BIT(VU_F_PROTOCOL) | DISK | SIZE_MAX_OF,
			   -1),
		0);
	be_wait(rig, VU_SET_FEATURES, 1);
	memcpy(&told, be_last(rig, VU_SET_FEATURES)->payload, sizeof(told));
	assert_false(told & SIZE_MAX_OF);
	assert_int_equal(told & DISK, DISK);
}

static void untouched(struct peers *rig)
{
	struct vu_config c;

	assert_false(fe_get(rig, VU_GET_FEATURES) & SIZE_MAX_OF);
	c = config(rig, 0, 60);
	others_are_as_they_were(&c);
	assert_int_equal(u32_at(&c, 8), 0x5a5a5a5a);
	assert_int_equal(u32_at(&c, 12), 0x5a5a5a5a);
}

static void g4_what_is_no_disk_is_left_alone(void **state)
{
	struct peers *rig = *state;

	start(rig, VU_BIT(2), "2M");
	untouched(rig);
}

static void g4_nor_is_a_network_card(void **state)
{
	struct peers *rig = *state;

	/* CTRL_GUEST_OFFLOADS, GSO, and MAC, CTRL_VQ, CTRL_RX. */
	start(rig, DISK | VU_BIT(5) | VU_BIT(17) | VU_BIT(18), "2M");
	untouched(rig);
}

static void g4_nor_a_disk_in_filter_mode(void **state)
{
	struct peers *rig = *state;

	rig->script->features = QEMU_FEATURES | DISK;
	rig->script->protocol = QEMU_PROTOCOL;
	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, NULL);
	peers_connect(rig);
	fe_hello(rig);
	untouched(rig);
}

/* In mode shadow, too, a change is passed on; and what the guest reads then is lowered again. */
static void g5_a_disk_that_has_changed_says_so(void **state)
{
	struct peers *rig = *state;
	struct vu_config c;
	struct vu_msg m;
	int channel[2];

	rig->script->channel_request = VU_BACKEND_CONFIG_CHANGE;
	start(rig, DISK, "2M");
	c = config(rig, 0, 60);
	assert_true(u32_at(&c, 12) >= 64);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), 0);
	assert_int_equal(fe_ack(rig, VU_SET_BACKEND_REQ_FD, NULL, 0, channel[1]), 0);
	rig->script->limits[0] = 1u << 16;
	rig->script->limits[1] = 4;
	/* The script says it when a ring is enabled. */
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 16), 0);
	assert_int_equal(vu_recv(channel[0], &m, 10000), 0);
	assert_int_equal(m.h.request, VU_BACKEND_CONFIG_CHANGE);
	assert_int_equal(m.h.size, 0);
	assert_int_equal(m.nfds, 0);
	c = config(rig, 0, 60);
	assert_int_equal(u32_at(&c, 12), 4);
	assert_true((uint64_t)u32_at(&c, 8) * 4 <= SMALL / 4);
	close(channel[0]);
	close(channel[1]);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, peers_setup, peers_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(g5_a_disk_that_has_changed_says_so),
		TEST(g5_a_disk_asks_for_no_more_than_the_pool_holds),
		TEST(g5_whatever_part_of_the_configuration_is_read),
		TEST(g5_the_disks_own_limits_stand_where_they_fit),
		TEST(g4_the_disk_hears_of_no_feature_that_it_has_not_offered),
		TEST(g4_what_is_no_disk_is_left_alone),
		TEST(g4_nor_is_a_network_card),
		TEST(g4_nor_a_disk_in_filter_mode),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
