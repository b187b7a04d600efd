/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * audit_find.c - look for a byte string in everything that a process can read of a guest
 *
 * Theory of operation
 * -------------------
 * Memory is read in blocks, through /proc/PID/mem for mappings and /proc/PID/fd/N for files. A
 * string may lie across the border of two blocks, so the end of each block, one byte shorter than
 * the string, is put before the next; it is too short to be a hit by itself, so none is counted
 * twice. Mappings that follow each other without a gap are one stretch.
 *
 * Private memory that has never been written has no page; it reads as zeroes, and a process may
 * have terabytes of it reserved. /proc/PID/pagemap tells, and such pages are passed over (a string
 * of zeroes only is not found in them).
 *
 * Left out: the kernel's own pages ([vvar] and the like) and device memory, where reading can have
 * an effect or never end.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "audit_proc.h"

#define BLOCK (1u << 20)
#define PAGE  4096u

static uint8_t block[BLOCK];

void audit_scan_block(struct audit_scan *s, const uint8_t *data, size_t n)
{
	/* First the hits that begin in the tail, then those in the block. */
	uint8_t seam[2 * sizeof(s->tail)];
	size_t head = n < s->len - 1 ? n : s->len - 1, total = s->ntail + head, keep;

	memcpy(seam, s->tail, s->ntail);
	memcpy(seam + s->ntail, data, head);
	for (size_t i = 0; i < s->ntail && i + s->len <= total; i++)
		s->hits += !memcmp(seam + i, s->pattern, s->len);
	for (const uint8_t *p = data; n >= s->len;) {
		p = memmem(p, n - (size_t)(p - data), s->pattern, s->len);
		if (!p)
			break;
		s->hits++;
		p++;
	}
	if (n >= s->len - 1) {
		keep = s->len - 1;
		memcpy(s->tail, data + n - keep, keep);
	} else {
		keep = total < s->len - 1 ? total : s->len - 1;
		memcpy(s->tail, seam + total - keep, keep);
	}
	s->ntail = keep;
}

static bool left_out(const struct audit_map *m)
{
	static const char *const devices_in_memory[] = {"/dev/shm/", "/dev/hugepages", "/dev/zero"};

	if (!m->readable || !strncmp(m->name, "[v", 2) || !strncmp(m->name, "anon_inode:", 11))
		return true;
	if (strncmp(m->name, "/dev/", 5) != 0)
		return false;
	for (size_t i = 0; i < sizeof(devices_in_memory) / sizeof(devices_in_memory[0]); i++)
		if (!strncmp(m->name, devices_in_memory[i], strlen(devices_in_memory[i])))
			return false;
	return true;
}

/* Reads [from, to) of an open file. A page that cannot be read breaks the stretch. */
static void scan(struct audit_scan *s, int fd, uint64_t from, uint64_t to)
{
	while (from < to) {
		size_t want = to - from < BLOCK ? (size_t)(to - from) : BLOCK;
		ssize_t n = pread(fd, block, want, (off_t)from);

		if (n > 0) {
			audit_scan_block(s, block, (size_t)n);
			from += (uint64_t)n;
			continue;
		}
		s->ntail = 0;
		from = (from / PAGE + 1) * PAGE;
	}
}

/*
 * The ioctl PAGEMAP_SCAN of Linux 6.7: it passes over what has no page tables at once. Debian 12's
 * headers do not have it yet.
 */
struct page_region {
	uint64_t start, end, categories;
};

struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN		   _IOWR('f', 16, struct pm_scan_arg)
#define PRESENT_OR_SWAPPED 0x18

/* The first run of pages in [*from, to) that are there, by the ioctl: false if there is none. */
static int scan_run(int pagemap, uint64_t *from, uint64_t to, uint64_t *end)
{
	struct page_region region = {0};
	struct pm_scan_arg scan = {
		.size = sizeof(scan),
		.start = *from,
		.end = to,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_anyof_mask = PRESENT_OR_SWAPPED,
		.return_mask = PRESENT_OR_SWAPPED,
	};
	int regions = ioctl(pagemap, SCAN, &scan);

	if (regions > 0) {
		*from = region.start;
		*end = region.end;
	}
	return regions;
}

/* The same by reading eight bytes a page. What cannot be read is taken to be there. */
static bool read_run(int pagemap, uint64_t *from, uint64_t to, uint64_t *end)
{
	const uint64_t present_or_swapped = UINT64_C(3) << 62;
	static uint64_t entry[4096];
	bool inside = false;

	for (uint64_t at = *from; at < to;) {
		size_t want = (to - at) / PAGE < 4096 ? (size_t)((to - at) / PAGE) : 4096;
		ssize_t n = pread(pagemap, entry, want * 8, (off_t)(at / PAGE * 8));

		if (n < 8) {
			*from = inside ? *from : at;
			inside = true;
			break;
		}
		for (ssize_t i = 0; i < n / 8; i++, at += PAGE) {
			bool there = entry[i] & present_or_swapped;

			if (there && !inside)
				*from = at;
			if (!there && inside) {
				*end = at;
				return true;
			}
			inside = there;
		}
	}
	*end = to;
	return inside;
}

static void scan_mapping(struct audit_scan *s, int mem, int pagemap, const struct audit_map *m)
{
	uint64_t at = m->start, end;

	if (m->shared || m->ino || pagemap < 0) {
		scan(s, mem, m->start, m->end);
		return;
	}
	while (at < m->end) {
		uint64_t from = at;
		int some = scan_run(pagemap, &from, m->end, &end);

		if (some < 0)
			some = read_run(pagemap, &from, m->end, &end);
		if (!some) {
			s->ntail = 0;
			break;
		}
		if (from != at)
			s->ntail = 0;
		scan(s, mem, from, end);
		at = end;
	}
}

int64_t audit_find(const struct audit_process *p,
		   bool (*guest_file)(void *arg, uint64_t dev, uint64_t ino), void *arg,
		   const uint8_t *pattern, size_t len)
{
	struct audit_scan s = {.pattern = pattern, .len = len};
	uint64_t last = 0, sum = 0;
	char path[64];
	int fd, pagemap;

	snprintf(path, sizeof(path), "/proc/%d/mem", p->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", p->pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	for (size_t i = 0; i < p->nmaps; i++) {
		const struct audit_map *m = &p->maps[i];

		if (left_out(m))
			continue;
		if (m->start != last)
			s.ntail = 0;
		last = m->end;
		s.hits = 0;
		scan_mapping(&s, fd, pagemap, m);
		if (s.hits)
			printf("found %" PRIu64 " times in mapping %" PRIx64 "-%" PRIx64 " %s\n",
			       s.hits, m->start, m->end, m->name[0] ? m->name : "(anonymous)");
		sum += s.hits;
	}
	close(fd);
	if (pagemap >= 0)
		close(pagemap);
	for (size_t i = 0; i < p->nfds; i++) {
		const struct audit_fd *f = &p->fds[i];

		if (!f->regular || !guest_file(arg, f->dev, f->ino))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", p->pid, f->fd);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		s.hits = 0;
		s.ntail = 0;
		scan(&s, fd, 0, f->size);
		close(fd);
		if (s.hits)
			printf("found %" PRIu64 " times in fd %d %s\n", s.hits, f->fd, f->name);
		sum += s.hits;
	}
	return (int64_t)sum;
}
