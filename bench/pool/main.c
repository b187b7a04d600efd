/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * main.c - the pool's benchmark: `./run bench pool` (bench/pool.sh)
 *
 * Theory of operation
 * -------------------
 * Prints tables to standard output and, with -c FILE, the same as CSV. With -m NAME only malloc()
 * is measured, under that name: for an allocator that is preloaded. Nothing is copied anywhere: a
 * map is an allocation with all that the DMA layer remembers, no bytes moved.
 *
 *   pairs	map and unmap at once, each size and the mixture; one thread, two, and two that free
 *		what the other mapped; beside them the same loops with "nothing" mapped, and with "a line"
 *   fill	latency of single maps while a share of the pool is in use, under random replacement
 *		(a map that fails is followed by another unmap and is not retried); beside them what one
 *		line of as much private memory takes, and two
 *   dense	payload per byte of pool at the first map that fails, after churn; and at 90 % used,
 *		which maps fail
 *   small	bytes of the pool that a short mapping takes
 *   reserve	map and unmap of a device without a reserve, with one, and in one
 *
 * Rounds of all candidates are interleaved; the figures are medians with minimum and maximum. In the
 * CSV, rows of fill have the 50th, 99th and 99.9th percentile in those columns, and rows of failed,
 * which belong to them, the share of the maps that failed, the same of those over 16 KiB, and the
 * time of one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include <sluice/dma.h>
#include <sluice/memfd.h>

#include "bench.h"

#define MiB    ((size_t)1 << 20)
#define ROUNDS 5
#define BASE   UINT64_C(0x100000000)

uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return x * UINT64_C(0x2545f4914f6cdd1d);
}

uint32_t next_length(uint64_t *state)
{
	static const struct {
		uint32_t per_mille, low, high;
	} bands[] = {
		{35, 1, 512},	   {542, 513, 2048},	{336, 2049, 4096},
		{47, 4097, 16384}, {40, 16385, 262144},
	};
	uint32_t pick = (uint32_t)(next_random(state) % 1000), i = 0;

	while (i < 4 && pick >= bands[i].per_mille)
		pick -= bands[i++].per_mille;
	return bands[i].low + (uint32_t)(next_random(state) % (bands[i].high - bands[i].low + 1));
}

uint64_t ticks(void)
{
	unsigned int cpu;

	return __rdtscp(&cpu);
}

double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double tick_ns(void)
{
	static double ns;

	if (ns == 0) {
		double start = seconds();
		uint64_t first = ticks();

		while (seconds() < start + 0.05)
			continue;
		ns = (seconds() - start) * 1e9 / (double)(ticks() - first);
	}
	return ns;
}

/* Sluice itself, as the DMA layer uses it: the slot, its record, and the claim at unmap. */

static struct sluice_memfd *mem;

static bool sluice_open(size_t pool, unsigned int threads)
{
	(void)threads;
	return sluice_memfd_create("bench", pool, BASE, &mem) == 0;
}

static void sluice_close(void)
{
	sluice_memfd_destroy(mem);
}

static uint64_t sluice_map(size_t len, unsigned int thread, uint32_t *taken)
{
	struct sluice_slot slot;

	(void)thread;
	if (sluice_pool_alloc(&mem->pool, len, 1, &slot))
		return 0;
	sluice_store_u64(&slot.record->orig, len);
	sluice_store_u32(&slot.record->len, (uint32_t)len);
	*taken = (uint32_t)slot.size;
	return slot.dev;
}

static void sluice_unmap(uint64_t addr, size_t len, unsigned int thread)
{
	(void)len;
	(void)thread;
	(void)sluice_pool_free(&mem->pool, addr);
}

const struct candidate cand_sluice = {"sluice",	    true,	sluice_open,
				      sluice_close, sluice_map, sluice_unmap};

#define CANDIDATES 5
static const struct candidate *candidates[CANDIDATES];
static size_t n_candidates;

static void add_candidate(const struct candidate *c)
{
	candidates[n_candidates++] = c;
}

static FILE *csv;

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void report(const char *table, const char *row, const char *name, double *values)
{
	qsort(values, ROUNDS, sizeof(*values), by_value);
	printf("  %-22s %-12s %9.1f  (%.1f .. %.1f)\n", row, name, values[ROUNDS / 2], values[0],
	       values[ROUNDS - 1]);
	if (csv)
		fprintf(csv, "%s,%s,%s,%.2f,%.2f,%.2f\n", table, row, name, values[ROUNDS / 2],
			values[0], values[ROUNDS - 1]);
}

