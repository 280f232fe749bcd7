"""
Queues of messages: what may happen to them inside one section.  The caller holds the guard.

    message   word 0  NEXT      the message behind it: truth, as is HEAD of the channel's record
                   1  LENGTH    of the body in bytes; SHARED is added where the body lies in a block of its own
                   2  EXPIRES   ns of the monotonic clock
                   3  CAME      when it was sent, on the same clock
                   4  BODY      the body, padded to words; where it is shared, the offset of its block
    body      word 0  REFERENCES   how many messages share it
                   1  its length in bytes
                   2  the body, padded to words

With the header of the heap's block a message costs 40 bytes and the padding beside its body.  Prepared first, then
linked with one store: a kill in between leaves a block that nothing reaches, which is free memory to a recovery.
"""

from __future__ import annotations

__all__ = ["AGAIN", "Again", "Queues", "Refusal"]

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from ..memory.heap import Heap
from ..memory.layout import AT_GENERATION, NEVER, WORD
from ..memory.segment import Segment
from ..memory.slab import TAG
from .channels import AFTER, HEAD, INBOX, READY, REFUSED, SENT, SOONEST, TAIL, TAKEN, Channels

NEXT = 0
LENGTH = 1
EXPIRES = 2
CAME = 3
BODY = 4
SHARED = 2**63

REFERENCES = 0
BODY_LENGTH = 1
BODY_DATA = 2

#: Channels whose records a process remembers; past this it forgets them all and begins anew.
REMEMBERED = 16384
#: Expired messages that one section drops at the most before it lets others in.
EXPIRED_SLICE = 256


class Again:
    """What a section returns that has dropped its share of expired messages and wants to go on in another one."""


AGAIN = Again()


class Refusal(NamedTuple):
    """Why a message was not taken: its channel has ``waiting`` of ``capacity``, or there is a ``shortage`` of memory."""

    waiting: int
    capacity: int
    shortage: Optional[str] = None


def body_words(length: int) -> int:
    """Words that a body of ``length`` bytes takes."""
    return (length + WORD - 1) // WORD


