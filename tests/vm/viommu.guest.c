/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * viommu.guest.c - libsluice's mechanism iommu against QEMU's virtio-iommu, in a guest's user space
 *
 * Theory of operation
 * -------------------
 * No kernel driver is bound: this program maps the device's BAR, puts the two virtqueues into huge pages
 * (whose physical addresses it reads from /proc/self/pagemap) and hands the request queue to libsluice as
 * its submit(). So requests are those of core/share_iommu.c, byte for byte, and the answers, the reserved
 * regions and the fault reports are QEMU's. That a mapping does what it says is shown by QEMU's edu device,
 * which copies memory to and from a buffer of its own by DMA, through the IOMMU.
 *
 * The same requests then go to libsluice's own virtio-iommu device, which has to answer as QEMU's does.
 *
 * Prints TAP lines. Every wait is bounded. usage: viommu IOMMU-BDF EDU-BDF
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/iommu.h>

#include "vpci.h"

#define G	   VPCI_GRANULE
#define ENTRIES	   VPCI_ENTRIES
#define ENDPOINT   0x30u /* QEMU numbers them as PCI does: device 6, function 0 */
#define FIRST	   UINT64_C(0x1000)
#define LAST	   UINT64_C(0xffffffff)
#define MSI_FIRST  UINT64_C(0xfee00000)
#define MSI_LAST   UINT64_C(0xfeefffff)
#define PROBE_MAX  1024u
#define EDU_BUFFER 0x40000u

/* Where what is in the memory, behind the rings. */
#define AT_REQUESTS VPCI_RINGS
#define AT_PROBE    (3 * G)
#define AT_EVENTS   (4 * G)
#define AT_DATA	    (16 * G)

/* The transport of libsluice's driver end: one notification for all of a batch. */

static void submit(void *context, struct sluice_iommu_message *messages, uint32_t n)
{
	struct ring *ring = ring_of(0);
	uint16_t idx = ring->avail.idx;

	(void)context;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = AT_REQUESTS + i * 128;

		memcpy(vpci.memory + at, messages[i].out, messages[i].out_len);
		memset(vpci.memory + at + 96, 0xff, 4);
		ring->descriptors[2 * i] = (struct descriptor){.addr = vpci.phys + at,
							       .len = messages[i].out_len,
							       .flags = 1,
							       .next = (uint16_t)(2 * i + 1)};
		ring->descriptors[2 * i + 1] =
			(struct descriptor){.addr = vpci.phys + at + 96, .len = 4, .flags = 2};
		ring->avail.ring[(uint16_t)(idx + i) % ENTRIES] = (uint16_t)(2 * i);
	}
	queue_kick(0, (uint16_t)n);
	/* The slots are used again: one that was not answered would be overwritten. */
	need(queue_wait(0, (uint16_t)(idx + n)), "QEMU answers every request");
	for (uint32_t i = 0; i < n; i++)
		messages[i].status = vpci.memory[AT_REQUESTS + i * 128 + 96];
}

static uint8_t poll_answer(void *context, uint64_t token)
{
	(void)context;
	(void)token;
	return SLUICE_IOMMU_UNANSWERED;
}

static uint32_t probe(void *context, const uint8_t *out, uint32_t out_len, uint8_t *in,
		      uint32_t in_len)
{
	struct ring *ring = ring_of(0);
	uint16_t idx = ring->avail.idx;
	uint32_t used;

	(void)context;
	need(in_len <= PROBE_MAX, "properties have room");
	memcpy(vpci.memory + AT_PROBE, out, out_len);
	ring->descriptors[0] = (struct descriptor){
		.addr = vpci.phys + AT_PROBE, .len = out_len, .flags = 1, .next = 1};
	ring->descriptors[1] =
		(struct descriptor){.addr = vpci.phys + AT_PROBE + 128, .len = in_len, .flags = 2};
	ring->avail.ring[idx % ENTRIES] = 0;
	queue_kick(0, 1);
	need(queue_wait(0, (uint16_t)(idx + 1)), "QEMU answers PROBE");
	used = ring->used.ring[idx % ENTRIES].len;
	memcpy(in, vpci.memory + AT_PROBE + 128, in_len);
	return used;
}

