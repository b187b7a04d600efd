/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * share_window.c - the mechanism window, both ends, and which devices it is for
 *
 * Theory of operation: see sluice/window.h. A bank is found by looking at all of them: there are a
 * handful.
 *
 * Invariant: a span is counted as live from before its address is given out until it is taken back,
 * under the lock that also guards the state: so the switch off finds either the span or nobody who
 * could still make one.
 */
#include <sluice/window.h>

#define BANKS_MAX 64u

static bool overlap(uint64_t a, uint64_t b, uint64_t a_bytes, uint64_t b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

static int check_banks(const struct sluice_bank *banks, uint32_t n)
{
	if (n == 0 || n > BANKS_MAX)
		return -EINVAL;
	for (uint32_t i = 0; i < n; i++) {
		if (banks[i].bytes == 0 || banks[i].orig > UINT64_MAX - banks[i].bytes ||
		    banks[i].dev > UINT64_MAX - banks[i].bytes)
			return -EINVAL;
		for (uint32_t k = 0; k < i; k++) {
			if (overlap(banks[i].orig, banks[k].orig, banks[i].bytes, banks[k].bytes) ||
			    overlap(banks[i].dev, banks[k].dev, banks[i].bytes, banks[k].bytes))
				return -EINVAL;
		}
	}
	return 0;
}

/* The device's address of memory that lies in one bank as a whole. */
static int to_dev(const struct sluice_window *window, uint64_t orig, uint64_t bytes, uint64_t *dev)
{
	for (uint32_t i = 0; i < window->n_banks; i++) {
		const struct sluice_bank *bank = &window->banks[i];
		uint64_t at = orig - bank->orig;

		if (orig >= bank->orig && at < bank->bytes && bytes <= bank->bytes - at) {
			*dev = bank->dev + at;
			return 0;
		}
	}
	return -ERANGE;
}

/* Count n more as live if the window is on. */
static bool enter(struct sluice_window *window, uint32_t n)
{
	unsigned long flags = sluice_lock(&window->lock);
	bool on = window->state == SLUICE_WINDOW_ON;

	if (on)
		window->live += n;
	sluice_unlock(&window->lock, flags);
	return on;
}

static bool leave(struct sluice_window *window, uint32_t n)
{
	unsigned long flags = sluice_lock(&window->lock);
	bool ok = window->live >= n;

	if (ok)
		window->live -= n;
	sluice_unlock(&window->lock, flags);
	return ok;
}

static int window_open(struct sluice_share *share, void *cpu, uint64_t size, uint64_t *dev)
{
	struct sluice_window *window = (struct sluice_window *)share;
	int ret = to_dev(window, sluice_share_name(share, cpu), size, dev);

	if (!ret && !enter(window, 1))
		ret = -EOPNOTSUPP;
	return ret;
}

static int window_close(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev)
{
	(void)cpu;
	(void)size;
	(void)dev;
	(void)leave((struct sluice_window *)share, 1);
	return 0;
}

static int window_share(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	struct sluice_window *window = (struct sluice_window *)share;

	for (uint32_t i = 0; i < n; i++) {
		spans[i].result =
			to_dev(window, spans[i].pieces->orig, spans[i].bytes, &spans[i].dev);
		if (spans[i].result)
			return spans[i].result;
	}
	return enter(window, n) ? 0 : -EOPNOTSUPP;
}

static int window_unshare(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	int ret = 0;

	for (uint32_t i = 0; i < n; i++) {
		spans[i].result = leave((struct sluice_window *)share, 1) ? 0 : -EINVAL;
		if (!ret)
			ret = spans[i].result;
	}
	return ret;
}

static const struct sluice_share_ops window_ops = {
	.name = "window",
	.flags = SLUICE_SHARE_WHOLE,
	.open = window_open,
	.close = window_close,
	.share = window_share,
	.unshare = window_unshare,
};

int sluice_window_init(struct sluice_window *window, const struct sluice_bank *banks,
		       uint32_t n_banks, int (*set)(void *context, bool on), void *context)
{
	int ret = check_banks(banks, n_banks);

	if (ret)
		return ret;
	sluice_zero(window, sizeof(*window));
	window->share.ops = &window_ops;
	window->banks = banks;
	window->n_banks = n_banks;
	window->set = set;
	window->context = context;
	window->state = set ? SLUICE_WINDOW_OFF : SLUICE_WINDOW_ON;
	sluice_lock_init(&window->lock);
	return 0;
}

static void set_state(struct sluice_window *window, enum sluice_window_state state)
{
	unsigned long flags = sluice_lock(&window->lock);

	window->state = state;
	sluice_unlock(&window->lock, flags);
}

int sluice_window_switch(struct sluice_window *window, bool on)
{
	unsigned long flags;
	uint64_t live;
	int ret;

	if (!window->set)
		return -EOPNOTSUPP;
	flags = sluice_lock(&window->lock);
	if (window->state == (on ? SLUICE_WINDOW_ON : SLUICE_WINDOW_OFF)) {
		sluice_unlock(&window->lock, flags);
		return 0;
	}
	if (!on)
		window->state = SLUICE_WINDOW_CLOSING;
	live = window->live;
	sluice_unlock(&window->lock, flags);
	if (!on && live)
		return -EBUSY;
	/* Nothing is live and nobody can enter: with that the platform may be asked. */
	sluice_count(&window->share.stats.trips, 1);
	ret = window->set(window->context, on);
	if (!ret)
		set_state(window, on ? SLUICE_WINDOW_ON : SLUICE_WINDOW_OFF);
	else if (!on)
		set_state(window, SLUICE_WINDOW_ON);
	return ret;
}

static int window_hold(struct sluice_view *base, uint64_t len, struct sluice_hold *hold)
{
	struct sluice_window_view *view = (struct sluice_window_view *)base;
	unsigned long flags;
	bool on;

	for (uint32_t i = 0; i < view->n_banks; i++) {
		const struct sluice_bank *bank = &view->banks[i];
		uint64_t at = hold->dev - bank->dev;

		if (hold->dev < bank->dev || at >= bank->bytes)
			continue;
		hold->phys = bank->orig + at;
		hold->cpu = sluice_view_memory(base, hold->phys,
					       len < bank->bytes - at ? len : bank->bytes - at,
					       &hold->bytes);
		if (!hold->cpu)
			return -ERANGE;
		flags = sluice_lock(&view->lock);
		on = view->on;
		view->held += on;
		sluice_unlock(&view->lock, flags);
		return on ? 0 : -ENOENT;
	}
	return -ENOENT;
}

static void window_drop(struct sluice_view *base, const struct sluice_hold *hold)
{
	struct sluice_window_view *view = (struct sluice_window_view *)base;
	unsigned long flags = sluice_lock(&view->lock);

	(void)hold;
	view->held--;
	sluice_unlock(&view->lock, flags);
}

static const struct sluice_view_ops window_view_ops = {
	.name = "window",
	.hold = window_hold,
	.drop = window_drop,
};

int sluice_window_view_init(struct sluice_window_view *view, const struct sluice_bank *banks,
			    uint32_t n_banks, const struct sluice_memory *memory, uint32_t n_memory)
{
	int ret = check_banks(banks, n_banks);

	if (ret)
		return ret;
	sluice_zero(view, sizeof(*view));
	view->view.ops = &window_view_ops;
	view->view.memory = memory;
	view->view.n_memory = n_memory;
	view->banks = banks;
	view->n_banks = n_banks;
	sluice_lock_init(&view->lock);
	return 0;
}

int sluice_window_view_switch(struct sluice_window_view *view, bool on)
{
	unsigned long flags = sluice_lock(&view->lock);
	bool busy = !on && view->held > 0;

	if (busy && view->on)
		sluice_count(&view->view.stats.deferred, 1);
	view->on = on;
	sluice_unlock(&view->lock, flags);
	return busy ? -EBUSY : 0;
}

enum sluice_access sluice_virtio_access(const struct sluice_virtio_facts *facts, const char **why)
{
	const char *unused;
	const char **say = why ? why : &unused;

	if (!facts->access_platform) {
		/* The device does not translate: what the driver writes is what it takes. */
		if (facts->platform_forces || facts->dt_restricted) {
			*say = facts->version_1
				       ? "offers no VIRTIO_F_ACCESS_PLATFORM, but this platform "
					 "needs it: switch it on in the VMM (QEMU: "
					 "iommu_platform=on)"
				       : "is a legacy device, which cannot have "
					 "VIRTIO_F_ACCESS_PLATFORM, but this platform needs it: "
					 "use a modern one (QEMU: disable-legacy=on,"
					 "iommu_platform=on)";
			return SLUICE_ACCESS_REFUSED;
		}
		*say = facts->version_1
			       ? "no VIRTIO_F_ACCESS_PLATFORM: uses guest-physical addresses and "
				 "cannot be confined"
			       : "legacy: uses guest-physical addresses and cannot be confined";
		return SLUICE_ACCESS_RAW;
	}
	if (facts->dt_restricted || facts->platform_forces) {
		*say = "goes through the DMA API and is confined";
		return SLUICE_ACCESS_CONFINED;
	}
	if (facts->window_available && (facts->dt_bypass || !facts->dt_iommu)) {
		*say = "goes through the DMA API, whose window covers all memory";
		return SLUICE_ACCESS_DIRECT;
	}
	*say = "goes through the DMA API and is confined";
	return SLUICE_ACCESS_CONFINED;
}
