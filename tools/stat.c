/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * stat.c - `sluice stat`: the module's and relays' counters, once
 *
 * Theory of operation: the text is what an operator looks for first, a line for the pool and one
 * for each device and relay; --json is everything that was read, under the names that it has there.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "stat.h"
#include "survey_stats.h"

static void json_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			putchar('\\');
		putchar(*s);
	}
	putchar('"');
}

static void json_set(const struct stat_set *set)
{
	putchar('{');
	for (size_t i = 0; i < set->n; i++) {
		const struct stat_value *v = &set->value[i];

		if (i)
			putchar(',');
		json_string(v->key);
		putchar(':');
		if (v->is_number && isfinite(v->number) && strncmp(v->text, "0x", 2))
			printf("%.17g", v->number);
		else
			json_string(v->text);
	}
	putchar('}');
}

static void json_sets(const char *name, const struct stat_set *set, size_t n)
{
	printf(",\"%s\":{", name);
	for (size_t i = 0; i < n; i++) {
		if (i)
			putchar(',');
		json_string(set[i].name);
		putchar(':');
		json_set(&set[i]);
	}
	putchar('}');
}

static void json(const struct stat_all *all)
{
	printf("{\"observing\":%s,\"pool\":", all->observing ? "true" : "false");
	json_set(&all->pool);
	json_sets("devices", all->device, all->devices);
	json_sets("relays", all->relay, all->relays);
	puts("}");
}

static const char *size(const struct stat_set *set, const char *key, char out[16])
{
	return survey_size((uint64_t)stat_sum(set, key), out);
}

/* A counter that only some versions of the module have. */
static const char *optional(const struct stat_set *set, const char *key, char out[16])
{
	if (stat_has(set, key))
		snprintf(out, 16, "%.0f", stat_number(set, key));
	else
		strcpy(out, "-");
	return out;
}

static void device_line(const struct stat_set *d)
{
	char to[16], from[16], coherent[16], shared[16];

	printf("%-13s %-9s %7.0f %10.0f %9s %9s %9s %7s %6.0f %7.0f\n", d->name,
	       stat_number(d, "confined") != 0 ? "confined" : "OPEN", stat_number(d, "live"),
	       stat_number(d, "maps"), size(d, "bytes_to", to), size(d, "bytes_from", from),
	       size(d, "coherent", coherent), optional(d, "shared", shared), stat_number(d, "full"),
	       stat_number(d, "refused"));
	if (stat_number(d, "confined") == 0)
		printf("    not confined: %s\n", stat_text(d, "reason"));
}

static void relay_line(const struct stat_set *r)
{
	char out[16], used[16], max[16], pool[16];

	printf("relay %s\n  requests %.0f, in flight %.0f, copied %s, pool %s of %s (%s at most), "
	       "waited for room %.0f, refused %.0f\n",
	       r->name, stat_sum(r, "sluice_relay_requests_total"),
	       stat_sum(r, "sluice_relay_in_flight"), size(r, "sluice_relay_bytes_total", out),
	       size(r, "sluice_relay_pool_used_bytes", used),
	       size(r, "sluice_relay_pool_bytes", pool),
	       size(r, "sluice_relay_pool_used_max_bytes", max),
	       stat_sum(r, "sluice_relay_full_total"), stat_sum(r, "sluice_relay_refused_total"));
}

static void text(const struct stat_all *all)
{
	char used[16], bytes[16], max[16], largest[16];

	if (all->observing)
		puts("sluice.ko observes: nothing is confined; sluice survey record shows what is "
		     "mapped");
	if (all->pool.n)
		printf("pool %s: %s of %s in use, %s at most, longest free piece %s, full %.0f "
		       "times\n",
		       stat_text(&all->pool, "pool"), size(&all->pool, "pool_used", used),
		       size(&all->pool, "pool_bytes", bytes),
		       size(&all->pool, "pool_used_max", max),
		       size(&all->pool, "pool_largest", largest),
		       stat_number(&all->pool, "pool_full"));
	if (all->devices)
		printf("%-13s %-9s %7s %10s %9s %9s %9s %7s %6s %7s\n", "device", "", "live",
		       "bounced", "to it", "from it", "coherent", "shared", "full", "refused");
	for (size_t i = 0; i < all->devices; i++)
		device_line(&all->device[i]);
	for (size_t i = 0; i < all->relays; i++)
		relay_line(&all->relay[i]);
}

int sluice_stat_main(int argc, char **argv)
{
	struct stat_options o;
	struct stat_all all;
	char why[256];

	if (stat_options(argc, argv, &o))
		return 1;
	if (stat_read(o.debugfs, o.sockets, o.n_sockets, &all, why)) {
		fprintf(stderr, "sluice stat: %s\n", why);
		return 2;
	}
	if (o.json)
		json(&all);
	else
		text(&all);
	stat_free(&all);
	return fflush(stdout) ? 2 : 0;
}
