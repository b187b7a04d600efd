/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_mechanisms.c - what is particular to one mechanism, and the other side that lies
 *
 * Theory of operation: windows and the decision table of "does this device go through the DMA API";
 * conversion and its failures; grant tables of both formats that a guest writes into while they are
 * used; a virtio-iommu that refuses, does not answer, and describes itself wrongly; numbers.
 */
#include <stdio.h>
#include <stdlib.h>

#include <sluice/decrypt.h>

#include "rig.h"
#include "world.h"

#define G 4096u

static struct world world;

/* Window. */

static int switched, switch_answer;

static int set_window(void *context, bool on)
{
	(void)context;
	switched = on ? 1 : 2;
	return switch_answer;
}

static void windows_translate(void **state)
{
	struct sluice_bank banks[3] = {{0x1000, 0x1000, 0x1000},	  /* identity */
				       {0x10000, 0x80010000, 0x10000},	  /* an offset */
				       {0x100000, 0x40000000, 0x100000}}; /* a bank of its own */
	struct sluice_piece piece = {0x10000, G};
	struct sluice_span span = {.pieces = &piece, .n = 1, .access = SLUICE_READ};
	struct sluice_window window;

	(void)state;
	assert_int_equal(sluice_window_init(&window, banks, 3, NULL, NULL), 0);
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), 0);
	assert_int_equal(span.dev, 0x80010000);
	assert_int_equal(sluice_share_end(&window.share, &span, 1), 0);
	piece.orig = 0x1000;
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), 0);
	assert_int_equal(span.dev, 0x1000);
	assert_int_equal(sluice_share_end(&window.share, &span, 1), 0);
	assert_int_equal(sluice_share_end(&window.share, &span, 1), -EINVAL);
	/* Outside, and over the end of a bank. */
	piece.orig = 0x2000;
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), -ERANGE);
	piece = (struct sluice_piece){0x1f000, 2 * G};
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), -ERANGE);
	assert_int_equal(sluice_window_switch(&window, false), -EOPNOTSUPP);
	/* Banks that overlap, on either side, or are none. */
	banks[1].dev = 0x1800;
	assert_int_equal(sluice_window_init(&window, banks, 3, NULL, NULL), -EINVAL);
	banks[1].dev = 0x80010000;
	banks[1].orig = 0x1fff;
	assert_int_equal(sluice_window_init(&window, banks, 3, NULL, NULL), -EINVAL);
	banks[1].orig = 0x10000;
	banks[2].bytes = 0;
	assert_int_equal(sluice_window_init(&window, banks, 3, NULL, NULL), -EINVAL);
	banks[2].bytes = UINT64_MAX;
	assert_int_equal(sluice_window_init(&window, banks, 3, NULL, NULL), -EINVAL);
	assert_int_equal(sluice_window_init(&window, banks, 0, NULL, NULL), -EINVAL);
}

static void a_bypass_is_switched(void **state)
{
	struct sluice_bank bank = {0, 0, 1u << 20};
	struct sluice_piece piece = {0x10000, G};
	struct sluice_span span = {.pieces = &piece, .n = 1, .access = SLUICE_READ};
	struct sluice_window window;

	(void)state;
	switch_answer = 0;
	assert_int_equal(sluice_window_init(&window, &bank, 1, set_window, NULL), 0);
	/* Off at first. */
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), -EOPNOTSUPP);
	assert_int_equal(sluice_window_switch(&window, true), 0);
	assert_int_equal(switched, 1);
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), 0);
	/* Not off while something is shared; nothing new from then on. */
	assert_int_equal(sluice_window_switch(&window, false), -EBUSY);
	assert_int_equal(switched, 1);
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), -EOPNOTSUPP);
	assert_int_equal(sluice_share_end(&window.share, &span, 1), 0);
	switch_answer = -EIO;
	assert_int_equal(sluice_window_switch(&window, false), -EIO);
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), 0); /* still on */
	assert_int_equal(sluice_share_end(&window.share, &span, 1), 0);
	switch_answer = 0;
	assert_int_equal(sluice_window_switch(&window, false), 0);
	assert_int_equal(switched, 2);
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), -EOPNOTSUPP);
}

