/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_qsd.c - a stock backend behind the relay
 *
 * Theory of operation: qemu-storage-daemon exports a disk; the test is front-end and driver in one,
 * with its ring and its buffers in the pool. It writes and reads the disk through the relay, kills
 * the daemon and starts it again. Skipped where the program is not installed.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "peer.h"

#define NUM    32u
#define SECTOR 512u
#define BUFFER 0x10000u /* of request i: at BUFFER + i * 0x1000 */

static void descriptor(struct peers *rig, uint32_t i, uint32_t offset, uint32_t len, uint16_t flags)
{
	uint8_t *d = rig->mem + 16 * i;
	const uint64_t addr = POOL_GPA + offset;
	const uint16_t next = (uint16_t)(i + 1);

	memcpy(d, &addr, 8);
	memcpy(d + 8, &len, 4);
	memcpy(d + 12, &flags, 2);
	memcpy(d + 14, &next, 2);
}

/* Make request i available: a block written or read (virtio 1.2, 5.2.6). */
static void request(struct peers *rig, uint16_t i, bool write_it, uint64_t sector)
{
	const uint32_t type = write_it, at = BUFFER + i * 0x1000u;
	uint8_t *header = rig->mem + at;
	uint16_t *a = (uint16_t *)(void *)(rig->mem + RING_AVAIL(NUM));
	const uint64_t one = 1;

	memset(header, 0, 16);
	memcpy(header, &type, 4);
	memcpy(header + 8, &sector, 8);
	header[0xfff] = 0xff;
	descriptor(rig, 3u * i, at, 16, 1);
	descriptor(rig, 3u * i + 1, at + SECTOR, SECTOR, write_it ? 1 : 3);
	descriptor(rig, 3u * i + 2, at + 0xfff, 1, 2);
	a[2 + a[1] % NUM] = (uint16_t)(3 * i);
	__atomic_store_n(&a[1], (uint16_t)(a[1] + 1), __ATOMIC_RELEASE);
	assert_int_equal(write(rig->kick, &one, sizeof(one)), sizeof(one));
}

static void wait_used(struct peers *rig, uint16_t idx)
{
	uint16_t *u = (uint16_t *)(void *)(rig->mem + RING_USED(NUM));

	for (int i = 0; i < 6000; i++) {
		if (__atomic_load_n(&u[1], __ATOMIC_ACQUIRE) == idx)
			return;
		poll(NULL, 0, 5);
	}
	fail_msg("the disk does not answer");
}

static void hello(struct peers *rig)
{
	uint64_t features, protocol;

	features = fe_get(rig, VU_GET_FEATURES);
	assert_true(features & VU_BIT(VIRTIO_F_ACCESS_PLATFORM));
	protocol = fe_get(rig, VU_GET_PROTOCOL_FEATURES);
	assert_int_equal(protocol & ~(VU_P_PASSED | VU_P_OWN), 0);
	fe_send(rig, VU_SET_PROTOCOL_FEATURES, 0, &protocol, 8, NULL, 0);
	assert_int_equal(fe_ack(rig, VU_SET_OWNER, NULL, 0, -1), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_FEATURES, VU_BIT(32) | VU_BIT(VU_F_PROTOCOL), -1),
			 0);
}

static void start(struct peers *rig)
{
	peers_qsd_start(rig);
	peers_relay(rig, "--share", rig->pool_path, "--keep", NULL);
	peers_connect(rig);
	hello(rig);
	assert_int_equal(fe_region(rig, VU_ADD_MEM_REG, 0, RAM_USER, 0xa0000, 0, rig->ram), 0);
	assert_int_equal(fe_add_pool(rig), 0);
}

static void g5_disk_works_and_survives_its_daemon(void **state)
{
	struct peers *rig = *state;
	uint16_t done = 0;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, NUM), 0);
	for (uint16_t round = 0; round < 5; round++) {
		for (uint16_t i = 0; i < 8; i++) {
			memset(rig->mem + BUFFER + i * 0x1000u + SECTOR, 0x40 + round * 8 + i,
			       SECTOR);
			request(rig, i, true, i);
		}
		done = (uint16_t)(done + 8);
		wait_used(rig, done);
		/* Some requests while it is away. */
		peers_backend_kill(rig);
		for (uint16_t i = 0; i < 8; i++) {
			memset(rig->mem + BUFFER + i * 0x1000u + SECTOR, 0, SECTOR);
			request(rig, i, false, i);
		}
		peers_qsd_start(rig);
		done = (uint16_t)(done + 8);
		wait_used(rig, done);
		for (uint16_t i = 0; i < 8; i++) {
			const uint8_t *data = rig->mem + BUFFER + i * 0x1000u;

			assert_int_equal(data[0xfff], 0);
			for (uint32_t j = 0; j < SECTOR; j++)
				assert_int_equal(data[SECTOR + j], 0x40 + round * 8 + i);
		}
	}
	assert_int_equal(fe_get_base(rig, 0), done);
}

