/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * dom0_linux.c - the Xen test of sluice.ko in a Linux guest: what the device's end can reach
 *
 * Theory of operation: see dom0.c and dev/dev.c. The guest loads the module with policy=share, so that
 * every buffer with a whole page in it is shared in place; its driver uses Linux's DMA API. What became
 * of it inside the guest is in the module's debugfs, at which the guest's own script looks.
 */
#include <string.h>
#include <unistd.h>

#include "dom0.h"

#define WAY SLUICE_POLICY_SHARE /* the module's: the driver is not asked */

static void in_place(void)
{
	struct sluice_hold one;
	uint64_t dev;

	fill(0, 4 * G, SECRET);
	fill(G, 2 * G, 0x11);
	dev = map(WAY, G, 2 * G, SLUICE_BIDIRECTIONAL);
	if (!check(dev & SLUICE_GRANT_ADDR && !hold(dev, 2 * G, SLUICE_READ | SLUICE_WRITE, &one) &&
			   one.bytes == 2 * G && all(one.cpu, 2 * G, 0x11),
		   "dma_map_single() of whole pages: they are granted, at an address with bit 63"))
		return;
	memset((uint8_t *)one.cpu + 100, 0x22, G);
	check(guest_has(G + 100, G, 0x22) && guest_has(G, 100, 0x11),
	      "in place: what is written there is in the driver's buffer at once");
	drop(&one);
	check(hidden(dev - G) && hidden(dev + 2 * G), "g1: the pages beside them cannot be seen");
	(void)unmap(dev, 2 * G, SLUICE_BIDIRECTIONAL);
	check(gone(dev) && gone(dev + G), "g3: after dma_unmap_single() nothing of it is");
	dev = map(WAY, 0, G, SLUICE_TO_DEVICE);
	check(dev && !sluice_view_read(&xen.view, dev, buf, G) && all(buf, G, SECRET) &&
		      sluice_view_write(&xen.view, dev, buf, 8) == -EACCES &&
		      hold(dev, 8, SLUICE_WRITE, &one) == -EACCES,
	      "g1: DMA_TO_DEVICE is granted for reading only");
	(void)unmap(dev, G, SLUICE_TO_DEVICE);
}

static void bounced(void)
{
	uint64_t dev;

	fill(0, 2 * G, SECRET);
	fill(1000, 600, 0x33);
	dev = map(WAY, 1000, 600, SLUICE_BIDIRECTIONAL);
	check(dev && !sluice_view_read(&xen.view, dev, buf, 600) && all(buf, 600, 0x33) &&
		      only_zeroes_beside(dev, 600),
	      "g2: a small buffer can be read, its neighbours in memory cannot");
	memset(buf, 0x44, 600);
	check(!sluice_view_write(&xen.view, dev, buf, 200) && guest_has(1000, 600, 0x33) &&
		      !ask(WANT_SYNC, dev, 600, SLUICE_FROM_DEVICE, 0) &&
		      guest_has(1000, 200, 0x44) && guest_has(1200, 400, 0x33),
	      "what is written there arrives with dma_sync_single_for_cpu()");
	(void)unmap(dev, 600, SLUICE_BIDIRECTIONAL);
	check(guest_has(0, 1000, SECRET) && guest_has(1600, 2 * G - 1600, SECRET),
	      "and nothing beside it has changed after unmap");
	check(!sluice_view_read(&xen.view, dev & ~(uint64_t)(G - 1), buf, G) && all(buf, G, 0),
	      "g2: the pool, which stays granted, keeps nothing of it");
	memset(buf, 0x55, 600);
	check(!sluice_view_write(&xen.view, dev, buf, 600) && guest_has(1000, 200, 0x44),
	      "g3: what is written there later reaches nothing");
	memset(buf, 0, 600);
	(void)sluice_view_write(&xen.view, dev, buf, 600);
}

static void split(void)
{
	uint64_t len = 3 * G + 500, at = G - 300, dev;
	struct sluice_hold one;

	fill(0, 6 * G, SECRET);
	fill(at, len, 0x66);
	dev = map(WAY, at, len, SLUICE_BIDIRECTIONAL);
	if (!check(dev && !hold(dev, len, SLUICE_READ | SLUICE_WRITE, &one) && one.bytes == len &&
			   all(one.cpu, len, 0x66),
		   "a buffer with unaligned ends is one range for the device"))
		return;
	memset(one.cpu, 0x77, len);
	check(guest_has(G, 3 * G, 0x77) && guest_has(at, 300, 0x66) && only_zeroes_beside(dev, len),
	      "g2: its middle is in place, its ends are copies, beside which there is nothing");
	drop(&one);
	(void)unmap(dev, len, SLUICE_BIDIRECTIONAL);
	check(guest_has(at, len, 0x77) && guest_has(0, at, SECRET) &&
		      guest_has(at + len, 6 * G - at - len, SECRET) && gone(dev) && gone(dev + G),
	      "after unmap all of it has arrived, and nothing of it is granted");
}

