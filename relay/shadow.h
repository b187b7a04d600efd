/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * shadow.h - what shadow mode keeps, and the parts that it is made of
 *
 * Theory of operation
 * -------------------
 * docs/SHADOW.md has the whole of it. The files:
 *   guest.c	    the guest's memory, mapped
 *   device_end.c   the guest's ring, where the relay is the device
 *   driver_end.c   the shadow ring in the pool, where the relay is the driver
 *   place.c	    a chain's bytes into slots of the pool, and back
 *   move.c	    bytes out of a slot, which is clear afterwards
 *   kept.c	    runs of slots that are written over instead of cleared
 *   used_len.c	    what may be believed of the length that a backend reports
 *   disk.c	    how long a disk's requests may be: the one device that is known
 *   flow.c	    chains through a queue: fetch, place, make available; reap, copy back, use
 *   queue.c	    the two ends of a queue: attaching, parking what is in flight, handing it back
 *   drain.c	    bringing a queue to rest before it is stopped
 *   ledger.c	    the in-flight buffer that the front-end keeps
 *   ledger_packed.c  the same for packed rings
 *   dirty.c	    the log for live migration
 *   shadow.c	    all queues: start and stop
 *   pool.c	    the pool: making it, dividing it, having it grow
 *   loop.c	    whose turn it is: queues with work, spinning, sleeping
 *   threads.c	    more than one loop: a thread each, and bringing them to rest
 *   stats.c	    counters, for the --stats socket
 *
 * A queue (queue.h) moves flights (flight.h) between the two rings; a loop (loop.h) serves queues.
 */
#ifndef RELAY_SHADOW_H
#define RELAY_SHADOW_H

#include <pthread.h>

#include <sluice/memfd.h>

#include "dirty.h"
#include "flight.h"
#include "guest.h"
#include "loop.h"
#include "queue.h"
#include "ring.h"

struct pollfd;
struct relay;
struct vu_msg;

#define SHADOW_DEV UINT64_C(0x100000000) /* the pool's first byte, as the backend has it */
#define SHADOW_NUM 4096			 /* entries of the largest ring in this mode */

enum refusal {
	REFUSED_CHAIN,	 /* the guest broke a rule of its ring */
	REFUSED_TOO_BIG, /* a chain longer than the pool can hold */
	REFUSED_USED,	 /* the backend broke a rule of its ring */
	REFUSED_LENGTH,	 /* a used length above what was offered */
	REFUSED_LOST,	 /* a buffer was not memory any more when it was to be written */
	REFUSED_RING, /* a ring that is not in the guest's memory, or of no size that it may have */
	REFUSALS
};

struct shadow_options {
	uint64_t pool_size;
	uint64_t pool_max;
	uint64_t poll_ns;
	bool huge_pages;
	unsigned int threads; /* that serve queues; 1: the one that does all else, too */
};

struct shadow {
	struct relay *relay;
	struct shadow_options options;
	struct guest guest;
	struct sluice_memfd *memfd; /* of this connection to the backend, or NULL */
	uint8_t *pool;		    /* its memory */
	uint64_t size;	       /* bytes of the pool that there are, or can be without a message */
	uint64_t reach;	       /* bytes that it may come to with this backend */
	uint64_t room;	       /* of size: what flights may have */
	uint64_t share;	       /* what each queue may have of it for certain */
	uint64_t chain_max;    /* of reach: bytes of the longest chain */
	uint64_t flight_max;   /* and the same with what it is rounded up to */
	uint64_t part_at;      /* ns; the pool gets no part before */
	bool wished;	       /* a queue wants the pool to get one; shared */
	bool missing_said;     /* that there is no memory for one has been said */
	bool fixed_said;       /* that there will be none has been said */
	uint64_t rings;	       /* bytes of the pool in shadow rings and blocks */
	bool strict_layout;    /* descriptors go down as the guest framed them */
	uint32_t seg_bytes;    /* the most that one descriptor may have, going down */
	int stats_fd;	       /* listening, or -1 */
	uint64_t memory_moves; /* until when memory is missing, ns */
	struct dirty dirty;
	void *ledger; /* the in-flight buffer of the front-end, or NULL */
	size_t ledger_len;
	uint64_t ledger_dev; /* which file it is in, and where */
	uint64_t ledger_ino;
	uint64_t ledger_offset;
	uint16_t ledger_queues;
	uint16_t ledger_num;
	uint64_t refused[REFUSALS];
	uint64_t connects;
	uint64_t pool_max_used;	   /* of pools that are gone */
	const char *backend_broke; /* set when the backend has to go; shared */
	unsigned int nloops;
	int trouble_fd; /* eventfd, by which loops tell the control thread; -1 with one loop */
	struct rest rest;
	pthread_mutex_t alone;		    /* who has waited for room tries again under it */
	pthread_mutex_t growing;	    /* the pool's size */
	_Alignas(64) uint64_t common;	    /* bytes that queues have above their shares; shared */
	_Alignas(64) struct queue *waiting; /* the one that gets common room next; shared */
	struct loop loops[LOOPS_MAX];
	struct queue queues[RING_MAX];
};

/* A lock that is needed only where there are threads. */
static inline void shadow_lock(struct shadow *s, pthread_mutex_t *lock)
{
	if (s->nloops > 1)
		pthread_mutex_lock(lock);
}

