/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * test_bounds.c - every call of the pool is bounded: by counting steps, not time
 *
 * Theory of operation
 * -------------------
 * The Makefile builds the core once more for this program, against tests/bounds/sluice_port.h,
 * which counts locks and accesses, and with -fsanitize-coverage=trace-pc, which has the compiler
 * call __sanitizer_cov_trace_pc() below in every basic block. A block is straight code without a
 * loop, so the number of blocks bounds the number of instructions; the same input gives the same
 * count, on any machine, under any load and any sanitizer.
 *
 * A call is sorted by what it had to do: met by the cache, by the pool, by the pool after it had
 * taken everything back that was only kept, or not at all. The limits below hold for each sort, for
 * pools of 4 MiB, 64 MiB and 1 GiB alike; that they are the same constants is what is tested. They
 * are about half above the most that has been seen. SLUICE_BOUNDS=1 prints the most for each pool and
 * sort.
 *
 * What is tried is meant to be the worst: pools filled to 0, 50, 90, 97 and 100 % and replaced at
 * random, every second slot free, one slot left in each slab, small and large in turn, free runs of
 * every length but none at an aligned address, caches filled to the brim with all that they can
 * hold and then a request that cannot be met, and other CPUs' caches found busy.
 */
#include "tests/bounds/sluice_port.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "rig.h"

#define KiB 1024u
#define MiB (1024u * 1024u)

enum sort { HIT, POOL, HARD, FULL, PUT, GIVE, FIND, SORTS };

struct limit {
	const char *name;
	uint64_t blocks, accesses, locks, pool_locks, tries, hold;
};

/*
 * Where a limit is exact, because it counts what the code can do at most, its reason stands beside
 * it. tries: 1 for this CPU's cache and 4 for others. pool's locks: 1 for each 16 slots of a stack given back.
 * The others are what has been seen with gcc (clang merges more blocks), and a half more.
 */
static const struct limit limits[SORTS] = {
	/* blocks, accesses, locks, pool's locks, tries, blocks while the pool's lock is held */
	/* Where there is no run of its length, 8 longer ones are looked for. */
	[HIT] = {"alloc, from the cache", 120, 6, 1, 0, 5, 0},
	/* An aligned request looks at 4 runs in each of 91 bins where its own has none. */
	[POOL] = {"alloc, from the pool", 2100, 80, 2, 1, 5, 2100},
	/*
	 * 17 caches (its own and 16 others) of 75 stacks, which are 242 times up to 16 slots, twice the pool itself, and
	 * the empty slabs. No further cache is emptied after 8192 slots, and one holds 3149 at most.
	 */
	[HARD] = {"alloc, after reclaim", 460000, 60000, 17 + 17 * 242 + 3, 17 * 242 + 3, 21, 3000},
	[FULL] = {"alloc, failing", 560000, 60000, 17 + 17 * 242 + 3, 17 * 242 + 3, 21, 3000},
	/* In a shortage 10 long lengths of two caches are looked at. */
	[PUT] = {"free, into the cache", 200, 28, 2, 0, 6, 0},
	/*
	 * 32 slots of its own cache and of another one, 16 of the stack that is full, long runs, 32 slots more, and the slot.
	 */
	[GIVE] = {"free, into the pool", 5200, 580, 2 + 9, 9, 6, 3000},
	/* 8 words of heads, and 3 pointers to chunks and 2 words at the most. */
	[FIND] = {"find", 40, 13, 0, 0, 0, 0},
};

struct bounds bounds;

/* Called some hundred million times: ThreadSanitizer has nothing to find in it. */
__attribute__((no_sanitize("thread"))) void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
	bounds.blocks++;
}

struct held {
	uint64_t dev, size;
};

/* A pool of this program's own making, and what is taken from it. */
static struct world {
	struct sluice_pool pool;
	struct sluice_pool_config config;
	uint64_t size, used, seed;
	void *memory, *meta, *cache_memory;
	struct held *held;
	size_t n, room;
} world;

static struct limit seen[SORTS];
static bool frugal; /* what world_open() makes */

static void note_max(uint64_t *most, uint64_t now)
{
	if (now > *most)
		*most = now;
}

