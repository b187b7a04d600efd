/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * fuzz_iommu.c - libFuzzer target: the driver's end of virtio-iommu and a device that says anything
 *
 * Theory of operation
 * -------------------
 * The input begins with the answer to PROBE; after that its bytes are the statuses of requests, and
 * what the driver does next. The target keeps its own account of which addresses may still be
 * reachable: those of a MAP that was sent and of which no UNMAP was answered with S_OK. Checked: no
 * MAP ever goes to such an address, nor to one that PROBE reserved in a property that is whole.
 */
#include <stdlib.h>
#include <string.h>

#include <sluice/iommu.h>

#define GRANULES 64u
#define SPANS	 16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void fuzz_touch(const uint32_t *p);

static const uint8_t *input;
static size_t left;
static bool reachable[GRANULES + 1];
static uint64_t polled;

void fuzz_touch(const uint32_t *p)
{
	(void)p;
}

static void must(bool ok)
{
	if (!ok)
		abort();
}

static uint8_t next(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

static void submit(void *context, struct sluice_iommu_message *messages, uint32_t n)
{
	(void)context;
	must(n > 0 && n <= SLUICE_IOMMU_BATCH);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t start = sluice_get_le64(messages[i].out + 8) >> 12;
		uint64_t last = sluice_get_le64(messages[i].out + 16) >> 12;
		uint8_t type = messages[i].out[0], status = next();

		/* Mostly well. */
		messages[i].status = status < 200 ? 0 : status;
		messages[i].token = status == SLUICE_IOMMU_UNANSWERED ? 1 + next() % 3 : 0;
		if (type != SLUICE_VIOMMU_T_MAP && type != SLUICE_VIOMMU_T_UNMAP)
			continue;
		must(start >= 1 && start <= last && last <= GRANULES);
		for (uint64_t g = start; g <= last; g++) {
			if (type == SLUICE_VIOMMU_T_MAP) {
				must(!reachable[g]);
				reachable[g] = true;
			} else if (messages[i].status == SLUICE_VIOMMU_S_OK) {
				reachable[g] = false;
			}
		}
	}
}

/* Late answers are refusals here: with S_OK it would have to be known of what. */
static uint8_t poll_answer(void *context, uint64_t token)
{
	(void)context;
	must(token >= 1 && token <= 3);
	polled++;
	return next() & 1 ? SLUICE_IOMMU_UNANSWERED : SLUICE_VIOMMU_S_DEVERR;
}

static uint32_t probe(void *context, const uint8_t *out, uint32_t out_len, uint8_t *in,
		      uint32_t in_len)
{
	(void)context;
	must(out_len == SLUICE_VIOMMU_PROBE_BYTES && out[0] == SLUICE_VIOMMU_T_PROBE);
	for (uint32_t i = 0; i < in_len - 4; i++)
		in[i] = next();
	return in_len - (left == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint64_t memory[256];
	static uint8_t properties[100];
	struct sluice_span spans[SPANS], lazy[4 + SLUICE_IOMMU_BATCH];
	struct sluice_piece pieces[3];
	struct sluice_iommu iommu;
	struct sluice_iommu_config config = {.submit = submit,
					     .poll = poll_answer,
					     .probe = probe,
					     .first = 4096,
					     .last = GRANULES * 4096 + 4095,
					     .iova_memory = memory,
					     .properties = properties};
	uint32_t live = 0;

	input = data;
	left = size;
	memset(reachable, 0, sizeof(reachable));
	must(sluice_iova_size(1, GRANULES) <= sizeof(memory));
	config.probe_size = next() % 97;
	config.lazy = lazy;
	config.lazy_spans = next() % 5;
	must(!sluice_iommu_init(&iommu, &config));
	if (sluice_iommu_attach(&iommu))
		return 0;
	while (left) {
		uint8_t op = next();

		if (op % 2 && live < SPANS) {
			int ret;

			for (uint32_t i = 0; i < 3; i++)
				pieces[i] = (struct sluice_piece){(op >> 2 & 7u) * 4096u,
								  (1 + (op >> 5)) * 4096u};
			memset(&spans[live], 0, sizeof(spans[live]));
			spans[live].pieces = pieces;
			spans[live].n = 1 + op % 3;
			spans[live].access = SLUICE_READ;
			ret = sluice_share_spans(&iommu.share, &spans[live], 1);
			if (!ret || (ret == -EBUSY && spans[live].result))
				live++;
		} else if (live > 0) {
			uint32_t i = (op >> 1) % live;

			if (!sluice_share_end(&iommu.share, &spans[i], 1))
				spans[i] = spans[--live];
		}
		if (op == 255)
			(void)sluice_share_flush(&iommu.share);
	}
	return 0;
}
