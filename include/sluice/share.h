/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/share.h - how memory becomes reachable for a device
 *
 * Theory of operation
 * -------------------
 * A share mechanism turns memory that the driver's side can address into memory that the device
 * can address. Mechanisms differ in what that costs (nothing, a hypercall, a request to a virtual
 * IOMMU), so they stand behind one small table of functions. The pool keeps its chunks shared for
 * as long as it has them: a bounce then costs a copy, whatever the mechanism.
 *
 * Two uses:
 *
 *   open, close       a chunk of the pool, seldom, may sleep
 *   share, unshare    the pages of one transfer, in place: only whole granules (4 KiB), because a
 *                     granule that is shared is shared with all that lies in it (G2)
 *
 * What is shared in one go is a span: one or more pieces, each consecutive in the driver's memory,
 * that the device finds at consecutive addresses. So a buffer that begins and ends inside a granule
 * can be one range for the device, although its two ends are somewhere else, in the pool. Calls take
 * several spans, so that a mechanism that has to ask somebody asks once for all of them.
 *
 * Taking back can be impossible for a while: the device is in the middle of using the memory. Then
 * unshare says -EBUSY, the span stays the caller's, with its memory, and the call is made again
 * later. No mechanism forgets a span in that state: addresses and entries stay taken, and
 * stats.granules counts it on.
 *
 * region is the mechanism in which everything has been shared from the start and only the address
 * differs: a BAR (ivshmem, VIRTIO_PCI_CAP_SWIOTLB), a reserved memory region, a memfd. It shares
 * nothing in place. The others have headers of their own: window.h, decrypt.h, iommu.h, grant.h.
 */
#ifndef SLUICE_SHARE_H
#define SLUICE_SHARE_H

#include <sluice/os.h>

struct sluice_share;

/* What a device may do with memory, on both ends. */
#define SLUICE_READ  (1u << 0)
#define SLUICE_WRITE (1u << 1)

/* Consecutive memory of the driver, whole granules. */
struct sluice_piece {
	uint64_t orig;	/* named as sluice_orig() understands it */
	uint64_t bytes; /* a multiple of 4096, not 0 */
};

struct sluice_span {
	const struct sluice_piece *pieces; /* share: n of them, the caller's during the call */
	uint32_t n;
	uint32_t access; /* SLUICE_READ, SLUICE_WRITE or both */
	uint64_t bytes;	 /* share: set to the sum; unshare: as it was set */
	uint64_t dev;	 /* share: set to the first device address; unshare: as it was set */
	int result;	 /* of this span */
	uint64_t token;	 /* the mechanism's: 0 at first, kept while unshare says -EBUSY */
};

/* Counters. All but the last three only grow. */
struct sluice_share_stats {
	uint64_t shares;      /* spans shared */
	uint64_t unshares;    /* spans taken back */
	uint64_t operations;  /* entries written or requests sent, for both */
	uint64_t trips;	      /* times that the other side was asked and waited for */
	uint64_t refused;     /* spans that were not shared */
	uint64_t busy;	      /* times that unshare said -EBUSY */
	uint64_t granules;    /* shared in place now */
	uint64_t exposed;     /* granules that are reachable although unshare has said 0 (lazy) */
	uint64_t exposed_max; /* the most that there have been of them */
};

/* share() gives a span of several pieces consecutive addresses; without it n is 1. */
#define SLUICE_SHARE_JOINS (1u << 0)
/* All the driver's memory is reachable through it as soon as it is on: nothing to gain by copying. */
#define SLUICE_SHARE_WHOLE (1u << 1)

/* Operations of a mechanism. Called through the functions below, which check their arguments. */
struct sluice_share_ops {
	const char *name;
	uint32_t flags;
	/* Make size bytes at cpu reachable; *dev is the address at which the device finds them.
	 * Returns 0, or -ERANGE if the mechanism cannot reach that memory. May sleep: called when a
	 * pool grows or shrinks. */
	int (*open)(struct sluice_share *share, void *cpu, uint64_t size, uint64_t *dev);
	/* Undo open(). The caller has scrubbed the memory. Returns 0, or -EBUSY if the device holds
	 * some of it: the memory stays shared and must not be used for anything else; try again. */
	int (*close)(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev);
	/* As sluice_share_spans(), sluice_share_end() and sluice_share_flush(). NULL if nothing is
	 * shared in place, or nothing is ever queued. */
	int (*share)(struct sluice_share *share, struct sluice_span *spans, uint32_t n);
	int (*unshare)(struct sluice_share *share, struct sluice_span *spans, uint32_t n);
	int (*flush)(struct sluice_share *share);
};

