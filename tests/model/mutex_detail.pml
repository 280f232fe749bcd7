/* mutex_detail.pml - robust mutex built on POSIX named semaphores, one semaphore per epoch.
 *
 * Real object                                   Model
 *   G     header word: epoch                    G         (value, or value|R = recovery in progress)
 *   semaphore /name.<epoch>                     sem[e]
 *   slot word of a process                      slot[i]   (0 idle, e = "holds token of epoch e")
 *   fcntl() write lock on byte 1+i              alive[i]  (the kernel drops it when the process dies)
 *   fcntl() write lock on byte 0                rlock     (the kernel drops it when the process dies)
 *   the protected data                          x         (1 = inconsistent, 0 = consistent)
 *
 * Every shared access is one step.  Before every step the process may be SIGKILLed (goto dead; a new
 * process then uses the same slot), and interleaving lets every process be delayed, i.e. stopped, for any
 * time between any two steps.
 * Epochs are only compared for equality, so "a number never used before" is modelled exactly by
 * "a number no live process and no slot refers to" (ghost ep[]): finite state, unbounded recoveries.
 *
 * -DN=2|3       processes (3)
 * -DMAXC=n      at most n kills (default: unlimited)
 * -DTSO         slot stores go through a store buffer;  -DPSO data stores too, unordered with them
 * -DNOFENCE1/2  leave out the 1st / 2nd fence of the recovery (membarrier or visibility delay)
 * -DPRESCAN     do not recover while a live process holds a token of the epoch (the real code does this)
 * -DDROP        a void token is dropped, the old semaphore not posted (the real code does this: no waiter
 *               sleeps on a semaphore there); without it, it is passed on, to wake the next sleeper
 * -DABANDON     an exception may end a critical section (slot cleared, nothing posted; the process recovers
 *               or tries to enter again) or a recovery (the next process completes it); counts as a kill
 *               for MAXC
 * -DLIVE        for progress checks: process 0 never dies (use with MAXC), a wait times out only if the
 *               token is really lost (no running process owns it), plus MAXSP spurious timeouts (1)
 * -DLATECLEAR   a new owner continues before others see that its slot is zero (as in the real code)
 * -DSTOP        process 1 may stop for ever, except while it holds the mutex or recovers
 * deliberately broken:  -DNAIVE (no re-check of the epoch)  -DONESEM (the same semaphore for all epochs)
 *               -DNOCLEAR (a new owner of a slot does not zero it)
 *               -DCLEAR0 (recovery does not wait for live holders)
 *               -DNOTIMEOUT (waits never time out, as with a bare semaphore)
 */
#ifndef N
#define N 3
#endif
#define K (2*N+1)
#define R 16
#define CAP 2
#define NONE 255
#ifndef MAXSP
#define MAXSP 1
#endif

byte G = 1;
byte sem[K+1];
byte slot[N];
bool alive[N];
byte rlock;
byte ep[N];      /* epoch process i works with (names the semaphore it has open) */
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

#ifdef STOP
bool halted;     /* ghost: process 1 has stopped for ever */
#define RUNS(k)    (k != 1 || !halted)
#else
#define RUNS(k)    true
#endif
#define OWN(k,e)   (tok[k] && RUNS(k) && ep[k] == e)

#ifdef ONESEM
#define S(e) 1
#else
#define S(e) (e)
#endif

#if N > 2
#define OTHERS_IN  ((i!=0 && cs[0]) || (i!=1 && cs[1]) || (i!=2 && cs[2]))
#define REF(n)     (ep[0]==n || ep[1]==n || ep[2]==n || slot[0]==n || slot[1]==n || slot[2]==n)
#define BREF(n)    (buf[0]==n || buf[1]==n || buf[2]==n)
#define LOST(e)    (sem[S(e)]==0 && !OWN(0,e) && !OWN(1,e) && !OWN(2,e))
#else
#define OTHERS_IN  ((i!=0 && cs[0]) || (i!=1 && cs[1]))
#define REF(n)     (ep[0]==n || ep[1]==n || slot[0]==n || slot[1]==n)
#define BREF(n)    (buf[0]==n || buf[1]==n)
#define LOST(e)    (sem[S(e)]==0 && !OWN(0,e) && !OWN(1,e))
#endif
#if !defined(TSO) && !defined(PSO)
#undef BREF
#define BREF(n) false
#endif

#ifdef NOTIMEOUT
#define TIMEOUT    false
#elif defined(LIVE)
#define TIMEOUT    atomic { LOST(ep[i]) || spur < MAXSP -> if :: LOST(ep[i]) :: else -> spur++ fi }
#else
#define TIMEOUT    true
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
#define MAYSTOP  if :: atomic { i == 1 && rlock != i+1 && slot[i] != (G & 15) -> halted = 1; goto halt } :: true fi
#else
#define MAYSTOP  skip
#endif

