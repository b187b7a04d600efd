/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * stream.c - bytes both ways at once over a vsock or a Unix socket, for tests/vm/backends
 *
 * Theory of operation
 * -------------------
 * What is on stdin goes out and BYTES come in, to stdout. Busybox has neither kind of socket, so this is both ends,
 * in the guest and on the host. An end closes its socket only when the other has all it was sent, which a last byte says
 * in each direction: what a device makes of bytes in flight when one end closes is not what is tested.
 *
 * Every wait is bounded. usage: stream connect|listen vsock:CID:PORT|unix:PATH BYTES [GREETING]
 * GREETING goes out first, as a line; the line that answers it comes first to stdout.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define PATIENCE_MS 60000
#define CHUNK	    65536

static void fail(const char *what)
{
	fprintf(stderr, "stream: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Fill *address from its text form. Returns its length in bytes; does not return when it is malformed. */
static socklen_t parse(const char *text, struct sockaddr_storage *address)
{
	struct sockaddr_vm *vm = (struct sockaddr_vm *)address;
	struct sockaddr_un *un = (struct sockaddr_un *)address;

	memset(address, 0, sizeof(*address));
	if (sscanf(text, "vsock:%u:%u", &vm->svm_cid, &vm->svm_port) == 2) {
		vm->svm_family = AF_VSOCK;
		return sizeof(*vm);
	}
	if (!strncmp(text, "unix:", 5) && strlen(text + 5) < sizeof(un->sun_path)) {
		un->sun_family = AF_UNIX;
		strcpy(un->sun_path, text + 5);
		return sizeof(*un);
	}
	fprintf(stderr, "stream: %s is neither vsock:CID:PORT nor unix:PATH\n", text);
	exit(2);
}

static void await(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	if (poll(&p, 1, PATIENCE_MS) != 1) {
		errno = ETIMEDOUT;
		fail("nobody is there");
	}
}

static int open_stream(bool listening, const char *where)
{
	struct sockaddr_storage address;
	socklen_t len = parse(where, &address);
	int fd = socket(address.ss_family, SOCK_STREAM, 0), peer;

	if (fd < 0)
		fail("socket");
	if (!listening) {
		if (connect(fd, (struct sockaddr *)&address, len))
			fail(where);
		return fd;
	}
	if (bind(fd, (struct sockaddr *)&address, len) || listen(fd, 1))
		fail(where);
	await(fd, POLLIN);
	peer = accept(fd, NULL, NULL);
	if (peer < 0)
		fail("accept");
	close(fd);
	return peer;
}

static void put(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);

		if (n <= 0)
			fail("write");
		p += n;
		len -= (size_t)n;
	}
}

/* The greeting's answer, byte by byte: what follows the line is not read. */
static void greet(int fd, const char *greeting)
{
	char c = 0;

	put(fd, greeting, strlen(greeting));
	put(fd, "\n", 1);
	while (c != '\n') {
		await(fd, POLLIN);
		if (read(fd, &c, 1) != 1)
			fail("no answer to the greeting");
		put(1, &c, 1);
	}
}

/* Move all of it. A byte behind the BYTES says that the other end has everything. */
static void move(int fd, unsigned long long want)
{
	static char out[CHUNK], in[CHUNK];
	size_t at = 0, have = 0;
	bool eof = false, told = false, heard = false;

	while (!eof || have || !told || !heard) {
		struct pollfd p = {.fd = fd, .events = heard ? 0 : POLLIN};
		ssize_t n;

		if (!have && !eof) {
			n = read(0, out, sizeof(out));
			if (n < 0)
				fail("stdin");
			eof = !n;
			at = 0;
			have = (size_t)n;
		}
		if (!have && eof && !want && !told) {
			out[0] = '.';
			at = 0;
			have = 1;
			told = true;
		}
		if (have)
			p.events |= POLLOUT;
		if (!p.events)
			break;
		await(fd, p.events);
		if (have) {
			n = send(fd, out + at, have, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (n < 0 && errno != EAGAIN)
				fail("send");
			at += n > 0 ? (size_t)n : 0;
			have -= n > 0 ? (size_t)n : 0;
		}
		if (heard)
			continue;
		n = recv(fd, in, !want ? 1 : want < CHUNK ? want : CHUNK, MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN)
			fail("recv");
		if (!n && want) {
			fprintf(stderr, "stream: it ended %llu bytes early\n", want);
			exit(1);
		}
		if (n >= 0 && !want) {
			heard = true;
		} else if (n > 0) {
			put(1, in, (size_t)n);
			want -= (unsigned long long)n;
		}
	}
	close(fd);
}

int main(int argc, char **argv)
{
	int fd;

	if (argc < 4 || argc > 5 || (strcmp(argv[1], "connect") && strcmp(argv[1], "listen"))) {
		fprintf(stderr,
			"usage: stream connect|listen vsock:CID:PORT|unix:PATH BYTES [GREETING]\n");
		return 2;
	}
	fd = open_stream(!strcmp(argv[1], "listen"), argv[2]);
	if (argc == 5)
		greet(fd, argv[4]);
	move(fd, strtoull(argv[3], NULL, 10));
	return 0;
}
