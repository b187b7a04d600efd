/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * runs.c - runs of whole granules: found in bounded time, placed so that the pool stays dense
 *
 * Theory of operation
 * -------------------
 * Free runs are kept in bins by length: a row for each power of two, eight bins in a row (one above
 * 4 MiB), as in TLSF (Masmano et al., ECRTS 2004). Bitmaps tell which rows and bins have any, so
 * the first bin whose runs are all long enough is found by two bit scans.
 *
 * Where in the pool a run is taken from decides how well the pool can be filled: by simulation with
 * the seed's mixture, last-in-first-out bins leave 17 % of the pool unusable, strict best fit at
 * the lowest address 2 % (docs/POOL.md). So the window is divided into 64 zones, and each bin is a
 * list for each zone with one word that tells which zones have any. A long run is taken from the
 * best-fitting bin in its lowest zone; a short one (up to SHORT granules, and every slab) from the
 * highest zone that has room at all, there from the best-fitting bin, and from the end of that run.
 * So short-lived small pieces do not sit in the midst of where long runs have to be found.
 *
 * In a large pool the granules of free runs are in nobody's cache. So the head of a list has the length of its
 * first run beside it, and a run that of the next one: a run is chosen without a look at it, and all that is
 * about to be touched can be fetched together (prefetch_taken()).
 *
 * A released run is merged at once with the free runs before and after it, whose bounds stand in
 * their first and last granule. So no two neighbouring runs are ever both free, and a pool that has
 * been emptied is one run again.
 *
 * Bound of a call: one look at each of at most 21 rows and 8 bins, twice for a short run; at most
 * LOOK runs looked at one by one (with an alignment, LOOK_MORE in each bin above as well); 2 list
 * insertions and 3 removals; and one store for every chunk that the run reaches into.
 */
#include "internal.h"

#define SHELF_SHIFT 3
#define WIDE_ROW    10	/* from here on a row is one bin */
#define SHORT	    4u	/* granules */
#define LOOK	    16u /* runs looked at one by one in the bin that fits best */
#define LOOK_MORE   4u	/* and in each other one, for an alignment */

static const struct sluice_run_link none;

static uint32_t msb(uint32_t v)
{
	return 31u - (uint32_t)__builtin_clz(v);
}

static uint32_t msb64(uint64_t v)
{
	return 63u - (uint32_t)__builtin_clzll(v);
}

static uint32_t row_of(uint32_t count)
{
	return msb(count);
}

static uint32_t shelf_of(uint32_t count, uint32_t row)
{
	if (row >= WIDE_ROW)
		return 0;
	return ((count << SHELF_SHIFT) >> row) - (1u << SHELF_SHIFT);
}

static uint32_t bin_at(uint32_t row, uint32_t shelf)
{
	return row < WIDE_ROW ? row << SHELF_SHIFT | shelf
			      : (WIDE_ROW << SHELF_SHIFT) + row - WIDE_ROW;
}

static void run_link(struct sluice_pool *pool, uint32_t g, uint32_t count)
{
	uint32_t row = row_of(count), shelf = shelf_of(count, row), bin = bin_at(row, shelf);
	uint32_t zone = zone_of(pool, g);
	struct sluice_run_link *list = &pool->runs[bin][zone];
	struct sluice_granule *granule = granule_of(pool, g);
	uint64_t bit = UINT64_C(1) << zone;

	granule->prev = 0;
	granule->next = list->link;
	granule->next_count = list->count;
	if (granule->next)
		granule_of(pool, granule->next - 1)->prev = g + 1;
	list->link = g + 1;
	list->count = count;
	pool->rows |= 1u << row;
	pool->shelves[row] |= 1u << shelf;
	pool->row_zones[row] |= bit;
	pool->bin_zones[bin] |= bit;
	sluice_store_u32(&granule->head, head_make(KIND_FREE, 0, count));
	sluice_store_u32(&granule_of(pool, g + count - 1)->head, head_make(KIND_FREE, 0, count));
}

/* A bin has lost its last run in a zone: clear the bits that said so. */
static void forget_zone(struct sluice_pool *pool, uint32_t row, uint32_t shelf, uint32_t bin,
			uint64_t bit)
{
	uint64_t zones = 0;

	pool->bin_zones[bin] &= ~bit;
	if (!pool->bin_zones[bin]) {
		pool->shelves[row] &= ~(1u << shelf);
		if (!pool->shelves[row])
			pool->rows &= ~(1u << row);
	}
	for (uint32_t map = pool->shelves[row]; map; map &= map - 1)
		zones |= pool->bin_zones[bin_at(row, (uint32_t)__builtin_ctz(map))];
	pool->row_zones[row] = zones;
}

