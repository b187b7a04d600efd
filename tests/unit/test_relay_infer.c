/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_relay_infer.c - what is in flight on a ring, against a simulation that knows
 *
 * Theory of operation
 * -------------------
 * A driver and a device play on a ring: the driver takes heads in one of several ways, keeps up to
 * a depth of requests open, the device completes in or out of order, and may hold a request back
 * for as long as it likes. At random moments the visible part of the ring is given to
 * infer_inflight(). Whatever it claims to have proven has to be so, always: a wrong claim is a lost
 * request and one that runs twice. How often it finds an answer is counted, and must not be never.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "relay/inflight.h"

#define MAX 64u

struct sim {
	uint32_t num;
	uint32_t depth;
	uint32_t window; /* how far from the oldest the device completes */
	uint32_t stuck;	 /* one request in so many is held back; 0: none */
	bool lifo;	 /* free heads are reused at once, or in turn */
	uint64_t seed;
	uint16_t avail[1u << 14];
	uint16_t used[1u << 14];
	uint32_t navail;
	uint32_t nused;
	uint16_t open[MAX]; /* oldest first */
	bool held[MAX];
	uint32_t nopen;
	uint16_t free[MAX];
	uint32_t nfree;
};

static uint32_t rnd(struct sim *s, uint32_t below)
{
	s->seed = s->seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(s->seed >> 33) % below;
}

static void begin(struct sim *s, uint64_t seed)
{
	*s = (struct sim){.seed = seed * 0x9e3779b97f4a7c15u + 1};
	s->num = 4u << rnd(s, 4);
	s->depth = 1 + rnd(s, s->num);
	s->window = rnd(s, 3) ? 1 + rnd(s, s->depth) : 1;
	s->stuck = rnd(s, 3) ? 0 : 5 + rnd(s, 200);
	s->lifo = rnd(s, 2);
	for (s->nfree = 0; s->nfree < s->num; s->nfree++)
		s->free[s->nfree] = (uint16_t)(s->num - 1 - s->nfree);
}

static void submit(struct sim *s)
{
	uint16_t head;

	if (s->nopen >= s->depth || !s->nfree || s->navail == sizeof(s->avail) / 2)
		return;
	if (s->lifo) {
		head = s->free[--s->nfree];
	} else {
		head = s->free[0];
		memmove(s->free, s->free + 1, --s->nfree * sizeof(s->free[0]));
	}
	s->avail[s->navail++] = head;
	s->held[s->nopen] = s->stuck && !rnd(s, s->stuck);
	s->open[s->nopen++] = head;
}

static void complete(struct sim *s)
{
	uint32_t i, n = s->nopen < s->window ? s->nopen : s->window;

	if (!n)
		return;
	i = rnd(s, n);
	if (s->held[i] && rnd(s, 200)) {
		/* Held back: another one instead. */
		for (i = 0; i < s->nopen && s->held[i]; i++)
			;
		if (i == s->nopen)
			return;
	}
	s->used[s->nused++] = s->open[i];
	s->free[s->nfree++] = s->open[i];
	s->nopen--;
	memmove(s->open + i, s->open + i + 1, (s->nopen - i) * sizeof(s->open[0]));
	memmove(s->held + i, s->held + i + 1, (s->nopen - i) * sizeof(s->held[0]));
}

struct tally {
	unsigned int proven;
	unsigned int unless_old;
	unsigned int none;
};

/* Whether an open request's entry in the avail ring is overwritten. */
static bool any_old(const struct sim *s, uint32_t visible)
{
	for (uint32_t i = 0; i < s->nopen; i++) {
		bool seen = false;

		for (uint32_t j = s->navail - visible; j < s->navail; j++)
			seen |= s->avail[j] == s->open[i];
		if (!seen)
			return true;
	}
	return false;
}

static void check(struct sim *s, struct tally *t)
{
	struct infer_history h = {.num = s->num, .pending = s->nopen};
	uint16_t heads[MAX];

	h.from_start = s->nused < s->num;
	h.nused = h.from_start ? s->nused : s->num;
	h.all_avail = h.from_start && s->navail <= s->num;
	h.navail = s->navail < s->num ? s->navail : s->num;
	h.avail = s->avail + s->navail - h.navail;
	h.used = s->used + s->nused - h.nused;
	switch (infer_inflight(&h, heads)) {
	case INFER_UNLESS_OLD:
		t->unless_old++;
		if (any_old(s, h.navail))
			return;
		break;
	case INFER_PROVEN:
		t->proven++;
		break;
	case INFER_LOST:
		assert_true(any_old(s, h.navail));
		t->none++;
		return;
	case INFER_NONSENSE:
		fail_msg("a sound ring is called nonsense");
		return;
	default:
		t->none++;
		return;
	}
	assert_memory_equal(heads, s->open, s->nopen * sizeof(heads[0]));
}

static void g5_no_claim_is_wrong(void **state)
{
	static struct sim s;
	struct tally t = {0};

	(void)state;
	for (uint64_t seed = 1; seed <= 3000; seed++) {
		uint32_t steps;

		begin(&s, seed);
		steps = 1 + rnd(&s, 3000);
		for (uint32_t i = 0; i < steps; i++) {
			if (rnd(&s, 2))
				submit(&s);
			else
				complete(&s);
			if (!rnd(&s, 50))
				check(&s, &t);
		}
	}
	print_message("# proven %u, unless an old one is open %u, no answer %u\n", t.proven,
		      t.unless_old, t.none);
	assert_true(t.proven > 1000);
	assert_true(t.unless_old > 1000);
}

/* What a disk under load does: a full queue, completions a little out of order. */
static void g5_usual_load_has_an_answer(void **state)
{
	static struct sim s;
	unsigned int answers = 0, tries = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 300; seed++) {
		struct tally t = {0};

		begin(&s, seed);
		s.num = 64;
		s.depth = 16;
		s.window = 4;
		s.stuck = 0;
		s.lifo = true;
		for (s.nfree = 0; s.nfree < s.num; s.nfree++)
			s.free[s.nfree] = (uint16_t)(s.num - 1 - s.nfree);
		for (uint32_t i = 0; i < 2000; i++) {
			submit(&s);
			if (rnd(&s, 8))
				complete(&s);
		}
		check(&s, &t);
		tries++;
		answers += t.proven + t.unless_old;
	}
	print_message("# %u of %u answered\n", answers, tries);
	assert_true(answers > tries / 2);
}

static void g5_nonsense_is_named(void **state)
{
	const uint16_t a[] = {1, 1, 2, 3}, u[] = {0, 0, 0, 0};
	uint16_t heads[4];
	struct infer_history h = {
		.avail = a,
		.used = u,
		.navail = 4,
		.nused = 0,
		.pending = 4,
		.num = 4,
		.from_start = true,
		.all_avail = true,
	};

	(void)state;
	assert_int_equal(infer_inflight(&h, heads), INFER_NONSENSE);
	h.nused = 2;
	h.pending = 2;
	assert_int_equal(infer_inflight(&h, heads), INFER_NONSENSE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g5_no_claim_is_wrong),
		cmocka_unit_test(g5_usual_load_has_an_answer),
		cmocka_unit_test(g5_nonsense_is_named),
	};

	return cmocka_run_group_tests_name("requests in flight", tests, NULL, NULL);
}
