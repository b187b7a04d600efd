/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * memfd.c - a pool in a sealed memfd
 *
 * Theory of operation: see sluice/memfd.h.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <sluice/memfd.h>

#define META_ALIGN 64u
#define HUGE_BYTES ((size_t)2 << 20)

static size_t meta_stride(void)
{
	return (sluice_chunk_size() + META_ALIGN - 1) & ~(size_t)(META_ALIGN - 1);
}

/* Open chunk c through the region and put it into the pool. */
static int add_chunk(struct sluice_memfd *memfd, uint64_t c)
{
	struct sluice_share *share = &memfd->region.share;
	uint64_t at = c << SLUICE_CHUNK_SHIFT, size = memfd->region.size - at, dev;
	uint8_t *cpu = (uint8_t *)memfd->region.cpu + at;
	int ret;

	if (size > SLUICE_CHUNK_BYTES)
		size = SLUICE_CHUNK_BYTES;
	ret = share->ops->open(share, cpu, size, &dev);
	if (ret)
		return ret;
	return sluice_pool_add(&memfd->pool,
			       (void *)((uint8_t *)memfd->chunk_memory + c * meta_stride()), cpu,
			       dev, (uint32_t)size);
}

/*
 * Where part i is, in bytes from the first one, and how many it has. A chunk that is never there keeps it apart from
 * the one before.
 */
static uint64_t part_at(const struct sluice_memfd *memfd, uint32_t i)
{
	return i ? memfd->size_min + SLUICE_CHUNK_BYTES +
			       (i - 1) * (memfd->part_size + SLUICE_CHUNK_BYTES)
		 : 0;
}

static uint64_t part_bytes(const struct sluice_memfd *memfd, uint32_t i)
{
	uint64_t before, left;

	/* One that grows inside its file has all of it at once. */
	if (i == 0)
		return memfd->max_parts > 1 ? memfd->size_min : memfd->size_max;
	before = memfd->size_min + (i - 1) * memfd->part_size;
	left = memfd->size_max - before;
	return left < memfd->part_size ? left : memfd->part_size;
}

/* How many parts there are to be, of what size. */
static void plan_parts(struct sluice_memfd *memfd, const struct sluice_memfd_config *want)
{
	uint64_t more = want->max - want->size, step;

	memfd->max_parts = 1;
	if (want->parts < 2 || !more)
		return;
	step = more / (want->parts - 1);
	/* As few as it takes, each of whole chunks. */
	if (step * (want->parts - 1) < more || step % SLUICE_CHUNK_BYTES)
		step = (step / SLUICE_CHUNK_BYTES + 1) * SLUICE_CHUNK_BYTES;
	memfd->part_size = step;
	memfd->max_parts += (uint32_t)((more + step - 1) / step);
}

static int open_sealed(const char *name, uint64_t size, bool huge)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING |
					    (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		int ret = -errno;

		close(fd);
		return ret;
	}
	return fd;
}

