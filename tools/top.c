/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * top.c - `sluice top`: the same counters, refreshed, as rates
 *
 * Theory of operation: two readings, the one before and this one; what grows is shown by the
 * second. A device or relay that was not there before has no rate yet. A failed reading (the module
 * is being loaded anew, a relay restarts) is shown in its place and tried again: whoever looks on
 * at such a moment should not be thrown out. ncurses draws; signals and the terminal are its
 * business.
 */
#include <curses.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stat.h"
#include "survey_stats.h"

struct view {
	struct stat_all now, before;
	bool valid, had;
	double seconds; /* between the two */
	int line;
};

static double clock_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static const struct stat_set *earlier(const struct stat_set *sets, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++) {
		if (!strcmp(sets[i].name, name))
			return &sets[i];
	}
	return NULL;
}

/* Growth by the second; 0 where it is not known, or the counter began anew. */
static double rate(const struct view *v, const struct stat_set *now, const struct stat_set *before,
		   const char *key)
{
	double d;

	if (!v->had || !before || v->seconds <= 0)
		return 0;
	d = stat_sum(now, key) - stat_sum(before, key);
	return d > 0 ? d / v->seconds : 0;
}

static void draw_pool(struct view *v)
{
	const struct stat_set *p = &v->now.pool;
	double bytes = stat_number(p, "pool_bytes"), used = stat_number(p, "pool_used");
	int width = COLS > 60 ? 40 : COLS > 30 ? COLS - 20 : 10, full;
	char a[16], b[16], c[16];

	if (!p->n)
		return;
	full = bytes > 0 ? (int)(used / bytes * width) : 0;
	mvprintw(v->line++, 0, "pool %s  full %.0f times", stat_text(p, "pool"),
		 stat_number(p, "pool_full"));
	move(v->line++, 0);
	addch('[');
	for (int i = 0; i < width; i++)
		addch((chtype)(i < full ? '#' : ' '));
	printw("] %s of %s, %s at most", survey_size((uint64_t)used, a),
	       survey_size((uint64_t)bytes, b),
	       survey_size((uint64_t)stat_number(p, "pool_used_max"), c));
	v->line++;
}

static void draw_devices(struct view *v)
{
	if (!v->now.devices)
		return;
	attron(A_REVERSE);
	mvprintw(v->line++, 0, "%-13s %7s %9s %10s %10s %8s %6s %7s", "device", "live", "maps/s",
		 "to it/s", "from it/s", "shared/s", "full", "refused");
	attroff(A_REVERSE);
	for (size_t i = 0; i < v->now.devices; i++) {
		const struct stat_set *d = &v->now.device[i];
		const struct stat_set *b = earlier(v->before.device, v->before.devices, d->name);
		char to[16], from[16];
		bool open = stat_number(d, "confined") == 0;

		if (open)
			attron(A_BOLD);
		mvprintw(v->line++, 0, "%-13s %7.0f %9.0f %10s %10s %8.0f %6.0f %7.0f", d->name,
			 stat_number(d, "live"), rate(v, d, b, "maps"),
			 survey_size((uint64_t)rate(v, d, b, "bytes_to"), to),
			 survey_size((uint64_t)rate(v, d, b, "bytes_from"), from),
			 rate(v, d, b, "shared"), stat_number(d, "full"),
			 stat_number(d, "refused"));
		if (open)
			mvprintw(v->line++, 4, "NOT CONFINED: %s", stat_text(d, "reason"));
		if (open)
			attroff(A_BOLD);
	}
	v->line++;
}

static void draw_relays(struct view *v)
{
	if (!v->now.relays)
		return;
	attron(A_REVERSE);
	mvprintw(v->line++, 0, "%-24s %10s %10s %9s %10s %8s %7s", "relay", "requests/s",
		 "copied/s", "in flight", "pool", "waited", "refused");
	attroff(A_REVERSE);
	for (size_t i = 0; i < v->now.relays; i++) {
		const struct stat_set *r = &v->now.relay[i];
		const struct stat_set *b = earlier(v->before.relay, v->before.relays, r->name);
		char bytes[16], pool[16];

		mvprintw(v->line++, 0, "%-24.24s %10.0f %10s %9.0f %10s %8.0f %7.0f", r->name,
			 rate(v, r, b, "sluice_relay_requests_total"),
			 survey_size((uint64_t)rate(v, r, b, "sluice_relay_bytes_total"), bytes),
			 stat_sum(r, "sluice_relay_in_flight"),
			 survey_size((uint64_t)stat_sum(r, "sluice_relay_pool_used_bytes"), pool),
			 stat_sum(r, "sluice_relay_full_total"),
			 stat_sum(r, "sluice_relay_refused_total"));
	}
}

static void draw(struct view *v, const char *why)
{
	erase();
	v->line = 0;
	mvprintw(v->line++, 0, "sluice top - q quits");
	if (!v->valid) {
		mvprintw(v->line + 1, 0, "%s", why);
	} else {
		if (v->now.observing)
			mvprintw(v->line++, 0, "sluice.ko observes: nothing is confined");
		draw_pool(v);
		draw_devices(v);
		draw_relays(v);
	}
	refresh();
}

int sluice_top_main(int argc, char **argv)
{
	struct stat_options o;
	struct view v = {.valid = false};
	double last = 0, now;
	char why[256];

	if (stat_options(argc, argv, &o))
		return 1;
	/* What is wrong at the start is said on the terminal as it is. */
	if (stat_read(o.debugfs, o.sockets, o.n_sockets, &v.now, why)) {
		fprintf(stderr, "sluice top: %s\n", why);
		return 2;
	}
	stat_free(&v.now);
	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || !newterm(NULL, stdout, stdin)) {
		fprintf(stderr, "sluice top: there is no terminal that can be drawn on: set TERM, "
				"or use sluice stat\n");
		return 2;
	}
	cbreak();
	noecho();
	curs_set(0);
	timeout((int)o.seconds * 1000);
	do {
		now = clock_s();
		v.seconds = now - last;
		last = now;
		v.valid = !stat_read(o.debugfs, o.sockets, o.n_sockets, &v.now, why);
		draw(&v, why);
		if (v.had)
			stat_free(&v.before);
		v.before = v.now;
		v.had = v.valid;
	} while (getch() != 'q');
	if (v.had)
		stat_free(&v.before);
	endwin();
	return 0;
}
