/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * audit.c - how much of a VMM's guest memory a process can reach
 *
 * Theory of operation
 * -------------------
 * Guest memory of a VMM is what it has mapped writable
 *   - shared, from a file: every such mapping counts. The files are told by device and inode, and
 *     a process reaches of each what it has mapped, and all of it if it has the file open, for a
 *     descriptor lets it map the rest whenever it likes: what a vhost-user memory region says of
 *     the file does not bind it
 *   - private, in large stretches (PRIVATE_LEAST bytes or more): reached by nobody but who has the
 *     VMM's /proc/PID/mem, /dev/mem or the like open
 * Only bytes that the VMM has mapped count, each once, however many ways lead there.
 *
 * Bytes of files that --share names are shared by intent. If any other is reachable, the exit
 * status is 3.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "audit.h"
#include "audit_proc.h"

#define PRIVATE_LEAST (UINT64_C(16) << 20)
#define MAX_SHARES    16
#define MAX_FILES     1024
#define MAX_PATTERN   1024

struct options {
	pid_t backend;
	pid_t vmm;
	const char *shares[MAX_SHARES];
	unsigned int nshares;
	uint8_t pattern[MAX_PATTERN];
	size_t pattern_len;
};

/* A file that holds guest memory. */
struct guest_file {
	uint64_t dev;
	uint64_t ino;
	const char *name;
	struct audit_ranges vmm;     /* what the VMM has mapped of it */
	struct audit_ranges backend; /* what the process has mapped of it */
	bool open;
	bool shared;
};

struct audit {
	struct audit_process vmm;
	struct audit_process backend;
	struct guest_file files[MAX_FILES];
	size_t nfiles;
	uint64_t private_bytes;
	const char *everything; /* open file that reaches all of the VMM, or NULL */
};

static const char usage[] =
	"usage: sluice audit --backend PID --vmm PID [--share PATH|memfd:NAME]..."
	" [--find HEX]\n";

static int wrong(const char *what, const char *arg)
{
	fprintf(stderr, "sluice audit: %s%s%s\n%s", what, arg ? ": " : "", arg ? arg : "", usage);
	return 1;
}

static bool parse_pid(const char *arg, pid_t *pid)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(arg, &end, 10);
	if (errno || end == arg || *end || v <= 0 || v > INT_MAX)
		return false;
	*pid = (pid_t)v;
	return true;
}

static bool parse_hex(const char *arg, struct options *o)
{
	size_t n = strlen(arg);

	if (!n || n % 2 || n / 2 > MAX_PATTERN || strspn(arg, "0123456789abcdefABCDEF") != n)
		return false;
	for (size_t i = 0; i < n / 2; i++) {
		char two[3] = {arg[2 * i], arg[2 * i + 1], '\0'};

		o->pattern[i] = (uint8_t)strtoul(two, NULL, 16);
	}
	o->pattern_len = n / 2;
	return true;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"backend", required_argument, NULL, 'b'},
		{"vmm", required_argument, NULL, 'v'},
		{"share", required_argument, NULL, 's'},
		{"find", required_argument, NULL, 'f'},
		{NULL, 0, NULL, 0},
	};
	int c;

	optind = 1;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		switch (c) {
		case 'b':
		case 'v':
			if (!parse_pid(optarg, c == 'b' ? &o->backend : &o->vmm))
				return wrong("not the number of a process", optarg);
			break;
		case 's':
			if (o->nshares == MAX_SHARES)
				return wrong("too many --share, 16 are the most", optarg);
			o->shares[o->nshares++] = optarg;
			break;
		case 'f':
			if (!parse_hex(optarg, o))
				return wrong("--find wants 1 to 1024 bytes in hexadecimal", optarg);
			break;
		case ':':
			return wrong("an argument is missing after", argv[optind - 1]);
		default:
			return wrong("unknown option", argv[optind - 1]);
		}
	}
	if (optind < argc)
		return wrong("unexpected argument", argv[optind]);
	if (!o->backend)
		return wrong("--backend PID is missing", NULL);
	if (!o->vmm)
		return wrong("--vmm PID is missing", NULL);
	return 0;
}

