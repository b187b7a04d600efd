/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * room.pml - the relay's queues waiting for room in the pool, in every order of events
 *
 * Theory of operation
 * -------------------
 * A model of how relay/loop.c, flow.c, place.c and kept.c deal with a pool that is too small: a chain that finds
 * no room stays in the guest's ring, and is tried again when there may be some (G5). Spin tries
 * every interleaving of its steps; one step is one access to what other threads may look at, or what is
 * done under one lock. Comments name the function that is followed.
 *
 * LOOPS threads serve QUEUES queues (--threads), each of which has CHAINS chains to send. UNITS is the pool: SHARE of it is
 * each queue's for certain, the rest is common (place.c). A chain takes its units one by one and gives them back if it does
 * not get all. The backend uses what it has at any time, and calls if it is asked to. Units that are
 * given back are free, or, for queues in READS, kept (kept.c) until they are flushed. No queue spins: it asks to be
 * notified as soon as it has had nothing to do once, which is when it can sleep through something.
 *
 * Asserted:
 *   - when nothing can go on any more all chains have been sent and answered. A queue that sleeps although its
 *     chain would fit, with nobody left to wake it, is an "invalid end state";
 *   - units are never more than there are, nor is more common room given back than was taken;
 *   - with pan -l -f: the threads do not have each other try for ever (a cycle without progress).
 *
 * Left out: memory that is not sequentially consistent (loop.c says where full barriers are), rings that are full, growing
 * of the pool, and with it chains that wait for that and for no room that anybody gives back (these never are shadow.waiting: no_room()
 * in flow.c), fragments (which are why those that have waited try again one at a time: flow.c, place()), the control thread.
 *
 * Variants, by -D, each of which leaves one thing out and must be found out:
 *   NO_SECOND_TRY	who finds no room sleeps, and does not try again after having said so. (The relay does so for two
 *			reasons, either of which is enough here: rest() in loop.c, and that no_room() in flow.c tells its own loop, too.)
 *   NO_WAKE	who gives room back does not wake the thread that waits for it
 *   UNTOLD	who begins to wait does not say that what it held meanwhile is free again (flow.c: no_room())
 *   FLUSH_UNTOLD	what is flushed after a pause is told to nobody (loop.c: flush_quiet())
 *   TOLD_FIRST	who gives room back looks for those who wait before it does
 *   ALWAYS_TOLD	each attempt that fails says that room has come: a cycle
 */

#ifndef LOOPS
#define LOOPS 2
#endif
#ifndef QUEUES
#define QUEUES 2
#endif
#ifndef CHAINS
#define CHAINS 1
#endif
#ifndef UNITS
#define UNITS 2
#endif
#ifndef SHARE
#define SHARE 0
#endif

#define COMMON (UNITS - QUEUES * SHARE)
#define MOST   2 /* units that a chain may need: no more than are common, as in place_chain() */
#ifndef LEAST
#define LEAST MOST /* that every second queue needs */
#endif
#ifndef READS
#define READS 1 /* a bit for each queue whose chains the device reads */
#endif

#define NOBODY 255

#define above(n)   ((n) > SHARE -> (n) - SHARE : 0)
#define loop_of(q) ((q) % LOOPS)

byte units = UNITS;	/* free in the pool; its locks */
byte common = 0;	/* shadow.common */
byte waiting = NOBODY;	/* shadow.waiting */
byte kept[QUEUES];	/* the loop's kept_lock */
byte sent[QUEUES];	/* chains that the backend has */
byte used[QUEUES];	/* and that it has used: the shadow ring */
bool listens[QUEUES];	/* the backend is to call; the shadow ring */
bool call[QUEUES];	/* the backend's eventfd, in the epoll fd */
byte nwaits[LOOPS];
bool room[LOOPS];
bool wake[LOOPS];	/* the loop's eventfd, in the epoll fd */
bool alone = false;	/* shadow.alone */

/* What a loop knows of its queues, nobody else. */
#define PRIVATE                                                                                    \
	byte held[QUEUES];                                                                         \
	byte todo[QUEUES];  /* chains in the guest's ring */                                       \
	byte need[QUEUES];  /* units of each of them */                                            \
	bool reads[QUEUES]; /* the device reads them: units that are given back are kept */        \
	bool serves[QUEUES];                                                                       \
	bool waits[QUEUES];                                                                        \
	bool tried[QUEUES]

#define answered(q)   (!todo[q] && !sent[q] && !used[q])

