/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * share_grant.c - the mechanism grant: Xen grant table entries of version 1
 *
 * Theory of operation: see sluice/grant.h. What an entry is to us is kept in a private byte: FREE,
 * LIVE, or ENDED, which is one of a span whose other entries are still in use. Nothing is decided by
 * what stands in the table but "somebody is using it", and a table that lies about that can only
 * keep its own memory from being taken back.
 *
 * Order: the frame is written before the word that permits it (release), and the word is cleared by
 * a compare-and-swap (acquire and release) before anything else happens to the memory: what the
 * other side wrote through the grant is seen by whoever was told that it has ended.
 *
 * Invariant: a reference is free in the allocator exactly if its state is FREE and its word is 0.
 */
#include <sluice/grant.h>

#define STATE_FREE    0u
#define STATE_LIVE    1u
#define STATE_ENDED   2u
#define TRIES	      16u
#define GRANULE_SHIFT 12
#define CHUNK_SHIFT   21

static struct sluice_grant *grant_of(struct sluice_share *share)
{
	return (struct sluice_grant *)share; /* its first member */
}

/* Can all frames of a span be named with 32 bits? */
static bool nameable(const struct sluice_grant *grant, const struct sluice_span *span)
{
	for (uint32_t i = 0; i < span->n; i++) {
		uint64_t last =
			span->pieces[i].orig + grant->config.to_phys + span->pieces[i].bytes - 1;

		if (last >> GRANULE_SHIFT > UINT32_MAX)
			return false;
	}
	return true;
}

static void permit(struct sluice_grant *grant, uint64_t ref, uint64_t phys, uint64_t bytes,
		   uint32_t access)
{
	uint32_t word = SLUICE_GTF_PERMIT | (uint32_t)grant->config.domid << 16;

	if (!(access & SLUICE_WRITE))
		word |= SLUICE_GTF_READONLY;
	for (uint64_t at = 0; at < bytes; at += 4096, ref++) {
		struct sluice_grant_entry *entry = &grant->config.entries[ref];

		grant->config.states[ref] = STATE_LIVE;
		sluice_store_u32(&entry->frame, (uint32_t)((phys + at) >> GRANULE_SHIFT));
		sluice_store_release_u32(&entry->word, word);
	}
	sluice_count(&grant->share.stats.operations, bytes >> GRANULE_SHIFT);
}

/* End access by one reference: false if it is in use, or changes all the time. */
static bool end(struct sluice_grant_entry *entry)
{
	for (uint32_t i = 0; i < TRIES; i++) {
		uint32_t word = sluice_load_u32(&entry->word);

		if (word & (SLUICE_GTF_READING | SLUICE_GTF_WRITING))
			return false;
		if (sluice_cas_u32(&entry->word, word, 0))
			return true;
	}
	return false;
}

static int end_range(struct sluice_grant *grant, uint64_t ref, uint64_t n)
{
	uint8_t *states = grant->config.states;
	bool busy = false;

	for (uint64_t i = ref; i < ref + n; i++) {
		if (states[i] != STATE_LIVE)
			continue;
		if (end(&grant->config.entries[i]))
			states[i] = STATE_ENDED;
		else
			busy = true;
	}
	sluice_count(&grant->share.stats.operations, n);
	if (busy)
		return -EBUSY;
	for (uint64_t i = ref; i < ref + n; i++)
		states[i] = STATE_FREE;
	return 0;
}

static int grant_share(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	struct sluice_grant *grant = grant_of(share);
	uint32_t taken;
	uint64_t ref;
	int ret = 0;

	for (taken = 0; taken < n; taken++) {
		ret = nameable(grant, &spans[taken])
			      ? sluice_iova_alloc(&grant->refs, spans[taken].bytes >> GRANULE_SHIFT,
						  &ref)
			      : -ERANGE;
		if (ret)
			break;
		spans[taken].dev = SLUICE_GRANT_ADDR | ref << GRANULE_SHIFT;
	}
	if (ret) {
		/* Nothing has been written yet. */
		while (taken-- > 0)
			(void)sluice_iova_free(&grant->refs,
					       (spans[taken].dev & ~SLUICE_GRANT_ADDR) >>
						       GRANULE_SHIFT,
					       spans[taken].bytes >> GRANULE_SHIFT);
		return ret == -EINVAL ? -ENOSPC : ret;
	}
	for (uint32_t i = 0; i < n; i++) {
		ref = (spans[i].dev & ~SLUICE_GRANT_ADDR) >> GRANULE_SHIFT;
		for (uint32_t k = 0; k < spans[i].n; k++) {
			const struct sluice_piece *piece = &spans[i].pieces[k];

			permit(grant, ref, piece->orig + grant->config.to_phys, piece->bytes,
			       spans[i].access);
			ref += piece->bytes >> GRANULE_SHIFT;
		}
		spans[i].result = 0;
	}
	return 0;
}

