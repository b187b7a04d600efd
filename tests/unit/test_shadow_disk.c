/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_shadow_disk.c - shadow mode in front of qemu-storage-daemon
 *
 * Theory of operation
 * -------------------
 * The test is VMM and guest: rig->mem is all of the guest's memory, with a ring and buffers in it.
 * It writes and reads the disk, in every layout of ring and chain, kills the daemon at any moment
 * and starts it again, stops and starts the ring, changes the memory. Skipped where the program is
 * not installed.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "peer.h"

#define NUM    64u
#define SECTOR 512u
#define BUFFER 0x10000u /* of request i: at BUFFER + i * STRIDE */
#define STRIDE 0x2000u

/* The driver's side of the ring. */
static struct {
	bool packed;
	bool indirect;
	uint16_t next; /* split: avail index; packed: position */
	bool wrap;
	uint16_t used; /* split: used index seen; packed: position */
	bool used_wrap;
	uint64_t data; /* all data there, if not 0 */
} drv;

static void put(uint8_t *d, uint64_t addr, uint32_t len, uint16_t low, uint16_t high)
{
	memcpy(d, &addr, 8);
	memcpy(d + 8, &len, 4);
	memcpy(d + 12, &low, 2);
	memcpy(d + 14, &high, 2);
}

static uint16_t avail_flags(void)
{
	return drv.wrap ? 0x80 : 0x8000;
}

static void step(uint16_t *at, bool *wrap, uint16_t by)
{
	*at = (uint16_t)(*at + by);
	if (*at >= NUM) {
		*at = (uint16_t)(*at - NUM);
		*wrap = !*wrap;
	}
}

/* Make request i available: a block of @len bytes written or read, the data in two segments. */
static void request(struct peers *rig, uint16_t i, bool write_it, uint64_t sector, uint32_t len)
{
	const uint32_t type = write_it, at = BUFFER + i * STRIDE;
	const uint64_t gpa = POOL_GPA + at, one = 1;
	const uint16_t data = write_it ? 0 : 2, chain = 1;
	uint8_t *header = rig->mem + at, *table;
	struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags;
	} d[4] = {
		{gpa, 16, 0},
		{gpa + SECTOR, len / 2, data},
		{gpa + SECTOR + len / 2, len - len / 2, data},
		{gpa + STRIDE - 1, 1, 2},
	};

	if (drv.data) {
		d[1].addr = drv.data;
		d[2].addr = drv.data + len / 2;
	}
	memset(header, 0, 16);
	memcpy(header, &type, 4);
	memcpy(header + 8, &sector, 8);
	header[STRIDE - 1] = 0xff;
	if (drv.indirect)
		table = header + 64;
	else
		table = rig->mem + (drv.packed ? 0 : 16 * 4u * i);
	for (uint16_t k = 0; k < 4; k++) {
		uint16_t next = k < 3 ? chain : 0, base = drv.indirect ? 0 : (uint16_t)(4 * i);

		if (!drv.packed)
			put(table + 16 * k, d[k].addr, d[k].len, d[k].flags | next,
			    next ? (uint16_t)(base + k + 1) : 0);
		else if (drv.indirect)
			put(table + 16 * k, d[k].addr, d[k].len, 0, d[k].flags);
	}
	if (!drv.packed) {
		uint16_t *a = (uint16_t *)(void *)(rig->mem + RING_AVAIL(NUM));

		if (drv.indirect)
			put(rig->mem + 16 * i, gpa + 64, 64, 4, 0);
		a[2 + drv.next % NUM] = (uint16_t)(drv.indirect ? i : 4 * i);
		drv.next++;
		__atomic_store_n(&a[1], drv.next, __ATOMIC_RELEASE);
	} else if (drv.indirect) {
		uint8_t *slot = rig->mem + 16 * drv.next;

		put(slot, gpa + 64, 64, i, 0);
		__atomic_store_n((uint16_t *)(void *)(slot + 14), (uint16_t)(avail_flags() | 4),
				 __ATOMIC_RELEASE);
		step(&drv.next, &drv.wrap, 1);
	} else {
		uint8_t *first = rig->mem + 16 * drv.next;
		uint16_t first_flags = (uint16_t)(avail_flags() | d[0].flags | 1);

		put(first, d[0].addr, d[0].len, i, (uint16_t)(first_flags ^ 0x8080));
		step(&drv.next, &drv.wrap, 1);
		for (uint16_t k = 1; k < 4; k++) {
			put(rig->mem + 16 * drv.next, d[k].addr, d[k].len, i,
			    (uint16_t)(avail_flags() | d[k].flags | (k < 3)));
			step(&drv.next, &drv.wrap, 1);
		}
		__atomic_store_n((uint16_t *)(void *)(first + 14), first_flags, __ATOMIC_RELEASE);
	}
	assert_int_equal(write(rig->kick, &one, sizeof(one)), sizeof(one));
}

