/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_confine.c - what the relay has given up by the time it serves a peer
 *
 * Theory of operation: /proc of the relay and its helper, as root and as an ordinary user, and a
 * child that confines itself and then tries what it must not be able to do.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "peer.h"
#include "relay/confine.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool sanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
static const bool sanitized = true;
#else
static const bool sanitized;
#endif
#else
static const bool sanitized;
#endif

static void status_has(pid_t pid, const char *want)
{
	static char buf[8192];
	char path[64];
	size_t n;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	assert_non_null(f);
	n = fread(buf, 1, sizeof(buf) - 1, f);
	buf[n] = '\0';
	fclose(f);
	if (!strstr(buf, want))
		fail_msg("no \"%s\" in %s", want, path);
}

static void given_up(pid_t pid, bool root)
{
	assert_true(pid > 0);
	status_has(pid, "NoNewPrivs:\t1");
	status_has(pid, "CapInh:\t0000000000000000");
	status_has(pid, "CapPrm:\t0000000000000000");
	status_has(pid, "CapEff:\t0000000000000000");
	status_has(pid, "CapAmb:\t0000000000000000");
	status_has(pid, "Seccomp:\t2");
	if (root) /* an ordinary user has no right to lower this one */
		status_has(pid, "CapBnd:\t0000000000000000");
}

static void g1_relay_and_helper_have_given_up_their_rights(void **state)
{
	struct peers *rig = *state;

	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, NULL);
	peers_connect(rig);
	fe_hello(rig);
	given_up(rig->relay, geteuid() == 0);
	given_up(peers_door(rig), geteuid() == 0);
}

static void g1_relay_maps_no_guest_memory(void **state)
{
	struct peers *rig = *state;
	char line[512];
	FILE *f;

	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, NULL);
	peers_connect(rig);
	fe_hello(rig);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	f = peers_proc(rig->relay, "cat", "maps");
	while (fgets(line, sizeof(line), f)) {
		assert_null(strstr(line, "/dev/shm"));
		assert_null(strstr(line, "memfd:"));
	}
	assert_int_equal(pclose(f), 0);
}

static void g5_helper_ends_with_the_relay(void **state)
{
	struct peers *rig = *state;
	pid_t helper;

	peers_backend_start(rig);
	peers_relay(rig, NULL);
	peers_connect(rig);
	fe_hello(rig);
	helper = peers_door(rig);
	assert_true(helper > 0);
	kill(rig->relay, SIGKILL);
	peers_status(rig);
	for (int i = 0; i < 2000 && !kill(helper, 0); i++)
		usleep(5000);
	assert_int_equal(kill(helper, 0), -1);
}

static void g6_without_its_helper_the_relay_ends(void **state)
{
	struct peers *rig = *state;

	peers_backend_start(rig);
	peers_relay(rig, "--share", rig->pool_path, NULL);
	peers_connect(rig);
	fe_hello(rig);
	kill(peers_door(rig), SIGKILL);
	assert_true(fe_closed(rig));
	assert_int_equal(peers_status(rig), 1);
	assert_true(peers_logged(rig, "the helper process is gone"));
}

static void g1_works_as_an_ordinary_user(void **state)
{
	struct peers *rig = *state;
	char program[4096];
	const char *from = getenv("SLUICE");
	char cmd[8400];

	snprintf(program, sizeof(program), "%s/sluice", rig->dir);
	snprintf(cmd, sizeof(cmd), "cp %s %s && chmod 755 %s", from ? from : "build/sluice",
		 program, program);
	assert_int_equal(system(cmd), 0);
	peers_backend_start(rig);
	assert_int_equal(chmod(rig->back, 0777), 0);
	rig->relay = fork();
	if (rig->relay == 0) {
		int fd = open(rig->log, O_WRONLY | O_CREAT | O_APPEND, 0666);

		dup2(fd, STDERR_FILENO);
		if (geteuid() == 0 && (setgid(65534) || setuid(65534)))
			_exit(126);
		execl(program, "sluice", "relay", "--listen", rig->front, "--backend", rig->back,
		      "--mode", "filter", "--share", rig->pool_path, (char *)NULL);
		_exit(127);
	}
	peers_connect(rig);
	fe_hello(rig);
	given_up(rig->relay, false);
	given_up(peers_door(rig), false);
	assert_int_equal(fe_add_pool(rig), 0);
	assert_int_equal(fe_ring(rig, 0, POOL_USER, 64), 0);
	assert_true(be_saw_file(rig, rig->pool));
}

