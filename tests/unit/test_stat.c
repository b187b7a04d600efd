/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_stat.c - what `sluice stat` and `sluice top` make of a relay's answer
 *
 * Theory of operation: a child stands at the socket and answers as it is told: as a relay does, with
 * too much, with junk, or not at all. Reading has to come back from each of them, with an error or
 * with what is true.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>
#include <cmocka.h>

#include "tools/stat.h"

static const char answer[] =
	"# HELP sluice_relay_requests_total chains completed\n"
	"# TYPE sluice_relay_requests_total counter\n"
	"sluice_relay_requests_total{queue=\"0\"} 40\n"
	"sluice_relay_requests_total{queue=\"1\"} 2\n"
	"sluice_relay_refused_total{side=\"guest\",reason=\"a reason with blanks\"} 3\n"
	"sluice_relay_pool_bytes 67108864\n"
	"sluice_relay_latency_seconds_sum 1.5\n"
	"not_a_number{x=\"y\"} seven\n";

static char path[108];
static pid_t child;

/* Answer one connection with text, times over; hold: do not hang up. */
static void serve(const char *text, size_t n, unsigned int times, bool hold)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(path, sizeof(path), "/tmp/sluice-test-stat.%d", (int)getpid());
	unlink(path);
	strcpy(addr.sun_path, path);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 1), 0);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		int peer = accept(fd, NULL, NULL);

		signal(SIGPIPE, SIG_DFL);
		while (peer >= 0 && times--) {
			if (write(peer, text, n) != (ssize_t)n)
				break;
		}
		if (hold)
			pause();
		_exit(0);
	}
	close(fd);
}

static void finish(void)
{
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	unlink(path);
}

static int read_it(struct stat_all *all, char why[256])
{
	char *sockets[] = {path};

	return stat_read("/nonexistent/debugfs", sockets, 1, all, why);
}

static void test_a_relay(void **state)
{
	struct stat_all all;
	char why[256];

	(void)state;
	serve(answer, sizeof(answer) - 1, 1, false);
	assert_int_equal(read_it(&all, why), 0);
	assert_int_equal(all.relays, 1);
	assert_int_equal(all.devices, 0);
	assert_true(stat_sum(&all.relay[0], "sluice_relay_requests_total") == 42);
	assert_true(stat_sum(&all.relay[0], "sluice_relay_refused_total") == 3);
	assert_true(stat_sum(&all.relay[0], "sluice_relay_pool_bytes") == 67108864);
	/* A name that only begins like another one is not that. */
	assert_true(stat_sum(&all.relay[0], "sluice_relay_latency_seconds") == 0);
	assert_true(stat_sum(&all.relay[0], "not_a_number") == 0);
	stat_free(&all);
	finish();
}

static void test_one_that_never_ends(void **state)
{
	struct stat_all all;
	char why[256];

	(void)state;
	serve(answer, sizeof(answer) - 1, 1, true);
	assert_int_equal(read_it(&all, why), -ETIMEDOUT);
	assert_non_null(strstr(why, path));
	finish();
}

static void test_too_much_and_junk(void **state)
{
	static char junk[4096];
	struct stat_all all;
	char why[256];
	int ret;

	(void)state;
	serve(answer, sizeof(answer) - 1, 100000, false);
	ret = read_it(&all, why);
	if (!ret) {
		assert_in_range(all.relay[0].n, 1, STAT_MAX_VALUES);
		stat_free(&all);
	}
	finish();
	srand(1);
	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = (char)(rand() % 5 ? rand() : rand() % 2 ? '\n' : ' ');
	serve(junk, sizeof(junk), 1, false);
	assert_int_equal(read_it(&all, why), 0);
	for (size_t i = 0; i < all.relay[0].n; i++) {
		for (const char *c = all.relay[0].value[i].key; *c; c++)
			assert_in_range(*c, ' ', '~');
	}
	stat_free(&all);
	finish();
}

static void test_nobody_there(void **state)
{
	struct stat_all all;
	char why[256];

	(void)state;
	strcpy(path, "/nonexistent/socket");
	assert_int_equal(read_it(&all, why), -ENOENT);
	assert_int_equal(stat_read("/nonexistent/debugfs", NULL, 0, &all, why), -ENOENT);
	assert_non_null(strstr(why, "sluice.ko"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_relay),
		cmocka_unit_test(test_one_that_never_ends),
		cmocka_unit_test(test_too_much_and_junk),
		cmocka_unit_test(test_nobody_there),
	};

	return cmocka_run_group_tests_name("stat", tests, NULL, NULL);
}
