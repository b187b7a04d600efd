/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * fuzz_guest_ring.c - libFuzzer target: the guest's ring, changing while the relay walks it
 *
 * Theory of operation
 * -------------------
 * The input is a ring with what surrounds it and a script for what happens to it between two loads
 * (racy.c): byte 0 chooses the layout, bytes 1 and 2 say how long the memory's contents are, the
 * rest is the script. Chains are fetched, taken and used until there are no more. Whatever the
 * memory says and however it changes, each chain that comes out
 *   - lies in memory, every byte of every segment
 *   - has no more descriptors than the ring and no more segments than a struct chain has room for
 *   - has the lengths that it says
 *   - has an id that the driver may use
 * and the walk ends. The memory lies between pages that cannot be touched, and so does the chain.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "racy.h"
#include "relay/device_end.h"
#include "relay/guest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BYTES 4096u
#define GPA   RACY_ADDRESS
#define HALF  2048u /* two regions, adjacent: a buffer may lie in both */

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void check(const struct device_end *e, const struct chain *c)
{
	uint64_t sum[2] = {0, 0};

	must(c->count >= 1 && c->count <= e->num);
	must(c->nout + c->nin <= CHAIN_MAX);
	must(e->packed || c->id < e->num);
	for (unsigned int i = 0; i < (unsigned int)c->nout + c->nin; i++) {
		const struct chain_seg *s = &c->segs[i];

		must(s->len && s->gpa >= GPA && s->gpa < GPA + BYTES);
		must(s->len <= GPA + BYTES - s->gpa);
		sum[i >= c->nout] += s->len;
	}
	must(sum[0] == c->out && sum[1] == c->in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t *mem;
	static struct chain *c;
	static struct guest g;
	struct device_end e;
	const char *why = NULL;
	size_t contents;
	uint16_t num;
	bool packed;

	if (!mem) {
		mem = racy_memory(BYTES);
		c = (struct chain *)(void *)racy_memory(sizeof(*c));
		must(!guest_map_raw(&g, GPA, GPA, HALF, mem));
		must(!guest_map_raw(&g, GPA + HALF, GPA + HALF, HALF, mem + HALF));
	}
	if (size < 3)
		return 0;
	packed = data[0] & 1;
	/* A packed ring may have any number of entries (virtio 1.2, 2.8.10.1). */
	num = packed ? 1 + (data[0] >> 2 & 15) : (uint16_t)(1u << (data[0] >> 2 & 3));
	contents = data[1] + 256u * (data[2] & 3);
	if (contents > size - 3)
		contents = size - 3;
	memset(mem, 0, BYTES);
	memcpy(mem, data + 3, contents);
	racy_script(mem, BYTES, data + 3 + contents, size - 3 - contents);
	device_end_init(&e, num, packed, data[0] & 2, mem, mem + 256, mem + 320,
			packed ? 0x80008000u : 0);
	for (unsigned int i = 0; i < 64; i++) {
		int rc = device_end_fetch(&e, &g, c, &why);

		must(rc == 1 || rc == 0 || (rc == -EBADMSG && why));
		if (rc != 1)
			break;
		check(&e, c);
		device_end_take(&e, c);
		device_end_use(&e, c->id, c->count, c->in);
		device_end_publish(&e);
		device_end_must_call(&e);
	}
	racy_script(mem, 0, NULL, 0);
	return 0;
}
