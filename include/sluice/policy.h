/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/policy.h - which way a transfer takes
 *
 * Theory of operation
 * -------------------
 * Each mapping is either copied through the pool (bounce), or has its own pages made reachable
 * (share), or both: its whole granules shared in place and its ends bounced (split). The decision is
 * taken in one place, from the mapping's length, the page offsets of its two ends and its direction,
 * so that the rest of the DMA layer does not know why. A partial page is never shared in place,
 * whatever the policy, because its neighbours would come along (G2).
 *
 * auto goes by cost. For both ways there are tables of what a mapping and its unmapping took at
 * lengths that are powers of two, from 64 bytes to 4 MiB, in between a straight line. They are filled
 * by measuring, for this device and mechanism on this machine, and then followed: a few of the
 * transfers are timed, each moves the two points beside its length a little, and now and then one is
 * sent the way that looks worse, because that may have changed. From the tables follows, for each
 * stretch between two points, the length at which the one way becomes cheaper: the decision itself is
 * one comparison.
 *
 * With a mechanism that reaches everything anyway (a window) there is nothing to decide: auto shares.
 *
 * The unit of time is the clock's, whatever it is.
 */
#ifndef SLUICE_POLICY_H
#define SLUICE_POLICY_H

#include <sluice/os.h>

enum sluice_route {
	SLUICE_ROUTE_BOUNCE, /* the whole mapping is copied through the pool */
	SLUICE_ROUTE_SHARE,  /* it is shared in place as a whole */
	SLUICE_ROUTE_SPLIT,  /* its whole granules are, and its ends are copied */
};

enum sluice_policy_kind {
	SLUICE_POLICY_BOUNCE, /* always copy */
	SLUICE_POLICY_SHARE,  /* share in place all that can be */
	SLUICE_POLICY_AUTO,   /* whatever is cheaper */
};

#define SLUICE_COST_POINTS 17 /* 2^6 to 2^22 bytes */
#define SLUICE_COST_FIRST  6

enum sluice_phase { SLUICE_PHASE_MAP, SLUICE_PHASE_UNMAP };

/* What mappings cost. 0 is "not known". Written by whoever has a new figure, read by all. */
struct sluice_costs {
	uint32_t bounce[3][2][SLUICE_COST_POINTS]; /* by direction, phase, length */
	uint32_t share[2][2][SLUICE_COST_POINTS];  /* by whether it is split, phase, length */
	/* Between point i and the next, longer ones than this are shared: by split, direction (and one
	 * more, so that finding it is a shift). */
	uint32_t cut[SLUICE_COST_POINTS][2][4];
};

struct sluice_policy {
	enum sluice_policy_kind kind;
	uint64_t break_even;	    /* auto: share from this length on, instead of by cost; or 0 */
	struct sluice_costs *costs; /* auto: the caller's; may be shared by devices of one kind */
};

/**
 * sluice_policy_route - decide one mapping
 * @policy: the device's policy, owned by the caller
 * @orig:   the driver's address
 * @len:    bytes, at least 1
 * @dir:    an enum sluice_dir
 * @whole:  the mechanism reaches everything anyway: partial granules may be shared
 * @joins:  the mechanism can split
 *
 * Context: any; reads nothing but its arguments and the costs.
 */
SLUICE_API enum sluice_route sluice_policy_route(const struct sluice_policy *policy, uint64_t orig,
						 uint64_t len, uint32_t dir, bool whole,
						 bool joins);

/*
 * What auto goes by before anything has been measured, in ns: a share in place and its taking back by
 * a request to somebody, and copying 1 MiB. The same assumptions as in docs/SURVEY.md, "What follows",
 * which says what they mean for each device: sharing from 44 KiB on from the device, from 74 KiB on
 * to it.
 */
#define SLUICE_START_SHARE UINT64_C(5000)
#define SLUICE_START_COPY  (UINT64_C(45) << 10)

/**
 * sluice_costs_start - fill the tables by assumption
 * @costs: the tables, the caller's
 * @share: what sharing a buffer in place and taking it back takes, whatever its length
 * @copy:  what copying 1 MiB takes
 *
 * A bounce towards the device is taken as one copy and a clearing of half the cost, one from it as a
 * copy more (docs/DESIGN.md, the rule). From there on auto follows what it sees; sluice_place_measure()
 * replaces all of it by what was measured.
 *
 * Context: any; nobody goes by @costs yet.
 */
SLUICE_API void sluice_costs_start(struct sluice_costs *costs, uint64_t share, uint64_t copy);

/**
 * sluice_costs_learn - one more measurement
 * @costs: the tables
 * @table: costs->bounce[direction] or costs->share[split]
 * @phase: mapping or unmapping
 * @len:   bytes
 * @time:  what it took
 *
 * A single outlier counts for no more than twice what is known.
 *
 * Context: any. Two at the same time may lose one of them.
 */
SLUICE_API void sluice_costs_learn(struct sluice_costs *costs,
				   uint32_t table[2][SLUICE_COST_POINTS], enum sluice_phase phase,
				   uint64_t len, uint64_t time);

/**
 * sluice_costs_set - what mapping or unmapping takes at point i
 */
SLUICE_API void sluice_costs_set(struct sluice_costs *costs, uint32_t table[2][SLUICE_COST_POINTS],
				 enum sluice_phase phase, uint32_t i, uint64_t time);

/**
 * sluice_costs_of - what a mapping and its unmapping take together, by a table; 0 if not known
 */
SLUICE_API uint64_t sluice_costs_of(uint32_t table[2][SLUICE_COST_POINTS], uint64_t len);

/**
 * sluice_costs_break_even - the length from which on sharing in place is cheaper
 * @split: of buffers whose ends are inside granules
 * @dir:   an enum sluice_dir
 *
 * Return: bytes, or UINT32_MAX if it never is, as far as the tables go.
 */
SLUICE_API uint32_t sluice_costs_break_even(const struct sluice_costs *costs, bool split,
					    uint32_t dir);

#endif
