/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * stats.c - the --stats socket
 *
 * Theory of operation
 * -------------------
 * Whoever connects gets all counters as Prometheus' text format (exposition format 0.0.4) and then
 * the end of the stream; what comes from there is thrown away, so that nobody who holds it can
 * do more than make the relay count. The answer goes into the socket's buffer in one call that does not
 * wait: a reader that does not read gets less.
 *
 * Counters live for as long as the process; those of a queue go on over front-ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "shadow.h"
#include "state.h"

#define ROOM 131072u

static char text[ROOM];
static size_t length;

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

/* One line for each queue that has ever run. */
static void each(const struct shadow *s, const char *name, const char *labels, size_t offset)
{
	for (unsigned int i = 0; i < RING_MAX; i++) {
		const struct queue *q = &s->queues[i];
		uint64_t value;

		if (!q->stats.seen)
			continue;
		memcpy(&value, (const char *)&q->stats + offset, sizeof(value));
		put("sluice_relay_%s{queue=\"%u\"%s} %" PRIu64 "\n", name, i, labels, value);
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
			put("sluice_relay_in_flight{queue=\"%u\"} %u\n", i, s->queues[i].nflights);
}

static void refused(const struct shadow *s)
{
	static const char *const names[REFUSALS][2] = {
		[REFUSED_CHAIN] = {"guest", "chain"},	   [REFUSED_TOO_BIG] = {"guest", "too_big"},
		[REFUSED_USED] = {"backend", "used"},	   [REFUSED_LENGTH] = {"backend", "length"},
		[REFUSED_LOST] = {"guest", "memory_gone"},
	};

	head("refused_total", "counter", "Accesses refused.");
	for (unsigned int i = 0; i < REFUSALS; i++)
		put("sluice_relay_refused_total{side=\"%s\",reason=\"%s\"} %" PRIu64 "\n",
		    names[i][0], names[i][1], s->refused[i]);
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

static void latency(const struct shadow *s)
{
	uint64_t sum = 0, count = 0;

	head("latency_seconds", "histogram",
	     "From fetching a chain to giving it back, the backend's time included.");
	for (unsigned int b = 0; b < LATENCY_BUCKETS; b++) {
		for (unsigned int i = 0; i < RING_MAX; i++)
			count += s->queues[i].stats.latency[b];
		if (b + 1 < LATENCY_BUCKETS)
			put("sluice_relay_latency_seconds_bucket{le=\"%.9g\"} %" PRIu64 "\n",
			    (double)(UINT64_C(4096) << b) / 1e9, count);
	}
	for (unsigned int i = 0; i < RING_MAX; i++)
		sum += s->queues[i].stats.latency_sum;
	put("sluice_relay_latency_seconds_bucket{le=\"+Inf\"} %" PRIu64 "\n", count);
	put("sluice_relay_latency_seconds_sum %.9f\n", (double)sum / 1e9);
	put("sluice_relay_latency_seconds_count %" PRIu64 "\n", count);
}

void stats_serve(struct shadow *s)
{
	int fd = accept4(s->stats_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct iovec iov = {.iov_base = text};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd < 0)
		return;
	length = 0;
	queues(s);
	refused(s);
	pool(s);
	latency(s);
	iov.iov_len = length;
	(void)sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	/* Closed with something unread (a request as in HTTP), the answer would be lost too. */
	iov = (struct iovec){.iov_base = text, .iov_len = sizeof(text)};
	msg = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
	(void)recvmsg(fd, &msg, MSG_DONTWAIT);
	close(fd);
}
