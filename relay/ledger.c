/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * ledger.c - the in-flight buffer that is offered to the front-end
 *
 * Theory of operation
 * -------------------
 * The relay knows what is in flight, and hides from the front-end that a backend has died. If the
 * relay itself dies, the next one knows nothing. For that the protocol has a buffer that the
 * front-end keeps (the spec, "Inflight I/O tracking"): it is asked for, given back to whoever serves
 * the device next, and says for each chain whether it is in flight and in which order they came. It
 * is offered whether the backend has such a thing or not; the backend never sees it.
 *
 * Here is what both layouts have in common, and the split one; ledger_packed.c has the other.
 *
 * The order of the writes, for a death between any two of them (the spec, "Inflight I/O tracking",
 * split virtqueue): fetched: counter, then inflight. Used: the chain is put in front of the batch,
 * the ring's used index is published, inflight is cleared for all of the batch, the buffer's used
 * index is brought up. So where the two indices differ, the batch is what had been used and may not
 * have been cleared. A compiler barrier between them is enough: the reader is a later process.
 *
 * The buffer is shared with the front-end. It is read when a ring is started, each value once, and
 * its numbers are held against the ring.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger.h"
#include "log.h"
#include "session.h"
#include "shadow.h"

#define LEDGER_VERSION 1u

struct ledger_desc {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

struct ledger_queue {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct ledger_desc desc[];
};

/* What has been used and is not published yet. A thread reaps one queue at a time. */
static _Thread_local uint16_t batch[SHADOW_NUM];
static _Thread_local uint16_t nbatch;

static size_t queue_bytes(uint16_t num, bool packed)
{
	size_t bytes = packed ? ledger_packed_bytes(num)
			      : sizeof(struct ledger_queue) + num * sizeof(struct ledger_desc);

	return (bytes + 63) & ~(size_t)63;
}

static bool is_packed(const struct relay *r)
{
	return r->fe.features & VU_BIT(VIRTIO_F_PACKED);
}

int ledger_get(struct relay *r, struct vu_msg *m)
{
	struct vu_inflight *want = &m->p.inflight;
	uint64_t bytes = (uint64_t)want->queues * queue_bytes(want->num, is_packed(r));
	int fd, rc;

	if (!want->queues || want->queues > RING_MAX || !want->num || want->num > SHADOW_NUM) {
		relay_log_peer("refused GET_INFLIGHT_FD: %u queues of %u entries", want->queues,
			       want->num);
		return REFUSE;
	}
	want->bytes = bytes;
	want->offset = 0;
	fd = memfd_create("sluice-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)bytes) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		relay_log_peer("there is no memory for the in-flight buffer (%s)", strerror(errno));
		if (fd >= 0)
			close(fd);
		return REFUSE;
	}
	rc = session_reply_fd(r, m, fd);
	close(fd);
	return rc;
}

void ledger_close(struct shadow *s)
{
	if (s->ledger)
		munmap(s->ledger, s->ledger_len);
	s->ledger = NULL;
	guest_watch_also(&s->guest, 1, NULL, 0);
}

/* Whether it is the buffer that is in use. */
static bool is_same(const struct shadow *s, const struct vu_inflight *v, int fd)
{
	struct stat st;

	return s->ledger && s->ledger_len == v->bytes && s->ledger_offset == v->offset &&
	       s->ledger_queues == v->queues && s->ledger_num == v->num && fd >= 0 &&
	       !fstat(fd, &st) && s->ledger_dev == st.st_dev && s->ledger_ino == st.st_ino;
}

int ledger_set(struct relay *r, struct vu_msg *m)
{
	const struct vu_inflight v = m->p.inflight;
	struct shadow *s = r->shadow;
	int fd = vu_take_fd(m);
	struct stat st;
	void *map;

	/* QEMU gives it again whenever it starts the device, also where flights of a stopped ring are noted in it. */
	if (is_same(s, &v, fd)) {
		close(fd);
		return DONE;
	}
	for (unsigned int i = 0; i < RING_MAX; i++) {
		if (s->queues[i].guest_on) {
			relay_log_peer("refused SET_INFLIGHT_FD: ring %u is running, or has "
				       "requests noted in the one before",
				       i);
			goto refuse;
		}
	}
	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || v.offset % 4096 || !v.queues ||
	    v.queues > RING_MAX || v.num > SHADOW_NUM || !v.num ||
	    v.bytes < v.queues * queue_bytes(v.num, is_packed(r)) || st.st_size < 0 ||
	    v.bytes > (uint64_t)st.st_size || v.offset > (uint64_t)st.st_size - v.bytes) {
		relay_log_peer("refused SET_INFLIGHT_FD: %u queues of %u entries in %llu bytes at "
			       "%llu is no in-flight buffer",
			       v.queues, v.num, (unsigned long long)v.bytes,
			       (unsigned long long)v.offset);
		goto refuse;
	}
	map = mmap(NULL, v.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)v.offset);
	if (map == MAP_FAILED) {
		relay_log_peer("cannot map the in-flight buffer: %s", strerror(errno));
		goto refuse;
	}
	close(fd);
	ledger_close(s);
	s->ledger = map;
	s->ledger_len = v.bytes;
	s->ledger_dev = st.st_dev;
	s->ledger_ino = st.st_ino;
	s->ledger_offset = v.offset;
	guest_watch_also(&s->guest, 1, map, v.bytes);
	s->ledger_queues = v.queues;
	s->ledger_num = v.num;
	return DONE;
