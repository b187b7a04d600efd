/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/policy.h - which way a transfer takes
 *
 * Theory of operation
 * -------------------
 * Each mapping is either copied through the pool (bounce) or has its own pages made reachable
 * (share in place). The decision is taken in one place, from the mapping's length and the page
 * offsets of its two ends, so that the rest of the DMA layer does not know why. A partial page is
 * never shared in place, whatever the policy, because its neighbours would come along (G2).
 */
#ifndef SLUICE_POLICY_H
#define SLUICE_POLICY_H

#include <sluice/os.h>

enum sluice_route {
	SLUICE_ROUTE_BOUNCE, /* the whole mapping is copied through the pool */
};

enum sluice_policy_kind {
	SLUICE_POLICY_BOUNCE, /* always copy */
};

struct sluice_policy {
	enum sluice_policy_kind kind;
};

/**
 * sluice_policy_route - decide one mapping
 * @policy: the device's policy, owned by the caller
 * @orig:   the driver's address
 * @len:    bytes
 *
 * Context: any; reads nothing but its arguments.
 */
SLUICE_API enum sluice_route sluice_policy_route(const struct sluice_policy *policy, uint64_t orig,
						 uint64_t len);

#endif
