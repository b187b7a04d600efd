/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_hostile_vmm.c - a front-end that does what vhost-user forbids, in front of mode shadow
 *
 * Theory of operation
 * -------------------
 * The messages as such are the same as in mode filter (test_refuse.c); here is what only mode shadow
 * does with them: it maps the files that it is sent, and takes rings out of them. The front-end
 * sends files that are none, or too short, or shrink under the relay; rings that are nowhere; it
 * takes memory and rings away while requests are in flight, and leaves at any point. The relay
 * answers with an error where the protocol has one, lives, and serves the next front-end.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pair.h"

#define ARRAY(a) (sizeof(a) / sizeof((a)[0]))
#define FAR	 UINT64_C(0x80000000)

static void still_well(struct pair *p)
{
	for (unsigned int q = 0; q < VM_RINGS; q++)
		vm_ring_revive(&p->vm, q);
	p->device.script->dirty = 0;
	pair_well(p);
}

/* The front-end comes again, with fresh rings. */
static void again(struct pair *p)
{
	peers_connect(p->rig);
	vm_up(&p->vm);
	p->device.script->dirty = 0;
	pair_well(p);
}

/* ---- memory ---- */

static void g4_regions_that_are_none_are_refused(void **state)
{
	static const struct {
		const char *what;
		uint64_t gpa, size, offset;
	} regions[] = {
		{"empty", FAR, 0, 0},
		{"longer than the file", FAR, VM_HALF + 0x1000, 0},
		{"beyond the file", FAR, 0x1000, VM_HALF},
		{"offset round the end", FAR, 0x2000, UINT64_MAX - 0xfff},
		{"size with all bits", FAR, UINT64_MAX, 0},
		{"round the end of addresses", UINT64_MAX - 0xfff, 0x2000, 0},
		{"the same again", VM_GPA, VM_HALF, 0},
		{"over another", VM_GPA + VM_HALF - 0x1000, 0x2000, 0},
		{"within another", VM_GPA + 0x1000, 0x1000, 0},
	};
	struct pair *p = *state;
	struct weight before, after;
	int file = make_memfd("more", VM_HALF);

	pair_up(p);
	pair_well(p);
	before = relay_weight(p->rig);
	for (size_t i = 0; i < ARRAY(regions); i++)
		if (fe_region(p->rig, VU_ADD_MEM_REG, regions[i].gpa, UINT64_C(0x7ead00000000),
			      regions[i].size, regions[i].offset, file) != 1)
			fail_msg("not refused: %s", regions[i].what);
	/* None at all. */
	assert_int_equal(fe_region(p->rig, VU_ADD_MEM_REG, FAR, FAR, 0x1000, 0, -1), 1);
	/* One that is not there goes away. */
	assert_int_equal(fe_region(p->rig, VU_REM_MEM_REG, FAR, FAR, 0x1000, 0, -1), 1);
	still_well(p);
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	close(file);
}

static void g4_files_that_are_no_memory_are_refused(void **state)
{
	struct pair *p = *state;
	struct weight before, after;
	int fds[8], pair[2], pipes[2], n = 0;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(pipe(pipes), 0);
	fds[n++] = pair[0];
	fds[n++] = pipes[0];
	fds[n++] = p->vm.rings[0].kick;
	fds[n++] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fds[n++] = open("/dev/null", O_RDWR | O_CLOEXEC);
	fds[n++] = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	fds[n++] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	fds[n++] = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	pair_up(p);
	pair_well(p);
	before = relay_weight(p->rig);
	for (int i = 0; i < n; i++) {
		assert_true(fds[i] >= 0);
		if (fe_region(p->rig, VU_ADD_MEM_REG, FAR, FAR, 0x1000, 0, fds[i]) != 1)
			fail_msg("not refused: file %d", i);
	}
	still_well(p);
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	for (int i = 3; i < n; i++)
		close(fds[i]);
	for (int i = 0; i < 2; i++) {
		close(pair[i]);
		close(pipes[i]);
	}
}

/* The most that the relay says it takes, and no more; and all of it gone again. */
static void g4_more_regions_than_there_may_be_are_refused(void **state)
{
	struct pair *p = *state;
	struct weight before, after;
	int file = make_memfd("more", VM_HALF), rc = 0;
	uint64_t n, most;

	pair_up(p);
	pair_well(p);
	before = relay_weight(p->rig);
	most = fe_get(p->rig, VU_GET_MAX_MEM_SLOTS);
	for (n = 2; n < 600 && !rc; n++)
		rc = fe_region(p->rig, VU_ADD_MEM_REG, FAR + n * 0x2000, FAR + n * 0x2000, 0x1000,
			       0, file);
	assert_int_equal(rc, 1);
	assert_int_equal(n - 1, most);
	still_well(p);
	for (n -= 2; n >= 2; n--)
		assert_int_equal(fe_region(p->rig, VU_REM_MEM_REG, FAR + n * 0x2000,
					   FAR + n * 0x2000, 0x1000, 0, -1),
				 0);
	still_well(p);
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	close(file);
}

