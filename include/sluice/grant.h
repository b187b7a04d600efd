/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/grant.h - sharing by grants: Xen's table, and one that is shaped like a page table
 *
 * Theory of operation
 * -------------------
 * A guest writes into a table of its own which frames another domain may map, and how; whoever maps
 * one for it (the hypervisor, or a VMM that plays one) marks the entry as in use. So sharing asks
 * nobody: it is a few stores. Taking back is a compare-and-swap that fails while the entry is in
 * use: then the guest keeps the entry and the memory, and tries again. An entry that is given back
 * while a backend has it mapped would hand it somebody else's memory, so that is never done.
 *
 * Version 1 (Xen's public/grant_table.h) is an array of 8 bytes for each frame:
 *
 *	le16 flags	1 access permitted, 4 read-only, 8 mapped for reading, 16 mapped for writing
 *	le16 domid	who may map it
 *	le32 frame	guest frame number
 *
 * flags and domid are written as one word of 32 bits, as Xen itself does. A device address is
 * bit 63 | reference << 12 | offset, as Linux's grant-dma-ops has it, and a span has consecutive
 * references. There is no write-only: what may be written may be read.
 *
 * The page-table-shaped format is what the QEMU thread of 2024 proposes: "work more like a normal
 * page table structure", so that an IOMMU and grants can be the same thing. Addresses are the
 * guest's choice (as with the mechanism iommu, from the same allocator), the table says for each
 * granule where it is and what is allowed, and the other side walks it: neither a request for each
 * MAP, as with virtio-iommu, nor an operation for each frame, as with version 1: one hold covers all
 * of a range that is consecutive in memory. An entry is two little-endian words:
 *
 *	low	1 valid, 2 read, 4 write, 8 held for reading, 16 held for writing, 20 bits of frame
 *	high	20 more bits of frame, 12 zero bits
 *
 * Three levels of 512 entries map 512 GiB. Tables on the two upper levels are written once and never
 * change, so only the last one is under contention. Who holds an entry is marked in it, by
 * compare-and-swap, as in version 1. Unlike there, a guest that wants an entry back clears all but the
 * marks: then nobody new can hold it, and it is free when they are gone. There is no cache of translations that would outlive that, and
 * therefore nothing to invalidate.
 *
 * The device's end believes nothing in a table: each word is read once, checked, and what was read
 * is what is used until it is dropped, whatever the guest writes meanwhile.
 */
#ifndef SLUICE_GRANT_H
#define SLUICE_GRANT_H

#include <sluice/iova.h>
#include <sluice/view.h>

#define SLUICE_GRANT_ADDR (UINT64_C(1) << 63)

/* Version 1. Shared memory: what stands there can change at any time. */
struct sluice_grant_entry {
	uint32_t word; /* flags | domid << 16 */
	uint32_t frame;
};

#define SLUICE_GTF_PERMIT   1u
#define SLUICE_GTF_TYPE	    3u
#define SLUICE_GTF_READONLY 4u
#define SLUICE_GTF_READING  8u
#define SLUICE_GTF_WRITING  16u

/* The page-table-shaped format. */
struct sluice_pt_entry {
	uint32_t low, high;
};

#define SLUICE_PT_VALID	  1u
#define SLUICE_PT_READ	  2u
#define SLUICE_PT_WRITE	  4u
#define SLUICE_PT_READING 8u
#define SLUICE_PT_WRITING 16u
#define SLUICE_PT_ENTRIES 512u
#define SLUICE_PT_MAX	  (UINT64_C(1) << 27) /* granules that three levels map */

struct sluice_grant_config {
	struct sluice_grant_entry *entries; /* the table, shared with the other side, kept */
	uint32_t n_entries;		    /* 1 to 2^24 */
	uint32_t first;	   /* lowest reference that is ours; Xen keeps 0 to 7 for itself */
	uint16_t domid;	   /* who may map */
	uint64_t to_phys;  /* added to a name to get a guest-physical address; 0 in a kernel */
	void *iova_memory; /* sluice_iova_size(first, n_entries - 1) bytes, aligned to 8, kept */
	struct sluice_iova_cache *caches; /* n_caches, kept */
	uint32_t n_caches;
	uint8_t *states; /* n_entries bytes, private, kept */
	uint64_t
		pool_bytes; /* references for a pool's chunks: a multiple of 2 MiB to 4 GiB, or 0 */
};

/* The caller owns the memory; the fields are private but for share and pool.dev. */
struct sluice_grant {
	struct sluice_share share;
	struct sluice_iova refs;
	struct sluice_chunk_window pool;
	struct sluice_grant_config config;
};

/**
 * sluice_grant_init - share by a grant table, version 1
 * @grant:  filled in; owned by the caller
 * @config: copied; what it points to is kept as it says. Entries from first on are cleared.
 *
 * Return: 0; -EINVAL for numbers outside their limits; -ENOSPC if there are not enough references
 * for the pool.
 * Context: any; nobody else uses @grant yet. share and end may then be called anywhere.
 */
SLUICE_API int sluice_grant_init(struct sluice_grant *grant,
				 const struct sluice_grant_config *config);

struct sluice_pt_config {
	struct sluice_pt_entry
		*tables;      /* sluice_pt_bytes(granules) bytes, aligned to 4096, shared */
	uint64_t tables_phys; /* their guest-physical address */
	uint64_t granules;    /* of device addresses from 0 on, 2 to SLUICE_PT_MAX */
	uint64_t to_phys;
	void *iova_memory; /* sluice_iova_size(1, granules - 1) bytes, aligned to 8, kept */
	struct sluice_iova_cache *caches;
	uint32_t n_caches;
	uint8_t *states; /* granules bytes, private, kept */
	uint64_t pool_bytes;
};

struct sluice_pt {
	struct sluice_share share;
	struct sluice_iova iova;
	struct sluice_chunk_window pool;
	struct sluice_pt_config config;
	struct sluice_pt_entry *leaves; /* of granule 0, 1, ... */
};

/**
 * sluice_pt_bytes - shared memory that the tables for so many granules take
 */
SLUICE_API uint64_t sluice_pt_bytes(uint64_t granules);

/**
 * sluice_pt_init - share by a page-table-shaped grant table
 *
 * As sluice_grant_init(). Granule 0 is never used. The other side is told tables_phys.
 */
SLUICE_API int sluice_pt_init(struct sluice_pt *pt, const struct sluice_pt_config *config);

/* The device's end of version 1, for a VMM that maps grants itself. */
struct sluice_grant_use {
	uint32_t frame; /* as it was when it was first held */
	uint32_t readers, writers;
	bool readonly;
};

struct sluice_grant_view {
	struct sluice_view view;
	struct sluice_grant_entry *entries;
	uint32_t n_entries;
	uint16_t domid;
	struct sluice_grant_use *uses;
	uint64_t stuck; /* marks that the guest kept from being cleared by writing all the time */
	struct sluice_lock lock;
};

/**
 * sluice_grant_view_init - the device's end of a grant table
 * @view:      filled in; owned by the caller
 * @entries:   the guest's table as this program finds it: shared memory
 * @n_entries: 1 to 2^24
 * @domid:     who the backend is
 * @uses:      array of @n_entries, private, kept, zeroed
 * @memory:    guest memory, an array of @n_memory that the caller keeps
 *
 * Return: 0, or -EINVAL for no entries, or too many.
 */
SLUICE_API int sluice_grant_view_init(struct sluice_grant_view *view,
				      struct sluice_grant_entry *entries, uint32_t n_entries,
				      uint16_t domid, struct sluice_grant_use *uses,
				      const struct sluice_memory *memory, uint32_t n_memory);

/* The device's end of the page-table-shaped format. */
struct sluice_pt_use {
	uint32_t readers, writers;
	uint64_t frame;
	uint32_t access;	       /* what the entry allowed when it was first held */
	struct sluice_pt_entry *entry; /* where the marks are */
};

struct sluice_pt_view {
	struct sluice_view view;
	uint64_t root; /* guest-physical */
	uint64_t granules;
	struct sluice_pt_use *uses;
	uint64_t stuck;
	struct sluice_lock lock;
};

/**
 * sluice_pt_view_init - the device's end of a page-table-shaped grant table
 * @view:     filled in; owned by the caller
 * @root:     guest-physical address of the top table, as the guest says
 * @granules: of device addresses, as agreed
 * @uses:     array of @granules, private, kept, zeroed
 * @memory:   guest memory, which has the tables in it, an array of @n_memory that the caller keeps
 *
 * Return: 0, or -EINVAL for no granules, too many, or a root that is no whole granule.
 */
SLUICE_API int sluice_pt_view_init(struct sluice_pt_view *view, uint64_t root, uint64_t granules,
				   struct sluice_pt_use *uses, const struct sluice_memory *memory,
				   uint32_t n_memory);

#endif
