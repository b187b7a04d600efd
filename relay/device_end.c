/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * device_end.c - the device's end of the guest's ring
 *
 * Theory of operation
 * -------------------
 * Here the relay is the device, and the driver may be hostile. Its ring and its indirect tables are
 * read as vring.h says, each word once, into a struct chain that is private. That is checked while
 * it is being read and is all that anybody looks at afterwards:
 *   - the avail index is at most num ahead; a head and every next are inside their table
 *   - a chain has no more descriptors than its table, so a loop ends; no more than CHAIN_MAX
 *   - an indirect table is no chain element, has no indirect entry, a length in whole descriptors
 *   - what the device writes comes after what it reads (virtio 1.2, 2.7.4.2)
 *   - all of each buffer is the guest's memory, and all of them together are shorter than 4 GiB
 * A descriptor of length 0 is passed over: it has no bytes that could be refused.
 *
 * In a packed ring, a descriptor's flags say whether it is available; they come with its length and
 * id in one load with acquire, so that they belong together. Only the first descriptor of a chain is
 * tested: the driver makes that one available last (2.8.21).
 */
#include <errno.h>
#include <string.h>

#include "device_end.h"

/* Not always the driver's fault: a VMM may have memory plugged in that it cannot hand over. */
static const char not_shared[] =
	"a buffer is not in memory that the front-end shares (QEMU: share=on)";

void device_end_init(struct device_end *e, uint16_t num, bool packed, bool event_idx, void *desc,
		     void *driver, void *device, uint32_t base)
{
	*e = (struct device_end){
		.packed = packed,
		.event_idx = event_idx,
		.num = num,
		.desc = desc,
		.driver = driver,
		.device = device,
	};
	if (packed) {
		e->next = base & 0x7fff;
		e->avail_wrap = base >> 15 & 1;
		e->used = base >> 16 & 0x7fff;
		e->used_wrap = base >> 31 & 1;
		/* Positions outside the ring would be read and written outside it. */
		if (e->next >= num)
			e->next = 0;
		if (e->used >= num)
			e->used = 0;
	} else {
		e->next = e->seen = (uint16_t)base;
		/* The driver goes on where its used index stands. */
		e->used = vring_load16(&e->device[1]);
	}
	e->signalled = e->used;
}

uint32_t device_end_base(const struct device_end *e)
{
	if (!e->packed)
		return e->next;
	return e->next | (uint32_t)e->avail_wrap << 15 | (uint32_t)e->used << 16 |
	       (uint32_t)e->used_wrap << 31;
}

static int refuse(struct chain *c, const char **why, const char *reason, uint64_t bad, uint32_t len)
{
	c->bad = bad;
	c->bad_len = len;
	*why = reason;
	return -EBADMSG;
}

/* One buffer. Returns 1, or -EBADMSG. */
static inline int add(struct chain *c, struct guest *g, const struct vring_desc *d,
		      const char **why)
{
	uint64_t have;

	if (!d->len)
		return 1;
	if (c->nout + c->nin == CHAIN_MAX)
		return refuse(c, why, "a chain has more buffers than a device takes", CHAIN_MAX, 0);
	if (!guest_at(g, d->addr, d->len, &have) ||
	    (have < d->len && !guest_has(g, d->addr + have, d->len - have)))
		return refuse(c, why, not_shared, d->addr, d->len);
	c->segs[c->nout + c->nin] = (struct chain_seg){d->addr, d->len};
	if (d->flags & VRING_WRITE) {
		c->nin++;
		if (__builtin_add_overflow(c->in, d->len, &c->in))
			return refuse(c, why, "a chain is 4 GiB or longer", d->addr, d->len);
	} else {
		if (c->nin)
			return refuse(c, why, "a buffer to read comes after one to write", d->addr,
				      d->len);
		c->nout++;
		if (__builtin_add_overflow(c->out, d->len, &c->out))
			return refuse(c, why, "a chain is 4 GiB or longer", d->addr, d->len);
	}
	if ((uint64_t)c->in + c->out > UINT32_MAX)
		return refuse(c, why, "a chain is 4 GiB or longer", d->addr, d->len);
	return 1;
}

