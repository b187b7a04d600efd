/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * state.h - all that the relay knows
 *
 * Theory of operation
 * -------------------
 * One struct relay, static, of fixed size: a peer cannot make the relay grow. It holds what the
 * front-end has said, complete enough to bring a fresh backend to the same point, and the two
 * connections. The files that work on it:
 *   main.c	  the command line, the life of the process
 *   session.c	  one front-end, from its first message to its last
 *   setup.c	  its requests that set up memory and rings
 *   device.c	  its other requests: features, configuration, status
 *   backend.c	  the backend's connection: asking, replaying, losing it and getting it back
 *   rings.c	  starting, stopping and recovering the backend's rings
 *   backchan.c	  the requests that the backend makes by itself
 */
#ifndef RELAY_STATE_H
#define RELAY_STATE_H

#include "door.h"
#include "memory.h"
#include "ring.h"
#include "vu.h"

/* How long a peer may take, in milliseconds. */
#define WAIT_MESSAGE 10000 /* to finish a message, to make room for one, to answer a request */
#define WAIT_DRAIN                                                                                 \
	30000 /* for a backend to finish its requests when a ring is stopped and nobody asked for its base */
#define WAIT_ASKED     1000 /* for its answer when it is asked for a base, at least */
#define WAIT_AFTER     1000 /* for what it finishes after that, if nobody is there to wait for it */
#define SAY_WAITING    5000 /* after which a wait that may be a long one is said, again and again */
#define WAIT_BACKEND   10000 /* for a backend that is not there, when its answer is needed */
#define WAIT_CHANNEL   1000  /* to finish a request on the backend's own channel */
#define RETRY_FIRST    50    /* between attempts to connect to a backend that has left: doubling */
#define RETRY_MOST     1000
#define LEAVES_AT_ONCE 5   /* times running that a backend may leave as soon as it has come */
#define LEAVES_PAUSE   200 /* milliseconds to the next attempt from then on */

/* The front-end's side. */
struct frontend {
	int fd;
	int channel; /* it wants the backend's own requests here, or -1 */
	uint64_t features;
	uint64_t protocol;
	uint64_t mtu;
	uint8_t status;
	bool features_set;
	bool protocol_set;
	bool owner;
	bool mtu_set;
};

/* The backend's side. */
struct backend {
	int fd;	     /* or -1: it is not there */
	int channel; /* our end of the channel for its own requests, or -1 */
	int parting; /* a connection that has been given up and not closed yet (backend_parted()), or -1 */
	int parting_said; /* 1: that it is waited for; 2: that it is not any more */
	int64_t parting_until;
	uint64_t features;
	uint64_t protocol; /* what it offers */
	uint64_t agreed;   /* protocol features as set; 0 before */
	uint64_t slots;	   /* memory regions that it takes */
	bool agreed_set;
	bool memory_live; /* it has been given the memory: changes are to be told */
	bool missed;	  /* that it is away has been said */
	bool unfit;	  /* that it cannot be used has been said */
	int retry;	  /* milliseconds to the next attempt */
	int left_at_once; /* times running */
	int64_t came;	  /* when it was connected to last */
	int64_t retry_at;
};

/* The last answers of a backend, for when it is away. */
struct answers {
	struct vu_msg config;
	uint64_t queues;
	bool config_valid;
	bool queues_valid;
};

struct shadow;

struct relay {
	struct shadow *shadow; /* NULL in filter mode */
	int64_t drain_ms;      /* how long a front-end that asks for a base may be kept waiting */
	struct door door;
	struct frontend fe;
	struct backend be;
	struct memory mem;
	struct answers cache;
	struct ring rings[RING_MAX];
};

/* backend.c */

/**
 * backend_connect - one attempt to have a backend
 *
 * Connects, asks what it offers, and brings it to the point where the front-end is.
 *
 * Return: 0, or a negative errno with the backend away.
 */
int backend_connect(struct relay *r);

/**
 * backend_wait - have a backend within WAIT_BACKEND
 *
 * Return: 0, or -ENOTCONN.
 */
int backend_wait(struct relay *r);

/**
 * backend_lost - give up the connection to the backend
 * @why: for the log: "the backend is away: WHY"
 *
 * What its rings had started is found out later, when a new backend is there or when somebody asks.
 */
void backend_lost(struct relay *r, const char *why);

/**
 * backend_parted - whether nobody works any more on requests of a connection that was given up
 * @until: when to stop waiting for that, by relay_now_ms(); 0: not at all
 *
 * A backend that is given up may have requests under way, at its disk or wherever they go. It is
 * told by half-closing the connection, and a backend closes its end when it has finished with it (those
 * that do not finish their requests first are no worse than one that is killed); the kernel does that for one
 * that is killed.
 *
 * Return: true also if none was given up. False if the front-end leaves meanwhile.
 */
bool backend_parted(struct relay *r, int64_t until);

