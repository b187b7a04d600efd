/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * driver_end.c - the driver's end of a shadow ring
 *
 * Theory of operation
 * -------------------
 * Here the relay is the driver, and the device, a backend, may be hostile. The ring lies in the
 * pool, where the backend can write all of it. So nothing that the relay has written there is ever
 * read back: which descriptors are free, how they are chained, and what is in flight is kept in a
 * private table (struct driver_id). Of the shared memory only what the device has to say is read:
 * the used index, used entries, and when it wants to be notified. Each is one load, and is checked:
 *   - the used index is no further ahead than chains are in flight
 *   - an id lies inside the ring and is in flight: taking it back ends that, so that an id used
 *     twice is refused the second time
 * The length is for the caller to hold against what was offered.
 *
 * With IN_ORDER one used entry may stand for all chains up to the one that it names. Then the ids in the
 * order in which they were made available are kept, too: an entry is good for those up to its id, if that
 * is in flight and, in a split ring, the used index covers them all. (A device that uses a later chain
 * first has thereby said that the earlier ones are done.) The driver is to use descriptors in the
 * order of the table then, and does: they are taken back in the order in which they were given.
 *
 * A chain of more than one buffer goes through an indirect table where the device has those: it
 * then takes one descriptor, so that as many chains fit as the guest's own ring has entries.
 */
#include <errno.h>
#include <string.h>

#include "driver_end.h"

static uint32_t align(uint32_t n, uint32_t to)
{
	return (n + to - 1) & ~(to - 1);
}

uint32_t driver_end_bytes(uint16_t num, bool packed, uint32_t parts[3])
{
	/* Each part on cache lines of its own: the two sides do not write the same one. */
	parts[0] = 0;
	parts[1] = align(16u * num, 64);
	parts[2] = align(parts[1] + (packed ? 4 : 6 + 2u * num), 64);
	return align(parts[2] + (packed ? 4 : 6 + 8u * num), 64);
}

void driver_end_init(struct driver_end *d, void *ring)
{
	uint8_t *base = ring;
	uint32_t parts[3];

	driver_end_bytes(d->num, d->packed, parts);
	d->desc = (void *)(base + parts[0]);
	d->driver = (void *)(base + parts[1]);
	d->device = (void *)(base + parts[2]);
	d->avail_wrap = d->used_wrap = true;
	d->quiet = false;
	d->next = d->used = d->kicked = d->busy = d->free = 0;
	d->tail = (uint16_t)(d->num - 1);
	d->nfree = d->num;
	d->oldest = d->batch = 0;
	for (uint32_t i = 0; i < d->num; i++)
		d->ids[i] = (struct driver_id){
			.flight = DRIVER_END_FREE,
			.next = (uint16_t)(i + 1),
		};
}

uint32_t driver_end_base(const struct driver_end *d)
{
	return d->packed ? 0x80008000u : 0;
}

bool driver_end_room(const struct driver_end *d, uint32_t n)
{
	return d->nfree >= (d->indirect || n == 1 ? 1 : n) && d->busy < d->num;
}

static uint16_t write_flag(const struct shadow_sg *sg)
{
	return sg->write ? VRING_WRITE : 0;
}

static void add_split(struct driver_end *d, uint16_t flight, const struct shadow_sg *sg, uint32_t n,
		      uint64_t *table, uint64_t dev)
{
	uint16_t head = d->free, at = head;
	struct driver_id *id = &d->ids[head];

	if (table) {
		for (uint32_t i = 0; i < n; i++)
			vring_write(table, i, sg[i].dev, sg[i].len,
				    (uint16_t)(write_flag(&sg[i]) | (i + 1 < n ? VRING_NEXT : 0)),
				    (uint16_t)(i + 1 < n ? i + 1 : 0));
		vring_write(d->desc, head, dev, n * VRING_DESC_BYTES, VRING_INDIRECT, 0);
		n = 1;
	} else {
		for (uint32_t i = 0; i < n; i++) {
			uint16_t next = d->ids[at].next;

			vring_write(d->desc, at, sg[i].dev, sg[i].len,
				    (uint16_t)(write_flag(&sg[i]) | (i + 1 < n ? VRING_NEXT : 0)),
				    i + 1 < n ? next : 0);
			if (i + 1 < n)
				at = next;
		}
	}
	d->free = d->ids[at].next;
	id->last = at;
	id->flight = flight;
	id->count = (uint16_t)n;
	d->nfree = (uint16_t)(d->nfree - n);
	d->busy++;
	vring_store16(&d->driver[2 + (d->next & (d->num - 1))], head);
	d->next++;
}

static uint16_t packed_flags(const struct driver_end *d)
{
	return d->avail_wrap ? VRING_AVAIL : VRING_USED;
}

static void advance(uint16_t *at, bool *wrap, uint32_t by, uint16_t num)
{
	uint32_t to = *at + by;

	if (to >= num) {
		to -= num;
		*wrap = !*wrap;
	}
	*at = (uint16_t)to;
}

