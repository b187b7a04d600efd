/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * door.h - the helper process that keeps the relay's way to the file system
 *
 * Theory of operation: relay/door.c.
 */
#ifndef RELAY_DOOR_H
#define RELAY_DOOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define DOOR_PATHS 16
#define DOOR_NAME  256

/* What the door may do is fixed here, before it starts. The strings stay the caller's. */
struct door_plan {
	const char *backend;	       /* the socket that it connects to */
	const char *paths[DOOR_PATHS]; /* the files that it may look up */
	unsigned int npaths;
};

struct door {
	int fd;	   /* socket to the helper */
	bool gone; /* it does not answer any more */
	pid_t pid;
};

/**
 * door_start - start the helper
 * @door: filled in
 * @plan: what it may do
 *
 * The helper confines itself and ends when the caller does.
 *
 * Return: 0, or a negative errno.
 * Context: before confine_relay(); the process must have one thread.
 */
int door_start(struct door *door, const struct door_plan *plan);

/**
 * door_connect - connect to the plan's backend socket
 *
 * Return: a connected stream socket, now the caller's; or the negative errno of connect();
 * -EPIPE if the helper is gone. Waits DOOR_WAIT_MS at most.
 */
int door_connect(struct door *door);

/**
 * door_stat - which file a path of the plan names at this moment
 * @index: of the path
 * @dev:   set on success, with @ino
 *
 * Return: 0, a negative errno of stat(), or -EPIPE.
 */
int door_stat(struct door *door, unsigned int index, uint64_t *dev, uint64_t *ino);

/**
 * door_name - what /proc calls an open file
 * @fd:	  any open file; stays the caller's
 * @name: filled with the target of the link in /proc/self/fd, e.g. "/memfd:pool (deleted)" or
 *	  "anon_inode:[eventfd]", cut off at DOOR_NAME - 1 bytes
 *
 * Return: 0, a negative errno of readlink(), or -EPIPE.
 */
int door_name(struct door *door, int fd, char name[DOOR_NAME]);

#define DOOR_WAIT_MS 10000

#endif
