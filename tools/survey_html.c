/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_html.c - a survey as one page that needs nothing else
 *
 * Theory of operation: no script, no font, no picture from anywhere: the page can be mailed and
 * looked at in ten years. First the table of devices, then six plots for each with what they say in
 * one line; devices that did little are folded, last what follows. What comes from the stream is
 * escaped.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "survey_stats.h"
#include "survey_svg.h"

#define CURVE	  96 /* points of a distribution */
#define LEN_LOW	  5  /* 32 B */
#define LEN_HIGH  21 /* 2 MiB */
#define LIFE_LOW  10 /* 1 us */
#define LIFE_HIGH 34 /* 17 s */

static const char style[] =
	":root{--bg:#fff;--fg:#1b1f24;--dim:#5c6670;--line:#d8dee4;--card:#f6f8fa;--a:#0969da;"
	"--b:#bc4c00;--bar:#6e9bd8;--mark:#8250df}"
	"@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--dim:#9aa4af;"
	"--line:#30363d;--card:#161b22;--a:#58a6ff;--b:#f0883e;--bar:#3d6ea8;--mark:#bc8cff}}"
	"*{box-sizing:border-box}"
	"body{margin:0 auto;max-width:1240px;padding:1rem;background:var(--bg);color:var(--fg);"
	"font:16px/1.5 system-ui,sans-serif}"
	"h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0}"
	"h2{font-size:1.2rem;margin:2.2rem 0 .4rem;border-top:1px solid var(--line);"
	"padding-top:1rem}"
	"p{margin:.4rem 0;max-width:75ch}.dim{color:var(--dim)}"
	".warn{border-left:4px solid var(--b);padding-left:.7rem}"
	".scroll{overflow-x:auto}"
	"table{border-collapse:collapse;font-size:.92rem;margin:.6rem 0;"
	"font-variant-numeric:tabular-nums}"
	"th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--line);"
	"white-space:nowrap}th{color:var(--dim);font-weight:600}"
	"th:first-child,td:first-child{text-align:left}"
	"@media(max-width:44rem){table{font-size:.7rem}th,td{padding:.25rem .14rem}"
	"th,td:first-child{white-space:normal}}"
	".plots{display:grid;gap:.8rem;"
	"grid-template-columns:repeat(auto-fit,minmax(min(100%,350px),1fr))}"
	"figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;"
	"padding:.6rem}"
	"figcaption{font-size:.92rem;font-weight:600;min-height:1.5em}"
	"svg{display:block;width:100%;height:auto;overflow:visible}"
	"svg text{font:12px system-ui,sans-serif;fill:var(--dim)}"
	"svg .name{fill:var(--fg)}svg .word{fill:var(--mark);font-weight:600;"
	"stroke:var(--card);stroke-width:4px;paint-order:stroke}"
	".grid{stroke:var(--line);fill:none}.mark{stroke:var(--mark);stroke-dasharray:4 3}"
	".a,.b{fill:none;stroke-width:2;stroke-linejoin:round}.a{stroke:var(--a)}"
	".b{stroke:var(--b)}.bars{fill:var(--bar)}"
	".ka::before,.kb::before{content:'';display:inline-block;width:1.2em;height:3px;"
	"vertical-align:middle;margin-right:.35em;background:var(--a)}"
	".kb::before{background:var(--b);margin-left:.8em}"
	"details{border-top:1px solid var(--line);padding:.6rem 0}"
	"summary{cursor:pointer;font-weight:600}"
	".advice{background:var(--card);border:1px solid var(--line);border-radius:8px;"
	"padding:.2rem 1rem;margin:.8rem 0}";

static void text(FILE *f, const char *s)
{
	for (; *s; s++) {
		switch (*s) {
		case '<':
			fputs("&lt;", f);
			break;
		case '&':
			fputs("&amp;", f);
			break;
		case '"':
			fputs("&quot;", f);
			break;
		default:
			fputc(*s, f);
		}
	}
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100. * (double)part / (double)whole : 0;
}

/* "virtio_blk 0000:00:05.0" */
static void device_name(FILE *f, const struct survey_device *d)
{
	char bdf[16];

	text(f, *d->name ? d->name : "PCI function");
	fprintf(f, " <span class=\"dim\">%s</span>", survey_bdf(d->bdf, bdf));
}

static const char *short_size(uint64_t v, char out[16])
{
	static const char unit[] = {' ', 'K', 'M', 'G'};
	unsigned int i = 0;

	for (; v >= 1024 && i < 3; i++)
		v /= 1024;
	snprintf(out, 16, i ? "%" PRIu64 " %c" : "%" PRIu64, v, unit[i]);
	return out;
}

