/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * place.c - mappings that stay where they are
 *
 * Theory of operation
 * -------------------
 * See sluice/place.h. A mapping's life:
 *
 *	free --map--> in the tree --unmap--> out of it --shared no more--> free
 *	                                          \--still held--> lingering --retry--> free
 *
 * Whoever takes a record out of the tree or off the list of lingering ones, under the lock, is the
 * only one who goes on with it; everything else happens outside the lock: copying, scrubbing, and
 * what the mechanism does, which may take long.
 *
 * Invariant: the granules at a mapping's ends (place_ends.c) go back to the pool only after the mechanism
 * has said that the span is not reachable.
 */
#include "place.h"

#include "internal.h"
#include "policy.h"

#define SAME_MAX 64u /* mappings that a sync of a part of one looks through */
#define BATCH	 8u  /* spans that fit on a stack */

static void count(uint64_t *counter, uint64_t n)
{
	sluice_count(counter, n);
}

/* The same under the lock, to a counter that is never added to without it. */
static void bump(uint64_t *counter, uint64_t n)
{
	sluice_store_u64(counter, sluice_load_u64(counter) + n);
}

static struct sluice_placed *take_record(struct sluice_place *place)
{
	unsigned long flags = sluice_lock(&place->lock);
	struct sluice_placed *placed = place->free;

	if (placed)
		place->free = placed->next;
	sluice_unlock(&place->lock, flags);
	return placed;
}

static void give_record(struct sluice_place *place, struct sluice_placed *placed)
{
	unsigned long flags = sluice_lock(&place->lock);

	placed->next = place->free;
	place->free = placed;
	sluice_unlock(&place->lock, flags);
}

static uint32_t access_of(enum sluice_dir dir)
{
	switch (dir) {
	case SLUICE_TO_DEVICE:
		return SLUICE_READ;
	case SLUICE_FROM_DEVICE:
		return SLUICE_WRITE;
	default:
		return SLUICE_READ | SLUICE_WRITE;
	}
}

/*
 * What tells mappings of the same granules apart, of which a mechanism that hands out no addresses can have
 * any number: where they begin in the first one and end in the last one, and their direction.
 */
static uint32_t key_of(uint64_t orig, uint64_t len, uint32_t dir)
{
	return (uint32_t)(orig & SLUICE_GRANULE_MASK) << 20 |
	       (uint32_t)((orig + len - 1) & SLUICE_GRANULE_MASK) << 8 | dir;
}

static void publish(struct sluice_place *place, struct sluice_placed *placed)
{
	bool split = placed->end_cpu[0] || placed->end_cpu[1];
	uint64_t ends = 0;
	unsigned long flags;

	if (split)
		ends = sluice_place_end_bytes(placed->orig, placed->len);
	flags = sluice_lock(&place->lock);
	sluice_tree_insert(&place->root, &placed->node);
	bump(&place->stats.live, 1);
	bump(&place->stats.bytes_placed, placed->len - ends);
	if (split) {
		bump(&place->stats.split, 1);
		bump(&place->stats.bytes_ends, ends);
	} else {
		bump(&place->stats.shared, 1);
	}
	sluice_place_tick_placed(place);
	sluice_unlock(&place->lock, flags);
}

static void linger(struct sluice_place *place, struct sluice_placed *placed, uint32_t more)
{
	unsigned long flags;

	/* Before anybody can find it and say that it has ended. */
	if (more && place->config.lingers)
		place->config.lingers(place->config.context, placed->orig, placed->len);
	flags = sluice_lock(&place->lock);
	placed->next = NULL;
	if (place->first)
		place->last->next = placed;
	else
		place->first = placed;
	place->last = placed;
	sluice_store_u32(&place->waiting, place->waiting + more);
	bump(&place->stats.lingered, more);
	sluice_unlock(&place->lock, flags);
}

