/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * session.h - what the handlers of the front-end's requests have in common
 *
 * Theory of operation: relay/session.c. A handler gets a message that has passed the policy, owns
 * nothing of it but the fds that it takes out, and returns one of the values below.
 */
#ifndef RELAY_SESSION_H
#define RELAY_SESSION_H

#include "state.h"

enum {
	DONE = 0,     /* acknowledged if the front-end wanted that */
	ANSWERED = 1, /* the handler has sent the answer */
	REFUSE = -1,  /* not done: an error, or the end if no error can be told */
	FATAL = -2,   /* the end: the front-end must not be served any more */
};

/**
 * session_reply - send @m to the front-end as the answer to its request
 *
 * Return: ANSWERED, or FATAL if the front-end does not read.
 */
int session_reply(struct relay *r, struct vu_msg *m);

/**
 * session_reply_fd - session_reply() with a file descriptor, which stays the caller's
 */
int session_reply_fd(struct relay *r, struct vu_msg *m, int fd);

/**
 * session_reply_u64 - the same with a number as the payload
 */
int session_reply_u64(struct relay *r, uint32_t request, uint64_t value);

/**
 * session_told - what the result of backend_tell() means for the request behind it
 *
 * Return: REFUSE if the backend refused; DONE if it did it, or will be told when it is back.
 */
int session_told(int rc);

/* setup.c: memory (the spec, "Multiple memory regions") and rings ("Ring states") */
int setup_mem_table(struct relay *r, struct vu_msg *m);
int setup_add_region(struct relay *r, struct vu_msg *m);
int setup_rem_region(struct relay *r, struct vu_msg *m);
int setup_vring_num(struct relay *r, struct vu_msg *m);
int setup_vring_base(struct relay *r, struct vu_msg *m);
int setup_vring_addr(struct relay *r, struct vu_msg *m);
int setup_vring_fd(struct relay *r, struct vu_msg *m);
int setup_vring_enable(struct relay *r, struct vu_msg *m);
int setup_get_vring_base(struct relay *r, struct vu_msg *m);
/* Stop all live rings. */
void setup_stop_all(struct relay *r);
/* The same for a device that is reset: each ring waits for its next kick. What the front-end said of it counts until
 * it says something else. */
void setup_reset_kicks(struct relay *r);
/* The same, and forget what the front-end said of any ring. */
void setup_reset_all(struct relay *r);

/* device.c: features, protocol features, the channel, queues, configuration, status, network */
uint64_t device_features(const struct relay *r);
uint64_t device_protocol(const struct relay *r);
int device_set_features(struct relay *r, struct vu_msg *m);
int device_set_protocol(struct relay *r, struct vu_msg *m);
int device_set_owner(struct relay *r, struct vu_msg *m);
int device_set_channel(struct relay *r, struct vu_msg *m);
int device_queue_num(struct relay *r, struct vu_msg *m);
int device_get_config(struct relay *r, struct vu_msg *m);
int device_set_config(struct relay *r, struct vu_msg *m);
int device_set_status(struct relay *r, struct vu_msg *m);
int device_get_status(struct relay *r, struct vu_msg *m);
int device_net(struct relay *r, struct vu_msg *m);
int device_reset(struct relay *r, struct vu_msg *m);

#endif
