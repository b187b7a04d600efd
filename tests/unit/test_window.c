/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_window.c - the mechanism window, and who goes through the DMA API at all
 *
 * Theory of operation: translation both ways over several banks, a bypass that is switched, and each row
 * of the table in docs/SHARE.md.
 */
#include "rig.h"
#include "world.h"

#define G 4096u

static struct world world;

static int switched, switch_answer;

static int set_window(void *context, bool on)
{
	(void)context;
	switched = on ? 1 : 2;
	return switch_answer;
}

static void windows_translate(void **state)
{
	struct sluice_bank banks[3] = {{0x1000, 0x1000, 0x1000},	  /* identity */
				       {0x10000, 0x80010000, 0x10000},	  /* an offset */
				       {0x100000, 0x40000000, 0x100000}}; /* a bank of its own */
	struct sluice_piece piece = {0x10000, G};
	struct sluice_span span = {.pieces = &piece, .n = 1, .access = SLUICE_READ};
	struct sluice_window window;

	(void)state;
	assert_int_equal(sluice_window_init(&window, banks, 3, NULL, NULL), 0);
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), 0);
	assert_int_equal(span.dev, 0x80010000);
	assert_int_equal(sluice_share_end(&window.share, &span, 1), 0);
	piece.orig = 0x1000;
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), 0);
	assert_int_equal(span.dev, 0x1000);
	assert_int_equal(sluice_share_end(&window.share, &span, 1), 0);
	assert_int_equal(sluice_share_end(&window.share, &span, 1), -EINVAL);
	/* Outside, and over the end of a bank. */
	piece.orig = 0x2000;
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), -ERANGE);
	piece = (struct sluice_piece){0x1f000, 2 * G};
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), -ERANGE);
	assert_int_equal(sluice_window_switch(&window, false), -EOPNOTSUPP);
	/* Banks that overlap, on either side, or are none. */
	banks[1].dev = 0x1800;
	assert_int_equal(sluice_window_init(&window, banks, 3, NULL, NULL), -EINVAL);
	banks[1].dev = 0x80010000;
	banks[1].orig = 0x1fff;
	assert_int_equal(sluice_window_init(&window, banks, 3, NULL, NULL), -EINVAL);
	banks[1].orig = 0x10000;
	banks[2].bytes = 0;
	assert_int_equal(sluice_window_init(&window, banks, 3, NULL, NULL), -EINVAL);
	banks[2].bytes = UINT64_MAX;
	assert_int_equal(sluice_window_init(&window, banks, 3, NULL, NULL), -EINVAL);
	assert_int_equal(sluice_window_init(&window, banks, 0, NULL, NULL), -EINVAL);
}

static void a_bypass_is_switched(void **state)
{
	struct sluice_bank bank = {0, 0, 1u << 20};
	struct sluice_piece piece = {0x10000, G};
	struct sluice_span span = {.pieces = &piece, .n = 1, .access = SLUICE_READ};
	struct sluice_window window;

	(void)state;
	switch_answer = 0;
	assert_int_equal(sluice_window_init(&window, &bank, 1, set_window, NULL), 0);
	/* Off at first. */
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), -EOPNOTSUPP);
	assert_int_equal(sluice_window_switch(&window, true), 0);
	assert_int_equal(switched, 1);
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), 0);
	/* Not off while something is shared; nothing new from then on. */
	assert_int_equal(sluice_window_switch(&window, false), -EBUSY);
	assert_int_equal(switched, 1);
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), -EOPNOTSUPP);
	assert_int_equal(sluice_share_end(&window.share, &span, 1), 0);
	switch_answer = -EIO;
	assert_int_equal(sluice_window_switch(&window, false), -EIO);
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), 0); /* still on */
	assert_int_equal(sluice_share_end(&window.share, &span, 1), 0);
	switch_answer = 0;
	assert_int_equal(sluice_window_switch(&window, false), 0);
	assert_int_equal(switched, 2);
	assert_int_equal(sluice_share_spans(&window.share, &span, 1), -EOPNOTSUPP);
}

static void g1_a_window_that_is_off_reaches_nothing(void **state)
{
	struct sluice_hold hold;
	uint8_t byte;
	uint32_t n;

	(void)state;
	assert_true(world_open(&world, WORLD_WINDOW));
	assert_int_equal(sluice_view_map(world.view, world.bank[0].dev, 1, 1, &hold, 1, &n), 0);
	/* Held memory stays, and the guest is told. */
	assert_int_equal(sluice_window_view_switch(&world.window_view, false), -EBUSY);
	assert_int_equal(sluice_view_read(world.view, world.bank[0].dev, &byte, 1), -ENOENT);
	sluice_view_unmap(world.view, &hold, 1);
	assert_int_equal(sluice_window_view_switch(&world.window_view, false), 0);
	assert_int_equal(sluice_view_read(world.view, world.bank[0].dev, &byte, 1), -ENOENT);
	assert_int_equal(sluice_window_view_switch(&world.window_view, true), 0);
	assert_int_equal(sluice_view_read(world.view, world.bank[0].dev, &byte, 1), 0);
	assert_int_equal(sluice_view_read(world.view, world.bank[0].dev - 1, &byte, 1), -ENOENT);
	world_close(&world);
}

/* docs/SHARE.md, "Does this device go through the DMA API?": all 128 combinations. */
static void g6_who_goes_through_the_dma_api(void **state)
{
	(void)state;
	for (uint32_t bits = 0; bits < 128; bits++) {
		const struct sluice_virtio_facts f = {
			.access_platform = bits & 1,
			.version_1 = bits & 2,
			.platform_forces = bits & 4,
			.dt_restricted = bits & 8,
			.dt_iommu = bits & 16,
			.dt_bypass = bits & 32,
			.window_available = bits & 64,
		};
		enum sluice_access expected;
		const char *why = NULL;

		if (!f.access_platform)
			expected = f.platform_forces || f.dt_restricted ? SLUICE_ACCESS_REFUSED
									: SLUICE_ACCESS_RAW;
		else if (f.platform_forces || f.dt_restricted)
			expected = SLUICE_ACCESS_CONFINED;
		else if (!f.window_available)
			expected = SLUICE_ACCESS_CONFINED;
		else
			expected = f.dt_iommu && !f.dt_bypass ? SLUICE_ACCESS_CONFINED
							      : SLUICE_ACCESS_DIRECT;
		assert_int_equal(sluice_virtio_access(&f, &why), expected);
		assert_non_null(why);
		/* What is refused says what to do. */
		if (expected == SLUICE_ACCESS_REFUSED)
			assert_non_null(strstr(why, "iommu_platform=on"));
		assert_int_equal(sluice_virtio_access(&f, NULL), expected);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(windows_translate),
		cmocka_unit_test(a_bypass_is_switched),
		cmocka_unit_test(g1_a_window_that_is_off_reaches_nothing),
		cmocka_unit_test(g6_who_goes_through_the_dma_api),
	};

	return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}
