/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_iommu.c - the driver's end of the mechanism iommu, and a device that lies
 *
 * Theory of operation: a virtio-iommu that refuses, does not answer, and describes itself wrongly, and
 * one that counts what it is asked.
 */
#include <stdlib.h>

#include <sluice/iommu.h>
#include <sluice/place.h>

#include "rig.h"

#define G 4096u

static struct {
	uint8_t status[64];
	uint32_t calls, messages;
	uint8_t properties[64];
	uint32_t used;
} liar;

static void lie_submit(void *context, struct sluice_iommu_message *messages, uint32_t n)
{
	(void)context;
	liar.calls++;
	for (uint32_t i = 0; i < n; i++)
		messages[i].status = liar.status[liar.messages++ % 64];
}

static uint8_t lie_poll(void *context, uint64_t token)
{
	(void)context;
	(void)token;
	return SLUICE_IOMMU_UNANSWERED;
}

static uint32_t lie_probe(void *context, const uint8_t *out, uint32_t out_len, uint8_t *in,
			  uint32_t in_len)
{
	(void)context;
	assert_int_equal(out_len, 72);
	assert_int_equal(out[0], 5);
	memcpy(in, liar.properties, in_len < 64 ? in_len : 64);
	return liar.used;
}

static struct sluice_iommu lied_to;
static uint8_t lied_memory[65536];

static int lied_attach(void)
{
	static uint8_t properties[64];
	const struct sluice_iommu_config config = {.submit = lie_submit,
						   .poll = lie_poll,
						   .probe = lie_probe,
						   .first = 0x1000,
						   .last = 0xffffff,
						   .iova_memory = lied_memory,
						   .properties = properties,
						   .probe_size = 56};

	assert_true(sluice_iova_size(1, 0xfff) <= sizeof(lied_memory));
	assert_int_equal(sluice_iommu_init(&lied_to, &config), 0);
	return sluice_iommu_attach(&lied_to);
}

static void put_range(uint32_t at, uint64_t start, uint64_t last)
{
	sluice_put_le32(liar.properties + at, 1 | 20u << 16);
	sluice_put_le32(liar.properties + at + 4, 77); /* a subtype that nobody knows: reserved */
	sluice_put_le64(liar.properties + at + 8, start);
	sluice_put_le64(liar.properties + at + 16, last);
}

static uint64_t most(uint64_t bytes)
{
	struct sluice_piece piece = {0x100000, bytes};
	struct sluice_span span = {.pieces = &piece, .n = 1, .access = 1};

	return sluice_share_spans(&lied_to.share, &span, 1) ? 0 : span.dev;
}

static void g4_an_iommu_that_lies(void **state)
{
	struct sluice_piece piece = {0x100000, G};
	struct sluice_span span = {.pieces = &piece, .n = 1, .access = SLUICE_READ};
	struct sluice_span two[2];
	uint64_t dev, granules;

	(void)state;
	memset(&liar, 0, sizeof(liar));
	liar.used = 60;
	/* PROBE: ranges in any order, over each other, over the ends; only what is left is used. */
	put_range(0, 0x800000, 0xfffffff);
	put_range(24, 0, 0x3fffff);
	assert_int_equal(lied_attach(), 0);
	dev = most(0x400000);
	assert_int_equal(dev, 0x400000);
	assert_int_equal(most(G), 0);
	/* All of it reserved. */
	put_range(24, 0, UINT64_MAX);
	assert_int_equal(lied_attach(), 0);
	assert_int_equal(most(G), 0);
	/* Nonsense. */
	put_range(24, 5, 4);
	assert_int_equal(lied_attach(), -EIO);
	put_range(24, 4, 5);
	sluice_put_le32(liar.properties + 24, 1 | 19u << 16); /* too short */
	assert_int_equal(lied_attach(), -EIO);
	sluice_put_le32(liar.properties + 24, 1 | 400u << 16); /* over the end */
	assert_int_equal(lied_attach(), -EIO);
	sluice_put_le32(liar.properties + 24, 9 | 4000u << 16);
	assert_int_equal(lied_attach(), -EIO);
	sluice_put_le32(liar.properties + 24, 9 | 28u << 16); /* unknown: skipped */
	assert_int_equal(lied_attach(), 0);
	sluice_put_le32(liar.properties + 24, 0x8001 | 20u << 16); /* reserved bits: ignored */
	assert_int_equal(lied_attach(), 0);
	liar.used = 56;
	assert_int_equal(lied_attach(), -EIO);
	liar.used = 60;
	liar.properties[56] = 3;
	assert_int_equal(lied_attach(), -EIO);
	memset(liar.properties, 0, sizeof(liar.properties));
	/* Statuses: ATTACH, then MAP, then UNMAP. */
	liar.messages = 0;
	liar.status[0] = 6;
	assert_int_equal(lied_attach(), -EIO);
	liar.messages = 0;
	liar.status[0] = 0;
	liar.status[1] = 8; /* MAP: NOMEM */
	assert_int_equal(lied_attach(), 0);
	assert_int_equal(sluice_share_spans(&lied_to.share, &span, 1), -ENOSPC);
	liar.status[liar.messages] = 99;
	assert_int_equal(sluice_share_spans(&lied_to.share, &span, 1), -EIO);
	/* MAP refused, and so is the UNMAP: it is to be regarded as shared. */
	granules = lied_to.share.stats.granules;
	liar.status[liar.messages] = 1;
	liar.status[liar.messages + 1] = 1;
	assert_int_equal(sluice_share_spans(&lied_to.share, &span, 1), -EBUSY);
	assert_int_equal(span.result, -EBUSY);
	dev = span.dev;
	assert_int_not_equal(most(G), dev);
	assert_int_equal(sluice_share_end(&lied_to.share, &span, 1), 0);
	assert_int_equal(lied_to.share.stats.granules, granules + 1); /* the one in between */
	/* UNMAP not answered: the address is not used again until it is. */
	assert_int_equal(sluice_share_spans(&lied_to.share, &span, 1), 0);
	liar.status[liar.messages] = SLUICE_IOMMU_UNANSWERED;
	assert_int_equal(sluice_share_end(&lied_to.share, &span, 1), -EBUSY);
	for (uint32_t i = 0; i < 20; i++)
		assert_int_not_equal(most(G), span.dev);
	memset(liar.status, 0, sizeof(liar.status));
	assert_int_equal(sluice_share_end(&lied_to.share, &span, 1), 0);
	/* Of two, one. */
	two[0] = two[1] = span;
	assert_int_equal(sluice_share_spans(&lied_to.share, two, 2), 0);
	liar.status[(liar.messages + 1) % 64] = 5;
	assert_int_equal(sluice_share_end(&lied_to.share, two, 2), -EBUSY);
	assert_int_equal(two[0].result, 0);
	assert_int_equal(two[1].result, -EBUSY);
	memset(liar.status, 0, sizeof(liar.status));
	assert_int_equal(sluice_share_end(&lied_to.share, two + 1, 1), 0);
}