static void run_unlink(struct sluice_pool *pool, uint32_t g, uint32_t count)
{
	uint32_t row = row_of(count), shelf = shelf_of(count, row), bin = bin_at(row, shelf);
	uint32_t zone = zone_of(pool, g);
	struct sluice_run_link *list = &pool->runs[bin][zone];
	struct sluice_granule *granule = granule_of(pool, g);

	if (granule->next)
		granule_of(pool, granule->next - 1)->prev = granule->prev;
	if (granule->prev) {
		struct sluice_granule *before = granule_of(pool, granule->prev - 1);

		before->next = granule->next;
		before->next_count = granule->next_count;
	} else {
		list->link = granule->next;
		list->count = granule->next_count;
		if (!list->link)
			forget_zone(pool, row, shelf, bin, UINT64_C(1) << zone);
	}
}

/*
 * Look for a run of a bin that holds count aligned granules: at the first one of each zone, from the lowest on. How
 * long those are stands in the lists' heads; a second one in a zone would be one more line that nobody has looked at for long.
 */
static struct sluice_run_link look(const struct sluice_pool *pool, uint32_t bin, uint32_t count,
				   uint32_t align, uint32_t most)
{
	for (uint64_t zones = pool->bin_zones[bin]; zones && most; zones &= zones - 1, most--) {
		struct sluice_run_link run = pool->runs[bin][__builtin_ctzll(zones)];

		if (run.count >= (uint64_t)count + runs_skip(pool, run.link - 1, align))
			return run;
	}
	return none;
}

/* The bins of a row at or above a shelf that have any run, as a bit for each. */
static uint32_t shelves_from(const struct sluice_pool *pool, uint32_t row, uint32_t shelf)
{
	return pool->shelves[row] & (~0u << shelf);
}

/* The lowest run of the best-fitting bin whose runs all have count granules. */
static struct sluice_run_link search_low(const struct sluice_pool *pool, uint32_t count)
{
	uint32_t row = row_of(count), map, bin;

	/* Round up to a bin's lower bound. */
	if (row >= WIDE_ROW)
		count += (1u << row) - 1;
	else if (row > SHELF_SHIFT)
		count += (1u << (row - SHELF_SHIFT)) - 1;
	row = row_of(count);
	if (row >= SLUICE_POOL_ROWS)
		return none;
	map = shelves_from(pool, row, shelf_of(count, row));
	if (!map) {
		map = pool->rows & (~0u << (row + 1));
		if (!map)
			return none;
		row = (uint32_t)__builtin_ctz(map);
		map = pool->shelves[row];
	}
	bin = bin_at(row, (uint32_t)__builtin_ctz(map));
	return pool->runs[bin][__builtin_ctzll(pool->bin_zones[bin])];
}

/*
 * The best-fitting run in the highest zone that has one of count granules. For counts up to
 * 2^(SHELF_SHIFT + 1) a bin holds one length only, so all runs of the bin of count will do.
 */
static struct sluice_run_link search_high(const struct sluice_pool *pool, uint32_t count)
{
	uint32_t row = row_of(count), map = shelves_from(pool, row, shelf_of(count, row));
	uint32_t above = pool->rows & (~0u << (row + 1)), zone, bin;
	uint64_t zones = 0, bit;

	for (uint32_t m = map; m; m &= m - 1)
		zones |= pool->bin_zones[bin_at(row, (uint32_t)__builtin_ctz(m))];
	for (uint32_t m = above; m; m &= m - 1)
		zones |= pool->row_zones[__builtin_ctz(m)];
	if (!zones)
		return none;
	zone = msb64(zones);
	bit = UINT64_C(1) << zone;
	for (;;) {
		for (; map; map &= map - 1) {
			bin = bin_at(row, (uint32_t)__builtin_ctz(map));
			if (pool->bin_zones[bin] & bit)
				return pool->runs[bin][zone];
		}
		while (above && !(pool->row_zones[__builtin_ctz(above)] & bit))
			above &= above - 1;
		if (!above)
			return none; /* cannot be: the zone came from one of them */
		row = (uint32_t)__builtin_ctz(above);
		above &= above - 1;
		map = pool->shelves[row];
	}
}

static struct sluice_run_link search(const struct sluice_pool *pool, uint32_t count, uint32_t align,
				     bool high)
{
	struct sluice_run_link found;
	uint32_t row;

	if (high)
		return search_high(pool, count);
	/* The bin that count itself falls into fits best, but only some of its runs may do. */
	row = row_of(count);
	found = look(pool, bin_at(row, shelf_of(count, row)), count, align, LOOK);
	/* Any run this long holds an aligned one. At most 2^20 + 2^9, so no overflow. */
	if (!found.link)
		found = search_low(pool, count + align - 1);
	/* With an alignment, runs between the two may do as well. */
	for (uint32_t rows = pool->rows & (~0u << row); !found.link && align > 1 && rows;
	     rows &= rows - 1) {
		row = (uint32_t)__builtin_ctz(rows);
		for (uint32_t map = pool->shelves[row]; !found.link && map; map &= map - 1)
			found = look(pool, bin_at(row, (uint32_t)__builtin_ctz(map)), count, align,
				     LOOK_MORE);
	}
	return found;
}

