/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/iommu.h - sharing through a virtual IOMMU: the driver's end
 *
 * Theory of operation
 * -------------------
 * A device behind a virtio-iommu reaches what MAP requests (virtio 1.3, 5.13.6.5) have put into its
 * domain. Sharing a span is: addresses from an allocator (sluice/iova.h), one MAP for each of its
 * pieces, all in one go to the request queue. Pieces that follow each other in memory go as one.
 *
 * Taking back, strictly (lazy_spans is 0): one UNMAP for each span, and addresses and memory are free
 * when the device has answered. That is one wait for each call, so it pays to end many spans in one.
 * Lazily: spans are queued, and unmapped when there are lazy_spans of them or at a flush. Until then
 * the device still reaches the memory, which breaks G3 for that long; their addresses are not used
 * again. stats.exposed says how much there is, stats.exposed_max how much there has been. This is
 * what Linux does by default for devices that it trusts; Sluice is for the others.
 *
 * What the device's end says is not believed further than it goes: a status is a status, whatever it
 * is; properties are parsed with their lengths checked; an UNMAP that is refused or not answered
 * leaves its span as it is, shared, to be ended again.
 *
 * How requests get to the device is the caller's (a virtqueue in a kernel, a call in a test).
 */
#ifndef SLUICE_IOMMU_H
#define SLUICE_IOMMU_H

#include <sluice/iova.h>
#include <sluice/share.h>
#include <sluice/viommu.h>

/* Requests that one call of submit() gets at most. */
#define SLUICE_IOMMU_BATCH 16

/* A request whose answer is only a status: ATTACH, DETACH, MAP, UNMAP. */
struct sluice_iommu_message {
	uint8_t out[SLUICE_VIOMMU_MAP_BYTES];
	uint8_t out_len;
	uint8_t status; /* SLUICE_IOMMU_UNANSWERED, or the first byte of the answer's tail */
	uint64_t token; /* set by submit() for one that was not answered, see poll() */
};

#define SLUICE_IOMMU_UNANSWERED 0xffu

struct sluice_iommu_config {
	/*
	 * Put n requests into the request queue, in this order, notify the device once, and wait for
	 * the answers, for a bounded time. Fills in status; one that was not answered keeps
	 * SLUICE_IOMMU_UNANSWERED and gets a token, not 0, for poll(); or 0 if there is no room to
	 * remember it, or it could not be sent. Copies what it needs: the messages are gone when it
	 * returns.
	 */
	void (*submit)(void *context, struct sluice_iommu_message *messages, uint32_t n);
	/*
	 * Has the request been answered meanwhile? Its status, after which the token is the
	 * transport's again, or SLUICE_IOMMU_UNANSWERED. So a device that does not answer is not asked
	 * the same again and again, until its queue is full of it.
	 */
	uint8_t (*poll)(void *context, uint64_t token);
	/*
	 * The same for a PROBE: in is what the device writes, in_len bytes, and has to be private
	 * memory into which that was copied. The used length, 0 if there is no answer.
	 */
	uint32_t (*probe)(void *context, const uint8_t *out, uint32_t out_len, uint8_t *in,
			  uint32_t in_len);
	void *context;
	uint32_t domain, endpoint;
	uint64_t first, last; /* device addresses, whole granules, first not 0: input_range */
	uint64_t to_phys;     /* added to a name to get a guest-physical address; 0 in a kernel */
	void *iova_memory; /* sluice_iova_size(first >> 12, last >> 12) bytes, aligned to 8, kept */
	struct sluice_iova_cache *caches; /* n_caches, kept */
	uint32_t n_caches;
	uint8_t *properties; /* probe_size + 4 bytes, used by sluice_iommu_attach() only; or NULL */
	uint32_t probe_size; /* of the device's configuration; 0: no PROBE */
	uint64_t pool_bytes; /* addresses for a pool's chunks, a multiple of 2 MiB to 4 GiB, or 0 */
	struct sluice_span
		*lazy; /* lazy_spans + SLUICE_IOMMU_BATCH elements, kept; NULL if strict */
	uint32_t lazy_spans;
};

/* The caller owns the memory; the fields are private but for share, iova and pool.dev. */
struct sluice_iommu {
	struct sluice_share share;
	struct sluice_iova iova; /* granules of device addresses */
	struct sluice_chunk_window pool;
	struct sluice_iommu_config config;
	struct sluice_lock lock; /* of what follows */
	uint32_t n_lazy;
	bool flushing;
};

/**
 * sluice_iommu_init - describe a device behind a virtio-iommu
 * @iommu:  filled in; owned by the caller
 * @config: copied; what it points to is kept as it says
 *
 * Return: 0; -EINVAL for ranges or numbers outside their limits.
 * Context: any; nobody else uses @iommu yet.
 */
SLUICE_API int sluice_iommu_init(struct sluice_iommu *iommu,
				 const struct sluice_iommu_config *config);

/**
 * sluice_iommu_attach - ask what is reserved, and attach the endpoint to the domain
 *
 * Return: 0; -EIO if the device refused, did not answer, or answered nonsense to PROBE; -E2BIG if it
 * reserves more than 16 ranges; -ENOSPC if what is left has no room for the pool.
 * Context: sleeps if submit() does. Once, before anything is shared.
 */
SLUICE_API int sluice_iommu_attach(struct sluice_iommu *iommu);

/**
 * sluice_iommu_detach - detach the endpoint: nothing is reachable any more
 *
 * Return: 0; -EBUSY if the device has not answered: the backend holds memory, ask again; -EIO if it
 * refused.
 * Context: sleeps if submit() does; nothing is shared any more, and nobody else uses @iommu.
 */
SLUICE_API int sluice_iommu_detach(struct sluice_iommu *iommu);

#endif