static void begin(void)
{
	bounds.blocks = bounds.accesses = bounds.locks = bounds.pool_locks = 0;
	bounds.tries = bounds.hold_max = 0;
}

static void end(enum sort sort)
{
	struct limit *most = &seen[sort];

	assert_int_equal(bounds.misuse, 0);
	assert_int_equal(bounds.depth, 0);
	assert_true(bounds.blocks > 0);
	note_max(&most->blocks, bounds.blocks);
	note_max(&most->accesses, bounds.accesses);
	note_max(&most->locks, bounds.locks);
	note_max(&most->pool_locks, bounds.pool_locks);
	note_max(&most->tries, bounds.tries);
	note_max(&most->hold, bounds.hold_max);
}

static uint32_t below(uint32_t n)
{
	return (uint32_t)(rig_random(&world.seed) % n);
}

static void any_cpu(void)
{
	bounds.cpu = below(world.config.n_caches);
}

/* One alloc; the slot goes to what is held. */
static bool take(uint64_t size, uint32_t align)
{
	struct sluice_slot slot;
	int ret;

	begin();
	ret = sluice_pool_alloc(&world.pool, size, align, &slot);
	if (ret) {
		assert_int_equal(ret, -ENOSPC);
		end(FULL);
		return false;
	}
	/* What a run that reaches across chunks costs is another test's. */
	if (size <= SLUICE_CHUNK_BYTES)
		end(!bounds.pool_locks ? HIT : bounds.pool_locks == 1 ? POOL : HARD);
	assert_true(world.n < world.room);
	world.held[world.n++] = (struct held){slot.dev, slot.size};
	world.used += slot.size;
	return true;
}

static void drop(size_t i)
{
	begin();
	assert_int_equal(sluice_pool_free(&world.pool, world.held[i].dev), 0);
	if (world.held[i].size <= SLUICE_CHUNK_BYTES)
		end(bounds.pool_locks ? GIVE : PUT);
	world.used -= world.held[i].size;
	world.held[i] = world.held[--world.n];
}

static void drop_all(void)
{
	while (world.n) {
		any_cpu();
		drop(world.n - 1);
	}
}

static void look_up(uint64_t dev, int expected)
{
	struct sluice_slot slot;
	int ret;

	begin();
	ret = sluice_pool_find(&world.pool, dev, &slot);
	end(FIND);
	assert_true(ret == expected || expected == 1);
}

static size_t meta_stride(void)
{
	return (sluice_chunk_size() + 63) & ~(size_t)63;
}

static void world_open(uint64_t size, uint32_t n_caches)
{
	uint32_t chunks = (uint32_t)(size / SLUICE_CHUNK_BYTES);

	world = (struct world){.size = size, .seed = 20231114, .room = size / 512};
	bounds = (struct bounds){.pool_lock = &world.pool.lock};
	world.memory =
		mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_true(world.memory != MAP_FAILED);
	bounds.shared = (uintptr_t)world.memory;
	bounds.shared_end = bounds.shared + size;
	world.meta = aligned_alloc(64, chunks * meta_stride());
	world.cache_memory = aligned_alloc(64, n_caches * sluice_cache_size());
	world.held = malloc(world.room * sizeof(*world.held));
	world.config = (struct sluice_pool_config){
		.name = "bounds",
		.dev = RIG_DEV,
		.chunks = calloc(chunks, sizeof(struct sluice_chunk_place)),
		.max_chunks = chunks,
		.caches = calloc(n_caches, sizeof(struct sluice_cache *)),
		.n_caches = n_caches,
		.frugal = frugal,
	};
	assert_true(world.meta && world.cache_memory && world.held && world.config.chunks &&
		    world.config.caches);
	for (uint32_t i = 0; i < n_caches; i++)
		world.config.caches[i] =
			(void *)((uint8_t *)world.cache_memory + i * sluice_cache_size());
	assert_int_equal(sluice_pool_init(&world.pool, &world.config), 0);
	for (uint32_t c = 0; c < chunks; c++) {
		uint64_t at = (uint64_t)c * SLUICE_CHUNK_BYTES;

		assert_int_equal(
			sluice_pool_add(
				&world.pool, (void *)((uint8_t *)world.meta + c * meta_stride()),
				(uint8_t *)world.memory + at, RIG_DEV + at, SLUICE_CHUNK_BYTES),
			0);
	}
}