static void g1_a_window_that_is_off_reaches_nothing(void **state)
{
	struct sluice_hold hold;
	uint8_t byte;
	uint32_t n;

	(void)state;
	assert_true(world_open(&world, WORLD_WINDOW));
	assert_int_equal(sluice_view_map(world.view, world.bank[0].dev, 1, 1, &hold, 1, &n), 0);
	/* Held memory stays, and the guest is told. */
	assert_int_equal(sluice_window_view_switch(&world.window_view, false), -EBUSY);
	assert_int_equal(sluice_view_read(world.view, world.bank[0].dev, &byte, 1), -ENOENT);
	sluice_view_unmap(world.view, &hold, 1);
	assert_int_equal(sluice_window_view_switch(&world.window_view, false), 0);
	assert_int_equal(sluice_view_read(world.view, world.bank[0].dev, &byte, 1), -ENOENT);
	assert_int_equal(sluice_window_view_switch(&world.window_view, true), 0);
	assert_int_equal(sluice_view_read(world.view, world.bank[0].dev, &byte, 1), 0);
	assert_int_equal(sluice_view_read(world.view, world.bank[0].dev - 1, &byte, 1), -ENOENT);
	world_close(&world);
}

/* docs/SHARE.md, "Does this device go through the DMA API?": all 128 combinations. */
static void g6_who_goes_through_the_dma_api(void **state)
{
	(void)state;
	for (uint32_t bits = 0; bits < 128; bits++) {
		const struct sluice_virtio_facts f = {
			.access_platform = bits & 1,
			.version_1 = bits & 2,
			.platform_forces = bits & 4,
			.dt_restricted = bits & 8,
			.dt_iommu = bits & 16,
			.dt_bypass = bits & 32,
			.window_available = bits & 64,
		};
		enum sluice_access expected;
		const char *why = NULL;

		if (!f.access_platform)
			expected = f.platform_forces || f.dt_restricted ? SLUICE_ACCESS_REFUSED
									: SLUICE_ACCESS_RAW;
		else if (f.platform_forces || f.dt_restricted)
			expected = SLUICE_ACCESS_CONFINED;
		else if (!f.window_available)
			expected = SLUICE_ACCESS_CONFINED;
		else
			expected = f.dt_iommu && !f.dt_bypass ? SLUICE_ACCESS_CONFINED
							      : SLUICE_ACCESS_DIRECT;
		assert_int_equal(sluice_virtio_access(&f, &why), expected);
		assert_non_null(why);
		/* What is refused says what to do. */
		if (expected == SLUICE_ACCESS_REFUSED)
			assert_non_null(strstr(why, "iommu_platform=on"));
		assert_int_equal(sluice_virtio_access(&f, NULL), expected);
	}
}

/* Decrypt. */

static struct {
	struct sluice_decrypt_view view;
	struct sluice_memory memory;
	uint32_t chunks[8], out, fail_shared, fail_private;
	uint8_t *guest;
} coco;

static void *coco_get(void *context)
{
	(void)context;
	return coco.out < 8 ? coco.guest + coco.out++ * 16384u : NULL;
}

static void coco_put(void *context, void *chunk)
{
	(void)context;
	/* Whoever has it next puts a secret there. */
	memset(chunk, 0x5e, 16384);
}

static int coco_convert(void *context, void *cpu, uint64_t bytes, bool shared)
{
	uint32_t *fail = shared ? &coco.fail_shared : &coco.fail_private;

	(void)context;
	if (*fail && !--*fail)
		return -EIO;
	/* What was there is not there any more. */
	memset(cpu, 0xcc, bytes);
	return sluice_decrypt_view_convert(
		&coco.view, 0x100000 + (uint64_t)((uint8_t *)cpu - coco.guest), bytes, shared);
}

