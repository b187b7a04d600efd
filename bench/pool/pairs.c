/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * pairs.c - map and unmap on one thread and on two, also of what the other one has mapped
 *
 * Theory of operation: PAIRS_A_THREAD mappings a thread, each thread on a CPU of its own, begun together. Crossed,
 * a thread hands what it has mapped to the other one and unmaps what that hands over, so every mapping is
 * unmapped by the thread that did not make it. Beside the candidates stand the same loops without any allocator:
 * "nothing", which is what the hand-over costs, and "a line", the least that an allocator can do.
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "bench.h"

/* No allocator at all: what the loops cost, and handing a word to another thread and back. */

static bool nothing_open(size_t pool, unsigned int threads)
{
	(void)pool;
	(void)threads;
	return true;
}

static void nothing_close(void)
{
}

static uint64_t nothing_map(size_t len, unsigned int thread, uint32_t *taken)
{
	(void)thread;
	*taken = (uint32_t)len;
	return len;
}

static void nothing_unmap(uint64_t addr, size_t len, unsigned int thread)
{
	(void)addr;
	(void)len;
	(void)thread;
}

const struct candidate cand_nothing = {"nothing",     false,	   nothing_open,
				       nothing_close, nothing_map, nothing_unmap};

/*
 * No allocator either, but what none can do without that finds a second unmap of an address: a word for each mapping,
 * in a line of its own, written when it is mapped, and claimed when it is unmapped. Who unmaps has it next.
 */
#define LINES 1024u

static struct line {
	uint32_t state __attribute__((aligned(64)));
} lines[2][LINES];
static struct line_stack {
	struct line *line[2 * LINES] __attribute__((aligned(128)));
	uint32_t height;
} line_stacks[2];

static bool line_open(size_t pool, unsigned int threads)
{
	(void)pool;
	for (unsigned int t = 0; t < threads; t++) {
		line_stacks[t].height = LINES;
		for (uint32_t i = 0; i < LINES; i++)
			line_stacks[t].line[i] = &lines[t][i];
	}
	return true;
}

static uint64_t line_map(size_t len, unsigned int thread, uint32_t *taken)
{
	struct line_stack *stack = &line_stacks[thread];
	struct line *line;

	*taken = (uint32_t)len;
	if (!stack->height)
		return 0;
	line = stack->line[--stack->height];
	__atomic_store_n(&line->state, 1, __ATOMIC_RELEASE);
	return (uintptr_t)line;
}

static void line_unmap(uint64_t addr, size_t len, unsigned int thread)
{
	struct line *line = (void *)(uintptr_t)addr;
	uint32_t mapped = 1;

	(void)len;
	if (__atomic_compare_exchange_n(&line->state, &mapped, 0, false, __ATOMIC_ACQUIRE,
					__ATOMIC_RELAXED))
		line_stacks[thread].line[line_stacks[thread].height++] = line;
}

const struct candidate cand_line = {"a line",	   false,    line_open,
				    nothing_close, line_map, line_unmap};

/*
 * The hand-over: a ring for each direction with one writer and one reader, as a virtqueue is one. Eight
 * addresses share a line, the writer says how far it is once a line, and each side looks at the other's index
 * only when it seems to be at its end. So what two threads have to tell each other costs as little as it can.
 */
#define RING 256u
#define LINE 8u

struct ring {
	uint64_t addr[RING] __attribute__((aligned(128)));
	uint32_t written __attribute__((aligned(128))); /* as the reader may know */
	uint32_t read __attribute__((aligned(128)));	/* as the writer may know */
	/* The writer's own. */
	uint32_t head __attribute__((aligned(128)));
	uint32_t read_seen;
	/* The reader's own. */
	uint32_t tail __attribute__((aligned(128)));
	uint32_t written_seen;
};

static bool ring_put(struct ring *ring, uint64_t addr)
{
	if (ring->head - ring->read_seen == RING) {
		ring->read_seen = __atomic_load_n(&ring->read, __ATOMIC_ACQUIRE);
		if (ring->head - ring->read_seen == RING)
			return false;
	}
	ring->addr[ring->head++ % RING] = addr;
	if (ring->head % LINE == 0)
		__atomic_store_n(&ring->written, ring->head, __ATOMIC_RELEASE);
	return true;
}

