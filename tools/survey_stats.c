/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_stats.c - from mappings to figures
 *
 * Theory of operation
 * -------------------
 * Two passes over the mappings. The first, in the order of their beginnings, takes what each has by
 * itself, and how long ago its pages were seen: the number of different pages in between (the stack
 * distance of Mattson, Gecsei, Slutz and Traiger, 1970), from a Fenwick tree over the uses in which
 * only the last use of each page counts. Kept mappings of N pages, least recently used given up
 * first, would have met exactly the uses with a distance below N.
 *
 * The second sweeps beginnings and ends together and keeps what is live: bytes, slots, and for each
 * page how many mappings are on it, of this device and of any.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "survey_stats.h"

const uint64_t survey_buckets[SURVEY_BUCKETS] = {512, 2048, 4096, 16384, 512 * 1024, UINT64_MAX};

/* Counts by page and device; keys stay. */
struct pages {
	struct page {
		uint64_t page;
		uint32_t bdf; /* UINT32_MAX: of all devices together */
		uint32_t value;
		bool taken;
	} * slot;
	uint64_t mask;
	uint64_t n;
};

static int pages_init(struct pages *p)
{
	p->mask = (1u << 12) - 1;
	p->n = 0;
	p->slot = calloc(p->mask + 1, sizeof(*p->slot));
	return p->slot ? 0 : -ENOMEM;
}

static struct page *probe(const struct pages *p, uint64_t page, uint32_t bdf)
{
	uint64_t h = (page ^ (uint64_t)bdf << 36) * 0x9e3779b97f4a7c15u, i = h >> 20;

	for (;; i++) {
		struct page *s = &p->slot[i & p->mask];

		if (!s->taken || (s->page == page && s->bdf == bdf))
			return s;
	}
}

/* The value for a page, made with 0 if there is none; NULL without memory. */
static uint32_t *pages_at(struct pages *p, uint64_t page, uint32_t bdf)
{
	struct page *s;

	if (p->n * 2 > p->mask) {
		struct pages bigger = {.mask = p->mask * 2 + 1, .n = p->n};

		bigger.slot = calloc(bigger.mask + 1, sizeof(*bigger.slot));
		if (!bigger.slot)
			return NULL;
		for (uint64_t i = 0; i <= p->mask; i++) {
			if (p->slot[i].taken)
				*probe(&bigger, p->slot[i].page, p->slot[i].bdf) = p->slot[i];
		}
		free(p->slot);
		*p = bigger;
	}
	s = probe(p, page, bdf);
	if (!s->taken) {
		*s = (struct page){.page = page, .bdf = bdf, .taken = true};
		p->n++;
	}
	return &s->value;
}

uint64_t survey_slot(uint64_t len, bool coherent)
{
	uint64_t step = 4096;

	if (!coherent && len <= 2048)
		step = 256;
	else if (!coherent && len <= 3584)
		step = 512;
	return (len + step - 1) / step * step;
}

static uint64_t first_page(const struct survey_mapping *m)
{
	return m->phys / SURVEY_PAGE;
}

static uint64_t last_page(const struct survey_mapping *m)
{
	return (m->phys + m->len - 1) / SURVEY_PAGE;
}

/* Bytes of the mapping's first and last page that are not the mapping's. */
static uint64_t slack_before(const struct survey_mapping *m)
{
	return m->phys % SURVEY_PAGE;
}

static uint64_t slack_behind(const struct survey_mapping *m)
{
	return SURVEY_PAGE - 1 - (m->phys + m->len - 1) % SURVEY_PAGE;
}

static struct survey_device *device(struct survey_stats *out, const struct survey *s, uint32_t bdf)
{
	for (size_t i = 0; i < out->n; i++) {
		if (out->dev[i].bdf == bdf)
			return &out->dev[i];
	}
	if (out->n == SURVEY_MAX_DEVS)
		return NULL;
	out->dev[out->n] = (struct survey_device){.bdf = bdf, .name = survey_name(s, bdf)};
	for (size_t i = 0; i < SURVEY_POINTS; i++)
		out->dev[out->n].line[i] = UINT64_MAX;
	return &out->dev[out->n++];
}

