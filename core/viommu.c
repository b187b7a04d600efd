/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * viommu.c - the virtio-iommu device: its requests
 *
 * Theory of operation
 * -------------------
 * See sluice/viommu.h. A request is bytes: a type, fields in little-endian order, no alignment. It
 * is in private memory when it comes here, so reading a field twice is reading the same thing.
 *
 * A mapping that is unmapped while it is held stays in its domain's tree, marked dying: it
 * translates no more, nothing else can be mapped there, and UNMAP of a range that overlaps it waits
 * too, so no order of requests gets an answer before the memory is let go. A domain without
 * endpoints does not exist for the driver, but its slot is not used again before its tree is empty.
 *
 * Invariant: mappings of a domain do not overlap; one that is not dying is in a domain that exists;
 * a request that is pending waits for at least one mapping or endpoint that is held.
 *
 * Lock: one, for a bounded time. Removing many mappings gives it back every 64 of them.
 */
#include "viommu.h"

#define GRANULE_MASK UINT64_C(4095)
#define STRIDE	     64u

static struct sluice_viommu_endpoint *find_endpoint(const struct sluice_viommu *viommu, uint32_t id)
{
	for (uint32_t i = 0; i < viommu->config.n_endpoints; i++) {
		if (viommu->config.endpoints[i].id == id)
			return &viommu->config.endpoints[i];
	}
	return NULL;
}

static struct sluice_viommu_domain *find_domain(const struct sluice_viommu *viommu, uint32_t id)
{
	for (uint32_t i = 0; i < viommu->config.n_domains; i++) {
		struct sluice_viommu_domain *domain = &viommu->config.domains[i];

		if (domain->endpoints && domain->id == id)
			return domain;
	}
	return NULL;
}

static struct sluice_viommu_domain *unused_domain(const struct sluice_viommu *viommu)
{
	for (uint32_t i = 0; i < viommu->config.n_domains; i++) {
		struct sluice_viommu_domain *domain = &viommu->config.domains[i];

		if (!domain->endpoints && !domain->root)
			return domain;
	}
	return NULL;
}

static struct sluice_viommu_pending *unused_pending(const struct sluice_viommu *viommu)
{
	for (uint32_t i = 0; i < viommu->config.n_pending; i++) {
		struct sluice_viommu_pending *pending = &viommu->config.pending[i];

		if (!pending->domain && !pending->endpoint)
			return pending;
	}
	return NULL;
}

void sluice_viommu_forget(struct sluice_viommu *viommu, struct sluice_viommu_mapping *mapping)
{
	sluice_tree_remove(&mapping->domain->root, &mapping->node);
	/* Nobody finds it in a cache any more. */
	viommu->generation++;
	mapping->next = viommu->free;
	viommu->free = mapping;
	viommu->stats.mappings--;
}

/* The first mapping of a range that is unmapped but still held. */
static bool any_dying(const struct sluice_viommu_domain *domain, uint64_t start, uint64_t last)
{
	struct sluice_node *node = sluice_tree_first(domain->root, start, last);

	while (node && !mapping_of(node)->dying && node->last < last)
		node = sluice_tree_first(domain->root, node->last + 1, last);
	return node && mapping_of(node)->dying;
}

/* Any mapping that somebody holds. */
static bool any_held(const struct sluice_viommu_domain *domain)
{
	struct sluice_node *node = sluice_tree_first(domain->root, 0, UINT64_MAX);

	while (node && !mapping_of(node)->uses)
		node = node->last == UINT64_MAX
			       ? NULL
			       : sluice_tree_first(domain->root, node->last + 1, UINT64_MAX);
	return node;
}

bool sluice_viommu_ready(struct sluice_viommu *viommu, uint64_t *cookie)
{
	for (uint32_t i = 0; i < viommu->config.n_pending; i++) {
		struct sluice_viommu_pending *pending = &viommu->config.pending[i];

		if (pending->endpoint && !pending->endpoint->holds)
			pending->endpoint = NULL;
		else if (!pending->domain)
			continue;
		if (pending->domain && !any_dying(pending->domain, pending->start, pending->last))
			pending->domain = NULL;
		if (pending->domain || pending->endpoint)
			continue;
		*cookie = pending->cookie;
		viommu->stats.pending--;
		return true;
	}
	return false;
}

