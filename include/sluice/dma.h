/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/dma.h - the DMA of one device, confined to a pool
 *
 * Theory of operation
 * -------------------
 * A struct sluice_dma stands for one device as its driver sees it. The calls have the meaning of
 * Linux's DMA API (Documentation/core-api/dma-api.rst): map hands a buffer to the device, unmap
 * takes it back, sync hands it over and back while it stays mapped.
 *
 * The rule for what a device does not write
 *   At map time the mapped bytes of the slot become an exact image of the buffer, in every
 *   direction. So a device that writes less than it was offered leaves the rest of the buffer as
 *   it was, bit for bit, as it would without a bounce; and what it can read in the slot is the
 *   mapped bytes, never what an earlier mapping left there (CVE-2022-0854 was that leak). At unmap
 *   the mapped bytes are scrubbed, so a free slot and a slot's padding hold zeroes. The price is
 *   one copy more for a buffer that the device will only write, and one clearing for each mapping;
 *   docs/DESIGN.md has the figures and the alternatives that were considered.
 *
 * The length, the driver's address, the direction and the owner of a mapping are kept in the
 * slot's private record and taken from there alone. unmap first moves the record from LIVE to
 * BUSY in one atomic step, so of two unmaps of one address exactly one goes on and the other is
 * refused; nothing that a buggy driver or a device does makes the layer touch memory that is not
 * mapped (G4).
 *
 * Fairness (G5)
 *   A map that finds no room puts its device into the pool's queue until it has mapped as much as
 *   it asked for then. Until SLUICE_TURN_PASSES mappings of others have been made meanwhile, all
 *   compete for the room that there is. From then on, a further try of that device is met, or it
 *   insists: until it is met, nobody else maps but those before it in the queue, and whoever
 *   leaves enough room for all who insist. All others get -ENOSPC and wait in turn. So a request
 *   that the pool could hold if everything mapped through this layer were unmapped is passed by at
 *   most
 *
 *	SLUICE_TURN_PASSES + (devices that wait - 1) * SLUICE_TURN_SMALL + CPUs * tries
 *
 *   mappings between its first try and the last that is in vain, if its driver comes again after
 *   each failure and if other mappings end. The middle term is one mapping (or list) for each of
 *   the others if they ask again for what they failed to get, which is what drivers do; the last
 *   one is what is just being mapped at each try since it insists. A turn ends in vain if
 *   SLUICE_TURN_SILENCE tries of others fail while nothing is given back; the device's counter
 *   "lapsed" says so. While no device waits, all this costs a load and a branch.
 *
 *   What that does not promise is room beside mappings that never end (coherent memory, receive
 *   buffers of an idle network, a device that hoards). For that a device may have a reserve.
 *
 * Reserve (G5)
 *   sluice_dma_reserve() sets a part of the pool aside for one device. When a mapping or a list of
 *   this device finds no room, or it is another's turn, it is met from there if the reserve is whole.
 *   It then is that list's alone, or that of the mappings which this CPU makes one by one, and the
 *   next request waits until all that was mapped there has been unmapped. So, whatever other devices
 *   keep for ever, this device goes on with one request at a time up to the length of its reserve.
 *   What it keeps itself, nobody can help: a mapping of its own that never ends (receive buffers)
 *   may keep its reserve for ever. Coherent memory is not taken from there. As long as there is room
 *   in the pool, a reserve costs nothing but its bytes.
 */
#ifndef SLUICE_DMA_H
#define SLUICE_DMA_H

#include <sluice/os.h>
#include <sluice/policy.h>
#include <sluice/pool.h>

struct sluice_place;

enum sluice_dir {
	SLUICE_BIDIRECTIONAL = 0,
	SLUICE_TO_DEVICE = 1,
	SLUICE_FROM_DEVICE = 2,
};

/* unmap: the driver has taken its data by sync already; do not copy back. */
#define SLUICE_SKIP_SYNC (1u << 0)

