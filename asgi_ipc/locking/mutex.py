"""
The critical section that outlives its holder.

A named semaphore alone is lost with a holder that is killed.  So each *epoch* has a semaphore of its own, a holder
writes the epoch into its slot before it checks that the epoch still stands, and whoever finds that nothing moves
proves by the byte locks that no live process holds the token, repairs the store and opens the next epoch.  Two
holders at once would need a token of an epoch that is over to pass the check: it cannot, whatever is delayed for
however long.  ``tests/model`` checks the protocol exhaustively; docs/design.rst tells the whole story.

``RobustMutex.run`` is the one place that defines the way in and out; the two operations that everything waits for
follow it line by line, because a call costs.  Nobody ever sleeps *on* the semaphore: a waiter tries, spins briefly,
then naps.  A section is shorter than a sleep, a nap is not tied to the wall clock as ``sem_timedwait`` is, and killed
sleepers would leave a glibc semaphore slow for the rest of its life.

Inside the section everything is prepared first and committed with one word store.  A refusal is a return value.  An
exception in there counts as a crash: the token is not given back and the store is repaired, as after a kill.
"""

from __future__ import annotations

__all__ = ["BusyError", "RobustMutex"]

import logging
import os
import sys
import threading
import time
import weakref
from typing import Any, Callable, List, Optional, TypeVar

from posix_ipc import BusyError

from ..exceptions import SegmentBusy, SegmentCorrupt, SegmentGone, TooManyProcesses
from ..shm.layout import AT_EPOCH, AT_NAPS, AT_SCRATCH, AT_SEQ, AT_SLOTS, COUNTED, SLOT_WORDS, SLOTS, TOMBSTONE
from ..shm.segment import ADMIN_LOCK_BYTE, FIRST_EPOCH, Segment
from .reentrancy import is_nested, is_ours, stands_on

logger = logging.getLogger("asgi_ipc")

R = TypeVar("R")

#: Tries at once; before the first nap there are twice as many. A try costs 0.3 µs and a section about 2 µs.
SPINS = 10
#: Seconds a waiter naps: from the first to the longest, doubling.
FIRST_NAP, LONGEST_NAP = 0.00005, 0.001
#: Seconds without progress after which a waiter looks whether the holder has died.
SUSPICION = 0.02
#: Seconds after which every store of every core is visible to all.
VISIBILITY = 0.002
#: Epochs are even and below the tombstone; past this one (only a damaged word gets there) they start again.
LAST_EPOCH = 2**62
#: What a section meets in a damaged segment: offsets out of range, values that fit no word, names that are no text.
DAMAGE = (IndexError, ValueError, OverflowError)

_mutexes: weakref.WeakSet[RobustMutex] = weakref.WeakSet()


