/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * view_grant.c - grants from the device's end, both formats
 *
 * Theory of operation: see sluice/grant.h. For every entry there is a private record of who holds it
 * and of what it said when it was first held; as long as it is held, that counts and the table does
 * not. The table gets marks: reading, writing. They are what keeps an honest guest from giving the
 * memory to somebody else; a dishonest one that overwrites them harms itself.
 *
 * An entry is two words. The one with the flags is read (acquire), then the other, then the flags are
 * set by compare-and-swap: so an entry whose flags have not changed between is taken, and of an entry
 * that a guest changes all the time, after TRIES attempts, none. The frame is then checked against
 * guest memory like any number from there.
 *
 * Invariant: readers + writers of a record is the number of holds on it, and while it is not 0 the
 * frame in it does not change.
 */
#include <sluice/grant.h>

#define TRIES	      16u
#define GRANULE_SHIFT 12

/* The grant table's words and the page table's have the marks at the same bits. */
#define READING SLUICE_GTF_READING
#define WRITING SLUICE_GTF_WRITING

/* Clear marks: false if the guest writes all the time. */
static bool unmark(uint32_t *word, uint32_t marks)
{
	for (uint32_t i = 0; i < TRIES; i++) {
		uint32_t old = sluice_load_u32(word);

		if (sluice_cas_u32(word, old, old & ~marks))
			return true;
	}
	return false;
}

/* May a word of version 1 be held in this way? */
static int judge_grant(const struct sluice_grant_view *view, uint32_t word, uint32_t access)
{
	if ((word & SLUICE_GTF_TYPE) != SLUICE_GTF_PERMIT || word >> 16 != view->domid)
		return -ENOENT;
	if (access & SLUICE_WRITE && word & SLUICE_GTF_READONLY)
		return -EACCES;
	return 0;
}

static uint32_t marks_of(uint32_t access)
{
	return access & SLUICE_WRITE ? READING | WRITING : READING;
}

/* Mark an entry that nobody has held so far, or not for writing. */
static int mark_grant(struct sluice_grant_view *view, uint32_t ref, uint32_t access,
		      uint32_t *frame, bool *readonly)
{
	struct sluice_grant_entry *entry = &view->entries[ref];

	for (uint32_t i = 0; i < TRIES; i++) {
		uint32_t word = sluice_load_acquire_u32(&entry->word);
		int ret = judge_grant(view, word, access);

		if (ret)
			return ret;
		*frame = sluice_load_u32(&entry->frame);
		*readonly = word & SLUICE_GTF_READONLY;
		if (sluice_cas_u32(&entry->word, word, word | marks_of(access)))
			return 0;
	}
	return -EBUSY;
}

static int take_grant(struct sluice_grant_view *view, uint32_t ref, uint32_t access)
{
	struct sluice_grant_use *use = &view->uses[ref];
	uint32_t frame;
	bool readonly;
	int ret;

	if (use->readers == UINT32_MAX || use->writers == UINT32_MAX)
		return -EBUSY;
	if (!use->readers && !use->writers) {
		ret = mark_grant(view, ref, access, &frame, &readonly);
		if (ret)
			return ret;
		use->frame = frame;
		use->readonly = readonly;
	} else if (access & SLUICE_WRITE && !use->writers) {
		if (use->readonly)
			return -EACCES;
		/* A guest that has taken it back meanwhile gets no new writer. */
		ret = mark_grant(view, ref, access, &frame, &readonly);
		if (ret)
			return ret;
	}
	if (access & SLUICE_WRITE)
		use->writers++;
	else
		use->readers++;
	return 0;
}

static void leave_grant(struct sluice_grant_view *view, uint32_t ref, uint32_t access)
{
	struct sluice_grant_use *use = &view->uses[ref];
	uint32_t marks = 0;

	if (access & SLUICE_WRITE)
		use->writers--;
	else
		use->readers--;
	if (!use->writers)
		marks |= WRITING;
	if (!use->writers && !use->readers)
		marks |= READING;
	if (marks && !unmark(&view->entries[ref].word, marks))
		view->stuck++;
}

static int grant_hold(struct sluice_view *base, uint64_t len, struct sluice_hold *hold)
{
	struct sluice_grant_view *view = (struct sluice_grant_view *)base;
	uint64_t ref = (hold->dev & ~SLUICE_GRANT_ADDR) >> GRANULE_SHIFT, at = hold->dev & 4095;
	unsigned long flags;
	int ret;

	if (!(hold->dev & SLUICE_GRANT_ADDR) || ref >= view->n_entries)
		return -ENOENT;
	flags = sluice_lock(&view->lock);
	ret = take_grant(view, (uint32_t)ref, hold->access);
	if (!ret) {
		hold->phys = ((uint64_t)view->uses[ref].frame << GRANULE_SHIFT) + at;
		hold->cpu = sluice_view_memory(base, hold->phys, len < 4096 - at ? len : 4096 - at,
					       &hold->bytes);
		if (!hold->cpu) {
			leave_grant(view, (uint32_t)ref, hold->access);
			ret = -ERANGE;
		}
	}
	sluice_unlock(&view->lock, flags);
	return ret;
}

