/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_ledger.c - the in-flight buffer, over deaths at any instruction (G5)
 *
 * Theory of operation
 * -------------------
 * A child process is the relay's end of a guest's ring, as flow.c has it but without a backend: it
 * fetches chains, completes them in a random order, and keeps the in-flight buffer. It is run one
 * instruction at a time, and wherever memory has changed by one, a copy of it is what its death at
 * that point leaves: another relay is started on the copy, the driver goes on, and each chain that was
 * offered has to come back once, neither lost nor twice. The other relay is given the base that the
 * ring began at, as QEMU does it for a packed ring: it has to find the rest in the buffer.
 *
 * Then it is killed at random moments at full speed, with the driver in this process, which lives on.
 *
 * Then the same with a buffer and a ring of random bytes, which a hostile front-end may bring.
 */
#include <signal.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "relay/ledger.h"
#include "relay/shadow.h"
#include "relay/state.h"

#define NUM    16u
#define GPA    UINT64_C(0x100000)
#define USER   UINT64_C(0x7f0000000000)
#define BYTES  (1u << 16)
#define AVAIL  (16 * NUM)
#define USED   (AVAIL + 4 + 2 * NUM + 2 + 2)
#define LEDGER 4096u
#define KILLS  150
#define TURNS  60 /* of driver and relay, one instruction at a time */
#define ROUNDS 3000

/*
 * One thread, one instruction at a time, has no races to look for, and the sanitizers' own instructions
 * are so many that stepping over them takes longer than all else: those two tests are the ordinary build's.
 */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif

struct driver {
	bool packed;
	uint16_t next, used; /* positions; split: indices */
	bool wrap, used_wrap;
	uint16_t room;
	uint8_t count[NUM]; /* descriptors of the chain with that id that is out; 0: none is */
	uint64_t offered, returned;
};

/* What is shared with the child. */
struct world {
	_Alignas(4096) uint8_t memory[BYTES]; /* the guest's, ring first */
	uint8_t ledger[LEDGER];
	struct driver driver; /* where the child is the driver, too: */
	bool relaying;	      /* and now it is the relay */
};

static uint8_t *memory;
static uint8_t *ledger;
static struct shadow shadow;

static uint64_t any(uint64_t *x)
{
	*x = *x * 6364136223846793005u + 1442695040888963407u;
	return *x >> 24;
}

/* ---- the relay's end ---- */

static struct queue *attach(bool packed, uint32_t base)
{
	struct queue *q = &shadow.queues[0];
	const struct ring ring = {
		.num = NUM, .base = base, .desc = USER, .avail = USER + AVAIL, .used = USER + USED};

	shadow.guest.n = 0;
	assert_int_equal(guest_map_raw(&shadow.guest, GPA, USER, BYTES, memory), 0);
	q->shadow = &shadow;
	q->loop = &shadow.loops[0];
	shadow.ledger = ledger;
	shadow.ledger_len = LEDGER;
	shadow.ledger_queues = 1;
	shadow.ledger_num = NUM;
	assert_int_equal(queue_attach_guest(q, &ring,
					    VU_BIT(VIRTIO_F_VERSION_1) |
						    (packed ? VU_BIT(VIRTIO_F_PACKED) : 0)),
			 0);
	return q;
}

static void complete_one(struct queue *q, uint64_t *x)
{
	uint16_t n = q->first;

	for (uint64_t skip = any(x) % q->nflights; skip; skip--)
		n = q->flights[n].next;
	ledger_used(q, &q->flights[n]);
	device_end_use(&q->guest, q->flights[n].id, q->flights[n].count, 7);
	queue_end_flight(q, n);
}

static bool fetch_one(struct queue *q)
{
	static struct chain chain;
	const char *why;
	uint16_t n;

	if (device_end_fetch(&q->guest, &shadow.guest, &chain, &why) != 1 ||
	    !ledger_room(q, chain.count))
		return false;
	n = queue_take_flight(q);
	if (n == FLIGHT_NONE)
		return false;
	q->flights[n].id = chain.id;
	q->flights[n].count = chain.count;
	ledger_fetched(q, &q->flights[n]);
	device_end_take(&q->guest, &chain);
	return true;
}

