/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/decrypt.h - sharing by conversion: memory of a confidential guest
 *
 * Theory of operation
 * -------------------
 * In a confidential guest (SEV-SNP, TDX) a page is private until the guest converts it. That is
 * slow (a hypervisor call, page-table changes, flushes), may sleep, works best on 2 MiB at a time,
 * and does not keep the contents. So transfers are never shared in place by it: every one bounces,
 * and what is converted are chunks of the pool, ahead of need: a reserve of converted chunks is kept
 * by a worker that may sleep, and a pool that wants to grow takes one from there, which costs nothing
 * and can be done anywhere.
 *
 * Converting back can fail. Such a chunk is then shared for good: it is not given back to anybody
 * and counted as lost; handing it on as private memory would publish whatever is put there next.
 */
#ifndef SLUICE_DECRYPT_H
#define SLUICE_DECRYPT_H

#include <sluice/view.h>

#define SLUICE_DECRYPT_RESERVE 16

struct sluice_decrypt_config {
	/* A chunk of private memory, aligned to its size, or NULL. May sleep. */
	void *(*get)(void *context);
	/* Give one back; it is private again, and its contents are undefined. May sleep. */
	void (*put)(void *context, void *chunk);
	/* Make bytes from cpu on shared, or private. Contents are lost. 0 or a negative error; after
	 * an error they count as shared. May sleep. */
	int (*convert)(void *context, void *cpu, uint64_t bytes, bool shared);
	void *context;
	uint64_t chunk_bytes; /* a multiple of 4096 */
	uint64_t dev_offset;  /* added to a name to get the device address: the shared bit of TDX */
	uint32_t reserve;     /* chunks to keep converted, 1 to SLUICE_DECRYPT_RESERVE */
};

struct sluice_decrypt_stats {
	uint64_t converted; /* chunks made shared */
	uint64_t returned;  /* chunks made private again */
	uint64_t lost;	    /* chunks that could not be: shared for good, used by nobody */
	uint64_t failed;    /* conversions to shared that failed */
	uint64_t taken;	    /* chunks given out from the reserve */
	uint64_t missed;    /* times that the reserve was empty */
};

/* The caller owns the memory; the fields are private but for share. */
struct sluice_decrypt {
	struct sluice_share share;
	struct sluice_decrypt_config config;
	struct sluice_lock lock;
	uint32_t n_ready;
	void *ready[SLUICE_DECRYPT_RESERVE]; /* converted and scrubbed */
	struct sluice_decrypt_stats stats;
};

/**
 * sluice_decrypt_init - describe how this guest converts memory
 * @decrypt: filled in; owned by the caller
 * @config:  copied
 *
 * Return: 0; -EINVAL for a chunk size or a reserve outside those limits.
 * Context: any.
 */
SLUICE_API int sluice_decrypt_init(struct sluice_decrypt *decrypt,
				   const struct sluice_decrypt_config *config);

/**
 * sluice_decrypt_refill - fill the reserve up, or trim it
 *
 * Return: chunks in the reserve afterwards; less than asked for if memory or conversion failed
 * (counted).
 * Context: sleeps. One caller at a time; take and give may run meanwhile.
 */
SLUICE_API uint32_t sluice_decrypt_refill(struct sluice_decrypt *decrypt);

/**
 * sluice_decrypt_take - a converted, zeroed chunk from the reserve
 *
 * Return: it, or NULL if there is none now: call refill.
 * Context: any, interrupts too; converts nothing.
 */
SLUICE_API void *sluice_decrypt_take(struct sluice_decrypt *decrypt);

/**
 * sluice_decrypt_give - a chunk that is not used any more
 * @chunk: from sluice_decrypt_take(); scrubbed
 *
 * Kept for the next one while the reserve has room, otherwise made private and put.
 *
 * Return: 0, or what convert() said if the chunk is lost.
 * Context: sleeps.
 */
SLUICE_API int sluice_decrypt_give(struct sluice_decrypt *decrypt, void *chunk);

/**
 * sluice_decrypt_end - make the whole reserve private again
 *
 * Return: 0, or the last error of convert().
 * Context: sleeps; nobody else uses @decrypt any more.
 */
SLUICE_API int sluice_decrypt_end(struct sluice_decrypt *decrypt);

/**
 * sluice_decrypt_get_stats - the counters
 */
SLUICE_API void sluice_decrypt_get_stats(struct sluice_decrypt *decrypt,
					 struct sluice_decrypt_stats *stats);

/*
 * The device's end, for a VMM that keeps track of what the guest has converted, as the model of
 * one: memory in equal chunks, each private or shared.
 */
struct sluice_decrypt_view {
	struct sluice_view view;
	uint32_t *chunks; /* bit 31: shared; below: how often it is held */
	uint64_t n_chunks;
	uint64_t phys; /* of the first */
	uint64_t chunk_bytes;
	uint64_t dev_offset;
	struct sluice_lock lock;
};

/**
 * sluice_decrypt_view_init - a guest all of whose memory is private
 * @view:	 filled in; owned by the caller
 * @chunks:	 array of @n_chunks, owned by the caller, kept; zeroed
 * @phys:	 guest-physical address of the first chunk
 * @chunk_bytes: a multiple of 4096
 * @dev_offset:	 as in struct sluice_decrypt_config
 * @memory:	 guest memory, an array of @n_memory that the caller keeps
 *
 * Return: 0, or -EINVAL for no chunks, a chunk size that is none, or a range that wraps.
 */
SLUICE_API int sluice_decrypt_view_init(struct sluice_decrypt_view *view, uint32_t *chunks,
					uint64_t n_chunks, uint64_t phys, uint64_t chunk_bytes,
					uint64_t dev_offset, const struct sluice_memory *memory,
					uint32_t n_memory);

/**
 * sluice_decrypt_view_convert - what the guest's conversion arrives at
 * @phys:   guest-physical address of whole chunks
 * @bytes:  how much
 * @shared: to what
 *
 * Return: 0; -EINVAL if they are not whole chunks of the guest's; -EBUSY, with nothing changed, if one
 * is to be private that the backend holds.
 */
SLUICE_API int sluice_decrypt_view_convert(struct sluice_decrypt_view *view, uint64_t phys,
					   uint64_t bytes, bool shared);

#endif
