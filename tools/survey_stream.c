/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_stream.c - the stream that a survey is recorded into
 *
 * Theory of operation
 * -------------------
 * docs/SURVEY-FORMAT.md has the format byte by byte. In short: a header of 16 bytes, then blocks,
 * each with a length and a checksum. A block of events is of one CPU, and everything in it is
 * relative to the event before it in that block, in variable-length numbers, so that a mapping and
 * its unmapping take about 20 bytes together; blocks do not depend on each other, so that a damaged
 * one is known and costs nothing but itself. (Reading stops there nevertheless: figures of a file
 * that is damaged would not be worth having.)
 *
 * A file that ends in the middle is what a recorder leaves that was killed: it is read as far as it
 * goes and marked incomplete.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "survey.h"

#define MAGIC	     "SLUICESV"
#define VERSION	     1u
#define FILE_HEADER  16u
#define BLOCK_HEADER 32u
#define BLOCK_MAX    (64u << 10) /* payload bytes */
#define EVENT_MAX    64u	 /* bytes that an event takes at most */

enum { BLOCK_META = 1, BLOCK_EVENTS = 2, BLOCK_LOST = 3, BLOCK_END = 4 };

/* In the first byte of an event, above its type: */
#define TAG_DIR_SHIFT  3
#define TAG_SAME       0x20u /* the device is that of the event before */
#define TAG_KIND_SHIFT 6

struct block {
	uint8_t type;
	uint16_t cpu;
	uint32_t length;
	uint32_t count;
	uint64_t base;
};

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)v);
	put16(p + 2, (uint16_t)(v >> 16));
}

static void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32(p + 4, (uint32_t)(v >> 32));
}

static uint64_t get(const uint8_t *p, unsigned int bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | p[bytes];
	return v;
}

/* CRC-32 of IEEE 802.3, reflected. */
static uint32_t crc(uint32_t c, const uint8_t *p, size_t n)
{
	static uint32_t table[256];

	if (!table[1]) {
		for (uint32_t i = 0; i < 256; i++) {
			uint32_t v = i;

			for (int k = 0; k < 8; k++)
				v = v >> 1 ^ (v & 1 ? 0xedb88320u : 0);
			table[i] = v;
		}
	}
	c = ~c;
	while (n--)
		c = c >> 8 ^ table[(c ^ *p++) & 0xff];
	return ~c;
}

static uint64_t zigzag(uint64_t v)
{
	return v << 1 ^ (v >> 63 ? UINT64_MAX : 0);
}

static uint64_t unzigzag(uint64_t v)
{
	return v >> 1 ^ (v & 1 ? UINT64_MAX : 0);
}

static void block_out(struct survey_writer *w, const struct block *b, const uint8_t *payload)
{
	uint8_t h[BLOCK_HEADER] = {0};

	h[0] = b->type;
	put16(h + 2, b->cpu);
	put32(h + 4, b->length);
	put64(h + 8, b->base);
	put32(h + 16, b->count);
	put32(h + 28, crc(crc(0, h, 28), payload, b->length));
	if (fwrite(h, 1, sizeof(h), w->file) != sizeof(h) ||
	    fwrite(payload, 1, b->length, w->file) != b->length)
		w->failed = true;
}

static void flush(struct survey_writer *w)
{
	const struct block b = {
		.type = BLOCK_EVENTS,
		.cpu = w->cpu,
		.length = (uint32_t)w->used,
		.count = w->count,
		.base = w->base,
	};

	if (w->count)
		block_out(w, &b, w->payload);
	w->used = 0;
	w->count = 0;
}

static void meta_out(struct survey_writer *w, const char *meta)
{
	const struct block b = {.type = BLOCK_META, .length = (uint32_t)strlen(meta)};

	block_out(w, &b, (const uint8_t *)meta);
}

int survey_begin(struct survey_writer *w, FILE *file, const char *meta)
{
	uint8_t h[FILE_HEADER] = MAGIC;

	*w = (struct survey_writer){.file = file, .payload = malloc(BLOCK_MAX)};
	if (!w->payload)
		return -ENOMEM;
	put16(h + 8, VERSION);
	put16(h + 10, FILE_HEADER);
	if (fwrite(h, 1, sizeof(h), file) != sizeof(h))
		w->failed = true;
	meta_out(w, meta);
	return w->failed ? -EIO : 0;
}

static void put_number(struct survey_writer *w, uint64_t v)
{
	for (; v > 0x7f; v >>= 7)
		w->payload[w->used++] = (uint8_t)(v | 0x80);
	w->payload[w->used++] = (uint8_t)v;
}

