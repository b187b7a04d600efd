/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * device_ring.c - the rings of the device of device.h
 *
 * Theory of operation
 * -------------------
 * Virtio 1.2, 2.7 and 2.8, as a device reads them: a chain is taken, its parts are found in the
 * memory that was given, answered, and used. Sins are done at the level of "use id with length"
 * where the format does not matter, and at that of the ring's own words where it does.
 *
 * The process is alone with its memory but for the relay, which may change it at any time: so
 * nothing here trusts a length or an address either.
 */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "device_ring.h"

#define PIECES 2048

struct part {
	uint8_t *at;
	uint32_t len;
	bool write;
};

static struct part parts[PIECES];
static unsigned int nparts;

static void *find(const struct backend_mem *mem, uint64_t addr, uint64_t len, bool user)
{
	for (unsigned int i = 0; i < mem->n; i++) {
		const struct backend_region *b = &mem->regions[i];
		const uint64_t base = user ? b->user : b->gpa;

		if (addr >= base && addr - base < b->size && len <= b->size - (addr - base))
			return b->at + (addr - base);
	}
	return NULL;
}

void backend_ring_base(const struct backend_state *s, struct backend_ring *r, uint32_t base)
{
	r->nheld = 0;
	r->last_avail = (uint16_t)(s->packed ? base & 0x7fff : base);
	r->avail_wrap = base >> 15 & 1;
	r->last_used = (uint16_t)(s->packed ? base >> 16 & 0x7fff : base);
	r->used_wrap = base >> 31;
}

uint32_t backend_ring_get_base(const struct backend_state *s, const struct backend_ring *r)
{
	if (!s->packed)
		return r->last_avail;
	return (r->last_avail | (uint32_t)r->avail_wrap << 15) |
	       (uint32_t)(r->last_used | (uint32_t)r->used_wrap << 15) << 16;
}

/* ---- taking a chain ---- */

static void add_part(struct backend_state *s, const struct desc *d, uint16_t flags)
{
	uint8_t *at = find(&s->mem, d->addr, d->len, false);

	if (!at)
		s->script->foreign++;
	else if (nparts < PIECES)
		parts[nparts++] = (struct part){at, d->len, flags & DESC_WRITE};
}

/* A descriptor of the ring: itself, or the table that it names. */
static void add_desc(struct backend_state *s, const struct desc *d, uint16_t flags)
{
	const struct desc *table;

	if (!(flags & DESC_INDIRECT)) {
		add_part(s, d, flags);
		return;
	}
	table = find(&s->mem, d->addr, d->len, false);
	if (!table) {
		s->script->foreign++;
		return;
	}
	if (s->packed) {
		for (uint32_t i = 0; i < d->len / 16; i++)
			add_part(s, &table[i], table[i].b);
		return;
	}
	for (uint32_t i = 0, n = 0; i < d->len / 16 && n < PIECES; n++) {
		add_part(s, &table[i], table[i].a);
		if (!(table[i].a & DESC_NEXT))
			break;
		i = table[i].b;
	}
}

static bool take_split(struct backend_state *s, struct backend_ring *r, struct held *h)
{
	uint16_t *avail = find(&s->mem, r->avail, 4 + 2 * r->num, true);
	const struct desc *desc = find(&s->mem, r->desc, 16 * r->num, true);
	uint16_t i, idx;

	if (!avail || !desc)
		return false;
	idx = __atomic_load_n(&avail[1], __ATOMIC_ACQUIRE);
	if (idx == r->last_avail)
		return false;
	/* Its own doing, after SIN_TABLE: the newest one is real. */
	if ((uint16_t)(idx - r->last_avail) > r->num)
		r->last_avail = (uint16_t)(idx - 1);
	i = avail[2 + r->last_avail++ % r->num];
	*h = (struct held){.id = i, .count = 1};
	for (uint32_t n = 0; n < r->num && i < r->num; n++) {
		add_desc(s, &desc[i], desc[i].a);
		if (!(desc[i].a & DESC_NEXT))
			break;
		i = desc[i].b;
	}
	return true;
}

static bool take_packed(struct backend_state *s, struct backend_ring *r, struct held *h)
{
	struct desc *desc = find(&s->mem, r->desc, 16 * r->num, true);
	uint16_t flags, count = 0;

	if (!desc)
		return false;
	do {
		const struct desc *d = &desc[r->last_avail];

		flags = __atomic_load_n(&d->b, __ATOMIC_ACQUIRE);
		if (!(flags & DESC_AVAIL) != !r->avail_wrap ||
		    !(flags & DESC_USED) != r->avail_wrap)
			return false;
		add_desc(s, d, flags);
		h->id = d->a;
		count++;
		if (++r->last_avail == r->num) {
			r->last_avail = 0;
			r->avail_wrap = !r->avail_wrap;
		}
	} while ((flags & DESC_NEXT) && count < r->num);
	h->count = count;
	return true;
}

/* ---- answering and using it ---- */

