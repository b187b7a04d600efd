/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_hugetlb.c - mode shadow with its pool on huge pages
 *
 * Theory of operation: huge pages are reserved for the time of a test (huge.h). What becomes of a pool whose pages are
 * somebody else's is seen by having the test take them first. A pool that grows is told part by part, so the backend here takes them,
 * refuses them, leaves over them, or says nothing for long. Names begin with the guarantee (THREAT-MODEL.md).
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "huge.h"
#include "lane.h"
#include "pair.h"

static int teardown(void **state)
{
	int rc = pair_teardown(state);

	if (!huge_end()) {
		printf("# huge pages have not been given back\n");
		return -1;
	}
	return rc;
}

static void start_relay(struct pair *p, const char *size, const char *max)
{
	char stats[96];

	snprintf(stats, sizeof(stats), "%s/stats", p->rig->dir);
	peers_relay_shadow(p->rig, "--pool-size", size, "--pool-max", max, "--hugetlb", "--keep",
			   "--stats", stats, NULL);
	peers_connect(p->rig);
	vm_up(&p->vm);
}

static void start(struct pair *p, const char *size, const char *max)
{
	device_start(&p->device);
	start_relay(p, size, max);
}

static void g5_chains_pass_and_a_dead_backend_is_survived(void **state)
{
	struct pair *p = *state;

	huge_reserve(2);
	start(p, "4M", "4M");
	pair_well(p);
	assert_int_equal(huge_free(), 0);
	p->device.script->hold = true;
	vm_echo_start(&p->vm, 0);
	device_wait(&p->device, &p->device.script->chains, 7);
	device_kill(&p->device);
	p->device.script->hold = false;
	device_start(&p->device);
	vm_echo_end(&p->vm, 0, true);
	pair_well(p);
}

/* As when a backend that was given up has not let go of the pool of before. */
static void g5_a_pool_for_which_there_is_no_memory_yet_is_waited_for(void **state)
{
	struct pair *p = *state;

	huge_reserve(2);
	huge_take(2);
	start(p, "4M", "4M");
	peers_wait_log(p->rig, "reserve huge pages");
	vm_echo_start(&p->vm, 0);
	huge_give();
	vm_echo_end(&p->vm, 0, true);
	pair_well(p);
}

/* ---- one that grows ---- */

/* A counter of --stats. */
static uint64_t counted(struct pair *p, const char *name)
{
	unsigned long value = 0;
	char path[96];
	const char *at;

	snprintf(path, sizeof(path), "%s/stats", p->rig->dir);
	at = strstr(peers_statistics(path), name);
	assert_non_null(at);
	assert_int_equal(sscanf(at + strlen(name), " %lu", &value), 1);
	return value;
}

/* How many lines of the log have the text. */
static unsigned int said(struct pair *p, const char *text)
{
	FILE *f = fopen(p->rig->log, "re");
	unsigned int n = 0;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, text) != NULL;
	fclose(f);
	return n;
}

/* As much as both rings have at once: some 5.6 MiB. */
static void offer_all(struct pair *p, struct lane lanes[VM_RINGS])
{
	for (unsigned int q = 0; q < VM_RINGS; q++) {
		for (unsigned int i = 0; i < LANE_OUT; i++)
			lane_offer(&p->vm, &lanes[q], i);
		vm_kick(&p->vm, q);
	}
}

#define BIG_TO VM_BUFFER /* where its answer goes */

/* A chain of 2.1 MiB: more than 2 MiB ever hold, less than half of 8. */
static void offer_big(struct pair *p)
{
	const struct piece pieces[] = {
		{LANE_LARGE, LANE_MAX, false},
		{LANE_LARGE, LANE_MAX, false},
		{LANE_LARGE, LANE_MAX, false},
		{BIG_TO, LANE_BACK, true},
	};

	memset(vm_at(&p->vm, BIG_TO), 0, LANE_BACK);
	vm_offer(&p->vm, 0, pieces, 4);
	vm_kick(&p->vm, 0);
}

static void take_big(struct pair *p)
{
	const uint8_t *from = vm_at(&p->vm, LANE_LARGE), *back = vm_at(&p->vm, BIG_TO);
	unsigned int right = 0;
	uint32_t id, len;

	vm_wait(&p->vm, 0, &id, &len);
	assert_int_equal(len, LANE_BACK);
	for (unsigned int i = 0; i < LANE_BACK; i++)
		right += back[i] == (from[i] ^ 0xa5);
	assert_int_equal(right, LANE_BACK);
}

