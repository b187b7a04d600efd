/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * stats.c - the --stats socket
 *
 * Theory of operation
 * -------------------
 * Whoever connects gets all counters as Prometheus' text format (exposition format 0.0.4) and then
 * the end of the stream. Two kinds of clients come: scrapers, which speak HTTP, and programs that just
 * read. So the relay waits a moment for a request. Who sends one is answered in HTTP/1.0 (RFC 1945): GET
 * and HEAD of / and /metrics with the counters, all else with an error. Who sends nothing gets the
 * bare text after PLAIN_MS, or at once if it shuts down its sending side.
 *
 * Nobody who holds the socket can do more than make the relay count: one client is served at a time,
 * for CLIENT_MS at most, with a request of at most REQUEST_ROOM bytes; the others wait in the
 * kernel's queue. No call here blocks: the loop asks stats_poll() what to wait for.
 *
 * Counters live for as long as the process; those of a queue go on over front-ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "shadow.h"
#include "state.h"

#define ROOM	     (512u << 10) /* for the lines of 256 queues */
#define HEAD_ROOM    256u
#define REQUEST_ROOM 4096u
#define PLAIN_MS     100  /* that a client may take to begin a request */
#define CLIENT_MS    1000 /* that it may take in all */

static char text[ROOM];
static size_t length;

static struct {
	bool here;
	bool answering;
	bool shut; /* it sends no more */
	int fd;
	int64_t since; /* ms */
	size_t got;    /* bytes of the request */
	size_t sent;   /* of head and body together */
	size_t head_len;
	size_t body_len; /* of text[] */
	char request[REQUEST_ROOM];
	char head[HEAD_ROOM];
} client;

static void put(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void put(const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text + length, ROOM - length, fmt, ap);
	va_end(ap);
	/* A line that does not fit is left out. */
	if (n > 0 && (size_t)n < ROOM - length)
		length += (size_t)n;
	else
		text[length] = '\0';
}

static void head(const char *name, const char *type, const char *help)
{
	put("# HELP sluice_relay_%s %s\n# TYPE sluice_relay_%s %s\n", name, help, name, type);
}

static uint64_t counter(const struct queue *q, size_t offset)
{
	const void *at = (const char *)&q->stats + offset;

	/* Its thread counts on meanwhile (stats_add()). */
	return __atomic_load_n((const uint64_t *)at, __ATOMIC_RELAXED);
}

/* One line for each queue that has ever run. */
static void each(const struct shadow *s, const char *name, const char *labels, size_t offset)
{
	for (unsigned int i = 0; i < RING_MAX; i++) {
		const struct queue *q = &s->queues[i];

		if (q->stats.seen)
			put("sluice_relay_%s{queue=\"%u\"%s} %" PRIu64 "\n", name, i, labels,
			    counter(q, offset));
	}
}

#define EACH(name, labels, field) each(s, name, labels, offsetof(struct queue_stats, field))

static void queues(const struct shadow *s)
{
	head("requests_total", "counter", "Chains given back to the guest.");
	EACH("requests_total", "", requests);
	head("bytes_total", "counter",
	     "Payload copied: out to where the device reads it, in to the guest.");
	EACH("bytes_total", ",direction=\"out\"", out);
	EACH("bytes_total", ",direction=\"in\"", in);
	head("copies_total", "counter", "Pieces that the payload was copied in.");
	EACH("copies_total", "", copies);
	head("kicks_total", "counter", "Notifications by a driver: seen from the guest, sent.");
	EACH("kicks_total", ",side=\"guest\"", kicks_in);
	EACH("kicks_total", ",side=\"backend\"", kicks);
	head("calls_total", "counter", "Notifications by a device: sent to the guest, seen.");
	EACH("calls_total", ",side=\"guest\"", calls);
	EACH("calls_total", ",side=\"backend\"", calls_in);
	head("full_total", "counter", "Chains that had to wait for room.");
	EACH("full_total", "", full);
	head("resubmitted_total", "counter", "Chains given to another backend.");
	EACH("resubmitted_total", "", resubmitted);
	head("wrong_lengths_total", "counter", "Used lengths too short to be true.");
	EACH("wrong_lengths_total", "", wrong_lengths);
	head("in_flight", "gauge", "Chains fetched and not yet used.");
	for (unsigned int i = 0; i < RING_MAX; i++)
		if (s->queues[i].stats.seen)
			put("sluice_relay_in_flight{queue=\"%u\"} %u\n", i,
			    __atomic_load_n(&s->queues[i].nflights, __ATOMIC_RELAXED));
}

