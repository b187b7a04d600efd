/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * cache.pml - the life of a slot and its hand-over between caches, in every order of events
 *
 * Theory of operation
 * -------------------
 * A model of core/cache.[ch], core/dma.c and the parts of slab.c, runs.c and pool.c that they rest
 * on, for Spin, which tries every interleaving of its steps. One step here is one access to what
 * another CPU may look at without a lock (a slot's tag, its length, its kind, a lock word); what only the
 * holder of a lock reads is done together with the step before. Comments name the function that is followed.
 *
 * The pool is as small as it can be and still have every case: one place, which is free, or one run
 * (slot 0), or one slab of two slots (0 and 1), so that records are used again for slots of another
 * kind; two CPUs' caches with a stack for each kind; three threads, each of which at every call
 * runs on either CPU. What the core decides by figures that are too large for a model (whether the
 * pool runs low, how much a cache holds, which stack is next, how often a busy lock is tried, whether
 * an empty slab is kept) is decided freely, which covers every way in which it could be decided.
 *
 * One thread makes BEFORE calls on its own, then THREADS threads make CALLS calls each: they map
 * something of either length, or unmap either address with either length, whether there is anything
 * or not, and whether or not another thread is doing just that. So there are double unmaps, foreign
 * ones, and wrong lengths, all at once.
 *
 * Asserted, with the help of variables that only the model has (owned, mapped, refused, turn):
 *   - a slot is handed to nobody while somebody has it, in whole or in part;
 *   - a mapping is ended once, and with its own length: nobody claims one that has been claimed;
 *   - a slot is given back as what it was taken as, and by its owner only;
 *   - when all is done, each slot is in exactly one place (slab, one stack, one owner), so nothing
 *     is lost and nothing is there twice; and a slot that nobody has says so in its tag;
 *   - a right unmap is refused only because another one ends the mapping. This is so as long as
 *     everybody states the right length (ONE_LENGTH): a wrong one, at just the wrong moment, holds
 *     the tag at BUSY until claim() has compared the length again, and a right one that comes
 *     meanwhile is refused although the mapping goes on;
 *   - nobody waits for ever: Spin reports a state in which nothing can go on.
 *
 * Left out: growing and shrinking, whoever waits for space, and offsets, directions and devices in a
 * tag. Memory is sequentially consistent here: what weaker orders the core asks for, and why they do,
 * is said where it does.
 *
 * Variants, by -D:
 *   ONE_LENGTH	everybody states the right length
 *   RAW	the pool without the DMA layer: sluice_pool_alloc() and sluice_pool_free()
 *   FRUGAL	a cache may give something back before it takes from the pool
 *   NO_CAS	claim() looks at the tag and then writes it
 *   NO_RECHECK	claim() does not compare the length again
 *   KIND_FIRST	the slot's kind is read before the claim (or the free's step from HELD), not after it:
 *		it may have been a slot of another kind at the same place
 *   KIND_LATE	what kind a slot is is noted after its tag has become HELD
 *   ZERO_RECORDS a chunk's records do not begin as FREE: a foreign free finds a slot HELD that nobody has
 *   NO_POOL_LOCK, WAIT_FOR_ANOTHER
 *		the pool without its lock; another CPU's cache locked instead of tried
 * All but the first three must be found out: otherwise the model proves nothing.
 */

#ifndef BEFORE
#define BEFORE 0
#endif
#ifndef CALLS
#define CALLS 2
#endif
#ifndef THREADS
#define THREADS 3
#endif

/* Kinds of the place, as in its head (core/internal.h). */
#define NOTHING 0 /* KIND_FREE */
#define RUN	1 /* KIND_RUN: slot 0 is all of it */
#define SLAB	2 /* KIND_SLAB: slots 0 and 1 */

/* Tags (core/dma.c). */
#define HELD 0
#define FREE 1 /* TAG_FREE */
#define LIVE 2
#define BUSY 3

#define ALL 3 /* both slots of the slab */

