"""
Receive or register: operations on queues and waiters in one critical section, so that no message arrives in between.

The caller holds the mutex.
"""

from __future__ import annotations

__all__ = ["Receiving", "Registered", "Taken"]

from collections.abc import Sequence
from typing import NamedTuple, Tuple

from ...shm.wakeup_fifo import WakeupFifo
from .outcomes import Again
from .queues import Queues
from .waiters import NOTIFIED, OF_FIFO

#: A message that was taken: the full name of its channel, and its body.
Taken = Tuple[str, bytes]


class Registered(NamedTuple):
    """
    There is no message, so ``waiters`` were registered in this ``registration`` of the FIFO's record.

    ``waiters`` is empty if there was no memory for them.
    """

    registration: int
    waiters: Sequence[int]


class Receiving:
    """Critical sections for receivers that wait for messages in one segment."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues
        self.waiters = queues.waiters
        self.words = queues.words

    def pop_or_register(
        self, channels: Sequence[str], fifo: WakeupFifo, now: int
    ) -> Again | Taken | Registered:
        """Take a message from one of the channels, or register a waiter for each of them."""
        taken = self.queues.dequeue(channels, now)
        if taken is not None:
            return taken
        return self._register(channels, fifo)

    def _register(self, channels: Sequence[str], fifo: WakeupFifo) -> Registered:
        registered: list[int] = []
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
    ) -> tuple[list[int], Again | Taken | Registered]:
        """
        Do the same for the only receiver that uses a FIFO. It may be registered or notified already, or neither.

        It is registered afterwards only if it got no message. Also returns the tokens of FIFOs to notify.
        """
        taken = self.queues.dequeue(channels, now)
        if taken is not None:
            served = 0 if isinstance(taken, Again) else self.queues.channels.find(taken[0])
            return self.waiters.unregister_all(fifo, served), taken
        words = self.words
        if self.waiters.is_fifo_registered(fifo) and words[fifo.record + OF_FIFO] and not words[fifo.record + NOTIFIED]:
            return [], Registered(fifo.registration, [words[fifo.record + OF_FIFO]])
        tokens = self.waiters.unregister_all(fifo)
        return tokens, self._register(channels, fifo)

    def cancel(
        self, fifo: WakeupFifo, registration: int, waiters: Sequence[int], notified_for: Sequence[str]
    ) -> list[int]:
        """
        Unregister the ``waiters`` of a receiver that gives up, and pass on its notifications for ``notified_for``.

        Returns the tokens of FIFOs to notify.
        """
        tokens = self.waiters.unregister(fifo, registration, waiters)
        for channel in notified_for:
            record = self.queues.channels.find(channel)
            if record:
                self.waiters.pass_on(record, tokens)
        return tokens
