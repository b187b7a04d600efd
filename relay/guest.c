/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * guest.c - the guest's memory, as shadow mode has it mapped
 *
 * Theory of operation
 * -------------------
 * In shadow mode the relay alone holds the guest's memory. It maps what the front-end's table says,
 * that part of the file and no more, and closes the fd: the mapping is all it needs. Whatever is
 * accessed is looked up here by guest address, in a table that only this process can write, and is
 * found to be whole before it is used.
 *
 * Regions are kept sorted by guest address. A lookup starts where the last one ended, since most
 * guests have one large region. Any entry of the table will do for that: one that is not in use has no
 * bytes.
 *
 * A front-end can shrink the file under a mapping, and touching the part that is gone raises
 * SIGBUS. It could be sealed against that, and memfds of QEMU are, but files on hugetlbfs cannot be.
 * So the signal is handled: the mapping is replaced by private memory, which lets the access go on
 * to nowhere, and a mark is set by which the session ends with a message.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "guest.h"
#include "log.h"

_Thread_local unsigned int guest_hint;

static struct guest *watched;

static bool replace(void *map, size_t len, uintptr_t at)
{
	if (!map || at - (uintptr_t)map >= len)
		return false;
	if (mmap(map, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return false;
	__atomic_store_n(&watched->gone, true, __ATOMIC_RELAXED);
	return true;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr;

	(void)sig;
	(void)context;
	for (unsigned int i = 0; watched && i < watched->n; i++)
		if (replace(watched->regions[i].map, watched->regions[i].map_len, at))
			return;
	for (unsigned int i = 0; watched && i < 2; i++)
		if (replace(watched->also[i].map, watched->also[i].len, at))
			return;
	/* The access is this process' own: no lock of the log's can be held at this moment. */
	relay_log("memory is not there (SIGBUS at an address that is not the guest's): if the pool "
		  "is on huge pages, there are too few of them (/proc/meminfo, HugePages_Free)");
	_exit(1);
}

void guest_watch_also(struct guest *g, unsigned int which, void *map, size_t len)
{
	g->also[which].map = map;
	g->also[which].len = len;
}

void guest_watch(struct guest *g)
{
	/* A second SIGBUS inside the handler would mean that mmap() has lied. */
	struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

	watched = g;
	sigaction(SIGBUS, &sa, NULL);
}

static int insert(struct guest *g, const struct guest_region *r)
{
	unsigned int at = 0;

	if (g->n == VU_MEM_SLOTS)
		return -ENOSPC;
	while (at < g->n && g->regions[at].v.gpa < r->v.gpa)
		at++;
	if (at > 0 && g->regions[at - 1].v.gpa + g->regions[at - 1].v.size > r->v.gpa)
		return -EEXIST;
	if (at < g->n && r->v.gpa + r->v.size > g->regions[at].v.gpa)
		return -EEXIST;
	memmove(&g->regions[at + 1], &g->regions[at], (g->n - at) * sizeof(*r));
	g->regions[at] = *r;
	g->n++;
	return 0;
}

static bool wraps(const struct vu_region *v)
{
	return !v->size || v->gpa + v->size < v->gpa || v->user + v->size < v->user ||
	       v->offset + v->size < v->offset || v->size > SIZE_MAX / 2;
}

int guest_map_raw(struct guest *g, uint64_t gpa, uint64_t user, uint64_t size, void *host)
{
	const struct guest_region r = {.v = {gpa, size, user, 0}, .host = host};

	return wraps(&r.v) ? -EINVAL : insert(g, &r);
}

/* Pages of a file on hugetlbfs are mapped whole. */
static uint64_t page_of(int fd)
{
	struct statfs fs;

	if (!fstatfs(fd, &fs) && fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > 4096)
		return (uint64_t)fs.f_bsize;
	return 4096;
}

static const char *malformed(const struct vu_region *v, int fd, struct stat *st)
{
	if (wraps(v))
		return "its addresses wrap around or it is empty";
	if (fstat(fd, st) || (!S_ISREG(st->st_mode) && !S_ISCHR(st->st_mode)))
		return "its file descriptor is not memory";
	if (S_ISREG(st->st_mode) &&
	    (st->st_size < 0 || v->offset + v->size > (uint64_t)st->st_size))
		return "it reaches past the end of its file";
	return NULL;
}

static int map(struct guest *g, const struct vu_region *v, int fd, const char **why)
{
	struct guest_region r = {.v = *v};
	uint64_t page, from;
	struct stat st;
	int rc;

	*why = malformed(v, fd, &st);
	if (*why)
		return -EINVAL;
	page = page_of(fd);
	from = v->offset & ~(page - 1);
	r.map_len = (size_t)((v->offset + v->size - from + page - 1) & ~(page - 1));
	r.map = mmap(NULL, r.map_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
		     (off_t)from);
	if (r.map == MAP_FAILED) {
		rc = -errno;
		*why = strerror(-rc);
		return rc;
	}
	/* A core dump is ruled out, but this keeps the guest's memory out of one all the same. */
	madvise(r.map, r.map_len, MADV_DONTDUMP);
	r.host = (uint8_t *)r.map + (v->offset - from);
	r.dev = st.st_dev;
	r.ino = st.st_ino;
	rc = insert(g, &r);
	if (rc) {
		munmap(r.map, r.map_len);
		*why = rc == -ENOSPC ? "there are more than 509 of them"
				     : "it overlaps another region";
	}
	return rc;
}

int guest_map(struct guest *g, const struct vu_region *v, int fd)
{
	const char *why;
	int rc = map(g, v, fd, &why);

	close(fd);
	if (rc)
		relay_log_peer("refused a memory region of %" PRIu64
			       " bytes at guest address 0x%" PRIx64 ": %s",
			       v->size, v->gpa, why);
	return rc;
}

struct guest_region *guest_find(struct guest *g, const struct vu_region *v)
{
	for (unsigned int i = 0; i < g->n; i++) {
		const struct vu_region *have = &g->regions[i].v;

		if (have->gpa == v->gpa && have->size == v->size && have->user == v->user)
			return &g->regions[i];
	}
	return NULL;
}

void guest_drop(struct guest *g, struct guest_region *region)
{
	unsigned int at = (unsigned int)(region - g->regions);

	if (region->map)
		munmap(region->map, region->map_len);
	g->n--;
	memmove(region, region + 1, (g->n - at) * sizeof(*region));
	g->regions[g->n] = (struct guest_region){0};
}

bool guest_keep(struct guest *g, const struct vu_region *v, int fd)
{
	struct guest_region *r = guest_find(g, v);
	struct stat st;

	if (!r || r->v.offset != v->offset || fstat(fd, &st) || st.st_dev != r->dev ||
	    st.st_ino != r->ino)
		return false;
	r->stale = false;
	return true;
}

void guest_reset(struct guest *g)
{
	while (g->n)
		guest_drop(g, &g->regions[g->n - 1]);
	g->gone = false;
}

void *guest_user(const struct guest *g, uint64_t user, uint64_t len)
{
	for (unsigned int i = 0; i < g->n; i++) {
		const struct guest_region *r = &g->regions[i];
		uint64_t at = user - r->v.user;

		if (user >= r->v.user && len <= r->v.size && at <= r->v.size - len)
			return r->host + at;
	}
	return NULL;
}

uint8_t *guest_find_at(struct guest *g, uint64_t gpa, uint64_t len, uint64_t *have)
{
	unsigned int low = 0, high = g->n;

	while (low < high) {
		unsigned int mid = (low + high) / 2;
		const struct guest_region *r = &g->regions[mid];

		if (gpa < r->v.gpa) {
			high = mid;
		} else if (gpa - r->v.gpa >= r->v.size) {
			low = mid + 1;
		} else {
			uint64_t at = gpa - r->v.gpa;

			guest_hint = mid;
			*have = len < r->v.size - at ? len : r->v.size - at;
			return r->host + at;
		}
	}
	return NULL;
}

bool guest_has(struct guest *g, uint64_t gpa, uint64_t len)
{
	uint64_t have;

	/* Ranges that wrap around reach address 0 only past the highest region, and end there. */
	for (; len; gpa += have, len -= have)
		if (!guest_at(g, gpa, len, &have))
			return false;
	return true;
}
