/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * vm.h - a guest's memory and its driver, in the test's hands
 *
 * Theory of operation
 * -------------------
 * The guest has two adjacent megabytes, each a file of its own, and in the first of them two rings
 * of either format. All of it begins as canary: a word that occurs nowhere else, so that whoever
 * finds it elsewhere has read what was not offered. The guest notes every byte that it writes
 * itself and every byte that it lets the device write; vm_check() holds all the others against
 * what they were.
 *
 * A chain can be offered as a well-behaved driver does it (vm_offer()), or its descriptors can
 * be written one by one, with any contents (vm_descriptor(), vm_publish()).
 *
 * The device at the other end (device.h) answers a chain with what it read, each byte xor 0xa5,
 * over and over until the writable part is full.
 */
#ifndef TESTS_LIB_VM_H
#define TESTS_LIB_VM_H

#include "peer.h"

#define VM_HALF	      (1u << 20)
#define VM_BYTES      (2u * VM_HALF)
#define VM_GPA	      UINT64_C(0x40000000)
#define VM_NUM	      16u
#define VM_RINGS      2u
#define VM_TABLE      UINT64_C(0x40008000) /* room for indirect tables */
#define VM_BUFFER     UINT64_C(0x40010000) /* from here on: for buffers */
#define VM_PACKED_NEW UINT32_C(0x80008000) /* both wrap counters are 1 (the spec, GET_VRING_BASE) */
#define VM_CANARY     UINT64_C(0xc5f1a96e8d3b7247)

/* Virtio 1.2, 2.7.5 and 2.8.1. */
#define DESC_NEXT     1u
#define DESC_WRITE    2u
#define DESC_INDIRECT 4u
#define DESC_AVAIL    0x80u
#define DESC_USED     0x8000u

#define VIRTIO_F_INDIRECT 28

struct piece {
	uint64_t gpa;
	uint32_t len;
	bool write;
};

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t a; /* split: flags; packed: id */
	uint16_t b; /* split: next; packed: flags */
};

struct vm_ring {
	uint64_t base; /* of its area, guest address */
	int kick;
	int call;
	int err;
	uint16_t slot; /* the next descriptor to be written */
	uint16_t avail;
	uint16_t used;
	bool avail_wrap;
	bool used_wrap;
	uint16_t count[VM_NUM]; /* packed: descriptors of the chain with that id */
};

struct vm {
	struct peers *rig;
	bool packed;
	bool in_order; /* VIRTIO_F_IN_ORDER is taken */
	int file[2];
	uint8_t *mem;
	uint8_t *was; /* what it has to be */
	uint8_t *may; /* 1: the device may write the byte */
	struct vm_ring rings[VM_RINGS];
	unsigned int echoes;
};

/* Make the memory; of which format the rings are to be. */
void vm_init(struct vm *v, struct peers *rig, bool packed);
void vm_fini(struct vm *v);
/* Say hello, bring the memory and both rings; fails the test if any of it is refused. */
void vm_up(struct vm *v);
/* The parts of it. */
void vm_hello(struct vm *v);
void vm_memory(struct vm *v);
/* One of its two files goes, and comes back. */
void vm_memory_goes(struct vm *v, unsigned int half);
void vm_memory_comes(struct vm *v, unsigned int half);
void vm_ring_up(struct vm *v, unsigned int q);
/* All of that but to enable it. */
void vm_ring_disabled(struct vm *v, unsigned int q);
/* Set up a ring as it is in memory, from @base on, without enabling it. */
void vm_ring_again(struct vm *v, unsigned int q, uint32_t base);
/* Stop and set up anew a ring whose contents are broken. */
void vm_ring_revive(struct vm *v, unsigned int q);

/* The byte at a guest address, for reading; writing goes through vm_write(). */
uint8_t *vm_at(struct vm *v, uint64_t gpa);
void vm_write(struct vm *v, uint64_t gpa, const void *from, size_t n);
/* The device may write these. */
void vm_allow(struct vm *v, uint64_t gpa, size_t n);
/* Nothing has changed but what was allowed. */
void vm_check(struct vm *v);

/* Descriptor i of a ring, raw: next_or_id as the format has it; packed flags get no wrap bits. */
void vm_descriptor(struct vm *v, unsigned int q, uint16_t i, uint64_t addr, uint32_t len,
		   uint16_t flags, uint16_t next_or_id);
/* Make n raw descriptors from slot 0 on available, head first, and kick. For a fresh ring. */
void vm_publish(struct vm *v, unsigned int q, uint16_t n);
/* A raw descriptor of an indirect table at gpa. */
void vm_table_entry(struct vm *v, uint64_t gpa, unsigned int i, uint64_t addr, uint32_t len,
		    uint16_t flags, uint16_t next);
/* Offer a chain as a driver does; returns its id. No kick. */
uint16_t vm_offer(struct vm *v, unsigned int q, const struct piece *pieces, unsigned int n);
/* The same by way of an indirect table at VM_TABLE + 0x200 * which. */
uint16_t vm_offer_indirect(struct vm *v, unsigned int q, const struct piece *pieces, unsigned int n,
			   unsigned int which);
void vm_kick(struct vm *v, unsigned int q);
/* Take a used chain, if there is one. */
bool vm_poll(struct vm *v, unsigned int q, uint32_t *id, uint32_t *len);
/* Wait for one, or fail the test. */
void vm_wait(struct vm *v, unsigned int q, uint32_t *id, uint32_t *len);

/* A chain of readable and writable pieces there and back, answer checked. */
void vm_echo(struct vm *v, unsigned int q);
void vm_echo_start(struct vm *v, unsigned int q);
/* answered: whether the contents have to be right. */
void vm_echo_end(struct vm *v, unsigned int q, bool answered);

/* Resident memory (0 under Address- and ThreadSanitizer) and open files of the relay. */
struct weight {
	long kib;
	unsigned int fds;
};
struct weight relay_weight(struct peers *rig);

#endif
