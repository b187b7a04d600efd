/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_stats.c - the --stats socket, to readers of every kind
 *
 * Theory of operation: a relay in mode shadow with a good guest and a good device. Its statistics are
 * asked for as programs, curl, and somebody who means harm would; whatever they do, chains pass
 * meanwhile and the next reader is answered (G4, G6). And two promises about the pool that only its
 * figures show: how little it holds beside what is in flight, and that no queue gets all of it (G5).
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "pair.h"

#define ROOM	 (1u << 20)
#define CURL	 "curl -sS --max-time 10 --unix-socket "
#define ARRAY(a) (sizeof(a) / sizeof((a)[0]))

static char socket_path[96];
static char got[ROOM];

static void up_with(struct pair *p, const char *pool)
{
	snprintf(socket_path, sizeof(socket_path), "%s/stats", p->rig->dir);
	device_start(&p->device);
	peers_relay(p->rig, "--mode", "shadow", "--keep", "--stats", socket_path, "--pool-size",
		    pool, "--pool-max", pool, NULL);
	peers_connect(p->rig);
	vm_up(&p->vm);
	pair_well(p);
}

static void up(struct pair *p)
{
	up_with(p, "64M");
}

static int reader(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	memcpy(addr.sun_path, socket_path, strlen(socket_path));
	for (int i = 0; connect(fd, (struct sockaddr *)&addr, sizeof(addr)); i++) {
		assert_true(i < 1000);
		poll(NULL, 0, 10);
	}
	return fd;
}

/* All that comes, to its end; fails the test if that is a reset, or never. */
static const char *all_of(int fd)
{
	size_t n = 0;

	for (;;) {
		struct pollfd p = {fd, POLLIN, 0};
		ssize_t more;

		assert_int_equal(poll(&p, 1, 30000), 1);
		more = read(fd, got + n, sizeof(got) - 1 - n);
		assert_true(more >= 0);
		n += (size_t)more;
		if (!more)
			break;
	}
	got[n] = '\0';
	close(fd);
	return got;
}

static const char *ask(const char *request, size_t n)
{
	int fd = reader();

	assert_int_equal(send(fd, request, n, MSG_NOSIGNAL), n);
	return all_of(fd);
}