static void g1_conversion(void **state)
{
	struct sluice_decrypt_config config = {.get = coco_get,
					       .put = coco_put,
					       .convert = coco_convert,
					       .chunk_bytes = 16384,
					       .dev_offset = UINT64_C(1) << 47,
					       .reserve = 3};
	struct sluice_decrypt_stats stats;
	struct sluice_decrypt decrypt;
	struct sluice_hold hold;
	uint8_t got[16384], *chunk, *chunks[4];
	uint64_t dev;
	uint32_t n;

	(void)state;
	memset(&coco, 0, sizeof(coco));
	coco.guest = aligned_alloc(4096, 8 * 16384);
	memset(coco.guest, 0x5e, 8 * 16384);
	coco.memory = (struct sluice_memory){0x100000, 8 * 16384, coco.guest};
	assert_int_equal(sluice_decrypt_view_init(&coco.view, coco.chunks, 8, 0x100000, 16384,
						  config.dev_offset, &coco.memory, 1),
			 0);
	config.reserve = 99;
	assert_int_equal(sluice_decrypt_init(&decrypt, &config), -EINVAL);
	config.reserve = 3;
	assert_int_equal(sluice_decrypt_init(&decrypt, &config), 0);
	/* Nothing ahead of need yet. */
	assert_null(sluice_decrypt_take(&decrypt));
	assert_int_equal(sluice_decrypt_refill(&decrypt), 3);
	chunk = sluice_decrypt_take(&decrypt);
	assert_non_null(chunk);
	assert_true(rig_all(chunk, 16384, 0));
	assert_int_equal(decrypt.share.ops->open(&decrypt.share, chunk, 16384, &dev), 0);
	/* For the device it is at its guest-physical address with the shared bit. */
	dev = dev - (uint64_t)(uintptr_t)coco.guest + 0x100000;
	memset(chunk, 0x21, 16384);
	assert_int_equal(sluice_view_read(&coco.view.view, dev, got, 16384), 0);
	assert_true(rig_all(got, 16384, 0x21));
	/* The private neighbours are not there, and not without the bit. */
	assert_int_equal(sluice_view_read(&coco.view.view,
					  (UINT64_C(1) << 47) + 0x100000 + 7 * 16384, got, 1),
			 -ENOENT);
	assert_int_equal(sluice_view_read(&coco.view.view, dev - config.dev_offset, got, 1),
			 -ENOENT);
	/* Given back: kept for the next while there is room. */
	memset(chunk, 0, 16384);
	assert_int_equal(sluice_decrypt_give(&decrypt, chunk), 0);
	/* A chunk that the backend holds cannot be made private: lost, counted, never put. */
	for (uint32_t i = 0; i < 3; i++)
		chunks[i] = sluice_decrypt_take(&decrypt);
	assert_int_equal(sluice_decrypt_refill(&decrypt), 3);
	assert_int_equal(
		sluice_view_map(&coco.view.view,
				(UINT64_C(1) << 47) + 0x100000 + (uint64_t)(chunks[0] - coco.guest),
				1, SLUICE_READ, &hold, 1, &n),
		0);
	assert_int_equal(sluice_decrypt_give(&decrypt, chunks[0]), -EBUSY);
	sluice_decrypt_get_stats(&decrypt, &stats);
	assert_int_equal(stats.lost, 1);
	assert_int_not_equal(*(uint8_t *)hold.cpu, 0x5e);
	sluice_view_unmap(&coco.view.view, &hold, 1);
	/* Conversion fails: made private again, or lost; the reserve is as it was. */
	assert_int_equal(sluice_decrypt_give(&decrypt, chunks[1]), 0);
	coco.fail_private = 1;
	assert_int_equal(sluice_decrypt_give(&decrypt, chunks[2]), -EIO);
	(void)sluice_decrypt_take(&decrypt);
	coco.fail_shared = 1;
	assert_int_equal(sluice_decrypt_refill(&decrypt), 2);
	assert_int_equal(sluice_decrypt_end(&decrypt), 0);
	sluice_decrypt_get_stats(&decrypt, &stats);
	assert_int_equal(stats.lost, 2);
	assert_int_equal(stats.failed, 1);
	/* Of 7 converted, 2 are lost, 1 is still taken, and one failed and came back. */
	assert_int_equal(stats.converted, 6);
	assert_int_equal(stats.returned, 4);
	free(coco.guest);
}

