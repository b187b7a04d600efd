/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * vu_wire.c - vhost-user messages on a socket
 *
 * Theory of operation
 * -------------------
 * A message is a header of 12 bytes and a payload, in host byte order, on a Unix stream socket
 * (the spec, "Message specification"). File descriptors ride with the first byte of the header.
 *
 * The peer decides what arrives and when, so:
 *   - the whole message has one deadline; half a message holds the relay up until then and no
 *     longer
 *   - a payload longer than the longest known one is an error before a byte of it is read
 *   - the kernel may install more fds than are wanted: all that were installed are closed
 *   - fds that come with a later byte belong to no message and are an error
 * After any error the stream is of no use: where the next message begins cannot be known.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "log.h"
#include "vu.h"

/* One more than allowed, so that a sender of nine is told from one of eight; beyond that the
 * kernel drops the rest and says MSG_CTRUNC. */
#define FD_ROOM (VU_MAX_FDS + 1)

static int wait_for(int fd, short events, int64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};

	for (;;) {
		int64_t left = deadline - relay_now_ms();
		int n = poll(&p, 1, left > 0 ? (int)left : 0);

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* Collects the fds of one recvmsg() into m, or closes all of them if they do not fit. */
static int take_fds(struct msghdr *msg, struct vu_msg *m, bool first)
{
	int error = msg->msg_flags & MSG_CTRUNC ? -ETOOMANYREFS : 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (first && !error && m->nfds < VU_MAX_FDS) {
				m->fds[m->nfds++] = fd;
			} else {
				error = -ETOOMANYREFS;
				close(fd);
			}
		}
	}
	return error;
}

/* What is being received into, and whether fds may come with it. */
struct part {
	void *buf;
	size_t len;
	bool header;
	bool plain;
};

static int recv_exactly(int fd, const struct part *part, struct vu_msg *m, int64_t deadline)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(FD_ROOM * sizeof(int))];
	} control;
	size_t done = 0;

	while (done < part->len) {
		struct iovec iov = {
			.iov_base = (char *)part->buf + done,
			.iov_len = part->len - done,
		};
		struct msghdr msg = {
			.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = part->plain ? NULL : control.buf,
			.msg_controllen = part->plain ? 0 : sizeof(control.buf),
		};
		ssize_t n;
		int rc = wait_for(fd, POLLIN, deadline);

		if (rc)
			return rc;
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			return errno == ECONNRESET ? -ENOTCONN : -errno;
		}
		if (part->plain)
			m->dropped |= (msg.msg_flags & MSG_CTRUNC) != 0;
		else
			rc = take_fds(&msg, m, part->header && done == 0);
		if (rc)
			return rc;
		if (n == 0)
			return part->header && done == 0 ? -ENOTCONN : -EBADMSG;
		done += (size_t)n;
	}
	return 0;
}

static int receive(int fd, struct vu_msg *m, int timeout_ms, bool plain)
{
	const struct part header = {&m->h, sizeof(m->h), true, plain};
	struct part payload = {&m->p, 0, false, plain};
	int64_t deadline = relay_now_ms() + timeout_ms;
	int rc;

	m->nfds = 0;
	m->dropped = false;
	rc = recv_exactly(fd, &header, m, deadline);
	if (rc)
		goto fail;
	rc = -EBADMSG;
	if ((m->h.flags & VU_VERSION_MASK) != VU_VERSION || (m->h.flags & ~VU_KNOWN_FLAGS))
		goto fail;
	rc = -EMSGSIZE;
	if (m->h.size > sizeof(m->p))
		goto fail;
	/* What the payload does not cover must not be left over from the last message. */
	memset(&m->p, 0, sizeof(m->p));
	payload.len = m->h.size;
	rc = recv_exactly(fd, &payload, m, deadline);
	if (rc)
		goto fail;
	return 0;
fail:
	vu_close_fds(m);
	return rc;
}

int vu_recv(int fd, struct vu_msg *m, int timeout_ms)
{
	return receive(fd, m, timeout_ms, false);
}

int vu_recv_plain(int fd, struct vu_msg *m, int timeout_ms)
{
	return receive(fd, m, timeout_ms, true);
}

bool vu_left(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};

	return fd < 0 || (poll(&p, 1, 0) > 0 && p.revents);
}

const char *vu_recv_error(int error)
{
	switch (error) {
	case -ENOTCONN:
		return "it left";
	case -ETIMEDOUT:
		return "it did not finish a message in time";
	case -EMSGSIZE:
		return "it sent a message longer than any that is known";
	case -EBADMSG:
		return "it sent something that is not a vhost-user message";
	case -ETOOMANYREFS:
		return "it sent more file descriptors than a message may carry";
	default:
		return strerror(-error);
	}
}

int vu_send(int fd, const struct vu_msg *m, int timeout_ms)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(VU_MAX_FDS * sizeof(int))];
	} control;
	int64_t deadline = relay_now_ms() + timeout_ms;
	size_t len = sizeof(m->h) + m->h.size, done = 0;
	char flat[sizeof(m->h) + sizeof(m->p)];

	memcpy(flat, &m->h, sizeof(m->h));
	memcpy(flat + sizeof(m->h), &m->p, m->h.size);
	while (done < len) {
		struct iovec iov = {.iov_base = flat + done, .iov_len = len - done};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t n;
		int rc;

		if (done == 0 && m->nfds) {
			struct cmsghdr *c;

			memset(&control, 0, sizeof(control));
			msg.msg_control = control.buf;
			msg.msg_controllen = CMSG_SPACE(m->nfds * sizeof(int));
			c = CMSG_FIRSTHDR(&msg);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(m->nfds * sizeof(int));
			memcpy(CMSG_DATA(c), m->fds, m->nfds * sizeof(int));
		}
		n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0) {
			done += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		rc = wait_for(fd, POLLOUT, deadline);
		if (rc)
			return rc;
	}
	return 0;
}

void vu_close_fds(struct vu_msg *m)
{
	for (unsigned int i = 0; i < m->nfds; i++)
		close(m->fds[i]);
	m->nfds = 0;
}

int vu_take_fd(struct vu_msg *m)
{
	int fd;

	if (!m->nfds)
		return -1;
	fd = m->fds[0];
	m->nfds--;
	memmove(m->fds, m->fds + 1, m->nfds * sizeof(m->fds[0]));
	return fd;
}

void vu_set(struct vu_msg *m, uint32_t request)
{
	m->h = (struct vu_header){.request = request, .flags = VU_VERSION};
	m->nfds = 0;
}

void vu_set_u64(struct vu_msg *m, uint32_t request, uint64_t value)
{
	vu_set(m, request);
	m->h.size = sizeof(m->p.u64);
	m->p.u64 = value;
}
