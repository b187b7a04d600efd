/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * inflight.c - the requests that a backend left undone
 *
 * Theory of operation
 * -------------------
 * When a backend dies, some requests have been made available and not been used. The next backend
 * starts at a base and processes what the avail ring holds from there on. Starting at the used
 * index is right as far as the number goes; but if the dead one completed out of order, the entries
 * from there on are not the requests that are open. So the relay finds out which ones are (infer.c)
 * and writes their heads into the slots [used, avail) of the avail ring, before a new backend hears
 * of the ring. Most backends do not offer the protocol's in-flight buffer, so there is no better
 * record than the ring itself. A wrong guess would lose a request and run another twice, which for
 * a disk is corruption; so where the ring leaves more than one answer, there is none, and the ring
 * stays stopped with a message.
 *
 * Why writing into the driver's ring is safe while the driver runs:
 *   - no device runs it: the connection that the dead backend had is closed, by the backend or by its
 *     death (a process that is killed loses its memory before its sockets). One that has been given up and keeps its end
 *     may still be finishing requests, and is waited for (backend_parted())
 *   - the driver writes the slot of the avail index and those after it, and at most num requests
 *     are open, so these slots are not [used, avail), whose requests are open. It never reads or
 *     writes those again before they are used (virtio 1.2, 2.7.13: the ring is write-only for it)
 *   - requests that it makes available meanwhile lie behind the avail index that was read, and the
 *     new backend finds them there
 * Order: the driver writes an entry, then the index, with a barrier between (virtio 1.2, 2.7.13.3).
 * The index is read first here, the entries after a fence. The new backend gets the ring through a
 * message on a socket, which orders the writes before its reads.
 *
 * The files are read with pread(), never mapped: a file that has been truncated then gives an error
 * and not SIGBUS.
 *
 * Where the history begins: at start, everything before the used index was complete. Indices have
 * 16 bits, so later on "used is ten further" can mean ten requests or 65546. The entries of the
 * used ring tell: on the first lap, those not reached yet are as they were at the start.
 *
 * A request whose avail slot has been overwritten by later ones can still be open (a slow flush
 * while hundreds of reads go by). Where infer.c says that the answer depends on there being none,
 * every descriptor that is not accounted for has to be shown to be dead: never used, or its buffer
 * belongs to an open request now, or it points to an indirect table that has been scrubbed, as
 * Sluice's DMA layer does at unmap. Otherwise there is no answer.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "inflight.h"

#define DESC_NEXT     1u
#define DESC_INDIRECT 4u

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

struct used_elem {
	uint32_t id;
	uint32_t len;
};

static const char unreadable[] = "its memory cannot be read or written any more";

static uint16_t avail_ring[RING_MAX_NUM];
static struct used_elem used_ring[RING_MAX_NUM];
static struct desc descs[RING_MAX_NUM];
static uint16_t avail_heads[RING_MAX_NUM];
static uint16_t used_heads[RING_MAX_NUM];
static uint16_t open_heads[RING_MAX_NUM];
static bool accounted[RING_MAX_NUM];

static bool get(const struct region *region, uint64_t user, void *buf, size_t len)
{
	return pread(region->fd, buf, len, (off_t)(user - region->v.user)) == (ssize_t)len;
}

static bool put(const struct region *region, uint64_t user, const void *buf, size_t len)
{
	return pwrite(region->fd, buf, len, (off_t)(user - region->v.user)) == (ssize_t)len;
}

static bool get_index(const struct region *region, uint64_t ring, uint16_t *index)
{
	uint16_t v;

	if (!get(region, ring + 2, &v, sizeof(v)))
		return false;
	__sync_synchronize(); /* the entries are read after the index */
	*index = le16toh(v);
	return true;
}

static bool get_used_ring(const struct ring *ring, const struct ring_area *area)
{
	return get(area->used, ring->used + 4, used_ring, ring->num * sizeof(used_ring[0]));
}