byte head = NOTHING;   /* of the place; the pool's lock. (The core reads it without, for the kind: that is noted here.) */
byte free_slots = 0;   /* of the slab; the pool's lock */
#ifdef ZERO_RECORDS
byte tag[2] = HELD;
#else
byte tag[2] = FREE;
#endif
byte length[2] = 0;       /* 1 fits a slab's slot and a run, 2 a run */
byte noted = NOTHING;     /* what the place was last taken from the pool as */
bool pool_lock = false;
bool cache_lock[2] = false;
byte slots[2] = 0;     /* a cache's stack of slab slots, as a set: a bit for each */
bool runs[2] = false;  /* its stack of runs */

byte owned[2] = NOTHING; /* model only: as what the slot has been handed out */
bool mapped[2] = false;  /* model only: from the tag's LIVE to the claim */
bool refused[2] = false; /* model only: a right unmap, because another was at it */
byte turn[2] = 0;	 /* model only: tells one mapping from the next */
byte done = 0;
bool begun = false; /* some thread has been on some CPU: call that one 0 */

#define bit_of(s)	(1 << s)

inline lock(l)
{
	atomic {
		!l -> l = true
	}
}

inline unlock(l)
{
	atomic {
		assert(l);
		l = false
	}
}

/*
 * What the holder of the pool's lock does is one step as long as nobody else may look at it without the lock, which is
 * so for head and free_slots: nothing that another thread does can come out differently if it comes in between (Lipton's
 * reduction: taking the lock may be put off, giving it back may be moved forward). Without the lock each access is a step.
 */
#ifndef NO_POOL_LOCK
#define LOCKED atomic
#else
#define LOCKED
#endif

inline pool_enter()
{
#ifndef NO_POOL_LOCK
	lock(pool_lock)
#else
	skip
#endif
}

inline pool_leave()
{
#ifndef NO_POOL_LOCK
	unlock(pool_lock)
#else
	skip
#endif
}

/* cache.h: cache_lock(), cache.c: sluice_cache_lock_another(). cpu becomes the one that it is. */
inline enter_cache()
{
	atomic {
		if
		:: cpu = 0
		:: begun -> cpu = 1
		fi;
		begun = true
	};
	if
	:: atomic { !cache_lock[cpu] -> cache_lock[cpu] = true }
	:: atomic { cache_lock[cpu] && !cache_lock[1 - cpu] -> cpu = 1 - cpu; cache_lock[cpu] = true }
	:: cache_lock[cpu]; /* and so was every other one that was tried: wait for this */
	   lock(cache_lock[cpu])
	fi
}

/* slab.c: sluice_slab_release() and runs.c: sluice_runs_release(), by cache.c: to_pool(). */
inline to_pool(k, set)
{
	if
	:: k == SLAB ->
		assert(head == SLAB && !(free_slots & set));
		free_slots = free_slots | set;
		if
		:: free_slots == ALL -> free_slots = 0; head = NOTHING /* give_up() */
		:: true /* it stays; if it is all free, as the one empty slab that is kept */
		fi
	:: else ->
		assert(head == RUN);
		head = NOTHING
	fi
}

/*
 * cache.c: give_back(), all of one stack or none. With the lock of the cache. A few slots at a time, between which the
 * pool has no lock, while the stack has them all to the end: here one slot, then the other.
 */
inline give_back(c, k)
{
	if
	:: LOCKED {
		k == SLAB && slots[c] ->
		pool_enter();
		to_pool(SLAB, (slots[c] == ALL -> 1 : slots[c]));
		pool_leave()
	   };
	   if
	   :: slots[c] == ALL ->
		LOCKED {
			pool_enter();
			to_pool(SLAB, ALL - 1);
			pool_leave()
		}
	   :: else
	   fi;
	   slots[c] = 0
	:: LOCKED {
		k == RUN && runs[c] ->
		pool_enter();
		to_pool(RUN, 0);
		pool_leave()
	   };
	   runs[c] = false
	:: else
	fi
}

