/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * queue.h - a queue of shadow mode: the guest's ring, the shadow ring, and the chains in flight between them
 *
 * Theory of operation: relay/queue.c and relay/flow.c.
 */
#ifndef RELAY_QUEUE_H
#define RELAY_QUEUE_H

#include "device_end.h"
#include "driver_end.h"
#include "flight.h"
#include "ring.h"

#define LATENCY_BUCKETS 16 /* bucket i: up to 2^(FIRST + i) ns; the last: all above */
#define LATENCY_FIRST	12
#define ADDED_FIRST	8

struct queue_stats {
	uint64_t requests;
	uint64_t out;
	uint64_t in;
	uint64_t copies;
	uint64_t kicks_in; /* from the guest */
	uint64_t kicks;	   /* to the backend */
	uint64_t calls_in; /* from the backend */
	uint64_t calls;	   /* to the guest */
	uint64_t full;
	uint64_t resubmitted;
	uint64_t wrong_lengths; /* used lengths that were too short to be true */
	uint64_t latency_sum;	/* ns */
	uint64_t seen;		/* the queue has run */
	uint64_t latency[LATENCY_BUCKETS];
	uint64_t added_sum[2];		    /* ns */
	uint64_t added[2][LATENCY_BUCKETS]; /* downwards, upwards */
};

struct loop;
struct relay;

/* What a queue is served by: one of the loops, in turn with the loop's other queues. */
struct queue {
	_Alignas(64) struct shadow *shadow; /* queues side by side are of different threads */
	struct loop *loop;
	uint16_t index;
	bool guest_on;	/* the guest's end is attached: flights is there */
	bool back_on;	/* the backend's end is */
	bool broken;	/* the guest's ring is not read any more */
	bool broke;	/* since a moment ago: the front-end has to be told */
	bool active;	/* in the loop's list */
	bool waits;	/* its next chain found no room; said in full */
	bool outgrows;	/* and there is none before the pool grows */
	bool tried;	/* and is about to be tried once more, before the queue sleeps */
	bool whole;	/* used lengths are not believed */
	bool streams;	/* so much is in flight that it is brought back past the caches (place.c) */
	bool in_order;	/* the guest gets its chains back in the order in which it offered them */
	uint8_t honest; /* short used lengths that were right, up to USED_LEN_TRUST */
	uint16_t large_free;
	uint16_t flight_free;
	uint16_t first; /* flights in the order of fetching */
	uint16_t last;
	uint32_t fetched; /* counts chains */
	uint16_t parked;  /* the first flight that has to be placed, or FLIGHT_NONE */
	uint16_t nflights;
	uint16_t nlarge;
	struct device_end guest;
	struct driver_end back;
	struct flight *flights; /* as many as the guest's ring has entries */
	struct part *large;
	uint16_t *large_next;
	uint8_t *block; /* BLOCK_BYTES in the pool for each flight */
	uint32_t block_at;
	uint32_t ring_at; /* the shadow ring in the pool */
	void *memory;	  /* one mapping for flights and large */
	size_t memory_len;
	int kick; /* the guest's; the struct ring's */
	int call;
	int back_kick; /* the relay's own, for the backend */
	int back_call;
	uint64_t held; /* bytes of the pool that its flights have */
	uint64_t held_max;
	uint64_t kept_bytes;
	uint16_t nkept;
	struct kept kept[KEPT_MAX];
	uint64_t used_at; /* when there was something to do last, ns */
	uint64_t spin[2]; /* how long to look before sleeping, ns: with nothing in flight; else */
	struct vu_region ring_written[2]; /* where in the guest the ring is written, for the log */
	void *ledger;			  /* its part of the in-flight buffer, or NULL */
	uint64_t ledger_counter;
	uint16_t *ledger_next; /* packed: the links of its entries, as they were written */
	uint16_t ledger_free;
	uint16_t ledger_nfree;
	uint16_t
		ledger_done; /* packed: the entry that has been used and still counts, or FLIGHT_NONE */
	struct queue_stats stats;
};

/* To a counter that one thread writes and the control thread reads meanwhile. Relaxed: nothing
 * follows from it but itself. */
static inline void stats_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* flow.c */

/**
 * flow_step - move some chains through a queue, in both directions
 *
 * Return: whether there was anything to do. shadow->backend_broke is set if the backend has broken
 * a rule: nobody may touch its end from then on but flow_reap_rest().
 */
bool flow_step(struct queue *q);

/**
 * flow_reap_rest - take what a backend that has stopped or gone has used
 */
void flow_reap_rest(struct queue *q);

/* drain.c */

/**
 * drain - have the backend finish what it has of a queue, and stop the ring there
 *
 * @asked: by the front-end, which waits for the base and may go elsewhere with it
 *
 * If so it waits for as long as --drain allows. Afterwards the backend does not touch the queue's slots any more:
 * either its ring is stopped and what is left was never begun, or its connection is given up.
 *
 * Return: whether what is left in flight may go back into the guest's ring, which means that somebody
 * else may run it. False if a backend may still be at work on it.
 */
bool drain(struct relay *r, struct queue *q, bool asked);

/* queue.c */

/**
 * queue_attach_guest - begin at the guest's ring
 *
 * Return: 0; -ENOENT if its area is not in the guest's memory; -EINVAL if it can have no such ring;
 * -ENOMEM.
 */
int queue_attach_guest(struct queue *q, const struct ring *ring, uint64_t features);

/**
 * queue_attach_back - make a shadow ring in the pool
 * @features: as told to the backend
 *
 * Flights that are parked go down with the next flow_step().
 *
 * Return: 0, -ENOSPC if the pool has no room for it, or another negative errno.
 */
int queue_attach_back(struct queue *q, uint64_t features);

/**
 * queue_detach_back - park what is in flight and give the shadow ring back
 * @free_slots: the pool stays: give its slots back
 */
void queue_detach_back(struct queue *q, bool free_slots);

/**
 * queue_hand_back - put parked flights back into the guest's ring
 *
 * Return: whether none is left; those that are stay parked.
 */
bool queue_hand_back(struct queue *q);

/**
 * queue_log_ring - the device's part of the ring has been written
 */
void queue_log_ring(struct queue *q);

/**
 * queue_detach_guest - leave the guest's ring; flights that are left are dropped
 */
void queue_detach_guest(struct queue *q);

/**
 * queue_take_flight - a free record, put last in the order; FLIGHT_NONE if there is none
 * queue_end_flight - give one back
 */
uint16_t queue_take_flight(struct queue *q);
void queue_end_flight(struct queue *q, uint16_t n);

#endif
