// SPDX-License-Identifier: GPL-2.0-only
/*
 * trace.c - the one place where the tracepoints of trace.h are defined
 *
 * Theory of operation: define_trace.h includes trace.h again by path, several times; "." is the
 * module's folder, which Kbuild has on the include path.
 */
#define CREATE_TRACE_POINTS
#include "trace.h"
