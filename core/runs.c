/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * runs.c - runs of whole granules, found and merged in constant time
 *
 * Theory of operation
 * -------------------
 * Free runs are kept in bins by length: a row for each power of two, eight bins in a row (TLSF,
 * Masmano et al., ECRTS 2004). A bitmap tells which rows and which bins are not empty, so that the
 * first bin whose runs are all long enough is found by two bit scans. A request is rounded up to
 * the next bin boundary for that search; only if it finds nothing, a bounded number of runs in the
 * bin that the request itself falls into are looked at, since some of them may do.
 *
 * A released run is merged at once with the free runs before and after it, whose bounds stand in
 * their first and last granule. So no two neighbouring runs are ever both free, and a pool that has
 * been emptied is one run again.
 *
 * Bound of a call: 2 bit scans, at most 2 * LOOK runs looked at, 2 list insertions and 3 removals,
 * and one store for every chunk that the run reaches into.
 */
#include "internal.h"

#define SL_SHIFT 3
#define LOOK	 8 /* runs looked at one by one before giving up */

static uint32_t msb(uint32_t v)
{
	return 31u - (uint32_t)__builtin_clz(v);
}

/* The bin of a run of count granules. */
static void bin_of(uint32_t count, uint32_t *fl, uint32_t *sl)
{
	*fl = msb(count);
	*sl = (uint32_t)(((uint64_t)count << SL_SHIFT) >> *fl) - (1u << SL_SHIFT);
}

static void list_add(struct sluice_pool *pool, uint32_t g, uint32_t count)
{
	struct sluice_granule *granule = granule_of(pool, g);
	uint32_t fl, sl;

	bin_of(count, &fl, &sl);
	granule->prev = 0;
	granule->next = pool->free_runs[fl][sl];
	if (granule->next)
		granule_of(pool, granule->next - 1)->prev = g + 1;
	pool->free_runs[fl][sl] = g + 1;
	pool->fl_map |= 1u << fl;
	pool->sl_map[fl] |= 1u << sl;
	sluice_store_u32(&granule->head, head_make(KIND_FREE, 0, count));
	sluice_store_u32(&granule_of(pool, g + count - 1)->head, head_make(KIND_FREE, 0, count));
}

static void list_remove(struct sluice_pool *pool, uint32_t g, uint32_t count)
{
	struct sluice_granule *granule = granule_of(pool, g);
	uint32_t fl, sl;

	bin_of(count, &fl, &sl);
	if (granule->next)
		granule_of(pool, granule->next - 1)->prev = granule->prev;
	if (granule->prev)
		granule_of(pool, granule->prev - 1)->next = granule->next;
	else
		pool->free_runs[fl][sl] = granule->next;
	if (!pool->free_runs[fl][sl]) {
		pool->sl_map[fl] &= ~(1u << sl);
		if (!pool->sl_map[fl])
			pool->fl_map &= ~(1u << fl);
	}
}

/* The first run of the first bin at or above (fl, sl): number + 1, or 0. */
static uint32_t first_from(const struct sluice_pool *pool, uint32_t fl, uint32_t sl)
{
	uint32_t map = pool->sl_map[fl] & (~0u << sl);

	if (!map) {
		/* fl + 1 may be 32 in no case: there are only SLUICE_POOL_FL rows. */
		map = pool->fl_map & (~0u << (fl + 1));
		if (!map)
			return 0;
		fl = (uint32_t)__builtin_ctz(map);
		map = pool->sl_map[fl];
	}
	return pool->free_runs[fl][__builtin_ctz(map)];
}

/* How many granules of the run at g have to be skipped for its start to be aligned. */
static uint32_t skip_of(const struct sluice_pool *pool, uint32_t g, uint32_t align)
{
	uint32_t at = (uint32_t)(granule_dev(pool, g) >> SLUICE_GRANULE_SHIFT);

	return (0u - at) & (align - 1);
}

/* Look at up to LOOK runs of a list for one that holds count aligned granules. */
static uint32_t look(const struct sluice_pool *pool, uint32_t link, uint32_t count, uint32_t align)
{
	for (uint32_t i = 0; link && i < LOOK; i++) {
		const struct sluice_granule *granule = granule_of(pool, link - 1);

		if (head_count(granule->head) >= (uint64_t)count + skip_of(pool, link - 1, align))
			return link;
		link = granule->next;
	}
	return 0;
}

