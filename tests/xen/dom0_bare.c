/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * dom0_bare.c - the Xen test of the core's own grants, against the guest of domu.c
 *
 * Theory of operation: see dom0.c. Both ends are libsluice's.
 */
#include <stdio.h>
#include <string.h>

#include "dom0.h"

static uint64_t told(enum told which)
{
	(void)ask(WANT_STATS, 0, 0, 0, 0);
	return control->values[which];
}

static void both_ways(void)
{
	struct sluice_hold one;
	uint64_t dev;

	fill(0, 4 * G, SECRET);
	fill(G, 2 * G, 0x11);
	dev = map(SLUICE_POLICY_SHARE, G, 2 * G, SLUICE_BIDIRECTIONAL);
	if (!check(dev && !hold(dev, 2 * G, SLUICE_READ | SLUICE_WRITE, &one) &&
			   one.bytes == 2 * G && all(one.cpu, 2 * G, 0x11),
		   "shared in place: what is held shows the guest's memory"))
		return;
	memset((uint8_t *)one.cpu + 100, 0x22, G);
	check(guest_has(G, 100, 0x11) && guest_has(G + 100, G, 0x22) &&
		      guest_has(2 * G + 100, G - 100, 0x11),
	      "what is written there arrives, and nothing beside it");
	fill(G + 10, 10, 0x33);
	check(all((uint8_t *)one.cpu + 10, 10, 0x33),
	      "and what the guest writes then is seen at once: it is the same memory");
	drop(&one);
	check(!sluice_view_read(&xen.view, dev + 90, buf, 20) && all(buf, 10, 0x11) &&
		      all(buf + 10, 10, 0x22),
	      "copied out by the hypervisor");
	memset(buf, 0x44, 2 * G);
	check(!sluice_view_write(&xen.view, dev + G - 50, buf, 1000) &&
		      guest_has(2 * G - 50, 1000, 0x44) && guest_has(2 * G - 51, 1, 0x22),
	      "copied in, across two grants, and nothing beside it");
	check(guest_has(0, G, SECRET) && guest_has(3 * G, G, SECRET) && gone(dev - G) &&
		      gone(dev + 2 * G),
	      "g1: the pages beside it are not granted");
	check(unmap(dev, 2 * G, SLUICE_BIDIRECTIONAL) == 0 && gone(dev) && gone(dev + G),
	      "g3: after unmap it can be neither held nor copied");
	check(unmap(dev, 2 * G, SLUICE_BIDIRECTIONAL) == -EINVAL, "and a second unmap is refused");
}

static void read_only(void)
{
	struct sluice_hold one;
	uint64_t dev;

	fill(0, G, 0x55);
	dev = map(SLUICE_POLICY_SHARE, 0, G, SLUICE_TO_DEVICE);
	check(dev && !sluice_view_read(&xen.view, dev, buf, G) && all(buf, G, 0x55),
	      "a buffer to the device is read");
	check(sluice_view_write(&xen.view, dev, buf, 8) == -EACCES &&
		      hold(dev, 8, SLUICE_WRITE, &one) == -EACCES &&
		      hold(dev, 8, SLUICE_READ | SLUICE_WRITE, &one) == -EACCES,
	      "g1: writing it, and holding it for that, are refused with the reason");
	check(!hold(dev, 8, SLUICE_READ, &one), "holding it for reading is not");
	drop(&one);
	check(guest_has(0, G, 0x55) && unmap(dev, G, SLUICE_TO_DEVICE) == 0, "and it is as it was");
}

static void bounced(void)
{
	uint64_t dev, before = told(TOLD_BOUNCED);

	fill(0, 2 * G, SECRET);
	fill(1000, 600, 0x66);
	dev = map(SLUICE_POLICY_SHARE, 1000, 600, SLUICE_BIDIRECTIONAL);
	check(dev && told(TOLD_BOUNCED) == before + 1 &&
		      !sluice_view_read(&xen.view, dev, buf, 600) && all(buf, 600, 0x66),
	      "less than a page bounces, under policy share too");
	check(only_zeroes_beside(dev, 600), "g2: its neighbours in memory cannot be seen");
	memset(buf, 0x77, 600);
	check(!sluice_view_write(&xen.view, dev, buf, 200) && guest_has(1000, 600, 0x66) &&
		      unmap(dev, 600, SLUICE_BIDIRECTIONAL) == 0 && guest_has(1000, 200, 0x77) &&
		      guest_has(1200, 400, 0x66) && guest_has(0, 1000, SECRET) &&
		      guest_has(1600, 2 * G - 1600, SECRET),
	      "what was written is there after unmap, and nothing else has changed");
	memset(buf, 0x88, 600);
	check(!sluice_view_read(&xen.view, dev & ~(uint64_t)(G - 1), buf, G) && all(buf, G, 0),
	      "g2: and the pool, which stays granted, keeps none of it");
	memset(buf, 0x88, 600);
	check(!sluice_view_write(&xen.view, dev, buf, 600) && guest_has(1000, 200, 0x77),
	      "g3: what is written there later reaches nothing");
	memset(buf, 0, 600);
	(void)sluice_view_write(&xen.view, dev, buf, 600);
	before = told(TOLD_GRANULES);
	dev = map(SLUICE_POLICY_BOUNCE, 0, 3 * G, SLUICE_TO_DEVICE);
	check(dev && told(TOLD_GRANULES) == before && unmap(dev, 3 * G, SLUICE_TO_DEVICE) == 0,
	      "under policy bounce whole pages bounce, too: no further grant");
}

