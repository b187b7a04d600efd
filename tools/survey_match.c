/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_match.c - from events to mappings
 *
 * Theory of operation: live mappings are in a hash table with chains, by device and device address.
 * One address can be live several times (unprotected, a page that is written to two disks at once
 * is mapped for each, and one that is sent twice is mapped twice for one device), so a chain keeps
 * them in their order and unmap takes the oldest of its length.
 */
#include <errno.h>
#include <stdlib.h>

#include "survey.h"

#define BUCKETS (1u << 16)
#define NONE	UINT32_MAX

struct table {
	uint32_t head[BUCKETS];
	uint32_t *next; /* for each mapping */
};

static uint32_t bucket(uint32_t bdf, uint64_t dma)
{
	uint64_t h = (dma ^ (uint64_t)bdf << 40) * 0x9e3779b97f4a7c15u;

	return (uint32_t)(h >> 48);
}

/* A new mapping goes to the end of its chain. */
static void begin(struct table *t, struct survey_mappings *out, const struct survey_event *e)
{
	uint32_t *at = &t->head[bucket(e->bdf, e->dma)];
	struct survey_mapping *m = &out->m[out->n];

	*m = (struct survey_mapping){
		.phys = e->phys,
		.dma = e->dma,
		.len = e->len,
		.begin = e->time,
		.bdf = e->bdf,
		.changed = SURVEY_UNKNOWN,
		.extent = SURVEY_UNKNOWN,
		.cpu_map = e->cpu,
		.dir = e->dir,
		.kind = e->kind,
		.coherent = e->type == SURVEY_ALLOC,
	};
	while (*at != NONE)
		at = &t->next[*at];
	*at = (uint32_t)out->n;
	t->next[out->n++] = NONE;
}

static void end(struct table *t, struct survey_mappings *out, const struct survey_event *e)
{
	uint32_t *at = &t->head[bucket(e->bdf, e->dma)];
	bool coherent = e->type == SURVEY_FREE;

	for (; *at != NONE; at = &t->next[*at]) {
		struct survey_mapping *m = &out->m[*at];

		if (m->bdf != e->bdf || m->dma != e->dma || m->len != e->len ||
		    m->coherent != coherent)
			continue;
		/* Zero is "not ended". */
		m->end = e->time ? e->time : 1;
		m->cpu_unmap = e->cpu;
		m->changed = e->changed;
		m->extent = e->extent;
		*at = t->next[*at];
		return;
	}
	out->orphans++;
}

int survey_match(const struct survey *s, struct survey_mappings *out)
{
	struct table *t = malloc(sizeof(*t));
	size_t n = 0;

	*out = (struct survey_mappings){.m = NULL};
	for (size_t i = 0; i < s->n; i++)
		n += s->events[i].type == SURVEY_MAP || s->events[i].type == SURVEY_ALLOC;
	if (!t || n >= NONE) {
		free(t);
		return -ENOMEM;
	}
	out->m = malloc((n ? n : 1) * sizeof(*out->m));
	t->next = malloc((n ? n : 1) * sizeof(*t->next));
	if (!out->m || !t->next) {
		free(out->m);
		free(t->next);
		free(t);
		out->m = NULL;
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < BUCKETS; i++)
		t->head[i] = NONE;
	for (size_t i = 0; i < s->n; i++) {
		switch (s->events[i].type) {
		case SURVEY_MAP:
		case SURVEY_ALLOC:
			begin(t, out, &s->events[i]);
			break;
		case SURVEY_UNMAP:
		case SURVEY_FREE:
			end(t, out, &s->events[i]);
			break;
		}
	}
	free(t->next);
	free(t);
	return 0;
}
