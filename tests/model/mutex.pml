/* mutex.pml - the robust mutex: one POSIX named semaphore for each epoch, and intents.
 *
 * Real object                               Model
 *   G     header word: epoch                G        an epoch, or epoch|R = "recovery of it in progress"
 *   semaphore /name.<epoch>                 T        token count of the current epoch's semaphore; those of
 *                                                    older epochs: "any value"
 *   slot word of a process                  slot[i]  0, or e|I = "may own a token of epoch e, is not inside"
 *                                                    (an intent), or e = "inside"
 *   epoch a process works with              ep[i]
 *   word SEQ, a waiter's sample of it       seq[i]   NO sample, SAME (SEQ is as sampled), or MOVED
 *   fcntl() write lock on byte 1+i          alive[i] (the kernel drops it when the process dies)
 *   fcntl() write lock on byte 0            rlock    (the kernel drops it when the process dies)
 *   the protected data                      x        (1 = inconsistent, 0 = consistent)
 *
 * way in        slot = e|I; try the semaphore; slot = e; G == e?     (failed: slot = 0)
 * way out       slot = e|I; post; change SEQ; slot = 0
 * suspicion     SEQ was sampled, then a try failed.  The look: every other slot must be seen once with neither
 *               e|I nor e, unless its process is dead.  The waiter waits for an intent up to a bound, goes on
 *               trying between the steps of the look, and begins another look when it sees a holder.  When it
 *               sees another epoch or a new SEQ, it begins with a new sample and a new try.
 * recovery      admin lock; G has moved on, or a live process has slot == e, or SEQ is not as sampled: return;
 *               G = e|R; fence; wait for live slots == e, or give up (then the next one continues); fence;
 *               repair; open the next epoch
 *
 * Epochs are never reused and only compared for equality with the current one.  So all older epochs are merged
 * into OLD: opening the next epoch relabels CUR to OLD in ep[], and to 0 in slot[], where nobody compares with
 * it.  This is exact for the comparisons, and an over-approximation for the old semaphores.  -DEPOCHS has real
 * epochs and real semaphores instead; there, "a number never used before" is modelled exactly by "a number
 * that no live process and no slot refers to": finite state, unbounded recoveries.
 *
 * Every shared access is one step.  Before every step the process may be SIGKILLed (goto dead; a new process
 * then uses the same slot), and interleaving lets every process be delayed, i.e. stopped, for any time between
 * any two steps.
 *
 * -DN=2|3       processes (3)
 * -DEPOCHS      real epoch numbers, and sem[e] for T
 * -DMAXC=n      at most n kills and exceptions (default: unlimited)
 * -DTSO         slot stores go through a store buffer;  -DPSO data stores too, unordered with them, and a try
 *               does not order the stores before it (as on ARM)
 * -DABANDON     an exception may end a call anywhere.  Inside (slot == e): clear the slot, post nothing, recover
 *               without a look.  Elsewhere: change SEQ, then clear the slot.  It may also end a recovery.
 * -DLIVE        for progress checks: process 0 never dies (use with MAXC); a waiter suspects only if the token
 *               is really lost (no running process owns it), plus MAXSP times (1); a look waits only once
 * -DSTOP        process 1 may stop for ever, except while it is inside or recovers
 * -DEXACT       asserts that a recovery begins only if the token is lost.  Nobody is killed here, and what a
 *               waiter does after it has met the bound does not count
 * -DQUICK       the bound is never met (for EXACT)
 * -DLATECLEAR   a new owner continues before others see that its slot is zero (as in the real code)
 * -DHASTY       a process that is not inside may begin a recovery at any time: no failed try, no look, no
 *               comparison of SEQ.  For safety, this has all behaviours of the protocol and more, in fewer states
 * other variants that hold:
 *               -DNORELOOK (no second look at the holders under the admin lock)
 *               -DWAITIN (a look waits for a holder, too: no other look begins)
 * deliberately broken, safety:
 *               -DNOCHECK (G is not checked after slot = e)          -DCHECKFIRST (checked before slot = e)
 *               -DNOWAIT (recovery does not wait for live holders)   -DNOREPAIR (recovery leaves the data)
 *               -DKEEPI (who is inside keeps the mark of an intent)  -DONESEM (one semaphore for all epochs)
 *               -DNOFENCE1/2 (no 1st/2nd fence)  -DNOREFENCE (who continues a recovery leaves out the 1st)
 * deliberately broken, needless recoveries (with EXACT):
 *               -DNOINTENT (way in: try; slot = e; G == e?  way out: change SEQ; slot = 0; post)
 *               -DNOSEQ (SEQ is not compared)      -DEARLYSEQ (SEQ is changed before the post)
 *               -DUNTRIED (no try has failed)      -DNOLOCKED (a try does not order the stores before it)
 *               -DOLDLOOK (a look goes on with a new sample)
 *               -DSEENIN (a slot that was seen with e is done)
 *               -DQUIETQUIT (an exception elsewhere does not change SEQ)
 * deliberately broken, progress (with LIVE):
 *               -DNOBOUND (waits for an intent without a bound)
 *               -DANYSET (a look that has met an intent is followed by another)
 *               -DNOCLEAR (a new owner does not zero its slot)
 *               -DNOTIMEOUT (no waiter suspects anything, as with a bare semaphore)
 */
