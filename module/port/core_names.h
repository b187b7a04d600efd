/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * core_names.h - keeps names that are static in the core apart from Linux's
 *
 * Theory of operation: included before each file of core/ by Kbuild. The kernel's headers come
 * first, by way of the port, and what the core calls by the same name is then renamed.
 */
#include <sluice_port.h>

#define list_add sluice_core_list_add
