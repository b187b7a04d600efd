/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * main.c - the command line of `sluice relay`, and the life of the process
 *
 * Theory of operation
 * -------------------
 * The relay stands between a vhost-user front-end (the VMM) and a vhost-user back-end, neither of
 * which knows of it, and sees to it that the back-end gets the memory that it is meant to have and
 * no other (memory.c). In filter mode it is in the control path only: the guest's requests pass it by.
 *
 * Everything that needs a right is done here first: the listening socket, the helper with its way
 * to the file system (door.c). Then the process confines itself (confine.c), and only then is a
 * peer's first byte read. From there on the process ends by _exit(): handlers that would run at
 * exit() are of no use to it, and may want system calls that it has given up.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "confine.h"
#include "log.h"
#include "relay.h"
#include "shadow.h"
#include "state.h"

#define POOL_SIZE (UINT64_C(64) << 20)
#define POOL_MAX  (UINT64_C(256) << 20)
/* Between two parts there is one chunk of nothing: sluice/memfd.h. */
#define HUGE_GROWN_MAX ((UINT64_C(4) << 30) - (SLUICE_MEMFD_PARTS - 1) * SLUICE_CHUNK_BYTES)
#define POLL_NS	       UINT64_C(200000)
#define DRAIN_MS       120000
#define STATS_WAITING  16 /* clients of --stats that wait while one is served */

struct options {
	const char *listen;
	const char *mode;
	const char *stats;
	struct door_plan plan;
	struct share shares[DOOR_PATHS];
	unsigned int nshares;
	struct shadow_options shadow;
	bool shadowed; /* an option of shadow mode has been given */
	int64_t drain_ms;
	bool keep;
};

static const char usage[] =
	"usage: sluice relay --listen FRONT.sock --backend BACK.sock --mode filter\n"
	"                    [--share PATH|memfd:NAME]... [--drain SECONDS] [--keep]\n"
	"       sluice relay --listen FRONT.sock --backend BACK.sock --mode shadow\n"
	"                    [--pool-size 64M] [--pool-max 256M] [--hugetlb] [--poll USEC]\n"
	"                    [--drain SECONDS] [--threads N] [--stats STATS.sock] [--keep]\n";

static int wrong(const char *what, const char *arg)
{
	fprintf(stderr, "sluice relay: %s%s%s\n%s", what, arg ? ": " : "", arg ? arg : "", usage);
	return 1;
}

static int add_share(struct options *o, const char *arg)
{
	struct share *s = &o->shares[o->nshares];

	if (o->nshares == DOOR_PATHS)
		return wrong("too many --share, 16 are the most", arg);
	if (!strncmp(arg, "memfd:", 6)) {
		if (!arg[6] || strlen(arg) > 128)
			return wrong("--share memfd: wants a name of 1 to 122 bytes", arg);
		s->memfd = true;
		s->name = arg + 6;
	} else {
		if (!*arg)
			return wrong("--share wants a path or memfd:NAME", arg);
		s->name = arg;
		s->path = o->plan.npaths;
		o->plan.paths[o->plan.npaths++] = arg;
	}
	o->nshares++;
	return 0;
}

/* A number of bytes, with K, M or G behind it; 0 if it is none. */
static uint64_t size_of(const char *arg)
{
	uint64_t unit = 1;
	unsigned long long n;
	char *end;

	errno = 0;
	n = strtoull(arg, &end, 10);
	if (errno || end == arg || *arg == '-')
		return 0;
	if (*end == 'K' || *end == 'k')
		unit = UINT64_C(1) << 10;
	else if (*end == 'M' || *end == 'm')
		unit = UINT64_C(1) << 20;
	else if (*end == 'G' || *end == 'g')
		unit = UINT64_C(1) << 30;
	if (unit > 1)
		end++;
	return *end || n > UINT64_MAX / unit ? 0 : n * unit;
}

static int pool_size(const char *what, const char *arg, uint64_t *size)
{
	*size = size_of(arg);
	if (*size && *size % SLUICE_CHUNK_BYTES == 0 && *size <= UINT64_C(4) << 30)
		return 0;
	return wrong(what, arg);
}