/* Brings a table that is not in one piece, or not aligned, into one that is. */
static int gather_table(struct guest *g, uint64_t gpa, uint32_t len, uint64_t *table)
{
	uint8_t *to = (uint8_t *)table;
	uint64_t have;

	for (; len; gpa += have, len -= (uint32_t)have, to += have) {
		const uint8_t *from = guest_at(g, gpa, len, &have);

		if (!from)
			return -EBADMSG;
		memcpy(to, from, have);
	}
	return 0;
}

static int indirect(struct device_end *e, struct chain *c, struct guest *g,
		    const struct vring_desc *d, const char **why)
{
	static _Thread_local uint64_t copy[CHAIN_MAX * 2];
	uint32_t n = d->len / VRING_DESC_BYTES, i = 0, steps = 0;
	const uint64_t *table;
	uint64_t have = 0;
	int rc = 1;

	if (!n || d->len % VRING_DESC_BYTES)
		return refuse(c, why, "an indirect table's length is not in whole descriptors",
			      d->addr, d->len);
	if (n > CHAIN_MAX)
		return refuse(c, why, "an indirect table has more entries than a device takes",
			      d->addr, d->len);
	table = (const void *)guest_at(g, d->addr, d->len, &have);
	if (!table || have < d->len || (uintptr_t)table % sizeof(*table)) {
		if (gather_table(g, d->addr, d->len, copy))
			return refuse(c, why, "an indirect table is not in the guest's memory",
				      d->addr, d->len);
		table = copy;
	}
	for (;;) {
		struct vring_desc entry = vring_read(table, i, e->packed);

		if (entry.flags & VRING_INDIRECT)
			return refuse(c, why, "an indirect table holds another", entry.addr,
				      entry.len);
		rc = add(c, g, &entry, why);
		if (rc < 0)
			return rc;
		/* Entries of a packed ring's table follow each other (virtio 1.2, 2.8.8). */
		if (e->packed) {
			if (++i == n)
				return 1;
			continue;
		}
		if (!(entry.flags & VRING_NEXT))
			return 1;
		i = entry.link;
		if (i >= n)
			return refuse(c, why, "an indirect table's next lies outside it", i, n);
		if (++steps == n)
			return refuse(c, why, "an indirect table is a loop", d->addr, d->len);
	}
}

static bool fill(struct device_end *e)
{
	/* Acquire: entries and descriptors up to this index are complete (virtio 1.2, 2.7.13.3). */
	e->seen = vring_acquire16(&e->driver[1]);
	return e->seen != e->next;
}

static int fetch_split(struct device_end *e, struct guest *g, struct chain *c, const char **why)
{
	uint16_t ahead, head;

	if (e->seen == e->next && !fill(e))
		return 0;
	ahead = (uint16_t)(e->seen - e->next);
	if (ahead > e->num)
		return refuse(c, why, "the avail index is further ahead than the ring is long",
			      e->seen, e->next);
	head = vring_load16(&e->driver[2 + (e->next & (e->num - 1))]);
	if (ahead > 1) {
		uint16_t after =
			vring_load16(&e->driver[2 + ((uint16_t)(e->next + 1) & (e->num - 1))]);

		/* Prefetching needs no right address. It is read again, and checked, in its turn. */
		__builtin_prefetch(&e->desc[2 * (after & (e->num - 1))]);
	}
	return device_end_walk(e, g, head, c, why);
}

