/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * threads.c - more than one loop: a thread each, and bringing them to rest
 *
 * Theory of operation
 * -------------------
 * With --threads N the queues are spread over N loops with a thread each. The control thread keeps all
 * else: messages of both peers, the backend's coming and going, statistics. It knows no lock for what
 * it changes (memory, rings, the pool, what is in flight): it has the loops rest first, and lets them
 * go on when it waits for the next message. So all of it is the same code as with one thread, and
 * a loop may take for granted that nothing of it changes in the middle of a turn.
 *
 *   hold:    held is set, each loop is woken by its eventfd if it sleeps, and comes to rest between two
 *	      turns. The lock that it takes on its way makes everything that it has done visible.
 *   release: held is cleared, and the lock makes visible what was done meanwhile.
 *
 * A loop that finds something for the control thread (a backend that broke a rule, a guest's ring
 * that is broken, memory that is gone) leaves its queues alone as far as need be, says so by trouble_fd,
 * and is held soon.
 *
 * What the loops share while they run, and why that is right:
 *   the guest's memory     the tables are not written; what is in it changes at any time by the guest's
 *			    processors, and by another loop if the guest has offered the same bytes twice:
 *			    words that mean something are read once and checked, the rest is only copied
 *   the pool		    locks of its own (core/)
 *   room in the pool	    place.c and loop.c: no queue gets more than it may, none sleeps that could go on
 *   runs that are kept	    under the lock of the loop whose they are: any loop may flush them
 *   counters		    one writer each, but refused, which is added to atomically
 *   the log of dirty pages atomic OR
 *   the operator's log	    a lock
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "log.h"
#include "shadow.h"

/* Between two turns. */
static void rest(struct loop *l)
{
	struct rest *r = &l->shadow->rest;

	if (!threads_held(l->shadow))
		return;
	pthread_mutex_lock(&r->lock);
	r->resting++;
	pthread_cond_signal(&r->resting_changed);
	while (r->held)
		pthread_cond_wait(&r->released, &r->lock);
	r->resting--;
	pthread_mutex_unlock(&r->lock);
}

static void say_trouble(struct loop *l)
{
	const uint64_t one = 1;

	l->trouble = false;
	/* It can only fail because it is readable, for long. */
	(void)!write(l->shadow->trouble_fd, &one, sizeof(one));
}

static void *work(void *arg)
{
	struct loop *l = arg;
	char name[16];

	snprintf(name, sizeof(name), "relay-queues/%u", l->index);
	prctl(PR_SET_NAME, name, 0, 0, 0);
	/* Without an alarm a peer could stop it for good, by filling an eventfd. */
	l->trouble = ring_signal_prepare() != 0;
	for (;;) {
		bool busy;

		rest(l);
		busy = loop_run(l);
		if (l->trouble)
			say_trouble(l);
		loop_events(l, busy ? 0 : loop_pause(l));
	}
	return NULL;
}

static void await_rest(struct rest *r, unsigned int n)
{
	pthread_mutex_lock(&r->lock);
	while (r->resting < n)
		pthread_cond_wait(&r->resting_changed, &r->lock);
	pthread_mutex_unlock(&r->lock);
}

int threads_start(struct shadow *s)
{
	int rc;

	if (s->nloops == 1)
		return 0;
	/* A heap for each thread would have to be made of mappings whose protection changes, which the
	 * seccomp filter does not allow. */
	mallopt(M_ARENA_MAX, 1);
	s->trouble_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->trouble_fd < 0)
		return -errno;
	s->rest.held = true;
	for (unsigned int i = 0; i < s->nloops; i++) {
		rc = pthread_create(&s->loops[i].thread, NULL, work, &s->loops[i]);
		if (rc)
			return -rc;
	}
	await_rest(&s->rest, s->nloops);
	for (unsigned int i = 0; i < s->nloops; i++)
		if (s->loops[i].trouble)
			return -EAGAIN;
	return 0;
}

void threads_hold(struct shadow *s)
{
	const uint64_t one = 1;

	/* Only this thread writes it. */
	if (s->nloops == 1 || s->rest.held)
		return;
	pthread_mutex_lock(&s->rest.lock);
	__atomic_store_n(&s->rest.held, true, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&s->rest.lock);
	for (unsigned int i = 0; i < s->nloops; i++)
		(void)!write(s->loops[i].wake, &one, sizeof(one));
	await_rest(&s->rest, s->nloops);
}

void threads_release(struct shadow *s)
{
	if (s->nloops == 1 || !s->rest.held)
		return;
	pthread_mutex_lock(&s->rest.lock);
	__atomic_store_n(&s->rest.held, false, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&s->rest.lock);
	pthread_cond_broadcast(&s->rest.released);
}
