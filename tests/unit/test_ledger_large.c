/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_ledger_large.c - more long chains left by an earlier relay than there can be (G4)
 *
 * Theory of operation: a queue has records for FLIGHT_LARGE chains of many parts at a time, which is as many as a relay ever
 * has in flight. What an earlier one has left is read from the guest's ring again, though, and the guest can have made
 * all of it longer since. Here each of 2048 chains has become one of 16 parts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "relay/shadow.h"
#include "relay/state.h"

#define NUM   2048u
#define PARTS 16u
#define GPA   UINT64_C(0x100000)
#define USER  UINT64_C(0x7f0000000000)
#define AVAIL (16 * NUM)
#define USED  (AVAIL + 4 + 2 * NUM + 4)
#define TABLE (USED + 8 * NUM + 64)
#define BYTES (1u << 18)

/* As in the spec, "Inflight I/O tracking", split virtqueue. */
struct ledger_head {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
};
struct ledger_desc {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

static _Alignas(4096) uint8_t memory[BYTES];
static _Alignas(
	4096) uint8_t ledger[sizeof(struct ledger_head) + NUM * sizeof(struct ledger_desc) + 64];
static struct shadow shadow;

static void descriptor(uint32_t at, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	vring_write((uint64_t *)(void *)(memory + at), 0, addr, len, flags, next);
}

static void g4_more_long_chains_than_there_can_be_are_refused(void **state)
{
	const struct ring ring = {
		.num = NUM, .desc = USER, .avail = USER + AVAIL, .used = USER + USED};
	struct ledger_head *head = (void *)ledger;
	struct ledger_desc *descs = (void *)(ledger + sizeof(*head));
	struct queue *q = &shadow.queues[0];

	(void)state;
	for (uint16_t i = 0; i < PARTS; i++)
		descriptor(TABLE + 16u * i, GPA + BYTES / 2 + 512u * i, 16,
			   i + 1u < PARTS ? VRING_NEXT : 0, (uint16_t)(i + 1));
	for (uint16_t i = 0; i < NUM; i++) {
		descriptor(16u * i, GPA + TABLE, 16 * PARTS, VRING_INDIRECT, 0);
		descs[i] = (struct ledger_desc){.inflight = 1, .counter = i + 1u};
	}
	head->version = 1;
	head->desc_num = NUM;
	assert_int_equal(guest_map_raw(&shadow.guest, GPA, USER, BYTES, memory), 0);
	q->shadow = &shadow;
	q->loop = &shadow.loops[0];
	shadow.ledger = ledger;
	shadow.ledger_len = sizeof(ledger);
	shadow.ledger_queues = 1;
	shadow.ledger_num = NUM;
	assert_int_equal(queue_attach_guest(q, &ring, VU_BIT(VIRTIO_F_VERSION_1)), 0);
	/* Whatever is believed of it is all there. */
	for (uint16_t n = q->first; n != FLIGHT_NONE; n = q->flights[n].next)
		assert_true((uint32_t)q->flights[n].nout + q->flights[n].nin <= FLIGHT_FEW ||
			    q->flights[n].large != FLIGHT_NONE);
	assert_true(q->broken);
	queue_detach_guest(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g4_more_long_chains_than_there_can_be_are_refused),
	};

	return cmocka_run_group_tests_name("the in-flight buffer, long chains", tests, NULL, NULL);
}
