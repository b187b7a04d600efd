/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_hostile_guest.c - a guest that does what virtio forbids, in front of mode shadow
 *
 * Theory of operation
 * -------------------
 * The test is the driver, and writes rings that no driver may write: by tables of bad chains, at
 * random, and at random while the relay reads them. Whatever it wrote:
 *   - the relay lives and has not grown (G4)
 *   - memory has changed only where some descriptor let the device write, and the backend has seen
 *     only what some descriptor let it read (G1, G2, G3)
 *   - the other ring goes on, and this one does after it has been set up anew (G5)
 *   - a broken rule is in the log with its reason, and the ring's err fd is signalled (G6)
 * The messages of a hostile VMM are in test_hostile_vmm.c.
 */
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "pair.h"

#define ARRAY(a)   (sizeof(a) / sizeof((a)[0]))
#define END	   (VM_GPA + VM_BYTES)
#define R	   VM_BUFFER		/* a buffer to be read */
#define W	   (VM_BUFFER + 0x4000) /* and one to be written, */
#define W_BYTES	   0x4000u		/* so large */
#define T	   VM_TABLE
#define RACE_TABLE (VM_TABLE + 0x4000) /* and one that changes, with room behind it */

#define NEXT  DESC_NEXT
#define WRITE DESC_WRITE
#define INDIR DESC_INDIRECT

enum format {
	BOTH,
	SPLIT,
	PACKED,
};

struct raw {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next; /* of a split ring's descriptor; a packed one's id is 0 */
};

struct bad {
	const char *what;
	enum format format;
	unsigned int n; /* descriptors in the ring */
	struct raw ring[3];
	struct raw table[3]; /* at T */
};

/* Chains that break a rule of virtio 1.2, 2.7.5 or 2.8: they have to be refused. */
static const struct bad refused[] = {
	{"below memory", BOTH, 1, {{0x1000, 16, 0, 0}}, {{0}}},
	{"at zero, to be written", BOTH, 1, {{0, 16, WRITE, 0}}, {{0}}},
	{"above memory", BOTH, 1, {{END, 16, WRITE, 0}}, {{0}}},
	{"over the end of memory", BOTH, 1, {{END - 8, 16, WRITE, 0}}, {{0}}},
	{"over the end, to be read", BOTH, 1, {{END - 8, 9, 0, 0}}, {{0}}},
	{"before its beginning", BOTH, 1, {{VM_GPA - 8, 16, 0, 0}}, {{0}}},
	{"round the end of addresses", BOTH, 1, {{UINT64_MAX - 7, 16, WRITE, 0}}, {{0}}},
	{"4 GiB long", BOTH, 1, {{R, UINT32_MAX, 0, 0}}, {{0}}},
	{"4 GiB long, to be written", BOTH, 1, {{W, UINT32_MAX, WRITE, 0}}, {{0}}},
	{"an address with all bits", BOTH, 1, {{UINT64_MAX, 1, 0, 0}}, {{0}}},
	{"the second part outside", BOTH, 2, {{R, 16, NEXT, 1}, {0x1000, 16, WRITE, 0}}, {{0}}},
	{"reading after writing", BOTH, 2, {{W, 16, WRITE | NEXT, 1}, {R, 16, 0, 0}}, {{0}}},

	{"a loop of one", SPLIT, 1, {{R, 16, NEXT, 0}}, {{0}}},
	{"a loop of two", SPLIT, 2, {{R, 16, NEXT, 1}, {R, 16, NEXT, 0}}, {{0}}},
	{"a loop that writes",
	 SPLIT,
	 2,
	 {{W, 16, NEXT | WRITE, 1}, {W, 16, NEXT | WRITE, 0}},
	 {{0}}},
	{"next is out of range", SPLIT, 1, {{R, 16, NEXT, VM_NUM}}, {{0}}},
	{"next has all bits", SPLIT, 1, {{R, 16, NEXT, 0xffff}}, {{0}}},
	{"indirect with next",
	 SPLIT,
	 2,
	 {{T, 16, INDIR | NEXT, 1}, {R, 16, 0, 0}},
	 {{R, 16, 0, 0}}},

	{"a table outside", BOTH, 1, {{0x1000, 16, INDIR, 0}}, {{0}}},
	{"a table over the end", BOTH, 1, {{END - 16, 32, INDIR, 0}}, {{0}}},
	{"a table round the end", BOTH, 1, {{UINT64_MAX - 15, 32, INDIR, 0}}, {{0}}},
	{"an empty table", BOTH, 1, {{T, 0, INDIR, 0}}, {{R, 16, 0, 0}}},
	{"a table of 17 bytes", BOTH, 1, {{T, 17, INDIR, 0}}, {{R, 16, 0, 0}}},
	{"a table of 15 bytes", BOTH, 1, {{T, 15, INDIR, 0}}, {{R, 16, 0, 0}}},
	{"a table of 4 GiB", BOTH, 1, {{T, 0xfffffff0, INDIR, 0}}, {{R, 16, 0, 0}}},
	{"a table of 1 MiB of canary", BOTH, 1, {{VM_GPA + VM_HALF, VM_HALF, INDIR, 0}}, {{0}}},
	{"a table in a table", BOTH, 1, {{T, 16, INDIR, 0}}, {{T, 16, INDIR, 0}}},
	{"a table that points outside", BOTH, 1, {{T, 16, INDIR, 0}}, {{0x1000, 16, 0, 0}}},
	{"a table that reads after it wrote",
	 BOTH,
	 1,
	 {{T, 32, INDIR, 0}},
	 {{W, 16, WRITE | NEXT, 1}, {R, 16, 0, 0}}},
	{"a loop in a table", SPLIT, 1, {{T, 16, INDIR, 0}}, {{R, 16, NEXT, 0}}},
	{"a longer loop in a table",
	 SPLIT,
	 1,
	 {{T, 48, INDIR, 0}},
	 {{R, 16, NEXT, 2}, {R, 16, NEXT, 0}, {R, 16, NEXT, 1}}},
	{"next out of the table", SPLIT, 1, {{T, 32, INDIR, 0}}, {{R, 16, NEXT, 2}}},
	{"next far out of the table", SPLIT, 1, {{T, 32, INDIR, 0}}, {{R, 16, NEXT, 0xffff}}},
};