/* Grants. */

static uint64_t share_one(uint32_t access)
{
	struct sluice_piece piece = {(uintptr_t)world.buffers, G};
	struct sluice_span span = {.pieces = &piece, .n = 1, .access = access};

	assert_int_equal(sluice_share_spans(world.share, &span, 1), 0);
	return span.dev;
}

static void grants_look_as_xen_has_them(void **state)
{
	struct sluice_grant_entry *entry;
	struct sluice_hold hold;
	uint64_t dev, frame;
	uint32_t n;

	(void)state;
	assert_true(world_open(&world, WORLD_GRANT));
	frame = world_phys(&world, world.buffers) >> 12;
	dev = share_one(SLUICE_READ);
	assert_int_equal(dev >> 63, 1);
	entry = world.grant.config.entries + ((dev & ~SLUICE_GRANT_ADDR) >> 12);
	assert_int_equal(entry->word, 1 | 4 | WORLD_DOMID << 16);
	assert_int_equal(entry->frame, frame);
	dev = share_one(SLUICE_WRITE);
	entry = world.grant.config.entries + ((dev & ~SLUICE_GRANT_ADDR) >> 12);
	assert_int_equal(entry->word, 1 | WORLD_DOMID << 16);
	assert_int_equal(sluice_view_map(world.view, dev, 1, SLUICE_READ, &hold, 1, &n), 0);
	assert_int_equal(entry->word, 1 | 8 | WORLD_DOMID << 16);
	sluice_view_unmap(world.view, &hold, 1);
	assert_int_equal(sluice_view_map(world.view, dev, 1, SLUICE_WRITE, &hold, 1, &n), 0);
	assert_int_equal(entry->word, 1 | 8 | 16 | WORLD_DOMID << 16);
	sluice_view_unmap(world.view, &hold, 1);
	assert_int_equal(entry->word, 1 | WORLD_DOMID << 16);
	world_close(&world);
}

static void g4_grant_tables_that_lie(void **state)
{
	struct sluice_grant_entry *entry;
	struct sluice_hold hold;
	uint64_t dev;
	uint32_t n, good;
	uint8_t byte = 0;

	(void)state;
	assert_true(world_open(&world, WORLD_GRANT));
	dev = share_one(SLUICE_READ | SLUICE_WRITE);
	entry = world.grant.config.entries + ((dev & ~SLUICE_GRANT_ADDR) >> 12);
	good = entry->word;
	/* Nobody's, somebody else's, a type that is none, and a frame that does not exist. */
	entry->word = 0;
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ENOENT);
	entry->word = good + 0x10000;
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ENOENT);
	for (uint32_t type = 2; type < 4; type++) {
		entry->word = (good & ~3u) | type;
		assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ENOENT);
	}
	entry->word = good;
	entry->frame = UINT32_MAX;
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ERANGE);
	assert_int_equal(entry->word, good); /* the marks are gone again */
	entry->frame = (uint32_t)((WORLD_PHYS + WORLD_BYTES) >> 12);
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ERANGE);
	entry->frame = (uint32_t)(world_phys(&world, world.buffers) >> 12);
	/* Turned into another frame, read-only, or nothing while it is held: what is held stays. */
	assert_int_equal(sluice_view_map(world.view, dev, G, SLUICE_WRITE, &hold, 1, &n), 0);
	assert_ptr_equal(hold.cpu, world.buffers);
	entry->frame++;
	entry->word |= SLUICE_GTF_READONLY;
	assert_int_equal(sluice_view_write(world.view, dev, "x", 1), 0);
	assert_int_equal(world.buffers[0], 'x');
	entry->word = 0;
	memset(hold.cpu, 0x42, G);
	sluice_view_unmap(world.view, &hold, 1);
	assert_true(rig_all(world.buffers, G, 0x42));
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ENOENT);
	/* References that are none. */
	assert_int_equal(sluice_view_read(world.view, SLUICE_GRANT_ADDR, &byte, 1), -ENOENT);
	assert_int_equal(
		sluice_view_read(world.view, SLUICE_GRANT_ADDR | UINT64_C(1) << 50, &byte, 1),
		-ENOENT);
	assert_int_equal(sluice_view_read(world.view, dev & ~SLUICE_GRANT_ADDR, &byte, 1), -ENOENT);
	/* The other way round: a table in which an entry is always in use keeps only its own. */
	struct sluice_span span = {.dev = dev, .bytes = G};
	entry->word = good | SLUICE_GTF_READING;
	assert_int_equal(sluice_share_end(world.share, &span, 1), -EBUSY);
	assert_int_equal(sluice_share_end(world.share, &span, 1), -EBUSY);
	assert_int_not_equal(share_one(SLUICE_READ), dev);
	entry->word = 0xdead0000;
	assert_int_equal(sluice_share_end(world.share, &span, 1), 0);
	assert_int_equal(entry->word, 0);
	world_close(&world);
}

