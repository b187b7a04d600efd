/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * load.c - a stock vhost-user front-end under load: libblkio on one socket, a thread for each queue
 *
 * Theory of operation
 * -------------------
 *	load SOCKET read|write BLOCK_SIZE DEPTH SECONDS wait|poll [QUEUES]
 *	load SOCKET idle BLOCK_SIZE DEPTH SECONDS wait|poll
 *	load SOCKET paced BLOCK_SIZE 1 SECONDS wait|poll RATE
 *	load SOCKET verify BLOCK_SIZE DEPTH ROUNDS wait|poll
 *
 * Keeps DEPTH requests of BLOCK_SIZE in flight on each queue (1), each at a random aligned place of the disk. "wait"
 * sleeps on the queue's eventfd when nothing has completed, "poll" spins (a poll queue). A quarter
 * of a second at the beginning does not count. Prints one line for bench/relay.sh:
 *
 *	IOPS MEAN_US P50_US P99_US
 *
 * Latency is taken per request only at depth 1, where it is one reading of the clock for two
 * requests; at greater depths the clock would be part of what is measured, and the columns are 0. With
 * several queues IOPS is the sum, and the others are those of the first queue.
 *
 * "idle" makes one request and then leaves the device alone.
 *
 * "paced" reads one block at a time, RATE times a second, and sleeps in between: what a relay burns beside an
 * application that does other things as well. The line it prints is the same.
 *
 * "verify" is a test: it writes each block of the disk with contents that only this block, this
 * round and this run can have, in random order, reads all of them back in another, and compares.
 * It fails on the first byte that differs. Every buffer is overwritten before each read, so that a
 * read that does not arrive shows. Requests that fail are failures too.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <blkio.h>

#define MAX_DEPTH  128
#define MAX_QUEUES 8
#define RAMP_NS	   UINT64_C(250000000)
#define BUCKETS	   4096 /* of 64 ns: up to 262 us, and all that is above in the last */
#define BUCKET_NS  64

struct load {
	struct blkio *disk;
	struct blkioq *queue;
	struct blkio_mem_region region;
	uint64_t blocks;
	size_t size;
	unsigned int depth;
	uint64_t random;
	uint64_t seed;
	unsigned int queues;
	unsigned int number; /* of the queue */
};

/* One queue's part of a measurement. */
struct part {
	struct load load;
	pthread_t thread;
	bool write_it;
	double seconds;
	double iops, mean_us, p50_us, p99_us;
	uint64_t buckets[BUCKETS];
};

static _Noreturn void fail(const char *what, int error)
{
	fprintf(stderr, "load: %s: %s (%s)\n", what, strerror(error), blkio_get_error_msg());
	exit(1);
}

static void must(const char *what, int rc)
{
	if (rc < 0)
		fail(what, -rc);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x >> 12;
	*x ^= *x << 25;
	*x ^= *x >> 27;
	return *x * UINT64_C(0x2545f4914f6cdd1d);
}

static uint8_t *buffer(const struct load *l, unsigned int slot)
{
	return (uint8_t *)l->region.addr + (l->number * l->depth + slot) * l->size;
}

static void start(struct load *l, const char *path, bool poll)
{
	uint64_t capacity = 0;

	must("virtio-blk-vhost-user", blkio_create("virtio-blk-vhost-user", &l->disk));
	must("path", blkio_set_str(l->disk, "path", path));
	must("connect", blkio_connect(l->disk));
	must("num-queues", blkio_set_int(l->disk, "num-queues", poll ? 0 : (int)l->queues));
	must("num-poll-queues",
	     blkio_set_int(l->disk, "num-poll-queues", poll ? (int)l->queues : 0));
	must("start", blkio_start(l->disk));
	must("capacity", blkio_get_uint64(l->disk, "capacity", &capacity));
	l->blocks = capacity / l->size;
	if (!l->blocks)
		fail("the disk is smaller than a block", EINVAL);
	must("memory", blkio_alloc_mem_region(l->disk, &l->region, l->size * l->depth * l->queues));
	must("map", blkio_map_mem_region(l->disk, &l->region));
	memset(l->region.addr, 0x5a, l->region.len);
}

static void choose(struct load *l, int number, bool poll)
{
	l->number = (unsigned int)number;
	l->queue = poll ? blkio_get_poll_queue(l->disk, number) : blkio_get_queue(l->disk, number);
	if (!l->queue)
		fail("there is no such queue", EINVAL);
	l->random = l->random * 31 + l->number;
}

static void submit(struct load *l, bool write_it, uint64_t block, unsigned int slot)
{
	void *tag = (void *)(uintptr_t)slot;

	if (write_it)
		blkioq_write(l->queue, block * l->size, buffer(l, slot), l->size, tag, 0);
	else
		blkioq_read(l->queue, block * l->size, buffer(l, slot), l->size, tag, 0);
}