/* What the specs leave open, or a device may take: answered or refused, but without harm. */
static const struct bad open_to_choice[] = {
	{"nothing to read", BOTH, 1, {{R, 0, 0, 0}}, {{0}}},
	{"nothing to write", BOTH, 2, {{R, 8, NEXT, 1}, {W, 0, WRITE, 0}}, {{0}}},
	{"nothing, outside", BOTH, 1, {{0x1000, 0, 0, 0}}, {{0}}},
	{"over the border of two regions",
	 BOTH,
	 2,
	 {{R, 8, NEXT, 1}, {VM_GPA + VM_HALF - 100, 200, WRITE, 0}},
	 {{0}}},
	{"all other flags", BOTH, 1, {{R, 8, 0x7f78, 0}}, {{0}}},
	{"a table after a part",
	 SPLIT,
	 2,
	 {{R, 8, NEXT, 1}, {T, 16, INDIR, 0}},
	 {{W, 8, WRITE, 0}}},
	{"a table to be written", BOTH, 1, {{T, 16, INDIR | WRITE, 0}}, {{W, 8, WRITE, 0}}},
	{"an id out of range", PACKED, 1, {{R, 8, 0, VM_NUM}}, {{0}}},
	{"a chain that is all memory",
	 BOTH,
	 2,
	 {{VM_GPA + VM_HALF, VM_HALF, NEXT, 1}, {W, W_BYTES, WRITE, 0}},
	 {{0}}},
	{"the ring as a buffer", BOTH, 1, {{VM_GPA + 0x1000, 0x400, 0, 0}}, {{0}}},
};

static bool fits(const struct vm *v, const struct bad *b)
{
	return b->format == BOTH || (b->format == PACKED) == v->packed;
}

static void write_chain(struct vm *v, unsigned int q, const struct bad *b)
{
	for (unsigned int i = 0; i < ARRAY(b->table); i++)
		vm_table_entry(v, T, i, b->table[i].addr, b->table[i].len, b->table[i].flags,
			       b->table[i].next);
	for (uint16_t i = 0; i < b->n; i++) {
		const bool odd_id = v->packed && b->format == PACKED;

		vm_descriptor(v, q, i, b->ring[i].addr, b->ring[i].len, b->ring[i].flags,
			      v->packed && !odd_id ? 0 : b->ring[i].next);
		if (b->ring[i].flags & WRITE && !(b->ring[i].flags & INDIR))
			vm_allow(v, b->ring[i].addr, b->ring[i].len);
	}
	vm_publish(v, q, (uint16_t)b->n);
}