static uint16_t digest(const struct used_elem *e)
{
	uint32_t v = e->id * 0x9e3779b1u + e->len * 0x85ebca6bu;

	return (uint16_t)(v ^ v >> 16);
}

void inflight_begin(struct inflight_start *start, const struct ring *ring,
		    const struct ring_area *area)
{
	uint16_t used;

	start->valid = false;
	if (ring->num > INFLIGHT_SNAPSHOT || !get_index(area->used, ring->used, &used) ||
	    used != (uint16_t)ring->base || !get_used_ring(ring, area))
		return;
	start->used = used;
	for (uint32_t i = 0; i < ring->num; i++)
		start->slots[i] = digest(&used_ring[i]);
	start->valid = true;
}

/* Whether the used ring is on its first lap since the start. */
static bool first_lap(const struct inflight_start *start, uint32_t num, uint16_t used)
{
	uint32_t done = (uint16_t)(used - start->used);

	if (done >= num)
		return false;
	for (uint32_t k = done; k < num; k++) {
		uint32_t slot = (start->used + k) & (num - 1);

		if (digest(&used_ring[slot]) != start->slots[slot])
			return false;
	}
	return true;
}

/* Brings the visible history into order, oldest first. */
static const char *unroll(const struct ring *ring, const struct inflight_start *start,
			  uint16_t used, uint16_t avail, struct infer_history *h)
{
	uint32_t num = ring->num, done = (uint16_t)(used - start->used);

	h->num = num;
	h->pending = (uint16_t)(avail - used);
	h->from_start = first_lap(start, num, used);
	h->nused = h->from_start ? done : num;
	h->all_avail = h->from_start && done + h->pending <= num;
	h->navail = h->all_avail ? done + h->pending : num;
	for (uint32_t i = 0; i < h->nused; i++) {
		uint32_t id = le32toh(used_ring[(used - h->nused + i) & (num - 1)].id);

		if (id >= num)
			return "the backend wrote a request into the used ring that does not exist";
		used_heads[i] = (uint16_t)id;
	}
	for (uint32_t i = 0; i < h->navail; i++) {
		avail_heads[i] = le16toh(avail_ring[(avail - h->navail + i) & (num - 1)]);
		if (avail_heads[i] >= num)
			return "the driver wrote a request into the avail ring that does not exist";
	}
	h->avail = avail_heads;
	h->used = used_heads;
	return NULL;
}

/* Descriptors that belong to a chain whose head is known to be open or done. */
static void account(const struct infer_history *h)
{
	memset(accounted, 0, sizeof(accounted));
	for (uint32_t i = 0; i < h->navail; i++) {
		uint32_t d = h->avail[i];

		for (uint32_t steps = 0; steps < h->num && d < h->num && !accounted[d]; steps++) {
			accounted[d] = true;
			if (!(le16toh(descs[d].flags) & DESC_NEXT))
				break;
			d = le16toh(descs[d].next);
		}
	}
}

/* Find shared memory by an address of the guest. */
static struct region *by_gpa(struct memory *mem, uint64_t gpa, uint64_t len)
{
	for (unsigned int i = 0; i < VU_MEM_SLOTS; i++) {
		struct region *r = &mem->regions[i];

		if (r->fd >= 0 && gpa >= r->v.gpa && len <= r->v.size &&
		    gpa - r->v.gpa <= r->v.size - len)
			return r;
	}
	return NULL;
}

static bool is_dead(const struct infer_history *h, struct memory *mem, uint32_t head)
{
	const struct desc *d = &descs[head];
	uint64_t addr = le64toh(d->addr);
	struct region *region;
	struct desc first;

	if (!d->len)
		return true;
	for (uint32_t i = 0; i < h->pending; i++)
		if (descs[open_heads[i]].addr == d->addr)
			return true;
	if (!(le16toh(d->flags) & DESC_INDIRECT))
		return false;
	region = by_gpa(mem, addr, sizeof(first));
	if (!region || !get(region, addr - region->v.gpa + region->v.user, &first, sizeof(first)))
		return true; /* no device can have begun a request whose table is out of reach */
	return !first.len || !by_gpa(mem, le64toh(first.addr), le32toh(first.len));
}