static void plot_sizes(FILE *f, const struct survey_device *d, const struct survey_costs *costs)
{
	struct svg_plot p = {.title = "Lengths: share of mappings, and of their bytes, up to",
			     .x_name = "bytes"};
	double x[CURVE], count[CURVE], bytes[CURVE], sum = 0;
	struct survey_advice a;
	uint64_t done = 0;

	survey_advise(d, costs, &a);
	svg_percent(&p);
	svg_log2(&p, LEN_LOW, LEN_HIGH, 2, short_size);
	svg_begin(f, &p);
	for (unsigned int i = 0; i < CURVE; i++) {
		uint64_t n;

		x[i] = (double)i / (CURVE - 1);
		n = survey_below(d->len, d->maps,
				 (uint64_t)exp2(LEN_LOW + x[i] * (LEN_HIGH - LEN_LOW)));
		for (; done < n; done++)
			sum += (double)d->len[done];
		count[i] = (double)n / (double)d->maps;
		bytes[i] = sum / (double)d->bytes;
	}
	svg_line(f, "b", x, bytes, CURVE);
	svg_line(f, "a", x, count, CURVE);
	svg_mark(f, svg_log2_at(a.even_from, LEN_LOW, LEN_HIGH), "break-even");
	svg_end(f);
}

static const char *whole_time(uint64_t log_ns, char out[16])
{
	/* Ticks are powers of two near those of ten. */
	uint64_t ten = 1;

	while (ten * 2 < log_ns)
		ten *= 10;
	return survey_time(ten, out);
}

static void plot_life(FILE *f, const struct survey_device *d)
{
	struct svg_plot p = {.title = "Lifetime: share of mappings that lived up to",
			     .x_name = "time from map to unmap"};
	double x[CURVE], y[CURVE];
	unsigned int i = 0;
	char label[16];

	svg_percent(&p);
	for (uint64_t t = 1000; t <= 10000000000u; t *= 10, i++) {
		p.x[i].at = svg_log2_at(t, LIFE_LOW, LIFE_HIGH);
		snprintf(p.x[i].label, sizeof(p.x[i].label), "%s", whole_time(t, label));
	}
	p.nx = i;
	svg_begin(f, &p);
	for (i = 0; i < CURVE; i++) {
		x[i] = (double)i / (CURVE - 1);
		y[i] = (double)survey_below(
			       d->life, d->ended,
			       (uint64_t)exp2(LIFE_LOW + x[i] * (LIFE_HIGH - LIFE_LOW))) /
		       (double)(d->ended ? d->ended : 1);
	}
	svg_line(f, "a", x, y, CURVE);
	svg_end(f);
}

static void plot_live(FILE *f, const struct survey_device *d, const struct survey_stats *stats)
{
	struct svg_plot p = {.title = "Pool that what is alive would take", .x_name = "time"};
	double x[SURVEY_POINTS], y[SURVEY_POINTS], top = 4096;
	uint64_t span = stats->end - stats->begin;

	while (top < (double)d->pool_max)
		top *= 2;
	for (p.ny = 0; p.ny < 5; p.ny++) {
		p.y[p.ny].at = p.ny / 4.;
		survey_size((uint64_t)(top / 4 * p.ny), p.y[p.ny].label);
	}
	for (p.nx = 0; p.nx < 5; p.nx++) {
		p.x[p.nx].at = p.nx / 4.;
		survey_time(span / 4 * p.nx, p.x[p.nx].label);
	}
	svg_begin(f, &p);
	for (unsigned int i = 0; i < SURVEY_POINTS; i++) {
		x[i] = (double)i / (SURVEY_POINTS - 1);
		y[i] = (double)d->line[i] / top;
	}
	svg_line(f, "a", x, y, SURVEY_POINTS);
	svg_end(f);
}

static void plot_offsets(FILE *f, const struct survey_device *d)
{
	struct svg_plot p = {.title = "Where in its page a mapping begins",
			     .x_name = "offset in the page, bytes"};
	double y[SURVEY_OFFSETS];

	svg_percent(&p);
	for (p.nx = 0; p.nx < 5; p.nx++) {
		p.x[p.nx].at = p.nx / 4.;
		snprintf(p.x[p.nx].label, sizeof(p.x[0].label), "%u", p.nx * 1024);
	}
	svg_begin(f, &p);
	for (unsigned int i = 0; i < SURVEY_OFFSETS; i++)
		y[i] = (double)d->offset[i] / (double)d->maps;
	svg_bars(f, y, SURVEY_OFFSETS);
	svg_end(f);
}

