/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * audit_proc.h - what /proc says of a process's memory
 *
 * Theory of operation: tools/audit_proc.c.
 */
#ifndef TOOLS_AUDIT_PROC_H
#define TOOLS_AUDIT_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define AUDIT_NAME 256

/* One line of /proc/PID/maps. */
struct audit_map {
	uint64_t start;
	uint64_t end;
	uint64_t offset;
	uint64_t dev;
	uint64_t ino; /* 0: anonymous */
	bool readable;
	bool writable;
	bool executable;
	bool shared;
	char name[AUDIT_NAME]; /* cut off if longer */
};

/* One open file. */
struct audit_fd {
	int fd;
	uint64_t dev;
	uint64_t ino;
	uint64_t size;
	bool regular;
	char name[AUDIT_NAME]; /* target of the link in /proc/PID/fd, cut off if longer */
};

struct audit_process {
	pid_t pid;
	struct audit_map *maps;
	struct audit_fd *fds;
	size_t nmaps;
	size_t nfds;
};

/**
 * audit_parse_map - take a line of /proc/PID/maps apart
 * @line: ended by a newline or not
 * @map:  filled in
 *
 * Return: whether it is one.
 */
bool audit_parse_map(const char *line, struct audit_map *map);

/**
 * audit_read - look at a process
 * @pid: of the process
 * @p:	 filled in; audit_free() gives back what it holds
 *
 * Return: 0; a negative errno, -ENOENT if there is no such process.
 */
int audit_read(pid_t pid, struct audit_process *p);

/**
 * audit_free - give back what audit_read() holds
 */
void audit_free(struct audit_process *p);

/**
 * audit_could_ptrace - could @backend attach to @vmm and read all of it
 *
 * Return: the reason why it could, or NULL.
 */
const char *audit_could_ptrace(pid_t backend, pid_t vmm);

/* A set of byte ranges, kept sorted and apart. */
struct audit_ranges {
	struct {
		uint64_t from;
		uint64_t to;
	} * r;
	size_t n;
};

/**
 * audit_ranges_add - add the bytes [from, to)
 *
 * Return: whether there was memory for it.
 */
bool audit_ranges_add(struct audit_ranges *s, uint64_t from, uint64_t to);

/**
 * audit_ranges_common - how many bytes two sets have in common
 */
uint64_t audit_ranges_common(const struct audit_ranges *a, const struct audit_ranges *b);

/* audit_find.c */

/**
 * audit_find - look for a byte string in everything that a process can read of a guest
 * @p:		the process
 * @guest_file: tells whether a file, by device and inode, is guest memory
 * @arg:	for @guest_file
 * @pattern:	@len bytes, 1 to 1024
 *
 * Reads the process's mappings, and the guest memory files among its open ones, and prints a line
 * for each place that holds the string.
 *
 * Return: the number of hits, or a negative errno.
 */
int64_t audit_find(const struct audit_process *p,
		   bool (*guest_file)(void *arg, uint64_t dev, uint64_t ino), void *arg,
		   const uint8_t *pattern, size_t len);

/* A search over blocks that follow each other. */
struct audit_scan {
	const uint8_t *pattern;
	size_t len;
	uint8_t tail[1024]; /* the end of what has been seen, shorter than the pattern */
	size_t ntail;
	uint64_t hits;
};

/**
 * audit_scan_block - look through the next block
 * @data: @n bytes that follow those of the last call
 */
void audit_scan_block(struct audit_scan *s, const uint8_t *data, size_t n);

#endif
