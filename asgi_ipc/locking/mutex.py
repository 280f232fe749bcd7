"""
The robust mutex: a critical section that survives the death of its holder.

If a holder is killed, the token of a named semaphore is lost.  So each *epoch* has its own semaphore.  A process first
writes its *intent*, the epoch + 1, into its slot, and takes the token.  Then it writes the epoch there and checks that
this is still the current epoch.  A process that sees no progress (``contention``) finds out from the slots and byte
locks that no live process has the token, recovers the store and opens the next epoch (``recovery``).  Two holders at
the same time would be possible only if a token of a past epoch could pass the check.  It cannot, however long any step
is delayed.  Intents only say when to recover.  ``tests/model`` checks the protocol exhaustively; docs/design.rst
explains it.

``RobustMutex.run`` defines how a process enters and leaves.  The two operations on the hot path have copies of it, to
save a call; ``tests/locking/test_protocol_copies.py`` proves that the copies are equal.

No process ever sleeps *on* the semaphore: a waiter spins briefly, then naps.  A critical section is shorter than a
sleep, a nap does not depend on the wall clock as ``sem_timedwait`` does, and killed sleepers would make a glibc
semaphore slow for as long as it exists.  A thread that naps releases the in-process lock, so that another thread of the
process never waits for a process that the first one waits for.

A critical section prepares everything first and commits it with one word store.  It returns refusals as values.  An
exception in it counts as a crash: the token is not returned, and the store is recovered as after a kill.
"""

from __future__ import annotations

__all__ = ["BusyError", "RobustMutex"]

import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from ..clock import monotonic_ns
from ..exceptions import SegmentBusy, SegmentCorrupt, SegmentGone
from ..shm.layout import (
    AT_EPOCH,
    AT_INTERRUPTED,
    AT_SCRATCH,
    AT_SEQ,
    AT_SLOTS,
    AT_STARVING,
    SLOT_WORDS,
    WORD,
)
from ..shm.segment import Segment
from .contention import Contender, WouldBlock
from .liveness import Liveness
from .recovery import EXCEPTION, Recovery
from .reentrancy import NOT_INSIDE, Entry, acquire_surely, is_nested, is_ours, is_owned, refuse_nested
from .threads import ThreadLock
from .token import BusyError, Token, no_post, no_token
from .turns import Turns

R = TypeVar("R")

#: Tries without a nap; before the first nap twice as many. A try takes 0.2 µs and a critical section about 2 µs.
SPINS = 10
#: How often a call that must not wait naps before it raises ``WouldBlock``: for less than a millisecond in all.
BRIEF_NAPS = 4
#: What a critical section raises in a damaged segment, for offsets out of range, values too large for a word, and
#: names that are not ASCII.
DAMAGE = (IndexError, ValueError, OverflowError)

_mutexes: weakref.WeakSet[RobustMutex] = weakref.WeakSet()