void sluice_runs_insert(struct sluice_pool *pool, uint32_t g, uint32_t count)
{
	uint32_t end = g + count;
	uint32_t c = end >> CHUNK_INDEX;

	pool->free_granules += count;

	if (g % GRANULES || chunk_of(pool, g)->joined) {
		uint32_t head = granule_of(pool, g - 1)->head;

		if (head_kind(head) == KIND_FREE) {
			g -= head_count(head);
			count += head_count(head);
			run_unlink(pool, g, head_count(head));
		}
	}
	/*
	 * Is there anything after the end, in the same chunk or in one that is joined to it? (After the last granule of a
	 * short chunk there are heads that never said so.)
	 */
	if (end % GRANULES ||
	    (c < pool->max_chunks && pool->chunks[c].meta && pool->chunks[c].meta->joined)) {
		uint32_t head = granule_of(pool, end)->head;

		if (head_kind(head) == KIND_FREE) {
			count += head_count(head);
			run_unlink(pool, end, head_count(head));
		}
	}
	run_link(pool, g, count);
}

/* What it takes to cut count granules from first on out of a free run, and to hand them out. */
static SLUICE_INLINE void prefetch_taken(const struct sluice_pool *pool, uint32_t g, uint32_t have,
					 uint32_t first, uint32_t count)
{
	const struct sluice_chunk *chunk = chunk_of(pool, first);
	uint32_t unit = (uint32_t)granule_unit(first % GRANULES);

	sluice_prefetch(granule_of(pool, g));
	sluice_prefetch(granule_of(pool, g + have - 1));
	prefetch_run(pool, first);
	sluice_prefetch(granule_of(pool, first + count - 1));
	sluice_prefetch(&chunk->record[unit]);
	sluice_prefetch(&chunk->kind[first % GRANULES]);
}

uint32_t sluice_runs_take(struct sluice_pool *pool, uint32_t count, uint32_t align, uint32_t kind,
			  uint32_t class)
{
	bool high = align == 1 && (count <= SHORT || kind == KIND_SLAB);
	struct sluice_run_link run = search(pool, count, align, high);
	uint32_t g = run.link - 1, have = run.count, skip;

	if (!run.link)
		return 0;
	/* Short runs and slabs from the end. */
	skip = high ? have - count : runs_skip(pool, g, align);
	prefetch_taken(pool, g, have, g + skip, count);
	run_unlink(pool, g, have);
	if (skip)
		run_link(pool, g, skip);
	if (have > skip + count)
		run_link(pool, g + skip + count, have - skip - count);
	g += skip;
	/* The last granule first: it is the first one too if there is only one. */
	sluice_store_u32(&granule_of(pool, g + count - 1)->head, 0);
	sluice_store_u32(&granule_of(pool, g)->head, head_make(kind, class, count));
	runs_set_head(pool, g, true);
	runs_set_lead(pool, g, count, g + 1);
	pool->free_granules -= count;
	return g + 1;
}

void sluice_runs_release(struct sluice_pool *pool, uint32_t g)
{
	uint32_t count = head_count(granule_of(pool, g)->head);

	runs_set_head(pool, g, false);
	runs_set_lead(pool, g, count, 0);
	sluice_runs_insert(pool, g, count);
}

/* Where the free run begins that granule g is in: after the last allocated one before it. */
static uint32_t free_run_of(const struct sluice_pool *pool, uint32_t g)
{
	uint32_t c = g >> CHUNK_INDEX, first = 0;
	uint32_t head;

	while (chunk_all_free(chunk_of(pool, c << CHUNK_INDEX)) &&
	       chunk_of(pool, c << CHUNK_INDEX)->joined)
		c--;
	if (c == g >> CHUNK_INDEX || chunk_all_free(chunk_of(pool, c << CHUNK_INDEX)))
		return c << CHUNK_INDEX;
	/* The last granule of chunk c is free, or the run could not reach beyond it. */
	if (!last_run(pool, (c << CHUNK_INDEX) + GRANULES - 1, &first, &head))
		return c << CHUNK_INDEX;
	return first + head_count(head);
}

void sluice_runs_withdraw(struct sluice_pool *pool, uint32_t c)
{
	uint32_t g = c << CHUNK_INDEX, first = free_run_of(pool, g);
	uint32_t end = first + head_count(granule_of(pool, first)->head);

	run_unlink(pool, first, end - first);
	pool->free_granules -= GRANULES;
	if (first < g)
		run_link(pool, first, g - first);
	if (end > g + GRANULES)
		run_link(pool, g + GRANULES, end - g - GRANULES);
}

uint32_t sluice_runs_largest(const struct sluice_pool *pool)
{
	uint32_t row, bin;

	if (!pool->rows)
		return 0;
	row = msb(pool->rows);
	bin = bin_at(row, msb(pool->shelves[row]));
	return pool->runs[bin][__builtin_ctzll(pool->bin_zones[bin])].count;
}
