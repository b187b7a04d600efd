/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * audit.h - the way into `sluice audit`
 *
 * Theory of operation: tools/audit.c.
 */
#ifndef TOOLS_AUDIT_H
#define TOOLS_AUDIT_H

/**
 * sluice_audit_main - measure what a process can reach of a VMM's guest memory
 * @argc: as main() has it, argv[0] being "audit"
 * @argv: stays the caller's
 *
 * Return: 0 no private byte is reachable, 1 wrong usage, 2 a process could not be inspected,
 * 3 private bytes are reachable.
 */
int sluice_audit_main(int argc, char **argv);

#endif
