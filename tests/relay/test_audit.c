/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_audit.c - what the audit says of processes whose reach is known
 *
 * Theory of operation: a child plays the VMM, with private memory, shared memory and a pool; others
 * play backends that have more or less of it, mapped or merely open. The program is run on them.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB	(1u << 20)
#define PRIVATE (20u * MIB)

/* What a child maps and keeps open. */
enum have {
	POOL_MAPPED = 1,
	RAM_MAPPED_HALF = 2,
	RAM_OPEN = 4,
	VMM_MEM_OPEN = 8,
	VMM = 16,
	TWIN = 32,
	RESERVE = 64
};

static int ram, pool, twin;
static char pool_path[64], output[16384];
static const char secret_hex[] = "5e87b0d9022b547d";

static void map(int fd, size_t n)
{
	if (mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
		_exit(1);
}

/* Three copies in 1 GiB of which little is there: over the border of two pages, and beside its gaps. */
static void keep_secret(void)
{
	const size_t size = 1024u * MIB, at[] = {512u * MIB - 3, 600u * MIB, 1024u * MIB - 8};
	volatile uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		_exit(1);
	for (size_t n = 0; n < 3; n++)
		for (unsigned int i = 0; i < 8; i++)
			p[at[n] + i] = (uint8_t)(0x5e + 0x29 * i);
}

static pid_t child(unsigned int have, pid_t vmm)
{
	int ready[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char path[64];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (have & VMM) {
			void *p = mmap(NULL, PRIVATE, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			if (p == MAP_FAILED)
				_exit(1);
			map(ram, 4 * MIB);
			map(pool, 2 * MIB);
		}
		if (have & TWIN)
			map(twin, MIB);
		if (have & RESERVE)
			keep_secret();
		if (have & POOL_MAPPED)
			map(pool, 2 * MIB);
		if (have & RAM_MAPPED_HALF)
			map(ram, 2 * MIB);
		snprintf(path, sizeof(path), "/proc/%d/mem", vmm);
		if ((have & VMM_MEM_OPEN) && open(path, O_RDONLY) < 0)
			_exit(1);
		if (!(have & (VMM | RAM_OPEN)))
			close(ram);
		close(pool);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Runs the audit and returns its status; what it says is in output[]. */
static int audit(pid_t backend, pid_t vmm, const char *more)
{
	const char *program = getenv("SLUICE");
	char cmd[512];
	size_t n;
	FILE *f;
	int rc;

	snprintf(cmd, sizeof(cmd), "%s audit --backend %d --vmm %d %s 2>&1",
		 program ? program : "build/sluice", backend, vmm, more);
	f = popen(cmd, "re");
	assert_non_null(f);
	n = fread(output, 1, sizeof(output) - 1, f);
	output[n] = '\0';
	rc = pclose(f);
	return WIFEXITED(rc) ? WEXITSTATUS(rc) : 128;
}

static void says(const char *text)
{
	if (!strstr(output, text))
		fail_msg("\"%s\" is not in:\n%s", text, output);
}

/* The last line but for the total, which a sanitizer's own memory would make larger. */
static void totals(unsigned long reach, unsigned long intent, unsigned long leak)
{
	const char *line = strstr(output, "reachable: ");
	unsigned long got[4] = {0};

	assert_non_null(line);
	assert_int_equal(sscanf(line,
				"reachable: %lu of %lu bytes; shared by intent: %lu; private "
				"reachable: %lu",
				&got[0], &got[1], &got[2], &got[3]),
			 4);
	assert_true(got[1] >= PRIVATE + 6 * MIB);
	assert_int_equal(got[0], reach);
	assert_int_equal(got[2], intent);
	assert_int_equal(got[3], leak);
}

/* One VMM and one backend. */
static int of(unsigned int have, const char *share, const char *find)
{
	pid_t vmm = child(VMM, 0), backend = child(have, vmm);
	char more[256];
	int rc;

	snprintf(more, sizeof(more), "%s%s %s%s", share ? "--share " : "", share ? share : "",
		 find ? "--find " : "", find ? find : "");
	rc = audit(backend, vmm, more);
	end(backend);
	end(vmm);
	return rc;
}

static void nothing_is_reached(void **state)
{
	(void)state;
	assert_int_equal(of(0, NULL, NULL), 0);
	totals(0, 0, 0);
}

static void pool_alone_is_fine(void **state)
{
	(void)state;
	assert_int_equal(of(POOL_MAPPED, pool_path, NULL), 0);
	totals(2 * MIB, 2 * MIB, 0);
}

static void unnamed_pool_is_private(void **state)
{
	(void)state;
	assert_int_equal(of(POOL_MAPPED, NULL, NULL), 3);
	says("private reachable: 2097152");
}

static void mapping_counts_what_it_covers(void **state)
{
	(void)state;
	assert_int_equal(of(POOL_MAPPED | RAM_MAPPED_HALF, pool_path, NULL), 3);
	totals(4 * MIB, 2 * MIB, 2 * MIB);
}

static void open_file_counts_as_all_of_it(void **state)
{
	(void)state;
	assert_int_equal(of(RAM_OPEN, pool_path, NULL), 3);
	says("private reachable: 4194304");
	assert_int_equal(of(RAM_OPEN | RAM_MAPPED_HALF, "memfd:audit-ram", NULL), 0);
	says("shared by intent: 4194304; private reachable: 0");
}

static void open_memory_of_the_vmm_counts_as_everything(void **state)
{
	(void)state;
	assert_int_equal(of(VMM_MEM_OPEN | POOL_MAPPED, pool_path, NULL), 3);
	says("everything is reachable: /proc/");
	assert_null(strstr(output, "private reachable: 0"));
}

static void secret_is_found_where_it_is(void **state)
{
	(void)state;
	/* Across the border of two blocks; byte by byte, so that the child has no copy of it. */
	for (unsigned int i = 0; i < 8; i++) {
		uint8_t byte = (uint8_t)(0x5e + 0x29 * i);

		assert_int_equal(pwrite(ram, &byte, 1, MIB - 3 + i), 1);
	}
	assert_int_equal(of(POOL_MAPPED, pool_path, secret_hex), 0);
	says("found: 0");
	assert_int_equal(of(RAM_MAPPED_HALF, pool_path, secret_hex), 3);
	says("found 1 times in mapping");
	says("found: 1");
	assert_int_equal(of(RAM_OPEN, pool_path, secret_hex), 3);
	says("found 1 times in fd");
	says("found: 1");
}

static void secret_is_found_in_sparse_memory(void **state)
{
	(void)state;
	assert_int_equal(of(POOL_MAPPED | RESERVE, pool_path, secret_hex), 0);
	says("found 3 times in mapping");
	says("found: 3");
}

/*
 * Before Linux 6.7 there is no PAGEMAP_SCAN. (AddressSanitizer reserves terabytes, and eight bytes for each
 * page of those take minutes to read.)
 */
#ifndef __SANITIZE_ADDRESS__
static void secret_is_found_without_the_ioctl(void **state)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
		const struct scmp_arg_cmp scan = {
			.arg = 1, .op = SCMP_CMP_EQ, .datum_a = 0xc0606610};

		if (!filter ||
		    seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOTTY), SCMP_SYS(ioctl), 1, scan) ||
		    seccomp_load(filter))
			_exit(1);
		secret_is_found_in_sparse_memory(state);
		secret_is_found_where_it_is(state);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}
#endif

static void name_of_two_memfds_is_refused(void **state)
{
	pid_t vmm = child(VMM | TWIN, 0), backend = child(0, vmm);

	(void)state;
	assert_int_equal(audit(backend, vmm, "--share memfd:audit-ram"), 1);
	says("two files of the VMM have that name");
	assert_int_equal(audit(backend, vmm, "--share memfd:no-such-name"), 1);
	says("no such memory mapped");
	end(backend);
	end(vmm);
}

static void wrong_usage_and_no_process_are_told_apart(void **state)
{
	pid_t gone = child(0, 0);

	(void)state;
	end(gone);
	assert_int_equal(audit(gone, getpid(), ""), 2);
	says("there is no such process");
	assert_int_equal(audit(getpid(), gone, ""), 2);
	assert_int_equal(audit(0, getpid(), ""), 1);
	says("not the number of a process: 0");
	assert_int_equal(audit(getpid(), getpid(), "--find 123"), 1);
	assert_int_equal(audit(getpid(), getpid(), "--find xy"), 1);
	assert_int_equal(audit(getpid(), getpid(), "--share /no/such/file"), 1);
	says("there is no such file: /no/such/file");
	assert_int_equal(audit(getpid(), getpid(), "--all"), 1);
	says("unknown option: --all");
}

static int set_up(void **state)
{
	(void)state;
	snprintf(pool_path, sizeof(pool_path), "/dev/shm/sluice-audit-%d", getpid());
	pool = open(pool_path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	ram = memfd_create("audit-ram", 0);
	twin = memfd_create("audit-ram", 0);
	return pool < 0 || ram < 0 || twin < 0 || ftruncate(pool, 2 * MIB) ||
	       ftruncate(ram, 4 * MIB) || ftruncate(twin, MIB);
}

static int tear_down(void **state)
{
	(void)state;
	return unlink(pool_path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_reached),
		cmocka_unit_test(pool_alone_is_fine),
		cmocka_unit_test(unnamed_pool_is_private),
		cmocka_unit_test(mapping_counts_what_it_covers),
		cmocka_unit_test(open_file_counts_as_all_of_it),
		cmocka_unit_test(open_memory_of_the_vmm_counts_as_everything),
		cmocka_unit_test(secret_is_found_where_it_is),
		cmocka_unit_test(secret_is_found_in_sparse_memory),
#ifndef __SANITIZE_ADDRESS__
		cmocka_unit_test(secret_is_found_without_the_ioctl),
#endif
		cmocka_unit_test(name_of_two_memfds_is_refused),
		cmocka_unit_test(wrong_usage_and_no_process_are_told_apart),
	};

	return cmocka_run_group_tests_name("sluice audit", tests, set_up, tear_down);
}