/* Try the mapping again that has waited longest. False if none waits. */
static bool retry_one(struct sluice_dma *dma)
{
	struct sluice_place *place = dma->place;
	unsigned long flags = sluice_lock(&place->lock);
	struct sluice_placed *placed = place->first;
	struct sluice_span span;

	if (placed)
		place->first = placed->next;
	sluice_unlock(&place->lock, flags);
	if (!placed)
		return false;
	span = (struct sluice_span){
		.dev = placed->node.start, .bytes = placed->bytes, .token = placed->token};
	if (sluice_share_end(place->config.share, &span, 1)) {
		placed->token = span.token;
		linger(place, placed, 0);
		return true;
	}
	sluice_place_give_ends(dma, placed);
	if (place->config.ended)
		place->config.ended(place->config.context, placed->orig, placed->len);
	give_record(place, placed);
	flags = sluice_lock(&place->lock);
	sluice_store_u32(&place->waiting, place->waiting - 1);
	sluice_unlock(&place->lock, flags);
	return true;
}

uint64_t sluice_place_retry(struct sluice_dma *dma)
{
	unsigned long flags;
	uint64_t waiting;

	for (uint32_t n = sluice_load_u32(&dma->place->waiting); n > 0 && retry_one(dma); n--)
		;
	/* Under the lock: who is told that nothing lingers may touch the memory. */
	flags = sluice_lock(&dma->place->lock);
	waiting = dma->place->waiting;
	sluice_unlock(&dma->place->lock, flags);
	return waiting;
}

/* True if [dev, dev + len) stays inside one of the device's segments. */
static bool in_segment(const struct sluice_dma *dma, uint64_t dev, uint64_t len)
{
	return !((dev ^ (dev + len - 1)) & ~sluice_load_u64(&dma->seg_boundary_mask));
}

/* A mapping that is about to be shared: its record, and what the mechanism is given for it. */
struct candidate {
	struct sluice_placed *placed;
	struct sluice_piece pieces[3];
};

/* Everything but the mechanism. span->pieces point into candidate. */
static int prepare(struct sluice_dma *dma, enum sluice_route route, uint64_t orig, uint64_t len,
		   enum sluice_dir dir, struct candidate *candidate, struct sluice_span *span)
{
	const struct sluice_place_config *config = &dma->place->config;
	struct sluice_placed *placed;
	int ret;

	if (config->keeps && !config->keeps(config->context, orig, len))
		return -ERANGE;
	placed = take_record(dma->place);
	if (!placed)
		return -ENOSPC;
	candidate->placed = placed;
	placed->orig = orig;
	placed->len = len;
	placed->dir = (uint32_t)dir;
	placed->end_cpu[0] = placed->end_cpu[1] = NULL;
	*span = (struct sluice_span){.pieces = candidate->pieces, .access = access_of(dir)};
	ret = sluice_place_cut(dma, placed, route, candidate->pieces, &span->n);
	if (ret) {
		sluice_place_give_ends(dma, placed);
		give_record(dma->place, placed);
	}
	return ret;
}

/* After the mechanism has said ret of the span. */
static int settle(struct sluice_dma *dma, struct sluice_placed *placed, struct sluice_span *span,
		  int ret, uint64_t *addr)
{
	struct sluice_place *place = dma->place;

	if (!ret || ret == -EBUSY) {
		placed->bytes = span->bytes;
		placed->node.start = span->dev;
		placed->node.last = span->dev + span->bytes - 1;
		placed->node.key = key_of(placed->orig, placed->len, placed->dir);
		*addr = span->dev + (placed->orig & SLUICE_GRANULE_MASK);
	}
	if (!ret && !in_segment(dma, *addr, placed->len))
		ret = sluice_share_end(place->config.share, span, 1) ? -EBUSY : -ERANGE;
	if (!ret) {
		publish(place, placed);
		return 0;
	}
	if (ret == -EBUSY) {
		/* Nobody was given the address, but somebody uses it. */
		placed->token = span->token;
		linger(place, placed, 1);
		return ret;
	}
	sluice_place_give_ends(dma, placed);
	give_record(place, placed);
	return ret;
}

