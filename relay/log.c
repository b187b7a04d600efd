/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * log.c - what the relay tells its operator
 *
 * Theory of operation
 * -------------------
 * Lines go to stderr, each in one write(), prefixed "sluice relay: ". There is no buffer to flush,
 * so nothing is lost when the process is killed.
 *
 * A peer must not be able to fill a disk through the relay, so what a peer can cause goes through a
 * bucket of LOG_BURST lines that regains one each second. One bucket serves all peers: a noisy
 * backend can then hide what a front-end causes, but only up to a counter that is written out.
 */
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

static struct {
	int64_t since; /* the moment up to which lines have been earned */
	unsigned int tokens;
	unsigned int left_out;
} bucket = {.tokens = LOG_BURST};

int64_t relay_now_ms(void)
{
	struct timespec ts = {0};

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void line(const char *fmt, va_list ap)
{
	static const char prefix[] = "sluice relay: ";
	char buf[1024];
	size_t at = sizeof(prefix) - 1, room = sizeof(buf) - sizeof(prefix);
	int n;

	for (size_t i = 0; i < at; i++)
		buf[i] = prefix[i];
	n = vsnprintf(buf + at, room, fmt, ap);
	if (n < 0)
		return;
	at += (size_t)n < room ? (size_t)n : room - 1;
	/* What is printed may hold names that a peer chose: no control character gets through to
	 * the operator's terminal. */
	for (size_t i = 0; i < at; i++)
		if ((unsigned char)buf[i] < ' ' || buf[i] == 0x7f)
			buf[i] = '?';
	buf[at++] = '\n';
	if (write(STDERR_FILENO, buf, at) < 0)
		return; /* nobody left to tell */
}

void relay_log(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	line(fmt, ap);
	va_end(ap);
}

void relay_log_peer(const char *fmt, ...)
{
	int64_t now = relay_now_ms(), earned = (now - bucket.since) / 1000;
	va_list ap;

	if (earned > 0) {
		bucket.since += earned * 1000;
		bucket.tokens = earned + bucket.tokens > LOG_BURST
					? LOG_BURST
					: bucket.tokens + (unsigned int)earned;
	}
	if (!bucket.tokens) {
		bucket.left_out++;
		return;
	}
	bucket.tokens--;
	if (bucket.left_out) {
		relay_log("%u lines like the ones above were left out", bucket.left_out);
		bucket.left_out = 0;
	}
	va_start(ap, fmt);
	line(fmt, ap);
	va_end(ap);
}
