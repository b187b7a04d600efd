/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * turn.c - no device starves another: who found no room is passed by so many, and then has its turn
 *
 * Theory of operation
 * -------------------
 * A large request needs a long free run, and whenever one is about to come together somebody with a
 * small request takes a piece of it. No allocator can help that; somebody has to be told to wait.
 *
 * A device whose map finds no room joins a queue and gets a ticket: how many mappings have been made
 * while anybody waited until now. Others may go on, pass it, and are counted. When it has been passed
 * SLUICE_TURN_PASSES times its ticket is old; if its next try fails too, it insists: it goes before
 * all that do not, and the gate closes. Then only the first may map; the others are told that the
 * pool is full, and wait behind it. So what is mapped can only become less, until there is what the
 * first needs, at the latest when it has the pool to itself. When it has got it, it leaves, and the
 * gate stays closed for the next one that insists.
 *
 * A device waits for what it asked for: wants is the largest request (a whole list, if the caller
 * says so) that failed. Something smaller that it maps meanwhile does not end its waiting.
 *
 * Others may still map where there is so much room that enough is left for all that insist: then
 * their next tries will be met, and nobody has to wait for them. So those that never come back (a
 * network driver drops what does not fit) keep nobody out of a pool that has room, and are forgotten
 * after SLUICE_TURN_FORGET mappings without a try of theirs.
 *
 * Some come back in vain, because long-lived mappings of others lie in the way of what they need,
 * or stop coming when they have insisted. Neither can be told from slowness by the time, which this
 * code does not have, so it is told by silence: when so many (SLUICE_TURN_SILENCE) have been turned
 * away since a slot was last given back, the turn was in vain, and the first goes to the end of the
 * queue. Its ticket is old again soon, in case that the silence was an accident (a thread that was
 * preempted): after 16 mappings, then 32, up to the usual number; and from there on each turn in
 * vain halves the silence that the next one may last, down to a sixty-fourth. So what is not to be
 * had costs the others less and less, and is had all the same when it can be. Likewise a turn ends
 * after SLUICE_TURN_SMALL mappings that were not what it was for.
 *
 * Nobody sleeps and nothing is remembered but a list through the devices, so all this works in an
 * interrupt and with one thread. Each call is a constant number of steps under the pool's lock.
 * Coherent memory takes no part: it is asked for when a driver starts, which does not ask again.
 *
 * Invariant: gate is GATE_NONE if and only if the queue is empty; a device's wants is 0 if and only if
 * it is not in the queue; those that insist stand before all that do not. All of it is written under
 * the pool's lock; only gate is read without.
 */
#include "turn.h"

#include "reserve.h"

/* The turn after one in vain comes after 16 passes, the next after 32, and so on up to the rule. */
#define AGAIN	    8u
#define AGAIN_STEPS 5u
_Static_assert(AGAIN << AGAIN_STEPS == SLUICE_TURN_PASSES, "the last step is the rule");
/* And the silence that it may last is halved so often: what comes back one by one is still had. */
#define SILENCE_STEPS 6u

/* A run that certainly holds what is wanted, whatever its alignment, as one piece or many. */
static bool has_room(const struct sluice_pool *pool, uint64_t bytes)
{
	uint64_t granules = ((bytes >> SLUICE_GRANULE_SHIFT) + 2) * 4;

	return sluice_runs_largest(pool) >= granules;
}

static bool is_old(const struct sluice_pool *pool, const struct sluice_dma *dma)
{
	return dma->turn.wants && pool->passes - dma->turn.ticket >= SLUICE_TURN_PASSES;
}

static void update(struct sluice_pool *pool)
{
	const struct sluice_dma *first = pool->turn_first;
	uint32_t gate = GATE_NONE;

	if (first)
		gate = first->turn.insists || is_old(pool, first) ? GATE_CLOSED : GATE_OPEN;
	sluice_store_u32(&pool->gate, gate);
	/* While somebody waits nothing is cached. */
	sluice_pool_check_low(pool);
}

/* Put dma into the queue behind prev, or first if that is NULL. */
static void link_device(struct sluice_pool *pool, struct sluice_dma *dma, struct sluice_dma *prev)
{
	struct sluice_dma *next = prev ? prev->turn.next : pool->turn_first;

	dma->turn.prev = prev;
	dma->turn.next = next;
	if (next)
		next->turn.prev = dma;
	else
		pool->turn_last = dma;
	if (prev)
		prev->turn.next = dma;
	else
		pool->turn_first = dma;
}

static void unlink_device(struct sluice_pool *pool, struct sluice_dma *dma)
{
	struct sluice_dma *prev = dma->turn.prev, *next = dma->turn.next;

	/* Whoever stands before one that insists does too. */
	if (pool->turn_insists == dma)
		pool->turn_insists = prev;
	if (dma->turn.insists)
		pool->insisted -= dma->turn.wants;
	dma->turn.insists = false;
	if (next)
		next->turn.prev = prev;
	else
		pool->turn_last = prev;
	if (prev)
		prev->turn.next = next;
	else
		pool->turn_first = next;
}

/* After the queue has changed. */
static void settle(struct sluice_pool *pool, const struct sluice_dma *first_before)
{
	if (pool->turn_first != first_before) {
		pool->silence = 0;
		pool->small = 0;
	}
	update(pool);
}

static void leave(struct sluice_pool *pool, struct sluice_dma *dma)
{
	const struct sluice_dma *first = pool->turn_first;

	unlink_device(pool, dma);
	dma->turn.wants = 0;
	settle(pool, first);
}