static bool signalled(int fd, int ms)
{
	struct pollfd p = {fd, POLLIN, 0};
	uint64_t n;

	return poll(&p, 1, ms) == 1 && read(fd, &n, sizeof(n)) == sizeof(n);
}

/* The device may have been shown the canary, where a chain offered it. */
static void still_well(struct pair *p)
{
	p->device.script->dirty = 0;
	pair_well(p);
}

static void g4_bad_chains_are_refused(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;
	struct weight before, after;

	pair_up(p);
	still_well(p);
	before = relay_weight(p->rig);
	for (size_t i = 0; i < ARRAY(refused); i++) {
		const uint32_t chains = p->device.script->chains;

		if (!fits(v, &refused[i]))
			continue;
		vm_ring_revive(v, 0);
		write_chain(v, 0, &refused[i]);
		if (!signalled(v->rings[0].err, 10000))
			fail_msg("not refused: %s", refused[i].what);
		vm_check(v);
		assert_int_equal(p->device.script->chains, chains);
		/* The other ring does not notice. */
		vm_echo(v, 1);
	}
	peers_wait_log(p->rig, "refused: queue 0, guest:");
	vm_ring_revive(v, 0);
	still_well(p);
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	assert_true(after.kib < before.kib + 1024);
	assert_int_equal(p->device.script->connections, 1);
}

static void g4_odd_chains_do_no_harm(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;
	uint32_t id, len;

	pair_up(p);
	for (size_t i = 0; i < ARRAY(open_to_choice); i++) {
		if (!fits(v, &open_to_choice[i]))
			continue;
		vm_ring_revive(v, 0);
		memset(v->rings[0].count, 0, sizeof(v->rings[0].count));
		v->rings[0].count[0] = (uint16_t)open_to_choice[i].n;
		vm_allow(v, W, W_BYTES);
		write_chain(v, 0, &open_to_choice[i]);
		for (unsigned int ms = 0; ms < 10000; ms++)
			if (signalled(v->rings[0].err, 1) ||
			    (open_to_choice[i].format != PACKED && vm_poll(v, 0, &id, &len)) ||
			    (open_to_choice[i].format == PACKED && signalled(v->rings[0].call, 0)))
				break;
		vm_check(v);
		vm_echo(v, 1);
	}
	vm_ring_revive(v, 0);
	/* One of them shows the device half of the memory. */
	p->device.script->canaries = 0;
	still_well(p);
}

static void g4_a_packed_chain_without_an_end_is_refused(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;

	pair_up(p);
	for (uint16_t i = 0; i < VM_NUM; i++)
		vm_descriptor(v, 0, i, R, 8, NEXT, 0);
	vm_publish(v, 0, VM_NUM);
	assert_true(signalled(v->rings[0].err, 10000));
	vm_echo(v, 1);
	vm_ring_revive(v, 0);
	still_well(p);
}

/* An avail ring with a head, or an index, that it cannot have. */
static void g4_a_split_ring_that_jumps_is_refused(void **state)
{
	static const uint16_t heads[] = {VM_NUM, 0x7fff, 0x8000, 0xffff};
	static const uint16_t indices[] = {VM_NUM + 1, 0x7fff, 0x8000, 0xffff};
	struct pair *p = *state;
	struct vm *v = &p->vm;
	const uint64_t avail = VM_GPA + 0x1000 + RING_AVAIL(VM_NUM);

	pair_up(p);
	for (size_t i = 0; i < ARRAY(heads) + ARRAY(indices); i++) {
		const bool head = i < ARRAY(heads);
		const uint16_t one = 1;

		vm_ring_revive(v, 0);
		vm_descriptor(v, 0, 0, R, 8, 0, 0);
		vm_write(v, avail + 4, head ? &heads[i] : &one, 2);
		vm_write(v, avail + 2, head ? &one : &indices[i - ARRAY(heads)], 2);
		vm_kick(v, 0);
		if (!signalled(v->rings[0].err, 10000))
			fail_msg("not refused: %s %zu", head ? "head" : "index", i);
		vm_echo(v, 1);
	}
	vm_ring_revive(v, 0);
	still_well(p);
}