/* cache.c: give_back_next(): the stacks in turn. */
inline give_back_next(c)
{
	if
	:: true -> give_back(c, SLAB)
	:: true -> give_back(c, RUN)
	fi
}

/* cache.c: empty() */
inline empty_cache(c)
{
	if
	:: true -> give_back(c, SLAB)
	:: true /* the long ones alone */
	fi;
	give_back(c, RUN)
}

/* Another's cache only by trylock: whoever waits for it may be waited for by its holder. */
inline try_another()
{
#ifndef WAIT_FOR_ANOTHER
	atomic { !cache_lock[1 - cpu] -> cache_lock[1 - cpu] = true }
#else
	lock(cache_lock[1 - cpu])
#endif
}

#ifndef WAIT_FOR_ANOTHER
#define ANOTHER_IS_BUSY cache_lock[1 - cpu]
#else
#define ANOTHER_IS_BUSY false
#endif

/* held, read without the lock. */
#define ANOTHER_HOLDS (slots[1 - cpu] || runs[1 - cpu])

/* cache.c: empty_others() */
inline empty_others()
{
	if
	:: ANOTHER_HOLDS ->
		if
		:: try_another();
		   empty_cache(1 - cpu);
		   unlock(cache_lock[1 - cpu])
		:: ANOTHER_IS_BUSY
		fi
	:: !ANOTHER_HOLDS
	fi
}

/* cache.c: reclaim(), slab.c: sluice_slab_reclaim() */
inline reclaim()
{
	LOCKED {
		pool_enter();
		if
		:: head == SLAB && free_slots == ALL ->
			free_slots = 0;
			head = NOTHING
		:: else
		fi;
		pool_leave()
	}
}

/* internal.h: note_kind(): one for the place, as there is one for a granule. */
inline note_kind(k)
{
#ifndef KIND_LATE
	noted = k
#else
	skip
#endif
}

/* slab.c: cut(): the records of its slots are FREE already. */
inline cut()
{
	note_kind(SLAB);
	head = SLAB;
	free_slots = ALL
}

/*
 * cache.c: from_pool(), of slots one or both. Sets s, or leaves it 2. A run's kind is
 * noted after the pool's lock has been given back, but nobody else can have the run: no matter when.
 */
inline from_pool(k)
{
	LOCKED {
		pool_enter();
		if
		:: k == RUN && head == NOTHING -> head = RUN; s = 0; note_kind(RUN)
		:: k == SLAB && head == NOTHING -> cut()
		:: else
		fi
	};
	LOCKED {
		if
		:: k == SLAB && head == SLAB && free_slots ->
			s = (free_slots & 1 -> 0 : 1);
			free_slots = free_slots & ~bit_of(s);
			if
			:: free_slots && !slots[cpu] -> /* BATCH: one more for the cache */
				slots[cpu] = free_slots;
				free_slots = 0
			:: true /* low, or the cache holds enough */
			fi
		:: else
		fi;
		pool_leave()
	}
}

/*
 * cache.h: cache_take(), cache.c: sluice_cache_refill(), from_pool_hard(); pool.c: sluice_pool_alloc(),
 * alloc_slowly(). The bare pool says that the slot is held; until the DMA layer says what it is, it is free
 * for all who look. s is 2 before, and after it if there is nothing.
 */
