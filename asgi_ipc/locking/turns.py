"""
Fairness: when a process that could have the mutex lets others in first.  All words here are hints.
"""

from __future__ import annotations

__all__ = ["FIRST_NAP", "Queue", "Turns"]

import contextlib
import time

from ..clock import monotonic_ns
from ..shm.layout import AT_NAPS, AT_STARVING, AT_STARVING_UNTIL, COUNTED

#: Seconds: the first nap of a waiter, and of a process that lets waiters in.
FIRST_NAP = 0.00005
#: ns after which a waiter asks the others to let it in first.
STARVED_AFTER = 100_000_000
#: ns for which the others do that, unless the waiter asks again. It may have died.
STARVING_FOR = 20_000_000
#: Seconds between two looks of those others.
GIVE_WAY_NAP = 0.002
#: ns for which a process goes on without waiting while another one starves, and the seconds that it sleeps after that.
TURN, HAND_OVER_NAP = 2_000_000, 0.0003


class Turns:
    """How long this process has had the mutex, and whether others wait for it."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self.naps = 0  # of this process
        self._given_way = 0  # the naps of others, by the count that this process last gave way to
        self._began = 0  # ns: when this process came inside after a wait

    def begin(self) -> None:
        """Record that this process came inside after a wait."""
        self._began = monotonic_ns()

    def count_nap(self) -> None:
        """Count a nap of this process. The count is not exact, because this is done without the mutex."""
        self.naps, self._words[AT_NAPS] = self.naps + 1, (self._words[AT_NAPS] + 1) % COUNTED

    def give_way(self) -> None:
        """Let napping waiters in, between two critical sections of one long operation."""
        try:
            others = self._words[AT_NAPS] - self.naps
        except (ValueError, IndexError):  # another thread has closed the segment
            return
        if others != self._given_way:
            self._given_way = others
            time.sleep(FIRST_NAP)

    def end(self) -> None:
        """
        Let in a process that starves, if this one has not waited for a while.

        Called once in a millisecond at most: a check in each critical section would make all of them slower.
        """
        try:
            starving = self._words[AT_STARVING] and monotonic_ns() <= self._words[AT_STARVING_UNTIL]
        except (ValueError, IndexError):  # another thread has closed the segment
            return
        if starving and monotonic_ns() - self._began > TURN:
            self.begin()
            time.sleep(HAND_OVER_NAP)


class Queue:
    """
    The place of one wait among the waits of all processes.

    After a while, the wait that began first has its beginning in AT_STARVING, and the others do not try.
    """

    def __init__(self, words: memoryview, began: int) -> None:
        self._words = words
        #: When the wait began, in ns.
        self.began = began
        #: Another process has waited for so long that this one should not try now.
        self.gives_way = False

    def pause(self, now: int, nap: float) -> float:
        """Decide whether to try now. Returns the seconds to pause after that: ``nap``, or what the turn requires."""
        words, began = self._words, self.began
        first, until = words[AT_STARVING], words[AT_STARVING_UNTIL]
        is_valid = first != 0 and now <= until <= now + STARVING_FOR
        self.gives_way = is_valid and first < began
        if self.gives_way:
            return GIVE_WAY_NAP
        if now - began > STARVED_AFTER:
            words[AT_STARVING], words[AT_STARVING_UNTIL] = began, now + STARVING_FOR
            return FIRST_NAP
        if first and not is_valid:
            words[AT_STARVING] = 0
        return nap

    def leave(self) -> None:
        """End the wait. May be called by finalisers."""
        with contextlib.suppress(ValueError, IndexError):  # another thread has closed the segment
            if self._words[AT_STARVING] == self.began:
                self._words[AT_STARVING] = 0
