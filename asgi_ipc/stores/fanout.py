"""
One message for many channels: its body is stored once, with a count of the small records that point to it.

The caller holds the guard, and gives it up between slices of the channels.
"""

from __future__ import annotations

__all__ = ["Fanout"]

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..memory.layout import AT_GENERATION, WORD
from .channels import SENT, TAKEN, WAITERS
from .contents import (
    BODY,
    BODY_DATA,
    BODY_LENGTH,
    CAME,
    EXPIRES,
    LENGTH,
    REFERENCES,
    SHARED,
    body_words,
)
from .queues import Queues


class Reached(NamedTuple):
    """
    What has become of a slice: the channels that were full; how many channels were reached, full ones included; the
    shortage if memory ran out there; the tokens of bells to ring.
    """

    full: List[str]
    reached: int
    shortage: Optional[str]
    calls: List[int]


class Fanout:
    """Appends to many queues of one segment at once."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues
        self.words = queues.words
        self.data = queues.data
        self.heap = queues.heap

    def append_each(self, targets: Sequence[Tuple[str, int]], body: bytes, now: int, expires: int) -> Reached:
        """Put one message into the queue of each ``(channel, capacity)``."""
        words, queues, allocate = self.words, self.queues, self.heap.allocate
        shared = self._store(body)
        if not shared:
            return Reached([], 0, self.heap.shortage, [])
        length = len(body) + SHARED
        full: List[str] = []
        calls: List[int] = []
        minded: Dict[int, bool] = {}
        reached = references = 0
        for channel, capacity in targets:
            place = queues.seen.get(channel)
            if place is None or words[AT_GENERATION] != queues.generation or words[place[1]] != place[0]:
                place = queues.locate(channel, True)
            message = allocate(BODY + 1) if place else 0
            if place is None or not message:
                break
            reached += 1
            record, inbox = place[2], place[7]
            if inbox:
                if inbox not in minded:
                    minded[inbox] = queues.meter_of(record, inbox, now) == record
                meter = record if minded[inbox] else inbox
            else:
                meter = record
            if words[meter + SENT] - words[meter + TAKEN] >= capacity and not queues.contents.make_room(
                meter, capacity, now
            ):
                queues.count_refused(record, inbox)
                self.heap.free(message)
                full.append(channel)
                continue
            words[message + LENGTH] = length
            words[message + EXPIRES] = expires
            words[message + CAME] = now
            words[message + BODY] = shared
            references += 1
            queues.link(place, message, expires)
            if words[record + WAITERS]:
                calls.append(queues.waiters.call(record))
            elif inbox and words[inbox + WAITERS]:
                calls.append(queues.waiters.call(inbox))
        # Nobody looks at it before the section ends, and whoever repairs counts it anew.
        words[shared + REFERENCES] = references
        if not references:
            self.heap.free(shared)
        return Reached(full, reached, self.heap.shortage if reached < len(targets) else None, calls)

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
