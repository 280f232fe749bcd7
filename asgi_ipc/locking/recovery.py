"""
Ending an epoch whose token is lost: recover the store, and open the next epoch.

A recovery can be interrupted at any point.  It leaves an odd epoch, and the next step of any waiter continues it.

It sleeps for some milliseconds with the in-process lock, so that no greenlet can run in the critical section of another
one of its thread (``clock.sleep``).
"""

from __future__ import annotations

__all__ = ["CAUSES", "DEATH", "EXCEPTION", "SEMAPHORE", "SILENCE", "Recovery", "recoveries"]

import logging
from collections.abc import Callable

from ..clock import sleep
from ..shm.layout import AT_ENDING, AT_EPOCH, AT_INTERRUPTED, AT_RECOVERIES, AT_SEQ, COUNTED
from ..shm.segment import ADMIN_LOCK_BYTE, FIRST_EPOCH, Segment
from .liveness import Liveness

logger = logging.getLogger("asgi_ipc")

#: Seconds after which a store by any core is visible to all cores.
VISIBILITY = 0.002
#: How often one step checks, with pauses, whether a live process that came inside just before the epoch ended has left.
HOLDER_CHECKS = 5
#: Epochs are even and below the tombstone; after this one (only a damaged word gets there) they start again.
LAST_EPOCH = 2**62

#: Why an epoch was ended. The counter of each cause is at AT_RECOVERIES + its number.
DEATH, EXCEPTION, SILENCE, SEMAPHORE = range(4)
#: The names of the causes.
CAUSES = ("death", "exception", "silence", "semaphore")
_WHY = (
    "recovered after a process ended inside the critical section",
    "recovered after an exception ended a call inside the critical section",
    "recovered although no process has ended: one that was entering did not run for too long (stopped, or overloaded)",
    "recovered after its semaphore was removed",
)


class Recovery:
    """
    Recovers one segment. ``rebuild()`` is called inside the critical section: it rebuilds the derived words.
    """

    def __init__(self, segment: Segment, liveness: Liveness, rebuild: Callable[[], None]) -> None:
        self.segment = segment
        self.words = segment.words
        self.liveness = liveness
        self.rebuild = rebuild

    def run(self, epoch: int, seq: int | None, cause: int) -> None:
        """
        Recover the store and open the next epoch, if ``epoch`` has lost its token.

        Does nothing if another process is doing it or has done it, if a live process is inside, or if there was
        progress since ``seq`` was sampled (None: the token is known to be lost). ``cause`` is the cause to report if
        no dead process is found. The caller holds the in-process lock.
        """
        locks = self.segment.locks
        try:
            try:
                if locks.lock(ADMIN_LOCK_BYTE) and self._has_lost_token(epoch, seq):
                    self._open_next(epoch, cause)
            finally:
                locks.unlock(ADMIN_LOCK_BYTE)
        finally:
            # Again: an exception may have come just before. This does not release a lock of another process.
            locks.unlock(ADMIN_LOCK_BYTE)

    def _has_lost_token(self, epoch: int, seq: int | None) -> bool:
        """True if the epoch is open and no live process holds its token, or if its end was begun."""
        now_open = self.words[AT_EPOCH]
        if now_open != epoch:
            return bool(now_open == epoch | 1)
        return self.liveness.live_holder(epoch) is None and (seq is None or bool(self.words[AT_SEQ] == seq))

    def _open_next(self, epoch: int, cause: int) -> None:
        """Recover the store and open the next epoch. The caller holds the admin lock."""
        words, semaphores = self.words, self.segment.semaphores
        if words[AT_EPOCH] == epoch:
            words[AT_ENDING] = self._actual_cause(epoch, cause)
            words[AT_EPOCH] = epoch | 1
        sleep(VISIBILITY)  # then the slot of any process that checked before that store is visible
        if not self._is_left(epoch):
            return  # it may be stopped: a waiter comes back, and gives up after its patience
        sleep(VISIBILITY)  # then the last stores of the last holder are visible
        self.rebuild()
        following = epoch + 2 if epoch < LAST_EPOCH else FIRST_EPOCH
        words[AT_SEQ] = (words[AT_SEQ] + 1) % COUNTED
        following = semaphores.create_from(following)
        semaphores.unlink(epoch)  # before the commit, so that a kill in between leaks no semaphore
        cause = min(words[AT_ENDING], SEMAPHORE)
        words[AT_RECOVERIES + cause] = (words[AT_RECOVERIES + cause] + 1) % COUNTED
        words[AT_EPOCH] = following  # commit
        logger.log(logging.WARNING if cause == SILENCE else logging.INFO, "%s: %s", self.segment.name, _WHY[cause])

    def _actual_cause(self, epoch: int, cause: int) -> int:
        """Return why the epoch ends: a death whose traces are in the slots explains more than what a waiter assumed."""
        if self.liveness.has_dead_holder(epoch):
            return DEATH
        return EXCEPTION if cause == SILENCE and self.words[AT_INTERRUPTED] == epoch else cause

    def _is_left(self, epoch: int) -> bool:
        """Wait a short time until no live process is inside."""
        for check in range(HOLDER_CHECKS):
            if check:
                sleep(VISIBILITY / 2)
            if self.liveness.live_holder(epoch) is None:
                return True
        return False


def recoveries(segment: Segment) -> dict[str, int]:
    """Return how many recoveries a segment has had, by cause."""
    return {cause: int(segment.words[AT_RECOVERIES + number]) for number, cause in enumerate(CAUSES)}
