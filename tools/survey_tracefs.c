/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_tracefs.c - the kernel's ring buffer in its binary form
 *
 * Theory of operation
 * -------------------
 * trace_pipe_raw gives whole pages of a CPU's buffer (Documentation/trace/ring-buffer-design.rst,
 * include/linux/ring_buffer.h): a time stamp, a word with the bytes that follow and two flags, then
 * events. An event begins with 32 bits, type_len in the low 5 and a time difference in the others:
 *
 *	0	  data; the length of it is in the next word, which counts itself
 *	1 to 28	  data of so many words
 *	29	  padding: the rest of the page, or an event taken back, with its length
 *	30	  27 more bits of time in the next word
 *	31	  an absolute time, of which the next word has the upper bits
 *
 * Data starts with the event's number, 16 bits. Where fields are is in the text files beside the
 * tracepoints, so this does not depend on the module's version. The page's flags say that events
 * are missing before it, and how many; that is the loss that the stream records.
 *
 * The kernel is trusted, its version is not: nothing is read that is not inside the page. Bitfields
 * are laid out as on little-endian machines, which are those that the module is for.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "survey.h"

#define MISSED_EVENTS (UINT64_C(1) << 31) /* before this page */
#define MISSED_STORED (UINT64_C(1) << 30) /* how many is behind its last event */

static uint64_t load(const uint8_t *p, unsigned int bytes)
{
	uint64_t v = 0;

	memcpy(&v, p, bytes <= sizeof(v) ? bytes : sizeof(v));
	return v;
}

/* "... NAME;<tab>offset:16;<tab>size:8;..." of that name. */
static bool find_field(const char *text, const char *name, struct survey_field *field)
{
	size_t n = strlen(name);

	for (const char *at = text; (at = strstr(at, name)); at += n) {
		const char *offset, *size;
		unsigned long o, s;

		if (at == text || at[-1] != ' ' || at[n] != ';')
			continue;
		offset = strstr(at, "offset:");
		size = strstr(at, "size:");
		if (!offset || !size)
			return false;
		o = strtoul(offset + 7, NULL, 10);
		s = strtoul(size + 5, NULL, 10);
		if (o > 4096 || s > 4096)
			return false;
		field->offset = (uint16_t)o;
		field->size = (uint16_t)s;
		return true;
	}
	return false;
}

int survey_format_parse(const char *text, enum survey_type type, struct survey_layout *l)
{
	const char *id = strstr(text, "ID: ");
	unsigned long v;

	*l = (struct survey_layout){.id = 0};
	if (!id)
		return -EBADMSG;
	v = strtoul(id + 4, NULL, 10);
	if (!v || v > UINT16_MAX)
		return -EBADMSG;
	l->id = (uint16_t)v;
	find_field(text, "phys", &l->phys);
	find_field(text, "dma", &l->dma);
	find_field(text, "dir", &l->dir);
	find_field(text, "kind", &l->kind);
	find_field(text, "changed", &l->changed);
	find_field(text, "extent", &l->extent);
	if (!find_field(text, "bdf", &l->bdf) || !find_field(text, "len", &l->len) ||
	    (type != SURVEY_FULL && !l->dma.size) || (type == SURVEY_MAP && !l->phys.size))
		return -EBADMSG;
	return 0;
}

int survey_header_parse(const char *text, struct survey_formats *f)
{
	struct survey_field commit, data;

	if (!find_field(text, "commit", &commit) ||
	    (!find_field(text, "data", &data) && !find_field(text, "data[]", &data)))
		return -EBADMSG;
	if (commit.size < 4 || commit.size > 8 || commit.offset < 8 ||
	    data.offset < commit.offset + commit.size)
		return -EBADMSG;
	f->commit = commit.offset;
	f->commit_size = commit.size;
	f->data = data.offset;
	return 0;
}

static uint64_t field(const uint8_t *data, size_t n, const struct survey_field *f, uint64_t absent)
{
	if (!f->size || f->size > 8 || (size_t)f->offset + f->size > n)
		return absent;
	return load(data + f->offset, f->size);
}

static void data_event(const struct survey_formats *f, const uint8_t *data, size_t n, uint16_t cpu,
		       uint64_t time, struct survey_writer *w)
{
	uint16_t id = n >= 2 ? (uint16_t)load(data, 2) : 0;

	for (unsigned int type = 0; type <= SURVEY_FULL; type++) {
		const struct survey_layout *l = &f->of[type];
		struct survey_event e;

		if (!id || l->id != id)
			continue;
		e = (struct survey_event){
			.time = time,
			.phys = field(data, n, &l->phys, 0),
			.dma = field(data, n, &l->dma, 0),
			.len = field(data, n, &l->len, 0),
			.bdf = (uint32_t)field(data, n, &l->bdf, 0),
			.changed = (uint32_t)field(data, n, &l->changed, SURVEY_UNKNOWN),
			.extent = (uint32_t)field(data, n, &l->extent, SURVEY_UNKNOWN),
			.cpu = cpu,
			.type = (uint8_t)type,
			.dir = (uint8_t)field(data, n, &l->dir, SURVEY_BOTH),
			.kind = (uint8_t)field(data, n, &l->kind, SURVEY_KERNEL),
		};
		/* What no device can be given, the format has no room for. */
		if (!survey_valid(&e))
			survey_write_lost(w, cpu, 1);
		else
			survey_write(w, &e);
		return;
	}
}

int survey_page(const struct survey_formats *f, const uint8_t *page, size_t size, uint16_t cpu,
		struct survey_writer *w)
{
	uint64_t time, commit, length;
	size_t at, end;

	if (size < f->data)
		return -EBADMSG;
	time = load(page, 8);
	commit = load(page + f->commit, f->commit_size);
	length = commit & 0xfffffff;
	if (length > size - f->data)
		return -EBADMSG;
	at = f->data;
	end = at + (size_t)length;
	if (commit & MISSED_EVENTS) {
		/* Where the page had no room for the number, it is one at least. */
		uint64_t missed = 1;

		if (commit & MISSED_STORED && size - end >= 8)
			missed = load(page + end, 8);
		survey_write_lost(w, cpu, missed);
	}
	while (end - at >= 4) {
		uint32_t head = (uint32_t)load(page + at, 4), kind = head & 31, delta = head >> 5;
		size_t n;

		at += 4;
		if (kind == 29 && !delta)
			return 0; /* nothing but padding from here on */
		if (kind <= 28) {
			n = kind * 4u;
			if (!kind) {
				if (end - at < 4)
					return -EBADMSG;
				n = (size_t)load(page + at, 4);
				if (n < 4)
					return -EBADMSG;
				n -= 4;
				at += 4;
			}
			time += delta;
			if (n > end - at)
				return -EBADMSG;
			data_event(f, page + at, n, cpu, time, w);
			at += n;
			continue;
		}
		if (end - at < 4)
			return -EBADMSG;
		n = (size_t)load(page + at, 4);
		if (kind == 30) {
			time += (uint64_t)n << 27 | delta;
			at += 4;
		} else if (kind == 31) {
			/* 59 bits; those above are the same for centuries. */
			time = (time & ~((UINT64_C(1) << 59) - 1)) | (uint64_t)n << 27 | delta;
			at += 4;
		} else {
			time += delta;
			if (n < 4 || n > end - at)
				return -EBADMSG;
			at += n;
		}
	}
	return 0;
}