#ifndef N
#define N 3
#endif
#define CUR 1
#define OLD 2
#define I 8
#define R 16
#define NONE 255
#define NO 0
#define SAME 1
#define MOVED 2
#ifndef MAXSP
#define MAXSP 1
#endif

byte G = CUR;
byte slot[N];
bool alive[N];
byte rlock;
byte ep[N];
byte seq[N];
bool tok[N];     /* ghost: live process i owns a token of ep[i] */
bool cs[N];      /* ghost: live process i is in the critical section or recovers */
bool x;

#if N == 2
#define ANY(p)  (p(0) || p(1))
#define ALL(s)  s(0); s(1)
#else
#define ANY(p)  (p(0) || p(1) || p(2))
#define ALL(s)  s(0); s(1); s(2)
#endif

/* ---- kills, exceptions, a stopped process ---- */
#ifdef MAXC
byte crashes;
#define MAYQUIT crashes < MAXC -> crashes++
#else
#define MAYQUIT true
#endif
#ifdef EXACT
#define MAYDIE  false
#elif defined(LIVE)
#define MAYDIE  (i != 0 && crashes < MAXC) -> crashes++
#else
#define MAYDIE  MAYQUIT
#endif
#define DIE     atomic { MAYDIE; goto dead }
#define ST(s)   if :: s :: DIE fi
#ifdef ABANDON
#define QUIT    atomic { MAYQUIT; goto outside }            /* out of the way in or out */
#define QUITIN  atomic { MAYQUIT; cs[i] = 0; goto inside }  /* out of the critical section */
#define LEAVE   atomic { MAYQUIT; cs[i] = 0; goto unlock }  /* out of a recovery, which stays unfinished */
#else
#define QUIT    false
#define QUITIN  false
#define LEAVE   false
#endif
#define SX(s)   if :: s :: DIE :: QUIT fi
#define SI(s)   if :: s :: DIE :: QUITIN fi
#define SR(s)   if :: s :: DIE :: LEAVE fi
#ifdef STOP
bool halted;     /* ghost: process 1 has stopped for ever */
#define RUNS(k)  (k != 1 || !halted)
#define MAYSTOP  if :: atomic { i == 1 && rlock != i+1 -> halted = 1; goto halt } :: true fi
#else
#define RUNS(k)  true
#define MAYSTOP  skip
#endif

/* ---- the order of stores ---- */
#if defined(TSO) || defined(PSO)
#define BUFFERED
byte buf[N];     /* store buffer of process i for its slot word; NONE = empty */
bool older[N];   /* ghost: the store in it is older than the fence, which waits for it */
#define SLOTW(v)  atomic { buf[i] == NONE -> buf[i] = (v) }
#define DRAINS    (buf[i] == NONE)
#define EMPTY     if :: buf[i] != NONE -> slot[i] = buf[i]; buf[i] = NONE; older[i] = 0 :: else fi
#define NOTE(k)   older[k] = (buf[k] != NONE)
#else
#define SLOTW(v)  slot[i] = (v)
#define DRAINS    true
#define EMPTY     skip
#endif
#ifdef PSO
byte xbuf[N];
#define XW(v)     atomic { xbuf[i] == NONE -> xbuf[i] = (v) }
#define XVAL      (xbuf[i] == NONE -> x : xbuf[i])
#define DRAINX    (xbuf[i] == NONE)
#define EMPTYX    if :: xbuf[i] != NONE -> x = xbuf[i]; xbuf[i] = NONE :: else fi
#else
#define XW(v)     x = (v)
#define XVAL      x
#define DRAINX    true
#define EMPTYX    skip
#endif
#define DRAIN     (DRAINS && DRAINX)
#if defined(PSO) || defined(NOLOCKED)
#define LOCKED    true
#else
#define LOCKED    DRAINS
#endif

