"""
One wait for the mutex: how long it has seen no progress, and when it begins a recovery.

Nothing here decides who may be inside (``mutex``); a wrong decision here costs time only.
"""

from __future__ import annotations

__all__ = ["Contender", "WouldBlock"]

from collections.abc import Callable
from typing import Any

from ..clock import monotonic_ns
from ..exceptions import SegmentBusy, SegmentGone
from ..shm.layout import AT_EPOCH, AT_SEQ, TOMBSTONE
from ..shm.segment import ADMIN_LOCK_BYTE
from .recovery import SEMAPHORE, SILENCE, Recovery
from .turns import FIRST_NAP, Queue

#: Seconds: the longest pause between two tries. Each pause is twice as long as the one before.
LONGEST_NAP = 0.001
#: The longest pause after ``SUSPICION``. Hundreds of waiters that wake a thousand times a second use all CPU time,
#: and the process that has the token may be one that waits for some.
LONGEST_SILENT_NAP = 0.02
#: Seconds without progress after which a waiter checks whether the holder has died.
SUSPICION = 0.02
#: The most seconds for which a recovery waits for live processes that may have the token, but are not inside.
INTENT_BOUND = 1.0
#: The most seconds that one pause counts as silence. A longer pause says that this process did not run, perhaps
#: because everything was frozen: then it says nothing about the holder.
COUNTED_PAUSE = 0.05


class WouldBlock(Exception):
    """
    A call that must not wait cannot enter the critical section now. It has had no effect, and can be repeated.

    ``mutex`` is the ``RobustMutex`` to wait for, or None if another process is creating or removing the segment.
    """

    def __init__(self, mutex: Any) -> None:
        super().__init__(mutex)
        self.mutex = mutex


class Contender:
    """
    One caller's wait for the mutex. Between two calls of ``advance``, it pauses, and tries to enter.

    The order matters: SEQ is sampled before tries that fail. If it is still the same afterwards, and each live process
    has been seen without an intent since, then no live process has the token.

    ``open_epoch(epoch)`` opens the semaphore of an epoch for the tries; False if it does not exist. ``patience`` is in
    seconds. Get a contender from ``RobustMutex.contender``.
    """

    def __init__(self, recovery: Recovery, open_epoch: Callable[[int], bool], patience: float) -> None:
        self._recovery, self._open_epoch, self._patience = recovery, open_epoch, patience
        self._segment, self._words, self._liveness = recovery.segment, recovery.words, recovery.liveness
        #: The seconds of silence after which it gives up. A caller that joins a wait in progress gets more.
        self.limit = patience
        self.epoch = self.seq = -1
        self.nap = FIRST_NAP
        self._asked_at, self._paused = monotonic_ns(), 0.0
        self._queue = Queue(self._words, self._asked_at)
        #: A try has failed since SEQ was sampled. Without one, the token may be free: the others may all give way.
        self._has_failed = False
        #: Seconds of silence so far, and at the last check of the slots.
        self.silence = self._checked = 0.0
        #: The slots in which an intent has been seen at each check so far, and the silence at the first check.
        self._intents: set[int] | None = None
        self._since = 0.0

    def advance(self) -> float:
        """
        Do one step: look for progress, check the slots if there was none for long, recover if nobody has the token.

        Returns the seconds to pause before the next try. Raises ``SegmentBusy`` after ``limit`` seconds of silence
        and ``SegmentGone``. The caller holds the in-process lock, and the process's slot word is 0.
        """
        words = self._words
        epoch = words[AT_EPOCH]
        if epoch == TOMBSTONE:
            raise SegmentGone(self._segment.name)
        now = monotonic_ns()
        # At least the last pause: a clock that a program has stopped must not make this wait endless.
        self.silence += min(max((now - self._asked_at) / 1e9, self._paused), COUNTED_PAUSE)
        self._asked_at, self._paused = now, 0.0
        self._has_failed = self._has_failed or not self.gives_way
        begins = words[AT_SEQ] != self.seq or epoch & ~1 != self.epoch
        if begins:
            self._start_again(epoch & ~1)
        elif self.silence > self.limit:
            self._give_up()
        if epoch & 1:
            self._recovery.run(self.epoch, None, SILENCE)  # it goes on, with the cause that it began with
        elif not self._open_epoch(epoch):
            self._recovery.run(self.epoch, None, SEMAPHORE)
        elif self._has_failed and self.silence - self._checked > SUSPICION and self._nobody_has_the_token():
            self._recovery.run(self.epoch, self.seq, SILENCE)
            self._checked, self._intents = self.silence, None
        is_silent = self.silence > SUSPICION
        nap, self.nap = self.nap, min(2 * self.nap, LONGEST_SILENT_NAP if is_silent else LONGEST_NAP)
        self._paused = max(self._queue.pause(now, nap), nap if is_silent else 0.0)
        return self._paused

    @property
    def gives_way(self) -> bool:
        """True if another process should get in first, so that this one should not try now."""
        return self._queue.gives_way

    @property
    def began(self) -> int:
        """When the caller began to wait, in ns."""
        return self._queue.began

    def continue_for(self, began: int) -> None:
        """Go on for another caller, which began to wait at this time (ns)."""
        self._queue.leave()
        self._queue = Queue(self._words, began)

    def finish(self) -> None:
        """End the wait: the process is inside, or has given up."""
        self._queue.leave()

    def _start_again(self, epoch: int) -> None:
        """Start counting: this is the first step, or another process has made progress."""
        self.epoch, self.seq = epoch, self._words[AT_SEQ]
        self.nap = FIRST_NAP
        self.silence = self._checked = 0.0
        self._intents = None
        self._has_failed = False

    def _nobody_has_the_token(self) -> bool:
        """
        Check the slots once; True if no live process can have the token, as far as that can be told in time.

        Each intent of a live process is waited for once, until it is gone. It is not waited for the moment at which
        there is none: processes that keep trying would put that off for ever. A stopped process keeps its intent, so
        there is a bound. It is no risk: who has waited in vain for a process relies on the check of the epoch, which
        that process does before it goes inside.
        """
        inside, intents = self._liveness.live_slots(self.epoch)
        if inside:  # it has not left since it was seen with an intent, or will not have: begin again later
            self._checked, self._intents = self.silence, None
            return False
        if self._intents is None:
            self._intents, self._since = intents, self.silence
        else:
            self._intents &= intents
        bound = min(INTENT_BOUND, self._patience / 2)
        return not self._intents or self.silence - self._since > bound

    def _give_up(self) -> None:
        """Raise ``SegmentBusy`` with the process that is in the way."""
        holder = self._liveness.live_holder(self.epoch)
        if holder is None:  # then a recovering process is stopped
            holder = self._segment.locks.holder(ADMIN_LOCK_BYTE)
        raise SegmentBusy(self._segment.name, holder or None, self._patience)