static void world_close(void)
{
	munmap(world.memory, world.size);
	free(world.meta);
	free(world.cache_memory);
	free(world.held);
	free(world.config.chunks);
	free(world.config.caches);
}

/* Fill to so many of 1000 parts; to the last byte if to all of them. */
static void fill(uint32_t parts)
{
	uint64_t target = world.size / 1000 * parts;
	uint32_t len = rig_length(&world.seed);

	while (world.used + len <= target || parts == 1000) {
		any_cpu();
		if (take(len, 1))
			len = rig_length(&world.seed);
		else if (len > 256)
			len /= 2;
		else
			break;
	}
}

static void replaced_at_random(uint32_t parts, uint32_t steps)
{
	drop_all();
	fill(parts);
	for (uint32_t i = 0; i < steps; i++) {
		any_cpu();
		/* Other CPUs' caches: mostly at hand, now and then some or all busy. */
		bounds.busy = i % 512 < 384   ? 0
			      : i % 512 < 448 ? rig_random(&world.seed)
					      : ~UINT64_C(0);
		if (world.n)
			drop(below((uint32_t)world.n));
		any_cpu();
		(void)take(rig_length(&world.seed), 1);
		if (i % 8 == 0)
			look_up(RIG_DEV + rig_random(&world.seed) % world.size, 1);
		if (i % 8 == 1 && world.n)
			look_up(world.held[below((uint32_t)world.n)].dev, 0);
		if (i % 16 == 2)
			(void)take(1 + below(64 * KiB), 1u << below(22));
		if (i % 64 == 3 && world.used)
			(void)take(world.size, 1);
		while (world.n && world.used > world.size / 1000 * parts)
			drop(below((uint32_t)world.n));
	}
	bounds.busy = 0;
}

/* Slots of one size, as many as there are; then of every `keep` in turn one stays. */
static void thin(uint32_t size, uint32_t keep)
{
	size_t from = 0;

	drop_all();
	any_cpu();
	while (take(size, 1))
		continue;
	/* In the order of their addresses, but for what the caches turned round: near enough. */
	for (size_t i = 0; i < world.n; i++) {
		if (i % keep == 0) {
			struct held swap = world.held[from];

			world.held[from++] = world.held[i];
			world.held[i] = swap;
		}
	}
	while (world.n > from)
		drop(world.n - 1);
}

static void after_thinning(void)
{
	static const uint32_t sizes[] = {256,	   768,	     1280,     3584,	  4096,
					 3 * 4096, 17 * KiB, 64 * KiB, 250 * KiB, 2 * MiB};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (uint32_t align = 1; align <= SLUICE_CHUNK_BYTES; align *= 32) {
			for (int n = 0; n < 20; n++) {
				any_cpu();
				(void)take(sizes[i], align);
			}
			for (int n = 0; n < 20 && world.n; n++) {
				any_cpu();
				drop(below((uint32_t)world.n));
			}
		}
	}
}

static void small_and_large_in_turn(void)
{
	for (int parity = 0; parity < 2; parity++) {
		size_t from;

		drop_all();
		any_cpu();
		while (take(world.n % 2 ? 200 * KiB : 300, 1))
			continue;
		/* All of one of the two go. */
		from = world.n;
		for (size_t i = 0; i < from;) {
			if ((world.held[i].size > 4096) == parity)
				drop(i), from = world.n;
			else
				i++;
		}
		after_thinning();
	}
}

/*
 * Free runs of every length that a chunk has room for, one short of reaching an aligned address:
 * an aligned request meets them all, and none of them will do.
 */
