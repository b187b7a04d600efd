/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * vu.h - the vhost-user protocol: its messages, how they travel, which of them the relay takes
 *
 * Theory of operation: relay/vu_wire.c (how they travel) and relay/vu_table.c (which are taken).
 *
 * All numbers are those of QEMU's docs/interop/vhost-user.rst ("the spec" below), with the terms
 * front-end and back-end as there.
 */
#ifndef RELAY_VU_H
#define RELAY_VU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The spec, "Header": flags. */
#define VU_VERSION	1u
#define VU_VERSION_MASK 3u
#define VU_REPLY	4u
#define VU_NEED_REPLY	8u
#define VU_KNOWN_FLAGS	(VU_VERSION_MASK | VU_REPLY | VU_NEED_REPLY)

#define VU_MAX_FDS	 8   /* the spec, "Multiple memory regions": the baseline */
#define VU_TABLE_REGIONS 8   /* in one SET_MEM_TABLE */
#define VU_MEM_SLOTS	 509 /* what Linux' KVM and the usual back-ends offer */
#define VU_CONFIG_MAX	 256 /* VHOST_USER_MAX_CONFIG_SIZE */
#define VU_VRING_INDEX	 0xffu
#define VU_VRING_NOFD	 0x100u

enum vu_request {
	VU_GET_FEATURES = 1,
	VU_SET_FEATURES = 2,
	VU_SET_OWNER = 3,
	VU_RESET_OWNER = 4,
	VU_SET_MEM_TABLE = 5,
	VU_SET_LOG_BASE = 6,
	VU_SET_LOG_FD = 7,
	VU_SET_VRING_NUM = 8,
	VU_SET_VRING_ADDR = 9,
	VU_SET_VRING_BASE = 10,
	VU_GET_VRING_BASE = 11,
	VU_SET_VRING_KICK = 12,
	VU_SET_VRING_CALL = 13,
	VU_SET_VRING_ERR = 14,
	VU_GET_PROTOCOL_FEATURES = 15,
	VU_SET_PROTOCOL_FEATURES = 16,
	VU_GET_QUEUE_NUM = 17,
	VU_SET_VRING_ENABLE = 18,
	VU_SEND_RARP = 19,
	VU_NET_SET_MTU = 20,
	VU_SET_BACKEND_REQ_FD = 21,
	VU_IOTLB_MSG = 22,
	VU_SET_VRING_ENDIAN = 23,
	VU_GET_CONFIG = 24,
	VU_SET_CONFIG = 25,
	VU_GET_INFLIGHT_FD = 31,
	VU_SET_INFLIGHT_FD = 32,
	VU_RESET_DEVICE = 34,
	VU_GET_MAX_MEM_SLOTS = 36,
	VU_ADD_MEM_REG = 37,
	VU_REM_MEM_REG = 38,
	VU_SET_STATUS = 39,
	VU_GET_STATUS = 40,
	VU_REQUESTS = 46, /* one more than the highest that has a name */
};

/* Requests of the back-end, on the channel of SET_BACKEND_REQ_FD. */
#define VU_BACKEND_CONFIG_CHANGE 2u

/* Feature bits (virtio 1.2, section 6; the spec, "Feature bits"). */
#define VIRTIO_F_ANY_LAYOUT	 27
#define VIRTIO_F_INDIRECT	 28
#define VIRTIO_F_EVENT_IDX	 29
#define VIRTIO_F_VERSION_1	 32
#define VIRTIO_F_ACCESS_PLATFORM 33
#define VIRTIO_F_PACKED		 34
#define VIRTIO_F_IN_ORDER	 35
#define VHOST_F_LOG_ALL		 26
#define VU_F_PROTOCOL		 30

/* Protocol feature bits (the spec, "Protocol features"). */
#define VU_P_MQ		  0
#define VU_P_LOG_SHMFD	  1
#define VU_P_RARP	  2
#define VU_P_REPLY_ACK	  3
#define VU_P_MTU	  4
#define VU_P_BACKEND_REQ  5
#define VU_P_CONFIG	  9
#define VU_P_INFLIGHT	  12
#define VU_P_RESET_DEVICE 13
#define VU_P_MEM_SLOTS	  15
#define VU_P_STATUS	  16

#define VU_BIT(n) (UINT64_C(1) << (n))

/* What may be negotiated between front-end and back-end through the relay. A bit that is not here
 * is masked, whoever offers it and whatever a later version of the spec makes of it. */
#define VU_P_PASSED                                                                                \
	(VU_BIT(VU_P_MQ) | VU_BIT(VU_P_RARP) | VU_BIT(VU_P_MTU) | VU_BIT(VU_P_BACKEND_REQ) |       \
	 VU_BIT(VU_P_CONFIG) | VU_BIT(VU_P_RESET_DEVICE) | VU_BIT(VU_P_STATUS))
/* What the relay does by itself on either side. */
#define VU_P_OWN (VU_BIT(VU_P_REPLY_ACK) | VU_BIT(VU_P_MEM_SLOTS))
/* What it does by itself towards the front-end, in shadow mode. */
#define VU_P_SHADOW (VU_BIT(VU_P_LOG_SHMFD) | VU_BIT(VU_P_INFLIGHT))

