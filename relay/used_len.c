/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * used_len.c - what may be believed of the length that a backend reports
 *
 * Theory of operation
 * -------------------
 * The length of a used chain says how many bytes the device has written, from the first writable
 * one on, and only those are brought back. Some backends get it wrong: their drivers do not look at
 * it (virtio 1.2, 2.7.8.2 on legacy devices). Believing a length that is too short would leave the
 * guest without its data, or without the status byte at the end of a disk's request.
 *
 * There is no way to ask which device is behind a vhost-user socket, so the bytes have to tell:
 * writable slots start as zero, so a byte beyond the reported length that is not zero has been
 * written by the device. Then all of the chain is brought back, which is always allowed: the driver
 * has offered all of it for writing, and the rest is zero or the device's. A queue on which this has
 * happened once has its lengths disbelieved from then on. The same goes for a length of 0 where
 * something could be written, since there the bytes might all be right and zero, like the status of
 * a disk's request that went well.
 *
 * Looking costs time where chains are often used short (network without MRG_RXBUF), so it ends
 * after USED_LEN_TRUST short chains in a row that were right.
 */
#include <string.h>

#include "shadow.h"

/* Whether all of it is zero. The device may be writing: any answer is as good as a later one. */
static bool blank(const uint8_t *p, uint32_t len)
{
	static const uint8_t zero[256];

	while (len) {
		uint32_t n = len < sizeof(zero) ? len : (uint32_t)sizeof(zero);

		if (memcmp(p, zero, n))
			return false;
		p += n;
		len -= n;
	}
	return true;
}

static bool blank_beyond(const struct queue *q, const struct flight *f, uint32_t len)
{
	uint32_t n = (uint32_t)f->nout + f->nin;

	for (uint32_t i = f->nout; i < n; i++) {
		const struct part *p = &f->parts[i];

		if (len >= p->len) {
			len -= p->len;
			continue;
		}
		if (!blank(q->shadow->pool + p->at + len, p->len - len))
			return false;
		len = 0;
	}
	return true;
}

uint32_t used_len_copy(struct queue *q, const struct flight *f, uint32_t len)
{
	if (q->whole || !len)
		return f->in;
	if (q->honest >= USED_LEN_TRUST)
		return len;
	if (blank_beyond(q, f, len)) {
		q->honest++;
		return len;
	}
	q->whole = true;
	stats_add(&q->stats.wrong_lengths, 1);
	return f->in;
}