int device_end_walk(struct device_end *e, struct guest *g, uint16_t head, struct chain *c,
		    const char **why)
{
	uint32_t i, steps = 0;

	c->count = 1;
	c->nout = c->nin = 0;
	c->out = c->in = 0;
	c->id = head;
	for (i = head;;) {
		struct vring_desc d;
		int rc;

		if (i >= e->num)
			return refuse(c, why, "a descriptor's number lies outside the ring", i,
				      e->num);
		d = vring_read(e->desc, i, false);
		if (d.flags & VRING_INDIRECT) {
			if (d.flags & VRING_NEXT)
				return refuse(c, why, "an indirect descriptor has a next", d.addr,
					      d.len);
			return indirect(e, c, g, &d, why);
		}
		rc = add(c, g, &d, why);
		if (rc < 0 || !(d.flags & VRING_NEXT))
			return rc;
		i = d.link;
		if (++steps == e->num)
			return refuse(c, why, "a chain is a loop", head, 0);
	}
}

/* The second half of descriptor i, with its flags: 0 if it is not available. */
static bool available(struct device_end *e, uint64_t *half)
{
	uint16_t flags;

	/* Acquire: the rest of the chain is complete (virtio 1.2, 2.8.21.1). */
	*half = __atomic_load_n(&e->desc[2 * e->next + 1], __ATOMIC_ACQUIRE);
	flags = (uint16_t)(*half >> 48);
	return !!(flags & VRING_AVAIL) == e->avail_wrap && !!(flags & VRING_USED) != e->avail_wrap;
}

static int fetch_packed(struct device_end *e, struct guest *g, struct chain *c, const char **why)
{
	struct vring_desc d;
	uint64_t half;
	uint16_t i = e->next;

	c->count = c->nout = c->nin = 0;
	c->out = c->in = 0;
	if (!available(e, &half))
		return 0;
	d = vring_unpack(vring_load64(&e->desc[2 * i]), half, true);
	for (;;) {
		int rc;

		/* The id is that of the last one (2.8.6). */
		c->id = d.link;
		c->count++;
		if (d.flags & VRING_INDIRECT) {
			if (d.flags & VRING_NEXT || c->count > 1)
				return refuse(c, why, "an indirect descriptor is part of a chain",
					      d.addr, d.len);
			return indirect(e, c, g, &d, why);
		}
		rc = add(c, g, &d, why);
		if (rc < 0 || !(d.flags & VRING_NEXT))
			return rc;
		if (c->count == e->num)
			return refuse(c, why, "a chain is longer than the ring", e->next, 0);
		i = (uint16_t)(i + 1 == e->num ? 0 : i + 1);
		d = vring_read(e->desc, i, true);
	}
}

int device_end_parse(struct device_end *e, struct guest *g, const uint64_t *descs, uint16_t n,
		     struct chain *c, const char **why)
{
	c->count = n;
	c->nout = c->nin = 0;
	c->out = c->in = 0;
	for (uint16_t i = 0; i < n; i++) {
		struct vring_desc d = vring_read(descs, i, true);
		int rc;

		c->id = d.link;
		if (d.flags & VRING_INDIRECT) {
			if (d.flags & VRING_NEXT || n > 1)
				return refuse(c, why, "an indirect descriptor is part of a chain",
					      d.addr, d.len);
			return indirect(e, c, g, &d, why);
		}
		if (!(d.flags & VRING_NEXT) != (i + 1 == n))
			return refuse(c, why, "a chain is not as long as was noted", i, n);
		rc = add(c, g, &d, why);
		if (rc < 0)
			return rc;
	}
	return 1;
}

int device_end_fetch(struct device_end *e, struct guest *g, struct chain *c, const char **why)
{
	if (e->packed)
		return fetch_packed(e, g, c, why);
	return fetch_split(e, g, c, why);
}

static void advance(uint16_t *at, bool *wrap, uint16_t by, uint16_t num)
{
	uint32_t to = (uint32_t)*at + by;

	if (to >= num) {
		to -= num;
		*wrap = !*wrap;
	}
	*at = (uint16_t)to;
}

void device_end_take(struct device_end *e, const struct chain *c)
{
	if (e->packed)
		advance(&e->next, &e->avail_wrap, c->count, e->num);
	else
		e->next++;
}

bool device_end_pending(struct device_end *e)
{
	uint64_t half;

	if (e->packed)
		return available(e, &half);
	return e->seen != e->next || fill(e);
}

