/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * fuzz_viommu.c - libFuzzer target: any requests to the virtio-iommu device, and accesses in between
 *
 * Theory of operation
 * -------------------
 * The input is a list of steps. A request is either a length and as many bytes of it as there are, or
 * one of the right shape with small numbers in it, in a buffer of just its size; a hold, a drop, a read or a write of an endpoint's view comes between
 * them. Checked besides what the sanitizers see: what is held lies in the guest's memory; no more
 * mappings or pending requests than there is room for; an answer for each request that was put off,
 * once, and only when nothing is held any more; and when all is dropped and both endpoints are
 * detached, every mapping is free again.
 */
#include <stdlib.h>
#include <string.h>

#include <sluice/viommu.h>

#define MAPPINGS 24u
#define PENDING	 4u
#define HOLDS	 16u
#define PHYS	 UINT64_C(0x10000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void fuzz_touch(const uint32_t *p);

static uint8_t guest[8 * 4096] __attribute__((aligned(4096)));
static uint32_t waiting; /* a bit for each cookie */

void fuzz_touch(const uint32_t *p)
{
	(void)p;
}

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void done(void *context, uint64_t cookie, uint8_t status)
{
	(void)context;
	must(cookie < 32 && waiting >> cookie & 1);
	must(status == SLUICE_VIOMMU_S_OK);
	waiting &= ~(1u << cookie);
}

static struct {
	struct sluice_viommu viommu;
	struct sluice_viommu_mapping mappings[MAPPINGS];
	struct sluice_viommu_domain domains[3];
	struct sluice_viommu_endpoint endpoints[2];
	struct sluice_viommu_pending pending[PENDING];
	struct sluice_hold holds[HOLDS];
	uint32_t view_of[HOLDS];
	uint32_t held;
} f;

static size_t take(const uint8_t **data, size_t *size, void *to, size_t n)
{
	n = n < *size ? n : *size;
	memcpy(to, *data, n);
	*data += n;
	*size -= n;
	return n;
}

/* A request of the right shape, from a few bytes: else most of the time goes into finding one. */
static size_t shaped(const uint8_t **data, size_t *size, uint8_t *out)
{
	static const uint8_t sizes[] = {20, 20, 36, 28, 72};
	uint8_t arg[6] = {0};
	uint64_t start, last;

	take(data, size, arg, sizeof(arg));
	start = (uint64_t)(arg[2] % 100) << 12;
	last = start + ((uint64_t)(1 + arg[3] % 8) << 12) - 1;
	memset(out, 0, 80);
	out[0] = 1 + arg[0] % 5;
	sluice_put_le32(out + 4, arg[1] % 4);
	if (out[0] <= SLUICE_VIOMMU_T_DETACH) {
		sluice_put_le32(out + 8, 1 + arg[2] % 2);
	} else if (out[0] <= SLUICE_VIOMMU_T_UNMAP) {
		sluice_put_le64(out + 8, start);
		sluice_put_le64(out + 16, last);
		sluice_put_le64(out + 24,
				out[0] == SLUICE_VIOMMU_T_MAP ? PHYS + 4096u * (arg[4] % 9) : 0);
		sluice_put_le32(out + 32, arg[5] % 4);
	}
	return sizes[arg[0] % 5];
}

static void step_request(bool any, const uint8_t **data, size_t *size)
{
	uint8_t bytes[80], head[2] = {0}, in[100], *exact;
	uint32_t written, cookie = 0;
	size_t n;

	take(data, size, head, 2);
	n = any ? take(data, size, bytes, head[0] % 80) : shaped(data, size, bytes);
	exact = malloc(n ? n : 1);
	memcpy(exact, bytes, n);
	memset(in, 0xee, sizeof(in));
	while (cookie < 31 && waiting >> cookie & 1)
		cookie++;
	if (sluice_viommu_request(&f.viommu, exact, (uint32_t)n, in, head[1] % 100, &written,
				  cookie)) {
		must(f.held > 0);
		waiting |= 1u << cookie;
	} else {
		must(written <= head[1] % 100u);
		must(written == 0 || in[written - 4] <= SLUICE_VIOMMU_S_NOMEM);
	}
	must(written == 100 || in[written] == 0xee);
	free(exact);
}

