/* mutex.pml - robust mutex built on POSIX named semaphores, one semaphore per epoch.
 *
 * Real object                               Model
 *   G     header word: epoch                G        CUR, or CUR|R = "recovery of this epoch in progress"
 *   semaphore /name.<epoch>                 T        token count of the current epoch's semaphore;
 *                                                    void semaphores (older epochs): "any value"
 *   slot word of a process                  slot[i]  0 idle, else "holds a token of that epoch"
 *   epoch a process works with              ep[i]    CUR or OLD
 *   fcntl() write lock on byte 1+i          alive[i] (the kernel drops it when the process dies)
 *   fcntl() write lock on byte 0            rlock    (the kernel drops it when the process dies)
 *   the protected data                      x        (1 = inconsistent, 0 = consistent)
 *
 * Epochs are never reused and only compared for equality with the current one, so all older epochs are
 * merged into OLD (opening a new epoch relabels CUR->OLD everywhere): exact for the comparisons, and an
 * over-approximation for void semaphores.  mutex_detail.pml keeps real epochs and real semaphores.
 *
 * Every shared access is one step.  Before every step the process may be SIGKILLed (goto dead; a new
 * process then uses the same slot), and interleaving lets every process be delayed, i.e. stopped, for any
 * time between any two steps.
 *
 * -DN=2|3|4     processes (3)
 * -DMAXC=n      at most n kills (default: unlimited)
 * -DTSO         slot stores go through a store buffer;  -DPSO data stores too, unordered with them
 * -DNOFENCE1/2  leave out the 1st / 2nd fence of the recovery (membarrier or visibility delay)
 * -DPRESCAN     do not start a recovery while a live process holds a token of the epoch (the real code
 *               does this)
 * -DDROP        a void token is dropped (the real code does this: no waiter sleeps on a semaphore there);
 *               without it, it is passed on, to wake the next sleeper
 * -DABANDON     an exception may end a critical section (slot cleared, nothing posted; the process recovers
 *               or tries to enter again) or a recovery (the next process completes it); counts as a kill
 *               for MAXC
 * -DLIVE        for progress checks: process 0 never dies (use with MAXC), a wait times out only if the
 *               token is really lost (no running process owns it), plus MAXSP spurious timeouts (1)
 * -DLATECLEAR   a new owner continues before others see that its slot is zero (as in the real code)
 * -DSTOP        process 1 may stop for ever, except while it holds the mutex or recovers
 * -DONE         one semaphore for all epochs: release posts BEFORE it clears the slot, a token taken under
 *               an old epoch is dropped, the recoverer drains the semaphore and posts one token
 *               (-DNODRAIN: it does not drain)
 * deliberately broken:  -DNOCHECK (no re-check of the epoch)   -DNOCLEAR (a new owner does not zero its slot)
 *               -DNOWAIT (recovery does not wait for live holders)   -DNOREPAIR (recovery leaves the data)
 *               -DCHECKFIRST (epoch checked before the slot is written)
 *               -DNOTIMEOUT (waits never time out, as with a bare semaphore)
 */
#ifndef N
#define N 3
#endif
#define CUR 1
#define OLD 2
#define R 16
#define NONE 255
#ifndef MAXSP
#define MAXSP 1
#endif

byte G = CUR;
byte T = 1;
byte slot[N];
bool alive[N];
byte rlock;
byte ep[N];
bool tok[N];     /* ghost: live process i owns a token of ep[i] */
bool cs[N];      /* ghost: live process i is in the critical section or recovers */
bool x;
#ifdef MAXC
byte crashes;
#define MAYDIE crashes < MAXC -> crashes++
#define MAYQUIT crashes < MAXC -> crashes++
#else
#define MAYDIE true
#define MAYQUIT true
#endif
#ifdef LIVE
byte spur;
#undef MAYDIE
#define MAYDIE (i != 0 && crashes < MAXC) -> crashes++
#endif

#if defined(TSO) || defined(PSO)
#define BUFFERED
byte buf[N];     /* store buffer of process i for its slot word; NONE = empty */
#define SLOTW(v)  atomic { buf[i] == NONE -> buf[i] = (v) }
#define DRAINS    (buf[i] == NONE)
#else
#define SLOTW(v)  slot[i] = (v)
#define DRAINS    true
#endif
#ifdef PSO
byte xbuf[N];
#define XW(v)     atomic { xbuf[i] == NONE -> xbuf[i] = (v) }
#define XVAL      (xbuf[i] == NONE -> x : xbuf[i])
#define DRAINX    (xbuf[i] == NONE)
#else
#define XW(v)     x = (v)
#define XVAL      x
#define DRAINX    true
#endif
#define DRAIN     (DRAINS && DRAINX)

