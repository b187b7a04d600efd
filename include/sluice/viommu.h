/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/viommu.h - the virtio-iommu device, to be embedded in a VMM
 *
 * Theory of operation
 * -------------------
 * Virtio 1.3, 5.13: a driver attaches endpoints (devices) to domains (address spaces) and maps ranges
 * of guest-physical memory into these. This is all of the device but for its virtqueues: a VMM takes
 * a request out of the request queue, copies it, hands it to sluice_viommu_request() and writes the
 * answer back; sluice_viommu_fault() fills a buffer of the event queue. Each endpoint is a view
 * (sluice/view.h) for the backend behind it.
 *
 * A mapping is one MAP request's, a node of its domain's tree. Memory is bounded by what the caller
 * gives: when all nodes are in use MAP is answered with S_NOMEM. In front of the tree an endpoint has
 * a small cache of what it translated last, one comparison per use and emptied by each UNMAP.
 *
 * UNMAP and DETACH promise that the device cannot reach the memory any more (5.13.6.6.2). So while
 * the backend holds some of it, the request is not answered: its buffer stays with the device, and
 * the driver, which waits, sees that. From the first moment on nothing new can be held. When the
 * last of it is dropped, done() says which request to answer, and how. A driver that asks again
 * meanwhile is answered at the same moment.
 *
 * No feature that lets an endpoint bypass translation is offered: one that is attached to nothing
 * reaches nothing.
 */
#ifndef SLUICE_VIOMMU_H
#define SLUICE_VIOMMU_H

#include <sluice/tree.h>
#include <sluice/view.h>

/* Virtio 1.3, 5.13.6: requests and their layout, all little-endian. */
#define SLUICE_VIOMMU_T_ATTACH 1u
#define SLUICE_VIOMMU_T_DETACH 2u
#define SLUICE_VIOMMU_T_MAP    3u
#define SLUICE_VIOMMU_T_UNMAP  4u
#define SLUICE_VIOMMU_T_PROBE  5u

#define SLUICE_VIOMMU_S_OK     0u
#define SLUICE_VIOMMU_S_IOERR  1u
#define SLUICE_VIOMMU_S_UNSUPP 2u
#define SLUICE_VIOMMU_S_DEVERR 3u
#define SLUICE_VIOMMU_S_INVAL  4u
#define SLUICE_VIOMMU_S_RANGE  5u
#define SLUICE_VIOMMU_S_NOENT  6u
#define SLUICE_VIOMMU_S_FAULT  7u
#define SLUICE_VIOMMU_S_NOMEM  8u

#define SLUICE_VIOMMU_MAP_READ	1u
#define SLUICE_VIOMMU_MAP_WRITE 2u

/* Bytes of the part that the device reads; what it writes is the tail, after PROBE's properties. */
#define SLUICE_VIOMMU_ATTACH_BYTES 20u /* type, 3 reserved, domain, endpoint, flags, 4 reserved */
#define SLUICE_VIOMMU_DETACH_BYTES 20u /* type, 3 reserved, domain, endpoint, 8 reserved */
#define SLUICE_VIOMMU_MAP_BYTES	   36u /* type, 3, domain, virt_start, virt_end, phys_start, flags */
#define SLUICE_VIOMMU_UNMAP_BYTES  28u /* type, 3, domain, virt_start, virt_end, 4 reserved */
#define SLUICE_VIOMMU_PROBE_BYTES  72u /* type, 3, endpoint, 64 reserved */
#define SLUICE_VIOMMU_OUT_MAX	   72u
#define SLUICE_VIOMMU_TAIL_BYTES   4u  /* status, 3 reserved */
#define SLUICE_VIOMMU_RESV_BYTES   24u /* a RESV_MEM property with its header */
#define SLUICE_VIOMMU_FAULT_BYTES  24u

#define SLUICE_VIOMMU_PROBE_T_RESV_MEM 1u

#define SLUICE_VIOMMU_FAULT_R_DOMAIN  1u
#define SLUICE_VIOMMU_FAULT_R_MAPPING 2u
#define SLUICE_VIOMMU_FAULT_F_READ    (1u << 0)
#define SLUICE_VIOMMU_FAULT_F_WRITE   (1u << 1)
#define SLUICE_VIOMMU_FAULT_F_ADDRESS (1u << 8)

/* What sluice_viommu_request() says of a request that is answered later. */
#define SLUICE_VIOMMU_PENDING 1

#define SLUICE_VIOMMU_FAULTS 64 /* reports that wait to be fetched */
#define SLUICE_VIOMMU_TLB    64

static inline void sluice_put_le32(uint8_t *to, uint32_t v)
{
	for (uint32_t i = 0; i < 4; i++)
		to[i] = (uint8_t)(v >> 8 * i);
}

static inline void sluice_put_le64(uint8_t *to, uint64_t v)
{
	for (uint32_t i = 0; i < 8; i++)
		to[i] = (uint8_t)(v >> 8 * i);
}

