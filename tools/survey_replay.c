/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_replay.c - `sluice survey replay`: a recorded stream through libsluice's pool
 *
 * Theory of operation
 * -------------------
 * Every map, unmap, allocation and release of the stream is made again, in its order, on a pool of
 * libsluice, with buffers that lie in their pages as the recorded ones did, and is copied in and
 * out as it would be. Nothing waits: what the pool does does not depend on the time between two
 * events. So a replay is the same each time but for its own speed; it keeps to one CPU, because
 * which of the pool's caches is used depends on that.
 *
 * With --share-from, mappings as long as that are shared in place: their whole pages are counted as
 * shared and only the rest at both ends bounces, which is what a policy that maps would do.
 *
 * Without --pool, the smallest pool of whole MiB (from 2, doubling, then halving the interval) that
 * refuses nothing is looked for.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sluice/memfd.h>

#include "survey_stats.h"

#define ARENA	   (UINT64_C(16) << 20) /* stands for the machine's memory */
#define ROWS	   12			/* of the footprint over time */
#define MIB	   (UINT64_C(1) << 20)
#define POOL_MAX   (UINT64_C(4) << 30)
#define WINDOW_DEV (UINT64_C(1) << 40)

struct result {
	uint64_t pool;
	uint64_t maps, failed, too_long; /* mappings and allocations; refused: full, never */
	uint64_t copied, scrubbed;	 /* bytes */
	uint64_t shared;		 /* mappings with pages shared in place */
	uint64_t shared_pages;
	uint64_t used_max;   /* bytes of slots in use, the most */
	uint64_t footprint;  /* the same with what the caches held */
	uint64_t ns;	     /* in all */
	uint64_t rows[ROWS]; /* the most in use in each twelfth of the recorded time */
};

struct replay {
	struct survey_mappings all;
	uint64_t begin, end;
	uint64_t share_from; /* UINT64_MAX: never */
	uint8_t *arena;
};

/* What a mapping has become: up to two slots. */
struct made {
	uint64_t addr[2];
	uint32_t len[2];
	void *cpu;
	uint8_t n;
};

struct moment {
	uint64_t time;
	uint32_t index;
	bool end;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_time(const void *a, const void *b)
{
	const struct moment *x = a, *y = b;

	if (x->time != y->time)
		return x->time < y->time ? -1 : 1;
	if (x->index != y->index)
		return x->index < y->index ? -1 : 1;
	return x->end - y->end;
}

/* The buffer that stands for a physical one: the same place in its page. */
static uint64_t buffer(const struct replay *r, const struct survey_mapping *m, uint64_t at)
{
	uint64_t place = (m->phys + at) % (ARENA - SURVEY_PAGE);

	if (place + m->len > ARENA)
		place = (m->phys + at) % SURVEY_PAGE;
	return (uint64_t)(uintptr_t)(r->arena + place);
}

static bool piece(const struct replay *r, struct sluice_dma *dma, const struct survey_mapping *m,
		  uint64_t at, uint64_t len, struct made *made, struct result *out)
{
	int ret;

	if (!len)
		return true;
	ret = sluice_dma_map(dma, buffer(r, m, at), len, (enum sluice_dir)m->dir,
			     &made->addr[made->n]);
	if (ret) {
		*(ret == -ENOSPC ? &out->failed : &out->too_long) += 1;
		return false;
	}
	made->len[made->n++] = (uint32_t)len;
	return true;
}

static void undo(struct sluice_dma *dma, const struct survey_mapping *m, struct made *made)
{
	if (made->cpu)
		sluice_dma_free(dma, made->addr[0], m->len);
	for (; made->n; made->n--)
		sluice_dma_unmap(dma, made->addr[made->n - 1], made->len[made->n - 1],
				 (enum sluice_dir)m->dir, 0);
	made->cpu = NULL;
}

static void begin(const struct replay *r, struct sluice_dma *dma, const struct survey_mapping *m,
		  struct made *made, struct result *out)
{
	uint64_t head = 0, pages = 0;
	int ret;