/* The next fault report, for a second; false if there is none. */
static bool fault(uint8_t report[24])
{
	static uint16_t seen;
	struct ring *ring = ring_of(1);
	uint64_t end = now_ns() + 1000000000u;
	uint32_t id;

	while (__atomic_load_n(&ring->used.idx, __ATOMIC_ACQUIRE) == seen) {
		if (now_ns() > end)
			return false;
	}
	id = ring->used.ring[seen++ % ENTRIES].id % ENTRIES;
	memcpy(report, vpci.memory + AT_EVENTS + id * 32, 24);
	ring->avail.ring[ring->avail.idx % ENTRIES] = (uint16_t)id;
	queue_kick(1, 1);
	return true;
}

/* Of a refused access of 4 bytes QEMU makes one report: whether it is of this reason, endpoint and address. */
static bool faulted(uint8_t reason, uint32_t flags, uint64_t addr)
{
	uint8_t report[24];

	if (!fault(report))
		return false;
	printf("# fault: reason %u, flags 0x%x, endpoint 0x%x, address 0x%lx\n", report[0],
	       sluice_get_le32(report + 4), sluice_get_le32(report + 8),
	       (unsigned long)sluice_get_le64(report + 16));
	return report[0] == reason && (sluice_get_le32(report + 4) & flags) == flags &&
	       sluice_get_le32(report + 8) == ENDPOINT && sluice_get_le64(report + 16) == addr;
}

/* QEMU's edu device: docs/specs/edu.rst. */

static volatile uint8_t *edu;

/* Copy between an address of the device's and its own buffer. */
static void dma(uint64_t addr, uint32_t bytes, bool write)
{
	uint64_t end = now_ns() + 3000000000u;

	REG(uint64_t, edu + 0x80) = write ? EDU_BUFFER : addr;
	REG(uint64_t, edu + 0x88) = write ? addr : EDU_BUFFER;
	REG(uint64_t, edu + 0x90) = bytes;
	REG(uint64_t, edu + 0x98) = write ? 3 : 1;
	while (REG(uint64_t, edu + 0x98) & 1)
		need(now_ns() < end, "the edu device ends its transfer");
}

static uint8_t *data(uint32_t page)
{
	return vpci.memory + AT_DATA + page * G;
}

static uint64_t phys(uint32_t page)
{
	return vpci.phys + AT_DATA + page * G;
}

static bool all(const uint8_t *at, uint8_t value, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (at[i] != value)
			return false;
	}
	return true;
}

static struct sluice_iommu iommu;

static void share(struct sluice_span *span, struct sluice_piece *pieces, uint32_t n,
		  uint32_t access)
{
	*span = (struct sluice_span){.pieces = pieces, .n = n, .access = access};
	need(!sluice_share_spans(&iommu.share, span, 1), "QEMU takes the MAP requests");
}

static void set_up(void)
{
	static uint8_t properties[PROBE_MAX];
	struct sluice_iommu_config config = {.submit = submit,
					     .poll = poll_answer,
					     .probe = probe,
					     .domain = 7,
					     .endpoint = ENDPOINT,
					     .first = FIRST,
					     .last = LAST,
					     .properties = properties};
	uint64_t first = FIRST >> 12, last = LAST >> 12, number;
	bool clear = true;

	config.probe_size = REG(uint32_t, vpci.device + 0x20);
	printf("# page sizes 0x%lx, input range 0x%lx to 0x%lx, domains %u to %u, probe size %u\n",
	       REG(uint64_t, vpci.device + 0), REG(uint64_t, vpci.device + 8),
	       REG(uint64_t, vpci.device + 16), REG(uint32_t, vpci.device + 24),
	       REG(uint32_t, vpci.device + 28), config.probe_size);
	check(REG(uint64_t, vpci.device) & G, "QEMU maps granules of 4 KiB");
	config.iova_memory = calloc(1, sluice_iova_size(first, last));
	need(config.iova_memory && config.probe_size + 4 <= PROBE_MAX &&
		     !sluice_iommu_init(&iommu, &config),
	     "the driver's end can be set up");

	dma(0x5000, 4, false);
	/* QEMU knows an endpoint by its first request: reason 0, unknown. */
	check(faulted(0, SLUICE_VIOMMU_FAULT_F_ADDRESS, 0x5000),
	      "G1: what is attached to nothing reaches nothing, and QEMU reports it");
	check(!sluice_iommu_attach(&iommu), "PROBE and ATTACH");

	/* All addresses there are, 4 MiB at a time, then by the granule. */
	for (uint32_t n = 1024; n; n = n > 1 ? 1 : 0) {
		while (!sluice_iova_alloc(&iommu.iova, n, &number))
			clear = clear &&
				(number + n - 1 < MSI_FIRST >> 12 || number > MSI_LAST >> 12);
	}
	check(clear, "no address is handed out that QEMU reserves for interrupts");
	need(!sluice_iommu_init(&iommu, &config) && !sluice_iommu_detach(&iommu) &&
		     !sluice_iommu_attach(&iommu),
	     "DETACH, and ATTACH again");
}

