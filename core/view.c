/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * view.c - what a device can reach: what all mechanisms have in common, and the region's view
 *
 * Theory of operation: see sluice/view.h. A mechanism holds and drops one consecutive piece; here
 * that becomes ranges, copies and counters.
 *
 * Invariant: every piece that ops->hold() gave is dropped exactly once: by whoever mapped it, or in
 * here before a call returns.
 */
#include <sluice/view.h>

static int count_refusal(struct sluice_view *view, int ret)
{
	if (ret == -ENOENT)
		sluice_count(&view->stats.unknown, 1);
	else if (ret == -EACCES)
		sluice_count(&view->stats.denied, 1);
	else if (ret == -ERANGE)
		sluice_count(&view->stats.outside, 1);
	return ret;
}

static int hold_piece(struct sluice_view *view, uint64_t dev, uint64_t len, uint32_t access,
		      struct sluice_hold *hold)
{
	int ret;

	if (len == 0 || dev > UINT64_MAX - len || access == 0 ||
	    access & ~(SLUICE_READ | SLUICE_WRITE))
		return -EINVAL;
	hold->dev = dev;
	hold->access = access;
	hold->owner = NULL;
	ret = view->ops->hold(view, len, hold);
	if (ret)
		return count_refusal(view, ret);
	sluice_count(&view->stats.holds, 1);
	sluice_count(&view->stats.held, 1);
	return 0;
}

static void drop_piece(struct sluice_view *view, const struct sluice_hold *hold)
{
	view->ops->drop(view, hold);
	sluice_count(&view->stats.held, UINT64_MAX);
}

int sluice_view_translate(struct sluice_view *view, uint64_t dev, uint64_t len, uint32_t access,
			  uint64_t *phys, uint64_t *bytes)
{
	struct sluice_hold hold;
	int ret = hold_piece(view, dev, len, access, &hold);

	if (ret)
		return ret;
	*phys = hold.phys;
	*bytes = hold.bytes;
	drop_piece(view, &hold);
	return 0;
}

int sluice_view_map(struct sluice_view *view, uint64_t dev, uint64_t len, uint32_t access,
		    struct sluice_hold *holds, uint32_t max, uint32_t *n)
{
	int ret = len == 0 ? -EINVAL : 0;
	uint32_t count = 0;

	while (len > 0 && !ret) {
		if (count == max) {
			ret = -E2BIG;
			break;
		}
		ret = hold_piece(view, dev, len, access, &holds[count]);
		if (ret)
			break;
		dev += holds[count].bytes;
		len -= holds[count].bytes;
		count++;
	}
	if (ret) {
		sluice_view_unmap(view, holds, count);
		count = 0;
	}
	*n = count;
	return ret;
}

void sluice_view_unmap(struct sluice_view *view, const struct sluice_hold *holds, uint32_t n)
{
	while (n > 0)
		drop_piece(view, &holds[--n]);
}

static int copy_all(struct sluice_view *view, uint64_t dev, void *buf, uint64_t len, bool write)
{
	if (dev > UINT64_MAX - len)
		return -EINVAL;
	return count_refusal(view, view->ops->copy(view, dev, buf, len, write));
}

int sluice_view_read(struct sluice_view *view, uint64_t dev, void *buf, uint64_t len)
{
	struct sluice_hold hold;
	uint8_t *to = buf;

	if (view->ops->copy)
		return copy_all(view, dev, buf, len, false);
	while (len > 0) {
		int ret = hold_piece(view, dev, len, SLUICE_READ, &hold);

		if (ret)
			return ret;
		sluice_copy(to, hold.cpu, (size_t)hold.bytes);
		drop_piece(view, &hold);
		to += hold.bytes;
		dev += hold.bytes;
		len -= hold.bytes;
	}
	return 0;
}

int sluice_view_write(struct sluice_view *view, uint64_t dev, const void *buf, uint64_t len)
{
	const uint8_t *from = buf;
	struct sluice_hold hold;

	/* It only reads what it is given to write. */
	if (view->ops->copy)
		return copy_all(view, dev, (void *)(uintptr_t)buf, len, true);
	while (len > 0) {
		int ret = hold_piece(view, dev, len, SLUICE_WRITE, &hold);

		if (ret)
			return ret;
		sluice_copy(hold.cpu, from, (size_t)hold.bytes);
		drop_piece(view, &hold);
		from += hold.bytes;
		dev += hold.bytes;
		len -= hold.bytes;
	}
	return 0;
}

void *sluice_view_memory(const struct sluice_view *view, uint64_t phys, uint64_t len,
			 uint64_t *bytes)
{
	for (uint32_t i = 0; i < view->n_memory; i++) {
		const struct sluice_memory *memory = &view->memory[i];
		uint64_t at = phys - memory->phys;

		if (phys < memory->phys || at >= memory->bytes)
			continue;
		*bytes = memory->bytes - at < len ? memory->bytes - at : len;
		return (uint8_t *)memory->cpu + at;
	}
	return NULL;
}

static int region_hold(struct sluice_view *view, uint64_t len, struct sluice_hold *hold)
{
	hold->phys = hold->dev;
	hold->cpu = sluice_view_memory(view, hold->dev, len, &hold->bytes);
	return hold->cpu ? 0 : -ENOENT;
}

static void region_drop(struct sluice_view *view, const struct sluice_hold *hold)
{
	(void)view;
	(void)hold;
}

static const struct sluice_view_ops region_view_ops = {
	.name = "region",
	.hold = region_hold,
	.drop = region_drop,
};

int sluice_region_view_init(struct sluice_region_view *view, void *cpu, uint64_t dev, uint64_t size)
{
	if (size == 0 || dev > UINT64_MAX - size || (uintptr_t)cpu > UINTPTR_MAX - size)
		return -EINVAL;
	sluice_zero(view, sizeof(*view));
	view->view.ops = &region_view_ops;
	view->memory.phys = dev;
	view->memory.bytes = size;
	view->memory.cpu = cpu;
	view->view.memory = &view->memory;
	view->view.n_memory = 1;
	return 0;
}