/* Addresses, and nothing behind them: from a multiple of 2 MiB on. */
static void *reserve(uint64_t size)
{
	uint8_t *all = mmap(NULL, size + HUGE_BYTES, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t before;

	if (all == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)all % HUGE_BYTES;
	if (before)
		munmap(all, before);
	munmap(all + before + size, HUGE_BYTES - before);
	return all + before;
}

/* Make part i and map it where it belongs. */
static int open_part(struct sluice_memfd *memfd, uint32_t i)
{
	const uint64_t at = part_at(memfd, i), size = part_bytes(memfd, i);
	uint8_t *cpu = (uint8_t *)memfd->region.cpu + at;
	int fd = open_sealed(memfd->name, size, memfd->huge_pages), ret = 0;
	void *first;

	if (fd < 0)
		return fd;
	/*
	 * Anywhere at first: what fails, fails here, where the file's huge pages are set aside, for the file and not for the
	 * mapping. Mapping over the reserved addresses would give them up before it fails, for any thread to get.
	 */
	first = mmap(NULL, size, PROT_NONE, MAP_SHARED, fd, 0);
	if (first == MAP_FAILED ||
	    mmap(cpu, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		ret = -errno;
	if (first != MAP_FAILED)
		munmap(first, size);
	if (ret) {
		close(fd);
		return ret;
	}
	memfd->parts[i] =
		(struct sluice_memfd_part){.fd = fd, .dev = memfd->region.dev + at, .size = size};
	return 0;
}

static void wake(void *context)
{
	const struct sluice_memfd *memfd = context;

	/* The counter can only overflow when it has been readable for long. */
	(void)!write(memfd->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
}

static void say_space(void *context)
{
	struct sluice_memfd *memfd = context;

	/* Release: a waiter that sees the new count finds the slot. */
	__atomic_add_fetch(&memfd->space, 1, __ATOMIC_RELEASE);
	/* All of them: whose turn it is only the pool knows. */
	syscall(SYS_futex, &memfd->space, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/*
 * What is known about the chunks. A map looks at it all over the place, and with 7 % of a large pool in pages of 4 KiB it is
 * as often the way to the line that is waited for as the line itself: in huge pages, where the system has them (it may
 * have switched them off: then not). Only as much of it as is written at once in any case, so that nothing is
 * taken that would not be; what a pool grows by is in ordinary ones.
 */
static void *alloc_chunks(uint64_t chunks, uint64_t at_first)
{
	size_t bytes = chunks * meta_stride(), huge = at_first * meta_stride() & ~(HUGE_BYTES - 1);
	void *memory;

	if (!huge)
		return aligned_alloc(META_ALIGN, bytes);
	memory = aligned_alloc(HUGE_BYTES, (bytes + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1));
	if (memory)
		(void)madvise(memory, huge, MADV_HUGEPAGE);
	return memory;
}

/* The private memory of a pool of up to so many chunks, and so many to begin with. */
static int alloc_private(struct sluice_memfd *memfd, uint64_t chunks, uint64_t at_first,
			 uint32_t n_caches)
{
	memfd->chunks = calloc(chunks, sizeof(*memfd->chunks));
	memfd->caches = calloc(n_caches, sizeof(*memfd->caches));
	memfd->chunk_memory = alloc_chunks(chunks, at_first);
	memfd->cache_memory = aligned_alloc(META_ALIGN, n_caches * sluice_cache_size());
	if (!memfd->chunks || !memfd->caches || !memfd->chunk_memory || !memfd->cache_memory)
		return -ENOMEM;
	for (uint32_t i = 0; i < n_caches; i++)
		memfd->caches[i] =
			(void *)((uint8_t *)memfd->cache_memory + i * sluice_cache_size());
	return 0;
}

static uint32_t caches_for_all_cpus(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);

	return cpus < 1 ? 1 : cpus > 4096 ? 4096 : (uint32_t)cpus;
}

static int create(const struct sluice_memfd_config *want, struct sluice_memfd **out)
{
	const uint64_t size = want->size, max = want->max;
	uint64_t count = (max + SLUICE_CHUNK_BYTES - 1) >> SLUICE_CHUNK_SHIFT, window = max;
	struct sluice_pool_config config = {
		.name = want->name,
		.dev = want->dev,
		.max_present = (uint32_t)count,
		.n_caches = want->n_caches ? want->n_caches : caches_for_all_cpus(),
		.frugal = want->frugal,
	};
	struct sluice_memfd *memfd = aligned_alloc(_Alignof(struct sluice_memfd), sizeof(*memfd));
	void *cpu;
	int ret;

	if (!memfd)
		return -ENOMEM;
	memset(memfd, 0, sizeof(*memfd));
	memfd->fd = memfd->wake_fd = memfd->stop_fd = -1;
	for (uint32_t i = 0; i < SLUICE_MEMFD_PARTS; i++)
		memfd->parts[i].fd = -1;
	memfd->name = want->name;
	memfd->huge_pages = want->huge_pages;
	memfd->size_min = size;
	memfd->size_max = max;
	plan_parts(memfd, want);
	if (memfd->max_parts > 1)
		window = part_at(memfd, memfd->max_parts - 1) +
			 part_bytes(memfd, memfd->max_parts - 1);
	ret = -EINVAL;
	if (window > UINT64_C(4) << 30)
		goto fail;
	count += memfd->max_parts - 1;
	config.max_chunks = (uint32_t)count;
	ret = alloc_private(memfd, count, size >> SLUICE_CHUNK_SHIFT, config.n_caches);
	if (ret)
		goto fail;
	config.chunks = memfd->chunks;
	config.caches = memfd->caches;
	config.space = say_space;
	config.context = memfd;
	memfd->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = -errno;
	if (memfd->wake_fd < 0)
		goto fail;
	config.grow = wake;
	cpu = reserve(window);
	ret = -ENOMEM;
	if (!cpu)
		goto fail;
	ret = sluice_region_init(&memfd->region, cpu, want->dev, window);
	if (ret) {
		munmap(cpu, window);
		goto fail;
	}
	ret = open_part(memfd, 0);
	if (ret)
		goto fail;
	memfd->n_parts = 1;
	memfd->fd = memfd->parts[0].fd;
	ret = sluice_pool_init(&memfd->pool, &config);
	for (uint64_t c = 0; !ret && c << SLUICE_CHUNK_SHIFT < size; c++)
		ret = add_chunk(memfd, c);
	if (!ret) {
		*out = memfd;
		return 0;
	}
fail:
	sluice_memfd_destroy(memfd);
	return ret;
}

int sluice_memfd_create(const char *name, uint64_t size, uint64_t dev, struct sluice_memfd **out)
{
	if (size == 0 || size % SLUICE_GRANULE_BYTES || size > UINT64_C(4) << 30)
		return -EINVAL;
	return create(
		&(struct sluice_memfd_config){.name = name, .size = size, .max = size, .dev = dev},
		out);
}

int sluice_memfd_create_growing(const char *name, uint64_t size, uint64_t max, uint64_t dev,
				struct sluice_memfd **out)
{
	return sluice_memfd_open(
		&(struct sluice_memfd_config){.name = name, .size = size, .max = max, .dev = dev},
		out);
}

int sluice_memfd_open(const struct sluice_memfd_config *config, struct sluice_memfd **out)
{
	if (config->size == 0 || config->size % SLUICE_CHUNK_BYTES ||
	    config->max % SLUICE_CHUNK_BYTES || config->max < config->size ||
	    config->max > UINT64_C(4) << 30 || config->n_caches > 4096 ||
	    config->parts > SLUICE_MEMFD_PARTS ||
	    (config->huge_pages && config->max != config->size && config->parts < 2))
		return -EINVAL;
	return create(config, out);
}

int sluice_memfd_part_make(struct sluice_memfd *memfd, struct sluice_memfd_part *part)
{
	uint32_t i = memfd->n_parts;
	int ret;

	if (i == memfd->max_parts)
		return -ENOSPC;
	if (memfd->parts[i].fd >= 0)
		return -EBUSY;
	ret = open_part(memfd, i);
	if (!ret)
		*part = memfd->parts[i];
	return ret;
}

int sluice_memfd_part_use(struct sluice_memfd *memfd)
{
	if (memfd->n_parts == memfd->max_parts || memfd->parts[memfd->n_parts].fd < 0)
		return -EINVAL;
	memfd->n_parts++;
	return 0;
}

int sluice_memfd_part_drop(struct sluice_memfd *memfd)
{
	uint32_t i = memfd->n_parts;

	if (i == memfd->max_parts || memfd->parts[i].fd < 0)
		return -EINVAL;
	/* The addresses stay taken. */
	(void)mmap((uint8_t *)memfd->region.cpu + part_at(memfd, i), memfd->parts[i].size,
		   PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	close(memfd->parts[i].fd);
	memfd->parts[i].fd = -1;
	return 0;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int sluice_memfd_map_wait(struct sluice_memfd *memfd, struct sluice_dma *dma, uint64_t orig,
			  uint64_t len, enum sluice_dir dir, uint32_t timeout_ms, uint64_t *addr)
{
	/* A wake-up that was missed costs no more than this. */
	const struct timespec slice = {.tv_nsec = 5 * 1000 * 1000};
	uint64_t deadline;
	int ret = sluice_dma_map(dma, orig, len, dir, addr);

	if (ret != -ENOSPC || !timeout_ms)
		return ret;
	deadline = now_ms() + timeout_ms;
	sluice_pool_wait_begin(&memfd->pool);
	for (;;) {
		/* Acquire: before the attempt, so that space made after it changes the count. */
		uint32_t seen = __atomic_load_n(&memfd->space, __ATOMIC_ACQUIRE);

		ret = sluice_dma_map(dma, orig, len, dir, addr);
		if (ret != -ENOSPC || now_ms() >= deadline)
			break;
		syscall(SYS_futex, &memfd->space, FUTEX_WAIT_PRIVATE, seen, &slice, NULL, 0);
	}
	sluice_pool_wait_end(&memfd->pool);
	return ret;
}

static int grow(struct sluice_memfd *memfd, int32_t want)
{
	int added = 0;

	for (uint32_t i = 0; i < memfd->n_parts; i++) {
		uint64_t c = part_at(memfd, i) >> SLUICE_CHUNK_SHIFT;
		uint64_t end =
			(part_at(memfd, i) + memfd->parts[i].size + SLUICE_CHUNK_BYTES - 1) >>
			SLUICE_CHUNK_SHIFT;

		for (; added < want && c < end; c++)
			if (!memfd->chunks[c].meta && !add_chunk(memfd, c))
				added++;
	}
	return added;
}

static int shrink(struct sluice_memfd *memfd, int32_t surplus)
{
	struct sluice_pool_stats stats;
	int removed = 0;

	sluice_pool_get_stats(&memfd->pool, &stats);
	while (removed < surplus &&
	       stats.bytes - (uint64_t)removed * SLUICE_CHUNK_BYTES > memfd->size_min) {
		struct sluice_chunk *meta;
		uint64_t dev;
		void *cpu;

		/* The metadata stays where it is: a stray lookup may read it. */
		if (sluice_pool_remove(&memfd->pool, &meta, &cpu, &dev))
			break;
		memfd->region.share.ops->close(&memfd->region.share, cpu, SLUICE_CHUNK_BYTES, dev);
		(void)fallocate(memfd->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)(dev - memfd->region.dev), SLUICE_CHUNK_BYTES);
		removed++;
	}
	return removed;
}

static void trim(struct sluice_memfd *memfd)
{
	uint64_t now = now_ms(), count;

	if (read(memfd->wake_fd, &count, sizeof(count)) > 0)
		memfd->kept = 1; /* at least: it has been asked for something */
	if (memfd->trimmed && now - memfd->trimmed < SLUICE_TRIM_MS)
		return;
	memfd->kept = sluice_pool_trim(&memfd->pool);
	memfd->trimmed = now;
}

int sluice_memfd_balance(struct sluice_memfd *memfd)
{
	int32_t want;

	trim(memfd);
	want = sluice_pool_want(&memfd->pool);
	if (want > 0) {
		memfd->surplus_since = 0;
		return grow(memfd, want);
	}
	/* A hole in a file of huge pages gives up what is set aside for it. */
	if (want == 0 || memfd->max_parts > 1) {
		memfd->surplus_since = 0;
		return 0;
	}
	if (!memfd->surplus_since)
		memfd->surplus_since = now_ms();
	if (now_ms() - memfd->surplus_since < SLUICE_QUIET_MS)
		return 0;
	return -shrink(memfd, -want);
}

static bool has_grown(struct sluice_memfd *memfd)
{
	struct sluice_pool_stats stats;

	sluice_pool_get_stats(&memfd->pool, &stats);
	return stats.bytes > memfd->size_min;
}

static void *balance_loop(void *arg)
{
	struct sluice_memfd *memfd = arg;
	struct pollfd fds[2] = {{.fd = memfd->wake_fd, .events = POLLIN},
				{.fd = memfd->stop_fd, .events = POLLIN}};

	while (!fds[1].revents) {
		(void)sluice_memfd_balance(memfd);
		/* Nobody says when a pool falls idle. One that is as at first needs no look. */
		(void)poll(fds, 2, memfd->kept || has_grown(memfd) ? SLUICE_TRIM_MS : -1);
	}
	return NULL;
}

int sluice_memfd_start(struct sluice_memfd *memfd)
{
	pthread_t thread;
	int ret;

	if (memfd->stop_fd >= 0 || memfd->max_parts > 1)
		return -EINVAL;
	memfd->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (memfd->stop_fd < 0)
		return -errno;
	ret = pthread_create(&thread, NULL, balance_loop, memfd);
	if (ret) {
		close(memfd->stop_fd);
		memfd->stop_fd = -1;
		return -ret;
	}
	memfd->thread = thread;
	return 0;
}

void sluice_memfd_destroy(struct sluice_memfd *memfd)
{
	if (!memfd)
		return;
	if (memfd->stop_fd >= 0) {
		(void)!write(memfd->stop_fd, &(uint64_t){1}, sizeof(uint64_t));
		pthread_join(memfd->thread, NULL);
		close(memfd->stop_fd);
	}
	if (memfd->wake_fd >= 0)
		close(memfd->wake_fd);
	if (memfd->region.cpu)
		munmap(memfd->region.cpu, memfd->region.size);
	for (uint32_t i = 0; i < SLUICE_MEMFD_PARTS; i++)
		if (memfd->parts[i].fd >= 0)
			close(memfd->parts[i].fd);
	free(memfd->chunks);
	free(memfd->caches);
	free(memfd->chunk_memory);
	free(memfd->cache_memory);
	free(memfd);
}