static void split(void)
{
	uint64_t len = 3 * G + 500, at = G - 300, dev, before = told(TOLD_SPLIT);
	struct sluice_hold one;

	fill(0, 6 * G, SECRET);
	fill(at, len, 0x99);
	dev = map(SLUICE_POLICY_SHARE, at, len, SLUICE_BIDIRECTIONAL);
	if (!check(dev && told(TOLD_SPLIT) == before + 1 &&
			   !hold(dev, len, SLUICE_READ | SLUICE_WRITE, &one) && one.bytes == len &&
			   all(one.cpu, len, 0x99),
		   "a buffer with unaligned ends is one range for the device"))
		return;
	check(only_zeroes_beside(dev, len), "g2: and neither end shows what lies beside it");
	memset(one.cpu, 0xAA, len);
	check(guest_has(at, 300, 0x99) && guest_has(G, 3 * G, 0xAA) && guest_has(4 * G, 200, 0x99),
	      "its middle stays where it is, its ends are copies");
	drop(&one);
	check(unmap(dev, len, SLUICE_BIDIRECTIONAL) == 0 && guest_has(at, len, 0xAA) &&
		      guest_has(0, at, SECRET) && guest_has(at + len, 6 * G - at - len, SECRET),
	      "after unmap all of it has arrived, and its neighbours are as they were");
	check(gone(dev) && gone(dev + G) && gone(dev + 4 * G), "g3: and nothing of it is granted");
}

static void revoked(void)
{
	struct sluice_hold one, more = {0};
	uint64_t dev, len = 2 * G, busy = told(TOLD_BUSY), other;

	fill(0, len, 0xBB);
	dev = map(SLUICE_POLICY_SHARE, 0, len, SLUICE_BIDIRECTIONAL);
	if (!check(dev && !hold(dev + G, G, SLUICE_READ | SLUICE_WRITE, &one), "held"))
		return;
	check(unmap(dev, len, SLUICE_BIDIRECTIONAL) == -EBUSY && told(TOLD_BUSY) > busy &&
		      told(TOLD_LINGERED) == 1,
	      "g3: taken back while it is held: put off, and the guest is told");
	check(all(one.cpu, G, 0xBB), "what is held stays what it was");
	fill(G, 8, 0xCC);
	check(all(one.cpu, 8, 0xCC), "and is still that memory, which nobody else has been given");
	check(gone(dev), "its other page, which nobody holds, is gone");
	check(ask(WANT_RETRY, 0, 0, 0, 0) == 1, "trying again does not help while it is held");
	other = map(SLUICE_POLICY_SHARE, 8 * G, len, SLUICE_BIDIRECTIONAL);
	check(other && (other >= dev + len || other + len <= dev) &&
		      unmap(other, len, SLUICE_BIDIRECTIONAL) == 0,
	      "meanwhile others are mapped, at other references");
	/* Version 1 cannot say "nobody new". */
	printf("# a second hold of what is being taken back: %s\n",
	       hold(dev + G, 8, SLUICE_READ, &more) ? "refused" : "allowed");
	if (more.cpu)
		drop(&more);
	drop(&one);
	check(ask(WANT_RETRY, 0, 0, 0, 0) == 0 && gone(dev + G),
	      "g3: and when it was dropped it is gone");
}

static void bad_references(void)
{
	uint64_t free_one = SLUICE_GRANT_ADDR | 1500u * (uint64_t)G, dev;
	struct sluice_gntdev elsewhere;
	struct sluice_hold some[2];
	uint32_t n;

	check(gone(free_one) && gone(SLUICE_GRANT_ADDR | 5000u * (uint64_t)G) &&
		      gone(SLUICE_GRANT_ADDR | (uint64_t)UINT32_MAX * G) &&
		      gone(SLUICE_GRANT_ADDR | UINT64_C(1) << 50) && gone(G),
	      "g4: references that nobody granted, or that are none, are errors");
	(void)ask(WANT_OTHER, 0, 0, 0, 0);
	check(control->result == 0 && gone(control->values[0]),
	      "g1: what is granted to another domain is refused");
	dev = map(SLUICE_POLICY_SHARE, 0, G, SLUICE_BIDIRECTIONAL);
	check(dev && sluice_view_map(&xen.view, dev, 2 * G, SLUICE_READ, some, 2, &n) == -ENOENT &&
		      xen.view.stats.held == 1 /* the control page */,
	      "a range of which a part is not granted is held not at all");
	memset(buf, 0x21, 2 * G);
	check(sluice_view_write(&xen.view, dev, buf, 2 * G) == -ENOENT && guest_has(0, G, 0x21),
	      "copied to, it takes what comes before that, and is an error");
	check(!sluice_gntdev_open(&elsewhere, 0x7000) &&
		      sluice_view_map(&elsewhere.view, dev, 8, SLUICE_READ, some, 2, &n) ==
			      -ENOENT &&
		      sluice_view_read(&elsewhere.view, dev, buf, 8) == -ENOENT,
	      "g4: so are references of a domain that is not there");
	sluice_gntdev_close(&elsewhere);
	(void)unmap(dev, G, SLUICE_BIDIRECTIONAL);
}