proctype P(byte i) {
  byte g, j, n;
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
  :: atomic { !(G & R) -> ep[i] = G }
  :: atomic { (G & R) -> ep[i] = G & 15; goto rec }
  :: DIE
  fi;
  if
  :: atomic { sem[S(ep[i])] > 0 -> sem[S(ep[i])]--; tok[i] = 1 }
  :: TIMEOUT -> goto rec
  :: DIE
  fi;
  MAYSTOP;
  SX(SLOTW(ep[i]));
#ifndef NAIVE
  if
  :: G == ep[i]
  :: G != ep[i] -> goto stale
  :: DIE
  fi;
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
  SX(SLOTW(0));
  MAYSTOP;
  if
  :: atomic { DRAIN -> if :: sem[S(ep[i])] < CAP -> sem[S(ep[i])]++ :: else fi; tok[i] = 0;
              assert(sem[S(ep[i])] <= 1 || ep[i] != G) }
  :: DIE
  :: QUIT
  fi;
  goto again;

stale:                                       /* void token of an old epoch */
  ST(SLOTW(0));
  MAYSTOP;
  if
#if defined(ONESEM) || defined(DROP)
  :: atomic { DRAIN -> tok[i] = 0 }          /* drop it */
#else
  :: atomic { DRAIN -> if :: sem[ep[i]] < CAP -> sem[ep[i]]++ :: else fi; tok[i] = 0 } /* wake the next */
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
  ST(g = G);
  if :: (g != ep[i] && !(g & R)) -> goto unlock :: else fi;     /* another process has recovered */
#ifdef PRESCAN
  if
  :: !(g & R) ->
     do
     :: atomic { j < N && slot[j] != g -> j++ }
     :: j < N && slot[j] == g -> if :: alive[j] -> goto unlock :: !alive[j] -> j++ fi
     :: j >= N -> break
     :: DIE
     od;
     j = 0
  :: else
  fi;
#endif
  ST(G = g | R);
  g = g & 15;
#if (defined(TSO) || defined(PSO)) && !defined(NOFENCE1)
  do                                         /* fence 1: membarrier(GLOBAL) or visibility delay */
  :: atomic { j < N && buf[j] == NONE -> j++ }
  :: j >= N -> break
  :: DIE
  od;
  j = 0;
#endif
#ifndef CLEAR0
  do                                         /* wait until no live process holds a token of epoch g */
  :: atomic { j < N && slot[j] != g -> j++ }
  :: j < N && slot[j] == g -> if :: alive[j] :: !alive[j] -> j++ :: DIE :: LEAVE fi
  :: j >= N -> break
  :: DIE
  od;
  j = 0;
#endif
#if defined(PSO) && !defined(NOFENCE2)
  do                                         /* fence 2: the last holder's data stores are visible */
  :: atomic { j < N && xbuf[j] == NONE -> j++ }
  :: j >= N -> break
  :: DIE
  od;
  j = 0;
#endif
  /* ---- recovery of the data, alone ---- */
  skip;
  atomic { cs[i] = 1; assert(!OTHERS_IN) };
  SR(XW(1));
  SR(XW(0)); SR(DRAIN);
  atomic { cs[i] = 0 };
  if
  :: atomic { n = 1;
       do :: n <= K && (n == g || REF(n) || BREF(n)) -> n++ :: else -> break od;
       assert(n <= K);
#ifndef ONESEM
       sem[n] = 1                            /* sem_unlink(stale); sem_open(O_CREAT|O_EXCL, 1) */
#endif
     }
  :: DIE
  :: LEAVE
  fi;
  SR(G = n);
  n = 0;
#ifdef ONESEM
  if :: atomic { if :: sem[1] < CAP -> sem[1]++ :: else fi; assert(sem[1] <= 1) } :: DIE fi;
#elif !defined(DROP)
  if :: atomic { if :: sem[g] < CAP -> sem[g]++ :: else fi } :: DIE fi;   /* wake the old epoch's sleepers */
#endif
unlock:
  atomic { g = 0; j = 0; n = 0 };
  ST(rlock = 0);
  goto again;

dead:                                        /* SIGKILL: executed stores drain, then the locks are released */
#if defined(TSO) || defined(PSO)
  atomic { if :: buf[i] != NONE -> slot[i] = buf[i]; buf[i] = NONE :: else fi };
#endif
#ifdef PSO
  atomic { if :: xbuf[i] != NONE -> x = xbuf[i]; xbuf[i] = NONE :: else fi };
#endif
  atomic { cs[i] = 0; tok[i] = 0; ep[i] = 0; g = 0; j = 0; n = 0 };
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

#if defined(TSO) || defined(PSO)
proctype Mem() {
end:
  do
  :: atomic { buf[0] != NONE -> slot[0] = buf[0]; buf[0] = NONE }
  :: atomic { buf[1] != NONE -> slot[1] = buf[1]; buf[1] = NONE }
#if N > 2
  :: atomic { buf[2] != NONE -> slot[2] = buf[2]; buf[2] = NONE }
#endif
#ifdef PSO
  :: atomic { xbuf[0] != NONE -> x = xbuf[0]; xbuf[0] = NONE }
  :: atomic { xbuf[1] != NONE -> x = xbuf[1]; xbuf[1] = NONE }
#if N > 2
  :: atomic { xbuf[2] != NONE -> x = xbuf[2]; xbuf[2] = NONE }
#endif
#endif
  od
}
#endif

init {
  atomic {
    sem[1] = 1;
#if defined(TSO) || defined(PSO)
    buf[0] = NONE; buf[1] = NONE;
#if N > 2
    buf[2] = NONE;
#endif
    run Mem();
#endif
#ifdef PSO
    xbuf[0] = NONE; xbuf[1] = NONE;
#if N > 2
    xbuf[2] = NONE;
#endif
#endif
    run P(0); run P(1);
#if N > 2
    run P(2);
#endif
  }
}
