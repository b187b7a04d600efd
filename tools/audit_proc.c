/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * audit_proc.c - what /proc says of a process's memory
 *
 * Theory of operation
 * -------------------
 * /proc/PID/maps lists what a process has mapped, /proc/PID/fd what it could map at any moment.
 * Files are told apart by device and inode, in both; names are for people (and for memfds, which
 * have no path). What is read is a snapshot: a process that maps and unmaps while it is looked at
 * is seen as it was at one moment or the other.
 *
 * Not seen: file descriptors that are under way in a socket's queue, and what other processes that
 * work together with this one hold.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "audit_proc.h"

bool audit_parse_map(const char *line, struct audit_map *map)
{
	unsigned int major, minor;
	char perms[5];
	int at = 0;
	size_t len;

	*map = (struct audit_map){0};
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n",
		   &map->start, &map->end, perms, &map->offset, &major, &minor, &map->ino,
		   &at) < 7 ||
	    map->end <= map->start || strlen(perms) != 4)
		return false;
	map->dev = makedev(major, minor);
	map->readable = perms[0] == 'r';
	map->writable = perms[1] == 'w';
	map->executable = perms[2] == 'x';
	map->shared = perms[3] == 's';
	len = at ? strcspn(line + at, "\n") : 0;
	if (len >= AUDIT_NAME)
		len = AUDIT_NAME - 1;
	memcpy(map->name, line + at, len);
	return true;
}

static int read_maps(struct audit_process *p)
{
	char path[64], *line = NULL;
	size_t room = 0, size = 0;
	int rc = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", p->pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (getline(&line, &size, f) > 0) {
		if (p->nmaps == room) {
			struct audit_map *more;

			room = room ? 2 * room : 256;
			more = reallocarray(p->maps, room, sizeof(*more));
			if (!more) {
				rc = -ENOMEM;
				break;
			}
			p->maps = more;
		}
		if (audit_parse_map(line, &p->maps[p->nmaps]))
			p->nmaps++;
	}
	if (!rc && ferror(f))
		rc = -EIO;
	free(line);
	fclose(f);
	return rc;
}

static int add_fd(struct audit_process *p, int dir, const char *entry, size_t *room)
{
	struct audit_fd *fd;
	struct stat st;
	ssize_t n;

	if (p->nfds == *room) {
		*room = *room ? 2 * *room : 64;
		fd = reallocarray(p->fds, *room, sizeof(*fd));
		if (!fd)
			return -ENOMEM;
		p->fds = fd;
	}
	fd = &p->fds[p->nfds];
	*fd = (struct audit_fd){.fd = atoi(entry)};
	n = readlinkat(dir, entry, fd->name, sizeof(fd->name) - 1);
	if (n < 0 || fstatat(dir, entry, &st, 0))
		return errno == ENOENT ? 0 : -errno; /* closed in the meantime */
	fd->dev = st.st_dev;
	fd->ino = st.st_ino;
	fd->size = st.st_size > 0 ? (uint64_t)st.st_size : 0;
	fd->regular = S_ISREG(st.st_mode);
	p->nfds++;
	return 0;
}

static int read_fds(struct audit_process *p)
{
	struct dirent *e;
	size_t room = 0;
	char path[64];
	int rc = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", p->pid);
	d = opendir(path);
	if (!d)
		return -errno;
	while (!rc && (e = readdir(d)))
		if (e->d_name[0] != '.')
			rc = add_fd(p, dirfd(d), e->d_name, &room);
	closedir(d);
	return rc;
}

int audit_read(pid_t pid, struct audit_process *p)
{
	int rc;

	*p = (struct audit_process){.pid = pid};
	rc = read_maps(p);
	if (!rc)
		rc = read_fds(p);
	if (rc)
		audit_free(p);
	return rc;
}

void audit_free(struct audit_process *p)
{
	free(p->maps);
	free(p->fds);
	*p = (struct audit_process){0};
}

struct rights {
	unsigned int uid[3];
	uint64_t caps;
};

static bool read_rights(pid_t pid, struct rights *r)
{
	char path[64], line[256];
	int found = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Uid: %u %u %u", &r->uid[0], &r->uid[1], &r->uid[2]) == 3)
			found |= 1;
		if (sscanf(line, "CapEff: %" SCNx64, &r->caps) == 1)
			found |= 2;
	}
	fclose(f);
	return found == 3;
}

static unsigned int yama_scope(void)
{
	FILE *f = fopen("/proc/sys/kernel/yama/ptrace_scope", "re");
	unsigned int scope = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%u", &scope) != 1)
		scope = 0;
	fclose(f);
	return scope;
}

const char *audit_could_ptrace(pid_t backend, pid_t vmm)
{
	const uint64_t sys_ptrace = UINT64_C(1) << 19; /* CAP_SYS_PTRACE */
	struct rights b, v;

	if (!read_rights(backend, &b) || !read_rights(vmm, &v))
		return NULL;
	if (b.caps & sys_ptrace)
		return "it has CAP_SYS_PTRACE";
	if (yama_scope() == 0 && b.uid[1] == v.uid[0] && b.uid[1] == v.uid[1] &&
	    b.uid[1] == v.uid[2])
		return "it runs as the same user, and kernel.yama.ptrace_scope is 0";
	return NULL;
}

bool audit_ranges_add(struct audit_ranges *s, uint64_t from, uint64_t to)
{
	size_t i = 0, j;
	void *more;

	if (from >= to)
		return true;
	while (i < s->n && s->r[i].to < from)
		i++;
	for (j = i; j < s->n && s->r[j].from <= to; j++) {
		from = s->r[j].from < from ? s->r[j].from : from;
		to = s->r[j].to > to ? s->r[j].to : to;
	}
	if (j == i) {
		more = reallocarray(s->r, s->n + 1, sizeof(s->r[0]));
		if (!more)
			return false;
		s->r = more;
	}
	memmove(&s->r[i + 1], &s->r[j], (s->n - j) * sizeof(s->r[0]));
	s->n += 1 + i - j;
	s->r[i].from = from;
	s->r[i].to = to;
	return true;
}

uint64_t audit_ranges_common(const struct audit_ranges *a, const struct audit_ranges *b)
{
	uint64_t sum = 0;
	size_t i = 0, j = 0;

	while (i < a->n && j < b->n) {
		uint64_t from = a->r[i].from > b->r[j].from ? a->r[i].from : b->r[j].from;
		uint64_t to = a->r[i].to < b->r[j].to ? a->r[i].to : b->r[j].to;

		if (from < to)
			sum += to - from;
		if (a->r[i].to < b->r[j].to)
			i++;
		else
			j++;
	}
	return sum;
}