/* pairs */

static void pairs(void)
{
	static const uint32_t sizes[] = {0, 256, 1500, 4096, 16384, 65536, 262144};
	static const struct {
		const char *name;
		unsigned int threads;
		bool crossed;
	} ways[] = {
		{"1 thread", 1, false}, {"2 threads", 2, false}, {"freed by the other", 2, true}};
	uint32_t *lengths = malloc(PAIRS_A_THREAD * sizeof(*lengths));

	for (size_t w = 0; lengths && w < sizeof(ways) / sizeof(ways[0]); w++) {
		printf("\nmap+unmap without copy, %s, ns per pair and thread: median (min .. "
		       "max)\n",
		       ways[w].name);
		for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
			static double values[CANDIDATES][ROUNDS], alone[ROUNDS], line[ROUNDS];
			double handed = 0, none = 0;
			uint64_t seed = 1;
			char row[32];

			if (w && s > 3)
				continue;
			for (uint32_t i = 0; i < PAIRS_A_THREAD; i++)
				lengths[i] = sizes[s] ? sizes[s] : next_length(&seed);
			for (int r = 0; r < ROUNDS; r++) {
				for (size_t c = 0; c < n_candidates; c++)
					values[c][r] =
						pair_round(candidates[c], lengths, ways[w].threads,
							   ways[w].crossed, c ? &none : &handed);
				alone[r] = pair_round(&cand_nothing, lengths, ways[w].threads,
						      ways[w].crossed, &none);
				line[r] = pair_round(&cand_line, lengths, ways[w].threads,
						     ways[w].crossed, &none);
			}
			snprintf(row, sizeof(row), sizes[s] ? "%u B" : "mixture", sizes[s]);
			for (size_t c = 0; c < n_candidates; c++)
				report(ways[w].name, row, candidates[c]->name, values[c]);
			if (!candidates[0]->bounded)
				continue; /* only another malloc() */
			report(ways[w].name, row, cand_nothing.name, alone);
			report(ways[w].name, row, cand_line.name, line);
			if (ways[w].crossed)
				printf("  %-22s of %s's, %.1f %% were freed by the other\n", row,
				       candidates[0]->name, 100 * handed / ROUNDS);
		}
	}
	free(lengths);
}

/* fill: a live set, its payload kept at a share of the pool by random replacement */

struct live {
	uint64_t addr;
	uint32_t len, taken;
};

struct set {
	struct live *item;
	size_t n, max;
	uint64_t payload, used;
};

static bool set_add(struct set *set, const struct candidate *c, uint32_t len)
{
	uint32_t taken;
	uint64_t addr = set->n < set->max ? c->map(len, 0, &taken) : 0;

	if (!addr)
		return false;
	set->item[set->n++] = (struct live){addr, len, taken};
	set->payload += len;
	set->used += taken;
	return true;
}

static void set_drop(struct set *set, const struct candidate *c, uint64_t *seed)
{
	size_t i = next_random(seed) % set->n;

	c->unmap(set->item[i].addr, set->item[i].len, 0);
	set->payload -= set->item[i].len;
	set->used -= set->item[i].taken;
	set->item[i] = set->item[--set->n];
}

static void set_clear(struct set *set, const struct candidate *c)
{
	while (set->n) {
		struct live *last = &set->item[--set->n];

		c->unmap(last->addr, last->len, 0);
	}
	set->payload = set->used = 0;
}

/* Fill up to a share of the pool, or as near as it goes. */
static void set_fill(struct set *set, const struct candidate *c, double share, size_t pool,
		     uint64_t *seed)
{
	int misses = 0;

	while ((double)set->used < share * (double)pool && misses < 1000)
		misses += !set_add(set, c, next_length(seed));
}

#define BUCKETS 4096
#define FINE	10.0   /* ns in each of the first half */
#define COARSE	1000.0 /* and of the second */
static uint32_t histogram[2 * BUCKETS];

