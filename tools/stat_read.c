/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * stat_read.c - read the module's debugfs and relays' statistics
 *
 * Theory of operation: see stat.h. A relay is another process and a socket may be anybody's: what
 * comes from it is read for at most a second and as much as a buffer holds, and nothing but
 * printable characters of it goes on.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "stat.h"

#define BUFFER	(512u << 10)
#define WAIT_MS 1000

static void set_text(char *to, size_t size, const char *from, size_t n)
{
	if (n >= size)
		n = size - 1;
	for (size_t i = 0; i < n; i++)
		to[i] = from[i] >= ' ' && from[i] <= '~' ? from[i] : '?';
	to[n] = '\0';
}

/* A line: the key is all up to the last blank if labels, else to the first. */
static void add_line(struct stat_set *set, const char *line, size_t n, bool labels)
{
	const char *blank = labels ? memrchr(line, ' ', n) : memchr(line, ' ', n);
	struct stat_value *v = &set->value[set->n];
	size_t key;
	char *end;

	if (!blank || !n || *line == '#' || set->n == STAT_MAX_VALUES)
		return;
	key = (size_t)(blank - line);
	set_text(v->key, sizeof(v->key), line, key);
	set_text(v->text, sizeof(v->text), blank + 1, n - key - 1);
	v->number = strtod(v->text, &end);
	v->is_number = end != v->text && !*end && v->number == v->number;
	set->n++;
}

static void add_lines(struct stat_set *set, const char *text, bool labels)
{
	while (*text) {
		size_t n = strcspn(text, "\r\n");

		add_line(set, text, n, labels);
		text += n + strspn(text + n, "\r\n");
	}
}

static int read_file(const char *path, struct stat_set *set)
{
	char *text = malloc(BUFFER);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	ssize_t n = 0;

	if (!text || fd < 0) {
		int err = text ? errno : ENOMEM;

		free(text);
		if (fd >= 0)
			close(fd);
		return -err;
	}
	while (have < BUFFER - 1 && (n = read(fd, text + have, BUFFER - 1 - have)) > 0)
		have += (size_t)n;
	text[have] = '\0';
	close(fd);
	if (n >= 0)
		add_lines(set, text, false);
	free(text);
	return n < 0 ? -EIO : 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct stat_set *)a)->name, ((const struct stat_set *)b)->name);
}

static int read_module(const char *debugfs, struct stat_all *all, char why[256])
{
	char path[PATH_MAX];
	struct dirent *d;
	DIR *dir = opendir(debugfs);

	if (!dir) {
		int err = errno;

		snprintf(why, 256, "cannot read %.100s: %s; %s", debugfs, strerror(err),
			 err == EACCES ? "be root" : "is sluice.ko loaded and debugfs mounted?");
		return -err;
	}
	snprintf(path, sizeof(path), "%s/observe", debugfs);
	all->observing = !access(path, F_OK);
	snprintf(path, sizeof(path), "%s/pool", debugfs);
	read_file(path, &all->pool);
	while ((d = readdir(dir)) && all->devices < STAT_MAX_SETS) {
		struct stat_set *set = &all->device[all->devices];

		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s/stats", debugfs, d->d_name);
		set->n = 0;
		/* One that is unplugged just now is none any more. */
		if (read_file(path, set))
			continue;
		set_text(set->name, sizeof(set->name), d->d_name, strlen(d->d_name));
		all->devices++;
	}
	closedir(dir);
	qsort(all->device, all->devices, sizeof(*all->device), by_name);
	return 0;
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Read a socket to its end, for at most so long. */
static int read_all(int fd, char *text)
{
	long end = now_ms() + WAIT_MS, left;
	size_t have = 0;

	while (have < BUFFER - 1) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		left = end - now_ms();
		if (left <= 0 || poll(&p, 1, (int)left) == 0)
			return -ETIMEDOUT;
		n = recv(fd, text + have, BUFFER - 1 - have, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		have += (size_t)n;
	}
	text[have] = '\0';
	return 0;
}

static int read_relay(const char *path, struct stat_set *set)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char *text;
	int fd, ret;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	text = malloc(BUFFER);
	fd = text ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
	ret = fd < 0 || connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) ? -errno : 0;
	/* Nothing is asked, so the relay need not wait for a request. */
	if (!ret)
		(void)shutdown(fd, SHUT_WR);
	if (!ret)
		ret = read_all(fd, text);
	if (!ret)
		add_lines(set, text, true);
	if (fd >= 0)
		close(fd);
	free(text);
	return ret;
}

