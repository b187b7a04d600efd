/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/view.h - what a device can reach, seen from its side
 *
 * Theory of operation
 * -------------------
 * A backend is given addresses by a driver that it need not trust, through a mechanism that decides
 * what is behind them. A view is that mechanism's other end. All that a backend does with an address
 * goes through it: hold memory (from then on it stays where it is, whatever the driver takes back
 * meanwhile), use it, drop it. Nothing is ever touched that is not held: read and write hold, copy
 * and drop by themselves.
 *
 * What the driver may do at any time, and what comes of it:
 *
 *   an address that is not shared     -ENOENT, and a fault for the driver where the mechanism can
 *                                     report one
 *   writing what may only be read     -EACCES, likewise; and the reverse
 *   taking back what is held          put off until it is dropped, and visible: the driver is told
 *                                     that it is in use, or is not answered until it is not;
 *                                     nobody new can hold it from the moment of asking (but for
 *                                     grants of version 1, whose table cannot say that)
 *   a table that changes or lies      every entry is read once into private memory, checked, and
 *                                     held as it was then; memory that the guest has not is -ERANGE
 *
 * A backend that never drops keeps that memory shared, and is seen in the counters on both ends; it
 * can do so with what it was given and with nothing else.
 *
 * Guest memory is described by a list of regions, as a VMM has it: what is in none of them does not
 * exist.
 */
#ifndef SLUICE_VIEW_H
#define SLUICE_VIEW_H

#include <sluice/share.h>

/* Guest memory: bytes from a guest-physical address on, and where this program finds them. */
struct sluice_memory {
	uint64_t phys;
	uint64_t bytes;
	void *cpu;
};

/* Memory that is held. The fields are for reading. */
struct sluice_hold {
	void *cpu;	 /* where this program finds it */
	uint64_t phys;	 /* its guest-physical address, as far as the mechanism has one */
	uint64_t bytes;	 /* from dev on, consecutive at cpu */
	uint64_t dev;	 /* where it was asked for */
	uint32_t access; /* as it was asked for */
	void *owner;	 /* the mechanism's */
};

/* Counters; all but held only grow. */
struct sluice_view_stats {
	uint64_t holds;	   /* pieces of memory held so far */
	uint64_t held;	   /* held now */
	uint64_t unknown;  /* refused: not shared */
	uint64_t denied;   /* refused: not in this way */
	uint64_t outside;  /* refused: shared, but no memory of the guest's */
	uint64_t deferred; /* times that the driver took back what was held */
	uint64_t trips;	   /* times that somebody else (a hypervisor) was asked */
};

struct sluice_view;

/* Operations of a mechanism. */
struct sluice_view_ops {
	const char *name;
	/*
	 * Hold memory from dev on: at least a byte and at most len of them, as far as it is
	 * consecutive. hold->dev and access have been set. Return: 0, -ENOENT, -EACCES, -ERANGE as
	 * above, -EBUSY if nothing more can be held now.
	 */
	int (*hold)(struct sluice_view *view, uint64_t len, struct sluice_hold *hold);
	void (*drop)(struct sluice_view *view, const struct sluice_hold *hold);
	/* NULL, or a way to copy len bytes without holding anything: errors as for hold(). dev and len
	 * do not wrap. */
	int (*copy)(struct sluice_view *view, uint64_t dev, void *buf, uint64_t len, bool write);
};

struct sluice_view {
	const struct sluice_view_ops *ops;
	const struct sluice_memory *memory; /* the caller's, unchanged while the view is there */
	uint32_t n_memory;
	struct sluice_view_stats stats;
};

/**
 * sluice_view_translate - where an address leads just now
 * @view:   the device's view
 * @dev:    device address
 * @len:    bytes wanted, at least 1
 * @access: SLUICE_READ, SLUICE_WRITE or both
 * @phys:   set to the guest-physical address
 * @bytes:  set to how many of @len are consecutive from there
 *
 * The answer may be wrong as soon as it is there: for messages and tables, not for touching memory.
 *
 * Return: as sluice_view_map().
 * Context: as sluice_view_map().
 */
SLUICE_API int sluice_view_translate(struct sluice_view *view, uint64_t dev, uint64_t len,
				     uint32_t access, uint64_t *phys, uint64_t *bytes);

/**
 * sluice_view_map - hold memory and say where it is
 * @view:   the device's view
 * @dev:    device address
 * @len:    bytes, at least 1
 * @access: what the device is going to do: SLUICE_READ, SLUICE_WRITE or both
 * @holds:  array of @max, the caller's until sluice_view_unmap(); the pieces in order
 * @max:    1 to UINT32_MAX
 * @n:	    set to how many pieces there are
 *
 * Return: 0, all of it is held; otherwise nothing is: -EINVAL for no length, no access or a range
 * that wraps; -ENOENT, -EACCES and -ERANGE as above; -E2BIG if it has more than @max pieces; -EBUSY
 * if nothing more can be held now.
 * Context: any thread of the backend; takes the mechanism's lock for a bounded time for each piece.
 */
SLUICE_API int sluice_view_map(struct sluice_view *view, uint64_t dev, uint64_t len,
			       uint32_t access, struct sluice_hold *holds, uint32_t max,
			       uint32_t *n);

/**
 * sluice_view_unmap - drop what sluice_view_map() held
 *
 * The memory is not the backend's any more when this is called.
 */
SLUICE_API void sluice_view_unmap(struct sluice_view *view, const struct sluice_hold *holds,
				  uint32_t n);

/**
 * sluice_view_read - copy out of shared memory
 * sluice_view_write - copy into it
 * @view: the device's view
 * @dev:  device address
 * @buf:  @len bytes of the caller's
 * @len:  bytes; 0 is nothing to do
 *
 * Piece by piece: each is held while it is copied. What was copied before an error stays copied.
 *
 * Return: 0, or an error as for sluice_view_map().
 * Context: as sluice_view_map().
 */
SLUICE_API int sluice_view_read(struct sluice_view *view, uint64_t dev, void *buf, uint64_t len);
SLUICE_API int sluice_view_write(struct sluice_view *view, uint64_t dev, const void *buf,
				 uint64_t len);

/**
 * sluice_view_memory - the guest's memory at a guest-physical address
 * @view:  whose memory
 * @phys:  guest-physical address
 * @len:   bytes wanted
 * @bytes: set to how many of them are consecutive in one region
 *
 * For mechanisms. Return: the address, or NULL if no region has the first byte.
 */
SLUICE_API void *sluice_view_memory(const struct sluice_view *view, uint64_t phys, uint64_t len,
				    uint64_t *bytes);

/* The view of a region that is reachable from the start. */
struct sluice_region_view {
	struct sluice_view view;
	struct sluice_memory memory;
};

/**
 * sluice_region_view_init - the device's end of the mechanism region
 * @view: filled in; owned by the caller
 * @cpu:  where this program finds the region
 * @dev:  its first device address
 * @size: bytes
 *
 * Return: 0, or -EINVAL if it is empty or wraps.
 */
SLUICE_API int sluice_region_view_init(struct sluice_region_view *view, void *cpu, uint64_t dev,
				       uint64_t size);

#endif
