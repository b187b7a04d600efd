/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * compat_string.h - the part of compat.h that the core needs, too
 *
 * Theory of operation: see compat.h. It stands apart because each of the core's files includes
 * this, by sluice_port.h, and would read the headers of PCI and of IOMMUs for one line.
 */
#ifndef SLUICE_COMPAT_STRING_H
#define SLUICE_COMPAT_STRING_H

#include <linux/version.h>

/* Until 6.3, x86's memcpy() and memset() move bytes on a CPU with ERMS; then only with FSRM. */
#define SLUICE_COMPAT_BYTE_STRINGS (LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0))

#endif