static void batches(void)
{
	static struct sluice_hold holds[16];
	uint64_t len = UINT32_C(1) << 20, trips, dev;
	uint32_t n = 0;
	int ret;

	fill(0, AREA_BYTES, 0xDD);
	dev = map(SLUICE_POLICY_SHARE, 0, len, SLUICE_BIDIRECTIONAL);
	trips = xen.view.stats.trips;
	ret = dev ? sluice_view_map(&xen.view, dev, len, SLUICE_READ, holds, 16, &n) : -1;
	check(!ret && n == len / G / REFS_A_GO && xen.view.stats.trips - trips == n,
	      "1 MiB, 256 references: held in four goes");
	for (uint32_t i = 0; i < n && !ret; i++)
		ret = !all(holds[i].cpu, holds[i].bytes, 0xDD);
	check(!ret, "all of it");
	sluice_view_unmap(&xen.view, holds, n);
	memset(buf, 0x12, len);
	trips = xen.view.stats.trips;
	check(!sluice_view_write(&xen.view, dev, buf, len) &&
		      xen.view.stats.trips - trips == len / G / REFS_A_GO &&
		      guest_has(0, len, 0x12) && guest_has(len, len, 0xDD) &&
		      unmap(dev, len, SLUICE_BIDIRECTIONAL) == 0,
	      "and copied in, in four goes");
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/*
 * What a transfer costs on both ends, and what is asked of the hypervisor for it: the least of
 * several times, as others use the machine, too.
 */
static void figures(void)
{
	static const uint32_t pages[] = {1, 16, 256};
	static struct sluice_hold holds[16];
	enum { ROUNDS = 20, REPEATS = 100 };

	for (uint32_t i = 0; i < 3; i++) {
		uint64_t len = pages[i] * (uint64_t)G, operations = told(TOLD_OPERATIONS);
		uint64_t asks = told(TOLD_TRIPS), maps = UINT64_MAX, holding = UINT64_MAX;
		uint64_t copying = UINT64_MAX, trips, copies, dev, start;
		uint32_t n;

		for (uint32_t k = 0; k < ROUNDS; k++) {
			start = now_us();
			(void)ask(WANT_REPEAT, SLUICE_POLICY_SHARE, 0, len, REPEATS);
			maps = least(maps, now_us() - start);
		}
		operations = (told(TOLD_OPERATIONS) - operations) / (ROUNDS * REPEATS);
		asks = told(TOLD_TRIPS) - asks;
		dev = map(SLUICE_POLICY_SHARE, 0, len, SLUICE_TO_DEVICE);
		trips = xen.view.stats.trips;
		for (uint32_t k = 0; k < ROUNDS; k++) {
			start = now_us();
			if (!sluice_view_map(&xen.view, dev, len, SLUICE_READ, holds, 16, &n))
				sluice_view_unmap(&xen.view, holds, n);
			holding = least(holding, now_us() - start);
		}
		trips = (xen.view.stats.trips - trips) / ROUNDS;
		copies = xen.view.stats.trips;
		for (uint32_t k = 0; k < ROUNDS; k++) {
			start = now_us();
			(void)sluice_view_read(&xen.view, dev, buf, len);
			copying = least(copying, now_us() - start);
		}
		copies = (xen.view.stats.trips - copies) / ROUNDS;
		(void)unmap(dev, len, SLUICE_TO_DEVICE);
		printf("# %u pages: the driver's map and unmap write %u entries, ask %u times, "
		       "take "
		       "%.1f us; the device's %u references, ask %u times, %u us; its copy asks %u "
		       "times, %u us\n",
		       pages[i], (unsigned int)operations, (unsigned int)asks,
		       (double)maps / REPEATS, 2 * pages[i], (unsigned int)trips,
		       (unsigned int)holding, (unsigned int)copies, (unsigned int)copying);
	}
}

void test_bare(void)
{
	static void (*const tests[])(void) = {both_ways, read_only,	 bounced, split,
					      revoked,	 bad_references, batches, figures};

	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++)
		tests[i]();
}
