/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * peer.c - the two peers of a relay under test
 *
 * Theory of operation: tests/lib/peer.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "peer.h"

static void nap(void)
{
	poll(NULL, 0, 5);
}

int make_memfd(const char *name, uint64_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	return fd;
}

static void address(struct sockaddr_un *addr, const char *path)
{
	*addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(addr->sun_path, path, strlen(path));
}

/* ---- the backend's process ---- */

static void record(struct script *s, const struct vu_msg *m)
{
	struct seen *seen;

	if (s->n >= PEER_MESSAGES)
		return;
	seen = &s->seen[s->n];
	seen->request = m->h.request;
	seen->size = m->h.size;
	seen->nfds = m->nfds;
	memcpy(seen->payload, &m->p, m->h.size);
	for (unsigned int i = 0; i < m->nfds; i++) {
		struct stat st = {0};

		fstat(m->fds[i], &st);
		seen->fds[i] = (struct seen_fd){st.st_dev, st.st_ino};
	}
	__atomic_store_n(&s->n, s->n + 1, __ATOMIC_RELEASE);
}

static void use_channel(struct script *s, int fd)
{
	struct vu_msg m;

	vu_set(&m, s->channel_request);
	m.h.flags |= VU_NEED_REPLY;
	for (uint32_t i = 0; i < s->channel_fds; i++)
		m.fds[m.nfds++] = fd;
	vu_send(fd, &m, PEERS_WAIT_MS);
	if (!vu_recv(fd, &m, PEERS_WAIT_MS))
		__atomic_store_n(&s->channel_result, (int)m.p.u64, __ATOMIC_RELEASE);
}

static bool answer(struct script *s, struct vu_msg *m)
{
	switch (m->h.request) {
	case VU_GET_FEATURES:
		m->p.u64 = s->features;
		break;
	case VU_GET_PROTOCOL_FEATURES:
		m->p.u64 = s->protocol;
		break;
	case VU_GET_MAX_MEM_SLOTS:
		m->p.u64 = s->slots;
		break;
	case VU_GET_QUEUE_NUM:
		m->p.u64 = s->queues;
		break;
	case VU_GET_STATUS:
		m->p.u64 = 0;
		break;
	case VU_GET_VRING_BASE:
		m->p.state.num = s->base;
		return true;
	case VU_GET_CONFIG:
		memset(m->p.config.region, 0x5a, m->p.config.size);
		if (s->limits[0])
			memcpy(m->p.config.region + 8, s->limits, sizeof(s->limits));
		return true;
	default:
		if (!(m->h.flags & VU_NEED_REPLY))
			return false;
		m->p.u64 = m->h.request == s->nack;
		break;
	}
	m->h.size = 8;
	return true;
}

/* Has a process of its own keep the connection, so that another one would be accepted. */
static void linger(struct script *s)
{
	if (!s->lingers || fork())
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (__atomic_load_n(&s->lingers, __ATOMIC_ACQUIRE))
		nap();
	_exit(0);
}

static void backend_serve(struct script *s, int fd)
{
	struct vu_msg m;
	int channel = -1;

	while (!vu_recv(fd, &m, PEERS_WAIT_MS * 10)) {
		record(s, &m);
		if (m.h.request == VU_SET_BACKEND_REQ_FD && m.nfds)
			channel = vu_take_fd(&m);
		vu_close_fds(&m);
		if (m.h.request == s->mute)
			continue;
		if (m.h.request == s->short_reply) {
			if (write(fd, "\1\0\0\0\5\0", 6) < 0)
				return;
			continue;
		}
		if (answer(s, &m)) {
			m.h.flags = VU_VERSION | VU_REPLY;
			vu_send(fd, &m, PEERS_WAIT_MS);
		}
		if (channel >= 0 && s->channel_request && m.h.request == VU_SET_VRING_ENABLE) {
			use_channel(s, channel);
			s->channel_request = 0;
		}
	}
	linger(s);
	close(fd);
	if (channel >= 0)
		close(channel);
}

void peers_backend_start(struct peers *rig)
{
	struct sockaddr_un addr;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address(&addr, rig->back);
	unlink(rig->back);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 4), 0);
	rig->backend = fork();
	assert_true(rig->backend >= 0);
	if (rig->backend == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			int conn = accept(fd, NULL, NULL);

			if (conn < 0)
				_exit(1);
			__atomic_fetch_add(&rig->script->connections, 1, __ATOMIC_ACQ_REL);
			backend_serve(rig->script, conn);
		}
	}
	close(fd);
}

static void end(pid_t *pid)
{
	if (*pid > 0) {
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
	}
	*pid = 0;
}

void peers_backend_kill(struct peers *rig)
{
	end(&rig->backend);
}

/* ---- the rig ---- */