/*
 * End all mappings inside [start, last], none of which reaches out of it: those that are held die
 * when they are dropped. With the lock, which is given back now and then.
 */
static void end_range(struct sluice_viommu *viommu, struct sluice_viommu_domain *domain,
		      uint64_t start, uint64_t last, unsigned long *flags)
{
	uint32_t steps = 0;

	for (;;) {
		struct sluice_node *node = sluice_tree_first(domain->root, start, last);
		struct sluice_viommu_mapping *mapping;
		uint64_t end;

		if (!node)
			break;
		mapping = mapping_of(node);
		end = node->last;
		if (!mapping->dying)
			viommu->stats.unmaps++;
		mapping->dying = true;
		if (!mapping->uses)
			sluice_viommu_forget(viommu, mapping);
		if (end >= last)
			break;
		start = end + 1;
		if (++steps % STRIDE == 0) {
			sluice_unlock(&viommu->lock, *flags);
			*flags = sluice_lock(&viommu->lock);
		}
	}
}

static int wait_for(struct sluice_viommu *viommu, struct sluice_viommu_pending *pending,
		    uint64_t cookie)
{
	pending->cookie = cookie;
	viommu->stats.deferred++;
	viommu->stats.pending++;
	return SLUICE_VIOMMU_PENDING;
}

/* All from here on: the status, or -1 for "later". */
#define LATER (-1)

/* An endpoint leaves its domain, which ends with the last one. What is held dies later. */
static void leave(struct sluice_viommu *viommu, struct sluice_viommu_endpoint *endpoint,
		  unsigned long *flags)
{
	struct sluice_viommu_domain *domain = endpoint->domain;

	endpoint->domain = NULL;
	viommu->generation++;
	if (--domain->endpoints == 0)
		end_range(viommu, domain, 0, UINT64_MAX, flags);
}

static int attach(struct sluice_viommu *viommu, const uint8_t *out, unsigned long *flags_of_lock)
{
	uint32_t id = sluice_get_le32(out + 4), flags = sluice_get_le32(out + 12);
	struct sluice_viommu_endpoint *endpoint = find_endpoint(viommu, sluice_get_le32(out + 8));
	struct sluice_viommu_domain *domain = find_domain(viommu, id);
	bool ends;

	if (sluice_get_le32(out + 16) || flags)
		return SLUICE_VIOMMU_S_INVAL;
	if (!endpoint)
		return SLUICE_VIOMMU_S_NOENT;
	if (id < viommu->config.domain_start || id > viommu->config.domain_last)
		return SLUICE_VIOMMU_S_RANGE;
	if (endpoint->domain && endpoint->domain == domain)
		return SLUICE_VIOMMU_S_OK;
	ends = endpoint->domain && endpoint->domain->endpoints == 1;
	/* A backend that holds something is not waited for here: the driver has to say DETACH. */
	if (endpoint->holds || (ends && any_held(endpoint->domain)))
		return SLUICE_VIOMMU_S_UNSUPP;
	/* The place of a domain that ends by this is free then. */
	if (!domain)
		domain = ends ? endpoint->domain : unused_domain(viommu);
	if (!domain)
		return SLUICE_VIOMMU_S_NOMEM;
	if (endpoint->domain)
		leave(viommu, endpoint, flags_of_lock);
	domain->id = id;
	domain->endpoints++;
	endpoint->domain = domain;
	viommu->generation++;
	return SLUICE_VIOMMU_S_OK;
}

