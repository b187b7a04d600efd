/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * gntdev.c - grants of another domain through /dev/xen/gntdev
 *
 * Theory of operation: see sluice/gntdev.h. The kernel says only when a mapping is made, by mmap()'s
 * EINVAL, that a reference cannot be mapped, and not why: a write that fails and a read that does not
 * is a grant that is read-only. What a hold needs when it is dropped is asked of the driver by
 * its address.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* The kernel's header uses these without saying what they are. */
typedef uint32_t grant_ref_t;
typedef uint16_t domid_t;
#include <xen/gntdev.h>

#include <sluice/gntdev.h>
#include <sluice/grant.h>

#define GRANULE	    4096u
#define BATCH	    64u
#define SOURCE_GREF 1u /* GNTCOPY_source_gref and _dest_gref of Xen's public/grant_table.h */
#define DEST_GREF   2u

static struct sluice_gntdev *gntdev_of(struct sluice_view *view)
{
	return (struct sluice_gntdev *)view; /* its first member */
}

/* Map count references from ref on: their address, or NULL. */
static void *map_refs(struct sluice_gntdev *gntdev, uint32_t ref, uint32_t count, int prot)
{
	union {
		struct ioctl_gntdev_map_grant_ref map;
		uint8_t room[offsetof(struct ioctl_gntdev_map_grant_ref, refs) +
			     BATCH * sizeof(struct ioctl_gntdev_grant_ref)];
	} arg = {.map = {.count = count}};
	struct ioctl_gntdev_grant_ref *refs =
		(void *)(arg.room + offsetof(struct ioctl_gntdev_map_grant_ref, refs));
	struct ioctl_gntdev_unmap_grant_ref undo = {.count = count};
	void *cpu;

	for (uint32_t i = 0; i < count; i++)
		refs[i] = (struct ioctl_gntdev_grant_ref){.domid = gntdev->domid, .ref = ref + i};
	sluice_count(&gntdev->view.stats.trips, 1);
	if (ioctl(gntdev->fd, IOCTL_GNTDEV_MAP_GRANT_REF, &arg.map))
		return NULL;
	cpu = mmap(NULL, (size_t)count * GRANULE, prot, MAP_SHARED, gntdev->fd,
		   (off_t)arg.map.index);
	if (cpu != MAP_FAILED)
		return cpu;
	undo.index = arg.map.index;
	(void)ioctl(gntdev->fd, IOCTL_GNTDEV_UNMAP_GRANT_REF, &undo);
	return NULL;
}

static void unmap_refs(struct sluice_gntdev *gntdev, void *cpu, uint32_t count)
{
	struct ioctl_gntdev_get_offset_for_vaddr where = {.vaddr = (uint64_t)(uintptr_t)cpu};
	struct ioctl_gntdev_unmap_grant_ref undo = {.count = count};
	int known = ioctl(gntdev->fd, IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR, &where);

	sluice_count(&gntdev->view.stats.trips, 1);
	(void)munmap(cpu, (size_t)count * GRANULE);
	undo.index = where.offset;
	if (!known)
		(void)ioctl(gntdev->fd, IOCTL_GNTDEV_UNMAP_GRANT_REF, &undo);
}

/* A device address taken apart: false if it is no grant's. */
static bool grant_at(uint64_t dev, uint32_t *ref, uint32_t *at)
{
	uint64_t number = (dev & ~SLUICE_GRANT_ADDR) / GRANULE;

	*ref = (uint32_t)number;
	*at = (uint32_t)(dev % GRANULE);
	return dev & SLUICE_GRANT_ADDR && number <= UINT32_MAX;
}

static int gntdev_hold(struct sluice_view *view, uint64_t len, struct sluice_hold *hold)
{
	struct sluice_gntdev *gntdev = gntdev_of(view);
	int prot = hold->access == SLUICE_READ ? PROT_READ : PROT_READ | PROT_WRITE;
	uint32_t ref, at, count;
	uint64_t most;
	uint8_t *cpu;

	if (!grant_at(hold->dev, &ref, &at))
		return -ENOENT;
	most = (at + (len < BATCH * GRANULE ? len : BATCH * GRANULE) + GRANULE - 1) / GRANULE;
	count = most < BATCH ? (uint32_t)most : BATCH;
	cpu = map_refs(gntdev, ref, count, prot);
	if (!cpu && count > 1) {
		count = 1;
		cpu = map_refs(gntdev, ref, count, prot);
	}
	if (!cpu) {
		if (!(prot & PROT_WRITE))
			return -ENOENT;
		cpu = map_refs(gntdev, ref, 1, PROT_READ);
		if (!cpu)
			return -ENOENT;
		unmap_refs(gntdev, cpu, 1);
		return -EACCES;
	}
	hold->cpu = cpu + at;
	hold->phys = 0;
	hold->bytes = (uint64_t)count * GRANULE - at;
	if (hold->bytes > len)
		hold->bytes = len;
	return 0;
}