struct vu_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of the payload, bytes */
};

struct vu_region {
	uint64_t gpa;
	uint64_t size;
	uint64_t user;
	uint64_t offset;
};

struct vu_vring_state {
	uint32_t index;
	uint32_t num;
};

struct vu_vring_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc;
	uint64_t used;
	uint64_t avail;
	uint64_t log;
};

struct vu_mem_table {
	uint32_t nregions;
	uint32_t padding;
	struct vu_region regions[VU_TABLE_REGIONS];
};

struct vu_mem_one {
	uint64_t padding;
	struct vu_region region;
};

struct vu_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t region[VU_CONFIG_MAX];
};
#define VU_CONFIG_HEAD 12u

struct vu_log {
	uint64_t bytes;
	uint64_t offset;
};

struct vu_inflight {
	uint64_t bytes;
	uint64_t offset;
	uint16_t queues;
	uint16_t num;
};
#define VU_INFLIGHT_BYTES 20u /* on the wire some senders have the padding behind it, too */

/* A message. Whoever holds one owns the fds in it. */
struct vu_msg {
	struct vu_header h;
	union {
		uint64_t u64;
		struct vu_vring_state state;
		struct vu_vring_addr addr;
		struct vu_mem_table table;
		struct vu_mem_one one;
		struct vu_config config;
		struct vu_log log;
		struct vu_inflight inflight;
		uint8_t raw[sizeof(struct vu_mem_table) + 8];
	} p;
	int fds[VU_MAX_FDS];
	unsigned int nfds;
	bool dropped; /* vu_recv_plain(): there were fds */
};

/**
 * vu_recv - take one message from a socket
 * @fd:		connected stream socket, blocking or not
 * @m:		filled in; on success the caller owns the fds in it
 * @timeout_ms: how long the whole message may take, from the call on
 *
 * Return: 0; -ENOTCONN if the peer left between messages; -ETIMEDOUT if it did not finish in time;
 * -EMSGSIZE, -EBADMSG or -ETOOMANYREFS if what came is no message (vu_recv_error() has the words);
 * another negative errno of recvmsg(). After an error nothing in @m is to be released, and the
 * stream cannot be used any more: the protocol has no way to find the next message.
 */
int vu_recv(int fd, struct vu_msg *m, int timeout_ms);

/**
 * vu_recv_plain - take one message from a peer that has no fds to send
 *
 * As vu_recv(), but fds are never installed: the kernel drops them, and @m->dropped says so. A
 * backend's go this way, since closing a file of its making may already take for ever.
 */
int vu_recv_plain(int fd, struct vu_msg *m, int timeout_ms);

/**
 * vu_left - whether the other end of a connection is closed
 * @fd: or -1, which is as good as that
 *
 * Context: does not block.
 */
bool vu_left(int fd);

/**
 * vu_recv_error - what an error of vu_recv() means, for a log line
 */
const char *vu_recv_error(int error);

/**
 * vu_send - send one message
 * @fd:		connected stream socket
 * @m:		header, payload and fds; stays the caller's
 * @timeout_ms: how long it may take for the peer to make room; 0: not at all
 *
 * Header, payload and fds leave in one sendmsg() where the socket has room, since some receivers
 * assert on a short read.
 *
 * Return: 0, -ETIMEDOUT, or a negative errno of sendmsg().
 */
int vu_send(int fd, const struct vu_msg *m, int timeout_ms);

/**
 * vu_close_fds - close whatever fds a message still owns
 */
void vu_close_fds(struct vu_msg *m);

/**
 * vu_take_fd - take the first fd out of a message
 *
 * Return: the fd, now the caller's, or -1 if there is none.
 */
int vu_take_fd(struct vu_msg *m);

/**
 * vu_set - write a request without payload into @m, no fds
 */
void vu_set(struct vu_msg *m, uint32_t request);

/**
 * vu_set_u64 - write a request with a 64-bit payload into @m, no fds
 */
void vu_set_u64(struct vu_msg *m, uint32_t request, uint64_t value);

/* One row of the policy: what a request must look like, and whether the relay takes it. */
struct vu_rule {
	const char *name;
	uint16_t size_min;
	uint16_t size_max;
	uint8_t fds_max;
	bool replies; /* has an answer of its own, need_reply or not */
	int8_t needs; /* protocol feature that must have been negotiated, or -1 */
	const char *
		reason; /* why it is refused, or NULL if the relay takes it; with @needs, why if that
			       has not been negotiated */
};

/**
 * vu_rule - the policy for a front-end request
 * @request: any number
 *
 * Return: the row; for a number that no row has, one that refuses it. Never NULL.
 */
const struct vu_rule *vu_rule(uint32_t request);

/**
 * vu_check - does a message from the front-end keep to the policy
 * @m:	      the message
 * @protocol: protocol features negotiated with the front-end so far
 * @why:      set to the reason if not
 *
 * Looks at the request, the flags, the size of the payload and the number of fds (the spec,
 * "Message specification"); what the payload says is for its handler to check.
 *
 * Return: 0, or -EPROTO.
 */
int vu_check(const struct vu_msg *m, uint64_t protocol, const char **why);

#endif