	out->maps++;
	if (m->coherent) {
		ret = sluice_dma_alloc(dma, m->len, &made->addr[0], &made->cpu);
		if (ret) {
			made->cpu = NULL;
			*(ret == -ENOSPC ? &out->failed : &out->too_long) += 1;
		}
		return;
	}
	if (m->len > ARENA - SURVEY_PAGE) {
		out->too_long++; /* no driver does that, but a damaged file may say so */
		return;
	}
	if (m->len >= r->share_from) {
		head = (SURVEY_PAGE - m->phys % SURVEY_PAGE) % SURVEY_PAGE;
		pages = (m->len - (head < m->len ? head : m->len)) / SURVEY_PAGE;
	}
	if (!pages)
		head = 0;
	else
		out->shared++;
	out->shared_pages += pages;
	if (!piece(r, dma, m, 0, pages ? head : m->len, made, out) ||
	    (pages && !piece(r, dma, m, head + pages * SURVEY_PAGE,
			     m->len - head - pages * SURVEY_PAGE, made, out)))
		undo(dma, m, made);
}

/* In the order of the stream. Returns the number of moments, or 0 without memory. */
static size_t order(const struct replay *r, struct moment **out)
{
	struct moment *at = malloc((r->all.n * 2 + 1) * sizeof(*at));
	size_t n = 0;

	*out = at;
	for (size_t i = 0; at && i < r->all.n; i++) {
		const struct survey_mapping *m = &r->all.m[i];

		at[n++] = (struct moment){.time = m->begin, .index = (uint32_t)i};
		if (m->end)
			at[n++] = (struct moment){.time = m->end > m->begin ? m->end : m->begin,
						  .index = (uint32_t)i,
						  .end = true};
	}
	if (at)
		qsort(at, n, sizeof(*at), by_time);
	return n;
}

static void note(struct result *out, const struct replay *r, struct sluice_pool *pool,
		 uint64_t time)
{
	struct sluice_pool_stats stats;
	double part = (double)(time - r->begin) / (double)(r->end - r->begin + 1);
	size_t i = (size_t)(part * ROWS);

	sluice_pool_get_stats(pool, &stats);
	if (stats.used > out->used_max)
		out->used_max = stats.used;
	if (stats.used > out->rows[i < ROWS ? i : ROWS - 1])
		out->rows[i < ROWS ? i : ROWS - 1] = stats.used;
	out->footprint = stats.used_max;
}

/* watch: look at the pool after each map, which takes time of its own. */
static int run(const struct replay *r, uint64_t size, bool watch, struct result *out)
{
	struct sluice_dma_stats *stats = NULL, sum;
	struct sluice_memfd *memfd = NULL;
	struct moment *at = NULL;
	struct made *made;
	struct sluice_dma dma;
	uint64_t start;
	size_t n;
	int ret;

	*out = (struct result){.pool = size};
	made = calloc(r->all.n + 1, sizeof(*made));
	n = order(r, &at);
	ret = made && at ? sluice_memfd_create("replay", size, WINDOW_DEV, &memfd) : -ENOMEM;
	if (!ret) {
		stats = calloc(memfd->pool.n_caches, sizeof(*stats));
		ret = stats ? 0 : -ENOMEM;
	}
	if (ret)
		goto out;
	sluice_dma_init(&dma, &memfd->pool, 1, stats);
	start = now_ns();
	for (size_t i = 0; i < n; i++) {
		const struct survey_mapping *m = &r->all.m[at[i].index];

		if (at[i].end) {
			undo(&dma, m, &made[at[i].index]);
			continue;
		}
		begin(r, &dma, m, &made[at[i].index], out);
		if (watch)
			note(out, r, &memfd->pool, at[i].time);
	}
	out->ns = now_ns() - start;
	sluice_dma_get_stats(&dma, &sum);
	out->copied = sum.bytes_to + sum.bytes_from;
	out->scrubbed = sum.scrubbed;
	/* What the stream leaves mapped goes with the pool. */
	for (size_t i = 0; i < r->all.n; i++)
		undo(&dma, &r->all.m[i], &made[i]);
out:
	sluice_memfd_destroy(memfd);
	free(stats);
	free(at);
	free(made);
	return ret;
}

/* The smallest pool of whole MiB, from 2 on, that refuses nothing. */
static int find(const struct replay *r, struct result *out)
{
	uint64_t low = 1, high = 2;
	int ret;

	for (;; high *= 2) {
		ret = run(r, high * MIB, true, out);
		if (ret || !(out->failed + out->too_long))
			break;
		low = high;
		if (high * 2 * MIB > POOL_MAX)
			return ret;
	}
	while (!ret && high - low > 1) {
		uint64_t mid = low + (high - low) / 2;

		ret = run(r, mid * MIB, true, out);
		if (out->failed + out->too_long)
			low = mid;
		else
			high = mid;
	}
	return ret ? ret : run(r, high * MIB, true, out);
}

static void show(const struct replay *r, const struct result *x, uint64_t ns, bool found)
{
	char a[16], b[16], c[16];

	printf("pool            %s%s\n", survey_size(x->pool, a),
	       found ? ", the smallest of whole MiB that refuses nothing" : "");
	printf("maps            %" PRIu64 ", of them refused for want of space %" PRIu64
	       ", too long for it %" PRIu64 "\n",
	       x->maps, x->failed, x->too_long);
	printf("in use          %s at most, %s with what the caches held\n",
	       survey_size(x->used_max, a), survey_size(x->footprint, b));
	printf("copied          %s, cleared %s\n", survey_size(x->copied, a),
	       survey_size(x->scrubbed, b));
	if (r->share_from != UINT64_MAX)
		printf("shared in place %" PRIu64 " mappings, %s in whole pages\n", x->shared,
		       survey_size(x->shared_pages * SURVEY_PAGE, a));
	printf("time            %s, %s for a map and its unmap\n", survey_time(ns, b),
	       survey_time(x->maps ? ns / x->maps : 0, c));
	printf("in use over time, twelfths of %s:\n", survey_time(r->end - r->begin, a));
	for (unsigned int i = 0; i < ROWS; i++)
		printf("  %s", survey_size(x->rows[i], a));
	printf("\n");
}

static int wrong(const char *what, const char *arg)
{
	fprintf(stderr,
		"sluice survey replay: %s%s%s\n"
		"usage: sluice survey replay [--pool SIZE] [--share-from BYTES] FILE\n",
		what, arg ? ": " : "", arg ? arg : "");
	return 1;
}

/* "64M": bytes, or with a K, M or G behind. */
static bool parse_size(const char *arg, uint64_t *v)
{
	unsigned int shift = 0;
	char *end;

	errno = 0;
	*v = strtoull(arg, &end, 10);
	if (errno || end == arg || *arg == '-')
		return false;
	if (*end && strchr("KMG", *end))
		shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 30;
	if (shift)
		end++;
	if (*end || *v > UINT64_MAX >> shift)
		return false;
	*v <<= shift;
	return *v > 0;
}

/* Use one CPU only; where that is not allowed, figures may differ a little from run to run. */
static void stay(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	CPU_SET(cpu < 0 ? 0 : (size_t)cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static int replay(struct replay *r, const struct survey *s, uint64_t pool)
{
	struct result result, timed;
	int ret = survey_match(s, &r->all);

	if (!ret) {
		r->begin = s->n ? s->events[0].time : 0;
		r->end = s->n ? s->events[s->n - 1].time : 0;
		r->arena = calloc(1, ARENA);
		stay();
		ret = !r->arena ? -ENOMEM : pool ? run(r, pool, true, &result) : find(r, &result);
	}
	if (!ret)
		ret = run(r, result.pool, false, &timed);
	if (ret)
		fprintf(stderr, "sluice survey replay: cannot make a pool: %s; try a smaller one\n",
			strerror(-ret));
	else
		show(r, &result, timed.ns, !pool);
	free(r->arena);
	free(r->all.m);
	return ret ? 2 : 0;
}

int survey_replay_main(int argc, char **argv)
{
	static const struct option longs[] = {
		{"pool", required_argument, NULL, 'p'},
		{"share-from", required_argument, NULL, 's'},
		{NULL, 0, NULL, 0},
	};
	struct replay r = {.share_from = UINT64_MAX};
	static struct survey s;
	uint64_t pool = 0;
	const char *why;
	int c, ret;

	optind = 1;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (c != 'p' && c != 's')
			return wrong(c == ':' ? "an argument is missing" : "no such option",
				     argv[optind - 1]);
		if (!parse_size(optarg, c == 'p' ? &pool : &r.share_from))
			return wrong("not a size", optarg);
	}
	if (optind + 1 != argc)
		return wrong("it wants one file", NULL);
	if (pool % SLUICE_GRANULE_BYTES || pool > POOL_MAX)
		return wrong("a pool is a multiple of 4096, up to 4 GiB", NULL);
	ret = survey_load(argv[optind], &s, &why);
	if (ret) {
		fprintf(stderr, "sluice survey replay: cannot use %s: %s\n", argv[optind],
			why ? why : strerror(-ret));
		survey_free(&s);
		return 2;
	}
	ret = replay(&r, &s, pool);
	survey_free(&s);
	return ret;
}
