/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_viommu.c - the virtio-iommu device against virtio 1.3, 5.13, request by request
 *
 * Theory of operation: requests are laid out by hand here, byte by byte as the specification has
 * them, so that a mistake which both ends of Sluice share is seen. Where a test follows a normative
 * statement, its number is beside it.
 */
#include <stdlib.h>

#include <sluice/viommu.h>

#include "rig.h"

#define MAPPINGS 8u
#define PENDING	 3u
#define PHYS	 UINT64_C(0x80000000)

static struct sluice_viommu viommu;
static struct sluice_viommu_mapping mappings[MAPPINGS];
static struct sluice_viommu_domain domains[2];
static struct sluice_viommu_endpoint endpoints[2];
static struct sluice_viommu_pending pending[PENDING];
static const uint32_t ids[] = {10, 11};
static const struct sluice_viommu_reserved reserved[] = {{0x8000, 0x8fff, 1},
							 {0x20000, 0x2ffff, 0}};
static uint8_t guest[65536] __attribute__((aligned(4096)));
static const struct sluice_memory memory[] = {{PHYS, 32768, guest},
					      {PHYS + 65536, 32768, guest + 32768}};
static uint64_t answered[16];
static uint8_t answer_status[16];
static uint32_t n_answered;

static void done(void *context, uint64_t cookie, uint8_t status)
{
	(void)context;
	assert_true(n_answered < 16);
	answer_status[n_answered] = status;
	answered[n_answered++] = cookie;
}

static int setup(void **state)
{
	const struct sluice_viommu_config config = {
		.input_start = 0,
		.input_last = 0xffffff,
		.domain_start = 1,
		.domain_last = 9,
		.reserved = reserved,
		.n_reserved = 2,
		.probe_size = 64,
		.mappings = mappings,
		.n_mappings = MAPPINGS,
		.domains = domains,
		.n_domains = 2,
		.endpoints = endpoints,
		.endpoint_ids = ids,
		.n_endpoints = 2,
		.pending = pending,
		.n_pending = PENDING,
		.memory = memory,
		.n_memory = 2,
		.done = done,
	};

	(void)state;
	n_answered = 0;
	for (size_t i = 0; i < sizeof(guest); i++)
		guest[i] = (uint8_t)(i / 4096 + 1);
	return sluice_viommu_init(&viommu, &config);
}

/* -1: later; -2: no answer. */
static int request(const uint8_t *out, uint32_t len, uint64_t cookie)
{
	uint8_t in[4] = {0xee, 0xee, 0xee, 0xee};
	uint32_t written;

	if (sluice_viommu_request(&viommu, out, len, in, 4, &written, cookie))
		return -1;
	if (written != 4)
		return -2;
	/* 5.13.6.3: what is reserved in the tail is zero. */
	assert_int_equal(in[1] | in[2] | in[3], 0);
	return in[0];
}

static void le(uint8_t *at, uint64_t v, uint32_t bytes)
{
	while (bytes-- > 0) {
		*at++ = (uint8_t)v;
		v >>= 8;
	}
}

static int attach(uint32_t domain, uint32_t endpoint, uint32_t flags)
{
	uint8_t out[20] = {1};

	le(out + 4, domain, 4);
	le(out + 8, endpoint, 4);
	le(out + 12, flags, 4);
	return request(out, 20, 1);
}

static int detach(uint32_t domain, uint32_t endpoint, uint64_t cookie)
{
	uint8_t out[20] = {2};

	le(out + 4, domain, 4);
	le(out + 8, endpoint, 4);
	le(out + 12, 0x1122334455667788, 8); /* 5.13.6.4.2: MUST ignore reserved */
	return request(out, 20, cookie);
}

static int map(uint32_t domain, uint64_t start, uint64_t last, uint64_t phys, uint32_t flags)
{
	uint8_t out[36] = {3};

	le(out + 4, domain, 4);
	le(out + 8, start, 8);
	le(out + 16, last, 8);
	le(out + 24, phys, 8);
	le(out + 32, flags, 4);
	return request(out, 36, 1);
}

static int unmap(uint32_t domain, uint64_t start, uint64_t last, uint64_t cookie)
{
	uint8_t out[28] = {4};

	le(out + 4, domain, 4);
	le(out + 8, start, 8);
	le(out + 16, last, 8);
	return request(out, 28, cookie);
}

static struct sluice_view *view_of(uint32_t id)
{
	struct sluice_view *view = sluice_viommu_endpoint(&viommu, id);

	assert_non_null(view);
	return view;
}