static void runs_that_are_not_aligned(void)
{
	uint32_t granules = (uint32_t)(world.size / SLUICE_GRANULE_BYTES), length = 1, left = 0;
	bool *wanted = calloc(granules, sizeof(*wanted));
	size_t keep = 0;

	assert_non_null(wanted);
	/* Stretches of 1, 2, 3... granules with one between them; none has a chunk's first. */
	for (uint32_t g = 0; g < granules; g++) {
		uint32_t in_chunk = g % (SLUICE_CHUNK_BYTES / SLUICE_GRANULE_BYTES);

		if (in_chunk == 0 || left == 0) {
			left = length;
			length = length % 500 + 1;
		} else {
			wanted[g] = true;
			left--;
		}
	}
	drop_all();
	any_cpu();
	while (take(SLUICE_GRANULE_BYTES, 1))
		continue;
	while (keep < world.n) {
		if (wanted[(world.held[keep].dev - RIG_DEV) / SLUICE_GRANULE_BYTES])
			drop(keep);
		else
			keep++;
	}
	free(wanted);
	for (uint32_t cpu = 0; cpu < world.config.n_caches; cpu++) {
		bounds.cpu = cpu;
		(void)take(SLUICE_GRANULE_BYTES, SLUICE_CHUNK_BYTES);
		(void)take(17 * SLUICE_GRANULE_BYTES, SLUICE_CHUNK_BYTES);
		(void)take(SLUICE_GRANULE_BYTES, SLUICE_CHUNK_BYTES / 2);
	}
	after_thinning();
}

/* Each CPU's cache is given as much as it may hold of every kind, in as many pieces as there are. */
static void caches_full_to_the_brim(void)
{
	drop_all();
	for (uint32_t cpu = 0; cpu < world.config.n_caches; cpu++) {
		uint64_t room = world.size / 8 / world.config.n_caches;
		size_t from = world.n;

		bounds.cpu = cpu;
		for (uint32_t size = 256; size <= 256 * KiB;
		     size += size < 3584    ? 256
			     : size == 3584 ? 512
					    : SLUICE_GRANULE_BYTES) {
			uint32_t depth = 512 * KiB / size;

			/* These are no classes. */
			if (size > 2048 && size < 4096 && size % 512)
				continue;
			depth = depth < 2 ? 2 : depth > 256 ? 256 : depth;
			if ((uint64_t)depth * size > room)
				break;
			room -= (uint64_t)depth * size;
			for (uint32_t i = 0; i < depth; i++)
				(void)take(size, 1);
		}
		for (size_t step = 2; step > 0; step--) {
			for (size_t i = from; i < world.n; i += step)
				drop(i);
		}
		while (world.n > from)
			drop(world.n - 1);
	}
	bounds.cpu = 0;
}

static void report(const char *what)
{
	if (!getenv("SLUICE_BOUNDS"))
		return;
	printf("# %-24s %10s %9s %7s %6s %6s %7s\n", what, "blocks", "accesses", "locks", "pool's",
	       "tries", "held");
	for (int i = 0; i < SORTS; i++)
		printf("# %-24s %10llu %9llu %7llu %6llu %6llu %7llu\n", limits[i].name,
		       (unsigned long long)seen[i].blocks, (unsigned long long)seen[i].accesses,
		       (unsigned long long)seen[i].locks, (unsigned long long)seen[i].pool_locks,
		       (unsigned long long)seen[i].tries, (unsigned long long)seen[i].hold);
}

static void expect_bounded(void)
{
	for (int i = 0; i < SORTS; i++) {
		assert_true(seen[i].blocks > 0);
		assert_in_range(seen[i].blocks, 1, limits[i].blocks);
		assert_in_range(seen[i].accesses, 0, limits[i].accesses);
		assert_in_range(seen[i].locks, 0, limits[i].locks);
		assert_in_range(seen[i].pool_locks, 0, limits[i].pool_locks);
		assert_in_range(seen[i].tries, 0, limits[i].tries);
		assert_in_range(seen[i].hold, 0, limits[i].hold);
	}
}

