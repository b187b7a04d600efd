/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * pool.c - the pool of a connection: making it, dividing it, having it grow
 *
 * Theory of operation
 * -------------------
 * In ordinary pages the pool is one file of --pool-max bytes from the start, of which the backend is told once, and
 * only what is used has memory behind it: a queue that finds no room has it grow at once.
 *
 * On huge pages it is not, since those are set aside when they are mapped, and a backend that wants them pins or
 * populates all that it is told of (SPDK, DPDK with VFIO). There the pool grows by parts, sealed files of their own, of which the
 * backend is told one by one with ADD_MEM_REG. To tell it all anew with SET_MEM_TABLE would be no way: backends give up
 * their mappings over that, under the requests that they are at work on. So a backend without CONFIGURE_MEM_SLOTS has
 * a pool of --pool-size for good.
 *
 * Telling takes as long as the backend likes, and may end with its being given up, pool and all. So it is never done in the
 * middle of a queue's turn: a queue that finds no room wishes for a part, and the control thread sees to it
 * while all queues rest. Pages that are not there are asked for again once in a while, for as long as anybody waits. A
 * backend that refuses a part is not told of another one over this connection; one that was lost while it was told
 * of one may be so again, and is left alone for longer.
 *
 * What there is (size) and what it may come to (reach): queues are given shares of the former, so that they
 * hold even if it never grows. Whether a chain can ever be placed goes by the latter. One that needs more than there is waits
 * for a part, and not in the others' way (outgrows).
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "log.h"
#include "shadow.h"
#include "state.h"

#define MISSING_NS UINT64_C(1000000000) /* until pages are asked for again that were not there */
#define LOST_NS                                                                                    \
	UINT64_C(60000000000) /* until a part is told of again over which a backend was lost */

#define MIB(bytes) ((uint64_t)(bytes) >> 20)

static bool grows_by_parts(const struct shadow_options *o)
{
	return o->huge_pages && o->pool_max > o->pool_size;
}

uint64_t pool_sure(const struct shadow_options *o)
{
	return o->huge_pages ? o->pool_size : o->pool_max;
}

/* How many parts it may have with this backend. */
static uint32_t parts_for(struct relay *r)
{
	struct shadow *s = r->shadow;
	uint64_t slots = r->be.agreed & VU_BIT(VU_P_MEM_SLOTS) ? r->be.slots : 1;

	if (!grows_by_parts(&s->options))
		return 1;
	if (slots > 1) {
		s->fixed_said = false;
		return slots < SLUICE_MEMFD_PARTS ? (uint32_t)slots : SLUICE_MEMFD_PARTS;
	}
	if (!s->fixed_said)
		relay_log_peer("the pool stays at --pool-size, %" PRIu64 " MiB: on huge pages the "
			       "backend has to be told of each piece that comes later, and this "
			       "one takes no second region (it does not offer "
			       "CONFIGURE_MEM_SLOTS). Use one that does, or raise --pool-size",
			       MIB(s->options.pool_size));
	s->fixed_said = true;
	return 1;
}

/* The entry of a part, for the backend to be told of. */
static void set_region(struct region *region, const struct sluice_memfd_part *part)
{
	struct stat st;

	if (fstat(part->fd, &st))
		st = (struct stat){0};
	*region = (struct region){
		.v = {.gpa = part->dev, .size = part->size, .user = part->dev, .offset = 0},
		.dev = st.st_dev,
		.ino = st.st_ino,
		.fd = part->fd,
		.used = true,
	};
}

int pool_open(struct relay *r)
{
	struct shadow *s = r->shadow;
	struct sluice_memfd_config config = {
		.name = "sluice-shadow",
		.size = s->options.pool_size,
		.max = s->options.pool_max,
		.dev = SHADOW_DEV,
		/* They are by processor: what a thread that has been moved has left in another one
		 * counts as used. So few; and no more than a pool that runs dry looks into, which
		 * is 16 (core/cache.c). */
		.n_caches = (s->nloops + 3) / 4,
		.frugal = true,
		.huge_pages = s->options.huge_pages,
	};
	int rc;

	if (s->memfd)
		return 0;
	if (!r->be.agreed_set) {
		rc = backend_agree(r);
		if (rc)
			return rc;
	}
	config.parts = parts_for(r);
	if (config.huge_pages && config.parts == 1)
		config.max = config.size;
	rc = sluice_memfd_open(&config, &s->memfd);
	if (rc) {
		relay_log_peer("there is no memory for a pool of %" PRIu64 " bytes (%s)%s",
			       config.size, strerror(-rc),
			       config.huge_pages
				       ? ": reserve huge pages (/proc/sys/vm/nr_hugepages)"
				       : "");
		return rc;
	}
	s->pool = s->memfd->region.cpu;
	s->size = s->memfd->parts[0].size;
	s->reach = config.max;
	s->rings = s->common = 0;
	s->waiting = NULL;
	s->missing_said = false;
	s->connects++;
	set_region(&r->mem.regions[0], &s->memfd->parts[0]);
	return 0;
}