static int peek(uint32_t id, uint64_t dev)
{
	uint8_t byte;
	int ret = sluice_view_read(view_of(id), dev, &byte, 1);

	return ret ? ret : byte;
}

static void attaching(void **state)
{
	struct sluice_hold hold;
	uint32_t n;

	(void)state;
	assert_int_equal(attach(1, 99, 0), 6); /* no such endpoint: NOENT */
	assert_int_equal(attach(0, 10, 0), 5); /* not in domain_range */
	assert_int_equal(attach(10, 10, 0), 5);
	assert_int_equal(attach(1, 10, 2), 4); /* MUST reject unknown flags: INVAL */
	assert_int_equal(attach(1, 10, 1), 4); /* bypass is not offered */
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(map(1, 0x1000, 0x1fff, PHYS, 3), 0);
	assert_int_equal(peek(10, 0x1000), 1);
	/* 5.13.6.3.2: SHOULD behave as after a DETACH; Linux relies on it. */
	assert_int_equal(attach(2, 10, 0), 0);
	assert_int_equal(peek(10, 0x1000), -ENOENT);
	assert_int_equal(map(1, 0x2000, 0x2fff, PHYS, 3), 6); /* its domain is gone */
	assert_int_equal(map(2, 0x1000, 0x1fff, PHYS + 4096, 3), 0);
	assert_int_equal(peek(10, 0x1000), 2);
	/* One that cannot be left at once: MUST be rejected with UNSUPP, and nothing changes. */
	assert_int_equal(sluice_view_map(view_of(10), 0x1000, 1, SLUICE_READ, &hold, 1, &n), 0);
	assert_int_equal(attach(1, 10, 0), 2);
	assert_int_equal(peek(10, 0x1000), 2);
	sluice_view_unmap(view_of(10), &hold, 1);
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(peek(10, 0x1000), -ENOENT);
	/* Where another endpoint stays, so do its mappings; without room for a domain, all does. */
	assert_int_equal(map(1, 0x1000, 0x1fff, PHYS, 3), 0);
	assert_int_equal(attach(1, 11, 0), 0);
	assert_int_equal(attach(2, 11, 0), 0);
	assert_int_equal(peek(10, 0x1000), 1);
	assert_int_equal(peek(11, 0x1000), -ENOENT);
	assert_int_equal(attach(1, 11, 0), 0);
	assert_int_equal(attach(2, 10, 0), 0);
	assert_int_equal(peek(11, 0x1000), 1);
	assert_int_equal(detach(1, 11, 1), 0);
	assert_int_equal(attach(2, 11, 0), 0);
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(attach(3, 11, 0), 0); /* in the room of the domain that ends by it */
	assert_int_equal(attach(3, 10, 0), 0);
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(detach(3, 11, 1), 0);
	assert_int_equal(attach(2, 11, 0), 0);
	assert_int_equal(detach(1, 99, 1), 6);
	assert_int_equal(detach(1, 11, 1), 4);
	assert_int_equal(detach(3, 11, 1), 4);
	assert_int_equal(detach(2, 11, 1), 0);
	assert_int_equal(attach(1, 11, 0), 0);
	/* Without a domain there is nothing, and a report that says so. */
	assert_int_equal(detach(1, 11, 1), 0);
	assert_int_equal(peek(11, 0), -ENOENT);
}

