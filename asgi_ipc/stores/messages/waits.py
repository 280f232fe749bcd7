"""
Receive or wait: what happens to queues and waiters in one section, so that no message comes in between.

The caller holds the mutex.
"""

from __future__ import annotations

__all__ = ["Registered", "Waits"]

from typing import List, NamedTuple, Sequence, Tuple, Union

from ...shm.wakeup_fifo import WakeupFifo
from .queues import Queues
from .records import Again
from .waiters import NOTIFIED, OF_FIFO

Taken = Tuple[str, bytes]


class Registered(NamedTuple):
    """No message: ``waiters`` belong to this ``registration`` of the FIFO's record (none: no memory for them)."""

    registration: int
    waiters: List[int]


class Waits:
    """Sections for those who wait for messages in one segment."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues
        self.waiters = queues.waiters
        self.words = queues.words

    def pop_or_register(self, channels: Sequence[str], fifo: WakeupFifo, now: int) -> Union[Again, Taken, Registered]:
        """Take a message from one of the channels, or wait for one in each of them."""
        taken = self.queues.pop(channels, now)
        if taken is not None:
            return taken
        return self._register(channels, fifo)

    def _register(self, channels: Sequence[str], fifo: WakeupFifo) -> Registered:
        registered: List[int] = []
        for channel in dict.fromkeys(channels):
            record = self.queues.record_of(channel)
            waiter = self.waiters.register(fifo, record) if record else 0
            if not waiter:
                self.waiters.unregister(fifo, fifo.registration, registered)
                return Registered(fifo.registration, [])
            registered.append(waiter)
        return Registered(fifo.registration, registered)

    def pop_again(
        self, channels: Sequence[str], fifo: WakeupFifo, now: int
    ) -> Tuple[List[int], Union[Again, Taken, Registered]]:
        """
        The same for the only one who sleeps at a wakeup FIFO, whether he hangs there already, was called, or neither.

        He hangs there behind this only if he has got nothing. Returns the tokens of FIFOs to ring, too.
        """
        taken = self.queues.pop(channels, now)
        if taken is not None:
            served = 0 if isinstance(taken, Again) else self.queues.channels.find(taken[0])
            return self.waiters.unregister_all(fifo, served), taken
        words = self.words
        if self.waiters.is_fifo_registered(fifo) and words[fifo.record + OF_FIFO] and not words[fifo.record + NOTIFIED]:
            return [], Registered(fifo.registration, [words[fifo.record + OF_FIFO]])
        tokens = self.waiters.unregister_all(fifo)
        return tokens, self._register(channels, fifo)

    def cancel(self, fifo: WakeupFifo, registration: int, waiters: List[int], channels: Sequence[str]) -> List[int]:
        """
        Somebody leaves: ``waiters`` still hang; ``channels`` he was called for, and has not taken what is there.

        Returns the tokens of FIFOs to ring.
        """
        tokens = self.waiters.unregister(fifo, registration, waiters)
        for channel in channels:
            record = self.queues.channels.find(channel)
            if record:
                self.waiters.pass_on(record, tokens)
        return tokens