/* Runs one attempt in a confined child; returns the child's status. */
static int attempt(int (*confine)(void), void (*deed)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (confine())
			_exit(99);
		deed();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static int confine_threadless(void)
{
	return confine_shadow(NULL, NULL);
}

static void do_nothing(void)
{
}

static void do_open(void)
{
	if (open("/etc/passwd", O_RDONLY) >= 0)
		_exit(1);
}

static void do_exec(void)
{
	execl("/bin/true", "true", (char *)NULL);
}

static void do_socket(void)
{
	if (socket(AF_INET, SOCK_STREAM, 0) >= 0)
		_exit(1);
}

static void do_unix_socket(void)
{
	if (socket(AF_UNIX, SOCK_STREAM, 0) >= 0)
		_exit(1);
}

static void do_ptrace(void)
{
	if (!ptrace(PTRACE_ATTACH, getppid(), 0, 0))
		_exit(1);
}

static void do_kill(void)
{
	if (!kill(getppid(), 0))
		_exit(1);
}

static void do_fork(void)
{
	if (fork() >= 0)
		_exit(1);
}

static void do_fcntl(void)
{
	if (fcntl(0, F_SETOWN, getppid()) == 0)
		_exit(1);
}

static void do_stat(void)
{
	struct stat st;

	if (!stat("/etc/passwd", &st))
		_exit(1);
}

static void do_code(void)
{
	if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
	    MAP_FAILED)
		_exit(1);
}

static void g1_forbidden_calls_end_the_process(void **state)
{
	static void (*const relay[])(void) = {do_exec, do_socket, do_unix_socket, do_ptrace,
					      do_kill, do_fcntl,  do_stat};
	static void (*const helper[])(void) = {do_exec, do_socket, do_ptrace, do_kill, do_fcntl};
	const int killed = SIGSYS;

	(void)state;
	assert_int_equal(attempt(confine_relay, do_nothing), 0);
	assert_int_equal(attempt(confine_threadless, do_nothing), 0);
	assert_int_equal(attempt(confine_door, do_nothing), 0);
	for (size_t i = 0; i < sizeof(relay) / sizeof(relay[0]); i++) {
		assert_int_equal(attempt(confine_relay, relay[i]) & 0x7f, killed);
		assert_int_equal(attempt(confine_threadless, relay[i]) & 0x7f, killed);
	}
	for (size_t i = 0; i < sizeof(helper) / sizeof(helper[0]); i++)
		assert_int_equal(attempt(confine_door, helper[i]) & 0x7f, killed);
	/* A sanitizer's runtime may open files and start threads, so the filter lets it. */
	if (sanitized)
		return;
	assert_int_equal(attempt(confine_threadless, do_open) & 0x7f, killed);
	assert_int_equal(attempt(confine_threadless, do_code) & 0x7f, killed);
	assert_int_equal(attempt(confine_relay, do_open) & 0x7f, killed);
	assert_int_equal(attempt(confine_door, do_open) & 0x7f, killed);
	assert_int_equal(attempt(confine_relay, do_fork) & 0x7f, killed);
}

#define T(name) cmocka_unit_test_setup_teardown(name, peers_setup, peers_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(g1_relay_and_helper_have_given_up_their_rights),
		T(g1_relay_maps_no_guest_memory),
		T(g5_helper_ends_with_the_relay),
		T(g6_without_its_helper_the_relay_ends),
		T(g1_works_as_an_ordinary_user),
		cmocka_unit_test(g1_forbidden_calls_end_the_process),
	};

	return cmocka_run_group_tests_name("relay confinement", tests, NULL, NULL);
}
