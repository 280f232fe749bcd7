"""
The robust mutex: a critical section that survives the death of its holder.

If a holder is killed, the token of a named semaphore is lost.  So each *epoch* has its own semaphore.  A holder writes
the epoch into its slot and then checks that this is still the current epoch.  A process that sees no progress proves
from the byte locks that no live process holds the token, recovers the store and opens the next epoch.  Two holders at
the same time would be possible only if a token of a past epoch could pass the check.  It cannot, however long any step
is delayed.  ``tests/model`` checks the protocol exhaustively; docs/design.rst explains it.

``RobustMutex.run`` defines how a process enters and leaves.  The two operations on the hot path have copies of it, to
save a call; ``tests/locking/test_protocol_copies.py`` proves that the copies are equal.

No process ever sleeps *on* the semaphore: a waiter spins briefly, then naps.  A critical section is shorter than a
sleep, a nap does not depend on the wall clock as ``sem_timedwait`` does, and killed sleepers would make a glibc
semaphore slow for as long as it exists.

A critical section prepares everything first and commits it with one word store.  It returns refusals as values.  An
exception in it counts as a crash: the token is not returned, and the store is recovered as after a kill.
"""

from __future__ import annotations

__all__ = ["BusyError", "RobustMutex"]

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from posix_ipc import BusyError

from ..exceptions import SegmentBusy, SegmentCorrupt, SegmentGone
from ..shm.layout import AT_EPOCH, AT_NAPS, AT_SCRATCH, AT_SEQ, AT_SLOTS, COUNTED, SLOT_WORDS, TOMBSTONE
from ..shm.segment import ADMIN_LOCK_BYTE, FIRST_EPOCH, Segment
from .liveness import Liveness
from .reentrancy import NOT_INSIDE, Entry, holds, is_nested, is_ours

logger = logging.getLogger("asgi_ipc")

R = TypeVar("R")

