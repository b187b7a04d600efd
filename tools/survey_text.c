/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_text.c - a survey for the terminal, and as rows of Markdown tables
 *
 * Theory of operation: everything shown is in struct survey_stats. The rows are for the script that
 * writes docs/SURVEY.md: a kind of row is asked for by its name.
 */
#include <inttypes.h>
#include <string.h>

#include "survey_stats.h"

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100. * (double)part / (double)whole : 0;
}

/* What is not as it should be with the whole recording; the same in all reports. */
static void caveats(FILE *f, const struct survey *s, const struct survey_stats *stats)
{
	uint64_t total = s->n + s->lost;

	fprintf(f, "%" PRIu64 " of %" PRIu64 " events lost (%.3f %%)\n", s->lost, total,
		percent(s->lost, total));
	if (!s->complete)
		fprintf(f, "The stream has no end: the recorder was killed, or the file is cut.\n");
	if (*s->cut)
		fprintf(f, "Cut: %s\n", s->cut);
	if (stats->orphans)
		fprintf(f, "%" PRIu64 " unmaps of what was mapped before the recording began.\n",
			stats->orphans);
	if (stats->more)
		fprintf(f, "More than %d devices: %" PRIu64 " mappings left out.\n",
			SURVEY_MAX_DEVS, stats->more);
}

static void device(FILE *f, const struct survey_device *d, const struct survey_costs *costs)
{
	static const char *const seed[] = {"512 B", "2 KiB", "4 KiB", "16 KiB", "512 KiB"};
	char a[16], b[16], c[16], bdf[16], advice[640];
	uint64_t sum = 0;

	fprintf(f, "\n%s %s\n", survey_bdf(d->bdf, bdf), d->name);
	fprintf(f, "  mappings        %" PRIu64 ", %s in all, coherent allocations %" PRIu64 "\n",
		d->maps, survey_size(d->bytes, a), d->allocs);
	if (d->full)
		fprintf(f, "  no room for     %" PRIu64 "\n", d->full);
	fprintf(f, "  alive at once   %" PRIu64 " mappings, %s; coherent %s\n", d->live_max,
		survey_size(d->live_bytes_max, a), survey_size(d->coherent_max, b));
	if (!d->maps)
		goto out;
	fprintf(f, "  direction       to the device %.1f %%, from it %.1f %%, both %.1f %%\n",
		percent(d->dir_maps[SURVEY_TO], d->maps),
		percent(d->dir_maps[SURVEY_FROM], d->maps),
		percent(d->dir_maps[SURVEY_BOTH], d->maps));
	fprintf(f, "  lengths         median %s, 90 %% %s, longest %s; up to",
		survey_size(survey_quantile(d->len, d->maps, 0.5), a),
		survey_size(survey_quantile(d->len, d->maps, 0.9), b),
		survey_size(d->len[d->maps - 1], c));
	for (unsigned int i = 0; i < SURVEY_BUCKETS - 1; i++) {
		sum += d->bucket[i];
		fprintf(f, "%s %s %.1f %%", i ? "," : "", seed[i], percent(sum, d->maps));
	}
	fprintf(f, "\n  lifetime        median %s, 99 %% %s; %" PRIu64 " still mapped at the end\n",
		survey_time(survey_quantile(d->life, d->ended, 0.5), a),
		survey_time(survey_quantile(d->life, d->ended, 0.99), b), d->open);
	fprintf(f, "  other CPU       %.1f %% were unmapped on another CPU than mapped\n",
		percent(d->cpu_other, d->ended));
	fprintf(f, "  offsets         %.1f %% begin at a page's start\n",
		percent(d->aligned, d->maps));
	fprintf(f, "  pages           %.1f %% of page uses had come before\n",
		100 - percent(d->first, d->pages));
	fprintf(f,
		"  beside it       %.1f %% do not fill their pages (%.1f %% on heap pages; beside "
		"live ones of the device %.1f %%, of others %.1f %%), %s each on average\n",
		percent(d->partial, d->maps), percent(d->partial_slab, d->maps),
		percent(d->beside_own, d->maps), percent(d->beside_other, d->maps),
		survey_size(d->slack / d->maps, a));
	if (d->known)
		fprintf(f,
			"  written         of %s offered in %" PRIu64 " mappings: up to the last "
			"changed byte %.1f %%, bytes that changed (at least written) %.1f %%; "
			"%.1f %% of mappings not to their end\n",
			survey_size(d->known_bytes, a), d->known,
			percent(d->extent_bytes, d->known_bytes),
			percent(d->changed_bytes, d->known_bytes), percent(d->shorter, d->known));
	else
		fprintf(f, "  written         not known: only mode=bounce can tell\n");
out:
	survey_advice_text(d, costs, advice, sizeof(advice));
	fprintf(f, "  -> %s\n", advice);
}

void survey_text(FILE *f, const struct survey *s, const struct survey_stats *stats,
		 const struct survey_costs *costs)
{
	char a[16];

	fprintf(f, "%s\nkernel %s, mode %s, %s\n", *s->title ? s->title : "(no title)", s->kernel,
		s->mode, survey_time(stats->end - stats->begin, a));
	caveats(f, s, stats);
	for (size_t i = 0; i < stats->n; i++)
		device(f, &stats->dev[i], costs);
	fprintf(f,
		"\nAssumed: sharing a buffer in place and taking it back costs %.0f ns, copying a "
		"KiB %.0f ns (--share, --copy).\n",
		costs->share_ns, costs->copy_ns);
}