/* A file that is not sealed becomes shorter under the relay, at rest and while it copies. */
static void g4_memory_that_shrinks_does_not_kill(void **state)
{
	const struct piece pieces[] = {
		{FAR + 0x1000, 0x10000, false},
		{FAR + 0x20000, 0x10000, true},
	};
	struct pair *p = *state;
	struct vm *v = &p->vm;

	pair_up(p);
	for (unsigned int round = 0; round < 6; round++) {
		int file = memfd_create("shrinks", MFD_CLOEXEC);

		assert_true(file >= 0);
		assert_int_equal(ftruncate(file, VM_HALF), 0);
		assert_int_equal(fe_region(p->rig, VU_ADD_MEM_REG, FAR, FAR, VM_HALF, 0, file), 0);
		p->device.script->hold = round % 2;
		vm_offer(v, 0, pieces, 2);
		/* Before the chain is fetched; while the device has it; half of it; all. */
		if (p->device.script->hold) {
			const uint32_t chains = p->device.script->chains;

			vm_kick(v, 0);
			device_wait(&p->device, &p->device.script->chains, chains + 1);
		}
		assert_int_equal(ftruncate(file, round < 2 ? 0 : round * 0x6000), 0);
		p->device.script->hold = false;
		vm_kick(v, 0);
		/* The session may be ended over it, or the ring be stopped. */
		poll(NULL, 0, 100);
		assert_int_equal(waitpid(p->rig->relay, NULL, WNOHANG), 0);
		vm_check(v);
		close(file);
		again(p);
	}
}

/* ---- rings ---- */

static void g4_rings_outside_memory_are_refused(void **state)
{
	const uint64_t user = RAM_USER, end = RAM_USER + VM_HALF;
	const struct vu_vring_addr places[] = {
		{.desc = 0x1000, .avail = 0x2000, .used = 0x3000},
		{.desc = user + 0x4000, .avail = 0x2000, .used = user + 0x5000},
		{.desc = user + 0x4000, .avail = user + 0x5000, .used = 0x2000},
		{.desc = end - 0x80, .avail = user + 0x5000, .used = user + 0x6000},
		{.desc = user + 0x4000, .avail = end - 2, .used = user + 0x6000},
		{.desc = user + 0x4000, .avail = user + 0x5000, .used = end - 4},
		{.desc = UINT64_MAX - 0xf, .avail = user + 0x5000, .used = user + 0x6000},
		{.desc = user + 0x4001, .avail = user + 0x5000, .used = user + 0x6000},
		{.desc = user + 0x4000, .avail = user + 0x5001, .used = user + 0x6000},
		{.desc = user + 0x4000, .avail = user + 0x5000, .used = user + 0x6002},
		/* Guest addresses are not what is asked for. */
		{.desc = VM_GPA + 0x4000, .avail = VM_GPA + 0x5000, .used = VM_GPA + 0x6000},
	};
	struct pair *p = *state;
	struct vm *v = &p->vm;

	pair_up(p);
	for (size_t i = 0; i < ARRAY(places); i++) {
		struct vu_vring_addr addr = places[i];

		/* Refused at once, or when the ring starts: what counts is that nothing is done. */
		fe_get_base(p->rig, 0);
		assert_int_equal(fe_ack_state(p->rig, VU_SET_VRING_NUM, 0, VM_NUM), 0);
		if (fe_ack(p->rig, VU_SET_VRING_ADDR, &addr, sizeof(addr), -1) == 0)
			fe_ack_u64(p->rig, VU_SET_VRING_KICK, 0, v->rings[0].kick);
		vm_kick(v, 0);
		vm_check(v);
		vm_echo(v, 1);
	}
	assert_true(peers_logged(p->rig, "refused"));
	still_well(p);
}

/* ---- at any moment ---- */

static void g5_memory_may_go_while_requests_are_in_flight(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;

	pair_up(p);
	for (unsigned int round = 0; round < 4; round++) {
		const uint32_t chains = p->device.script->chains;
		/* The half with the answers' second part, or the one with the rings. */
		const unsigned int half = 1 - round / 2;
		const uint64_t user = RAM_USER + half * UINT64_C(0x40000000);

		p->device.script->hold = true;
		vm_echo_start(v, 0);
		device_wait(&p->device, &p->device.script->chains, chains + 1);
		assert_true(fe_region(p->rig, VU_REM_MEM_REG, VM_GPA + half * VM_HALF, user,
				      VM_HALF, 0, -1) >= 0);
		memcpy(v->was, v->mem, VM_BYTES);
		memset(v->may, 0, VM_BYTES);
		p->device.script->hold = false;
		poll(NULL, 0, 50);
		/* What is not the guest's any more is not written. */
		for (size_t i = half * VM_HALF; i < (half + 1) * VM_HALF; i++)
			assert_int_equal(v->mem[i], v->was[i]);
		assert_int_equal(waitpid(p->rig->relay, NULL, WNOHANG), 0);
		again(p);
	}
}

