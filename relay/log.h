/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * log.h - what the relay tells its operator
 *
 * Theory of operation: relay/log.c.
 */
#ifndef RELAY_LOG_H
#define RELAY_LOG_H

#include <stdbool.h>
#include <stdint.h>

/**
 * relay_log - one line that the relay itself decides to write
 * @fmt: as printf(), without a newline
 *
 * Context: any; blocks only as far as stderr does.
 */
void relay_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/**
 * relay_log_peer - one line that a peer can cause as often as it likes
 * @fmt: as printf(), without a newline
 *
 * At most LOG_BURST lines at once and one a second from then on. What was left out is counted, and
 * the count written with the next line.
 */
void relay_log_peer(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define LOG_BURST 20

/**
 * relay_now_ms - milliseconds on a clock that only goes forward
 */
int64_t relay_now_ms(void);

#endif