/*
 * Stopped while its storage is slow: qemu-storage-daemon answers GET_VRING_BASE and goes on writing. When
 * the front-end has the answer nothing may be under way any more.
 */
static void g5_stopped_with_a_slow_disk(void **state)
{
	struct peers *rig = *state;
	uint32_t base;

	if (access(PEERS_QSD, X_OK))
		skip();
	rig->disk_writes = 2;
	start(rig);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, NUM), 0);
	for (uint16_t i = 0; i < 4; i++) {
		memset(rig->mem + BUFFER + i * 0x1000u + SECTOR, 0x40 + i, SECTOR);
		request(rig, i, true, i);
	}
	wait_used(rig, 1);
	base = fe_get_base(rig, 0);
	peers_check_disk(rig, 4, 0x40);
	assert_int_equal(base, 4);
	wait_used(rig, 4);
}

static void g6_ring_in_private_ram_does_not_kill_the_daemon(void **state)
{
	struct peers *rig = *state;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(fe_ring(rig, 0, RAM_USER + i * 0x1000, NUM), 0);
		assert_int_equal(fe_get_base(rig, 0), 0);
	}
	assert_int_equal(fe_ring(rig, 0, POOL_USER, NUM), 0);
	request(rig, 0, false, 0);
	wait_used(rig, 1);
	assert_int_equal(waitpid(rig->backend, NULL, WNOHANG), 0);
}

static void g5_next_front_end_gets_the_disk(void **state)
{
	struct peers *rig = *state;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig);
	for (uint16_t i = 1; i <= 3; i++) {
		assert_int_equal(fe_ring(rig, 0, POOL_USER, NUM), 0);
		request(rig, 0, false, 0);
		wait_used(rig, 1);
		peers_connect(rig);
		memset(rig->mem, 0, POOL_BYTES);
		hello(rig);
		assert_int_equal(fe_add_pool(rig), 0);
	}
}

static void g5_moved_pool_keeps_the_disk(void **state)
{
	struct peers *rig = *state;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, NUM), 0);
	request(rig, 0, false, 0);
	wait_used(rig, 1);
	for (uint16_t i = 2; i <= 5; i++) {
		assert_int_equal(
			fe_region(rig, VU_REM_MEM_REG, POOL_GPA, POOL_USER, POOL_BYTES, 0, -1), 0);
		request(rig, 0, false, 0);
		assert_int_equal(fe_add_pool(rig), 0);
		wait_used(rig, i);
	}
}

/* A process that makes a system call has to be running for it, and this one never is. */
static void g5_requests_do_not_wake_the_relay(void **state)
{
	struct peers *rig = *state;
	unsigned long before;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, NUM), 0);
	request(rig, 0, false, 0);
	wait_used(rig, 1);
	/* It may not have come to rest after the last message yet. */
	do {
		before = rig_switches(rig->relay);
		poll(NULL, 0, 200);
	} while (rig_switches(rig->relay) != before);
	for (uint16_t i = 2; i <= 500; i++) {
		request(rig, 0, i & 1, 0);
		wait_used(rig, i);
	}
	assert_int_equal(rig_switches(rig->relay), before);
}

#define T(name) cmocka_unit_test_setup_teardown(name, peers_setup, peers_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(g5_disk_works_and_survives_its_daemon),
		T(g5_stopped_with_a_slow_disk),
		T(g6_ring_in_private_ram_does_not_kill_the_daemon),
		T(g5_next_front_end_gets_the_disk),
		T(g5_moved_pool_keeps_the_disk),
		T(g5_requests_do_not_wake_the_relay),
	};

	return cmocka_run_group_tests_name("a stock backend", tests, NULL, NULL);
}
