/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * door.c - the helper process that keeps the relay's way to the file system
 *
 * Theory of operation
 * -------------------
 * The relay gives up the file system before it reads a byte from a peer, but three things need one
 * later on: connecting to a backend that has come back, finding out which file a --share path names
 * now (the front-end may create it after the relay has started), and telling memfds and eventfds by
 * the names that /proc gives them. A small process does these three and nothing else.
 *
 * What it may touch is fixed before it starts (struct door_plan): it is asked by number, never by
 * name, so a relay that has been taken over by a peer can make it connect to the one backend and
 * learn the inode numbers of the named files, and that is all. It never reads from a peer: of the
 * fds that it is given it only reads the link in /proc.
 *
 * Requests and answers are single datagrams on a SOCK_SEQPACKET pair: no framing, no state. The
 * helper ends when its socket does, and by PR_SET_PDEATHSIG.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "confine.h"
#include "door.h"
#include "log.h"

enum door_op { DOOR_CONNECT = 1, DOOR_STAT = 2, DOOR_LINK = 3 };

struct door_request {
	uint32_t op;
	uint32_t index;
};

struct door_answer {
	int32_t error;
	uint32_t padding;
	uint64_t dev;
	uint64_t ino;
	char name[DOOR_NAME];
};

/* A connect() to a backend whose backlog is full blocks; it gives up before the relay does. */
#define CONNECT_SECONDS 5

static int send_with_fd(int sock, const void *buf, size_t len, int fd)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (fd >= 0) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.buf;
		msg.msg_controllen = sizeof(control.buf);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	do {
		n = sendmsg(sock, &msg, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n == (ssize_t)len ? 0 : -EPIPE;
}

/* Returns the fd that came along, or -1; *got is the number of bytes, 0 at the end. */
static int recv_with_fd(int sock, void *buf, size_t len, ssize_t *got)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	struct cmsghdr *c;
	int fd = -1;

	do {
		*got = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	} while (*got < 0 && errno == EINTR);
	c = *got > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

static int do_connect(const char *path)
{
	struct timeval limit = {.tv_sec = CONNECT_SECONDS};
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (sock < 0)
		return -errno;
	/* main() has refused a path that is too long. */
	strncpy(addr.sun_path, path, sizeof(addr.sun_path) - 1);
	if (setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) ||
	    connect(sock, (struct sockaddr *)&addr, sizeof(addr))) {
		int error = errno;

		close(sock);
		return -error;
	}
	return sock;
}

static void answer(int sock, const struct door_plan *plan, const struct door_request *req, int fd)
{
	struct door_answer a = {.error = EINVAL};
	struct stat st;
	char link[32];
	ssize_t n;
	int out = -1;

	switch (req->op) {
	case DOOR_CONNECT:
		out = do_connect(plan->backend);
		a.error = out < 0 ? -out : 0;
		break;
	case DOOR_STAT:
		if (req->index >= plan->npaths)
			break;
		if (stat(plan->paths[req->index], &st)) {
			a.error = errno;
			break;
		}
		a.error = 0;
		a.dev = st.st_dev;
		a.ino = st.st_ino;
		break;
	case DOOR_LINK:
		if (fd < 0)
			break;
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n = readlink(link, a.name, sizeof(a.name) - 1);
		a.error = n < 0 ? errno : 0;
		break;
	default:
		break;
	}
	send_with_fd(sock, &a, sizeof(a), out >= 0 ? out : -1);
	if (out >= 0)
		close(out);
}

static void serve(int sock, const struct door_plan *plan)
{
	for (;;) {
		struct door_request req;
		ssize_t got;
		int fd = recv_with_fd(sock, &req, sizeof(req), &got);

		if (got <= 0)
			return;
		if (got == (ssize_t)sizeof(req))
			answer(sock, plan, &req, fd);
		if (fd >= 0)
			close(fd);
	}
}

int door_start(struct door *door, const struct door_plan *plan)
{
	pid_t parent = getpid();
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	door->pid = fork();
	if (door->pid < 0) {
		int error = errno;

		close(pair[0]);
		close(pair[1]);
		return -error;
	}
	if (door->pid == 0) {
		/* Keep no fd but the pair's and stderr; the listening socket least of all. */
		for (int fd = 0; fd < pair[1]; fd++)
			if (fd != STDERR_FILENO)
				close(fd);
		close_range((unsigned int)pair[1] + 1, ~0u, 0);
		/* A parent that died before the prctl() would never be noticed by it. */
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent || confine_door())
			_exit(1);
		serve(pair[1], plan);
		_exit(0);
	}
	close(pair[1]);
	door->fd = pair[0];
	return 0;
}

static int gone(struct door *door)
{
	door->gone = true;
	/* A late answer would be taken for that to the next question. */
	shutdown(door->fd, SHUT_RDWR);
	return -EPIPE;
}

/* Returns 0 or a negative errno; *out is the fd that came with the answer, or -1. */
static int ask(struct door *door, const struct door_request *req, int fd, struct door_answer *a,
	       int *out)
{
	struct pollfd p = {.fd = door->fd, .events = POLLIN};
	int64_t deadline = relay_now_ms() + DOOR_WAIT_MS;
	ssize_t got;
	int n;

	*out = -1;
	if (door->gone || send_with_fd(door->fd, req, sizeof(*req), fd))
		return gone(door);
	do {
		int64_t left = deadline - relay_now_ms();

		n = poll(&p, 1, left > 0 ? (int)left : 0);
	} while (n < 0 && errno == EINTR);
	if (n <= 0)
		return gone(door);
	*out = recv_with_fd(door->fd, a, sizeof(*a), &got);
	if (got != (ssize_t)sizeof(*a)) {
		if (*out >= 0)
			close(*out);
		return gone(door);
	}
	return -a->error;
}

int door_connect(struct door *door)
{
	struct door_request req = {.op = DOOR_CONNECT};
	struct door_answer a;
	int fd, rc = ask(door, &req, -1, &a, &fd);

	if (rc)
		return rc;
	/* Success without an fd: the relay has no room for one. */
	return fd < 0 ? -EMFILE : fd;
}

int door_stat(struct door *door, unsigned int index, uint64_t *dev, uint64_t *ino)
{
	struct door_request req = {.op = DOOR_STAT, .index = index};
	struct door_answer a;
	int fd, rc = ask(door, &req, -1, &a, &fd);

	if (rc)
		return rc;
	*dev = a.dev;
	*ino = a.ino;
	return 0;
}

int door_name(struct door *door, int fd, char name[DOOR_NAME])
{
	struct door_request req = {.op = DOOR_LINK};
	struct door_answer a;
	int none, rc = ask(door, &req, fd, &a, &none);

	if (rc)
		return rc;
	memcpy(name, a.name, DOOR_NAME);
	name[DOOR_NAME - 1] = '\0';
	return 0;
}
