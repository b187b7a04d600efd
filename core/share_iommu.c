/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * share_iommu.c - the mechanism iommu: MAP and UNMAP requests to a virtio-iommu
 *
 * Theory of operation: see sluice/iommu.h. Requests are collected in a batch on the stack and sent
 * when it is full or the call has no more.
 *
 * Invariant: addresses are in the allocator only if no mapping of ours is there: they are taken
 * before the first MAP is sent and given back after an UNMAP of all of them was answered with S_OK.
 * What fails in between keeps them.
 */
#include <sluice/iommu.h>

#define GRANULE_SHIFT 12
#define RESERVED_MAX  16u
#define CHUNK_SHIFT   21

struct batch {
	uint32_t n;
	struct sluice_iommu_message messages[SLUICE_IOMMU_BATCH];
};

static struct sluice_iommu *iommu_of(struct sluice_share *share)
{
	return (struct sluice_iommu *)share; /* its first member */
}

static void submit(struct sluice_iommu *iommu, struct sluice_iommu_message *messages, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		messages[i].status = SLUICE_IOMMU_UNANSWERED;
		messages[i].token = 0;
	}
	sluice_count(&iommu->share.stats.trips, 1);
	sluice_count(&iommu->share.stats.operations, n);
	iommu->config.submit(iommu->config.context, messages, n);
}

static int error_of(uint8_t status)
{
	switch (status) {
	case SLUICE_VIOMMU_S_OK:
		return 0;
	case SLUICE_VIOMMU_S_NOMEM:
		return -ENOSPC;
	case SLUICE_IOMMU_UNANSWERED:
		return -EBUSY;
	default:
		return -EIO;
	}
}

/* Send the batch: the first error. */
static int send(struct sluice_iommu *iommu, struct batch *batch)
{
	int ret = 0;

	if (!batch->n)
		return 0;
	submit(iommu, batch->messages, batch->n);
	for (uint32_t i = 0; i < batch->n && !ret; i++)
		ret = error_of(batch->messages[i].status);
	batch->n = 0;
	return ret;
}

static void head(struct sluice_iommu_message *message, uint8_t type, uint8_t len, uint32_t domain)
{
	sluice_zero(message->out, sizeof(message->out));
	message->out[0] = type;
	message->out_len = len;
	sluice_put_le32(message->out + 4, domain);
}

static void put_map(const struct sluice_iommu *iommu, struct sluice_iommu_message *message,
		    uint64_t dev, uint64_t orig, uint64_t bytes, uint32_t access)
{
	head(message, SLUICE_VIOMMU_T_MAP, SLUICE_VIOMMU_MAP_BYTES, iommu->config.domain);
	sluice_put_le64(message->out + 8, dev);
	sluice_put_le64(message->out + 16, dev + bytes - 1);
	sluice_put_le64(message->out + 24, orig + iommu->config.to_phys);
	/* The flags are the same bits as ours. */
	sluice_put_le32(message->out + 32, access);
}

static void put_unmap(const struct sluice_iommu *iommu, struct sluice_iommu_message *message,
		      uint64_t dev, uint64_t bytes)
{
	head(message, SLUICE_VIOMMU_T_UNMAP, SLUICE_VIOMMU_UNMAP_BYTES, iommu->config.domain);
	sluice_put_le64(message->out + 8, dev);
	sluice_put_le64(message->out + 16, dev + bytes - 1);
}

/* Put the MAP requests of a span into the batch, sending it whenever it is full. */
static int map_span(struct sluice_iommu *iommu, struct batch *batch, const struct sluice_span *span)
{
	uint64_t dev = span->dev;
	uint32_t i = 0;
	int ret = 0;

	while (i < span->n && !ret) {
		uint64_t orig = span->pieces[i].orig, bytes = span->pieces[i].bytes;

		while (++i < span->n && span->pieces[i].orig == orig + bytes)
			bytes += span->pieces[i].bytes;
		put_map(iommu, &batch->messages[batch->n++], dev, orig, bytes, span->access);
		dev += bytes;
		if (batch->n == SLUICE_IOMMU_BATCH)
			ret = send(iommu, batch);
	}
	return ret;
}

static void give_addresses(struct sluice_iommu *iommu, const struct sluice_span *span)
{
	(void)sluice_iova_free(&iommu->iova, span->dev >> GRANULE_SHIFT,
			       span->bytes >> GRANULE_SHIFT);
}

/* Unmap n spans, at most a batch. Sets each result and gives the addresses of those back that are
 * not reachable any more. */
