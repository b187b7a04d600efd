/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_relay_turns.c - no queue of the relay starves another (G5), and what one is spun for, by counting and not by time
 *
 * Theory of operation
 * -------------------
 * The test is driver and device of some queues, and calls the relay's loop in between. Its clock stands still
 * but for jumps of a second, one each time it is read: so the slice of time after which the loop returns is over
 * after one turn of each queue. All queues but one are busy without end: their rings are full of chains, and
 * the device always has chains to give back. Whatever the last one wants, the others get one turn each before it.
 *
 * For spinning the clock goes by a microsecond each time it is read, and one queue has a request now and then, each of
 * which takes the device a while: both happen when the clock gets there, whatever the loop does meanwhile.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "relay/shadow.h"
#include "relay/state.h"

#define QUEUES 4u
#define NUM    256u
#define GPA    UINT64_C(0x100000)
#define USER   UINT64_C(0x7f0000000000)
#define AREA   0x4000u /* of each queue, in the guest's memory */
#define AVAIL  (16 * NUM)
#define USED   (AVAIL + 6 + 2 * NUM + 2)
#define BUFFER (QUEUES * AREA)
#define BYTES  (BUFFER + 4096u)
#define POOL   (8u << 20)
#define TURN   32u /* chains in each direction: docs/SHADOW.md, Notifications */
#define ROUNDS 300u
#define ASLEEP 0
#define AWAKE  UINT64_MAX
#define SECOND UINT64_C(1000000000)

static uint64_t clock_ns = 1000 * SECOND, tick_ns = SECOND;
static void (*at_tick)(void);

/* In place of the C library's. */
int clock_gettime(clockid_t clock, struct timespec *ts)
{
	(void)clock;
	clock_ns += tick_ns;
	*ts = (struct timespec){(time_t)(clock_ns / SECOND), (long)(clock_ns % SECOND)};
	if (at_tick)
		at_tick();
	return 0;
}

static _Alignas(4096) uint8_t memory[BYTES];
static struct relay relay;
static struct shadow shadow;
static unsigned int full; /* turns with as much as a turn may have in both directions */

/* What the test knows of a queue, as its driver and as its device. */
static struct end {
	uint16_t offered;
	uint16_t returned;
	uint16_t taken;
	int kick;
} ends[QUEUES];

static uint16_t *word(unsigned int q, uint32_t at)
{
	return (uint16_t *)(void *)(memory + q * AREA + at);
}

/* Chains that are in the guest's ring, in the device's, and used, since the beginning. */
static uint16_t placed(unsigned int q)
{
	return __atomic_load_n(&shadow.queues[q].back.driver[1], __ATOMIC_ACQUIRE);
}

static uint16_t used(unsigned int q)
{
	return __atomic_load_n(word(q, USED + 2), __ATOMIC_ACQUIRE);
}

/* ---- the driver ---- */

/* A chain of one buffer that is read, in the slot that it is the turn of: chains come back in order here. */
static void offer(unsigned int q)
{
	const uint16_t slot = ends[q].offered % NUM;
	const uint64_t desc[2] = {GPA + BUFFER, 64};

	memcpy(memory + q * AREA + 16 * slot, desc, sizeof(desc));
	*word(q, AVAIL + 4 + 2u * slot) = slot;
	__atomic_store_n(word(q, AVAIL + 2), ++ends[q].offered, __ATOMIC_RELEASE);
}

static void offer_all(unsigned int q)
{
	ends[q].returned = used(q);
	while ((uint16_t)(ends[q].offered - ends[q].returned) < NUM)
		offer(q);
}

/* ---- the device ---- */

static void use_all(unsigned int q)
{
	const struct driver_end *d = &shadow.queues[q].back;

	for (; ends[q].taken != placed(q); ends[q].taken++) {
		uint32_t *entry = (uint32_t *)(void *)(d->device + 2) + 2 * (ends[q].taken % NUM);

		entry[0] = d->driver[2 + ends[q].taken % NUM];
		entry[1] = 0;
	}
	__atomic_store_n(&d->device[1], ends[q].taken, __ATOMIC_RELEASE);
}

/* ---- the relay ---- */

