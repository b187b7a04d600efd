/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_driver_end.c - a backend that changes a used entry while the relay reads it
 *
 * Theory of operation
 * -------------------
 * What the relay believes of a packed used entry has to come from one read of it (G4): if it looks at the flags and
 * then reads the entry again for its id, the backend can make it take back a chain by an entry that at no
 * time said "used" and that id together. Where the reads are only the machine code says. So the processor is told
 * to stop after each instruction (x86's trap flag), and the change comes after the first one, after the second one and
 * so on, until one call has been through without it.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "relay/driver_end.h"

#define NUM   8u
#define STEPS 100000u /* more than a call has, with sanitizers, too */

/* (ThreadSanitizer's runtime stands still when it is stopped in itself.) */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
static _Alignas(64) uint64_t ring[256];
static struct driver_id ids[NUM];
static volatile uint64_t *word, becomes;
static volatile unsigned int steps, change_at;

static void step(int signal)
{
	(void)signal;
	if (steps++ == change_at)
		__atomic_store_n(word, becomes, __ATOMIC_RELEASE);
}

static int reap_in_steps(struct driver_end *d)
{
	const char *why = NULL;
	uint16_t flight;
	uint32_t len, bad;
	int rc;

	steps = 0;
	__asm__ volatile("sub $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; add $128, %%rsp" ::
				 : "memory", "cc");
	rc = driver_end_reap(d, &flight, &len, &why, &bad);
	__asm__ volatile("sub $128, %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; add $128, %%rsp" ::
				 : "memory", "cc");
	return rc;
}

static void g4_flags_and_id_are_of_one_read(void **state)
{
	const struct shadow_sg sg = {0x1000, 16, true};
	const uint64_t used = (uint64_t)(VRING_AVAIL | VRING_USED) << 48, wild = UINT64_C(77) << 32;
	struct sigaction action = {.sa_handler = step}, old;
	unsigned int seen[2] = {0, 0};

	(void)state;
	assert_int_equal(sigaction(SIGTRAP, &action, &old), 0);
	do {
		struct driver_end d = {.packed = true, .num = NUM, .ids = ids};
		int rc;

		memset(ring, 0, sizeof(ring));
		driver_end_init(&d, ring);
		driver_end_add(&d, 3, &sg, 1, NULL, 0);
		driver_end_publish(&d);
		/* Used, but by an id that is none; then the right id (0), but not used. Never both. */
		word = &d.desc[1];
		*word = used | wild;
		becomes = 0;
		rc = reap_in_steps(&d);
		assert_true(rc == 0 || rc == -EBADMSG);
		seen[rc != 0]++;
		change_at++;
	} while (steps >= change_at && change_at < STEPS);
	assert_int_equal(sigaction(SIGTRAP, &old, NULL), 0);
	/* The change came before the read, and after it. */
	assert_true(seen[0] > 0 && seen[1] > 0);
}
#else
static void g4_flags_and_id_are_of_one_read(void **state)
{
	(void)state;
	skip();
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g4_flags_and_id_are_of_one_read),
	};

	return cmocka_run_group_tests_name("driver end", tests, NULL, NULL);
}