static void refused(const struct shadow *s)
{
	static const char *const names[REFUSALS][2] = {
		[REFUSED_CHAIN] = {"guest", "chain"},	   [REFUSED_TOO_BIG] = {"guest", "too_big"},
		[REFUSED_USED] = {"backend", "used"},	   [REFUSED_LENGTH] = {"backend", "length"},
		[REFUSED_LOST] = {"guest", "memory_gone"}, [REFUSED_RING] = {"guest", "ring"},
	};

	head("refused_total", "counter", "Accesses refused.");
	for (unsigned int i = 0; i < REFUSALS; i++)
		put("sluice_relay_refused_total{side=\"%s\",reason=\"%s\"} %" PRIu64 "\n",
		    names[i][0], names[i][1], __atomic_load_n(&s->refused[i], __ATOMIC_RELAXED));
}

static void pool(const struct shadow *s)
{
	struct sluice_pool_stats p = {0};

	if (s->memfd)
		sluice_pool_get_stats(&s->memfd->pool, &p);
	if (p.used_max < s->pool_max_used)
		p.used_max = s->pool_max_used;
	head("pool_bytes", "gauge", "Size of the pool now.");
	put("sluice_relay_pool_bytes %" PRIu64 "\n", p.bytes);
	head("pool_used_bytes", "gauge", "Of it, in slots and rings.");
	put("sluice_relay_pool_used_bytes %" PRIu64 "\n", p.used);
	head("pool_used_max_bytes", "gauge", "The most that it has been, with what caches hold.");
	put("sluice_relay_pool_used_max_bytes %" PRIu64 "\n", p.used_max);
	head("ring_bytes", "gauge", "Of it, in shadow rings and what belongs to them.");
	put("sluice_relay_ring_bytes %" PRIu64 "\n", s->rings);
	head("backend_connects_total", "counter", "Pools made, one for each backend that came.");
	put("sluice_relay_backend_connects_total %" PRIu64 "\n", s->connects);
}

