/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * relay.h - the way into `sluice relay`
 *
 * Theory of operation: relay/main.c. Nothing else of the relay is called from outside its folder,
 * its tests apart.
 */
#ifndef RELAY_RELAY_H
#define RELAY_RELAY_H

/**
 * sluice_relay_main - run the relay until it is done
 * @argc: as main() has it, argv[0] being "relay"
 * @argv: stays the caller's
 *
 * Does not return after it has confined itself: it then ends the process with the status below.
 *
 * Return: 0 the front-end left, 1 wrong usage or the relay could not start, 2 a peer was refused.
 */
int sluice_relay_main(int argc, char **argv);

#endif
