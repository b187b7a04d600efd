/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_attach.c - a guest's ring that goes on with what was in flight, in other memory (G3)
 *
 * Theory of operation: a ring that was stopped with flights that could not be handed back is attached again. Its memory has come
 * back at another guest address meanwhile, as after a BAR has moved: that is what the log of a live migration has to say
 * of the ring from then on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "relay/queue.h"
#include "relay/shadow.h"
#include "relay/state.h"

#define NUM   16u
#define USER  UINT64_C(0x7f0000000000)
#define AVAIL (16 * NUM)
#define USED  (AVAIL + 4 + 2 * NUM + 4)
#define BYTES (1u << 16)

static _Alignas(4096) uint8_t memory[BYTES];
static struct shadow shadow;

static void attach(struct queue *q, uint64_t gpa, uint32_t base)
{
	const struct ring ring = {
		.num = NUM, .base = base, .desc = USER, .avail = USER + AVAIL, .used = USER + USED};

	shadow.guest.n = 0;
	assert_int_equal(guest_map_raw(&shadow.guest, gpa, USER, BYTES, memory), 0);
	assert_int_equal(queue_attach_guest(q, &ring, VU_BIT(VIRTIO_F_VERSION_1)), 0);
	assert_int_equal(q->ring_written[0].gpa, gpa + USED);
	assert_int_equal(q->ring_written[1].gpa, gpa + AVAIL);
}

static void g3_a_ring_is_logged_where_it_is_now(void **state)
{
	struct queue *q = &shadow.queues[0];

	(void)state;
	q->shadow = &shadow;
	q->loop = &shadow.loops[0];
	attach(q, 0x100000, 0);
	(void)queue_take_flight(q);
	q->guest.next = 1;
	attach(q, 0x500000, 1);
	/* It is the same one, and has what it had. */
	assert_int_equal(q->nflights, 1);
	queue_detach_guest(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g3_a_ring_is_logged_where_it_is_now),
	};

	return cmocka_run_group_tests_name("a ring attached again", tests, NULL, NULL);
}
