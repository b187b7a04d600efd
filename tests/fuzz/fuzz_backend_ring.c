/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * fuzz_backend_ring.c - libFuzzer target: the relay's own ring, with a backend that writes all over it
 *
 * Theory of operation
 * -------------------
 * The input is a list of steps: make a chain available, write some bytes anywhere in the ring, use a
 * chain as a good device would, reap. While the relay reaps, the ring changes between loads as well
 * (racy.c), by the rest of the input. Whatever the backend does, each chain that comes back is one
 * that is in flight, and comes back once; or the ring is refused, with a reason. With IN_ORDER it is
 * the oldest one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "racy.h"
#include "relay/driver_end.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NUM 8u

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* What a good device does with the oldest chain that it has not used: enough of it for ids and
 * positions that are right. */
static void use_one(struct driver_end *d, uint8_t *ring, const uint32_t parts[3], uint16_t id,
		    uint32_t len)
{
	uint16_t flags = d->used_wrap ? VRING_AVAIL | VRING_USED : 0, idx;
	const uint32_t id32 = id;

	if (d->packed) {
		memcpy(ring + parts[0] + 16u * d->used + 8, &len, 4);
		memcpy(ring + parts[0] + 16u * d->used + 12, &id, 2);
		memcpy(ring + parts[0] + 16u * d->used + 14, &flags, 2);
		return;
	}
	idx = (uint16_t)(d->used + 1);
	memcpy(ring + parts[2] + 4 + 8u * (d->used % NUM), &id32, 4);
	memcpy(ring + parts[2] + 8 + 8u * (d->used % NUM), &len, 4);
	memcpy(ring + parts[2] + 2, &idx, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t *ring;
	static struct driver_id *ids;
	static uint16_t *order;
	static uint32_t parts[2][3], bytes;
	static const struct shadow_sg sg[3] = {
		{0x1000, 16, false}, {0x2000, 512, true}, {0x3000, 1, true}};
	bool flying[NUM] = {false};
	uint64_t made = 0, at[NUM] = {0}, oldest;
	struct driver_end d = {.num = NUM};
	size_t i = 1;

	if (!ring) {
		uint32_t packed = driver_end_bytes(NUM, true, parts[1]);

		bytes = driver_end_bytes(NUM, false, parts[0]);
		bytes = bytes > packed ? bytes : packed;
		ring = racy_memory(bytes);
		ids = (struct driver_id *)(void *)racy_memory(NUM * sizeof(*ids));
		order = (uint16_t *)(void *)racy_memory(NUM * sizeof(*order));
	}
	if (size < 2)
		return 0;
	memset(ring, 0, bytes);
	d.packed = data[0] & 1;
	d.event_idx = data[0] & 2;
	d.in_order = data[0] & 4;
	d.ids = ids;
	d.order = order;
	driver_end_init(&d, ring);
	while (i < size) {
		const uint8_t op = data[i++];
		const uint32_t n = 1 + op / 4 % 3;
		uint16_t flight;
		uint32_t len, bad;
		const char *why = NULL;
		int rc;

		switch (op % 4) {
		case 0:
			for (flight = 0; flight < NUM && flying[flight]; flight++)
				;
			if (flight == NUM || !driver_end_room(&d, n))
				break;
			driver_end_add(&d, flight, sg, n, NULL, 0);
			driver_end_publish(&d);
			driver_end_must_kick(&d);
			flying[flight] = true;
			at[flight] = made++;
			break;
		case 1:
			for (uint32_t j = 0; j < n && i + 3 < size; j++, i += 3)
				ring[(data[i] + 256u * data[i + 1]) % bytes] = data[i + 2];
			break;
		case 2:
			use_one(&d, ring, parts[d.packed], op / 16 % NUM, op);
			break;
		default:
			if (op & 0x80 && i < size) {
				const size_t script = data[i] % 32;

				i++;
				racy_script(ring, bytes, data + i,
					    script < size - i ? script : size - i);
				i += script < size - i ? script : size - i;
			}
			rc = driver_end_reap(&d, &flight, &len, &why, &bad);
			racy_script(ring, 0, NULL, 0);
			must(rc == 1 || (rc == 2 && d.in_order) || rc == 0 ||
			     (rc == -EBADMSG && why));
			if (rc == -EBADMSG)
				return 0;
			if (rc > 0) {
				must(flight < NUM && flying[flight]);
				oldest = at[flight];
				for (uint16_t k = 0; k < NUM && d.in_order; k++)
					must(!flying[k] || at[k] >= oldest);
				flying[flight] = false;
			}
			break;
		}
	}
	return 0;
}