/* A device's name in a table: its driver, or its place where it has none. */
static const char *label(const struct survey_device *d, char bdf[16])
{
	return *d->name ? d->name : survey_bdf(d->bdf, bdf);
}

static void row_sizes(FILE *f, const struct survey *s, const struct survey_device *d)
{
	char bdf[16];
	uint64_t sum = 0;

	fprintf(f, "| %s, %s | %" PRIu64 " |", label(d, bdf), s->title, d->maps);
	for (unsigned int i = 0; i < SURVEY_BUCKETS - 1; i++) {
		sum += d->bucket[i];
		fprintf(f, " %.1f |", percent(sum, d->maps));
	}
	fputs("\n", f);
}

/* All devices of a stream together, as the seed counts. */
static void row_sizes_all(FILE *f, const struct survey *s, const struct survey_stats *stats)
{
	uint64_t maps = 0, sum = 0;

	for (size_t i = 0; i < stats->n; i++)
		maps += stats->dev[i].maps;
	fprintf(f, "| all devices, %s | %" PRIu64 " |", s->title, maps);
	for (unsigned int k = 0; k < SURVEY_BUCKETS - 1; k++) {
		for (size_t i = 0; i < stats->n; i++)
			sum += stats->dev[i].bucket[k];
		fprintf(f, " %.1f |", percent(sum, maps));
	}
	fputs("\n", f);
}

static void row_figures(FILE *f, const struct survey *s, const struct survey_device *d)
{
	char bdf[16], a[16], b[16], c[16], e[16];

	fprintf(f,
		"| %s, %s | %.0f | %.0f | %s | %s | %" PRIu64 " | %s | %s | %.0f | %.0f | %.0f |\n",
		label(d, bdf), s->title, percent(d->dir_maps[SURVEY_TO], d->maps),
		percent(d->dir_maps[SURVEY_FROM], d->maps),
		survey_time(survey_quantile(d->life, d->ended, 0.5), a),
		survey_time(survey_quantile(d->life, d->ended, 0.99), b), d->live_max,
		survey_size(d->live_bytes_max, c), survey_size(d->coherent_max, e),
		percent(d->cpu_other, d->ended), percent(d->aligned, d->maps),
		100 - percent(d->first, d->pages));
}

/* For scripts: nothing rounded. */
static void row_counts(FILE *f, const struct survey_device *d)
{
	char bdf[16];

	fprintf(f, "%s maps %" PRIu64 " to %" PRIu64 " from %" PRIu64 " both %" PRIu64 "\n",
		survey_bdf(d->bdf, bdf), d->maps, d->dir_bytes[SURVEY_TO],
		d->dir_bytes[SURVEY_FROM], d->dir_bytes[SURVEY_BOTH]);
}

static void row_exposure(FILE *f, const struct survey *s, const struct survey_device *d)
{
	char bdf[16], a[16], b[16], c[16];

	fprintf(f, "| %s, %s | %.0f | %.0f | %.0f | %.0f | %s | %s | %s |\n", label(d, bdf),
		s->title, percent(d->partial, d->maps), percent(d->partial_slab, d->maps),
		percent(d->beside_own, d->maps), percent(d->beside_other, d->maps),
		survey_size(d->maps ? d->slack / d->maps : 0, a), survey_size(d->reach_max, b),
		survey_size(d->reach_mapped, c));
}

static void row_written(FILE *f, const struct survey *s, const struct survey_device *d)
{
	char bdf[16], a[16];

	if (d->known)
		fprintf(f, "| %s, %s | %" PRIu64 " | %s | %.1f | %.1f | %.1f |\n", label(d, bdf),
			s->title, d->known, survey_size(d->known_bytes, a),
			percent(d->extent_bytes, d->known_bytes),
			percent(d->changed_bytes, d->known_bytes), percent(d->shorter, d->known));
}

static void row_advice(FILE *f, const struct survey *s, const struct survey_device *d,
		       const struct survey_costs *costs)
{
	struct survey_advice a;
	char bdf[16], even[16], pool[16], m[16], p[16];

	survey_advise(d, costs, &a);
	fprintf(f, "| %s, %s | %s | %s | %s | %s | %.0f | %.0f | %.0f |\n", label(d, bdf), s->title,
		survey_size(survey_slot(survey_quantile(d->len, d->maps, 0.5), false), m),
		survey_size(survey_slot(survey_quantile(d->len, d->maps, 0.95), false), p),
		survey_size(a.pool, pool), a.above < 0.1 ? "never" : survey_size(a.even_from, even),
		100 * a.above, 100 * a.kept, percent(d->inner_bytes, d->bytes));
}

bool survey_rows(FILE *f, const char *what, const char *only, const struct survey *s,
		 const struct survey_stats *stats, const struct survey_costs *costs)
{
	char bdf[16];

	if (!strcmp(what, "sizes") && !only)
		row_sizes_all(f, s, stats);
	for (size_t i = 0; i < stats->n; i++) {
		const struct survey_device *d = &stats->dev[i];

		if ((!d->maps && !d->known) || (only && strcmp(only, survey_bdf(d->bdf, bdf))))
			continue;
		if (!strcmp(what, "sizes"))
			row_sizes(f, s, d);
		else if (!strcmp(what, "counts"))
			row_counts(f, d);
		else if (!strcmp(what, "figures"))
			row_figures(f, s, d);
		else if (!strcmp(what, "exposure"))
			row_exposure(f, s, d);
		else if (!strcmp(what, "written"))
			row_written(f, s, d);
		else if (!strcmp(what, "advice"))
			row_advice(f, s, d, costs);
		else
			return false;
	}
	return true;
}
