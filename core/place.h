/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * place.h - between dma.c and the files that let transfers stay where they are
 *
 * Theory of operation: see place.c. dma.c asks place.c first if a device has a place, and place.c
 * asks dma.c for what bounces.
 */
#ifndef SLUICE_CORE_PLACE_H
#define SLUICE_CORE_PLACE_H

#include <sluice/place.h>

/* dma.c: the bouncing half of the calls. Arguments as in sluice/dma.h, map's checked already. */
int sluice_dma_bounce(struct sluice_dma *dma, uint64_t orig, uint64_t len, enum sluice_dir dir,
		      uint32_t mask, uint64_t *addr);
int sluice_dma_unbounce(struct sluice_dma *dma, uint64_t addr, uint64_t len, enum sluice_dir dir,
			uint32_t flags);
int sluice_dma_refuse(struct sluice_dma *dma);
/* Do arguments of a map make sense? */
bool sluice_dma_valid(const struct sluice_dma *dma, uint64_t orig, uint64_t len,
		      enum sluice_dir dir);

/* place.c: the same calls of a device with a place. */
int sluice_place_map(struct sluice_dma *dma, uint64_t orig, uint64_t len, enum sluice_dir dir,
		     uint32_t mask, uint64_t *addr);
int sluice_place_unmap(struct sluice_dma *dma, uint64_t addr, uint64_t len, enum sluice_dir dir,
		       uint32_t flags);
int sluice_place_unmap_sg(struct sluice_dma *dma, const struct sluice_sg *sg, uint32_t n,
			  enum sluice_dir dir, uint32_t flags);
int sluice_place_sync(struct sluice_dma *dma, uint64_t addr, uint64_t len, enum sluice_dir dir,
		      bool to_device);

/*
 * True if a device address is not the pool's: outside its window, or where no chunk is. (Where chunks
 * lie wherever there is memory, what is placed may lie between them.) No chunk comes to where something
 * is placed, nor goes from where something bounced is live, so the answer stays the same for as long
 * as an address is mapped.
 */
static inline bool sluice_place_owns(const struct sluice_dma *dma, uint64_t addr)
{
	uint64_t c = (addr - dma->pool->dev) >> SLUICE_CHUNK_SHIFT;

	return c >= dma->pool->max_chunks ||
	       !sluice_load_acquire_ptr((void *const *)&dma->pool->chunks[c].meta);
}

#define SLUICE_GRANULE_MASK ((uint64_t)SLUICE_GRANULE_BYTES - 1)

/*
 * place_ends.c: the pieces of a mapping, in order; granules for its ends are taken from the pool, whatever is returned.
 * 0, or what sluice_pool_alloc() returned.
 */
int sluice_place_cut(struct sluice_dma *dma, struct sluice_placed *placed, enum sluice_route route,
		     struct sluice_piece *pieces, uint32_t *n);
/* Bytes of a buffer that lie in them. */
uint64_t sluice_place_end_bytes(uint64_t orig, uint64_t len);
/* Copy what of the ends overlaps [at, at + len) of the buffer, one way or the other. */
void sluice_place_copy_ends(const struct sluice_placed *placed, uint64_t at, uint64_t len,
			    bool to_device);
/* Scrub the granules at the ends and give them back. */
void sluice_place_give_ends(struct sluice_dma *dma, struct sluice_placed *placed);

/* place_auto.c: the same with a route that has been chosen, and the choice itself. */
int sluice_place_map_routed(struct sluice_dma *dma, enum sluice_route route, uint64_t orig,
			    uint64_t len, enum sluice_dir dir, uint32_t mask, uint64_t *addr);
int sluice_place_unmap_routed(struct sluice_dma *dma, uint64_t addr, uint64_t len,
			      enum sluice_dir dir, uint32_t flags, bool *split);
int sluice_place_map_sampled(struct sluice_dma *dma, enum sluice_route route, uint64_t orig,
			     uint64_t len, enum sluice_dir dir, uint32_t mask, uint64_t *addr);
int sluice_place_unmap_sampled(struct sluice_dma *dma, uint64_t addr, uint64_t len,
			       enum sluice_dir dir, uint32_t flags);

#define SLUICE_PLACE_PERIOD 256u       /* powers of two */
#define SLUICE_PLACE_SELDOM 4096u      /* of mappings that cost little more than the clock */
#define SLUICE_PLACE_ANY    UINT64_MAX /* no mapping of a granule or more begins there */

#define SLUICE_PLACE_ANYONE UINT32_MAX

static inline uint32_t sluice_place_index(const struct sluice_place *place)
{
	uint32_t cpu = sluice_cpu(), n = place->config.n_cpus;

	return cpu < n ? cpu : cpu % n;
}

static inline struct sluice_place_cpu *sluice_place_cpu(const struct sluice_place *place)
{
	return &place->config.cpus[sluice_place_index(place)];
}

/*
 * Is this mapping to be timed? Never where there is no choice to make. A bounce is counted here, by CPU:
 * it is long, and shares no line with another CPU's. A mapping in place counts itself, under the lock that
 * it takes anyway, and has no more to do here than to see that nobody is due.
 */
static inline bool sluice_place_tick_bounce(const struct sluice_dma *dma)
{
	struct sluice_place_cpu *mine;
	uint32_t left;

	if (dma->policy.kind != SLUICE_POLICY_AUTO || !dma->place->follows)
		return false;
	mine = sluice_place_cpu(dma->place);
	/* Whoever is moved to another CPU in between, or interrupted, loses a tick, or takes one
	 * away below 0: then the next is timed, too. */
	left = sluice_load_u32(&mine->left);
	sluice_store_u32(&mine->left, left - 1);
	return (int32_t)left <= 0;
}

static inline bool sluice_place_due(const struct sluice_place *place)
{
	uint32_t due = sluice_load_u32(&place->due);

	return due && (due == SLUICE_PLACE_ANYONE || due == sluice_place_index(place) + 1);
}

/* Under the lock: one more mapping in place. */
static inline void sluice_place_tick_placed(struct sluice_place *place)
{
	uint32_t left = sluice_load_u32(&place->left) - 1;

	sluice_store_u32(&place->left, left);
	if (!left)
		sluice_store_u32(&place->due, SLUICE_PLACE_ANYONE);
}

static inline bool sluice_place_tick_unmap(const struct sluice_place *place, uint64_t addr)
{
	uint64_t watched = sluice_load_u64(&place->watched);

	return watched && (watched == addr || watched == SLUICE_PLACE_ANY);
}

#endif
