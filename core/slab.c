/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * slab.c - slots smaller than a granule
 *
 * Theory of operation
 * -------------------
 * A slab is a run of granules cut into equal slots without remainder; which of them are free is a
 * bit each in its first granule's private data. Slabs that have both free and taken slots stand in
 * a list for each class and are used first, so that few slabs are open at a time. One slab of each
 * class is kept when its last slot comes back, so that a driver which maps one small buffer at a
 * time does not build and tear down a slab for each; it is given up as soon as somebody needs the
 * room.
 *
 * Sizes are multiples of 256 bytes, 512 apart above 2 KiB: at most a fifth of a slot is lost from
 * 1 KiB on. Why these: docs/SURVEY.md (headers and descriptor tables are the most frequent mapping
 * of virtio disks, packets are 1.5 KiB, between 2 and 4 KiB there is little). Each slot is
 * aligned to the largest power of two that divides its size.
 *
 * Bound of a call: one bit scan, one list operation, at most one run taken or released.
 */
#include "internal.h"

const struct sluice_slab_shape sluice_slab_shapes[SLUICE_POOL_CLASSES] = {
	{1, 1, 16, 0, 256},	{2, 1, 8, 32768, 512},	 {3, 3, 16, 21846, 768},
	{4, 2, 8, 16384, 1024}, {5, 5, 16, 13108, 1280}, {6, 3, 8, 10923, 1536},
	{7, 7, 16, 9363, 1792}, {8, 4, 8, 8192, 2048},	 {10, 5, 8, 6554, 2560},
	{12, 3, 4, 5462, 3072}, {14, 7, 8, 4682, 3584},
};

const uint8_t sluice_kind_by_units[GRANULE_UNITS + 1] = {0, 0, 1, 2, 3,	 4,  5,	 6, 7,
							 8, 8, 9, 9, 10, 10, 11, 11};

#define EIGHT_RUNS(n)                                                                              \
	16 * (n), 16 * (n) + 16, 16 * (n) + 32, 16 * (n) + 48, 16 * (n) + 64, 16 * (n) + 80,       \
		16 * (n) + 96, 16 * (n) + 112
const uint16_t sluice_kind_units[NO_SLOT + 1] = {
	1,
	2,
	3,
	4,
	5,
	6,
	7,
	8,
	10,
	12,
	14,
	EIGHT_RUNS(1),
	EIGHT_RUNS(9),
	EIGHT_RUNS(17),
	EIGHT_RUNS(25),
	EIGHT_RUNS(33),
	EIGHT_RUNS(41),
	EIGHT_RUNS(49),
	EIGHT_RUNS(57),
};
_Static_assert(SLUICE_POOL_CLASSES == 11 && CACHE_RUNS == 64, "the table has as many");

#define classes sluice_slab_shapes

static void slab_link(struct sluice_pool *pool, uint32_t class, uint32_t g)
{
	struct sluice_granule *slab = granule_of(pool, g);

	slab->prev = 0;
	slab->next = pool->partial[class];
	if (slab->next)
		granule_of(pool, slab->next - 1)->prev = g + 1;
	pool->partial[class] = g + 1;
}

static void slab_unlink(struct sluice_pool *pool, uint32_t class, uint32_t g)
{
	struct sluice_granule *slab = granule_of(pool, g);

	if (slab->next)
		granule_of(pool, slab->next - 1)->prev = slab->prev;
	if (slab->prev)
		granule_of(pool, slab->prev - 1)->next = slab->next;
	else
		pool->partial[class] = slab->next;
}

static uint32_t all_free(uint32_t class)
{
	return (1u << classes[class].slots) - 1;
}

static void give_up(struct sluice_pool *pool, uint32_t class, uint32_t g)
{
	pool->stats.slabs -= (uint64_t)classes[class].granules << SLUICE_GRANULE_SHIFT;
	sluice_runs_release(pool, g);
}

/* Cut a new slab; all its slots are free, as their records say already. */
static uint32_t cut(struct sluice_pool *pool, uint32_t class)
{
	uint32_t link = sluice_runs_take(pool, classes[class].granules, 1, KIND_SLAB, class);

	if (!link)
		return 0;
	for (uint32_t i = 0; i < classes[class].granules; i++)
		note_kind(pool, link - 1 + i, class);
	granule_of(pool, link - 1)->free_slots = all_free(class);
	pool->stats.slabs += (uint64_t)classes[class].granules << SLUICE_GRANULE_SHIFT;
	return link;
}

bool sluice_slab_take(struct sluice_pool *pool, uint32_t class, uint32_t max, uint32_t *g,
		      uint32_t *taken)
{
	struct sluice_granule *slab;
	uint32_t link = pool->partial[class];

	if (!link) {
		link = pool->empty[class];
		if (link)
			pool->empty[class] = 0;
		else
			link = cut(pool, class);
		if (!link)
			return false;
		slab_link(pool, class, link - 1);
	}
	*g = link - 1;
	slab = granule_of(pool, *g);
	*taken = 0;
	while (max-- > 0 && slab->free_slots) {
		uint32_t bit = slab->free_slots & (0u - slab->free_slots);

		*taken |= bit;
		slab->free_slots &= ~bit;
	}
	if (!slab->free_slots) {
		slab_unlink(pool, class, *g);
		/* The next miss looks at this one. */
		if (pool->partial[class])
			sluice_prefetch(granule_of(pool, pool->partial[class] - 1));
	}
	return true;
}

bool sluice_slab_release(struct sluice_pool *pool, uint32_t g, uint32_t index)
{
	struct sluice_granule *slab = granule_of(pool, g);
	uint32_t class = head_class(slab->head);
	uint32_t bit = 1u << index;

	if (slab->free_slots & bit)
		return false;
	if (!slab->free_slots)
		slab_link(pool, class, g);
	slab->free_slots |= bit;
	if (slab->free_slots == all_free(class)) {
		slab_unlink(pool, class, g);
		if (pool->empty[class])
			give_up(pool, class, g);
		else
			pool->empty[class] = g + 1;
	}
	return true;
}

bool sluice_slab_reclaim(struct sluice_pool *pool)
{
	bool any = false;

	for (uint32_t class = 0; class < SLUICE_POOL_CLASSES; class ++) {
		if (!pool->empty[class])
			continue;
		give_up(pool, class, pool->empty[class] - 1);
		pool->empty[class] = 0;
		any = true;
	}
	return any;
}
