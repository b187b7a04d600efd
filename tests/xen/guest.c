/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * guest.c - libsluice's view of grants through a real Xen, inside domain 0
 *
 * Theory of operation
 * -------------------
 * Domain 0 grants pages to itself through /dev/xen/gntalloc (the driver's side here is Linux: user space
 * cannot write the table) and reaches them through libsluice's view over /dev/xen/gntdev. Table,
 * checks, marks, mapping and copying are the hypervisor's. Prints TAP lines.
 *
 * A revoked grant ends when its last user lets go, up to a few seconds later (Linux puts the end
 * off and tries again): waiting for that is bounded.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <xen/gntalloc.h>

#include <sluice/gntdev.h>
#include <sluice/grant.h>

#define G     4096u
#define PAGES 16u

static int failed, number, alloc_fd;

static void check(bool ok, const char *what)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, what);
	fflush(stdout);
	failed += !ok;
}

struct granted {
	uint32_t ref;
	uint64_t index, dev;
	uint8_t *cpu;
};

/* One page granted to ourselves. One mapping each: only unmapping all of one revokes. */
static bool grant(struct granted *g, bool writable)
{
	struct ioctl_gntalloc_alloc_gref arg = {
		.domid = 0, .flags = writable ? GNTALLOC_FLAG_WRITABLE : 0, .count = 1};

	if (ioctl(alloc_fd, IOCTL_GNTALLOC_ALLOC_GREF, &arg))
		return false;
	g->ref = arg.gref_ids[0];
	g->index = arg.index;
	g->dev = SLUICE_GRANT_ADDR | (uint64_t)g->ref * G;
	g->cpu = mmap(NULL, G, PROT_READ | PROT_WRITE, MAP_SHARED, alloc_fd, (off_t)arg.index);
	return g->cpu != MAP_FAILED;
}