struct sluice_share {
	const struct sluice_share_ops *ops;
	/*
	 * The inverse of sluice_orig() for memory of the pool, set by the caller after init; NULL where
	 * memory is named by its address (user space).
	 */
	uint64_t (*name)(const void *cpu);
	struct sluice_share_stats stats;
};

/**
 * sluice_share_spans - share memory in place
 * @share: the mechanism
 * @spans: @n spans, the caller's; dev, bytes and result are set
 * @n:	   1 to UINT32_MAX
 *
 * All spans or none. What is not shared afterwards was never reachable through them, but for
 * -EBUSY: a span that had to be taken back and could not be, because the device used it already or
 * did not answer. Its result is -EBUSY, and it is to be given to sluice_share_end() until that says
 * 0, with its memory left alone.
 *
 * Return: 0; -EOPNOTSUPP if the mechanism shares nothing in place, or not in several pieces;
 * -EINVAL if a piece is not whole granules, is empty or wraps, or access is none; -ENOSPC if there
 * are no addresses or entries left, or the device's end has no room: bounce, or try again later;
 * -ERANGE if the mechanism cannot reach that memory; -EIO if the device's end answered with an
 * error; -EBUSY as above.
 * Context: as the mechanism says; none but iommu asks anybody.
 */
SLUICE_API int sluice_share_spans(struct sluice_share *share, struct sluice_span *spans,
				  uint32_t n);

/**
 * sluice_share_end - take memory back
 * @share: the mechanism
 * @spans: @n spans with dev and bytes as they were set, the caller's; result is set
 * @n:	   1 to UINT32_MAX
 *
 * Every span is tried. Afterwards the device cannot reach those whose result is 0, but for a
 * mechanism that was told to be lazy: there it can until the next flush, and stats.exposed says how
 * much.
 *
 * Return: 0 if all results are 0, otherwise the first that is not: -EBUSY if the device uses it or
 * has not answered in time (call again later, with this span only), -EINVAL if it is no span of this
 * mechanism's.
 * Context: as for sluice_share_spans().
 */
SLUICE_API int sluice_share_end(struct sluice_share *share, struct sluice_span *spans, uint32_t n);

/**
 * sluice_share_flush - take back now what a lazy mechanism has queued
 *
 * Return: 0; -EBUSY if some of it is still in use: it stays queued and counted as exposed.
 * Context: as for sluice_share_spans().
 */
SLUICE_API int sluice_share_flush(struct sluice_share *share);

/**
 * sluice_share_name - what a piece of the pool is called, for sluice_piece.orig
 */
static inline uint64_t sluice_share_name(const struct sluice_share *share, const void *cpu)
{
	return share->name ? share->name(cpu) : (uint64_t)(uintptr_t)cpu;
}

/*
 * Where the chunks of a pool go in the address space of a mechanism that chooses addresses: a range
 * that is taken once, filled chunk by chunk. A helper for mechanisms; private.
 */
struct sluice_chunk_window {
	uint64_t dev;
	uint32_t chunks; /* 0 if there is no range */
	uint64_t taken[32];
};

/* The next free place for a chunk: false if there is none. One caller at a time. */
SLUICE_API bool sluice_chunk_window_take(struct sluice_chunk_window *window, uint64_t *dev);
SLUICE_API void sluice_chunk_window_give(struct sluice_chunk_window *window, uint64_t dev);

/* The mechanism region. The caller owns it; it lives as long as what uses it. */
struct sluice_region {
	struct sluice_share share;
	void *cpu;
	uint64_t dev;
	uint64_t size;
};

/**
 * sluice_region_init - describe memory that the device reaches already
 * @region: filled in; owned by the caller
 * @cpu:    address of its first byte for this program
 * @dev:    address of the same byte for the device
 * @size:   bytes
 *
 * Return: 0, or -EINVAL if it is empty or wraps around the end of either address space.
 * Context: any.
 */
SLUICE_API int sluice_region_init(struct sluice_region *region, void *cpu, uint64_t dev,
				  uint64_t size);

#endif
