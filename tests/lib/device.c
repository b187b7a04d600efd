/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * device.c - a backend that serves rings, as it should or as it must not
 *
 * Theory of operation: tests/lib/device.h. Here are its process and its messages; device_ring.c has
 * the rings.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device_ring.h"

#define WAIT_MS 30000

static const char *const sin_names[SIN_SINS] = {
	"nothing",
	"id out of range",
	"wild id",
	"id not in flight",
	"id used twice",
	"length one too long",
	"wild length",
	"index that jumps",
	"index that goes back",
	"descriptors overwritten",
	"descriptors overwritten first",
	"readable part overwritten",
	"pool overwritten",
	"everything overwritten",
	"used entries that change",
	"calls",
};

static const char *const slip_names[SLIP_SLIPS] = {
	"nothing",	"wrong size", "wrong request",
	"wrong flags",	"with files", "with too many files",
	"too long",	"half",	      "twice",
	"unasked",	"refused",    "closed",
	"all bits set",
};

const char *sin_name(enum sin sin)
{
	return sin_names[sin];
}

const char *slip_name(enum slip slip)
{
	return slip_names[slip];
}

/* ---- messages ---- */

static void add_region(struct backend_mem *mem, const struct vu_region *r, int fd)
{
	struct backend_region *b = &mem->regions[mem->n];
	void *p = MAP_FAILED;

	if (mem->n < BACKEND_REGIONS)
		p = mmap(NULL, r->size + r->offset, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return;
	*b = (struct backend_region){
		r->gpa, r->user, r->size, p, (uint8_t *)p + r->offset, r->size + r->offset};
	mem->n++;
}

static void drop_region(struct backend_mem *mem, const struct vu_region *r)
{
	for (unsigned int i = 0; i < mem->n; i++)
		if (mem->regions[i].gpa == r->gpa) {
			munmap(mem->regions[i].map, mem->regions[i].mapped);
			mem->regions[i] = mem->regions[--mem->n];
			return;
		}
}

static void take_memory(struct backend_mem *mem, struct vu_msg *m)
{
	if (m->h.request == VU_ADD_MEM_REG && m->nfds)
		add_region(mem, &m->p.one.region, vu_take_fd(m));
	if (m->h.request == VU_REM_MEM_REG)
		drop_region(mem, &m->p.one.region);
	if (m->h.request != VU_SET_MEM_TABLE)
		return;
	while (mem->n)
		drop_region(mem, &(struct vu_region){.gpa = mem->regions[0].gpa});
	for (uint32_t i = 0; i < m->p.table.nregions && m->nfds; i++)
		add_region(mem, &m->p.table.regions[i], vu_take_fd(m));
}

static void replace_fd(int *fd, struct vu_msg *m)
{
	if (*fd >= 0)
		close(*fd);
	*fd = vu_take_fd(m);
}

static void take_ring(struct backend_state *s, struct vu_msg *m)
{
	const uint32_t i = m->h.request >= VU_SET_VRING_KICK && m->h.request <= VU_SET_VRING_ERR
				   ? (uint32_t)m->p.u64 & VU_VRING_INDEX
				   : m->p.state.index;
	struct backend_ring *r;

	if (i >= BACKEND_RINGS)
		return;
	r = &s->rings[i];
	switch (m->h.request) {
	case VU_SET_VRING_NUM:
		r->num = m->p.state.num;
		break;
	case VU_SET_VRING_BASE:
		backend_ring_base(s, r, m->p.state.num);
		break;
	case VU_SET_VRING_ADDR:
		r->desc = m->p.addr.desc;
		r->avail = m->p.addr.avail;
		r->used = m->p.addr.used;
		break;
	case VU_SET_VRING_KICK:
		replace_fd(&r->kick, m);
		r->started = true;
		break;
	case VU_SET_VRING_CALL:
		replace_fd(&r->call, m);
		break;
	case VU_SET_VRING_ENABLE:
		r->enabled = m->p.state.num;
		break;
	case VU_GET_VRING_BASE:
		r->started = false;
		m->p.state.num = backend_ring_get_base(s, r);
		break;
	default:
		break;
	}
}

static bool answer(struct backend_state *s, struct vu_msg *m)
{
	switch (m->h.request) {
	case VU_GET_FEATURES:
		m->p.u64 = s->script->features;
		break;
	case VU_GET_PROTOCOL_FEATURES:
		m->p.u64 = s->script->protocol;
		break;
	case VU_GET_MAX_MEM_SLOTS:
		m->p.u64 = 32;
		break;
	case VU_GET_QUEUE_NUM:
		m->p.u64 = BACKEND_RINGS;
		break;
	case VU_GET_STATUS:
		m->p.u64 = 0;
		break;
	case VU_GET_VRING_BASE:
		return true;
	case VU_GET_CONFIG:
		memset(m->p.config.region, 0, sizeof(m->p.config.region));
		return true;
	default:
		if (!(m->h.flags & VU_NEED_REPLY))
			return false;
		m->p.u64 = 0;
		break;
	}
	m->h.size = 8;
	return true;
}

/* Send the answer in its wrong form. False: the connection is over. */
static bool slip(struct backend_state *s, int fd, struct vu_msg *m)
{
	const enum slip slip = s->script->slip;
	int null = -1;

	m->h.flags = VU_VERSION | VU_REPLY;
	switch (slip) {
	case SLIP_SIZE:
		m->h.size += 4;
		break;
	case SLIP_REQUEST:
		m->h.request++;
		break;
	case SLIP_VERSION:
		m->h.flags = 0xffu;
		break;
	case SLIP_FDS:
		null = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		m->fds[m->nfds++] = null;
		break;
	case SLIP_MANY_FDS:
		while (m->nfds < VU_MAX_FDS)
			m->fds[m->nfds++] = fd;
		break;
	case SLIP_LONG:
		m->h.size = 0x10000000;
		return send(fd, &m->h, sizeof(m->h), MSG_NOSIGNAL) < 0;
	case SLIP_HALF:
		return send(fd, &m->h, 7, MSG_NOSIGNAL) < 0;
	case SLIP_TWICE:
		vu_send(fd, m, 1000);
		break;
	case SLIP_UNASKED: {
		struct vu_msg other;

		vu_set_u64(&other, VU_GET_STATUS, 0xff);
		other.h.flags |= VU_REPLY;
		vu_send(fd, &other, 1000);
		break;
	}
	case SLIP_REFUSE:
		m->p.u64 = 1;
		break;
	case SLIP_WILD:
		memset(&m->p, 0xff, m->h.size);
		break;
	default:
		return false;
	}
	vu_send(fd, m, 1000);
	m->nfds = 0;
	if (null >= 0)
		close(null);
	return true;
}

/* One message. False: the connection is over. */
static bool serve(struct backend_state *s, int fd)
{
	struct vu_msg m;
	bool slips;

	if (vu_recv(fd, &m, 10000))
		return false;
	slips = s->script->slip && m.h.request == s->script->slip_request && s->script->times;
	/* What it says no to it has not got. */
	if (!slips || s->script->slip != SLIP_REFUSE)
		take_memory(&s->mem, &m);
	take_ring(s, &m);
	if (m.h.request == VU_SET_FEATURES)
		s->packed = m.p.u64 & VU_BIT(VIRTIO_F_PACKED);
	s->script->regions = s->mem.n;
	vu_close_fds(&m);
	if (!answer(s, &m))
		return true;
	if (slips) {
		s->script->times--;
		s->script->sinned++;
		return slip(s, fd, &m);
	}
	m.h.flags = VU_VERSION | VU_REPLY;
	return vu_send(fd, &m, 10000) == 0;
}

static void connection(struct backend_state *s, int fd)
{
	struct pollfd p[1 + BACKEND_RINGS] = {{.fd = fd, .events = POLLIN}};
	uint64_t n;

	for (;;) {
		for (unsigned int i = 0; i < BACKEND_RINGS; i++)
			p[1 + i] = (struct pollfd){s->rings[i].kick, POLLIN, 0};
		/* It looks at its rings anyway, but for script->kicked: a kick makes it quick. */
		poll(p, 1 + BACKEND_RINGS, 2);
		for (unsigned int i = 0; i < BACKEND_RINGS; i++)
			if ((p[1 + i].revents & POLLIN) &&
			    read(s->rings[i].kick, &n, sizeof(n)) < 0 && errno != EAGAIN)
				return;
		if (p[0].revents && !serve(s, fd))
			return;
		for (unsigned int i = 0; i < BACKEND_RINGS; i++)
			if (!s->script->kicked || (p[1 + i].revents & POLLIN))
				backend_ring_serve(s, &s->rings[i]);
	}
}

/* What qemu-storage-daemon does: its requests end before its connection does. */
static void finish(struct backend_state *s)
{
	for (unsigned int i = 0; i < BACKEND_RINGS; i++) {
		s->rings[i].started = false;
		while (s->script->late && s->rings[i].nheld) {
			backend_ring_serve(s, &s->rings[i]);
			poll(NULL, 0, 1);
		}
	}
}

static void forget(struct backend_state *s)
{
	while (s->mem.n)
		drop_region(&s->mem, &(struct vu_region){.gpa = s->mem.regions[0].gpa});
	for (unsigned int i = 0; i < BACKEND_RINGS; i++) {
		if (s->rings[i].kick >= 0)
			close(s->rings[i].kick);
		if (s->rings[i].call >= 0)
			close(s->rings[i].call);
		s->rings[i] = (struct backend_ring){.kick = -1, .call = -1, .index = i};
	}
}

/* ---- the process ---- */

void device_init(struct device *d, struct peers *rig)
{
	*d = (struct device){.rig = rig};
	d->script = mmap(NULL, sizeof(*d->script), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(d->script, MAP_FAILED);
	d->script->features = VU_BIT(32) | VU_BIT(VU_F_PROTOCOL) | VU_BIT(VIRTIO_F_INDIRECT);
	d->script->protocol = VU_BIT(VU_P_MQ) | VU_BIT(VU_P_REPLY_ACK) | VU_BIT(VU_P_CONFIG) |
			      VU_BIT(VU_P_MEM_SLOTS);
}

void device_fini(struct device *d)
{
	device_kill(d);
	munmap(d->script, sizeof(*d->script));
}

void device_kill(struct device *d)
{
	if (d->pid > 0) {
		kill(d->pid, SIGKILL);
		waitpid(d->pid, NULL, 0);
	}
	d->pid = 0;
}

void device_start(struct device *d)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path, d->rig->back, strlen(d->rig->back));
	unlink(d->rig->back);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 4), 0);
	d->pid = fork();
	assert_true(d->pid >= 0);
	if (d->pid == 0) {
		static struct backend_state s;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGPIPE, SIG_IGN);
		s.script = d->script;
		for (unsigned int i = 0; i < BACKEND_RINGS; i++)
			s.rings[i] = (struct backend_ring){.kick = -1, .call = -1, .index = i};
		for (;;) {
			int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

			if (conn < 0)
				_exit(1);
			__atomic_fetch_add(&s.script->connections, 1, __ATOMIC_ACQ_REL);
			connection(&s, conn);
			finish(&s);
			close(conn);
			forget(&s);
		}
	}
	close(fd);
}

void device_wait(struct device *d, const uint32_t *counter, uint32_t n)
{
	(void)d;
	for (int i = 0; i < WAIT_MS; i++) {
		if (__atomic_load_n(counter, __ATOMIC_ACQUIRE) >= n)
			return;
		poll(NULL, 0, 1);
	}
	fail_msg("the device has not come to %u", n);
}
