/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_threads.c - mode shadow with a thread for each ring
 *
 * Theory of operation: what only threads can get wrong. That they have given up what the process has;
 * that they share the pool so that each gets on and none spins; that what is done to one ring or to all
 * while another one is at work does that no harm; that a peer cannot stop one. Other tests' promises are
 * listed again with two threads where they are (PAIR_THREADS_TESTS()). Names begin with the guarantee
 * (THREAT-MODEL.md). ThreadSanitizer runs this one: two threads, every kind of message, and statistics.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lane.h"
#include "pair.h"
#include "rig.h"

static char stats_path[96];

static void start(struct pair *p, const char *pool, const char *poll_us)
{
	snprintf(stats_path, sizeof(stats_path), "%s/stats", p->rig->dir);
	device_start(&p->device);
	peers_relay(p->rig, "--mode", "shadow", "--keep", "--pool-size", pool, "--pool-max", pool,
		    "--poll", poll_us, "--stats", stats_path, NULL);
	peers_connect(p->rig);
	vm_up(&p->vm);
}

/* The threads of the relay, one after the other: 0 after the last. */
static pid_t next_thread(DIR *dir)
{
	const struct dirent *e;

	while ((e = readdir(dir)))
		if (e->d_name[0] != '.')
			return atoi(e->d_name);
	return 0;
}

static DIR *threads_of(pid_t pid)
{
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	assert_non_null(dir);
	return dir;
}