/* kept.c: kept_flush(): between take_out() and drop() units are nobody's. */
inline kept_flush(q)
{
	if
	:: atomic { kept[q] -> out = kept[q]; kept[q] = 0 };
	   atomic { units = units + out; out = 0; flushed = true }
	:: !kept[q]
	fi
}

#define may_hold(q) (held[q] < SHARE || ((waiting == NOBODY || waiting == q) && common < COMMON))
#define has(q)	    (units || (reads[q] && kept[q]))

/* place.c: hold() and take_slot(), or kept_take(), of one unit. ok says whether. */
inline take(q)
{
	atomic {
		ok = (may_hold(q) && has(q));
		if
		:: ok ->
			if
			:: reads[q] && kept[q] -> kept[q] = kept[q] - 1
			:: else -> units = units - 1
			fi;
			common = (held[q] < SHARE -> common : common + 1);
			held[q] = held[q] + 1;
			got++
		:: else -> flushed = may_hold(q)
		fi
	};
	if
	:: !ok && flushed -> /* kept_flush_all(), and once more */
		flushed = false;
		do
		:: i < QUEUES -> kept_flush(i); i++
		:: i == QUEUES -> break
		od;
		i = 0;
		if
		:: flushed ->
			atomic {
				flushed = false;
				ok = (may_hold(q) && units);
				units = (ok -> units - 1 : units);
				common = (ok && held[q] >= SHARE -> common + 1 : common);
				held[q] = (ok -> held[q] + 1 : held[q]);
				got = (ok -> got + 1 : got)
			}
		:: else
		fi
	:: else
	fi
}

/* place.c: unplace() of n units */
inline unplace(q, n)
{
	atomic {
		if
		:: reads[q] -> kept[q] = kept[q] + n /* kept_put() */
		:: else -> units = units + n; assert(units <= UNITS)
		fi;
		assert(common >= above(held[q]) - above(held[q] - n));
		common = common - (above(held[q]) - above(held[q] - n));
		held[q] = held[q] - n
	}
}

/* place.c: place_chain(). fits says whether. */
inline place_chain(q)
{
	ok = true;
	do
	:: ok && got < need[q] -> take(q)
	:: !ok && got -> unplace(q, got); got = 0
	:: !ok && !got -> fits = false; break
	:: ok && got == need[q] -> got = 0; fits = true; break
	od
}

/* flow.c: place() */
inline place(q)
{
#ifndef NOT_ALONE
	if
	:: waits[q] && LOOPS > 1 ->
		atomic { !alone -> alone = true };
		place_chain(q);
		if
		:: !fits -> kept_flush(q)
		:: else
		fi;
		alone = false
	:: else -> place_chain(q)
	fi
#else
	place_chain(q)
#endif
}

/* flow.c: no_room() */
inline no_room(q)
{
	atomic {
		if
		:: !waits[q] ->
			waits[q] = true;
			tried[q] = false;
			nwaits[loop_of(q)]++;
#ifndef UNTOLD
			freed = (LOOPS > 1 -> true : freed)
#endif
		:: else
		fi;
#ifdef ALWAYS_TOLD
		freed = true
#endif
	};
	waiting = (waiting == NOBODY -> q : waiting)
}

/* flow.c: got_room() */
inline got_room(q)
{
	if
	:: waits[q] ->
		atomic { nwaits[loop_of(q)]--; waits[q] = false }
	:: else
	fi;
	if
	:: atomic { waiting == q -> waiting = NOBODY; freed = true }
	:: waiting != q
	fi
}

/* flow.c: reap() */
inline reap(q)
{
	do
	:: used[q] -> used[q]--;
	   unplace(q, need[q]);
	   worked = true; one = true
	:: !used[q] -> break
	od
}

/* flow.c: submit() */
inline submit(q)
{
	do
	:: todo[q] ->
		place(q);
		if
		:: fits ->
			got_room(q);
			atomic {
				todo[q] = todo[q] - 1;
				sent[q] = sent[q] + 1
			};
progress:
			worked = true; one = true
		:: else -> no_room(q); break
		fi
	:: !todo[q] -> break
	od
}

/* loop.c: rest() */
inline rest(q)
{
	if
#ifndef NO_SECOND_TRY
	:: waits[q] && !tried[q] && LOOPS > 1 -> tried[q] = true
	:: !(waits[q] && !tried[q] && LOOPS > 1) ->
#else
	:: true ->
#endif
		listens[q] = true;
		if
		:: used[q] || (!waits[q] && todo[q]) -> listens[q] = false
		:: else -> serves[q] = false
		fi
	fi
}

