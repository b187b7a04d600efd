/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * peer.h - the two peers of a relay under test
 *
 * Theory of operation
 * -------------------
 * The relay runs as its own process, as it does in life. The test is the front-end: it writes
 * messages, right or wrong, and reads the answers. The backend is a process too, so that it can be
 * killed: it obeys a struct script in memory that it has in common with the test, and records there
 * all that reaches it, above all which files.
 *
 * The test has the pool mapped, so that it can be driver and device of a ring by itself: the
 * scripted backend never touches a ring.
 */
#ifndef TESTS_LIB_PEER_H
#define TESTS_LIB_PEER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <cmocka.h>

#include "relay/vu.h"

#define PEER_MESSAGES 400
/* No wait is longer: long enough never to matter on a loaded machine. Each ends as soon as what is waited for is there. */
#define PEERS_WAIT_MS 60000
#define POOL_BYTES    (1u << 20)
#define POOL_GPA      UINT64_C(0x100000000)
#define POOL_USER     UINT64_C(0x7f1234500000) /* where the "VMM" has it mapped */
#define RAM_USER      UINT64_C(0x7eabcd600000)

#define QEMU_FEATURES                                                                              \
	(VU_BIT(32) | VU_BIT(VU_F_PROTOCOL) | VU_BIT(VIRTIO_F_EVENT_IDX) | VU_BIT(VHOST_F_LOG_ALL))
#define QEMU_PROTOCOL                                                                              \
	(VU_BIT(VU_P_MQ) | VU_BIT(VU_P_REPLY_ACK) | VU_BIT(VU_P_BACKEND_REQ) |                     \
	 VU_BIT(VU_P_CONFIG) | VU_BIT(VU_P_MEM_SLOTS) | VU_BIT(8) | VU_BIT(10) | VU_BIT(11) |      \
	 VU_BIT(12))

struct seen_fd {
	uint64_t dev;
	uint64_t ino;
};

struct seen {
	uint32_t request;
	uint32_t size;
	uint32_t nfds;
	uint8_t payload[sizeof(((struct vu_msg *)NULL)->p)];
	struct seen_fd fds[VU_MAX_FDS];
};

/* What the backend is to do, and what it has seen. Shared between processes. */
struct script {
	uint64_t features;
	uint64_t protocol;
	uint64_t slots;
	uint32_t nack;	      /* request to refuse */
	uint32_t mute;	      /* request never to answer */
	uint32_t short_reply; /* request to answer with half a header and silence */
	uint32_t base;	      /* answer to GET_VRING_BASE */
	bool lingers;	      /* does not close a connection that the relay has given up */
	uint32_t limits[2];   /* of a disk: size_max and seg_max, if not 0 */
	uint64_t queues;
	uint32_t
		channel_request; /* sent on the channel when it has one, with need_reply; 0: none */
	uint32_t channel_fds;
	int channel_result; /* the answer, or -1 */
	uint32_t connections;
	uint32_t n;
	struct seen seen[PEER_MESSAGES];
};

struct peers {
	struct script *script;
	char dir[64];
	char front[80];
	char back[80];
	char log[80];
	char pool_path[80];
	pid_t backend;
	pid_t relay;
	unsigned int threads;	  /* given to the relay, if not 0 */
	unsigned int disk_queues; /* of the stock backend, if not 0 */
	unsigned int disk_writes; /* a second that its disk makes at most, if not 0 */
	int fe;			  /* the front-end's connection */
	int pool;		  /* fd of the pool file */
	int ram;		  /* fd of private guest RAM */
	uint8_t *mem;		  /* the pool, mapped */
	int kick;
	int call;
	int err;
};

/* Build and tear down; usable as cmocka's setup and teardown. The relay shares rig->pool_path and
 * is not started yet. */
int peers_setup(void **state);
int peers_teardown(void **state);

/* The backend is a stock one from now on, with a disk of 1 MiB that stays over its restarts. */
#define PEERS_QSD "/usr/bin/qemu-storage-daemon"
void peers_qsd_start(struct peers *rig);
/* That its first sectors hold the bytes @first, @first + 1 and so on, each all through. */
void peers_check_disk(struct peers *rig, unsigned int sectors, uint8_t first);