static int detach(struct sluice_viommu *viommu, const uint8_t *out, uint64_t cookie,
		  unsigned long *flags)
{
	struct sluice_viommu_endpoint *endpoint = find_endpoint(viommu, sluice_get_le32(out + 8));
	struct sluice_viommu_domain *domain = find_domain(viommu, sluice_get_le32(out + 4));
	struct sluice_viommu_pending *pending = unused_pending(viommu);
	bool held;

	if (!endpoint)
		return SLUICE_VIOMMU_S_NOENT;
	if (!domain || endpoint->domain != domain)
		return SLUICE_VIOMMU_S_INVAL;
	if (!pending)
		return SLUICE_VIOMMU_S_NOMEM;
	leave(viommu, endpoint, flags);
	held = !domain->endpoints && any_dying(domain, 0, UINT64_MAX);
	if (!endpoint->holds && !held)
		return SLUICE_VIOMMU_S_OK;
	pending->endpoint = endpoint->holds ? endpoint : NULL;
	pending->domain = held ? domain : NULL;
	pending->start = 0;
	pending->last = UINT64_MAX;
	(void)wait_for(viommu, pending, cookie);
	return LATER;
}

static bool is_reserved(const struct sluice_viommu *viommu, uint64_t start, uint64_t last)
{
	for (uint32_t i = 0; i < viommu->config.n_reserved; i++) {
		if (start <= viommu->config.reserved[i].last &&
		    last >= viommu->config.reserved[i].start)
			return true;
	}
	return false;
}

/* True if an UNMAP of some of the range waits for its answer. */
static bool is_leaving(const struct sluice_viommu *viommu,
		       const struct sluice_viommu_domain *domain, uint64_t start, uint64_t last)
{
	for (uint32_t i = 0; viommu->stats.pending > 0 && i < viommu->config.n_pending; i++) {
		const struct sluice_viommu_pending *pending = &viommu->config.pending[i];

		if (pending->domain == domain && start <= pending->last && last >= pending->start)
			return true;
	}
	return false;
}

static int map(struct sluice_viommu *viommu, const uint8_t *out)
{
	struct sluice_viommu_domain *domain = find_domain(viommu, sluice_get_le32(out + 4));
	uint64_t start = sluice_get_le64(out + 8), last = sluice_get_le64(out + 16);
	uint64_t phys = sluice_get_le64(out + 24);
	uint32_t access = sluice_get_le32(out + 32);
	struct sluice_viommu_mapping *mapping = viommu->free;

	if (access & ~(SLUICE_VIOMMU_MAP_READ | SLUICE_VIOMMU_MAP_WRITE))
		return SLUICE_VIOMMU_S_INVAL;
	if (!domain)
		return SLUICE_VIOMMU_S_NOENT;
	if (last <= start)
		return SLUICE_VIOMMU_S_INVAL;
	if ((start | phys | (last + 1)) & GRANULE_MASK || start < viommu->config.input_start ||
	    last > viommu->config.input_last || phys > UINT64_MAX - (last - start))
		return SLUICE_VIOMMU_S_RANGE;
	if (is_reserved(viommu, start, last) || sluice_tree_first(domain->root, start, last) ||
	    is_leaving(viommu, domain, start, last))
		return SLUICE_VIOMMU_S_INVAL;
	if (!mapping)
		return SLUICE_VIOMMU_S_NOMEM;
	viommu->free = mapping->next;
	mapping->node.start = start;
	mapping->node.last = last;
	mapping->node.key = 0;
	mapping->phys = phys;
	/* The bits are the same ones. */
	mapping->access = access;
	mapping->uses = 0;
	mapping->dying = false;
	mapping->domain = domain;
	sluice_tree_insert(&domain->root, &mapping->node);
	viommu->stats.maps++;
	viommu->stats.mappings++;
	return SLUICE_VIOMMU_S_OK;
}

