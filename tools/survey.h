/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey.h - what the files of `sluice survey` share with each other
 *
 * Theory of operation
 * -------------------
 *	survey.c	 the commands and their options
 *	survey_tracefs.c the kernel's binary ring buffer: event formats, pages
 *	survey_record.c	 record: per-CPU ring buffers to a stream
 *	survey_stream.c	 the stream's format: write, read, check
 *	survey_match.c	 events to mappings: each map with its unmap
 *	survey_stats.c	 mappings to figures, device by device
 *	survey_text.c	 report for the terminal
 *	survey_html.c	 report as a page; survey_svg.c draws its plots
 *	survey_replay.c	 a stream through libsluice's pool
 *
 * Everything that comes from a file is untrusted: survey_stream.c checks it, and what leaves
 * survey_load() is in range (a length is 1 to 4 GiB, an address plus a length does not wrap).
 */
#ifndef TOOLS_SURVEY_H
#define TOOLS_SURVEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SURVEY_UNKNOWN UINT32_MAX /* changed, extent: not measured */
#define SURVEY_PAGE    4096u

enum survey_type { SURVEY_MAP, SURVEY_UNMAP, SURVEY_ALLOC, SURVEY_FREE, SURVEY_FULL };
enum survey_dir { SURVEY_BOTH, SURVEY_TO, SURVEY_FROM };
enum survey_kind { SURVEY_KERNEL, SURVEY_SLAB, SURVEY_USER };

struct survey_event {
	uint64_t time; /* ns of the recording kernel's monotonic clock */
	uint64_t phys;
	uint64_t dma;
	uint64_t len;
	uint32_t bdf; /* domain << 16 | bus << 8 | devfn */
	uint32_t changed;
	uint32_t extent;
	uint16_t cpu;
	uint8_t type;
	uint8_t dir;
	uint8_t kind;
};

/* A growing file of events. Owned by the caller; fields are survey_stream.c's. */
struct survey_writer {
	FILE *file;
	uint8_t *payload;
	size_t used;
	uint32_t count;
	uint16_t cpu;
	uint64_t base;
	uint64_t time;
	uint32_t bdf;
	uint64_t page;
	uint64_t dma;
	uint64_t events; /* written in all */
	uint64_t lost;	 /* said in all */
	bool failed;
};

/* A name that a stream has for a device, for instance its driver. */
struct survey_name {
	uint32_t bdf;
	char name[48];
};

#define SURVEY_MAX_NAMES 64u

struct survey {
	struct survey_event *events; /* by time */
	size_t n;
	uint64_t lost;	 /* events that the recorder knows it has not seen */
	bool complete;	 /* the recorder came to its end */
	char title[128]; /* what was recorded, in the user's words */
	char kernel[64];
	char mode[16];
	char cut[128]; /* how it was shortened, or empty */
	struct survey_name names[SURVEY_MAX_NAMES];
	size_t n_names;
};

/* One buffer, from map to unmap. */
struct survey_mapping {
	uint64_t phys;
	uint64_t dma;
	uint64_t len;
	uint64_t begin;
	uint64_t end; /* 0: its end is not in the stream */
	uint32_t bdf;
	uint32_t changed;
	uint32_t extent;
	uint16_t cpu_map;
	uint16_t cpu_unmap;
	uint8_t dir;
	uint8_t kind;
	bool coherent;
};

struct survey_mappings {
	struct survey_mapping *m; /* by begin */
	size_t n;
	uint64_t orphans; /* unmaps of what was mapped before the stream begins */
};

/* survey_stream.c */

/**
 * survey_begin - start a stream
 * @w:	  filled in
 * @file: open for writing; the caller's, who closes it after survey_end()
 * @meta: text of "key value" lines; at most 64 KiB
 *
 * Return: 0, -ENOMEM or -EIO.
 */
int survey_begin(struct survey_writer *w, FILE *file, const char *meta);

/* Whether an event can be, and so can be written: lengths and addresses in range, and the like. */
bool survey_valid(const struct survey_event *event);

/**
 * survey_write - append an event that is valid
 *
 * Events of one CPU come by time; those of different CPUs in any order, best in long pieces.
 */
void survey_write(struct survey_writer *w, const struct survey_event *event);

/**
 * survey_write_lost - note that so many events of a CPU are missing here
 */
void survey_write_lost(struct survey_writer *w, uint16_t cpu, uint64_t lost);

/**
 * survey_end - write what is left, and the totals
 * @meta: more metadata that has come to be known, or NULL
 *
 * Return: 0, or -EIO if anything could not be written.
 */
int survey_end(struct survey_writer *w, const char *meta);

/**
 * survey_load - read a stream
 * @path: file
 * @s:	  filled in; the caller gives it back with survey_free(), also after an error
 * @why:  set to what is wrong with it, a constant
 *
 * Return: 0; -EBADMSG if it is no stream or damaged; -ENOMEM; or the errno of what failed. A stream
 * that ends early is no error: complete is false then.
 */
int survey_load(const char *path, struct survey *s, const char **why);
int survey_parse(const uint8_t *data, size_t size, struct survey *s, const char **why);
void survey_free(struct survey *s);

/* The metadata of a loaded stream as survey_begin() takes it. out: at least 8 KiB. */
void survey_meta(const struct survey *s, char *out, size_t size);

/* "0000:00:05.0" and what else is known of it. Returns out. */
const char *survey_bdf(uint32_t bdf, char out[16]);
const char *survey_name(const struct survey *s, uint32_t bdf);

/* survey_match.c */

/**
 * survey_match - pair each map with its unmap
 * @s:	 a stream
 * @out: filled in; the caller frees out->m
 *
 * A mapping is told by device and device address; where two live ones have both in common, by
 * length, and then the older one ends first.
 *
 * Return: 0 or -ENOMEM.
 */
int survey_match(const struct survey *s, struct survey_mappings *out);

/* survey_tracefs.c */

/* Where in an event of a tracepoint a field is. size 0: it has none of that name. */
struct survey_field {
	uint16_t offset;
	uint16_t size;
};

struct survey_layout {
	uint16_t id;
	struct survey_field bdf, phys, dma, len, dir, kind, changed, extent;
};

/* All that is needed to read one kernel's buffers. */
struct survey_formats {
	struct survey_layout of[SURVEY_FULL + 1]; /* by enum survey_type */
	uint32_t data;				  /* offset of the first event in a page */
	uint32_t commit;			  /* offset of the page's length word */
	uint32_t commit_size;
};

/**
 * survey_format_parse - read the text of an event's format file
 *
 * Return: 0, or -EBADMSG if a field that is needed is not there, or has an impossible place.
 */
int survey_format_parse(const char *text, enum survey_type type, struct survey_layout *layout);

/* The same for events/header_page. */
int survey_header_parse(const char *text, struct survey_formats *formats);

/**
 * survey_page - take a page of a CPU's ring buffer apart
 * @formats: the kernel's
 * @page:    as read from trace_pipe_raw
 * @size:    bytes
 * @cpu:     whose
 * @w:	     gets its events; events that the kernel says are missing are noted as lost
 *
 * Return: 0, or -EBADMSG if the page does not make sense; what was before that has been written.
 */
int survey_page(const struct survey_formats *formats, const uint8_t *page, size_t size,
		uint16_t cpu, struct survey_writer *w);

/* The commands: argv[0] is the command's name. They return what main() is to. */
int survey_record_main(int argc, char **argv);
int survey_replay_main(int argc, char **argv);
int sluice_survey_main(int argc, char **argv);

#endif
