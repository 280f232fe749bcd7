"""
Recovery of a message segment: rebuilds everything derived from the truth.  Runs alone, inside the mutex.

A kill leaves the truth intact, so nothing that was committed is lost.  Damage (another program wrote into the segment)
can leave any values.  A chain is cut off at a link that leads out of the heap, to a block that is already in use or to
words that cannot be a record.  The rest is kept.
"""

from __future__ import annotations

__all__ = ["MessageRecovery"]

from itertools import compress

from ...locking.liveness import Liveness
from ...names import MAX_LENGTH, valid_stored_name
from ...shm.layout import (
    AT_FIFOS,
    AT_FILE_SWEEP,
    AT_FLUSHING,
    AT_FULL_SWEEP,
    AT_GENERATION,
    AT_GONE_REFUSED,
    AT_GONE_SENT,
    AT_RESERVED,
    AT_SEQ,
    AT_SWEEP_CURSOR,
    AT_SWEEP_DUE,
    AT_WAIT_GENERATION,
    COUNTED,
    NEVER,
    WORD,
)
from ...shm.segment import Segment
from ...shm.wakeup_fifo import Notifier, notify_all
from ...structures.hashtable import HASH, NAME_LENGTH
from ...structures.hashtable import NEXT as NEXT_RECORD
from ...structures.heap import Heap
from ...structures.live_blocks import LiveBlocks
from .channels import (
    AFTER,
    BEFORE,
    EARLIEST_EXPIRY,
    HEAD,
    INDIVIDUAL,
    LOCALS,
    NAME,
    OWNER,
    PAGE,
    RECORD_WORDS,
    REFUSED,
    SENT,
    TAIL,
    TAKEN,
)
from .queues import Queues
from .records import (
    BODY,
    BODY_DATA,
    BODY_LENGTH,
    CAME,
    EXPIRES,
    LENGTH,
    NEXT,
    POINTER_WORDS,
    REFERENCES,
    SHARED,
    body_words,
)
from .sweep import Sweep

#: How many channels are recovered between two stores that show waiters that this makes progress.
PROGRESS = 64


