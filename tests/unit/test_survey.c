/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_survey.c - streams, ring buffer pages, matching and figures of `sluice survey`
 *
 * Theory of operation
 * -------------------
 * A stream may come from anywhere, so what is promised of reading one is that it never does more
 * than fail: every truncation, and thousands of mutations whose checksums have been made right
 * again, go through everything that a report does (the sanitizer runs are what gives this its
 * teeth). That what is written comes back, and that figures are right, is checked against cases
 * small enough to count by hand, and against a count that goes the slow way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tools/survey.h"
#include "tools/survey_stats.h"

#define HEADER	16u
#define BLOCK	32u
#define MUTANTS 3000u

static uint64_t seed = 1;
static uint32_t rnd(uint32_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % below;
}

static struct survey_event some_event(uint64_t time)
{
	struct survey_event e = {
		.time = time,
		.phys = (uint64_t)rnd(1u << 30) << rnd(10),
		.len = 1 + rnd(rnd(2) ? 4096 : 300000),
		.bdf = rnd(3) << 3,
		.changed = SURVEY_UNKNOWN,
		.extent = SURVEY_UNKNOWN,
		.cpu = (uint16_t)rnd(3),
		.type = (uint8_t)rnd(SURVEY_FULL + 1),
		.dir = (uint8_t)rnd(3),
		.kind = (uint8_t)rnd(3),
	};

	e.dma = rnd(2) ? e.phys : e.phys + rnd(1u << 30);
	if (e.type != SURVEY_MAP && e.type != SURVEY_FULL)
		e.phys = 0;
	if (e.type == SURVEY_FULL)
		e.dma = 0;
	if (e.type == SURVEY_UNMAP && rnd(2)) {
		e.extent = rnd((uint32_t)e.len + 1);
		e.changed = e.extent ? rnd(e.extent + 1) : 0;
	}
	return e;
}

/* A stream of n events and a loss of 7, in memory. */
static uint8_t *make(struct survey_event *events, size_t n, size_t *size)
{
	char *data = NULL;
	FILE *f = open_memstream(&data, size);
	struct survey_writer w;

	assert_non_null(f);
	assert_int_equal(survey_begin(&w, f, "title a <title>\nkernel 6.1\nmode bounce\n"), 0);
	for (size_t i = 0; i < n; i++) {
		if (i == n / 2)
			survey_write_lost(&w, 1, 7);
		survey_write(&w, &events[i]);
	}
	assert_int_equal(survey_end(&w, "device 0000:00:01.0 some_driver\n"), 0);
	fclose(f);
	return (uint8_t *)data;
}

/* Two words of each event's address do not come back for the types that have none. */
static void assert_same(const struct survey_event *a, const struct survey_event *b)
{
	assert_int_equal(a->time, b->time);
	assert_int_equal(a->type, b->type);
	assert_int_equal(a->len, b->len);
	assert_int_equal(a->bdf, b->bdf);
	assert_int_equal(a->cpu, b->cpu);
	assert_int_equal(a->dir, b->dir);
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->phys, b->phys);
	assert_int_equal(a->changed, b->changed);
	assert_int_equal(a->extent, b->extent);
	if (a->type != SURVEY_FULL)
		assert_int_equal(a->dma, b->dma);
}

static void test_round_trip(void **state)
{
	enum { N = 20000 };
	struct survey_event *events = calloc(N, sizeof(*events));
	struct survey s;
	const char *why;
	size_t size;
	uint8_t *data;

	(void)state;
	for (size_t i = 0; i < N; i++)
		events[i] = some_event(1000 + 10 * i + rnd(10));
	data = make(events, N, &size);
	assert_int_equal(survey_parse(data, size, &s, &why), 0);
	assert_int_equal(s.n, N);
	assert_int_equal(s.lost, 7);
	assert_true(s.complete);
	assert_string_equal(s.title, "a <title>");
	assert_string_equal(s.kernel, "6.1");
	assert_string_equal(survey_name(&s, 1 << 3), "some_driver");
	for (size_t i = 0; i < N; i++)
		assert_same(&s.events[i], &events[i]);
	survey_free(&s);
	free(data);
	free(events);
}

