"""
One message for many channels: its body is stored once, with a count of the small records that point to it.

The caller holds the mutex, and gives it up between slices of the channels.
"""

from __future__ import annotations

__all__ = ["Fanout"]

from array import array
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ...shm.layout import WORD
from .channels import EARLIEST_EXPIRY, SENT, TAKEN, WAITERS
from .queues import Queues
from .records import BODY, BODY_DATA, BODY_LENGTH, NEXT, REFERENCES, SHARED, body_words

#: Words of a message whose body lies elsewhere.
POINTER_WORDS = BODY + 1


class Reached(NamedTuple):
    """
    What has become of a slice: the channels that were full; how many channels were reached, full ones included; the
    shortage if memory ran out there; the tokens of FIFOs to ring.
    """

    full: List[str]
    reached: int
    shortage: Optional[str]
    tokens: List[int]


class InboxBatch:
    """What one inbox (0: none at all) gets of a slice. It is told behind the slice: this is derived."""

    __slots__ = ("came", "individual", "ready")

    def __init__(self, individual: bool) -> None:
        #: Whether each of its channels counts for itself.
        self.individual = individual
        #: Messages for its channels.
        self.came = 0
        #: Those of its channels that had none before.
        self.ready: List[int] = []


class Fanout:
    """Appends to many queues of one segment at once."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues
        self.words = queues.words
        self.data = queues.data
        self.heap = queues.heap

    def append_each(self, targets: Sequence[Tuple[str, int]], body: bytes, now: int, expires: int) -> Reached:
        """Put one message into the queue of each ``(channel, capacity)``. ``Queues.append`` does it with one alone."""
        words, queues = self.words, self.queues
        shared = self._store(body)
        blocks = self.heap.allocate_several(POINTER_WORDS, len(targets)) if shared else []
        content = memoryview(array("Q", (0, len(body) + SHARED, expires, now, shared)))
        full: List[str] = []
        tokens: List[int] = []
        waited_for: List[int] = []
        batches: Dict[int, InboxBatch] = {}
        reached = 0
        queues.check_generation()
        for channel, capacity in targets:
            place = queues.seen.get(channel)
            if place is None or words[place[1]] != place[0]:
                place = queues.locate(channel, True)
            if place is None or not blocks:
                break
            reached += 1
            _, _, record, head_at, tail_at, sent_at, taken_at, inbox = place
            sent, quota = words[sent_at], record
            waiting = sent - words[taken_at]
            batch = batches.get(inbox)
            if batch is None:
                batch = batches[inbox] = InboxBatch(not inbox or queues.quota_of(record, inbox, now) == record)
            if not batch.individual:
                quota = inbox
                waiting = words[inbox + SENT] - words[inbox + TAKEN] + batch.came
            if waiting >= capacity and not queues.records.make_room(quota, capacity, now):
                queues.count_refused(record, inbox)
                full.append(channel)
                continue
            message = blocks.pop()
            words[message : message + POINTER_WORDS] = content
            if words[head_at]:
                words[words[tail_at] + NEXT] = message  # commit
                if expires < words[record + EARLIEST_EXPIRY]:
                    words[record + EARLIEST_EXPIRY] = expires
            else:
                words[head_at] = message  # commit
                words[record + EARLIEST_EXPIRY] = expires
                batch.ready.append(record)
            words[tail_at] = message
            words[sent_at] = sent + 1
            batch.came += 1
            if words[record + WAITERS]:
                waited_for.append(record)
            elif inbox and words[inbox + WAITERS]:
                tokens.append(queues.waiters.notify(inbox))
        tokens += queues.waiters.notify_each(waited_for)
        self._finish(shared, reached - len(full), blocks, batches, expires)
        return Reached(full, reached, self.heap.shortage if reached < len(targets) else None, tokens)

    def _store(self, body: bytes) -> int:
        """Write the body into a block of its own; 0 if there is no memory for it."""
        words, length = self.words, len(body)
        shared = self.heap.allocate(BODY_DATA + body_words(length))
        if shared:
            words[shared + REFERENCES] = 0
            words[shared + BODY_LENGTH] = length
            start = (shared + BODY_DATA) * WORD
            self.data[start : start + length] = body
        return shared

    def _finish(
        self, shared: int, references: int, spare: List[int], batches: Dict[int, InboxBatch], expires: int
    ) -> None:
        """Count what a slice has done. Nobody looks at it before the section ends, and whoever repairs counts anew."""
        for block in spare:
            self.heap.free(block)
        if references:
            self.words[shared + REFERENCES] = references
        elif shared:
            self.heap.free(shared)
        for inbox, batch in batches.items():
            if inbox and batch.came:
                self.queues.count_in(inbox, expires, batch.came)
                self.queues.channels.extend_ready(inbox, batch.ready)