static void pool_of(uint64_t size, uint32_t n_caches)
{
	static const uint32_t full[] = {0, 500, 900, 970, 1000};
	static const uint32_t sizes[] = {768, 1792, 3584, 4096, 12 * KiB, 64 * KiB};
	char what[64];

	memset(seen, 0, sizeof(seen));
	world_open(size, n_caches);
	for (size_t i = 0; i < sizeof(full) / sizeof(full[0]); i++)
		replaced_at_random(full[i], 6000);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (uint32_t keep = 2; keep <= 16; keep *= 8) {
			thin(sizes[i], keep);
			after_thinning();
		}
	}
	small_and_large_in_turn();
	runs_that_are_not_aligned();
	for (int i = 0; i < 2; i++) {
		caches_full_to_the_brim();
		/* Nothing but what is held by this one is in use, and too much is asked for. */
		(void)take(4096, 1);
		(void)take(world.size, i ? SLUICE_CHUNK_BYTES : 1);
	}
	snprintf(what, sizeof(what), "%llu MiB, %u caches", (unsigned long long)(size / MiB),
		 n_caches);
	report(what);
	expect_bounded();
	world_close();
}

static void small_pool(void **state)
{
	(void)state;
	pool_of(4 * MiB, 1);
	pool_of(4 * MiB, 4);
	pool_of(4 * MiB, 16);
}

static void middle_pool(void **state)
{
	(void)state;
	pool_of(64 * MiB, 2);
	pool_of(64 * MiB, 16);
	pool_of(64 * MiB, 64);
}

static void large_pool(void **state)
{
	(void)state;
	pool_of(UINT64_C(1024) * MiB, 2);
	pool_of(UINT64_C(1024) * MiB, 16);
	pool_of(UINT64_C(1024) * MiB, 64);
}

static void frugal_pool(void **state)
{
	(void)state;
	frugal = true;
	pool_of(4 * MiB, 1);
	pool_of(64 * MiB, 2);
	frugal = false;
}

/* A run that reaches across chunks costs a little for each of them, and no more. */
static void long_runs_cost_their_chunks(void **state)
{
	struct sluice_slot slot;

	(void)state;
	world_open(UINT64_C(1024) * MiB, 1);
	for (uint32_t chunks = 2; chunks <= 512; chunks++) {
		begin();
		assert_int_equal(sluice_pool_alloc(&world.pool,
						   chunks * (uint64_t)SLUICE_CHUNK_BYTES, 1, &slot),
				 0);
		assert_in_range(bounds.blocks, 1, limits[POOL].blocks + 8 * chunks);
		begin();
		assert_int_equal(sluice_pool_free(&world.pool, slot.dev), 0);
		assert_in_range(bounds.blocks, 1, limits[GIVE].blocks + 8 * chunks);
		assert_int_equal(bounds.misuse, 0);
	}
	world_close();
}

/*
 * A trip to the pool dirties no line that every call on every CPU reads: what is the pool's there, and
 * where it says where the chunks and their memory are. (What else it does to other CPUs' caches cannot be helped.)
 */
static void trips_leave_the_lines_of_others_alone(void **state)
{
	uint64_t trips = 0;

	(void)state;
	world_open(4 * MiB, 2);
	fill(300);
	bounds.stores = 0;
	bounds.lines[0] = (uintptr_t)&world.pool;
	bounds.lines[1] = (uintptr_t)world.config.chunks & ~(uintptr_t)63;
	assert_int_equal(bounds.lines[0] % 64, 0);
	for (int i = 0; i < 20000; i++) {
		any_cpu();
		drop(below((uint32_t)world.n));
		trips += bounds.pool_locks;
		(void)take(rig_length(&world.seed), 1);
		trips += bounds.pool_locks;
		while (world.used > world.size / 10 * 3)
			drop(below((uint32_t)world.n));
	}
	assert_true(trips > 1000);
	assert_int_equal(bounds.stores, 0);
	/* Running low has to be said. */
	fill(1000);
	assert_true(bounds.stores > 0);
	world_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small_pool),
		cmocka_unit_test(middle_pool),
		cmocka_unit_test(large_pool),
		cmocka_unit_test(frugal_pool),
		cmocka_unit_test(long_runs_cost_their_chunks),
		cmocka_unit_test(trips_leave_the_lines_of_others_alone),
	};

	return cmocka_run_group_tests_name("bounds", tests, NULL, NULL);
}
