/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_replay.c - `sluice survey replay`: a recorded stream through libsluice's pool and policies
 *
 * Theory of operation
 * -------------------
 * Every map, unmap, allocation and release of the stream is made again, in its order, on a pool of
 * libsluice, with buffers that lie in their pages as the recorded ones did, and is copied in and
 * out as it would be. Nothing waits: what the pool does does not depend on the time between two
 * events. So a replay is the same each time but for its own speed; it keeps to one CPU, because
 * which of the pool's caches is used depends on that.
 *
 * With a policy other than bounce the device has a place (sluice/place.h) over a grant table in the
 * shape of a page table: table work only, so that nobody has to be asked. auto goes by what --share and
 * --copy say that it costs, not by this machine, and so decides the same everywhere.
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

#include <sluice/grant.h>
#include <sluice/memfd.h>
#include <sluice/place.h>

#include "survey_stats.h"

#define ARENA	   (UINT64_C(16) << 20) /* stands for the machine's memory */
#define ROWS	   12			/* of the footprint over time */
#define MIB	   (UINT64_C(1) << 20)
#define POOL_MAX   (UINT64_C(4) << 30)
#define WINDOW_DEV (UINT64_C(1) << 40)
#define GRANULES   (UINT64_C(1) << 18) /* that can be shared at once, 1 GiB */
#define RECORDS	   65536u

struct result {
	uint64_t pool;
	uint64_t maps, failed, too_long; /* mappings and allocations; refused: full, never */
	uint64_t copied, scrubbed;	 /* bytes */
	uint64_t bounced;		 /* mappings */
	struct sluice_place_stats place;
	uint64_t reachable_max; /* bytes that were shared in place at once, the most */
	uint64_t beside_max;	/* bytes beside live mappings in their pages, the most */
	uint64_t used_max;	/* bytes of slots in use, the most */
	uint64_t footprint;	/* the same with what the caches held */
	uint64_t ns;		/* in all */
	uint64_t rows[ROWS];	/* the most in use in each twelfth of the recorded time */
};

struct replay {
	struct survey_mappings all;
	uint64_t begin, end;
	enum sluice_policy_kind policy;
	uint64_t share_from; /* 0: by cost */
	struct survey_costs costs;
	uint8_t *arena;
};

/* The driver's side of one run. */
struct side {
	struct sluice_memfd *memfd;
	struct sluice_dma dma;
	struct sluice_dma_stats *stats;
	struct sluice_costs costs;
	struct sluice_pt pt;
	struct sluice_place place;
	void *memory[6];
	uint64_t beside; /* of what is live */
};

/* What a mapping has become. */
struct made {
	uint64_t addr;
	void *cpu;
	bool live;
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
static uint64_t buffer(const struct replay *r, const struct survey_mapping *m)
{
	uint64_t place = m->phys % (ARENA - SURVEY_PAGE);

	if (place + m->len > ARENA)
		place = m->phys % SURVEY_PAGE;
	return (uint64_t)(uintptr_t)(r->arena + place);
}

/* Bytes beside a mapping in its pages: what sharing it by pages would show. */
static uint64_t beside(const struct survey_mapping *m)
{
	return m->phys % SURVEY_PAGE + (0 - (m->phys + m->len)) % SURVEY_PAGE;
}

static void undo(struct side *side, const struct survey_mapping *m, struct made *made)
{
	if (made->cpu)
		sluice_dma_free(&side->dma, made->addr, m->len);
	if (made->live) {
		sluice_dma_unmap(&side->dma, made->addr, m->len, (enum sluice_dir)m->dir, 0);
		side->beside -= beside(m);
	}
	*made = (struct made){.addr = 0};
}

static void begin(const struct replay *r, struct side *side, const struct survey_mapping *m,
		  struct made *made, struct result *out)
{
	int ret;