#define IN(k)     (i != k && cs[k])
#ifdef STOP
bool halted;     /* ghost: process 1 has stopped for ever */
#define RUNS(k)   (k != 1 || !halted)
#else
#define RUNS(k)   true
#endif
#define HAS(k)    (tok[k] && RUNS(k))
#define OWN(k)    (HAS(k) && ep[k] == CUR)
#define AGE(k)    if :: ep[k] == CUR -> ep[k] = OLD :: else fi; if :: slot[k] == CUR -> slot[k] = OLD :: else fi
#define AGEB(k)   if :: buf[k] == CUR -> buf[k] = OLD :: else fi
#if N == 2
#define OTHERS_IN (IN(0) || IN(1))
#define OWNED     (OWN(0) || OWN(1))
#define HELD      (HAS(0) || HAS(1))
#define AGEALL    AGE(0); AGE(1)
#define AGEBALL   AGEB(0); AGEB(1)
#elif N == 3
#define OTHERS_IN (IN(0) || IN(1) || IN(2))
#define OWNED     (OWN(0) || OWN(1) || OWN(2))
#define HELD      (HAS(0) || HAS(1) || HAS(2))
#define AGEALL    AGE(0); AGE(1); AGE(2)
#define AGEBALL   AGEB(0); AGEB(1); AGEB(2)
#else
#define OTHERS_IN (IN(0) || IN(1) || IN(2) || IN(3))
#define OWNED     (OWN(0) || OWN(1) || OWN(2) || OWN(3))
#define HELD      (HAS(0) || HAS(1) || HAS(2) || HAS(3))
#define AGEALL    AGE(0); AGE(1); AGE(2); AGE(3)
#define AGEBALL   AGEB(0); AGEB(1); AGEB(2); AGEB(3)
#endif
#ifndef BUFFERED
#undef AGEBALL
#define AGEBALL skip
#endif
#ifdef ONE
#define LOST      (T == 0 && !HELD)
#else
#define LOST      (ep[i] == CUR && T == 0 && !OWNED)
#endif

#ifdef NOTIMEOUT
#define TIMEOUT   false
#elif defined(LIVE)
#define TIMEOUT   atomic { ep[i] == OLD || LOST || spur < MAXSP -> if :: ep[i] == OLD || LOST :: else -> spur++ fi }
#else
#define TIMEOUT   true
#endif

#define DIE   atomic { MAYDIE; goto dead }
#define ST(s) if :: s :: DIE fi
#ifdef ABANDON
#define QUIT  atomic { MAYQUIT; goto broken }               /* out of the critical section */
#define LEAVE atomic { MAYQUIT; cs[i] = 0; goto unlock }    /* out of a recovery, which stays unfinished */
#else
#define QUIT  false
#define LEAVE false
#endif
#define SX(s) if :: s :: DIE :: QUIT fi
#define SR(s) if :: s :: DIE :: LEAVE fi
#ifdef STOP
#define MAYSTOP  if :: atomic { i == 1 && rlock != i+1 && slot[i] != CUR -> halted = 1; goto halt } :: true fi
#else
#define MAYSTOP  skip
#endif

