/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * share_decrypt.c - the mechanism decrypt: chunks converted ahead of need
 *
 * Theory of operation: see sluice/decrypt.h. open() and close() of the mechanism are for memory from
 * the reserve, which is converted already: an address is all that they make.
 *
 * Invariant: a chunk is private (get's or put's), in the reserve, taken, or lost; only taken and
 * reserve ones are shared and in use, and no lost one is ever put.
 */
#include <sluice/decrypt.h>

static int decrypt_open(struct sluice_share *share, void *cpu, uint64_t size, uint64_t *dev)
{
	const struct sluice_decrypt *decrypt = (const struct sluice_decrypt *)share;

	(void)size;
	*dev = sluice_share_name(share, cpu) + decrypt->config.dev_offset;
	return 0;
}

static int decrypt_close(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev)
{
	(void)share;
	(void)cpu;
	(void)size;
	(void)dev;
	return 0;
}

static const struct sluice_share_ops decrypt_ops = {
	.name = "decrypt",
	.open = decrypt_open,
	.close = decrypt_close,
};

int sluice_decrypt_init(struct sluice_decrypt *decrypt, const struct sluice_decrypt_config *config)
{
	if (config->chunk_bytes == 0 || config->chunk_bytes % 4096 || config->reserve == 0 ||
	    config->reserve > SLUICE_DECRYPT_RESERVE)
		return -EINVAL;
	sluice_zero(decrypt, sizeof(*decrypt));
	decrypt->share.ops = &decrypt_ops;
	decrypt->config = *config;
	sluice_lock_init(&decrypt->lock);
	return 0;
}

/* Put a shared, scrubbed chunk into the reserve: false if that is full. */
static bool push(struct sluice_decrypt *decrypt, void *chunk)
{
	unsigned long flags = sluice_lock(&decrypt->lock);
	bool room = decrypt->n_ready < decrypt->config.reserve;

	if (room) {
		decrypt->ready[decrypt->n_ready] = chunk;
		sluice_store_u32(&decrypt->n_ready, decrypt->n_ready + 1);
	}
	sluice_unlock(&decrypt->lock, flags);
	return room;
}

static void *pop(struct sluice_decrypt *decrypt)
{
	unsigned long flags = sluice_lock(&decrypt->lock);
	void *chunk = NULL;

	if (decrypt->n_ready > 0) {
		sluice_store_u32(&decrypt->n_ready, decrypt->n_ready - 1);
		chunk = decrypt->ready[decrypt->n_ready];
	}
	sluice_unlock(&decrypt->lock, flags);
	return chunk;
}

static int make_private(struct sluice_decrypt *decrypt, void *chunk)
{
	const struct sluice_decrypt_config *config = &decrypt->config;
	int ret = config->convert(config->context, chunk, config->chunk_bytes, false);

	if (ret) {
		sluice_count(&decrypt->stats.lost, 1);
		return ret;
	}
	sluice_count(&decrypt->stats.returned, 1);
	config->put(config->context, chunk);
	return 0;
}

uint32_t sluice_decrypt_refill(struct sluice_decrypt *decrypt)
{
	const struct sluice_decrypt_config *config = &decrypt->config;

	while (sluice_load_u32(&decrypt->n_ready) < config->reserve) {
		void *chunk = config->get(config->context);

		if (!chunk)
			break;
		if (config->convert(config->context, chunk, config->chunk_bytes, true)) {
			/* It may be shared in part: only converting it back says that it is not. */
			sluice_count(&decrypt->stats.failed, 1);
			(void)make_private(decrypt, chunk);
			break;
		}
		/* What conversion leaves behind is whatever the cipher makes of it. */
		sluice_zero(chunk, (size_t)config->chunk_bytes);
		sluice_count(&decrypt->stats.converted, 1);
		if (!push(decrypt, chunk)) {
			(void)make_private(decrypt, chunk);
			break;
		}
	}
	return sluice_load_u32(&decrypt->n_ready);
}

void *sluice_decrypt_take(struct sluice_decrypt *decrypt)
{
	void *chunk = pop(decrypt);

	sluice_count(chunk ? &decrypt->stats.taken : &decrypt->stats.missed, 1);
	return chunk;
}

int sluice_decrypt_give(struct sluice_decrypt *decrypt, void *chunk)
{
	return push(decrypt, chunk) ? 0 : make_private(decrypt, chunk);
}

int sluice_decrypt_end(struct sluice_decrypt *decrypt)
{
	void *chunk;
	int ret = 0;

	while ((chunk = pop(decrypt)) != NULL) {
		int err = make_private(decrypt, chunk);

		if (err)
			ret = err;
	}
	return ret;
}

void sluice_decrypt_get_stats(struct sluice_decrypt *decrypt, struct sluice_decrypt_stats *stats)
{
	const uint64_t *from = (const uint64_t *)&decrypt->stats;
	uint64_t *to = (uint64_t *)stats;

	for (size_t i = 0; i < sizeof(*stats) / sizeof(uint64_t); i++)
		to[i] = sluice_load_u64(&from[i]);
}
