/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * fuzz_message.c - libFuzzer target: any bytes, with any number of files, as vhost-user messages
 *
 * Theory of operation
 * -------------------
 * The input is what a peer sends: its first byte says how many files go with the first byte of the
 * stream and whether the receiver is vu_recv() or vu_recv_plain(); the second, where the stream is
 * cut in two sends; the rest is the stream. Checked besides what the sanitizers see: whatever comes
 * out of the receiver keeps to the bounds that its callers rely on, no bytes of an earlier message
 * show in a shorter payload, and after all of it no file is open that was not before.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay/vu.h"

#define MOST_FDS 12

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void send_with(int fd, const uint8_t *data, size_t size, unsigned int nfds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(MOST_FDS * sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)data, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nfds) {
		struct cmsghdr *c;

		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		for (unsigned int i = 0; i < nfds; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
	}
	must(sendmsg(fd, &msg, MSG_NOSIGNAL) == (ssize_t)size);
}

static int lowest_free(void)
{
	int fd = dup(STDERR_FILENO);

	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const int before = lowest_free();
	unsigned int nfds;
	bool plain;
	size_t cut;
	int s[2], rc = 0;

	if (size < 3)
		return 0;
	nfds = data[0] % (MOST_FDS + 1);
	plain = data[0] & 0x80;
	cut = data[1] % (size - 2);
	data += 2;
	size -= 2;
	must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
	if (cut)
		send_with(s[0], data, cut, data[0] & 1 ? nfds : 0);
	send_with(s[0], data + cut, size - cut, nfds);
	shutdown(s[0], SHUT_WR);
	while (!rc) {
		struct vu_msg m;
		const char *why = NULL;

		memset(&m, 0xee, sizeof(m));
		rc = plain ? vu_recv_plain(s[1], &m, 0) : vu_recv(s[1], &m, 0);
		if (rc) {
			must(vu_recv_error(rc) && m.nfds == 0);
			break;
		}
		must(m.h.size <= sizeof(m.p) && m.nfds <= VU_MAX_FDS);
		must(!plain || m.nfds == 0);
		must((m.h.flags & VU_VERSION_MASK) == VU_VERSION);
		for (size_t i = m.h.size; i < sizeof(m.p); i++)
			must(m.p.raw[i] == 0);
		if (!vu_check(&m, (uint64_t)m.h.request * UINT64_C(0x9e3779b97f4a7c15), &why)) {
			const struct vu_rule *rule = vu_rule(m.h.request);

			must(!why && !rule->reason && m.nfds <= rule->fds_max);
			must(m.h.size >= rule->size_min && m.h.size <= rule->size_max);
		} else {
			must(why);
		}
		if (m.nfds > 1)
			close(vu_take_fd(&m));
		vu_close_fds(&m);
	}
	close(s[0]);
	close(s[1]);
	must(lowest_free() == before);
	return 0;
}
