/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * device_end.h - the device's end of the guest's ring
 *
 * Theory of operation: relay/device_end.c.
 */
#ifndef RELAY_DEVICE_END_H
#define RELAY_DEVICE_END_H

#include "guest.h"
#include "vring.h"

/* Segments of one chain. As many as QEMU's devices take (VIRTQUEUE_MAX_SIZE). */
#define CHAIN_MAX 1024

struct chain_seg {
	uint64_t gpa;
	uint32_t len; /* never 0 */
};

/* A chain, read once and checked: all of it is memory, and what is read comes before what is
 * written. */
struct chain {
	uint16_t id;	/* by which the driver knows it */
	uint16_t count; /* descriptors that it takes in the ring */
	uint16_t nout;	/* segments that the device reads, first in segs */
	uint16_t nin;	/* segments that it writes */
	uint32_t out;	/* bytes */
	uint32_t in;
	uint64_t bad; /* when refused: the value that was wrong */
	uint32_t bad_len;
	struct chain_seg segs[CHAIN_MAX];
};

struct device_end {
	bool packed;
	bool event_idx;
	bool avail_wrap; /* packed: wrap counters */
	bool used_wrap;
	bool called; /* the driver has been notified at least once: signalled counts */
	bool quiet;  /* it has been told not to notify */
	uint16_t num;
	uint16_t next; /* position of the next chain to fetch */
	uint16_t seen; /* split: avail index as last read */
	uint16_t used; /* position of the next used entry */
	uint16_t signalled;
	uint64_t *desc;
	uint16_t *driver; /* split: avail ring; packed: the driver's event suppression */
	uint16_t *device; /* split: used ring; packed: the device's event suppression */
};

/**
 * device_end_init - begin at the driver's ring
 * @num:    entries, checked by ring_check_num()
 * @packed: layout
 * @event_idx: VIRTIO_F_EVENT_IDX has been negotiated
 * @desc, @driver, @device: the three parts of the ring as mapped, whole and aligned
 * @base:   as SET_VRING_BASE has it
 */
void device_end_init(struct device_end *e, uint16_t num, bool packed, bool event_idx, void *desc,
		     void *driver, void *device, uint32_t base);

/**
 * device_end_base - where the next device has to go on, as GET_VRING_BASE has it
 */
uint32_t device_end_base(const struct device_end *e);

/**
 * device_end_fetch - read the next chain
 * @g:	 where its memory is
 * @c:	 filled in, as far as it was read
 * @why: set to the reason if the driver has broken a rule
 *
 * Does not move on: the chain stays where it is until device_end_take().
 *
 * Return: 1; 0 if there is none; -EBADMSG.
 */
int device_end_fetch(struct device_end *e, struct guest *g, struct chain *c, const char **why);

/**
 * device_end_walk - read one chain of a split ring by its head
 *
 * All else as for device_end_fetch().
 */
int device_end_walk(struct device_end *e, struct guest *g, uint16_t head, struct chain *c,
		    const char **why);

/**
 * device_end_parse - read one chain of a packed ring from a copy
 * @descs: its @n descriptors, in the order of the ring, in private memory
 *
 * All else as for device_end_fetch().
 */
int device_end_parse(struct device_end *e, struct guest *g, const uint64_t *descs, uint16_t n,
		     struct chain *c, const char **why);

/**
 * device_end_take - move past the chain that device_end_fetch() has read
 */
void device_end_take(struct device_end *e, const struct chain *c);

/**
 * device_end_pending - whether there may be a chain; as cheap as a load
 */
bool device_end_pending(struct device_end *e);

/**
 * device_end_use - give a chain back to the driver
 * @id, @count: of the chain
 * @len:	bytes that have been written into it
 *
 * A packed ring's driver may see it at once, a split one's after device_end_publish().
 */
void device_end_use(struct device_end *e, uint16_t id, uint16_t count, uint32_t len);

/**
 * device_end_publish - let the driver see what has been used
 */
void device_end_publish(struct device_end *e);

/**
 * device_end_must_call - whether the driver wants to be notified of what has been used
 *
 * To be asked once after each device_end_publish().
 */
bool device_end_must_call(struct device_end *e);

/**
 * device_end_quiet - tell the driver that it need not notify
 */
void device_end_quiet(struct device_end *e);

/**
 * device_end_listen - tell the driver to notify
 *
 * Return: whether something has become available meanwhile: it may not notify of that.
 */
bool device_end_listen(struct device_end *e);

/**
 * device_end_unfetch - put chains back that have been fetched last
 * @ids: @n chains in the order in which they were fetched
 * @descs: how many descriptors they take, in a packed ring
 * @tail: they are the last ones that were fetched; in a split ring any will do
 *
 * The driver must not see this ring run any more. Return: 0; -EINVAL if this layout cannot.
 */
int device_end_unfetch(struct device_end *e, const uint16_t *ids, uint16_t n, uint32_t descs,
		       bool tail);

#endif