static void serve(struct queue *q, uint64_t *x)
{
	unsigned int batch = (unsigned int)(any(x) % 4);

	for (unsigned int i = (unsigned int)(any(x) % 4); i && fetch_one(q);)
		i--;
	for (; q->nflights && batch; batch--)
		complete_one(q, x);
	device_end_publish(&q->guest);
	ledger_published(q);
}

static pid_t relay(bool packed, uint32_t base, uint64_t seed)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (struct queue *q = attach(packed, base); !q->broken;)
		serve(q, &seed);
	_exit(1);
}

/* ---- the driver's ---- */

static uint64_t *desc_at(uint16_t i)
{
	return (uint64_t *)(void *)(memory + 16u * i);
}

static uint16_t *avail(void)
{
	return (uint16_t *)(void *)(memory + AVAIL);
}

static uint16_t step(uint16_t at, bool *wrap)
{
	if (++at < NUM)
		return at;
	*wrap = !*wrap;
	return 0;
}

/* A chain of @n buffers. Split: each id has three descriptors of its own, so there are NUM / 3. */
static void offer(struct driver *d, uint16_t id, uint8_t n)
{
	uint16_t at = d->next, flags = 0, first = 0;
	bool wrap = d->wrap;

	d->count[id] = n;
	d->room = (uint16_t)(d->room - n);
	d->offered++;
	if (!d->packed) {
		for (uint16_t i = 0; i < n; i++)
			vring_write(desc_at(0), 3u * id + i, GPA + 0x1000, 16,
				    i + 1 < n ? VRING_NEXT : 0, (uint16_t)(3 * id + i + 1));
		vring_store16(&avail()[2 + d->next % NUM], (uint16_t)(3 * id));
		vring_release16(&avail()[1], ++d->next);
		return;
	}
	for (uint8_t i = 0; i < n; i++) {
		flags = (uint16_t)((i + 1 < n ? VRING_NEXT : 0) |
				   (wrap ? VRING_AVAIL : VRING_USED));
		vring_store64(desc_at(at), GPA + 0x1000);
		if (!i)
			first = flags;
		else
			vring_store64(desc_at(at) + 1,
				      16 | (uint64_t)id << 32 | (uint64_t)flags << 48);
		at = step(at, &wrap);
	}
	__atomic_store_n(desc_at(d->next) + 1, 16 | (uint64_t)id << 32 | (uint64_t)first << 48,
			 __ATOMIC_RELEASE);
	d->next = at;
	d->wrap = wrap;
}

static bool reap(struct driver *d)
{
	uint64_t half;
	uint32_t id, len;

	if (!d->packed) {
		const uint16_t *idx = (uint16_t *)(void *)(memory + USED + 2);
		const uint32_t *ring = (uint32_t *)(void *)(memory + USED + 4);

		if (vring_acquire16(idx) == d->used)
			return false;
		id = ring[2 * (d->used % NUM)] / 3;
		len = ring[2 * (d->used % NUM) + 1];
		d->used++;
	} else {
		half = __atomic_load_n(desc_at(d->used) + 1, __ATOMIC_ACQUIRE);
		if (!!(half >> 48 & VRING_AVAIL) != d->used_wrap ||
		    !!(half >> 48 & VRING_USED) != d->used_wrap)
			return false;
		id = half >> 32 & 0xffff;
		len = (uint32_t)half;
	}
	assert_true(id < NUM && len == 7);
	/* Not one that is not out: that would be twice. */
	assert_int_not_equal(d->count[id], 0);
	for (uint8_t i = 0; d->packed && i < d->count[id]; i++)
		d->used = step(d->used, &d->used_wrap);
	d->room = (uint16_t)(d->room + d->count[id]);
	d->count[id] = 0;
	d->returned++;
	return true;
}

