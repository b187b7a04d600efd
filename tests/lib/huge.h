/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * huge.h - huge pages for the time of a test
 *
 * Theory of operation
 * -------------------
 * Reserving them takes root (by sudo, without a password, where the user is another); a test for which they are not to be had is
 * skipped. How many are free is the machine's: who else wants some meanwhile, by way of this file, waits.
 */
#ifndef TESTS_LIB_HUGE_H
#define TESTS_LIB_HUGE_H

#include <stdbool.h>

#define HUGE_BYTES (2ul << 20)

/* Reserve so many, or skip the test. */
void huge_reserve(unsigned int n);
/* How many of them are free. */
long huge_free(void);
/* Have the test itself take so many; give those back. */
void huge_take(unsigned int n);
void huge_give(void);
/* At the end of every test: as it was before. False if not all had been given back by those who had them. */
bool huge_end(void);

#endif
