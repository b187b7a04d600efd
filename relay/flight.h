/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * flight.h - a chain, from when it is fetched from the guest's ring to when it is used there
 *
 * Theory of operation
 * -------------------
 * Its record is private memory. It is either placed (its bytes are in the pool and the backend has it) or parked
 * (no backend has it; only what the guest offered is known).
 */
#ifndef RELAY_FLIGHT_H
#define RELAY_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "device_end.h"
#include "driver_end.h"

#define FLIGHT_NONE   UINT16_MAX
#define FLIGHT_FEW    8		      /* parts that a flight's own record holds */
#define FLIGHT_PARTS  (2 * CHAIN_MAX) /* parts that any flight may have */
#define FLIGHT_LARGE  1024	      /* flights of a queue with more than FLIGHT_FEW parts */
#define BLOCK_BYTES   512u	      /* in the pool, for each flight: */
#define BLOCK_ENTRIES 16u	      /* an indirect table, 256 bytes */
#define BLOCK_GATHER  256u	      /* and room for small segments, the other 256 */
#define SMALL_SEG     128u	      /* segments up to this long are gathered there */
#define RUN_MAX	      (1u << 20)      /* bytes that are asked of the pool in one piece */

/* A stretch of a chain that is in one piece both in the guest and in the pool. */
struct part {
	uint64_t gpa;
	uint32_t at;	   /* offset in the pool */
	uint32_t len : 31; /* never 0 */
	uint32_t owns : 1; /* a slot starts at @at, which ends with the flight */
};

struct flight {
	struct part *parts; /* few, or one of the queue's large ones */
	uint64_t since;	    /* when it was fetched, ns */
	uint16_t next;	    /* in the order of fetching; free ones: the next free */
	uint16_t prev;
	uint16_t id; /* the driver's */
	uint16_t count;
	uint16_t nout; /* parts that the device reads, the first ones */
	uint16_t nin;
	uint16_t large; /* number of its large record, or FLIGHT_NONE */
	bool placed;
	bool done;	/* with IN_ORDER: used by the device, and waits for those before it */
	uint32_t order; /* counts chains as they are fetched */
	uint32_t out;	/* bytes */
	uint32_t in;
	uint16_t table_n;  /* entries of its indirect table in the pool */
	uint16_t entry;	   /* packed: its first one in the in-flight buffer */
	uint32_t table;	   /* offset of the slot that its indirect table has in the pool; 0: none */
	uint32_t held;	   /* bytes of the pool's slots that it has */
	uint32_t used_len; /* when done */
	struct part few[FLIGHT_FEW];
};

/* A run of slots that is kept. */
struct kept {
	uint32_t at;
	uint32_t size; /* of the slot */
};

#define KEPT_MAX 64
#define KEPT_NS	 UINT64_C(10000000)

struct queue;
struct shadow;

/* place.c */

/**
 * place_chain - bring a chain into the pool
 * @q:	the queue, its backend's end attached
 * @f:	the flight's record; parts, placed and held are set
 * @c:	the chain
 * @sg: filled with what to tell the backend; room for FLIGHT_PARTS
 *
 * Return: the number of entries in @sg; -ENOSPC with everything as before, if there is no room now;
 * -E2BIG if there never will be.
 */
int place_chain(struct queue *q, struct flight *f, const struct chain *c, struct shadow_sg *sg);

/**
 * place_back - bring what the device has written to the guest, clear the slots and free them
 * @len: bytes from the first writable one on; at most the flight's
 *
 * With 0 nothing is written: what is placed is merely taken out of the pool.
 */
void place_back(struct queue *q, struct flight *f, uint32_t len);

/**
 * place_chain_of - the chain that a flight was made of
 */
void place_chain_of(const struct flight *f, struct chain *c);

/**
 * place_keep - the other way round, for a flight that is not placed
 *
 * Return: false if the chain is long and @q has no large record free; it has if @f had one.
 */
bool place_keep(struct queue *q, struct flight *f, const struct chain *c);

/**
 * place_large_init - all of a queue's large records are free
 */
void place_large_init(struct queue *q);

/* kept.c */

/**
 * kept_put - keep a run that the device has read; it is the queue's no more
 * @at: offset of its slot
 */
void kept_put(struct queue *q, uint32_t at);

/**
 * kept_take - a run of @len bytes or little more, to be written over by what the device reads
 * @at, @size: set to where its slot is
 *
 * Return: whether there is one; from @len on it is clear.
 */
bool kept_take(struct queue *q, uint64_t len, uint32_t *at, uint64_t *size);

/**
 * kept_make_room - give runs back if the queue has too much with what it keeps and @len bytes more
 */
void kept_make_room(struct queue *q, uint64_t len);

/* Clear and give back a queue's runs, all queues' of all loops: whether there were any; the pool is
 * gone. */
bool kept_flush(struct queue *q);
bool kept_flush_all(struct shadow *s);
void kept_forget(struct queue *q);

/* used_len.c */

/**
 * used_len_copy - how many bytes of what a device may write are to be brought back
 * @f:	 the flight
 * @len: what the device says that it has written, less than the flight's
 */
uint32_t used_len_copy(struct queue *q, const struct flight *f, uint32_t len);

#define USED_LEN_TRUST 64

#endif