/*
 * Open "ls /proc/PID/fd" or "cat /proc/PID/maps" and the like, to be closed with pclose(). The relay
 * gives up being readable by its own user, so an ordinary one needs sudo for that, without a password
 * as for the packages; without it nothing can be read.
 */
FILE *peers_proc(pid_t pid, const char *command, const char *what);

/* Start the relay with these arguments after the usual ones; NULL ends them. */
void peers_relay(struct peers *rig, ...);
/* The same in shadow mode, in which rig->mem is the guest's memory and not a pool. */
void peers_relay_shadow(struct peers *rig, ...);
void peers_backend_start(struct peers *rig);
void peers_backend_kill(struct peers *rig);
void peers_connect(struct peers *rig);
/* Wait for the relay's end and return its exit status. */
int peers_status(struct peers *rig);
/* Whether the relay's log holds the text. */
bool peers_logged(struct peers *rig, const char *text);
/* All that a relay says on its --stats socket, until the next call. */
const char *peers_statistics(const char *path);
/* Wait until the log does, or fail the test. */
void peers_wait_log(struct peers *rig, const char *text);
/* The fd of a new memfd of that size; sealed against shrinking. */
int make_memfd(const char *name, uint64_t size);
/* The process id of the relay's helper. */
pid_t peers_door(struct peers *rig);

/* The front-end's side. */
void fe_send(struct peers *rig, uint32_t request, uint32_t flags, const void *payload,
	     uint32_t size, const int *fds, unsigned int nfds);
void fe_bytes(struct peers *rig, const void *bytes, size_t n);
/* Receive an answer; false if the relay has closed the connection. */
bool fe_recv(struct peers *rig, struct vu_msg *m);
/* Send with need_reply and return the acknowledgement; -1 if the connection is gone. */
int fe_ack(struct peers *rig, uint32_t request, const void *payload, uint32_t size, int fd);
int fe_ack_u64(struct peers *rig, uint32_t request, uint64_t value, int fd);
int fe_ack_state(struct peers *rig, uint32_t request, uint32_t index, uint32_t num);
uint64_t fe_get(struct peers *rig, uint32_t request);
/* True if the relay closes the connection. */
bool fe_closed(struct peers *rig);
/* Features, protocol features, owner: what every front-end does first. */
void fe_hello(struct peers *rig);
int fe_region(struct peers *rig, uint32_t request, uint64_t gpa, uint64_t user, uint64_t size,
	      uint64_t offset, int fd);
/* The pool, as the pool. */
int fe_add_pool(struct peers *rig);
/* Set up and kick a ring of num entries whose area starts at user; returns the last ack. */
int fe_ring(struct peers *rig, uint32_t index, uint64_t user, uint32_t num);
uint32_t fe_get_base(struct peers *rig, uint32_t index);
/* The same in steps, for a relay that lets the answer wait: ask, look whether there is one, take it and return the
 * base. The last fails the test after 20 s, which is less than --drain gives a backend. */
void fe_stop_begin(struct peers *rig, uint32_t index);
bool fe_stop_answered(struct peers *rig, int ms);
uint32_t fe_stop_end(struct peers *rig);
/* So many messages that are refused that what peers make the relay log is cut off. */
void fe_flood_log(struct peers *rig);

/* The layout that fe_ring() uses, as offsets from its start. */
#define RING_AVAIL(num) (16u * (num))
#define RING_USED(num)	((RING_AVAIL(num) + 4u + 2u * (num) + 2u + 63u) & ~63u)

/* How often a process's or a thread's own task has given up a processor or lost one. */
unsigned long rig_switches(pid_t task);

/* What the backend has seen. */
const struct seen *be_last(struct peers *rig, uint32_t request);
unsigned int be_count(struct peers *rig, uint32_t request);
bool be_saw_file(struct peers *rig, int fd);
/* Whether these bytes are anywhere in what it received. */
bool be_saw_bytes(struct peers *rig, const void *bytes, size_t n);
/* Wait until it has seen so many of a request. */
void be_wait(struct peers *rig, uint32_t request, unsigned int count);

#endif
