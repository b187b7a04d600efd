/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * pvh.h - between pvh.c, which starts a guest without an operating system, and what runs in it
 *
 * Theory of operation: see pvh.c. Memory is where its physical address says, up to 4 GiB.
 */
#ifndef TESTS_XEN_PVH_H
#define TESTS_XEN_PVH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The guest's: called once, on 64 KiB of stack. */
void pvh_main(void);

/* Find Xen: false if it is not there. Before everything else. */
bool pvh_init(void);

/* Put the first frames of the guest's grant table at phys, where there is no memory. */
bool pvh_grant_table(uint64_t phys, uint32_t frames);

/* Let other domains run. */
void pvh_yield(void);

/* Give up, visibly: the domain has crashed. */
void pvh_crash(void);

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);

#endif
