"""
Channel records: what the message store knows about a channel except its messages.  The caller holds the mutex.

    word  0  next in the bucket's chain     (hash table)
          1  hash of the name               (hash table)
          2  tag                            (slab)
          3  length of the name             (hash table)
          4  page                           (slab)
          5  HEAD      first message: truth
          6  TAIL      last message, void while HEAD is 0
          7  SENT      messages that were ever added
          8  TAKEN     messages that were removed: received or expired; SENT - TAKEN are waiting
          9  EARLIEST_EXPIRY   no waiting message expires before this time (ns)
         10  INBOX     of ``prefix!local``: the record of ``prefix!``
         11  READY     of ``prefix!``: one of its channels that have messages, which form a ring
         12  AFTER     the next one of that ring
         13  BEFORE    the previous one
         14  LOCALS    of ``prefix!``: how many records have it as their inbox
         15  REFUSED   messages that were refused because the channel was full
         16  IDLE      SENT + TAKEN + 1 when the channel was last found empty, 0 if it was not
         17  WAITERS   one of the waiters for a message that were not notified yet, which form a ring
         18  WAITING   how many waiters refer to this record, including notified ones
         19  OWNER     of ``prefix!``: the process that receives from it (ownership): truth
         20  INDIVIDUAL  of ``prefix!``: 1 if each of its channels has its own capacity: truth
         21  name, up to 99 bytes

A channel ``prefix!local`` has its own queue.  While it has messages, it is in the ready ring of its inbox ``prefix!``.
A receiver of the whole inbox takes from the channels in that ring in turn, so that none is starved.  The inbox counts
the messages of all its channels, and the refused ones: the channels share one capacity (ASGI draft), unless the inbox
is marked as INDIVIDUAL.
"""

from __future__ import annotations

__all__ = ["Channels"]

from collections.abc import Iterator

from ...locking.liveness import NOBODY, Liveness
from ...names import non_local_name
from ...shm.layout import AT_GONE_REFUSED, AT_GONE_SENT, AT_SWEEP_CURSOR, NEVER
from ...shm.segment import Segment
from ...structures import ring
from ...structures.hashtable import HashTable
from ...structures.heap import Heap
from ...structures.slab import TAG, Slab

PAGE = 4
HEAD = 5
TAIL = 6
SENT = 7
TAKEN = 8
EARLIEST_EXPIRY = 9
INBOX = 10
READY = 11
AFTER = 12
BEFORE = 13
LOCALS = 14
REFUSED = 15
IDLE = 16
WAITERS = 17
WAITING = 18
OWNER = 19
INDIVIDUAL = 20
NAME = 21
RECORD_WORDS = NAME + 13

#: The number of buckets that are searched for an unneeded record, to reuse its memory for a new one.
EVICT_BUCKETS = 512
#: The number of buckets that a walk over the whole table visits in one critical section.
SLICE = 2048