static void mappings(void)
{
	struct sluice_piece from[3] = {{phys(4), G}, {phys(1), G}, {phys(9), 2 * G}};
	struct sluice_piece to[2] = {{phys(20), G}, {phys(30), G}};
	struct sluice_span source, sink;
	uint64_t requests = iommu.share.stats.operations;

	for (uint32_t i = 0; i < 64; i++)
		memset(data(i), (int)i + 1, G);
	share(&source, from, 3, SLUICE_READ);
	share(&sink, to, 2, SLUICE_WRITE);
	check(iommu.share.stats.operations - requests == 5, "a MAP for each piece");

	/* 1000 bytes on both sides of where two pieces meet, in and out again. */
	dma(source.dev + G - 1000, 2000, false);
	dma(sink.dev + G - 1000, 2000, true);
	check(all(data(20) + G - 1000, 5, 1000) && all(data(30), 2, 1000),
	      "pieces that lie anywhere are one range for the device, both ways");
	check(all(data(20), 21, G - 1000) && all(data(30) + 1000, 31, G - 1000) &&
		      all(data(19), 20, G) && all(data(21), 22, G) && all(data(29), 30, G),
	      "G2: nothing beside what was written has changed");

	dma(source.dev + 2 * G, 4, true);
	check(all(data(9), 10, G), "G1: what may be read cannot be written");
	check(faulted(SLUICE_VIOMMU_FAULT_R_MAPPING,
		      SLUICE_VIOMMU_FAULT_F_WRITE | SLUICE_VIOMMU_FAULT_F_ADDRESS,
		      source.dev + 2 * G),
	      "QEMU reports the write");
	dma(sink.dev, 4, false);
	check(faulted(SLUICE_VIOMMU_FAULT_R_MAPPING, SLUICE_VIOMMU_FAULT_F_READ, sink.dev),
	      "what may be written cannot be read, and QEMU reports it");

	check(!sluice_share_end(&iommu.share, &sink, 1), "UNMAP");
	memset(data(20), 0x77, G);
	dma(sink.dev, 4, true);
	check(all(data(20), 0x77, G), "G3: what is unmapped cannot be written");
	check(faulted(SLUICE_VIOMMU_FAULT_R_MAPPING, 0, sink.dev), "QEMU reports it");
	check(!sluice_share_end(&iommu.share, &source, 1),
	      "UNMAP of three mappings in one request");
	dma(source.dev + 3 * G, 4, false);
	check(faulted(SLUICE_VIOMMU_FAULT_R_MAPPING, 0, source.dev + 3 * G),
	      "G3: nothing of them is left");
}

