/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * confine.c - what the relay's two processes give up
 *
 * Theory of operation
 * -------------------
 * The relay reads what peers send that it does not trust, so before it reads the first byte it
 * makes itself a process that has nothing to give away. In layers, the outer ones for when an inner
 * one has a hole:
 *
 *   limits	  no core file (it would hold what peers sent), no new process
 *   namespaces	  an empty mount namespace with an empty read-only root, and a network, IPC, UTS and
 *		  cgroup namespace with nobody else in it. An ordinary user gets these by way of a
 *		  user namespace. Where the system forbids that (a container, a hardened kernel) the
 *		  layer is left out: the next ones do not depend on it.
 *   capabilities none, in any set, the bounding set too; no new privileges by executing anything
 *   ptrace	  not dumpable: no process of the same user may attach or read /proc/PID/mem
 *   seccomp	  a list of system calls, each with the reason below; any other one ends the
 *		  process. No open, socket, connect, execve, or signal to another process; no
 *		  mmap in filter mode, and none of anything that can be executed in shadow mode.
 *
 * Threads are made between giving up capabilities, which each thread has for itself and inherits, and the
 * filter, which is put on all of them at once. Namespaces have to be left while there is one.
 *
 * Without seccomp or with a capability left, the relay refuses to run.
 *
 * The helper (door.c) goes through the same but for the namespaces, and has a list of its own: it
 * has the calls that name files, and neither of them the other's.
 *
 * A build with -fsanitize needs calls that the relay does not: the sanitizers map memory, and look
 * at /proc when they have something to report. They are in one place, extra[], empty otherwise.
 */
#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "confine.h"
#include "log.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

/* One allowed call. With an argument: that argument masked must have that value. */
struct allowed {
	int call;
	int arg; /* index, or -1 for any arguments */
	uint64_t mask;
	uint64_t value;
};

#define ANY(name)                                                                                  \
	{                                                                                          \
		SCMP_SYS(name), -1, 0, 0                                                           \
	}
#define ARG(name, arg, value)                                                                      \
	{                                                                                          \
		SCMP_SYS(name), arg, UINT32_MAX, (uint32_t)(value)                                 \
	}
#define BITS(name, arg, mask, val)                                                                 \
	{                                                                                          \
		SCMP_SYS(name), arg, mask, val                                                     \
	}

static const struct allowed both[] = {
	ANY(sendmsg),	      /* answers; the pair between the two processes */
	ANY(recvmsg),	      /* messages and their fds */
	ANY(close),	      /* fds that are done with */
	ANY(write),	      /* log lines; a kick or call eventfd after a restart */
	ANY(exit_group),      /* the end */
	ANY(exit),	      /* the end, as some C libraries do it */
	ANY(rt_sigreturn),    /* back from the handler of the alarm */
	ANY(restart_syscall), /* a wait that was stopped and continued (job control, a debugger) */
	ANY(clock_gettime),   /* deadlines, where the clock is not read in user space */
};

static const struct allowed relay[] = {
	ANY(poll),     /* every wait */
	ANY(ppoll),    /* the same, on machines without poll */
	ANY(accept4),  /* the next front-end; the listening socket was made before */
	ANY(accept),   /* the same, as some C libraries do it */
	ANY(pread64),  /* ring indices of a backend that died, from the shared file */
	ANY(pwrite64), /* its unfinished requests, put back into the ring */
	ANY(fstat),    /* which file is it */
	BITS(newfstatat, 3, AT_EMPTY_PATH, AT_EMPTY_PATH), /* fstat() of newer C libraries */
	ANY(fstatfs),					   /* is it on a file system in memory */
	ARG(fcntl, 1, F_GET_SEALS),			   /* can it be truncated */
	ARG(socketpair, 0, AF_UNIX), /* the channel for a backend's own requests */
	ANY(shutdown),		     /* the end of a helper that does not answer */
	ANY(timer_settime),	     /* the alarm that bounds a write to an eventfd */
	ANY(timer_settime64),	     /* the same, on machines with 32-bit time */
};

/* Shadow mode is in the data path, and makes a pool for each backend that comes. */
static const struct allowed shadow[] = {
	BITS(mmap, 2, PROT_EXEC, 0),	/* the guest's regions, pools, tables; never code */
	ANY(munmap),			/* the same, when they go */
	ANY(brk),			/* the allocator, for a pool's private data */
	ARG(madvise, 2, MADV_DONTDUMP), /* the guest's regions */
	ARG(madvise, 2, MADV_HUGEPAGE), /* what is known about a large pool */
	ANY(memfd_create),		/* a pool */
	ANY(ftruncate),			/* its size */
	ARG(fcntl, 1, F_ADD_SEALS),	/* and that nobody changes it any more */
	ANY(fallocate),			/* what a shrinking pool gives back */
	ANY(read),			/* the eventfd by which a pool asks to grow */
	ANY(eventfd2),			/* for the backend to be kicked by and to call by */
	ANY(epoll_ctl),			/* the eventfds of all queues */
	ANY(epoll_wait),		/* the same */
	ANY(epoll_pwait),		/* the same, on machines without epoll_wait */
	ANY(sched_yield),		/* while looking for work before sleeping */
};

static const struct allowed threads[] = {
	ANY(futex), /* waiting for each other */
};