static uint32_t reply(struct backend_state *s)
{
	static uint8_t out[1u << 20];
	uint64_t read = 0, room = 0, written = 0;
	uint32_t dirty = 0;

	for (unsigned int i = 0; i < nparts; i++)
		if (!parts[i].write)
			for (uint32_t j = 0; j < parts[i].len; j++, read++)
				if (read < sizeof(out))
					out[read] = parts[i].at[j];
	for (unsigned int i = 0; i < nparts; i++)
		if (parts[i].write)
			room += parts[i].len;
	s->script->readable = read;
	s->script->writable = room;
	room = room > s->script->short_by ? room - s->script->short_by : 0;
	for (unsigned int i = 0; i < nparts; i++)
		for (uint32_t j = 0; parts[i].write && j < parts[i].len; j++) {
			dirty += parts[i].at[j] != 0;
			if (written < room)
				parts[i].at[j] =
					read ? out[written % read] ^ 0xa5 : (uint8_t)written;
			written += written < room;
		}
	s->script->dirty = dirty;
	return (uint32_t)room;
}

static void call(const struct backend_ring *r)
{
	const uint64_t one = 1;

	if (r->call >= 0 && write(r->call, &one, sizeof(one)) < 0)
		return;
}

static void use(struct backend_state *s, struct backend_ring *r, uint32_t id, uint16_t count,
		uint32_t len)
{
	if (s->packed) {
		struct desc *d = find(&s->mem, r->desc, 16 * r->num, true);

		if (!d)
			return;
		d += r->last_used;
		d->len = len;
		d->a = (uint16_t)id;
		__atomic_store_n(&d->b, r->used_wrap ? DESC_AVAIL | DESC_USED : 0,
				 __ATOMIC_RELEASE);
		r->used_wrap ^= r->last_used + count >= r->num;
		r->last_used = (uint16_t)((r->last_used + count) % r->num);
	} else {
		uint16_t *used = find(&s->mem, r->used, 4 + 8 * r->num, true);
		const uint32_t entry[2] = {id, len};

		if (!used)
			return;
		memcpy(used + 2 + 4 * (r->last_used % r->num), entry, sizeof(entry));
		__atomic_store_n(&used[1], ++r->last_used, __ATOMIC_RELEASE);
	}
	call(r);
}

/* ---- what it must not do ---- */

static void scribble(struct backend_state *s, const struct backend_ring *spare)
{
	uint64_t x = (uint64_t)time(NULL) | 1;

	for (unsigned int i = 0; i < s->mem.n; i++) {
		const struct backend_region *b = &s->mem.regions[i];
		/* Rings lie below, buffers above: a page for each part of a ring is enough. */
		const uint64_t ring = spare ? spare->desc - b->user : 0;

		for (uint64_t at = 0; at + 8 <= b->size; at += 8) {
			if (spare && at + 0x4000 > ring && at < ring + 0x4000)
				continue;
			x = x * 6364136223846793005u + 1442695040888963407u;
			memcpy(b->at + at, &x, 8);
		}
	}
}

static void scribble_table(struct backend_state *s, struct backend_ring *r)
{
	struct desc *desc = find(&s->mem, r->desc, 16 * r->num, true);
	uint16_t *avail = find(&s->mem, r->avail, 4 + 2 * r->num, true);

	for (uint32_t i = 0; desc && i < r->num; i++) {
		/* Where the guest's memory would be, if anybody believed it. */
		desc[i].addr = VM_GPA + 0x1000 * i;
		desc[i].len = 0x7fffffff;
		if (!s->packed) {
			desc[i].a = DESC_WRITE | DESC_NEXT;
			desc[i].b = 0xffff;
		}
	}
	for (uint32_t i = 0; !s->packed && avail && i < r->num + 2; i++)
		avail[i] = 0xffff;
}

static void storm(struct backend_state *s, struct backend_ring *r, const struct held *h)
{
	uint16_t *used = find(&s->mem, r->used, 4 + 8 * r->num, true);
	struct desc *desc = find(&s->mem, r->desc, 16 * r->num, true);

	for (uint32_t i = 0; i < 2000000 && used && desc; i++) {
		volatile uint32_t *entry =
			s->packed ? &desc[r->last_used].len
				  : (volatile uint32_t *)(void *)(used + 2 +
								  4 * (r->last_used % r->num));

		/* Packed: len, then id and flags; split: id, len. */
		entry[0] = i % 3 ? i * 2654435761u : h->len;
		entry[1] = i % 3 ? i * 2654435761u : h->id;
		if (i % 1024 == 0)
			call(r);
		if (!s->packed && i % 4096 == 5) {
			__atomic_store_n(&used[1], (uint16_t)(r->last_used + i % 3),
					 __ATOMIC_RELEASE);
		}
	}
}

