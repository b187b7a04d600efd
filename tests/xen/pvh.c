/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * pvh.c - a guest of Xen's without an operating system: start, and hypercalls
 *
 * Theory of operation
 * -------------------
 * libsluice's own driver end writes a grant table. In a Linux guest that table is the kernel's, so the
 * guest that it is tested in has none: the core, freestanding, started by Xen directly. Xen enters a
 * PVH guest in 32-bit protected mode without paging, at the address in the ELF note (Xen's
 * docs/misc/pvh.pandoc); from there to 64-bit mode it is an identity mapping of 4 GiB in pages of
 * 2 MiB, made by the assembler. There are no interrupts, and one CPU.
 *
 * Hypercalls go through the page that Xen fills in when its physical address is written to the MSR
 * that CPUID names, so nothing here depends on whose CPU it is.
 */
#include "pvh.h"

__asm__(".pushsection .note.Xen, \"a\", @note\n"
	"	.balign 4\n"
	"	.long 4, 4, 18\n" /* XEN_ELFNOTE_PHYS32_ENTRY */
	"	.asciz \"Xen\"\n"
	"	.long pvh_start\n"
	"	.popsection\n"
	"	.pushsection .data\n"
	"	.balign 4096\n"
	"pml4:	.quad pdpt + 3\n"
	"	.fill 511, 8, 0\n"
	"pdpt:	.quad pd + 3, pd + 0x1003, pd + 0x2003, pd + 0x3003\n"
	"	.fill 508, 8, 0\n"
	"pd:	.set at, 0\n"
	"	.rept 2048\n"
	"	.quad at + 0x83\n" /* present, writable, 2 MiB */
	"	.set at, at + 0x200000\n"
	"	.endr\n"
	"gdt:	.quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff\n"
	"gdtr:	.word . - gdt - 1\n"
	"	.quad gdt\n"
	"	.popsection\n"
	"	.pushsection .bss\n"
	"	.balign 4096\n"
	"	.skip 65536\n"
	"stack_end:\n"
	"	.popsection\n"
	"	.pushsection .text\n"
	"	.code32\n"
	"	.globl pvh_start\n"
	"pvh_start:\n"
	"	cld\n"
	"	movl %cr4, %eax\n"
	"	orl $0x620, %eax\n" /* PAE; SSE, which the compiler may use */
	"	movl %eax, %cr4\n"
	"	movl $pml4, %eax\n"
	"	movl %eax, %cr3\n"
	"	movl $0xc0000080, %ecx\n"
	"	rdmsr\n"
	"	orl $0x100, %eax\n" /* EFER.LME */
	"	wrmsr\n"
	"	movl %cr0, %eax\n"
	"	andl $~4, %eax\n"	 /* no emulation of the FPU */
	"	orl $0x80000002, %eax\n" /* paging */
	"	movl %eax, %cr0\n"
	"	lgdt gdtr\n"
	"	ljmp $8, $start64\n"
	"	.code64\n"
	"start64:\n"
	"	movl $16, %eax\n"
	"	movl %eax, %ds\n"
	"	movl %eax, %es\n"
	"	movl %eax, %ss\n"
	"	movq $stack_end, %rsp\n"
	"	call pvh_main\n"
	"1:	hlt\n"
	"	jmp 1b\n"
	"	.popsection\n");

#define MEMORY_OP	 12
#define SCHED_OP	 29
#define ADD_TO_PHYSMAP	 7
#define SPACE_GRANT	 1
#define SCHEDOP_YIELD	 0
#define SCHEDOP_SHUTDOWN 2
#define DOMID_SELF	 0x7ff0

static uint8_t hypercalls[4096] __attribute__((aligned(4096)));

static void cpuid(uint32_t leaf, uint32_t r[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
			 : "a"(leaf), "c"(0));
}

static long hypercall(unsigned int number, unsigned long a, const void *b)
{
	const uint8_t *entry = hypercalls + 32u * number;
	long ret;

	__asm__ volatile("call *%[entry]"
			 : "=a"(ret), "+D"(a), "+S"(b)
			 : [entry] "r"(entry)
			 : "memory", "rcx", "rdx", "r8", "r9", "r10", "r11");
	return ret;
}

bool pvh_init(void)
{
	uint64_t page = (uintptr_t)hypercalls;
	uint32_t r[4];

	cpuid(0x40000000, r);
	if (r[1] != 0x566e6558 || r[2] != 0x65584d4d || r[3] != 0x4d4d566e) /* XenVMMXenVMM */
		return false;
	cpuid(0x40000002, r);
	__asm__ volatile("wrmsr"
			 :
			 : "c"(r[1]), "a"((uint32_t)page), "d"((uint32_t)(page >> 32))
			 : "memory");
	return true;
}

bool pvh_grant_table(uint64_t phys, uint32_t frames)
{
	/* struct xen_add_to_physmap of Xen's public/memory.h */
	struct {
		uint16_t domid, size;
		uint32_t space;
		uint64_t index, frame;
	} add = {.domid = DOMID_SELF, .space = SPACE_GRANT};

	for (uint32_t i = 0; i < frames; i++) {
		add.index = i;
		add.frame = (phys >> 12) + i;
		if (hypercall(MEMORY_OP, ADD_TO_PHYSMAP, &add))
			return false;
	}
	return true;
}

void pvh_yield(void)
{
	(void)hypercall(SCHED_OP, SCHEDOP_YIELD, NULL);
}

void pvh_crash(void)
{
	uint32_t reason = 3;

	for (;;)
		(void)hypercall(SCHED_OP, SCHEDOP_SHUTDOWN, &reason);
}

/* What the compiler calls without being told to. */
void *memcpy(void *to, const void *from, size_t n)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void *memset(void *to, int value, size_t n)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(value) : "memory");
	return to;
}