/* The same chain again while the device has it. */
static void g4_a_chain_offered_twice_does_no_harm(void **state)
{
	const struct piece pieces[] = {{R, 8, false}, {W, 64, true}};
	struct pair *p = *state;
	struct vm *v = &p->vm;

	pair_up(p);
	vm_write(v, R, "8 bytes.", 8);
	p->device.script->hold = true;
	vm_offer(v, 0, pieces, 2);
	vm_kick(v, 0);
	device_wait(&p->device, &p->device.script->chains, 1);
	for (unsigned int i = 0; i < 4; i++) {
		v->rings[0].slot = 0;
		vm_offer(v, 0, pieces, 2);
		vm_kick(v, 0);
	}
	vm_echo_start(v, 1);
	p->device.script->hold = false;
	vm_echo_end(v, 1, true);
	vm_ring_revive(v, 0);
	still_well(p);
}

/* ---- at random ---- */

static uint64_t next_random(uint64_t *x)
{
	*x = *x * 6364136223846793005u + 1442695040888963407u;
	return *x >> 20;
}

/* A descriptor of values that matter; writable only where the device may write. */
static struct raw any(uint64_t *x)
{
	static const uint64_t reads[] = {R,	   T,	   R + 5, R,	 0, UINT64_MAX - 7,
					 END - 64, VM_GPA, R + 9, R + 3, R, VM_GPA + VM_HALF - 9};
	static const uint32_t lens[] = {1,	    16, 64, 48, 0,  4096, 65536, 1u << 20,
					UINT32_MAX, 17, 16, 32, 16, 8,	  3,	 100};
	const uint64_t pick = next_random(x);
	struct raw d = {.addr = reads[pick % ARRAY(reads)],
			.len = lens[pick / 16 % ARRAY(lens)],
			.next = (uint16_t)(pick / 1024 % 8 ? pick / 8192 % VM_NUM : pick / 8192)};

	d.flags = (uint16_t)(pick >> 33 & 1 ? NEXT : 0);
	if ((pick >> 34) % 3 == 0) {
		/* Wholly where it may, or nowhere. */
		d.flags |= WRITE;
		d.addr = pick >> 36 & 7 ? W + (pick >> 39) % 0x1000 : END - 8 + (pick >> 39) % 16;
		if (d.addr >= END - 8)
			d.len = 64;
		else if (d.len > 0x1000)
			d.len = d.len == UINT32_MAX ? UINT32_MAX : 0x1000;
	} else if ((pick >> 34) % 16 == 1) {
		d.flags |= INDIR;
		d.addr = T;
	}
	return d;
}

static void any_ring(struct vm *v, uint64_t *x, bool table)
{
	for (uint16_t i = 0; i < VM_NUM; i++) {
		const struct raw d = any(x);

		if (table)
			vm_table_entry(v, T, i, d.addr, d.len, d.flags, d.next);
		else
			vm_descriptor(v, 0, i, d.addr, d.len, d.flags,
				      v->packed ? d.next % VM_NUM : d.next);
	}
}

/* As many as fit at once; of a packed ring as many as have been written. */
static void publish_some(struct vm *v, uint64_t *x)
{
	const uint64_t avail = VM_GPA + 0x1000 + RING_AVAIL(VM_NUM);
	const uint16_t n = (uint16_t)(1 + next_random(x) % VM_NUM);

	if (v->packed) {
		vm_publish(v, 0, n);
		return;
	}
	for (uint16_t i = 0; i < n; i++) {
		const uint16_t head = (uint16_t)(next_random(x) % VM_NUM);

		vm_write(v, avail + 4 + 2u * i, &head, 2);
	}
	vm_write(v, avail + 2, &n, 2);
	vm_kick(v, 0);
}

static void g4_random_rings_do_no_harm(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;
	struct weight before, after;
	uint64_t x = 0x5eed;

	pair_up(p);
	still_well(p);
	before = relay_weight(p->rig);
	vm_allow(v, W, W_BYTES);
	for (unsigned int round = 0; round < 300; round++) {
		vm_ring_revive(v, 0);
		any_ring(v, &x, true);
		any_ring(v, &x, false);
		publish_some(v, &x);
		if (round % 10)
			continue;
		vm_echo(v, 1);
		vm_check(v);
	}
	vm_ring_revive(v, 0);
	p->device.script->canaries = 0;
	still_well(p);
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	assert_true(after.kib < before.kib + 2048);
	assert_int_equal(p->device.script->foreign, 0);
}

