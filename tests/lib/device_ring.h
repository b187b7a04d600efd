/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * device_ring.h - the rings of the device of device.h
 *
 * Theory of operation: tests/lib/device_ring.c.
 */
#ifndef TESTS_LIB_DEVICE_RING_H
#define TESTS_LIB_DEVICE_RING_H

#include <fcntl.h>

#include "device.h"

#define BACKEND_REGIONS 16
#define BACKEND_RINGS	VM_RINGS
#define BACKEND_HELD	64

struct backend_region {
	uint64_t gpa;
	uint64_t user;
	uint64_t size;
	void *map;
	uint8_t *at;
	size_t mapped;
};

struct backend_mem {
	struct backend_region regions[BACKEND_REGIONS];
	unsigned int n;
};

struct backend_ring {
	unsigned int index;
	uint32_t num;
	uint64_t desc, avail, used; /* user addresses */
	int kick, call;
	bool started, enabled;
	uint16_t last_avail, last_used;
	bool avail_wrap, used_wrap;
	struct held {
		uint16_t id, count;
		uint32_t len;
	} held[BACKEND_HELD]; /* chains that have been taken and wait for an answer */
	unsigned int nheld;
};

struct backend_state {
	struct device_script *script;
	struct backend_mem mem;
	struct backend_ring rings[BACKEND_RINGS];
	bool packed;
};

/* SET_VRING_BASE and GET_VRING_BASE. */
void backend_ring_base(const struct backend_state *s, struct backend_ring *r, uint32_t base);
uint32_t backend_ring_get_base(const struct backend_state *s, const struct backend_ring *r);

/* Take the chains that are there and answer them, or do what the script says. */
void backend_ring_serve(struct backend_state *s, struct backend_ring *r);

#endif