static void drive(struct driver *d, uint64_t *x, uint64_t ns)
{
	struct timespec from, now;
	uint16_t ids = d->packed ? NUM : NUM / 3;

	clock_gettime(CLOCK_MONOTONIC, &from);
	do {
		uint16_t id = (uint16_t)(any(x) % ids);
		uint8_t n = (uint8_t)(1 + any(x) % 3);

		while (reap(d))
			;
		if (!d->count[id] && d->room >= n)
			offer(d, id, n);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((uint64_t)(now.tv_sec - from.tv_sec) * 1000000000u + (uint64_t)now.tv_nsec -
			 (uint64_t)from.tv_nsec <
		 ns);
}

static struct world *bring_up(struct driver *d, bool packed)
{
	struct world *w =
		mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(w, MAP_FAILED);
	memory = w->memory;
	ledger = w->ledger;
	*d = (struct driver){.packed = packed, .wrap = true, .used_wrap = true, .room = NUM};
	return w;
}

static void take_down(struct world *w)
{
	munmap(w, sizeof(*w));
}

/* ---- one instruction at a time ---- */

#ifndef SANITIZED

static void offer_some(struct driver *d, uint64_t *x, unsigned int n)
{
	uint16_t ids = d->packed ? NUM : NUM / 3;

	for (unsigned int i = 0; i < n; i++) {
		uint16_t id = (uint16_t)(any(x) % ids);
		uint8_t count = (uint8_t)(1 + any(x) % 3);

		if (!d->count[id] && d->room >= count)
			offer(d, id, count);
	}
}

/* Another relay, and the driver goes on, a little or as far as it can. */
static void survives(struct world *w, const struct world *from, bool far, uint64_t *x)
{
	struct driver *d = &w->driver;
	struct queue *q;

	memcpy(w, from, sizeof(*w));
	memory = w->memory;
	ledger = w->ledger;
	while (reap(d))
		;
	if (far)
		offer_some(d, x, 50);
	q = attach(d->packed, d->packed ? 0x80008000u : d->used);
	assert_false(q->broken);
	for (unsigned int i = 0; d->returned < d->offered && i < 1000; i++) {
		serve(q, x);
		while (reap(d))
			;
	}
	assert_int_equal(d->returned, d->offered);
	assert_int_equal(q->nflights, 0);
	queue_detach_guest(q);
}

/* Driver and relay in turns, from a ring that has just begun. */
static void turns(struct world *w, uint64_t seed)
{
	struct queue *q;

	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	w->relaying = true;
	q = attach(w->driver.packed, w->driver.packed ? 0x80008000u : 0);
	for (unsigned int i = 0; i < TURNS; i++) {
		__atomic_store_n(&w->relaying, false, __ATOMIC_SEQ_CST);
		while (reap(&w->driver))
			;
		offer_some(&w->driver, &seed, 3);
		__atomic_store_n(&w->relaying, true, __ATOMIC_SEQ_CST);
		serve(q, &seed);
	}
	_exit(0);
}

static void stepped(bool packed)
{
	static struct world before;
	uint64_t x = 0x57e9, changes = 0;
	struct driver d;
	struct world *w = bring_up(&d, packed), *copy;
	int status;
	pid_t pid;

	copy = mmap(NULL, sizeof(*copy), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	assert_ptr_not_equal(copy, MAP_FAILED);
	w->driver = d;
	memcpy(&before, w, sizeof(before));
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		turns(w, 0x5eed);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	while (WIFSTOPPED(status)) {
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL))
			break;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		/* Only the ring and the buffer change: the rest of memory is never written. */
		if (!memcmp(before.memory, w->memory, 4096) &&
		    !memcmp(before.ledger, w->ledger, LEDGER))
			continue;
		memcpy(&before, w, 4096);
		memcpy(before.ledger, w->ledger, sizeof(*w) - offsetof(struct world, ledger));
		if (!w->relaying)
			continue;
		survives(copy, &before, changes % 2, &x);
		changes++;
	}
	assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
	/* Or nothing has been tried. */
	assert_true(changes > 4 * TURNS);
	munmap(copy, sizeof(*copy));
	take_down(w);
}

