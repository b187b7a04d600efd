/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice/window.h - sharing by an address range that leads to memory, and whether to use it at all
 *
 * Theory of operation
 * -------------------
 * Some devices reach memory through a fixed translation: addresses as they are (identity), shifted
 * by a constant (dma_offset), or in several banks, each with a shift of its own. Sharing is then an
 * addition. Some platforms can switch such a window on and off for one device (the 64-bit windows of
 * pseries, an IOMMU's pass-through domain, the bypass property that the virtio thread of 2018 asks
 * for): while it is on, the device reaches everything behind the window, always.
 *
 * So a window confines nothing but to its ranges, and G1 and G2 hold for what is outside them only.
 * It is here because a platform may have one already, and because it is what the other mechanisms
 * are measured against. A window that can be switched is off at first. It is switched off only when
 * nothing is shared through it, and nothing new is from the moment of asking.
 *
 * The second part answers, for a virtio device, what comes before any of this: do its addresses go
 * through the DMA API, or are they guest-physical ones that nothing translates?
 */
#ifndef SLUICE_WINDOW_H
#define SLUICE_WINDOW_H

#include <sluice/view.h>

/* Memory that the device finds at an address. */
struct sluice_bank {
	uint64_t orig; /* the driver's name for the first byte */
	uint64_t dev;  /* the device's address of it */
	uint64_t bytes;
};

enum sluice_window_state {
	SLUICE_WINDOW_OFF,
	SLUICE_WINDOW_CLOSING, /* nothing new; on until nothing is shared */
	SLUICE_WINDOW_ON,
};

/* The caller owns the memory; the fields are private. */
struct sluice_window {
	struct sluice_share share;
	const struct sluice_bank *banks;
	uint32_t n_banks;
	enum sluice_window_state state;
	uint64_t live; /* spans and chunks */
	int (*set)(void *context, bool on);
	void *context;
	struct sluice_lock lock;
};

/**
 * sluice_window_init - describe a window
 * @window:  filled in; owned by the caller
 * @banks:   array of @n_banks, owned by the caller, unchanged while the window is there. Those of
 *	     identity have dev == orig. No two overlap in either address space.
 * @n_banks: 1 to 64
 * @set:     switches the window for this device, returns 0 or a negative error; NULL if it is
 *	     always on
 * @context: for @set
 *
 * Return: 0; -EINVAL if a bank is empty, wraps, or overlaps another.
 * Context: any.
 */
SLUICE_API int sluice_window_init(struct sluice_window *window, const struct sluice_bank *banks,
				  uint32_t n_banks, int (*set)(void *context, bool on),
				  void *context);

/**
 * sluice_window_switch - let the device bypass translation, or stop it
 * @window: the window
 * @on:     which
 *
 * Return: 0; -EOPNOTSUPP if it cannot be switched; -EBUSY if something is still shared through it:
 * nothing new is, call again; else what set() said, with the window as it was (on, if it was to be
 * switched off and could not be).
 * Context: may sleep if set() does. One caller at a time.
 */
SLUICE_API int sluice_window_switch(struct sluice_window *window, bool on);

/* The device's end, for a VMM that does the translation itself. */
struct sluice_window_view {
	struct sluice_view view;
	const struct sluice_bank *banks; /* orig is a guest-physical address here */
	uint32_t n_banks;
	bool on;
	uint64_t held;
	struct sluice_lock lock;
};

/**
 * sluice_window_view_init - the device's end of a window, switched off
 * @view:     filled in; owned by the caller
 * @banks:    as for sluice_window_init(), with guest-physical addresses for orig
 * @memory:   guest memory, an array of @n_memory that the caller keeps
 *
 * Return: as sluice_window_init().
 */
SLUICE_API int sluice_window_view_init(struct sluice_window_view *view,
				       const struct sluice_bank *banks, uint32_t n_banks,
				       const struct sluice_memory *memory, uint32_t n_memory);

/**
 * sluice_window_view_switch - what the guest's call to switch arrives at
 *
 * Return: 0; -EBUSY if it is to be switched off and the backend holds memory through it: nothing
 * new can be held from now on, and the guest is to ask again.
 */
SLUICE_API int sluice_window_view_switch(struct sluice_window_view *view, bool on);

/* What is known of a virtio device and its platform. */
struct sluice_virtio_facts {
	bool access_platform;  /* VIRTIO_F_ACCESS_PLATFORM (33) was negotiated */
	bool version_1;	       /* VIRTIO_F_VERSION_1 (32) was: without it the device is legacy */
	bool platform_forces;  /* quirk: the platform can share only what it converts or grants: Xen
				* with grants, SEV, TDX, a pseries secure guest */
	bool dt_restricted;    /* device tree: memory-region of a restricted-dma-pool */
	bool dt_iommu;	       /* device tree: iommus, or ACPI's VIOT or IORT has an entry for it */
	bool dt_bypass;	       /* device tree: translation may be bypassed for this device */
	bool window_available; /* it has a window that covers all memory */
};

enum sluice_access {
	SLUICE_ACCESS_RAW,    /* guest-physical addresses, not by the DMA API: cannot be confined */
	SLUICE_ACCESS_DIRECT, /* by the DMA API, through the window: reaches all that it covers */
	SLUICE_ACCESS_CONFINED, /* by the DMA API: bounced, or shared in place */
	SLUICE_ACCESS_REFUSED,	/* would be raw where raw addresses cannot work */
};

/**
 * sluice_virtio_access - does this device go through the DMA API
 * @facts: what is known of it
 * @why:   set to a sentence for the log, if not NULL; static
 *
 * docs/SHARE.md has the table, tests/unit/test_window.c every row of it. Virtio 1.3, 6.1 on
 * VIRTIO_F_ACCESS_PLATFORM.
 *
 * Context: any; looks at its arguments only.
 */
SLUICE_API enum sluice_access sluice_virtio_access(const struct sluice_virtio_facts *facts,
						   const char **why);

#endif