class RobustMutex:
    """
    Exclusive access to one segment, for every thread of every process.

    ``recover()`` is called inside the critical section after a holder has died: it rebuilds the derived words.
    ``patience`` is how many seconds a caller waits for a holder that is alive but stopped (SIGSTOP, a debugger).
    """

    def __init__(self, segment: Segment, liveness: Liveness, recover: Callable[[], None], patience: float) -> None:
        self.segment = segment
        self.words = segment.words
        self.liveness = liveness
        self.recovery = Recovery(segment, liveness, recover)
        self.patience = patience
        self._forget()
        _mutexes.add(self)

    def _forget(self) -> None:
        """Reset: this is a new object, or a forked child, which inherits neither locks nor threads."""
        self.threads = ThreadLock()
        self.lock = self.threads.lock  # for the hot path
        #: The mark of every call of this mutex, in turn. New in a forked child: frames of the parent keep theirs.
        self.entry = Entry()
        #: That mark while a call is inside. An RLock cannot tell "free" from "held further up this stack".
        self.inside: Entry | None = None
        self.liveness.release_slot()
        self.slot_at = AT_SCRATCH
        self._close_nothing()
        self.turns = Turns(self.words)
        #: For each event loop of this process that waits for this mutex: when the first of its waits began (ns).
        self.queueing: set[int] = set()

    def _close_nothing(self) -> None:
        """Have no epoch open."""
        self.epoch, self.intent = 0, 1
        self._token: Token | None = None
        self.token: Callable[[float], Any] = no_token
        self.post: Callable[[], None] = no_post

    def run(self, critical_section: Callable[..., R], *args: Any, waits: bool = True, **named: Any) -> R:
        """
        Return ``critical_section(*args, **named)``, run while no other thread or process is inside.

        Raises ``SegmentBusy`` if a live holder has made no progress for ``patience`` seconds, ``SegmentGone`` if the
        segment was removed, ``SegmentCorrupt`` if the critical section found damage, ``RuntimeError`` if called from
        a signal handler or finaliser that interrupted this thread inside the critical section. Without ``waits``, it
        raises ``WouldBlock`` instead of waiting for longer than a millisecond.
        """
        entry = NOT_INSIDE
        try:
            with self.lock:
                if self.inside is not None:
                    self.resolve_inside()
                entry = self.inside = self.entry
                words = self.words
                words[self.slot_at] = self.intent
                try:
                    if self.token(0):
                        raise BusyError
                except BusyError:
                    self.enter(waits)
                else:
                    epoch = self.epoch
                    words[self.slot_at] = epoch  # store first
                    if words[AT_EPOCH] != epoch:  # then check
                        self.enter(waits)
                result = critical_section(*args, **named)
                if self.inside is entry:  # False in a child that was forked inside: it holds no token
                    now = monotonic_ns()
                    words[self.slot_at] = self.intent
                    self.post()
                    words[AT_SEQ] = now
                    words[self.slot_at] = 0
                    self.inside = None
            return result
        except BaseException as error:
            self.abandon(entry, error)
            raise

    # -- the slow path ----------------------------------------------------------------------------------------

    def enter(self, waits: bool) -> None:
        """
        Wait for the token, recovering from dead holders. Returns inside the critical section.

        The caller holds the in-process lock. Without ``waits``, raises ``WouldBlock`` soon.
        """
        if ((first := self.words[AT_STARVING]) == 0 or first in self.queueing) and self._try_enter():  # nearly always
            return
        contender, naps = self.contender(), 0
        while True:
            nap = self._advance(contender)
            if not contender.gives_way and self._try_enter():
                contender.finish()
                self.turns.begin()
                return
            if not waits and (naps == BRIEF_NAPS or self.queueing):
                raise WouldBlock(self)
            self._nap(nap)
            naps += 1

    def contender(self) -> Contender:
        """Return a new wait for this mutex."""
        return Contender(self.recovery, self.open_epoch, self.patience)

    def advance(self, contender: Contender) -> float:
        """
        Do one step of a wait that takes place elsewhere, in an event loop. Returns the seconds to pause.

        Raises what ``run`` raises, except ``WouldBlock``.
        """
        entry = NOT_INSIDE
        try:
            with self.lock:
                if self.inside is not None:
                    self.resolve_inside()
                entry = self.inside = self.entry
                nap = self._advance(contender)
                self.inside = None
            return nap
        except BaseException as error:
            self.abandon(entry, error)
            raise

    def _advance(self, contender: Contender) -> float:
        """Do one step of a wait, with a slot of this process."""
        if self.segment.fd < 0:  # in the meantime, another thread has closed it and attached to a new one
            raise SegmentGone(self.segment.name)
        if self.liveness.slot < 0:
            slot = self.liveness.lock_slot()
            self.slot_at = AT_SLOTS + slot * SLOT_WORDS  # first: with a slot, this must be its word
            self.liveness.slot = slot
        self.words[self.slot_at] = 0  # a crashed call of this process may have left it; none of its threads is inside
        return contender.advance()

    def _nap(self, seconds: float) -> None:
        """
        Sleep without the in-process lock.

        Meanwhile another thread may be inside, and so may a signal handler of this thread.
        """
        lock = self.lock
        self.turns.count_nap()
        self.inside = None
        lock.release()
        try:
            time.sleep(seconds)
        finally:
            acquire_surely(lock)
        self.inside = self.entry

    def _try_enter(self) -> bool:
        """Take a token of the epoch that is open here; False if there is none, or the epoch has ended."""
        words, token = self.words, self._token
        if token is None:
            return False
        words[self.slot_at] = self.intent
        for _ in range(SPINS):
            try:
                if token.acquire_keeping_gil(0):
                    continue
            except BusyError:
                continue
            epoch = self.epoch
            words[self.slot_at] = epoch  # store first
            if words[AT_EPOCH] == epoch:  # then check
                return True
            break  # the token of a past epoch gives no access
        words[self.slot_at] = 0
        return False

    def open_epoch(self, epoch: int) -> bool:
        """Open the epoch's semaphore if it is not open; False if it does not exist."""
        if epoch != self.epoch:
            semaphores = self.segment.semaphores
            semaphore = semaphores.open(epoch)
            if semaphore is None:
                return False
            self._close_token()
            self._token = Token(semaphore, semaphores.name(epoch))
            self.post = self._token.post
            self.epoch, self.intent = epoch, epoch | 1
            self.choose_try()
        return True

    def choose_try(self) -> None:
        """Keep the GIL during the first try if this process has several threads now. The slow path always does."""
        if self._token is not None:
            self.token = self._token.best_acquire()

    def _close_token(self) -> None:
        token = self._token
        self._close_nothing()
        if token is not None:
            token.close()

    # -- calls that raise -------------------------------------------------------------------------------------

    def abandon(self, entry: Entry, error: BaseException) -> None:
        """
        Clean up after a call of ``run`` that ended with an exception; ``entry`` is its mark.

        An error that damage caused is raised as ``SegmentCorrupt`` here. The caller raises every other error.
        """
        if entry is NOT_INSIDE:  # for example a nested call that was refused
            return
        try:
            with self.lock:
                if self.inside is entry and self.segment.fd >= 0:
                    self._end_crashed()
        finally:  # even if a second exception has interrupted that: then the next call recovers
            with self.lock:
                if self.inside is entry:
                    if self.segment.fd >= 0:  # else another thread closed the segment before this call entered
                        self.words[self.slot_at] = 0
                    self.inside = None
            if not is_nested(sys._getframe(1)):
                # CPython 3.9 can handle a signal between the end of a with block and its release
                while is_owned(self.lock):
                    self.lock.release()
        if isinstance(error, DAMAGE) and is_ours(error):
            why = f"{error}; the data that could not be trusted was dropped, and the rest is still usable"
            raise SegmentCorrupt(self.segment.name, why) from error

    def _end_crashed(self) -> None:
        """Clear this process's slot after an exception, and recover if the token is certainly lost."""
        words = self.words
        had = words[self.slot_at]
        if not had:
            return
        words[AT_SEQ] = monotonic_ns()  # before the next store: the token may have been given back just now
        words[self.slot_at] = 0
        if had == self.intent:  # then it may be lost: if it is, waiters will notice
            words[AT_INTERRUPTED] = self.epoch
        elif had == self.epoch != 0:
            self.recovery.run(self.epoch, None, EXCEPTION)

    def resolve_inside(self) -> None:
        """
        Raise ``RuntimeError`` if a call further up this stack is inside: a signal handler has interrupted it.

        This thread holds the lock. If that keeps all threads apart, the mark is otherwise that of a call whose
        ``abandon`` a second exception has interrupted. Its frame no longer exists, and entering recovers the store.
        """
        self.threads.checked()
        refuse_nested(sys._getframe(1), self.inside, self.segment.name, self.threads.is_native)

    # -- the end ----------------------------------------------------------------------------------------------

    def remove(self, waits: bool) -> None:
        """Remove the segment for every process that uses it. Without ``waits``, raises ``WouldBlock`` soon."""
        with self.lock:
            try:
                self.segment.remove(self.patience if waits else 0.0)
            except SegmentBusy:
                if waits:
                    raise
                raise WouldBlock(None) from None

    def close(self) -> None:
        """Release slot, semaphore and mapping. Waits for threads of this process that are inside."""
        with self.lock:
            self.words[self.slot_at] = 0
            self.leave_slot()
            self.words = memoryview(bytearray((AT_SCRATCH + 1) * WORD)).cast("Q")  # for calls that come too late
            self.segment.close()

    def leave_slot(self) -> None:
        """Have no slot, because it is given up or lost: the next call acquires one. The caller holds the lock."""
        self._close_token()
        self.liveness.release_slot()
        self.slot_at = AT_SCRATCH


def _after_fork_in_child() -> None:
    for mutex in list(_mutexes):
        mutex._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