static void g5_a_ring_is_stopped_with_requests_in_flight(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;
	struct vu_vring_state s = {0, 0};
	struct vu_msg m;
	uint64_t other;

	pair_up(p);
	p->device.script->late = true;
	other = v->rings[1].base - VM_GPA + RING_USED(VM_NUM);
	for (unsigned int round = 0; round < 5; round++) {
		const uint32_t chains = p->device.script->chains;

		p->device.script->hold = true;
		vm_echo_start(v, 0);
		device_wait(&p->device, &p->device.script->chains, chains + 1);
		fe_send(p->rig, VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0);
		/* Before the backend is asked for the base, or while what it has answered for is still under way. */
		poll(NULL, 0, round % 2 ? 20 : 200);
		p->device.script->hold = false;
		assert_true(fe_recv(p->rig, &m));
		assert_int_equal(m.h.request, VU_GET_VRING_BASE);
		/* Stopped means that it has been answered, or will be from this base on. */
		memcpy(v->was, v->mem, VM_BYTES);
		poll(NULL, 0, 20);
		/* The other ring runs, and its thread may ask to be kicked at any time. */
		memcpy(v->was + other, v->mem + other, 4);
		assert_memory_equal(v->was, v->mem, VM_BYTES);
		vm_ring_up(v, 0);
		p->device.script->dirty = 0;
		pair_well(p);
	}
}

/* A front-end leaves after any number of its messages. */
static void g5_a_front_end_may_leave_at_any_point(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;
	struct weight before, after;

	pair_up(p);
	pair_well(p);
	before = relay_weight(p->rig);
	for (unsigned int round = 0; round < 40; round++) {
		peers_connect(p->rig);
		if (round % 8 > 0)
			vm_hello(v);
		if (round % 8 > 1)
			vm_memory(v);
		if (round % 8 > 2)
			vm_ring_up(v, 0);
		if (round % 8 > 3)
			vm_echo(v, 0);
		if (round % 8 > 4)
			vm_echo_start(v, 0);
		if (round % 8 > 5)
			fe_bytes(p->rig, "\1\0\0", 3);
	}
	again(p);
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	assert_true(after.kib < before.kib + 1024);
}

static void g4_random_messages_do_no_harm(void **state)
{
	struct pair *p = *state;
	uint8_t payload[sizeof(((struct vu_msg *)NULL)->p)];
	struct weight before, after;
	uint64_t seed = 0x5eed;

	pair_up(p);
	pair_well(p);
	before = relay_weight(p->rig);
	peers_connect(p->rig);
	vm_hello(&p->vm);
	for (int i = 0; i < 3000; i++) {
		uint32_t size, request;
		int fd[4], nfds;

		for (size_t j = 0; j < sizeof(payload); j++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			payload[j] = seed >> 56 < 128 ? 0 : (uint8_t)(seed >> 40);
		}
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		request = (uint32_t)(seed >> 33) % 48;
		/* It would wait for the backend, each time. */
		if (request == VU_GET_VRING_BASE)
			continue;
		size = (seed >> 20) % 2 ? vu_rule(request)->size_min
					: (uint32_t)(seed >> 22) % sizeof(payload);
		nfds = (int)(seed >> 60) % 4;
		for (int j = 0; j < nfds; j++)
			fd[j] = (seed >> j) % 2 ? p->vm.file[0] : p->vm.rings[0].kick;
		fe_send(p->rig, request, (uint32_t)(seed >> 50) % 2 ? VU_NEED_REPLY : 0, payload,
			size, fd, (unsigned int)nfds);
		if (i % 20 == 19) {
			peers_connect(p->rig);
			vm_hello(&p->vm);
			if (i % 40 == 39)
				vm_memory(&p->vm);
		}
	}
	vm_check(&p->vm);
	again(p);
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	assert_true(after.kib < before.kib + 1024);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TEST(g4_regions_that_are_none_are_refused, pair_split),
		PAIR_TEST(g4_files_that_are_no_memory_are_refused, pair_split),
		PAIR_TEST(g4_more_regions_than_there_may_be_are_refused, pair_split),
		PAIR_TEST(g4_memory_that_shrinks_does_not_kill, pair_split),
		PAIR_TEST(g4_memory_that_shrinks_does_not_kill, pair_packed),
		PAIR_TEST(g4_memory_that_shrinks_does_not_kill, pair_threads_split),
		PAIR_TEST(g4_rings_outside_memory_are_refused, pair_split),
		PAIR_TESTS(g5_memory_may_go_while_requests_are_in_flight),
		PAIR_TESTS(g5_a_ring_is_stopped_with_requests_in_flight),
		PAIR_TESTS(g5_a_front_end_may_leave_at_any_point),
		PAIR_THREADS_TESTS(g5_memory_may_go_while_requests_are_in_flight),
		PAIR_THREADS_TESTS(g5_a_ring_is_stopped_with_requests_in_flight),
		PAIR_THREADS_TESTS(g5_a_front_end_may_leave_at_any_point),
		PAIR_TEST(g4_random_messages_do_no_harm, pair_split),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("a hostile VMM", tests, NULL, NULL);
}