/* At least one completion. */
static unsigned int complete(struct load *l, struct blkio_completion *c)
{
	int n = blkioq_do_io(l->queue, c, 1, MAX_DEPTH, NULL);

	must("do_io", n);
	for (int i = 0; i < n; i++)
		must("a request", c[i].ret);
	return (unsigned int)n;
}

static double percentile(const uint64_t *buckets, uint64_t total, double share)
{
	uint64_t below = 0;
	unsigned int i = 0;

	while (i < BUCKETS - 1 && (double)(below += buckets[i]) < share * (double)total)
		i++;
	return (double)(i * BUCKET_NS + BUCKET_NS / 2) / 1000;
}

static void count(uint64_t *buckets, uint64_t ns)
{
	buckets[ns / BUCKET_NS < BUCKETS ? ns / BUCKET_NS : BUCKETS - 1]++;
}

static void *measure_queue(void *arg)
{
	struct part *p = arg;
	struct load *l = &p->load;
	const bool write_it = p->write_it;
	uint64_t *buckets = p->buckets;
	struct blkio_completion c[MAX_DEPTH];
	const uint64_t begin = now_ns() + RAMP_NS, end = begin + (uint64_t)(p->seconds * 1e9);
	uint64_t done = 0, counted = 0, first = 0, last = now_ns(), now;

	for (unsigned int i = 0; i < l->depth; i++)
		submit(l, write_it, next_random(&l->random) % l->blocks, i);
	for (;;) {
		unsigned int n = complete(l, c);

		done += n;
		if (l->depth == 1 || (done & 0xff) < n) {
			now = now_ns();
			if (!first && now >= begin) {
				first = now;
				done = 0;
			} else if (first) {
				count(buckets, now - last);
				counted++;
			}
			last = now;
			if (now >= end)
				break;
		}
		for (unsigned int i = 0; i < n; i++)
			submit(l, write_it, next_random(&l->random) % l->blocks,
			       (unsigned int)(uintptr_t)c[i].user_data);
	}
	if (!first || !done)
		fail("nothing was measured", ETIME);
	p->iops = (double)done * 1e9 / (double)(last - first);
	if (l->depth == 1) {
		p->mean_us = (double)(last - first) / 1000 / (double)done;
		p->p50_us = percentile(buckets, counted, 0.5);
		p->p99_us = percentile(buckets, counted, 0.99);
	}
	return NULL;
}

static void measure(const struct load *l, bool write_it, double seconds, bool poll)
{
	static struct part parts[MAX_QUEUES];
	double iops = 0;

	for (unsigned int i = 0; i < l->queues; i++) {
		parts[i] = (struct part){.load = *l, .write_it = write_it, .seconds = seconds};
		choose(&parts[i].load, (int)i, poll);
	}
	/* The first queue's is this thread. */
	for (unsigned int i = 1; i < l->queues; i++)
		must("thread", -pthread_create(&parts[i].thread, NULL, measure_queue, &parts[i]));
	measure_queue(&parts[0]);
	for (unsigned int i = 0; i < l->queues; i++) {
		if (i)
			pthread_join(parts[i].thread, NULL);
		iops += parts[i].iops;
	}
	if (l->depth > 1)
		printf("%.0f 0 0 0\n", iops);
	else
		printf("%.0f %.3f %.3f %.3f\n", iops, parts[0].mean_us, parts[0].p50_us,
		       parts[0].p99_us);
}

/* What a block has to hold: words that depend on the run, the block and the place in it. */
static void pattern(const struct load *l, uint64_t block, uint64_t round, uint64_t *words)
{
	uint64_t x = l->seed ^ (block * UINT64_C(0x9e3779b97f4a7c15)) ^ (round << 56) ^ 1;

	for (size_t i = 0; i < l->size / 8; i++)
		words[i] = next_random(&x);
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b) {
		const uint64_t t = a % b;

		a = b;
		b = t;
	}
	return a;
}

/* A pass over all blocks: each once, in an order that jumps. */
struct pass {
	bool write_it;
	uint64_t round;
	uint64_t next, step, left;
	uint64_t at[MAX_DEPTH];
	uint64_t *expected;
};

static void pass_submit(struct load *l, struct pass *p, unsigned int slot)
{
	p->at[slot] = p->next;
	p->next = (p->next + p->step) % l->blocks;
	p->left--;
	if (p->write_it)
		pattern(l, p->at[slot], p->round, (uint64_t *)(void *)buffer(l, slot));
	else
		memset(buffer(l, slot), 0xee, l->size);
	submit(l, p->write_it, p->at[slot], slot);
}

