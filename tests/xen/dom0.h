/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * dom0.h - what the files of the Xen test's end in domain 0 have in common
 *
 * Theory of operation: see dom0.c. Offsets are into the guest's area.
 */
#ifndef TESTS_XEN_DOM0_H
#define TESTS_XEN_DOM0_H

#include <sluice/dma.h>
#include <sluice/gntdev.h>
#include <sluice/grant.h>

#include "control.h"

#define G	  4096u
#define SECRET	  0xEEu
#define REFS_A_GO 64u /* what libsluice's view maps or copies in one go */

extern struct sluice_gntdev xen;
extern struct control *control;
extern uint8_t buf[AREA_BYTES];
extern int failed;

bool check(bool ok, const char *what);
uint64_t now_us(void);

/* Have the guest do something: its answer. Ends the program if there is none. */
int64_t ask(enum want want, uint64_t a, uint64_t b, uint64_t c, uint64_t d);

/* Map a piece of the guest's area: its device address, or 0. */
uint64_t map(enum sluice_policy_kind way, uint64_t offset, uint64_t len, enum sluice_dir dir);
int64_t unmap(uint64_t dev, uint64_t len, enum sluice_dir dir);

void fill(uint64_t offset, uint64_t len, uint8_t byte);
bool guest_has(uint64_t offset, uint64_t len, uint8_t byte);
bool all(const void *memory, size_t n, uint8_t v);

int hold(uint64_t dev, uint64_t len, uint32_t access, struct sluice_hold *one);
void drop(struct sluice_hold *one);

/* Whether nothing of an address can be reached in any way. */
bool gone(uint64_t dev);

/* Whether a granule shows none of the area: it is not granted, or is something else's. */
bool hidden(uint64_t dev);

/* The rest of the granules that a transfer's first and last byte are in. */
bool only_zeroes_beside(uint64_t dev, uint64_t len);

void test_bare(void);
void test_linux(void);
void test_held(void);
void test_kept(void);

#endif
