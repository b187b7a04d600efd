/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * loop.h - who serves the queues: loops, and their threads if they have any
 *
 * Theory of operation: relay/loop.c and relay/threads.c.
 */
#ifndef RELAY_LOOP_H
#define RELAY_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ring.h"

#define LOOPS_MAX 64		  /* threads that serve queues */
#define LOOP_WAKE (2u * RING_MAX) /* in an epoll fd: the loop's own eventfd, and no queue's */

struct queue;
struct relay;
struct shadow;

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
 * loop_broke - tell the front-end of a ring that its guest has broken
 *
 * Context: the control thread, while all loops rest. Twice is as good as once.
 */
void loop_broke(struct relay *r, const struct queue *q);

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
#endif
