/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_parts.c - a pool that grows by parts, sealed files of their own
 *
 * Theory of operation: the test is the program that tells a device's side of each part, and the device's side too: it maps the
 * files for itself and looks there for what was written through the pool. Ordinary pages; huge ones are in
 * tests/relay/test_hugetlb.c. Names begin with the guarantee (THREAT-MODEL.md).
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rig.h"

#define MiB   (1024u * 1024u)
#define FIRST (4 * MiB)
#define MOST  (20 * MiB)
#define PARTS 5u
#define STEP  (4 * MiB)

static struct sluice_memfd *open_parts(void)
{
	const struct sluice_memfd_config config = {
		.name = "parts", .size = FIRST, .max = MOST, .dev = RIG_DEV, .parts = PARTS};
	struct sluice_memfd *mem = NULL;

	assert_int_equal(sluice_memfd_open(&config, &mem), 0);
	return mem;
}

static uint64_t bytes_of(struct sluice_memfd *mem)
{
	struct sluice_pool_stats stats;

	sluice_pool_get_stats(&mem->pool, &stats);
	return stats.bytes;
}

static unsigned int open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Which part a slot is in: all of it, or the test fails. */
static unsigned int part_of(const struct sluice_memfd *mem, const struct sluice_slot *slot)
{
	for (unsigned int i = 0; i < mem->n_parts; i++) {
		const struct sluice_memfd_part *p = &mem->parts[i];

		if (slot->dev >= p->dev && slot->dev - p->dev + slot->size <= p->size)
			return i;
	}
	fail_msg("a slot of %lu bytes is in no part, or in two", (unsigned long)slot->size);
	return 0;
}

/* Takes slots, as long as they can be had, until there are no more, having the pool grow. */
static unsigned int take_all(struct sluice_memfd *mem, struct sluice_slot *slots, unsigned int room)
{
	struct sluice_memfd_part part;
	unsigned int n = 0;

	for (;;) {
		/* Not a divisor of a part: a slot would be put across two if it could be. */
		uint64_t size = 3 * MiB / 2;
		int rc = -ENOSPC;

		for (; rc == -ENOSPC && size >= 4096; size /= 2)
			rc = sluice_pool_alloc(&mem->pool, size, 1, &slots[n]);
		if (!rc) {
			assert_true(++n < room);
			continue;
		}
		assert_int_equal(rc, -ENOSPC);
		if (sluice_memfd_balance(mem) > 0)
			continue;
		rc = sluice_memfd_part_make(mem, &part);
		if (rc == -ENOSPC)
			return n;
		assert_int_equal(rc, 0);
		assert_int_equal(sluice_memfd_part_use(mem), 0);
	}
}

static void give(struct sluice_memfd *mem, struct sluice_slot *slots, unsigned int n)
{
	while (n-- > 0) {
		memset(slots[n].cpu, 0, slots[n].size);
		assert_int_equal(sluice_pool_free(&mem->pool, slots[n].dev), 0);
	}
}