#define SLUICE_HISTOGRAM 24 /* bucket i counts lengths in (2^(i-1), 2^i]; the last, all above */

/*
 * A device that found no room is passed by this many mappings of others at most before its turn
 * comes; and its turn ends when so many others have been turned away since anything was given back,
 * or it has made so many mappings that were not what it waited for.
 */
#define SLUICE_TURN_PASSES  256u
#define SLUICE_TURN_SILENCE 1024u
#define SLUICE_TURN_SMALL   1024u
#define SLUICE_TURN_FORGET  65536u /* mappings, and a device that has not tried again is forgotten */

#define SLUICE_RESERVE_MAX (UINT32_C(8) << 20) /* bytes in the reserve of a device */

struct sluice_dma_stats {
	uint64_t maps;		 /* mappings made; of the sum only, being that of sizes */
	uint64_t unmaps;	 /* mappings ended */
	uint64_t bytes_to;	 /* copied towards the device */
	uint64_t bytes_from;	 /* copied back */
	uint64_t scrubbed;	 /* bytes cleared at unmap */
	uint64_t syncs;		 /* sync calls that copied */
	uint64_t allocs;	 /* coherent allocations made */
	uint64_t frees;		 /* coherent allocations ended */
	uint64_t coherent;	 /* bytes of coherent memory now */
	uint64_t coherent_freed; /* bytes of coherent memory that has been given back */
	uint64_t full; /* mappings that found the pool full, or another's turn; the reserve may have
			  met them */
	uint64_t waited;      /* times that it began to wait for its turn */
	uint64_t turned_away; /* of full, those for another's turn */
	uint64_t lapsed;      /* turns of its own that came to nothing */
	uint64_t refused;     /* calls refused because they made no sense (see sluice_dma_unmap) */
	uint64_t overruns;    /* mappings beside which the device wrote (only with guard) */
	uint64_t sizes[SLUICE_HISTOGRAM];
	uint64_t reserved;     /* bytes in its reserve */
	uint64_t reserve_maps; /* mappings begun in its reserve */
	uint64_t padding[6];   /* to a multiple of 64: one for each cache, none shares a line */
};
_Static_assert(sizeof(struct sluice_dma_stats) % 64 == 0, "lines");

/* One device. The caller owns the memory; fields are set by sluice_dma_init(). */
struct sluice_dma {
	struct sluice_pool *pool;
	struct sluice_policy policy;
	/* What the device needs; the caller may set them after init, before anything is mapped. */
	uint32_t min_align_mask;    /* low address bits that are kept (NVMe: 4095); 0 if none */
	uint64_t seg_boundary_mask; /* no mapping crosses a multiple of this plus one */
	/*
	 * Debug mode: watch the bytes beside each mapping, at the price of 32 bytes more for it and
	 * of looking at all its slot's padding. For devices with bugs; an attacker sees the bytes.
	 */
	bool guard;
	uint16_t id;
	struct sluice_place *place;	/* NULL: all bounces; set by sluice_place_init() */
	struct sluice_dma_stats *stats; /* one for each of the pool's caches */
	struct {
		struct sluice_dma *prev, *next;
		uint64_t wants;	 /* bytes that it waits for; 0 if it does not */
		uint64_t ticket; /* the pool's passes when it began to */
		uint64_t tried;	 /* and when it last tried in vain */
		uint64_t waits, turned_away, lapses;
		uint32_t in_vain; /* turns in a row that came to nothing, up to a limit */
		bool insists;	  /* has waited for long enough */
	} turn;			  /* the pool's: see core/turn.c */
	struct {
		uint32_t first;	   /* its first granule + 1; 0: there is none */
		uint32_t used;	   /* granules that the present claim has used up */
		uint32_t owner;	   /* the CPU + 1 whose mappings share the claim; 0: a list */
		uint32_t patience; /* how often what is shorter than wants is still refused */
		uint64_t wants;	   /* the longest list that was refused since one was met */
		uint64_t bytes;
		uint64_t maps;
	} reserve; /* the pool's: see core/reserve.c */
};