static bool one_used(struct peers *rig)
{
	if (!drv.packed) {
		const uint16_t *u = (const uint16_t *)(void *)(rig->mem + RING_USED(NUM));

		if (__atomic_load_n(&u[1], __ATOMIC_ACQUIRE) == drv.used)
			return false;
		drv.used++;
	} else {
		const uint16_t *flags = (const uint16_t *)(void *)(rig->mem + 16 * drv.used + 14);
		uint16_t f = __atomic_load_n(flags, __ATOMIC_ACQUIRE);

		if (!!(f & 0x80) != drv.used_wrap || !!(f & 0x8000) != drv.used_wrap)
			return false;
		step(&drv.used, &drv.used_wrap, drv.indirect ? 1 : 4);
	}
	return true;
}

static void wait_used(struct peers *rig, unsigned int n)
{
	for (int i = 0; i < 6000 && n;) {
		if (one_used(rig)) {
			n--;
			continue;
		}
		poll(NULL, 0, 5);
		i++;
	}
	if (n)
		fail_msg("the disk does not answer: %u are missing", n);
}

static int ring(struct peers *rig, uint32_t base)
{
	struct vu_vring_addr addr = {
		.desc = POOL_USER,
		.avail = POOL_USER + RING_AVAIL(NUM),
		.used = POOL_USER + RING_USED(NUM),
	};

	assert_int_equal(fe_ack_u64(rig, VU_SET_VRING_CALL, 0, rig->call), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_VRING_ERR, 0, rig->err), 0);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_NUM, 0, NUM), 0);
	assert_int_equal(fe_ack_state(rig, VU_SET_VRING_BASE, 0, base), 0);
	assert_int_equal(fe_ack(rig, VU_SET_VRING_ADDR, &addr, sizeof(addr), -1), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_VRING_KICK, 0, rig->kick), 0);
	return fe_ack_state(rig, VU_SET_VRING_ENABLE, 0, 1);
}

static void hello(struct peers *rig)
{
	uint64_t features = fe_get(rig, VU_GET_FEATURES), protocol;
	uint64_t want =
		VU_BIT(VIRTIO_F_VERSION_1) | VU_BIT(VU_F_PROTOCOL) | VU_BIT(VIRTIO_F_INDIRECT);

	assert_true(features & VU_BIT(VIRTIO_F_PACKED));
	if (drv.packed)
		want |= VU_BIT(VIRTIO_F_PACKED);
	protocol = fe_get(rig, VU_GET_PROTOCOL_FEATURES);
	fe_send(rig, VU_SET_PROTOCOL_FEATURES, 0, &protocol, 8, NULL, 0);
	assert_int_equal(fe_ack(rig, VU_SET_OWNER, NULL, 0, -1), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_FEATURES, want, -1), 0);
}

static uint32_t base_of_reset(void)
{
	return drv.packed ? 0x80008000u : 0;
}

static void start(struct peers *rig, bool packed, bool indirect)
{
	memset(&drv, 0, sizeof(drv));
	drv.packed = packed;
	drv.indirect = indirect;
	drv.wrap = drv.used_wrap = true;
	peers_qsd_start(rig);
	peers_relay_shadow(rig, "--keep", NULL);
	peers_connect(rig);
	hello(rig);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(ring(rig, base_of_reset()), 0);
}

static uint8_t *data_of(struct peers *rig, uint16_t i)
{
	return rig->mem + BUFFER + i * STRIDE + SECTOR;
}

static void check(struct peers *rig, uint16_t i, uint32_t len, uint8_t want)
{
	assert_int_equal(data_of(rig, i)[-(int)SECTOR + (int)STRIDE - 1], 0);
	for (uint32_t j = 0; j < len; j++)
		assert_int_equal(data_of(rig, i)[j], want);
}

/* Every layout, over many laps of the ring. */
static void all_layouts(struct peers *rig, bool packed, bool indirect)
{
	start(rig, packed, indirect);
	for (uint8_t round = 1; round < 30; round++) {
		uint32_t len = SECTOR * (round % 8 + 1u);

		for (uint16_t i = 0; i < 8; i++) {
			memset(data_of(rig, i), round * 8 + i, len);
			request(rig, i, true, i * 16u, len);
		}
		wait_used(rig, 8);
		for (uint16_t i = 0; i < 8; i++) {
			memset(data_of(rig, i), 0, len);
			request(rig, i, false, i * 16u, len);
		}
		wait_used(rig, 8);
		for (uint16_t i = 0; i < 8; i++)
			check(rig, i, len, (uint8_t)(round * 8 + i));
	}
}

