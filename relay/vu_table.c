/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * vu_table.c - which front-end requests the relay takes, and what they must look like
 *
 * Theory of operation
 * -------------------
 * One row for each request of the spec ("Front-end message types"). A request is taken only if its
 * row says so: what has no row, or a row with a reason, is refused. Sizes are exact unless the
 * payload is a list. So a request of a later version of the protocol does not slip through, and a
 * handler can read its payload without looking at the size again.
 */
#include <errno.h>
#include <stddef.h>

#include "vu.h"

#define NONE   0, 0
#define U64    8, 8
#define STATE  sizeof(struct vu_vring_state), sizeof(struct vu_vring_state)
#define ADDR   sizeof(struct vu_vring_addr), sizeof(struct vu_vring_addr)
#define TABLE  8, sizeof(struct vu_mem_table)
#define ONE    sizeof(struct vu_mem_one), sizeof(struct vu_mem_one)
#define CONFIG VU_CONFIG_HEAD, sizeof(struct vu_config)
#define LOG    sizeof(struct vu_log), sizeof(struct vu_log)
#define FLIGHT VU_INFLIGHT_BYTES, sizeof(struct vu_inflight)
#define ANY    0, UINT16_MAX

static const char migration[] = "live migration is not offered in filter mode";
static const char postcopy[] = "postcopy would hand the backend's userfaultfd to the front-end";
static const char inflight[] = "the in-flight buffer is memory of the backend's making";
static const char masked[] = "its protocol feature is not offered by the relay";

