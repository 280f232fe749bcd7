"""
Sweeping and flushing of a message segment.  The caller holds the mutex.

Operations sweep the buckets at a rate that depends on the elapsed time, which frees memory even of channels that no
process receives from.  Before memory is reported as full, everything is swept, in slices.  Setting the flag of a flush
commits it: a recovery that finds the flag set finishes the flush.
"""

from __future__ import annotations

__all__ = ["Sweep"]

from ...shm.layout import (
    AT_FIFOS,
    AT_FILE_SWEEP,
    AT_FLUSHING,
    AT_FULL_SWEEP,
    AT_GENERATION,
    AT_GONE_REFUSED,
    AT_GONE_SENT,
    AT_SWEEP_CURSOR,
    AT_SWEEP_DUE,
    AT_WAIT_GENERATION,
    COUNTED,
)
from .channels import EARLIEST_EXPIRY, HEAD, SENT, TAKEN
from .outcomes import NOTHING_LEFT, Swept
from .queues import Queues

#: Buckets swept for each millisecond that has passed, and the most that one operation sweeps.
SWEEP_RATE = 2
SWEEP_MOST = 64
SWEEP_PERIOD = 1_000_000
#: Expired messages that a sweep drops from the head of one queue, and the longest queue that it searches completely.
SWEEP_HEADS = 32
SWEEP_QUEUE = 256
#: ns that must pass between two sweeps of everything.
FULL_SWEEP_PAUSE = 1_000_000_000
#: ns that must pass between two searches for files that dead processes left.
FILE_SWEEP_PAUSE = 60_000_000_000


class Sweep:
    """Sweeps and flushes the queues of one segment."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues
        self.words = queues.words
        self.records = queues.records
        self.channels = queues.channels
        self.table = queues.channels.table

    def step(self, now: int) -> Swept:
        """
        Sweep a number of buckets that depends on the time since the last sweep.

        Returns what the caller must do outside the mutex.
        """
        words, table = self.words, self.table
        elapsed = now - words[AT_SWEEP_DUE]
        if -SWEEP_PERIOD <= elapsed < 0:  # another process has just swept
            return NOTHING_LEFT
        cursor = words[AT_SWEEP_CURSOR]
        for _ in range(min(SWEEP_RATE * (1 + abs(elapsed) // SWEEP_PERIOD), SWEEP_MOST)):
            cursor = (cursor + 1) % table.buckets
            for record in table.chain(table.at + cursor):
                self._sweep_record(record, now)
        words[AT_SWEEP_CURSOR] = cursor
        words[AT_SWEEP_DUE] = now + SWEEP_PERIOD
        return Swept(self.queues.waiters.next_fifo(), self._begin_file_sweep(now))

    def _begin_file_sweep(self, now: int) -> bool:
        """True if this process must look for files of dead processes: one process does it, once a minute."""
        words = self.words
        if words[AT_FILE_SWEEP] <= now < words[AT_FILE_SWEEP] + FILE_SWEEP_PAUSE:
            return False
        words[AT_FILE_SWEEP] = now
        return True

    def _sweep_record(self, record: int, now: int) -> None:
        words = self.words
        if words[record + HEAD] and words[record + EARLIEST_EXPIRY] <= now:
            if words[record + SENT] - words[record + TAKEN] <= SWEEP_QUEUE:
                self.records.drop_expired(record, now)
            else:
                self.records.drop_heads(record, now, SWEEP_HEADS)
        self.channels.drop_if_idle(record)

    def begin_full_sweep(self, now: int) -> bool:
        """True if everything may be swept now: at most once a second, for all processes together."""
        words = self.words
        if words[AT_FULL_SWEEP] <= now < words[AT_FULL_SWEEP] + FULL_SWEEP_PAUSE:
            return False
        words[AT_FULL_SWEEP] = now
        return True

    def sweep_slice(self, first: int, now: int) -> int:
        """Sweep a slice of the buckets, from number ``first``. Returns the number to continue with, 0 at the end."""
        records, following = self.channels.slice_of_records(first)
        for record in records:
            self.records.drop_expired(record, now)
            self.channels.drop_if_empty(record)
        return following

    # -- flushing ---------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Empty the store."""
        self.words[AT_FLUSHING] = 1  # commit
        self.empty()

    def empty(self) -> None:
        """Empty the store and clear the flag of the flush. Can be repeated from the start until the flag is cleared."""
        words = self.words
        self.queues.heap.confirm_reserved()
        self.table.clear()
        self.queues.heap.rebuild([])
        self.channels.slab.rebuild({})
        for at in (AT_GONE_SENT, AT_GONE_REFUSED, AT_SWEEP_DUE, AT_FULL_SWEEP, AT_FILE_SWEEP):
            words[at] = 0
        words[AT_FIFOS] = 0
        words[AT_WAIT_GENERATION] = (words[AT_WAIT_GENERATION] + 1) % COUNTED
        words[AT_GENERATION] = (words[AT_GENERATION] + 1) % COUNTED
        words[AT_FLUSHING] = 0
