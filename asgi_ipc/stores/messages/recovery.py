"""
Recovery of a message segment: rebuilds everything derived from the truth.  Runs alone, inside the mutex.

A kill leaves the truth intact, so nothing that was committed is lost.  Damage (another program wrote into the segment)
can leave any values.  A chain is cut off at a link that leads out of the heap, to a block that is already in use or to
words that cannot be a record.  The rest is kept.
"""

from __future__ import annotations

__all__ = ["MessageRecovery"]

from ...locking.liveness import Liveness
from ...names import non_local_name, valid_channel_name
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
    IDLE,
    INBOX,
    INDIVIDUAL,
    LOCALS,
    OWNER,
    PAGE,
    READY,
    RECORD_WORDS,
    REFUSED,
    SENT,
    TAIL,
    TAKEN,
    WAITERS,
    WAITING,
)
from .queues import Queues
from .records import BODY, BODY_DATA, BODY_LENGTH, CAME, EXPIRES, LENGTH, NEXT, REFERENCES, SHARED, body_words
from .sweep import Sweep


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
        live_blocks = LiveBlocks(self.heap)
        pages: dict[int, list[int]] = {}
        records = self._collect_records(pages, live_blocks)
        self._find_inboxes(records, pages)
        bodies: dict[int, int] = {}
        for record in records.values():
            self._recover_queue(record, bodies, live_blocks)
            words[AT_SEQ] = (words[AT_SEQ] + 1) % COUNTED  # shows waiters that this makes progress
        for body, references in bodies.items():
            words[body + REFERENCES] = references
        self._fill_inboxes(records)
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

    def _collect_records(self, pages: dict[int, list[int]], live_blocks: LiveBlocks) -> dict[str, int]:
        """Return every channel record that the buckets reach, by name."""
        words, table = self.words, self.table
        records: dict[str, int] = {}
        heads = words[table.at : table.at + table.buckets].tolist()
        for bucket, head in enumerate(heads, table.at):
            link, record = bucket, head
            while record:
                name = self._name_of(record, bucket)
                if not name or name in records or not self.channels.slab.mark_live(record, pages, live_blocks):
                    words[link] = 0
                    break
                records[name] = record
                link = record + NEXT_RECORD
                record = words[link]
        return records

    def _name_of(self, record: int, bucket: int) -> str:
        """Return the name of a possible channel record, or "" if it is not one that belongs in this bucket."""
        words, table = self.words, self.table
        if not self.heap.start < record < words[AT_RESERVED] - RECORD_WORDS or words[record + NAME_LENGTH] > 99:
            return ""
        raw = table.name(record)
        hashed = table.hash(raw)
        if words[record + HASH] != hashed or table.bucket_of(hashed) != bucket:
            return ""
        try:
            name = raw.decode("ascii")
            return name if valid_channel_name(name, receive="!" not in name or name.endswith("!")) else ""
        except (TypeError, ValueError):
            return ""

    def _find_inboxes(self, records: dict[str, int], pages: dict[int, list[int]]) -> None:
        """Set the inbox of each process-local channel. One without an inbox cannot be received from, and is dropped."""
        words = self.words
        for name, record in list(records.items()):
            for at in (INBOX, READY, LOCALS, IDLE, WAITERS, WAITING):
                words[record + at] = 0
            inbox = non_local_name(name)
            if not name.endswith("!"):
                words[record + OWNER] = words[record + INDIVIDUAL] = 0
            elif words[record + INDIVIDUAL] > 1:
                words[record + INDIVIDUAL] = 1
            if inbox == name:
                if name.endswith("!"):
                    words[record + HEAD] = 0  # an inbox has no queue of its own
            elif inbox in records:
                words[record + INBOX] = records[inbox]
            else:
                self.table.remove(record)
                pages[words[record + PAGE]].remove(record)
                del records[name]

    def _recover_queue(self, record: int, bodies: dict[int, int], live_blocks: LiveBlocks) -> None:
        """Mark the blocks of one queue as live, cut it at invalid data, and rebuild its derived words."""
        words = self.words
        link, last, count, earliest = record + HEAD, 0, 0, NEVER
        while True:
            message = words[link]
            if not message:
                break
            if not self._mark_message(message, bodies, live_blocks):
                words[link] = 0
                break
            earliest = min(earliest, words[message + EXPIRES])
            count += 1
            last = message
            link = message + NEXT
        words[record + TAIL] = last
        words[record + EARLIEST_EXPIRY] = earliest
        if words[record + TAKEN] >= COUNTED:
            words[record + TAKEN] = 0
        if words[record + REFUSED] >= COUNTED:
            words[record + REFUSED] = 0
        words[record + SENT] = words[record + TAKEN] + count

    def _mark_message(self, message: int, bodies: dict[int, int], live_blocks: LiveBlocks) -> bool:
        """Mark the blocks of a message as live; False if it cannot be a message."""
        words = self.words
        if not self.heap.start < message < words[AT_RESERVED] - BODY:
            return False
        length = words[message + LENGTH]
        if words[message + EXPIRES] > NEVER or words[message + CAME] > NEVER:
            return False
        if length < SHARED:
            return live_blocks.mark(message, BODY + body_words(length))
        if not live_blocks.mark(message, BODY + 1):
            return False
        body = words[message + BODY]
        if not self._mark_body(body, length - SHARED, bodies, live_blocks):
            live_blocks.unmark_last()
            return False
        bodies[body] += 1
        return True

    def _mark_body(self, body: int, length: int, bodies: dict[int, int], live_blocks: LiveBlocks) -> bool:
        """Mark a shared body of ``length`` bytes as live, if it is not yet; False if it cannot be one."""
        if not self.heap.start < body < self.words[AT_RESERVED] - BODY_DATA:
            return False
        if self.words[body + BODY_LENGTH] != length:
            return False
        if body not in bodies:
            if not live_blocks.mark(body, BODY_DATA + body_words(length)):
                return False
            bodies[body] = 0
        return True

    def _fill_inboxes(self, records: dict[str, int]) -> None:
        """Build the ready rings of the inboxes, and count in them the messages of their channels."""
        words = self.words
        inboxes = {words[record + INBOX] for record in records.values()} - {0}
        for inbox in inboxes:
            words[inbox + SENT] = words[inbox + TAKEN]
        for record in records.values():
            inbox = words[record + INBOX]
            if not inbox:
                continue
            words[inbox + LOCALS] += 1
            words[inbox + SENT] += words[record + SENT] - words[record + TAKEN]
            words[inbox + EARLIEST_EXPIRY] = min(words[inbox + EARLIEST_EXPIRY], words[record + EARLIEST_EXPIRY])
            words[record + AFTER] = words[record + BEFORE] = 0
            if words[record + HEAD]:
                self.channels.append_ready(inbox, record)