static int setup(void **state)
{
	const struct shadow_options options = {
		.pool_size = POOL, .pool_max = POOL, .poll_ns = AWAKE, .threads = 1};
	const struct sluice_memfd_config config = {
		.name = "turns", .size = POOL, .max = POOL, .dev = SHADOW_DEV, .n_caches = 1};

	(void)state;
	memset(memory, 0, sizeof(memory));
	memset(&shadow, 0, sizeof(shadow));
	memset(ends, 0, sizeof(ends));
	full = 0;
	relay.shadow = &shadow;
	assert_int_equal(shadow_init(&shadow, &relay, &options), 0);
	assert_int_equal(guest_map_raw(&shadow.guest, GPA, USER, BYTES, memory), 0);
	assert_int_equal(sluice_memfd_open(&config, &shadow.memfd), 0);
	shadow.pool = shadow.memfd->region.cpu;
	shadow.room = shadow.chain_max = shadow.flight_max = POOL;
	shadow.share = POOL / QUEUES;
	for (unsigned int i = 0; i < QUEUES; i++) {
		struct queue *q = &shadow.queues[i];
		const struct ring ring = {.num = NUM,
					  .desc = USER + i * AREA,
					  .avail = USER + i * AREA + AVAIL,
					  .used = USER + i * AREA + USED};

		assert_int_equal(queue_attach_guest(q, &ring, VU_BIT(VIRTIO_F_VERSION_1)), 0);
		assert_int_equal(queue_attach_back(q, VU_BIT(VIRTIO_F_VERSION_1)), 0);
		ends[i].kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		assert_true(ends[i].kick >= 0);
		loop_watch(q, ends[i].kick, 0);
		loop_watch(q, q->back_call, 1);
		q->spin[0] = q->spin[1] = AWAKE;
		loop_activate(q);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	at_tick = NULL;
	tick_ns = SECOND;
	for (unsigned int i = 0; i < QUEUES; i++) {
		loop_deactivate(&shadow.queues[i]);
		queue_detach_back(&shadow.queues[i], true);
		queue_detach_guest(&shadow.queues[i]);
		close(ends[i].kick);
	}
	sluice_memfd_destroy(shadow.memfd);
	close(shadow.loops[0].epoll);
	return 0;
}

/* One turn of each queue; no busy one gets more, in either direction. (Less where another one has just been put
 * aside: then one that has moved to its place is passed over this time.) */
static void turn(unsigned int quiet)
{
	static unsigned int turns;
	uint16_t down[QUEUES], up[QUEUES];

	for (unsigned int q = 0; q < QUEUES; q++) {
		if (q != quiet)
			offer_all(q);
		down[q] = placed(q);
		up[q] = used(q);
	}
	assert_true(loop_run(&shadow.loops[0]));
	for (unsigned int q = 0; q < QUEUES; q++) {
		if (q == quiet)
			continue;
		assert_true((uint16_t)(placed(q) - down[q]) <= TURN);
		assert_true((uint16_t)(used(q) - up[q]) <= TURN);
		full += (uint16_t)(placed(q) - down[q]) == TURN &&
			(uint16_t)(used(q) - up[q]) == TURN;
		/* Seldom, so that there is more to take back than a turn takes. */
		if (++turns % 4 == 0)
			use_all(q);
	}
}

/* ---- tests ---- */

/* Now and then a chain, while the queue is looked at: there after one turn of each, and back after one more. */
static void g5_a_chain_waits_for_a_turn_of_each_other_queue(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < ROUNDS; round++) {
		const unsigned int quiet = round / 8 % QUEUES;

		/* What has been busy until now falls quiet. */
		for (unsigned int i = 0; used(quiet) != ends[quiet].offered; i++) {
			assert_true(i < 4 * NUM / TURN);
			use_all(quiet);
			turn(quiet);
		}
		offer(quiet);
		turn(quiet);
		assert_int_equal(placed(quiet), ends[quiet].offered);
		use_all(quiet);
		turn(quiet);
		assert_int_equal(used(quiet), ends[quiet].offered);
	}
	assert_true(full > ROUNDS * (QUEUES - 1));
}

/* The same of a queue that has to be woken: its kick is seen after one turn of the others. */
static void g5_a_kick_is_seen_after_a_turn_of_each_other_queue(void **state)
{
	const uint64_t one = 1;

	(void)state;
	for (unsigned int round = 0; round < ROUNDS; round++) {
		const unsigned int quiet = round / 8 % QUEUES;
		struct queue *q = &shadow.queues[quiet];

		q->spin[0] = q->spin[1] = ASLEEP;
		for (unsigned int i = 0; q->active; i++) {
			assert_true(i < 4 * NUM / TURN);
			use_all(quiet);
			turn(quiet);
		}
		offer(quiet);
		assert_int_equal(write(ends[quiet].kick, &one, sizeof(one)), sizeof(one));
		loop_events(&shadow.loops[0], 0);
		turn(quiet);
		assert_int_equal(placed(quiet), ends[quiet].offered);
	}
	assert_true(full > ROUNDS * (QUEUES - 1));
}