static void grant_drop(struct sluice_view *base, const struct sluice_hold *hold)
{
	struct sluice_grant_view *view = (struct sluice_grant_view *)base;
	uint64_t ref = (hold->dev & ~SLUICE_GRANT_ADDR) >> GRANULE_SHIFT;
	unsigned long flags = sluice_lock(&view->lock);

	leave_grant(view, (uint32_t)ref, hold->access);
	sluice_unlock(&view->lock, flags);
}

static const struct sluice_view_ops grant_view_ops = {
	.name = "grant",
	.hold = grant_hold,
	.drop = grant_drop,
};

int sluice_grant_view_init(struct sluice_grant_view *view, struct sluice_grant_entry *entries,
			   uint32_t n_entries, uint16_t domid, struct sluice_grant_use *uses,
			   const struct sluice_memory *memory, uint32_t n_memory)
{
	if (n_entries == 0 || n_entries > 1u << 24)
		return -EINVAL;
	sluice_zero(view, sizeof(*view));
	sluice_zero(uses, n_entries * sizeof(*uses));
	view->view.ops = &grant_view_ops;
	view->view.memory = memory;
	view->view.n_memory = n_memory;
	view->entries = entries;
	view->n_entries = n_entries;
	view->domid = domid;
	view->uses = uses;
	sluice_lock_init(&view->lock);
	return 0;
}

/* The page-table-shaped format. */

/* The table that an entry on an upper level names, or NULL. */
static struct sluice_pt_entry *table_at(const struct sluice_pt_view *view, uint64_t phys)
{
	uint64_t bytes;
	struct sluice_pt_entry *table = sluice_view_memory(&view->view, phys, 4096, &bytes);

	return table && bytes == 4096 ? table : NULL;
}

static uint64_t frame_of(uint32_t low, uint32_t high)
{
	return (uint64_t)high << 32 | (low & ~UINT32_C(4095));
}

/* The last-level entry of a granule, by two steps down; NULL if the tables do not lead to one. */
static struct sluice_pt_entry *walk(const struct sluice_pt_view *view, uint64_t granule)
{
	struct sluice_pt_entry *table = table_at(view, view->root);

	for (uint32_t shift = 18; table && shift > 0; shift -= 9) {
		const struct sluice_pt_entry *entry =
			&table[granule >> shift & (SLUICE_PT_ENTRIES - 1)];
		uint32_t low = sluice_load_acquire_u32(&entry->low);
		uint32_t high = sluice_load_u32(&entry->high);

		if ((low & 4095) != SLUICE_PT_VALID || high >> 20)
			return NULL;
		table = table_at(view, frame_of(low, high));
	}
	return table ? &table[granule & (SLUICE_PT_ENTRIES - 1)] : NULL;
}

static uint32_t access_of(uint32_t low)
{
	return (low & SLUICE_PT_READ ? SLUICE_READ : 0) |
	       (low & SLUICE_PT_WRITE ? SLUICE_WRITE : 0);
}

static uint32_t pt_marks(uint32_t access)
{
	return (access & SLUICE_READ ? READING : 0) | (access & SLUICE_WRITE ? WRITING : 0);
}

static int mark_pt(struct sluice_pt_entry *entry, uint32_t access, uint64_t *frame,
		   uint32_t *allowed)
{
	for (uint32_t i = 0; i < TRIES; i++) {
		uint32_t low = sluice_load_acquire_u32(&entry->low);
		uint32_t high = sluice_load_u32(&entry->high);

		if (!(low & SLUICE_PT_VALID) || high >> 20)
			return -ENOENT;
		if (access & ~access_of(low))
			return -EACCES;
		*frame = frame_of(low, high);
		*allowed = access_of(low);
		if (sluice_cas_u32(&entry->low, low, low | pt_marks(access)))
			return 0;
	}
	return -EBUSY;
}