/* All that a report does with a stream, to nowhere. */
static void report(const uint8_t *data, size_t size, FILE *nowhere)
{
	static const struct survey_costs costs = {.share_ns = 5000, .copy_ns = 45};
	static struct survey_stats stats;
	struct survey s;
	const char *why;
	int ret = survey_parse(data, size, &s, &why);

	if (ret) {
		assert_non_null(why);
	} else {
		if (!survey_stats(&s, &stats)) {
			survey_text(nowhere, &s, &stats, &costs);
			survey_html(nowhere, &s, &stats, &costs);
		}
		survey_stats_free(&stats);
	}
	survey_free(&s);
}

static uint32_t crc(uint32_t c, const uint8_t *p, size_t n)
{
	c = ~c;
	for (; n; n--, p++) {
		c ^= *p;
		for (int k = 0; k < 8; k++)
			c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
	}
	return ~c;
}

/* Make every checksum right as far as lengths make sense. */
static void mend(uint8_t *data, size_t size)
{
	for (size_t at = HEADER; at + BLOCK <= size;) {
		uint32_t length, sum;

		memcpy(&length, data + at + 4, 4);
		if (length > size - at - BLOCK)
			return;
		sum = crc(crc(0, data + at, 28), data + at + BLOCK, length);
		memcpy(data + at + 28, &sum, 4);
		at += BLOCK + length;
	}
}

static void test_damaged_streams_only_fail(void **state)
{
	enum { N = 60 };
	struct survey_event events[N];
	FILE *nowhere = fopen("/dev/null", "w");
	size_t size;
	uint8_t *data, *copy;
	struct survey s;
	const char *why;

	(void)state;
	assert_non_null(nowhere);
	for (size_t i = 0; i < N; i++)
		events[i] = some_event(1000 + 100 * i);
	data = make(events, N, &size);
	copy = malloc(size);
	assert_non_null(copy);
	for (size_t i = 0; i <= size; i++) {
		/* A copy of just that length: one byte beyond is somebody else's. */
		uint8_t *part = malloc(i ? i : 1);

		assert_non_null(part);
		memcpy(part, data, i);
		report(part, i, nowhere);
		free(part);
	}
	for (unsigned int i = 0; i < MUTANTS; i++) {
		memcpy(copy, data, size);
		for (uint32_t k = 1 + rnd(4); k; k--)
			copy[HEADER + rnd((uint32_t)(size - HEADER))] = (uint8_t)rnd(256);
		mend(copy, size);
		report(copy, size, nowhere);
	}
	/* Without mending, a changed byte in a block is seen. */
	memcpy(copy, data, size);
	copy[HEADER + BLOCK + 3] ^= 1;
	assert_int_not_equal(survey_parse(copy, size, &s, &why), 0);
	survey_free(&s);
	free(copy);
	free(data);
	fclose(nowhere);
}

static struct survey_event map(uint64_t time, uint64_t phys, uint64_t len, uint16_t cpu)
{
	return (struct survey_event){.time = time,
				     .phys = phys,
				     .dma = phys,
				     .len = len,
				     .bdf = 8,
				     .cpu = cpu,
				     .type = SURVEY_MAP,
				     .dir = SURVEY_FROM,
				     .changed = SURVEY_UNKNOWN,
				     .extent = SURVEY_UNKNOWN};
}

static struct survey_event unmap(uint64_t time, uint64_t phys, uint64_t len, uint16_t cpu)
{
	struct survey_event e = map(time, phys, len, cpu);

	e.type = SURVEY_UNMAP;
	e.phys = 0;
	return e;
}

