/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * hops.c - the least that a process between two others can cost on this machine
 *
 * Theory of operation
 * -------------------
 *	hops direct|yield|sleep|busy WORK_NS SECONDS
 *
 * prints the mean time, in microseconds, of one word's way from a front-end to a backend and back,
 * directly or by way of a third process that does nothing with it. That is what bench/relay.sh's latency at
 * depth 1 is made of but for what the relay does. Who waits how is as it is there:
 *
 *	front-end  spins on the answer (a poll queue of libblkio), and asks again at once
 *	backend	   works for WORK_NS, answers, works as long again, looks whether there is more, and if not sleeps on an
 *		   eventfd (qemu-storage-daemon's loop; it is not kicked while it is awake). With "sleep" it signals an
 *		   eventfd besides when it has answered
 *	between	   "yield": looks, and yields the processor while there is nothing (relay/loop.c);
 *		   "sleep": sleeps while the backend works; "busy": looks, and never yields
 *
 * Nothing is pinned: with two processors one of them has two of the three.
 */
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP 0.2 /* seconds */

/* A line of the cache for each word, as rings have. */
struct word {
	_Alignas(128) atomic_uint n;
};

static struct {
	struct word asked, passed, answered, returned, asleep;
} * shared;

static int kick, call;
static double work; /* seconds */
static enum { DIRECT, YIELD, SLEEP, BUSY } between;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static unsigned int get(struct word *w)
{
	return atomic_load_explicit(&w->n, memory_order_acquire);
}

static void put(struct word *w, unsigned int n)
{
	atomic_store_explicit(&w->n, n, memory_order_release);
}

static void signal_fd(int fd)
{
	const uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one))
		_exit(1);
}

static void wait_fd(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t n;

	if (poll(&p, 1, -1) != 1 || read(fd, &n, sizeof(n)) != sizeof(n))
		_exit(1);
}

/* Whoever has something for the backend. The exchange orders the word before the look (as 2.7.10 of virtio). */
static void kick_backend(void)
{
	if (atomic_exchange(&shared->asleep.n, 0))
		signal_fd(kick);
}

static void do_work(void)
{
	double end = now() + work;

	while (now() < end)
		;
}

static _Noreturn void backend(void)
{
	struct word *from = between == DIRECT ? &shared->asked : &shared->passed;
	struct word *to = between == DIRECT ? &shared->returned : &shared->answered;

	for (unsigned int n = 1;; n++) {
		if (get(from) != n) {
			atomic_store(&shared->asleep.n, 1);
			/* It may have come before that could be seen; then the kick may come as well. */
			if (get(from) != n || !atomic_exchange(&shared->asleep.n, 0))
				wait_fd(kick);
		}
		do_work();
		put(to, n);
		if (between == SLEEP)
			signal_fd(call);
		do_work();
	}
}

static void pass(void)
{
	if (between == YIELD)
		sched_yield();
}

static _Noreturn void relay(void)
{
	for (unsigned int n = 1;; n++) {
		/* The front-end's next one comes soon: with "sleep", too, it is spun for. */
		while (get(&shared->asked) != n)
			pass();
		put(&shared->passed, n);
		kick_backend();
		if (between == SLEEP)
			wait_fd(call);
		while (get(&shared->answered) != n)
			pass();
		put(&shared->returned, n);
	}
}

static bool start(void (*what)(void))
{
	pid_t pid = fork();

	if (pid)
		return pid > 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	what();
	_exit(1);
}

static double run(double seconds)
{
	double begin = now(), at = begin, from = 0;
	unsigned int count = 0;

	for (unsigned int n = 1; at - begin < seconds + WARM_UP; n++) {
		put(&shared->asked, n);
		if (between == DIRECT)
			kick_backend();
		while (get(&shared->returned) != n)
			;
		at = now();
		if (at - begin <= WARM_UP)
			from = at;
		else
			count++;
	}
	return count ? (at - from) * 1e6 / count : 0;
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"direct", "yield", "sleep", "busy"};
	double seconds = argc == 4 ? strtod(argv[3], NULL) : 0;
	unsigned int which = 0;

	while (argc == 4 && which < 4 && strcmp(argv[1], names[which]) != 0)
		which++;
	if (argc != 4 || which == 4 || seconds <= 0) {
		fprintf(stderr, "usage: hops direct|yield|sleep|busy WORK_NS SECONDS\n");
		return 1;
	}
	between = which;
	work = strtod(argv[2], NULL) * 1e-9;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	kick = eventfd(0, EFD_CLOEXEC);
	call = eventfd(0, EFD_CLOEXEC);
	if (shared == MAP_FAILED || kick < 0 || call < 0 || !start(backend) ||
	    (between != DIRECT && !start(relay))) {
		perror("hops");
		return 1;
	}
	printf("%.3f\n", run(seconds));
	return 0;
}