/* An element of a scatter list. The caller fills in the first two, map_sg the others. */
struct sluice_sg {
	uint64_t orig;
	uint64_t len;
	uint64_t dma;
};

/**
 * sluice_dma_init - describe a device
 * @dma:  filled in; owned by the caller
 * @pool: where its transfers bounce; several devices may have the same
 * @id:   tells the devices of a pool apart: an address mapped by one is not accepted from another
 * @stats: array with an element for each of the pool's caches (n_caches), zeroed by this call,
 *	   owned by the caller and kept by the device; best aligned to 64
 *
 * min_align_mask is 0 and seg_boundary_mask all ones afterwards: nothing special is needed.
 *
 * Context: any; nobody else uses @dma yet.
 */
SLUICE_API void sluice_dma_init(struct sluice_dma *dma, struct sluice_pool *pool, uint16_t id,
				struct sluice_dma_stats *stats);

/**
 * sluice_dma_close - forget a device, or that it waits
 * @dma: the device; what is mapped stays mapped
 *
 * A device that found no room stands in the pool's queue, by its address. So this has to be called
 * when nobody maps through @dma any more, before its memory is used for anything else. Also for a
 * device that goes on, when its driver gives up what did not fit: then nobody waits for it any
 * longer (and it has to ask for its reserve again).
 *
 * Its reserve goes back to the pool: at once, or with the last mapping in it, if some have been left
 * behind. That may be unmapped as long as @dma is there; if it never is, the reserve stays taken, as
 * any slot would.
 *
 * Context: any.
 */
SLUICE_API void sluice_dma_close(struct sluice_dma *dma);

/**
 * sluice_dma_reserve - set a part of the pool aside for a device
 * @dma:   the device
 * @bytes: how much, rounded up to 4096; at most SLUICE_RESERVE_MAX; 0 gives it back
 *
 * In a reserve each mapping takes whole granules of 4096 bytes: its length, with what min_align_mask
 * puts in front of it and 32 bytes more with guard, rounded up. The longest list that is to fit has to
 * be counted like that; where seg_boundary_mask is shorter than the pool, elements may need as much
 * again for their alignment.
 *
 * Giving it back works as in sluice_dma_close().
 *
 * Return: 0; -ENOSPC if no run of this length is free now, or what is left of the pool could not hold
 * as much in one piece; -EBUSY if the device has one already; -EINVAL if @bytes is too much.
 * Context: one caller at a time for each device; others may map meanwhile. May empty the caches, for
 * which it waits for their locks; not for a hard interrupt.
 */
SLUICE_API int sluice_dma_reserve(struct sluice_dma *dma, uint64_t bytes);

/**
 * sluice_dma_map - hand a buffer to the device
 * @dma:  the device
 * @orig: the buffer, named as sluice_orig() understands it
 * @len:  bytes, 1 to UINT32_MAX
 * @dir:  who writes
 * @addr: set to the device address; its low bits under min_align_mask are those of @orig
 *
 * The device address is a multiple of 256 where min_align_mask does not say otherwise, of 512 if
 * @len is, and of 4096 from 3585 bytes on.
 *
 * Return: 0; -ENOSPC if the pool is full, or another device's turn
 * has come (see Fairness): try again when something has been unmapped, or a little later; -E2BIG if it
 * could not hold @len bytes even if empty; -EINVAL for a length or direction that is none, for a
 * min_align_mask that is not one less than a power of two or is above 4095, and for a length that
 * no place inside one segment has room for; -EBUSY, only of a device with a place, if sharing failed
 * half-way and the device's end did not take it back: the buffer may be reachable until ended().
 * Context: any, hard interrupts too. Takes locks for a bounded time and copies @len bytes outside
 * them.
 */
SLUICE_API int sluice_dma_map(struct sluice_dma *dma, uint64_t orig, uint64_t len,
			      enum sluice_dir dir, uint64_t *addr);