/* What batching spares with a peer that really has to be notified. */
static void batches(void)
{
	struct sluice_piece pieces[64];
	struct sluice_span spans[64];
	uint64_t one = UINT64_MAX, many = UINT64_MAX, start, kicks[2], round;
	bool good = true;

	for (uint32_t i = 0; i < 64; i++)
		pieces[i] = (struct sluice_piece){phys(2 * i), G};
	for (round = 0; round < 20; round++) {
		for (uint32_t i = 0; i < 64; i++)
			spans[i] = (struct sluice_span){
				.pieces = &pieces[i], .n = 1, .access = SLUICE_READ};
		kicks[0] = vpci.notifications;
		start = now_ns();
		for (uint32_t i = 0; i < 64; i++)
			good = good && !sluice_share_spans(&iommu.share, &spans[i], 1);
		for (uint32_t i = 0; i < 64; i++)
			good = good && !sluice_share_end(&iommu.share, &spans[i], 1);
		start = now_ns() - start;
		one = start < one ? start : one;
		kicks[0] = vpci.notifications - kicks[0];
		kicks[1] = vpci.notifications;
		start = now_ns();
		good = good && !sluice_share_spans(&iommu.share, spans, 64);
		good = good && !sluice_share_end(&iommu.share, spans, 64);
		start = now_ns() - start;
		many = start < many ? start : many;
		kicks[1] = vpci.notifications - kicks[1];
	}
	check(good && kicks[0] == 128 && kicks[1] == 8,
	      "64 spans mapped and unmapped: 8 notifications instead of 128");
	printf("# a map and unmap, the least of 20: %lu ns one by one, %lu ns in batches of 16\n",
	       (unsigned long)(one / 64), (unsigned long)(many / 64));
}

/* The same requests to both devices. */

static struct sluice_viommu own;

static void own_done(void *context, uint64_t cookie, uint8_t status)
{
	(void)context;
	(void)cookie;
	(void)status;
}

static void own_open(void)
{
	static const uint32_t id = ENDPOINT;
	static const struct sluice_viommu_reserved msi = {MSI_FIRST, MSI_LAST, 1};
	static struct sluice_viommu_mapping maps[16];
	static struct sluice_viommu_domain domains[4];
	static struct sluice_viommu_endpoint endpoint;
	static struct sluice_viommu_pending pending[4];
	static struct sluice_memory ram;
	struct sluice_viommu_config config = {.input_last = UINT64_MAX,
					      .domain_last = UINT32_MAX,
					      .reserved = &msi,
					      .n_reserved = 1,
					      .probe_size = 64,
					      .mappings = maps,
					      .n_mappings = 16,
					      .domains = domains,
					      .n_domains = 4,
					      .endpoints = &endpoint,
					      .endpoint_ids = &id,
					      .n_endpoints = 1,
					      .pending = pending,
					      .n_pending = 4,
					      .memory = &ram,
					      .n_memory = 1,
					      .done = own_done};

	ram = (struct sluice_memory){vpci.phys, VPCI_MEMORY, vpci.memory};
	need(!sluice_viommu_init(&own, &config), "libsluice's own device can be set up");
}

struct request {
	uint8_t type;
	uint32_t domain;
	uint64_t a, b; /* endpoint and flags, or a range */
	uint32_t flags;
	uint8_t expected;
	const char *what;
};