/* 0 if there is nothing. */
static uint64_t ring_get(struct ring *ring)
{
	uint64_t addr;

	if (ring->tail == ring->written_seen) {
		ring->written_seen = __atomic_load_n(&ring->written, __ATOMIC_ACQUIRE);
		if (ring->tail == ring->written_seen)
			return 0;
	}
	addr = ring->addr[ring->tail++ % RING];
	if (ring->tail % LINE == 0)
		__atomic_store_n(&ring->read, ring->tail, __ATOMIC_RELEASE);
	return addr;
}

struct pair_job {
	const struct candidate *c;
	uint32_t *lengths;
	struct ring *in, *out; /* hand-over, or NULL */
	bool pinned;
	unsigned int thread;
	unsigned int *begun; /* threads that have; all of them go on together */
	bool *over;	     /* one of them has ended */
	unsigned int threads;
	uint32_t handed; /* of PAIRS_A_THREAD, how many went to the other thread */
	double ns;
};

/* Keep a thread on a CPU of its own: two that share one hand nothing over but what the ring holds. */
static void stay_on(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	(void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

#define PATIENCE 10000u

/*
 * Map and unmap at once; or map for the other thread, and unmap what that has mapped. While the ring is full a
 * thread goes on taking out of the other one; if the other thread does not run at all, it unmaps its own.
 */
static void *pair_run(void *arg)
{
	struct pair_job *job = arg;
	double start;

	if (job->pinned)
		stay_on(job->thread);
	/* A round is over in the time that it takes to make a thread. */
	__atomic_add_fetch(job->begun, 1, __ATOMIC_RELAXED);
	while (__atomic_load_n(job->begun, __ATOMIC_RELAXED) < job->threads)
		sched_yield();
	start = seconds();
	for (uint32_t i = 0; i < PAIRS_A_THREAD; i++) {
		uint32_t len = job->lengths[i], taken, patience = PATIENCE;
		uint64_t addr = job->c->map(len, job->thread, &taken), other;

		if (!job->out) {
			if (addr)
				job->c->unmap(addr, len, job->thread);
			continue;
		}
		while (addr && patience && !ring_put(job->out, addr)) {
			if (__atomic_load_n(job->over, __ATOMIC_RELAXED))
				patience = 1;
			other = ring_get(job->in);
			if (other)
				job->c->unmap(other, len, job->thread);
			patience--;
		}
		if (addr && !patience)
			job->c->unmap(addr, len, job->thread);
		job->handed += addr && patience;
		other = ring_get(job->in);
		if (other)
			job->c->unmap(other, len, job->thread);
	}
	__atomic_store_n(job->over, true, __ATOMIC_RELAXED);
	job->ns = (seconds() - start) * 1e9 / PAIRS_A_THREAD;
	return NULL;
}

double pair_round(const struct candidate *c, uint32_t *lengths, unsigned int threads, bool crossed,
		  double *handed)
{
	static struct ring rings[2];
	struct pair_job jobs[2];
	pthread_t id[2];
	unsigned int begun = 0;
	bool over = false;
	cpu_set_t before;
	double sum = 0;

	if (!c->open((size_t)64 << 20, threads))
		return 0;
	(void)pthread_getaffinity_np(pthread_self(), sizeof(before), &before);
	memset(rings, 0, sizeof(rings));
	for (unsigned int t = 0; t < threads; t++)
		jobs[t] = (struct pair_job){.c = c,
					    .lengths = lengths,
					    .pinned = threads > 1,
					    .thread = t,
					    .begun = &begun,
					    .over = &over,
					    .threads = threads};
	for (unsigned int t = 0; crossed && t < threads; t++) {
		jobs[t].out = &rings[t];
		jobs[t].in = &rings[1 - t];
	}
	for (unsigned int t = 1; t < threads; t++)
		pthread_create(&id[t], NULL, pair_run, &jobs[t]);
	pair_run(&jobs[0]);
	for (unsigned int t = 1; t < threads; t++)
		pthread_join(id[t], NULL);
	(void)pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	for (unsigned int t = 0; t < threads; t++) {
		sum += jobs[t].ns;
		*handed += jobs[t].handed / ((double)PAIRS_A_THREAD * threads);
	}
	for (unsigned int t = 0; crossed && t < threads; t++) {
		while (rings[t].tail != rings[t].head)
			c->unmap(rings[t].addr[rings[t].tail++ % RING], 0, t);
	}
	c->close();
	return sum / threads;
}
