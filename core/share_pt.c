/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * share_pt.c - the mechanism grant with a table that is shaped like a page table
 *
 * Theory of operation: see sluice/grant.h. The tables are one piece of memory: the top one, those of
 * the middle, and the last level, whose entries thus form an array by granule, so that this end never
 * walks. States, order and the rest are as in share_grant.c.
 */
#include <sluice/grant.h>

#define STATE_FREE    0u
#define STATE_LIVE    1u
#define STATE_ENDED   2u
#define TRIES	      16u
#define GRANULE_SHIFT 12
#define CHUNK_SHIFT   21
#define HELD	      (SLUICE_PT_READING | SLUICE_PT_WRITING)

static struct sluice_pt *pt_of(struct sluice_share *share)
{
	return (struct sluice_pt *)share; /* its first member */
}

/* Tables of the last level and the middle one. */
static uint64_t leaf_tables(uint64_t granules)
{
	return (granules + SLUICE_PT_ENTRIES - 1) / SLUICE_PT_ENTRIES;
}

static uint64_t middle_tables(uint64_t granules)
{
	return (leaf_tables(granules) + SLUICE_PT_ENTRIES - 1) / SLUICE_PT_ENTRIES;
}

uint64_t sluice_pt_bytes(uint64_t granules)
{
	return (1 + middle_tables(granules) + leaf_tables(granules)) << GRANULE_SHIFT;
}

static void put(struct sluice_pt_entry *entry, uint64_t phys, uint32_t flags)
{
	sluice_store_u32(&entry->high, (uint32_t)(phys >> 32));
	/* Release: whoever sees it valid sees all of it. */
	sluice_store_release_u32(&entry->low, (uint32_t)phys | flags);
}

static void permit(struct sluice_pt *pt, uint64_t granule, uint64_t phys, uint64_t bytes,
		   uint32_t access)
{
	uint32_t flags = SLUICE_PT_VALID;

	if (access & SLUICE_READ)
		flags |= SLUICE_PT_READ;
	if (access & SLUICE_WRITE)
		flags |= SLUICE_PT_WRITE;
	for (uint64_t at = 0; at < bytes; at += 4096, granule++) {
		pt->config.states[granule] = STATE_LIVE;
		put(&pt->leaves[granule], phys + at, flags);
	}
	sluice_count(&pt->share.stats.operations, bytes >> GRANULE_SHIFT);
}

/* End access: false if it is in use. Called again, it says whether that is over. */
static bool end(struct sluice_pt_entry *entry)
{
	for (uint32_t i = 0; i < TRIES; i++) {
		uint32_t low = sluice_load_u32(&entry->low);

		/* What is held stays marked, but is valid no more: nobody new can hold it. */
		if (sluice_cas_u32(&entry->low, low, low & HELD))
			return !(low & HELD);
	}
	return false;
}

static int end_range(struct sluice_pt *pt, uint64_t granule, uint64_t n)
{
	uint8_t *states = pt->config.states;
	bool busy = false;

	for (uint64_t i = granule; i < granule + n; i++) {
		if (states[i] != STATE_LIVE)
			continue;
		if (end(&pt->leaves[i]))
			states[i] = STATE_ENDED;
		else
			busy = true;
	}
	sluice_count(&pt->share.stats.operations, n);
	if (busy)
		return -EBUSY;
	for (uint64_t i = granule; i < granule + n; i++)
		states[i] = STATE_FREE;
	return 0;
}

/* Addresses have 52 bits in an entry. */
static bool nameable(const struct sluice_pt *pt, const struct sluice_span *span)
{
	for (uint32_t i = 0; i < span->n; i++) {
		if ((span->pieces[i].orig + pt->config.to_phys + span->pieces[i].bytes - 1) >> 52)
			return false;
	}
	return true;
}

static int pt_share(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	struct sluice_pt *pt = pt_of(share);
	uint64_t granule;
	uint32_t taken;
	int ret = 0;

	for (taken = 0; taken < n; taken++) {
		ret = nameable(pt, &spans[taken])
			      ? sluice_iova_alloc(&pt->iova, spans[taken].bytes >> GRANULE_SHIFT,
						  &granule)
			      : -ERANGE;
		if (ret)
			break;
		spans[taken].dev = granule << GRANULE_SHIFT;
	}
	if (ret) {
		while (taken-- > 0)
			(void)sluice_iova_free(&pt->iova, spans[taken].dev >> GRANULE_SHIFT,
					       spans[taken].bytes >> GRANULE_SHIFT);
		return ret == -EINVAL ? -ENOSPC : ret;
	}
	for (uint32_t i = 0; i < n; i++) {
		granule = spans[i].dev >> GRANULE_SHIFT;
		for (uint32_t k = 0; k < spans[i].n; k++) {
			const struct sluice_piece *piece = &spans[i].pieces[k];

			permit(pt, granule, piece->orig + pt->config.to_phys, piece->bytes,
			       spans[i].access);
			granule += piece->bytes >> GRANULE_SHIFT;
		}
		spans[i].result = 0;
	}
	return 0;
}

