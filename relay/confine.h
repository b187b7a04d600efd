/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * confine.h - what the relay's two processes give up
 *
 * Theory of operation: relay/confine.c.
 */
#ifndef RELAY_CONFINE_H
#define RELAY_CONFINE_H

/**
 * confine_relay - give up everything that serving peers does not need
 *
 * Return: 0; a negative errno, with a line in the log, if the process could not be confined: it
 * must not go on then.
 * Context: one thread, before the first byte from a peer is read.
 */
int confine_relay(void);

/**
 * confine_shadow - the same for shadow mode, which maps the guest's memory and makes pools
 * @start: starts threads, when they inherit what has been given up and before the filter is put on all
 *	   of them; NULL if there are to be none. Returns 0 or a negative errno.
 * @arg:   for @start
 *
 * Return, context: as confine_relay(), or what @start returned.
 */
int confine_shadow(int (*start)(void *arg), void *arg);

/**
 * confine_door - the same for the helper of door.h, which keeps the file system
 *
 * Return: as confine_relay().
 */
int confine_door(void);

#endif
