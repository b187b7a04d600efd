/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * survey_svg.c - plots as inline SVG
 *
 * Theory of operation: a plot has a fixed drawing area in user units and a viewBox, so that the
 * page decides how wide it is shown; colours are classes of the page's style sheet, so that it is
 * legible in a dark theme as well.
 */
#include <math.h>

#include "survey_svg.h"

#define WIDTH  440.0
#define HEIGHT 250.0
#define LEFT   58.0
#define RIGHT  20.0
#define TOP    14.0
#define BOTTOM 42.0

static double px(double x)
{
	return LEFT + (x < 0 ? 0 : x > 1 ? 1 : x) * (WIDTH - LEFT - RIGHT);
}

static double py(double y)
{
	return HEIGHT - BOTTOM - (y < 0 ? 0 : y > 1 ? 1 : y) * (HEIGHT - TOP - BOTTOM);
}

void svg_begin(FILE *f, const struct svg_plot *p)
{
	fprintf(f,
		"<figure><figcaption>%s</figcaption><svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
		"aria-label=\"%s\">\n",
		p->title, WIDTH, HEIGHT, p->title);
	for (unsigned int i = 0; i < p->ny; i++)
		fprintf(f,
			"<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
			"text-anchor=\"end\">%s</text>\n",
			px(0), py(p->y[i].at), px(1), px(0) - 6, py(p->y[i].at) + 4, p->y[i].label);
	for (unsigned int i = 0; i < p->nx; i++)
		fprintf(f,
			"<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
			"text-anchor=\"middle\">%s</text>\n",
			px(p->x[i].at), py(0), py(1), px(p->x[i].at), py(0) + 16, p->x[i].label);
	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" class=\"name\">%s</text>\n",
		px(0.5), HEIGHT - 6, p->x_name);
}

void svg_end(FILE *f)
{
	fputs("</svg></figure>\n", f);
}

void svg_line(FILE *f, const char *style, const double *x, const double *y, unsigned int n)
{
	fprintf(f, "<polyline class=\"%s\" points=\"", style);
	for (unsigned int i = 0; i < n; i++)
		fprintf(f, "%s%.1f,%.1f", i ? " " : "", px(x[i]), py(y[i]));
	fputs("\"/>\n", f);
}

void svg_bars(FILE *f, const double *height, unsigned int n)
{
	fputs("<path class=\"bars\" d=\"", f);
	for (unsigned int i = 0; i < n; i++) {
		double left = px((double)i / n) + 0.5, right = px((double)(i + 1) / n) - 0.5;

		if (height[i] > 0)
			fprintf(f, "M%.1f %.1fV%.1fH%.1fV%.1fZ", left, py(0), py(height[i]), right,
				py(0));
	}
	fputs("\"/>\n", f);
}

void svg_mark(FILE *f, double x, const char *word)
{
	fprintf(f,
		"<path class=\"mark\" d=\"M%.1f %.1fV%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
		"class=\"word\" text-anchor=\"%s\">%s</text>\n",
		px(x), py(0), py(1), px(x) + (x > 0.6 ? -5 : 5), py(0.06),
		x > 0.6 ? "end" : "start", word);
}

void svg_percent(struct svg_plot *p)
{
	for (p->ny = 0; p->ny < 5; p->ny++) {
		p->y[p->ny].at = p->ny / 4.;
		snprintf(p->y[p->ny].label, sizeof(p->y[0].label), "%u %%", p->ny * 25);
	}
}

double svg_log2_at(uint64_t value, unsigned int low, unsigned int high)
{
	if (!value)
		return 0;
	return (log2((double)value) - low) / (high - low);
}

void svg_log2(struct svg_plot *p, unsigned int low, unsigned int high, unsigned int step,
	      const char *(*name)(uint64_t, char[16]))
{
	p->nx = 0;
	for (unsigned int i = low; i <= high && p->nx < SVG_TICKS; i += step) {
		p->x[p->nx].at = (double)(i - low) / (high - low);
		name(UINT64_C(1) << i, p->x[p->nx++].label);
	}
}
