/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * fuzz_grant.c - libFuzzer target: grant tables of both formats under a hostile writer
 *
 * Theory of operation
 * -------------------
 * The tables are in the guest's memory, which the input fills. Then the device's end holds, drops,
 * reads and writes what the input says; and before every word of a table that it looks at, or swaps,
 * the next bytes of the input say what the guest puts there at that moment (tests/fuzz/port/). Checked
 * besides what the sanitizers see: what is held lies in the guest's memory; where it is does not
 * change while it is held, whatever stands in the table; and when all is dropped no record says that
 * something is held.
 */
#include <stdlib.h>
#include <string.h>

#include <sluice/grant.h>

#define PAGES	 16u
#define ENTRIES	 32u
#define GRANULES 2048u
#define HOLDS	 16u
#define PHYS	 UINT64_C(0x10000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t guest[PAGES * 4096] __attribute__((aligned(4096)));
static struct sluice_grant_use grant_uses[ENTRIES];
static struct sluice_pt_use pt_uses[GRANULES];
static const uint8_t *input;
static size_t left;

static uint8_t next(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

/* The guest's turn. */
void fuzz_touch(const uint32_t *p)
{
	uint32_t *word = (uint32_t *)(uintptr_t)p;
	uint8_t op;

	/* Only while there is input, only in the guest's memory. */
	if (!left || (const uint8_t *)p < guest || (const uint8_t *)p >= guest + sizeof(guest))
		return;
	op = next();
	switch (op >> 5) {
	case 0:
		*word = 0;
		break;
	case 1: /* a table or frame of the guest's, with flags */
		*word = (uint32_t)(PHYS + 4096u * (next() % PAGES)) | (op & 31);
		break;
	case 2: /* an entry of version 1 */
		*word = (op & 31) | 3u << 16;
		break;
	case 3:
		*word ^= 1u << (op & 31);
		break;
	case 4:
		*word = UINT32_MAX >> (op & 31);
		break;
	case 5: /* a frame number */
		*word = (uint32_t)(PHYS >> 12) + (op & 31);
		break;
	default: /* leaves it alone */
		break;
	}
}

static void must(bool ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct sluice_memory memory[] = {
		{PHYS, sizeof(guest) / 2, guest},
		{PHYS + sizeof(guest) / 2, sizeof(guest) / 2 - 4096, guest + sizeof(guest) / 2}};
	struct sluice_grant_view grant;
	struct sluice_pt_view pt;
	struct sluice_view *views[2] = {&grant.view, &pt.view};
	struct sluice_hold holds[HOLDS][4];
	uint32_t counts[HOLDS], of[HOLDS], held = 0;
	uint8_t buf[64] = {0};

	input = data;
	left = size;
	memset(guest, 0, sizeof(guest));
	/* Something to begin with: a top table, a middle one and a last one, and grants. */
	((uint32_t *)guest)[0] = PHYS + 4096 + 1;
	for (uint32_t i = 0; i < 4; i++)
		((uint32_t *)(guest + 4096))[2 * i] = (uint32_t)PHYS + 8192 + 1;
	for (uint32_t i = 0; i < 512; i++)
		((uint32_t *)(guest + 8192))[2 * i] =
			(uint32_t)(PHYS + 4096u * (i % PAGES)) | (i % 8);
	for (uint32_t i = 0; i < ENTRIES; i++) {
		((uint32_t *)(guest + 12288))[2 * i] = 1 | (i & 4) | 3u << 16;
		((uint32_t *)(guest + 12288))[2 * i + 1] = (uint32_t)(PHYS >> 12) + i;
	}
	must(!sluice_grant_view_init(&grant, (void *)(guest + 12288), ENTRIES, 3, grant_uses,
				     memory, 2));
	must(!sluice_pt_view_init(&pt, PHYS, GRANULES, pt_uses, memory, 2));
	while (left) {
		uint8_t op = next(), where = next(), how = next();
		uint32_t v = op & 1, i = how % HOLDS, n;
		uint64_t dev = (uint64_t)where << 12 | (op >> 4) * 300u;

		dev |= v ? 0 : SLUICE_GRANT_ADDR;
		switch (op >> 1 & 3) {
		case 0:
			if (held == HOLDS || sluice_view_map(views[v], dev, 1 + how * 40u,
							     1 + op % 3, holds[held], 4, &n))
				break;
			for (uint32_t k = 0; k < n; k++) {
				const uint8_t *cpu = holds[held][k].cpu;

				must(cpu >= guest &&
				     cpu + holds[held][k].bytes <= guest + sizeof(guest) - 4096);
			}
			of[held] = v;
			counts[held++] = n;
			break;
		case 1:
			if (!held)
				break;
			i %= held;
			/* Where it was when it was held: its record still says so. */
			for (uint32_t k = 0; k < counts[i]; k++) {
				const struct sluice_hold *hold = &holds[i][k];
				uint64_t g = (hold->dev & ~SLUICE_GRANT_ADDR) >> 12;
				uint64_t frame = of[i] ? pt_uses[g].frame
						       : (uint64_t)grant_uses[g].frame << 12;

				must(frame == (hold->phys & ~UINT64_C(4095)));
			}
			sluice_view_unmap(views[of[i]], holds[i], counts[i]);
			held--;
			memcpy(holds[i], holds[held], sizeof(holds[i]));
			counts[i] = counts[held];
			of[i] = of[held];
			break;
		case 2:
			(void)sluice_view_read(views[v], dev, buf, how % 65);
			break;
		default:
			(void)sluice_view_write(views[v], dev, buf, how % 65);
		}
	}
	while (held > 0) {
		held--;
		sluice_view_unmap(views[of[held]], holds[held], counts[held]);
	}
	must(grant.view.stats.held == 0 && pt.view.stats.held == 0);
	for (uint32_t i = 0; i < ENTRIES; i++)
		must(!grant_uses[i].readers && !grant_uses[i].writers);
	for (uint32_t i = 0; i < GRANULES; i++)
		must(!pt_uses[i].readers && !pt_uses[i].writers);
	return 0;
}