static void unmap_spans(struct sluice_iommu *iommu, struct sluice_span *spans, uint32_t n)
{
	struct batch batch = {.n = 0};
	uint8_t status;

	for (uint32_t i = 0; i < n; i++) {
		if (!spans[i].token)
			put_unmap(iommu, &batch.messages[batch.n++], spans[i].dev, spans[i].bytes);
	}
	if (batch.n)
		submit(iommu, batch.messages, batch.n);
	for (uint32_t i = n; i-- > 0;) {
		if (spans[i].token) {
			status = iommu->config.poll(iommu->config.context, spans[i].token);
			if (status != SLUICE_IOMMU_UNANSWERED)
				spans[i].token = 0;
		} else {
			status = batch.messages[--batch.n].status;
			spans[i].token = batch.messages[batch.n].token;
		}
		/* Whatever it says but "done": the memory may be reachable still. */
		spans[i].result = status == SLUICE_VIOMMU_S_OK ? 0 : -EBUSY;
		if (!spans[i].result)
			give_addresses(iommu, &spans[i]);
	}
}

static int unmap_all(struct sluice_iommu *iommu, struct sluice_span *spans, uint32_t n)
{
	int ret = 0;

	for (uint32_t done = 0; done < n; done += SLUICE_IOMMU_BATCH) {
		uint32_t some = n - done < SLUICE_IOMMU_BATCH ? n - done : SLUICE_IOMMU_BATCH;

		unmap_spans(iommu, spans + done, some);
		for (uint32_t i = done; i < done + some && !ret; i++)
			ret = spans[i].result;
	}
	return ret;
}

static int iommu_share(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	struct sluice_iommu *iommu = iommu_of(share);
	struct batch batch = {.n = 0};
	uint64_t number;
	uint32_t taken, i;
	int ret = 0;

	for (taken = 0; taken < n; taken++) {
		ret = sluice_iova_alloc(&iommu->iova, spans[taken].bytes >> GRANULE_SHIFT, &number);
		if (ret)
			break;
		spans[taken].dev = number << GRANULE_SHIFT;
		spans[taken].result = 0;
		spans[taken].token = 0;
	}
	if (ret) {
		/* The device has not heard of any. */
		while (taken > 0)
			give_addresses(iommu, &spans[--taken]);
		return ret == -EINVAL ? -ENOSPC : ret;
	}
	for (i = 0; i < n && !ret; i++)
		ret = map_span(iommu, &batch, &spans[i]);
	if (!ret)
		ret = send(iommu, &batch);
	if (!ret)
		return 0;
	/* Some may be mapped, and used by a device that guesses. UNMAP of what is not mapped is OK. */
	if (unmap_all(iommu, spans, n))
		return -EBUSY;
	return ret == -EBUSY ? -EIO : ret;
}

/*
 * Queue a span for a later UNMAP: false if there is no room. Whoever makes the queue full flushes.
 */
static bool enqueue(struct sluice_iommu *iommu, const struct sluice_span *span, bool *full)
{
	unsigned long flags = sluice_lock(&iommu->lock);
	bool room = iommu->n_lazy < iommu->config.lazy_spans;
	uint64_t granules = span->bytes >> GRANULE_SHIFT, exposed;

	if (room) {
		iommu->config.lazy[iommu->n_lazy++] = *span;
		sluice_count(&iommu->share.stats.exposed, granules);
		exposed = sluice_load_u64(&iommu->share.stats.exposed);
		if (exposed > iommu->share.stats.exposed_max)
			sluice_store_u64(&iommu->share.stats.exposed_max, exposed);
	}
	*full = iommu->n_lazy >= iommu->config.lazy_spans;
	sluice_unlock(&iommu->lock, flags);
	return room;
}

/* Take up to a batch of queued spans out, if nobody else is at it. */
static uint32_t dequeue(struct sluice_iommu *iommu, struct sluice_span *spans)
{
	unsigned long flags = sluice_lock(&iommu->lock);
	uint32_t n = 0;

	if (!iommu->flushing) {
		while (n < SLUICE_IOMMU_BATCH && iommu->n_lazy > 0)
			spans[n++] = iommu->config.lazy[--iommu->n_lazy];
		iommu->flushing = n > 0;
	}
	sluice_unlock(&iommu->lock, flags);
	return n;
}

/* Put back what could not be unmapped: at the far end, so that the next batch is another one. The
 * queue has a batch more room than enqueue() uses. */
static bool put_back(struct sluice_iommu *iommu, const struct sluice_span *spans, uint32_t n)
{
	unsigned long flags = sluice_lock(&iommu->lock);
	bool stuck = false;

	for (uint32_t i = 0; i < n; i++) {
		if (!spans[i].result) {
			sluice_count(&iommu->share.stats.exposed,
				     0 - (spans[i].bytes >> GRANULE_SHIFT));
			continue;
		}
		stuck = true;
		iommu->config.lazy[iommu->n_lazy++] = iommu->config.lazy[0];
		iommu->config.lazy[0] = spans[i];
	}
	iommu->flushing = false;
	sluice_unlock(&iommu->lock, flags);
	return stuck;
}