/* MAP of what is reserved is not among them: QEMU 7.2 takes it, libsluice answers S_INVAL. */
/* Statuses are virtio 1.3's, 5.13.6: where a "MUST" says which, that one. */
static const struct request requests[] = {
	{9, 0, 0, 0, 0, SLUICE_VIOMMU_S_UNSUPP, "no such request"},
	{3, 3, 0x1000, 0x1fff, 1, SLUICE_VIOMMU_S_NOENT, "MAP in no domain"},
	{4, 3, 0x1000, 0x1fff, 0, SLUICE_VIOMMU_S_NOENT, "UNMAP in no domain"},
	{1, 3, 0x999, 0, 0, SLUICE_VIOMMU_S_NOENT, "ATTACH of nothing"},
	{1, 3, ENDPOINT, 0x80, 0, SLUICE_VIOMMU_S_INVAL, "ATTACH with a flag that is none"},
	{1, 3, ENDPOINT, 0, 0, SLUICE_VIOMMU_S_OK, "ATTACH"},
	{3, 3, 0x10000, 0x13fff, 3, SLUICE_VIOMMU_S_OK, "MAP"},
	{3, 3, 0x13000, 0x14fff, 3, SLUICE_VIOMMU_S_INVAL, "MAP over another"},
	{3, 3, 0x20000, 0x20fff, 0x80, SLUICE_VIOMMU_S_INVAL, "MAP with a flag that is none"},
	{3, 3, 0x14000, 0x14fff, 1, SLUICE_VIOMMU_S_OK, "MAP beside another"},
	{4, 3, 0x10000, 0x11fff, 0, SLUICE_VIOMMU_S_RANGE, "UNMAP of a part"},
	{4, 3, 0x40000, 0x4ffff, 0, SLUICE_VIOMMU_S_OK, "UNMAP of nothing"},
	{4, 3, 0x8000, 0x1ffff, 0, SLUICE_VIOMMU_S_OK, "UNMAP of both"},
	{3, 3, 0x10000, 0x13fff, 3, SLUICE_VIOMMU_S_OK, "MAP in their place"},
	{1, 4, ENDPOINT, 0, 0, SLUICE_VIOMMU_S_OK, "ATTACH to another domain"},
	{3, 3, 0x50000, 0x50fff, 3, SLUICE_VIOMMU_S_NOENT, "MAP in the one that is gone by that"},
	{3, 4, 0x10000, 0x13fff, 3, SLUICE_VIOMMU_S_OK, "MAP in the new one, which is empty"},
	{2, 4, ENDPOINT, 0, 0, SLUICE_VIOMMU_S_OK, "DETACH"},
};

static void both_devices(void)
{
	own_open();
	for (uint32_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		static const uint8_t lengths[10] = {20, 20, 20, 36, 28, 72, 20, 20, 20, 20};
		const struct request *r = &requests[i];
		struct sluice_iommu_message m = {.out_len = lengths[r->type % 10]};
		uint8_t in[4] = {0xff};
		uint32_t written;
		char what[128];

		m.out[0] = r->type;
		sluice_put_le32(m.out + 4, r->domain);
		if (r->type <= 2) {
			sluice_put_le32(m.out + 8, (uint32_t)r->a);
			sluice_put_le32(m.out + 12, (uint32_t)r->b);
		} else {
			sluice_put_le64(m.out + 8, r->a);
			sluice_put_le64(m.out + 16, r->b);
		}
		if (r->type == 3) {
			sluice_put_le64(m.out + 24, phys(0));
			sluice_put_le32(m.out + 32, r->flags);
		}
		submit(NULL, &m, 1);
		(void)sluice_viommu_request(&own, m.out, m.out_len, in, 4, &written, 1);
		snprintf(what, sizeof(what), "%s: QEMU says %u, libsluice's device %u, expected %u",
			 r->what, m.status, in[0], r->expected);
		check(m.status == r->expected && in[0] == r->expected, what);
	}
}

static void events_start(void)
{
	for (uint16_t i = 0; i < ENTRIES; i++) {
		ring_of(1)->descriptors[i] = (struct descriptor){
			.addr = vpci.phys + AT_EVENTS + i * 32u, .len = 24, .flags = 2};
		ring_of(1)->avail.ring[i] = i;
	}
	queue_kick(1, ENTRIES);
}

int main(int argc, char **argv)
{
	static const uint32_t features[2] = {
		1 << 0 | 1 << 1 | 1 << 2 | 1 << 4, /* ranges, MAP_UNMAP, PROBE; no bypass */
		1,				   /* VERSION_1 */
	};
	struct function device, tester;

	need(argc == 3, "usage: viommu IOMMU-BDF EDU-BDF");
	device = function_open(argv[1]);
	vpci_start(&device, features);
	events_start();
	tester = function_open(argv[2]);
	edu = bar_map(&tester, 0, G);
	set_up();
	mappings();
	batches();
	check(!sluice_iommu_detach(&iommu), "DETACH");
	dma(0x5000, 4, false);
	check(faulted(SLUICE_VIOMMU_FAULT_R_DOMAIN, 0, 0x5000),
	      "G3: nothing is reachable after it");
	both_devices();
	vpci_stop();
	return failed > 0;
}
