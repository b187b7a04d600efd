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
 *   shadow.c	    all queues: start and stop, the pool
 *   loop.c	    whose turn it is: queues with work, spinning, sleeping
 *   threads.c	    more than one loop: a thread each, and bringing them to rest
 *   stats.c	    counters, for the --stats socket
 *
 * A flight is a chain between being fetched from the guest's ring and being used there. Its record
 * is private memory. It is either placed (its bytes are in the pool and the backend has it) or
 * parked (no backend has it; only what the guest offered is known).
 */
#ifndef RELAY_SHADOW_H
#define RELAY_SHADOW_H

#include <pthread.h>

#include <sluice/memfd.h>

#include "device_end.h"
#include "dirty.h"
#include "driver_end.h"
#include "ring.h"

#define SHADOW_DEV    UINT64_C(0x100000000) /* the pool's first byte, as the backend has it */
#define SHADOW_NUM    4096		    /* entries of the largest ring in this mode */
#define LOOPS_MAX     64		    /* threads that serve queues */
#define LOOP_WAKE     (2u * RING_MAX) /* in an epoll fd: the loop's own eventfd, and no queue's */
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

enum refusal {
	REFUSED_CHAIN,	 /* the guest broke a rule of its ring */
	REFUSED_TOO_BIG, /* a chain longer than the pool can hold */
	REFUSED_USED,	 /* the backend broke a rule of its ring */
	REFUSED_LENGTH,	 /* a used length above what was offered */
	REFUSED_LOST,	 /* a buffer was not memory any more when it was to be written */
	REFUSED_RING, /* a ring that is not in the guest's memory, or of no size that it may have */
	REFUSALS
};

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
struct pollfd;
struct vu_msg;

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
	bool tried;	/* and is about to be tried once more, before the queue sleeps */
	bool whole;	/* used lengths are not believed */
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
	uint64_t slept_at;
	uint64_t spin;			  /* how long to look before sleeping, ns */
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

struct shadow_options {
	uint64_t pool_size;
	uint64_t pool_max;
	uint64_t poll_ns;
	bool huge_pages;
	unsigned int threads; /* that serve queues; 1: the one that does all else, too */
};

/*
 * A loop serves the queues whose number, divided by the number of loops, leaves the loop's. With one
 * loop, the thread that does everything else runs it in between; otherwise each has a thread
 * (threads.c). What is not said to be shared is touched by the loop's thread, and by the control thread
 * while all loops rest.
 */
struct loop {
	struct shadow *shadow;
	unsigned int index;
	int epoll;
	int wake; /* eventfd, by which another thread has it look; -1 if it has no thread */
	unsigned int nactive;
	uint16_t active[RING_MAX];
	uint64_t now;	  /* ns */
	uint64_t crowded; /* until when spinning is of no use, ns */
	bool freed;	  /* room has come that no other thread has been told of */
	bool trouble;	  /* the control thread has to see to something */
	pthread_t thread;
	/* Shared: the runs that its queues keep, under the lock; their number is looked at without. */
	_Alignas(64) pthread_mutex_t kept_lock;
	unsigned int nkept;
	/* Shared: written by this loop, looked at by others, and the reverse. */
	_Alignas(64) unsigned int nwaits; /* its queues whose next chain found no room */
	bool room;			  /* there may be some now */
};

/* How the control thread has all loops rest. Under the lock, but that held is looked at without. */
struct rest {
	pthread_mutex_t lock;
	pthread_cond_t resting_changed;
	pthread_cond_t released;
	bool held;
	unsigned int resting;
};