static uint32_t search(const struct sluice_pool *pool, uint32_t count, uint32_t align)
{
	/* Any run this long holds an aligned one. At most 2^20 + 2^9, so no overflow. */
	uint32_t sure = count + align - 1;
	uint32_t fl, sl, found;

	/* Round up to a bin boundary: every run in that bin and above is long enough. */
	fl = msb(sure);
	if (fl > SL_SHIFT)
		sure += (1u << (fl - SL_SHIFT)) - 1;
	bin_of(sure, &fl, &sl);
	if (fl < SLUICE_POOL_FL) {
		found = first_from(pool, fl, sl);
		if (found)
			return found;
	}
	bin_of(count, &fl, &sl);
	found = look(pool, pool->free_runs[fl][sl], count, align);
	if (!found && align > 1)
		found = look(pool, first_from(pool, fl, sl), count, align);
	return found;
}

static void set_head(struct sluice_pool *pool, uint32_t g, bool on)
{
	uint64_t *word = &chunk_of(pool, g)->heads[g % GRANULES / 64];
	uint64_t bit = UINT64_C(1) << g % 64;

	sluice_store_u64(word, on ? *word | bit : *word & ~bit);
}

/* Note, in every chunk that the run reaches into, where it starts. */
static void set_lead(struct sluice_pool *pool, uint32_t g, uint32_t count, uint32_t lead)
{
	for (uint32_t c = (g >> CHUNK_INDEX) + 1; c <= (g + count - 1) >> CHUNK_INDEX; c++)
		sluice_store_u32(&pool->chunks[c]->lead, lead);
}

void sluice_runs_insert(struct sluice_pool *pool, uint32_t g, uint32_t count)
{
	const struct sluice_chunk *chunk = chunk_of(pool, g);
	uint32_t end = g + count;
	uint32_t c = end >> CHUNK_INDEX;

	if (g % GRANULES || chunk->joined) {
		uint32_t head = granule_of(pool, g - 1)->head;

		if (head_kind(head) == KIND_FREE) {
			g -= head_count(head);
			count += head_count(head);
			list_remove(pool, g, head_count(head));
		}
	}
	/* Is there anything after the end, in the same chunk or in one that is joined to it? */
	if (end % GRANULES ? end % GRANULES < chunk_of(pool, end)->granules
			   : c < pool->max_chunks && pool->chunks[c] && pool->chunks[c]->joined) {
		uint32_t head = granule_of(pool, end)->head;

		if (head_kind(head) == KIND_FREE) {
			count += head_count(head);
			list_remove(pool, end, head_count(head));
		}
	}
	list_add(pool, g, count);
}

uint32_t sluice_runs_take(struct sluice_pool *pool, uint32_t count, uint32_t align, uint32_t kind,
			  uint32_t class)
{
	uint32_t link = search(pool, count, align);
	uint32_t g, skip, have;

	if (!link)
		return 0;
	g = link - 1;
	have = head_count(granule_of(pool, g)->head);
	skip = skip_of(pool, g, align);
	list_remove(pool, g, have);
	if (skip)
		list_add(pool, g, skip);
	if (have > skip + count)
		list_add(pool, g + skip + count, have - skip - count);
	g += skip;
	/* The last granule first: it is the first one too if there is only one. */
	sluice_store_u32(&granule_of(pool, g + count - 1)->head, 0);
	sluice_store_u32(&granule_of(pool, g)->head, head_make(kind, class, count));
	set_head(pool, g, true);
	set_lead(pool, g, count, g + 1);
	return g + 1;
}

void sluice_runs_release(struct sluice_pool *pool, uint32_t g)
{
	uint32_t count = head_count(granule_of(pool, g)->head);

	set_head(pool, g, false);
	set_lead(pool, g, count, 0);
	sluice_runs_insert(pool, g, count);
}

uint32_t sluice_runs_largest(const struct sluice_pool *pool)
{
	uint32_t fl;

	if (!pool->fl_map)
		return 0;
	fl = msb(pool->fl_map);
	return head_count(granule_of(pool, pool->free_runs[fl][msb(pool->sl_map[fl])] - 1)->head);
}