#define LAYOUT(name, packed, indirect)                                                             \
	static void name(void **state)                                                             \
	{                                                                                          \
		if (access(PEERS_QSD, X_OK))                                                       \
			skip();                                                                    \
		all_layouts(*state, packed, indirect);                                             \
	}
LAYOUT(g4_split_ring, false, false)
LAYOUT(g4_split_ring_with_indirect_tables, false, true)
LAYOUT(g4_packed_ring, true, false)
LAYOUT(g4_packed_ring_with_indirect_tables, true, true)

/* Killed at any moment, with requests of which some are done: none is lost. */
static void survive(struct peers *rig, bool packed)
{
	start(rig, packed, true);
	for (uint8_t round = 1; round <= 8; round++) {
		for (uint16_t i = 0; i < 8; i++) {
			memset(data_of(rig, i), round * 8 + i, SECTOR);
			request(rig, i, true, i, SECTOR);
		}
		if (round % 2)
			poll(NULL, 0, round);
		peers_backend_kill(rig);
		peers_qsd_start(rig);
		wait_used(rig, 8);
		peers_backend_kill(rig);
		for (uint16_t i = 0; i < 8; i++) {
			memset(data_of(rig, i), 0, SECTOR);
			request(rig, i, false, i, SECTOR);
		}
		peers_qsd_start(rig);
		wait_used(rig, 8);
		for (uint16_t i = 0; i < 8; i++)
			check(rig, i, SECTOR, (uint8_t)(round * 8 + i));
	}
}

static void g5_dead_daemon_loses_nothing(void **state)
{
	if (access(PEERS_QSD, X_OK))
		skip();
	survive(*state, false);
}

static void g5_dead_daemon_loses_nothing_packed(void **state)
{
	if (access(PEERS_QSD, X_OK))
		skip();
	survive(*state, true);
}

/* Stopped while there is no daemon: what was in flight is in the guest's ring again. */
static void g5_stopped_without_a_daemon(void **state)
{
	struct peers *rig = *state;
	uint32_t base;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig, false, true);
	request(rig, 0, false, 0, SECTOR);
	wait_used(rig, 1);
	/* Held, so that they are in flight when it is killed. */
	kill(rig->backend, SIGSTOP);
	for (uint16_t i = 0; i < 5; i++)
		request(rig, i, false, 0, SECTOR);
	poll(NULL, 0, 100);
	peers_backend_kill(rig);
	base = fe_get_base(rig, 0);
	assert_int_equal(base, 1);
	peers_qsd_start(rig);
	assert_int_equal(ring(rig, base), 0);
	wait_used(rig, 5);
	assert_int_equal(fe_get_base(rig, 0), 6);
}

/*
 * Stopped while its storage is slow: qemu-storage-daemon answers GET_VRING_BASE and goes on writing. When
 * the front-end has the answer, which lets the guest run elsewhere, nothing may be under way any more.
 */
static void g5_stopped_with_a_slow_disk(void **state)
{
	struct peers *rig = *state;
	uint32_t base;

	if (access(PEERS_QSD, X_OK))
		skip();
	rig->disk_writes = 1;
	start(rig, false, true);
	for (uint16_t i = 0; i < 4; i++) {
		memset(data_of(rig, i), 0x40 + i, SECTOR);
		request(rig, i, true, i, SECTOR);
	}
	wait_used(rig, 1);
	base = fe_get_base(rig, 0);
	peers_check_disk(rig, 4, 0x40);
	assert_int_equal(base, 4);
	wait_used(rig, 3);
}

/* The ring's memory goes and comes back elsewhere, while requests are made. */
static void g5_memory_moves(void **state)
{
	struct peers *rig = *state;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig, false, true);
	request(rig, 0, false, 0, SECTOR);
	wait_used(rig, 1);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(
			fe_region(rig, VU_REM_MEM_REG, POOL_GPA, POOL_USER, POOL_BYTES, 0, -1), 0);
		request(rig, 0, false, 0, SECTOR);
		assert_int_equal(fe_add_pool(rig), 0);
		wait_used(rig, 1);
	}
}

