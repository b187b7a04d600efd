/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * ledger.h - the in-flight buffer that the front-end keeps
 *
 * Theory of operation: relay/ledger.c and relay/ledger_packed.c.
 */
#ifndef RELAY_LEDGER_H
#define RELAY_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct flight;
struct queue;
struct relay;
struct shadow;
struct vu_msg;

/* Of what an earlier relay has left, read anew from what the guest may have changed since. */
#define LEDGER_TOO_LONG "more long chains have been left in flight than a relay ever has"

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

#endif
