/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * memory.c - the front-end's memory, and the part of it that may be passed on
 *
 * Theory of operation
 * -------------------
 * A region of the memory table says which part of a file is guest memory, but what travels is the
 * file: whoever holds its fd can map all of it. So the relay decides by the file, not by the
 * region, and never by a guest address: a region is shared if its file is the one that a --share
 * names, by device and inode number. Every other fd is closed at once, and only the region's
 * numbers are kept, so that it can be removed again.
 *
 * The operator can name the wrong file. Guest RAM is a file too, and some front-ends give all their
 * memfds one name. A file is therefore passed on only if nothing but that one region can be in it:
 *   - it is a regular file on a file system in memory
 *   - the region is the whole file
 *   - it does not touch the first MiB, where a PC has its RAM whatever else it has
 *   - no other region is of the same file
 * --share memfd:NAME stands for one inode: the first of that name. A second inode of that name in
 * the same session means that nobody can tell which one was meant, so both are refused.
 *
 * A path is looked up each time, since the front-end may create the file late, and may replace it.
 * Whatever fd the front-end sent is compared with what the path names now; the fd keeps its inode
 * alive, so that equal numbers mean the same file.
 *
 * Invariant: a region has an fd exactly if it is shared, and no two regions with an fd have the
 * same file or overlapping guest addresses.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "log.h"
#include "memory.h"

#define FIRST_MIB UINT64_C(0x100000)

static const char way_out[] =
	"give the pool a file of its own (-object memory-backend-file,share=on,mem-path=/dev/shm/"
	"POOL,size=... used by nothing but the pool device) and name that one";

void memory_init(struct memory *mem, struct door *door, struct share *shares, unsigned int nshares)
{
	mem->door = door;
	mem->shares = shares;
	mem->nshares = nshares;
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++)
		mem->regions[i] = (struct region){.fd = -1};
}

void memory_drop(struct region *region)
{
	if (region->fd >= 0)
		close(region->fd);
	*region = (struct region){.fd = -1};
}

void memory_reset(struct memory *mem)
{
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++)
		memory_drop(&mem->regions[i]);
	for (unsigned int i = 0; i < mem->nshares; i++)
		mem->shares[i].pinned = mem->shares[i].warned = false;
}

static bool overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return a < b + blen && b < a + alen;
}

const char *memory_rule(const struct memory *mem, const struct vu_region *v, const struct stat *st,
			bool in_memory)
{
	if (!S_ISREG(st->st_mode) || !in_memory)
		return "it is not a file on tmpfs or hugetlbfs, nor a memfd";
	if (v->gpa < FIRST_MIB)
		return "it backs the guest's first MiB, so it is the guest's RAM";
	if (v->offset != 0 || st->st_size < 0 || v->size != (uint64_t)st->st_size)
		return "the region is only a part of it, and its fd would reach the rest too";
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++) {
		const struct region *r = &mem->regions[i];

		if (r->used && r->dev == st->st_dev && r->ino == st->st_ino)
			return "another region of the guest's memory is in it too";
		if (r->used && overlap(r->v.gpa, r->v.size, v->gpa, v->size))
			return "it overlaps another region in the guest's address space";
	}
	return NULL;
}

static bool on_memory_fs(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs))
		return false;
	return fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC || fs.f_type == RAMFS_MAGIC;
}

static void warn_unsealed(struct share *share, int fd)
{
	int seals;

	if (share->warned)
		return;
	seals = fcntl(fd, F_GET_SEALS);
	if (seals >= 0 && (seals & F_SEAL_SHRINK))
		return;
	share->warned = true;
	relay_log("%s is not sealed against shrinking: a backend that truncates it makes the VMM "
		  "die of SIGBUS (its memory stays closed to the backend); a memfd with seal=on, "
		  "QEMU's default, does not have this",
		  share->name);
}