bool survey_valid(const struct survey_event *e)
{
	bool known = e->extent != SURVEY_UNKNOWN;

	return e->type <= SURVEY_FULL && e->dir <= SURVEY_FROM && e->kind <= SURVEY_USER &&
	       e->bdf != UINT32_MAX && e->len && e->len <= UINT32_MAX && !(e->phys >> 56) &&
	       (!known ||
		(e->type == SURVEY_UNMAP && e->extent <= e->len && e->changed <= e->extent));
}

static void put_written(struct survey_writer *w, const struct survey_event *e)
{
	/* Zero says that it is not known, in one byte for both. */
	if (e->extent == SURVEY_UNKNOWN) {
		put_number(w, 0);
		return;
	}
	put_number(w, (uint64_t)e->extent + 1);
	put_number(w, e->changed);
}

void survey_write(struct survey_writer *w, const struct survey_event *e)
{
	unsigned int tag = e->type | (unsigned int)(e->dir & 3) << TAG_DIR_SHIFT |
			   (unsigned int)(e->kind & 3) << TAG_KIND_SHIFT;

	if (w->count && (w->cpu != e->cpu || e->time < w->time || w->used > BLOCK_MAX - EVENT_MAX))
		flush(w);
	if (!w->count) {
		w->cpu = e->cpu;
		w->base = w->time = e->time;
		w->bdf = UINT32_MAX;
		w->page = w->dma = 0;
	}
	if (e->bdf == w->bdf)
		tag |= TAG_SAME;
	w->payload[w->used++] = (uint8_t)tag;
	put_number(w, e->time - w->time);
	if (e->bdf != w->bdf)
		put_number(w, e->bdf);
	put_number(w, e->len);
	if (e->type == SURVEY_MAP || e->type == SURVEY_FULL) {
		put_number(w, zigzag(e->phys / SURVEY_PAGE - w->page));
		put_number(w, e->phys % SURVEY_PAGE);
		w->page = e->phys / SURVEY_PAGE;
	}
	if (e->type == SURVEY_MAP) {
		/* Unprotected, a device address is the physical one: a zero. */
		put_number(w, zigzag(e->dma - e->phys));
		w->dma = e->dma;
	} else if (e->type != SURVEY_FULL) {
		put_number(w, zigzag(e->dma - w->dma));
		w->dma = e->dma;
	}
	if (e->type == SURVEY_UNMAP)
		put_written(w, e);
	w->bdf = e->bdf;
	w->time = e->time;
	w->count++;
	w->events++;
}

void survey_write_lost(struct survey_writer *w, uint16_t cpu, uint64_t lost)
{
	uint8_t payload[8];
	const struct block b = {.type = BLOCK_LOST, .cpu = cpu, .length = sizeof(payload)};

	if (!lost)
		return;
	flush(w);
	put64(payload, lost);
	block_out(w, &b, payload);
	w->lost += lost;
}

int survey_end(struct survey_writer *w, const char *meta)
{
	uint8_t payload[16];
	const struct block b = {.type = BLOCK_END, .length = sizeof(payload)};

	flush(w);
	if (meta)
		meta_out(w, meta);
	put64(payload, w->events);
	put64(payload + 8, w->lost);
	block_out(w, &b, payload);
	if (fflush(w->file))
		w->failed = true;
	free(w->payload);
	w->payload = NULL;
	return w->failed ? -EIO : 0;
}

/* Reading. */

struct input {
	const uint8_t *at;
	const uint8_t *end;
	bool bad;
};

