/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * disk.c - the one kind of device that the relay knows: how long a disk's requests may be
 *
 * Theory of operation
 * -------------------
 * A chain that is longer than the pool can ever hold breaks the guest's ring (flow.c). Of most devices
 * nobody can tell beforehand how long a chain may get. A disk's guest is told, by the configuration space
 * (virtio 1.2, 5.2.4): so many segments of so many bytes. In shadow mode the relay lowers both to what
 * the pool holds, so that the guest's own driver cuts its requests to fit.
 *
 * vhost-user does not say which device it is about. A disk is told by what its backend offers: the
 * configuration space, SEG_MAX and BLK_SIZE, and nothing that only a network card can have. (As a card's,
 * these two bits are CTRL_GUEST_OFFLOADS and GSO; its backends have no configuration space, and other
 * devices have no such bits.)
 *
 * SIZE_MAX says that the field for it is valid. The guest is offered it whether the backend has it or not;
 * the backend hears of it only if it has offered it.
 */
#include <endian.h>
#include <string.h>

#include "device_end.h"
#include "session.h"
#include "shadow.h"

/* virtio 1.2, 5.2.3 and 5.1.3. */
#define BLK_SIZE_MAX 1
#define BLK_SEG_MAX  2
#define BLK_SIZE     6
#define NET_ONLY     UINT64_C(0xfc0000) /* 18 to 23: CTRL_RX to CTRL_MAC_ADDR */

/* Where size_max is, and behind it seg_max, both le32. */
#define LIMITS_AT  8u
#define LIMITS_END 16u

/* A request's header and its status are segments, too. */
#define OTHER_SEGS 2u
#define PAGE	   4096u

static bool is_disk(const struct relay *r)
{
	const uint64_t disk = VU_BIT(BLK_SEG_MAX) | VU_BIT(BLK_SIZE);

	return r->shadow && r->be.protocol & VU_BIT(VU_P_CONFIG) &&
	       (r->be.features & disk) == disk && !(r->be.features & NET_ONLY);
}

uint64_t disk_features_up(const struct relay *r)
{
	return is_disk(r) ? VU_BIT(BLK_SIZE_MAX) : 0;
}

uint64_t disk_features_down(uint64_t down, uint64_t backend)
{
	return down & (backend | ~VU_BIT(BLK_SIZE_MAX));
}

static uint32_t least(uint64_t a, uint64_t b)
{
	return (uint32_t)(a < b ? a : b);
}

/* How many segments, and how long each. */
static void lower(const struct relay *r, uint32_t *size_max, uint32_t *seg_max)
{
	/* A chain may have half of what the shadow rings leave (place.c). These are not there yet, so it is
	 * half of that, for what they may take. The least pool has 2 MiB. What it may grow by if the backend lets it
	 * does not count: the guest is not told again. */
	uint64_t most = pool_sure(&r->shadow->options) / 4 - PAGE, size;

	*seg_max = least(*seg_max, least(most / PAGE, CHAIN_MAX - OTHER_SEGS));
	size = *seg_max ? most / *seg_max : most;
	/* Whole pages: a driver's segments are, and Linux takes no less than one. */
	size = least(size & ~(uint64_t)(PAGE - 1), UINT32_MAX & ~(PAGE - 1));
	*size_max = least(*size_max, size);
}

int disk_limit(struct relay *r, struct vu_msg *m)
{
	struct vu_config *c = &m->p.config;
	const struct vu_config *whole = c;
	uint32_t from = c->offset > LIMITS_AT ? c->offset : LIMITS_AT;
	uint32_t end = c->offset + c->size < LIMITS_END ? c->offset + c->size : LIMITS_END;
	struct vu_msg ask;
	uint32_t limits[2];
	int rc;

	if (!is_disk(r) || from >= end)
		return 0;
	if (c->offset || c->size < LIMITS_END) {
		/* Both at once, from the beginning: some backends know of no offset. */
		vu_set(&ask, VU_GET_CONFIG);
		ask.p.config = (struct vu_config){.size = LIMITS_END};
		ask.h.size = VU_CONFIG_HEAD + LIMITS_END;
		rc = backend_ask(r, &ask, WAIT_MESSAGE);
		if (rc)
			return rc;
		if (ask.h.size != VU_CONFIG_HEAD + LIMITS_END)
			return 0;
		whole = &ask.p.config;
	}
	memcpy(limits, whole->region + LIMITS_AT, sizeof(limits));
	limits[0] = le32toh(limits[0]);
	limits[1] = le32toh(limits[1]);
	/* qemu-storage-daemon offers SIZE_MAX and says 0, which no request could hold to: none, that is. */
	if (!(r->be.features & VU_BIT(BLK_SIZE_MAX)) || !limits[0])
		limits[0] = UINT32_MAX;
	r->shadow->seg_bytes = limits[0];
	lower(r, &limits[0], &limits[1]);
	limits[0] = htole32(limits[0]);
	limits[1] = htole32(limits[1]);
	memcpy(c->region + (from - c->offset), (const uint8_t *)limits + (from - LIMITS_AT),
	       end - from);
	return 0;
}