static void drop(uint32_t i)
{
	uint32_t e = f.view_of[i];
	struct sluice_hold hold = f.holds[i];

	f.held--;
	f.holds[i] = f.holds[f.held];
	f.view_of[i] = f.view_of[f.held];
	sluice_view_unmap(&f.endpoints[e].view, &hold, 1);
}

static void step_access(uint8_t op, const uint8_t **data, size_t *size)
{
	uint8_t arg[12] = {0}, buf[64];
	struct sluice_hold *hold = &f.holds[f.held];
	uint32_t e = op >> 4 & 1, n;
	uint64_t dev;

	take(data, size, arg, 4);
	dev = (uint64_t)arg[0] << 12 | (uint64_t)arg[1] << 4;
	if (arg[2] & 128)
		dev = ~dev;
	switch (op & 3) {
	case 0:
		if (f.held == HOLDS || sluice_view_map(&f.endpoints[e].view, dev, 1 + arg[3],
						       1 + arg[2] % 3, hold, 1, &n))
			return;
		must((uint8_t *)hold->cpu >= guest &&
		     (uint8_t *)hold->cpu + hold->bytes <= guest + sizeof(guest));
		memset(hold->cpu, 1, hold->bytes);
		f.view_of[f.held++] = e;
		return;
	case 1:
		if (f.held)
			drop(arg[0] % f.held);
		return;
	case 2:
		(void)sluice_view_read(&f.endpoints[e].view, dev, buf, arg[3] % 65);
		return;
	default:
		(void)sluice_view_write(&f.endpoints[e].view, dev, buf, 0);
		(void)sluice_viommu_fault(&f.viommu, buf);
	}
}

/* A request that is to succeed, or to find nothing. */
static void detach(uint32_t domain, uint32_t endpoint)
{
	uint8_t out[SLUICE_VIOMMU_DETACH_BYTES] = {SLUICE_VIOMMU_T_DETACH}, in[4];
	uint32_t written;

	sluice_put_le32(out + 4, domain);
	sluice_put_le32(out + 8, endpoint);
	must(!sluice_viommu_request(&f.viommu, out, sizeof(out), in, 4, &written, 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t ids[] = {1, 2};
	static const struct sluice_memory memory = {PHYS, sizeof(guest), guest};
	static const struct sluice_viommu_reserved reserved = {0x40000, 0x4ffff, 1};
	const struct sluice_viommu_config config = {
		.input_last = UINT64_MAX,
		.domain_last = 3,
		.reserved = &reserved,
		.n_reserved = 1,
		.probe_size = 32,
		.mappings = f.mappings,
		.n_mappings = MAPPINGS,
		.domains = f.domains,
		.n_domains = 3,
		.endpoints = f.endpoints,
		.endpoint_ids = ids,
		.n_endpoints = 2,
		.pending = f.pending,
		.n_pending = PENDING,
		.memory = &memory,
		.n_memory = 1,
		.done = done,
	};
	struct sluice_viommu_stats stats;

	memset(&f, 0, sizeof(f));
	waiting = 0;
	must(!sluice_viommu_init(&f.viommu, &config));
	while (size > 0) {
		uint8_t op;

		take(&data, &size, &op, 1);
		if (op & 128)
			step_access(op, &data, &size);
		else
			step_request(op & 64, &data, &size);
		sluice_viommu_get_stats(&f.viommu, &stats);
		must(stats.mappings <= MAPPINGS && stats.pending <= PENDING);
		must(stats.pending == (uint32_t)__builtin_popcount(waiting));
	}
	while (f.held)
		drop(0);
	must(waiting == 0);
	for (uint32_t domain = 0; domain < 4; domain++) {
		detach(domain, 1);
		detach(domain, 2);
	}
	sluice_viommu_get_stats(&f.viommu, &stats);
	must(stats.mappings == 0 && stats.maps == stats.unmaps);
	return 0;
}