/* Reset at any moment: the next driver begins with an empty ring. */
static void g5_reset_at_any_moment(void **state)
{
	struct peers *rig = *state;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig, false, true);
	for (int round = 0; round < 10; round++) {
		for (uint16_t i = 0; i < 8; i++)
			request(rig, i, false, i, SECTOR);
		if (round % 2)
			poll(NULL, 0, 1);
		fe_get_base(rig, 0);
		memset(rig->mem, 0, BUFFER);
		drv.next = drv.used = 0;
		assert_int_equal(ring(rig, 0), 0);
		request(rig, 9, false, 0, SECTOR);
		wait_used(rig, 1);
		assert_int_equal(one_used(rig), false);
	}
}

/* More in flight than the pool holds: what does not fit waits in the ring, and all is done. */
static void full_pool(struct peers *rig, const char *most)
{
	const uint32_t big = 0x40000;

	memset(&drv, 0, sizeof(drv));
	drv.indirect = drv.wrap = drv.used_wrap = true;
	peers_qsd_start(rig);
	peers_relay_shadow(rig, "--pool-size", "2M", "--pool-max", most, NULL);
	peers_connect(rig);
	hello(rig);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(ring(rig, 0), 0);
	for (int round = 0; round < 5; round++) {
		kill(rig->backend, SIGSTOP);
		for (uint16_t i = 0; i < 16; i++) {
			drv.data = POOL_GPA + 0x80000;
			request(rig, i, false, 0, big);
		}
		poll(NULL, 0, 20);
		kill(rig->backend, SIGCONT);
		wait_used(rig, 16);
		for (uint16_t i = 0; i < 16; i++)
			check(rig, i, 0, 0);
	}
}

/* With the least pool there is: what the disk says that may be asked for at once fits. */
static void g5_the_largest_request_fits(void **state)
{
	struct vu_config c = {.size = 60};
	struct peers *rig = *state;
	uint32_t size_max, seg_max, len;
	struct vu_msg m;
	uint8_t *data = rig->mem + 0x80000;

	if (access(PEERS_QSD, X_OK))
		skip();
	memset(&drv, 0, sizeof(drv));
	drv.indirect = true;
	peers_qsd_start(rig);
	peers_relay_shadow(rig, "--pool-size", "2M", "--pool-max", "2M", NULL);
	peers_connect(rig);
	hello(rig);
	fe_send(rig, VU_GET_CONFIG, 0, &c, VU_CONFIG_HEAD + c.size, NULL, 0);
	assert_true(fe_recv(rig, &m));
	memcpy(&size_max, m.p.config.region + 8, sizeof(size_max));
	memcpy(&seg_max, m.p.config.region + 12, sizeof(seg_max));
	/* Or there would be nothing that anybody holds to. */
	assert_in_range((uint64_t)size_max * seg_max, 0x40000, 0x80000);
	len = size_max * seg_max;
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(ring(rig, 0), 0);
	drv.data = POOL_GPA + 0x80000;
	memset(data, 0x77, len);
	request(rig, 0, true, 0, len);
	wait_used(rig, 1);
	memset(data, 0, len);
	request(rig, 0, false, 0, len);
	wait_used(rig, 1);
	check(rig, 0, 0, 0);
	for (uint32_t i = 0; i < len; i++)
		assert_int_equal(data[i], 0x77);
}

static void g5_full_pool(void **state)
{
	if (access(PEERS_QSD, X_OK))
		skip();
	full_pool(*state, "2M");
}

static void g5_full_pool_grows(void **state)
{
	if (access(PEERS_QSD, X_OK))
		skip();
	full_pool(*state, "16M");
}

/* The relay dies, and the front-end goes on with another one and the in-flight buffer. */
static void g5_dead_relay_loses_nothing(void **state)
{
	struct peers *rig = *state;
	struct vu_inflight v = {.queues = 1, .num = NUM};
	const uint16_t *u = (const uint16_t *)(void *)(rig->mem + RING_USED(NUM));
	struct vu_msg m;
	int fd;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig, false, true);
	assert_int_equal(fe_get_base(rig, 0), 0);
	fe_send(rig, VU_GET_INFLIGHT_FD, 0, &v, sizeof(v), NULL, 0);
	assert_true(fe_recv(rig, &m));
	fd = vu_take_fd(&m);
	assert_true(fd >= 0);
	v = m.p.inflight;
	assert_true(v.bytes >= 16 * NUM);
	assert_int_equal(fe_ack(rig, VU_SET_INFLIGHT_FD, &v, sizeof(v), fd), 0);
	assert_int_equal(ring(rig, 0), 0);
	for (uint8_t round = 1; round <= 6; round++) {
		for (uint16_t i = 0; i < 8; i++) {
			memset(data_of(rig, i), round * 8 + i, SECTOR);
			request(rig, i, true, i, SECTOR);
		}
		if (round % 2)
			poll(NULL, 0, round);
		kill(rig->relay, SIGKILL);
		waitpid(rig->relay, NULL, 0);
		unlink(rig->front);
		peers_relay_shadow(rig, "--keep", NULL);
		peers_connect(rig);
		hello(rig);
		assert_int_equal(fe_add_pool(rig), 0);
		assert_int_equal(fe_ack(rig, VU_SET_INFLIGHT_FD, &v, sizeof(v), fd), 0);
		assert_int_equal(ring(rig, u[1]), 0);
		wait_used(rig, 8);
		assert_int_equal(one_used(rig), false);
		for (uint16_t i = 0; i < 8; i++) {
			memset(data_of(rig, i), 0, SECTOR);
			request(rig, i, false, i, SECTOR);
		}
		wait_used(rig, 8);
		for (uint16_t i = 0; i < 8; i++)
			check(rig, i, SECTOR, (uint8_t)(round * 8 + i));
	}
	close(fd);
}

