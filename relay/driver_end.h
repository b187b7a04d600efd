/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * driver_end.h - the driver's end of a shadow ring
 *
 * Theory of operation: relay/driver_end.c.
 */
#ifndef RELAY_DRIVER_END_H
#define RELAY_DRIVER_END_H

#include <stddef.h>

#include "vring.h"

#define DRIVER_END_FREE UINT16_MAX

/* One buffer as the backend is told it. */
struct shadow_sg {
	uint64_t dev;
	uint32_t len;
	bool write; /* by the device */
};

/* What is known of one id (split: the number of a chain's first descriptor). Private memory. */
struct driver_id {
	uint16_t flight; /* the owner's, or DRIVER_END_FREE: not in flight */
	uint16_t count;	 /* descriptors */
	uint16_t next;	 /* split: of a descriptor, the next one in its chain or in the free list;
			    packed: the next free id */
	uint16_t last;	 /* split: the chain's last descriptor */
};

struct driver_end {
	bool packed;
	bool event_idx;
	bool indirect;
	bool avail_wrap;
	bool used_wrap;
	bool quiet;
	bool in_order; /* VIRTIO_F_IN_ORDER */
	uint16_t num;
	uint16_t next;	 /* position of the next descriptor or avail entry */
	uint16_t used;	 /* position of the next used entry to read */
	uint16_t kicked; /* position at the last notification */
	uint16_t free;	 /* first free descriptor or id */
	uint16_t tail;	 /* the last of them, if there is one */
	uint16_t nfree;	 /* descriptors that are free */
	uint16_t busy;	 /* ids in flight */
	uint64_t *desc;
	uint16_t *driver;
	uint16_t *device;
	struct driver_id *ids; /* num of them */
	/* For in_order only: */
	uint16_t *order; /* num of them: ids as they were made available, a ring */
	uint16_t oldest; /* in order[], of busy ones */
	uint16_t batch;	 /* of these, how many a used entry that has been read still stands for */
	uint32_t batch_len; /* its length, which is the last one's */
};

/**
 * driver_end_bytes - how much shared memory a ring takes
 * @parts: set to the offsets of the descriptors, the driver's and the device's part
 */
uint32_t driver_end_bytes(uint16_t num, bool packed, uint32_t parts[3]);

/**
 * driver_end_init - a new ring
 * @d:	  packed, event_idx, indirect, in_order, num, ids and order set
 * @ring: driver_end_bytes() of shared memory, all zero
 */
void driver_end_init(struct driver_end *d, void *ring);

/**
 * driver_end_base - where the backend has to start, as SET_VRING_BASE has it
 */
uint32_t driver_end_base(const struct driver_end *d);

/**
 * driver_end_room - whether a chain of @n buffers can be made available
 */
bool driver_end_room(const struct driver_end *d, uint32_t n);

/**
 * driver_end_add - make a chain available
 * @flight: what driver_end_reap() is to say
 * @sg, @n: its buffers, at least one; there is room
 * @table:  where @n descriptors can be put for an indirect chain, NULL for one that is not
 * @dev:    the same for the device
 *
 * A split ring's device sees it after driver_end_publish().
 */
void driver_end_add(struct driver_end *d, uint16_t flight, const struct shadow_sg *sg, uint32_t n,
		    uint64_t *table, uint64_t dev);

/**
 * driver_end_publish - let the device see what has been added
 */
void driver_end_publish(struct driver_end *d);

/**
 * driver_end_must_kick - whether the device wants to be notified; once after each publish
 */
bool driver_end_must_kick(struct driver_end *d);

/**
 * driver_end_reap - take back a chain that the device has used
 * @flight: set to what it was added with
 * @len:    set to the bytes written, as the device says: anything
 * @why:    set to the reason if the device has broken a rule
 * @bad:    set to the value that was wrong
 *
 * Return: 1; 2 if one used entry stood for this chain and later ones, so that it has been used completely
 * (virtio 1.2, 2.7.9 and 2.8.9), and @len is not set; 0 if there is none; -EBADMSG.
 */
int driver_end_reap(struct driver_end *d, uint16_t *flight, uint32_t *len, const char **why,
		    uint32_t *bad);

/**
 * driver_end_pending - whether the device may have used something; as cheap as a load
 */
bool driver_end_pending(const struct driver_end *d);

/**
 * driver_end_quiet - tell the device that it need not notify
 */
void driver_end_quiet(struct driver_end *d);

/**
 * driver_end_listen - tell the device to notify
 *
 * Return: whether something has been used meanwhile: it may not notify of that.
 */
bool driver_end_listen(struct driver_end *d);

/**
 * driver_end_untaken - whether a device that has stopped at @base has taken nothing that it has not
 * used
 */
bool driver_end_untaken(const struct driver_end *d, uint32_t base);

/**
 * driver_end_seems_untaken - the same, guessed while it runs
 * @idle: it has not used anything for a while
 */
bool driver_end_seems_untaken(const struct driver_end *d, bool idle);

#endif