static int share_in_place(struct sluice_dma *dma, enum sluice_route route, uint64_t orig,
			  uint64_t len, enum sluice_dir dir, uint64_t *addr)
{
	struct candidate candidate;
	struct sluice_span span;
	int ret;

	if (sluice_load_u32(&dma->place->waiting))
		(void)retry_one(dma);
	ret = prepare(dma, route, orig, len, dir, &candidate, &span);
	if (ret)
		return ret;
	ret = sluice_share_spans(dma->place->config.share, &span, 1);
	return settle(dma, candidate.placed, &span, ret, addr);
}

/* It could not be bounced, because of what ret says. */
static SLUICE_RARE int share_instead(struct sluice_dma *dma, uint64_t orig, uint64_t len,
				     enum sluice_dir dir, int ret, uint64_t *addr)
{
	const struct sluice_policy all = {.kind = SLUICE_POLICY_SHARE};
	uint32_t can = dma->place->can;
	enum sluice_route route = sluice_policy_route(
		&all, orig, len, (uint32_t)dir, can & SLUICE_SHARE_WHOLE, can & SLUICE_SHARE_JOINS);
	int again;

	if (route == SLUICE_ROUTE_BOUNCE || dma->policy.kind == SLUICE_POLICY_BOUNCE)
		return ret;
	again = share_in_place(dma, route, orig, len, dir, addr);
	if (!again)
		count(&dma->place->stats.unbounceable, 1);
	return again && again != -EBUSY ? ret : again;
}

int sluice_place_map_routed(struct sluice_dma *dma, enum sluice_route route, uint64_t orig,
			    uint64_t len, enum sluice_dir dir, uint32_t mask, uint64_t *addr)
{
	int ret;

	if (route == SLUICE_ROUTE_BOUNCE) {
		ret = sluice_dma_bounce(dma, orig, len, dir, mask, addr);
		if (ret == -ENOSPC || ret == -E2BIG)
			ret = share_instead(dma, orig, len, dir, ret, addr);
		return ret;
	}
	ret = share_in_place(dma, route, orig, len, dir, addr);
	/* -EBUSY: the buffer is in somebody's hands. Copying it would not get it out of there. */
	if (!ret || ret == -EBUSY)
		return ret;
	count(&dma->place->stats.unshareable, 1);
	return sluice_dma_bounce(dma, orig, len, dir, mask, addr);
}

static inline enum sluice_route route_of(const struct sluice_dma *dma, uint64_t orig, uint64_t len,
					 enum sluice_dir dir)
{
	const struct sluice_policy *policy = &dma->policy;
	uint32_t can = dma->place->can;

	if ((orig | len) & SLUICE_GRANULE_MASK || can & SLUICE_SHARE_WHOLE)
		return sluice_policy_route(policy, orig, len, (uint32_t)dir,
					   can & SLUICE_SHARE_WHOLE, can & SLUICE_SHARE_JOINS);
	/* Whole granules. */
	if (policy->kind == SLUICE_POLICY_AUTO)
		return sluice_policy_pays(policy, len, (uint32_t)dir, false) ? SLUICE_ROUTE_SHARE
									     : SLUICE_ROUTE_BOUNCE;
	return policy->kind == SLUICE_POLICY_SHARE ? SLUICE_ROUTE_SHARE : SLUICE_ROUTE_BOUNCE;
}

int sluice_place_map(struct sluice_dma *dma, uint64_t orig, uint64_t len, enum sluice_dir dir,
		     uint32_t mask, uint64_t *addr)
{
	enum sluice_route route;

	/* Nothing to decide: the commonest case first. */
	if (len <= SLUICE_GRANULE_MASK && !(dma->place->can & SLUICE_SHARE_WHOLE))
		return sluice_place_map_routed(dma, SLUICE_ROUTE_BOUNCE, orig, len, dir, mask,
					       addr);
	route = route_of(dma, orig, len, dir);
	if (route == SLUICE_ROUTE_BOUNCE ? sluice_place_tick_bounce(dma)
					 : sluice_place_due(dma->place))
		return sluice_place_map_sampled(dma, route, orig, len, dir, mask, addr);
	return sluice_place_map_routed(dma, route, orig, len, dir, mask, addr);
}