static void mapping(void **state)
{
	uint8_t out[36] = {3};

	(void)state;
	assert_int_equal(map(1, 0, 4095, PHYS, 3), 6); /* no such domain */
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(map(1, 0, 4095, PHYS, 4), 4); /* MMIO is not offered */
	assert_int_equal(map(1, 0, 4095, PHYS, 8), 4);
	assert_int_equal(map(1, 1, 4095, PHYS, 3), 5); /* 5.13.6.5.2: not aligned: RANGE */
	assert_int_equal(map(1, 0, 4094, PHYS, 3), 5);
	assert_int_equal(map(1, 0, 4095, PHYS + 1, 3), 5);
	assert_int_equal(map(1, 4096, 4095, PHYS, 3), 4);
	assert_int_equal(map(1, 0, 0, PHYS, 3), 4);
	assert_int_equal(map(1, 0, 0x1ffffff, PHYS, 3), 5); /* outside input_range */
	assert_int_equal(map(1, 0, 8191, UINT64_MAX - 4095, 3), 5);
	assert_int_equal(map(1, 0x8000, 0x8fff, PHYS, 3), 4); /* reserved */
	assert_int_equal(map(1, 0x1f000, 0x20fff, PHYS, 3), 4);
	assert_int_equal(map(1, 0x1000, 0x2fff, PHYS, 3), 0);
	assert_int_equal(map(1, 0x1000, 0x1fff, PHYS, 3), 4); /* exists */
	assert_int_equal(map(1, 0x0, 0x1fff, PHYS, 3), 4);
	assert_int_equal(map(1, 0x0, 0x3fff, PHYS, 3), 4);
	assert_int_equal(map(1, 0x3000, 0x3fff, PHYS + 65536, 1), 0);
	assert_int_equal(peek(10, 0x1000), 1);
	assert_int_equal(peek(10, 0x2fff), 2);
	assert_int_equal(peek(10, 0x3000), 9);
	assert_int_equal(peek(10, 0xfff), -ENOENT);
	assert_int_equal(peek(10, 0x4000), -ENOENT);
	assert_int_equal(peek(11, 0x1000), -ENOENT); /* is attached to nothing */
	/* MUST NOT allow writes without the flag, nor reads where that is possible. */
	assert_int_equal(sluice_view_write(view_of(10), 0x3000, out, 1), -EACCES);
	assert_int_equal(map(1, 0x4000, 0x4fff, PHYS, 2), 0);
	assert_int_equal(sluice_view_write(view_of(10), 0x4000, out, 1), 0);
	assert_int_equal(peek(10, 0x4000), -EACCES);
	/* Memory that the guest has not. */
	assert_int_equal(map(1, 0x5000, 0x6fff, PHYS + 28672, 3), 0);
	assert_int_equal(peek(10, 0x5fff), 8);
	assert_int_equal(peek(10, 0x6000), -ERANGE);
	/* Bounded: 4 of 8 are taken. */
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(map(1, 0x40000 + i * 4096, 0x40fff + i * 4096, PHYS, 3), 0);
	assert_int_equal(map(1, 0x50000, 0x50fff, PHYS, 3), 8);
	assert_int_equal(unmap(1, 0x40000, 0x40fff, 1), 0);
	assert_int_equal(map(1, 0x50000, 0x50fff, PHYS, 3), 0);
}

/* The examples of 5.13.6.6, with pages for addresses. */
static void unmapping(void **state)
{
	(void)state;
	assert_int_equal(unmap(1, 0, 4095, 1), 6);
	assert_int_equal(attach(1, 10, 0), 0);
#define MAP(first, last)   map(1, (first)*0x1000u, (last)*0x1000u + 0xfff, PHYS, 1)
#define UNMAP(first, last) unmap(1, (first)*0x1000u, (last)*0x1000u + 0xfff, 1)
#define IS(page, what)	   assert_int_equal(peek(10, (page)*0x1000u) > 0, what)
	assert_int_equal(UNMAP(0, 4), 0); /* 1 */
	assert_int_equal(MAP(0, 7), 0);	  /* 2 */
	assert_int_equal(UNMAP(0, 7), 0);
	IS(0, 0);
	assert_int_equal(MAP(0, 4), 0); /* 3 */
	assert_int_equal(MAP(5, 7), 0);
	assert_int_equal(UNMAP(0, 7), 0);
	IS(0, 0);
	IS(5, 0);
	assert_int_equal(MAP(0, 7), 0); /* 4 */
	assert_int_equal(UNMAP(0, 4), 5);
	IS(0, 1);
	IS(7, 1);
	assert_int_equal(UNMAP(2, 9), 5);
	assert_int_equal(UNMAP(2, 3), 5);
	assert_int_equal(UNMAP(0, 7), 0);
	assert_int_equal(MAP(0, 4), 0); /* 5 */
	assert_int_equal(MAP(5, 7), 0);
	assert_int_equal(UNMAP(0, 4), 0);
	IS(0, 0);
	IS(5, 1);
	assert_int_equal(UNMAP(5, 9), 0); /* 6 */
	IS(5, 0);
	assert_int_equal(MAP(0, 4), 0); /* 7 */
	assert_int_equal(MAP(10, 14), 0);
	assert_int_equal(UNMAP(0, 14), 0);
	IS(0, 0);
	IS(10, 0);
	/* One that would split does nothing to the others. */
	assert_int_equal(MAP(0, 1), 0);
	assert_int_equal(MAP(2, 5), 0);
	assert_int_equal(UNMAP(0, 3), 5);
	IS(0, 1);
	assert_int_equal(unmap(1, 5, 5, 1), 4);
	assert_int_equal(unmap(1, 0, UINT64_MAX, 1), 0);
	IS(0, 0);
	IS(2, 0);
}