int peers_setup(void **state)
{
	struct peers *rig = calloc(1, sizeof(*rig));

	assert_non_null(rig);
	rig->fe = -1;
	snprintf(rig->dir, sizeof(rig->dir), "/tmp/sluice-test-XXXXXX");
	assert_non_null(mkdtemp(rig->dir));
	assert_int_equal(chmod(rig->dir, 0777), 0);
	snprintf(rig->front, sizeof(rig->front), "%s/front", rig->dir);
	snprintf(rig->back, sizeof(rig->back), "%s/back", rig->dir);
	snprintf(rig->log, sizeof(rig->log), "%s/log", rig->dir);
	snprintf(rig->pool_path, sizeof(rig->pool_path), "/dev/shm/sluice-test-%d", getpid());
	rig->pool = open(rig->pool_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	assert_true(rig->pool >= 0);
	assert_int_equal(ftruncate(rig->pool, POOL_BYTES), 0);
	rig->mem = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, rig->pool, 0);
	assert_ptr_not_equal(rig->mem, MAP_FAILED);
	rig->ram = make_memfd("ram", 1u << 21);
	rig->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rig->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rig->err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rig->script = mmap(NULL, sizeof(*rig->script), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(rig->script, MAP_FAILED);
	rig->script->features = QEMU_FEATURES;
	rig->script->protocol = QEMU_PROTOCOL;
	rig->script->slots = 32;
	rig->script->queues = 4;
	rig->script->channel_result = -1;
	*state = rig;
	return 0;
}

int peers_teardown(void **state)
{
	struct peers *rig = *state;
	char cmd[128];

	end(&rig->relay);
	end(&rig->backend);
	if (rig->fe >= 0)
		close(rig->fe);
	close(rig->pool);
	close(rig->ram);
	close(rig->kick);
	close(rig->call);
	close(rig->err);
	munmap(rig->mem, POOL_BYTES);
	munmap(rig->script, sizeof(*rig->script));
	unlink(rig->pool_path);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", rig->dir);
	if (system(cmd))
		return -1;
	free(rig);
	return 0;
}

static void relay_in(struct peers *rig, const char *mode, va_list ap)
{
	const char *program = getenv("SLUICE"), *argv[32];
	char threads[16];
	unsigned int n = 0;

	argv[n++] = program ? program : "build/sluice";
	argv[n++] = "relay";
	argv[n++] = "--listen";
	argv[n++] = rig->front;
	argv[n++] = "--backend";
	argv[n++] = rig->back;
	argv[n++] = "--mode";
	argv[n++] = mode;
	if (rig->threads) {
		snprintf(threads, sizeof(threads), "%u", rig->threads);
		argv[n++] = "--threads";
		argv[n++] = threads;
	}
	do {
		argv[n] = va_arg(ap, const char *);
	} while (argv[n++] && n < 31);
	argv[n] = NULL;
	rig->relay = fork();
	assert_true(rig->relay >= 0);
	if (rig->relay == 0) {
		int fd = open(rig->log, O_WRONLY | O_CREAT | O_APPEND, 0666);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fd, STDERR_FILENO);
		execv(argv[0], (char **)(uintptr_t)argv);
		_exit(127);
	}
}

void peers_relay(struct peers *rig, ...)
{
	va_list ap;

	va_start(ap, rig);
	relay_in(rig, "filter", ap);
	va_end(ap);
}

void peers_relay_shadow(struct peers *rig, ...)
{
	va_list ap;

	va_start(ap, rig);
	relay_in(rig, "shadow", ap);
	va_end(ap);
}

void peers_connect(struct peers *rig)
{
	struct sockaddr_un addr;

	if (rig->fe >= 0)
		close(rig->fe);
	address(&addr, rig->front);
	for (int i = 0; i < PEERS_WAIT_MS / 5; i++) {
		rig->fe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (!connect(rig->fe, (struct sockaddr *)&addr, sizeof(addr)))
			return;
		close(rig->fe);
		nap();
	}
	fail_msg("the relay does not listen");
}

int peers_status(struct peers *rig)
{
	int status;

	for (int i = 0; i < PEERS_WAIT_MS / 5; i++) {
		if (waitpid(rig->relay, &status, WNOHANG) == rig->relay) {
			rig->relay = 0;
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		}
		nap();
	}
	return -1;
}