/* A slot is in one file, and there the device's side finds it; in the others it finds nothing of it. */
static void g1_each_part_is_a_sealed_file_and_holds_its_own_slots(void **state)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	struct sluice_memfd *mem = open_parts();
	static struct sluice_slot slots[1024];
	const uint8_t *files[PARTS];
	ino_t seen[PARTS];
	unsigned int n;

	(void)state;
	/* Once more, when all of it is there and free in one piece. */
	give(mem, slots, take_all(mem, slots, 1024));
	n = take_all(mem, slots, 1024);
	assert_int_equal(mem->n_parts, PARTS);
	assert_int_equal(bytes_of(mem), MOST);
	for (unsigned int i = 0; i < PARTS; i++) {
		const struct sluice_memfd_part *p = &mem->parts[i];
		struct stat st;

		assert_int_equal(fstat(p->fd, &st), 0);
		assert_int_equal(st.st_size, STEP);
		assert_int_equal(p->size, STEP);
		assert_int_equal(fcntl(p->fd, F_GET_SEALS), seals);
		assert_true(fcntl(p->fd, F_GETFD) & FD_CLOEXEC);
		seen[i] = st.st_ino;
		for (unsigned int k = 0; k < i; k++)
			assert_true(seen[k] != st.st_ino);
		files[i] = mmap(NULL, p->size, PROT_READ, MAP_SHARED, p->fd, 0);
		assert_ptr_not_equal(files[i], MAP_FAILED);
	}
	for (unsigned int k = 0; k < n; k++) {
		unsigned int i = part_of(mem, &slots[k]);

		memset(slots[k].cpu, (int)(k % 255) + 1, slots[k].size);
		assert_true(rig_all(files[i] + (slots[k].dev - mem->parts[i].dev), slots[k].size,
				    (uint8_t)(k % 255 + 1)));
		assert_ptr_equal((uint8_t *)mem->region.cpu + (slots[k].dev - RIG_DEV),
				 slots[k].cpu);
	}
	for (unsigned int i = 0; i < PARTS; i++)
		munmap((void *)(uintptr_t)files[i], STEP);
	give(mem, slots, n);
	sluice_memfd_destroy(mem);
}

/* No slot comes from a part that the device's side has not got, and one that it refuses leaves the pool as it was. */
static void g1_a_part_is_not_used_before_the_device_has_it(void **state)
{
	static struct sluice_slot slots[2048];
	struct sluice_memfd *mem = open_parts();
	struct sluice_memfd_part part, other;
	unsigned int n = 0, files = open_files();

	(void)state;
	assert_int_equal(sluice_memfd_part_use(mem), -EINVAL);
	assert_int_equal(sluice_memfd_part_drop(mem), -EINVAL);
	/* No thread knows whom to tell. */
	assert_int_equal(sluice_memfd_start(mem), -EINVAL);
	assert_int_equal(sluice_memfd_part_make(mem, &part), 0);
	assert_int_equal(sluice_memfd_part_make(mem, &other), -EBUSY);
	while (!sluice_pool_alloc(&mem->pool, 4096, 1, &slots[n])) {
		(void)sluice_memfd_balance(mem);
		assert_int_equal(part_of(mem, &slots[n]), 0);
		n++;
	}
	assert_int_equal(n, FIRST / 4096);
	assert_int_equal(sluice_memfd_balance(mem), 0);
	assert_int_equal(bytes_of(mem), FIRST);
	assert_int_equal(sluice_memfd_part_drop(mem), 0);
	assert_int_equal(sluice_memfd_part_use(mem), -EINVAL);
	assert_int_equal(open_files(), files);
	assert_int_equal(sluice_memfd_balance(mem), 0);
	assert_int_equal(sluice_pool_alloc(&mem->pool, 4096, 1, &slots[n]), -ENOSPC);
	/* Another one comes to the same place, and is used. */
	assert_int_equal(sluice_memfd_part_make(mem, &other), 0);
	assert_true(other.dev == part.dev && other.size == part.size);
	assert_int_equal(sluice_memfd_part_use(mem), 0);
	assert_true(sluice_memfd_balance(mem) > 0);
	assert_int_equal(sluice_pool_alloc(&mem->pool, 4096, 1, &slots[n]), 0);
	assert_int_equal(part_of(mem, &slots[n]), 1);
	n++;
	give(mem, slots, n);
	sluice_memfd_destroy(mem);
}

