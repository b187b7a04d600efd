/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * dom0.c - the device's end of the Xen test: libsluice's view, in domain 0
 *
 * Theory of operation
 * -------------------
 * `dom0 bare DOMID`, `dom0 linux DOMID REF` and `dom0 held DOMID REF` reach what the guest of domu.c, or of dev/dev.c, grants,
 * through /dev/xen/gntdev, and have that guest map and unmap (control.h; REF: where the control page
 * is). The table, its marks, mapping and copying are the hypervisor's. Prints TAP lines.
 *
 * The guest's area is filled with SECRET before each transfer, so whatever of it is seen beside a
 * transfer shows. Waiting for the guest is bounded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dom0.h"

#define WAIT_US 20000000u

struct sluice_gntdev xen;
struct control *control;
static struct sluice_hold control_hold;
uint8_t buf[AREA_BYTES];
int failed;
static int number;

bool check(bool ok, const char *what)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, what);
	fflush(stdout);
	failed += !ok;
	return ok;
}

uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

int64_t ask(enum want want, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	uint32_t number_of_it = sluice_load_u32(&control->asked) + 1;
	uint64_t end = now_us() + WAIT_US;

	control->want = want;
	control->args[0] = a;
	control->args[1] = b;
	control->args[2] = c;
	control->args[3] = d;
	sluice_store_release_u32(&control->asked, number_of_it);
	while (sluice_load_acquire_u32(&control->answered) != number_of_it) {
		if (now_us() > end) {
			(void)check(false, "the guest answers");
			exit(1);
		}
		usleep(50);
	}
	return control->result;
}

uint64_t map(enum sluice_policy_kind way, uint64_t offset, uint64_t len, enum sluice_dir dir)
{
	return ask(WANT_MAP, way, offset, len, dir) ? 0 : control->values[0];
}

int64_t unmap(uint64_t dev, uint64_t len, enum sluice_dir dir)
{
	return ask(WANT_UNMAP, dev, len, dir, 0);
}

void fill(uint64_t offset, uint64_t len, uint8_t byte)
{
	(void)ask(WANT_FILL, offset, len, byte, 0);
}

bool guest_has(uint64_t offset, uint64_t len, uint8_t byte)
{
	return ask(WANT_CHECK, offset, len, byte, 0) == 1;
}

bool all(const void *memory, size_t n, uint8_t v)
{
	const uint8_t *p = memory;

	while (n--) {
		if (*p++ != v)
			return false;
	}
	return true;
}

int hold(uint64_t dev, uint64_t len, uint32_t access, struct sluice_hold *one)
{
	uint32_t n;

	return sluice_view_map(&xen.view, dev, len, access, one, 1, &n);
}

void drop(struct sluice_hold *one)
{
	sluice_view_unmap(&xen.view, one, 1);
}

/* Whether an address cannot be held in this way, for want of a grant. */
static bool unknown(uint64_t dev, uint32_t access)
{
	struct sluice_hold one;
	int ret = hold(dev, 8, access, &one);

	if (!ret)
		drop(&one);
	return ret == -ENOENT;
}

bool gone(uint64_t dev)
{
	uint8_t eight[8] = {0};

	return unknown(dev, SLUICE_READ) && unknown(dev, SLUICE_READ | SLUICE_WRITE) &&
	       sluice_view_read(&xen.view, dev, eight, 8) == -ENOENT &&
	       sluice_view_write(&xen.view, dev, eight, 8) == -ENOENT;
}

/* Wait for the guest's control page. */
static bool meet(uint32_t ref)
{
	uint64_t end = now_us() + WAIT_US;
	uint64_t dev = SLUICE_GRANT_ADDR | ref * (uint64_t)G;

	while (hold(dev, G, SLUICE_READ | SLUICE_WRITE, &control_hold)) {
		if (now_us() > end)
			return false;
		usleep(10000);
	}
	control = control_hold.cpu;
	return control->ready == CONTROL_READY;
}

bool hidden(uint64_t dev)
{
	return gone(dev) || (!sluice_view_read(&xen.view, dev, buf, G) && !memchr(buf, SECRET, G));
}

bool only_zeroes_beside(uint64_t dev, uint64_t len)
{
	uint64_t first = dev & ~(uint64_t)(G - 1), end = (dev + len + G - 1) & ~(uint64_t)(G - 1);

	return !sluice_view_read(&xen.view, first, buf, end - first) && all(buf, dev - first, 0) &&
	       all(buf + (dev - first) + len, end - dev - len, 0);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {{"bare", test_bare},
		     {"linux", test_linux},
		     {"held", test_held},
		     {"kept", test_kept}};
	uint32_t i = 0;

	while (i < 4 && (argc < 3 || strcmp(argv[1], tests[i].name)))
		i++;
	if (i == 4 || argc > 4) {
		fprintf(stderr, "usage: dom0 bare|linux|held|kept DOMID [REF]\n");
		return 2;
	}
	if (check(!sluice_gntdev_open(&xen, (uint16_t)atoi(argv[2])) &&
			  meet(argc == 4 ? (uint32_t)atoi(argv[3]) : CONTROL_REF),
		  "the guest has started and granted its control page"))
		tests[i].run();
	printf("# %s: %d done, %d failed\n", argv[1], number, failed);
	return failed > 0;
}
