/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * huge.c - huge pages for the time of a test
 *
 * Theory of operation: tests/lib/huge.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "huge.h"

#define KNOB "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static long were = -1; /* reserved before; -1: as before */
static long added;
static int turn = -1; /* whoever has this file's lock */
static void *taken;   /* by the test itself */
static unsigned int ntaken;

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

static void set_pages(long n)
{
	char line[128];

	snprintf(line, sizeof(line), "echo %ld | %stee " KNOB "nr_hugepages >/dev/null 2>&1", n,
		 geteuid() ? "sudo -n " : "");
	if (system(line))
		return; /* seen by what is free then */
}

/* What is mapped or set aside is not. */
long huge_free(void)
{
	return knob("free_hugepages") - knob("resv_hugepages");
}

void huge_reserve(unsigned int n)
{
	turn = open(KNOB "nr_hugepages", O_RDONLY | O_CLOEXEC);
	assert_true(turn >= 0 || errno == ENOENT);
	if (turn >= 0)
		assert_int_equal(flock(turn, LOCK_EX), 0);
	/* With some that are free already nothing could be said of what is not there. */
	if (turn >= 0 && knob("free_hugepages") == 0) {
		were = knob("nr_hugepages");
		added = n;
		set_pages(were + added);
		if (knob("free_hugepages") == added)
			return;
	}
	printf("# skipped: %u huge pages cannot be reserved: that takes root, or sudo without a "
	       "password, memory in pieces of 2 MiB, and none that are free already\n",
	       n);
	fflush(stdout);
	skip();
}

void huge_take(unsigned int n)
{
	taken = mmap(NULL, n * HUGE_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	assert_ptr_not_equal(taken, MAP_FAILED);
	ntaken = n;
}

void huge_give(void)
{
	if (ntaken)
		munmap(taken, ntaken * HUGE_BYTES);
	ntaken = 0;
}

bool huge_end(void)
{
	bool all = true;

	huge_give();
	if (were >= 0 && knob("nr_hugepages") == were + added) {
		/* The kernel gives them back a moment after the last process has ended that had them. */
		for (int i = 0; i < 2000 && huge_free() != added; i++)
			poll(NULL, 0, 1);
		all = huge_free() == added;
	}
	if (were >= 0)
		set_pages(were);
	were = -1;
	if (turn >= 0)
		close(turn);
	turn = -1;
	return all;
}
