/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * lane.c - large chains through a ring, several at once, each answer checked
 *
 * Theory of operation: tests/lib/lane.h.
 */
#include <poll.h>
#include <string.h>

#include "lane.h"

static uint64_t place_of(const struct lane *l, unsigned int i)
{
	return VM_BUFFER + 0x8000 * l->q + 0x1000 * i;
}

void lane_offer(struct vm *v, struct lane *l, unsigned int i)
{
	const uint64_t at = place_of(l, i), word = (uint64_t)l->q << 32 | l->offered;

	l->random = l->random * 6364136223846793005u + 1442695040888963407u;
	l->large[i] = l->offered % 4 && !l->all_large ? (uint32_t)(l->random >> 33) % LANE_MAX + 1
						      : LANE_MAX;

	const struct piece pieces[] = {{at, sizeof(word), false},
				       {LANE_LARGE, l->large[i], false},
				       {at + 0x400, LANE_BACK, true}};

	vm_write(v, at, &word, sizeof(word));
	memset(vm_at(v, at + 0x400), 0, LANE_BACK);
	l->id[i] = vm_offer_indirect(v, l->q, pieces, 3, l->q * LANE_OUT + i);
	l->busy[i] = true;
	l->offered++;
}

bool lane_take(struct vm *v, struct lane *l)
{
	uint32_t id, len;
	uint64_t at;
	const uint8_t *back;
	unsigned int i = 0, right = 0;

	if (!vm_poll(v, l->q, &id, &len))
		return false;
	while (i < LANE_OUT && !(l->busy[i] && l->id[i] == id))
		i++;
	assert_true(i < LANE_OUT);
	at = place_of(l, i);
	back = vm_at(v, at + 0x400);
	assert_int_equal(len, LANE_BACK);
	for (unsigned int b = 0; b < LANE_BACK; b++) {
		const uint32_t from = b % (8 + l->large[i]);
		const uint64_t gpa = from < 8 ? at + from : LANE_LARGE + from - 8;

		right += back[b] == (*vm_at(v, gpa) ^ 0xa5);
	}
	assert_int_equal(right, LANE_BACK);
	l->busy[i] = false;
	l->back++;
	return true;
}

void lanes_move(struct vm *v, struct lane lanes[VM_RINGS], unsigned int chains)
{
	unsigned int idle = 0;

	while (lanes[0].back < chains || lanes[1].back < chains) {
		bool any = false;

		for (unsigned int q = 0; q < VM_RINGS; q++) {
			struct lane *l = &lanes[q];
			bool more = false;

			while (lane_take(v, l))
				any = true;
			for (unsigned int i = 0; i < LANE_OUT; i++)
				if (!l->busy[i] && l->offered < chains) {
					lane_offer(v, l, i);
					more = true;
				}
			if (more)
				vm_kick(v, q);
		}
		if (any) {
			idle = 0;
			continue;
		}
		poll(NULL, 0, 1);
		if (++idle == 30000)
			fail_msg("nothing moves: %u and %u of %u are back", lanes[0].back,
				 lanes[1].back, chains);
	}
}

void lane_fill(struct vm *v)
{
	static uint8_t bytes[LANE_MAX];

	for (unsigned int i = 0; i < LANE_MAX; i++)
		bytes[i] = (uint8_t)(i * 7 + (i >> 9));
	vm_write(v, LANE_LARGE, bytes, sizeof(bytes));
}