refuse:
	if (fd >= 0)
		close(fd);
	return REFUSE;
}

struct waiting {
	uint64_t counter;
	uint16_t head;
};

static int by_counter(const void *a, const void *b)
{
	uint64_t x = ((const struct waiting *)a)->counter, y = ((const struct waiting *)b)->counter;

	return x < y ? -1 : x > y;
}

/* Makes flights of what an earlier relay has left. */
static void recover(struct queue *q, struct ledger_queue *l)
{
	static struct waiting found[SHADOW_NUM];
	static struct chain chain;
	uint16_t behind = (uint16_t)(q->guest.used - vring_load16(&l->used_idx)), n = 0;
	uint16_t head = vring_load16(&l->last_batch_head);
	const char *why = NULL;

	for (; behind && behind <= q->guest.num && head < q->guest.num; behind--) {
		l->desc[head].inflight = 0;
		head = vring_load16(&l->desc[head].next);
	}
	for (uint16_t i = 0; i < q->guest.num; i++) {
		if (!__atomic_load_n(&l->desc[i].inflight, __ATOMIC_RELAXED))
			continue;
		found[n++] = (struct waiting){vring_load64(&l->desc[i].counter), i};
	}
	if (!n) {
		q->guest.next = q->guest.seen = q->guest.used;
		return;
	}
	qsort(found, n, sizeof(found[0]), by_counter);
	for (uint16_t i = 0; i < n; i++) {
		struct flight *f;

		if (found[i].counter >= q->ledger_counter)
			q->ledger_counter = found[i].counter + 1;
		if (device_end_walk(&q->guest, &q->shadow->guest, found[i].head, &chain, &why) <
		    0) {
			q->broken = true;
			shadow_refused(q, "guest", REFUSED_CHAIN, why, chain.bad, chain.bad_len);
			return;
		}
		f = &q->flights[queue_take_flight(q)];
		f->id = chain.id;
		f->count = chain.count;
		f->since = q->loop->now;
		if (!place_keep(q, f, &chain)) {
			q->broken = true;
			shadow_refused(q, "guest", REFUSED_CHAIN, LEDGER_TOO_LONG, chain.id, i);
			return;
		}
	}
	q->parked = q->first;
	q->guest.next = q->guest.seen = (uint16_t)(q->guest.used + n);
	relay_log_peer("ring %u: an earlier relay has left %u requests undone; they go down again",
		       q->index, n);
}

void ledger_begin(struct queue *q)
{
	struct shadow *s = q->shadow;
	struct ledger_queue *l;
	size_t bytes = queue_bytes(s->ledger_num, q->guest.packed);

	q->ledger = NULL;
	/* The layout may have been another one when the buffer came. */
	if (!s->ledger || q->index >= s->ledger_queues || q->guest.num > s->ledger_num ||
	    s->ledger_queues * bytes > s->ledger_len)
		return;
	l = (void *)((uint8_t *)s->ledger + q->index * bytes);
	q->ledger = l;
	q->ledger_counter = 1;
	if (q->guest.packed) {
		ledger_packed_begin(q, s->ledger_num);
		return;
	}
	nbatch = 0;
	if (vring_load16(&l->version) == LEDGER_VERSION &&
	    vring_load16(&l->desc_num) == s->ledger_num) {
		recover(q, l);
	} else {
		memset(l, 0, bytes);
		l->desc_num = s->ledger_num;
	}
	vring_store16(&l->used_idx, q->guest.used);
	vring_release16(&l->version, LEDGER_VERSION);
}

bool ledger_room(const struct queue *q, uint16_t count)
{
	return !q->ledger || !q->guest.packed || q->ledger_nfree >= count;
}

void ledger_fetched(struct queue *q, struct flight *f)
{
	struct ledger_queue *l = q->ledger;

	if (!l)
		return;
	if (q->guest.packed) {
		ledger_packed_fetched(q, f);
		return;
	}
	vring_store64(&l->desc[f->id].counter, q->ledger_counter++);
	__atomic_store_n(&l->desc[f->id].inflight, 1, __ATOMIC_RELEASE);
}

void ledger_used(struct queue *q, const struct flight *f)
{
	struct ledger_queue *l = q->ledger;

	if (!l)
		return;
	if (q->guest.packed) {
		ledger_packed_used(q, f);
		return;
	}
	vring_store16(&l->desc[f->id].next, vring_load16(&l->last_batch_head));
	vring_release16(&l->last_batch_head, f->id);
	batch[nbatch++] = f->id;
}

void ledger_published(struct queue *q)
{
	struct ledger_queue *l = q->ledger;

	if (!l)
		return;
	if (q->guest.packed) {
		ledger_packed_published(q);
		return;
	}
	__atomic_thread_fence(__ATOMIC_RELEASE);
	while (nbatch)
		__atomic_store_n(&l->desc[batch[--nbatch]].inflight, 0, __ATOMIC_RELAXED);
	vring_release16(&l->used_idx, q->guest.used);
}

void ledger_handed_back(struct queue *q, const struct flight *f)
{
	struct ledger_queue *l = q->ledger;

	if (!l)
		return;
	if (q->guest.packed)
		ledger_packed_handed_back(q, f);
	else
		__atomic_store_n(&l->desc[f->id].inflight, 0, __ATOMIC_RELAXED);
}

void ledger_end(struct queue *q)
{
	/* The used index of a split ring is in the ring. */
	if (q->ledger && q->guest.packed)
		ledger_packed_end(q);
}