/**
 * sluice_dma_unmap - take a buffer back
 * @dma:   the device
 * @addr:  what sluice_dma_map() gave
 * @len:   as it was mapped
 * @dir:   as it was mapped
 * @flags: 0 or SLUICE_SKIP_SYNC
 *
 * Afterwards nothing that the device writes changes the buffer (G3), and the slot's bytes are
 * cleared.
 *
 * Return: 0, or 1 if guard is on and the device has written beside the mapping (counted as an
 * overrun; the buffer is taken back all the same); -EINVAL, changing nothing and counting it as
 * refused, if @addr is not the start of a
 * live mapping of this device (unmapped already, interior, foreign) or @len or @dir differ from
 * what was mapped; -EBUSY, only of a device with a place, if the device still holds the buffer: it is
 * unmapped, but not to be used before ended() is called for it (sluice/place.h).
 * Context: as sluice_dma_map().
 */
SLUICE_API int sluice_dma_unmap(struct sluice_dma *dma, uint64_t addr, uint64_t len,
				enum sluice_dir dir, uint32_t flags);

/**
 * sluice_dma_sync_for_cpu - let the driver read what the device has written so far
 * sluice_dma_sync_for_device - let the device read what the driver has written since
 * @dma:  the device
 * @addr: device address anywhere inside a live mapping
 * @len:  bytes from there on, inside that mapping
 * @dir:  as it was mapped; of a mapping in both directions, also the one that is meant now
 *
 * for_cpu copies back unless @dir is to the device only. for_device copies out unless it is from
 * the device only: such a buffer is the driver's to read and not to write (dma-api.rst), and
 * its image was laid down at map time.
 *
 * Return: 0; -EINVAL, copying nothing and counting it as refused, if the range is not inside one
 * live mapping of this device, or @dir differs.
 * Context: any, hard interrupts too; no lock. Not at the same time as the unmap of that mapping.
 */
SLUICE_API int sluice_dma_sync_for_cpu(struct sluice_dma *dma, uint64_t addr, uint64_t len,
				       enum sluice_dir dir);
SLUICE_API int sluice_dma_sync_for_device(struct sluice_dma *dma, uint64_t addr, uint64_t len,
					  enum sluice_dir dir);

/**
 * sluice_dma_map_sg - hand over a list of buffers, or none of them
 * @dma: the device
 * @sg:  @n elements, owned by the caller; the dma fields are set
 * @n:   1 to UINT32_MAX
 * @dir: who writes
 *
 * Return: 0; otherwise what sluice_dma_map() said of the first element that could not be mapped,
 * with nothing left mapped and no buffer changed.
 * Context: as sluice_dma_map().
 */
SLUICE_API int sluice_dma_map_sg(struct sluice_dma *dma, struct sluice_sg *sg, uint32_t n,
				 enum sluice_dir dir);

/**
 * sluice_dma_unmap_sg - take a list of buffers back
 *
 * Arguments and context as for sluice_dma_map_sg(), flags as for sluice_dma_unmap().
 *
 * Return: 0, or -EINVAL if any element was refused; the others are unmapped all the same.
 */
SLUICE_API int sluice_dma_unmap_sg(struct sluice_dma *dma, const struct sluice_sg *sg, uint32_t n,
				   enum sluice_dir dir, uint32_t flags);

/**
 * sluice_dma_list_map - hand over one element of a list
 * @claimed: 0, or what sluice_dma_reserve_begin() gave for this list
 *
 * For callers with lists of their own kind. As sluice_dma_map(), but for the reserve: with 0 it is
 * not touched, and with a claim nothing but the reserve is. -ENOSPC then also says that too little of
 * it is left. The way of sluice_dma_map_sg() is: map all elements with 0; if one finds no room, unmap
 * those before it, claim the reserve, map all elements with that, and let go of it (whether they
 * fitted or not).
 *
 * Context: as sluice_dma_map().
 */
