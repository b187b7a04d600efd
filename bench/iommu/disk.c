/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * disk.c - a vhost-user disk that has to ask for each address: a back-end behind an IOMMU
 *
 * Theory of operation
 * -------------------
 * With VIRTIO_F_ACCESS_PLATFORM behind an IOMMU of QEMU's, a back-end of vhost-user is given device
 * addresses and no way to tell what they mean. It asks (IOTLB MISS, on the channel of
 * SET_BACKEND_REQ_FD), QEMU translates by the guest's tables and answers (UPDATE), and what is unmapped is
 * taken back (INVALIDATE), which the guest waits for. That is how DPDK's vhost library does it, for networks; for disks
 * Debian 12 has no back-end that does, and so bench/iommu.sh has this one: a disk of ordinary memory, one
 * split ring, one thread. It keeps what it was told in a table with one place for each page's number.
 *
 * A message is handled between two copies, never during one, so that nothing is touched by an address that
 * has been taken back, once that has been acknowledged.
 *
 * Both ends are the benchmark's own. What is wrong ends the program, with a line that says what.
 *
 * usage: disk SOCKET BYTES
 */
#include <errno.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "relay/vu.h"

#define PAGE	 UINT64_C(4096)
#define PLACES	 65536u /* for pages whose addresses are known */
#define AT_ONCE	 512u	/* pages that are noted of a long answer */
#define MEMORIES 8u
#define MOST	 256u /* descriptors of a request */
#define WAIT_MS	 5000 /* for the peer to go on */
#define SECTOR	 UINT64_C(512)

#define FEATURES                                                                                   \
	(VU_BIT(VIRTIO_F_VERSION_1) | VU_BIT(VIRTIO_F_ACCESS_PLATFORM) | VU_BIT(VU_F_PROTOCOL) |   \
	 VU_BIT(VIRTIO_F_INDIRECT) | VU_BIT(VIRTIO_BLK_F_SEG_MAX) | VU_BIT(VIRTIO_BLK_F_FLUSH))
/* QEMU wants the first two for ACCESS_PLATFORM, and the third for a disk. */
#define PROTOCOL (VU_BIT(VU_P_REPLY_ACK) | VU_BIT(VU_P_BACKEND_REQ) | VU_BIT(VU_P_CONFIG))

#define CHANNEL_IOTLB 1u /* on the channel; the spec, "Back-end message types" */

struct memory {
	uint64_t user, bytes; /* where QEMU has it */
	uint8_t *at;	      /* and we */
};

struct known {
	uint64_t page;
	uint8_t *at;
	uint32_t perm; /* 0: nothing is known here */
};

static struct disk {
	uint8_t *bytes;
	uint64_t size;
	int front, channel;
	struct memory memories[MEMORIES];
	uint32_t n_memories;
	uint64_t wanted; /* the page that has been asked for */
	/* The ring. */
	uint64_t desc, avail, used;
	uint32_t num;
	uint16_t next;
	int kick, call;
	struct known known[PLACES];
} disk = {.channel = -1, .kick = -1, .call = -1};

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fputs("disk: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	exit(1);
}

/* ---- addresses ---- */

static struct known *place_of(uint64_t page)
{
	return &disk.known[(page ^ page >> 16) % PLACES];
}

static void forget_all(void)
{
	memset(disk.known, 0, sizeof(disk.known));
}

static uint8_t *of_user(uint64_t user, uint64_t bytes)
{
	for (uint32_t i = 0; i < disk.n_memories; i++) {
		const struct memory *m = &disk.memories[i];

		if (user >= m->user && bytes <= m->bytes && user - m->user <= m->bytes - bytes)
			return m->at + (user - m->user);
	}
	die("an answer that names memory at %#llx, which is none of the guest's",
	    (unsigned long long)user);
}