static uint32_t bucket_of(double ns)
{
	uint32_t b;

	if (ns < BUCKETS * FINE)
		return (uint32_t)(ns / FINE);
	b = BUCKETS + (uint32_t)((ns - BUCKETS * FINE) / COARSE);
	return b < 2 * BUCKETS ? b : 2 * BUCKETS - 1;
}

static double percentile(double share, uint64_t total)
{
	uint64_t seen = 0;

	for (uint32_t b = 0; b < 2 * BUCKETS; b++) {
		seen += histogram[b];
		if ((double)seen >= share * (double)total)
			return b < BUCKETS ? b * FINE : BUCKETS * FINE + (b - BUCKETS) * COARSE;
	}
	return BUCKETS * (FINE + COARSE);
}

static void fill_one(const struct candidate *c, size_t pool, double share)
{
	const uint32_t steps = 400000;
	uint64_t seed = 7, failed = 0, large = 0, large_failed = 0, overhead = UINT64_MAX;
	struct set set = {malloc(4000000 * sizeof(struct live)), 0, 4000000, 0, 0};
	uint64_t fail_ticks = 0;
	char row[48];

	if (!set.item || !c->open(pool, 1)) {
		free(set.item);
		return;
	}
	for (int i = 0; i < 1000; i++) {
		uint64_t t = ticks();

		t = ticks() - t;
		overhead = t < overhead ? t : overhead;
	}
	set_fill(&set, c, share, pool, &seed);
	memset(histogram, 0, sizeof(histogram));
	for (uint32_t i = 0; i < steps; i++) {
		uint32_t len = next_length(&seed);
		uint64_t t;
		double ns;
		bool ok;

		while (set.n && (double)(set.used + len) > share * (double)pool)
			set_drop(&set, c, &seed);
		t = ticks();
		ok = set_add(&set, c, len);
		t = ticks() - t;
		t = t > overhead ? t - overhead : 0;
		ns = (double)t * tick_ns();
		large += len > 16384;
		if (ok) {
			histogram[bucket_of(ns)]++;
		} else {
			failed++;
			large_failed += len > 16384;
			fail_ticks += t;
			if (set.n)
				set_drop(&set, c, &seed);
		}
		if (share == 0)
			set_clear(&set, c);
	}
	snprintf(row, sizeof(row), "%zu MiB %2.0f %%", pool / MiB, share * 100);
	printf("  %-14s %-12s p50 %6.0f  p99 %7.0f  p99.9 %8.0f  failed %5.2f %%, over 16 KiB "
	       "%6.2f "
	       "%%, a failing map %8.0f\n",
	       row, c->name, percentile(0.5, steps - failed), percentile(0.99, steps - failed),
	       percentile(0.999, steps - failed), 100.0 * (double)failed / steps,
	       large ? 100.0 * (double)large_failed / (double)large : 0,
	       failed ? (double)fail_ticks * tick_ns() / (double)failed : 0);
	if (csv)
		fprintf(csv, "fill,%s,%s,%.0f,%.0f,%.0f\n", row, c->name,
			percentile(0.5, steps - failed), percentile(0.99, steps - failed),
			percentile(0.999, steps - failed));
	if (csv)
		fprintf(csv, "failed,%s,%s,%.2f,%.2f,%.0f\n", row, c->name,
			100.0 * (double)failed / steps,
			large ? 100.0 * (double)large_failed / (double)large : 0,
			failed ? (double)fail_ticks * tick_ns() / (double)failed : 0);
	set_clear(&set, c);
	c->close();
	free(set.item);
}

static void fill(void)
{
	static const double shares[] = {0, 0.5, 0.9, 0.97};

	printf("\none map, ns, with a share of the pool in use, random replacement\n");
	for (size_t pool = 64 * MiB; pool <= 1024 * MiB; pool *= 16) {
		for (size_t s = 0; s < sizeof(shares) / sizeof(shares[0]); s++) {
			for (size_t c = 0; c < n_candidates; c++) {
				if (candidates[c]->bounded)
					fill_one(candidates[c], pool, shares[s]);
			}
			fill_one(&cand_cold, pool, shares[s]);
			fill_one(&cand_cold_two, pool, shares[s]);
		}
	}
}

/* dense */

