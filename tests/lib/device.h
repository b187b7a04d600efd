/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * device.h - a backend that serves rings, as it should or as it must not
 *
 * Theory of operation
 * -------------------
 * A process of its own, so that it can be killed, listening where the relay looks for its backend.
 * It serves split and packed rings with indirect tables: each chain is answered with what it holds
 * to be read, each byte xor 0xa5, repeated until the writable part is full.
 *
 * A struct device_script, in memory that it has in common with the test, tells it what to do wrong,
 * how many times, and from which chain or request on. It then goes back to good behaviour: a relay
 * that has thrown it out and connected again finds a backend that works, so that the test can see
 * what became of the guest's requests.
 *
 * With each chain it searches all memory that it has been given for the guest's canary.
 */
#ifndef TESTS_LIB_DEVICE_H
#define TESTS_LIB_DEVICE_H

#include "vm.h"

/* What it does to its rings, in place of or before the right answer to a chain. */
enum sin {
	SIN_NONE,
	SIN_ID_RANGE,	 /* uses an id that no ring has */
	SIN_ID_WILD,	 /* and one with all bits set */
	SIN_ID_IDLE,	 /* uses an id that is not in flight */
	SIN_TWICE,	 /* uses a chain twice */
	SIN_LEN_ONE,	 /* says that it wrote one byte more than it could */
	SIN_LEN_WILD,	 /* ... 4 GiB less one */
	SIN_JUMP,	 /* says that everything is used, and more than that */
	SIN_BACK,	 /* takes back what it has used */
	SIN_TABLE,	 /* overwrites descriptors and what they point to, then answers */
	SIN_TABLE_FIRST, /* the same as soon as it has the ring, before any chain */
	SIN_READABLE,	 /* overwrites what it may only read, then answers */
	SIN_BEYOND,	 /* overwrites everything but the rings, then answers */
	SIN_ALL,	 /* overwrites everything */
	SIN_STORM,	 /* changes used entries all the time while they are read */
	SIN_CALLS,	 /* calls, without end and for nothing */
	SIN_SINS,
};

/* What it does to a message: an answer, or the answer to come. */
enum slip {
	SLIP_NONE,
	SLIP_SIZE,     /* a payload of another size */
	SLIP_REQUEST,  /* an answer to something else */
	SLIP_VERSION,  /* flags that no answer has */
	SLIP_FDS,      /* with files */
	SLIP_MANY_FDS, /* with more than a message may have */
	SLIP_LONG,     /* says that the payload is 256 MiB */
	SLIP_HALF,     /* half of it, and closes */
	SLIP_TWICE,    /* the same answer twice */
	SLIP_UNASKED,  /* one that nobody asked for, first */
	SLIP_REFUSE,   /* says that it did not work */
	SLIP_CLOSE,    /* closes instead */
	SLIP_WILD,     /* all bits of the payload set */
	SLIP_SLIPS,
};

struct device_script {
	uint64_t features;
	uint64_t protocol;
	enum sin sin;
	enum slip slip;
	uint32_t slip_request;
	uint32_t times;	 /* how often it is still to sin or slip */
	bool hold;	 /* take chains but answer none */
	bool hold_first; /* the same, on the first ring only */
	bool reverse;	 /* answer what waits in reverse order, once two are there */
	bool batch;	 /* answer all that waits by one used entry (IN_ORDER) */
	uint32_t keep;	 /* never answer so many of the oldest that wait */
	uint32_t pause;	 /* microseconds after each used entry */
	bool late; /* finish what it has taken, however late: when its ring is stopped and answered
			    for, and before it closes a connection that was given up */
	bool kicked; /* look at a ring only when it is kicked; forget kicks of disabled ones */
	uint32_t short_by; /* write and say so many bytes fewer than it could */
	/* What it has seen. */
	uint32_t connections;
	uint32_t chains;
	uint32_t sinned;
	uint32_t canaries; /* times that it found the guest's canary */
	uint32_t foreign;  /* chains with an address outside what it was given */
	uint64_t readable; /* bytes of the last chain */
	uint64_t writable;
	uint32_t regions; /* it has been given */
	uint32_t dirty;	  /* bytes of the last chain's writable part that were not zero */
};

struct device {
	struct peers *rig;
	struct device_script *script;
	pid_t pid;
};

/* A device that does everything right, not running yet. */
void device_init(struct device *d, struct peers *rig);
void device_fini(struct device *d);
void device_start(struct device *d);
void device_kill(struct device *d);
/* Wait until so many connections or chains have been made; fails the test if not. */
void device_wait(struct device *d, const uint32_t *counter, uint32_t n);

const char *sin_name(enum sin sin);
const char *slip_name(enum slip slip);

#endif