/*
 * Share n elements that are all to be shared, n at most BATCH, asking the mechanism once: all of them
 * or none. -EBUSY: what lingers is in somebody's hands.
 */
static int share_list(struct sluice_dma *dma, struct sluice_sg *sg, uint32_t n, enum sluice_dir dir)
{
	struct candidate candidates[BATCH];
	struct sluice_span spans[BATCH];
	uint32_t some = 0;
	int ret = 0, all;

	if (sluice_load_u32(&dma->place->waiting))
		(void)retry_one(dma);
	for (; some < n && !ret; some += !ret)
		ret = prepare(dma, route_of(dma, sg[some].orig, sg[some].len, dir), sg[some].orig,
			      sg[some].len, dir, &candidates[some], &spans[some]);
	if (!ret)
		ret = sluice_share_spans(dma->place->config.share, spans, n);
	all = ret;
	for (uint32_t i = 0; i < some; i++) {
		int of = all == -EBUSY ? (spans[i].result == -EBUSY ? -EBUSY : -EIO) : all;

		of = settle(dma, candidates[i].placed, &spans[i], of, &sg[i].dma);
		spans[i].result = of;
		if (of && (!ret || of == -EBUSY))
			ret = of;
	}
	/* Some can have been shared where they are of no use. */
	for (uint32_t i = 0; i < some && ret; i++) {
		if (!spans[i].result &&
		    sluice_dma_unmap(dma, sg[i].dma, sg[i].len, dir, SLUICE_SKIP_SYNC) < 0)
			ret = -EBUSY;
	}
	return ret;
}

/* How many elements from the first on can be shared in one go. */
static uint32_t joint(const struct sluice_dma *dma, const struct sluice_sg *sg, uint32_t n,
		      enum sluice_dir dir)
{
	uint32_t some = 0;

	while (some < n && some < BATCH &&
	       sluice_dma_valid(dma, sg[some].orig, sg[some].len, dir) &&
	       route_of(dma, sg[some].orig, sg[some].len, dir) != SLUICE_ROUTE_BOUNCE)
		some++;
	return some;
}

int sluice_place_map_sg(struct sluice_dma *dma, struct sluice_sg *sg, uint32_t n,
			enum sluice_dir dir, uint32_t *done)
{
	bool jointly = true;
	int ret = 0;

	for (*done = 0; *done < n && !ret;) {
		struct sluice_sg *next = &sg[*done];
		uint32_t some = jointly ? joint(dma, next, n - *done, dir) : 0;

		if (some > 1 && dma->policy.kind == SLUICE_POLICY_AUTO &&
		    sluice_place_due(dma->place)) {
			/* auto knows what one mapping costs, and wants to see one now and then. */
			ret = sluice_place_map_sampled(
				dma, route_of(dma, next->orig, next->len, dir), next->orig,
				next->len, dir, sluice_load_u32(&dma->min_align_mask), &next->dma);
			*done += !ret;
			continue;
		}
		if (some > 1) {
			ret = share_list(dma, next, some, dir);
			if (!ret)
				*done += some;
			if (!ret || ret == -EBUSY)
				continue;
			/* No room for all: one by one, as far as it goes, and the rest bounces. */
			jointly = false;
		}
		ret = sluice_dma_list_map(dma, next->orig, next->len, dir, 0, &next->dma);
		*done += !ret;
	}
	return ret;
}

/* The mapping that addr, len and dir describe; of several that they do, any. Under the lock. */
static struct sluice_placed *find(const struct sluice_place *place, uint64_t addr, uint64_t len,
				  uint32_t dir)
{
	if (len == 0 || addr > UINT64_MAX - len)
		return NULL;
	/* Its node comes first. */
	return (struct sluice_placed *)sluice_tree_exact(place->root, addr & ~SLUICE_GRANULE_MASK,
							 (addr + len - 1) | SLUICE_GRANULE_MASK,
							 key_of(addr, len, dir));
}