	out->maps++;
	if (m->coherent)
		ret = sluice_dma_alloc(&side->dma, m->len, &made->addr, &made->cpu);
	else if (m->len > ARENA - SURVEY_PAGE)
		ret = -E2BIG; /* no driver does that, but a damaged file may say so */
	else
		ret = sluice_dma_map(&side->dma, buffer(r, m), m->len, (enum sluice_dir)m->dir,
				     &made->addr);
	if (ret) {
		made->cpu = NULL;
		*(ret == -ENOSPC ? &out->failed : &out->too_long) += 1;
		return;
	}
	made->live = !m->coherent;
	if (made->live)
		side->beside += beside(m);
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

static void note(struct result *out, const struct replay *r, struct side *side, uint64_t time)
{
	struct sluice_pool_stats stats;
	double part = (double)(time - r->begin) / (double)(r->end - r->begin + 1);
	uint64_t reachable = side->pt.share.stats.granules * SURVEY_PAGE;
	size_t i = (size_t)(part * ROWS);

	if (reachable > out->reachable_max)
		out->reachable_max = reachable;
	if (side->beside > out->beside_max)
		out->beside_max = side->beside;
	sluice_pool_get_stats(&side->memfd->pool, &stats);
	if (stats.used > out->used_max)
		out->used_max = stats.used;
	if (stats.used > out->rows[i < ROWS ? i : ROWS - 1])
		out->rows[i < ROWS ? i : ROWS - 1] = stats.used;
	out->footprint = stats.used_max;
}

/* Cleared memory whose first byte is on a granule's. */
static void *granules_alloc(uint64_t bytes)
{
	uint64_t whole = (bytes + SURVEY_PAGE - 1) & ~(uint64_t)(SURVEY_PAGE - 1);
	void *memory = aligned_alloc(SURVEY_PAGE, whole);

	if (memory)
		memset(memory, 0, whole);
	return memory;
}

static int open_place(const struct replay *r, struct side *side)
{
	uint32_t n_cpus = side->memfd->pool.n_caches;
	struct sluice_iova_cache *caches = granules_alloc(n_cpus * sizeof(*caches));
	struct sluice_pt_config pt = {.granules = GRANULES, .n_caches = n_cpus, .caches = caches};
	struct sluice_place_config place = {
		.share = &side->pt.share, .n_records = RECORDS, .n_cpus = n_cpus};
	int ret;

	side->memory[0] = caches;
	side->memory[1] = pt.tables = granules_alloc(sluice_pt_bytes(GRANULES));
	side->memory[2] = pt.iova_memory = granules_alloc(sluice_iova_size(1, GRANULES - 1));
	side->memory[3] = pt.states = granules_alloc(GRANULES);
	side->memory[4] = place.records = granules_alloc(RECORDS * sizeof(*place.records));
	side->memory[5] = place.cpus = granules_alloc(n_cpus * sizeof(*place.cpus));
	for (size_t i = 0; i < sizeof(side->memory) / sizeof(side->memory[0]); i++) {
		if (!side->memory[i])
			return -ENOMEM;
	}
	sluice_costs_start(&side->costs, (uint64_t)r->costs.share_ns,
			   (uint64_t)(r->costs.copy_ns * 1024));
	side->dma.policy = (struct sluice_policy){
		.kind = r->policy, .break_even = r->share_from, .costs = &side->costs};
	ret = sluice_pt_init(&side->pt, &pt);
	return ret ? ret : sluice_place_init(&side->place, &side->dma, &place);
}

static int open_side(const struct replay *r, uint64_t size, struct side *side)
{
	int ret;

	*side = (struct side){.beside = 0};
	ret = sluice_memfd_create("replay", size, WINDOW_DEV, &side->memfd);
	if (ret)
		return ret;
	side->stats = granules_alloc(side->memfd->pool.n_caches * sizeof(*side->stats));
	if (!side->stats)
		return -ENOMEM;
	sluice_dma_init(&side->dma, &side->memfd->pool, 1, side->stats);
	return r->policy == SLUICE_POLICY_BOUNCE ? 0 : open_place(r, side);
}

static void close_side(struct side *side)
{
	sluice_memfd_destroy(side->memfd);
	free(side->stats);
	for (size_t i = 0; i < sizeof(side->memory) / sizeof(side->memory[0]); i++)
		free(side->memory[i]);
}

/* watch: look at the pool after each map, which takes time of its own. */
static int run(const struct replay *r, uint64_t size, bool watch, struct result *out)
{
	struct made *made = calloc(r->all.n + 1, sizeof(*made));
	struct sluice_dma_stats sum;
	struct moment *at = NULL;
	size_t n = order(r, &at);
	struct side side;
	uint64_t start;
	int ret;

	*out = (struct result){.pool = size};
	ret = open_side(r, size, &side);
	if (!ret && (!made || !at))
		ret = -ENOMEM;
	if (ret)
		goto out;
	start = now_ns();
	for (size_t i = 0; i < n; i++) {
		const struct survey_mapping *m = &r->all.m[at[i].index];

		if (at[i].end) {
			undo(&side, m, &made[at[i].index]);
			continue;
		}
		begin(r, &side, m, &made[at[i].index], out);
		if (watch)
			note(out, r, &side, at[i].time);
	}
	out->ns = now_ns() - start;
	sluice_dma_get_stats(&side.dma, &sum);
	if (side.dma.place)
		sluice_place_get_stats(&side.dma, &out->place);
	out->bounced = sum.maps;
	out->copied = sum.bytes_to + sum.bytes_from + out->place.bytes_ends;
	out->scrubbed = sum.scrubbed;
	/* What the stream leaves mapped goes with the pool. */
	for (size_t i = 0; i < r->all.n; i++)
		undo(&side, &r->all.m[i], &made[i]);
out:
	close_side(&side);
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
	if (r->policy != SLUICE_POLICY_BOUNCE)
		printf("in place        %" PRIu64 " mappings whole, %" PRIu64
		       " but for their ends, %s not copied; %" PRIu64 " bounced\n"
		       "shares          %" PRIu64 " at %s each: %s\n",
		       x->place.shared, x->place.split, survey_size(x->place.bytes_placed, a),
		       x->bounced, x->place.shared + x->place.split,
		       survey_time((uint64_t)r->costs.share_ns, b),
		       survey_time((uint64_t)((double)(x->place.shared + x->place.split) *
					      r->costs.share_ns),
				   c));
	printf("exposed         %s reachable in place at once, at most, and nothing beside; "
	       "sharing "
	       "all by pages: %s beside\n",
	       survey_size(x->reachable_max, a), survey_size(x->beside_max, b));
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
		"usage: sluice survey replay [--pool SIZE] [--policy bounce|share|auto] "
		"[--share-from BYTES]\n"
		"                           [--share NS] [--copy NS] FILE\n",
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

static bool parse_policy(const char *arg, enum sluice_policy_kind *kind)
{
	static const char *const names[] = {[SLUICE_POLICY_BOUNCE] = "bounce",
					    [SLUICE_POLICY_SHARE] = "share",
					    [SLUICE_POLICY_AUTO] = "auto"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(arg, names[i])) {
			*kind = (enum sluice_policy_kind)i;
			return true;
		}
	}
	return false;
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
		r->arena = granules_alloc(ARENA);
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
		{"policy", required_argument, NULL, 'y'},
		{"share-from", required_argument, NULL, 'f'},
		{"share", required_argument, NULL, 's'},
		{"copy", required_argument, NULL, 'c'},
		{NULL, 0, NULL, 0},
	};
	struct replay r = {.policy = SLUICE_POLICY_BOUNCE, .costs = SURVEY_COSTS};
	static struct survey s;
	uint64_t pool = 0;
	const char *why;
	int c, ret;

	optind = 1;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (c == ':' || c == '?')
			return wrong(c == ':' ? "an argument is missing" : "no such option",
				     argv[optind - 1]);
		if (c == 'y' && !parse_policy(optarg, &r.policy))
			return wrong("a policy is bounce, share or auto", optarg);
		if ((c == 'p' || c == 'f') && !parse_size(optarg, c == 'p' ? &pool : &r.share_from))
			return wrong("not a size", optarg);
		if ((c == 's' || c == 'c') &&
		    !survey_parse_cost(optarg, c == 's' ? &r.costs.share_ns : &r.costs.copy_ns))
			return wrong("not a positive number of ns", optarg);
	}
	if (r.share_from)
		r.policy = SLUICE_POLICY_AUTO;
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