/* The first reference of a span that is ours, or 0. */
static uint64_t span_ref(const struct sluice_grant *grant, const struct sluice_span *span)
{
	uint64_t ref = (span->dev & ~SLUICE_GRANT_ADDR) >> GRANULE_SHIFT;
	uint64_t n = span->bytes >> GRANULE_SHIFT;

	if (!(span->dev & SLUICE_GRANT_ADDR) || (span->dev | span->bytes) & 4095 || n == 0 ||
	    ref < grant->config.first || ref >= grant->config.n_entries ||
	    n > grant->config.n_entries - ref || grant->config.states[ref] == STATE_FREE)
		return 0;
	return ref;
}

static int grant_unshare(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	struct sluice_grant *grant = grant_of(share);
	int ret = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t ref = span_ref(grant, &spans[i]);
		uint64_t count = spans[i].bytes >> GRANULE_SHIFT;

		spans[i].result = ref ? end_range(grant, ref, count) : -EINVAL;
		if (!spans[i].result)
			(void)sluice_iova_free(&grant->refs, ref, count);
		if (!ret)
			ret = spans[i].result;
	}
	return ret;
}

static int grant_open(struct sluice_share *share, void *cpu, uint64_t size, uint64_t *dev)
{
	struct sluice_grant *grant = grant_of(share);
	struct sluice_piece piece = {sluice_share_name(share, cpu), size};
	struct sluice_span span = {.pieces = &piece, .n = 1, .bytes = size};

	if (size == 0 || size > UINT64_C(1) << CHUNK_SHIFT || (piece.orig | size) & 4095 ||
	    !nameable(grant, &span))
		return -ERANGE;
	if (!sluice_chunk_window_take(&grant->pool, dev))
		return -ENOSPC;
	permit(grant, (*dev & ~SLUICE_GRANT_ADDR) >> GRANULE_SHIFT,
	       piece.orig + grant->config.to_phys, size, SLUICE_READ | SLUICE_WRITE);
	return 0;
}

static int grant_close(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev)
{
	struct sluice_grant *grant = grant_of(share);
	int ret = end_range(grant, (dev & ~SLUICE_GRANT_ADDR) >> GRANULE_SHIFT,
			    size >> GRANULE_SHIFT);

	(void)cpu;
	if (!ret)
		sluice_chunk_window_give(&grant->pool, dev);
	return ret;
}

static const struct sluice_share_ops grant_ops = {
	.name = "grant",
	.flags = SLUICE_SHARE_JOINS,
	.open = grant_open,
	.close = grant_close,
	.share = grant_share,
	.unshare = grant_unshare,
};

int sluice_grant_init(struct sluice_grant *grant, const struct sluice_grant_config *config)
{
	uint64_t ref;
	int ret;

	if (config->n_entries == 0 || config->n_entries > 1u << 24 || config->first == 0 ||
	    config->first >= config->n_entries ||
	    config->pool_bytes & ((UINT64_C(1) << CHUNK_SHIFT) - 1) ||
	    config->pool_bytes >> CHUNK_SHIFT > 2048)
		return -EINVAL;
	sluice_zero(grant, sizeof(*grant));
	grant->share.ops = &grant_ops;
	grant->config = *config;
	ret = sluice_iova_init(&grant->refs, config->first, config->n_entries - 1,
			       config->iova_memory, config->caches, config->n_caches);
	if (!ret)
		ret = sluice_iova_add(&grant->refs, config->first, config->n_entries - 1);
	if (ret)
		return ret;
	sluice_zero(config->states, config->n_entries);
	for (uint32_t i = config->first; i < config->n_entries; i++)
		sluice_store_u32(&config->entries[i].word, 0);
	if (!config->pool_bytes)
		return 0;
	if (sluice_iova_alloc(&grant->refs, config->pool_bytes >> GRANULE_SHIFT, &ref))
		return -ENOSPC;
	grant->pool.dev = SLUICE_GRANT_ADDR | ref << GRANULE_SHIFT;
	grant->pool.chunks = (uint32_t)(config->pool_bytes >> CHUNK_SHIFT);
	return 0;
}
