/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * ring.h - what the relay knows of each virtqueue
 *
 * Theory of operation: relay/ring.c.
 */
#ifndef RELAY_RING_H
#define RELAY_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "memory.h"
#include "vu.h"

#define RING_MAX     256 /* what the index of a kick message can name */
#define RING_MAX_NUM 32768

struct ring {
	uint32_t num; /* 0: not set */
	uint32_t base;
	uint64_t desc; /* the front-end's user addresses */
	uint64_t used;
	uint64_t avail;
	int kick; /* fds of the front-end, or -1 */
	int call;
	int err;
	bool addr_set;
	bool call_set; /* the front-end has said how to be called, be it not at all */
	bool kick_set; /* the same for kicks: the ring is started, as the front-end sees it */
	bool enabled;
	bool live;    /* started at the backend */
	bool refused; /* its area is not in shared memory, and that has been said */
	bool broken;  /* cannot be started until the driver sets it up anew */
	bool recover; /* was live when the backend left: what it left undone is to be found */
	bool lost;    /* and its base is not known either: only a reset of the device helps */
	bool owed;    /* stopped, and not all before base has been finished: see rings.c */
};

/* Where a ring lies, in shared memory. */
struct ring_area {
	struct region *desc;
	struct region *used;
	struct region *avail;
};

/**
 * ring_init - a ring that has never been set up; owns no fd
 */
void ring_init(struct ring *ring);

/**
 * ring_reset - close its fds and forget everything
 */
void ring_reset(struct ring *ring);

/**
 * ring_check_num - may a ring have @num entries
 * @features: as negotiated; a split ring has a power of two (virtio 1.2, 2.7)
 */
bool ring_check_num(uint32_t num, uint64_t features);

/**
 * ring_locate - find a ring's area in shared memory
 * @ring:     with number and addresses set
 * @mem:      the memory
 * @features: as negotiated, for the layout (virtio 1.2, 2.7 and 2.8)
 * @area:     filled in on success
 *
 * Return: NULL; otherwise why the ring cannot be used.
 */
const char *ring_locate(const struct ring *ring, struct memory *mem, uint64_t features,
			struct ring_area *area);

/**
 * ring_backend_addr - an address as the backend is told it
 * @region: shared region that holds it
 * @user:   the front-end's user address
 *
 * The relay gives each region a user address of its own making: its guest address. So nothing of
 * the front-end's address space shows.
 */
uint64_t ring_backend_addr(const struct region *region, uint64_t user);

/**
 * ring_signal - add one to an eventfd
 * @fd: the front-end's, or -1 for none
 *
 * Either peer can fill the counter, and writing would then block: an alarm ends it after a second.
 */
void ring_signal(int fd);

/**
 * ring_signal_prepare - set up the alarm of ring_signal(), for the calling thread
 *
 * Context: once in each thread that is to signal, before the seccomp filter.
 *
 * Return: 0, or a negative errno: -EAGAIN if the user has no timer or signal left.
 */
int ring_signal_prepare(void);

/**
 * ring_signal_often - ring_signal() for where it is done all the time
 * @fd:  an eventfd, or -1 for none
 * @now: nanoseconds, on the clock of relay_now_ms()
 *
 * One system call, and one more twice a second: the alarm is set ahead and stays.
 */
void ring_signal_often(int fd, uint64_t now);

#endif
