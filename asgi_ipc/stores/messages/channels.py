"""
Channel records: what the message store knows of a channel besides its messages.  The caller holds the mutex.

    word  0  next in the bucket's chain     (hash table)
          1  hash of the name               (hash table)
          2  tag                            (slab)
          3  length of the name             (hash table)
          4  page                           (slab)
          5  HEAD      first message: truth
          6  TAIL      last message, void while HEAD is 0
          7  SENT      messages that ever came in ...
          8  TAKEN     ... and that went out again: received, expired; the difference waits
          9  EARLIEST_EXPIRY   no waiting message expires before this time (ns)
         10  INBOX     of ``prefix!local``: the record of ``prefix!``
         11  READY     of ``prefix!``: one of its channels that have messages, which form a ring
         12  AFTER     the next one of that ring
         13  BEFORE    the previous one
         14  LOCALS    of ``prefix!``: how many records have it for their inbox
         15  REFUSED   messages that found the channel full
         16  IDLE      SENT + TAKEN + 1 when the channel was last found empty, 0 if it was not
         17  WAITERS   those who wait for a message and were not called yet form a ring
         18  WAITING   how many waiters lead here, called ones included
         19  OWNER     of ``prefix!``: the process that receives from it (ownership): truth
         20  INDIVIDUAL  of ``prefix!``: 1 if each of its channels counts for itself: truth
         21  name, up to 99 bytes

A channel ``prefix!local`` keeps a queue of its own.  While it has messages it stands in the ready ring of its inbox
``prefix!``, from which a receiver of the whole process takes in turn, so that no socket starves its neighbours.  The
inbox counts the messages of all its channels, and the refused ones: they have one capacity together (ASGI draft),
unless it is marked as INDIVIDUAL.
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

#: Buckets in which a new channel looks for an idle one whose memory it can have.
EVICT_BUCKETS = 512
#: Buckets that a walk over everything visits in one critical section.
SLICE = 2048


class Channels:
    """The channel records of one message segment: made, found, dropped, and lined up in their inboxes."""

    def __init__(self, segment: Segment, heap: Heap, liveness: Liveness) -> None:
        self.words = segment.words
        self.liveness = liveness
        self.table = HashTable(segment, NAME)
        self.slab = Slab(segment, heap, RECORD_WORDS, PAGE)

    def name(self, record: int) -> str:
        """The name of a channel."""
        return self.table.name(record).decode("ascii")

    def find(self, channel: str) -> int:
        """The record of a channel, or 0."""
        name = channel.encode("ascii")
        return self.table.find(name, self.table.hash(name))

    def is_inbox(self, record: int) -> bool:
        """Whether a record is the inbox of a process: it holds no messages itself."""
        return self.table.name(record).endswith(b"!")

    def slice_of_records(self, first: int, count: int = SLICE) -> tuple[Iterator[int], int]:
        """
        The records in a slice of all buckets, from number ``first`` on, and the number to go on with, 0 at the end.

        The present record may be dropped while they are iterated.
        """
        table = self.table
        last = min(first + count, table.buckets)
        heads = self.words[table.at + first : table.at + last].tolist()
        filled = [bucket for bucket, head in enumerate(heads, table.at + first) if head]
        return (record for bucket in filled for record in table.chain(bucket)), last % table.buckets

    def make(self, channel: str) -> int:
        """The record of a channel, made if there is none (and its inbox with it); 0 if there is no memory for it."""
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

        Names that are used once (a reply channel for each request) can come faster than sweeps do: this way they leave
        at most two idle records in each bucket behind, half of the memory, however many there are. An inbox goes with
        the last of its channels.
        """
        words = self.words
        for record in list(self.table.chain(bucket)):
            if record != spared and words[record + TAG]:  # not gone with one before it
                inbox = words[record + INBOX]
                self.drop_if_idle(record)
                if inbox and inbox != spared and not words[record + TAG]:
                    self.drop_if_empty(inbox)

    def _evict(self, spared: int) -> bool:
        """Drop records that need not be kept, until one has gone: there is no memory for another one."""
        words, table = self.words, self.table
        for _ in range(min(table.buckets, EVICT_BUCKETS)):
            words[AT_SWEEP_CURSOR] = (words[AT_SWEEP_CURSOR] + 1) % table.buckets
            for record in table.chain(table.at + words[AT_SWEEP_CURSOR]):
                if record != spared and not self.is_kept(record):
                    self.drop(record)
                    return True
        return False

    def drop(self, record: int) -> None:
        """Drop a record that nothing waits in and no record has for its inbox. Its statistics live on in the sums."""
        words = self.words
        self.table.remove(record)
        if not self.is_inbox(record):  # an inbox only sums its channels, which stand for themselves
            words[AT_GONE_SENT] += words[record + SENT]
            words[AT_GONE_REFUSED] += words[record + REFUSED]
        inbox = words[record + INBOX]
        if inbox:
            words[inbox + LOCALS] -= 1
        self.slab.free(record)

    def is_kept(self, record: int) -> bool:
        """Whether something waits in a record, or for it, or belongs to it, or it is the inbox of a live process."""
        words = self.words
        if words[record + HEAD] or words[record + LOCALS] or words[record + WAITING]:
            return True
        owner = words[record + OWNER]
        return owner != NOBODY and not self.liveness.is_dead(owner)

    def drop_if_empty(self, record: int) -> None:
        """Drop a record that need not be kept: its memory is needed."""
        if not self.is_kept(record):
            self.drop(record)

    def drop_if_idle(self, record: int) -> None:
        """Drop a record that was empty when this was last asked, is empty now, and was not used in between."""
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
        """Put a channel that has just got its first message at the end of its inbox's ring."""
        ring.append(self.words, inbox + READY, record, AFTER)

    def ready_ring(self, inbox: int) -> list[int]:
        """The channels in an inbox's ring, the one whose turn it is first."""
        most = min(self.words[inbox + LOCALS], self.table.longest)
        return list(ring.walk(self.words, inbox + READY, AFTER, most))
