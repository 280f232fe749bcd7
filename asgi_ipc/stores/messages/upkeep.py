"""
What keeps a message segment tidy and lets it be looked at.  The caller holds the mutex.

Sweeping: operations sweep the buckets at a rate by elapsed time, so that memory comes back even from channels nobody
reads; before memory is reported to be full, everything is swept, in slices.  Flushing: the flag is the commit, and a
recovery that finds it set finishes the job.
"""

from __future__ import annotations

__all__ = ["ChannelFigures", "Upkeep"]

from dataclasses import dataclass
from typing import Dict, Iterator, List, Tuple

from ...shm.layout import (
    AT_FIFOS,
    AT_FLUSHING,
    AT_FULL_SWEEP,
    AT_GENERATION,
    AT_GONE_REFUSED,
    AT_GONE_SENT,
    AT_RESERVED,
    AT_SWEEP_CURSOR,
    AT_SWEEP_DUE,
    AT_WAIT_GENERATION,
    COUNTED,
    WORD,
)
from .channels import EARLIEST_EXPIRY, HEAD, REFUSED, SENT, TAKEN
from .queues import Queues
from .records import CAME, NEXT

#: Buckets swept for each millisecond that has passed, and the most that one operation sweeps.
SWEEP_RATE = 2
SWEEP_MOST = 64
SWEEP_PERIOD = 1_000_000
#: Expired messages a sweep drops from the head of one queue, and the longest queue that it searches whole.
SWEEP_HEADS = 32
SWEEP_QUEUE = 256
#: Buckets that a walk over everything visits in one section.
SLICE = 2048
#: ns that must pass between two sweeps of everything.
FULL_SWEEP_PAUSE = 1_000_000_000


@dataclass(frozen=True)
class ChannelFigures:
    """Figures of one channel or, summed, of all: messages ever sent, waiting, refused; age of the oldest, in ns."""

    sent: int = 0
    pending: int = 0
    refused: int = 0
    oldest: int = 0

    def __add__(self, other: ChannelFigures) -> ChannelFigures:
        return ChannelFigures(
            self.sent + other.sent,
            self.pending + other.pending,
            self.refused + other.refused,
            max(self.oldest, other.oldest),
        )