/* A whole number between two bounds; what says so. */
static int number(const char *what, const char *arg, unsigned long least, unsigned long most,
		  unsigned long *n)
{
	char *end;

	errno = 0;
	*n = strtoul(arg, &end, 10);
	if (errno || end == arg || *end || *arg == '-' || *n < least || *n > most)
		return wrong(what, arg);
	return 0;
}

/* What only holds for one mode, and what the options have to do with each other. */
static int check_shadow(struct options *o)
{
	struct shadow_options *s = &o->shadow;

	if (o->nshares)
		return wrong("--share is for --mode filter: in shadow mode nothing of the guest's "
			     "memory is passed on",
			     NULL);
	if (!s->pool_size)
		s->pool_size = s->pool_max && s->pool_max < POOL_SIZE ? s->pool_max : POOL_SIZE;
	if (!s->pool_max && s->huge_pages)
		s->pool_max = s->pool_size;
	if (!s->pool_max)
		s->pool_max = s->pool_size > POOL_MAX ? s->pool_size : POOL_MAX;
	if (s->pool_max < s->pool_size)
		return wrong("--pool-max is less than --pool-size", NULL);
	if (s->huge_pages && s->pool_max > s->pool_size && s->pool_max > HUGE_GROWN_MAX)
		return wrong("--pool-max: a pool on huge pages grows to 4082M at most", NULL);
	return 0;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"listen", required_argument, NULL, 'l'},
		{"backend", required_argument, NULL, 'b'},
		{"mode", required_argument, NULL, 'm'},
		{"share", required_argument, NULL, 's'},
		{"keep", no_argument, NULL, 'k'},
		{"pool-size", required_argument, NULL, 'p'},
		{"pool-max", required_argument, NULL, 'P'},
		{"hugetlb", no_argument, NULL, 'h'},
		{"poll", required_argument, NULL, 'w'},
		{"drain", required_argument, NULL, 'd'},
		{"threads", required_argument, NULL, 't'},
		{"stats", required_argument, NULL, 'S'},
		{NULL, 0, NULL, 0},
	};
	unsigned long n;
	int c;

	optind = 1;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		switch (c) {
		case 'l':
			o->listen = optarg;
			break;
		case 'b':
			o->plan.backend = optarg;
			break;
		case 'm':
			o->mode = optarg;
			break;
		case 's':
			if (add_share(o, optarg))
				return 1;
			break;
		case 'k':
			o->keep = true;
			break;
		case 'p':
			o->shadowed = true;
			if (pool_size("--pool-size wants a multiple of 2M, up to 4G", optarg,
				      &o->shadow.pool_size))
				return 1;
			break;
		case 'P':
			o->shadowed = true;
			if (pool_size("--pool-max wants a multiple of 2M, up to 4G", optarg,
				      &o->shadow.pool_max))
				return 1;
			break;
		case 'h':
			o->shadowed = o->shadow.huge_pages = true;
			break;
		case 'w':
			o->shadowed = true;
			if (number("--poll wants microseconds, 0 to 1000000", optarg, 0, 1000000,
				   &n))
				return 1;
			o->shadow.poll_ns = (uint64_t)n * 1000;
			break;
		case 'd':
			if (number("--drain wants seconds, 1 to 3600", optarg, 1, 3600, &n))
				return 1;
			o->drain_ms = (int64_t)n * 1000;
			break;
		case 't':
			o->shadowed = true;
			if (number("--threads wants a number from 1 to 64", optarg, 1, LOOPS_MAX,
				   &n))
				return 1;
			o->shadow.threads = (unsigned int)n;
			break;
		case 'S':
			o->shadowed = true;
			o->stats = optarg;
			break;
		case ':':
			return wrong("an argument is missing after", argv[optind - 1]);
		default:
			return wrong("unknown option", argv[optind - 1]);
		}
	}
	if (optind < argc)
		return wrong("unexpected argument", argv[optind]);
	if (!o->listen)
		return wrong("--listen FRONT.sock is missing", NULL);
	if (!o->plan.backend)
		return wrong("--backend BACK.sock is missing", NULL);
	if (!o->mode)
		return wrong("--mode filter or --mode shadow is missing", NULL);
	if (!strcmp(o->mode, "iommu"))
		return wrong("--mode: this version has filter and shadow, not yet", o->mode);
	if (strcmp(o->mode, "filter") != 0 && strcmp(o->mode, "shadow") != 0)
		return wrong("--mode: not a mode, it has to be filter or shadow", o->mode);
	if (!strcmp(o->mode, "shadow") && check_shadow(o))
		return 1;
	if (!strcmp(o->mode, "filter") && o->shadowed)
		return wrong(
			"--pool-size, --pool-max, --hugetlb, --poll, --threads and --stats are for "
			"--mode shadow",
			NULL);
	if (o->stats && strlen(o->stats) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return wrong("--stats: too long for a socket's path", o->stats);
	if (strlen(o->listen) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return wrong("--listen: too long for a socket's path", o->listen);
	if (strlen(o->plan.backend) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return wrong("--backend: too long for a socket's path", o->plan.backend);
	return 0;
}

/* A socket that an earlier relay left behind: nobody listens on it. */
static bool left_behind(const struct sockaddr_un *addr)
{
	struct stat st;
	bool dead;
	int fd;

	if (lstat(addr->sun_path, &st) || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	dead = fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) &&
	       errno == ECONNREFUSED;
	if (fd >= 0)
		close(fd);
	return dead;
}

static int listen_on(const char *path, int backlog)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path, path, strlen(path));
	if (fd >= 0 && left_behind(&addr))
		unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, backlog)) {
		relay_log("cannot listen on %s: %s%s", path, strerror(errno),
			  errno == EADDRINUSE ? "; remove it, or stop the one that uses it" : "");
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return fd;
}