static const struct allowed door[] = {
	ARG(socket, 0, AF_UNIX),	     /* to the backend */
	ANY(connect),			     /* to the backend */
	ARG(setsockopt, 2, SO_SNDTIMEO),     /* how long connecting may take */
	ARG(setsockopt, 2, SO_SNDTIMEO_NEW), /* the same, on machines with 32-bit time */
	ANY(stat),			     /* which file a --share path names */
	ANY(newfstatat),		     /* the same, in newer C libraries */
	ANY(readlink),			     /* what /proc calls an fd */
	ANY(readlinkat),		     /* the same, on machines without readlink */
};

static const struct allowed extra[] = {
#ifdef SANITIZED
	ANY(mmap),
	ANY(munmap),
	ANY(mprotect),
	ANY(madvise),
	ANY(mremap),
	ANY(brk),
	ANY(futex),
	ANY(sigaltstack),
	ANY(getpid),
	ANY(gettid),
	ANY(openat),
	ANY(open),
	ANY(read),
	ANY(readlink),
	ANY(rt_sigprocmask),
	ANY(rt_sigaction),
	ANY(sched_yield),
	ANY(nanosleep),
	ANY(clock_nanosleep),
	ANY(prctl),
	ANY(getrusage),
	ANY(sched_getaffinity),
	ANY(getrandom),
	ANY(fstat),
	ANY(tgkill),
	ANY(gettimeofday),
	ANY(rseq),
	ANY(set_robust_list),
	ANY(lseek),
	ANY(getdents64),
	ANY(ioctl), /* whether a report goes to a terminal */
#endif
	ANY(restart_syscall), /* not empty, so that it is an array in every build */
};

static int allow(scmp_filter_ctx ctx, const struct allowed *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct allowed *a = &list[i];
		int rc;

		if (a->arg < 0)
			rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, a->call, 0);
		else
			rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, a->call, 1,
					      SCMP_CMP((unsigned int)a->arg, SCMP_CMP_MASKED_EQ,
						       a->mask, a->value));
		/* -EEXIST: stated twice; -EDOM: this machine has no such call. */
		if (rc && rc != -EEXIST && rc != -EDOM)
			return rc;
	}
	return 0;
}

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static int filter(const struct allowed *list, size_t n, const struct allowed *more, size_t nmore,
		  bool threaded)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int rc;

	if (!ctx)
		return -ENOMEM;
	rc = allow(ctx, both, COUNT(both));
	if (!rc)
		rc = allow(ctx, list, n);
	if (!rc)
		rc = allow(ctx, more, nmore);
	if (!rc && threaded)
		rc = allow(ctx, threads, COUNT(threads));
	if (!rc)
		rc = allow(ctx, extra, COUNT(extra));
	if (!rc)
		rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!rc)
		rc = seccomp_load(ctx);
	seccomp_release(ctx);
	return rc;
}

/* An empty root. Each step only takes something away, so a failed one is not undone. */
static void leave_file_system(void)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) ||
	    mount("sluice", "/tmp", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "nr_inodes=2,nr_blocks=1,mode=0") ||
	    chdir("/tmp") || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) ||
	    chdir("/"))
		return;
}

static void leave_namespaces(void)
{
	const int rest = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;

	if (!unshare(rest) || !unshare(CLONE_NEWUSER | rest))
		leave_file_system();
}

static int drop_privileges(const char *who)
{
	int rc;

	capng_clear(CAPNG_SELECT_ALL);
	rc = capng_apply(CAPNG_SELECT_BOTH);
	/* Without CAP_SETPCAP the bounding set stays. It then limits what executing a file could
	 * give, which no_new_privs rules out and seccomp too. */
	if (rc && capng_apply(CAPNG_SELECT_CAPS)) {
		relay_log("%s cannot drop its capabilities: refusing to run with them", who);
		return -EPERM;
	}
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)) {
		rc = -errno;
		relay_log("%s cannot give up privileges (%s): refusing to run with them", who,
			  strerror(-rc));
		return rc;
	}
	return 0;
}

static int confine(const char *who, const struct allowed *list, size_t n,
		   const struct allowed *more, size_t nmore, int (*start)(void *), void *arg)
{
	const struct rlimit none = {0, 0};
	int rc;

	/* Lowering a limit needs no right. */
	setrlimit(RLIMIT_CORE, &none);
	rc = drop_privileges(who);
	if (rc)
		return rc;
	if (start) {
		rc = start(arg);
		if (rc) {
			relay_log("%s cannot start its threads (%s)", who, strerror(-rc));
			return rc;
		}
	}
	setrlimit(RLIMIT_NPROC, &none);
	rc = filter(list, n, more, nmore, start);
	if (rc)
		relay_log("%s cannot install its seccomp filter (%s): it does not serve peers "
			  "without one; use a kernel built with CONFIG_SECCOMP_FILTER",
			  who, strerror(-rc));
	return rc;
}

int confine_relay(void)
{
	leave_namespaces();
	return confine("the relay", relay, COUNT(relay), NULL, 0, NULL, NULL);
}

int confine_shadow(int (*start)(void *), void *arg)
{
	leave_namespaces();
	return confine("the relay", relay, COUNT(relay), shadow, COUNT(shadow), start, arg);
}

int confine_door(void)
{
	return confine("the relay's helper", door, COUNT(door), NULL, 0, NULL, NULL);
}