/* ---- epochs and their semaphores ---- */
#ifdef EPOCHS
#define K         (2*N+1)
#define E         ep[i]                      /* the epoch of process i in words; in others' comparisons too */
#define GONE      ((G & 7) != ep[i])         /* ... is no longer the current one */
#define NOW       (G & 7)
#define MARK(v)   (v)
#ifdef ONESEM
#define S(e)      1
#else
#define S(e)      (e)
#endif
byte sem[K+1];
#define TOKENS    sem[S(ep[i])]
#define CANTAKE   (TOKENS > 0)
#define CANFAIL   (TOKENS == 0)
#define TAKE      TOKENS--
#define POST      TOKENS++; assert(TOKENS <= 1)
#define INEPOCH(k) (ep[k] == ep[i])
#ifdef BUFFERED
#define INBUF(k)  (buf[k] != NONE && (buf[k] & 7) == n)
#else
#define INBUF(k)  false
#endif
#define REFERS(k) (ep[k] == n || (slot[k] & 7) == n || INBUF(k))
#define CREATE    n = 1; do :: n <= K && (n == (G & 7) || ANY(REFERS)) -> n++ :: else -> break od; \
                  assert(n <= K); sem[S(n)] = 1
#define OPENNEXT  G = n; ALL(UNSAMPLE)
#else
#define E         CUR
#define GONE      (ep[i] == OLD)
#define NOW       CUR
#define MARK(v)   (GONE -> 0 : (v))
byte T = 1;
#define TOKENS    T
#ifdef ONESEM
#define MINE      true
#else
#define MINE      (ep[i] == CUR)
#endif
#define CANTAKE   (!MINE || T > 0)
#define CANFAIL   (!MINE || T == 0)
#define TAKE      if :: MINE -> T-- :: else fi
#define POST      if :: MINE -> T++ :: else fi; assert(T <= 1)
#define INEPOCH(k) (ep[k] == CUR)
#define AGE1(v)   if :: v == CUR || v == (CUR|I) -> v = 0 :: else fi
#ifdef BUFFERED
#define AGEBUF(k) AGE1(buf[k])
#else
#define AGEBUF(k) skip
#endif
#define AGE(k)    if :: ep[k] == CUR -> ep[k] = OLD :: else fi; AGE1(slot[k]); AGEBUF(k)
#define OPENNEXT  ALL(AGE); T = 1; G = CUR; ALL(UNSAMPLE)
#endif
#define OPEN      (!(G & R))
#define UNSAMPLE(k) seq[k] = NO
#ifdef HASTY
#define NORELOOK
#define NOSEQ
#define MOVE(k)   skip
#define SAMPLE    skip
#else
#define MOVE(k)   if :: seq[k] == SAME -> seq[k] = MOVED :: else fi
#define SAMPLE    seq[i] = SAME
#endif
#define SEQ       ALL(MOVE)
#define IN(k)     (i != k && cs[k])
#define OWN(k)    (tok[k] && RUNS(k) && INEPOCH(k))
#define LOST      (TOKENS == 0 && !ANY(OWN))
#define HAS(k)    (i != k && tok[k] && INEPOCH(k))
#ifdef EXACT
bool gave[N];    /* ghost: process i has met the bound in this look */
#define GAVE(v)   gave[i] = (v)
#define BEGINS    assert(!OPEN || gave[i] || (TOKENS == 0 && !ANY(HAS)))
#else
#define GAVE(v)   skip
#define BEGINS    skip
#endif

/* ---- waiting ---- */
#if defined(UNTRIED) || defined(HASTY)
#define FAILED    true
#else
#define FAILED    CANFAIL
#endif
#ifdef NOTIMEOUT
#define SUSPECT   false
#elif defined(LIVE)
byte spur;
#define SUSPECT   (GONE || LOST || spur < MAXSP)
#define COUNTIT   if :: GONE || LOST :: else -> spur++ fi
#else
#define SUSPECT   true
#endif
#ifndef COUNTIT
#define COUNTIT   skip
#endif
#if defined(NOBOUND) || defined(QUICK)
#define GIVEUP    false
#else
#define GIVEUP    true
#endif
#if defined(LIVE) && !defined(NOBOUND)
bool waited[N];  /* ghost: process i has waited for an intent in this look */
#define ONCE      !waited[i]
#define WAITED(v) waited[i] = (v)
#else
#define ONCE      true
#define WAITED(v) skip
#endif
#ifdef SEENIN
#define HELD      j++
#elif defined(WAITIN)
#define HELD      goto again
#else
#define HELD      RESTART; goto again
#endif
#ifdef OLDLOOK
#define LOOKS     (looking && ep[i] == NOW)
#define KEEP      SAMPLE
#else
#define LOOKS     (looking && ep[i] == NOW && seq[i] == SAME)
#define KEEP      skip
#endif
#ifdef EPOCHS
#define FORGET    n = 0
#else
#define FORGET    skip
#endif
#define RESTART   j = 0; WAITED(0); GAVE(0)  /* another look, with the same sample */
#define DROP      looking = 0; seq[i] = NO; RESTART

