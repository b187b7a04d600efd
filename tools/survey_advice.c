/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_advice.c - what follows from a device's figures
 *
 * Theory of operation
 * -------------------
 * To bounce costs by the byte: towards the device one copy and one clearing (half a copy), from it
 * two copies and a clearing, by the rule of docs/DESIGN.md. To share in place costs by the buffer,
 * whatever its length. Where the two meet is the break-even length; it is the same for all devices
 * that have the same costs, and what differs is how much of a device's traffic lies above it, and
 * what sharing it by whole pages would show. Pages that a device uses again could stay shared,
 * which costs nothing the next time and leaves them reachable in between.
 *
 * The pool is sized by the slots that were live at once, a third more for what fragmentation and
 * caches take, in whole chunks.
 */
#include <stdio.h>

#include "survey_stats.h"

#define TO_COPIES   1.5
#define FROM_COPIES 2.5
#define CHUNK	    (UINT64_C(2) << 20)
#define KEPT_BIN    14 /* 2^14 pages: 64 MiB */

const char *survey_size(uint64_t bytes, char out[16])
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double v = (double)bytes;
	unsigned int i = 0;

	while (v >= 1024 && i < 4) {
		v /= 1024;
		i++;
	}
	if (v < 10 && v > (double)(uint64_t)v)
		snprintf(out, 16, "%.1f %s", v, unit[i]);
	else
		snprintf(out, 16, "%.0f %s", v, unit[i]);
	return out;
}

const char *survey_time(uint64_t ns, char out[16])
{
	static const char *const unit[] = {"ns", "us", "ms", "s"};
	double v = (double)ns;
	unsigned int i = 0;

	while (v >= 1000 && i < 3) {
		v /= 1000;
		i++;
	}
	snprintf(out, 16, v < 10 && i ? "%.1f %s" : "%.0f %s", v, unit[i]);
	return out;
}

static uint64_t even(const struct survey_costs *c, double copies)
{
	return (uint64_t)(c->share_ns / (copies * c->copy_ns) * 1024);
}

void survey_advise(const struct survey_device *d, const struct survey_costs *costs,
		   struct survey_advice *a)
{
	uint64_t longer = 0, kept = 0, uses = d->first;

	*a = (struct survey_advice){
		.even_to = even(costs, TO_COPIES),
		.even_from = even(costs, FROM_COPIES),
	};
	/* By the shorter of the two: what can be worth sharing at all. */
	for (uint64_t i = d->maps; i && d->len[i - 1] >= a->even_from; i--)
		longer += d->len[i - 1];
	for (unsigned int i = 0; i < SURVEY_REUSE; i++) {
		uses += d->reuse[i];
		if (i <= KEPT_BIN)
			kept += d->reuse[i];
	}
	if (d->bytes) {
		a->above = (double)longer / (double)d->bytes;
		a->exposed = (double)d->slack / (double)d->bytes;
	}
	if (uses)
		a->kept = (double)kept / (double)uses;
	a->pool = (d->pool_max + d->pool_max / 3 + CHUNK - 1) / CHUNK * CHUNK;
}

void survey_advice_text(const struct survey_device *d, const struct survey_costs *costs, char *out,
			size_t size)
{
	struct survey_advice a;
	char to[16], from[16], pool[16], slack[16];
	int n;

	survey_advise(d, costs, &a);
	survey_size(a.even_to, to);
	survey_size(a.even_from, from);
	survey_size(a.pool, pool);
	survey_size(d->maps ? d->slack / d->maps : 0, slack);
	if (!d->maps)
		n = snprintf(out, size, "Only coherent memory was seen: nothing to decide. ");
	else if (a.above <= 0)
		n = snprintf(out, size,
			     "Bounce everything: no buffer is as long as %s, from where sharing in "
			     "place could pay. ",
			     from);
	else if (a.above < 0.1)
		n = snprintf(out, size,
			     "Bounce everything: only %.0f %% of the bytes are in buffers of %s or "
			     "more, from where sharing in place could pay. ",
			     100 * a.above, from);
	else
		n = snprintf(out, size,
			     "Bounce below %s from the device (%s towards it), share whole pages "
			     "from there on: %.0f %% of the bytes are in such buffers. ",
			     from, to, 100 * a.above);
	if (n >= 0 && (size_t)n < size && d->maps)
		n += snprintf(out + n, size - (size_t)n,
			      "Pages kept shared (64 MiB of them) would have met %.0f %% of the "
			      "uses. ",
			      100 * a.kept);
	if (n >= 0 && (size_t)n < size)
		n += snprintf(out + n, size - (size_t)n, "Pool: %s for what was live here. ", pool);
	if (n >= 0 && (size_t)n < size && d->partial)
		snprintf(
			out + n, size - (size_t)n,
			"Sharing by pages would show %s beside each mapping on average (%.0f %% of "
			"mappings do not fill their pages, %.0f %% lie among the kernel's heap "
			"objects).",
			slack, 100. * (double)d->partial / (double)d->maps,
			100. * (double)d->partial_slab / (double)d->maps);
	else if (n >= 0 && (size_t)n < size && d->maps)
		snprintf(out + n, size - (size_t)n,
			 "Every mapping fills its pages, so sharing by pages would show nothing "
			 "else.");
}