static void gntdev_drop(struct sluice_view *view, const struct sluice_hold *hold)
{
	uint64_t at = hold->dev % GRANULE;

	unmap_refs(gntdev_of(view), (uint8_t *)hold->cpu - at,
		   (uint32_t)((at + hold->bytes + GRANULE - 1) / GRANULE));
}

/*
 * Have the hypervisor copy between consecutive references from dev on and buf, BATCH granules at most:
 * *done is set to the bytes before the first that it refused.
 */
static int copy_some(struct sluice_gntdev *gntdev, uint64_t dev, uint8_t *buf, uint64_t len,
		     bool write, uint64_t *done)
{
	struct gntdev_grant_copy_segment segments[BATCH] = {0};
	struct ioctl_gntdev_grant_copy copy = {.segments = segments};
	uint32_t ref, at;

	*done = 0;
	for (uint64_t bytes = 0; bytes < len && copy.count < BATCH && grant_at(dev, &ref, &at);) {
		struct gntdev_grant_copy_segment *segment = &segments[copy.count++];

		segment->len = (uint16_t)(GRANULE - at < len - bytes ? GRANULE - at : len - bytes);
		segment->flags = write ? DEST_GREF : SOURCE_GREF;
		if (write) {
			segment->source.virt = buf + bytes;
			segment->dest.foreign.ref = ref;
			segment->dest.foreign.offset = (uint16_t)at;
			segment->dest.foreign.domid = gntdev->domid;
		} else {
			segment->dest.virt = buf + bytes;
			segment->source.foreign.ref = ref;
			segment->source.foreign.offset = (uint16_t)at;
			segment->source.foreign.domid = gntdev->domid;
		}
		bytes += segment->len;
		dev += segment->len;
	}
	if (!copy.count)
		return -ENOENT;
	sluice_count(&gntdev->view.stats.trips, 1);
	if (ioctl(gntdev->fd, IOCTL_GNTDEV_GRANT_COPY, &copy))
		return -errno;
	for (uint32_t i = 0; i < copy.count; i++) {
		if (segments[i].status)
			return -ENOENT;
		*done += segments[i].len;
	}
	return 0;
}

static int gntdev_copy(struct sluice_view *view, uint64_t dev, void *buf, uint64_t len, bool write)
{
	struct sluice_gntdev *gntdev = gntdev_of(view);
	struct sluice_hold hold = {.access = SLUICE_WRITE};
	uint8_t *mine = buf;

	while (len > 0) {
		uint64_t done;
		int ret = copy_some(gntdev, dev, mine, len, write, &done);

		if (ret && write) {
			/* Its status does not say whether the grant is read-only or none. */
			hold.dev = dev + done;
			ret = gntdev_hold(view, 1, &hold);
			if (!ret) {
				gntdev_drop(view, &hold);
				ret = -EIO;
			}
		}
		if (ret)
			return ret;
		mine += done;
		dev += done;
		len -= done;
	}
	return 0;
}

static const struct sluice_view_ops gntdev_ops = {
	.name = "gntdev",
	.hold = gntdev_hold,
	.drop = gntdev_drop,
	.copy = gntdev_copy,
};

int sluice_gntdev_open(struct sluice_gntdev *gntdev, uint16_t domid)
{
	memset(gntdev, 0, sizeof(*gntdev));
	gntdev->view.ops = &gntdev_ops;
	gntdev->domid = domid;
	gntdev->fd = open("/dev/xen/gntdev", O_RDWR | O_CLOEXEC);
	return gntdev->fd < 0 ? -errno : 0;
}

void sluice_gntdev_close(struct sluice_gntdev *gntdev)
{
	close(gntdev->fd);
}
