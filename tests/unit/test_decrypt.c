/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_decrypt.c - the mechanism decrypt: conversion, and its failures
 *
 * Theory of operation: a hypervisor of a few lines that loses the contents of what it converts, as real
 * ones do, hands memory on to somebody with secrets, and fails when it is told to.
 */
#include <stdlib.h>

#include <sluice/decrypt.h>

#include "rig.h"

static struct {
	struct sluice_decrypt_view view;
	struct sluice_memory memory;
	uint32_t chunks[8], out, fail_shared, fail_private;
	uint8_t *guest;
} coco;

static void *coco_get(void *context)
{
	(void)context;
	return coco.out < 8 ? coco.guest + coco.out++ * 16384u : NULL;
}

static void coco_put(void *context, void *chunk)
{
	(void)context;
	/* Whoever has it next puts a secret there. */
	memset(chunk, 0x5e, 16384);
}

static int coco_convert(void *context, void *cpu, uint64_t bytes, bool shared)
{
	uint32_t *fail = shared ? &coco.fail_shared : &coco.fail_private;

	(void)context;
	if (*fail && !--*fail)
		return -EIO;
	/* What was there is not there any more. */
	memset(cpu, 0xcc, bytes);
	return sluice_decrypt_view_convert(
		&coco.view, 0x100000 + (uint64_t)((uint8_t *)cpu - coco.guest), bytes, shared);
}

static void g1_conversion(void **state)
{
	struct sluice_decrypt_config config = {.get = coco_get,
					       .put = coco_put,
					       .convert = coco_convert,
					       .chunk_bytes = 16384,
					       .dev_offset = UINT64_C(1) << 47,
					       .reserve = 3};
	struct sluice_decrypt_stats stats;
	struct sluice_decrypt decrypt;
	struct sluice_hold hold;
	uint8_t got[16384], *chunk, *chunks[4];
	uint64_t dev;
	uint32_t n;

	(void)state;
	memset(&coco, 0, sizeof(coco));
	coco.guest = aligned_alloc(4096, 8 * 16384);
	memset(coco.guest, 0x5e, 8 * 16384);
	coco.memory = (struct sluice_memory){0x100000, 8 * 16384, coco.guest};
	assert_int_equal(sluice_decrypt_view_init(&coco.view, coco.chunks, 8, 0x100000, 16384,
						  config.dev_offset, &coco.memory, 1),
			 0);
	config.reserve = 99;
	assert_int_equal(sluice_decrypt_init(&decrypt, &config), -EINVAL);
	config.reserve = 3;
	assert_int_equal(sluice_decrypt_init(&decrypt, &config), 0);
	/* Nothing ahead of need yet. */
	assert_null(sluice_decrypt_take(&decrypt));
	assert_int_equal(sluice_decrypt_refill(&decrypt), 3);
	chunk = sluice_decrypt_take(&decrypt);
	assert_non_null(chunk);
	assert_true(rig_all(chunk, 16384, 0));
	assert_int_equal(decrypt.share.ops->open(&decrypt.share, chunk, 16384, &dev), 0);
	/* For the device it is at its guest-physical address with the shared bit. */
	dev = dev - (uint64_t)(uintptr_t)coco.guest + 0x100000;
	memset(chunk, 0x21, 16384);
	assert_int_equal(sluice_view_read(&coco.view.view, dev, got, 16384), 0);
	assert_true(rig_all(got, 16384, 0x21));
	/* The private neighbours are not there, and not without the bit. */
	assert_int_equal(sluice_view_read(&coco.view.view,
					  (UINT64_C(1) << 47) + 0x100000 + 7 * 16384, got, 1),
			 -ENOENT);
	assert_int_equal(sluice_view_read(&coco.view.view, dev - config.dev_offset, got, 1),
			 -ENOENT);
	/* Given back: kept for the next while there is room. */
	memset(chunk, 0, 16384);
	assert_int_equal(sluice_decrypt_give(&decrypt, chunk), 0);
	/* A chunk that the backend holds cannot be made private: lost, counted, never put. */
	for (uint32_t i = 0; i < 3; i++)
		chunks[i] = sluice_decrypt_take(&decrypt);
	assert_int_equal(sluice_decrypt_refill(&decrypt), 3);
	assert_int_equal(
		sluice_view_map(&coco.view.view,
				(UINT64_C(1) << 47) + 0x100000 + (uint64_t)(chunks[0] - coco.guest),
				1, SLUICE_READ, &hold, 1, &n),
		0);
	assert_int_equal(sluice_decrypt_give(&decrypt, chunks[0]), -EBUSY);
	sluice_decrypt_get_stats(&decrypt, &stats);
	assert_int_equal(stats.lost, 1);
	assert_int_not_equal(*(uint8_t *)hold.cpu, 0x5e);
	sluice_view_unmap(&coco.view.view, &hold, 1);
	/* Conversion fails: made private again, or lost; the reserve is as it was. */
	assert_int_equal(sluice_decrypt_give(&decrypt, chunks[1]), 0);
	coco.fail_private = 1;
	assert_int_equal(sluice_decrypt_give(&decrypt, chunks[2]), -EIO);
	(void)sluice_decrypt_take(&decrypt);
	coco.fail_shared = 1;
	assert_int_equal(sluice_decrypt_refill(&decrypt), 2);
	assert_int_equal(sluice_decrypt_end(&decrypt), 0);
	sluice_decrypt_get_stats(&decrypt, &stats);
	assert_int_equal(stats.lost, 2);
	assert_int_equal(stats.failed, 1);
	/* Of 7 converted, 2 are lost, 1 is still taken, and one failed and came back. */
	assert_int_equal(stats.converted, 6);
	assert_int_equal(stats.returned, 4);
	free(coco.guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g1_conversion),
	};

	return cmocka_run_group_tests_name("decrypt", tests, NULL, NULL);
}
