/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * vpci.c - a modern virtio PCI device driven from a guest's user space
 *
 * Theory of operation: no kernel driver is bound. Registers are the BAR's, mapped through sysfs; the rings
 * lie in a huge page, which does not move, and whose physical address /proc/self/pagemap tells root.
 * Queues are polled. Virtio 1.3, 4.1 and 2.7.
 */
#include "vpci.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HUGE	VPCI_MEMORY
#define G	VPCI_GRANULE
#define ENTRIES VPCI_ENTRIES

struct vpci vpci;
int failed;

void check(bool ok, const char *what)
{
	printf("%sok - %s\n", ok ? "" : "not ", what);
	fflush(stdout);
	failed += !ok;
}

void need(bool ok, const char *what)
{
	if (ok)
		return;
	check(false, what);
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Memory that stays where it is, and its address for devices. */

static void memory_get(void)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	vpci.memory = mmap(NULL, HUGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
	need(vpci.memory != MAP_FAILED && fd >= 0, "there is a huge page, and a page map");
	memset(vpci.memory, 0, HUGE);
	need(pread(fd, &entry, 8, (off_t)((uintptr_t)vpci.memory / G * 8)) == 8 && entry >> 63,
	     "the page map says where it is");
	close(fd);
	vpci.phys = (entry & ((UINT64_C(1) << 55) - 1)) * G;
	need(vpci.phys && vpci.phys % HUGE == 0, "it is a huge page");
}

/* PCI. */

static uint64_t config_get(const struct function *f, uint32_t at, uint32_t bytes)
{
	uint64_t v = 0;

	need(pread(f->config, &v, bytes, at) == (ssize_t)bytes, "configuration space can be read");
	return v;
}

struct function function_open(const char *bdf)
{
	struct function f;
	char path[128];
	uint16_t command;

	snprintf(f.bdf, sizeof(f.bdf), "%s", bdf);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", bdf);
	f.config = open(path, O_RDWR);
	need(f.config >= 0, "the function is there");
	command = (uint16_t)config_get(&f, 4, 2) | 6; /* memory, bus master */
	need(pwrite(f.config, &command, 2, 4) == 2, "it can be switched on");
	return f;
}

volatile uint8_t *bar_map(const struct function *f, uint32_t bar, uint64_t bytes)
{
	char path[128];
	void *p;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource%u", f->bdf, bar);
	fd = open(path, O_RDWR | O_SYNC);
	need(fd >= 0, "its BAR is there");
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	need(p != MAP_FAILED, "its BAR can be mapped");
	return p;
}

/* Virtio over PCI, 1.3, 4.1. */

static void find_registers(const struct function *f)
{
	volatile uint8_t *bars[6] = {NULL};

	for (uint32_t at = (uint32_t)config_get(f, 0x34, 1); at;
	     at = (uint32_t)config_get(f, at + 1, 1)) {
		uint32_t type = (uint32_t)config_get(f, at + 3, 1);
		uint32_t bar = (uint32_t)config_get(f, at + 4, 1);
		uint32_t offset = (uint32_t)config_get(f, at + 8, 4);

		if (config_get(f, at, 1) != 9 || type == 0 || type > 4 || type == 3 || bar > 5)
			continue;
		if (!bars[bar])
			bars[bar] = bar_map(f, bar, 16384);
		if (type == 1)
			vpci.common = bars[bar] + offset;
		if (type == 2) {
			vpci.notify = bars[bar] + offset;
			vpci.multiplier = (uint32_t)config_get(f, at + 16, 4);
		}
		if (type == 4)
			vpci.device = bars[bar] + offset;
	}
	need(vpci.common && vpci.notify && vpci.device, "it is a modern virtio device");
}

static void queue_start(uint16_t queue)
{
	uint64_t at = vpci.phys + queue * G;

	REG(uint16_t, vpci.common + 0x16) = queue;
	need(REG(uint16_t, vpci.common + 0x18) >= ENTRIES, "its queues are long enough");
	REG(uint16_t, vpci.common + 0x18) = ENTRIES;
	REG(uint16_t, vpci.common + 0x1a) = 0xffff; /* no interrupts */
	REG(uint64_t, vpci.common + 0x20) = at + offsetof(struct ring, descriptors);
	REG(uint64_t, vpci.common + 0x28) = at + offsetof(struct ring, avail);
	REG(uint64_t, vpci.common + 0x30) = at + offsetof(struct ring, used);
	vpci.notify_off[queue] = REG(uint16_t, vpci.common + 0x1e);
	REG(uint16_t, vpci.common + 0x1c) = 1;
}

void queue_kick(uint32_t queue, uint16_t n)
{
	struct ring *ring = ring_of(queue);

	/* Release: descriptors and buffers before the index that hands them over. */
	__atomic_store_n(&ring->avail.idx, (uint16_t)(ring->avail.idx + n), __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	REG(uint16_t, vpci.notify + vpci.notify_off[queue] * vpci.multiplier) = (uint16_t)queue;
	vpci.notifications++;
}

/* Until the device has used up to idx, for 2 s. Acquire: what it wrote is seen. */
bool queue_wait(uint32_t queue, uint16_t idx)
{
	uint64_t end = now_ns() + 2000000000u;

	while (__atomic_load_n(&ring_of(queue)->used.idx, __ATOMIC_ACQUIRE) != idx) {
		if (now_ns() > end)
			return false;
	}
	return true;
}

void vpci_start(const struct function *f, const uint32_t features[2])
{
	volatile uint8_t *status;

	memory_get();
	find_registers(f);
	status = vpci.common + 0x14;
	*status = 0;
	for (int i = 0; *status && i < 1000; i++)
		usleep(1000);
	*status = 1;
	*status = 3;
	for (uint32_t i = 0; i < 2; i++) {
		REG(uint32_t, vpci.common + 0) = i;
		need((REG(uint32_t, vpci.common + 4) & features[i]) == features[i],
		     "the device offers what is needed");
		REG(uint32_t, vpci.common + 8) = i;
		REG(uint32_t, vpci.common + 12) = features[i];
	}
	*status = 11;
	need(*status == 11, "features are agreed on");
	queue_start(0);
	queue_start(1);
	*status = 15;
}

void vpci_stop(void)
{
	*(vpci.common + 0x14) = 0;
}