SLUICE_API int sluice_dma_list_map(struct sluice_dma *dma, uint64_t orig, uint64_t len,
				   enum sluice_dir dir, uint32_t claimed, uint64_t *addr);

/**
 * sluice_dma_reserve_begin - claim the device's reserve for a list that found no room
 * @dma:   the device
 * @bytes: of all its elements
 *
 * Return: the claim; 0 if the device has no reserve or a shorter one, or something else of
 * the same device is in it, or it is kept whole for a longer request that came before.
 * Context: any, hard interrupts too. Takes the pool's lock for a constant number of steps.
 */
SLUICE_API uint32_t sluice_dma_reserve_begin(struct sluice_dma *dma, uint64_t bytes);

/**
 * sluice_dma_reserve_end - all elements of the list have been mapped, or it is given up
 * @dma:     the device
 * @claimed: what sluice_dma_reserve_begin() gave; not 0. Once for each
 *
 * Context: as sluice_dma_reserve_begin().
 */
SLUICE_API void sluice_dma_reserve_end(struct sluice_dma *dma, uint32_t claimed);

/**
 * sluice_dma_list_done - say that a list of mappings which belong together is complete, or failed
 * @dma:   the device
 * @bytes: of all its elements
 * @ret:   0 if all have been mapped; -ENOSPC if one found no room and the others have been unmapped
 *
 * For callers that map the elements of a list one by one, each by sluice_dma_map(), and need all of
 * them or none: the device then waits for room for the whole list, and not for the first element
 * that did not fit. sluice_dma_map_sg() does this by itself. Any other @ret does nothing.
 *
 * Context: any, hard interrupts too.
 */
SLUICE_API void sluice_dma_list_done(struct sluice_dma *dma, uint64_t bytes, int ret);

/**
 * sluice_dma_alloc - memory that driver and device use at the same time (rings)
 * @dma:  the device
 * @len:  bytes, 1 to UINT32_MAX
 * @addr: set to the device address, aligned to the power of two at or above @len, at least 4096
 *	  and at most 2 MiB
 * @cpu:  set to the address for this program; zeroed, the caller's until sluice_dma_free()
 *
 * Whatever stands there can change at any time by the device's hand: read it once.
 *
 * Return: as sluice_dma_map().
 * Context: as sluice_dma_map().
 */
SLUICE_API int sluice_dma_alloc(struct sluice_dma *dma, uint64_t len, uint64_t *addr, void **cpu);

/**
 * sluice_dma_free - give coherent memory back
 * @dma:  the device
 * @addr: what sluice_dma_alloc() set
 * @len:  as it was allocated
 *
 * Return: 0, or -EINVAL as for sluice_dma_unmap().
 * Context: as sluice_dma_map().
 */
SLUICE_API int sluice_dma_free(struct sluice_dma *dma, uint64_t addr, uint64_t len);

/**
 * sluice_dma_max_mapping - bytes that a driver should not exceed in one mapping
 *
 * An eighth of the pool, at least 64 KiB and at most 2 MiB, and in any case no more than the empty
 * pool could hold: no single mapping asks for a large part of the pool, and a driver that heeds it
 * never sees -E2BIG.
 *
 * Context: any.
 */
SLUICE_API uint64_t sluice_dma_max_mapping(struct sluice_dma *dma);

/**
 * sluice_dma_get_stats - the device's counters, summed up
 *
 * No mapping is counted as ended that is not counted as made.
 *
 * Context: any. Takes the lock of each cache, twice, and the pool's, for a bounded time each.
 */
SLUICE_API void sluice_dma_get_stats(struct sluice_dma *dma, struct sluice_dma_stats *sum);

/**
 * sluice_dma_live - how many mappings and coherent allocations there are now
 *
 * Context: as sluice_dma_get_stats().
 */
SLUICE_API uint64_t sluice_dma_live(struct sluice_dma *dma);

#endif