/* Does this --share name the file? 1 yes, 0 no, -EPERM if that cannot be told any more. */
static int names(struct memory *mem, struct share *share, int fd, const struct stat *st)
{
	char want[DOOR_NAME], have[DOOR_NAME];
	uint64_t dev, ino;

	if (!share->memfd) {
		if (door_stat(mem->door, share->path, &dev, &ino))
			return mem->door->gone ? -EPERM : 0; /* there is no such file yet */
		return dev == st->st_dev && ino == st->st_ino;
	}
	if (door_name(mem->door, fd, have))
		return mem->door->gone ? -EPERM : 0;
	snprintf(want, sizeof(want), "/memfd:%s (deleted)", share->name);
	if (strcmp(want, have))
		return 0;
	if (share->pinned && (share->dev != st->st_dev || share->ino != st->st_ino)) {
		relay_log_peer("refused: two files are called memfd:%s (inodes %" PRIu64
			       " and %" PRIu64 "), and one of them is not the pool; %s",
			       share->name, share->ino, (uint64_t)st->st_ino, way_out);
		return -EPERM;
	}
	share->pinned = true;
	share->dev = st->st_dev;
	share->ino = st->st_ino;
	return 1;
}

static struct region *free_entry(struct memory *mem)
{
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++)
		if (!mem->regions[i].used)
			return &mem->regions[i];
	return NULL;
}

static const char *malformed(const struct vu_region *v, int fd, struct stat *st)
{
	if (!v->size || v->gpa + v->size < v->gpa || v->user + v->size < v->user ||
	    v->offset + v->size < v->offset)
		return "its addresses wrap around or it is empty";
	if (fstat(fd, st) || (!S_ISREG(st->st_mode) && !S_ISCHR(st->st_mode)))
		return "its file descriptor is not memory";
	return NULL;
}

int memory_add(struct memory *mem, const struct vu_region *v, int fd)
{
	struct region *entry = free_entry(mem);
	struct share *share = NULL;
	struct stat st;
	const char *why = malformed(v, fd, &st);
	int rc;

	if (why || !entry) {
		relay_log_peer("refused a memory region of %" PRIu64
			       " bytes at guest address 0x%" PRIx64 ": %s",
			       v->size, v->gpa, why ? why : "there are more than 509 of them");
		rc = why ? -EINVAL : -ENOSPC;
		goto out;
	}
	for (unsigned int i = 0; i < mem->nshares; i++) {
		rc = names(mem, &mem->shares[i], fd, &st);
		if (rc < 0)
			goto out;
		if (rc)
			share = &mem->shares[i];
	}
	/* The path may name another file by now, but what has been passed on has been. */
	for (unsigned int i = 0; !share && i < VU_MEM_SLOTS; i++)
		if (mem->regions[i].fd >= 0 && mem->regions[i].dev == st.st_dev &&
		    mem->regions[i].ino == st.st_ino)
			share = mem->regions[i].share;
	if (share) {
		why = memory_rule(mem, v, &st, on_memory_fs(fd));
		if (why) {
			relay_log_peer("refused to pass on %s%s (region of %" PRIu64
				       " bytes at guest address 0x%" PRIx64 "): %s; %s",
				       share->memfd ? "memfd:" : "", share->name, v->size, v->gpa,
				       why, way_out);
			rc = -EPERM;
			goto out;
		}
		warn_unsealed(share, fd);
	}
	*entry = (struct region){
		.v = *v,
		.dev = st.st_dev,
		.ino = st.st_ino,
		.fd = share ? fd : -1,
		.used = true,
		.share = share,
	};
	if (share)
		return 0;
	rc = 0;
out:
	close(fd);
	return rc;
}

static bool same(const struct vu_region *a, const struct vu_region *b)
{
	return a->gpa == b->gpa && a->size == b->size && a->user == b->user;
}

struct region *memory_find(struct memory *mem, const struct vu_region *v)
{
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++)
		if (mem->regions[i].used && same(&mem->regions[i].v, v))
			return &mem->regions[i];
	return NULL;
}

bool memory_keep(struct memory *mem, const struct vu_region *v, int fd)
{
	struct region *r = memory_find(mem, v);
	struct stat st;

	if (!r || r->v.offset != v->offset || fstat(fd, &st) || st.st_dev != r->dev ||
	    st.st_ino != r->ino)
		return false;
	r->stale = false;
	return true;
}

struct region *memory_translate(struct memory *mem, uint64_t user, uint64_t len)
{
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++) {
		struct region *r = &mem->regions[i];

		if (r->fd >= 0 && user >= r->v.user && len <= r->v.size &&
		    user - r->v.user <= r->v.size - len)
			return r;
	}
	return NULL;
}