/* The lines of one histogram over all queues: its labels end in a comma or are empty. */
static void histogram(const struct shadow *s, const char *name, const char *labels,
		      unsigned int first, size_t buckets, size_t total)
{
	const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
	uint64_t sum = 0, count = 0;

	for (unsigned int b = 0; b < LATENCY_BUCKETS; b++) {
		for (unsigned int i = 0; i < RING_MAX; i++)
			count += counter(&s->queues[i], buckets + b * sizeof(uint64_t));
		if (b + 1 < LATENCY_BUCKETS)
			put("sluice_relay_%s_bucket{%sle=\"%.9g\"} %" PRIu64 "\n", name, labels,
			    (double)(UINT64_C(1) << first << b) / 1e9, count);
	}
	for (unsigned int i = 0; i < RING_MAX; i++)
		sum += counter(&s->queues[i], total);
	put("sluice_relay_%s_bucket{%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, count);
	put("sluice_relay_%s_sum%s%s%s %.9f\n", name, open, labels, close, (double)sum / 1e9);
	put("sluice_relay_%s_count%s%s%s %" PRIu64 "\n", name, open, labels, close, count);
}

#define HISTOGRAM(name, labels, first, buckets, total)                                             \
	histogram(s, name, labels, first, offsetof(struct queue_stats, buckets),                   \
		  offsetof(struct queue_stats, total))

static void latency(const struct shadow *s)
{
	head("latency_seconds", "histogram",
	     "From fetching a chain to giving it back, the backend's time included.");
	HISTOGRAM("latency_seconds", "", LATENCY_FIRST, latency, latency_sum);
	head("added_seconds", "histogram",
	     "The relay's own part: from finding a chain to having passed it on, for each way.");
	HISTOGRAM("added_seconds", "direction=\"out\",", ADDED_FIRST, added[0], added_sum[0]);
	HISTOGRAM("added_seconds", "direction=\"in\",", ADDED_FIRST, added[1], added_sum[1]);
}

/* ---- the client ---- */

static void receive(void)
{
	struct iovec iov = {client.request + client.got, REQUEST_ROOM - client.got};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n = recvmsg(client.fd, &msg, MSG_DONTWAIT);
	size_t blank = 0;

	if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
		client.shut = true;
	if (n > 0)
		client.got += (size_t)n;
	/* Empty lines before a request do not count (RFC 9112, 2.2). */
	while (blank < client.got && strchr("\r\n", client.request[blank]) && client.request[blank])
		blank++;
	memmove(client.request, client.request + blank, client.got - blank);
	client.got -= blank;
}

static void finish(void)
{
	struct iovec iov = {client.request, REQUEST_ROOM};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	/* Closed with something unread, the other side would see a reset and not the end. */
	(void)recvmsg(client.fd, &msg, MSG_DONTWAIT);
	close(client.fd);
	client.here = false;
}

static void answer(const struct shadow *s, const char *head, bool body)
{
	size_t n = strlen(head);

	length = 0;
	queues(s);
	refused(s);
	pool(s);
	latency(s);
	client.answering = true;
	client.head_len = client.body_len = 0;
	if (n) {
		int len = snprintf(client.head, HEAD_ROOM,
				   "HTTP/1.0 %s\r\nContent-Type: text/plain; version=0.0.4; "
				   "charset=utf-8\r\nContent-Length: %zu\r\n\r\n",
				   head, length);

		client.head_len = len > 0 && (size_t)len < HEAD_ROOM ? (size_t)len : 0;
	}
	if (body)
		client.body_len = length;
}

static void refuse(const char *head, const char *more)
{
	int len = snprintf(client.head, HEAD_ROOM,
			   "HTTP/1.0 %s\r\n%sContent-Type: text/plain\r\nContent-Length: %zu\r\n"
			   "\r\n%s\n",
			   head, more, strlen(head) + 1, head);

	client.answering = true;
	client.head_len = len > 0 && (size_t)len < HEAD_ROOM ? (size_t)len : 0;
	client.body_len = 0;
}

/* Whether the @n bytes at @p are this word. */
static bool is(const char *p, size_t n, const char *word)
{
	return n == strlen(word) && !memcmp(p, word, n);
}

/* A request line, without its end: METHOD SP TARGET SP VERSION. */
static void answer_line(const struct shadow *s, const char *line, size_t n)
{
	const char *target = memchr(line, ' ', n), *version, *query;
	size_t method_len, target_len;

	if (!target)
		goto bad;
	method_len = (size_t)(target++ - line);
	version = memchr(target, ' ', n - method_len - 1);
	if (!version)
		goto bad;
	target_len = (size_t)(version++ - target);
	n -= (size_t)(version - line);
	if (n != strlen("HTTP/1.x") || memcmp(version, "HTTP/1.", n - 1) != 0)
		goto bad;
	query = memchr(target, '?', target_len);
	if (query)
		target_len = (size_t)(query - target);
	if (!is(line, method_len, "GET") && !is(line, method_len, "HEAD"))
		refuse("405 Method Not Allowed", "Allow: GET, HEAD\r\n");
	else if (!is(target, target_len, "/") && !is(target, target_len, "/metrics"))
		refuse("404 Not Found", "");
	else
		answer(s, "200 OK", *line == 'G');
	return;
bad:
	refuse("400 Bad Request", "");
}

/* Whether there is an empty line: the end of a request's head. */
static bool ended(void)
{
	for (size_t i = 0; i + 1 < client.got; i++)
		if (client.request[i] == '\n' &&
		    (client.request[i + 1] == '\n' ||
		     (i + 2 < client.got && !memcmp(client.request + i + 1, "\r\n", 2))))
			return true;
	return false;
}

/* Starts the answer once it is known which. */
static void decide(const struct shadow *s, int64_t age)
{
	const char *line = client.request, *end = memchr(line, '\n', client.got);
	size_t n = end ? (size_t)(end - line) : client.got;

	if (n && line[n - 1] == '\r')
		n--;
	if (!client.got && (client.shut || age >= PLAIN_MS))
		answer(s, "", true);
	else if (ended() || (end && client.shut))
		answer_line(s, line, n);
	else if (client.got == REQUEST_ROOM || (client.got && client.shut))
		refuse("400 Bad Request", "");
	else if (age >= CLIENT_MS)
		refuse("408 Request Timeout", "");
}

/* Sends what goes. Returns whether that was all, or all that ever will. */
static bool transmit(void)
{
	while (client.sent < client.head_len + client.body_len) {
		size_t head = client.sent < client.head_len ? client.head_len - client.sent : 0;
		size_t body = head ? 0 : client.sent - client.head_len;
		struct iovec iov[2] = {
			{client.head + client.head_len - head, head},
			{text + body, client.body_len - body},
		};
		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
		ssize_t n = sendmsg(client.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0)
			return errno != EAGAIN && errno != EINTR;
		client.sent += (size_t)n;
	}
	return true;
}

void stats_serve(struct shadow *s)
{
	int64_t age;

	if (!client.here) {
		client.fd = accept4(s->stats_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (client.fd < 0)
			return;
		client.here = true;
		client.answering = client.shut = false;
		client.got = client.sent = 0;
		client.since = relay_now_ms();
	}
	age = relay_now_ms() - client.since;
	if (!client.answering) {
		receive();
		decide(s, age);
	}
	if ((client.answering && transmit()) || age >= 2 * CLIENT_MS)
		finish();
}

int stats_poll(const struct shadow *s, struct pollfd *p)
{
	int64_t left;

	*p = (struct pollfd){.fd = s->stats_fd, .events = POLLIN};
	if (!client.here)
		return -1;
	*p = (struct pollfd){.fd = client.fd, .events = client.answering ? POLLOUT : POLLIN};
	left = client.since - relay_now_ms() +
	       (client.answering ? 2 * CLIENT_MS
		: client.got	 ? CLIENT_MS
				 : PLAIN_MS);
	return left > 0 ? (int)left : 0;
}