static bool begins(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

static void g6_a_plain_reader_gets_the_bare_text(void **state)
{
	struct pair *p = *state;
	int fd;

	up(p);
	assert_true(begins(all_of(reader()), "# HELP sluice_relay_requests_total "));
	fd = reader();
	shutdown(fd, SHUT_WR);
	assert_true(begins(all_of(fd), "# HELP sluice_relay_requests_total "));
	/* Who presses Enter. */
	assert_true(begins(ask("\r\n\n", 3), "# HELP sluice_relay_requests_total "));
	pair_well(p);
}

static double value_of(const char *text, const char *sample)
{
	const char *at = strstr(text, sample);

	if (!at)
		fail_msg("no %s", sample);
	return strtod(at + strlen(sample), NULL);
}

/* Every figure that is promised is there and true; the rules of the format are kept. */
static void g6_the_figures_are_there(void **state)
{
	static const char *const names[] = {
		"requests_total{queue=\"0\"} ",
		"bytes_total{queue=\"0\",direction=\"out\"} ",
		"bytes_total{queue=\"0\",direction=\"in\"} ",
		"copies_total{queue=\"0\"} ",
		"full_total{queue=\"0\"} ",
		"refused_total{side=\"guest\",reason=\"chain\"} ",
		"refused_total{side=\"guest\",reason=\"ring\"} ",
		"refused_total{side=\"backend\",reason=\"used\"} ",
		"refused_total{side=\"backend\",reason=\"length\"} ",
		"\nsluice_relay_pool_bytes ",
		"\nsluice_relay_pool_used_bytes ",
		"\nsluice_relay_pool_used_max_bytes ",
		"latency_seconds_bucket{le=\"+Inf\"} ",
		"added_seconds_bucket{direction=\"out\",le=\"+Inf\"} ",
	};
	struct pair *p = *state;
	const char *text;

	up(p);
	p->device.script->sin = SIN_LEN_ONE;
	p->device.script->times = 1;
	vm_echo(&p->vm, 0);
	text = all_of(reader());
	for (size_t i = 0; i < ARRAY(names); i++)
		value_of(text, names[i]);
	assert_true(value_of(text, names[0]) == 4);
	assert_true(value_of(text, names[1]) == 400);
	assert_true(value_of(text, names[2]) == 1200);
	assert_true(value_of(text, names[8]) == 1);
	assert_true(value_of(text, names[11]) >= value_of(text, names[10]));
	assert_true(value_of(text, names[12]) == 7);
	assert_true(value_of(text, names[12]) == value_of(text, "latency_seconds_count "));
	assert_true(value_of(text, names[13]) == 7);
	assert_true(value_of(text, "added_seconds_sum{direction=\"in\",} ") > 0);
	for (const char *line = text, *end; *line; line = end + 1) {
		end = strchr(line, '\n');
		assert_non_null(end);
		assert_true(begins(line, "# HELP sluice_relay_") ||
			    begins(line, "# TYPE sluice_relay_") || begins(line, "sluice_relay_"));
	}
}

/* The used length of a chain with nothing to write: 0 in a split ring, of no meaning in a packed one (virtio 1.2,
 * 2.7.8 and 2.8.4). DPDK has there what it has read. */
static void g6_a_length_without_meaning_is_not_refused(void **state)
{
	const struct piece piece = {VM_BUFFER, 100, false};
	struct pair *p = *state;
	uint32_t id, len;

	up(p);
	p->device.script->sin = SIN_LEN_ONE;
	p->device.script->times = 1;
	vm_offer(&p->vm, 0, &piece, 1);
	vm_kick(&p->vm, 0);
	vm_wait(&p->vm, 0, &id, &len);
	assert_int_equal(len, 0);
	assert_true(
		value_of(all_of(reader()), "refused_total{side=\"backend\",reason=\"length\"} ") ==
		!p->pairing->device_packed);
}

static void g6_http_is_answered_in_http(void **state)
{
	static const struct {
		const char *request;
		const char *answer;
		bool counters;
	} asked[] = {
		{"GET /metrics HTTP/1.1\r\nHost: relay\r\n\r\n", "HTTP/1.0 200 ", true},
		{"\r\nGET / HTTP/1.0\n\n", "HTTP/1.0 200 ", true},
		{"GET /metrics?name=x HTTP/1.1\r\n\r\n", "HTTP/1.0 200 ", true},
		{"HEAD /metrics HTTP/1.1\r\n\r\n", "HTTP/1.0 200 ", false},
		{"GET /../etc/passwd HTTP/1.1\r\n\r\n", "HTTP/1.0 404 ", false},
		{"GET /metricsx HTTP/1.1\r\n\r\n", "HTTP/1.0 404 ", false},
		{"POST /metrics HTTP/1.1\r\nContent-Length: 2\r\n\r\nxx", "HTTP/1.0 405 ", false},
		{"GETT / HTTP/1.1\r\n\r\n", "HTTP/1.0 405 ", false},
		{"GET /metrics HTTP/2.0\r\n\r\n", "HTTP/1.0 400 ", false},
		{"GET /metrics\r\n\r\n", "HTTP/1.0 400 ", false},
		{"GET  HTTP/1.1\r\n\r\n", "HTTP/1.0 404 ", false},
		{" \r\n\r\n", "HTTP/1.0 400 ", false},
		{"GET\r\n\r\n", "HTTP/1.0 400 ", false},
	};
	struct pair *p = *state;

	up(p);
	for (size_t i = 0; i < ARRAY(asked); i++) {
		const char *text = ask(asked[i].request, strlen(asked[i].request)), *body;

		if (!begins(text, asked[i].answer))
			fail_msg("%s: %s", asked[i].request, text);
		body = strstr(text, "\r\n\r\n");
		assert_non_null(body);
		body += 4;
		assert_int_equal(begins(body, "# HELP"), asked[i].counters);
		if (!begins(asked[i].request, "HEAD"))
			assert_int_equal(value_of(text, "Content-Length: "), strlen(body));
		else
			assert_true(!*body && value_of(text, "Content-Length: ") > 1000);
	}
	pair_well(p);
}

static void g6_curl_is_content(void **state)
{
	struct pair *p = *state;
	char command[1024];

	up(p);
	snprintf(command, sizeof(command),
		 CURL "'%s' --fail http://relay/metrics | grep -q '^sluice_relay_pool_bytes ' && "
		      "for i in 1 2 3 4 5; do " CURL
		      "'%s' --fail -o /dev/null http://relay/ || exit 9; done && "
		      "! " CURL "'%s' --fail -o /dev/null http://relay/other 2>/dev/null",
		 socket_path, socket_path, socket_path);
	assert_int_equal(system(command), 0);
}

/* What is sent, in one piece or byte by byte, does not matter to anybody else. */
static void g4_garbage_gets_an_error_and_harms_nobody(void **state)
{
	struct pair *p = *state;
	static char junk[100000];
	uint64_t x = 0x5eed;
	struct weight before, after;

	up(p);
	before = relay_weight(p->rig);
	for (unsigned int round = 0; round < 40; round++) {
		size_t n = round < 20 ? round * 7 + 1 : (round - 19) * 4900;
		int fd = reader();

		for (size_t i = 0; i < n; i++) {
			x = x * 6364136223846793005u + 1442695040888963407u;
			junk[i] = round % 3 ? (char)(x >> 40) : "GET /\r\n HTP"[x % 11];
		}
		if (round % 3 == 1)
			memcpy(junk, "\0\0\0\n\r\n\r", n < 7 ? n : 7);
		(void)!send(fd, junk, n, MSG_NOSIGNAL);
		shutdown(fd, SHUT_WR);
		close(fd);
		vm_echo(&p->vm, round % 2);
	}
	assert_true(begins(ask("x", 1), "HTTP/1.0 4"));
	assert_true(begins(ask("GET /metrics HTTP/1.1\r\n\r\n", 25), "HTTP/1.0 200 "));
	pair_well(p);
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	assert_true(after.kib < before.kib + 1024);
}

/* Clients that neither ask nor read nor leave hold up nothing but the next, for a bounded time. */
static void g4_idle_clients_hold_up_nothing(void **state)
{
	struct pair *p = *state;
	int fds[3];

	up(p);
	/* This one begins a request and stops. */
	fds[0] = reader();
	assert_int_equal(send(fds[0], "GET /met", 8, MSG_NOSIGNAL), 8);
	for (unsigned int i = 1; i < 3; i++)
		fds[i] = reader();
	pair_well(p);
	assert_true(begins(ask("GET / HTTP/1.0\r\n\r\n", 18), "HTTP/1.0 200 "));
	assert_true(begins(all_of(fds[0]), "HTTP/1.0 408 "));
	for (unsigned int i = 1; i < 3; i++)
		assert_true(begins(all_of(fds[i]), "# HELP"));
	/* And while no front-end is there. */
	close(p->rig->fe);
	p->rig->fe = -1;
	fds[0] = reader();
	assert_true(begins(all_of(reader()), "# HELP"));
	assert_true(begins(all_of(fds[0]), "# HELP"));
}

/* What is offered to be read is no canary. */
static void no_canaries(struct vm *v)
{
	static const uint8_t plain[VM_BYTES - (VM_BUFFER - VM_GPA)];

	vm_write(v, VM_BUFFER, plain, sizeof(plain));
}

/* Chains as a disk gets them: a header, data, a status; all of both rings at once. */
static void offer_full(struct vm *v, uint32_t data, bool write_it)
{
	for (unsigned int i = 0; i < VM_RINGS * VM_NUM; i++) {
		const uint64_t head = VM_BUFFER + 32 * i;
		const struct piece pieces[] = {{head, 16, false},
					       {VM_BUFFER + 0x1000 + i * data, data, !write_it},
					       {head + 16, 1, true}};

		vm_offer_indirect(v, i % VM_RINGS, pieces, 3, i);
	}
	for (unsigned int q = 0; q < VM_RINGS; q++)
		vm_kick(v, q);
}

static void all_back(struct vm *v, unsigned int q)
{
	uint32_t id, len;

	for (unsigned int i = 0; i < VM_NUM; i++)
		vm_wait(v, q, &id, &len);
}

/* At most 1.25 times what is in flight, and the rings; also after requests of other sizes, which the pool's
 * cache keeps. */
static void g5_the_pool_holds_little_more_than_is_in_flight(void **state)
{
	static const uint32_t sizes[] = {4096, 3 * 4096, 8 * 4096, 12 * 4096};
	struct pair *p = *state;
	struct device_script *script = p->device.script;

	/* The device looks through all of the pool with each chain. */
	up_with(p, "4M");
	no_canaries(&p->vm);
	for (unsigned int i = 0; i < 2 * ARRAY(sizes); i++) {
		const uint32_t size = sizes[i / 2];
		const double flight = VM_RINGS * VM_NUM * (size + 17.0);
		const uint32_t chains = script->chains;
		double most, rings;
		const char *text;

		script->hold = true;
		offer_full(&p->vm, size, i % 2);
		device_wait(&p->device, &script->chains, chains + VM_RINGS * VM_NUM);
		text = all_of(reader());
		most = value_of(text, "\nsluice_relay_pool_used_max_bytes ");
		rings = value_of(text, "\nsluice_relay_ring_bytes ");
		/* If it were less, it would be the figure that is wrong. */
		assert_true(most >= VM_RINGS * VM_NUM * size + rings);
		if (most > 1.25 * flight + rings)
			fail_msg("%.0f bytes for %.0f in flight, and rings of %.0f", most, flight,
				 rings);
		script->hold = false;
		for (unsigned int q = 0; q < VM_RINGS; q++)
			all_back(&p->vm, q);
	}
	pair_well(p);
}

/* A device that answers nothing on one queue, as a network card's that waits for packets, where much more
 * is offered than there is room for: the other queue works, with chains up to its share. */
static void g5_no_queue_gets_all_of_the_pool(void **state)
{
	const struct piece large[] = {{VM_BUFFER + 0x2000, 256 << 10, false},
				      {VM_BUFFER, 16, true}};
	struct pair *p = *state;
	struct vm *v = &p->vm;
	const char *text = NULL;
	uint32_t id, len;

	up_with(p, "2M");
	no_canaries(v);
	p->device.script->hold_first = true;
	for (unsigned int i = 0; i < VM_NUM; i++)
		vm_offer_indirect(v, 0, large, 2, i);
	vm_kick(v, 0);
	for (unsigned int i = 0; i < 20; i++)
		vm_echo(v, 1);
	/* With a thread of its own the other ring may not have come that far. */
	for (unsigned int i = 0; i < 100; i++) {
		text = all_of(reader());
		if (value_of(text, "full_total{queue=\"0\"} ") > 0)
			break;
		usleep(10000);
	}
	assert_true(value_of(text, "full_total{queue=\"0\"} ") > 0);
	assert_true(value_of(text, "in_flight{queue=\"0\"} ") >= 2);
	for (unsigned int i = 0; i < 3; i++) {
		vm_offer_indirect(v, 1, large, 2, VM_NUM);
		vm_kick(v, 1);
		vm_wait(v, 1, &id, &len);
		assert_int_equal(len, large[1].len);
	}
	p->device.script->hold_first = false;
	all_back(v, 0);
	pair_well(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TEST(g6_a_plain_reader_gets_the_bare_text, pair_split),
		PAIR_TEST(g6_the_figures_are_there, pair_split),
		PAIR_TESTS(g6_a_length_without_meaning_is_not_refused),
		PAIR_TEST(g6_http_is_answered_in_http, pair_split),
		PAIR_TEST(g6_curl_is_content, pair_split),
		PAIR_TEST(g4_garbage_gets_an_error_and_harms_nobody, pair_split),
		PAIR_TEST(g4_idle_clients_hold_up_nothing, pair_split),
		PAIR_TEST(g5_the_pool_holds_little_more_than_is_in_flight, pair_split),
		PAIR_TEST(g5_the_pool_holds_little_more_than_is_in_flight, pair_packed),
		PAIR_TEST(g5_no_queue_gets_all_of_the_pool, pair_split),
		PAIR_TEST(g5_no_queue_gets_all_of_the_pool, pair_packed),
		PAIR_TEST(g6_the_figures_are_there, pair_threads_split),
		PAIR_TEST(g5_the_pool_holds_little_more_than_is_in_flight, pair_threads_split),
		PAIR_THREADS_TESTS(g5_no_queue_gets_all_of_the_pool),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("statistics", tests, NULL, NULL);
}
