/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_stats.h - the figures of a survey, device by device
 *
 * Theory of operation: survey_stats.c computes them, survey_text.c and survey_html.c only show
 * them, so that the page, the terminal and docs/SURVEY.md cannot say different things.
 */
#ifndef TOOLS_SURVEY_STATS_H
#define TOOLS_SURVEY_STATS_H

#include <sluice/policy.h>

#include "survey.h"

#define SURVEY_POINTS	240 /* of a line over time */
#define SURVEY_OFFSETS	64  /* bars of the offsets in a page, 64 bytes each */
#define SURVEY_REUSE	24  /* powers of two of pages between two uses of one */
#define SURVEY_BUCKETS	6   /* the seed's: 512 B, 2, 4, 16, 512 KiB, above */
#define SURVEY_SLOTS	24  /* powers of two of slot sizes */
#define SURVEY_MAX_DEVS 64

extern const uint64_t survey_buckets[SURVEY_BUCKETS];

/* What a share in place and a copy cost; what a recommendation is made from. */
struct survey_costs {
	double share_ns; /* to make a buffer's pages reachable and unreachable again */
	double copy_ns;	 /* for a KiB */
};

/*
 * What is assumed unless told: what policy auto starts from, too. A KiB copied between cold buffers:
 * 45 ns (measured on the machines of docs/POOL.md: 3.1 us for 64 KiB). Sharing and taking back: 5 us,
 * which is two requests to a virtual IOMMU at an exit each; a hypercall that changes a page's state is
 * dearer, an IOMMU whose invalidations are deferred cheaper.
 */
#define SURVEY_COSTS                                                                               \
	{                                                                                          \
		.share_ns = (double)SLUICE_START_SHARE,                                            \
		.copy_ns = (double)SLUICE_START_COPY / 1024                                        \
	}

/* A positive number of ns. */
bool survey_parse_cost(const char *arg, double *v);

struct survey_device {
	uint32_t bdf;
	const char *name;
	uint64_t maps, bytes;
	uint64_t dir_maps[3], dir_bytes[3];
	uint64_t kind_maps[3];
	uint64_t allocs;	   /* coherent */
	uint64_t open;		   /* mapped still when the stream ends */
	uint64_t *len;		   /* of each mapping, ascending */
	uint64_t *life;		   /* ns, of each that has ended, ascending */
	uint64_t ended, cpu_other; /* unmapped; of these, on another CPU than mapped */
	uint64_t bucket[SURVEY_BUCKETS];
	uint64_t offset[SURVEY_OFFSETS];
	uint64_t aligned; /* begin at a page's start */
	uint64_t full;	  /* could not be mapped for want of space */
	/* Alive at once. */
	uint64_t live_max, live_bytes_max; /* mappings, and their bytes */
	uint64_t coherent_max;		   /* bytes of coherent memory */
	uint64_t pool_max;		   /* bytes of slots that both would take at once */
	uint64_t line[SURVEY_POINTS];	   /* bytes of slots, the most of each moment */
	/* What the device wrote, where that is known. */
	uint64_t known, known_bytes, extent_bytes, changed_bytes, shorter;
	/* Pages. */
	uint64_t pages;		      /* that mappings touch, in all */
	uint64_t inner_bytes;	      /* in whole pages */
	uint64_t partial;	      /* mappings with a page that they do not fill */
	uint64_t partial_slab;	      /* of these, on a page of the kernel's heap */
	uint64_t beside_own;	      /* of these, beside another live mapping of the device */
	uint64_t beside_other;	      /* beside one of another device */
	uint64_t slack;		      /* bytes of such pages outside the mapping, in all */
	uint64_t reach_max;	      /* bytes of all pages touched by what is live at once */
	uint64_t reach_mapped;	      /* of these, mapped, at that moment */
	uint64_t first;		      /* pages seen for the first time */
	uint64_t reuse[SURVEY_REUSE]; /* [i]: seen again with less than 2^i others in between */
};

struct survey_stats {
	struct survey_device dev[SURVEY_MAX_DEVS];
	size_t n;
	uint64_t begin, end; /* ns */
	uint64_t orphans;
	uint64_t more; /* devices beyond the last */
};

/**
 * survey_stats - compute all figures
 * @s:	 a stream
 * @out: filled in; survey_stats_free() frees what belongs to it
 *
 * Return: 0 or -ENOMEM.
 */
int survey_stats(const struct survey *s, struct survey_stats *out);
void survey_stats_free(struct survey_stats *stats);

/* Bytes of pool that a mapping of len bytes takes (docs/POOL.md). */
uint64_t survey_slot(uint64_t len, bool coherent);

/* The value that a share q (0 to 1) of n ascending ones does not exceed; 0 if there are none. */
uint64_t survey_quantile(const uint64_t *v, uint64_t n, double q);

/* How many of n ascending values are at most x. */
uint64_t survey_below(const uint64_t *v, uint64_t n, uint64_t x);

/* What follows for a device. */
struct survey_advice {
	uint64_t even_to;   /* bytes from which sharing in place is cheaper: towards the device */
	uint64_t even_from; /* and from it */
	double above;	    /* share of all bytes in mappings that are as long as that */
	double kept;	    /* share of page uses that mappings kept for 64 MiB would have met */
	uint64_t pool;	    /* bytes, a multiple of 2 MiB */
	double exposed;	    /* bytes beside a mapping, for each byte mapped, if pages are shared */
};
void survey_advise(const struct survey_device *d, const struct survey_costs *costs,
		   struct survey_advice *advice);

/* The advice in words, two or three sentences, into out. */
void survey_advice_text(const struct survey_device *d, const struct survey_costs *costs, char *out,
			size_t size);

/* "4 KiB", "1.5 MiB"; "12.3 us". They return out. */
const char *survey_size(uint64_t bytes, char out[16]);
const char *survey_time(uint64_t ns, char out[16]);

void survey_text(FILE *f, const struct survey *s, const struct survey_stats *stats,
		 const struct survey_costs *costs);
void survey_html(FILE *f, const struct survey *s, const struct survey_stats *stats,
		 const struct survey_costs *costs);
/*
 * A row for each device, or for the one named only, of a table in Markdown; what: "sizes",
 * "figures", "exposure", "written" or "advice"; or, not in Markdown and not rounded, "counts".
 * Returns false if there are no such rows.
 */
bool survey_rows(FILE *f, const char *what, const char *only, const struct survey *s,
		 const struct survey_stats *stats, const struct survey_costs *costs);

#endif