void pool_close(struct relay *r)
{
	struct shadow *s = r->shadow;
	struct sluice_pool_stats stats;

	if (!s->memfd)
		return;
	sluice_pool_get_stats(&s->memfd->pool, &stats);
	if (stats.used_max > s->pool_max_used)
		s->pool_max_used = stats.used_max;
	/* The fds are the memfd's. */
	for (unsigned int i = 0; i < SLUICE_MEMFD_PARTS; i++)
		r->mem.regions[i] = (struct region){.fd = -1};
	sluice_memfd_destroy(s->memfd);
	s->memfd = NULL;
	s->pool = NULL;
	s->wished = false;
}

/* What is left of a pool of that size for what flights have. */
static uint64_t left_of(const struct shadow *s, uint64_t bytes)
{
	/* What slots and slabs round up to is theirs too; a sixteenth is for what they keep. */
	const uint64_t taken = s->rings + bytes / 16;

	return bytes > taken ? bytes - taken : 0;
}

void pool_divide(struct shadow *s)
{
	const uint64_t most = left_of(s, s->reach);
	uint64_t n = 0;

	for (unsigned int i = 0; i < RING_MAX; i++)
		n += s->queues[i].back_on;
	s->room = left_of(s, s->size);
	s->share = n ? s->room / 2 / n : 0;
	s->chain_max = most / 2;
	s->flight_max = (n ? most / 2 / n : 0) + most / 2;
	s->common = 0;
	for (unsigned int i = 0; i < RING_MAX; i++) {
		s->queues[i].outgrows = false;
		if (s->queues[i].held > s->share)
			s->common += s->queues[i].held - s->share;
	}
	loop_room_came(s, NULL);
}

bool pool_grow(struct shadow *s)
{
	bool grown;

	shadow_lock(s, &s->growing);
	grown = sluice_memfd_balance(s->memfd) > 0;
	shadow_unlock(s, &s->growing);
	/* Another thread may have had it grow meanwhile. */
	return grown || s->nloops > 1;
}

bool pool_shrinks(const struct shadow *s)
{
	struct sluice_pool_stats stats;

	/* Parts stay until the connection ends. */
	if (!s->memfd || grows_by_parts(&s->options))
		return false;
	sluice_pool_get_stats(&s->memfd->pool, &stats);
	return stats.bytes > s->options.pool_size;
}

void pool_wish(struct queue *q)
{
	struct shadow *s = q->shadow;

	/* Relaxed: the control thread has this thread rest before it does anything about it. */
	if (s->size >= s->reach || __atomic_load_n(&s->wished, __ATOMIC_RELAXED))
		return;
	if (!__atomic_exchange_n(&s->wished, true, __ATOMIC_RELAXED))
		q->loop->trouble = true;
}

int pool_pause(const struct shadow *s)
{
	uint64_t now;

	if (!s->memfd || !__atomic_load_n(&s->wished, __ATOMIC_RELAXED))
		return -1;
	now = now_ns();
	return now >= s->part_at ? 0 : (int)((s->part_at - now) / 1000000) + 1;
}

/* There is none, nor will there be soon. */
static bool no_part(struct shadow *s, int rc)
{
	s->part_at = now_ns() + MISSING_NS;
	if (!s->missing_said)
		relay_log_peer("the pool is to grow beyond %" PRIu64 " MiB, and cannot (%s): "
			       "reserve more huge pages (/proc/sys/vm/nr_hugepages). Until there "
			       "are some, requests wait for room more often; this is looked at "
			       "again every second",
			       MIB(s->size), strerror(-rc));
	s->missing_said = true;
	return false;
}

bool pool_add_part(struct relay *r)
{
	struct shadow *s = r->shadow;
	struct sluice_memfd_part part;
	struct region *region;
	uint32_t index;
	int rc;

	if (!s->memfd || s->size >= s->reach || now_ns() < s->part_at)
		return false;
	rc = sluice_memfd_part_make(s->memfd, &part);
	if (rc)
		return no_part(s, rc);
	index = s->memfd->n_parts;
	region = &r->mem.regions[index];
	set_region(region, &part);
	rc = backend_memory(r, NULL);
	/* With the backend the pool is gone. */
	if (r->be.fd < 0) {
		s->part_at = now_ns() + LOST_NS;
		relay_log_peer("the backend was lost when it was told of more of the pool: it is "
			       "not told again for a minute");
		return false;
	}
	if (rc) {
		*region = (struct region){.fd = -1};
		sluice_memfd_part_drop(s->memfd);
		s->reach = s->size;
		s->wished = false;
		relay_log_peer("the pool stays at %" PRIu64 " MiB: the backend does not take more "
			       "of it. Its own log may say why (a limit for locked memory, "
			       "say); it is told again when it has been started again",
			       MIB(s->size));
		/* Who waits for more than that waits in vain. */
		pool_divide(s);
		return false;
	}
	sluice_memfd_part_use(s->memfd);
	s->size += part.size;
	s->wished = s->missing_said = false;
	pool_divide(s);
	return true;
}

void pool_see_to(struct relay *r)
{
	struct shadow *s = r->shadow;
	bool anybody = false;

	for (unsigned int i = 0; i < s->nloops; i++)
		anybody |= s->loops[i].nwaits != 0;
	if (anybody && !s->backend_broke)
		(void)pool_add_part(r);
	else
		s->wished = false;
}