static void g5_a_death_between_any_two_stores_split(void **state)
{
	(void)state;
	stepped(false);
}

static void g5_a_death_between_any_two_stores_packed(void **state)
{
	(void)state;
	stepped(true);
}
#endif

/* ---- at full speed ---- */

static void die(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	/* It was not the one that ended itself: what it found was in order. */
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void killed_over_and_over(bool packed)
{
	const uint32_t base = packed ? 0x80008000u : 0;
	uint64_t x = 0x1ed9e7, began = 0;
	struct driver d;
	struct world *w = bring_up(&d, packed);

	for (unsigned int i = 0; i < KILLS; i++) {
		pid_t pid = relay(packed, packed ? base : d.used, any(&x));
		uint64_t before = d.returned;

		/* Until it has begun, then a random time more. */
		for (unsigned int n = 0; d.returned == before && n < 5000; n++)
			drive(&d, &x, 100000);
		began += d.returned != before;
		drive(&d, &x, any(&x) % 200000);
		die(pid);
	}
	assert_int_equal(began, KILLS);
	/* All that is out comes back, and nothing else does. */
	{
		pid_t pid = relay(packed, base, 1);

		for (unsigned int n = 0; d.returned < d.offered && n < 30000; n++) {
			reap(&d);
			usleep(100);
		}
		usleep(20000);
		assert_false(reap(&d));
		assert_int_equal(d.returned, d.offered);
		die(pid);
	}
	take_down(w);
}

static void g5_nothing_is_lost_over_deaths_split(void **state)
{
	(void)state;
	killed_over_and_over(false);
}

static void g5_nothing_is_lost_over_deaths_packed(void **state)
{
	(void)state;
	killed_over_and_over(true);
}

/* ---- a front-end that lies ---- */

static void random_buffer(bool packed)
{
	uint64_t x = 0xbad1ed9e7;
	struct driver d;
	struct world *w = bring_up(&d, packed);

	for (unsigned int round = 0; round < ROUNDS; round++) {
		struct queue *q;

		/* From one that is right, some words; or all of it. */
		for (size_t i = 0; i < LEDGER; i += 2) {
			uint16_t v = (uint16_t)any(&x);

			if (round % 3 == 0)
				v %= NUM + 1;
			if (round % 3 == 1 && any(&x) % 64)
				continue;
			memcpy(ledger + i, &v, 2);
			memcpy(memory + i % 4096, &v, 2);
		}
		/* The version and the number of entries are those that are looked at. */
		memcpy(ledger + 8, (uint16_t[]){1, NUM}, 4);
		q = attach(packed, (uint32_t)any(&x));
		for (unsigned int i = 0; i < 8 && !q->broken; i++)
			serve(q, &x);
		/* Nothing was found outside: the sanitizers say if it was. */
		assert_true(q->nflights <= NUM &&
			    (!packed || (q->guest.next < NUM && q->guest.used < NUM)));
		queue_detach_guest(q);
	}
	take_down(w);
}

static void g4_no_buffer_harms_split(void **state)
{
	(void)state;
	random_buffer(false);
}

static void g4_no_buffer_harms_packed(void **state)
{
	(void)state;
	random_buffer(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#ifndef SANITIZED
		cmocka_unit_test(g5_a_death_between_any_two_stores_split),
		cmocka_unit_test(g5_a_death_between_any_two_stores_packed),
#endif
		cmocka_unit_test(g5_nothing_is_lost_over_deaths_split),
		cmocka_unit_test(g5_nothing_is_lost_over_deaths_packed),
		cmocka_unit_test(g4_no_buffer_harms_split),
		cmocka_unit_test(g4_no_buffer_harms_packed),
	};

	return cmocka_run_group_tests_name("the in-flight buffer", tests, NULL, NULL);
}