static void dense(void)
{
	static double values[CANDIDATES][ROUNDS];

	printf("\npayload per byte of a 64 MiB pool at the first map that fails, after churn, "
	       "%%\n");
	for (int r = 0; r < ROUNDS; r++) {
		for (size_t k = 0; k < n_candidates; k++) {
			const struct candidate *c = candidates[k];
			struct set set = {malloc(400000 * sizeof(struct live)), 0, 400000, 0, 0};
			uint64_t seed = (uint64_t)r * 77 + 5;

			if (!c->bounded || !set.item || !c->open(64 * MiB, 1)) {
				free(set.item);
				continue;
			}
			for (int i = 0; i < 300000; i++) {
				uint32_t len = next_length(&seed);

				while (set.n &&
				       (double)(set.payload + len) > 0.75 * (double)(64 * MiB))
					set_drop(&set, c, &seed);
				(void)set_add(&set, c, len);
			}
			while (set_add(&set, c, next_length(&seed)))
				continue;
			values[k][r] = 100.0 * (double)set.payload / (double)(64 * MiB);
			set_clear(&set, c);
			c->close();
			free(set.item);
		}
	}
	for (size_t k = 0; k < n_candidates; k++) {
		if (candidates[k]->bounded)
			report("dense", "first failure", candidates[k]->name, values[k]);
	}
}

/* streams */

static void streams(void)
{
	static const char *const names[] = {"6.12-observe-blk-fio", "6.12-observe-blk-fs",
					    "6.12-observe-net-out", "6.12-observe-9p"};
	static double values[CANDIDATES][ROUNDS];

	printf("\nrecorded streams (docs/survey): a map and its unmap, ns\n");
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char path[64];
		bool have = true;

		snprintf(path, sizeof(path), "docs/survey/%s.sv", names[i]);
		for (int r = 0; r < ROUNDS; r++) {
			for (size_t c = 0; c < n_candidates; c++) {
				values[c][r] = stream_round(candidates[c], path);
				have = have && values[c][r] > 0;
			}
		}
		for (size_t c = 0; have && c < n_candidates; c++)
			report("stream", names[i], candidates[c]->name, values[c]);
		if (!have)
			printf("  %s cannot be used: run this in the project's folder\n", path);
	}
}

static void reserves(void)
{
	static const char *const names[] = {"none", "idle", "used when the rest is full"};
	static double values[3][ROUNDS];

	printf("\nmap+unmap with the copy, 1500 B, of a device with a reserve, ns\n");
	for (int r = 0; r < ROUNDS; r++) {
		for (int way = RESERVE_NONE; way <= RESERVE_USED; way++)
			values[way][r] = reserve_round((enum reserve_way)way);
	}
	for (int way = RESERVE_NONE; way <= RESERVE_USED; way++)
		report("reserve", names[way], "sluice", values[way]);
}

/* What a small mapping takes. */
static void small(void)
{
	printf("\nbytes of the pool that a mapping of 256 bytes takes\n");
	for (size_t k = 0; k < n_candidates; k++) {
		const struct candidate *c = candidates[k];
		uint32_t taken;
		uint64_t addr;

		if (!c->bounded || !c->open(64 * MiB, 1))
			continue;
		addr = c->map(256, 0, &taken);
		if (addr) {
			printf("  %-12s %u\n", c->name, taken);
			c->unmap(addr, 256, 0);
		}
		c->close();
	}
}

int main(int argc, char **argv)
{
	static struct candidate preloaded;
	int option;

	while ((option = getopt(argc, argv, "c:m:")) != -1) {
		switch (option) {
		case 'c':
			csv = fopen(optarg, "a");
			if (csv)
				break;
			fprintf(stderr, "bench pool: cannot write %s: %s\n", optarg,
				strerror(errno));
			return 1;
		case 'm':
			preloaded = cand_malloc;
			preloaded.name = optarg;
			break;
		default:
			fprintf(stderr, "usage: pool [-c CSV] [-m NAME]\n");
			return 1;
		}
	}
	if (preloaded.name) {
		add_candidate(&preloaded);
		pairs();
	} else {
		add_candidate(&cand_sluice);
		if (&cand_swiotlb)
			add_candidate(&cand_swiotlb);
		add_candidate(&cand_scan);
		add_candidate(&cand_classes);
		add_candidate(&cand_malloc);
		pairs();
		streams();
		fill();
		dense();
		small();
		reserves();
	}
	if (csv)
		fclose(csv);
	return 0;
}