static void test_figures_of_a_small_case(void **state)
{
	/* Two buffers share a page; one page comes twice; one address is mapped twice at once. */
	struct survey_event events[] = {
		map(1000, 0x10000, 4096, 0),   map(1100, 0x20000, 100, 0),
		map(1200, 0x20400, 200, 1),    unmap(1300, 0x10000, 4096, 0),
		map(1400, 0x10000, 4096, 0),   map(1450, 0x10000, 4096, 0),
		unmap(1500, 0x20000, 100, 1),  unmap(1600, 0x10000, 4096, 0),
		unmap(1700, 0x10000, 4096, 0), unmap(1800, 0x99000, 5, 0),
	};
	static struct survey_stats stats;
	struct survey s = {.events = events, .n = sizeof(events) / sizeof(*events)};
	const struct survey_device *d = &stats.dev[0];

	(void)state;
	events[6].extent = 50;
	events[6].changed = 40;
	assert_int_equal(survey_stats(&s, &stats), 0);
	assert_int_equal(stats.n, 1);
	assert_int_equal(stats.orphans, 1);
	assert_int_equal(d->maps, 5);
	assert_int_equal(d->bytes, 3 * 4096 + 300);
	assert_int_equal(d->ended, 4);
	assert_int_equal(d->open, 1);
	assert_int_equal(d->cpu_other, 1);
	assert_int_equal(d->aligned, 4);
	assert_int_equal(d->bucket[0], 2);
	assert_int_equal(d->bucket[2], 3);
	assert_int_equal(d->live_max, 4);
	assert_int_equal(d->live_bytes_max, 2 * 4096 + 300);
	assert_int_equal(d->pool_max, 2 * 4096 + 2 * 256);
	/* 5 uses of pages: 0x10 new, 0x20 new and again, 0x10 twice again. */
	assert_int_equal(d->pages, 5);
	assert_int_equal(d->first, 2);
	assert_int_equal(d->reuse[0], 2); /* nothing in between */
	assert_int_equal(d->reuse[1], 1); /* one other page */
	assert_int_equal(d->partial, 2);
	assert_int_equal(d->beside_own, 1);
	assert_int_equal(d->beside_other, 0);
	assert_int_equal(d->slack, 2 * 4096 - 300);
	assert_int_equal(d->reach_max, 2 * 4096);
	assert_int_equal(d->inner_bytes, 3 * 4096);
	assert_int_equal(d->known, 1);
	assert_int_equal(d->known_bytes, 100);
	assert_int_equal(d->extent_bytes, 50);
	assert_int_equal(d->changed_bytes, 40);
	assert_int_equal(d->shorter, 1);
	assert_int_equal(survey_quantile(d->life, d->ended, 0), 200); /* the older one ends first */
	survey_stats_free(&stats);
}

/* Stack distances the slow way: count different pages between two uses. */
static void test_reuse_against_a_count(void **state)
{
	enum { N = 400 };
	static struct survey_event events[2 * N];
	static struct survey_stats stats;
	uint64_t page[N], expect[SURVEY_REUSE] = {0}, first = 0;
	struct survey s = {.events = events, .n = 2 * N};

	(void)state;
	for (unsigned int i = 0; i < N; i++) {
		unsigned int bin = 0, others = 0, k;

		page[i] = 16 + rnd(40);
		events[2 * i] = map(100 * i + 1, page[i] << 12, 4096, 0);
		events[2 * i + 1] = unmap(100 * i + 50, page[i] << 12, 4096, 0);
		for (k = i; k && page[k - 1] != page[i]; k--) {
			bool before = false;

			for (unsigned int j = k; j < i; j++)
				before = before || page[j] == page[k - 1];
			others += !before;
		}
		if (!k) {
			first++;
			continue;
		}
		while (others >= 1u << bin)
			bin++;
		expect[bin]++;
	}
	assert_int_equal(survey_stats(&s, &stats), 0);
	assert_int_equal(stats.dev[0].first, first);
	for (unsigned int i = 0; i < SURVEY_REUSE; i++)
		assert_int_equal(stats.dev[0].reuse[i], expect[i]);
	survey_stats_free(&stats);
}

/* The texts of a 6.1 kernel, shortened. */
static const char header_text[] = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
				  "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
				  "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
				  "\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n";
static const char map_text[] =
	"name: map\nID: 1234\nformat:\n"
	"\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
	"\tfield:u64 phys;\toffset:8;\tsize:8;\tsigned:0;\n"
	"\tfield:u64 dma;\toffset:16;\tsize:8;\tsigned:0;\n"
	"\tfield:u64 len;\toffset:24;\tsize:8;\tsigned:0;\n"
	"\tfield:u32 bdf;\toffset:32;\tsize:4;\tsigned:0;\n"
	"\tfield:int dir;\toffset:36;\tsize:4;\tsigned:1;\n"
	"\tfield:u32 kind;\toffset:40;\tsize:4;\tsigned:0;\n";

static void put32(uint8_t *page, size_t *at, uint32_t v)
{
	memcpy(page + *at, &v, 4);
	*at += 4;
}