static void g4_page_tables_that_lie(void **state)
{
	struct sluice_pt_entry *leaf, *root, *middle, old;
	uint64_t dev, frames = (WORLD_PHYS + WORLD_BYTES) >> 12;
	struct sluice_hold hold;
	uint8_t byte = 0;
	uint32_t n;

	(void)state;
	assert_true(world_open(&world, WORLD_PT));
	dev = share_one(SLUICE_READ);
	root = world.pt.config.tables;
	middle = root + 512;
	leaf = world.pt.leaves + (dev >> 12);
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), 0);
	/* A top entry that is none, has bits that mean nothing, or leads out of memory or to itself. */
	const struct sluice_pt_entry tops[] = {
		{0, 0},
		{root->low | 32, root->high},
		{root->low & ~1u, root->high},
		{root->low, 1u << 20},
		{(uint32_t)(frames << 12) | 1, 0},
		{0xfffff001, 0xfffff},
	};
	for (size_t i = 0; i < sizeof(tops) / sizeof(tops[0]); i++) {
		old = *root;
		*root = tops[i];
		assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ENOENT);
		*root = old;
		old = middle[dev >> 21];
		middle[dev >> 21] = tops[i];
		if (i != 1 && i != 2)
			assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ENOENT);
		middle[dev >> 21] = old;
	}
	old = *root;
	root->low = (uint32_t)world.pt.config.tables_phys | 1; /* its own table once more */
	(void)sluice_view_read(world.view, dev, &byte, 1);
	(void)sluice_view_read(world.view, 0, &byte, 1);
	*root = old;
	/* The last level: out of memory, bits above 52. */
	old = *leaf;
	leaf->high = 0xfffff;
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ERANGE);
	leaf->high = 1u << 20;
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ENOENT);
	*leaf = old;
	assert_int_equal(sluice_view_write(world.view, dev, &byte, 1), -EACCES);
	/* Changed while it is held. */
	assert_int_equal(sluice_view_map(world.view, dev, G, SLUICE_READ, &hold, 1, &n), 0);
	leaf->low = 0xfffff007;
	leaf->high = 0xfffff;
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), 0);
	assert_int_equal(sluice_view_write(world.view, dev, &byte, 1), -EACCES);
	leaf->low = 0;
	assert_int_equal(sluice_view_read(world.view, dev, &byte, 1), -ENOENT);
	sluice_view_unmap(world.view, &hold, 1);
	assert_int_equal(leaf->low, 0);
	world_close(&world);
}

/* The driver's end of the iommu against a device that lies. */

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