static void lists(void)
{
	uint64_t apart = AREA_BYTES / 4, dev[LIST_PIECES];
	bool good = true;

	fill(0, AREA_BYTES, SECRET);
	for (uint32_t i = 0; i < LIST_PIECES; i++)
		fill(i * apart, 2 * G, (uint8_t)(0x81 + i));
	check(!ask(WANT_MAP_LIST, 0, 0, 2 * G, SLUICE_BIDIRECTIONAL), "dma_map_sg()");
	for (uint32_t i = 0; i < LIST_PIECES; i++) {
		dev[i] = control->values[i];
		good = good && !sluice_view_read(&xen.view, dev[i], buf, 2 * G) &&
		       all(buf, 2 * G, (uint8_t)(0x81 + i));
	}
	memset(buf, 0x99, 2 * G);
	check(good && !sluice_view_write(&xen.view, dev[1], buf, 2 * G) &&
		      guest_has(apart, 2 * G, 0x99) && guest_has(apart + 2 * G, G, SECRET),
	      "each element of a list is where it says");
	(void)ask(WANT_UNMAP_LIST, 0, 0, SLUICE_BIDIRECTIONAL, 0);
	check(gone(dev[0]) && gone(dev[1]) && gone(dev[2]), "g3: and is not after dma_unmap_sg()");
}

static void revoked(void)
{
	uint64_t dev, other, end = now_us() + 10000000;
	struct sluice_hold one;

	fill(0, 2 * G, 0xBB);
	dev = map(WAY, 0, 2 * G, SLUICE_BIDIRECTIONAL);
	if (!check(dev && !hold(dev + G, G, SLUICE_READ | SLUICE_WRITE, &one), "held"))
		return;
	(void)unmap(dev, 2 * G, SLUICE_BIDIRECTIONAL);
	fill(G, 8, 0xCC);
	check(all(one.cpu, 8, 0xCC) && all((uint8_t *)one.cpu + 8, G - 8, 0xBB) && gone(dev),
	      "g3: unmapped while a page is held: that page stays what it was, the other is gone");
	other = map(WAY, 8 * G, 2 * G, SLUICE_BIDIRECTIONAL);
	check(other && (other >= dev + 2 * G || other + 2 * G <= dev),
	      "meanwhile nobody is given its references");
	(void)unmap(other, 2 * G, SLUICE_BIDIRECTIONAL);
	drop(&one);
	/* It is tried again when something else is mapped, once a second at most. */
	while (!gone(dev + G) && now_us() < end) {
		usleep(100000);
		other = map(WAY, 8 * G, G, SLUICE_BIDIRECTIONAL);
		(void)unmap(other, G, SLUICE_BIDIRECTIONAL);
	}
	check(gone(dev + G), "g3: and when it was dropped it is gone");
}

/* At the end the guest unbinds its driver and unloads the module. */
static void unloaded(void)
{
	uint64_t end = now_us() + 20000000, coherent;

	(void)ask(WANT_COHERENT, 0, 0, 0xA5, 0);
	coherent = control->values[0];
	check(!sluice_view_read(&xen.view, coherent, buf, G) && all(buf, G, 0xA5),
	      "coherent memory is seen");
	(void)ask(WANT_QUIT, 0, 0, 0, 0);
	while (!gone(coherent) && now_us() < end)
		usleep(100000);
	check(gone(coherent),
	      "g3: when the driver has been unbound the pool is not granted any more");
}

/* The guest unbinds its driver and unloads the module while a page is held. */
void test_held(void)
{
	uint64_t dev, end = now_us() + 20000000, coherent;
	struct sluice_hold one;

	fill(0, 2 * G, 0xBB);
	dev = map(WAY, 0, 2 * G, SLUICE_BIDIRECTIONAL);
	if (!check(dev && !hold(dev, G, SLUICE_READ | SLUICE_WRITE, &one), "a page is held"))
		return;
	(void)unmap(dev, 2 * G, SLUICE_BIDIRECTIONAL);
	(void)ask(WANT_COHERENT, 0, 0, 0xA5, 0);
	coherent = control->values[0];
	check(!sluice_view_read(&xen.view, coherent, buf, G) && all(buf, G, 0xA5),
	      "its pool is found, though one before it is still held");
	(void)ask(WANT_QUIT, 0, 0, 0, 0);
	/* The pool stays, for that page may have its ends in it; but there is nothing left in it. */
	do {
		usleep(100000);
	} while (!sluice_view_read(&xen.view, coherent, buf, G) && !all(buf, G, 0) &&
		 now_us() < end);
	check(all(buf, G, 0), "g2: the pool of a driver that has gone is empty");
	sleep(1);
	check(all(one.cpu, G, 0xBB), "g3: what is held stays what it was: nobody else is given it");
	drop(&one);
}

/* The same while a page of the pool is held, from here on until the round after it is over. */
void test_kept(void)
{
	uint64_t end = now_us() + 120000000;
	struct sluice_hold one;

	(void)ask(WANT_COHERENT, 0, 0, 0xA5, 0);
	if (!check(!hold(control->values[0], G, SLUICE_READ | SLUICE_WRITE, &one) &&
			   all(one.cpu, G, 0xA5),
		   "a page of the pool is held"))
		return;
	(void)ask(WANT_QUIT, 0, 0, 0, 0);
	while (access("/tmp/held", F_OK) && now_us() < end)
		usleep(100000);
	check(all(one.cpu, G, 0), "g2: it is empty, and is nobody else's from then on");
	drop(&one);
}

void test_linux(void)
{
	in_place();
	bounced();
	split();
	lists();
	revoked();
	unloaded();
}
