/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * pair.h - a guest and a device with a relay in mode shadow between them
 *
 * Theory of operation: the ring format is negotiated on each side by itself, so every test that is
 * listed with PAIR_TESTS() runs for all four pairings. What may go wrong with each ring served by a thread
 * of its own is listed again with PAIR_THREADS_TESTS(). "direct" has no relay: there the tests'
 * own peers are tested, without which a failure would say nothing about the relay, and there the
 * device does find the guest's canary.
 */
#ifndef TESTS_LIB_PAIR_H
#define TESTS_LIB_PAIR_H

#include "device.h"

struct pairing {
	const char *name;
	bool guest_packed;
	bool device_packed;
	bool direct;
	bool guest_in_order;
	bool device_in_order;
	unsigned int threads; /* of the relay that serve queues; 0: as many as it likes */
};

struct pair {
	struct peers *rig;
	struct vm vm;
	struct device device;
	const struct pairing *pairing;
};

extern const struct pairing pair_split, pair_packed, pair_to_packed, pair_to_split;
extern const struct pairing pair_in_order_split, pair_in_order_packed; /* both sides */
extern const struct pairing pair_threads_split, pair_threads_packed;   /* a thread for each ring */
extern const struct pairing pair_direct_split, pair_direct_packed;

/* For cmocka: the initial state is the pairing, the state afterwards a struct pair with nothing
 * running yet. */
int pair_setup(void **state);
int pair_teardown(void **state);
/* Start the device and the relay (with --keep) and connect. */
void pair_start(struct pair *p);
/* The same, up to running rings. */
void pair_up(struct pair *p);
/* The relay lives, and both rings do: whatever was done before did no harm. */
void pair_well(struct pair *p);

#define PAIR_TEST(name, pairing)                                                                   \
	{                                                                                          \
#name ", " #pairing, name, pair_setup, pair_teardown,                              \
			(void *)(uintptr_t) & (pairing)                                            \
	}
#define PAIR_TESTS(name)                                                                           \
	PAIR_TEST(name, pair_split), PAIR_TEST(name, pair_packed),                                 \
		PAIR_TEST(name, pair_to_packed), PAIR_TEST(name, pair_to_split)
#define PAIR_THREADS_TESTS(name)                                                                   \
	PAIR_TEST(name, pair_threads_split), PAIR_TEST(name, pair_threads_packed)

#endif