/* ---- while it is being read ---- */

struct racer {
	struct vm *vm;
	bool stop;
};

/* Writes descriptors, tables and indices of ring 0 as fast as it can, field by field, so that the
 * relay sees mixtures. Whatever the mixture, an address is that of the writable buffer, of the table
 * or of nothing, and what fits in memory at all ends before the buffer does: a write elsewhere is
 * then the relay's mistake. */
static void *race(void *arg)
{
	static const uint64_t addrs[] = {W, W + 0x777, W + 0x1000, RACE_TABLE, 0x1000, UINT64_MAX};
	static const uint32_t lens[] = {1, 16, 48, 256, 0x1000, UINT32_MAX};
	struct racer *r = arg;
	struct vm *v = r->vm;
	uint8_t *ring = v->mem + 0x1000, *table = v->mem + (RACE_TABLE - VM_GPA);
	uint64_t x = 0xace;

	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		const uint64_t pick = next_random(&x), more = next_random(&x);
		uint8_t *at = (pick & 1 ? table : ring) + 16 * (pick / 2 % VM_NUM);
		uint16_t flags = (uint16_t)(more & (NEXT | WRITE));

		if (more >> 8 & 1)
			flags |= INDIR;
		if (v->packed)
			flags |= more >> 9 & 1 ? DESC_AVAIL : DESC_USED;
		if (pick >> 9 & 1)
			__atomic_store_n((uint64_t *)(void *)at, addrs[(more >> 12) % ARRAY(addrs)],
					 __ATOMIC_RELAXED);
		__atomic_store_n((uint32_t *)(void *)(at + 8), lens[(more >> 20) % ARRAY(lens)],
				 __ATOMIC_RELAXED);
		__atomic_store_n((uint16_t *)(void *)(at + (v->packed ? 14 : 12)), flags,
				 __ATOMIC_RELAXED);
		__atomic_store_n((uint16_t *)(void *)(at + (v->packed ? 12 : 14)),
				 (uint16_t)(more >> 30) % (VM_NUM + 1), __ATOMIC_RELAXED);
		if (!v->packed && (pick >> 10) % 64 == 0)
			__atomic_fetch_add((uint16_t *)(void *)(ring + RING_AVAIL(VM_NUM) + 2), 1,
					   __ATOMIC_RELAXED);
	}
	return NULL;
}

static void race_ready(struct vm *v)
{
	for (uint16_t i = 0; i < VM_NUM; i++) {
		const uint16_t head = i;

		vm_descriptor(v, 0, i, W + 16u * i, 16, 0, i);
		vm_table_entry(v, RACE_TABLE, i, W + 16u * i, 16, 0, i);
		if (!v->packed)
			vm_write(v, VM_GPA + 0x1000 + RING_AVAIL(VM_NUM) + 4 + 2u * i, &head, 2);
	}
}