/* One MAP for each piece, joined where memory goes on; one trip for all. */
static void requests_are_few(void **state)
{
	struct sluice_piece pieces[4] = {
		{0x100000, G}, {0x101000, 2 * G}, {0x200000, G}, {0x300000, G}};
	struct sluice_span span = {.pieces = pieces, .n = 4, .access = SLUICE_READ};
	struct sluice_span many[SLUICE_IOMMU_BATCH];

	(void)state;
	memset(&liar, 0, sizeof(liar));
	liar.used = 60;
	assert_int_equal(lied_attach(), 0);
	liar.calls = liar.messages = 0;
	assert_int_equal(sluice_share_spans(&lied_to.share, &span, 1), 0);
	assert_int_equal(liar.calls, 1);
	assert_int_equal(liar.messages, 3);
	assert_int_equal(sluice_share_end(&lied_to.share, &span, 1), 0);
	assert_int_equal(liar.calls, 2);
	assert_int_equal(liar.messages, 4);
	for (uint32_t i = 0; i < SLUICE_IOMMU_BATCH; i++)
		many[i] = (struct sluice_span){.pieces = pieces, .n = 1, .access = SLUICE_READ};
	assert_int_equal(sluice_share_spans(&lied_to.share, many, SLUICE_IOMMU_BATCH), 0);
	assert_int_equal(sluice_share_end(&lied_to.share, many, SLUICE_IOMMU_BATCH), 0);
	assert_int_equal(liar.calls, 4);
}

/* G3: of a list that cannot be shared, what is in somebody's hands lingers, and the rest is free. */
static uint64_t given_back;

static void ended(void *context, uint64_t orig, uint64_t len)
{
	(void)context;
	assert_int_equal(len, G);
	given_back = orig;
}

static void g3_a_list_that_was_half_mapped(void **state)
{
	static struct sluice_placed records[8];
	static struct sluice_place_cpu cpu;
	static struct sluice_place place;
	struct sluice_place_config config = {.share = &lied_to.share,
					     .records = records,
					     .n_records = 8,
					     .cpus = &cpu,
					     .n_cpus = 1,
					     .ended = ended};
	uint8_t *buffers = aligned_alloc(G, 8 * G);
	struct sluice_sg sg[4];
	struct rig rig;

	(void)state;
	assert_non_null(buffers);
	memset(&liar, 0, sizeof(liar));
	liar.used = 60;
	assert_int_equal(lied_attach(), 0);
	rig_open(&rig, 2u << 20);
	assert_int_equal(sluice_place_init(&place, &rig.dma, &config), 0);
	rig.dma.policy.kind = SLUICE_POLICY_SHARE;
	for (uint32_t i = 0; i < 4; i++)
		sg[i] = (struct sluice_sg){.orig = (uintptr_t)(buffers + 2 * i * G), .len = G};
	/* Four MAPs, of which the third fails; then four UNMAPs, of which the second is not answered. */
	liar.messages = 0;
	liar.status[2] = SLUICE_VIOMMU_S_NOMEM;
	liar.status[5] = SLUICE_IOMMU_UNANSWERED;
	assert_int_equal(sluice_dma_map_sg(&rig.dma, sg, 4, SLUICE_TO_DEVICE), -EBUSY);
	assert_int_equal(liar.messages, 8);
	assert_int_equal(sluice_dma_live(&rig.dma), 0);
	assert_int_equal(lied_to.share.stats.granules, 1);
	assert_int_equal(given_back, 0);
	/* All records but one are there again. */
	memset(liar.status, 0, sizeof(liar.status));
	assert_int_equal(sluice_place_retry(&rig.dma), 0);
	assert_int_equal(given_back, sg[1].orig);
	assert_int_equal(lied_to.share.stats.granules, 0);
	assert_int_equal(sluice_dma_map_sg(&rig.dma, sg, 4, SLUICE_TO_DEVICE), 0);
	assert_int_equal(sluice_dma_unmap_sg(&rig.dma, sg, 4, SLUICE_TO_DEVICE, 0), 0);
	rig_close(&rig);
	free(buffers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g4_an_iommu_that_lies),
		cmocka_unit_test(requests_are_few),
		cmocka_unit_test(g3_a_list_that_was_half_mapped),
	};

	return cmocka_run_group_tests_name("iommu", tests, NULL, NULL);
}