/* Each ring may have three fds, in shadow mode five, each thread two, and each region one. */
static void raise_fd_limit(void)
{
	const rlim_t want = 5 * RING_MAX + 2 * LOOPS_MAX + VU_MEM_SLOTS + 64;
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) || l.rlim_cur >= want)
		return;
	l.rlim_cur = l.rlim_max < want ? l.rlim_max : want;
	setrlimit(RLIMIT_NOFILE, &l);
}

static int serve_all(struct relay *r, int listener, bool keep)
{
	for (;;) {
		struct pollfd p[2] = {{.fd = listener, .events = POLLIN}, {.fd = -1}};
		int pause = r->shadow ? stats_poll(r->shadow, &p[1]) : -1, status, fd;

		if (poll(p, 2, pause) < 0)
			continue; /* what poll() has not filled in says nothing */
		if (r->shadow && (p[1].revents || !p[0].revents))
			stats_serve(r->shadow);
		if (!p[0].revents)
			continue;
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0) {
			relay_log("cannot accept a front-end: %s", strerror(errno));
			return 1;
		}
		status = session_run(r, fd);
		if (!keep || status == 1)
			return status;
	}
}

static int start_threads(void *shadow)
{
	return threads_start(shadow);
}

int sluice_relay_main(int argc, char **argv)
{
	static struct relay relay;
	static struct shadow shadow;
	static struct options o = {.shadow = {.poll_ns = POLL_NS, .threads = 1},
				   .drain_ms = DRAIN_MS};
	int listener, rc;

	if (parse(argc, argv, &o))
		return 1;
	listener = listen_on(o.listen, 1);
	if (listener < 0)
		return 1;
	raise_fd_limit();
	rc = ring_signal_prepare();
	if (rc) {
		relay_log("cannot set up a timer: %s", strerror(-rc));
		return 1;
	}
	/* A log that nobody reads any more is no reason to take the guest's disk away. */
	signal(SIGPIPE, SIG_IGN);
	rc = door_start(&relay.door, &o.plan);
	if (rc) {
		relay_log("cannot start the helper process: %s", strerror(-rc));
		return 1;
	}
	session_init(&relay, o.shares, o.nshares);
	relay.drain_ms = o.drain_ms;
	if (!strcmp(o.mode, "shadow")) {
		rc = shadow_init(&shadow, &relay, &o.shadow);
		if (rc) {
			relay_log("cannot start: %s", strerror(-rc));
			return 1;
		}
		shadow.stats_fd = o.stats ? listen_on(o.stats, STATS_WAITING) : -1;
		if (o.stats && shadow.stats_fd < 0)
			return 1;
		relay.shadow = &shadow;
	}
	if (relay.shadow ? confine_shadow(shadow.nloops > 1 ? start_threads : NULL, &shadow)
			 : confine_relay())
		_exit(1);
	_exit(serve_all(&relay, listener, o.keep));
}