static int take_pt(struct sluice_pt_view *view, struct sluice_pt_entry *entry, uint64_t granule,
		   uint32_t access)
{
	struct sluice_pt_use *use = &view->uses[granule];
	bool held = use->readers || use->writers;
	bool covered = (!(access & SLUICE_READ) || use->readers) &&
		       (!(access & SLUICE_WRITE) || use->writers);
	uint32_t allowed;
	uint64_t frame;
	int ret;

	if (use->readers == UINT32_MAX || use->writers == UINT32_MAX)
		return -EBUSY;
	if (held && !(sluice_load_u32(&use->entry->low) & SLUICE_PT_VALID))
		return -ENOENT; /* the guest wants it back */
	if (held && access & ~use->access)
		return -EACCES;
	if (!covered) {
		ret = mark_pt(entry, access, &frame, &allowed);
		if (ret)
			return ret;
		if (!held) {
			use->entry = entry;
			use->frame = frame;
			use->access = allowed;
		}
	}
	use->readers += !!(access & SLUICE_READ);
	use->writers += !!(access & SLUICE_WRITE);
	return 0;
}

static void leave_pt(struct sluice_pt_view *view, uint64_t granule, uint32_t access)
{
	struct sluice_pt_use *use = &view->uses[granule];
	uint32_t marks = 0;

	use->readers -= !!(access & SLUICE_READ);
	use->writers -= !!(access & SLUICE_WRITE);
	if (!use->readers)
		marks |= READING;
	if (!use->writers)
		marks |= WRITING;
	if (marks && !unmark(&use->entry->low, marks))
		view->stuck++;
}

/* One granule: at is where in it, len at most to its end. With the lock. */
static int hold_granule(struct sluice_pt_view *view, struct sluice_pt_entry *entry,
			uint64_t granule, uint64_t at, uint64_t len, struct sluice_hold *hold)
{
	int ret = entry ? take_pt(view, entry, granule, hold->access) : -ENOENT;

	if (ret)
		return ret;
	hold->phys = view->uses[granule].frame + at;
	hold->cpu = sluice_view_memory(&view->view, hold->phys, len, &hold->bytes);
	if (hold->cpu)
		return 0;
	leave_pt(view, granule, hold->access);
	return -ERANGE;
}

static int pt_hold(struct sluice_view *base, uint64_t len, struct sluice_hold *hold)
{
	struct sluice_pt_view *view = (struct sluice_pt_view *)base;
	uint64_t granule = hold->dev >> GRANULE_SHIFT, at = hold->dev & 4095;
	struct sluice_hold more = *hold;
	struct sluice_pt_entry *entry;
	unsigned long flags;
	int ret;

	if (granule >= view->granules)
		return -ENOENT;
	flags = sluice_lock(&view->lock);
	entry = walk(view, granule);
	ret = hold_granule(view, entry, granule, at, len < 4096 - at ? len : 4096 - at, hold);
	/* As far as memory goes on, the next granules come along; 512 at most under the lock. */
	for (uint32_t i = 1;
	     !ret && i < SLUICE_PT_ENTRIES && hold->bytes < len && granule + i < view->granules &&
	     (hold->dev + hold->bytes) >> GRANULE_SHIFT == granule + i;
	     i++) {
		uint64_t rest = len - hold->bytes;

		entry = (granule + i) % SLUICE_PT_ENTRIES ? entry + 1 : walk(view, granule + i);
		if (hold_granule(view, entry, granule + i, 0, rest < 4096 ? rest : 4096, &more))
			break;
		if (more.phys != hold->phys + hold->bytes ||
		    more.cpu != (uint8_t *)hold->cpu + hold->bytes) {
			leave_pt(view, granule + i, hold->access);
			break;
		}
		hold->bytes += more.bytes;
	}
	sluice_unlock(&view->lock, flags);
	return ret;
}

static void pt_drop(struct sluice_view *base, const struct sluice_hold *hold)
{
	struct sluice_pt_view *view = (struct sluice_pt_view *)base;
	uint64_t first = hold->dev >> GRANULE_SHIFT;
	uint64_t last = (hold->dev + hold->bytes - 1) >> GRANULE_SHIFT;
	unsigned long flags = sluice_lock(&view->lock);

	for (uint64_t granule = first; granule <= last; granule++)
		leave_pt(view, granule, hold->access);
	sluice_unlock(&view->lock, flags);
}

static const struct sluice_view_ops pt_view_ops = {
	.name = "pt",
	.hold = pt_hold,
	.drop = pt_drop,
};

int sluice_pt_view_init(struct sluice_pt_view *view, uint64_t root, uint64_t granules,
			struct sluice_pt_use *uses, const struct sluice_memory *memory,
			uint32_t n_memory)
{
	if (granules == 0 || granules > SLUICE_PT_MAX || root & 4095)
		return -EINVAL;
	sluice_zero(view, sizeof(*view));
	sluice_zero(uses, (size_t)granules * sizeof(*uses));
	view->view.ops = &pt_view_ops;
	view->view.memory = memory;
	view->view.n_memory = n_memory;
	view->root = root;
	view->granules = granules;
	view->uses = uses;
	sluice_lock_init(&view->lock);
	return 0;
}