static void g4_rings_that_change_while_they_are_read_do_no_harm(void **state)
{
	struct pair *p = *state;
	struct vm *v = &p->vm;
	struct racer racer = {.vm = v};
	struct weight before, after;
	pthread_t thread;

	pair_up(p);
	still_well(p);
	before = relay_weight(p->rig);
	vm_allow(v, W, W_BYTES);
	vm_allow(v, VM_GPA + 0x1000, 0x1000);
	vm_allow(v, RACE_TABLE, 0x2000);
	for (unsigned int round = 0; round < 25; round++) {
		vm_ring_revive(v, 0);
		race_ready(v);
		racer.stop = false;
		assert_int_equal(pthread_create(&thread, NULL, race, &racer), 0);
		vm_publish(v, 0, 1);
		for (unsigned int i = 0; i < 20; i++) {
			vm_kick(v, 0);
			poll(NULL, 0, 1);
		}
		__atomic_store_n(&racer.stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		vm_check(v);
		if (round % 5 == 0)
			vm_echo(v, 1);
	}
	vm_ring_revive(v, 0);
	p->device.script->canaries = 0;
	still_well(p);
	after = relay_weight(p->rig);
	assert_int_equal(after.fds, before.fds);
	assert_true(after.kib < before.kib + 2048);
	assert_int_equal(p->device.script->foreign, 0);
}

/* Buffers that change after they have been offered: the device sees some mixture of what was there,
 * and the answer goes where the descriptor said when it was read. */
static void g3_a_chain_redirected_in_flight_goes_where_it_was_offered(void **state)
{
	const struct piece pieces[] = {{R, 32, false}, {W, 64, true}};
	struct pair *p = *state;
	struct vm *v = &p->vm;
	uint32_t id, len;

	pair_up(p);
	vm_write(v, R, "abcdefghijklmnopqrstuvwxyz012345", 32);
	p->device.script->hold = true;
	vm_offer(v, 0, pieces, 2);
	vm_kick(v, 0);
	device_wait(&p->device, &p->device.script->chains, 1);
	for (uint16_t i = 0; i < 2 && !v->packed; i++)
		vm_descriptor(v, 0, i, VM_GPA + 0x40000, 64, WRITE, 0xffff);
	vm_write(v, R, "ABCDEFGHIJKLMNOPQRSTUVWXYZ543210", 32);
	p->device.script->hold = false;
	vm_wait(v, 0, &id, &len);
	assert_int_equal(len, 64);
	for (unsigned int i = 0; i < 64; i++)
		assert_int_equal(*vm_at(v, W + i),
				 "abcdefghijklmnopqrstuvwxyz012345"[i % 32] ^ 0xa5);
	vm_check(v);
	vm_ring_revive(v, 0);
	still_well(p);
}

/*
 * As long as half of a pool that is all its own, and cut so that it takes twice as much there: small parts
 * between others of a page and a byte. It can never fit, so it must not be waited for.
 */
static void g5_a_chain_that_can_never_fit_is_refused(void **state)
{
	const unsigned int pairs = 200;
	struct pair *p = *state;
	struct vm *v = &p->vm;
	uint64_t n;

	device_start(&p->device);
	peers_relay_shadow(p->rig, "--pool-size", "2M", "--pool-max", "2M", "--keep", NULL);
	peers_connect(p->rig);
	vm_up(v);
	for (uint16_t i = 0; i < pairs; i++) {
		vm_table_entry(v, T, 2u * i, R, 64, NEXT, (uint16_t)(2 * i + 1));
		vm_table_entry(v, T, 2u * i + 1, R, 4097, i + 1u < pairs ? NEXT : 0,
			       (uint16_t)(2 * i + 2));
	}
	vm_descriptor(v, 0, 0, T, 32 * pairs, INDIR, 0);
	vm_publish(v, 0, 1);
	for (unsigned int i = 0; read(v->rings[0].err, &n, sizeof(n)) < 0; i++) {
		assert_true(i < 10000);
		poll(NULL, 0, 1);
	}
	assert_true(peers_logged(p->rig, "a chain is longer than the pool can hold"));
	vm_ring_revive(v, 0);
	still_well(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR_TESTS(g4_bad_chains_are_refused),
		PAIR_TESTS(g4_odd_chains_do_no_harm),
		PAIR_TEST(g4_a_packed_chain_without_an_end_is_refused, pair_packed),
		PAIR_TEST(g4_a_packed_chain_without_an_end_is_refused, pair_to_split),
		PAIR_TEST(g4_a_split_ring_that_jumps_is_refused, pair_split),
		PAIR_TEST(g4_a_split_ring_that_jumps_is_refused, pair_to_packed),
		PAIR_TESTS(g4_a_chain_offered_twice_does_no_harm),
		PAIR_TESTS(g4_random_rings_do_no_harm),
		PAIR_TESTS(g4_rings_that_change_while_they_are_read_do_no_harm),
		PAIR_TESTS(g3_a_chain_redirected_in_flight_goes_where_it_was_offered),
		PAIR_TEST(g5_a_chain_that_can_never_fit_is_refused, pair_split),
		PAIR_TEST(g5_a_chain_that_can_never_fit_is_refused, pair_threads_packed),
		PAIR_TEST(g4_bad_chains_are_refused, pair_threads_split),
		PAIR_TEST(g4_rings_that_change_while_they_are_read_do_no_harm, pair_threads_packed),
	};

	/* A test, or several, by name: the first argument, with wildcards. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("a hostile guest", tests, NULL, NULL);
}
