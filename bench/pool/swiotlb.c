/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * swiotlb.c - Linux 6.12's own swiotlb as a candidate
 *
 * Theory of operation: kernel/dma/swiotlb.c of Debian's linux-source-6.12 is included below as it
 * is; linux.h is the kernel around it. It is used as Debian configures it: not dynamic, an area for
 * each processor (here: for each thread). Built only where that source could be had.
 */
#include "linux.h"

_Thread_local unsigned int bench_cpu;
unsigned int bench_cpus = 1;

#include <kernel/dma/swiotlb.c>

#include "bench.h"

static struct device device;

static bool swiotlb_open(size_t pool, unsigned int threads)
{
	bench_cpus = threads;
	default_nareas = 0; /* one for each processor, anew */
	if (swiotlb_init_late(pool, GFP_KERNEL, NULL))
		return false;
	device.dma_io_tlb_mem = &io_tlb_default_mem;
	return true;
}

static void swiotlb_close(void)
{
	swiotlb_exit();
	io_tlb_default_mem.nslabs = 0; /* which it leaves as it was: Linux ends it but once */
}

static uint64_t swiotlb_bench_map(size_t len, unsigned int thread, uint32_t *taken)
{
	phys_addr_t at;

	bench_cpu = thread;
	at = swiotlb_tbl_map_single(&device, 0x1000, len, 0, DMA_BIDIRECTIONAL,
				    DMA_ATTR_SKIP_CPU_SYNC | DMA_ATTR_NO_WARN);
	*taken = (uint32_t)ALIGN(len, IO_TLB_SIZE);
	return at == (phys_addr_t)DMA_MAPPING_ERROR ? 0 : at;
}

static void swiotlb_bench_unmap(uint64_t addr, size_t len, unsigned int thread)
{
	bench_cpu = thread;
	swiotlb_tbl_unmap_single(&device, addr, len, DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC);
}

const struct candidate cand_swiotlb = {
	"swiotlb 6.12", true, swiotlb_open, swiotlb_close, swiotlb_bench_map, swiotlb_bench_unmap};
