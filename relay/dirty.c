/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * dirty.c - which pages of the guest have been written, for live migration
 *
 * Theory of operation: relay/dirty.h.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "session.h"
#include "shadow.h"

void dirty_close(struct dirty *d)
{
	if (d->map)
		munmap(d->map, d->len);
	*d = (struct dirty){.on = d->on};
}

int dirty_set_base(struct relay *r, struct vu_msg *m)
{
	const struct vu_log v = m->p.log;
	struct dirty *d = &r->shadow->dirty;
	int fd = vu_take_fd(m);
	struct stat st;
	void *map = MAP_FAILED;

	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || !v.bytes || v.offset % 4096 ||
	    st.st_size < 0 || v.bytes > (uint64_t)st.st_size ||
	    v.offset > (uint64_t)st.st_size - v.bytes)
		errno = EINVAL;
	else
		map = mmap(NULL, v.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)v.offset);
	if (fd >= 0)
		close(fd);
	if (map == MAP_FAILED) {
		relay_log_peer("refused SET_LOG_BASE: %llu bytes at %llu cannot be the log (%s)",
			       (unsigned long long)v.bytes, (unsigned long long)v.offset,
			       strerror(errno));
		return REFUSE;
	}
	dirty_close(d);
	d->map = map;
	d->len = v.bytes;
	guest_watch_also(&r->shadow->guest, 0, d->map, d->len);
	return session_reply_u64(r, m->h.request, 0);
}

int dirty_set_fd(struct relay *r, struct vu_msg *m)
{
	/* To be signalled when something has been logged. Nobody waits for that: it is closed with
	 * the message. */
	(void)r;
	(void)m;
	return DONE;
}
