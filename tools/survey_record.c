/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_record.c - `sluice survey record`: the module's tracepoints into a stream
 *
 * Theory of operation
 * -------------------
 * An instance of tracefs of our own has its own ring buffers, so nobody else's tracing is
 * disturbed. The kernel writes binary events there; we take whole pages, convert them and write
 * them out. While the buffers are less than half full we sleep: what capture costs is then what the
 * tracepoints cost, and a page's conversion for each hundred events.
 *
 * What is lost is counted, from three sources: the pages' own notes, at their place; the buffers'
 * statistics at the end, if they say more; and the calls that the module's probes have missed
 * (mode=observe). The devices' drivers are looked up at the end, when they have been bound.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "survey.h"

#define MAX_CPUS    1024
#define PAGE_MAX    (256u << 10)
#define BUFFER_KIB  4096 /* for each CPU, unless told otherwise: 100 000 events */
#define INTERVAL_MS 100
#define TEXT_MAX    16384

static const char *const event_names[] = {
	[SURVEY_MAP] = "map",	[SURVEY_UNMAP] = "unmap", [SURVEY_ALLOC] = "alloc",
	[SURVEY_FREE] = "free", [SURVEY_FULL] = "full",
};

struct recorder {
	const char *out;
	const char *title;
	char **command;
	unsigned long seconds;
	unsigned long kib;
	char tracefs[64];
	char dir[128]; /* our instance */
	struct survey_formats formats;
	struct pollfd raw[MAX_CPUS]; /* by CPU; fd -1 if there is no such CPU */
	int cpus;
	struct survey_writer writer;
	uint64_t missed; /* by the probes, before we began */
};

static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
	(void)sig;
	stop = 1;
}

static int wrong(const char *what, const char *arg)
{
	fprintf(stderr,
		"sluice survey record: %s%s%s\n"
		"usage: sluice survey record -o FILE [--seconds N] [--title TEXT] [--buffer KIB] "
		"[-- COMMAND...]\n",
		what, arg ? ": " : "", arg ? arg : "");
	return 1;
}

static int failed(const char *what, const char *path, int err, const char *way_out)
{
	fprintf(stderr, "sluice survey record: %s %s: %s; %s\n", what, path, strerror(err),
		way_out);
	return 2;
}

/* Read a small file as text; returns 0 or an errno. */
static int read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	ssize_t n = 0;

	if (fd < 0)
		return errno;
	while (have < size - 1 && (n = read(fd, text + have, size - 1 - have)) > 0)
		have += (size_t)n;
	text[have] = '\0';
	close(fd);
	return n < 0 ? EIO : 0;
}

static int write_text(const struct recorder *r, const char *name, const char *text)
{
	char path[256];
	int fd, err = 0;

	snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		err = errno;
	close(fd);
	return err;
}

/* How many calls the module's probes have missed; 0 where it does not observe. */
static uint64_t probes_missed(void)
{
	char text[256];
	uint64_t n = 0;

	if (read_text("/sys/kernel/debug/sluice/observe", text, sizeof(text)))
		return 0;
	if (sscanf(text, "missed %" SCNu64, &n) != 1)
		return 0;
	return n;
}