inline take(k)
{
	enter_cache();
	if
	:: atomic { k == RUN && runs[cpu] -> runs[cpu] = false; s = 0 } /* of this length or, by longer(), of another */
	:: atomic {
		k == SLAB && slots[cpu] ->
		s = (slots[cpu] & 1 -> 0 : 1);
		slots[cpu] = slots[cpu] & ~bit_of(s)
	   }
	:: k == RUN || !slots[cpu] -> /* a run may have to be aligned, which those in a cache are not */
#ifdef FRUGAL
		if
		:: give_back_next(cpu) /* economize(); here in a hold of the pool's lock of its own, which allows more */
		:: true
		fi;
#endif
		from_pool(k);
		if
		:: s == 2 ->
			if
			:: true ->
				empty_cache(cpu);
				empty_others();
				reclaim();
				from_pool(k)
			:: true /* give_back_from() */
			fi
		:: else
		fi
	fi;
	if
	:: s < 2 ->
		atomic {
			assert(owned[s] == NOTHING && owned[0] != RUN);
			assert(k == SLAB || owned[1] == NOTHING);
			owned[s] = k;
#ifdef RAW
			tag[s] = HELD
#else
			assert(tag[s] == FREE)
#endif
		}
#ifdef KIND_LATE
		;
		noted = k
#endif
	:: else
	fi;
	unlock(cache_lock[cpu])
}

/*
 * cache.h: cache_give(), cache_keep(), cache.c: sluice_cache_give_back(), pool.c: free_slowly(). The tag is free before
 * the lock is taken: by the claim in the bare pool, else by dma.c: give().
 */
inline give(k)
{
#ifndef RAW
	tag[s] = FREE;
#endif
	enter_cache();
	atomic {
		assert(owned[s] == k);
		owned[s] = NOTHING
	};
	if
	:: true -> /* give_back_some(), of long ones alone or of any */
		give_back_next(cpu);
		empty_others_some()
	:: true
	fi;
	if
	:: true -> /* one_to_pool() */
		LOCKED {
			pool_enter();
			to_pool(k, bit_of(s));
			pool_leave()
		}
	:: true -> /* into the stack, perhaps after some are given back: half of it, long ones, the next */
		if
		:: empty_others_some() /* give_back_another() */
		:: true
		fi;
		if
		:: true -> give_back(cpu, k)
		:: true -> give_back(cpu, RUN) /* give_back_long() */
		:: true -> give_back_next(cpu)
		:: true
		fi;
		if
		:: atomic {
			k == SLAB ->
			assert(!(slots[cpu] & bit_of(s)));
			slots[cpu] = slots[cpu] | bit_of(s)
		   }
		:: atomic {
			k != SLAB ->
			assert(!runs[cpu]);
			runs[cpu] = true
		   }
		fi
	fi;
	unlock(cache_lock[cpu])
}

/* cache.c: give_back_some(), the other's part. */
inline empty_others_some()
{
	if
	:: ANOTHER_HOLDS ->
		if
		:: try_another();
		   give_back_next(1 - cpu);
		   unlock(cache_lock[1 - cpu])
		:: ANOTHER_IS_BUSY
		fi
	:: !ANOTHER_HOLDS
	fi
}

/* dma.c: bounce() */
inline map()
{
	if
	:: atomic { l == 1 -> k = SLAB }
	:: k = RUN /* a short one, too: because of its alignment, or for want of room for a slab */
	fi;
	take(k);
	if
	:: s < 2 ->
		length[s] = l;
		atomic {
			mapped[s] = true;
			turn[s]++;
			tag[s] = LIVE
		}
	:: else
	fi
}

/*
 * dma.c: claim_at(). ok says whether the mapping is this caller's to end. By what way the address at
 * which the slot starts was found does not matter: any is tried here. The core does not look at the tag before its
 * compare and swap, which says the same.
 */
inline claim()
{
#ifdef KIND_FIRST
	kind = noted;
#endif
	t = tag[s];
	if
	:: t == LIVE && length[s] == l ->
#ifndef NO_CAS
		atomic {
			if
			:: tag[s] == t -> tag[s] = BUSY; ok = true
			:: else
			fi
		}
#else
		tag[s] = BUSY;
		ok = true
#endif
		;
#ifndef NO_RECHECK
		if
		:: ok && length[s] != l ->
			atomic {
#ifdef ONE_LENGTH
				assert(!refused[s]);
#endif
				tag[s] = LIVE;
				ok = false
			}
		:: else
		fi
#endif
		;
#ifndef KIND_FIRST
		if
		:: atomic { ok -> kind = noted } /* internal.h: claimed_slot() */
		:: else
		fi
#endif
	:: else
	fi
}

