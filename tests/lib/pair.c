/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * pair.c - a guest and a device with a relay in mode shadow between them
 *
 * Theory of operation: tests/lib/pair.h.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "pair.h"

const struct pairing pair_split = {"split", false, false, false, false, false, 0};
const struct pairing pair_packed = {"packed", true, true, false, false, false, 0};
const struct pairing pair_to_packed = {"split to packed", false, true, false, false, false, 0};
const struct pairing pair_to_split = {"packed to split", true, false, false, false, false, 0};
const struct pairing pair_in_order_split = {"in order, split", false, false, false, true, true, 0};
const struct pairing pair_in_order_packed = {"in order, packed", true, true, false, true, true, 0};
const struct pairing pair_threads_split = {
	"two threads, split", false, false, false, false, false, 2};
const struct pairing pair_threads_packed = {
	"two threads, packed", true, true, false, false, false, 2};
const struct pairing pair_direct_split = {"direct, split", false, false, true, false, false, 0};
const struct pairing pair_direct_packed = {"direct, packed", true, true, true, false, false, 0};

int pair_setup(void **state)
{
	const struct pairing *pairing = *state;
	struct pair *p = calloc(1, sizeof(*p));
	void *rig = NULL;

	assert_non_null(p);
	if (peers_setup(&rig))
		return -1;
	p->rig = rig;
	p->rig->threads = pairing->threads;
	p->pairing = pairing;
	vm_init(&p->vm, p->rig, pairing->guest_packed);
	device_init(&p->device, p->rig);
	if (pairing->device_packed)
		p->device.script->features |= VU_BIT(VIRTIO_F_PACKED);
	if (pairing->device_in_order)
		p->device.script->features |= VU_BIT(VIRTIO_F_IN_ORDER);
	p->vm.in_order = pairing->guest_in_order;
	*state = p;
	return 0;
}

int pair_teardown(void **state)
{
	struct pair *p = *state;
	void *rig = p->rig;
	int rc;

	device_fini(&p->device);
	rc = peers_teardown(&rig);
	vm_fini(&p->vm);
	free(p);
	return rc;
}

void pair_start(struct pair *p)
{
	device_start(&p->device);
	if (p->pairing->direct)
		memcpy(p->rig->front, p->rig->back, sizeof(p->rig->front));
	else
		peers_relay(p->rig, "--mode", "shadow", "--pool-size", "4M", "--pool-max", "4M",
			    "--keep", NULL);
	peers_connect(p->rig);
}

void pair_up(struct pair *p)
{
	pair_start(p);
	vm_up(&p->vm);
}

void pair_well(struct pair *p)
{
	for (unsigned int i = 0; i < 3; i++)
		for (unsigned int q = 0; q < VM_RINGS; q++)
			vm_echo(&p->vm, q);
	vm_check(&p->vm);
	if (p->pairing->direct)
		return;
	assert_int_equal(waitpid(p->rig->relay, NULL, WNOHANG), 0);
	/* It goes on after a data race that it has been found to have. */
	assert_false(peers_logged(p->rig, "ThreadSanitizer"));
	/* G1, G2: the device has seen nothing that was not offered, nor an address of the guest. */
	assert_int_equal(p->device.script->canaries, 0);
	assert_int_equal(p->device.script->dirty, 0);
}