void device_end_use(struct device_end *e, uint16_t id, uint16_t count, uint32_t len)
{
	if (e->packed) {
		uint16_t flags = e->used_wrap ? VRING_AVAIL | VRING_USED : 0;
		uint64_t half = len | (uint64_t)id << 32 |
				(uint64_t)(uint16_t)(flags | (len ? VRING_WRITE : 0)) << 48;

		/* Release: what was written into the buffer comes first. One store, so that length
		 * and id come with the flags that make them count (2.8.22). */
		__atomic_store_n(&e->desc[2 * e->used + 1], half, __ATOMIC_RELEASE);
		advance(&e->used, &e->used_wrap, count, e->num);
	} else {
		uint16_t i = e->used & (e->num - 1);
		uint32_t *entry = (uint32_t *)(void *)(e->device + 2) + 2 * i;

		__atomic_store_n(&entry[0], id, __ATOMIC_RELAXED);
		__atomic_store_n(&entry[1], len, __ATOMIC_RELAXED);
		e->used++;
	}
}

void device_end_publish(struct device_end *e)
{
	/* Release: entries and buffers before the index (virtio 1.2, 2.7.14). */
	if (!e->packed)
		vring_release16(&e->device[1], e->used);
}

bool device_end_must_call(struct device_end *e)
{
	uint16_t old = e->signalled;
	bool first = !e->called;

	e->signalled = e->used;
	e->called = true;
	/* The driver publishes its wish, then looks at the ring; this side the reverse. */
	vring_full_barrier();
	if (e->packed)
		return vring_packed_event(e->driver, e->num, e->used, e->used_wrap, old) || first;
	if (!e->event_idx)
		return !(vring_load16(&e->driver[0]) & VRING_NO_NOTIFY);
	return first || vring_need_event(vring_load16(&e->driver[2 + e->num]), e->used, old);
}

static uint16_t *avail_event(struct device_end *e)
{
	return &e->device[2 + 4 * e->num];
}

void device_end_quiet(struct device_end *e)
{
	if (e->quiet)
		return;
	e->quiet = true;
	if (e->packed)
		vring_store16(&e->device[1], VRING_EVENT_DISABLE);
	else if (!e->event_idx)
		vring_store16(&e->device[0], VRING_NO_NOTIFY);
	/* With EVENT_IDX an event index that is not moved on is passed once and then behind. */
}

bool device_end_listen(struct device_end *e)
{
	e->quiet = false;
	if (e->packed) {
		vring_store16(&e->device[0],
			      (uint16_t)(e->next | (uint16_t)(e->avail_wrap ? 0x8000 : 0)));
		/* Release: the flags make the offset count. */
		vring_release16(&e->device[1],
				e->event_idx ? VRING_EVENT_DESC : VRING_EVENT_ENABLE);
	} else if (e->event_idx) {
		vring_store16(avail_event(e), e->next);
	} else {
		vring_store16(&e->device[0], 0);
	}
	vring_full_barrier();
	return device_end_pending(e);
}

int device_end_unfetch(struct device_end *e, const uint16_t *ids, uint16_t n, uint32_t descs,
		       bool tail)
{
	if (e->packed) {
		if (!tail || descs > e->num)
			return -EINVAL;
		if (descs > e->next) {
			e->next = (uint16_t)(e->next + e->num - descs);
			e->avail_wrap = !e->avail_wrap;
		} else {
			e->next = (uint16_t)(e->next - descs);
		}
		return 0;
	}
	/* The driver does not read these entries, nor write them before the chains in them are
	 * used (virtio 1.2, 2.7.13); it has published them, so they count as what they are now. */
	for (uint16_t i = 0; i < n; i++) {
		uint16_t at = (uint16_t)(e->next - n + i) & (uint16_t)(e->num - 1);

		if (vring_load16(&e->driver[2 + at]) != ids[i])
			vring_store16(&e->driver[2 + at], ids[i]);
	}
	e->next = (uint16_t)(e->next - n);
	return 0;
}
