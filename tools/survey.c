/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey.c - `sluice survey`: record, report, replay, cut
 *
 * Theory of operation: record and replay have files of their own. report loads a stream, has its
 * figures computed and shows them in the form that was asked for. cut takes a piece out of a
 * stream, for keeping: mappings that begin in it and end after it are then mapped for ever, and
 * unmaps whose map came before it stand alone, both of which a report counts and says.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "survey.h"
#include "survey_stats.h"

static const char usage[] =
	"usage: sluice survey record -o FILE [--seconds N] [--title TEXT] [--buffer KIB] "
	"[-- COMMAND...]\n"
	"       sluice survey report [--html OUT] [--share NS] [--copy NS] FILE\n"
	"       sluice survey report --rows counts|sizes|figures|exposure|written|advice [--device "
	"BDF] FILE\n"
	"       sluice survey replay [--pool SIZE] [--policy bounce|share|auto] [--share-from "
	"BYTES]\n"
	"                           [--share NS] [--copy NS] FILE\n"
	"       sluice survey cut --events N [--skip N] FILE OUT\n";

static int wrong(const char *what, const char *arg)
{
	fprintf(stderr, "sluice survey: %s%s%s\n%s", what, arg ? ": " : "", arg ? arg : "", usage);
	return 1;
}

static int load(const char *path, struct survey *s)
{
	const char *why;
	int ret = survey_load(path, s, &why);

	if (!ret)
		return 0;
	fprintf(stderr, "sluice survey: cannot use %s: %s\n", path, why ? why : strerror(-ret));
	survey_free(s);
	return 2;
}

bool survey_parse_cost(const char *arg, double *v)
{
	char *end;

	*v = strtod(arg, &end);
	return end != arg && !*end && *v > 0 && *v < 1e9;
}

static int write_html(const char *path, const struct survey *s, const struct survey_stats *stats,
		      const struct survey_costs *costs)
{
	FILE *f = fopen(path, "we");
	int bad;

	if (!f) {
		fprintf(stderr, "sluice survey: cannot write %s: %s\n", path, strerror(errno));
		return 2;
	}
	survey_html(f, s, stats, costs);
	bad = ferror(f);
	if (fclose(f) || bad) {
		fprintf(stderr, "sluice survey: cannot write %s: is the disk full?\n", path);
		return 2;
	}
	return 0;
}

static int report(int argc, char **argv)
{
	static const struct option longs[] = {
		{"html", required_argument, NULL, 'h'},	  {"rows", required_argument, NULL, 'r'},
		{"device", required_argument, NULL, 'd'}, {"share", required_argument, NULL, 's'},
		{"copy", required_argument, NULL, 'c'},	  {NULL, 0, NULL, 0},
	};
	struct survey_costs costs = SURVEY_COSTS;
	const char *html = NULL, *rows = NULL, *device = NULL;
	static struct survey_stats stats;
	static struct survey s;
	int c, ret;

	optind = 1;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (c == 'h')
			html = optarg;
		else if (c == 'r')
			rows = optarg;
		else if (c == 'd')
			device = optarg;
		else if (c != 's' && c != 'c')
			return wrong(c == ':' ? "an argument is missing" : "no such option",
				     argv[optind - 1]);
		else if (!survey_parse_cost(optarg, c == 's' ? &costs.share_ns : &costs.copy_ns))
			return wrong("not a positive number of ns", optarg);
	}
	if (optind + 1 != argc)
		return wrong("report wants one file", NULL);
	if (device && !rows)
		return wrong("--device is for --rows", NULL);
	ret = load(argv[optind], &s);
	if (ret)
		return ret;
	if (survey_stats(&s, &stats)) {
		fprintf(stderr, "sluice survey: out of memory for %s\n", argv[optind]);
		ret = 2;
	} else if (rows) {
		if (!survey_rows(stdout, rows, device, &s, &stats, &costs))
			ret = wrong("there are no such rows", rows);
	} else {
		survey_text(stdout, &s, &stats, &costs);
		if (html)
			ret = write_html(html, &s, &stats, &costs);
	}
	survey_stats_free(&stats);
	survey_free(&s);
	return ret;
}

static int write_cut(const struct survey *s, const char *path, uint64_t skip, uint64_t n)
{
	struct survey_writer w;
	char meta[8192];
	FILE *f = fopen(path, "wbe");
	int ret;

	if (!f) {
		fprintf(stderr, "sluice survey: cannot write %s: %s\n", path, strerror(errno));
		return 2;
	}
	survey_meta(s, meta, sizeof(meta));
	ret = survey_begin(&w, f, meta);
	if (!ret) {
		/* CPU by CPU: a block has one, and long ones are dense. */
		for (unsigned int cpu = 0; cpu <= UINT16_MAX; cpu++) {
			bool any = false;

			for (uint64_t i = skip; i < skip + n; i++) {
				if (s->events[i].cpu == cpu)
					survey_write(&w, &s->events[i]);
				any = any || s->events[i].cpu > cpu;
			}
			if (!any)
				break;
		}
		survey_write_lost(&w, UINT16_MAX, s->lost);
		ret = survey_end(&w, NULL);
	}
	if (fclose(f) || ret) {
		fprintf(stderr, "sluice survey: cannot write %s: is the disk full?\n", path);
		return 2;
	}
	return 0;
}

static int cut(int argc, char **argv)
{
	static const struct option longs[] = {
		{"events", required_argument, NULL, 'e'},
		{"skip", required_argument, NULL, 's'},
		{NULL, 0, NULL, 0},
	};
	uint64_t events = 0, skip = 0;
	static struct survey s;
	int c, ret;

	optind = 1;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		char *end = NULL;
		uint64_t *v = c == 'e' ? &events : &skip;

		if (c != 'e' && c != 's')
			return wrong(c == ':' ? "an argument is missing" : "no such option",
				     argv[optind - 1]);
		*v = strtoull(optarg, &end, 10);
		if (end == optarg || *end || *optarg == '-')
			return wrong("not a number", optarg);
	}
	if (!events || optind + 2 != argc)
		return wrong("cut wants --events, a file and where to put the piece", NULL);
	ret = load(argv[optind], &s);
	if (ret)
		return ret;
	if (skip > s.n)
		skip = s.n;
	if (events > s.n - skip)
		events = s.n - skip;
	if (events < s.n)
		snprintf(s.cut, sizeof(s.cut),
			 "events %" PRIu64 " to %" PRIu64 " of %zu, all devices", skip + 1,
			 skip + events, s.n);
	ret = write_cut(&s, argv[optind + 1], skip, events);
	survey_free(&s);
	return ret;
}

int sluice_survey_main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "";

	if (!strcmp(command, "record"))
		return survey_record_main(argc - 1, argv + 1);
	if (!strcmp(command, "report"))
		return report(argc - 1, argv + 1);
	if (!strcmp(command, "replay"))
		return survey_replay_main(argc - 1, argv + 1);
	if (!strcmp(command, "cut"))
		return cut(argc - 1, argv + 1);
	return wrong(*command ? "no such command" : "a command is missing",
		     *command ? command : NULL);
}