proctype P(byte i) {
  byte j;
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
  if                                         /* read G; open semaphore /name.<G> */
  :: atomic { G == CUR -> ep[i] = CUR }
  :: atomic { G != CUR -> ep[i] = CUR; goto rec }
  :: DIE
  fi;
  MAYSTOP;
  if                                         /* sem_timedwait */
#ifdef ONE
  :: atomic { T > 0 -> T--; tok[i] = 1 }
#else
  :: atomic { ep[i] == CUR && T > 0 -> T--; tok[i] = 1 }
  :: atomic { ep[i] == OLD -> tok[i] = 1 }   /* void semaphore: may have any value */
#endif
  :: TIMEOUT -> goto rec
  :: DIE
  fi;
  MAYSTOP;
#ifdef CHECKFIRST
  if :: G == CUR && ep[i] == CUR :: !(G == CUR && ep[i] == CUR) -> goto stale :: DIE fi;
  ST(SLOTW(ep[i]));
#else
  SX(SLOTW(ep[i]));
#ifndef NOCHECK
  if
  :: G == CUR && ep[i] == CUR
  :: !(G == CUR && ep[i] == CUR) -> goto stale
  :: DIE
  fi;
#endif
#endif
  /* ---- critical section ---- */
  skip;
progress_cs:
  atomic { cs[i] = 1; assert(!OTHERS_IN) };
  SX(assert(XVAL == 0));                     /* no process may ever find inconsistent data */
  SX(XW(1));
  SX(assert(XVAL == 1));                     /* no late store of another process may hit ours */
  SX(XW(0));
  atomic { cs[i] = 0 };
#ifdef ONE
  if :: atomic { DRAIN -> T++; tok[i] = 0; assert(T <= 1) } :: DIE fi;
  ST(SLOTW(0));
#else
  SX(SLOTW(0));
  MAYSTOP;
  if                                         /* sem_post */
  :: atomic { DRAIN -> if :: ep[i] == CUR -> T++ :: else fi; tok[i] = 0; assert(T <= 1) }
  :: DIE
  :: QUIT
  fi;
#endif
  goto again;

stale:                                       /* void token of an old epoch */
  ST(SLOTW(0));
  MAYSTOP;
  if
#if defined(ONE) || defined(DROP)
  :: atomic { DRAIN -> tok[i] = 0 }          /* drop it */
#else
  :: atomic { DRAIN -> if :: ep[i] == CUR -> T++ :: else fi; tok[i] = 0 }  /* pass the wakeup on */
#endif
  :: DIE
  fi;
  goto again;

#ifdef ABANDON
broken:                                      /* exception in the critical section: clear, do not post, recover */
  atomic { cs[i] = 0 };
  ST(SLOTW(0));
  atomic { tok[i] = 0 };
  if :: goto rec :: goto again fi;
#endif

rec:
  MAYSTOP;
  if
  :: atomic { rlock == 0 -> rlock = i+1 }
  :: rlock != 0 -> goto again
  :: DIE
  fi;
  if
  :: G == CUR && ep[i] == OLD -> goto unlock /* another process has recovered meanwhile */
  :: !(G == CUR && ep[i] == OLD)
  :: DIE
  fi;
#ifdef PRESCAN
  if
  :: G == CUR ->
     do
     :: atomic { j < N && slot[j] != CUR -> j++ }
     :: j < N && slot[j] == CUR -> if :: alive[j] -> goto unlock :: atomic { !alive[j] -> j++ } :: DIE fi
     :: atomic { j >= N -> j = 0; break }
     :: DIE
     od
  :: else
  fi;
#endif
  ST(G = CUR | R);
#if defined(BUFFERED) && !defined(NOFENCE1)
  do                                         /* fence 1: membarrier(GLOBAL) or visibility delay */
  :: atomic { j < N && buf[j] == NONE -> j++ }
  :: atomic { j >= N -> j = 0; break }
  :: DIE
  od;
#endif
#ifndef NOWAIT
  do                                         /* wait until no live process holds a token of this epoch */
  :: atomic { j < N && slot[j] != CUR -> j++ }
  :: j < N && slot[j] == CUR -> if :: alive[j] :: atomic { !alive[j] -> j++ } :: DIE :: LEAVE fi
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
  atomic { cs[i] = 1; assert(!OTHERS_IN) };
#ifndef NOREPAIR
  SR(XW(1));
  SR(XW(0)); SR(DRAIN);
#endif
  atomic { cs[i] = 0 };
#ifdef ONE
#ifndef NODRAIN
  do :: atomic { T > 0 -> T-- } :: T == 0 -> break :: DIE od;
#endif
  ST(atomic { AGEALL; AGEBALL; G = CUR });
  if :: atomic { T++; assert(T <= 1) } :: DIE fi;
#else
  if                                         /* sem_open(/name.<new>, O_CREAT|O_EXCL, 1) came before */
  :: atomic { AGEALL; AGEBALL; T = 1; G = CUR }
  :: DIE
  :: LEAVE
  fi;
#endif
unlock:
  atomic { j = 0 };
  ST(rlock = 0);
  goto again;

dead:                                        /* SIGKILL: executed stores drain, then the locks are released */
#ifdef BUFFERED
  atomic { if :: buf[i] != NONE -> slot[i] = buf[i]; buf[i] = NONE :: else fi };
#endif
#ifdef PSO
  atomic { if :: xbuf[i] != NONE -> x = xbuf[i]; xbuf[i] = NONE :: else fi };
#endif
  atomic { cs[i] = 0; tok[i] = 0; ep[i] = 0; j = 0 };
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
#define FL(k)  :: atomic { buf[k] != NONE -> slot[k] = buf[k]; buf[k] = NONE }
#define FLX(k) :: atomic { xbuf[k] != NONE -> x = xbuf[k]; xbuf[k] = NONE }
proctype Mem() {
end:
  do
  FL(0) FL(1)
#if N > 2
  FL(2)
#endif
#if N > 3
  FL(3)
#endif
#ifdef PSO
  FLX(0) FLX(1)
#if N > 2
  FLX(2)
#endif
#if N > 3
  FLX(3)
#endif
#endif
  od
}
#endif

init {
  atomic {
#ifdef BUFFERED
    buf[0] = NONE; buf[1] = NONE;
#if N > 2
    buf[2] = NONE;
#endif
#if N > 3
    buf[3] = NONE;
#endif
    run Mem();
#endif
#ifdef PSO
    xbuf[0] = NONE; xbuf[1] = NONE;
#if N > 2
    xbuf[2] = NONE;
#endif
#if N > 3
    xbuf[3] = NONE;
#endif
#endif
    run P(0); run P(1);
#if N > 2
    run P(2);
#endif
#if N > 3
    run P(3);
#endif
  }
}