static void probing(void **state)
{
	uint8_t out[72] = {5}, in[68];
	uint32_t written;

	(void)state;
	le(out + 4, 10, 4);
	memset(in, 0xee, sizeof(in));
	assert_int_equal(sluice_viommu_request(&viommu, out, 72, in, 68, &written, 0), 0);
	assert_int_equal(written, 68);
	/* type 1, length 20, subtype 1, start, end */
	static const uint8_t first[24] = {1, 0, 20, 0, 1,    0,	   0, 0, 0, 0x80, 0, 0,
					  0, 0, 0,  0, 0xff, 0x8f, 0, 0, 0, 0,	  0, 0};
	assert_memory_equal(in, first, 24);
	assert_int_equal(in[24], 1);
	assert_int_equal(in[28], 0);
	assert_true(rig_all(in + 48, 16, 0)); /* the rest is zero */
	assert_true(rig_all(in + 64, 4, 0));
	/* Too small for the properties: none, and INVAL in the tail. */
	memset(in, 0xee, sizeof(in));
	assert_int_equal(sluice_viommu_request(&viommu, out, 72, in, 67, &written, 0), 0);
	assert_int_equal(written, 67);
	assert_true(rig_all(in, 63, 0));
	assert_int_equal(in[63], 4);
	le(out + 4, 12, 4);
	assert_int_equal(sluice_viommu_request(&viommu, out, 72, in, 68, &written, 0), 0);
	assert_int_equal(in[64], 6);
}

static void g4_malformed(void **state)
{
	uint8_t out[80] = {0}, in[4];
	uint32_t written;

	(void)state;
	assert_int_equal(attach(1, 10, 0), 0);
	for (uint32_t type = 0; type < 256; type++) {
		static const uint32_t needs[] = {0, 20, 20, 36, 28, 72};

		memset(out, 0, sizeof(out));
		out[0] = (uint8_t)type;
		if (type == 0 || type > 5) {
			assert_int_equal(request(out, 80, 0), 2);
			continue;
		}
		for (uint32_t len = 1; len < needs[type]; len++) {
			/* On the heap, so that a sanitizer sees a byte too many. */
			uint8_t *exact = malloc(len);

			memcpy(exact, out, len);
			assert_int_equal(request(exact, len, 0), 4);
			free(exact);
		}
	}
	assert_int_equal(request(out, 0, 0), 4);
	for (uint32_t room = 0; room < 4; room++) {
		assert_int_equal(sluice_viommu_request(&viommu, out, 20, in, room, &written, 0), 0);
		assert_int_equal(written, 0);
	}
}

static void faults(void **state)
{
	uint8_t report[24];

	(void)state;
	assert_false(sluice_viommu_fault(&viommu, report));
	assert_int_equal(peek(10, 0x123456), -ENOENT);
	assert_true(sluice_viommu_fault(&viommu, report));
	/* reason: domain; read, with address; endpoint 10; the address */
	static const uint8_t domain[24] = {1, 0, 0, 0, 1,    1,	   0,	 0, 10, 0, 0, 0,
					   0, 0, 0, 0, 0x56, 0x34, 0x12, 0, 0,	0, 0, 0};
	assert_memory_equal(report, domain, 24);
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(map(1, 0x1000, 0x1fff, PHYS, 1), 0);
	assert_int_equal(sluice_view_write(view_of(10), 0x1ffe, report, 1), -EACCES);
	assert_true(sluice_viommu_fault(&viommu, report));
	assert_int_equal(report[0], 2);
	assert_int_equal(report[4], 2);
	assert_false(sluice_viommu_fault(&viommu, report));
	/* A backend that asks for everything fills the queue of reports and no more. */
	struct sluice_viommu_stats stats;
	for (uint32_t i = 0; i < 1000; i++)
		(void)peek(10, 0x100000 + i * 4096);
	sluice_viommu_get_stats(&viommu, &stats);
	assert_int_equal(stats.faults_lost, 1000 - SLUICE_VIOMMU_FAULTS);
	for (uint32_t i = 0; i < SLUICE_VIOMMU_FAULTS; i++) {
		assert_true(sluice_viommu_fault(&viommu, report));
		assert_int_equal(sluice_get_le64(report + 16), 0x100000 + i * 4096);
	}
	assert_false(sluice_viommu_fault(&viommu, report));
}

