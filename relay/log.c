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
 * backend can then hide what a front-end causes, but only up to a counter that is written out. The bucket
 * has a lock, lines have none: relay_log() is called from signal handlers.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

static struct {
	pthread_mutex_t lock;
	int64_t since; /* the moment up to which lines have been earned */
	unsigned int tokens;
	unsigned int left_out;
} bucket = {.lock = PTHREAD_MUTEX_INITIALIZER, .tokens = LOG_BURST};

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

/* Whether a line may be written now; and how many could not be before it. */
static bool take_token(unsigned int *left_out)
{
	int64_t earned = (relay_now_ms() - bucket.since) / 1000;

	*left_out = bucket.left_out;
	if (earned > 0) {
		bucket.since += earned * 1000;
		bucket.tokens = earned + bucket.tokens > LOG_BURST
					? LOG_BURST
					: bucket.tokens + (unsigned int)earned;
	}
	if (!bucket.tokens) {
		bucket.left_out++;
		return false;
	}
	bucket.tokens--;
	bucket.left_out = 0;
	return true;
}

void relay_log_peer(const char *fmt, ...)
{
	unsigned int left_out;
	va_list ap;
	bool may;

	pthread_mutex_lock(&bucket.lock);
	may = take_token(&left_out);
	pthread_mutex_unlock(&bucket.lock);
	if (!may)
		return;
	if (left_out)
		relay_log("%u lines like the ones above were left out", left_out);
	va_start(ap, fmt);
	line(fmt, ap);
	va_end(ap);
}