static void put_map(uint8_t *page, size_t *at, uint32_t delta, uint64_t phys, uint64_t len)
{
	const uint64_t words[3] = {phys, phys, len};
	const uint32_t rest[3] = {8, SURVEY_TO, SURVEY_SLAB};

	put32(page, at, delta << 5 | 11); /* 11 words of data */
	put32(page, at, 1234);
	put32(page, at, 0);
	memcpy(page + *at, words, sizeof(words));
	memcpy(page + *at + sizeof(words), rest, sizeof(rest));
	*at += sizeof(words) + sizeof(rest);
}

/* Two events with a gap of more than 27 bits between them, and 5 lost before. */
static size_t make_page(uint8_t *page)
{
	uint64_t time = 5000000000u, commit;
	size_t at = 16;

	memset(page, 0, 4096);
	put_map(page, &at, 10, 0x12345, 100);
	put32(page, &at, 3u << 5 | 30);
	put32(page, &at, 2);
	put_map(page, &at, 7, 0x5000, 4096);
	commit = (at - 16) | UINT64_C(3) << 30;
	memcpy(page, &time, 8);
	memcpy(page + 8, &commit, 8);
	page[at] = 5;
	return at;
}

static void parse_page(const uint8_t *page, size_t size, struct survey *s, int *ret)
{
	struct survey_formats formats = {.data = 0};
	struct survey_writer w;
	char *data = NULL;
	const char *why;
	size_t length;
	FILE *f = open_memstream(&data, &length);

	assert_int_equal(survey_header_parse(header_text, &formats), 0);
	assert_int_equal(survey_format_parse(map_text, SURVEY_MAP, &formats.of[SURVEY_MAP]), 0);
	assert_int_equal(survey_begin(&w, f, ""), 0);
	*ret = survey_page(&formats, page, size, 2, &w);
	assert_int_equal(survey_end(&w, NULL), 0);
	fclose(f);
	assert_int_equal(survey_parse((uint8_t *)data, length, s, &why), 0);
	free(data);
}

static void test_kernel_page(void **state)
{
	uint8_t page[4096];
	struct survey s;
	int ret;

	(void)state;
	make_page(page);
	parse_page(page, sizeof(page), &s, &ret);
	assert_int_equal(ret, 0);
	assert_int_equal(s.lost, 5);
	assert_int_equal(s.n, 2);
	assert_int_equal(s.events[0].time, 5000000010u);
	assert_int_equal(s.events[0].phys, 0x12345);
	assert_int_equal(s.events[0].kind, SURVEY_SLAB);
	assert_int_equal(s.events[1].time, 5000000010u + (2u << 27) + 3 + 7);
	assert_int_equal(s.events[1].len, 4096);
	assert_int_equal(s.events[1].cpu, 2);
	survey_free(&s);
}

static void test_odd_pages_only_fail(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < MUTANTS; i++) {
		uint8_t full[4096], *page;
		size_t used = make_page(full), size = rnd(3) ? used : rnd((uint32_t)used + 1);
		struct survey s;
		int ret;

		for (uint32_t k = rnd(5); k; k--)
			full[rnd((uint32_t)used)] = (uint8_t)rnd(256);
		page = malloc(size ? size : 1);
		assert_non_null(page);
		memcpy(page, full, size);
		parse_page(page, size, &s, &ret);
		survey_free(&s);
		free(page);
	}
}

static void test_formats_without_what_is_needed(void **state)
{
	struct survey_layout layout;
	struct survey_formats formats;

	(void)state;
	assert_int_not_equal(survey_format_parse("", SURVEY_MAP, &layout), 0);
	assert_int_not_equal(survey_format_parse("ID: 7\n", SURVEY_MAP, &layout), 0);
	assert_int_not_equal(survey_format_parse("ID: 99999999\n", SURVEY_MAP, &layout), 0);
	assert_int_not_equal(
		survey_header_parse("field: char data;\toffset:16;\tsize:1;", &formats), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_damaged_streams_only_fail),
		cmocka_unit_test(test_figures_of_a_small_case),
		cmocka_unit_test(test_reuse_against_a_count),
		cmocka_unit_test(test_kernel_page),
		cmocka_unit_test(test_odd_pages_only_fail),
		cmocka_unit_test(test_formats_without_what_is_needed),
	};

	return cmocka_run_group_tests_name("survey", tests, NULL, NULL);
}
