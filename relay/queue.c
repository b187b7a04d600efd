/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * queue.c - the two ends of a queue
 *
 * Theory of operation
 * -------------------
 * The guest's end is attached when the front-end starts the ring, and stays so over any number of
 * backends. The backend's end is attached when there is a backend, and lies in the pool that this
 * backend was given. When a backend goes, its end goes with all of the pool, and what was in flight
 * is parked: the guest's buffers of each flight are known, so it can be placed again, in another
 * pool. That is why a backend that only seems to be dead cannot write into what its successor uses.
 *
 * When the front-end stops a ring, the backend has been asked to finish first. What it has not
 * even looked at (a network card's empty receive buffers), and what a dead one has left, goes back
 * into the guest's ring: a split ring takes any set of chains back, since the slots of its avail
 * ring can be written again; a packed one only those that were fetched last, in one stretch. What
 * cannot go back stays parked, and goes down again if the ring is started where it was stopped.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ledger.h"
#include "shadow.h"

uint16_t queue_take_flight(struct queue *q)
{
	uint16_t n = q->flight_free;
	struct flight *f;

	if (n == FLIGHT_NONE)
		return n;
	f = &q->flights[n];
	q->flight_free = f->next;
	f->order = q->fetched++;
	f->done = false;
	f->next = FLIGHT_NONE;
	f->prev = q->last;
	if (q->last == FLIGHT_NONE)
		q->first = n;
	else
		q->flights[q->last].next = n;
	q->last = n;
	/* Statistics look at it meanwhile. */
	__atomic_store_n(&q->nflights, (uint16_t)(q->nflights + 1), __ATOMIC_RELAXED);
	return n;
}

void queue_end_flight(struct queue *q, uint16_t n)
{
	struct flight *f = &q->flights[n];

	if (f->large != FLIGHT_NONE) {
		q->large_next[f->large] = q->large_free;
		q->large_free = f->large;
		f->large = FLIGHT_NONE;
		f->parts = f->few;
	}
	if (f->prev == FLIGHT_NONE)
		q->first = f->next;
	else
		q->flights[f->prev].next = f->next;
	if (f->next == FLIGHT_NONE)
		q->last = f->prev;
	else
		q->flights[f->next].prev = f->prev;
	f->next = q->flight_free;
	q->flight_free = n;
	__atomic_store_n(&q->nflights, (uint16_t)(q->nflights - 1), __ATOMIC_RELAXED);
}

static size_t up(size_t n)
{
	return (n + 63) & ~(size_t)63;
}

/* Bounded by SHADOW_NUM and FLIGHT_LARGE, whatever a peer says. Pages that are never needed are
 * never there. */
static int get_memory(struct queue *q, uint16_t num)
{
	size_t flights = up(num * sizeof(struct flight)), ids = up(num * sizeof(struct driver_id)),
	       links = up(num * sizeof(uint16_t)), order = 2 * links, next, large;
	uint8_t *at;

	q->nlarge = num < FLIGHT_LARGE ? num : FLIGHT_LARGE;
	next = up(q->nlarge * sizeof(uint16_t));
	large = (size_t)q->nlarge * FLIGHT_PARTS * sizeof(struct part);
	/* The backend's ring may have up to twice as many entries: a power of two. */
	q->memory_len = flights + 2 * ids + links + order + next + large;
	at = mmap(NULL, q->memory_len, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return -errno;
	q->memory = at;
	q->flights = (void *)at;
	q->back.ids = (void *)(at + flights);
	q->ledger_next = (void *)(at + flights + 2 * ids);
	q->back.order = (void *)(at + flights + 2 * ids + links);
	q->large_next = (void *)(at + flights + 2 * ids + links + order);
	q->large = (void *)(at + flights + 2 * ids + links + order + next);
	for (uint16_t i = 0; i < num; i++) {
		q->flights[i].next = (uint16_t)(i + 1 < num ? i + 1 : FLIGHT_NONE);
		q->flights[i].large = FLIGHT_NONE;
		q->flights[i].parts = q->flights[i].few;
	}
	q->flight_free = 0;
	place_large_init(q);
	return 0;
}

static void *part(const struct guest *g, uint64_t user, uint64_t len, uint64_t align)
{
	uint8_t *p = user % align ? NULL : guest_user(g, user, len);

	/* The accesses need the alignment here, too. */
	return (uintptr_t)p % align ? NULL : p;
}

static struct vu_region written(const struct guest *g, uint64_t user, uint64_t size)
{
	struct vu_region v = {0};

	for (unsigned int i = 0; i < g->n; i++)
		if (user - g->regions[i].v.user < g->regions[i].v.size)
			v = (struct vu_region){
				.gpa = g->regions[i].v.gpa + (user - g->regions[i].v.user),
				.size = size,
			};
	return v;
}

/* The parts of the ring that the device writes. */
static void log_where(struct queue *q, const struct ring *ring, bool packed)
{
	const struct guest *g = &q->shadow->guest;

	q->ring_written[0] = written(g, ring->used, packed ? 4 : 6 + 8ull * ring->num);
	q->ring_written[1] = packed ? written(g, ring->desc, 16ull * ring->num)
				    /* Handing chains back writes it. */
				    : written(g, ring->avail, 6 + 2ull * ring->num);
}

void queue_log_ring(struct queue *q)
{
	for (unsigned int i = 0; i < 2; i++)
		dirty_mark(&q->shadow->dirty, q->ring_written[i].gpa, q->ring_written[i].size);
}

int queue_attach_guest(struct queue *q, const struct ring *ring, uint64_t features)
{
	const struct guest *g = &q->shadow->guest;
	bool packed = features & VU_BIT(VIRTIO_F_PACKED);
	bool event = features & VU_BIT(VIRTIO_F_EVENT_IDX);
	uint64_t extra = event ? 2 : 0;
	void *desc, *driver, *device;
	struct device_end end;
	int rc;

	if (!ring_check_num(ring->num, features) || ring->num > SHADOW_NUM)
		return -EINVAL;
	desc = part(g, ring->desc, 16ull * ring->num, 16);
	if (packed) {
		driver = part(g, ring->avail, 4, 4);
		device = part(g, ring->used, 4, 4);
	} else {
		driver = part(g, ring->avail, 4 + 2ull * ring->num + extra, 2);
		device = part(g, ring->used, 4 + 8ull * ring->num + extra, 4);
	}
	if (!desc || !driver || !device)
		return -ENOENT;
	device_end_init(&end, (uint16_t)ring->num, packed, event, desc, driver, device, ring->base);
	if (q->guest_on) {
		/* Stopped, with flights that could not be handed back. */
		if (q->guest.num == end.num && q->guest.packed == packed &&
		    device_end_base(&q->guest) == ring->base) {
			end.called = false;
			q->guest = end;
			log_where(q, ring, packed);
			return 0;
		}
		queue_detach_guest(q);
	}
	/* A used half of 0 beside that wrap counter is a ring of which all is in flight, which has just been
	 * excluded, or the half that DPDK's front-end leaves out: both halves are the same then. */
	if (packed && ring->base >> 15 == 1)
		device_end_init(&end, (uint16_t)ring->num, packed, event, desc, driver, device,
				ring->base | ring->base << 16);
	q->first = q->last = q->parked = FLIGHT_NONE;
	q->nflights = 0;
	q->held = q->held_max = 0;
	q->broken = q->broke = q->whole = false;
	q->honest = 0;
	q->in_order = features & VU_BIT(VIRTIO_F_IN_ORDER);
	q->guest = end;
	rc = get_memory(q, (uint16_t)ring->num);
	if (rc)
		return rc;
	q->guest_on = true;
	q->stats.seen = 1;
	log_where(q, ring, packed);
	ledger_begin(q);
	return 0;
}

static uint16_t shadow_num(const struct queue *q, bool packed)
{
	uint32_t num = 1;

	if (packed)
		return q->guest.num;
	while (num < q->guest.num)
		num *= 2;
	return (uint16_t)num;
}

static int take(struct queue *q, uint64_t len, uint32_t *at)
{
	struct shadow *s = q->shadow;
	struct sluice_slot slot;
	int rc = sluice_pool_alloc(&s->memfd->pool, len, 4096, &slot);

	if (rc == -ENOSPC && pool_grow(s))
		rc = sluice_pool_alloc(&s->memfd->pool, len, 4096, &slot);
	if (rc)
		return rc == -E2BIG ? -ENOSPC : rc;
	*at = (uint32_t)(slot.dev - SHADOW_DEV);
	/* A free slot may hold what the device has written into it. */
	memset(slot.cpu, 0, slot.size);
	s->rings += slot.size;
	return 0;
}

static void give(struct queue *q, uint32_t at)
{
	struct sluice_slot slot;

	if (sluice_pool_find(&q->shadow->memfd->pool, SHADOW_DEV + at, &slot))
		return;
	memset(slot.cpu, 0, slot.size);
	q->shadow->rings -= slot.size;
	sluice_pool_free(&q->shadow->memfd->pool, slot.dev);
}

int queue_attach_back(struct queue *q, uint64_t features)
{
	struct driver_end *d = &q->back;
	uint32_t parts[3];
	int rc;

	d->packed = features & VU_BIT(VIRTIO_F_PACKED);
	d->event_idx = features & VU_BIT(VIRTIO_F_EVENT_IDX);
	d->indirect = features & VU_BIT(VIRTIO_F_INDIRECT);
	d->in_order = features & VU_BIT(VIRTIO_F_IN_ORDER);
	d->num = shadow_num(q, d->packed);
	rc = take(q, driver_end_bytes(d->num, d->packed, parts), &q->ring_at);
	if (rc)
		return rc;
	rc = take(q, (uint64_t)q->guest.num * BLOCK_BYTES, &q->block_at);
	if (rc)
		goto no_blocks;
	q->block = q->shadow->pool + q->block_at;
	q->back_kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->back_call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = -errno;
	if (q->back_kick < 0 || q->back_call < 0)
		goto no_fds;
	driver_end_init(d, q->shadow->pool + q->ring_at);
	q->parked = q->first;
	q->back_on = true;
	return 0;
no_fds:
	if (q->back_kick >= 0)
		close(q->back_kick);
	if (q->back_call >= 0)
		close(q->back_call);
	give(q, q->block_at);
no_blocks:
	give(q, q->ring_at);
	return rc;
}

void queue_detach_back(struct queue *q, bool free_slots)
{
	if (!q->back_on)
		return;
	if (q->shadow->waiting == q)
		q->shadow->waiting = NULL;
	if (q->waits)
		q->loop->nwaits--;
	q->waits = q->outgrows = false;
	for (uint16_t n = q->first; n != FLIGHT_NONE; n = q->flights[n].next) {
		struct flight *f = &q->flights[n];

		if (f->placed && free_slots)
			place_back(q, f, 0);
		f->placed = false;
		f->table = f->held = 0;
	}
	if (free_slots)
		kept_flush(q);
	else
		kept_forget(q);
	q->held = 0;
	q->parked = q->first;
	q->back_on = false;
	close(q->back_kick);
	close(q->back_call);
	q->back_kick = q->back_call = -1;
	if (!free_slots)
		return;
	give(q, q->block_at);
	give(q, q->ring_at);
}

bool queue_hand_back(struct queue *q)
{
	static uint16_t ids[SHADOW_NUM];
	uint32_t descs = 0;
	uint16_t n = 0, at = q->first;
	bool tail;

	if (!q->nflights)
		return true;
	for (; at != FLIGHT_NONE; at = q->flights[at].next) {
		ids[n++] = q->flights[at].id;
		descs += q->flights[at].count;
	}
	/* Whether all that was fetched after the first of them is among them. */
	tail = q->fetched - q->flights[q->first].order == q->nflights;
	if (device_end_unfetch(&q->guest, ids, n, descs, tail))
		return false;
	queue_log_ring(q);
	while (q->first != FLIGHT_NONE) {
		ledger_handed_back(q, &q->flights[q->first]);
		queue_end_flight(q, q->first);
	}
	q->parked = FLIGHT_NONE;
	return true;
}

void queue_detach_guest(struct queue *q)
{
	if (!q->guest_on)
		return;
	munmap(q->memory, q->memory_len);
	q->memory = NULL;
	q->flights = NULL;
	q->guest_on = false;
	q->first = q->last = q->parked = FLIGHT_NONE;
	q->nflights = 0;
}