int stat_read(const char *debugfs, char *const *sockets, size_t n, struct stat_all *all,
	      char why[256])
{
	int ret;

	*why = '\0';
	memset(all, 0, sizeof(*all));
	all->device = calloc(STAT_MAX_SETS, sizeof(*all->device));
	all->relay = calloc(n ? n : 1, sizeof(*all->relay));
	if (!all->device || !all->relay) {
		snprintf(why, 256, "out of memory");
		stat_free(all);
		return -ENOMEM;
	}
	ret = read_module(debugfs, all, why);
	if (n)
		ret = 0;
	for (size_t i = 0; i < n && !ret; i++) {
		struct stat_set *set = &all->relay[i];

		set_text(set->name, sizeof(set->name), sockets[i], strlen(sockets[i]));
		ret = read_relay(sockets[i], set);
		if (ret)
			snprintf(why, 256,
				 "cannot read %.100s: %s; is that the --stats socket of a relay "
				 "that runs?",
				 sockets[i], strerror(-ret));
		else
			all->relays++;
	}
	if (ret)
		stat_free(all);
	return ret;
}

void stat_free(struct stat_all *all)
{
	free(all->device);
	free(all->relay);
	all->device = all->relay = NULL;
	all->devices = all->relays = 0;
}

static const struct stat_value *find(const struct stat_set *set, const char *key)
{
	for (size_t i = 0; i < set->n; i++) {
		if (!strcmp(set->value[i].key, key))
			return &set->value[i];
	}
	return NULL;
}

double stat_number(const struct stat_set *set, const char *key)
{
	const struct stat_value *v = find(set, key);

	return v && v->is_number ? v->number : 0;
}

bool stat_has(const struct stat_set *set, const char *key)
{
	return find(set, key);
}

const char *stat_text(const struct stat_set *set, const char *key)
{
	const struct stat_value *v = find(set, key);

	return v ? v->text : "";
}

double stat_sum(const struct stat_set *set, const char *key)
{
	size_t n = strlen(key);
	double sum = 0;

	for (size_t i = 0; i < set->n; i++) {
		const struct stat_value *v = &set->value[i];

		if (v->is_number && !strncmp(v->key, key, n) && (!v->key[n] || v->key[n] == '{'))
			sum += v->number;
	}
	return sum;
}

static int wrong(const char *command, const char *what, const char *arg)
{
	fprintf(stderr,
		"sluice %s: %s%s%s\nusage: sluice %s [--relay SOCKET]... [--debugfs DIR] %s\n",
		command, what, arg ? ": " : "", arg ? arg : "", command,
		strcmp(command, "stat") ? "[--seconds N]" : "[--json]");
	return 1;
}

int stat_options(int argc, char **argv, struct stat_options *o)
{
	static const struct option longs[] = {
		{"relay", required_argument, NULL, 'r'},
		{"debugfs", required_argument, NULL, 'd'},
		{"json", no_argument, NULL, 'j'},
		{"seconds", required_argument, NULL, 's'},
		{NULL, 0, NULL, 0},
	};
	bool stat = !strcmp(argv[0], "stat");
	char *end;
	int c;

	*o = (struct stat_options){.debugfs = STAT_DEBUGFS, .seconds = 1};
	optind = 1;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (c == 'r' && o->n_sockets < STAT_MAX_SETS) {
			o->sockets[o->n_sockets++] = optarg;
		} else if (c == 'd') {
			o->debugfs = optarg;
		} else if (c == 'j' && stat) {
			o->json = true;
		} else if (c == 's' && !stat) {
			o->seconds = strtoul(optarg, &end, 10);
			if (end == optarg || *end || !o->seconds || o->seconds > 3600)
				return wrong(argv[0], "not a number of seconds, 1 to 3600", optarg);
		} else {
			return wrong(argv[0],
				     c == ':' ? "an argument is missing" : "no such option",
				     argv[optind - 1]);
		}
	}
	if (optind != argc)
		return wrong(argv[0], "it takes no such argument", argv[optind]);
	return 0;
}
