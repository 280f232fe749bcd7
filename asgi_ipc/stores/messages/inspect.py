"""
Queries of a message segment.  The caller holds the mutex.  Nothing here changes the segment.
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
    """The size of a segment, how much of it is in use, and how much the system has reserved for it, in bytes."""

    size: int
    used: int
    reserved: int


class Inspect:
    """Reads the queues of one segment."""

    def __init__(self, queues: Queues) -> None:
        self.words = queues.words
        self.heap = queues.heap
        self.records = queues.records
        self.channels = queues.channels

    def memory(self) -> Memory:
        """Return the memory of the segment."""
        size = self.heap.end * WORD
        reserved = min(self.words[AT_RESERVED] * WORD, size)
        return Memory(size, reserved - self.heap.free_words() * WORD, reserved)

    def has(self, channel: str) -> bool:
        """True if a channel has messages, expired or not."""
        record = self.channels.find(channel)
        return bool(record and self.words[record + HEAD])

    def figures(self, channel: str, now: int) -> Figures:
        """Return the figures of one channel, or of all channels of the inbox ``prefix!`` together."""
        record = self.channels.find(channel)
        if not record:
            return Figures()
        if not self.channels.is_inbox(record):
            return self._figures(record, now)
        words = self.words
        waiting = sum((self._figures(local, now) for local in self.channels.ready_ring(record)), Figures())
        return Figures(words[record + SENT], waiting.pending, words[record + REFUSED], waiting.oldest)

    def figures_slice(self, first: int, now: int) -> tuple[int, Figures]:
        """Return the number of the bucket to continue with, 0 at the end, and the sums for a slice of the buckets."""
        words = self.words
        total = Figures(words[AT_GONE_SENT], 0, words[AT_GONE_REFUSED]) if first == 0 else Figures()
        records, following = self.channels.slice_of_records(first)
        for record in records:
            if not self.channels.is_inbox(record):
                total += self._figures(record, now)
        return following, total

    def _figures(self, record: int, now: int) -> Figures:
        """Return the figures of one channel. Expired messages that are still in its queue do not count as waiting."""
        words = self.words
        pending = words[record + SENT] - words[record + TAKEN]
        head = words[record + HEAD]
        if head and words[record + EARLIEST_EXPIRY] <= now:
            live = [message for message in self._queue(record) if words[message + EXPIRES] > now]
            pending, head = len(live), live[0] if live else 0
        oldest = max(0, now - words[head + CAME]) if head else 0
        return Figures(words[record + SENT], pending, words[record + REFUSED], oldest)

    def snapshot(self) -> dict[str, list[bytes]]:
        """Return every channel that has messages, with the bodies in its queue, in order."""
        records, _ = self.channels.slice_of_records(0, self.channels.table.buckets)
        return {
            self.channels.name(record): [self.records.body(message) for message in self._queue(record)]
            for record in records
            if self.words[record + HEAD]
        }

    def _queue(self, record: int) -> list[int]:
        """Return the messages of a channel, in order. Raises ``ValueError`` if the queue is a cycle."""
        words = self.words
        messages: dict[int, None] = {}
        message = words[record + HEAD]
        while message:
            if message in messages:
                raise ValueError("a queue forms a cycle")
            messages[message] = None
            message = words[message + NEXT]
        return list(messages)
