/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * memfd.c - a pool in a sealed memfd
 *
 * Theory of operation: see sluice/memfd.h.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sluice/memfd.h>

#define META_ALIGN 64u

static size_t meta_stride(void)
{
	return (sluice_chunk_size() + META_ALIGN - 1) & ~(size_t)(META_ALIGN - 1);
}

/* Open chunk after chunk through the region and put it into the pool. */
static int fill(struct sluice_memfd *memfd, uint8_t *cpu, uint64_t size)
{
	struct sluice_share *share = &memfd->region.share;

	for (uint64_t at = 0; at < size; at += SLUICE_CHUNK_BYTES) {
		uint64_t n = size - at < SLUICE_CHUNK_BYTES ? size - at : SLUICE_CHUNK_BYTES;
		void *meta =
			(uint8_t *)memfd->chunk_memory + (at >> SLUICE_CHUNK_SHIFT) * meta_stride();
		uint64_t dev;
		int ret;

		ret = share->ops->open(share, cpu + at, n, &dev);
		if (!ret)
			ret = sluice_pool_add(&memfd->pool, meta, cpu + at, dev, (uint32_t)n);
		if (ret)
			return ret;
	}
	return 0;
}

static int open_sealed(const char *name, uint64_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

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

int sluice_memfd_create(const char *name, uint64_t size, uint64_t dev, struct sluice_memfd **out)
{
	uint64_t count = (size + SLUICE_CHUNK_BYTES - 1) >> SLUICE_CHUNK_SHIFT;
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	uint32_t n_caches = cpus < 1 ? 1 : cpus > 4096 ? 4096 : (uint32_t)cpus;
	struct sluice_memfd *memfd;
	void *cpu;
	int ret;

	if (size == 0 || size % SLUICE_GRANULE_BYTES || size > UINT64_C(4) << 30)
		return -EINVAL;
	memfd = calloc(1, sizeof(*memfd));
	if (!memfd)
		return -ENOMEM;
	memfd->fd = -1;
	memfd->chunks = calloc(count, sizeof(*memfd->chunks));
	memfd->caches = calloc(n_caches, sizeof(*memfd->caches));
	memfd->chunk_memory = aligned_alloc(META_ALIGN, count * meta_stride());
	memfd->cache_memory = aligned_alloc(META_ALIGN, n_caches * sluice_cache_size());
	ret = -ENOMEM;
	if (!memfd->chunks || !memfd->caches || !memfd->chunk_memory || !memfd->cache_memory)
		goto fail;
	for (uint32_t i = 0; i < n_caches; i++)
		memfd->caches[i] =
			(void *)((uint8_t *)memfd->cache_memory + i * sluice_cache_size());
	ret = open_sealed(name, size);
	if (ret < 0)
		goto fail;
	memfd->fd = ret;
	cpu = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd->fd, 0);
	if (cpu == MAP_FAILED) {
		ret = -errno;
		goto fail;
	}
	ret = sluice_region_init(&memfd->region, cpu, dev, size);
	if (!ret)
		ret = sluice_pool_init(&memfd->pool, &(struct sluice_pool_config){
							     .name = name,
							     .dev = dev,
							     .chunks = memfd->chunks,
							     .max_chunks = (uint32_t)count,
							     .caches = memfd->caches,
							     .n_caches = n_caches,
						     });
	if (!ret)
		ret = fill(memfd, cpu, size);
	if (!ret) {
		*out = memfd;
		return 0;
	}
	munmap(cpu, size);
	memfd->region.cpu = NULL;
fail:
	sluice_memfd_destroy(memfd);
	return ret;
}

void sluice_memfd_destroy(struct sluice_memfd *memfd)
{
	if (!memfd)
		return;
	if (memfd->region.cpu)
		munmap(memfd->region.cpu, memfd->region.size);
	if (memfd->fd >= 0)
		close(memfd->fd);
	free(memfd->chunks);
	free(memfd->caches);
	free(memfd->chunk_memory);
	free(memfd->cache_memory);
	free(memfd);
}