class RobustMutex:
    """
    Exclusive access to one segment, for every thread of every process.

    ``recover()`` is called alone, inside the section, after a holder has died: it rebuilds what is derived.
    ``patience`` is how many seconds a caller waits for a holder that lives but does not move (SIGSTOP, a debugger).
    """

    def __init__(self, segment: Segment, recover: Callable[[], None], patience: float) -> None:
        self.segment = segment
        self.words = segment.words
        self.recover = recover
        self.patience = patience
        self._forget()
        _mutexes.add(self)

    def _forget(self) -> None:
        """Own nothing: as at birth, and in a forked child, which inherits neither locks nor threads."""
        self.lock = threading.RLock()
        #: The mark of the call that is inside; RLock alone cannot tell "free" from "inside, further up this stack".
        self.inside: Optional[List[None]] = None
        self.slot = -1
        self.slot_at = AT_SCRATCH
        self.epoch = 0
        self._semaphore: Any = None
        self.token: Callable[[float], None] = _no_token
        self.post: Callable[[], None] = _no_post
        self._naps = self._given_way = 0  # of this process; of others, by the count that it last gave way to

    def run(self, section: Callable[..., R], *args: Any) -> R:
        """
        Return ``section(*args)``, run while no other thread or process is inside.

        Raises ``SegmentBusy`` when a live holder has not moved for ``patience`` seconds, ``SegmentGone`` when the
        segment was removed, ``SegmentCorrupt`` when the section met damage, ``RuntimeError`` when called from a signal
        handler or finaliser that interrupted this thread inside the section.
        """
        mine = None
        try:
            with self.lock:
                if self.inside is not None:
                    self.resolve_inside()
                mine = self.inside = []
                try:
                    self.token(0)
                except BusyError:
                    self.enter()
                else:
                    words, epoch = self.words, self.epoch
                    words[self.slot_at] = epoch  # store first
                    if words[AT_EPOCH] != epoch:  # then check
                        self.enter()
                result = section(*args)
                if self.inside is mine:  # not in a child that was forked in there: it holds no token
                    words = self.words
                    words[AT_SEQ] += 1
                    words[self.slot_at] = 0
                    self.post()
                    self.inside = None
            return result
        except BaseException as error:
            self.abandon(mine, error)
            raise

    # -- the slow way in --------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Wait for the token, recovering from dead holders. Returns inside the section."""
        words = self.words
        if self._try_enter():  # nearly always
            return
        if self.segment.fd < 0:  # another thread has closed it meanwhile and attached anew
            raise SegmentGone(self.segment.name)
        if self.slot < 0:
            self._acquire_slot()
        words[self.slot_at] = 0  # a call of ours that crashed may have left it; nobody of this process is inside
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
                holder = self._live_holder(words[AT_EPOCH] & ~1)
                if holder is None:  # then a process that repairs has stopped
                    holder = self.segment.locks.holder(ADMIN_LOCK_BYTE)
                raise SegmentBusy(self.segment.name, holder or None, self.patience)
            elif now - looked > SUSPICION:
                looked = now
                self._recover(epoch & ~1)
            self._naps, words[AT_NAPS] = self._naps + 1, (words[AT_NAPS] + 1) % COUNTED  # roughly: without the mutex
            time.sleep(nap)
            nap = min(2 * nap, LONGEST_NAP)

    def give_way(self) -> None:
        """Between two sections of one long operation: let those in who nap, or they would wait for all of it."""
        others = self.words[AT_NAPS] - self._naps
        if others != self._given_way:
            self._given_way = others
            time.sleep(FIRST_NAP)

    def _try_enter(self) -> bool:
        """Take a token of the epoch whose semaphore is open; False if there is none, or its epoch is over."""
        words = self.words
        for _ in range(SPINS):
            try:
                self.token(0)
            except BusyError:
                continue
            words[self.slot_at] = self.epoch  # store first
            if words[AT_EPOCH] == self.epoch:  # then check
                return True
            words[self.slot_at] = 0  # the token of an epoch that is over: worth nothing
        return False

    def _open_semaphore(self, epoch: int) -> bool:
        """Have the epoch's semaphore open; False if it does not exist."""
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

    def _acquire_slot(self) -> None:
        """Take a slot: the lock on its byte is the proof that its owner lives."""
        words = self.words
        epoch = words[AT_EPOCH] & ~1
        for slot in range(SLOTS):
            slot_at = AT_SLOTS + slot * SLOT_WORDS
            # Not the slot of somebody who is inside, or died there: an exception between taking its lock and clearing
            # it would leave a live process that seems to hold the token.
            if words[slot_at] != epoch and self.segment.locks.lock(1 + slot):
                words[slot_at] = 0
                words[slot_at + 1] = (words[slot_at + 1] + 1) % 2**62
                self.slot_at = slot_at  # first: with a slot, this must be its word
                self.slot = slot
                return
        raise TooManyProcesses(self.segment.name, SLOTS)

    # -- recovery ---------------------------------------------------------------------------------------------

    def _live_holder(self, epoch: int) -> Optional[int]:
        """The pid (0: in another PID namespace) of a live process that holds a token of the epoch, or None."""
        holding = self.words[AT_SLOTS : AT_SLOTS + SLOTS * SLOT_WORDS : SLOT_WORDS].tolist()
        for slot, held in enumerate(holding):
            if held == epoch and slot != self.slot:
                pid = self.segment.locks.holder(1 + slot)
                if pid is not None:
                    return pid
        return None

    def _recover(self, epoch: int) -> None:
        """
        Repair the store and open the next epoch, if ``epoch`` has lost its token.

        Returns without having done so where another process is at it, has done it, or a live process holds the token.
        Caller holds the in-process lock.
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
            # Once more: an exception may have come just before. What another process has locked stays so.
            locks.unlock(ADMIN_LOCK_BYTE)

    def _has_lost_token(self, epoch: int) -> bool:
        """Whether the epoch stands, or was being ended, and no live process holds its token."""
        now_open = self.words[AT_EPOCH]
        return now_open == epoch | 1 or (now_open == epoch and self._live_holder(epoch) is None)

    def _open_next(self, epoch: int) -> None:
        """Repair the store and open the next epoch. Caller holds the admin lock."""
        words = self.words
        words[AT_EPOCH] = epoch | 1
        time.sleep(VISIBILITY)  # whoever checked before that store has his slot written where we see it
        self._await_holders(epoch)
        time.sleep(VISIBILITY)  # and the last stores of the last holder
        self.recover()
        following = epoch + 2 if epoch < LAST_EPOCH else FIRST_EPOCH
        words[AT_SEQ] = (words[AT_SEQ] + 1) % 2**62
        while not self.segment.semaphores.create(following):
            following += 2
        self.segment.semaphores.unlink(epoch)  # first, so that a kill in between leaves no semaphore for ever
        words[AT_EPOCH] = following  # commit
        logger.info("%s: repaired after a process ended inside it", self.segment.name)

    def _await_holders(self, epoch: int) -> None:
        deadline = time.monotonic() + self.patience
        while True:
            pid = self._live_holder(epoch)
            if pid is None:
                return
            if time.monotonic() > deadline:
                raise SegmentBusy(self.segment.name, pid or None, self.patience)
            time.sleep(LONGEST_NAP)

    # -- calls that end badly ---------------------------------------------------------------------------------

    def abandon(self, mine: Optional[List[None]], error: BaseException) -> None:
        """
        Clean up after a call of ``run`` that ended in an exception; ``mine`` is its mark, None if it had none.

        What damage raises in a section becomes ``SegmentCorrupt`` here; every other error is the caller's to raise.
        """
        if mine is None:  # it never came in: a nested call, say, that was refused
            return
        try:
            with self.lock:
                if self.inside is mine and self.segment.fd >= 0 and self.words[self.slot_at]:
                    self.words[self.slot_at] = 0
                    self._recover(self.epoch)
        finally:  # also when a second exception has cut that short: then whoever comes next recovers
            with self.lock:
                if self.inside is mine:
                    if self.segment.fd >= 0:  # else another thread closed the segment before this call came in
                        self.words[self.slot_at] = 0
                    self.inside = None
            if not is_nested(sys._getframe(1)):
                # CPython 3.9 can take an interrupt between the end of a with block and its release
                while self.lock._is_owned():  # type: ignore[attr-defined]
                    self.lock.release()
        if isinstance(error, DAMAGE) and is_ours(error):
            why = f"{error}; what could not be trusted was cut off, and the rest goes on"
            raise SegmentCorrupt(self.segment.name, why) from error

    def resolve_inside(self) -> None:
        """
        Somebody's mark is here although the lock was ours to take: that of a call further up this very stack, which a
        signal handler or finaliser has interrupted (refuse), or of one whose ``abandon`` a second exception has cut
        short (its frame is gone, and the way in will recover).
        """
        if stands_on(sys._getframe(1), self.inside):
            raise RuntimeError(
                f"this thread is already inside {self.segment.name}: a signal handler or a finaliser must not call "
                "the layer; let it set a flag, or hand the work to another thread"
            )

    # -- the end ----------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Take the segment away from every process that uses it."""
        with self.lock:
            self.segment.remove()

    def close(self) -> None:
        """Give back slot, semaphore and mapping. Waits for threads of this process that are inside."""
        with self.lock:
            if self.slot >= 0:
                self.words[self.slot_at] = 0
            self._drop_semaphore()
            self.slot, self.slot_at = -1, AT_SCRATCH
            self.segment.close()


def _no_token(timeout: float) -> None:
    """Stands for the semaphore while none is open: the slow way in opens it."""
    raise BusyError


def _no_post() -> None:
    """Stands for the semaphore's release while none is open (a child forked from inside a section)."""


def _after_fork_in_child() -> None:
    for mutex in list(_mutexes):
        mutex._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