static int unmap(struct sluice_viommu *viommu, const uint8_t *out, uint64_t cookie,
		 unsigned long *flags)
{
	struct sluice_viommu_domain *domain = find_domain(viommu, sluice_get_le32(out + 4));
	uint64_t start = sluice_get_le64(out + 8), last = sluice_get_le64(out + 16);
	struct sluice_viommu_pending *pending = unused_pending(viommu);
	struct sluice_node *low, *high;

	if (!domain)
		return SLUICE_VIOMMU_S_NOENT;
	if (last <= start || sluice_get_le32(out + 24))
		return SLUICE_VIOMMU_S_INVAL;
	low = sluice_tree_first(domain->root, start, start);
	high = sluice_tree_first(domain->root, last, last);
	if ((low && low->start < start) || (high && high->last > last))
		return SLUICE_VIOMMU_S_RANGE;
	/* Before anything is changed: an UNMAP that cannot wait must not be begun. */
	if (!pending)
		return SLUICE_VIOMMU_S_NOMEM;
	end_range(viommu, domain, start, last, flags);
	/* Asked now: what was held when its turn came may have been dropped since. */
	if (!any_dying(domain, start, last))
		return SLUICE_VIOMMU_S_OK;
	pending->domain = domain;
	pending->start = start;
	pending->last = last;
	(void)wait_for(viommu, pending, cookie);
	return LATER;
}

/* Fills in the properties; their length is written to *bytes. */
static int probe(struct sluice_viommu *viommu, const uint8_t *out, uint8_t *in, uint32_t room,
		 uint32_t *bytes)
{
	uint32_t at = 0;

	*bytes = 0;
	if (!find_endpoint(viommu, sluice_get_le32(out + 4)))
		return SLUICE_VIOMMU_S_NOENT;
	if (room < viommu->config.probe_size)
		return SLUICE_VIOMMU_S_INVAL;
	sluice_zero(in, room);
	for (uint32_t i = 0; i < viommu->config.n_reserved; i++) {
		const struct sluice_viommu_reserved *reserved = &viommu->config.reserved[i];

		/* le16 type, le16 length of what follows, subtype, 3 reserved, le64 start, end */
		sluice_put_le32(in + at, SLUICE_VIOMMU_PROBE_T_RESV_MEM |
						 (SLUICE_VIOMMU_RESV_BYTES - 4) << 16);
		in[at + 4] = reserved->subtype;
		sluice_put_le64(in + at + 8, reserved->start);
		sluice_put_le64(in + at + 16, reserved->last);
		at += SLUICE_VIOMMU_RESV_BYTES;
	}
	*bytes = room;
	return SLUICE_VIOMMU_S_OK;
}

static uint32_t out_bytes(uint8_t type)
{
	switch (type) {
	case SLUICE_VIOMMU_T_ATTACH:
		return SLUICE_VIOMMU_ATTACH_BYTES;
	case SLUICE_VIOMMU_T_DETACH:
		return SLUICE_VIOMMU_DETACH_BYTES;
	case SLUICE_VIOMMU_T_MAP:
		return SLUICE_VIOMMU_MAP_BYTES;
	case SLUICE_VIOMMU_T_UNMAP:
		return SLUICE_VIOMMU_UNMAP_BYTES;
	case SLUICE_VIOMMU_T_PROBE:
		return SLUICE_VIOMMU_PROBE_BYTES;
	}
	return 0;
}

static int dispatch(struct sluice_viommu *viommu, const uint8_t *out, uint8_t *in, uint32_t room,
		    uint64_t cookie, uint32_t *bytes, unsigned long *flags)
{
	switch (out[0]) {
	case SLUICE_VIOMMU_T_ATTACH:
		return attach(viommu, out, flags);
	case SLUICE_VIOMMU_T_DETACH:
		return detach(viommu, out, cookie, flags);
	case SLUICE_VIOMMU_T_MAP:
		return map(viommu, out);
	case SLUICE_VIOMMU_T_UNMAP:
		return unmap(viommu, out, cookie, flags);
	default:
		return probe(viommu, out, in, room, bytes);
	}
}

