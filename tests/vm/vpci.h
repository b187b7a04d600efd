/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * vpci.h - a modern virtio PCI device driven from a guest's user space
 *
 * Theory of operation: see vpci.c. For one device with up to two queues, the whole state is static.
 * What fails prints a "not ok" line and ends the program.
 */
#ifndef VPCI_H
#define VPCI_H

#include <stdbool.h>
#include <stdint.h>

#define VPCI_GRANULE 4096u
#define VPCI_MEMORY  (2u << 20)
#define VPCI_ENTRIES 64u
#define VPCI_RINGS   (2 * VPCI_GRANULE) /* of the memory, at its start */

/* Registers: each access is one of that size. */
#define REG(type, at) (*(volatile type *)(at))

struct function {
	char bdf[32];
	int config;
};

struct descriptor {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* A split ring, laid out in one page. */
struct ring {
	struct descriptor descriptors[VPCI_ENTRIES];
	struct {
		uint16_t flags, idx, ring[VPCI_ENTRIES], event;
	} avail;
	uint8_t pad[1024];
	struct {
		uint16_t flags, idx;
		struct {
			uint32_t id, len;
		} ring[VPCI_ENTRIES];
		uint16_t event;
	} used;
};

struct vpci {
	volatile uint8_t *common, *notify, *device;
	uint32_t multiplier;
	uint64_t notify_off[2];
	uint64_t notifications; /* so far */
	uint8_t *memory;	/* a huge page, and its address for devices */
	uint64_t phys;
};

extern struct vpci vpci;

void check(bool ok, const char *what);
void need(bool ok, const char *what);
extern int failed;
uint64_t now_ns(void);

/* A function by its name, switched on; and one of its BARs. */
struct function function_open(const char *bdf);
volatile uint8_t *bar_map(const struct function *f, uint32_t bar, uint64_t bytes);

/* Get memory, reset the device, agree on these features (of which all have to be offered), start queues. */
void vpci_start(const struct function *f, const uint32_t features[2]);
void vpci_stop(void);

static inline struct ring *ring_of(uint32_t queue)
{
	return (struct ring *)(vpci.memory + queue * VPCI_GRANULE);
}

/* Hand n more entries over; wait, for 2 s, until the device has used up to idx. */
void queue_kick(uint32_t queue, uint16_t n);
bool queue_wait(uint32_t queue, uint16_t idx);

#endif
