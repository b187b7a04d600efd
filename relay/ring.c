/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * ring.c - what the relay knows of each virtqueue
 *
 * Theory of operation
 * -------------------
 * A ring is set up by a handful of messages that may come in any order (the spec, "Ring states").
 * The relay collects them and tells the backend nothing until the ring is complete: size, area and
 * a kick. Then it sends all of them in one fixed order (backend.c), the first time just as after
 * the backend has come back. So backends that are particular about the order are content, and a
 * ring that cannot be used is never heard of by the backend.
 *
 * The area of a ring are three arrays at user addresses of the front-end. All of each must lie in
 * one shared region: a backend that is handed anything else dies of it, and one that is handed a
 * part would run over the end.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

void ring_init(struct ring *ring)
{
	*ring = (struct ring){.kick = -1, .call = -1, .err = -1};
}

void ring_reset(struct ring *ring)
{
	if (ring->kick >= 0)
		close(ring->kick);
	if (ring->call >= 0)
		close(ring->call);
	if (ring->err >= 0)
		close(ring->err);
	ring_init(ring);
}

bool ring_check_num(uint32_t num, uint64_t features)
{
	if (!num || num > RING_MAX_NUM)
		return false;
	return (features & VU_BIT(VIRTIO_F_PACKED)) || (num & (num - 1)) == 0;
}

static struct region *part(struct memory *mem, uint64_t user, uint64_t len, uint64_t align)
{
	return user % align ? NULL : memory_translate(mem, user, len);
}

const char *ring_locate(const struct ring *ring, struct memory *mem, uint64_t features,
			struct ring_area *area)
{
	/* With EVENT_IDX each of the two index rings has two bytes more at its end. */
	uint64_t event = features & VU_BIT(VIRTIO_F_EVENT_IDX) ? 2 : 0;

	if (!ring_check_num(ring->num, features))
		return "its size is none that such a ring may have";
	if (features & VU_BIT(VIRTIO_F_PACKED)) {
		area->desc = part(mem, ring->desc, 16ull * ring->num, 16);
		area->avail = part(mem, ring->avail, 4, 4);
		area->used = part(mem, ring->used, 4, 4);
	} else {
		area->desc = part(mem, ring->desc, 16ull * ring->num, 16);
		area->avail = part(mem, ring->avail, 4 + 2ull * ring->num + event, 2);
		area->used = part(mem, ring->used, 4 + 8ull * ring->num + event, 4);
	}
	if (!area->desc || !area->avail || !area->used)
		return "it does not lie in shared memory";
	return NULL;
}

uint64_t ring_backend_addr(const struct region *region, uint64_t user)
{
	return user - region->v.user + region->v.gpa;
}

/* Each thread has an alarm of its own, which interrupts that thread and no other. */
static _Thread_local timer_t alarm_timer;
static _Thread_local uint64_t
	alarm_at; /* until when it is sure to go off, ns; 0 if it is not set */
static _Thread_local volatile sig_atomic_t writing;

static void set_alarm(time_t seconds)
{
	const struct itimerspec when = {.it_value.tv_sec = seconds};

	timer_settime(alarm_timer, 0, &when, NULL);
}

static void alarmed(int sig)
{
	(void)sig; /* that the write was interrupted is all */
	/* It may have come just before the write that it is for. */
	if (writing)
		set_alarm(1);
}

int ring_signal_prepare(void)
{
	struct sigaction sa = {.sa_handler = alarmed}; /* no SA_RESTART: the write has to end */
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};

	ev._sigev_un._tid = gettid(); /* glibc has no other name for it */
	sigaction(SIGALRM, &sa, NULL);
	return timer_create(CLOCK_MONOTONIC, &ev, &alarm_timer) ? -errno : 0;
}

void ring_signal(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	const uint64_t one = 1;

	if (fd < 0 || poll(&p, 1, 0) <= 0 || !(p.revents & POLLOUT))
		return; /* full: whoever reads it is being woken already */
	set_alarm(1);
	p.revents = (short)write(fd, &one, sizeof(one)); /* filled up in between: as above */
	set_alarm(0);
	alarm_at = 0;
}

#define ALARM_NS UINT64_C(1000000000)

void ring_signal_often(int fd, uint64_t now)
{
	const uint64_t one = 1;

	if (fd < 0)
		return;
	if (now + ALARM_NS / 2 > alarm_at) {
		set_alarm(1);
		alarm_at = now + ALARM_NS;
	}
	writing = 1;
	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
		struct pollfd p = {.fd = fd, .events = POLLOUT};

		/* The alarm, which is gone now. It has ended a write that blocked, or it came by
		 * chance and the write is to be done again. */
		set_alarm(1);
		alarm_at = now + ALARM_NS;
		if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLOUT))
			break;
	}
	writing = 0;
}