int sluice_viommu_request(struct sluice_viommu *viommu, const uint8_t *out, uint32_t out_len,
			  uint8_t *in, uint32_t in_len, uint32_t *written, uint64_t cookie)
{
	uint32_t bytes = 0, need;
	unsigned long flags;
	int status;

	*written = 0;
	if (in_len < SLUICE_VIOMMU_TAIL_BYTES)
		return 0;
	flags = sluice_lock(&viommu->lock);
	need = out_len > 0 ? out_bytes(out[0]) : 0;
	if (out_len > 0 && !need)
		status = SLUICE_VIOMMU_S_UNSUPP;
	else if (out_len == 0 || out_len < need)
		status = SLUICE_VIOMMU_S_INVAL;
	else
		status = dispatch(viommu, out, in, in_len - SLUICE_VIOMMU_TAIL_BYTES, cookie,
				  &bytes, &flags);
	viommu->stats.requests++;
	if (status > (int)SLUICE_VIOMMU_S_OK)
		viommu->stats.refused++;
	sluice_unlock(&viommu->lock, flags);
	if (status == LATER)
		return SLUICE_VIOMMU_PENDING;
	/* The tail of PROBE stands at the end of the buffer, whatever came before it (5.13.6.7). */
	if (out_len > 0 && out[0] == SLUICE_VIOMMU_T_PROBE && !bytes) {
		bytes = in_len - SLUICE_VIOMMU_TAIL_BYTES;
		sluice_zero(in, bytes);
	}
	sluice_put_le32(in + bytes, (uint32_t)status);
	*written = bytes + SLUICE_VIOMMU_TAIL_BYTES;
	return 0;
}

bool sluice_viommu_fault(struct sluice_viommu *viommu, uint8_t *report)
{
	unsigned long flags = sluice_lock(&viommu->lock);
	bool any = viommu->fault_count > 0;

	if (any) {
		const uint8_t *from = viommu->faults[viommu->fault_first];

		for (uint32_t i = 0; i < SLUICE_VIOMMU_FAULT_BYTES; i++)
			report[i] = from[i];
		viommu->fault_first = (viommu->fault_first + 1) % SLUICE_VIOMMU_FAULTS;
		viommu->fault_count--;
	}
	sluice_unlock(&viommu->lock, flags);
	return any;
}

struct sluice_view *sluice_viommu_endpoint(struct sluice_viommu *viommu, uint32_t id)
{
	struct sluice_viommu_endpoint *endpoint = find_endpoint(viommu, id);

	return endpoint ? &endpoint->view : NULL;
}

void sluice_viommu_get_stats(struct sluice_viommu *viommu, struct sluice_viommu_stats *stats)
{
	unsigned long flags = sluice_lock(&viommu->lock);

	*stats = viommu->stats;
	sluice_unlock(&viommu->lock, flags);
}

int sluice_viommu_init(struct sluice_viommu *viommu, const struct sluice_viommu_config *config)
{
	if (config->input_start > config->input_last ||
	    config->domain_start > config->domain_last || config->n_reserved > 16 ||
	    config->n_domains == 0 || config->n_domains > 256 || config->n_endpoints == 0 ||
	    config->n_endpoints > 256 || config->n_mappings == 0 || config->n_pending == 0 ||
	    !config->done || config->probe_size < config->n_reserved * SLUICE_VIOMMU_RESV_BYTES)
		return -EINVAL;
	for (uint32_t i = 0; i < config->n_reserved; i++) {
		if (config->reserved[i].start > config->reserved[i].last)
			return -EINVAL;
	}
	sluice_zero(viommu, sizeof(*viommu));
	viommu->config = *config;
	viommu->generation = 1;
	sluice_lock_init(&viommu->lock);
	sluice_zero(config->domains, config->n_domains * sizeof(*config->domains));
	sluice_zero(config->pending, config->n_pending * sizeof(*config->pending));
	for (uint32_t i = config->n_mappings; i-- > 0;) {
		config->mappings[i].next = viommu->free;
		viommu->free = &config->mappings[i];
	}
	for (uint32_t i = 0; i < config->n_endpoints; i++)
		sluice_viommu_view_init(viommu, &config->endpoints[i], config->endpoint_ids[i]);
	return 0;
}