static bool bit(const uint8_t *map, uint64_t gpa)
{
	return map[gpa >> 15] >> (gpa >> 12 & 7) & 1;
}

/* Live migration: what is written is logged, and nothing else. */
static void g3_written_pages_are_logged(void **state)
{
	const uint64_t bytes = (POOL_GPA + POOL_BYTES) >> 15;
	const struct vu_log log = {.bytes = bytes};
	const uint64_t features =
		VU_BIT(VIRTIO_F_VERSION_1) | VU_BIT(VU_F_PROTOCOL) | VU_BIT(VIRTIO_F_INDIRECT);
	struct peers *rig = *state;
	int fd = make_memfd("log", bytes);
	uint8_t *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unsigned int pages = 0;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig, false, true);
	request(rig, 0, false, 0, 3 * SECTOR);
	wait_used(rig, 1);
	fe_send(rig, VU_SET_LOG_BASE, 0, &log, sizeof(log), &fd, 1);
	assert_true(fe_recv(rig, &(struct vu_msg){0}));
	assert_int_equal(fe_ack_u64(rig, VU_SET_FEATURES, features | VU_BIT(VHOST_F_LOG_ALL), -1),
			 0);
	request(rig, 3, false, 0, 3 * SECTOR);
	wait_used(rig, 1);
	assert_int_equal(fe_ack_u64(rig, VU_SET_FEATURES, features, -1), 0);
	assert_true(bit(map, POOL_GPA + RING_USED(NUM)));
	assert_true(bit(map, POOL_GPA + BUFFER + 3 * STRIDE + SECTOR));
	assert_true(bit(map, POOL_GPA + BUFFER + 4 * STRIDE - 1));
	for (uint64_t at = 0; at < bytes; at++)
		pages += (unsigned int)__builtin_popcount(map[at]);
	/* The ring is in one page or two. */
	assert_in_range(pages, 3, 4);
	request(rig, 5, false, 0, SECTOR);
	wait_used(rig, 1);
	assert_false(bit(map, POOL_GPA + BUFFER + 5 * STRIDE + SECTOR));
	munmap(map, bytes);
	close(fd);
}

static void g5_idle_relay_sleeps(void **state)
{
	struct peers *rig = *state;
	unsigned long before;

	if (access(PEERS_QSD, X_OK))
		skip();
	start(rig, false, true);
	request(rig, 0, false, 0, SECTOR);
	wait_used(rig, 1);
	/* The alarm of the last signal may still come. */
	poll(NULL, 0, 1500);
	before = rig_switches(rig->relay);
	poll(NULL, 0, 1000);
	assert_int_equal(rig_switches(rig->relay), before);
}

#define T(name) cmocka_unit_test_setup_teardown(name, peers_setup, peers_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(g4_split_ring),
		T(g4_split_ring_with_indirect_tables),
		T(g4_packed_ring),
		T(g4_packed_ring_with_indirect_tables),
		T(g5_dead_daemon_loses_nothing),
		T(g5_dead_daemon_loses_nothing_packed),
		T(g5_stopped_without_a_daemon),
		T(g5_stopped_with_a_slow_disk),
		T(g5_memory_moves),
		T(g5_reset_at_any_moment),
		T(g5_full_pool),
		T(g5_full_pool_grows),
		T(g5_the_largest_request_fits),
		T(g5_dead_relay_loses_nothing),
		T(g3_written_pages_are_logged),
		T(g5_idle_relay_sleeps),
	};

	return cmocka_run_group_tests_name("shadow mode and a stock disk", tests, NULL, NULL);
}