static void add_packed(struct driver_end *d, uint16_t flight, const struct shadow_sg *sg,
		       uint32_t n, uint64_t *table, uint64_t dev)
{
	uint16_t name = d->free, head = d->next, first;
	struct driver_id *id = &d->ids[name];
	struct shadow_sg one = sg[0];

	first = packed_flags(d);
	if (table) {
		for (uint32_t i = 0; i < n; i++)
			vring_write(table, i, sg[i].dev, sg[i].len, 0, write_flag(&sg[i]));
		one = (struct shadow_sg){dev, n * VRING_DESC_BYTES, false};
		first |= VRING_INDIRECT;
		n = 1;
	}
	first = (uint16_t)(first | write_flag(&one) | (n > 1 ? VRING_NEXT : 0));
	vring_store64(&d->desc[2 * head], one.dev);
	advance(&d->next, &d->avail_wrap, 1, d->num);
	for (uint32_t i = 1; i < n; i++) {
		uint16_t flags = (uint16_t)(packed_flags(d) | write_flag(&sg[i]) |
					    (i + 1 < n ? VRING_NEXT : 0));

		vring_write(d->desc, d->next, sg[i].dev, sg[i].len, name, flags);
		advance(&d->next, &d->avail_wrap, 1, d->num);
	}
	/* Release: the first descriptor's flags make all of the chain count (2.8.21). */
	__atomic_store_n(&d->desc[2 * head + 1],
			 one.len | (uint64_t)name << 32 | (uint64_t)first << 48, __ATOMIC_RELEASE);
	d->free = id->next;
	id->flight = flight;
	id->count = (uint16_t)n;
	d->nfree = (uint16_t)(d->nfree - n);
	d->busy++;
}

void driver_end_add(struct driver_end *d, uint16_t flight, const struct shadow_sg *sg, uint32_t n,
		    uint64_t *table, uint64_t dev)
{
	if (d->in_order)
		d->order[(d->oldest + d->busy) % d->num] = d->free;
	if (d->packed)
		add_packed(d, flight, sg, n, table, dev);
	else
		add_split(d, flight, sg, n, table, dev);
}

void driver_end_publish(struct driver_end *d)
{
	/* Release: buffers, descriptors and entries before the index (2.7.13.3). */
	if (!d->packed)
		vring_release16(&d->driver[1], d->next);
}

bool driver_end_must_kick(struct driver_end *d)
{
	uint16_t old = d->kicked;

	if (old == d->next && !d->packed)
		return false;
	d->kicked = d->next;
	/* The device publishes its wish, then looks at the ring; this side the reverse. */
	vring_full_barrier();
	if (d->packed)
		return vring_packed_event(d->device, d->num, d->next, d->avail_wrap, old);
	if (d->event_idx)
		return vring_need_event(vring_load16(&d->device[2 + 4 * d->num]), d->next, old);
	return !(vring_load16(&d->device[0]) & VRING_NO_NOTIFY);
}

static int refuse(const char **why, const char *reason, uint32_t *bad, uint32_t value)
{
	*why = reason;
	*bad = value;
	return -EBADMSG;
}

/* Ends what is in flight under this id. */
static int take_back(struct driver_end *d, uint32_t name, uint16_t *flight, const char **why,
		     uint32_t *bad)
{
	struct driver_id *id;

	if (name >= d->num)
		return refuse(why, "a used id lies outside the ring", bad, name);
	id = &d->ids[name];
	if (id->flight == DRIVER_END_FREE)
		return refuse(why, "a used id is not in flight", bad, name);
	*flight = id->flight;
	id->flight = DRIVER_END_FREE;
	/* Last in the queue of those that are free: an id is used again as late as can be, so that one
	 * that a device uses twice is mostly not in flight at the second time. */
	if (d->packed ? d->busy == d->num : !d->nfree)
		d->free = (uint16_t)name;
	else
		d->ids[d->tail].next = (uint16_t)name;
	d->tail = d->packed ? (uint16_t)name : id->last;
	d->nfree = (uint16_t)(d->nfree + id->count);
	d->busy--;
	return 1;
}

/* How many chains a used entry with this id stands for. Returns -EBADMSG if it can be for none. */
static int open_batch(struct driver_end *d, uint32_t name, uint32_t len, uint16_t ahead,
		      const char **why, uint32_t *bad)
{
	uint16_t n = 1;

	if (name >= d->num)
		return refuse(why, "a used id lies outside the ring", bad, name);
	if (d->ids[name].flight == DRIVER_END_FREE)
		return refuse(why, "a used id is not in flight", bad, name);
	/* It is in flight, so it is found. */
	while (d->order[(d->oldest + n - 1) % d->num] != name)
		n++;
	if (n > ahead)
		return refuse(why, "a chain is used before an earlier one, in spite of IN_ORDER",
			      bad, name);
	d->batch = n;
	d->batch_len = len;
	return 1;
}

