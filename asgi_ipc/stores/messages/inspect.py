"""
Queries: what a message segment holds.  The caller holds the mutex.  Nothing here changes anything.
"""

from __future__ import annotations

__all__ = ["Inspect", "Memory"]

from typing import NamedTuple

from ...shm.layout import AT_GONE_REFUSED, AT_GONE_SENT, AT_RESERVED, WORD
from ...statistics import Figures
from .channels import EARLIEST_EXPIRY, HEAD, REFUSED, SENT, TAKEN
from .queues import Queues
from .records import CAME, EXPIRES, NEXT


class Memory(NamedTuple):
    """The bytes that a segment may have, that are in use, and that the system has reserved for it."""

    size: int
    used: int
    reserved: int


class Inspect:
    """Looks at the queues of one segment."""

    def __init__(self, queues: Queues) -> None:
        self.words = queues.words
        self.heap = queues.heap
        self.records = queues.records
        self.channels = queues.channels

    def memory(self) -> Memory:
        """How much memory there is."""
        size = self.heap.end * WORD
        reserved = min(self.words[AT_RESERVED] * WORD, size)
        return Memory(size, reserved - self.heap.free_words() * WORD, reserved)

    def has(self, channel: str) -> bool:
        """True if a channel has messages, expired or not."""
        record = self.channels.find(channel)
        return bool(record and self.words[record + HEAD])

    def figures(self, channel: str, now: int) -> Figures:
        """The figures of one channel; of ``prefix!``, those of all its channels together."""
        record = self.channels.find(channel)
        if not record:
            return Figures()
        if not self.channels.is_inbox(record):
            return self._figures(record, now)
        words = self.words
        waiting = sum((self._figures(local, now) for local in self.channels.ready_ring(record)), Figures())
        return Figures(words[record + SENT], waiting.pending, words[record + REFUSED], waiting.oldest)

    def figures_slice(self, first: int, now: int) -> tuple[int, Figures]:
        """The summed figures of a slice of all buckets, and the bucket to go on with, 0 at the end."""
        words = self.words
        total = Figures(words[AT_GONE_SENT], 0, words[AT_GONE_REFUSED]) if first == 0 else Figures()
        records, following = self.channels.slice_of_records(first)
        for record in records:
            if not self.channels.is_inbox(record):
                total += self._figures(record, now)
        return following, total

    def _figures(self, record: int, now: int) -> Figures:
        """The figures of one channel. Messages that have expired and are still in its queue do not count as waiting."""
        words = self.words
        pending = words[record + SENT] - words[record + TAKEN]
        head = words[record + HEAD]
        if head and words[record + EARLIEST_EXPIRY] <= now:
            live = [message for message in self._queue(record) if words[message + EXPIRES] > now]
            pending, head = len(live), live[0] if live else 0
        oldest = max(0, now - words[head + CAME]) if head else 0
        return Figures(words[record + SENT], pending, words[record + REFUSED], oldest)

    def snapshot(self) -> dict[str, list[bytes]]:
        """Every channel that has messages, with the bodies of its queue in order."""
        records, _ = self.channels.slice_of_records(0, self.channels.table.buckets)
        return {
            self.channels.name(record): [self.records.body(message) for message in self._queue(record)]
            for record in records
            if self.words[record + HEAD]
        }

    def _queue(self, record: int) -> list[int]:
        """The messages of a channel, in order. Raises ``ValueError`` if they run in a circle."""
        words = self.words
        messages: dict[int, None] = {}
        message = words[record + HEAD]
        while message:
            if message in messages:
                raise ValueError("a queue runs in a circle")
            messages[message] = None
            message = words[message + NEXT]
        return list(messages)
