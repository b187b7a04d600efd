/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * stream.c - a recorded stream as a workload
 *
 * Theory of operation: the mappings of the stream are laid out once as a list of steps, map or
 * unmap of a number; what is still alive at its end is unmapped there, so that the list can be run
 * again. Nothing is copied: what is measured is the pool. Lengths are capped at 256 KiB, the most
 * that the design of the kernel today maps, as in the synthetic mixture.
 */
#include <stdlib.h>
#include <string.h>

#include "../../tools/survey.h"
#include "bench.h"

#define LONGEST (256u << 10)
#define REPEAT	60
#define POOL	((size_t)64 << 20)

struct step {
	uint64_t time;
	uint32_t index;
	uint32_t len; /* 0: unmap */
};

struct load {
	struct step *step;
	size_t n;
	uint64_t *addr; /* of each mapping */
	uint32_t *len;
	char path[64];
};

static int by_time(const void *a, const void *b)
{
	const struct step *x = a, *y = b;

	if (x->time != y->time)
		return x->time < y->time ? -1 : 1;
	if (x->index != y->index)
		return x->index < y->index ? -1 : 1;
	return !x->len - !y->len;
}

static bool prepare(struct load *l, const char *path)
{
	struct survey_mappings all;
	struct survey s;
	const char *why;
	bool ok = !survey_load(path, &s, &why) && !survey_match(&s, &all);

	survey_free(&s);
	if (!ok)
		return false;
	free(l->step);
	free(l->addr);
	free(l->len);
	l->n = 0;
	l->step = malloc((all.n + 1) * 2 * sizeof(*l->step));
	l->addr = malloc((all.n + 1) * sizeof(*l->addr));
	l->len = malloc((all.n + 1) * sizeof(*l->len));
	ok = l->step && l->addr && l->len && all.n;
	for (size_t i = 0; ok && i < all.n; i++) {
		const struct survey_mapping *m = &all.m[i];
		uint32_t len = m->len < LONGEST ? (uint32_t)m->len : LONGEST;
		uint64_t end = m->end > m->begin ? m->end : m->begin;

		l->len[i] = len;
		l->step[l->n++] = (struct step){m->begin, (uint32_t)i, len};
		l->step[l->n++] = (struct step){m->end ? end : UINT64_MAX, (uint32_t)i, 0};
	}
	free(all.m);
	if (ok) {
		qsort(l->step, l->n, sizeof(*l->step), by_time);
		strncpy(l->path, path, sizeof(l->path) - 1);
	}
	return ok;
}

double stream_round(const struct candidate *c, const char *path)
{
	static struct load l;
	uint64_t start, spent;
	bool ok = true;

	if (strcmp(l.path, path) && !prepare(&l, path))
		return 0;
	if (!c->open(POOL, 1))
		return 0;
	start = ticks();
	for (unsigned int r = 0; r < REPEAT; r++) {
		for (size_t i = 0; i < l.n; i++) {
			uint32_t at = l.step[i].index, taken;

			if (l.step[i].len) {
				l.addr[at] = c->map(l.len[at], 0, &taken);
				ok = ok && l.addr[at];
			} else if (l.addr[at]) {
				c->unmap(l.addr[at], l.len[at], 0);
			}
		}
	}
	spent = ticks() - start;
	c->close();
	return ok ? (double)spent * tick_ns() / (REPEAT * (double)(l.n / 2)) : 0;
}
