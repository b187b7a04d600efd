/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * guest.c - a guest's memory and its driver, in the test's hands
 *
 * Theory of operation: tests/lib/guest.h.
 */
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest.h"

#define WAIT_MS 30000
/* Where the "VMM" has the halves: far apart, and not at their guest addresses. */
#define HALF_USER(i) (RAM_USER + (i)*UINT64_C(0x40000000))

#define AVAIL_AT   RING_AVAIL(GUEST_NUM) /* packed: the driver's event area */
#define USED_AT	   RING_USED(GUEST_NUM)	 /* packed: the device's event area */
#define PACKED_NEW UINT32_C(0x80008000)	 /* both wrap counters are 1 (the spec, GET_VRING_BASE) */

static void canary(uint8_t *p, size_t n)
{
	const uint64_t word = GUEST_CANARY;

	for (size_t i = 0; i < n; i += sizeof(word))
		memcpy(p + i, &word, sizeof(word));
}

void guest_init(struct guest *g, struct peers *rig, bool packed)
{
	*g = (struct guest){.rig = rig, .packed = packed};
	g->mem = mmap(NULL, GUEST_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	g->was = malloc(GUEST_BYTES);
	g->may = calloc(1, GUEST_BYTES);
	assert_true(g->mem != MAP_FAILED && g->was && g->may);
	for (unsigned int i = 0; i < 2; i++) {
		g->file[i] = make_memfd("guest", GUEST_HALF);
		assert_ptr_not_equal(mmap(g->mem + i * GUEST_HALF, GUEST_HALF,
					  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
					  g->file[i], 0),
				     MAP_FAILED);
	}
	canary(g->mem, GUEST_BYTES);
	memcpy(g->was, g->mem, GUEST_BYTES);
	for (unsigned int q = 0; q < GUEST_RINGS; q++) {
		g->rings[q].base = GUEST_GPA + 0x1000 * (q + 1);
		g->rings[q].kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		g->rings[q].call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		g->rings[q].err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
}

void guest_fini(struct guest *g)
{
	for (unsigned int q = 0; q < GUEST_RINGS; q++) {
		close(g->rings[q].kick);
		close(g->rings[q].call);
		close(g->rings[q].err);
	}
	munmap(g->mem, GUEST_BYTES);
	close(g->file[0]);
	close(g->file[1]);
	free(g->was);
	free(g->may);
}

uint8_t *guest_at(struct guest *g, uint64_t gpa)
{
	assert_true(gpa >= GUEST_GPA && gpa - GUEST_GPA < GUEST_BYTES);
	return g->mem + (gpa - GUEST_GPA);
}

void guest_write(struct guest *g, uint64_t gpa, const void *from, size_t n)
{
	memcpy(guest_at(g, gpa), from, n);
	memcpy(g->was + (gpa - GUEST_GPA), from, n);
}

void guest_allow(struct guest *g, uint64_t gpa, size_t n)
{
	if (n && gpa >= GUEST_GPA && gpa - GUEST_GPA < GUEST_BYTES &&
	    n <= GUEST_BYTES - (gpa - GUEST_GPA))
		memset(g->may + (gpa - GUEST_GPA), 1, n);
}

void guest_check(struct guest *g)
{
	for (size_t i = 0; i < GUEST_BYTES; i++)
		if (!g->may[i] && g->mem[i] != g->was[i])
			fail_msg("the guest's byte at 0x%llx has become 0x%02x",
				 (unsigned long long)(GUEST_GPA + i), g->mem[i]);
}

/* ---- setting up ---- */

void guest_hello(struct guest *g)
{
	struct peers *rig = g->rig;
	const uint64_t want = VU_BIT(32) | VU_BIT(VU_F_PROTOCOL) | VU_BIT(VIRTIO_F_INDIRECT) |
			      (g->packed ? VU_BIT(VIRTIO_F_PACKED) : 0);
	uint64_t features, protocol;

	features = fe_get(rig, VU_GET_FEATURES);
	assert_int_equal(features & want, want);
	protocol = fe_get(rig, VU_GET_PROTOCOL_FEATURES) & QEMU_PROTOCOL & VU_P_OWN;
	fe_send(rig, VU_SET_PROTOCOL_FEATURES, 0, &protocol, 8, NULL, 0);
	assert_int_equal(fe_ack(rig, VU_SET_OWNER, NULL, 0, -1), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_FEATURES, want, -1), 0);
}

void guest_memory(struct guest *g)
{
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(fe_region(g->rig, VU_ADD_MEM_REG, GUEST_GPA + i * GUEST_HALF,
					   HALF_USER(i), GUEST_HALF, 0, g->file[i]),
				 0);
}

void guest_ring_up(struct guest *g, unsigned int q)
{
	struct guest_ring *r = &g->rings[q];
	const uint64_t user = HALF_USER(0) + (r->base - GUEST_GPA);
	const struct vu_vring_addr addr = {
		.index = q, .desc = user, .avail = user + AVAIL_AT, .used = user + USED_AT};
	static const uint8_t zero[0x400];

	r->slot = r->avail = r->used = 0;
	r->avail_wrap = r->used_wrap = true;
	guest_write(g, r->base, zero, sizeof(zero));
	if (g->packed)
		guest_allow(g, r->base, 16 * GUEST_NUM);
	guest_allow(g, r->base + USED_AT, g->packed ? 4 : 6 + 8 * GUEST_NUM);
	assert_int_equal(fe_ack_state(g->rig, VU_SET_VRING_NUM, q, GUEST_NUM), 0);
	assert_int_equal(fe_ack_state(g->rig, VU_SET_VRING_BASE, q, g->packed ? PACKED_NEW : 0), 0);
	assert_int_equal(fe_ack(g->rig, VU_SET_VRING_ADDR, &addr, sizeof(addr), -1), 0);
	assert_int_equal(fe_ack_u64(g->rig, VU_SET_VRING_CALL, q, r->call), 0);
	assert_int_equal(fe_ack_u64(g->rig, VU_SET_VRING_ERR, q, r->err), 0);
	assert_int_equal(fe_ack_u64(g->rig, VU_SET_VRING_KICK, q, r->kick), 0);
	assert_int_equal(fe_ack_state(g->rig, VU_SET_VRING_ENABLE, q, 1), 0);
}

void guest_ring_revive(struct guest *g, unsigned int q)
{
	fe_get_base(g->rig, q);
	guest_ring_up(g, q);
}

void guest_up(struct guest *g)
{
	guest_hello(g);
	guest_memory(g);
	for (unsigned int q = 0; q < GUEST_RINGS; q++)
		guest_ring_up(g, q);
}

/* ---- the driver ---- */

void guest_descriptor(struct guest *g, unsigned int q, uint16_t i, uint64_t addr, uint32_t len,
		      uint16_t flags, uint16_t next_or_id)
{
	const struct desc d = g->packed ? (struct desc){addr, len, next_or_id, flags}
					: (struct desc){addr, len, flags, next_or_id};

	guest_write(g, g->rings[q].base + 16u * i, &d, sizeof(d));
}

void guest_table_entry(struct guest *g, uint64_t gpa, unsigned int i, uint64_t addr, uint32_t len,
		       uint16_t flags, uint16_t next)
{
	const struct desc d = g->packed ? (struct desc){addr, len, next, flags}
					: (struct desc){addr, len, flags, next};

	guest_write(g, gpa + 16u * i, &d, sizeof(d));
}

static uint16_t available(const struct guest_ring *r)
{
	return r->avail_wrap ? DESC_AVAIL : DESC_USED;
}

/* The flags of a packed descriptor, last: with them it is the device's. */
static void flags_release(struct guest *g, struct guest_ring *r, uint16_t at, uint16_t flags)
{
	const uint64_t gpa = r->base + 16u * at + 14;

	memcpy(g->was + (gpa - GUEST_GPA), &flags, 2);
	__atomic_store_n((uint16_t *)(void *)guest_at(g, gpa), flags, __ATOMIC_RELEASE);
}

static void split_make_available(struct guest *g, struct guest_ring *r, uint16_t head)
{
	const uint64_t gpa = r->base + AVAIL_AT;
	const uint16_t idx = (uint16_t)(r->avail + 1);

	guest_write(g, gpa + 4 + 2u * (r->avail % GUEST_NUM), &head, 2);
	memcpy(g->was + (gpa + 2 - GUEST_GPA), &idx, 2);
	__atomic_store_n((uint16_t *)(void *)guest_at(g, gpa + 2), idx, __ATOMIC_RELEASE);
	r->avail = idx;
}

static uint16_t flags_of(struct guest *g, struct guest_ring *r, uint16_t at)
{
	uint16_t flags;

	memcpy(&flags, guest_at(g, r->base + 16u * at + 14), 2);
	return flags;
}

void guest_publish(struct guest *g, unsigned int q, uint16_t n)
{
	struct guest_ring *r = &g->rings[q];

	if (g->packed)
		for (uint16_t i = n; i > 0; i--)
			flags_release(g, r, (uint16_t)(i - 1),
				      flags_of(g, r, (uint16_t)(i - 1)) | available(r));
	else
		split_make_available(g, r, 0);
	guest_kick(g, q);
}

static uint16_t offer(struct guest *g, struct guest_ring *r, const struct desc *d, unsigned int n)
{
	const uint16_t first = r->slot;

	if (!g->packed) {
		for (unsigned int i = 0; i < n; i++) {
			struct desc split = d[i];

			split.b = (uint16_t)((first + i + 1) % GUEST_NUM);
			guest_write(g, r->base + 16u * ((first + i) % GUEST_NUM), &split,
				    sizeof(split));
		}
		r->slot = (uint16_t)((first + n) % GUEST_NUM);
		split_make_available(g, r, first);
		return first;
	}
	r->count[first] = (uint16_t)n;
	/* The first one's flags are released last; until then the device stops before it. */
	for (unsigned int i = 0, at = r->avail; i < n; i++) {
		const struct desc packed = {d[i].addr, d[i].len, first, 0};

		guest_write(g, r->base + 16u * at, &packed, 14);
		at = (at + 1) % GUEST_NUM;
	}
	for (unsigned int i = n; i > 0; i--) {
		const unsigned int at = r->avail + i - 1;
		const bool wrap = r->avail_wrap ^ (at >= GUEST_NUM);

		flags_release(g, r, (uint16_t)(at % GUEST_NUM),
			      (uint16_t)(d[i - 1].a | (wrap ? DESC_AVAIL : DESC_USED)));
	}
	r->avail_wrap ^= r->avail + n >= GUEST_NUM;
	r->avail = (uint16_t)((r->avail + n) % GUEST_NUM);
	r->slot = (uint16_t)((first + 1) % GUEST_NUM);
	return first;
}

static void describe(struct guest *g, const struct piece *pieces, unsigned int n, struct desc *d)
{
	for (unsigned int i = 0; i < n; i++) {
		d[i] = (struct desc){.addr = pieces[i].gpa, .len = pieces[i].len};
		d[i].a = (uint16_t)((pieces[i].write ? DESC_WRITE : 0) |
				    (i + 1 < n ? DESC_NEXT : 0));
		if (pieces[i].write)
			guest_allow(g, pieces[i].gpa, pieces[i].len);
	}
}

uint16_t guest_offer(struct guest *g, unsigned int q, const struct piece *pieces, unsigned int n)
{
	struct desc d[GUEST_NUM];

	assert_true(n <= GUEST_NUM);
	describe(g, pieces, n, d);
	return offer(g, &g->rings[q], d, n);
}

uint16_t guest_offer_indirect(struct guest *g, unsigned int q, const struct piece *pieces,
			      unsigned int n, unsigned int which)
{
	const uint64_t table = GUEST_TABLE + 0x200 * which;
	struct desc d[32], head = {.addr = table, .len = 16 * n, .a = DESC_INDIRECT};

	assert_true(n <= 32);
	describe(g, pieces, n, d);
	for (unsigned int i = 0; i < n; i++)
		guest_table_entry(g, table, i, d[i].addr, d[i].len,
				  g->packed ? d[i].a & DESC_WRITE : d[i].a, (uint16_t)(i + 1));
	return offer(g, &g->rings[q], &head, 1);
}

void guest_kick(struct guest *g, unsigned int q)
{
	const uint64_t one = 1;

	assert_int_equal(write(g->rings[q].kick, &one, sizeof(one)), sizeof(one));
}

static bool poll_split(struct guest *g, struct guest_ring *r, uint32_t *id, uint32_t *len)
{
	uint8_t *used = guest_at(g, r->base + USED_AT);
	const uint16_t idx = __atomic_load_n((uint16_t *)(void *)(used + 2), __ATOMIC_ACQUIRE);

	if (idx == r->used)
		return false;
	/* Never more than were offered, never back. */
	assert_true((uint16_t)(idx - r->used) <= (uint16_t)(r->avail - r->used));
	memcpy(id, used + 4 + 8u * (r->used % GUEST_NUM), 4);
	memcpy(len, used + 8 + 8u * (r->used % GUEST_NUM), 4);
	r->used++;
	return true;
}

static bool poll_packed(struct guest *g, struct guest_ring *r, uint32_t *id, uint32_t *len)
{
	uint8_t *d = guest_at(g, r->base + 16u * r->used);
	const uint16_t flags = __atomic_load_n((uint16_t *)(void *)(d + 14), __ATOMIC_ACQUIRE);
	uint16_t id16;

	if (!(flags & DESC_AVAIL) != !r->used_wrap || !(flags & DESC_USED) != !r->used_wrap)
		return false;
	memcpy(len, d + 8, 4);
	memcpy(&id16, d + 12, 2);
	*id = id16;
	assert_true(id16 < GUEST_NUM);
	r->used_wrap ^= r->used + r->count[id16] >= GUEST_NUM;
	r->used = (uint16_t)((r->used + r->count[id16]) % GUEST_NUM);
	return true;
}

bool guest_poll(struct guest *g, unsigned int q, uint32_t *id, uint32_t *len)
{
	struct guest_ring *r = &g->rings[q];

	return g->packed ? poll_packed(g, r, id, len) : poll_split(g, r, id, len);
}

void guest_wait(struct guest *g, unsigned int q, uint32_t *id, uint32_t *len)
{
	for (int i = 0; i < WAIT_MS; i++) {
		if (guest_poll(g, q, id, len))
			return;
		poll(NULL, 0, 1);
	}
	fail_msg("the device does not answer on queue %u", q);
}

/* ---- there and back ---- */

#define ECHO_OUT 100u
#define ECHO_IN	 300u
/* At odd places, of each queue its own, the answer over the border between the two halves. */
#define ECHO_FROM(q) (GUEST_BUFFER + 0x1003 + 0x1000 * (q))
#define ECHO_TO(q)   (GUEST_GPA + GUEST_HALF - 153 - 0x1000 * (q))

void guest_echo_start(struct guest *g, unsigned int q)
{
	uint8_t out[ECHO_OUT];
	const struct piece pieces[] = {
		{ECHO_FROM(q), 60, false},
		{ECHO_FROM(q) + 60, ECHO_OUT - 60, false},
		{ECHO_TO(q), 153, true},
		{ECHO_TO(q) + 153, ECHO_IN - 153, true},
	};

	g->echoes++;
	for (unsigned int i = 0; i < ECHO_OUT; i++)
		out[i] = (uint8_t)(g->echoes + 3 * i);
	guest_write(g, ECHO_FROM(q), out, sizeof(out));
	for (unsigned int i = 0; i < ECHO_IN; i++)
		*guest_at(g, ECHO_TO(q) + i) = 0;
	if (g->echoes % 2)
		guest_offer(g, q, pieces, 4);
	else
		guest_offer_indirect(g, q, pieces, 4, q);
	guest_kick(g, q);
}

void guest_echo_end(struct guest *g, unsigned int q, bool answered)
{
	const uint8_t *out = guest_at(g, ECHO_FROM(q));
	uint32_t id, len;

	guest_wait(g, q, &id, &len);
	assert_true(len <= ECHO_IN);
	for (unsigned int i = 0; answered && i < ECHO_IN; i++)
		assert_int_equal(*guest_at(g, ECHO_TO(q) + i), out[i % ECHO_OUT] ^ 0xa5);
	guest_check(g);
}

void guest_echo(struct guest *g, unsigned int q)
{
	guest_echo_start(g, q);
	guest_echo_end(g, q, true);
}

struct weight relay_weight(struct peers *rig)
{
	struct weight w = {0, 0};
	char path[64], line[256];
	FILE *f;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/status", rig->relay);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "VmRSS: %ld", &w.kib) == 1)
			break;
	fclose(f);
	snprintf(path, sizeof(path), "/proc/%d/fd", rig->relay);
	d = opendir(path);
	assert_non_null(d);
	while (readdir(d))
		w.fds++;
	closedir(d);
	return w;
}