/* Bytes of this program's address space. */
static rlim_t address_space(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%lu", &pages), 1);
	fclose(f);
	return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

/* What cannot be had leaves everything as it was, the addresses too; and later it can be had. */
static void g5_a_part_that_cannot_be_made_is_made_later(void **state)
{
	struct sluice_memfd *mem = open_parts();
	const uint8_t *next = (const uint8_t *)mem->region.cpu + FIRST + 2 * MiB;
	unsigned int files = open_files();
	struct sluice_memfd_part part;
	struct sluice_slot slot;
	unsigned char pages[STEP / 4096];
	struct rlimit l, was;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	l = (struct rlimit){3, was.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &l), 0);
	assert_int_equal(sluice_memfd_part_make(mem, &part), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	assert_int_equal(getrlimit(RLIMIT_AS, &was), 0);
	l = (struct rlimit){address_space() + MiB, was.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_AS, &l), 0);
	assert_int_equal(sluice_memfd_part_make(mem, &part), -ENOMEM);
	assert_int_equal(setrlimit(RLIMIT_AS, &was), 0);
	/* Says ENOMEM of addresses that anybody may get. */
	assert_int_equal(mincore((void *)(uintptr_t)next, STEP, pages), 0);
	assert_int_equal(open_files(), files);
	assert_int_equal(bytes_of(mem), FIRST);
	assert_int_equal(sluice_pool_alloc(&mem->pool, MiB, 1, &slot), 0);
	assert_int_equal(sluice_memfd_part_make(mem, &part), 0);
	assert_int_equal(part.dev, RIG_DEV + FIRST + 2 * MiB);
	assert_int_equal(sluice_memfd_part_drop(mem), 0);
	assert_int_equal(mincore((void *)(uintptr_t)next, STEP, pages), 0);
	sluice_memfd_destroy(mem);
}

/* ---- under load ---- */

#define THREADS 3
#define HELD	1000u

struct load {
	struct sluice_memfd *mem;
	_Atomic bool stop;
	_Atomic unsigned int wrong, short_of;
	_Atomic uint64_t last; /* highest device address that was seen */
};

static void *take_and_give(void *arg)
{
	struct load *load = arg;
	uint64_t seed = (uintptr_t)&seed | 1;
	struct sluice_slot held[HELD];
	unsigned int n = 0;

	while (!load->stop || n) {
		if (n < HELD && !load->stop) {
			uint32_t len = rig_length(&seed);

			if (sluice_pool_alloc(&load->mem->pool, len, 1, &held[n])) {
				load->short_of++;
			} else {
				load->wrong += !rig_all(held[n].cpu, held[n].size, 0);
				memset(held[n].cpu, (int)(n % 255) + 1, held[n].size);
				if (held[n].dev > load->last)
					load->last = held[n].dev;
				n++;
				continue;
			}
		}
		for (unsigned int left = load->stop ? 0 : n / 2; n > left;) {
			struct sluice_slot *s = &held[n - 1];

			load->wrong += !rig_all(s->cpu, s->size, (uint8_t)((n - 1) % 255 + 1));
			memset(s->cpu, 0, s->size);
			load->wrong += sluice_pool_free(&load->mem->pool, s->dev) != 0;
			n--;
		}
	}
	return NULL;
}

static void g5_parts_come_while_slots_are_taken_and_given_back(void **state)
{
	struct load load = {.mem = open_parts()};
	pthread_t threads[THREADS];
	struct sluice_memfd_part part;
	unsigned int rounds = 0, turns = 0;

	(void)state;
	for (unsigned int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, take_and_give, &load), 0);
	while (load.mem->n_parts < PARTS || bytes_of(load.mem) < MOST - STEP / 2) {
		assert_true(++turns < 100000);
		(void)sluice_memfd_balance(load.mem);
		if (bytes_of(load.mem) == (uint64_t)load.mem->n_parts * STEP &&
		    !sluice_memfd_part_make(load.mem, &part)) {
			/* The other half of them is refused at first. */
			if (rounds++ % 2)
				assert_int_equal(sluice_memfd_part_drop(load.mem), 0);
			else
				assert_int_equal(sluice_memfd_part_use(load.mem), 0);
		}
		usleep(200);
	}
	load.stop = true;
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(load.wrong, 0);
	assert_true(load.last >= load.mem->parts[1].dev);
	sluice_memfd_destroy(load.mem);
}

/* ---- its beginning and its end ---- */