/* What a mapping has by itself. */
static void alone(struct survey_device *d, const struct survey_mapping *m)
{
	uint64_t npages = last_page(m) - first_page(m) + 1, outside;
	unsigned int bucket = 0;

	if (m->coherent) {
		d->allocs++;
		return;
	}
	while (m->len > survey_buckets[bucket])
		bucket++;
	d->bucket[bucket]++;
	d->len[d->maps++] = m->len;
	d->bytes += m->len;
	d->dir_maps[m->dir]++;
	d->dir_bytes[m->dir] += m->len;
	d->kind_maps[m->kind]++;
	d->offset[m->phys % SURVEY_PAGE / (SURVEY_PAGE / SURVEY_OFFSETS)]++;
	d->aligned += !(m->phys % SURVEY_PAGE);
	d->pages += npages;
	outside = slack_before(m) + slack_behind(m);
	d->slack += outside;
	if (outside) {
		d->partial++;
		d->partial_slab += m->kind == SURVEY_SLAB;
	}
	d->inner_bytes += (npages - (slack_before(m) > 0) -
			   (slack_behind(m) > 0 && !(npages == 1 && slack_before(m)))) *
			  SURVEY_PAGE;
	if (m->end) {
		d->cpu_other += m->cpu_map != m->cpu_unmap;
		d->life[d->ended++] = m->end > m->begin ? m->end - m->begin : 0;
	} else {
		d->open++;
	}
}

/* The Fenwick tree: add v at i (from 1), or sum up to i. */
static void tree_add(int32_t *tree, uint64_t n, uint64_t i, int32_t v)
{
	for (; i <= n; i += i & (~i + 1))
		tree[i] += v;
}

static uint64_t tree_sum(const int32_t *tree, uint64_t i)
{
	int64_t sum = 0;

	for (; i; i -= i & (~i + 1))
		sum += tree[i];
	return (uint64_t)sum;
}

/* Stack distances of one device's pages. Uses beyond 16 million are left out. */
static int reuse(struct survey_device *d, const struct survey_mappings *all)
{
	const uint64_t limit = 1u << 24;
	uint64_t n = d->pages < limit ? d->pages : limit, now = 0;
	int32_t *tree = calloc(n + 1, sizeof(*tree));
	struct pages last;

	if (!tree || pages_init(&last)) {
		free(tree);
		return -ENOMEM;
	}
	for (size_t i = 0; i < all->n; i++) {
		const struct survey_mapping *m = &all->m[i];

		if (m->bdf != d->bdf || m->coherent)
			continue;
		for (uint64_t page = first_page(m); page <= last_page(m) && now < n; page++) {
			uint32_t *seen = pages_at(&last, page, 0);
			uint64_t distance;
			unsigned int bin = 0;

			if (!seen) {
				free(last.slot);
				free(tree);
				return -ENOMEM;
			}
			now++;
			if (*seen) {
				distance = tree_sum(tree, now - 1) - tree_sum(tree, *seen);
				while (bin < SURVEY_REUSE - 1 && distance >= UINT64_C(1) << bin)
					bin++;
				d->reuse[bin]++;
				tree_add(tree, n, *seen, -1);
			} else {
				d->first++;
			}
			tree_add(tree, n, now, 1);
			*seen = (uint32_t)now;
		}
	}
	free(last.slot);
	free(tree);
	return 0;
}

/* The sweep. */
struct moment {
	uint64_t time;
	uint32_t index;
	bool end;
};