/* The next one of a batch. */
static int take_oldest(struct driver_end *d, uint16_t *flight, uint32_t *len, const char **why,
		       uint32_t *bad)
{
	uint16_t name = d->order[d->oldest];

	d->oldest = (uint16_t)((d->oldest + 1) % d->num);
	d->batch--;
	if (d->packed)
		advance(&d->used, &d->used_wrap, d->ids[name].count, d->num);
	else
		d->used++;
	*len = d->batch_len;
	(void)take_back(d, name, flight, why, bad);
	return d->batch ? 2 : 1;
}

/* Packed: whether a descriptor whose second half is this has been used. */
static bool is_used(const struct driver_end *d, uint64_t half)
{
	uint16_t flags = (uint16_t)(half >> 48);

	return !!(flags & VRING_AVAIL) == d->used_wrap && !!(flags & VRING_USED) == d->used_wrap;
}

int driver_end_reap(struct driver_end *d, uint16_t *flight, uint32_t *len, const char **why,
		    uint32_t *bad)
{
	uint16_t ahead = d->num; /* used entries from here on */
	uint32_t name;
	int rc;

	if (d->batch)
		return take_oldest(d, flight, len, why, bad);
	if (d->packed) {
		/* Acquire: the buffer has been written (2.8.21.1). Length and id come with the flags, in this one
		 * load: of a second one the device could make an entry that it has not used. */
		uint64_t half = __atomic_load_n(&d->desc[2 * d->used + 1], __ATOMIC_ACQUIRE);

		if (!is_used(d, half))
			return 0;
		if (!d->busy)
			return refuse(why, "a descriptor is marked used, but none is in flight",
				      bad, d->used);
		*len = (uint32_t)half;
		name = (uint16_t)(half >> 32);
	} else {
		/* Acquire: entries and buffers up to this index have been written (2.7.14). */
		uint16_t idx = vring_acquire16(&d->device[1]), i = d->used & (d->num - 1);
		const uint32_t *entry = (const uint32_t *)(const void *)(d->device + 2) + 2 * i;

		ahead = (uint16_t)(idx - d->used);
		if (!ahead)
			return 0;
		if (ahead > d->busy)
			return refuse(why, "the used index is ahead of what is in flight", bad,
				      idx);
		name = __atomic_load_n(&entry[0], __ATOMIC_RELAXED);
		*len = __atomic_load_n(&entry[1], __ATOMIC_RELAXED);
	}
	if (d->in_order) {
		rc = open_batch(d, name, *len, ahead, why, bad);
		return rc < 0 ? rc : take_oldest(d, flight, len, why, bad);
	}
	rc = take_back(d, name, flight, why, bad);
	if (rc > 0 && d->packed)
		advance(&d->used, &d->used_wrap, d->ids[name].count, d->num);
	else if (rc > 0)
		d->used++;
	return rc;
}

bool driver_end_pending(const struct driver_end *d)
{
	if (d->batch)
		return true;
	if (!d->packed)
		return vring_acquire16(&d->device[1]) != d->used;
	return is_used(d, vring_load64(&d->desc[2 * d->used + 1]));
}

void driver_end_quiet(struct driver_end *d)
{
	if (d->quiet)
		return;
	d->quiet = true;
	if (d->packed)
		vring_store16(&d->driver[1], VRING_EVENT_DISABLE);
	else if (!d->event_idx)
		vring_store16(&d->driver[0], VRING_NO_NOTIFY);
	else /* The position that is farthest off (2.7.10): not even the next entry is worth a call. */
		vring_store16(&d->driver[2 + d->num], (uint16_t)(d->used - 1));
}

bool driver_end_listen(struct driver_end *d)
{
	d->quiet = false;
	if (d->packed) {
		vring_store16(&d->driver[0],
			      (uint16_t)(d->used | (uint16_t)(d->used_wrap ? 0x8000 : 0)));
		/* Release: the flags make the offset count. */
		vring_release16(&d->driver[1],
				d->event_idx ? VRING_EVENT_DESC : VRING_EVENT_ENABLE);
	} else if (d->event_idx) {
		vring_store16(&d->driver[2 + d->num], d->used);
	} else {
		vring_store16(&d->driver[0], 0);
	}
	vring_full_barrier();
	return driver_end_pending(d);
}

bool driver_end_untaken(const struct driver_end *d, uint32_t base)
{
	uint32_t at, left;

	if (!d->packed)
		return (uint16_t)(d->next - (uint16_t)base) == d->busy;
	at = base & 0x7fff;
	left = d->num - d->nfree;
	if (at >= d->num)
		return false;
	/* The wrap counters tell a full ring from an empty one. */
	if ((base >> 15 & 1) == d->avail_wrap)
		return d->next >= at && d->next - at == left;
	return (uint32_t)d->next + d->num - at == left;
}

bool driver_end_seems_untaken(const struct driver_end *d, bool idle)
{
	if (d->packed || !d->event_idx)
		return idle;
	/* It asks for the next kick after what it has taken (virtio 1.2, 2.7.10). */
	return (uint16_t)(d->next - vring_load16(&d->device[2 + 4 * d->num])) == d->busy;
}