static bool all_others_dead(const struct infer_history *h, const struct ring *ring,
			    const struct ring_area *area, struct memory *mem)
{
	if (!get(area->desc, ring->desc, descs, ring->num * sizeof(descs[0])))
		return false;
	account(h);
	for (uint32_t head = 0; head < ring->num; head++)
		if (!accounted[head] && !is_dead(h, mem, head))
			return false;
	return true;
}

/* Writes open_heads into the slots [used, avail), those that hold something else. */
static const char *rewrite(const struct ring *ring, const struct ring_area *area, uint16_t used,
			   uint32_t pending)
{
	for (uint32_t i = 0; i < pending; i++) {
		uint32_t slot = (used + i) & (ring->num - 1);
		uint16_t v = htole16(open_heads[i]);

		if (avail_ring[slot] != v &&
		    !put(area->avail, ring->avail + 4 + 2ull * slot, &v, sizeof(v)))
			return unreadable;
	}
	return NULL;
}

static const char *find_open(const struct inflight_start *start, const struct ring *ring,
			     const struct ring_area *area, struct memory *mem, uint16_t used,
			     uint16_t avail)
{
	struct infer_history h;
	const char *why;

	if (!start->valid)
		return "its history is not known: it has more than 1024 entries, or was started in "
		       "the middle of requests";
	why = unroll(ring, start, used, avail, &h);
	if (why)
		return why;
	switch (infer_inflight(&h, open_heads)) {
	case INFER_PROVEN:
		return NULL;
	case INFER_UNLESS_OLD:
		if (all_others_dead(&h, ring, area, mem))
			return NULL;
		return "an old request may be among those left undone, and the ring does not tell";
	case INFER_LOST:
		return "an old request is among those left undone, and its entry is overwritten";
	case INFER_AMBIGUOUS:
		return "they were completed out of order in a way that leaves several answers";
	default:
		return "what the ring holds contradicts itself";
	}
}

const char *inflight_recover(const struct inflight_start *start, const struct ring *ring,
			     const struct ring_area *area, struct memory *mem, uint64_t features,
			     uint16_t *base, uint16_t *count)
{
	uint16_t used, avail, pending;
	const char *why;

	if (features & VU_BIT(VIRTIO_F_PACKED))
		return "a packed ring does not show which requests are open";
	if (!get_index(area->used, ring->used, &used) ||
	    !get_index(area->avail, ring->avail, &avail))
		return unreadable;
	pending = (uint16_t)(avail - used);
	if (pending > ring->num)
		return "its indices are further apart than it has entries";
	/* In order, the open requests are where the next backend will look for them. */
	if (pending && !(features & VU_BIT(VIRTIO_F_IN_ORDER))) {
		if (!get(area->avail, ring->avail + 4, avail_ring, 2ull * ring->num) ||
		    !get_used_ring(ring, area))
			return unreadable;
		why = find_open(start, ring, area, mem, used, avail);
		if (!why)
			why = rewrite(ring, area, used, pending);
		if (why)
			return why;
	}
	*base = used;
	*count = pending;
	return NULL;
}

uint32_t inflight_open(const struct ring *ring, const struct ring_area *area, uint16_t base)
{
	uint16_t used, avail;

	if (!get_index(area->used, ring->used, &used) ||
	    !get_index(area->avail, ring->avail, &avail) || (uint16_t)(avail - used) > ring->num ||
	    (uint16_t)(base - used) > (uint16_t)(avail - used))
		return 0;
	return (uint16_t)(base - used);
}

bool inflight_skip(const struct ring *ring, const struct ring_area *area, uint16_t *base)
{
	return get_index(area->avail, ring->avail, base);
}
