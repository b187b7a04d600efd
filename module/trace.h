/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * trace.h - tracepoints sluice:map, sluice:unmap and sluice:full
 *
 * A device is recorded as one word, domain << 16 | bus << 8 | devfn: cheaper than its name, and
 * the same on all kernels (the macros for strings have changed their arguments).
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM sluice

#if !defined(SLUICE_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define SLUICE_TRACE_H

#include <linux/tracepoint.h>

#define sluice_show_dir(dir)						\
	__print_symbolic(dir, { 0, "BIDIRECTIONAL" },			\
			 { 1, "TO_DEVICE" }, { 2, "FROM_DEVICE" })

DECLARE_EVENT_CLASS(sluice_mapping,
	TP_PROTO(u32 bdf, u64 phys, u64 dma, u64 len, int dir),
	TP_ARGS(bdf, phys, dma, len, dir),
	TP_STRUCT__entry(
		__field(u64, phys)
		__field(u64, dma)
		__field(u64, len)
		__field(u32, bdf)
		__field(int, dir)
	),
	TP_fast_assign(
		__entry->phys = phys;
		__entry->dma = dma;
		__entry->len = len;
		__entry->bdf = bdf;
		__entry->dir = dir;
	),
	TP_printk("device=%04x:%02x:%02x.%x phys=0x%llx dma=0x%llx len=%llu dir=%s",
		  __entry->bdf >> 16, __entry->bdf >> 8 & 0xff, __entry->bdf >> 3 & 0x1f,
		  __entry->bdf & 7, __entry->phys, __entry->dma, __entry->len,
		  sluice_show_dir(__entry->dir))
);

/* A buffer has been handed to the device. */
DEFINE_EVENT(sluice_mapping, map,
	TP_PROTO(u32 bdf, u64 phys, u64 dma, u64 len, int dir),
	TP_ARGS(bdf, phys, dma, len, dir)
);

/* It has been taken back. */
DEFINE_EVENT(sluice_mapping, unmap,
	TP_PROTO(u32 bdf, u64 phys, u64 dma, u64 len, int dir),
	TP_ARGS(bdf, phys, dma, len, dir)
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