class MessageRecovery:
    """Recovers one message segment when it is called."""

    def __init__(self, segment: Segment, heap: Heap, liveness: Liveness) -> None:
        self.segment = segment
        self.heap = heap
        self.words = segment.words
        self.queues = Queues(segment, heap, liveness)
        self.channels = self.queues.channels
        self.table = self.channels.table
        self.sweep = Sweep(self.queues)
        self.notifier = Notifier(segment.name, segment.mode)
        #: The end of the memory in which blocks can be, from the start of a recovery.
        self.reserved = 0

    def __call__(self) -> None:
        """Rebuild what is derived. Can be interrupted at any point and repeated."""
        if self.words[AT_FLUSHING]:
            self.sweep.empty()
        else:
            self._rebuild()
        notify_all(self.notifier)  # FIFOs and waiters were dropped: live receivers register again
        self.notifier.close()

    def _rebuild(self) -> None:
        words = self.words
        self.heap.confirm_reserved()
        self.reserved = words[AT_RESERVED]
        live_blocks = LiveBlocks(self.heap)
        pages: dict[int, dict[int, int]] = {}
        records = self._collect_records(pages, live_blocks)
        inboxes = self._find_inboxes(records, pages)
        bodies: dict[int, int] = {}
        for number, record in enumerate(records.values()):
            self._recover_record(record, inboxes.get(record, 0), bodies, live_blocks)
            if not number % PROGRESS:
                words[AT_SEQ] = (words[AT_SEQ] + 1) % COUNTED
        for body, references in bodies.items():
            words[body + REFERENCES] = references
        self._fill_inboxes(inboxes)
        self.heap.rebuild(live_blocks.live)
        self.channels.slab.rebuild(pages)
        for at in (AT_SWEEP_CURSOR, AT_SWEEP_DUE, AT_FULL_SWEEP, AT_FILE_SWEEP):
            words[at] = 0
        for at in (AT_GONE_SENT, AT_GONE_REFUSED):
            if words[at] >= COUNTED:
                words[at] = 0
        words[AT_FIFOS] = 0
        words[AT_WAIT_GENERATION] = (words[AT_WAIT_GENERATION] + 1) % COUNTED
        words[AT_GENERATION] = (words[AT_GENERATION] + 1) % COUNTED

    def _collect_records(self, pages: dict[int, dict[int, int]], live_blocks: LiveBlocks) -> dict[bytes, int]:
        """Return every channel record that the buckets reach, by name."""
        words, table = self.words, self.table
        name_of, mark_live = self._name_of, self.channels.slab.mark_live
        records: dict[bytes, int] = {}
        buckets = range(table.at, table.at + table.buckets)
        for bucket in compress(buckets, words[buckets.start : buckets.stop].tolist()):  # those that are not empty
            link = bucket
            record = words[link]
            while record:
                name = name_of(record, bucket)
                if not name or name in records or not mark_live(record, pages, live_blocks):
                    words[link] = 0
                    break
                records[name] = record
                link = record + NEXT_RECORD
                record = words[link]
        return records

    def _name_of(self, record: int, bucket: int) -> bytes:
        """Return the name of a possible channel record, or b"" if it is not one that belongs in this bucket."""
        words, table = self.words, self.table
        if not self.heap.start < record < self.reserved - RECORD_WORDS or words[record + NAME_LENGTH] > MAX_LENGTH:
            return b""
        name = table.name(record)
        hashed = table.hash(name)
        if words[record + HASH] != hashed or table.bucket_of(hashed) != bucket or not valid_stored_name(name):
            return b""
        return name

    def _find_inboxes(self, records: dict[bytes, int], pages: dict[int, dict[int, int]]) -> dict[int, int]:
        """
        Return the inbox of each process-local channel, and each inbox as its own.

        A channel without its inbox cannot be received from, and is dropped.
        """
        words = self.words
        inboxes: dict[int, int] = {}
        for name in [name for name in records if name.find(b"!") > 0]:  # ("in" takes five times as long)
            record = records[name]
            if name.endswith(b"!"):
                words[record + HEAD] = 0  # an inbox has no queue of its own
            inbox = records.get(name[: name.index(b"!") + 1], 0)
            if inbox:
                inboxes[record] = inbox
            else:
                self.table.remove(record)
                del pages[words[record + PAGE]][record]
                del records[name]
        return inboxes

    def _recover_record(self, record: int, inbox: int, bodies: dict[int, int], live_blocks: LiveBlocks) -> None:
        """
        Recover one channel and its queue. ``inbox`` is what ``_find_inboxes`` has returned for it, or 0.

        Most of its words have the right value already: they are read at once, and only those that differ are written.
        """
        words = self.words
        count, last, earliest = self._recover_queue(record + HEAD, bodies, live_blocks)
        found = words[record + TAIL : record + NAME].tolist()
        taken, refused = found[TAKEN - TAIL], found[REFUSED - TAIL]
        taken = taken if taken < COUNTED else 0
        refused = refused if refused < COUNTED else 0
        owner = individual = 0
        if inbox == record:
            inbox, owner, individual = 0, found[OWNER - TAIL], min(found[INDIVIDUAL - TAIL], 1)
        # _fill_inboxes counts from READY and LOCALS of 0, and sets AFTER and BEFORE of a channel in a ring.
        after, before = (found[AFTER - TAIL], found[BEFORE - TAIL]) if inbox and count else (0, 0)
        # In the order of the words.
        right = [last, taken + count, taken, earliest, inbox, 0, after, before, 0, refused, 0, 0, 0, owner, individual]
        if found != right:
            for at, (old, new) in enumerate(zip(found, right), record + TAIL):
                if old != new:
                    words[at] = new

    def _recover_queue(self, link: int, bodies: dict[int, int], live_blocks: LiveBlocks) -> tuple[int, int, int]:
        """
        Mark the blocks of the queue whose first message is in the word ``link``, and cut it at invalid data.

        Returns the number of messages, the last one, and the earliest time at which one expires.
        """
        words, mark = self.words, live_blocks.mark
        lowest, highest = self.heap.start + 1, self.reserved - BODY
        count, last, earliest = 0, 0, NEVER
        message = words[link]
        while message:
            if not lowest <= message < highest:
                break
            length, expires = words[message + LENGTH], words[message + EXPIRES]
            if expires > NEVER or words[message + CAME] > NEVER:
                break
            if length >= SHARED:
                if not self._mark_shared(message, length - SHARED, bodies, live_blocks):
                    break
            elif not mark(message, BODY + (length + WORD - 1) // WORD):
                break
            if expires < earliest:
                earliest = expires
            count += 1
            last = message
            link = message + NEXT
            message = words[link]
        if message:
            words[link] = 0
        return count, last, earliest

    def _mark_shared(self, message: int, length: int, bodies: dict[int, int], live_blocks: LiveBlocks) -> bool:
        """Mark a message with a shared body of ``length`` bytes, and the body, as live; False if it cannot be one."""
        if not live_blocks.mark(message, POINTER_WORDS):
            return False
        body = self.words[message + BODY]
        if not self._mark_body(body, length, bodies, live_blocks):
            live_blocks.unmark_last()
            return False
        bodies[body] += 1
        return True

    def _mark_body(self, body: int, length: int, bodies: dict[int, int], live_blocks: LiveBlocks) -> bool:
        """Mark a shared body of ``length`` bytes as live, if it is not yet; False if it cannot be one."""
        if not self.heap.start < body < self.reserved - BODY_DATA:
            return False
        if self.words[body + BODY_LENGTH] != length:
            return False
        if body not in bodies:
            if not live_blocks.mark(body, BODY_DATA + body_words(length)):
                return False
            bodies[body] = 0
        return True

    def _fill_inboxes(self, inboxes: dict[int, int]) -> None:
        """Build the ready rings of the inboxes, and count in them the messages of their channels."""
        words, append_ready = self.words, self.channels.append_ready
        for record, inbox in inboxes.items():
            if record == inbox:
                continue
            words[inbox + LOCALS] += 1
            if words[record + HEAD]:
                words[inbox + SENT] += words[record + SENT] - words[record + TAKEN]
                if words[record + EARLIEST_EXPIRY] < words[inbox + EARLIEST_EXPIRY]:
                    words[inbox + EARLIEST_EXPIRY] = words[record + EARLIEST_EXPIRY]
                append_ready(inbox, record)