/* What a thread's status says. */
static bool status_has(pid_t thread, const char *line)
{
	char path[64], have[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", thread);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(have, sizeof(have), f))
		found |= !strncmp(have, line, strlen(line));
	fclose(f);
	return found;
}

static void g1_every_thread_has_given_up_its_rights(void **state)
{
	struct pair *p = *state;
	unsigned int serve = 0;
	pid_t thread;
	DIR *dir;

	p->rig->threads = 5; /* more than there are rings */
	start(p, "4M", "50");
	pair_well(p);
	dir = threads_of(p->rig->relay);
	while ((thread = next_thread(dir))) {
		assert_true(status_has(thread, "CapPrm:\t0000000000000000"));
		assert_true(status_has(thread, "CapEff:\t0000000000000000"));
		assert_true(status_has(thread, "CapAmb:\t0000000000000000"));
		assert_true(status_has(thread, "NoNewPrivs:\t1"));
		assert_true(status_has(thread, "Seccomp:\t2"));
		serve += status_has(thread, "Name:\trelay-queues/");
	}
	closedir(dir);
	assert_int_equal(serve, 5);
}

/* ---- a pool that two threads want more of than there is ---- */

/* Chains of which two do not fit beside each other: all come back, whole, of both rings. With --poll 0
 * a queue that waits for room sleeps at once. */
static void share_a_tiny_pool(struct pair *p, const char *poll_us)
{
	struct lane lanes[VM_RINGS] = {{.q = 0, .random = 1}, {.q = 1, .random = 2}};
	struct vm *v = &p->vm;

	start(p, "2M", poll_us);
	lane_fill(v);
	for (unsigned int chains = 15; chains <= 60; chains += 15) {
		lanes_move(v, lanes, chains);
		(void)peers_statistics(stats_path);
		vm_check(v);
	}
	pair_well(p);
}

static void g5_threads_share_a_tiny_pool(void **state)
{
	share_a_tiny_pool(*state, "50");
}

static void g5_threads_that_sleep_share_a_tiny_pool(void **state)
{
	share_a_tiny_pool(*state, "0");
}

static unsigned long switches(pid_t pid)
{
	unsigned long sum = 0;
	DIR *dir = threads_of(pid);
	pid_t thread;

	while ((thread = next_thread(dir))) {
		/* ThreadSanitizer has one of its own. */
		if (thread != pid && !status_has(thread, "Name:\trelay-queues/"))
			continue;
		sum += rig_switches(thread);
	}
	closedir(dir);
	return sum;
}

/* For a while no thread makes a system call, nor is any running. */
static void comes_to_rest(struct pair *p)
{
	unsigned long before;

	for (unsigned int i = 0; i < 60; i++) {
		before = switches(p->rig->relay);
		poll(NULL, 0, 300);
		if (switches(p->rig->relay) == before)
			return;
	}
	fail_msg("the relay does not come to rest");
}

/* A processor is not burnt over room that nobody gives back, nor when there is nothing to do. */
static void g5_threads_that_wait_for_room_sleep(void **state)
{
	struct lane lanes[VM_RINGS] = {{.q = 0, .random = 3}, {.q = 1, .random = 4}};
	struct pair *p = *state;
	struct vm *v = &p->vm;

	start(p, "2M", "50");
	lane_fill(v);
	comes_to_rest(p);
	p->device.script->hold = true;
	for (unsigned int i = 0; i < LANE_OUT; i++)
		for (unsigned int q = 0; q < VM_RINGS; q++)
			lane_offer(v, &lanes[q], i);
	for (unsigned int q = 0; q < VM_RINGS; q++)
		vm_kick(v, q);
	comes_to_rest(p);
	p->device.script->hold = false;
	lanes_move(v, lanes, 2 * LANE_OUT);
	pair_well(p);
}

/* One has all that is for whoever comes first, and the other, with nothing in flight, waits for it. */
static void g5_room_from_one_thread_wakes_the_other(void **state)
{
	struct lane lanes[VM_RINGS] = {{.q = 0, .all_large = true}, {.q = 1, .all_large = true}};
	struct pair *p = *state;
	struct vm *v = &p->vm;

	start(p, "2M", "0");
	lane_fill(v);
	for (unsigned int round = 0; round < 20; round++) {
		const uint32_t seen = p->device.script->chains;

		p->device.script->hold_first = true;
		for (unsigned int i = 0; i < 2; i++)
			lane_offer(v, &lanes[0], i);
		vm_kick(v, 0);
		device_wait(&p->device, &p->device.script->chains, seen + 2);
		lane_offer(v, &lanes[1], 0);
		vm_kick(v, 1);
		if (round % 10 == 0) {
			comes_to_rest(p);
			assert_int_equal(p->device.script->chains, seen + 2);
		} else {
			usleep(100 * round);
		}
		p->device.script->hold_first = false;
		for (unsigned int i = 0;
		     lanes[0].back < lanes[0].offered || lanes[1].back < round + 1; i++) {
			if (lane_take(v, &lanes[0]) || lane_take(v, &lanes[1]))
				continue;
			assert_true(i < 30000);
			poll(NULL, 0, 1);
		}
	}
	pair_well(p);
}

/* ---- one ring is at work while things happen to the other, or to both ---- */

static void nothing(struct pair *p)
{
	(void)p;
}

static void ring_again(struct pair *p)
{
	vm_ring_revive(&p->vm, 0);
}

static void other_fds(struct pair *p)
{
	struct vm_ring *r = &p->vm.rings[0];

	assert_int_equal(fe_ack_u64(p->rig, VU_SET_VRING_CALL, 0, r->call), 0);
	assert_int_equal(fe_ack_u64(p->rig, VU_SET_VRING_KICK, 0, r->kick), 0);
	assert_int_equal(fe_ack_u64(p->rig, VU_SET_VRING_ERR, 0, r->err), 0);
}

static void memory_comes_and_goes(struct pair *p)
{
	const uint64_t far = VM_GPA + 0x10000000;
	int file = make_memfd("more", VM_HALF);

	assert_int_equal(fe_region(p->rig, VU_ADD_MEM_REG, far, far, VM_HALF, 0, file), 0);
	assert_int_equal(fe_region(p->rig, VU_REM_MEM_REG, far, far, VM_HALF, 0, -1), 0);
	close(file);
}

static void disabled_for_a_moment(struct pair *p)
{
	assert_int_equal(fe_ack_state(p->rig, VU_SET_VRING_ENABLE, 0, 0), 0);
	assert_int_equal(fe_ack_state(p->rig, VU_SET_VRING_ENABLE, 0, 1), 0);
}

static void broken_ring(struct pair *p)
{
	struct vm *v = &p->vm;
	uint64_t n;

	/* A chain that is not memory, and the ring anew when that has been noticed. */
	vm_ring_revive(v, 0);
	vm_descriptor(v, 0, 0, VM_GPA - 0x1000, 16, 0, 0);
	vm_publish(v, 0, 1);
	for (unsigned int i = 0; read(v->rings[0].err, &n, sizeof(n)) < 0; i++) {
		assert_true(i < 30000);
		poll(NULL, 0, 1);
	}
	vm_ring_revive(v, 0);
}

static void device_again(struct pair *p)
{
	device_kill(&p->device);
	device_start(&p->device);
}

static void sinful_device(struct pair *p)
{
	struct device_script *s = p->device.script;
	const uint32_t done = s->sinned;

	s->sin = SIN_ID_RANGE;
	s->times = 1;
	/* What the other ring has may have been answered already. */
	vm_echo_start(&p->vm, 0);
	device_wait(&p->device, &s->sinned, done + 1);
	s->sin = SIN_NONE;
	vm_echo_end(&p->vm, 0, true);
}

static void g5_a_ring_at_work_does_not_mind_the_other(void **state)
{
	static void (*const what[])(struct pair *) = {
		nothing,
		ring_again,
		other_fds,
		memory_comes_and_goes,
		disabled_for_a_moment,
		broken_ring,
		device_again,
		sinful_device,
	};
	/* The other one's, which is left alone by lanes_move(). */
	struct lane lanes[VM_RINGS] = {{.q = 0, .offered = 1u << 20, .back = 1u << 20},
				       {.q = 1, .random = 5}};
	struct pair *p = *state;
	struct vm *v = &p->vm;

	start(p, "4M", "50");
	lane_fill(v);
	for (unsigned int round = 0; round < 2; round++) {
		for (size_t i = 0; i < sizeof(what) / sizeof(what[0]); i++) {
			for (unsigned int n = 0; n < LANE_OUT; n++)
				lane_offer(v, &lanes[1], n);
			vm_kick(v, 1);
			what[i](p);
			lanes_move(v, lanes, lanes[1].offered + 2);
			vm_check(v);
			vm_echo(v, 0);
		}
	}
	pair_well(p);
}

/* A thread finds, when it wakes up, that its ring is no memory any more: that is the end of the session, and of no
 * more. */
static void g4_a_ring_whose_memory_goes_ends_the_session(void **state)
{
	const uint64_t far = VM_GPA + 0x10000000, one = 1;
	int file = memfd_create("shrinks", MFD_CLOEXEC);
	struct pair *p = *state;

	assert_int_equal(ftruncate(file, VM_HALF), 0);
	start(p, "4M", "50");
	assert_int_equal(fe_region(p->rig, VU_ADD_MEM_REG, far, far, VM_HALF, 0, file), 0);
	assert_int_equal(fe_ring(p->rig, VM_RINGS, far, 16), 0);
	comes_to_rest(p);
	assert_int_equal(ftruncate(file, 0), 0);
	assert_int_equal(write(p->rig->kick, &one, sizeof(one)), sizeof(one));
	assert_true(fe_closed(p->rig));
	peers_wait_log(p->rig, "has made the file of the guest's memory shorter");
	close(file);
	peers_connect(p->rig);
	vm_up(&p->vm);
	pair_well(p);
}

/* An eventfd that a peer has filled blocks whoever writes to it. */
static void g5_a_full_eventfd_stops_no_thread(void **state)
{
	const uint64_t full = UINT64_MAX - 1;
	struct pair *p = *state;
	struct vm *v = &p->vm;
	const int call = v->rings[0].call;
	uint64_t n;

	start(p, "4M", "50");
	pair_well(p);
	for (unsigned int round = 0; round < 2; round++) {
		assert_int_equal(fcntl(call, F_SETFL, O_NONBLOCK), 0);
		do {
			(void)!read(call, &n, sizeof(n));
		} while (write(call, &full, sizeof(full)) != sizeof(full));
		assert_int_equal(fcntl(call, F_SETFL, 0), 0); /* now writing to it blocks */
		vm_echo(v, 0);
		vm_echo(v, 1);
		(void)fe_get(p->rig, VU_GET_FEATURES);
		vm_echo(v, 0);
		vm_echo(v, 1);
	}
	assert_int_equal(fcntl(call, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(read(call, &n, sizeof(n)), sizeof(n));
	vm_ring_revive(v, 0);
	pair_well(p);
}

/* ---- a stock backend ---- */

#define BLOCK	 4096u
#define REQUESTS 4u /* of each ring */

/* Request i of a ring (virtio 1.2, 5.2.6). */
static void disk_request(struct vm *v, unsigned int q, unsigned int i, bool write_it,
			 uint64_t block)
{
	const uint64_t at = VM_BUFFER + 0x2000 * (REQUESTS * q + i), sector = block * (BLOCK / 512);
	const struct piece pieces[] = {
		{at, 16, false}, {at + 0x1000, BLOCK, !write_it}, {at + 16, 1, true}};
	const uint32_t head[4] = {write_it, 0, (uint32_t)sector, 0};

	vm_write(v, at, head, sizeof(head));
	*vm_at(v, at + 16) = 0xff;
	vm_offer(v, q, pieces, 3);
}

static uint8_t *disk_data(struct vm *v, unsigned int q, unsigned int i)
{
	return vm_at(v, VM_BUFFER + 0x2000 * (REQUESTS * q + i) + 0x1000);
}

static void disk_all(struct pair *p, bool write_it, bool crossed, bool die)
{
	struct vm *v = &p->vm;
	uint32_t id, len;

	for (unsigned int q = 0; q < VM_RINGS; q++) {
		for (unsigned int i = 0; i < REQUESTS; i++)
			disk_request(v, q, i, write_it,
				     REQUESTS * (crossed ? VM_RINGS - 1 - q : q) + i);
		vm_kick(v, q);
	}
	if (die) {
		peers_backend_kill(p->rig);
		peers_qsd_start(p->rig);
	}
	for (unsigned int q = 0; q < VM_RINGS; q++)
		for (unsigned int i = 0; i < REQUESTS; i++)
			vm_wait(v, q, &id, &len);
	for (unsigned int q = 0; q < VM_RINGS; q++)
		for (unsigned int i = 0; i < REQUESTS; i++)
			assert_int_equal(*(disk_data(v, q, i) - 0x1000 + 16), 0);
}

/* What one ring writes the other one reads, and the daemon dies at work. */
static void g5_a_stock_disk_serves_two_rings(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;

	if (access(PEERS_QSD, X_OK))
		skip();
	p->rig->disk_queues = VM_RINGS;
	peers_qsd_start(p->rig);
	peers_relay(p->rig, "--mode", "shadow", "--keep", NULL);
	peers_connect(p->rig);
	vm_up(v);
	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int q = 0; q < VM_RINGS; q++)
			for (unsigned int i = 0; i < REQUESTS; i++)
				memset(disk_data(v, q, i), (int)(round * 8 + q * REQUESTS + i),
				       BLOCK);
		disk_all(p, true, false, round % 10 == 4);
		for (unsigned int q = 0; q < VM_RINGS; q++)
			for (unsigned int i = 0; i < REQUESTS; i++)
				memset(disk_data(v, q, i), 0xee, BLOCK);
		disk_all(p, false, true, round % 10 == 9);
		for (unsigned int q = 0; q < VM_RINGS; q++)
			for (unsigned int i = 0; i < REQUESTS; i++)
				assert_true(rig_all(disk_data(v, q, i), BLOCK,
						    (uint8_t)(round * 8 + (1 - q) * REQUESTS + i)));
	}
	assert_int_equal(waitpid(p->rig->relay, NULL, WNOHANG), 0);
	assert_false(peers_logged(p->rig, "refused"));
	assert_false(peers_logged(p->rig, "ThreadSanitizer"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TEST(g1_every_thread_has_given_up_its_rights, pair_threads_split),
		PAIR_THREADS_TESTS(g5_threads_share_a_tiny_pool),
		PAIR_TEST(g5_threads_that_sleep_share_a_tiny_pool, pair_threads_split),
		PAIR_TEST(g5_threads_that_wait_for_room_sleep, pair_threads_split),
		PAIR_TEST(g5_room_from_one_thread_wakes_the_other, pair_threads_split),
		PAIR_THREADS_TESTS(g5_a_ring_at_work_does_not_mind_the_other),
		PAIR_TEST(g4_a_ring_whose_memory_goes_ends_the_session, pair_threads_split),
		PAIR_TEST(g5_a_full_eventfd_stops_no_thread, pair_threads_split),
		PAIR_TEST(g5_a_stock_disk_serves_two_rings, pair_threads_split),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