class Queues:
    """The queues of one message segment, and where in it the channels of this process were last seen."""

    def __init__(self, segment: Segment, heap: Heap) -> None:
        self.words = segment.words
        self.data = segment.data
        self.heap = heap
        self.channels = Channels(segment, heap)
        self._generation = 0
        self._seen: Dict[str, Tuple[int, int]] = {}

    # -- finding channels -------------------------------------------------------------------------------------

    def _record(self, channel: str, make: bool) -> int:
        """The record of a channel, through what this process remembers; 0 if there is none (or no memory for it)."""
        words = self.words
        if words[AT_GENERATION] != self._generation:
            self._generation = words[AT_GENERATION]
            self._seen.clear()
        seen = self._seen.get(channel)
        if seen is not None and words[seen[0] + TAG] == seen[1]:
            return seen[0]
        record = self.channels.make(channel) if make else self.channels.find(channel)
        if record:
            if len(self._seen) >= REMEMBERED:
                self._seen.clear()
            self._seen[channel] = (record, words[record + TAG])
        return record

    # -- sending ----------------------------------------------------------------------------------------------

    def append(self, channel: str, capacity: int, body: bytes, now: int, expires: int) -> Optional[Refusal]:
        """Put a message at the end of a channel's queue; a refusal if it is full or there is no memory."""
        words = self.words
        record = self._record(channel, True)
        if not record:
            return Refusal(0, capacity, self.heap.shortage)
        meter = words[record + INBOX] or record
        if words[meter + SENT] - words[meter + TAKEN] >= capacity and not self._make_room(meter, capacity, now):
            words[record + REFUSED] += 1
            return Refusal(words[meter + SENT] - words[meter + TAKEN], capacity)
        length = len(body)
        message = self.heap.allocate(BODY + (length + 7 >> 3))
        if not message:
            return Refusal(0, capacity, self.heap.shortage)
        words[message + LENGTH] = length
        start = (message + BODY) << 3
        self.data[start : start + length] = body
        self._link(record, message, now, expires)
        return None

    def append_each(
        self, targets: Sequence[Tuple[str, int]], body: bytes, now: int, expires: int
    ) -> Tuple[List[str], int, Optional[str]]:
        """
        Put one message, its body stored once, into the queue of each ``(channel, capacity)``.

        Returns the channels that were full, how many targets were reached, and the shortage if memory ran out there.
        """
        words = self.words
        length = len(body)
        shared = self.heap.allocate(BODY_DATA + body_words(length))
        if not shared:
            return [], 0, self.heap.shortage
        words[shared + REFERENCES] = 0
        words[shared + BODY_LENGTH] = length
        start = (shared + BODY_DATA) * WORD
        self.data[start : start + length] = body
        full: List[str] = []
        reached = 0
        for channel, capacity in targets:
            record = self._record(channel, True)
            message = self.heap.allocate(BODY + 1) if record else 0
            if not message:
                break
            reached += 1
            meter = words[record + INBOX] or record
            if words[meter + SENT] - words[meter + TAKEN] >= capacity and not self._make_room(meter, capacity, now):
                words[record + REFUSED] += 1
                self.heap.free(message)
                full.append(channel)
                continue
            words[message + LENGTH] = length + SHARED
            words[message + BODY] = shared
            words[shared + REFERENCES] += 1
            self._link(record, message, now, expires)
        if not words[shared + REFERENCES]:
            self.heap.free(shared)
        return full, reached, self.heap.shortage if reached < len(targets) else None

    def _link(self, record: int, message: int, now: int, expires: int) -> None:
        """Make a message that is written otherwise part of a queue."""
        words = self.words
        words[message + NEXT] = 0
        words[message + EXPIRES] = expires
        words[message + CAME] = now
        inbox = words[record + INBOX]
        if words[record + HEAD]:
            words[words[record + TAIL] + NEXT] = message  # commit
            if expires < words[record + SOONEST]:
                words[record + SOONEST] = expires
        else:
            words[record + HEAD] = message  # commit
            words[record + SOONEST] = expires
            if inbox:
                self.channels.line_up(inbox, record)
        words[record + TAIL] = message
        words[record + SENT] += 1
        if inbox:
            if words[inbox + SENT] == words[inbox + TAKEN] or expires < words[inbox + SOONEST]:
                words[inbox + SOONEST] = expires
            words[inbox + SENT] += 1

    # -- receiving --------------------------------------------------------------------------------------------

    def pop(self, channels: Sequence[str], first: int, now: int) -> Union[None, Again, Tuple[str, bytes]]:
        """
        Take the first message of the first channel that has one, looking from number ``first`` on, in a circle.

        A channel that ends in ``!`` stands for all the channels of that process. Returns the full name and the body.
        """
        words = self.words
        many = len(channels)
        for turn in range(first, first + many):
            channel = channels[turn % many]
            record = self._record(channel, False)
            if not record:
                continue
            if words[record + HEAD]:
                body = self._take(record, now)
                if body is None:
                    continue
                return AGAIN if body is AGAIN else (channel, body)  # type: ignore[return-value]
            while words[record + READY]:
                local = words[record + READY]
                if not words[local + HEAD]:
                    raise ValueError("a ready ring leads to a channel without messages")
                words[record + READY] = words[local + AFTER]  # its neighbours come first next time
                body = self._take(local, now)
                if body is not None:
                    return AGAIN if body is AGAIN else (self.channels.name(local), body)  # type: ignore[return-value]
        return None

    def _take(self, record: int, now: int) -> Union[None, Again, bytes]:
        """The body of a channel's first message that has not expired, which is no longer queued then."""
        words = self.words
        message = words[record + HEAD]
        if words[message + EXPIRES] <= now:
            self.drop_heads(record, now, EXPIRED_SLICE)
            message = words[record + HEAD]
            if not message:
                return None
            if words[message + EXPIRES] <= now:
                return AGAIN
        body = self.body(message)
        self._unqueue(record, message)
        return body

    def _unqueue(self, record: int, message: int) -> None:
        """Take a channel's first message out and free it."""
        words = self.words
        following = words[message + NEXT]
        words[record + HEAD] = following  # commit
        words[record + TAKEN] += 1
        inbox = words[record + INBOX]
        if inbox:
            words[inbox + TAKEN] += 1
            if not following:
                self.channels.step_out(inbox, record)
        self._free(message)

    def body(self, message: int) -> bytes:
        """A copy of the body of a message."""
        words = self.words
        length = words[message + LENGTH]
        start = (message + BODY) << 3
        if length >= SHARED:
            length -= SHARED
            start = (words[message + BODY] + BODY_DATA) << 3
        body = self.data[start : start + length]
        if len(body) != length:
            raise ValueError(f"a message claims to have {length} bytes")
        return body

    def _free(self, message: int) -> None:
        words = self.words
        if words[message + LENGTH] >= SHARED:
            shared = words[message + BODY]
            words[shared + REFERENCES] -= 1
            if not words[shared + REFERENCES]:
                self.heap.free(shared)
        self.heap.free(message)

    # -- expiry -----------------------------------------------------------------------------------------------

    def _make_room(self, meter: int, capacity: int, now: int) -> bool:
        """Drop what has expired in a full channel (or inbox); whether that has brought it below its capacity."""
        words = self.words
        if words[meter + SOONEST] > now:
            return False
        if words[meter + READY]:
            words[meter + SOONEST] = min(self.drop_expired(local, now) for local in self.channels.ring(meter))
        else:
            self.drop_expired(meter, now)
        return bool(words[meter + SENT] - words[meter + TAKEN] < capacity)

    def drop_heads(self, record: int, now: int, most: int) -> None:
        """Drop expired messages from the head of a queue, ``most`` of them at the most."""
        words = self.words
        for _ in range(most):
            message = words[record + HEAD]
            if not message or words[message + EXPIRES] > now:
                return
            self._unqueue(record, message)

    def drop_expired(self, record: int, now: int) -> int:
        """Drop every expired message of a channel, wherever it stands in the queue. Returns its SOONEST then."""
        words = self.words
        if not words[record + HEAD] or words[record + SOONEST] > now:
            return int(words[record + SOONEST]) if words[record + HEAD] else NEVER
        soonest, last, link = NEVER, 0, record + HEAD
        for _ in range(min(words[record + SENT] - words[record + TAKEN], self.heap.end)):
            message = words[link]
            if not message:
                break
            if words[message + EXPIRES] <= now:
                following = words[message + NEXT]
                words[link] = following  # commit
                words[record + TAKEN] += 1
                inbox = words[record + INBOX]
                if inbox:
                    words[inbox + TAKEN] += 1
                self._free(message)
            else:
                soonest = min(soonest, words[message + EXPIRES])
                last = message
                link = message + NEXT
        words[record + TAIL] = last
        words[record + SOONEST] = soonest
        if not last and words[record + INBOX]:
            self.channels.step_out(words[record + INBOX], record)
        return soonest