bool peers_logged(struct peers *rig, const char *text)
{
	static char buf[65536];
	int fd = open(rig->log, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return strstr(buf, text) != NULL;
}

const char *peers_statistics(const char *path)
{
	static char text[65536];
	struct sockaddr_un addr;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t n = 0;
	ssize_t more;

	address(&addr, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	shutdown(fd, SHUT_WR);
	while ((more = read(fd, text + n, sizeof(text) - 1 - n)) > 0)
		n += (size_t)more;
	assert_true(!more && n > 1000 && n < sizeof(text) - 1);
	close(fd);
	text[n] = '\0';
	return text;
}

void peers_wait_log(struct peers *rig, const char *text)
{
	for (int i = 0; i < PEERS_WAIT_MS / 5; i++) {
		if (peers_logged(rig, text))
			return;
		nap();
	}
	fail_msg("the relay did not log: %s", text);
}

pid_t peers_door(struct peers *rig)
{
	char path[64];
	int pid = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", rig->relay, rig->relay);
	f = fopen(path, "re");
	if (f) {
		if (fscanf(f, "%d", &pid) != 1)
			pid = 0;
		fclose(f);
	}
	return pid;
}

void peers_qsd_start(struct peers *rig)
{
	char blockdev[240], group[80], export[256], disk[80];
	const bool slow = rig->disk_writes;

	snprintf(disk, sizeof(disk), "%s/disk", rig->dir);
	close(open(disk, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	assert_int_equal(truncate(disk, 1 << 20), 0);
	snprintf(group, sizeof(group), "throttle-group,id=g,limits.iops-write=%u",
		 rig->disk_writes);
	snprintf(blockdev, sizeof(blockdev), "%snode-name=d,%sfilename=%s",
		 slow ? "driver=throttle,throttle-group=g," : "driver=file,",
		 slow ? "file.driver=file,file." : "", disk);
	snprintf(export, sizeof(export),
		 "type=vhost-user-blk,id=e,node-name=d,writable=on,num-queues=%u,addr.type=unix,"
		 "addr.path=%s",
		 rig->disk_queues ? rig->disk_queues : 1, rig->back);
	unlink(rig->back);
	rig->backend = fork();
	assert_true(rig->backend >= 0);
	if (rig->backend == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl(PEERS_QSD, PEERS_QSD, "--object", group, "--blockdev", blockdev, "--export",
		      export, (char *)NULL);
		_exit(127);
	}
}

void peers_check_disk(struct peers *rig, unsigned int sectors, uint8_t first)
{
	uint8_t sector[512];
	char path[96];
	int disk;

	snprintf(path, sizeof(path), "%s/disk", rig->dir);
	disk = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(disk >= 0);
	for (unsigned int i = 0; i < sectors; i++) {
		assert_int_equal(pread(disk, sector, sizeof(sector), (off_t)(i * sizeof(sector))),
				 sizeof(sector));
		for (unsigned int j = 0; j < sizeof(sector); j++)
			assert_int_equal(sector[j], first + i);
	}
	close(disk);
}

FILE *peers_proc(pid_t pid, const char *command, const char *what)
{
	char line[128];
	FILE *f;

	snprintf(line, sizeof(line), "%s%s /proc/%d/%s", geteuid() ? "sudo -n " : "", command, pid,
		 what);
	f = popen(line, "r");
	assert_non_null(f);
	return f;
}

/* ---- what the backend has seen ---- */

static uint32_t seen(struct peers *rig)
{
	return __atomic_load_n(&rig->script->n, __ATOMIC_ACQUIRE);
}

const struct seen *be_last(struct peers *rig, uint32_t request)
{
	for (uint32_t i = seen(rig); i > 0; i--)
		if (rig->script->seen[i - 1].request == request)
			return &rig->script->seen[i - 1];
	return NULL;
}

unsigned int be_count(struct peers *rig, uint32_t request)
{
	unsigned int n = 0;

	for (uint32_t i = 0; i < seen(rig); i++)
		n += rig->script->seen[i].request == request;
	return n;
}

bool be_saw_file(struct peers *rig, int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	for (uint32_t i = 0; i < seen(rig); i++)
		for (uint32_t j = 0; j < rig->script->seen[i].nfds; j++)
			if (rig->script->seen[i].fds[j].dev == st.st_dev &&
			    rig->script->seen[i].fds[j].ino == st.st_ino)
				return true;
	return false;
}

bool be_saw_bytes(struct peers *rig, const void *bytes, size_t n)
{
	for (uint32_t i = 0; i < seen(rig); i++)
		if (memmem(rig->script->seen[i].payload, rig->script->seen[i].size, bytes, n))
			return true;
	return false;
}

void be_wait(struct peers *rig, uint32_t request, unsigned int count)
{
	for (int i = 0; i < PEERS_WAIT_MS / 5; i++) {
		if (be_count(rig, request) >= count)
			return;
		nap();
	}
	fail_msg("the backend has not seen request %u %u times", request, count);
}

unsigned long rig_switches(pid_t task)
{
	unsigned long n, sum = 0;
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", task);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "voluntary_ctxt_switches: %lu", &n) == 1 ||
		    sscanf(line, "nonvoluntary_ctxt_switches: %lu", &n) == 1)
			sum += n;
	fclose(f);
	return sum;
}