static int iommu_flush(struct sluice_share *share)
{
	struct sluice_span spans[SLUICE_IOMMU_BATCH];
	struct sluice_iommu *iommu = iommu_of(share);
	bool stuck = false;
	uint32_t n;

	while (!stuck && (n = dequeue(iommu, spans)) > 0) {
		unmap_spans(iommu, spans, n);
		stuck = put_back(iommu, spans, n);
	}
	return stuck ? -EBUSY : 0;
}

static int iommu_unshare(struct sluice_share *share, struct sluice_span *spans, uint32_t n)
{
	struct sluice_iommu *iommu = iommu_of(share);
	uint64_t top = iommu->config.last;
	bool full = false, flush = false;
	int ret = 0;

	for (uint32_t i = 0; i < n; i++) {
		spans[i].result = 0;
		if (spans[i].bytes == 0 || (spans[i].dev | spans[i].bytes) & 4095 ||
		    spans[i].dev < iommu->config.first || spans[i].dev > top ||
		    spans[i].bytes - 1 > top - spans[i].dev) {
			spans[i].result = -EINVAL;
			ret = -EINVAL;
		}
	}
	for (uint32_t i = 0; i < n && ret; i++) {
		if (!spans[i].result)
			unmap_spans(iommu, &spans[i], 1);
	}
	if (ret)
		return ret;
	if (!iommu->config.lazy_spans)
		return unmap_all(iommu, spans, n);
	for (uint32_t i = 0; i < n; i++) {
		if (!enqueue(iommu, &spans[i], &full)) {
			unmap_spans(iommu, &spans[i], 1);
			ret = ret ? ret : spans[i].result;
		}
		flush = flush || full;
	}
	if (flush)
		(void)iommu_flush(share);
	return ret;
}

static int iommu_open(struct sluice_share *share, void *cpu, uint64_t size, uint64_t *dev)
{
	struct sluice_iommu *iommu = iommu_of(share);
	struct batch batch = {.n = 1};
	struct sluice_span span = {.bytes = size};
	int ret;

	if (size == 0 || size > UINT64_C(1) << CHUNK_SHIFT || size & 4095)
		return -ERANGE;
	if (!sluice_chunk_window_take(&iommu->pool, &span.dev))
		return -ENOSPC;
	put_map(iommu, &batch.messages[0], span.dev, sluice_share_name(share, cpu), size,
		SLUICE_READ | SLUICE_WRITE);
	ret = send(iommu, &batch);
	if (ret == -EBUSY) /* it may be mapped: the place is not used again */
		return -EIO;
	if (ret)
		sluice_chunk_window_give(&iommu->pool, span.dev);
	*dev = span.dev;
	return ret;
}

static int iommu_close(struct sluice_share *share, void *cpu, uint64_t size, uint64_t dev)
{
	struct sluice_iommu *iommu = iommu_of(share);
	struct batch batch = {.n = 1};

	(void)cpu;
	put_unmap(iommu, &batch.messages[0], dev, size);
	if (send(iommu, &batch))
		return -EBUSY;
	sluice_chunk_window_give(&iommu->pool, dev);
	return 0;
}

static const struct sluice_share_ops iommu_ops = {
	.name = "iommu",
	.flags = SLUICE_SHARE_JOINS,
	.open = iommu_open,
	.close = iommu_close,
	.share = iommu_share,
	.unshare = iommu_unshare,
	.flush = iommu_flush,
};

int sluice_iommu_init(struct sluice_iommu *iommu, const struct sluice_iommu_config *config)
{
	int ret;

	if (config->first < 4096 || config->first & 4095 || (config->last + 1) & 4095 ||
	    config->last < config->first || (config->lazy_spans && !config->lazy) ||
	    config->pool_bytes & ((UINT64_C(1) << CHUNK_SHIFT) - 1) ||
	    config->pool_bytes >> CHUNK_SHIFT > 2048 || (config->probe_size && !config->properties))
		return -EINVAL;
	sluice_zero(iommu, sizeof(*iommu));
	iommu->share.ops = &iommu_ops;
	iommu->config = *config;
	sluice_lock_init(&iommu->lock);
	ret = sluice_iova_init(&iommu->iova, config->first >> GRANULE_SHIFT,
			       config->last >> GRANULE_SHIFT, config->iova_memory, config->caches,
			       config->n_caches);
	return ret;
}

/*
 * What the device reserves: ranges of granules, in order. Every length in there is the device's and
 * is checked before it is used.
 */
struct gap {
	uint64_t first, last;
};