class Upkeep:
    """Sweeps, flushes, counts and copies the queues of one segment."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues
        self.records = queues.records
        self.size = queues.heap.end * WORD
        self.words = queues.words
        self.channels = queues.channels
        self.table = queues.channels.table

    # -- sweeping ---------------------------------------------------------------------------------------------

    def sweep(self, now: int) -> List[int]:
        """Sweep as many buckets as the time since the last sweep asks for. Returns the tokens of FIFOs to ring."""
        words, table = self.words, self.table
        elapsed = now - words[AT_SWEEP_DUE]
        if -SWEEP_PERIOD <= elapsed < 0:  # another process has just swept
            return []
        cursor = words[AT_SWEEP_CURSOR]
        for _ in range(min(SWEEP_RATE * (1 + abs(elapsed) // SWEEP_PERIOD), SWEEP_MOST)):
            cursor = (cursor + 1) % table.buckets
            for record in table.chain(table.at + cursor):
                self._sweep_record(record, now)
        words[AT_SWEEP_CURSOR] = cursor
        words[AT_SWEEP_DUE] = now + SWEEP_PERIOD
        return self.queues.waiters.sweep(now)

    def _sweep_record(self, record: int, now: int) -> None:
        words = self.words
        if words[record + HEAD] and words[record + EARLIEST_EXPIRY] <= now:
            if words[record + SENT] - words[record + TAKEN] <= SWEEP_QUEUE:
                self.records.drop_expired(record, now)
            else:
                self.records.drop_heads(record, now, SWEEP_HEADS)
        self.channels.drop_if_idle(record)

    def begin_full_sweep(self, now: int) -> bool:
        """Whether everything may be swept now: once a second at the most, whoever asks."""
        words = self.words
        if words[AT_FULL_SWEEP] <= now < words[AT_FULL_SWEEP] + FULL_SWEEP_PAUSE:
            return False
        words[AT_FULL_SWEEP] = now
        return True

    def sweep_slice(self, first: int, now: int) -> int:
        """Sweep a slice of all buckets, from number ``first`` on; the number to go on with, 0 at the end."""
        table = self.table
        last = min(first + SLICE, table.buckets)
        for bucket in self._filled(first, last):
            for record in table.chain(bucket):
                self.records.drop_expired(record, now)
                self.channels.drop_if_empty(record)
        return last % table.buckets

    def _filled(self, first: int, last: int) -> Iterator[int]:
        """The heads of those chains among buckets ``first`` to ``last`` that are not empty."""
        start = self.table.at + first
        heads = self.words[start : self.table.at + last].tolist()
        return (start + number for number, head in enumerate(heads) if head)

    # -- flushing ---------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Empty the store."""
        self.words[AT_FLUSHING] = 1  # commit
        self.empty()

    def empty(self) -> None:
        """Do what the flag asks for. May be done again from the start at any time until the flag is down."""
        words = self.words
        self.queues.heap.confirm_reserved()
        self.table.clear()
        self.queues.heap.rebuild([])
        self.channels.slab.rebuild({})
        for at in (AT_GONE_SENT, AT_GONE_REFUSED, AT_SWEEP_DUE, AT_FULL_SWEEP):
            words[at] = 0
        words[AT_FIFOS] = 0
        words[AT_WAIT_GENERATION] = (words[AT_WAIT_GENERATION] + 1) % COUNTED
        words[AT_GENERATION] = (words[AT_GENERATION] + 1) % COUNTED
        words[AT_FLUSHING] = 0

    # -- looking ----------------------------------------------------------------------------------------------

    def extent(self) -> Tuple[int, int]:
        """The size of the segment in bytes, and how many of them have been reserved so far."""
        return self.size, min(self.words[AT_RESERVED] * WORD, self.size)

    def has(self, channel: str) -> bool:
        """Whether a channel has messages, expired or not."""
        record = self.channels.find(channel)
        return bool(record and self.words[record + HEAD])

    def figures(self, channel: str, now: int) -> ChannelFigures:
        """The figures of one channel; of ``prefix!``, those of all its channels together."""
        record = self.channels.find(channel)
        if not record:
            return ChannelFigures()
        if not self.channels.is_inbox(record):
            return self._figures(record, now)
        words = self.words
        waiting = sum((self._figures(local, now) for local in self.channels.ready_ring(record)), ChannelFigures())
        return ChannelFigures(words[record + SENT], waiting.pending, words[record + REFUSED], waiting.oldest)

    def figures_slice(self, first: int, now: int) -> Tuple[int, ChannelFigures]:
        """The summed figures of a slice of all buckets, and the bucket to go on with, 0 at the end."""
        words, table = self.words, self.table
        last = min(first + SLICE, table.buckets)
        total = ChannelFigures(words[AT_GONE_SENT], 0, words[AT_GONE_REFUSED]) if first == 0 else ChannelFigures()
        for bucket in self._filled(first, last):
            for record in table.chain(bucket):
                if not self.channels.is_inbox(record):
                    total += self._figures(record, now)
        return last % table.buckets, total

    def _figures(self, record: int, now: int) -> ChannelFigures:
        words = self.words
        self.records.drop_expired(record, now)
        head = words[record + HEAD]
        return ChannelFigures(
            words[record + SENT],
            words[record + SENT] - words[record + TAKEN],
            words[record + REFUSED],
            max(0, now - words[head + CAME]) if head else 0,
        )

    def snapshot(self) -> Dict[str, List[bytes]]:
        """Every channel that has messages, with the bodies of its queue in order."""
        words, table = self.words, self.table
        found: Dict[str, List[bytes]] = {}
        for bucket in self._filled(0, table.buckets):
            for record in table.chain(bucket):
                bodies: Dict[int, bytes] = {}
                message = words[record + HEAD]
                while message:
                    if message in bodies:
                        raise ValueError("a queue runs in a circle")
                    bodies[message] = self.records.body(message)
                    message = words[message + NEXT]
                if bodies:
                    found[self.channels.name(record)] = list(bodies.values())
        return found
