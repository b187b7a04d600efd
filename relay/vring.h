/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * vring.h - a virtqueue's memory, split and packed, and how shared values are read and written
 *
 * Theory of operation
 * -------------------
 * Every word of a ring can change at any time by the other side's hand. So each is read by exactly
 * one load into a local, by the functions below, and never again; a descriptor takes two loads of
 * 8 bytes. The names say which order a load or store needs:
 *   acquire  an index or a flag that says "what I wrote before this is complete" (virtio 1.2,
 *	      2.7.13.3 and 2.8.21.1): what it covers must not be read before it
 *   release  the same from this side
 *   plain    (relaxed) all else
 * A full barrier stands between publishing an index and reading whether the other side wants to be
 * notified, and between asking to be notified and looking once more: a store and a later load of
 * another word, which neither acquire nor release keep apart (virtio 1.2, 2.7.13.4).
 *
 * Numbers are little-endian (VIRTIO_F_VERSION_1), and so is the host: a build for another one fails
 * here.
 */
#ifndef RELAY_VRING_H
#define RELAY_VRING_H

#include <stdbool.h>
#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shadow mode needs a little-endian host");

/* Descriptor flags (virtio 1.2, 2.7.5 and 2.8.13). */
#define VRING_NEXT     1u
#define VRING_WRITE    2u
#define VRING_INDIRECT 4u
#define VRING_AVAIL    0x80u /* packed only */
#define VRING_USED     0x8000u

/* Split: flags of the two index rings. Packed: flags of the event suppression structures. */
#define VRING_NO_NOTIFY	    1u
#define VRING_EVENT_ENABLE  0u
#define VRING_EVENT_DISABLE 1u
#define VRING_EVENT_DESC    2u

#define VRING_DESC_BYTES 16u

/* A descriptor as it was at one moment. */
struct vring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t link; /* split: the next one; packed: the buffer's id */
};

static inline uint16_t vring_load16(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline uint16_t vring_acquire16(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline uint64_t vring_load64(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void vring_store16(uint16_t *p, uint16_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline void vring_release16(uint16_t *p, uint16_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline void vring_store64(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline void vring_full_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* The second half of a descriptor: len, then flags and next (split) or id and flags (packed). */
static inline struct vring_desc vring_unpack(uint64_t addr, uint64_t half, bool packed)
{
	uint16_t low = (uint16_t)(half >> 32), high = (uint16_t)(half >> 48);

	return (struct vring_desc){
		.addr = addr,
		.len = (uint32_t)half,
		.flags = packed ? high : low,
		.link = packed ? low : high,
	};
}

/* Both halves, each read once. For tables that are complete by then. */
static inline struct vring_desc vring_read(const uint64_t *table, uint32_t i, bool packed)
{
	uint64_t addr = vring_load64(&table[2 * i]), half = vring_load64(&table[2 * i + 1]);

	return vring_unpack(addr, half, packed);
}

static inline void vring_write(uint64_t *table, uint32_t i, uint64_t addr, uint32_t len,
			       uint16_t low, uint16_t high)
{
	vring_store64(&table[2 * i], addr);
	vring_store64(&table[2 * i + 1], len | (uint64_t)low << 32 | (uint64_t)high << 48);
}

/* Whether the step from @old to @now has gone past @event (virtio 1.2, 2.7.7.2). */
static inline bool vring_need_event(uint16_t event, uint16_t now, uint16_t old)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/**
 * vring_packed_event - the same for a packed ring (virtio 1.2, 2.8.10)
 * @area: the other side's event suppression structure: descriptor offset and wrap counter, flags
 * @now:  position in the ring, with its wrap counter @wrap
 * @old:  position at the last notification
 */
static inline bool vring_packed_event(const uint16_t *area, uint16_t num, uint16_t now, bool wrap,
				      uint16_t old)
{
	/* Flags first: the offset counts only if they say so (2.8.10.1). */
	uint16_t flags = vring_acquire16(&area[1]), at;

	if (flags != VRING_EVENT_DESC)
		return flags != VRING_EVENT_DISABLE;
	at = vring_load16(&area[0]);
	if (now <= old)
		old = (uint16_t)(old - num);
	if (wrap != (at >> 15 != 0))
		return vring_need_event((uint16_t)((at & 0x7fff) - num), now, old);
	return vring_need_event(at & 0x7fff, now, old);
}

#endif