static const char *pages_size(uint64_t pages, char out[16])
{
	return short_size(pages * SURVEY_PAGE, out);
}

static void plot_reuse(FILE *f, const struct survey_device *d)
{
	struct svg_plot p = {.title = "Page uses that mappings kept for so much would have met",
			     .x_name = "bytes of pages kept shared"};
	double x[SURVEY_REUSE], y[SURVEY_REUSE];
	uint64_t sum = 0;

	svg_percent(&p);
	svg_log2(&p, 0, 18, 2, pages_size);
	svg_begin(f, &p);
	for (unsigned int i = 0; i <= 18; i++) {
		sum += d->reuse[i];
		x[i] = i / 18.;
		y[i] = (double)sum / (double)(d->pages ? d->pages : 1);
	}
	svg_line(f, "a", x, y, 19);
	svg_end(f);
}

static void plot_reach(FILE *f, const struct survey_device *d)
{
	struct svg_plot p = {.title = "Sharing by pages: most that is reachable at once",
			     .x_name = "bytes alive, and all of their pages"};
	double y[2], top = 4096;

	while (top < (double)d->reach_max)
		top *= 2;
	for (p.ny = 0; p.ny < 5; p.ny++) {
		p.y[p.ny].at = p.ny / 4.;
		survey_size((uint64_t)(top / 4 * p.ny), p.y[p.ny].label);
	}
	p.nx = 2;
	p.x[0] = (struct svg_tick){.at = 0.25, .label = "mapped"};
	p.x[1] = (struct svg_tick){.at = 0.75, .label = "reachable"};
	y[0] = (double)d->reach_mapped / top;
	y[1] = (double)d->reach_max / top;
	svg_begin(f, &p);
	svg_bars(f, y, 2);
	svg_end(f);
}

/* Devices that did little beside the others are there to be opened, not in the way. */
static bool is_minor(const struct survey_stats *stats, const struct survey_device *d)
{
	uint64_t all = 0;

	for (size_t i = 0; i < stats->n; i++)
		all += stats->dev[i].maps;
	return d->maps < all / 10;
}

static void device(FILE *f, const struct survey_stats *stats, const struct survey_device *d,
		   const struct survey_costs *costs)
{
	char a[16], b[16], c[16], advice[640];
	bool minor = is_minor(stats, d);

	fputs(minor ? "<details><summary>" : "<h2>", f);
	device_name(f, d);
	if (minor)
		fprintf(f, ": %" PRIu64 " mappings</summary>\n", d->maps);
	else
		fputs("</h2>\n", f);
	if (d->maps) {
		fprintf(f,
			"<p>%" PRIu64 " mappings, %s; at once %" PRIu64 " of %s, and %s of "
			"coherent memory. ",
			d->maps, survey_size(d->bytes, a), d->live_max,
			survey_size(d->live_bytes_max, b), survey_size(d->coherent_max, c));
		fprintf(f,
			"%.0f %% go to the device, %.0f %% come from it. %.0f %% were unmapped on "
			"another CPU. %.0f %% of page uses had come before.",
			percent(d->dir_maps[SURVEY_TO], d->maps),
			percent(d->dir_maps[SURVEY_FROM], d->maps), percent(d->cpu_other, d->ended),
			100 - percent(d->first, d->pages));
		if (d->known)
			fprintf(f,
				" Of %s offered to the device to write, it wrote %.1f %% at least, "
				"and up to %.1f %% if all before the last changed byte counts.",
				survey_size(d->known_bytes, a),
				percent(d->changed_bytes, d->known_bytes),
				percent(d->extent_bytes, d->known_bytes));
		fputs("</p>\n<p class=\"dim\"><span class=\"ka\">mappings</span>"
		      "<span class=\"kb\">bytes</span></p>\n<div class=\"plots\">\n",
		      f);
		plot_sizes(f, d, costs);
		plot_life(f, d);
		plot_live(f, d, stats);
		plot_offsets(f, d);
		plot_reuse(f, d);
		plot_reach(f, d);
		fputs("</div>\n", f);
	}
	survey_advice_text(d, costs, advice, sizeof(advice));
	fprintf(f, "<div class=\"advice\"><p>%s</p></div>%s\n", advice, minor ? "</details>" : "");
}