/* More than the first part holds is with the device at once; all of it is right, and so is what a new backend gets. */
static void g5_a_pool_on_huge_pages_grows(void **state)
{
	struct lane lanes[VM_RINGS] = {{.q = 0, .all_large = true}, {.q = 1, .all_large = true}};
	struct pair *p = *state;

	huge_reserve(4);
	start(p, "4M", "8M");
	lane_fill(&p->vm);
	assert_int_equal(huge_free(), 2);
	assert_int_equal(p->device.script->regions, 1);
	p->device.script->hold = true;
	offer_all(p, lanes);
	device_wait(&p->device, &p->device.script->chains, 2 * LANE_OUT);
	assert_in_range(p->device.script->regions, 2, 3);
	assert_int_equal(p->device.script->foreign, 0);
	assert_true(counted(p, "\nsluice_relay_pool_bytes") > 4u << 20);
	assert_true(huge_free() < 2);
	/* Its successor begins with the first part, and gets all of it again. */
	device_kill(&p->device);
	p->device.script->chains = 0;
	device_start(&p->device);
	device_wait(&p->device, &p->device.script->chains, 2 * LANE_OUT);
	p->device.script->hold = false;
	lanes_move(&p->vm, lanes, 40);
	assert_int_equal(p->device.script->foreign, 0);
	pair_well(p);
}

/* G1: what the backend is given of a part is that file, which holds no more and cannot be made to. */
static void g1_a_part_is_a_file_of_its_own(void **state)
{
	struct pair *p = *state;
	unsigned int files = 0, parts = 0;
	char line[256];
	ino_t seen[16];
	FILE *f;

	huge_reserve(4);
	start(p, "2M", "8M");
	lane_fill(&p->vm);
	offer_big(p);
	take_big(p);
	parts = p->device.script->regions;
	assert_in_range(parts, 2, 4);
	/* What the backend has mapped of huge pages, each part at offset 0. */
	f = peers_proc(p->device.pid, "cat", "maps");
	while (fgets(line, sizeof(line), f)) {
		unsigned long from, to, offset, ino;
		char rights[8], dev[16];

		if (!strstr(line, "sluice-shadow"))
			continue;
		assert_int_equal(sscanf(line, "%lx-%lx %7s %lx %15s %lu", &from, &to, rights,
					&offset, dev, &ino),
				 6);
		assert_int_equal(offset, 0);
		assert_int_equal(to - from, HUGE_BYTES);
		for (unsigned int i = 0; i < files; i++)
			assert_true(seen[i] != ino);
		seen[files++] = ino;
	}
	pclose(f);
	assert_int_equal(files, parts);
	pair_well(p);
}

/* A ring that waits for pages with nothing in flight goes on when they come; the other one does not mind. */
static void g5_pages_that_are_missing_are_waited_for(void **state)
{
	const char *const line = "reserve more huge pages";
	/* The ring that waits is left alone. */
	struct lane lanes[VM_RINGS] = {{.q = 0, .offered = 1u << 20, .back = 1u << 20},
				       {.q = 1, .all_large = true}};
	struct pair *p = *state;

	huge_reserve(4);
	huge_take(3);
	start(p, "2M", "8M");
	lane_fill(&p->vm);
	offer_big(p);
	peers_wait_log(p->rig, line);
	/* More than its share: the room that is for whoever waits is not kept for one that it is no use to. */
	lanes_move(&p->vm, lanes, 10);
	/* It has been looked at again by then. */
	poll(NULL, 0, 2200);
	vm_echo(&p->vm, 1);
	assert_int_equal(said(p, line), 1);
	assert_int_equal(p->device.script->regions, 1);
	huge_give();
	take_big(p);
	assert_in_range(p->device.script->regions, 2, 4);
	pair_well(p);
}

/* The shadows of large rings take more than the first part has. */
static void g5_the_pool_grows_for_a_ring(void **state)
{
	const uint64_t far = VM_GPA + 0x10000000;
	int file = make_memfd("rings", VM_HALF);
	struct pair *p = *state;

	huge_reserve(4);
	start(p, "2M", "8M");
	assert_int_equal(fe_region(p->rig, VU_ADD_MEM_REG, far, far, VM_HALF, 0, file), 0);
	assert_int_equal(p->device.script->regions, 1);
	assert_int_equal(fe_ring(p->rig, VM_RINGS, far, 4096), 0);
	assert_int_equal(fe_ring(p->rig, VM_RINGS + 1, far + VM_HALF / 2, 4096), 0);
	assert_in_range(p->device.script->regions, 2, 4);
	assert_false(peers_logged(p->rig, "stays stopped"));
	close(file);
	pair_well(p);
}

