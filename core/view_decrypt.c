/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * view_decrypt.c - the mechanism decrypt, from the device's end
 *
 * Theory of operation: see sluice/decrypt.h. What is held stays within one chunk, so that one count
 * for each chunk says whether it can be made private.
 *
 * Invariant: a chunk with a count is shared.
 */
#include <sluice/decrypt.h>

#define SHARED (UINT32_C(1) << 31)

/* The chunk that a guest-physical address is in, or n_chunks. */
static uint64_t chunk_at(const struct sluice_decrypt_view *view, uint64_t phys)
{
	uint64_t i = (phys - view->phys) / view->chunk_bytes;

	return phys >= view->phys && i < view->n_chunks ? i : view->n_chunks;
}

static int decrypt_hold(struct sluice_view *base, uint64_t len, struct sluice_hold *hold)
{
	struct sluice_decrypt_view *view = (struct sluice_decrypt_view *)base;
	uint64_t i, rest;
	unsigned long flags;
	int ret = 0;

	if (hold->dev < view->dev_offset)
		return -ENOENT;
	hold->phys = hold->dev - view->dev_offset;
	i = chunk_at(view, hold->phys);
	if (i == view->n_chunks)
		return -ENOENT;
	rest = view->phys + (i + 1) * view->chunk_bytes - hold->phys;
	hold->cpu = sluice_view_memory(base, hold->phys, len < rest ? len : rest, &hold->bytes);
	flags = sluice_lock(&view->lock);
	if (!(view->chunks[i] & SHARED))
		ret = -ENOENT;
	else if (!hold->cpu)
		ret = -ERANGE;
	else if (view->chunks[i] == UINT32_MAX)
		ret = -EBUSY;
	else
		view->chunks[i]++;
	sluice_unlock(&view->lock, flags);
	return ret;
}

static void decrypt_drop(struct sluice_view *base, const struct sluice_hold *hold)
{
	struct sluice_decrypt_view *view = (struct sluice_decrypt_view *)base;
	unsigned long flags = sluice_lock(&view->lock);

	view->chunks[chunk_at(view, hold->phys)]--;
	sluice_unlock(&view->lock, flags);
}

static const struct sluice_view_ops decrypt_view_ops = {
	.name = "decrypt",
	.hold = decrypt_hold,
	.drop = decrypt_drop,
};

int sluice_decrypt_view_init(struct sluice_decrypt_view *view, uint32_t *chunks, uint64_t n_chunks,
			     uint64_t phys, uint64_t chunk_bytes, uint64_t dev_offset,
			     const struct sluice_memory *memory, uint32_t n_memory)
{
	if (n_chunks == 0 || chunk_bytes == 0 || chunk_bytes % 4096 ||
	    n_chunks > (UINT64_MAX - phys) / chunk_bytes)
		return -EINVAL;
	sluice_zero(view, sizeof(*view));
	sluice_zero(chunks, (size_t)n_chunks * sizeof(*chunks));
	view->view.ops = &decrypt_view_ops;
	view->view.memory = memory;
	view->view.n_memory = n_memory;
	view->chunks = chunks;
	view->n_chunks = n_chunks;
	view->phys = phys;
	view->chunk_bytes = chunk_bytes;
	view->dev_offset = dev_offset;
	sluice_lock_init(&view->lock);
	return 0;
}

int sluice_decrypt_view_convert(struct sluice_decrypt_view *view, uint64_t phys, uint64_t bytes,
				bool shared)
{
	uint64_t first = chunk_at(view, phys), n = bytes / view->chunk_bytes;
	unsigned long flags;
	int ret = 0;

	if (first == view->n_chunks || n == 0 || n > view->n_chunks - first ||
	    bytes % view->chunk_bytes || (phys - view->phys) % view->chunk_bytes)
		return -EINVAL;
	flags = sluice_lock(&view->lock);
	for (uint64_t i = first; i < first + n && !shared && !ret; i++)
		ret = view->chunks[i] & ~SHARED ? -EBUSY : 0;
	for (uint64_t i = first; i < first + n && !ret; i++)
		view->chunks[i] = shared ? view->chunks[i] | SHARED : 0;
	sluice_unlock(&view->lock, flags);
	if (ret)
		sluice_count(&view->view.stats.deferred, 1);
	return ret;
}