#: Tries without a nap; before the first nap twice as many. A try takes 0.3 µs and a critical section about 2 µs.
SPINS = 10
#: Seconds: the first and the longest nap of a waiter. Each nap is twice as long as the one before.
FIRST_NAP, LONGEST_NAP = 0.00005, 0.001
#: Seconds without progress after which a waiter checks whether the holder has died.
SUSPICION = 0.02
#: Seconds after which a store by any core is visible to all cores.
VISIBILITY = 0.002
#: Epochs are even and below the tombstone; after this one (only a damaged word gets there) they start again.
LAST_EPOCH = 2**62
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
        self.recover = recover
        self.patience = patience
        self._forget()
        _mutexes.add(self)

    def _forget(self) -> None:
        """Reset: this is a new object, or a forked child, which inherits neither locks nor threads."""
        self.lock = threading.RLock()
        #: The mark of every call of this mutex, in turn. New in a forked child: frames of the parent keep theirs.
        self.entry = Entry()
        #: That mark while a call is inside. An RLock cannot tell "free" from "held further up this stack".
        self.inside: Entry | None = None
        self.liveness.release_slot()
        self.slot_at = AT_SCRATCH
        self.epoch = 0
        self._semaphore: Any = None
        self.token: Callable[[float], None] = _no_token
        self.post: Callable[[], None] = _no_post
        self._naps = self._given_way = 0  # of this process; of others, by the count that it last gave way to

    def run(self, critical_section: Callable[..., R], *args: Any, **named: Any) -> R:
        """
        Return ``critical_section(*args, **named)``, run while no other thread or process is inside.

        Raises ``SegmentBusy`` if a live holder has made no progress for ``patience`` seconds, ``SegmentGone`` if the
        segment was removed, ``SegmentCorrupt`` if the critical section found damage, ``RuntimeError`` if called from
        a signal handler or finaliser that interrupted this thread inside the critical section.
        """
        entry = NOT_INSIDE
        try:
            with self.lock:
                if self.inside is not None:
                    self.resolve_inside()
                entry = self.inside = self.entry
                try:
                    self.token(0)
                except BusyError:
                    self.enter()
                else:
                    words, epoch = self.words, self.epoch
                    words[self.slot_at] = epoch  # store first
                    if words[AT_EPOCH] != epoch:  # then check
                        self.enter()
                result = critical_section(*args, **named)
                if self.inside is entry:  # False in a child that was forked inside: it holds no token
                    words = self.words
                    words[AT_SEQ] += 1
                    words[self.slot_at] = 0
                    self.post()
                    self.inside = None
            return result
        except BaseException as error:
            self.abandon(entry, error)
            raise

    # -- the slow path ----------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Wait for the token, recovering from dead holders. Returns inside the critical section."""
        words = self.words
        if self._try_enter():  # nearly always
            return
        if self.segment.fd < 0:  # in the meantime, another thread has closed it and attached to a new one
            raise SegmentGone(self.segment.name)
        if self.liveness.slot < 0:
            slot = self.liveness.lock_slot()
            self.slot_at = AT_SLOTS + slot * SLOT_WORDS  # first: with a slot, this must be its word
            self.liveness.slot = slot
        words[self.slot_at] = 0  # a crashed call of this process may have left it; none of its threads is inside
        seq, nap = words[AT_SEQ], FIRST_NAP
        looked = moved = time.monotonic()
        while True:
            epoch = words[AT_EPOCH]
            if epoch == TOMBSTONE:
                raise SegmentGone(self.segment.name)
            if epoch & 1 or not self._open_semaphore(epoch):
                self._recover(epoch & ~1)
            elif self._try_enter():
                return
            elif words[AT_EPOCH] != epoch:
                continue
            now = time.monotonic()
            if words[AT_SEQ] != seq:
                seq, nap, looked, moved = words[AT_SEQ], FIRST_NAP, now, now
            elif now - moved > self.patience:
                holder = self.liveness.live_holder(words[AT_EPOCH] & ~1)
                if holder is None:  # then a recovering process is stopped
                    holder = self.segment.locks.holder(ADMIN_LOCK_BYTE)
                raise SegmentBusy(self.segment.name, holder or None, self.patience)
            elif now - looked > SUSPICION:
                looked = now
                self._recover(epoch & ~1)
            self._naps, words[AT_NAPS] = self._naps + 1, (words[AT_NAPS] + 1) % COUNTED  # not exact: without the mutex
            time.sleep(nap)
            nap = min(2 * nap, LONGEST_NAP)

    def give_way(self) -> None:
        """Let napping waiters in, between two critical sections of one long operation."""
        try:
            others = self.words[AT_NAPS] - self._naps
        except (ValueError, IndexError):  # another thread has closed the segment
            return
        if others != self._given_way:
            self._given_way = others
            time.sleep(FIRST_NAP)

    def _try_enter(self) -> bool:
        """Take a token of the epoch whose semaphore is open; False if there is none, or the epoch has ended."""
        words = self.words
        for _ in range(SPINS):
            try:
                self.token(0)
            except BusyError:
                continue
            words[self.slot_at] = self.epoch  # store first
            if words[AT_EPOCH] == self.epoch:  # then check
                return True
            words[self.slot_at] = 0  # the token of a past epoch gives no access
        return False

    def _open_semaphore(self, epoch: int) -> bool:
        """Open the epoch's semaphore if it is not open; False if it does not exist."""
        if epoch == self.epoch:
            return True
        semaphore = self.segment.semaphores.open(epoch)
        if semaphore is None:
            return False
        self._drop_semaphore()
        self._semaphore, self.token, self.post, self.epoch = semaphore, semaphore.acquire, semaphore.release, epoch
        return True

    def _drop_semaphore(self) -> None:
        semaphore, self._semaphore = self._semaphore, None
        self.token, self.post, self.epoch = _no_token, _no_post, 0
        if semaphore is not None:
            semaphore.close()

    # -- recovery ---------------------------------------------------------------------------------------------

    def _recover(self, epoch: int) -> None:
        """
        Recover the store and open the next epoch, if ``epoch`` has lost its token.

        Does nothing if another process is doing it or has done it, or if a live process holds the token. The caller
        holds the in-process lock.
        """
        locks = self.segment.locks
        try:
            try:
                if not locks.lock(ADMIN_LOCK_BYTE):
                    time.sleep(VISIBILITY / 2)
                elif self._has_lost_token(epoch):
                    self._open_next(epoch)
            finally:
                locks.unlock(ADMIN_LOCK_BYTE)
        finally:
            # Again: an exception may have come just before. This does not release a lock of another process.
            locks.unlock(ADMIN_LOCK_BYTE)

    def _has_lost_token(self, epoch: int) -> bool:
        """True if the epoch is open and no live process holds its token, or if its end was begun."""
        now_open = self.words[AT_EPOCH]
        return now_open == epoch | 1 or (now_open == epoch and self.liveness.live_holder(epoch) is None)

    def _open_next(self, epoch: int) -> None:
        """Recover the store and open the next epoch. The caller holds the admin lock."""
        words = self.words
        words[AT_EPOCH] = epoch | 1
        time.sleep(VISIBILITY)  # then the slot of any process that checked before that store is visible
        self._await_holders(epoch)
        time.sleep(VISIBILITY)  # then the last stores of the last holder are visible
        self.recover()
        following = epoch + 2 if epoch < LAST_EPOCH else FIRST_EPOCH
        words[AT_SEQ] = (words[AT_SEQ] + 1) % COUNTED
        while not self.segment.semaphores.create(following):
            following += 2
        self.segment.semaphores.unlink(epoch)  # before the commit, so that a kill in between leaks no semaphore
        words[AT_EPOCH] = following  # commit
        logger.info("%s: recovered after a process ended inside the critical section", self.segment.name)

    def _await_holders(self, epoch: int) -> None:
        deadline = time.monotonic() + self.patience
        while True:
            pid = self.liveness.live_holder(epoch)
            if pid is None:
                return
            if time.monotonic() > deadline:
                raise SegmentBusy(self.segment.name, pid or None, self.patience)
            time.sleep(LONGEST_NAP)

    # -- calls that raise -------------------------------------------------------------------------------------

    def abandon(self, entry: Entry, error: BaseException) -> None:
        """
        Clean up after a call of ``run`` that ended with an exception; ``entry`` is its mark.

        An error that damage caused in a critical section is raised as ``SegmentCorrupt`` here. The caller raises every
        other error.
        """
        if entry is NOT_INSIDE:  # for example a nested call that was refused
            return
        try:
            with self.lock:
                if self.inside is entry and self.segment.fd >= 0 and self.words[self.slot_at]:
                    self.words[self.slot_at] = 0
                    self._recover(self.epoch)
        finally:  # even if a second exception has interrupted that: then the next call recovers
            with self.lock:
                if self.inside is entry:
                    if self.segment.fd >= 0:  # else another thread closed the segment before this call entered
                        self.words[self.slot_at] = 0
                    self.inside = None
            if not is_nested(sys._getframe(1)):
                # CPython 3.9 can handle a signal between the end of a with block and its release
                while self.lock._is_owned():  # type: ignore[attr-defined]
                    self.lock.release()
        if isinstance(error, DAMAGE) and is_ours(error):
            why = f"{error}; the data that could not be trusted was dropped, and the rest is still usable"
            raise SegmentCorrupt(self.segment.name, why) from error

    def resolve_inside(self) -> None:
        """
        Raise ``RuntimeError`` if a call further up this stack is inside: a signal handler has interrupted it.

        This thread holds the lock, so otherwise the mark is that of a call whose ``abandon`` a second exception has
        interrupted. Its frame no longer exists, and entering recovers the store.
        """
        if holds(sys._getframe(1), self.inside):
            raise RuntimeError(
                f"this thread is already using {self.segment.name}: a signal handler or a finaliser must not call "
                "the layer; let it set a flag, or pass the work to another thread"
            )

    # -- the end ----------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Remove the segment for every process that uses it."""
        with self.lock:
            self.segment.remove()

    def close(self) -> None:
        """Release slot, semaphore and mapping. Waits for threads of this process that are inside."""
        with self.lock:
            if self.liveness.slot >= 0:
                self.words[self.slot_at] = 0
            self._drop_semaphore()
            self.liveness.release_slot()
            self.slot_at = AT_SCRATCH
            self.segment.close()


def _no_token(timeout: float) -> None:
    """Replaces the semaphore's acquire while none is open: ``enter`` opens it."""
    raise BusyError


def _no_post() -> None:
    """Replaces the semaphore's release while none is open (in a child forked inside a critical section)."""


def _after_fork_in_child() -> None:
    for mutex in list(_mutexes):
        mutex._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