struct shadow {
	struct relay *relay;
	struct shadow_options options;
	struct guest guest;
	struct sluice_memfd *memfd; /* of this connection to the backend, or NULL */
	uint8_t *pool;		    /* its memory */
	uint64_t room;		    /* bytes of the pool, at its largest, that flights may have */
	uint64_t share;		    /* what each queue may have of it for certain */
	uint64_t rings;		    /* bytes of the pool in shadow rings and blocks */
	bool strict_layout;	    /* descriptors go down as the guest framed them */
	uint32_t seg_bytes;	    /* the most that one descriptor may have, going down */
	int stats_fd;		    /* listening, or -1 */
	uint64_t memory_moves;	    /* until when memory is missing, ns */
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

/* To a counter that one thread writes and the control thread reads meanwhile. Relaxed: nothing
 * follows from it but itself. */
static inline void stats_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* What an earlier relay has left, read anew from what the guest may have changed since. */
#define LEDGER_TOO_LONG "more long chains have been left in flight than a relay ever has"

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

/* ledger.c */

/* GET_INFLIGHT_FD and SET_INFLIGHT_FD (session.h). */
int ledger_get(struct relay *r, struct vu_msg *m);
int ledger_set(struct relay *r, struct vu_msg *m);

/**
 * ledger_close - forget the buffer, at the end of a session
 */
void ledger_close(struct shadow *s);

/**
 * ledger_begin - use the buffer for a queue whose guest's end has just been attached
 *
 * What an earlier relay has left in flight is parked then, and the ring goes on behind it.
 */
void ledger_begin(struct queue *q);

/**
 * ledger_room - whether a chain of @count descriptors can be noted
 *
 * Always, but for a guest that offers descriptors again before they are used.
 */
bool ledger_room(const struct queue *q, uint16_t count);

/**
 * ledger_fetched - a chain is about to be taken from the guest's ring
 * @f: its id and count are set
 */
void ledger_fetched(struct queue *q, struct flight *f);

/* It is about to be used, not yet published; all such have been; it is about to be put back. */
void ledger_used(struct queue *q, const struct flight *f);
void ledger_published(struct queue *q);
void ledger_handed_back(struct queue *q, const struct flight *f);

/**
 * ledger_end - the ring is stopped and nothing of it is in flight: where it stands the front-end knows
 */
void ledger_end(struct queue *q);

/* ledger_packed.c: the same for a packed ring that has a ledger; bytes for a ring of @num entries */

size_t ledger_packed_bytes(uint16_t num);
void ledger_packed_begin(struct queue *q, uint16_t num);
void ledger_packed_fetched(struct queue *q, struct flight *f);
void ledger_packed_used(struct queue *q, const struct flight *f);
void ledger_packed_published(struct queue *q);
void ledger_packed_handed_back(struct queue *q, const struct flight *f);
void ledger_packed_end(struct queue *q);

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

/* shadow.c */

/**
 * shadow_grow - have the pool grow if it can
 *
 * Return: whether it is worth another try to get a slot.
 */
bool shadow_grow(struct shadow *s);

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

/* loop.c */

/**
 * loop_run - move chains until there are none, or for a slice of time
 *
 * l->trouble is set if loop_trouble() has to be called.
 *
 * Return: true if it is to be called again at once; false if everybody is asked to notify, by the
 * epoll fd, or the control thread has to do something first.
 */
bool loop_run(struct loop *l);

/**
 * loop_trouble - see to what loops have found: a backend or a guest that broke a rule
 *
 * Context: the control thread, while all loops rest.
 */
void loop_trouble(struct relay *r);

/**
 * loop_events - wait until somebody notifies
 * @timeout: milliseconds at most, or -1; 0 if the epoll fd is readable
 */
void loop_events(struct loop *l, int timeout);

/**
 * loop_pause - milliseconds that the loop may sleep at most: -1 if for ever
 */
int loop_pause(struct loop *l);

/**
 * loop_room_came - have all queues that wait for room in the pool try again
 * @from: the caller's loop, NULL for none
 */
void loop_room_came(struct shadow *s, struct loop *from);

/* Look after a queue from now on; leave it alone. */
void loop_activate(struct queue *q);
void loop_deactivate(struct queue *q);

/**
 * loop_watch - have an eventfd wake a queue
 * @fd:	  or -1, which is none; twice is as good as once
 * @side: 0 the guest's kick, 1 the backend's call
 */
void loop_watch(struct queue *q, int fd, unsigned int side);
void loop_unwatch(struct queue *q, int fd);

/* threads.c; without effect where there is one loop */

/**
 * threads_start - start a thread for each loop, all resting
 *
 * Context: without privileges, before the seccomp filter: threads inherit the former, and cannot be
 * made after the latter.
 *
 * Return: 0 or a negative errno.
 */
int threads_start(struct shadow *s);

/**
 * threads_hold - have all loops rest; threads_release - have them go on
 *
 * Everything that is not said to be shared belongs to the control thread in between. Twice is as
 * good as once.
 */
void threads_hold(struct shadow *s);
void threads_release(struct shadow *s);

/* Whether loops are to rest: looked at by each between two turns. */
static inline bool threads_held(const struct shadow *s)
{
	return __atomic_load_n(&s->rest.held, __ATOMIC_RELAXED);
}

#endif