proctype P(byte i) {
  byte j;
  bool looking;
#ifdef EPOCHS
  byte n;
#endif
born:
  ST(alive[i] = 1);                          /* acquire the slot: fcntl(F_SETLK) on byte 1+i */
#ifndef NOCLEAR
  ST(SLOTW(0));
#ifndef LATECLEAR
  ST(DRAIN);
#endif
#endif
again:
  MAYSTOP;
  if                                         /* read G, open semaphore /name.<G>; sample SEQ */
  :: atomic { OPEN -> if :: LOOKS -> KEEP :: else -> DROP; SAMPLE fi; ep[i] = NOW }
  :: atomic { !OPEN -> DROP; ep[i] = NOW; goto rec }
  :: DIE
  fi;
#ifndef NOINTENT
  SX(SLOTW(MARK(E|I)));
  MAYSTOP;
#endif
  if                                         /* sem_trywait, or the last of several that failed */
  :: atomic { CANTAKE && LOCKED -> TAKE; tok[i] = 1; DROP }
  :: atomic { FAILED -> goto failed }
  :: DIE
  :: QUIT
  fi;
  MAYSTOP;
#ifdef CHECKFIRST
  if :: OPEN && !GONE :: !(OPEN && !GONE) -> goto stale :: DIE fi;
  SX(SLOTW(MARK(E)));
#else
#ifndef KEEPI
  SX(SLOTW(MARK(E)));
#endif
#ifndef NOCHECK
  if
  :: OPEN && !GONE                           /* G == e */
  :: !(OPEN && !GONE) -> goto stale
  :: DIE
  :: QUITIN
  fi;
#endif
#endif
  /* ---- critical section ---- */
  skip;
progress_cs:
  atomic { cs[i] = 1; assert(!ANY(IN)) };
  SI(assert(XVAL == 0));                     /* no process may ever find inconsistent data */
  SI(XW(1));
  SI(assert(XVAL == 1));                     /* no late store of another process may hit ours */
  SI(XW(0));
  atomic { cs[i] = 0 };
#if defined(NOINTENT) || defined(EARLYSEQ)
  SI(atomic { SEQ });
#endif
#ifdef NOINTENT
  SI(SLOTW(0));
#else
  SI(SLOTW(MARK(E|I)));
#endif
  MAYSTOP;
  if                                         /* sem_post */
  :: atomic { DRAIN -> POST; tok[i] = 0 }
  :: DIE
  :: QUIT
  fi;
  MAYSTOP;
#ifndef NOINTENT
#ifndef EARLYSEQ
  SX(atomic { SEQ });
#endif
  SX(SLOTW(0));
#endif
  goto again;

stale:                                       /* the token of an old epoch is dropped */
  ST(SLOTW(0));
  ST(atomic { DRAIN -> tok[i] = 0 });
  goto again;

#ifdef ABANDON
outside:                                     /* an exception where the slot is e|I or 0 */
#ifndef QUIETQUIT
  ST(atomic { SEQ });
#endif
  ST(atomic { SLOTW(0); tok[i] = 0 });
  atomic { DROP };
  goto again;

inside:                                      /* an exception where the slot is e: the token is certainly ours */
  ST(atomic { SLOTW(0); tok[i] = 0 });
  if :: goto rec :: goto again fi;           /* (a second exception) */
#endif

failed:                                      /* nothing taken */
  MAYSTOP;
#ifndef NOINTENT
  ST(SLOTW(0));
#endif
#ifdef HASTY
  if :: goto rec :: goto again :: DIE fi;
#else
  if
  :: looking
  :: atomic { !looking && SUSPECT -> COUNTIT; looking = 1 }
  :: !looking && (GONE || TOKENS > 0 || !OPEN) -> goto again  /* nap until there is a reason to try */
  :: DIE
  fi;
  MAYSTOP;
look:
  do
  :: atomic { GONE -> DROP; goto again }
  :: atomic { !GONE && j < N && (j == i || (slot[j] != E && slot[j] != (E|I))) -> j++ }
  :: !GONE && j < N && j != i && slot[j] == E ->
     if :: atomic { alive[j] -> HELD } :: atomic { !alive[j] -> j++ } :: DIE fi
  :: !GONE && j < N && j != i && slot[j] == (E|I) ->
     if
     :: atomic { alive[j] && ONCE -> WAITED(1); goto again }  /* nap, try, and look at this slot again */
     :: atomic { alive[j] && GIVEUP -> GAVE(1); j++ }
     :: atomic { !alive[j] -> j++ }
     :: DIE
     fi
  :: atomic { !GONE && j >= N -> break }
  :: DIE
  od;
#ifdef ANYSET
  if :: atomic { waited[i] -> WAITED(0); j = 0; goto again } :: !waited[i] fi;
#endif
#endif
rec:
  if
  :: atomic { rlock == 0 -> rlock = i+1; j = 0 }
  :: rlock != 0 -> goto again
  :: DIE
  fi;
  if
  :: GONE -> goto unlock                     /* another process has recovered meanwhile */
  :: !GONE
  :: DIE
  fi;
  if
  :: OPEN ->
#ifndef NORELOOK
     do
     :: atomic { j < N && (j == i || slot[j] != E) -> j++ }
     :: j < N && j != i && slot[j] == E ->
        if :: alive[j] -> goto unlock :: atomic { !alive[j] -> j++ } :: DIE fi
     :: atomic { j >= N -> j = 0; break }
     :: DIE
     od;
#endif
#ifndef NOSEQ
     if :: seq[i] == MOVED -> goto unlock :: seq[i] != MOVED :: DIE fi
#endif
  :: else
#ifdef NOREFENCE
     -> goto holders
#endif
  fi;
  if :: atomic { true -> BEGINS; G = E | R; DROP } :: DIE fi;
#if defined(BUFFERED) && !defined(NOFENCE1)
  atomic { ALL(NOTE) };                      /* fence 1: visibility delay */
  do
  :: atomic { j < N && !older[j] -> j++ }
  :: atomic { j >= N -> j = 0; break }
  :: DIE
  od;
#endif
holders:
#ifndef NOWAIT
  do                                         /* wait for those who are inside: an intent will fail its check */
  :: atomic { j < N && slot[j] != E -> j++ }
  :: j < N && slot[j] == E ->
     if :: alive[j] :: alive[j] -> goto unlock :: atomic { !alive[j] -> j++ } :: DIE :: LEAVE fi
  :: atomic { j >= N -> j = 0; break }
  :: DIE
  od;
#endif
#if defined(PSO) && !defined(NOFENCE2)
  do                                         /* fence 2: the last holder's data stores are visible */
  :: atomic { j < N && xbuf[j] == NONE -> j++ }
  :: atomic { j >= N -> j = 0; break }
  :: DIE
  od;
#endif
  /* ---- recovery of the data, alone ---- */
  skip;
  atomic { cs[i] = 1; assert(!ANY(IN)) };
#ifndef NOREPAIR
  SR(XW(1));
  SR(XW(0)); SR(DRAIN);
#endif
  atomic { cs[i] = 0 };
#ifdef EPOCHS
  SR(atomic { CREATE });                     /* sem_unlink(stale); sem_open(/name.<new>, O_CREAT|O_EXCL, 1) */
#endif
  SR(atomic { OPENNEXT });
unlock:
  atomic { RESTART; FORGET };
  ST(rlock = 0);
  goto again;

dead:                                        /* SIGKILL: executed stores drain, then the locks are released */
  atomic { EMPTY; EMPTYX; cs[i] = 0; tok[i] = 0; ep[i] = 0; DROP; FORGET };
  if
  :: rlock == i+1 -> if :: alive[i] = 0; rlock = 0 :: rlock = 0; alive[i] = 0 fi
  :: else -> alive[i] = 0
  fi;
  goto born;
#ifdef STOP
halt:
  false
#endif
}

#ifdef BUFFERED
proctype Mem(byte i) {                       /* one for each process, so that fairness empties every buffer */
end:
  do
  :: atomic { buf[i] != NONE -> EMPTY }
#ifdef PSO
  :: atomic { xbuf[i] != NONE -> EMPTYX }
#endif
  od
}
#endif

#define RUN(k)    run P(k)
#define RUNMEM(k) buf[k] = NONE; run Mem(k)
#define CLEARX(k) xbuf[k] = NONE
init {
  atomic {
#ifdef EPOCHS
    sem[S(CUR)] = 1;
#endif
#ifdef BUFFERED
    ALL(RUNMEM);
#endif
#ifdef PSO
    ALL(CLEARX);
#endif
    ALL(RUN)
  }
}