static int look_at(pid_t pid, const char *who, struct audit_process *p)
{
	int rc = audit_read(pid, p);

	if (!rc)
		return 0;
	fprintf(stderr, "sluice audit: cannot inspect the %s, process %d: %s\n", who, pid,
		rc == -ENOENT	? "there is no such process"
		: rc == -EACCES ? "not permitted; run this as root, or as the user of that process "
				  "with the right to trace it"
				: strerror(-rc));
	return 2;
}

static struct guest_file *find_file(struct audit *a, uint64_t dev, uint64_t ino)
{
	for (size_t i = 0; i < a->nfiles; i++)
		if (a->files[i].dev == dev && a->files[i].ino == ino)
			return &a->files[i];
	return NULL;
}

static bool is_guest_file(void *arg, uint64_t dev, uint64_t ino)
{
	return find_file(arg, dev, ino) != NULL;
}

/* A shared writable mapping of the VMM that is memory: not a device's, not a kernel interface's. */
static bool is_guest_memory(const struct audit_map *m)
{
	if (!m->shared || !m->writable || !m->ino || !strncmp(m->name, "anon_inode:", 11))
		return false;
	return strncmp(m->name, "/dev/", 5) != 0 || !strncmp(m->name, "/dev/shm/", 9) ||
	       !strncmp(m->name, "/dev/hugepages", 14) || !strncmp(m->name, "/dev/zero", 9);
}

static bool is_private_memory(const struct audit_map *m)
{
	return !m->shared && m->writable && !m->executable && m->name[0] != '[' &&
	       m->end - m->start >= PRIVATE_LEAST;
}

static bool gather_vmm(struct audit *a)
{
	for (size_t i = 0; i < a->vmm.nmaps; i++) {
		const struct audit_map *m = &a->vmm.maps[i];
		struct guest_file *f;

		if (is_private_memory(m))
			a->private_bytes += m->end - m->start;
		if (!is_guest_memory(m))
			continue;
		f = find_file(a, m->dev, m->ino);
		if (!f) {
			if (a->nfiles == MAX_FILES)
				return false;
			f = &a->files[a->nfiles++];
			*f = (struct guest_file){.dev = m->dev, .ino = m->ino, .name = m->name};
		}
		if (!audit_ranges_add(&f->vmm, m->offset, m->offset + (m->end - m->start)))
			return false;
	}
	return true;
}

static bool reaches_everything(const struct audit_fd *f, pid_t vmm)
{
	static const char *const machine[] = {"/dev/mem", "/dev/kmem", "/proc/kcore"};
	char dir[32];
	size_t n = strlen(f->name);
	int len = snprintf(dir, sizeof(dir), "/proc/%d/", vmm);

	for (size_t i = 0; i < sizeof(machine) / sizeof(machine[0]); i++)
		if (!strcmp(f->name, machine[i]))
			return true;
	return !strncmp(f->name, dir, (size_t)len) && n > 4 && !strcmp(f->name + n - 4, "/mem");
}

static bool gather_backend(struct audit *a)
{
	for (size_t i = 0; i < a->backend.nmaps; i++) {
		const struct audit_map *m = &a->backend.maps[i];
		struct guest_file *f = m->ino ? find_file(a, m->dev, m->ino) : NULL;

		/* Protection can be changed by the process itself, so it does not matter here. */
		if (f && !audit_ranges_add(&f->backend, m->offset, m->offset + (m->end - m->start)))
			return false;
	}
	for (size_t i = 0; i < a->backend.nfds; i++) {
		const struct audit_fd *fd = &a->backend.fds[i];
		struct guest_file *f = find_file(a, fd->dev, fd->ino);

		if (f)
			f->open = true;
		if (reaches_everything(fd, a->vmm.pid))
			a->everything = fd->name;
	}
	return true;
}

static int mark_memfd(struct audit *a, const char *arg)
{
	struct guest_file *found = NULL;
	char want[AUDIT_NAME];

	snprintf(want, sizeof(want), "/memfd:%s (deleted)", arg + 6);
	for (size_t i = 0; i < a->nfiles; i++) {
		if (strcmp(a->files[i].name, want) != 0)
			continue;
		if (found)
			return wrong("--share: two files of the VMM have that name, so it does not "
				     "say which one is meant; use a file in /dev/shm",
				     arg);
		found = &a->files[i];
	}
	if (!found)
		return wrong("--share: the VMM has no such memory mapped", arg);
	found->shared = true;
	return 0;
}