static int find_tracefs(struct recorder *r)
{
	static const char *const places[] = {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"};
	char path[128];

	for (size_t i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/events/header_page", places[i]);
		if (!access(path, R_OK)) {
			snprintf(r->tracefs, sizeof(r->tracefs), "%s", places[i]);
			return 0;
		}
	}
	fprintf(stderr, "sluice survey record: there is no tracefs to be read: be root, and mount "
			"it (mount -t tracefs tracefs /sys/kernel/tracing)\n");
	return 2;
}

static int read_formats(struct recorder *r)
{
	char path[256], text[TEXT_MAX];
	int err;

	snprintf(path, sizeof(path), "%s/events/header_page", r->tracefs);
	err = read_text(path, text, sizeof(text));
	if (err || survey_header_parse(text, &r->formats))
		return failed("cannot use", path, err ? err : EBADMSG,
			      "this kernel's ring buffer is not known");
	for (unsigned int i = 0; i <= SURVEY_FULL; i++) {
		snprintf(path, sizeof(path), "%s/events/sluice/%s/format", r->tracefs,
			 event_names[i]);
		err = read_text(path, text, sizeof(text));
		if (err)
			return failed("cannot read", path, err,
				      "load sluice.ko first (mode=observe confines nothing)");
		if (survey_format_parse(text, i, &r->formats.of[i]))
			return failed("cannot use", path, EBADMSG,
				      "use the sluice.ko that belongs to this program");
	}
	return 0;
}

static void close_raw(struct recorder *r)
{
	for (int i = 0; i < r->cpus; i++) {
		if (r->raw[i].fd >= 0)
			close(r->raw[i].fd);
	}
}

/* An instance of our own, all set up but not tracing yet. */
static int open_instance(struct recorder *r)
{
	char number[32], path[256];
	int err;

	snprintf(r->dir, sizeof(r->dir), "%s/instances/sluice-%d", r->tracefs, (int)getpid());
	if (mkdir(r->dir, 0700))
		return failed("cannot make", r->dir, errno,
			      "is the kernel without tracing, or "
			      "out of memory?");
	snprintf(number, sizeof(number), "%lu", r->kib);
	err = write_text(r, "trace_clock", "mono");
	if (!err)
		err = write_text(r, "buffer_size_kb", number);
	if (err)
		return failed("cannot set up", r->dir, err, "ask for a smaller --buffer");
	/* Numbers of CPUs can have gaps. One that is there and cannot be read would be a loss. */
	for (int i = 0; i < MAX_CPUS; i++) {
		snprintf(path, sizeof(path), "%s/per_cpu/cpu%d/trace_pipe_raw", r->dir, i);
		r->raw[i].fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		r->raw[i].events = POLLIN;
		if (r->raw[i].fd >= 0)
			r->cpus = i + 1;
		else if (errno != ENOENT)
			return failed("cannot open", path, errno, "raise the limit of open files");
	}
	snprintf(path, sizeof(path), "%s/per_cpu/cpu%d", r->dir, MAX_CPUS);
	if (!access(path, F_OK))
		return failed("cannot record", path, E2BIG, "more processors than are foreseen");
	return 0;
}

static void close_instance(struct recorder *r)
{
	close_raw(r);
	if (*r->dir)
		rmdir(r->dir);
}

/* Take what there is from all CPUs. */
static int drain(struct recorder *r)
{
	static uint8_t page[PAGE_MAX];

	for (int i = 0; i < r->cpus; i++) {
		ssize_t n;

		if (r->raw[i].fd < 0)
			continue;
		/* At most so many pages of one: a busy CPU must not starve the others. */
		for (int k = 0; k < 256; k++) {
			n = read(r->raw[i].fd, page, sizeof(page));
			if (n <= 0)
				break;
			if (survey_page(&r->formats, page, (size_t)n, (uint16_t)i, &r->writer))
				survey_write_lost(&r->writer, (uint16_t)i, 1);
		}
	}
	return r->writer.failed ? failed("cannot write", r->out, EIO, "is the disk full?") : 0;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static pid_t start_command(char **command)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	execvp(command[0], command);
	fprintf(stderr, "sluice survey record: cannot run %s: %s\n", command[0], strerror(errno));
	_exit(127);
}

/* Until the time is over, the command has ended or we are told to. */
static int record(struct recorder *r, int *status)
{
	uint64_t end = r->seconds ? now_ms() + r->seconds * 1000 : UINT64_MAX;
	pid_t child = 0;
	int ret = 0, err;

	err = write_text(r, "events/sluice/enable", "1");
	if (err)
		return failed("cannot start", r->dir, err, "load sluice.ko first");
	if (r->command) {
		child = start_command(r->command);
		if (child < 0)
			ret = failed("cannot start", r->command[0], errno, "try again");
	}
	while (!stop && !ret && now_ms() < end) {
		if (child > 0 && waitpid(child, status, WNOHANG) == child) {
			child = 0;
			break;
		}
		poll(r->raw, (nfds_t)r->cpus, INTERVAL_MS);
		ret = drain(r);
	}
	if (child > 0) {
		/* The recording is over before its command, which then ends with it. */
		kill(child, SIGTERM);
		waitpid(child, status, 0);
	}
	write_text(r, "events/sluice/enable", "0");
	return ret;
}

/* The statistics' overruns, if they are more than the pages told. */
static void count_overruns(struct recorder *r)
{
	char path[256], text[4096];
	uint64_t sum = 0, n;

	for (int i = 0; i < r->cpus; i++) {
		static const char *const keys[] = {"\noverrun: ", "\ndropped events: "};

		snprintf(path, sizeof(path), "%s/per_cpu/cpu%d/stats", r->dir, i);
		if (read_text(path, text, sizeof(text)))
			continue;
		for (size_t k = 0; k < 2; k++) {
			const char *at = strstr(text, keys[k]);

			if (at && sscanf(at + strlen(keys[k]), "%" SCNu64, &n) == 1)
				sum += n;
		}
	}
	if (sum > r->writer.lost)
		survey_write_lost(&r->writer, UINT16_MAX, sum - r->writer.lost);
	n = probes_missed();
	if (n > r->missed)
		survey_write_lost(&r->writer, UINT16_MAX, n - r->missed);
}

/* The last part of where a link leads, or "". */
static void link_name(const char *path, char *name, size_t size)
{
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	const char *slash;

	*name = '\0';
	if (n <= 0)
		return;
	target[n] = '\0';
	slash = strrchr(target, '/');
	snprintf(name, size, "%.*s", (int)size - 1, slash ? slash + 1 : target);
}

/* "device BDF DRIVER", the driver of a virtio function being that of the device behind it. */
static void describe_devices(char *meta, size_t size)
{
	static const char folder[] = "/sys/bus/pci/devices";
	char path[PATH_MAX], name[64];
	struct dirent *d, *v;
	DIR *dir = opendir(folder), *function;
	size_t n = 0;

	*meta = '\0';
	while (dir && (d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s/driver", folder, d->d_name);
		link_name(path, name, sizeof(name));
		if (!*name)
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, d->d_name);
		function = opendir(path);
		while (function && (v = readdir(function))) {
			if (strncmp(v->d_name, "virtio", 6))
				continue;
			snprintf(path, sizeof(path), "%s/%s/%s/driver", folder, d->d_name,
				 v->d_name);
			link_name(path, name, sizeof(name));
		}
		if (function)
			closedir(function);
		if (n < size)
			n += (size_t)snprintf(meta + n, size - n, "device %s %s\n", d->d_name,
					      name);
	}
	if (dir)
		closedir(dir);
}

static int run(struct recorder *r, int *status)
{
	static char meta[TEXT_MAX];
	struct utsname uts;
	uint64_t before;
	FILE *file;
	int ret;

	file = fopen(r->out, "wbe");
	if (!file)
		return failed("cannot write", r->out, errno, "name another file");
	uname(&uts);
	snprintf(meta, sizeof(meta), "title %s\nkernel %s\nmode %s\n", r->title, uts.release,
		 access("/sys/kernel/debug/sluice/observe", F_OK) ? "bounce" : "observe");
	if (survey_begin(&r->writer, file, meta)) {
		fclose(file);
		return failed("cannot write", r->out, EIO, "is the disk full?");
	}
	r->missed = probes_missed();
	ret = record(r, status);
	/* Nothing is added any more. */
	do {
		before = r->writer.events + r->writer.lost;
		if (!ret)
			ret = drain(r);
	} while (!ret && before != r->writer.events + r->writer.lost);
	count_overruns(r);
	describe_devices(meta, sizeof(meta));
	if (survey_end(&r->writer, meta) && !ret)
		ret = failed("cannot write", r->out, EIO, "is the disk full?");
	if (fclose(file) && !ret)
		ret = failed("cannot write", r->out, errno, "is the disk full?");
	if (!ret)
		fprintf(stderr, "sluice survey record: %s: %" PRIu64 " events, %" PRIu64 " lost\n",
			r->out, r->writer.events, r->writer.lost);
	return ret;
}

static bool parse_number(const char *arg, unsigned long max, unsigned long *v)
{
	char *end;

	errno = 0;
	*v = strtoul(arg, &end, 10);
	return !errno && end != arg && !*end && *arg != '-' && *v && *v <= max;
}

static int parse(struct recorder *r, int argc, char **argv)
{
	static const struct option longs[] = {
		{"seconds", required_argument, NULL, 's'},
		{"title", required_argument, NULL, 't'},
		{"buffer", required_argument, NULL, 'b'},
		{NULL, 0, NULL, 0},
	};
	int c;

	optind = 1;
	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:o:", longs, NULL)) != -1) {
		switch (c) {
		case 'o':
			r->out = optarg;
			break;
		case 's':
			if (!parse_number(optarg, 1000000, &r->seconds))
				return wrong("not a number of seconds", optarg);
			break;
		case 't':
			r->title = optarg;
			break;
		case 'b':
			if (!parse_number(optarg, 1u << 20, &r->kib))
				return wrong("not a size in KiB, 1 to 1048576", optarg);
			break;
		default:
			return wrong(c == ':' ? "an argument is missing" : "no such option",
				     argv[optind - 1]);
		}
	}
	if (!r->out)
		return wrong("-o is missing: where is the stream to go?", NULL);
	if (optind < argc)
		r->command = argv + optind;
	if (strchr(r->title, '\n'))
		return wrong("the title has to be one line", NULL);
	return 0;
}

int survey_record_main(int argc, char **argv)
{
	static struct recorder r = {.title = "", .kib = BUFFER_KIB};
	struct sigaction action = {.sa_handler = on_signal};
	int ret, status = 0;

	ret = parse(&r, argc, argv);
	if (ret)
		return ret;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	ret = find_tracefs(&r);
	if (!ret)
		ret = read_formats(&r);
	if (!ret)
		ret = open_instance(&r);
	if (!ret)
		ret = run(&r, &status);
	close_instance(&r);
	if (!ret && r.command && (!WIFEXITED(status) || WEXITSTATUS(status)) && !stop) {
		fprintf(stderr, "sluice survey record: %s failed\n", r.command[0]);
		ret = 3;
	}
	return ret;
}