/* Costs: a line through two points, and what follows from two lines. */
static void costs_decide(void **state)
{
	static struct sluice_costs costs;
	struct sluice_policy policy = {.kind = SLUICE_POLICY_AUTO, .costs = &costs};

	(void)state;
	memset(&costs, 0, sizeof(costs));
	memset(costs.cut, 0xff, sizeof(costs.cut));
	assert_int_equal(sluice_policy_route(&policy, 0, 1u << 20, 1, false, true),
			 SLUICE_ROUTE_BOUNCE); /* not known */
	for (uint32_t i = 0; i < SLUICE_COST_POINTS; i++) {
		uint64_t len = UINT64_C(64) << i;

		/* 1000 + len / 16 against 11000 + len / 64: even at 213333 bytes. */
		for (uint32_t phase = 0; phase < 2; phase++) {
			sluice_costs_set(&costs, costs.bounce[1], (enum sluice_phase)phase, i,
					 500 + len / 32);
			sluice_costs_set(&costs, costs.share[0], (enum sluice_phase)phase, i,
					 5500 + len / 128);
		}
	}
	assert_in_range(sluice_costs_break_even(&costs, false, 1), 213300, 213400);
	assert_int_equal(sluice_policy_route(&policy, 0, 52 * G, 1, false, true),
			 SLUICE_ROUTE_BOUNCE);
	assert_int_equal(sluice_policy_route(&policy, 0, 53 * G, 1, false, true),
			 SLUICE_ROUTE_SHARE);
	/* The other direction and split ones have no figures. */
	assert_int_equal(sluice_policy_route(&policy, 0, 53 * G, 2, false, true),
			 SLUICE_ROUTE_BOUNCE);
	assert_int_equal(sluice_policy_route(&policy, 1, 53 * G, 1, false, true),
			 SLUICE_ROUTE_BOUNCE);
	/* Sharing gets four times dearer: the tables follow. */
	for (uint32_t i = 0; i < 2000; i++) {
		uint64_t len = (1 + i % 256) * G;

		for (uint32_t phase = 0; phase < 2; phase++)
			sluice_costs_learn(&costs, costs.share[0], (enum sluice_phase)phase, len,
					   4 * (5500 + len / 128));
	}
	assert_int_equal(sluice_policy_route(&policy, 0, 100 * G, 1, false, true),
			 SLUICE_ROUTE_BOUNCE);
	/* One outlier moves nothing much. */
	uint64_t before = sluice_costs_of(costs.bounce[1], 64 * G);
	sluice_costs_learn(&costs, costs.bounce[1], SLUICE_PHASE_MAP, 64 * G, UINT32_MAX);
	assert_true(sluice_costs_of(costs.bounce[1], 64 * G) <= before * 9 / 8);
}

/* A partial granule is never shared, whatever the policy. */
static void g2_routes(void **state)
{
	struct sluice_policy policy = {.kind = SLUICE_POLICY_SHARE};

	(void)state;
	for (uint64_t orig = 0; orig < 2 * G; orig += 37) {
		for (uint64_t len = 1; len < 4 * G; len += 61) {
			uint64_t first = (orig + G - 1) / G * G;
			enum sluice_route route =
				sluice_policy_route(&policy, orig, len, 0, false, true);

			if (orig % G == 0 && len % G == 0)
				assert_int_equal(route, SLUICE_ROUTE_SHARE);
			else if (orig + len >= first + G)
				assert_int_equal(route, SLUICE_ROUTE_SPLIT);
			else
				assert_int_equal(route, SLUICE_ROUTE_BOUNCE);
			if (route == SLUICE_ROUTE_SPLIT)
				assert_int_equal(
					sluice_policy_route(&policy, orig, len, 0, false, false),
					SLUICE_ROUTE_BOUNCE);
		}
	}
	assert_int_equal(sluice_policy_route(&policy, UINT64_MAX - 2 * G, G, 0, false, true),
			 SLUICE_ROUTE_BOUNCE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(windows_translate),
		cmocka_unit_test(a_bypass_is_switched),
		cmocka_unit_test(g1_a_window_that_is_off_reaches_nothing),
		cmocka_unit_test(g6_who_goes_through_the_dma_api),
		cmocka_unit_test(g1_conversion),
		cmocka_unit_test(grants_look_as_xen_has_them),
		cmocka_unit_test(g4_grant_tables_that_lie),
		cmocka_unit_test(g4_page_tables_that_lie),
		cmocka_unit_test(g4_an_iommu_that_lies),
		cmocka_unit_test(requests_are_few),
		cmocka_unit_test(costs_decide),
		cmocka_unit_test(g2_routes),
	};

	return cmocka_run_group_tests_name("mechanisms", tests, NULL, NULL);
}