static int by_time(const void *a, const void *b)
{
	const struct moment *x = a, *y = b;

	if (x->time != y->time)
		return x->time < y->time ? -1 : 1;
	if (x->end != y->end)
		return x->end ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

struct live {
	uint64_t maps, bytes, coherent, slots, pages;
};

static void note_line(struct survey_device *d, const struct survey_stats *out, uint64_t time,
		      uint64_t slots)
{
	uint64_t span = out->end - out->begin + 1;
	uint64_t i = (uint64_t)((double)(time - out->begin) / (double)span * SURVEY_POINTS);

	if (i >= SURVEY_POINTS)
		i = SURVEY_POINTS - 1;
	if (d->line[i] == UINT64_MAX || slots > d->line[i])
		d->line[i] = slots;
}

static int page_moment(struct survey_device *d, struct live *l, struct pages *on,
		       const struct survey_mapping *m, bool end)
{
	bool own = false, other = false;

	for (uint64_t page = first_page(m); page <= last_page(m); page++) {
		uint32_t *mine = pages_at(on, page, m->bdf), *any;

		/* The second look may move the table. */
		if (!mine)
			return -ENOMEM;
		if (end) {
			if (!--*mine)
				l->pages--;
		} else {
			own = own || *mine;
			if (!(*mine)++)
				l->pages++;
		}
		any = pages_at(on, page, UINT32_MAX);
		if (!any)
			return -ENOMEM;
		if (end) {
			--*any;
		} else {
			mine = &probe(on, page, m->bdf)->value;
			other = other || *any > *mine - 1;
			(*any)++;
		}
	}
	if (!end && (slack_before(m) || slack_behind(m))) {
		d->beside_own += own;
		d->beside_other += other;
	}
	return 0;
}

static int apply(struct survey_device *d, struct live *l, struct pages *on,
		 const struct survey_mapping *m, bool end)
{
	uint64_t slot = survey_slot(m->len, m->coherent);

	l->slots = end ? l->slots - slot : l->slots + slot;
	if (l->slots > d->pool_max)
		d->pool_max = l->slots;
	if (m->coherent) {
		l->coherent = end ? l->coherent - m->len : l->coherent + m->len;
		if (l->coherent > d->coherent_max)
			d->coherent_max = l->coherent;
		return 0;
	}
	l->maps = end ? l->maps - 1 : l->maps + 1;
	l->bytes = end ? l->bytes - m->len : l->bytes + m->len;
	if (page_moment(d, l, on, m, end))
		return -ENOMEM;
	if (l->maps > d->live_max)
		d->live_max = l->maps;
	if (l->bytes > d->live_bytes_max)
		d->live_bytes_max = l->bytes;
	if (l->pages * SURVEY_PAGE > d->reach_max) {
		d->reach_max = l->pages * SURVEY_PAGE;
		d->reach_mapped = l->bytes;
	}
	return 0;
}

static int sweep(struct survey_stats *out, const struct survey *s,
		 const struct survey_mappings *all)
{
	struct moment *at = malloc((all->n * 2 + 1) * sizeof(*at));
	struct live live[SURVEY_MAX_DEVS] = {{0}};
	struct pages on;
	size_t n = 0;
	int ret = 0;

	if (!at || pages_init(&on)) {
		free(at);
		return -ENOMEM;
	}
	for (size_t i = 0; i < all->n; i++) {
		at[n++] = (struct moment){.time = all->m[i].begin, .index = (uint32_t)i};
		if (all->m[i].end)
			at[n++] = (struct moment){
				.time = all->m[i].end, .index = (uint32_t)i, .end = true};
	}
	qsort(at, n, sizeof(*at), by_time);
	/* What is mapped and unmapped in one instant has its end sorted first: then in order. */
	for (size_t i = 0; i + 1 < n; i++) {
		const struct survey_mapping *m = &all->m[at[i].index];

		if (at[i].end && m->begin >= m->end)
			at[i].end = false;
		else if (!at[i].end && m->end && m->begin >= m->end)
			at[i].end = true;
	}
	for (size_t i = 0; i < n && !ret; i++) {
		const struct survey_mapping *m = &all->m[at[i].index];
		struct survey_device *d = device(out, s, m->bdf);

		if (!d)
			continue;
		/* What was live until now was so in this point of the line, too. */
		note_line(d, out, at[i].time, live[d - out->dev].slots);
		ret = apply(d, &live[d - out->dev], &on, m, at[i].end);
		note_line(d, out, at[i].time, live[d - out->dev].slots);
	}
	free(on.slot);
	free(at);
	return ret;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The busiest first. */
static int by_maps(const void *a, const void *b)
{
	const struct survey_device *x = a, *y = b;

	if (x->maps != y->maps)
		return x->maps > y->maps ? -1 : 1;
	return x->bdf < y->bdf ? -1 : x->bdf > y->bdf;
}

/* A moment without an event has what was live in the one before it. */
static void fill_line(struct survey_device *d)
{
	for (size_t i = 0; i < SURVEY_POINTS; i++) {
		if (d->line[i] == UINT64_MAX)
			d->line[i] = i ? d->line[i - 1] : 0;
	}
}

/* What an unmap says of it, even if the map was before the stream begins (a network's buffers). */
static void written(struct survey_device *d, const struct survey_event *e)
{
	d->known++;
	d->known_bytes += e->len;
	d->extent_bytes += e->extent;
	d->changed_bytes += e->changed;
	d->shorter += e->extent < e->len;
}

static int count(const struct survey *s, const struct survey_mappings *all,
		 struct survey_stats *out)
{
	uint64_t n[SURVEY_MAX_DEVS] = {0};

	for (size_t i = 0; i < all->n; i++) {
		struct survey_device *d = device(out, s, all->m[i].bdf);

		if (d)
			n[d - out->dev]++;
		else
			out->more++;
	}
	for (size_t i = 0; i < s->n; i++) {
		const struct survey_event *e = &s->events[i];
		struct survey_device *d;

		if (e->type != SURVEY_FULL && e->extent == SURVEY_UNKNOWN)
			continue;
		d = device(out, s, e->bdf);
		if (d && e->type == SURVEY_FULL)
			d->full++;
		else if (d && e->dir != SURVEY_TO)
			written(d, e);
	}
	for (size_t i = 0; i < out->n; i++) {
		out->dev[i].len = malloc((n[i] + 1) * sizeof(uint64_t));
		out->dev[i].life = malloc((n[i] + 1) * sizeof(uint64_t));
		if (!out->dev[i].len || !out->dev[i].life)
			return -ENOMEM;
	}
	return 0;
}

int survey_stats(const struct survey *s, struct survey_stats *out)
{
	struct survey_mappings all;
	int ret;

	*out = (struct survey_stats){.n = 0};
	ret = survey_match(s, &all);
	if (ret)
		return ret;
	out->orphans = all.orphans;
	if (s->n) {
		out->begin = s->events[0].time;
		out->end = s->events[s->n - 1].time;
	}
	ret = count(s, &all, out);
	for (size_t i = 0; i < all.n && !ret; i++) {
		struct survey_device *d = device(out, s, all.m[i].bdf);

		if (d)
			alone(d, &all.m[i]);
	}
	for (size_t i = 0; i < out->n && !ret; i++) {
		struct survey_device *d = &out->dev[i];

		qsort(d->len, d->maps, sizeof(uint64_t), compare);
		qsort(d->life, d->ended, sizeof(uint64_t), compare);
		ret = reuse(d, &all);
	}
	if (!ret)
		ret = sweep(out, s, &all);
	for (size_t i = 0; i < out->n; i++)
		fill_line(&out->dev[i]);
	qsort(out->dev, out->n, sizeof(*out->dev), by_maps);
	free(all.m);
	return ret;
}

void survey_stats_free(struct survey_stats *stats)
{
	for (size_t i = 0; i < stats->n; i++) {
		free(stats->dev[i].len);
		free(stats->dev[i].life);
	}
	stats->n = 0;
}

uint64_t survey_below(const uint64_t *v, uint64_t n, uint64_t x)
{
	uint64_t low = 0, high = n;

	while (low < high) {
		uint64_t mid = low + (high - low) / 2;

		if (v[mid] <= x)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

uint64_t survey_quantile(const uint64_t *v, uint64_t n, double q)
{
	uint64_t i;

	if (!n)
		return 0;
	i = (uint64_t)(q * (double)n);
	return v[i < n ? i : n - 1];
}