static int mark_shares(struct audit *a, const struct options *o)
{
	for (unsigned int i = 0; i < o->nshares; i++) {
		const char *arg = o->shares[i];
		struct guest_file *f;
		struct stat st;

		if (!strncmp(arg, "memfd:", 6)) {
			if (mark_memfd(a, arg))
				return 1;
			continue;
		}
		if (stat(arg, &st))
			return wrong("--share: there is no such file", arg);
		f = find_file(a, st.st_dev, st.st_ino);
		if (f)
			f->shared = true;
	}
	return 0;
}

/* Prints the table; returns how many private bytes are reachable. */
static uint64_t report(const struct audit *a)
{
	uint64_t total = a->private_bytes, reach = 0, intent = 0, leak = 0;

	printf("%14s %14s %14s %14s  %s\n", "guest bytes", "mapped", "by open fd", "reachable",
	       "memory");
	for (size_t i = 0; i < a->nfiles; i++) {
		const struct guest_file *f = &a->files[i];
		uint64_t size = audit_ranges_common(&f->vmm, &f->vmm);
		uint64_t mapped = audit_ranges_common(&f->vmm, &f->backend);
		uint64_t by_fd = f->open ? size : 0;
		uint64_t got = a->everything ? size : by_fd > mapped ? by_fd : mapped;

		printf("%14" PRIu64 " %14" PRIu64 " %14" PRIu64 " %14" PRIu64 "  %s, inode %" PRIu64
		       "%s\n",
		       size, mapped, by_fd, got, f->name, f->ino,
		       f->shared ? ", shared by intent" : "");
		total += size;
		reach += got;
		if (f->shared)
			intent += size;
		else
			leak += got;
	}
	printf("%14" PRIu64 " %14d %14d %14" PRIu64 "  private\n", a->private_bytes, 0, 0,
	       a->everything ? a->private_bytes : 0);
	if (a->everything) {
		printf("everything is reachable: %s is open\n", a->everything);
		reach += a->private_bytes;
		leak += a->private_bytes;
	}
	printf("reachable: %" PRIu64 " of %" PRIu64 " bytes; shared by intent: %" PRIu64
	       "; private reachable: %" PRIu64 "\n",
	       reach, total, intent, leak);
	return leak;
}

static int audit(struct audit *a, const struct options *o)
{
	const char *trace;
	uint64_t leak;
	int64_t hits;
	int rc = look_at(o->vmm, "VMM", &a->vmm);

	if (!rc)
		rc = look_at(o->backend, "backend", &a->backend);
	if (rc)
		return rc;
	if (!gather_vmm(a) || !gather_backend(a)) {
		fputs("sluice audit: out of memory, or the VMM has more files mapped than can be "
		      "listed\n",
		      stderr);
		return 2;
	}
	rc = mark_shares(a, o);
	if (rc)
		return rc;
	leak = report(a);
	trace = audit_could_ptrace(o->backend, o->vmm);
	if (trace)
		printf("warning: the backend could attach to the VMM and read all of it: %s\n",
		       trace);
	if (o->pattern_len) {
		hits = audit_find(&a->backend, is_guest_file, a, o->pattern, o->pattern_len);
		if (hits < 0) {
			fprintf(stderr, "sluice audit: cannot read the backend's memory: %s\n",
				strerror((int)-hits));
			return 2;
		}
		printf("found: %" PRId64 "\n", hits);
	}
	return leak ? 3 : 0;
}

int sluice_audit_main(int argc, char **argv)
{
	static struct options o;
	static struct audit a;
	int rc = parse(argc, argv, &o);

	if (rc)
		return rc;
	rc = audit(&a, &o);
	for (size_t i = 0; i < a.nfiles; i++) {
		free(a.files[i].vmm.r);
		free(a.files[i].backend.r);
	}
	audit_free(&a.vmm);
	audit_free(&a.backend);
	return rc;
}