/* More than the first part holds goes through a backend that does so to that many of the messages that tell it of a part. */
static void want_more_of(struct pair *p, enum slip slip, uint32_t times)
{
	struct lane lanes[VM_RINGS] = {{.q = 0, .all_large = true}, {.q = 1, .all_large = true}};
	struct device_script *script;

	huge_reserve(4);
	start(p, "2M", "8M");
	script = p->device.script;
	lane_fill(&p->vm);
	script->slip_request = VU_ADD_MEM_REG;
	script->times = times;
	script->slip = slip;
	offer_all(p, lanes);
	lanes_move(&p->vm, lanes, 20);
}

/* Told no, it is not asked again; what fits passes, and what never will is refused. */
static void g5_a_backend_that_refuses_a_part_is_served(void **state)
{
	struct pair *p = *state;
	struct device_script *script = p->device.script;

	want_more_of(p, SLIP_REFUSE, 100);
	assert_int_equal(script->sinned, 1);
	assert_int_equal(said(p, "does not take more of it"), 1);
	assert_int_equal(script->foreign, 0);
	assert_int_equal(huge_free(), 3);
	offer_big(p);
	peers_wait_log(p->rig, "a chain is longer than the pool can hold");
	vm_echo(&p->vm, 1);
	vm_ring_revive(&p->vm, 0);
	assert_int_equal(script->sinned, 1);
	assert_int_equal(script->connections, 1);
	pair_well(p);
	/* The next one is told again. */
	device_kill(&p->device);
	script->slip = SLIP_NONE;
	device_start(&p->device);
	device_wait(&p->device, &script->connections, 2);
	vm_echo(&p->vm, 1);
	offer_big(p);
	take_big(p);
	pair_well(p);
}

/* One that leaves over a part is not driven away again and again. */
static void g5_a_backend_that_leaves_over_a_part_is_served(void **state)
{
	struct pair *p = *state;
	const struct device_script *script = p->device.script;

	want_more_of(p, SLIP_CLOSE, 1);
	assert_int_equal(script->connections, 2);
	assert_int_equal(script->regions, 1);
	assert_true(peers_logged(p->rig, "not told again for a minute"));
	pair_well(p);
}

/* One that does not answer is given up in a bounded time, and what it had in flight runs again. */
static void g5_a_backend_that_is_silent_over_a_part_is_given_up(void **state)
{
	struct lane lanes[VM_RINGS] = {{.q = 0, .all_large = true}, {.q = 1, .all_large = true}};
	struct pair *p = *state;

	huge_reserve(4);
	start(p, "2M", "8M");
	lane_fill(&p->vm);
	kill(p->device.pid, SIGSTOP);
	offer_all(p, lanes);
	peers_wait_log(p->rig, "it has not answered ADD_MEM_REG for 10 seconds");
	/* The front-end is served before the backend is back. */
	assert_true(fe_get(p->rig, VU_GET_FEATURES) & VU_BIT(VU_F_PROTOCOL));
	kill(p->device.pid, SIGCONT);
	lanes_move(&p->vm, lanes, 2 * LANE_OUT);
	assert_int_equal(p->device.script->connections, 2);
	pair_well(p);
}

/* One that takes one table of memory and no more. */
static void g5_a_backend_without_slots_has_the_first_part(void **state)
{
	struct pair *p = *state;

	p->device.script->protocol &= ~VU_BIT(VU_P_MEM_SLOTS);
	want_more_of(p, SLIP_NONE, 0);
	assert_int_equal(said(p, "the pool stays at --pool-size, 2 MiB"), 1);
	assert_int_equal(p->device.script->regions, 1);
	assert_int_equal(huge_free(), 3);
	/* Nobody lets it wait for what never comes. */
	offer_big(p);
	peers_wait_log(p->rig, "a chain is longer than the pool can hold");
	vm_ring_revive(&p->vm, 0);
	pair_well(p);
}

/* ---- a stock backend ---- */

#define DISK_OUT 5u /* requests of each ring */
#define AREA	 (256u << 10)
#define AREAS	 4u /* in the guest and on the disk, one behind the other */
#define AREA_AT	 (VM_BUFFER + 0x10000)

/*
 * Each ring writes all of the disk at once, and more; or reads half of it, for two may not read into the same bytes at once
 * (virtio 1.2, 5.2.6).
 */