/* loop.c: loop_room_came(), by the loop l. */
inline room_came(l)
{
	do
	:: j < LOOPS && nwaits[j] ->
		atomic {
			old = room[j];
#ifdef NO_SECOND_TRY
			room[j] = (j != l || room[j]);
#else
			room[j] = true;
#endif
#ifndef NO_WAKE
			wake[j] = (!old && j != l -> true : wake[j]);
#endif
			old = false;
			j++
		}
	:: j < LOOPS && !nwaits[j] -> j++
	:: j == LOOPS -> break
	od;
	j = 0
}

/* loop.c: wake_waiting() */
inline wake_waiting(l)
{
	atomic {
		old = room[l];
		room[l] = false;
		i = 0;
		do
		:: i < QUEUES ->
			if
			:: old && loop_of(i) == l && waits[i] -> serves[i] = true; listens[i] = false
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0;
		old = false
	}
}

/* loop.c: turn() */
inline turn(l)
{
	worked = false;
	q = l;
	do
	:: q < QUEUES && serves[q] ->
		one = false;
#ifdef TOLD_FIRST
		if
		:: used[q] -> room_came(l)
		:: else
		fi;
#endif
		reap(q);
		submit(q);
		if
		:: !one -> rest(q)
		:: else
		fi;
		q = q + LOOPS
	:: q < QUEUES && !serves[q] -> q = q + LOOPS
	:: q >= QUEUES -> break
	od;
	q = 0;
	one = false
}

#define IDLE(l)	 (!serves[l % QUEUES] && !(QUEUES > LOOPS && serves[(l + LOOPS) % QUEUES]))
#define QUIET(l) (!wake[l] && !call[l % QUEUES] && !(QUEUES > LOOPS && call[(l + LOOPS) % QUEUES]))
#define KEEPS(l) (kept[l % QUEUES] || (QUEUES > LOOPS && kept[(l + LOOPS) % QUEUES]))
#define DONE(l)	 (answered(l % QUEUES) && (QUEUES <= LOOPS || answered((l + LOOPS) % QUEUES)))

/* threads.c: work() */
proctype loop(byte l)
{
	PRIVATE;
	byte i, j, q, got, out;
	bool ok, fits, worked, one, flushed, old, freed;

	atomic {
		q = l;
		do
		:: q < QUEUES ->
			todo[q] = CHAINS;
			serves[q] = true;
			need[q] = (q % 2 -> LEAST : MOST);
			reads[q] = (READS >> q) & 1;
			q = q + LOOPS
		:: else -> break
		od;
		q = 0
	};
	do
	:: /* loop.c: loop_run() */
		wake_waiting(l);
		do
		:: !IDLE(l) ->
			turn(l);
			if
			:: worked || freed ->
				worked = false;
				freed = false;
#ifndef TOLD_FIRST
				room_came(l);
#endif
				wake_waiting(l)
			:: else
			fi
		:: IDLE(l) -> break
		od;
		/* loop_pause() and loop_events() */
		if
		:: !DONE(l) ->
			if
			:: !QUIET(l)
			:: KEEPS(l) -> goto flush
			fi
		:: DONE(l) ->
end_sleep:
			if
			:: !QUIET(l)
			:: KEEPS(l) -> goto flush
			fi
		fi;
		atomic {
			wake[l] = false;
			q = l;
			do
			:: q < QUEUES ->
				if
				:: call[q] -> call[q] = false; serves[q] = true; listens[q] = false
				:: else
				fi;
				q = q + LOOPS
			:: else -> break
			od;
			q = 0
		};
		goto next;
flush: /* flush_quiet() */
		q = l;
		do
		:: q < QUEUES -> kept_flush(q); q = q + LOOPS
		:: q >= QUEUES -> break
		od;
		atomic { q = 0; flushed = false };
#ifndef FLUSH_UNTOLD
		if
		:: LOOPS > 1 -> room_came(LOOPS)
		:: else
		fi;
#endif
next:		skip
	od
}

/* The backend uses what it has at any time. */
proctype backend(byte q)
{
end:
	do
	:: atomic { sent[q] -> sent[q] = sent[q] - 1; used[q] = used[q] + 1 };
		atomic { call[q] = call[q] || listens[q]; listens[q] = false }
	od
}

init
{
	byte k;

	atomic {
		for (k : 0 .. QUEUES - 1) {
			run backend(k)
		};
		for (k : 0 .. LOOPS - 1) {
			run loop(k)
		}
	}
}
