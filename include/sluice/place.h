/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/place.h - a device whose transfers may stay where they are
 *
 * Theory of operation
 * -------------------
 * Given to a struct sluice_dma, a place lets its mappings be shared in place through a mechanism
 * (sluice/share.h), as its policy decides. The calls of sluice/dma.h stay the same.
 *
 * A buffer that begins or ends inside a granule is split: for each such end a whole granule of the
 * pool is taken, in which the rest is zero, the end is copied there, and both, with the whole
 * granules of the buffer between them, become one range of device addresses, with one permission. At
 * unmap the ends are copied back as in any bounce. So the device reaches the bytes of the buffer and
 * zeroes, and neither neighbour of the buffer (G2).
 *
 * What cannot be shared in place (no whole granule, no addresses left, memory that the mechanism
 * cannot name) bounces; what cannot bounce because the pool is full, or too small, is shared in place
 * if that can be. stats say how often each was.
 *
 * Taking back. When sluice_dma_unmap() returns 0 the device cannot reach the buffer any more. With a
 * device that holds it, or does not answer, it returns -EBUSY: the mapping lingers. It is unmapped as
 * far as sluice_dma_unmap() goes (a second call is refused), but its memory is not to be used for
 * anything else before ended() has been called for it. Lingering mappings are tried again at later
 * maps, one each, and by sluice_place_retry(). Whoever must not get -EBUSY (a kernel, where unmap
 * returns nothing) keeps the pages until ended().
 *
 * Records are private, an array of the caller's: a device cannot have more mappings in place than
 * that; further ones bounce.
 */
#ifndef SLUICE_PLACE_H
#define SLUICE_PLACE_H

#include <sluice/dma.h>
#include <sluice/share.h>
#include <sluice/tree.h>

/* A mapping. All private. */
struct sluice_placed {
	struct sluice_node node; /* device addresses, whole granules */
	struct sluice_placed *next;
	uint64_t orig, len, bytes;
	void *end_cpu[2];    /* bounced head and tail: granules of the pool, NULL if none */
	uint64_t end_dev[2]; /* the pool's address of them */
	uint64_t token;	     /* the mechanism's */
	uint32_t dir;
};

/* Counters; all but the last two only grow. */
struct sluice_place_stats {
	uint64_t shared;       /* mappings in place as a whole */
	uint64_t split;	       /* mappings whose ends were bounced */
	uint64_t bytes_placed; /* bytes that were not copied */
	uint64_t bytes_ends;   /* bytes that were, of split mappings */
	uint64_t unshareable;  /* mappings that were to be shared and bounced, for want of records,
				 * addresses, or a granule of the pool, or of a name for the memory */
	uint64_t unbounceable; /* mappings that were to bounce and were shared: the pool was full */
	uint64_t sampled;      /* timed (auto) */
	uint64_t explored;     /* of these, sent the way that looked worse */
	uint64_t lingered;     /* mappings that could not be taken back at once */
	uint64_t live;	       /* mappings in place now */
	uint64_t lingering;    /* mappings that wait to be taken back */
};

/* One CPU's. Private. */
struct sluice_place_cpu {
	uint32_t left;	 /* bounces until one is timed; may fall below 0 */
	uint32_t waited; /* bounces that went by untimed before that one */
	uint32_t period; /* mean number of maps between two that are timed */
	uint32_t seed;	 /* so that this is no driver's own rhythm */
	uint32_t burst;	 /* maps that are still to be sent the other way */
	uint32_t padding0;
	uint64_t credit; /* time that may be spent on exploring */
	uint64_t debt;	 /* that has been, beyond what it was to take */
	uint32_t padding[6];
};

struct sluice_place_config {
	struct sluice_share *share;    /* kept; may serve several devices */
	struct sluice_placed *records; /* array of n_records, kept */
	uint32_t n_records;	       /* at least 1 */
	struct sluice_place_cpu *cpus; /* array of n_cpus, zeroed by init, kept */
	uint32_t n_cpus;	       /* at least 1; one for each CPU is best */
	/* The time, in a unit of at most 10 ns; NULL if there is none: auto then goes by what is
	 * set. */
	uint64_t (*clock)(void *context);
	/* The device translates by itself, and asks for each granule when it comes to it: that is not
	 * seen from here, but auto reckons with it. */
	bool asks;
	/* NULL, or asked before memory is shared in place, in the context of the map: can it be kept out of use
	 * if the device does not let go of it? If not, it bounces. */
	bool (*keeps)(void *context, uint64_t orig, uint64_t len);
	/* NULL, or called when a mapping begins to linger, before ended() can be: the caller of unmap,
	 * or of a map that says -EBUSY, has not been told yet. In their context. */
	void (*lingers)(void *context, uint64_t orig, uint64_t len);
	/* NULL, or called when a mapping that lingered has been taken back: its memory is free. In
	 * the context of a map, or of sluice_place_retry(). */
	void (*ended)(void *context, uint64_t orig, uint64_t len);
	void *context;
};