/* ---- what a queue is spun for ---- */

#define MOST	UINT64_C(400000) /* --poll, ns */
#define NOT_YET UINT64_MAX
#define SETTLED 40u
#define TIMES	100u

/*
 * One request at a time: the guest makes the next one gaps[0] after it has the last one back, the device
 * answers gaps[1] after it has got one. Counted are, by what is waited for, the sleeps and the time of spinning.
 */
static struct {
	uint64_t gaps[2];
	uint64_t due;
	unsigned int events;
	unsigned int asleep[2];
	uint64_t spun[2];
} paced;

static void paced_tick(void)
{
	const uint64_t one = 1;
	const struct queue *q = &shadow.queues[0];
	const bool out = ends[0].offered != ends[0].taken, counts = paced.events >= SETTLED;

	if (paced.due == NOT_YET) {
		/* Whether what came last has been passed on. */
		if ((out ? placed(0) : used(0)) == ends[0].offered)
			paced.due = clock_ns + paced.gaps[out];
		return;
	}
	if (counts && q->active)
		paced.spun[out] += tick_ns;
	if (clock_ns < paced.due)
		return;
	paced.due = NOT_YET;
	paced.events++;
	if (out)
		use_all(0);
	else
		offer(0);
	if (q->active)
		return;
	assert_int_equal(write(out ? q->back_call : ends[0].kick, &one, sizeof(one)), sizeof(one));
	paced.asleep[out] += counts;
}

static void run_paced(uint64_t request, uint64_t answer)
{
	struct loop *l = &shadow.loops[0];

	memset(&paced, 0, sizeof(paced));
	paced.gaps[0] = request;
	paced.gaps[1] = answer;
	paced.due = NOT_YET;
	while (paced.events < SETTLED + 2 * TIMES) {
		if (shadow.queues[0].active) {
			loop_run(l);
			continue;
		}
		if (paced.due == NOT_YET)
			paced_tick();
		assert_true(paced.due != NOT_YET);
		clock_ns = paced.due;
		paced_tick();
		loop_events(l, 0);
	}
}

/* In vain is no time spun, for no gap; what comes in time is waited for awake, each kind for itself. */
static void g5_spins_only_for_what_comes_in_time(void **state)
{
	static const uint64_t in_time[] = {MOST / 20, MOST / 2, MOST * 9 / 10};
	static const uint64_t late[] = {MOST * 11 / 10, MOST * 3 / 2, MOST * 19 / 10, MOST * 5};

	(void)state;
	shadow.options.poll_ns = MOST;
	for (unsigned int i = 0; i < QUEUES; i++)
		shadow.queues[i].spin[0] = shadow.queues[i].spin[1] = ASLEEP;
	while (shadow.loops[0].nactive)
		loop_run(&shadow.loops[0]);
	tick_ns = 1000;
	/* A clock that jumps looks like a processor that is taken away. */
	shadow.loops[0].crowded = 0;
	at_tick = paced_tick;
	for (unsigned int i = 0; i < sizeof(in_time) / sizeof(*in_time); i++) {
		run_paced(in_time[i], in_time[i]);
		assert_int_equal(paced.asleep[0] + paced.asleep[1], 0);
		for (unsigned int j = 0; j < sizeof(late) / sizeof(*late); j++) {
			for (unsigned int kind = 0; kind < 2; kind++) {
				run_paced(kind ? in_time[i] : late[j], kind ? late[j] : in_time[i]);
				assert_int_equal(paced.asleep[!kind], 0);
				assert_int_equal(paced.asleep[kind], TIMES);
				/* The few looks before it sleeps. */
				assert_true(paced.spun[kind] <= TIMES * 10 * tick_ns);
			}
		}
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(g5_a_chain_waits_for_a_turn_of_each_other_queue),
		T(g5_a_kick_is_seen_after_a_turn_of_each_other_queue),
		T(g5_spins_only_for_what_comes_in_time),
	};

	return cmocka_run_group_tests_name("turns of the relay's queues", tests, NULL, NULL);
}