static uint64_t number(struct input *in)
{
	uint64_t v = 0;
	unsigned int shift = 0;
	uint8_t byte;

	do {
		if (in->at == in->end || shift > 63) {
			in->bad = true;
			return 0;
		}
		byte = *in->at++;
		v |= (uint64_t)(byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80);
	return v;
}

static uint32_t number32(struct input *in)
{
	uint64_t v = number(in);

	if (v > UINT32_MAX)
		in->bad = true;
	return (uint32_t)v;
}

/* One event, given the one before it. */
static void event(struct input *in, struct survey_event *e, uint64_t *page, uint64_t *dma)
{
	uint32_t extent;
	uint8_t tag;

	if (in->at == in->end) {
		in->bad = true;
		return;
	}
	tag = *in->at++;
	e->type = tag & 7;
	e->dir = tag >> TAG_DIR_SHIFT & 3;
	e->kind = (uint8_t)(tag >> TAG_KIND_SHIFT);
	e->time += number(in);
	if (!(tag & TAG_SAME))
		e->bdf = number32(in);
	e->len = number(in);
	e->phys = 0;
	if (e->type == SURVEY_MAP || e->type == SURVEY_FULL) {
		*page += unzigzag(number(in));
		e->phys = *page * SURVEY_PAGE + number(in) % SURVEY_PAGE;
	}
	if (e->type == SURVEY_MAP)
		*dma = e->phys + unzigzag(number(in));
	else if (e->type != SURVEY_FULL)
		*dma += unzigzag(number(in));
	e->dma = *dma;
	e->extent = e->changed = SURVEY_UNKNOWN;
	if (e->type == SURVEY_UNMAP) {
		extent = number32(in);
		if (extent) {
			e->extent = extent - 1;
			e->changed = number32(in);
		}
	}
	if (!survey_valid(e))
		in->bad = true;
}

static int events(struct survey *s, size_t *room, const struct block *b, const uint8_t *payload)
{
	struct input in = {.at = payload, .end = payload + b->length};
	struct survey_event e = {.time = b->base, .cpu = b->cpu, .bdf = UINT32_MAX};
	uint64_t page = 0, dma = 0;

	/* An event takes at least 4 bytes: count is bounded by what is there. */
	if (b->count > b->length / 4)
		return -EBADMSG;
	if (s->n + b->count > *room) {
		size_t more = (s->n + b->count) * 2;
		struct survey_event *p = realloc(s->events, more * sizeof(*p));

		if (!p)
			return -ENOMEM;
		s->events = p;
		*room = more;
	}
	for (uint32_t i = 0; i < b->count; i++) {
		event(&in, &e, &page, &dma);
		if (in.bad)
			return -EBADMSG;
		s->events[s->n++] = e;
	}
	return in.at == in.end ? 0 : -EBADMSG;
}

static void set(char *to, size_t size, const char *value)
{
	size_t n = strlen(value);

	if (n >= size)
		n = size - 1;
	/* It goes to terminals and into pages: nothing but printable ASCII. */
	for (size_t i = 0; i < n; i++)
		to[i] = value[i] >= ' ' && value[i] <= '~' ? value[i] : '?';
	to[n] = '\0';
}

static void device_name(struct survey *s, const char *value)
{
	unsigned int domain, bus, device, function;
	int n = 0;

	if (s->n_names == SURVEY_MAX_NAMES ||
	    sscanf(value, "%4x:%2x:%2x.%1x %n", &domain, &bus, &device, &function, &n) < 4 || !n)
		return;
	s->names[s->n_names].bdf =
		domain << 16 | (bus & 0xff) << 8 | (device & 31) << 3 | (function & 7);
	set(s->names[s->n_names].name, sizeof(s->names[0].name), value + n);
	s->n_names++;
}

/* "key value" lines; keys that are not known are for later versions. */
static int meta(struct survey *s, const uint8_t *payload, size_t n)
{
	char *text = strndup((const char *)payload, n), *rest = text, *line, *value;

	if (!text)
		return -ENOMEM;
	while ((line = strsep(&rest, "\n"))) {
		value = strchr(line, ' ');
		if (!value)
			continue;
		*value++ = '\0';
		if (!strcmp(line, "title"))
			set(s->title, sizeof(s->title), value);
		else if (!strcmp(line, "kernel"))
			set(s->kernel, sizeof(s->kernel), value);
		else if (!strcmp(line, "mode"))
			set(s->mode, sizeof(s->mode), value);
		else if (!strcmp(line, "cut"))
			set(s->cut, sizeof(s->cut), value);
		else if (!strcmp(line, "device"))
			device_name(s, value);
	}
	free(text);
	return 0;
}

/*
 * Bring what came of different CPUs into the order of time; events of one moment stay in theirs. A
 * merge sort: the parts are sorted already, and qsort() promises no stability.
 */
static int sort(struct survey *s)
{
	struct survey_event *from = s->events, *to, *spare;

	spare = malloc((s->n ? s->n : 1) * sizeof(*spare));
	if (!spare)
		return -ENOMEM;
	to = spare;
	for (size_t width = 1; width < s->n; width *= 2) {
		for (size_t at = 0; at < s->n; at += 2 * width) {
			size_t a = at, a_end = at + width < s->n ? at + width : s->n;
			size_t b = a_end, b_end = b + width < s->n ? b + width : s->n;

			for (size_t i = at; i < b_end; i++) {
				bool left =
					a < a_end && (b == b_end || from[a].time <= from[b].time);

				to[i] = from[left ? a++ : b++];
			}
		}
		to = from;
		from = from == spare ? s->events : spare;
	}
	if (from == spare)
		memcpy(s->events, spare, s->n * sizeof(*spare));
	free(spare);
	return 0;
}

/* Read a block's header; false if there is no whole block any more. */
static bool next_block(const uint8_t *at, size_t left, struct block *b)
{
	if (left < BLOCK_HEADER)
		return false;
	*b = (struct block){
		.type = at[0],
		.cpu = (uint16_t)get(at + 2, 2),
		.length = (uint32_t)get(at + 4, 4),
		.count = (uint32_t)get(at + 16, 4),
		.base = get(at + 8, 8),
	};
	return b->length <= left - BLOCK_HEADER;
}

static int read_block(struct survey *s, size_t *room, const struct block *b, const uint8_t *payload)
{
	switch (b->type) {
	case BLOCK_META:
		return meta(s, payload, b->length);
	case BLOCK_EVENTS:
		return events(s, room, b, payload);
	case BLOCK_LOST:
		if (b->length != 8)
			return -EBADMSG;
		s->lost += get(payload, 8);
		return 0;
	case BLOCK_END:
		if (b->length != 16 || get(payload, 8) != s->n)
			return -EBADMSG;
		s->complete = true;
		return 0;
	default:
		return -EBADMSG;
	}
}

int survey_parse(const uint8_t *data, size_t size, struct survey *s, const char **why)
{
	size_t at = FILE_HEADER, room = 0;
	struct block b;
	int ret;

	*s = (struct survey){.complete = false};
	*why = "it is no survey stream";
	if (size < FILE_HEADER || memcmp(data, MAGIC, 8))
		return -EBADMSG;
	*why = "it is of a later version of the format: use a later sluice";
	if (get(data + 8, 2) != VERSION || get(data + 10, 2) != FILE_HEADER)
		return -EBADMSG;
	*why = "a block of it is damaged: record or copy it anew";
	while (!s->complete && next_block(data + at, size - at, &b)) {
		const uint8_t *h = data + at, *payload = h + BLOCK_HEADER;

		if (b.length > BLOCK_MAX ||
		    crc(crc(0, h, 28), payload, b.length) != (uint32_t)get(h + 28, 4))
			return -EBADMSG;
		ret = read_block(s, &room, &b, payload);
		if (ret) {
			*why = ret == -ENOMEM ? "out of memory" : *why;
			return ret;
		}
		at += BLOCK_HEADER + b.length;
	}
	if (sort(s)) {
		*why = "out of memory";
		return -ENOMEM;
	}
	*why = NULL;
	return 0;
}

int survey_load(const char *path, struct survey *s, const char **why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;
	struct stat st;
	void *data;

	*s = (struct survey){.complete = false};
	*why = NULL;
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || st.st_size < (off_t)FILE_HEADER) {
		close(fd);
		*why = "it is no survey stream";
		return -EBADMSG;
	}
	/* Read and not mapped: whoever truncates the file would kill us. */
	data = malloc((size_t)st.st_size);
	if (!data) {
		close(fd);
		return -ENOMEM;
	}
	for (size_t have = 0; have < (size_t)st.st_size;) {
		ssize_t n = read(fd, (uint8_t *)data + have, (size_t)st.st_size - have);

		if (n > 0) {
			have += (size_t)n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		ret = n < 0 ? -errno : -EBADMSG;
		*why = n < 0 ? NULL : "it became shorter while it was read";
		close(fd);
		free(data);
		return ret;
	}
	close(fd);
	ret = survey_parse(data, (size_t)st.st_size, s, why);
	free(data);
	return ret;
}

void survey_free(struct survey *s)
{
	free(s->events);
	s->events = NULL;
	s->n = 0;
}

void survey_meta(const struct survey *s, char *out, size_t size)
{
	char bdf[16];
	size_t n;

	n = (size_t)snprintf(out, size, "title %s\nkernel %s\nmode %s\n", s->title, s->kernel,
			     s->mode);
	for (size_t i = 0; i < s->n_names && n < size; i++)
		n += (size_t)snprintf(out + n, size - n, "device %s %s\n",
				      survey_bdf(s->names[i].bdf, bdf), s->names[i].name);
	if (*s->cut && n < size)
		snprintf(out + n, size - n, "cut %s\n", s->cut);
}

const char *survey_bdf(uint32_t bdf, char out[16])
{
	snprintf(out, 16, "%04x:%02x:%02x.%x", bdf >> 16, bdf >> 8 & 0xff, bdf >> 3 & 0x1f,
		 bdf & 7);
	return out;
}

const char *survey_name(const struct survey *s, uint32_t bdf)
{
	for (size_t i = 0; i < s->n_names; i++) {
		if (s->names[i].bdf == bdf)
			return s->names[i].name;
	}
	return "";
}
