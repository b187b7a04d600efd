/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * stat.h - what `sluice stat` and `sluice top` read
 *
 * Theory of operation: the module's debugfs has files of "key value" lines, a relay's statistics
 * socket has Prometheus text. Both become a set of names and values, so that a key which is added
 * there is shown here (in JSON) without a change. stat_read.c reads, stat.c and top.c show.
 */
#ifndef TOOLS_STAT_H
#define TOOLS_STAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STAT_MAX_VALUES 256
#define STAT_MAX_SETS	64
#define STAT_DEBUGFS	"/sys/kernel/debug/sluice"

struct stat_value {
	char key[104];
	char text[104];
	double number;
	bool is_number;
};

/* The pool, a device or a relay. */
struct stat_set {
	char name[112];
	struct stat_value value[STAT_MAX_VALUES];
	size_t n;
};

struct stat_all {
	struct stat_set pool; /* n 0: there is none */
	struct stat_set *device;
	size_t devices;
	struct stat_set *relay;
	size_t relays;
	bool observing; /* the module is loaded with mode=observe */
};

/**
 * stat_read - read all there is
 * @debugfs: the module's folder
 * @sockets: of relays
 * @n:	     how many, at most STAT_MAX_SETS
 * @all:     filled in; stat_free() frees what belongs to it
 * @why:     set to what is wrong, 256 bytes
 *
 * Return: 0; else a negative errno with the reason in why. A module that is not loaded is an error
 * only if no relay is asked for.
 */
int stat_read(const char *debugfs, char *const *sockets, size_t n, struct stat_all *all,
	      char why[256]);
void stat_free(struct stat_all *all);

/* The number of that key, or 0; has: whether there is one. */
double stat_number(const struct stat_set *set, const char *key);
bool stat_has(const struct stat_set *set, const char *key);
const char *stat_text(const struct stat_set *set, const char *key);

/* The sum of all whose key is that, or begins with that and a "{" (Prometheus labels). */
double stat_sum(const struct stat_set *set, const char *key);

/* What both commands take: --debugfs DIR, --relay SOCKET..., and json if not NULL. */
struct stat_options {
	const char *debugfs;
	char *sockets[STAT_MAX_SETS];
	size_t n_sockets;
	bool json;
	unsigned long seconds;
};

/* Return: 0, or 1 after a message. */
int stat_options(int argc, char **argv, struct stat_options *o);

int sluice_stat_main(int argc, char **argv);
int sluice_top_main(int argc, char **argv);

#endif