static const struct vu_rule rules[VU_REQUESTS] = {
	/* request			 name	payload	fds reply needs	reason */
	[VU_GET_FEATURES] = {"GET_FEATURES", NONE, 0, true, -1, NULL},
	[VU_SET_FEATURES] = {"SET_FEATURES", U64, 0, false, -1, NULL},
	[VU_SET_OWNER] = {"SET_OWNER", NONE, 0, false, -1, NULL},
	[VU_RESET_OWNER] = {"RESET_OWNER", NONE, 0, false, -1, NULL},
	[VU_SET_MEM_TABLE] = {"SET_MEM_TABLE", TABLE, VU_MAX_FDS, false, -1, NULL},
	[VU_SET_LOG_BASE] = {"SET_LOG_BASE", LOG, 1, true, VU_P_LOG_SHMFD, migration},
	[VU_SET_LOG_FD] = {"SET_LOG_FD", 0, 8, 1, false, VU_P_LOG_SHMFD, migration},
	[VU_SET_VRING_NUM] = {"SET_VRING_NUM", STATE, 0, false, -1, NULL},
	[VU_SET_VRING_ADDR] = {"SET_VRING_ADDR", ADDR, 0, false, -1, NULL},
	[VU_SET_VRING_BASE] = {"SET_VRING_BASE", STATE, 0, false, -1, NULL},
	[VU_GET_VRING_BASE] = {"GET_VRING_BASE", STATE, 0, true, -1, NULL},
	[VU_SET_VRING_KICK] = {"SET_VRING_KICK", U64, 1, false, -1, NULL},
	[VU_SET_VRING_CALL] = {"SET_VRING_CALL", U64, 1, false, -1, NULL},
	[VU_SET_VRING_ERR] = {"SET_VRING_ERR", U64, 1, false, -1, NULL},
	[VU_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", NONE, 0, true, -1, NULL},
	[VU_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", U64, 0, false, -1, NULL},
	[VU_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", NONE, 0, true, VU_P_MQ, NULL},
	[VU_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", STATE, 0, false, -1, NULL},
	[VU_SEND_RARP] = {"SEND_RARP", U64, 0, false, VU_P_RARP, NULL},
	[VU_NET_SET_MTU] = {"NET_SET_MTU", U64, 0, false, VU_P_MTU, NULL},
	[VU_SET_BACKEND_REQ_FD] = {"SET_BACKEND_REQ_FD", NONE, 1, false, VU_P_BACKEND_REQ, NULL},
	[VU_IOTLB_MSG] = {"IOTLB_MSG", ANY, 0, true, -1, "a vIOMMU needs mode iommu"},
	[VU_SET_VRING_ENDIAN] = {"SET_VRING_ENDIAN", ANY, 0, false, -1, masked},
	[VU_GET_CONFIG] = {"GET_CONFIG", CONFIG, 0, true, VU_P_CONFIG, NULL},
	[VU_SET_CONFIG] = {"SET_CONFIG", CONFIG, 0, false, VU_P_CONFIG, NULL},
	[26] = {"CREATE_CRYPTO_SESSION", ANY, 0, true, -1, masked},
	[27] = {"CLOSE_CRYPTO_SESSION", ANY, 0, false, -1, masked},
	[28] = {"POSTCOPY_ADVISE", ANY, 0, true, -1, postcopy},
	[29] = {"POSTCOPY_LISTEN", ANY, 0, false, -1, postcopy},
	[30] = {"POSTCOPY_END", ANY, 0, true, -1, postcopy},
	[VU_GET_INFLIGHT_FD] = {"GET_INFLIGHT_FD", FLIGHT, 0, true, VU_P_INFLIGHT, inflight},
	[VU_SET_INFLIGHT_FD] = {"SET_INFLIGHT_FD", FLIGHT, 1, false, VU_P_INFLIGHT, inflight},
	[33] = {"GPU_SET_SOCKET", ANY, 1, false, -1, "the GPU channel is not looked into"},
	[VU_RESET_DEVICE] = {"RESET_DEVICE", NONE, 0, false, VU_P_RESET_DEVICE, NULL},
	[35] = {"VRING_KICK", ANY, 0, false, -1, masked},
	[VU_GET_MAX_MEM_SLOTS] = {"GET_MAX_MEM_SLOTS", NONE, 0, true, VU_P_MEM_SLOTS, NULL},
	[VU_ADD_MEM_REG] = {"ADD_MEM_REG", ONE, 1, false, VU_P_MEM_SLOTS, NULL},
	/* Some front-ends send the region's fd along, as the spec once said. */
	[VU_REM_MEM_REG] = {"REM_MEM_REG", ONE, 1, false, VU_P_MEM_SLOTS, NULL},
	[VU_SET_STATUS] = {"SET_STATUS", U64, 0, false, VU_P_STATUS, NULL},
	[VU_GET_STATUS] = {"GET_STATUS", NONE, 0, true, VU_P_STATUS, NULL},
	[41] = {"GET_SHARED_OBJECT", ANY, 0, true, -1, masked},
	[42] = {"SET_DEVICE_STATE_FD", ANY, 1, true, -1, migration},
	[43] = {"CHECK_DEVICE_STATE", ANY, 0, true, -1, migration},
	[44] = {"GET_SHMEM_CONFIG", ANY, 0, true, -1, masked},
	[45] = {"GET_VRING_BASE_SKIP_DRAIN", ANY, 0, true, -1, masked},
};

static const struct vu_rule unknown = {"an unknown request",
				       ANY,
				       VU_MAX_FDS,
				       false,
				       -1,
				       "this version of the relay does not know it"};

const struct vu_rule *vu_rule(uint32_t request)
{
	if (request >= VU_REQUESTS || !rules[request].name)
		return &unknown;
	return &rules[request];
}

int vu_check(const struct vu_msg *m, uint64_t protocol, const char **why)
{
	const struct vu_rule *rule = vu_rule(m->h.request);

	bool agreed = rule->needs >= 0 && (protocol & VU_BIT(rule->needs));

	*why = agreed ? NULL : rule->reason;
	if (*why)
		return -EPROTO;
	if (m->h.flags & VU_REPLY)
		*why = "it is marked as a reply to something that was never asked";
	else if (rule->needs >= 0 && !agreed)
		*why = "its protocol feature has not been negotiated";
	else if (m->h.size < rule->size_min || m->h.size > rule->size_max)
		*why = "its payload has the wrong size";
	else if (m->nfds > rule->fds_max)
		*why = "it carries more file descriptors than it may";
	return *why ? -EPROTO : 0;
}