static void take_back(struct granted *g)
{
	struct ioctl_gntalloc_dealloc_gref arg = {.index = g->index, .count = 1};

	munmap(g->cpu, G);
	ioctl(alloc_fd, IOCTL_GNTALLOC_DEALLOC_GREF, &arg);
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static bool all(const uint8_t *p, size_t n, uint8_t v)
{
	while (n--) {
		if (*p++ != v)
			return false;
	}
	return true;
}

static void timings(struct sluice_gntdev *xen, const struct granted *pages, uint32_t run)
{
	static uint8_t buf[G];
	struct sluice_hold hold;
	uint64_t t[4];
	uint32_t n;

	t[0] = now_us();
	for (uint32_t i = 0; i < 100; i++) {
		(void)sluice_view_map(&xen->view, pages[0].dev, G, SLUICE_READ, &hold, 1, &n);
		sluice_view_unmap(&xen->view, &hold, 1);
	}
	t[1] = now_us();
	for (uint32_t i = 0; i < 100; i++) {
		(void)sluice_view_map(&xen->view, pages[0].dev, run * G, SLUICE_READ, &hold, 1, &n);
		sluice_view_unmap(&xen->view, &hold, 1);
	}
	t[2] = now_us();
	for (uint32_t i = 0; i < 100; i++)
		(void)sluice_view_read(&xen->view, pages[0].dev, buf, G);
	t[3] = now_us();
	printf("# us: map and unmap of 1 page %.1f, of %u pages %.1f each; copy of a page %.1f\n",
	       (double)(t[1] - t[0]) / 100, run, (double)(t[2] - t[1]) / 100 / run,
	       (double)(t[3] - t[2]) / 100);
}

int main(void)
{
	static uint8_t buf[PAGES * G];
	struct granted pages[PAGES], readonly;
	struct sluice_hold hold, more;
	struct sluice_gntdev xen;
	uint64_t trips, end;
	uint32_t n = 0, run = 1;
	int ret;

	alloc_fd = open("/dev/xen/gntalloc", O_RDWR | O_CLOEXEC);
	ret = sluice_gntdev_open(&xen, 0);
	check(alloc_fd >= 0 && !ret, "gntalloc and gntdev are there");
	for (uint32_t i = 0; i < PAGES && ret == 0; i++)
		ret = grant(&pages[i], true) ? 0 : -1;
	check(!ret && grant(&readonly, false), "pages are granted");
	if (failed)
		return 1;
	/* Consecutive references are what a span of ours would have. */
	while (run < PAGES && pages[run].ref == pages[0].ref + run)
		run++;

	memset(pages[0].cpu, 0x11, G);
	check(!sluice_view_map(&xen.view, pages[0].dev + 100, 200, SLUICE_READ | SLUICE_WRITE,
			       &hold, 1, &n) &&
		      hold.bytes == 200 && all(hold.cpu, 200, 0x11),
	      "a held grant shows what was written");
	memset(hold.cpu, 0x22, 200);
	check(all(pages[0].cpu + 100, 200, 0x22) && pages[0].cpu[99] == 0x11 &&
		      pages[0].cpu[300] == 0x11,
	      "what the device writes arrives, and nothing beside it");
	sluice_view_unmap(&xen.view, &hold, 1);

	check(!sluice_view_read(&xen.view, pages[0].dev + 90, buf, 20) && all(buf, 10, 0x11) &&
		      all(buf + 10, 10, 0x22),
	      "copied out of a grant by the hypervisor");
	memset(buf, 0x33, G);
	check(!sluice_view_write(&xen.view, pages[0].dev + 50, buf, 1000) &&
		      all(pages[0].cpu + 50, 1000, 0x33) && pages[0].cpu[49] == 0x11 &&
		      pages[0].cpu[1050] == 0x11,
	      "copied into it, and nothing beside it");

	memset(readonly.cpu, 0x44, G);
	check(!sluice_view_read(&xen.view, readonly.dev, buf, G) && all(buf, G, 0x44),
	      "a read-only grant is read");
	check(sluice_view_write(&xen.view, readonly.dev, buf, 8) == -EACCES,
	      "g1: writing into it is refused");
	check(sluice_view_map(&xen.view, readonly.dev, 8, SLUICE_WRITE, &hold, 1, &n) == -EACCES,
	      "g1: holding it for writing is refused");
	check(!sluice_view_map(&xen.view, readonly.dev, 8, SLUICE_READ, &hold, 1, &n),
	      "holding it for reading is not");
	sluice_view_unmap(&xen.view, &hold, 1);

	check(sluice_view_read(&xen.view, SLUICE_GRANT_ADDR | 5000u * (uint64_t)G, buf, 8) ==
			      -ENOENT &&
		      sluice_view_map(&xen.view, SLUICE_GRANT_ADDR | 5000u * (uint64_t)G, 8,
				      SLUICE_READ, &hold, 1, &n) == -ENOENT &&
		      sluice_view_read(&xen.view, SLUICE_GRANT_ADDR | UINT64_MAX / 2, buf, 0) ==
			      0 &&
		      sluice_view_read(&xen.view, 4096, buf, 8) == -ENOENT &&
		      sluice_view_read(&xen.view, SLUICE_GRANT_ADDR | UINT64_C(1) << 50, buf, 8) ==
			      -ENOENT,
	      "g4: references that nobody granted are errors");

	printf("# %u consecutive references\n", run);
	for (uint32_t i = 0; i < run; i++)
		memset(pages[i].cpu, (int)(0x50 + i), G);
	trips = xen.view.stats.trips;
	ret = sluice_view_map(&xen.view, pages[0].dev + 10, run * G - 10, SLUICE_READ, &hold, 1,
			      &n);
	check(!ret && n == 1 && xen.view.stats.trips - trips == 1 &&
		      ((uint8_t *)hold.cpu)[run * G - 11] == 0x50 + run - 1,
	      "a batch is held in one go");
	if (!ret)
		sluice_view_unmap(&xen.view, &hold, 1);
	check(!sluice_view_read(&xen.view, pages[0].dev, buf, run * G) && buf[0] == 0x50 &&
		      buf[run * G - 1] == 0x50 + run - 1,
	      "a batch is copied");
	timings(&xen, pages, run);

	/* Taken back while it is held. */
	memset(pages[1].cpu, 0x66, G);
	check(!sluice_view_map(&xen.view, pages[1].dev, G, SLUICE_READ | SLUICE_WRITE, &hold, 1,
			       &n),
	      "held");
	take_back(&pages[1]);
	check(all(hold.cpu, G, 0x66), "g3: revoked while held: what is held stays");
	memset(hold.cpu, 0x77, G);
	/* Pages of ours that come now are other ones. */
	check(grant(&pages[1], true) && all(pages[1].cpu, G, 0), "and nobody else is given it");
	trips = hold.dev;
	sluice_view_unmap(&xen.view, &hold, 1);
	if (pages[1].dev != trips) {
		end = now_us() + 10000000;
		do {
			ret = sluice_view_map(&xen.view, trips, G, SLUICE_READ, &more, 1, &n);
			if (!ret) {
				sluice_view_unmap(&xen.view, &more, 1);
				usleep(100000);
			}
		} while (!ret && now_us() < end);
		check(ret == -ENOENT, "g3: and when it was dropped it is gone");
		check(sluice_view_read(&xen.view, trips, buf, 8) == -ENOENT, "for copies too");
	}
	sluice_gntdev_close(&xen);
	printf("1..%d\nXEN END %d failed\n", number, failed);
	return failed > 0;
}