/**
 * backend_close - end the connection without a word
 *
 * Where the backend may be at work on something of it, it is half-closed, and outlives the session: see
 * backend_parted().
 */
void backend_close(struct relay *r);

/**
 * backend_ask - send a request that has an answer, and wait for it
 * @m:		the request; overwritten by the answer, which carries no fds
 * @timeout_ms: how long the answer may take
 *
 * Return: 0; -ENOTCONN if the backend is away or has been given up over this.
 */
int backend_ask(struct relay *r, struct vu_msg *m, int timeout_ms);

/**
 * backend_tell - send a request that has no answer, and wait until it has been carried out
 * @m: the request, with fds that stay the caller's; overwritten
 *
 * With REPLY_ACK the backend says so itself (the spec, "Communication"), otherwise the answer to
 * GET_FEATURES tells that it has come past it.
 *
 * Return: 0; -EREMOTEIO if the backend refused; -ENOTCONN as above.
 */
int backend_tell(struct relay *r, struct vu_msg *m);

/**
 * backend_ping - see whether the backend still answers; it is lost if not
 */
void backend_ping(struct relay *r);

/**
 * backend_agree - set the protocol features, those of the front-end and the relay's own
 *
 * Return: as backend_tell().
 */
int backend_agree(struct relay *r);

/**
 * backend_set_features - tell the negotiated features, as far as they are the backend's business
 *
 * Return: as backend_tell().
 */
int backend_set_features(struct relay *r);

/**
 * backend_memory - bring the backend's memory table up to date
 * @gone: a shared region that is about to be dropped, or NULL
 *
 * Return: 0 or as backend_tell(); -ENOSPC if the backend does not take that many regions.
 */
int backend_memory(struct relay *r, struct region *gone);

/**
 * backend_features - what the backend may be told of the front-end's features
 */
uint64_t backend_features(const struct relay *r);

/* finish.c */

/**
 * backend_finishes - wait for what a backend is still at work on after it has answered for a ring
 * @index: of the ring, for the log
 * @count: how many requests it still has; 0 as well if they are not to be waited for any more
 * @arg:   for @count
 * @until: when to stop waiting, by relay_now_ms(); it is sooner if a peer leaves
 *
 * Return: whether @count has come to 0. The backend may have been given up meanwhile.
 */
bool backend_finishes(struct relay *r, unsigned int index, uint32_t (*count)(void *), void *arg,
		      int64_t until);

/**
 * backend_unfinished - tell the operator of requests that a stopped ring does not give back
 * @open: how many the backend has not finished
 *
 * To be called once for each time that the ring has run; no limit for what peers have logged holds it back. A
 * front-end that has left is not spoken of: the next one starts the ring again.
 */
void backend_unfinished(struct relay *r, unsigned int index, uint32_t open);

/* rings.c */

/* A ring as the backend is told it. */
struct ring_told {
	uint32_t num;
	uint32_t base;
	uint64_t desc;
	uint64_t used;
	uint64_t avail;
	int call;
	int err; /* or -1: not told */
	int kick;
	bool call_set;
	bool enabled;
};

/**
 * rings_tell - start a ring at the backend
 *
 * From the kick on, which is before the end, the ring is live.
 *
 * Return: as backend_tell().
 */
int rings_tell(struct relay *r, unsigned int index, const struct ring_told *told);

/**
 * rings_start - start at the backend every ring that is ready and not started
 *
 * A ring that is ready but for its area not being shared is refused: the log says so once, and
 * the front-end by the ring's err fd.
 */
void rings_start(struct relay *r);

/**
 * rings_stop - stop one ring at the backend and keep its base
 * @index: of the ring
 * @asked: the front-end asked for the base
 *
 * Afterwards the ring's base is where the next backend has to go on, as far as that is known.
 */
void rings_stop(struct relay *r, unsigned int index, bool asked);

/**
 * rings_at_work - whether the backend may be at work on requests of any ring
 */
bool rings_at_work(struct relay *r);

/**
 * rings_stop_in - stop all live rings that have a part in @region, which is about to go
 */
void rings_stop_in(struct relay *r, const struct region *region);

/* backchan.c */

/**
 * backchan_open - give the backend a channel for its own requests (the spec, SET_BACKEND_REQ_FD)
 *
 * Return: 0 or as backend_tell().
 */
int backchan_open(struct relay *r);

/**
 * backchan_serve - take one request from that channel
 *
 * CONFIG_CHANGE is passed to the front-end. All others would have the front-end map what the
 * backend sends, or look things up for it: refused, and fds that come along never installed.
 */
void backchan_serve(struct relay *r);

/* session.c */

/**
 * session_init - make a struct relay that has never served anyone
 */
void session_init(struct relay *r, struct share *shares, unsigned int nshares);

/**
 * session_run - serve one front-end until it leaves
 * @fd: its connection; taken over
 *
 * Return: 0 if it left, 1 if the relay cannot serve anyone any more, 2 if it or the backend had to
 * be refused.
 */
int session_run(struct relay *r, int fd);

#endif