static void pass_check(const struct load *l, const struct pass *p, unsigned int slot)
{
	if (p->write_it)
		return;
	pattern(l, p->at[slot], p->round, p->expected);
	if (!memcmp(p->expected, buffer(l, slot), l->size))
		return;
	fprintf(stderr, "load: block %llu of %zu bytes is wrong\n", (unsigned long long)p->at[slot],
		l->size);
	exit(3);
}

static void pass_run(struct load *l, struct pass *p)
{
	struct blkio_completion c[MAX_DEPTH];
	unsigned int flying = 0;

	p->left = l->blocks;
	p->next = next_random(&l->random) % l->blocks;
	p->step = l->blocks / 2 + next_random(&l->random) % l->blocks;
	while (gcd(p->step, l->blocks) != 1)
		p->step++;
	while (flying < l->depth && p->left)
		pass_submit(l, p, flying++);
	while (flying) {
		const unsigned int n = complete(l, c);

		for (unsigned int i = 0; i < n; i++) {
			const unsigned int slot = (unsigned int)(uintptr_t)c[i].user_data;

			pass_check(l, p, slot);
			if (p->left)
				pass_submit(l, p, slot);
			else
				flying--;
		}
	}
}

static void verify(struct load *l, uint64_t rounds)
{
	struct pass p = {.expected = malloc(l->size)};

	if (!p.expected)
		fail("memory", ENOMEM);
	for (p.round = rounds; p.round > 0; p.round--) {
		p.write_it = true;
		pass_run(l, &p);
		p.write_it = false;
		pass_run(l, &p);
	}
	free(p.expected);
}

static void idle(struct load *l, unsigned int seconds)
{
	struct blkio_completion c[MAX_DEPTH];

	submit(l, false, 0, 0);
	complete(l, c);
	sleep(seconds);
}

static void paced(struct load *l, double seconds, uint64_t rate)
{
	const uint64_t begin = now_ns(), gap = UINT64_C(1000000000) / rate;
	const uint64_t total = (uint64_t)(seconds * (double)rate);
	static uint64_t buckets[BUCKETS];
	struct blkio_completion c[MAX_DEPTH];
	uint64_t sum = 0;

	for (uint64_t i = 0; i < total; i++) {
		const uint64_t due = begin + i * gap;
		const struct timespec at = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
		uint64_t before, ns;

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
		before = now_ns();
		submit(l, false, next_random(&l->random) % l->blocks, 0);
		complete(l, c);
		ns = now_ns() - before;
		sum += ns;
		count(buckets, ns);
	}
	if (!total)
		fail("nothing was measured", ETIME);
	printf("%.0f %.3f %.3f %.3f\n", (double)total * 1e9 / (double)(now_ns() - begin),
	       (double)sum / 1000 / (double)total, percentile(buckets, total, 0.5),
	       percentile(buckets, total, 0.99));
}

int main(int argc, char **argv)
{
	struct load l = {.random = now_ns() | 1, .seed = now_ns(), .queues = 1};
	uint64_t rate = 0;
	bool poll;

	if (argc != 7 && argc != 8)
		fail("usage: load SOCKET read|write|idle|paced|verify BLOCK_SIZE DEPTH "
		     "SECONDS|ROUNDS wait|poll [QUEUES|RATE]",
		     EINVAL);
	if (!strcmp(argv[2], "paced")) {
		rate = argc == 8 ? strtoul(argv[7], NULL, 0) : 0;
		if (!rate)
			fail("paced wants how many a second", EINVAL);
	} else if (argc == 8) {
		l.queues = (unsigned int)strtoul(argv[7], NULL, 0);
	}
	if (!l.queues || l.queues > MAX_QUEUES)
		fail("one to eight queues", EINVAL);
	l.size = strtoul(argv[3], NULL, 0);
	l.depth = (unsigned int)strtoul(argv[4], NULL, 0);
	if (!l.size || l.size % 512 || !l.depth || l.depth > MAX_DEPTH)
		fail("block size has to be whole sectors, and depth 1 to 128", EINVAL);
	poll = !strcmp(argv[6], "poll");
	start(&l, argv[1], poll);
	choose(&l, 0, poll);
	if (!strcmp(argv[2], "verify"))
		verify(&l, strtoul(argv[5], NULL, 0));
	else if (rate)
		paced(&l, strtod(argv[5], NULL), rate);
	else if (!strcmp(argv[2], "idle"))
		idle(&l, (unsigned int)strtoul(argv[5], NULL, 0));
	else
		measure(&l, !strcmp(argv[2], "write"), strtod(argv[5], NULL), poll);
	blkio_destroy(&l.disk);
	return 0;
}