/* dma.c: sluice_dma_unmap() */
inline unmap()
{
	atomic {
		/* Is it right to begin with? */
		was = turn[s];
		right = mapped[s] && length[s] == l
	};
	claim();
	if
	:: !ok -> claim() /* claim_further(): as if it started elsewhere */
	:: ok
	fi;
	atomic {
		if
		:: ok -> assert(mapped[s] && length[s] == l); mapped[s] = false; refused[s] = false
		:: else ->
			if
			:: right && mapped[s] && turn[s] == was ->
#ifdef ONE_LENGTH
				assert(tag[s] == BUSY);
#endif
				refused[s] = true
			:: else
			fi
		fi
	};
	if
	:: ok -> give(kind)
	:: else
	fi
}

/* pool.c: sluice_pool_free() */
inline pool_free()
{
#ifdef KIND_FIRST
	kind = noted;
#endif
	atomic {
		if
		:: tag[s] == HELD -> tag[s] = FREE; ok = true
		:: else
		fi
	};
#ifndef KIND_FIRST
	if
	:: atomic { ok -> kind = noted }
	:: else
	fi;
#endif
	if
	:: ok -> give(kind)
	:: else
	fi
}

/* What a thread can do: map something of a length, or unmap a slot with a length. */
#ifdef ONE_LENGTH
#define MAPS 1
#else
#define MAPS 2
#endif
#ifdef RAW
#define OPS (MAPS + 2)
#else
#define OPS (MAPS + 2 * MAPS)
#endif

inline call()
{
	if
	:: atomic { op < MAPS -> l = op + 1; s = 2 };
#ifdef RAW
		take((l == 1 -> SLAB : RUN))
#else
		map()
#endif
	:: atomic { op >= MAPS -> s = (op - MAPS) % 2; l = (op - MAPS) / 2 + 1 };
#ifdef RAW
		pool_free()
#else
		unmap()
#endif
	fi
}

/* op is the first of its calls; the others are any. */
proctype thread(byte calls; byte op)
{
	byte l, k, s, kind, t, cpu, was;
	bool ok, right;

	do
	:: calls > 0 ->
		call();
		atomic {
			op = 0; l = 0; k = 0; s = 0; kind = 0; t = 0; cpu = 0; was = 0; ok = false; right = false;
			calls--;
			if
			:: calls > 0 -> select (op : 0 .. OPS - 1)
			:: else
			fi
		}
	:: else -> break
	od;
	done++
}

#define held(s, k) (owned[s] == k -> 1 : 0)
#define slot_in(set, s) ((set & bit_of(s)) -> 1 : 0)
#define places(s) (slot_in(free_slots, s) + slot_in(slots[0], s) + slot_in(slots[1], s) + \
		   held(s, SLAB))
#define told(s) (owned[s] != NOTHING || tag[s] == FREE)

/*
 * Threads are all alike, so it is enough to start them in the order of their first calls; and so are
 * the CPUs (enter_cache()).
 */
init
{
	byte i, op, least = 0;

	select (op : 0 .. OPS - 1);
	run thread(BEFORE, op);
	done == 1;
	atomic {
		for (i : 1 .. THREADS) {
			select (op : least .. OPS - 1);
			least = op;
			run thread(CALLS, op)
		};
		i = 0;
		op = 0;
		least = 0
	};
	done == 1 + THREADS;
	assert(!pool_lock && !cache_lock[0] && !cache_lock[1]);
	assert(head != SLAB || (places(0) == 1 && places(1) == 1 && !runs[0] && !runs[1]));
	assert(head != RUN || runs[0] + runs[1] + held(0, RUN) == 1);
	assert(head == SLAB || (!free_slots && !slots[0] && !slots[1]));
	assert(head != NOTHING || (!runs[0] && !runs[1] && !owned[0] && !owned[1]));
	assert(told(0) && told(1))
}
