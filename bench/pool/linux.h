/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * linux.h - as much of the kernel around Linux 6.12's swiotlb.c as it takes to run it in a program
 *
 * Theory of operation
 * -------------------
 * Read before kernel/dma/swiotlb.c, which is compiled as it is (bench/pool.sh fetches it and makes
 * empty files of the headers that it includes). Everything here is as cheap as it can be, in favour
 * of swiotlb: no interrupts to switch off, no statistics, RCU for nothing, no device's limits to
 * look up, its lock is the one that Sluice has here. Nothing is copied, as no other candidate copies
 * either: memcpy() is left out of that file. Physical addresses are pointers.
 */
#ifndef BENCH_LINUX_H
#define BENCH_LINUX_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <sluice_port.h>

#define CONFIG_SWIOTLB 1 /* and nothing else: not dynamic, no debugfs */

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef u64 phys_addr_t;
typedef u64 dma_addr_t;
typedef unsigned int gfp_t;
typedef struct sluice_lock spinlock_t;

struct page;
struct io_tlb_mem;
struct device {
	struct io_tlb_mem *dma_io_tlb_mem;
};
struct device_node;
struct reserved_mem;
struct scatterlist;

enum dma_data_direction { DMA_BIDIRECTIONAL, DMA_TO_DEVICE, DMA_FROM_DEVICE, DMA_NONE };

#define DMA_ATTR_SKIP_CPU_SYNC (1UL << 5)
#define DMA_ATTR_NO_WARN       (1UL << 8)
#define DMA_MAPPING_ERROR      (~(dma_addr_t)0)
#define DMA_BIT_MASK(n)	       ((n) == 64 ? ~0ULL : (1ULL << (n)) - 1)

#define GFP_KERNEL	   0u
#define __GFP_NOWARN	   0u
#define __GFP_ZERO	   0u
#define IS_ENABLED(option) 0

#define PAGE_SHIFT	12
#define PAGE_SIZE	(1UL << PAGE_SHIFT)
#define PAGE_MASK	(~(PAGE_SIZE - 1))
#define SMP_CACHE_BYTES 64

#define __init
#define ALIGN(x, a)	   (((x) + ((__typeof__(x))(a)-1)) & ~((__typeof__(x))(a)-1))
#define PAGE_ALIGN(x)	   ALIGN(x, PAGE_SIZE)
#define PAGE_ALIGNED(x)	   (!((x) & (PAGE_SIZE - 1)))
#define PFN_DOWN(x)	   ((x) >> PAGE_SHIFT)
#define PFN_UP(x)	   (((x) + PAGE_SIZE - 1) >> PAGE_SHIFT)
#define DIV_ROUND_UP(n, d) (((n) + (d)-1) / (d))
#define min(a, b)	   ((a) < (b) ? (a) : (b))
#define max(a, b)	   ((a) > (b) ? (a) : (b))
#define min_t(t, a, b)	   min((t)(a), (t)(b))
#define array_size(a, b)   ((a) * (b))
#define unlikely(x)	   __builtin_expect(!!(x), 0)
#define READ_ONCE(x)	   (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v)   (*(volatile __typeof__(x) *)&(x) = (v))

#define early_param(name, function)

#define pr_info(...)			   ((void)0)
#define pr_warn(...)			   ((void)0)
#define pr_warn_once(...)		   ((void)0)
#define dev_warn_ratelimited(dev, ...)	   ((void)0)
#define dev_WARN_ONCE(dev, condition, ...) ((void)(condition))
#define BUG_ON(condition)		   ((void)(condition))

static inline unsigned long roundup_pow_of_two(unsigned long n)
{
	return n <= 1 ? 1 : 1UL << (64 - __builtin_clzl(n - 1));
}

static inline bool is_power_of_2(unsigned long n)
{
	return n && !(n & (n - 1));
}

static inline int get_order(unsigned long size)
{
	return size <= PAGE_SIZE ? 0 : 64 - __builtin_clzl((size - 1) >> PAGE_SHIFT);
}

static inline void spin_lock_init(spinlock_t *lock)
{
	sluice_lock_init(lock);
}

#define spin_lock_irqsave(lock, flags)	    ((flags) = sluice_lock(lock))
#define spin_unlock_irqrestore(lock, flags) sluice_unlock(lock, flags)
#define local_irq_save(flags)		    ((flags) = 0)
#define local_irq_restore(flags)	    ((void)(flags))
#define rcu_read_lock()			    ((void)0)
#define rcu_read_unlock()		    ((void)0)

/* Which processor this is: the thread says so. */
extern _Thread_local unsigned int bench_cpu;
extern unsigned int bench_cpus;
#define raw_smp_processor_id() bench_cpu
#define num_possible_cpus()    bench_cpus

static inline unsigned long __get_free_pages(gfp_t gfp, unsigned int order)
{
	void *at = mmap(NULL, PAGE_SIZE << order, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	(void)gfp;
	return at == MAP_FAILED ? 0 : (unsigned long)at;
}

static inline void free_pages(unsigned long at, unsigned int order)
{
	munmap((void *)at, PAGE_SIZE << order);
}

#define __pa(at)			((phys_addr_t)(unsigned long)(at))
#define virt_to_phys(at)		__pa(at)
#define phys_to_virt(at)		((void *)(unsigned long)(at))
#define pfn_to_page(pfn)		((struct page *)(pfn))
#define PageHighMem(page)		((void)(page), false)
#define memcpy_to_page(...)		((void)0)
#define memcpy_from_page(...)		((void)0)
#define set_memory_decrypted(...)	0
#define set_memory_encrypted(...)	0
#define cc_platform_has(attribute)	false
#define memblock_alloc(size, align)	NULL
#define memblock_alloc_low(size, align) NULL
#define memblock_free(at, size)		((void)0)
#define memblock_free_late(at, size)	((void)0)

#define dma_get_min_align_mask(dev)	   0u
#define dma_get_seg_boundary(dev)	   0xffffffffUL /* where a driver says nothing */
#define phys_to_dma_unencrypted(dev, phys) ((dma_addr_t)(phys))
#define phys_to_dma(dev, phys)		   ((dma_addr_t)(phys))
#define dma_capable(...)		   true
#define dev_is_dma_coherent(dev)	   true
#define arch_sync_dma_for_device(...)	   ((void)0)
#define dma_reset_need_sync(dev)	   ((void)0)
#define kmsan_unpoison_memory(...)	   ((void)0)
#define trace_swiotlb_bounced(...)	   ((void)0)

static inline int isdigit_(char c)
{
	return c >= '0' && c <= '9';
}
#define isdigit	       isdigit_
#define simple_strtoul strtoul

/* What mmap() has given is zero, and 1 GiB of it need not be touched for being so. */
static inline void *bench_memset(void *to, int value, size_t n)
{
	return n >= (1u << 20) ? to : __builtin_memset(to, value, n);
}
#define memset(to, value, n) bench_memset(to, value, n)
#define memcpy(to, from, n)  ((void)(from), (void)(n), (to))

#endif