static void learn(const struct vhost_iotlb_msg *msg)
{
	uint64_t page = msg->iova / PAGE, n = msg->size / PAGE;
	uint8_t *at = of_user(msg->uaddr, msg->size);

	/* Of a long one what was asked for, and what comes next. */
	if (disk.wanted - page < n) {
		at += (disk.wanted - page) * PAGE;
		n -= disk.wanted - page;
		page = disk.wanted;
	}
	for (uint64_t i = 0; i < n && i < AT_ONCE; i++)
		*place_of(page + i) = (struct known){page + i, at + i * PAGE, msg->perm};
}

static void forget(const struct vhost_iotlb_msg *msg)
{
	uint64_t page = msg->iova / PAGE, n = (msg->size + PAGE - 1) / PAGE;

	/* From 0 on, and so long that it is no number: all there is. */
	if (!n || n > PLACES) {
		forget_all();
		return;
	}
	for (uint64_t i = 0; i < n; i++) {
		if (place_of(page + i)->page == page + i)
			place_of(page + i)->perm = 0;
	}
}

/* ---- messages ---- */

static void take_table(struct vu_msg *m)
{
	if (m->p.table.nregions > MEMORIES || m->p.table.nregions != m->nfds)
		die("%u regions with %u files", m->p.table.nregions, m->nfds);
	/* The mappings before stay: QEMU sends the table once a start, and a benchmark has few. */
	disk.n_memories = 0;
	for (uint32_t i = 0; i < m->p.table.nregions; i++) {
		const struct vu_region *r = &m->p.table.regions[i];
		uint8_t *at = mmap(NULL, r->size + r->offset, PROT_READ | PROT_WRITE, MAP_SHARED,
				   m->fds[i], 0);

		if (at == MAP_FAILED)
			die("the guest's memory cannot be mapped: %s", strerror(errno));
		disk.memories[disk.n_memories++] =
			(struct memory){r->user, r->size, at + r->offset};
	}
	forget_all();
}

static void replace(int *fd, struct vu_msg *m)
{
	if (*fd >= 0)
		close(*fd);
	*fd = vu_take_fd(m);
}

static void take_config(struct vu_config *config)
{
	struct virtio_blk_config blk = {
		.capacity = disk.size / SECTOR, .seg_max = 126, .blk_size = SECTOR};

	memset(config->region, 0, sizeof(config->region));
	memcpy(config->region, &blk, sizeof(blk));
}

static void take_iotlb(const struct vu_msg *m)
{
	struct vhost_iotlb_msg msg;

	memcpy(&msg, m->p.raw, sizeof(msg));
	if (msg.type == VHOST_IOTLB_UPDATE)
		learn(&msg);
	else if (msg.type == VHOST_IOTLB_INVALIDATE)
		forget(&msg);
	else
		die("an IOTLB message of type %u", msg.type);
}

static bool say(struct vu_msg *m, uint64_t value)
{
	m->p.u64 = value;
	m->h.size = sizeof(m->p.u64);
	return true;
}

/* Do what a message says. True if what is in it then is the answer. */
static bool take(struct vu_msg *m)
{
	switch (m->h.request) {
	case VU_GET_FEATURES:
		return say(m, FEATURES);
	case VU_GET_PROTOCOL_FEATURES:
		return say(m, PROTOCOL);
	case VU_SET_FEATURES:
		if (!(m->p.u64 & VU_BIT(VIRTIO_F_ACCESS_PLATFORM)))
			die("the driver has not accepted VIRTIO_F_ACCESS_PLATFORM");
		return false;
	case VU_GET_CONFIG:
		take_config(&m->p.config);
		return true;
	case VU_SET_MEM_TABLE:
		take_table(m);
		return false;
	case VU_SET_VRING_NUM:
		disk.num = m->p.state.num;
		return false;
	case VU_SET_VRING_ADDR:
		disk.desc = m->p.addr.desc;
		disk.avail = m->p.addr.avail;
		disk.used = m->p.addr.used;
		return false;
	case VU_SET_VRING_BASE:
		disk.next = (uint16_t)m->p.state.num;
		return false;
	case VU_GET_VRING_BASE:
		/* The driver is going: nothing is to be known of what the next one maps. */
		replace(&disk.kick, m);
		forget_all();
		m->p.state.num = disk.next;
		return true;
	case VU_SET_VRING_KICK:
		replace(&disk.kick, m);
		return false;
	case VU_SET_VRING_CALL:
		replace(&disk.call, m);
		return false;
	case VU_SET_BACKEND_REQ_FD:
		replace(&disk.channel, m);
		return false;
	case VU_IOTLB_MSG:
		take_iotlb(m);
		return false;
	default:
		return false;
	}
}

