/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_svg.h - the few kinds of plot that a report has, as inline SVG
 *
 * Theory of operation: survey_svg.c.
 */
#ifndef TOOLS_SURVEY_SVG_H
#define TOOLS_SURVEY_SVG_H

#include <stdint.h>
#include <stdio.h>

/* A mark on an axis. */
struct svg_tick {
	double at; /* 0 to 1 along the axis */
	char label[16];
};

#define SVG_TICKS 16

struct svg_plot {
	const char *title;
	const char *x_name;
	struct svg_tick x[SVG_TICKS];
	unsigned int nx;
	struct svg_tick y[SVG_TICKS];
	unsigned int ny;
};

/* Begin and end a plot; in between, any of the others. Coordinates are 0 to 1, y upwards. */
void svg_begin(FILE *f, const struct svg_plot *plot);
void svg_end(FILE *f);

/* A line through n points, of a style of the page's: "a" or "b". */
void svg_line(FILE *f, const char *style, const double *x, const double *y, unsigned int n);

/* Bars beside each other, each of a height 0 to 1. */
void svg_bars(FILE *f, const double *height, unsigned int n);

/* A vertical mark with a word. */
void svg_mark(FILE *f, double x, const char *word);

/* Ticks for percents on y, and for powers of two or ten on x; log axes. */
void svg_percent(struct svg_plot *plot);
void svg_log2(struct svg_plot *plot, unsigned int low, unsigned int high, unsigned int step,
	      const char *(*name)(uint64_t, char[16]));
double svg_log2_at(uint64_t value, unsigned int low, unsigned int high);

#endif