static void nothing_of_it_is_left(void **state)
{
	const unsigned int files = open_files();
	struct sluice_memfd_part part;

	(void)state;
	for (unsigned int i = 0; i < 3; i++) {
		struct sluice_memfd *mem = open_parts();

		for (unsigned int k = 0; k < i; k++) {
			assert_int_equal(sluice_memfd_part_make(mem, &part), 0);
			if (k == 0)
				assert_int_equal(sluice_memfd_part_use(mem), 0);
		}
		sluice_memfd_destroy(mem);
		assert_int_equal(open_files(), files);
	}
}

static void as_many_parts_as_it_takes(void **state)
{
	static const struct {
		uint64_t size, max;
		uint32_t parts;
		bool huge;
		int rc;
		uint32_t most;
		uint64_t step, last;
	} cases[] = {
		{4 * MiB, 6 * MiB, 8, false, 0, 2, 2 * MiB, 2 * MiB},
		{4 * MiB, 4 * MiB, 8, false, 0, 1, 0, 0},
		{4 * MiB, 64 * MiB, 0, false, 0, 1, 0, 0},
		{4 * MiB, 64 * MiB, 1, false, 0, 1, 0, 0},
		{4 * MiB, 64 * MiB, 8, false, 0, 7, 10 * MiB, 10 * MiB},
		{2 * MiB, 32 * MiB, 8, false, 0, 6, 6 * MiB, 6 * MiB},
		{2 * MiB, 34 * MiB, 8, false, 0, 7, 6 * MiB, 2 * MiB},
		{2 * MiB, 34 * MiB, 2, false, 0, 2, 32 * MiB, 32 * MiB},
		{4 * MiB, 64 * MiB, 9, false, -EINVAL, 0, 0, 0},
		{4 * MiB, 64 * MiB, 0, true, -EINVAL, 0, 0, 0},
		{4 * MiB, 64 * MiB, 1, true, -EINVAL, 0, 0, 0},
		{4 * MiB, UINT64_C(4) << 30, 8, false, -EINVAL, 0, 0, 0},
		{4 * MiB, (UINT64_C(4) << 30) - 14 * MiB, 8, false, 0, 8, 584 * MiB, 574 * MiB},
	};

	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct sluice_memfd_config config = {.name = "plan",
							   .size = cases[i].size,
							   .max = cases[i].max,
							   .dev = RIG_DEV,
							   .parts = cases[i].parts,
							   .huge_pages = cases[i].huge};
		struct sluice_memfd *mem = NULL;
		struct sluice_memfd_part part;
		uint64_t sum = cases[i].size, last = 0;

		assert_int_equal(sluice_memfd_open(&config, &mem), cases[i].rc);
		if (cases[i].rc)
			continue;
		assert_int_equal(mem->max_parts, cases[i].most);
		for (uint32_t p = 1; p < mem->max_parts; p++) {
			assert_int_equal(sluice_memfd_part_make(mem, &part), 0);
			assert_int_equal(sluice_memfd_part_use(mem), 0);
			if (p + 1 < mem->max_parts)
				assert_int_equal(part.size, cases[i].step);
			sum += part.size;
			last = part.size;
		}
		assert_int_equal(sluice_memfd_part_make(mem, &part), -ENOSPC);
		if (cases[i].last)
			assert_int_equal(last, cases[i].last);
		if (mem->max_parts > 1)
			assert_int_equal(sum, cases[i].max);
		sluice_memfd_destroy(mem);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(g1_each_part_is_a_sealed_file_and_holds_its_own_slots),
		cmocka_unit_test(g1_a_part_is_not_used_before_the_device_has_it),
		cmocka_unit_test(g5_a_part_that_cannot_be_made_is_made_later),
		cmocka_unit_test(g5_parts_come_while_slots_are_taken_and_given_back),
		cmocka_unit_test(nothing_of_it_is_left),
		cmocka_unit_test(as_many_parts_as_it_takes),
	};

	return cmocka_run_group_tests_name("parts", tests, NULL, NULL);
}