static void disk_all(struct pair *p, bool write_it)
{
	const unsigned int n = write_it ? DISK_OUT : AREAS / VM_RINGS;
	struct vm *v = &p->vm;
	uint32_t id, len;

	/* So that all of it is in flight together: and so what it is told of the pool waits, too. */
	kill(p->rig->backend, SIGSTOP);
	for (unsigned int q = 0; q < VM_RINGS; q++) {
		for (unsigned int i = 0; i < n; i++) {
			const unsigned int area = (write_it ? i : n * q + i) % AREAS;
			const uint64_t at = VM_BUFFER + 0x1000 * (n * q + i);
			const struct piece pieces[] = {
				{at, 16, false},
				{AREA_AT + AREA * area, AREA, !write_it},
				{at + 16, 1, true},
			};
			const uint32_t head[4] = {write_it, 0, AREA / 512 * area, 0};

			vm_write(v, at, head, sizeof(head));
			*vm_at(v, at + 16) = 0xff;
			vm_offer(v, q, pieces, 3);
		}
		vm_kick(v, q);
	}
	poll(NULL, 0, 30);
	kill(p->rig->backend, SIGCONT);
	for (unsigned int q = 0; q < VM_RINGS; q++)
		for (unsigned int i = 0; i < n; i++)
			vm_wait(v, q, &id, &len);
	for (unsigned int i = 0; i < VM_RINGS * n; i++)
		assert_int_equal(*vm_at(v, VM_BUFFER + 0x1000 * i + 16), 0);
}

static uint8_t content(unsigned int round, uint32_t at)
{
	return (uint8_t)(round * 31 + at / 4096 * 7 + at);
}

static void g5_a_stock_disk_takes_parts(void **state)
{
	static uint8_t bytes[AREAS * AREA];
	struct pair *p = *state;

	if (access(PEERS_QSD, X_OK))
		skip();
	huge_reserve(4);
	p->rig->disk_queues = VM_RINGS;
	peers_qsd_start(p->rig);
	start_relay(p, "2M", "8M");
	for (unsigned int round = 0; round < 8; round++) {
		unsigned int right = 0;

		for (uint32_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = content(round, i);
		vm_write(&p->vm, AREA_AT, bytes, sizeof(bytes));
		disk_all(p, true);
		memset(vm_at(&p->vm, AREA_AT), 0xee, sizeof(bytes));
		disk_all(p, false);
		for (uint32_t i = 0; i < sizeof(bytes); i++)
			right += *vm_at(&p->vm, AREA_AT + i) == content(round, i);
		assert_int_equal(right, sizeof(bytes));
		if (round == 3) {
			assert_true(counted(p, "\nsluice_relay_pool_bytes") > 2u << 20);
			peers_backend_kill(p->rig);
			peers_qsd_start(p->rig);
		}
	}
	assert_true(counted(p, "\nsluice_relay_pool_bytes") > 2u << 20);
	assert_false(peers_logged(p->rig, "refused"));
	assert_false(peers_logged(p->rig, "ThreadSanitizer"));
}

#define TEST(name, pairing)                                                                        \
	{                                                                                          \
#name ", " #pairing, name, pair_setup, teardown, (void *)(uintptr_t) & (pairing)   \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(g5_chains_pass_and_a_dead_backend_is_survived, pair_split),
		TEST(g5_a_pool_for_which_there_is_no_memory_yet_is_waited_for, pair_packed),
		TEST(g5_a_pool_on_huge_pages_grows, pair_split),
		TEST(g5_a_pool_on_huge_pages_grows, pair_to_packed),
		TEST(g5_a_pool_on_huge_pages_grows, pair_threads_split),
		TEST(g1_a_part_is_a_file_of_its_own, pair_packed),
		TEST(g5_pages_that_are_missing_are_waited_for, pair_to_split),
		TEST(g5_pages_that_are_missing_are_waited_for, pair_threads_packed),
		TEST(g5_the_pool_grows_for_a_ring, pair_threads_split),
		TEST(g5_a_backend_that_refuses_a_part_is_served, pair_split),
		TEST(g5_a_backend_that_refuses_a_part_is_served, pair_threads_packed),
		TEST(g5_a_backend_that_leaves_over_a_part_is_served, pair_packed),
		TEST(g5_a_backend_that_is_silent_over_a_part_is_given_up, pair_threads_split),
		TEST(g5_a_backend_without_slots_has_the_first_part, pair_split),
		TEST(g5_a_stock_disk_takes_parts, pair_split),
		TEST(g5_a_stock_disk_takes_parts, pair_threads_packed),
	};

	return cmocka_run_group_tests_name("huge pages", tests, NULL, NULL);
}