static void g3_unmap_waits(void **state)
{
	struct sluice_hold hold, other;
	uint32_t n;

	(void)state;
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(MAP(0, 0), 0);
	assert_int_equal(MAP(1, 1), 0);
	assert_int_equal(MAP(2, 2), 0);
	assert_int_equal(sluice_view_map(view_of(10), 0x1000, 8, 1, &hold, 1, &n), 0);
	assert_int_equal(sluice_view_map(view_of(10), 0x1800, 8, 1, &other, 1, &n), 0);
	assert_int_equal(unmap(1, 0, 0x2fff, 77), -1);
	IS(0, 0);
	IS(1, 0);
	IS(2, 0);
	/* What is still held cannot be mapped again, nor what waits with it. */
	assert_int_equal(MAP(1, 1), 4);
	assert_int_equal(MAP(2, 2), 4);
	/* What has nothing to do with it is not kept waiting. */
	assert_int_equal(MAP(4, 4), 0);
	assert_int_equal(UNMAP(4, 4), 0);
	/* Asked again: the same answer at the same time. */
	assert_int_equal(unmap(1, 0x1000, 0x1fff, 78), -1);
	assert_int_equal(unmap(1, 0, 0xfff, 79), 0);
	sluice_view_unmap(view_of(10), &hold, 1);
	assert_int_equal(n_answered, 0);
	sluice_view_unmap(view_of(10), &other, 1);
	assert_int_equal(n_answered, 2);
	assert_int_equal(answered[0] + answered[1], 77 + 78);
	assert_int_equal(answer_status[0] | answer_status[1], 0);
	assert_int_equal(MAP(0, 2), 0);
	IS(1, 1);
}

static void g3_detach_waits(void **state)
{
	struct sluice_hold hold;
	uint32_t n;

	(void)state;
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(attach(1, 11, 0), 0);
	assert_int_equal(MAP(1, 1), 0);
	assert_int_equal(sluice_view_map(view_of(10), 0x1000, 8, 1, &hold, 1, &n), 0);
	/* The other endpoint holds nothing. */
	assert_int_equal(detach(1, 11, 5), 0);
	assert_int_equal(detach(1, 10, 6), -1);
	IS(1, 0);
	/* The number may be used again at once; the domain is another one. */
	assert_int_equal(attach(1, 11, 0), 0);
	assert_int_equal(peek(11, 0x1000), -ENOENT);
	assert_int_equal(attach(1, 10, 0), 2);
	sluice_view_unmap(view_of(10), &hold, 1);
	assert_int_equal(n_answered, 1);
	assert_int_equal(answered[0], 6);
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(peek(10, 0x1000), -ENOENT);
}

static void g5_pending_is_bounded(void **state)
{
	struct sluice_hold hold[4];
	uint32_t n;

	(void)state;
	assert_int_equal(attach(1, 10, 0), 0);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(MAP(i, i), 0);
		assert_int_equal(sluice_view_map(view_of(10), i * 0x1000, 1, 1, &hold[i], 1, &n),
				 0);
	}
	for (uint32_t i = 0; i < PENDING; i++)
		assert_int_equal(unmap(1, i * 0x1000, i * 0x1000 + 0xfff, i), -1);
	/* No room to wait: refused, and nothing is begun. */
	assert_int_equal(UNMAP(3, 3), 8);
	IS(3, 1);
	sluice_view_unmap(view_of(10), hold, 4);
	assert_int_equal(n_answered, PENDING);
	assert_int_equal(UNMAP(3, 3), 0);
}

static void the_cache_forgets(void **state)
{
	struct sluice_viommu_stats stats;

	(void)state;
	assert_int_equal(attach(1, 10, 0), 0);
	assert_int_equal(map(1, 0x1000, 0x1fff, PHYS, 1), 0);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(peek(10, 0x1000), 1);
	sluice_viommu_get_stats(&viommu, &stats);
	assert_int_equal(stats.lookups, 10);
	assert_int_equal(stats.tlb_hits, 9);
	assert_int_equal(unmap(1, 0x1000, 0x1fff, 0), 0);
	assert_int_equal(peek(10, 0x1000), -ENOENT);
	assert_int_equal(map(1, 0x1000, 0x1fff, PHYS + 4096, 1), 0);
	assert_int_equal(peek(10, 0x1000), 2);
	assert_int_equal(detach(1, 10, 0), 0);
	assert_int_equal(peek(10, 0x1000), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(attaching, setup),
		cmocka_unit_test_setup(mapping, setup),
		cmocka_unit_test_setup(unmapping, setup),
		cmocka_unit_test_setup(probing, setup),
		cmocka_unit_test_setup(g4_malformed, setup),
		cmocka_unit_test_setup(faults, setup),
		cmocka_unit_test_setup(g3_unmap_waits, setup),
		cmocka_unit_test_setup(g3_detach_waits, setup),
		cmocka_unit_test_setup(g5_pending_is_bounded, setup),
		cmocka_unit_test_setup(the_cache_forgets, setup),
	};

	return cmocka_run_group_tests_name("viommu", tests, NULL, NULL);
}