static inline void shadow_unlock(struct shadow *s, pthread_mutex_t *lock)
{
	if (s->nloops > 1)
		pthread_mutex_unlock(lock);
}

/* stats.c */

/**
 * stats_poll - what stats_serve() waits for
 * @p: set to what is to be polled
 *
 * Return: milliseconds after which it is to be called all the same, or -1.
 */
int stats_poll(const struct shadow *s, struct pollfd *p);

/**
 * stats_serve - take a client of s->stats_fd, or go on with the one that is there
 *
 * Context: does not block; to be called as stats_poll() says, or more often.
 */
void stats_serve(struct shadow *s);

/* pool.c */

/**
 * pool_sure - bytes that the pool comes to with any backend
 */
uint64_t pool_sure(const struct shadow_options *o);

/**
 * pool_open - make the pool of this connection, if there is none
 *
 * Return: 0 with the backend not told of it yet; -ENOMEM or another negative errno, with a line in the log; -ENOTCONN if the
 * backend has been lost over being asked what it takes.
 */
int pool_open(struct relay *r);

/**
 * pool_close - give it up: the connection is closed
 */
void pool_close(struct relay *r);

/**
 * pool_divide - how much each queue is sure of: whenever their number, the rings' memory or the pool's size changes
 */
void pool_divide(struct shadow *s);

/**
 * pool_grow - have the pool use more of what the backend has been told of
 *
 * Return: whether it is worth another try to get a slot. Context: any thread.
 */
bool pool_grow(struct shadow *s);

/**
 * pool_shrinks - whether the pool is larger than at first and will not stay so
 */
bool pool_shrinks(const struct shadow *s);

/**
 * pool_wish - a queue has found no room: have the backend told of more, if there may be more
 *
 * Context: the queue's thread. Tells nobody itself.
 */
void pool_wish(struct queue *q);

/**
 * pool_pause - milliseconds after which pool_see_to() is to be called, or -1
 */
int pool_pause(const struct shadow *s);

/**
 * pool_see_to - see to a wish, if anybody still waits
 *
 * Context: the control thread, while all loops rest. Waits for the backend; it may be lost afterwards.
 */
void pool_see_to(struct relay *r);

/**
 * pool_add_part - get a part, and tell the backend of it
 *
 * Return: whether there is more room. Context: as for pool_see_to().
 */
bool pool_add_part(struct relay *r);

/* shadow.c */

/**
 * shadow_init - at the start of the process
 * @options: kept
 *
 * Return: 0 or a negative errno. Context: before confine_relay().
 */
int shadow_init(struct shadow *s, struct relay *r, const struct shadow_options *options);

/* The front-end's and the backend's features, as the two sides of the relay have them. */
uint64_t shadow_features_up(uint64_t backend);
uint64_t shadow_features_down(uint64_t frontend, uint64_t backend);

/* Whether the backend has anything of any queue. */
bool shadow_at_work(const struct shadow *s);
void shadow_rings_start(struct relay *r);
void shadow_ring_stop(struct relay *r, unsigned int index, bool asked);
/* Stop every ring that has its area in a region that is about to go. */
void shadow_stop_in(struct relay *r, const struct vu_region *v);
/*
 * A region has been removed; one has been added. A front-end changes its memory while rings run, and
 * what is in flight lies in it: until it is complete again, for a bounded time, no chain is looked
 * at.
 */
void shadow_memory_goes(struct relay *r);
void shadow_memory_came(struct relay *r);
/* The fd of a kick is about to be replaced; fds of a ring have been. */
void shadow_kick_goes(struct relay *r, unsigned int index);
void shadow_ring_fds(struct relay *r, unsigned int index);
/* The connection to the backend is closed. */
void shadow_backend_gone(struct relay *r);
void shadow_session_end(struct relay *r);

void shadow_refused(struct queue *q, const char *side, enum refusal what, const char *why,
		    uint64_t value, uint32_t len);

/**
 * now_ns - nanoseconds on a clock that only goes forward
 */
uint64_t now_ns(void);

/* disk.c */

/**
 * disk_features_up - what a disk's guest is offered beside what its backend offers
 *
 * Return: feature bits; none if this is no disk, or not in shadow mode.
 */
uint64_t disk_features_up(const struct relay *r);

/**
 * disk_features_down - of @down, what a disk's backend is told that offers @backend
 */
uint64_t disk_features_down(uint64_t down, uint64_t backend);

/**
 * disk_limit - lower a disk's size_max and seg_max to what the pool can hold (virtio 1.2, 5.2.4)
 * @m: the backend's answer to GET_CONFIG, checked to fit; whatever of the two is in it is changed
 *
 * Notes too how long a descriptor the backend takes. Nothing happens if this is no disk.
 *
 * Return: 0, or a negative errno if the backend has been lost over it. Context: asks the backend, and waits.
 */
int disk_limit(struct relay *r, struct vu_msg *m);

/* threads.c */

/* Whether loops are to rest: looked at by each between two turns. */
static inline bool threads_held(const struct shadow *s)
{
	return __atomic_load_n(&s->rest.held, __ATOMIC_RELAXED);
}

#endif