/* Take it out of the tree: NULL if there is none. */
static struct sluice_placed *withdraw(struct sluice_place *place, uint64_t addr, uint64_t len,
				      enum sluice_dir dir)
{
	unsigned long flags = sluice_lock(&place->lock);
	struct sluice_placed *found = find(place, addr, len, (uint32_t)dir);

	if (found) {
		sluice_tree_remove(&place->root, &found->node);
		bump(&place->stats.live, UINT64_MAX);
	}
	sluice_unlock(&place->lock, flags);
	return found;
}

/* After the mechanism has been asked to take a withdrawn mapping back. */
static int finish(struct sluice_dma *dma, struct sluice_placed *placed,
		  const struct sluice_span *span, bool copy)
{
	if (copy)
		sluice_place_copy_ends(placed, 0, placed->len, false);
	if (span->result) {
		placed->token = span->token;
		linger(dma->place, placed, 1);
		return -EBUSY;
	}
	sluice_place_give_ends(dma, placed);
	give_record(dma->place, placed);
	return 0;
}

int sluice_place_unmap_routed(struct sluice_dma *dma, uint64_t addr, uint64_t len,
			      enum sluice_dir dir, uint32_t flags, bool *split)
{
	struct sluice_placed *placed;
	struct sluice_span span;

	if (!sluice_place_owns(dma, addr))
		return sluice_dma_unbounce(dma, addr, len, dir, flags);
	placed = withdraw(dma->place, addr, len, dir);
	if (!placed)
		return sluice_dma_refuse(dma);
	*split = placed->end_cpu[0] || placed->end_cpu[1];
	span = (struct sluice_span){.dev = placed->node.start, .bytes = placed->bytes};
	(void)sluice_share_end(dma->place->config.share, &span, 1);
	return finish(dma, placed, &span, dir != SLUICE_TO_DEVICE && !(flags & SLUICE_SKIP_SYNC));
}

int sluice_place_unmap(struct sluice_dma *dma, uint64_t addr, uint64_t len, enum sluice_dir dir,
		       uint32_t flags)
{
	bool split;

	if (len > SLUICE_GRANULE_MASK && sluice_place_tick_unmap(dma->place, addr))
		return sluice_place_unmap_sampled(dma, addr, len, dir, flags);
	return sluice_place_unmap_routed(dma, addr, len, dir, flags, &split);
}

/* So many at a time, of which placed and spans have room for most. */
static int unmap_list(struct sluice_dma *dma, const struct sluice_sg *sg, uint32_t n,
		      enum sluice_dir dir, uint32_t flags, struct sluice_placed **placed,
		      struct sluice_span *spans, uint32_t most)
{
	bool copy = dir != SLUICE_TO_DEVICE && !(flags & SLUICE_SKIP_SYNC);
	uint32_t i = 0;
	int ret = 0;

	while (i < n) {
		uint32_t some = 0;

		for (; i < n && some < most; i++) {
			int err = 0;

			if (!sluice_place_owns(dma, sg[i].dma)) {
				err = sluice_dma_unbounce(dma, sg[i].dma, sg[i].len, dir, flags);
			} else {
				placed[some] = withdraw(dma->place, sg[i].dma, sg[i].len, dir);
				if (placed[some])
					some++;
				else
					err = sluice_dma_refuse(dma);
			}
			if (err < 0)
				ret = err;
		}
		for (uint32_t k = 0; k < some; k++)
			spans[k] = (struct sluice_span){.dev = placed[k]->node.start,
							.bytes = placed[k]->bytes};
		if (some)
			(void)sluice_share_end(dma->place->config.share, spans, some);
		for (uint32_t k = 0; k < some; k++) {
			if (finish(dma, placed[k], &spans[k], copy) && !ret)
				ret = -EBUSY;
		}
	}
	return ret;
}

int sluice_place_unmap_sg(struct sluice_dma *dma, const struct sluice_sg *sg, uint32_t n,
			  enum sluice_dir dir, uint32_t flags)
{
	struct sluice_place *place = dma->place;
	struct sluice_placed *placed[BATCH];
	struct sluice_span spans[BATCH];
	int ret;