static int pt_unshare(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	struct sluice_pt *pt = pt_of(share);
	int ret = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t granule = spans[i].dev >> GRANULE_SHIFT;
		uint64_t count = spans[i].bytes >> GRANULE_SHIFT;

		if ((spans[i].dev | spans[i].bytes) & 4095 || granule == 0 || count == 0 ||
		    granule >= pt->config.granules || count > pt->config.granules - granule ||
		    pt->config.states[granule] == STATE_FREE) {
			spans[i].result = -EINVAL;
		} else {
			spans[i].result = end_range(pt, granule, count);
			if (!spans[i].result)
				(void)sluice_iova_free(&pt->iova, granule, count);
		}
		if (!ret)
			ret = spans[i].result;
	}
	return ret;
}

static int pt_open(struct sluice_share *share, void *cpu, uint64_t size, uint64_t *dev)
{
	struct sluice_pt *pt = pt_of(share);
	struct sluice_piece piece = {sluice_share_name(share, cpu), size};
	struct sluice_span span = {.pieces = &piece, .n = 1, .bytes = size};

	if (size == 0 || size > UINT64_C(1) << CHUNK_SHIFT || (piece.orig | size) & 4095 ||
	    !nameable(pt, &span))
		return -ERANGE;
	if (!sluice_chunk_window_take(&pt->pool, dev))
		return -ENOSPC;
	permit(pt, *dev >> GRANULE_SHIFT, piece.orig + pt->config.to_phys, size,
	       SLUICE_READ | SLUICE_WRITE);
	return 0;
}

static int pt_close(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev)
{
	struct sluice_pt *pt = pt_of(share);
	int ret = end_range(pt, dev >> GRANULE_SHIFT, size >> GRANULE_SHIFT);

	(void)cpu;
	if (!ret)
		sluice_chunk_window_give(&pt->pool, dev);
	return ret;
}

static const struct sluice_share_ops pt_ops = {
	.name = "pt",
	.flags = SLUICE_SHARE_JOINS,
	.open = pt_open,
	.close = pt_close,
	.share = pt_share,
	.unshare = pt_unshare,
};

int sluice_pt_init(struct sluice_pt *pt, const struct sluice_pt_config *config)
{
	uint64_t middles, leaves, granule;
	int ret;

	if (config->granules < 2 || config->granules > SLUICE_PT_MAX ||
	    config->tables_phys & 4095 ||
	    (config->tables_phys + sluice_pt_bytes(config->granules) - 1) >> 52 ||
	    config->pool_bytes & ((UINT64_C(1) << CHUNK_SHIFT) - 1) ||
	    config->pool_bytes >> CHUNK_SHIFT > 2048)
		return -EINVAL;
	sluice_zero(pt, sizeof(*pt));
	pt->share.ops = &pt_ops;
	pt->config = *config;
	ret = sluice_iova_init(&pt->iova, 1, config->granules - 1, config->iova_memory,
			       config->caches, config->n_caches);
	if (!ret)
		ret = sluice_iova_add(&pt->iova, 1, config->granules - 1);
	if (ret)
		return ret;
	middles = middle_tables(config->granules);
	leaves = leaf_tables(config->granules);
	pt->leaves = config->tables + (1 + middles) * SLUICE_PT_ENTRIES;
	sluice_zero(config->states, (size_t)config->granules);
	sluice_zero(config->tables, (size_t)sluice_pt_bytes(config->granules));
	for (uint64_t i = 0; i < middles; i++)
		put(&config->tables[i], config->tables_phys + ((1 + i) << GRANULE_SHIFT),
		    SLUICE_PT_VALID);
	for (uint64_t i = 0; i < leaves; i++)
		put(&config->tables[SLUICE_PT_ENTRIES + i],
		    config->tables_phys + ((1 + middles + i) << GRANULE_SHIFT), SLUICE_PT_VALID);
	if (!config->pool_bytes)
		return 0;
	if (sluice_iova_alloc(&pt->iova, config->pool_bytes >> GRANULE_SHIFT, &granule))
		return -ENOSPC;
	pt->pool.dev = granule << GRANULE_SHIFT;
	pt->pool.chunks = (uint32_t)(config->pool_bytes >> CHUNK_SHIFT);
	return 0;
}
