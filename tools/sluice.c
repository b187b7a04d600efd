/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * sluice.c - the sluice program: one binary, a command as its first argument
 *
 * Theory of operation: each command is a main() of its own, with the command as its argv[0].
 */
#include <stdio.h>
#include <string.h>

#include "../relay/relay.h"
#include "audit.h"
#include "stat.h"
#include "survey.h"

#ifndef SLUICE_VERSION
#define SLUICE_VERSION "0.1.0"
#endif

static const char help[] =
	"sluice - limited memory sharing for virtio\n"
	"\n"
	"  sluice relay --listen FRONT.sock --backend BACK.sock --mode filter\n"
	"               [--share PATH|memfd:NAME]... [--keep]\n"
	"      stand between a vhost-user front-end and back-end; pass on only the files named\n"
	"      by --share, refuse what cannot be confined\n"
	"\n"
	"  sluice audit --backend PID --vmm PID [--share PATH|memfd:NAME]... [--find HEX]\n"
	"      how much of the guest memory of a VMM a process can reach, by its mappings and by\n"
	"      its open files\n"
	"\n"
	"  sluice survey record | report | replay | cut ...\n"
	"      record what devices' DMA looks like (sluice.ko, mode=observe or bounce), show it, "
	"run\n"
	"      it through a pool\n"
	"\n"
	"  sluice stat [--json] [--relay SOCKET]..., sluice top [--seconds N] [--relay SOCKET]...\n"
	"      the counters of sluice.ko and of relays, once or refreshed\n"
	"\n"
	"  sluice help, sluice --version\n";

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "";

	if (!strcmp(command, "relay"))
		return sluice_relay_main(argc - 1, argv + 1);
	if (!strcmp(command, "audit"))
		return sluice_audit_main(argc - 1, argv + 1);
	if (!strcmp(command, "stat"))
		return sluice_stat_main(argc - 1, argv + 1);
	if (!strcmp(command, "top"))
		return sluice_top_main(argc - 1, argv + 1);
	if (!strcmp(command, "survey"))
		return sluice_survey_main(argc - 1, argv + 1);
	if (!strcmp(command, "help") || !strcmp(command, "--help")) {
		fputs(help, stdout);
		return 0;
	}
	if (!strcmp(command, "--version")) {
		puts("sluice " SLUICE_VERSION);
		return 0;
	}
	if (*command)
		fprintf(stderr, "sluice: no such command: %s\n", command);
	else
		fputs("sluice: a command is missing\n", stderr);
	fputs("try: sluice help\n", stderr);
	return 1;
}