static void overview(FILE *f, const struct survey_stats *stats)
{
	static const double seed[] = {3.5, 57.7, 91.3, 96.0, 100};
	char a[16];

	fputs("<div class=\"scroll\"><table><tr><th>device</th><th>maps</th><th>bytes</th>"
	      "<th>% &le; 512 B</th><th>&le; 2 KiB</th><th>&le; 4 KiB</th>"
	      "<th>&le; 16 KiB</th><th>&le; 512 KiB</th></tr>\n",
	      f);
	for (size_t i = 0; i < stats->n; i++) {
		const struct survey_device *d = &stats->dev[i];
		uint64_t sum = 0;

		fputs("<tr><td>", f);
		device_name(f, d);
		fprintf(f, "</td><td>%" PRIu64 "</td><td>%s</td>", d->maps,
			survey_size(d->bytes, a));
		for (unsigned int k = 0; k < SURVEY_BUCKETS - 1; k++) {
			sum += d->bucket[k];
			if (d->maps)
				fprintf(f, "<td>%.1f</td>", percent(sum, d->maps));
			else
				fputs("<td>-</td>", f);
		}
		fputs("</tr>\n", f);
	}
	fputs("<tr><td class=\"dim\">cc-swiotlb's boot of 2023</td><td></td><td></td>", f);
	for (size_t i = 0; i < sizeof(seed) / sizeof(*seed); i++)
		fprintf(f, "<td class=\"dim\">%.1f</td>", seed[i]);
	fputs("</tr></table></div>\n", f);
}

static void summary(FILE *f, const struct survey_stats *stats, const struct survey_costs *costs)
{
	char a[16], b[16], c[16];
	uint64_t pool = 0;

	fputs("<h2>What follows</h2>\n<div class=\"scroll\"><table><tr><th>device</th>"
	      "<th>share in place from</th><th>bytes in such, %</th>"
	      "<th>kept pages would meet, %</th>"
	      "<th>pool</th><th>shown beside a mapping</th></tr>\n",
	      f);
	for (size_t i = 0; i < stats->n; i++) {
		const struct survey_device *d = &stats->dev[i];
		struct survey_advice v;

		survey_advise(d, costs, &v);
		pool += v.pool;
		fputs("<tr><td>", f);
		device_name(f, d);
		fprintf(f,
			"</td><td>%s</td><td>%.0f</td><td>%.0f</td><td>%s</td><td>%s</td></tr>\n",
			v.above < 0.1 ? "never" : survey_size(v.even_from, a), 100 * v.above,
			100 * v.kept, survey_size(v.pool, b),
			survey_size(d->maps ? d->slack / d->maps : 0, c));
	}
	fprintf(f,
		"</table></div>\n<p>One pool for all of them: %s. Devices that must not see each "
		"other's transfers need a pool each.</p>\n"
		"<p class=\"dim\">Assumed: sharing a buffer in place and taking it back costs "
		"%.0f ns, copying a KiB %.0f ns; towards the device a bounce is one copy and a "
		"clearing, from it two copies and a clearing. Give your own with --share and "
		"--copy.</p>\n",
		survey_size(pool, a), costs->share_ns, costs->copy_ns);
}

void survey_html(FILE *f, const struct survey *s, const struct survey_stats *stats,
		 const struct survey_costs *costs)
{
	uint64_t total = s->n + s->lost;
	char a[16];

	fprintf(f, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
		   "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
		   "<title>Sluice survey: ");
	text(f, s->title);
	fprintf(f, "</title><style>%s</style></head><body>\n<h1>", style);
	text(f, *s->title ? s->title : "(no title)");
	fputs("</h1>\n<p class=\"dim\">DMA survey, kernel ", f);
	text(f, s->kernel);
	fprintf(f, ", mode %s, %s, %" PRIu64 " events, %" PRIu64 " lost (%.3f %%)</p>\n",
		strcmp(s->mode, "observe") ? "bounce" : "observe",
		survey_time(stats->end - stats->begin, a), s->n, s->lost, percent(s->lost, total));
	if (s->lost)
		fputs("<p class=\"warn\">Events are missing: figures about what is alive at once "
		      "may be too high. Record again with a larger --buffer.</p>\n",
		      f);
	if (!s->complete)
		fputs("<p class=\"warn\">The stream has no end: its recorder was killed, or the "
		      "file is cut.</p>\n",
		      f);
	if (*s->cut) {
		fputs("<p class=\"warn\">Cut: ", f);
		text(f, s->cut);
		fputs("</p>\n", f);
	}
	overview(f, stats);
	for (size_t i = 0; i < stats->n; i++)
		device(f, stats, &stats->dev[i], costs);
	summary(f, stats, costs);
	fputs("</body></html>\n", f);
}
