/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * vm.c - a guest's memory and its driver, in the test's hands
 *
 * Theory of operation: tests/lib/vm.h.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm.h"

#define WAIT_MS 30000
/* Where the "VMM" has the halves: far apart, and not at their guest addresses. */
#define HALF_USER(i) (RAM_USER + (i)*UINT64_C(0x40000000))

#define AVAIL_AT RING_AVAIL(VM_NUM) /* packed: the driver's event area */
#define USED_AT	 RING_USED(VM_NUM)  /* packed: the device's event area */

static void canary(uint8_t *p, size_t n)
{
	const uint64_t word = VM_CANARY;

	for (size_t i = 0; i < n; i += sizeof(word))
		memcpy(p + i, &word, sizeof(word));
}

void vm_init(struct vm *v, struct peers *rig, bool packed)
{
	*v = (struct vm){.rig = rig, .packed = packed};
	v->mem = mmap(NULL, VM_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	v->was = malloc(VM_BYTES);
	v->may = calloc(1, VM_BYTES);
	assert_true(v->mem != MAP_FAILED && v->was && v->may);
	for (unsigned int i = 0; i < 2; i++) {
		v->file[i] = make_memfd("guest", VM_HALF);
		assert_ptr_not_equal(mmap(v->mem + i * VM_HALF, VM_HALF, PROT_READ | PROT_WRITE,
					  MAP_SHARED | MAP_FIXED, v->file[i], 0),
				     MAP_FAILED);
	}
	canary(v->mem, VM_BYTES);
	memcpy(v->was, v->mem, VM_BYTES);
	for (unsigned int q = 0; q < VM_RINGS; q++) {
		v->rings[q].base = VM_GPA + 0x1000 * (q + 1);
		v->rings[q].kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		v->rings[q].call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		v->rings[q].err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
}

void vm_fini(struct vm *v)
{
	for (unsigned int q = 0; q < VM_RINGS; q++) {
		close(v->rings[q].kick);
		close(v->rings[q].call);
		close(v->rings[q].err);
	}
	munmap(v->mem, VM_BYTES);
	close(v->file[0]);
	close(v->file[1]);
	free(v->was);
	free(v->may);
}

uint8_t *vm_at(struct vm *v, uint64_t gpa)
{
	assert_true(gpa >= VM_GPA && gpa - VM_GPA < VM_BYTES);
	return v->mem + (gpa - VM_GPA);
}

void vm_write(struct vm *v, uint64_t gpa, const void *from, size_t n)
{
	memcpy(vm_at(v, gpa), from, n);
	memcpy(v->was + (gpa - VM_GPA), from, n);
}

void vm_allow(struct vm *v, uint64_t gpa, size_t n)
{
	if (n && gpa >= VM_GPA && gpa - VM_GPA < VM_BYTES && n <= VM_BYTES - (gpa - VM_GPA))
		memset(v->may + (gpa - VM_GPA), 1, n);
}

void vm_check(struct vm *v)
{
	for (size_t i = 0; i < VM_BYTES; i++) {
		if (i % 4096 == 0 && !memcmp(v->mem + i, v->was + i, 4096)) {
			i += 4095;
			continue;
		}
		if (!v->may[i] && v->mem[i] != v->was[i])
			fail_msg("the guest's byte at 0x%llx has become 0x%02x",
				 (unsigned long long)(VM_GPA + i), v->mem[i]);
	}
}

/* ---- setting up ---- */

void vm_hello(struct vm *v)
{
	struct peers *rig = v->rig;
	const uint64_t want = VU_BIT(32) | VU_BIT(VU_F_PROTOCOL) | VU_BIT(VIRTIO_F_INDIRECT) |
			      (v->packed ? VU_BIT(VIRTIO_F_PACKED) : 0) |
			      (v->in_order ? VU_BIT(VIRTIO_F_IN_ORDER) : 0);
	uint64_t features, protocol;

	features = fe_get(rig, VU_GET_FEATURES);
	assert_int_equal(features & want, want);
	/* The last two only of a device that a test has them offer. */
	protocol = fe_get(rig, VU_GET_PROTOCOL_FEATURES) &
		   (VU_P_OWN | VU_BIT(VU_P_INFLIGHT) | VU_BIT(VU_P_STATUS) |
		    VU_BIT(VU_P_RESET_DEVICE));
	fe_send(rig, VU_SET_PROTOCOL_FEATURES, 0, &protocol, 8, NULL, 0);
	assert_int_equal(fe_ack(rig, VU_SET_OWNER, NULL, 0, -1), 0);
	assert_int_equal(fe_ack_u64(rig, VU_SET_FEATURES, want, -1), 0);
}

void vm_memory(struct vm *v)
{
	for (unsigned int i = 0; i < 2; i++)
		vm_memory_comes(v, i);
}

void vm_memory_goes(struct vm *v, unsigned int half)
{
	assert_int_equal(fe_region(v->rig, VU_REM_MEM_REG, VM_GPA + half * VM_HALF, HALF_USER(half),
				   VM_HALF, 0, -1),
			 0);
}

void vm_memory_comes(struct vm *v, unsigned int half)
{
	assert_int_equal(fe_region(v->rig, VU_ADD_MEM_REG, VM_GPA + half * VM_HALF, HALF_USER(half),
				   VM_HALF, 0, v->file[half]),
			 0);
}

void vm_ring_again(struct vm *v, unsigned int q, uint32_t base)
{
	struct vm_ring *r = &v->rings[q];
	const uint64_t user = HALF_USER(0) + (r->base - VM_GPA);
	const struct vu_vring_addr addr = {
		.index = q, .desc = user, .avail = user + AVAIL_AT, .used = user + USED_AT};

	assert_int_equal(fe_ack_state(v->rig, VU_SET_VRING_NUM, q, VM_NUM), 0);
	assert_int_equal(fe_ack_state(v->rig, VU_SET_VRING_BASE, q, base), 0);
	assert_int_equal(fe_ack(v->rig, VU_SET_VRING_ADDR, &addr, sizeof(addr), -1), 0);
	assert_int_equal(fe_ack_u64(v->rig, VU_SET_VRING_CALL, q, r->call), 0);
	assert_int_equal(fe_ack_u64(v->rig, VU_SET_VRING_ERR, q, r->err), 0);
	assert_int_equal(fe_ack_u64(v->rig, VU_SET_VRING_KICK, q, r->kick), 0);
}

void vm_ring_disabled(struct vm *v, unsigned int q)
{
	struct vm_ring *r = &v->rings[q];
	static const uint8_t zero[0x400];

	r->slot = r->avail = r->used = 0;
	r->avail_wrap = r->used_wrap = true;
	vm_write(v, r->base, zero, sizeof(zero));
	if (v->packed)
		vm_allow(v, r->base, 16 * VM_NUM);
	vm_allow(v, r->base + USED_AT, v->packed ? 4 : 6 + 8 * VM_NUM);
	vm_ring_again(v, q, v->packed ? VM_PACKED_NEW : 0);
}

void vm_ring_up(struct vm *v, unsigned int q)
{
	vm_ring_disabled(v, q);
	assert_int_equal(fe_ack_state(v->rig, VU_SET_VRING_ENABLE, q, 1), 0);
}

void vm_ring_revive(struct vm *v, unsigned int q)
{
	fe_get_base(v->rig, q);
	vm_ring_up(v, q);
}

void vm_up(struct vm *v)
{
	vm_hello(v);
	vm_memory(v);
	for (unsigned int q = 0; q < VM_RINGS; q++)
		vm_ring_up(v, q);
}

/* ---- the driver ---- */

void vm_descriptor(struct vm *v, unsigned int q, uint16_t i, uint64_t addr, uint32_t len,
		   uint16_t flags, uint16_t next_or_id)
{
	const struct desc d = v->packed ? (struct desc){addr, len, next_or_id, flags}
					: (struct desc){addr, len, flags, next_or_id};

	vm_write(v, v->rings[q].base + 16u * i, &d, sizeof(d));
}

void vm_table_entry(struct vm *v, uint64_t gpa, unsigned int i, uint64_t addr, uint32_t len,
		    uint16_t flags, uint16_t next)
{
	const struct desc d = v->packed ? (struct desc){addr, len, next, flags}
					: (struct desc){addr, len, flags, next};

	vm_write(v, gpa + 16u * i, &d, sizeof(d));
}

static uint16_t available(const struct vm_ring *r)
{
	return r->avail_wrap ? DESC_AVAIL : DESC_USED;
}

/* The flags of a packed descriptor, last: with them it is the device's. */
static void flags_release(struct vm *v, struct vm_ring *r, uint16_t at, uint16_t flags)
{
	const uint64_t gpa = r->base + 16u * at + 14;

	memcpy(v->was + (gpa - VM_GPA), &flags, 2);
	__atomic_store_n((uint16_t *)(void *)vm_at(v, gpa), flags, __ATOMIC_RELEASE);
}

static void split_make_available(struct vm *v, struct vm_ring *r, uint16_t head)
{
	const uint64_t gpa = r->base + AVAIL_AT;
	const uint16_t idx = (uint16_t)(r->avail + 1);

	vm_write(v, gpa + 4 + 2u * (r->avail % VM_NUM), &head, 2);
	memcpy(v->was + (gpa + 2 - VM_GPA), &idx, 2);
	__atomic_store_n((uint16_t *)(void *)vm_at(v, gpa + 2), idx, __ATOMIC_RELEASE);
	r->avail = idx;
}

static uint16_t flags_of(struct vm *v, struct vm_ring *r, uint16_t at)
{
	/* A thread of the test may be changing it. */
	return __atomic_load_n((uint16_t *)(void *)vm_at(v, r->base + 16u * at + 14),
			       __ATOMIC_RELAXED);
}

void vm_publish(struct vm *v, unsigned int q, uint16_t n)
{
	struct vm_ring *r = &v->rings[q];

	if (v->packed)
		for (uint16_t i = n; i > 0; i--)
			flags_release(v, r, (uint16_t)(i - 1),
				      flags_of(v, r, (uint16_t)(i - 1)) | available(r));
	else
		split_make_available(v, r, 0);
	vm_kick(v, q);
}

static uint16_t offer(struct vm *v, struct vm_ring *r, const struct desc *d, unsigned int n)
{
	const uint16_t first = r->slot;

	if (!v->packed) {
		for (unsigned int i = 0; i < n; i++) {
			struct desc split = d[i];

			split.b = (uint16_t)((first + i + 1) % VM_NUM);
			vm_write(v, r->base + 16u * ((first + i) % VM_NUM), &split, sizeof(split));
		}
		r->slot = (uint16_t)((first + n) % VM_NUM);
		split_make_available(v, r, first);
		return first;
	}
	r->count[first] = (uint16_t)n;
	/* The first one's flags are released last; until then the device stops before it. */
	for (unsigned int i = 0, at = r->avail; i < n; i++) {
		const struct desc packed = {d[i].addr, d[i].len, first, 0};

		vm_write(v, r->base + 16u * at, &packed, 14);
		at = (at + 1) % VM_NUM;
	}
	for (unsigned int i = n; i > 0; i--) {
		const unsigned int at = r->avail + i - 1;
		const bool wrap = r->avail_wrap ^ (at >= VM_NUM);

		flags_release(v, r, (uint16_t)(at % VM_NUM),
			      (uint16_t)(d[i - 1].a | (wrap ? DESC_AVAIL : DESC_USED)));
	}
	r->avail_wrap ^= r->avail + n >= VM_NUM;
	r->avail = (uint16_t)((r->avail + n) % VM_NUM);
	r->slot = (uint16_t)((first + 1) % VM_NUM);
	return first;
}

static void describe(struct vm *v, const struct piece *pieces, unsigned int n, struct desc *d)
{
	for (unsigned int i = 0; i < n; i++) {
		d[i] = (struct desc){.addr = pieces[i].gpa, .len = pieces[i].len};
		d[i].a = (uint16_t)((pieces[i].write ? DESC_WRITE : 0) |
				    (i + 1 < n ? DESC_NEXT : 0));
		if (pieces[i].write)
			vm_allow(v, pieces[i].gpa, pieces[i].len);
	}
}

uint16_t vm_offer(struct vm *v, unsigned int q, const struct piece *pieces, unsigned int n)
{
	struct desc d[VM_NUM];

	assert_true(n <= VM_NUM);
	describe(v, pieces, n, d);
	return offer(v, &v->rings[q], d, n);
}

uint16_t vm_offer_indirect(struct vm *v, unsigned int q, const struct piece *pieces, unsigned int n,
			   unsigned int which)
{
	const uint64_t table = VM_TABLE + 0x200 * which;
	struct desc d[32], head = {.addr = table, .len = 16 * n, .a = DESC_INDIRECT};

	assert_true(n <= 32);
	describe(v, pieces, n, d);
	for (unsigned int i = 0; i < n; i++)
		vm_table_entry(v, table, i, d[i].addr, d[i].len,
			       v->packed ? d[i].a & DESC_WRITE : d[i].a, (uint16_t)(i + 1));
	return offer(v, &v->rings[q], &head, 1);
}

void vm_kick(struct vm *v, unsigned int q)
{
	const uint64_t one = 1;

	assert_int_equal(write(v->rings[q].kick, &one, sizeof(one)), sizeof(one));
}

static bool poll_split(struct vm *v, struct vm_ring *r, uint32_t *id, uint32_t *len)
{
	uint8_t *used = vm_at(v, r->base + USED_AT);
	const uint16_t idx = __atomic_load_n((uint16_t *)(void *)(used + 2), __ATOMIC_ACQUIRE);

	if (idx == r->used)
		return false;
	/* Never more than were offered, never back. */
	assert_true((uint16_t)(idx - r->used) <= (uint16_t)(r->avail - r->used));
	memcpy(id, used + 4 + 8u * (r->used % VM_NUM), 4);
	memcpy(len, used + 8 + 8u * (r->used % VM_NUM), 4);
	r->used++;
	return true;
}

static bool poll_packed(struct vm *v, struct vm_ring *r, uint32_t *id, uint32_t *len)
{
	uint8_t *d = vm_at(v, r->base + 16u * r->used);
	const uint16_t flags = __atomic_load_n((uint16_t *)(void *)(d + 14), __ATOMIC_ACQUIRE);
	uint16_t id16;

	if (!(flags & DESC_AVAIL) != !r->used_wrap || !(flags & DESC_USED) != !r->used_wrap)
		return false;
	memcpy(len, d + 8, 4);
	memcpy(&id16, d + 12, 2);
	*id = id16;
	assert_true(id16 < VM_NUM);
	r->used_wrap ^= r->used + r->count[id16] >= VM_NUM;
	r->used = (uint16_t)((r->used + r->count[id16]) % VM_NUM);
	return true;
}

bool vm_poll(struct vm *v, unsigned int q, uint32_t *id, uint32_t *len)
{
	struct vm_ring *r = &v->rings[q];

	return v->packed ? poll_packed(v, r, id, len) : poll_split(v, r, id, len);
}

void vm_wait(struct vm *v, unsigned int q, uint32_t *id, uint32_t *len)
{
	for (int i = 0; i < WAIT_MS; i++) {
		if (vm_poll(v, q, id, len))
			return;
		poll(NULL, 0, 1);
	}
	fail_msg("the device does not answer on queue %u", q);
}

/* ---- there and back ---- */

#define ECHO_OUT 100u
#define ECHO_IN	 300u
/* At odd places, of each queue its own, the answer over the border between the two halves. */
#define ECHO_FROM(q) (VM_BUFFER + 0x1003 + 0x1000 * (q))
#define ECHO_TO(q)   (VM_GPA + VM_HALF - 153 - 0x1000 * (q))

void vm_echo_start(struct vm *v, unsigned int q)
{
	uint8_t out[ECHO_OUT];
	const struct piece pieces[] = {
		{ECHO_FROM(q), 60, false},
		{ECHO_FROM(q) + 60, ECHO_OUT - 60, false},
		{ECHO_TO(q), 153, true},
		{ECHO_TO(q) + 153, ECHO_IN - 153, true},
	};

	v->echoes++;
	for (unsigned int i = 0; i < ECHO_OUT; i++)
		out[i] = (uint8_t)(v->echoes + 3 * i);
	vm_write(v, ECHO_FROM(q), out, sizeof(out));
	for (unsigned int i = 0; i < ECHO_IN; i++)
		*vm_at(v, ECHO_TO(q) + i) = 0;
	if (v->echoes % 2)
		vm_offer(v, q, pieces, 4);
	else
		vm_offer_indirect(v, q, pieces, 4, q);
	vm_kick(v, q);
}

void vm_echo_end(struct vm *v, unsigned int q, bool answered)
{
	const uint8_t *out = vm_at(v, ECHO_FROM(q));
	uint32_t id, len;

	vm_wait(v, q, &id, &len);
	assert_true(len <= ECHO_IN);
	for (unsigned int i = 0; answered && i < ECHO_IN; i++)
		assert_int_equal(*vm_at(v, ECHO_TO(q) + i), out[i % ECHO_OUT] ^ 0xa5);
	vm_check(v);
}

void vm_echo(struct vm *v, unsigned int q)
{
	vm_echo_start(v, q);
	vm_echo_end(v, q, true);
}

/* AddressSanitizer keeps what has been freed, in order to notice that it is used, and ThreadSanitizer what each
 * thread did last: that is no growth. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool keeps_freed = true;
#else
static const bool keeps_freed;
#endif

struct weight relay_weight(struct peers *rig)
{
	struct weight w = {0, 0};
	char line[256];
	FILE *f;

	f = peers_proc(rig->relay, "cat", "status");
	while (fgets(line, sizeof(line), f))
		(void)sscanf(line, "VmRSS: %ld", &w.kib);
	assert_int_equal(pclose(f), 0);
	if (keeps_freed)
		w.kib = 0;
	f = peers_proc(rig->relay, "ls", "fd");
	while (fgets(line, sizeof(line), f))
		w.fds++;
	assert_int_equal(pclose(f), 0);
	return w;
}