static void serve_message(void)
{
	struct vu_msg m;
	int err = vu_recv(disk.front, &m, WAIT_MS);
	bool answer;

	if (err == -ENOTCONN)
		exit(0);
	if (err)
		die("no message: %s", strerror(-err));
	answer = take(&m) || (m.h.flags & VU_NEED_REPLY && say(&m, 0));
	vu_close_fds(&m);
	if (!answer)
		return;
	m.h.flags = VU_VERSION | VU_REPLY;
	err = vu_send(disk.front, &m, WAIT_MS);
	if (err)
		die("an answer could not be sent: %s", strerror(-err));
}

/* Ask for a page, and wait until it is known. */
static void ask(uint64_t page, uint32_t perm)
{
	struct vhost_iotlb_msg msg = {
		.iova = page * PAGE, .size = PAGE, .perm = (uint8_t)perm, .type = VHOST_IOTLB_MISS};
	struct vu_msg m;
	int err;

	vu_set(&m, CHANNEL_IOTLB);
	m.h.size = sizeof(msg);
	memcpy(m.p.raw, &msg, sizeof(msg));
	disk.wanted = page;
	err = vu_send(disk.channel, &m, WAIT_MS);
	if (err)
		die("a page could not be asked for: %s", strerror(-err));
	while (place_of(page)->page != page || (place_of(page)->perm & perm) != perm)
		serve_message();
}

/* The memory at a device address; good until the next message, as far as the end of the page. */
static uint8_t *reach(uint64_t iova, uint32_t perm)
{
	uint64_t page = iova / PAGE;
	const struct known *known = place_of(page);

	if (known->page != page || (known->perm & perm) != perm)
		ask(page, perm);
	return known->at + iova % PAGE;
}

static void copy(uint64_t iova, void *mine, uint64_t n, uint32_t perm)
{
	for (uint64_t done = 0; done < n;) {
		uint64_t at = iova + done, some = PAGE - at % PAGE;
		uint8_t *theirs = reach(at, perm);

		some = some < n - done ? some : n - done;
		if (perm == VHOST_ACCESS_RO)
			memcpy((uint8_t *)mine + done, theirs, some);
		else
			memcpy(theirs, (uint8_t *)mine + done, some);
		done += some;
	}
}

static void get(uint64_t iova, void *to, uint64_t n)
{
	copy(iova, to, n, VHOST_ACCESS_RO);
}

static void put(uint64_t iova, void *from, uint64_t n)
{
	copy(iova, from, n, VHOST_ACCESS_WO);
}

/* ---- the ring ---- */

static uint16_t load16(uint64_t iova)
{
	/* Acquire: what the driver wrote before is read after. */
	return __atomic_load_n((uint16_t *)(void *)reach(iova, VHOST_ACCESS_RO), __ATOMIC_ACQUIRE);
}

static void store16(uint64_t iova, uint16_t value)
{
	/* In one order with the loads behind it: whoever says that he wants to be told looks again. */
	__atomic_store_n((uint16_t *)(void *)reach(iova, VHOST_ACCESS_WO), value, __ATOMIC_SEQ_CST);
}

