/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_grant.c - grant tables of both formats, and a guest that writes into them
 *
 * Theory of operation: entries are held against the bits of Xen's header; then the guest changes them
 * while the device's end uses them.
 */
#include "rig.h"
#include "world.h"

#define G 4096u

static struct world world;

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grants_look_as_xen_has_them),
		cmocka_unit_test(g4_grant_tables_that_lie),
		cmocka_unit_test(g4_page_tables_that_lie),
	};

	return cmocka_run_group_tests_name("grant", tests, NULL, NULL);
}