/* True if the right answer is to follow. */
static bool do_sin(struct backend_state *s, struct backend_ring *r, const struct held *h)
{
	uint16_t *used = find(&s->mem, r->used, 4 + 8 * r->num, true);
	struct desc *desc = find(&s->mem, r->desc, 16 * r->num, true);

	switch (s->script->sin) {
	case SIN_ID_RANGE:
		use(s, r, r->num + 5, h->count, h->len);
		return false;
	case SIN_ID_WILD:
		use(s, r, UINT32_MAX, h->count, h->len);
		return false;
	case SIN_ID_IDLE:
		use(s, r, (h->id + 7u) % r->num, h->count, h->len);
		return false;
	case SIN_TWICE:
		use(s, r, h->id, h->count, h->len);
		return true;
	case SIN_LEN_ONE:
		use(s, r, h->id, h->count, (uint32_t)s->script->writable + 1);
		return false;
	case SIN_LEN_WILD:
		use(s, r, h->id, h->count, UINT32_MAX);
		return false;
	case SIN_JUMP:
		for (uint32_t i = 0; s->packed && i < r->num; i++)
			desc[i].b = r->used_wrap ? DESC_AVAIL | DESC_USED : 0;
		if (!s->packed)
			__atomic_store_n(&used[1], (uint16_t)(r->last_used + r->num + 3),
					 __ATOMIC_RELEASE);
		call(r);
		return false;
	case SIN_BACK:
		if (s->packed)
			desc[r->last_used].b = r->used_wrap ? 0 : DESC_AVAIL | DESC_USED;
		else
			__atomic_store_n(&used[1], (uint16_t)(r->last_used - 1), __ATOMIC_RELEASE);
		call(r);
		return false;
	case SIN_TABLE:
		scribble_table(s, r);
		return true;
	case SIN_READABLE:
		for (unsigned int i = 0; i < nparts; i++)
			if (!parts[i].write)
				memset(parts[i].at, 0xff, parts[i].len);
		return true;
	case SIN_BEYOND:
		scribble(s, r);
		return true;
	case SIN_ALL:
		scribble(s, NULL);
		call(r);
		return false;
	case SIN_STORM:
		storm(s, r, h);
		return false;
	case SIN_CALLS:
		for (unsigned int i = 0; i < 100000; i++)
			call(r);
		return true;
	default:
		return true;
	}
}

static void look_for_canary(struct backend_state *s)
{
	const uint64_t word = VM_CANARY;

	for (unsigned int i = 0; i < s->mem.n; i++)
		if (memmem(s->mem.regions[i].map, s->mem.regions[i].mapped, &word, sizeof(word)))
			s->script->canaries++;
}

/* One used entry, the last one's, for all of them (virtio 1.2, 2.7.9 and 2.8.9). */
static void use_batch(struct backend_state *s, struct backend_ring *r, const struct held *h,
		      unsigned int n)
{
	uint16_t count = 0;

	for (unsigned int i = 0; i < n; i++)
		count = (uint16_t)(count + h[i].count);
	if (s->packed) {
		use(s, r, h[n - 1].id, count, h[n - 1].len);
	} else {
		uint16_t *used = find(&s->mem, r->used, 4 + 8 * r->num, true);
		const uint32_t entry[2] = {h[n - 1].id, h[n - 1].len};

		if (!used)
			return;
		memcpy(used + 2 + 4 * (r->last_used % r->num), entry, sizeof(entry));
		r->last_used = (uint16_t)(r->last_used + n);
		__atomic_store_n(&used[1], r->last_used, __ATOMIC_RELEASE);
		call(r);
	}
}

static void answer_held(struct backend_state *s, struct backend_ring *r)
{
	const unsigned int keep = s->script->keep < r->nheld ? s->script->keep : r->nheld;
	const unsigned int n = r->nheld - keep;
	const struct held *held = r->held + keep;
	const bool batch = s->script->batch && !s->script->sin; /* read once: the test may end it */

	if (s->script->hold || (s->script->hold_first && r == s->rings) ||
	    (s->script->reverse && r->nheld < 2) || !n)
		return;
	if (batch)
		use_batch(s, r, held, n);
	for (unsigned int i = 0; i < n && !batch; i++) {
		const struct held *h = &held[s->script->reverse ? n - 1 - i : i];

		if (s->script->sin && s->script->times) {
			s->script->times--;
			s->script->sinned++;
			if (!do_sin(s, r, h))
				continue;
		}
		use(s, r, h->id, h->count, h->len);
		if (s->script->pause)
			usleep(s->script->pause);
	}
	r->nheld = keep;
}

void backend_ring_serve(struct backend_state *s, struct backend_ring *r)
{
	struct held h;

	if (!r->started && s->script->late)
		answer_held(s, r);
	if (!r->started || !r->enabled || !r->num)
		return;
	if (s->script->sin == SIN_TABLE_FIRST && s->script->times) {
		s->script->times--;
		s->script->sinned++;
		scribble_table(s, r);
	}
	for (;;) {
		nparts = 0;
		if (r->nheld == BACKEND_HELD ||
		    !(s->packed ? take_packed(s, r, &h) : take_split(s, r, &h)))
			break;
		look_for_canary(s);
		h.len = reply(s);
		r->held[r->nheld++] = h;
		__atomic_fetch_add(&s->script->chains, 1, __ATOMIC_ACQ_REL);
		if (!s->script->reverse && !s->script->batch)
			answer_held(s, r);
	}
	answer_held(s, r);
}
