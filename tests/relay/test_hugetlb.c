/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_hugetlb.c - mode shadow with its pool on huge pages
 *
 * Theory of operation: two huge pages are reserved for the time of a test, which takes root (by sudo, without a password,
 * where the user is another), and skipped where that is not to be had. The pool takes both. What becomes of it when they are
 * somebody else's is seen by having the test take them first. How many are free is the machine's: who else runs this
 * program meanwhile waits. Names begin with the guarantee (THREAT-MODEL.md).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pair.h"

#define HUGE  (UINT64_C(2) << 20)
#define PAGES 2
#define KNOB  "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static long knob(const char *name)
{
	char path[96];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), KNOB "%s", name);
	f = fopen(path, "re");
	if (!f)
		return -1;
	if (fscanf(f, "%ld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

static void reserve_pages(long n)
{
	char line[128];

	snprintf(line, sizeof(line), "echo %ld | %stee " KNOB "nr_hugepages >/dev/null 2>&1", n,
		 geteuid() ? "sudo -n " : "");
	if (system(line))
		return; /* seen by what is free then */
}

static long were = -1; /* reserved before; -1: as before */
static int turn = -1;  /* whoever has this file's lock */

/* Skips the test where they cannot be had. */
static void reserve(void)
{
	turn = open(KNOB "nr_hugepages", O_RDONLY | O_CLOEXEC);
	assert_true(turn >= 0 || errno == ENOENT);
	if (turn >= 0)
		assert_int_equal(flock(turn, LOCK_EX), 0);
	/* With some that are free already nothing could be said of what is not there. */
	if (turn >= 0 && knob("free_hugepages") == 0) {
		were = knob("nr_hugepages");
		reserve_pages(were + PAGES);
		if (knob("free_hugepages") == PAGES)
			return;
	}
	printf("# skipped: two huge pages cannot be reserved: that takes root, or sudo without a "
	       "password, memory "
	       "in pieces of 2 MiB, and none that are free already\n");
	fflush(stdout);
	skip();
}

static int teardown(void **state)
{
	int rc = pair_teardown(state);

	if (were >= 0)
		reserve_pages(were);
	were = -1;
	if (turn >= 0)
		close(turn);
	turn = -1;
	return rc;
}

static void start(struct pair *p)
{
	device_start(&p->device);
	peers_relay_shadow(p->rig, "--pool-size", "4M", "--hugetlb", "--keep", NULL);
	peers_connect(p->rig);
	vm_up(&p->vm);
}

static void g5_chains_pass_and_a_dead_backend_is_survived(void **state)
{
	struct pair *p = *state;

	reserve();
	start(p);
	pair_well(p);
	assert_int_equal(knob("free_hugepages"), 0);
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
	void *taken;

	reserve();
	taken = mmap(NULL, PAGES * HUGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	assert_ptr_not_equal(taken, MAP_FAILED);
	start(p);
	peers_wait_log(p->rig, "reserve huge pages");
	vm_echo_start(&p->vm, 0);
	munmap(taken, PAGES * HUGE);
	vm_echo_end(&p->vm, 0, true);
	pair_well(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{"g5_chains_pass_and_a_dead_backend_is_survived",
		 g5_chains_pass_and_a_dead_backend_is_survived, pair_setup, teardown,
		 (void *)(uintptr_t)&pair_split},
		{"g5_a_pool_for_which_there_is_no_memory_yet_is_waited_for",
		 g5_a_pool_for_which_there_is_no_memory_yet_is_waited_for, pair_setup, teardown,
		 (void *)(uintptr_t)&pair_packed},
	};

	were = -1;
	return cmocka_run_group_tests_name("huge pages", tests, NULL, NULL);
}