	/* A whole list, if nobody else, whom this may have interrupted, is ending one. */
	if (n <= BATCH || !sluice_cas_u32(&place->list_taken, 0, 1))
		return unmap_list(dma, sg, n, dir, flags, placed, spans, BATCH);
	ret = unmap_list(dma, sg, n, dir, flags, place->list, place->list_spans, SLUICE_PLACE_LIST);
	/* Release: what was read of it is read before the next one writes. */
	sluice_store_release_u32(&place->list_taken, 0);
	return ret;
}

/*
 * The mapping that a sync of a part lies in. *more: there are more of them in these granules than have been
 * looked at. Under the lock.
 */
static struct sluice_placed *find_around(const struct sluice_place *place, uint64_t addr,
					 uint64_t len, uint32_t dir, bool *more)
{
	struct sluice_node *node = sluice_tree_first(place->root, addr, addr);

	for (uint32_t i = 0; node && node->start <= addr; i++) {
		struct sluice_placed *one = (struct sluice_placed *)node;
		uint64_t at = addr - (node->start + (one->orig & SLUICE_GRANULE_MASK));

		*more = i == SAME_MAX;
		if (*more)
			return NULL;
		if (at <= one->len && len <= one->len - at &&
		    (one->dir == dir || one->dir == SLUICE_BIDIRECTIONAL))
			return one;
		node = sluice_tree_next(place->root, node);
	}
	return NULL;
}

int sluice_place_sync(struct sluice_dma *dma, uint64_t addr, uint64_t len, enum sluice_dir dir,
		      bool to_device)
{
	struct sluice_place *place = dma->place;
	unsigned long flags = sluice_lock(&place->lock);
	struct sluice_placed *placed = find(place, addr, len, (uint32_t)dir);
	bool more = false;

	if (!placed)
		placed = find(place, addr, len, SLUICE_BIDIRECTIONAL);
	if (!placed)
		placed = find_around(place, addr, len, (uint32_t)dir, &more);
	sluice_unlock(&place->lock, flags);
	/* More than one of the same granules are shared as they are: there is nothing to copy. */
	if (more)
		return 0;
	if (!placed)
		return sluice_dma_refuse(dma);
	/* The record stays: nobody syncs what is being unmapped. */
	if (len && dir != (to_device ? SLUICE_FROM_DEVICE : SLUICE_TO_DEVICE))
		sluice_place_copy_ends(
			placed, addr - (placed->node.start + (placed->orig & SLUICE_GRANULE_MASK)),
			len, to_device);
	return 0;
}

int sluice_place_init(struct sluice_place *place, struct sluice_dma *dma,
		      const struct sluice_place_config *config)
{
	if (config->n_records == 0 || config->n_cpus == 0 || !config->share->ops->share)
		return -EINVAL;
	sluice_zero(place, sizeof(*place));
	place->config = *config;
	place->can = config->share->ops->flags;
	place->due = SLUICE_PLACE_ANYONE;
	place->follows = config->clock && !(place->can & SLUICE_SHARE_WHOLE);
	sluice_lock_init(&place->lock);
	sluice_zero(config->cpus, config->n_cpus * sizeof(*config->cpus));
	for (uint32_t i = 0; i < config->n_cpus; i++)
		config->cpus[i].period = SLUICE_PLACE_PERIOD;
	for (uint32_t i = config->n_records; i-- > 0;) {
		config->records[i].next = place->free;
		place->free = &config->records[i];
	}
	dma->place = place;
	return 0;
}

void sluice_place_get_stats(struct sluice_dma *dma, struct sluice_place_stats *stats)
{
	const uint64_t *from = (const uint64_t *)&dma->place->stats;
	uint64_t *to = (uint64_t *)stats;

	for (size_t i = 0; i < sizeof(*stats) / sizeof(uint64_t); i++)
		to[i] = sluice_load_u64(&from[i]);
	stats->lingering = sluice_load_u32(&dma->place->waiting);
}