/* A request's descriptors; how many. */
static uint32_t collect(uint16_t head, struct vring_desc *chain)
{
	uint64_t table = disk.desc;
	uint32_t n = 0, at = head, room = disk.num;

	for (;;) {
		struct vring_desc *desc = &chain[n];

		if (at >= room || n == MOST)
			die("a chain that leads nowhere");
		get(table + at * sizeof(*desc), desc, sizeof(*desc));
		if (desc->flags & VRING_DESC_F_INDIRECT) {
			table = desc->addr;
			room = desc->len / (uint32_t)sizeof(*desc);
			at = 0;
			continue;
		}
		n++;
		if (!(desc->flags & VRING_DESC_F_NEXT))
			return n;
		at = desc->next;
	}
}

/* Move the data of a request; how many bytes were written into the guest's memory. */
static uint8_t transfer(const struct virtio_blk_outhdr *head, const struct vring_desc *chain,
			uint32_t n, uint32_t *written)
{
	uint64_t at = head->sector * SECTOR;

	for (uint32_t i = 0; i < n; i++) {
		if (head->sector > disk.size / SECTOR || chain[i].len > disk.size - at)
			return VIRTIO_BLK_S_IOERR;
		if (head->type == VIRTIO_BLK_T_IN) {
			put(chain[i].addr, disk.bytes + at, chain[i].len);
			*written += chain[i].len;
		} else {
			get(chain[i].addr, disk.bytes + at, chain[i].len);
		}
		at += chain[i].len;
	}
	return VIRTIO_BLK_S_OK;
}

static void serve_request(uint16_t id)
{
	struct vring_desc chain[MOST];
	struct virtio_blk_outhdr head;
	uint32_t n = collect(id, chain), written = 0;
	struct vring_used_elem elem = {.id = id};
	uint8_t status = VIRTIO_BLK_S_UNSUPP;

	if (n < 2 || chain[0].len < sizeof(head))
		die("a request without head or status");
	get(chain[0].addr, &head, sizeof(head));
	if (head.type == VIRTIO_BLK_T_IN || head.type == VIRTIO_BLK_T_OUT)
		status = transfer(&head, chain + 1, n - 2, &written);
	else if (head.type == VIRTIO_BLK_T_FLUSH)
		status = VIRTIO_BLK_S_OK;
	put(chain[n - 1].addr, &status, sizeof(status));
	elem.len = written + 1;
	put(disk.used + 4 + disk.next % disk.num * sizeof(elem), &elem, sizeof(elem));
	disk.next++;
	store16(disk.used + 2, disk.next);
}

static void serve_ring(void)
{
	uint16_t before = disk.next;

	do {
		store16(disk.used, VRING_USED_F_NO_NOTIFY);
		while (load16(disk.avail + 2) != disk.next)
			serve_request(load16(disk.avail + 4 + disk.next % disk.num * 2));
		store16(disk.used, 0);
	} while (load16(disk.avail + 2) != disk.next);
	if (disk.next != before && !(load16(disk.avail) & VRING_AVAIL_F_NO_INTERRUPT))
		(void)eventfd_write(disk.call, 1);
}

/* ---- the program ---- */

static void listen_at(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(addr.sun_path))
		die("%s is too long for a socket", path);
	strcpy(addr.sun_path, path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 1))
		die("%s: %s", path, strerror(errno));
	disk.front = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	if (disk.front < 0)
		die("%s: %s", path, strerror(errno));
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		die("usage: disk SOCKET BYTES");
	disk.size = strtoull(argv[2], NULL, 0) / SECTOR * SECTOR;
	disk.bytes = calloc(1, disk.size);
	if (!disk.bytes)
		die("no memory for %s bytes", argv[2]);
	listen_at(argv[1]);
	for (;;) {
		struct pollfd fds[2] = {{disk.front, POLLIN, 0}, {disk.kick, POLLIN, 0}};
		eventfd_t kicks;

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			die("poll: %s", strerror(errno));
		/* First what the front-end says of the ring. */
		if (fds[0].revents)
			serve_message();
		else if (fds[1].revents && !eventfd_read(disk.kick, &kicks))
			serve_ring();
	}
}