static inline uint32_t sluice_get_le32(const uint8_t *from)
{
	return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static inline uint64_t sluice_get_le64(const uint8_t *from)
{
	return sluice_get_le32(from) | (uint64_t)sluice_get_le32(from + 4) << 32;
}

/* All private; the caller only provides the memory. */
struct sluice_viommu_mapping {
	struct sluice_node node;
	uint64_t phys;
	uint32_t access;
	uint32_t uses;
	bool dying;
	struct sluice_viommu_domain *domain;
	struct sluice_viommu_mapping *next; /* in the list of free ones */
};

struct sluice_viommu_domain {
	uint32_t id;
	uint32_t endpoints; /* 0: does not exist; it may still have mappings that are held */
	struct sluice_node *root;
};

struct sluice_viommu_pending {
	uint64_t cookie;
	struct sluice_viommu_domain *domain; /* NULL: free, unless endpoint is set */
	uint64_t start, last;
	struct sluice_viommu_endpoint *endpoint; /* until it holds nothing */
};

/* Addresses that cannot be mapped, as PROBE reports them. */
struct sluice_viommu_reserved {
	uint64_t start, last;
	uint8_t subtype; /* 0: reserved, 1: doorbell of message-signalled interrupts */
};

struct sluice_viommu;

struct sluice_viommu_endpoint {
	struct sluice_view view; /* for the backend; only view.stats is to be read */
	struct sluice_viommu *viommu;
	uint32_t id;
	uint32_t holds;
	struct sluice_viommu_domain *domain;
	struct {
		uint64_t generation; /* 0: empty */
		uint64_t page;
		struct sluice_viommu_mapping *mapping;
	} tlb[SLUICE_VIOMMU_TLB];
};

struct sluice_viommu_stats {
	uint64_t requests;    /* answered at once or later */
	uint64_t maps;	      /* mappings made */
	uint64_t unmaps;      /* mappings ended */
	uint64_t refused;     /* requests answered with an error */
	uint64_t deferred;    /* requests answered later */
	uint64_t pending;     /* of these, not answered yet */
	uint64_t mappings;    /* now, those that are held although unmapped included */
	uint64_t lookups;     /* translations */
	uint64_t tlb_hits;    /* of these, from the cache */
	uint64_t faults;      /* reports made */
	uint64_t faults_lost; /* reports that found no room */
};

struct sluice_viommu_config {
	uint64_t input_start, input_last;   /* device addresses that can be mapped (input_range) */
	uint32_t domain_start, domain_last; /* domain numbers (domain_range) */
	const struct sluice_viommu_reserved *reserved; /* array of n_reserved, kept, no overlaps */
	uint32_t n_reserved;			       /* 0 to 16 */
	uint32_t probe_size; /* bytes of properties: at least 24 for each reserved range */
	struct sluice_viommu_mapping *mappings; /* array of n_mappings, kept */
	uint32_t n_mappings;
	struct sluice_viommu_domain *domains;	  /* array of n_domains, kept; looked through */
	uint32_t n_domains;			  /* 1 to 256 */
	struct sluice_viommu_endpoint *endpoints; /* array of n_endpoints, kept; looked through */
	const uint32_t *endpoint_ids;		  /* array of n_endpoints, read once */
	uint32_t n_endpoints;			  /* 1 to 256 */
	struct sluice_viommu_pending *pending; /* array of n_pending, kept: as many as the request
						* queue has entries */
	uint32_t n_pending;
	const struct sluice_memory *memory; /* guest memory, kept */
	uint32_t n_memory;
	/*
	 * Answer the request with that cookie: its tail is the status and 3 zero bytes. Called from
	 * sluice_view_unmap(), sluice_view_read() and _write() of an endpoint's view, in their
	 * context, without locks.
	 */
	void (*done)(void *context, uint64_t cookie, uint8_t status);
	void *context;
};

/* The caller owns the memory; the fields are private. */
struct sluice_viommu {
	struct sluice_viommu_config config;
	struct sluice_lock lock;
	uint64_t generation;
	struct sluice_viommu_mapping *free;
	uint32_t fault_first, fault_count;
	uint8_t faults[SLUICE_VIOMMU_FAULTS][SLUICE_VIOMMU_FAULT_BYTES];
	struct sluice_viommu_stats stats;
};

/**
 * sluice_viommu_init - make a device with nothing attached
 * @viommu: filled in; owned by the caller
 * @config: copied; what it points to is kept as it says
 *
 * Return: 0; -EINVAL for a number outside its limits, a range that is none, or a probe_size that is
 * too small.
 * Context: any; nobody else uses @viommu yet.
 */
SLUICE_API int sluice_viommu_init(struct sluice_viommu *viommu,
				  const struct sluice_viommu_config *config);

/**
 * sluice_viommu_endpoint - the view of one endpoint
 *
 * Return: it, or NULL if there is no endpoint with that number.
 */
SLUICE_API struct sluice_view *sluice_viommu_endpoint(struct sluice_viommu *viommu, uint32_t id);

/**
 * sluice_viommu_request - handle one request of the request queue
 * @viommu:  the device
 * @out:     the part that the device reads, in memory that the guest cannot write: copy it first
 * @out_len: bytes there
 * @in:      set to what the device writes; the caller copies it to the guest
 * @in_len:  bytes there, as the driver offered them
 * @written: set to the used length
 * @cookie:  for done(), if the request is answered later
 *
 * A request that is too short for its type is answered with S_INVAL, of an unknown type with
 * S_UNSUPP; one whose tail has no room for a status is not answered: used length 0.
 *
 * Return: 0, answer it now; SLUICE_VIOMMU_PENDING, keep its buffer until done() names @cookie.
 * Context: one caller at a time; views may be in use meanwhile.
 */
SLUICE_API int sluice_viommu_request(struct sluice_viommu *viommu, const uint8_t *out,
				     uint32_t out_len, uint8_t *in, uint32_t in_len,
				     uint32_t *written, uint64_t cookie);

/**
 * sluice_viommu_fault - the next report for the event queue
 * @report: SLUICE_VIOMMU_FAULT_BYTES bytes, set to a struct virtio_iommu_fault (5.13.6.9)
 *
 * Return: true if there was one.
 * Context: any.
 */
SLUICE_API bool sluice_viommu_fault(struct sluice_viommu *viommu, uint8_t *report);

/**
 * sluice_viommu_get_stats - the counters, consistent
 */
SLUICE_API void sluice_viommu_get_stats(struct sluice_viommu *viommu,
					struct sluice_viommu_stats *stats);

#endif
