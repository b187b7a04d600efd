/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * control.h - what the two ends of the Xen test say to each other
 *
 * Theory of operation: the guest grants one page at a reference that both know, CONTROL_REF, before it
 * says ready. Domain 0 writes what it wants there and then raises asked; the guest does it, writes what
 * came of it, and sets answered to the same number. One thing at a time, both wait by looking. The
 * guest has one buffer area, and offsets are into it. There are two such guests: domu.c, and a Linux one
 * with sluice.ko and dev/dev.c, whose control page is wherever it says. Neither does all of this.
 */
#ifndef TESTS_XEN_CONTROL_H
#define TESTS_XEN_CONTROL_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdint.h>
#endif

#define CONTROL_REF   8u
#define CONTROL_READY 0x53584e31u
#define AREA_BYTES    (2u << 20)
#define LIST_PIECES   3u

enum want {
	WANT_MAP, /* enum sluice_policy_kind, offset, len, direction: result, values[0] the device address */
	WANT_UNMAP,  /* device address, len, direction: result */
	WANT_RETRY,  /* result: mappings that linger */
	WANT_FILL,   /* offset, len, byte */
	WANT_CHECK,  /* offset, len, byte: result 1 if all are that byte */
	WANT_STATS,  /* values: enum told */
	WANT_OTHER,  /* offset: values[0] the address of a page granted to somebody else */
	WANT_REPEAT, /* way, offset, len, times: map and unmap so often; result */
	/* Of the Linux guest only. */
	WANT_MAP_LIST,	 /* -, offset, len, direction: LIST_PIECES, a quarter of the area apart */
	WANT_UNMAP_LIST, /* -, -, direction */
	WANT_SYNC,	 /* device address, len, direction: for the CPU */
	WANT_COHERENT,	 /* -, -, byte: fill its page of coherent memory; values[0] its address */
	WANT_QUIT,
};

enum told {
	TOLD_SHARED,
	TOLD_SPLIT,
	TOLD_BOUNCED,
	TOLD_LINGERED,
	TOLD_BUSY,
	TOLD_GRANULES,
	TOLD_OPERATIONS,
	TOLD_TRIPS,
	TOLD_COUNT,
};

struct control {
	uint32_t ready;
	uint32_t asked;
	uint32_t answered;
	uint32_t want;
	uint64_t args[4];
	int64_t result;
	uint64_t values[TOLD_COUNT];
};

#endif
