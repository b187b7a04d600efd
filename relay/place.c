/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * place.c - a chain's bytes into slots of the pool, and back
 *
 * Theory of operation
 * -------------------
 * What the device reads is copied in before the chain is made available; what it writes is copied
 * back when the chain is used. Both through parts: stretches that are in one piece on both sides.
 *
 * Where the bytes go:
 *   - segments of up to SMALL_SEG bytes (a request's header, a status) go into the flight's block,
 *     256 bytes in the pool that belong to the flight's number for good: no slot is taken for them
 *   - all others, as long as their direction stays the same, into one run of slots, RUN_MAX at most,
 *     so that the pages of one transfer, scattered in the guest, lie in one piece in the pool. If
 *     there is no run as long, half of it is tried, down to one granule: a large transfer needs free
 *     space and not contiguous space.
 * Neighbours in the pool become one descriptor, where the backend may be told any layout.
 *
 * What the device can see (G2): free slots are zero. What it reads has been written over by this
 * very chain; what it writes starts as zero. When the flight ends, what the device says that it
 * wrote is cleared together with the copying (move.c), which makes the clearing nearly free. Bytes
 * that it wrote beyond what it says stay: it is the device's own writing that it may find again,
 * nobody else's. What it has read goes to kept.c.
 *
 * How much room (G5): each queue is sure of a share; all shares together are half of the pool. What
 * it takes beyond comes out of the other half, which is common, and closed to all but the one queue
 * that waits for it. So a queue whose buffers are kept for ever (a network card's receive queue)
 * leaves room for the others, and a large chain waits for a bounded time.
 */
#include <errno.h>
#include <string.h>

#include "move.h"
#include "shadow.h"

static uint64_t above_share(const struct shadow *s, uint64_t held)
{
	return held > s->share ? held - s->share : 0;
}

/* Whether the queue may have so much more; then it is counted as having it. */
static bool hold(struct queue *q, uint64_t more)
{
	struct shadow *s = q->shadow;
	uint64_t above = above_share(s, q->held + more) - above_share(s, q->held), common;
	const struct queue *waiting;

	if (above) {
		waiting = __atomic_load_n(&s->waiting, __ATOMIC_RELAXED);
		if (waiting && waiting != q)
			return false;
		common = __atomic_load_n(&s->common, __ATOMIC_RELAXED);
		/* In one step, or two threads would have the same room, and others not their shares.
		 * Acquire: what has been given back below is in the pool. */
		do {
			if (common + above > s->room / 2)
				return false;
		} while (!__atomic_compare_exchange_n(&s->common, &common, common + above, true,
						      __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
	}
	q->held += more;
	return true;
}

/* It has less, or more than it asked for, by rounding. */
static void unhold(struct queue *q, uint64_t less)
{
	uint64_t above = above_share(q->shadow, q->held) - above_share(q->shadow, q->held - less);

	q->held -= less;
	/* Release: see hold(). */
	if (above)
		__atomic_fetch_sub(&q->shadow->common, above, __ATOMIC_RELEASE);
}

/* A slot of @size bytes is the flight's, of which @held are counted already. */
static void account(struct queue *q, struct flight *f, uint64_t held, uint64_t size)
{
	unhold(q, held - size);
	f->held = (uint32_t)(f->held + size);
	if (q->held > q->held_max)
		q->held_max = q->held;
}

static int take_slot(struct queue *q, uint64_t len, uint32_t *at, uint64_t *size)
{
	struct shadow *s = q->shadow;
	struct sluice_slot slot;
	int rc;

	rc = sluice_pool_alloc(&s->memfd->pool, len, 1, &slot);
	if (rc == -ENOSPC && kept_flush_all(s))
		rc = sluice_pool_alloc(&s->memfd->pool, len, 1, &slot);
	/* Growing costs some system calls, once for each chunk that the pool has never had. */
	if (rc == -ENOSPC && pool_grow(s))
		rc = sluice_pool_alloc(&s->memfd->pool, len, 1, &slot);
	if (rc)
		return rc;
	*at = (uint32_t)(slot.dev - SHADOW_DEV);
	*size = slot.size;
	return 0;
}

static void free_slot(struct queue *q, uint32_t at)
{
	sluice_pool_free(&q->shadow->memfd->pool, SHADOW_DEV + at);
}

void place_large_init(struct queue *q)
{
	for (uint16_t i = 0; i < q->nlarge; i++)
		q->large_next[i] = (uint16_t)(i + 1 < q->nlarge ? i + 1 : FLIGHT_NONE);
	q->large_free = q->nlarge ? 0 : FLIGHT_NONE;
}

/* The next part to fill in, or NULL if the flight can have no more. */
static struct part *new_part(struct queue *q, struct flight *f, uint32_t n)
{
	if (n < FLIGHT_FEW || (f->large != FLIGHT_NONE && n < FLIGHT_PARTS))
		return &f->parts[n];
	if (f->large != FLIGHT_NONE || q->large_free == FLIGHT_NONE)
		return NULL;
	f->large = q->large_free;
	q->large_free = q->large_next[f->large];
	f->parts = &q->large[(size_t)f->large * FLIGHT_PARTS];
	memcpy(f->parts, f->few, n * sizeof(*f->parts));
	return &f->parts[n];
}

static void drop_large(struct queue *q, struct flight *f)
{
	if (f->large != FLIGHT_NONE) {
		q->large_next[f->large] = q->large_free;
		q->large_free = f->large;
	}
	f->large = FLIGHT_NONE;
	f->parts = f->few;
}

static void copy_in(struct queue *q, const struct part *p)
{
	uint8_t *to = q->shadow->pool + p->at;
	uint64_t gpa = p->gpa, left = p->len, have;

	for (; left; gpa += have, left -= have, to += have) {
		const uint8_t *from = guest_at(&q->shadow->guest, gpa, left, &have);

		/* A flight that is placed again may have lost its memory. */
		if (!from) {
			memset(to, 0, left);
			shadow_refused(q, "guest", REFUSED_LOST,
				       "a buffer in flight is not memory any more", gpa, p->len);
			return;
		}
		memcpy(to, from, have);
		stats_add(&q->stats.copies, 1);
	}
}

#define PAGE 4096u

/*
 * With so much of a queue in flight no processor's own cache (1 or 2 MiB) holds both what is in the pool and where it
 * goes in the guest, and what is moved there is written past it. A batch that comes back at once lowers it for a moment:
 * so it ends well below of where it begins.
 */
#define STREAM	   (2u << 20)
#define STREAM_END (STREAM / 4)

static bool streams(struct queue *q)
{
	if (q->held >= STREAM)
		q->streams = true;
	else if (q->held < STREAM_END)
		q->streams = false;
	return q->streams;
}

static void copy_back(struct queue *q, const struct part *p, uint32_t len)
{
	uint8_t *from = q->shadow->pool + p->at;
	uint64_t gpa = p->gpa, left = len, have;
	bool stream = streams(q);

	for (; left; gpa += have, left -= have, from += have) {
		uint8_t *to = guest_at(&q->shadow->guest, gpa, left, &have);

		if (!to) {
			shadow_refused(q, "guest", REFUSED_LOST,
				       "a buffer in flight is not memory any more", gpa, p->len);
			memset(from, 0, left);
			return;
		}
		move_and_clear(to, from, have, stream);
		dirty_mark(&q->shadow->dirty, gpa, have);
		stats_add(&q->stats.copies, 1);
	}
}

/* Where the filling of one direction's segments stands. */
struct cursor {
	const struct chain_seg *segs;
	uint32_t n;
	uint32_t i;    /* the segment */
	uint32_t done; /* bytes of it */
};

static uint32_t left_in(const struct cursor *c)
{
	return c->segs[c->i].len - c->done;
}

/* Bytes until the next small segment, or the end. */
static uint64_t run_length(const struct cursor *c)
{
	uint64_t len = left_in(c);

	for (uint32_t i = c->i + 1; i < c->n && c->segs[i].len > SMALL_SEG && len < RUN_MAX; i++)
		len += c->segs[i].len;
	return len < RUN_MAX ? len : RUN_MAX;
}

/* Fills [at, at + len) from the cursor on. */
static int fill(struct queue *q, struct flight *f, struct cursor *c, uint32_t *n, uint32_t at,
		uint64_t len)
{
	bool owns = true;

	while (len) {
		uint32_t here = left_in(c) < len ? left_in(c) : (uint32_t)len;
		struct part *p = new_part(q, f, *n);

		if (!p) {
			/* It may be one that was kept. */
			if (owns)
				kept_put(q, at);
			return -ENOSPC;
		}
		*p = (struct part){
			.gpa = c->segs[c->i].gpa + c->done,
			.at = at,
			.len = here & 0x7fffffff,
			.owns = owns,
		};
		(*n)++;
		owns = false;
		at += here;
		len -= here;
		c->done += here;
		if (c->done == c->segs[c->i].len) {
			c->i++;
			c->done = 0;
		}
	}
	return 0;
}

/* There is no room for a flight of so many bytes, or more. */
static int no_place(struct queue *q, uint64_t bytes)
{
	const struct shadow *s = q->shadow;

	/* If this one alone goes beyond what a queue may ever have, waiting is no use; or none but for a larger pool. */
	if (bytes > s->flight_max)
		return -E2BIG;
	if (bytes > s->share + s->room / 2)
		q->outgrows = true;
	pool_wish(q);
	return -ENOSPC;
}

static int place_run(struct queue *q, struct flight *f, struct cursor *c, uint32_t *n, bool out)
{
	uint64_t len = run_length(c), size;
	uint32_t at;

	for (bool kept = out;; kept = false) {
		if (hold(q, len)) {
			if (kept && kept_take(q, len, &at, &size)) {
				account(q, f, len, size);
				return fill(q, f, c, n, at, len);
			}
			kept_make_room(q, 0);
			if (!take_slot(q, len, &at, &size)) {
				account(q, f, len, size);
				return fill(q, f, c, n, at, len);
			}
			unhold(q, len);
		}
		/* Small parts and rounding can make a chain longer here than it is. */
		if (len <= PAGE)
			return no_place(q, f->held + len);
		len = (len / 2 + PAGE - 1) & ~(uint64_t)(PAGE - 1);
	}
}

/* The parts of one direction. @gather is how much of the flight's block is taken. */
static int place_segs(struct queue *q, struct flight *f, const struct chain_seg *segs,
		      uint32_t nseg, uint32_t *n, uint32_t *gather, bool out)
{
	struct cursor c = {.segs = segs, .n = nseg};

	while (c.i < c.n) {
		uint32_t len = c.segs[c.i].len;
		int rc;

		if (len <= SMALL_SEG && !c.done && *gather + len <= BLOCK_GATHER) {
			struct part *p = new_part(q, f, *n);

			if (!p)
				return -ENOSPC;
			*p = (struct part){
				.gpa = c.segs[c.i].gpa,
				.at = q->block_at + (uint32_t)(f - q->flights) * BLOCK_BYTES +
				      BLOCK_ENTRIES * VRING_DESC_BYTES + *gather,
				.len = len & 0x7fffffff,
			};
			/* What the device reads and what it writes do not share 16 bytes. */
			*gather = (*gather + len + 15) & ~15u;
			(*n)++;
			c.i++;
			continue;
		}
		rc = place_run(q, f, &c, n, out);
		if (rc)
			return rc;
	}
	return 0;
}

/* Gives back what the first @n parts own. */
static void unplace(struct queue *q, struct flight *f, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (!f->parts[i].owns)
			continue;
		/* What the device reads is not clear. */
		if (i < f->nout)
			kept_put(q, f->parts[i].at);
		else
			free_slot(q, f->parts[i].at);
	}
	if (f->table) {
		/* It held addresses of slots, nothing of the guest's. */
		memset(q->shadow->pool + f->table, 0, f->table_n * VRING_DESC_BYTES);
		free_slot(q, f->table);
		f->table = 0;
	}
	unhold(q, f->held);
	f->held = 0;
	f->placed = false;
}

/* What the backend is told. */
static uint32_t describe(const struct queue *q, const struct flight *f, struct shadow_sg *sg)
{
	bool strict = q->shadow->strict_layout;
	uint32_t n = 0, parts = (uint32_t)f->nout + f->nin;

	for (uint32_t i = 0; i < parts; i++) {
		const struct part *p = &f->parts[i];
		bool write = i >= f->nout;

		if (n && !strict && sg[n - 1].write == write &&
		    sg[n - 1].dev + sg[n - 1].len == SHADOW_DEV + p->at &&
		    sg[n - 1].len + (uint64_t)p->len <= q->shadow->seg_bytes) {
			sg[n - 1].len += p->len;
			continue;
		}
		sg[n++] = (struct shadow_sg){SHADOW_DEV + p->at, p->len, write};
	}
	return n;
}

int place_chain(struct queue *q, struct flight *f, const struct chain *c, struct shadow_sg *sg)
{
	uint32_t n = 0, gather = 0, nsg = 0;
	uint64_t size;
	int rc;

	/* Before anything else, since one that went down before may still have its old parts here. */
	f->held = f->table = f->table_n = 0;
	f->parts = f->few;
	f->large = FLIGHT_NONE;
	f->out = c->out;
	f->in = c->in;
	if ((uint64_t)c->out + c->in > q->shadow->chain_max)
		return -E2BIG;
	if ((uint64_t)c->out + c->in > q->shadow->share + q->shadow->room / 2)
		return no_place(q, (uint64_t)c->out + c->in);
	rc = place_segs(q, f, c->segs, c->nout, &n, &gather, true);
	f->nout = (uint16_t)n;
	if (!rc)
		rc = place_segs(q, f, c->segs + c->nout, c->nin, &n, &gather, false);
	f->nin = (uint16_t)(n - f->nout);
	if (!rc) {
		nsg = describe(q, f, sg);
		if (!driver_end_room(&q->back, nsg))
			rc = nsg > q->back.num && !q->back.indirect ? -E2BIG : -ENOSPC;
	}
	if (!rc && q->back.indirect && nsg > BLOCK_ENTRIES) {
		kept_make_room(q, nsg * VRING_DESC_BYTES);
		rc = take_slot(q, nsg * VRING_DESC_BYTES, &f->table, &size);
		if (!rc)
			account(q, f, 0, size);
		else
			pool_wish(q);
	}
	if (rc) {
		unplace(q, f, n);
		drop_large(q, f);
		return rc;
	}
	f->table_n = (uint16_t)nsg;
	for (uint32_t i = 0; i < f->nout; i++)
		copy_in(q, &f->parts[i]);
	f->placed = true;
	stats_add(&q->stats.out, f->out);
	return (int)nsg;
}

static bool in_block(const struct queue *q, uint32_t at)
{
	return at - q->block_at < q->guest.num * BLOCK_BYTES;
}

void place_back(struct queue *q, struct flight *f, uint32_t len)
{
	uint8_t *pool = q->shadow->pool;
	uint32_t n = (uint32_t)f->nout + f->nin;
	bool park = !len && f->in;

	stats_add(&q->stats.in, len);
	for (uint32_t i = f->nout; i < n && len; i++) {
		const struct part *p = &f->parts[i];
		uint32_t here = p->len < len ? p->len : len;

		copy_back(q, p, here);
		len -= here;
	}
	for (uint32_t i = park ? f->nout : n; i < n; i++)
		memset(pool + f->parts[i].at, 0, f->parts[i].len);
	for (uint32_t i = 0; i < f->nout; i++)
		if (in_block(q, f->parts[i].at))
			memset(pool + f->parts[i].at, 0, f->parts[i].len);
	unplace(q, f, n);
}

void place_chain_of(const struct flight *f, struct chain *c)
{
	uint32_t n = 0, parts = (uint32_t)f->nout + f->nin;

	c->id = f->id;
	c->count = f->count;
	c->out = f->out;
	c->in = f->in;
	c->nout = 0;
	for (uint32_t i = 0; i < parts; i++) {
		const struct part *p = &f->parts[i];

		if (i == f->nout)
			c->nout = (uint16_t)n;
		/* Segments that were placed in several parts become one again; there were no more
		 * than CHAIN_MAX of them. */
		if (n && i != f->nout && c->segs[n - 1].gpa + c->segs[n - 1].len == p->gpa) {
			c->segs[n - 1].len += p->len;
			continue;
		}
		c->segs[n++] = (struct chain_seg){p->gpa, p->len};
	}
	if (f->nout == parts)
		c->nout = (uint16_t)n;
	c->nin = (uint16_t)(n - c->nout);
}

bool place_keep(struct queue *q, struct flight *f, const struct chain *c)
{
	uint32_t n = 0;

	f->nout = f->nin = 0;
	f->out = c->out;
	f->in = c->in;
	for (uint32_t i = 0; i < (uint32_t)c->nout + c->nin; i++) {
		struct part *p = new_part(q, f, n);

		if (!p)
			return false;
		*p = (struct part){.gpa = c->segs[i].gpa, .len = c->segs[i].len & 0x7fffffff};
		n++;
	}
	f->nout = c->nout;
	f->nin = c->nin;
	return true;
}