#define SLUICE_PLACE_LIST 32u /* elements of a list that are ended with one wait */

struct sluice_place {
	/* What each map and unmap reads, and few of them write. */
	uint32_t can;	  /* the mechanism's flags */
	uint32_t waiting; /* mappings that linger */
	uint32_t due; /* who times the next mapping in place: a CPU + 1, 0 none, UINT32_MAX any */
	bool follows; /* there is a clock, and a choice: auto can measure as it runs */
	uint64_t watched;    /* what unmap is to be timed: an address, 0 none, UINT64_MAX any */
	uint64_t clock_cost; /* of looking at the clock: taken off what is timed */
	uint64_t ask;	     /* what a device that asks is reckoned to take for a granule; or 0 */
	struct sluice_place_config config;
	struct sluice_lock lock; /* of what follows */
	uint32_t left;		 /* mappings in place until one is due */
	uint32_t waited;	 /* how many there were to be before that one */
	struct sluice_node *root;
	struct sluice_placed *free;
	struct sluice_placed *first, *last; /* that linger */
	struct sluice_place_stats stats;
	/* Of one list that is being ended; others have fewer, on their stacks. */
	uint32_t list_taken;
	struct sluice_placed *list[SLUICE_PLACE_LIST];
	struct sluice_span list_spans[SLUICE_PLACE_LIST];
};

/**
 * sluice_place_init - let a device's transfers stay where they are
 * @place:  filled in; owned by the caller, until nothing of @dma is mapped any more
 * @dma:    the device; nothing is mapped. Its policy is the caller's to set, before or later.
 * @config: copied; what it points to is kept as it says
 *
 * To be split, pool memory has to be reachable by the same mechanism: share->name() names it. The
 * addresses that the mechanism gives lie outside the pool's window: a pool that was opened through the
 * same mechanism sees to that, for another one the caller does.
 *
 * Return: 0; -EINVAL for no records or no CPUs, or a mechanism that shares nothing in place.
 * Context: any; nobody else uses @place yet.
 */
SLUICE_API int sluice_place_init(struct sluice_place *place, struct sluice_dma *dma,
				 const struct sluice_place_config *config);

/**
 * sluice_place_measure - find out what bouncing and sharing cost here, and set the policy to auto
 * @dma:    a device with a place that has a clock; its policy's costs are set
 * @orig:   scratch memory that the device may see, on a granule's first byte
 * @len:    bytes there, at least 8 KiB: the longest length that is measured is half of it
 * @rounds: how often each is done, 1 to 15; the median counts
 *
 * Maps and unmaps the scratch memory at lengths that are powers of two, in each direction. Takes
 * some 10 ms with 1 MiB and 5 rounds, without what the mechanism itself costs.
 *
 * Return: 0; -EINVAL for arguments that are none; what a mapping said, with the policy unchanged, if
 * not even the shortest could be made.
 * Context: as sluice_dma_map(), for that long.
 */
SLUICE_API int sluice_place_measure(struct sluice_dma *dma, uint64_t orig, uint64_t len,
				    uint32_t rounds);

/**
 * sluice_place_map_sg - hand over some elements of a list of a device with a place, as far as it goes
 * @dma:  the device, after sluice_place_init()
 * @sg:	  @n elements, owned by the caller; the dma fields of those that are mapped are set
 * @n:	  how many
 * @dir:  who writes
 * @done: set to how many, from the first on, are mapped
 *
 * Each takes its own way; those in a row that are mapped in place are so by one call of the mechanism, as far as
 * a few go at a time. For callers with lists of their own kind, as sluice_dma_list_map() is with @claimed 0.
 *
 * Return: 0 with all mapped; otherwise what sluice_dma_list_map() said of the first one that is not.
 * Context: as sluice_dma_map().
 */
SLUICE_API int sluice_place_map_sg(struct sluice_dma *dma, struct sluice_sg *sg, uint32_t n,
				   enum sluice_dir dir, uint32_t *done);

/**
 * sluice_place_retry - try to take back what lingers, each once
 *
 * Return: how many mappings linger still, those that another caller is trying right now included.
 * Context: as sluice_dma_unmap().
 */
SLUICE_API uint64_t sluice_place_retry(struct sluice_dma *dma);

/**
 * sluice_place_get_stats - the counters
 */
SLUICE_API void sluice_place_get_stats(struct sluice_dma *dma, struct sluice_place_stats *stats);

#endif
