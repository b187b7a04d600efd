/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * racy.c - memory that changes between two reads of it
 *
 * Theory of operation
 * -------------------
 * A peer that shares memory can change any word between any two loads. A second thread would do
 * that by chance and never twice alike. Here the compiler says where the loads are: the code under
 * test is built with -fsanitize=thread, and this file has, instead of the sanitizer's runtime, the
 * functions that such code calls before each plain access and in place of each atomic one. Before a
 * load from the watched memory the next byte of a script (the fuzzer's input) is taken: it leaves
 * the word alone, or puts one of a few values there that matter, or the script's next bytes. So
 * every interleaving can be had, and had again.
 *
 * Only those functions that the relay's code needs are here: another one is an error when linking.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "racy.h"

static struct {
	uintptr_t from;
	uintptr_t to;
	const uint8_t *script;
	size_t left;
} watch;

uint8_t *racy_memory(size_t bytes)
{
	const size_t page = 4096, whole = (bytes + page - 1) & ~(page - 1);
	uint8_t *p = mmap(NULL, whole + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + page, whole, PROT_READ | PROT_WRITE))
		abort();
	/* Its end is the end of a page. */
	return p + page + whole - bytes;
}

void racy_script(uint8_t *at, size_t bytes, const uint8_t *script, size_t size)
{
	watch.from = (uintptr_t)at;
	watch.to = (uintptr_t)at + bytes;
	watch.script = script;
	watch.left = size;
}

static void before_load(const volatile void *p, size_t n)
{
	const uintptr_t at = (uintptr_t)p;
	uint8_t op, value[8] = {0};
	uint64_t word;
	size_t most = n < 8 ? n : 8;

	if (!watch.left || at < watch.from || at + n > watch.to)
		return;
	op = *watch.script++;
	watch.left--;
	switch (op >> 5) {
	case 0:
		memset(value, 0xff, sizeof(value));
		break;
	case 1:
		value[0] = op & 31;
		break;
	case 2: /* one bit */
		memcpy(value, (const void *)at, most);
		value[(op & 31) / 8 % most] ^= (uint8_t)(1 << (op & 7));
		break;
	case 3: /* one more or less */
		memcpy(value, (const void *)at, most);
		value[0] = (uint8_t)(value[0] + (op & 1 ? 1 : -1));
		break;
	case 4:
		if (most > watch.left)
			most = watch.left;
		memcpy(value, watch.script, most);
		watch.script += most;
		watch.left -= most;
		break;
	case 5: /* an address where there is memory */
		word = RACY_ADDRESS + 64u * (op & 31);
		memcpy(value, &word, sizeof(word));
		break;
	case 6: /* the second half of a descriptor: length, flags of either layout, next */
		word = 16u * (1 + (op & 3)) | (uint64_t)(op >> 2 & 7) << 32 |
		       (uint64_t)(op & 7) << 48;
		memcpy(value, &word, sizeof(word));
		break;
	default:
		return;
	}
	memcpy((void *)at, value, n < 8 ? n : 8);
}

/* What -fsanitize=thread calls. */
void __tsan_init(void);
void __tsan_func_entry(void *p);
void __tsan_func_exit(void);
void __tsan_init(void)
{
}
void __tsan_func_entry(void *p)
{
	(void)p;
}
void __tsan_func_exit(void)
{
}

#define PLAIN(n)                                                                                   \
	void __tsan_read##n(void *p);                                                              \
	void __tsan_write##n(void *p);                                                             \
	void __tsan_unaligned_read##n(void *p);                                                    \
	void __tsan_unaligned_write##n(void *p);                                                   \
	void __tsan_read##n(void *p)                                                               \
	{                                                                                          \
		before_load(p, n);                                                                 \
	}                                                                                          \
	void __tsan_write##n(void *p)                                                              \
	{                                                                                          \
		(void)p;                                                                           \
	}                                                                                          \
	void __tsan_unaligned_read##n(void *p)                                                     \
	{                                                                                          \
		before_load(p, n);                                                                 \
	}                                                                                          \
	void __tsan_unaligned_write##n(void *p)                                                    \
	{                                                                                          \
		(void)p;                                                                           \
	}
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

#define ATOMIC(bits)                                                                               \
	uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *p, int order);    \
	void __tsan_atomic##bits##_store(volatile uint##bits##_t *p, uint##bits##_t v, int order); \
	uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *p, int order)     \
	{                                                                                          \
		(void)order;                                                                       \
		before_load(p, sizeof(*p));                                                        \
		return *p;                                                                         \
	}                                                                                          \
	void __tsan_atomic##bits##_store(volatile uint##bits##_t *p, uint##bits##_t v, int order)  \
	{                                                                                          \
		(void)order;                                                                       \
		*p = v;                                                                            \
	}
ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
	(void)order;
}
void *__tsan_memcpy(void *to, const void *from, size_t n);
void *__tsan_memcpy(void *to, const void *from, size_t n)
{
	if (n)
		before_load(from, n < 8 ? n : 8);
	return memcpy(to, from, n);
}
void *__tsan_memset(void *to, int c, size_t n);
void *__tsan_memset(void *to, int c, size_t n)
{
	return memset(to, c, n);
}
void *__tsan_memmove(void *to, const void *from, size_t n);
void *__tsan_memmove(void *to, const void *from, size_t n)
{
	return memmove(to, from, n);
}