/* Go before all that do not insist, and stay until served. */
static void insist(struct sluice_pool *pool, struct sluice_dma *dma)
{
	const struct sluice_dma *first = pool->turn_first;

	unlink_device(pool, dma);
	link_device(pool, dma, pool->turn_insists);
	dma->turn.insists = true;
	pool->insisted += dma->turn.wants;
	pool->turn_insists = dma;
	settle(pool, first);
}

/* A device has found no room, or was not let in. */
static void wait_for(struct sluice_pool *pool, struct sluice_dma *dma, uint64_t bytes)
{
	const struct sluice_dma *first = pool->turn_first;

	dma->turn.tried = pool->passes;
	if (dma->turn.wants) {
		if (bytes > dma->turn.wants) {
			if (dma->turn.insists)
				pool->insisted += bytes - dma->turn.wants;
			dma->turn.wants = bytes;
		}
		if (is_old(pool, dma) && !dma->turn.insists)
			insist(pool, dma);
		return;
	}
	dma->turn.waits++;
	dma->turn.wants = bytes;
	dma->turn.ticket = pool->passes;
	link_device(pool, dma, pool->turn_last);
	settle(pool, first);
}

/* How many may be turned away while nothing is given back until this one's turn was in vain. */
static uint32_t silence_of(const struct sluice_dma *dma)
{
	uint32_t in_vain = dma->turn.in_vain;

	return SLUICE_TURN_SILENCE >> (in_vain > AGAIN_STEPS ? in_vain - AGAIN_STEPS : 0);
}

/* The first has had its turn for nothing. */
static void lapse(struct sluice_pool *pool)
{
	struct sluice_dma *dma = pool->turn_first;
	uint32_t steps;

	dma->turn.lapses++;
	if (dma->turn.in_vain < AGAIN_STEPS + SILENCE_STEPS)
		dma->turn.in_vain++;
	steps = dma->turn.in_vain < AGAIN_STEPS ? dma->turn.in_vain : AGAIN_STEPS;
	unlink_device(pool, dma);
	link_device(pool, dma, pool->turn_last);
	dma->turn.ticket = pool->passes + (AGAIN << steps) - SLUICE_TURN_PASSES;
	pool->silence = 0;
	pool->small = 0;
	update(pool);
}

static bool is_shut_out(struct sluice_pool *pool, struct sluice_dma *dma, uint64_t bytes)
{
	if (pool->gate != GATE_CLOSED || pool->turn_first == dma)
		return false;
	/* None that insists: whoever is here goes before those who may be gone. */
	if (!pool->turn_insists && is_old(pool, dma)) {
		insist(pool, dma);
		return false;
	}
	if (has_room(pool,
		     bytes + (pool->turn_insists ? pool->insisted : pool->turn_first->turn.wants)))
		return false;
	if (++pool->silence >= silence_of(pool->turn_first))
		lapse(pool);
	return pool->gate == GATE_CLOSED && pool->turn_first != dma;
}

/*
 * May dma try to map now? If not, it waits for that many bytes. Between this and the allocation
 * others may be let in as well: one for each CPU, which is part of the bound.
 */
bool sluice_turn_may_map(struct sluice_dma *dma, uint64_t bytes)
{
	struct sluice_pool *pool = dma->pool;
	unsigned long flags = sluice_lock(&pool->lock);
	bool shut_out = is_shut_out(pool, dma, bytes);

	if (shut_out) {
		wait_for(pool, dma, bytes);
		dma->turn.turned_away++;
	}
	sluice_unlock(&pool->lock, flags);
	return !shut_out;
}

/*
 * A device has mapped so many bytes while somebody waited, in so many mappings: 0 at the end of a
 * list whose elements have been counted one by one.
 */
void sluice_turn_met(struct sluice_dma *dma, uint64_t bytes, uint32_t mappings)
{
	struct sluice_pool *pool = dma->pool;
	unsigned long flags = sluice_lock(&pool->lock);

	pool->passes += mappings;
	if (dma->turn.wants && bytes >= dma->turn.wants) {
		dma->turn.in_vain = 0;
		leave(pool, dma);
	} else if (dma->turn.insists && pool->turn_first == dma) {
		pool->small += mappings;
		if (pool->small >= SLUICE_TURN_SMALL)
			lapse(pool);
	} else {
		update(pool);
	}
	if (pool->turn_first && pool->passes - pool->turn_first->turn.tried >= SLUICE_TURN_FORGET)
		leave(pool, pool->turn_first);
	sluice_unlock(&pool->lock, flags);
}

/* A device has found no room for so many bytes, and comes again. */
void sluice_turn_wait(struct sluice_dma *dma, uint64_t bytes)
{
	struct sluice_pool *pool = dma->pool;
	unsigned long flags = sluice_lock(&pool->lock);

	wait_for(pool, dma, bytes);
	sluice_unlock(&pool->lock, flags);
}

void sluice_dma_list_done(struct sluice_dma *dma, uint64_t bytes, int ret)
{
	if (bytes == 0)
		return;
	if (ret == -ENOSPC)
		sluice_turn_wait(dma, bytes);
	else if (ret == 0 && turn_anyone(dma->pool))
		sluice_turn_met(dma, bytes, 0);
}

void sluice_dma_close(struct sluice_dma *dma)
{
	struct sluice_pool *pool = dma->pool;
	unsigned long flags = sluice_lock(&pool->lock);

	if (dma->turn.wants)
		leave(pool, dma);
	sluice_reserve_close(dma);
	sluice_unlock(&pool->lock, flags);
}