static int add_gap(struct gap *ranges, uint32_t *n, uint64_t start, uint64_t last)
{
	uint32_t at = *n;

	if (start > last)
		return -EIO;
	if (*n == RESERVED_MAX)
		return -E2BIG;
	for (; at > 0 && ranges[at - 1].first > start >> GRANULE_SHIFT; at--)
		ranges[at] = ranges[at - 1];
	ranges[at].first = start >> GRANULE_SHIFT;
	ranges[at].last = last >> GRANULE_SHIFT;
	++*n;
	return 0;
}

static int parse(const uint8_t *properties, uint32_t bytes, struct gap *ranges, uint32_t *n)
{
	uint32_t at = 0;
	int ret = 0;

	while (!ret && bytes - at >= 4) {
		uint32_t word = sluice_get_le32(properties + at);
		uint32_t type = word & 0xfff, reserved = word >> 12 & 0xf, length = word >> 16;

		if (!type)
			return 0;
		if (length > bytes - at - 4)
			return -EIO;
		/* What we do not know is skipped, as the specification has it; any subtype is
		 * reserved. */
		if (type == SLUICE_VIOMMU_PROBE_T_RESV_MEM && !reserved) {
			if (length < SLUICE_VIOMMU_RESV_BYTES - 4)
				return -EIO;
			ret = add_gap(ranges, n, sluice_get_le64(properties + at + 8),
				      sluice_get_le64(properties + at + 16));
		}
		at += 4 + length;
	}
	return ret;
}

static int probe(struct sluice_iommu *iommu, struct gap *ranges, uint32_t *n)
{
	const struct sluice_iommu_config *config = &iommu->config;
	uint32_t len = config->probe_size + SLUICE_VIOMMU_TAIL_BYTES;
	uint8_t out[SLUICE_VIOMMU_PROBE_BYTES];

	sluice_zero(out, sizeof(out));
	out[0] = SLUICE_VIOMMU_T_PROBE;
	sluice_put_le32(out + 4, config->endpoint);
	sluice_zero(config->properties, len);
	sluice_count(&iommu->share.stats.trips, 1);
	sluice_count(&iommu->share.stats.operations, 1);
	if (config->probe(config->context, out, sizeof(out), config->properties, len) != len ||
	    config->properties[config->probe_size] != SLUICE_VIOMMU_S_OK)
		return -EIO;
	return parse(config->properties, config->probe_size, ranges, n);
}

/* Hand all addresses to the allocator that are not reserved. */
static int fill(struct sluice_iommu *iommu, const struct gap *ranges, uint32_t n)
{
	uint64_t at = iommu->config.first >> GRANULE_SHIFT;
	uint64_t last = iommu->config.last >> GRANULE_SHIFT;
	int ret = 0;

	for (uint32_t i = 0; i < n && at <= last && !ret; i++) {
		if (ranges[i].last < at)
			continue;
		if (ranges[i].first > last)
			break;
		if (ranges[i].first > at)
			ret = sluice_iova_add(&iommu->iova, at, ranges[i].first - 1);
		at = ranges[i].last + 1;
	}
	if (at <= last && !ret)
		ret = sluice_iova_add(&iommu->iova, at, last);
	return ret;
}

static int attach_message(struct sluice_iommu *iommu, uint8_t type)
{
	struct batch batch = {.n = 1};

	head(&batch.messages[0], type,
	     type == SLUICE_VIOMMU_T_ATTACH ? SLUICE_VIOMMU_ATTACH_BYTES
					    : SLUICE_VIOMMU_DETACH_BYTES,
	     iommu->config.domain);
	sluice_put_le32(batch.messages[0].out + 8, iommu->config.endpoint);
	return send(iommu, &batch);
}

int sluice_iommu_attach(struct sluice_iommu *iommu)
{
	struct gap ranges[RESERVED_MAX];
	uint64_t number;
	uint32_t n = 0;
	int ret = 0;

	if (iommu->config.probe_size)
		ret = probe(iommu, ranges, &n);
	if (ret)
		return ret;
	if (attach_message(iommu, SLUICE_VIOMMU_T_ATTACH))
		return -EIO;
	ret = fill(iommu, ranges, n);
	if (ret || !iommu->config.pool_bytes)
		return ret;
	ret = sluice_iova_alloc(&iommu->iova, iommu->config.pool_bytes >> GRANULE_SHIFT, &number);
	if (ret)
		return -ENOSPC;
	iommu->pool.dev = number << GRANULE_SHIFT;
	iommu->pool.chunks = (uint32_t)(iommu->config.pool_bytes >> CHUNK_SHIFT);
	return 0;
}

int sluice_iommu_detach(struct sluice_iommu *iommu)
{
	int ret = attach_message(iommu, SLUICE_VIOMMU_T_DETACH);

	return ret == 0 || ret == -EBUSY ? ret : -EIO;
}
