/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * trace.h - tracepoints sluice:map, unmap, alloc, free and full
 *
 * A device is recorded as one word, domain << 16 | bus << 8 | devfn: cheaper than its name, and
 * the same on all kernels (the macros for strings have changed their arguments). dma is what tells
 * a mapping from the others of its device while it lives; see observe.c for where it is no bus
 * address. `sluice survey` reads these in their binary form, by the field names.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM sluice

#if !defined(SLUICE_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define SLUICE_TRACE_H

#include <linux/tracepoint.h>

#define sluice_show_dir(dir)						\
	__print_symbolic(dir, { 0, "BIDIRECTIONAL" },			\
			 { 1, "TO_DEVICE" }, { 2, "FROM_DEVICE" })

/* What a buffer is made of: SLUICE_PAGE_*. */
#define sluice_show_kind(kind)						\
	__print_symbolic(kind, { 0, "kernel" }, { 1, "slab" }, { 2, "user" })

/* A buffer has been handed to the device. */
TRACE_EVENT(map,
	TP_PROTO(u32 bdf, u64 phys, u64 dma, u64 len, int dir, u32 kind),
	TP_ARGS(bdf, phys, dma, len, dir, kind),
	TP_STRUCT__entry(
		__field(u64, phys)
		__field(u64, dma)
		__field(u64, len)
		__field(u32, bdf)
		__field(int, dir)
		__field(u32, kind)
	),
	TP_fast_assign(
		__entry->phys = phys;
		__entry->dma = dma;
		__entry->len = len;
		__entry->bdf = bdf;
		__entry->dir = dir;
		__entry->kind = kind;
	),
	TP_printk("device=%04x:%02x:%02x.%x phys=0x%llx dma=0x%llx len=%llu dir=%s pages=%s",
		  __entry->bdf >> 16, __entry->bdf >> 8 & 0xff, __entry->bdf >> 3 & 0x1f,
		  __entry->bdf & 7, __entry->phys, __entry->dma, __entry->len,
		  sluice_show_dir(__entry->dir), sluice_show_kind(__entry->kind))
);

/*
 * It has been taken back. changed: its bytes that differ from what they were at map; extent: bytes
 * up to the last such one. Both are 0xffffffff where that is not known.
 */
TRACE_EVENT(unmap,
	TP_PROTO(u32 bdf, u64 phys, u64 dma, u64 len, int dir, u32 changed, u32 extent),
	TP_ARGS(bdf, phys, dma, len, dir, changed, extent),
	TP_STRUCT__entry(
		__field(u64, phys)
		__field(u64, dma)
		__field(u64, len)
		__field(u32, bdf)
		__field(int, dir)
		__field(u32, changed)
		__field(u32, extent)
	),
	TP_fast_assign(
		__entry->phys = phys;
		__entry->dma = dma;
		__entry->len = len;
		__entry->bdf = bdf;
		__entry->dir = dir;
		__entry->changed = changed;
		__entry->extent = extent;
	),
	TP_printk("device=%04x:%02x:%02x.%x phys=0x%llx dma=0x%llx len=%llu dir=%s changed=%d extent=%d",
		  __entry->bdf >> 16, __entry->bdf >> 8 & 0xff, __entry->bdf >> 3 & 0x1f,
		  __entry->bdf & 7, __entry->phys, __entry->dma, __entry->len,
		  sluice_show_dir(__entry->dir), __entry->changed, __entry->extent)
);

/* Coherent memory. */
DECLARE_EVENT_CLASS(sluice_coherent,
	TP_PROTO(u32 bdf, u64 dma, u64 len),
	TP_ARGS(bdf, dma, len),
	TP_STRUCT__entry(
		__field(u64, dma)
		__field(u64, len)
		__field(u32, bdf)
	),
	TP_fast_assign(
		__entry->dma = dma;
		__entry->len = len;
		__entry->bdf = bdf;
	),
	TP_printk("device=%04x:%02x:%02x.%x dma=0x%llx len=%llu",
		  __entry->bdf >> 16, __entry->bdf >> 8 & 0xff, __entry->bdf >> 3 & 0x1f,
		  __entry->bdf & 7, __entry->dma, __entry->len)
);

DEFINE_EVENT(sluice_coherent, alloc,
	TP_PROTO(u32 bdf, u64 dma, u64 len),
	TP_ARGS(bdf, dma, len)
);

DEFINE_EVENT(sluice_coherent, free,
	TP_PROTO(u32 bdf, u64 dma, u64 len),
	TP_ARGS(bdf, dma, len)
);

/* There was no room for it. phys is 0 for coherent memory. */
TRACE_EVENT(full,
	TP_PROTO(u32 bdf, u64 phys, u64 len, int dir),
	TP_ARGS(bdf, phys, len, dir),
	TP_STRUCT__entry(
		__field(u64, phys)
		__field(u64, len)
		__field(u32, bdf)
		__field(int, dir)
	),
	TP_fast_assign(
		__entry->phys = phys;
		__entry->len = len;
		__entry->bdf = bdf;
		__entry->dir = dir;
	),
	TP_printk("device=%04x:%02x:%02x.%x phys=0x%llx len=%llu dir=%s",
		  __entry->bdf >> 16, __entry->bdf >> 8 & 0xff, __entry->bdf >> 3 & 0x1f,
		  __entry->bdf & 7, __entry->phys, __entry->len,
		  sluice_show_dir(__entry->dir))
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace

#include <trace/define_trace.h>
