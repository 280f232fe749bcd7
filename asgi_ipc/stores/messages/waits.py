"""
Receive or wait: what happens to queues and waiters in one section, so that no message comes in between.

The caller holds the guard.
"""

from __future__ import annotations

__all__ = ["Hung", "Waits"]

from typing import List, NamedTuple, Sequence, Tuple, Union

from ...shm.wakeup_fifo import Doorbell
from .queues import Queues
from .records import Again
from .waiters import NEWS, OF_BELL

Taken = Tuple[str, bytes]


class Hung(NamedTuple):
    """Nothing is there: ``waiters`` were hung up in ``life`` of the doorbell's record (none: no memory for them)."""

    life: int
    waiters: List[int]


class Waits:
    """Sections for those who wait for messages in one segment."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues
        self.waiters = queues.waiters
        self.words = queues.words

    def pop_or_hang(self, channels: Sequence[str], bell: Doorbell, now: int) -> Union[Again, Taken, Hung]:
        """Take a message from one of the channels, or wait for one in each of them."""
        taken = self.queues.pop(channels, now)
        if taken is not None:
            return taken
        return self._hang(channels, bell)

    def _hang(self, channels: Sequence[str], bell: Doorbell) -> Hung:
        hung: List[int] = []
        for channel in dict.fromkeys(channels):
            record = self.queues.record_of(channel)
            waiter = self.waiters.hang(bell, record) if record else 0
            if not waiter:
                self.waiters.take_down(bell, bell.life, hung)
                return Hung(bell.life, [])
            hung.append(waiter)
        return Hung(bell.life, hung)

    def pop_again(
        self, channels: Sequence[str], bell: Doorbell, now: int
    ) -> Tuple[List[int], Union[Again, Taken, Hung]]:
        """
        The same for the only one who sleeps at a doorbell, whether he hangs there already, was called, or neither.

        He hangs there behind this only if he has got nothing. Returns the tokens of bells to ring, too.
        """
        taken = self.queues.pop(channels, now)
        if taken is not None:
            served = 0 if isinstance(taken, Again) else self.queues.channels.find(taken[0])
            return self.waiters.take_all_down(bell, served), taken
        words = self.words
        if self.waiters.is_enlisted(bell) and words[bell.record + OF_BELL] and not words[bell.record + NEWS]:
            return [], Hung(bell.life, [words[bell.record + OF_BELL]])
        calls = self.waiters.take_all_down(bell)
        return calls, self._hang(channels, bell)

    def give_up(self, bell: Doorbell, life: int, waiters: List[int], channels: Sequence[str]) -> List[int]:
        """
        Somebody leaves: ``waiters`` still hang; ``channels`` he was called for, and has not taken what is there.

        Returns the tokens of bells to ring.
        """
        calls = self.waiters.take_down(bell, life, waiters)
        for channel in channels:
            record = self.queues.channels.find(channel)
            if record:
                self.waiters.pass_on(record, calls)
        return calls