class Channels:
    """The channel records of one message segment: makes, finds and drops them, and keeps the ready rings."""

    def __init__(self, segment: Segment, heap: Heap, liveness: Liveness) -> None:
        self.words = segment.words
        self.liveness = liveness
        self.table = HashTable(segment, NAME)
        self.slab = Slab(segment, heap, RECORD_WORDS, PAGE)

    def name(self, record: int) -> str:
        """Return the name of a channel."""
        return self.table.name(record).decode("ascii")

    def find(self, channel: str) -> int:
        """Return the record of a channel, or 0."""
        name = channel.encode("ascii")
        return self.table.find(name, self.table.hash(name))

    def is_inbox(self, record: int) -> bool:
        """True if a record is an inbox, which has no queue itself."""
        return self.table.name(record).endswith(b"!")

    def slice_of_records(self, first: int, count: int = SLICE) -> tuple[Iterator[int], int]:
        """
        Return the records in ``count`` buckets from number ``first``, and the number to continue with, 0 at the end.

        The current record may be dropped during the iteration.
        """
        table = self.table
        last = min(first + count, table.buckets)
        heads = self.words[table.at + first : table.at + last].tolist()
        filled = [bucket for bucket, head in enumerate(heads, table.at + first) if head]
        return (record for bucket in filled for record in table.chain(bucket)), last % table.buckets

    def make(self, channel: str) -> int:
        """Return the record of a channel, which is created with its inbox if necessary; 0 if there is no memory."""
        name = channel.encode("ascii")
        hashed = self.table.hash(name)
        record = self.table.find(name, hashed)
        if record:
            return record
        local = non_local_name(channel)
        inbox = 0
        if local != channel:
            inbox = self.make(local)
            if not inbox:
                return 0
        words = self.words
        self._drop_idle(self.table.bucket_of(hashed), inbox)
        record = self.slab.allocate() or (self._evict(inbox) and self.slab.allocate())
        if not record:
            return 0
        for at in range(HEAD, NAME):
            words[record + at] = 0
        words[record + EARLIEST_EXPIRY] = NEVER
        words[record + INBOX] = inbox
        self.table.write_name(record, name, hashed)
        self.table.insert(record)
        if inbox:
            words[inbox + LOCALS] += 1
        return record

    def _drop_idle(self, bucket: int, spared: int) -> None:
        """
        Drop idle records from a chain that is about to grow.

        Names that are used once (a reply channel for each request) can come faster than sweeps drop them. With this,
        they leave at most two idle records in each bucket, half of the memory, however many there are. An inbox is
        dropped with the last of its channels.
        """
        words = self.words
        for record in list(self.table.chain(bucket)):
            if record != spared and words[record + TAG]:  # not dropped together with an earlier one
                inbox = words[record + INBOX]
                self.drop_if_idle(record)
                if inbox and inbox != spared and not words[record + TAG]:
                    self.drop_if_empty(inbox)

    def _evict(self, spared: int) -> bool:
        """Drop one record that need not be kept, because there is no memory for another; False if none was found."""
        words, table = self.words, self.table
        for _ in range(min(table.buckets, EVICT_BUCKETS)):
            words[AT_SWEEP_CURSOR] = (words[AT_SWEEP_CURSOR] + 1) % table.buckets
            for record in table.chain(table.at + words[AT_SWEEP_CURSOR]):
                if record != spared and not self.is_kept(record):
                    self.drop(record)
                    return True
        return False

    def drop(self, record: int) -> None:
        """Drop a record that has no messages and is not in use as an inbox. Adds its statistics to the sums."""
        words = self.words
        self.table.remove(record)
        if not self.is_inbox(record):  # an inbox only sums its channels, which are added themselves
            words[AT_GONE_SENT] += words[record + SENT]
            words[AT_GONE_REFUSED] += words[record + REFUSED]
        inbox = words[record + INBOX]
        if inbox:
            words[inbox + LOCALS] -= 1
        self.slab.free(record)

    def is_kept(self, record: int) -> bool:
        """True if a record has messages, channels or waiters, or is the inbox of a live process."""
        words = self.words
        if words[record + HEAD] or words[record + LOCALS] or words[record + WAITING]:
            return True
        owner = words[record + OWNER]
        return owner != NOBODY and not self.liveness.is_dead(owner)

    def drop_if_empty(self, record: int) -> None:
        """Drop a record unless it must be kept, because memory is needed."""
        if not self.is_kept(record):
            self.drop(record)

    def drop_if_idle(self, record: int) -> None:
        """Drop a record if it was empty in the last call for it, is empty now, and was not used in between."""
        words = self.words
        if self.is_kept(record):
            words[record + IDLE] = 0
            return
        used = words[record + SENT] + words[record + TAKEN] + 1
        if words[record + IDLE] == used:
            self.drop(record)
        else:
            words[record + IDLE] = used

    # -- the ready ring of an inbox ---------------------------------------------------------------------------

    def append_ready(self, inbox: int, record: int) -> None:
        """Append a channel that has just got its first message to the ready ring of its inbox."""
        ring.append(self.words, inbox + READY, record, AFTER)

    def ready_ring(self, inbox: int) -> list[int]:
        """Return the channels in the ready ring of an inbox, in the order in which they are next received from."""
        most = min(self.words[inbox + LOCALS], self.table.longest)
        return list(ring.walk(self.words, inbox + READY, AFTER, most))
