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

from ..memory.heap import QUICK_DEPTH, Heap
from ..memory.layout import AT_GENERATION, AT_QUICK, NEVER, QUICK_WORDS, WORD
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

#: What to add to the length of a body, in bytes, to get the words of its block when divided by 8: the block's header,
#: the four words before the body, and rounding up.
BODY_ROUND = (1 + BODY) * WORD + WORD - 1

#: Where a channel was last seen: its tag, the word of its tag, its record, the words of HEAD, TAIL, SENT and
#: TAKEN, and its INBOX. Worth nothing when the tag is no longer in its word or the generation has moved.
Place = Tuple[int, int, int, int, int, int, int, int]

#: Channels whose records a process remembers; past this it forgets them all and begins anew.
REMEMBERED = 16384
#: Expired messages that one section drops at the most before it lets others in.
EXPIRED_SLICE = 256


class Again:
    """What a section returns that has dropped its share of expired messages and wants to go on in another one."""


AGAIN = Again()


class Refusal(NamedTuple):
    """Why a message was not taken: its channel has ``waiting`` of ``capacity``, or there is a ``shortage``."""

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
        self._seen: Dict[str, Place] = {}

    def largest_body(self) -> int:
        """The bytes of the largest body that a segment with nothing else in it has room for, in a group send too."""
        page = 1 + self.channels.slab.page_words
        around = (1 + BODY_DATA) + (1 + BODY + 1)  # the body's own block, and the message that points to it
        return (self.heap.end - self.heap.start - 1 - page - around) * WORD  # the heap ends with a header of its own

    # -- finding channels -------------------------------------------------------------------------------------

    def _locate(self, channel: str, make: bool) -> Optional[Place]:
        """Where the record of a channel lies, for ``append`` and ``pop`` to remember; None if there is none."""
        words = self.words
        if words[AT_GENERATION] != self._generation:
            self._generation = words[AT_GENERATION]
            self._seen.clear()
        record = self.channels.make(channel) if make else self.channels.find(channel)
        if not record:
            return None
        if len(self._seen) >= REMEMBERED:
            self._seen.clear()
        place = self._seen[channel] = (
            words[record + TAG],
            record + TAG,
            record,
            record + HEAD,
            record + TAIL,
            record + SENT,
            record + TAKEN,
            words[record + INBOX],
        )
        return place

    # -- sending ----------------------------------------------------------------------------------------------

    def append(self, channel: str, capacity: int, body: bytes, now: int, expires: int) -> Optional[Refusal]:
        """Put a message at the end of a channel's queue; a refusal if it is full or there is no memory."""
        words = self.words
        place = self._seen.get(channel)
        if place is None or words[AT_GENERATION] != self._generation or words[place[1]] != place[0]:
            place = self._locate(channel, True)
            if place is None:
                return Refusal(0, capacity, self.heap.shortage)
        _, _, record, head_at, tail_at, sent_at, taken_at, inbox = place
        sent = words[sent_at]
        waiting = words[inbox + SENT] - words[inbox + TAKEN] if inbox else sent - words[taken_at]
        if waiting >= capacity and not self._make_room(inbox or record, capacity, now):
            words[record + REFUSED] += 1
            if inbox:
                words[inbox + REFUSED] += 1
            return Refusal(waiting, capacity)
        length = len(body)
        total = (length + BODY_ROUND) >> 3
        if total <= QUICK_WORDS and words[AT_QUICK + total]:  # what ``Heap.allocate`` does first, without the call
            message = words[AT_QUICK + total]
            if words[message - 1] >> 2 != total:
                raise ValueError(f"a free list of {total} words leads to a block of another size")
            words[AT_QUICK + total] = words[message]
        else:
            message = self.heap.allocate(total - 1)
            if not message:
                return Refusal(0, capacity, self.heap.shortage)
        words[message] = 0
        words[message + LENGTH] = length
        words[message + EXPIRES] = expires
        words[message + CAME] = now
        start = (message + BODY) << 3
        self.data[start : start + length] = body
        if words[head_at]:
            words[words[tail_at]] = message  # commit: the NEXT of the last message
            if expires < words[record + SOONEST]:
                words[record + SOONEST] = expires
        else:
            words[head_at] = message  # commit
            words[record + SOONEST] = expires
            if inbox:
                self.channels.line_up(inbox, record)
        words[tail_at] = message
        words[sent_at] = sent + 1
        if inbox:
            self._count_in(inbox, expires)
        return None

    def _count_in(self, inbox: int, expires: int) -> None:
        """Count a message that one of its channels has got."""
        words = self.words
        if words[inbox + SENT] == words[inbox + TAKEN] or expires < words[inbox + SOONEST]:
            words[inbox + SOONEST] = expires
        words[inbox + SENT] += 1

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
            place = self._seen.get(channel)
            if place is None or words[AT_GENERATION] != self._generation or words[place[1]] != place[0]:
                place = self._locate(channel, True)
            message = self.heap.allocate(BODY + 1) if place else 0
            if place is None or not message:
                break
            record = place[2]
            reached += 1
            meter = words[record + INBOX] or record
            if words[meter + SENT] - words[meter + TAKEN] >= capacity and not self._make_room(meter, capacity, now):
                words[record + REFUSED] += 1
                if meter != record:
                    words[meter + REFUSED] += 1
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
        """Make a message that is written otherwise part of a queue (as ``append`` does with its own)."""
        words = self.words
        words[message + NEXT] = 0
        words[message + EXPIRES] = expires
        words[message + CAME] = now
        inbox = words[record + INBOX]
        if words[record + HEAD]:
            words[words[record + TAIL] + NEXT] = message  # commit
            words[record + SOONEST] = min(expires, words[record + SOONEST])
        else:
            words[record + HEAD] = message  # commit
            words[record + SOONEST] = expires
            if inbox:
                self.channels.line_up(inbox, record)
        words[record + TAIL] = message
        words[record + SENT] += 1
        if inbox:
            self._count_in(inbox, expires)

    # -- receiving --------------------------------------------------------------------------------------------

    def pop(self, channels: Sequence[str], now: int) -> Union[None, Again, Tuple[str, bytes]]:
        """
        Take the first message of the first of these channels that has one.

        A channel that ends in ``!`` stands for all the channels of that process. Returns the full name and the body.
        """
        words = self.words
        for channel in channels:
            place = self._seen.get(channel)
            if place is None or words[AT_GENERATION] != self._generation or words[place[1]] != place[0]:
                place = self._locate(channel, False)
                if place is None:
                    continue
            head_at = place[3]
            message = words[head_at]
            if not message:
                if words[place[2] + READY]:
                    taken = self._pop_inbox(place[2], now)
                    if taken is not None:
                        return taken
                continue
            length = words[message + LENGTH]
            if length >= SHARED or place[7] or words[message + EXPIRES] <= now:
                body = self._take(place[2], now)
                if body is None:
                    continue
                return AGAIN if isinstance(body, Again) else (channel, body)
            start = (message + BODY) << 3
            taken_body = self.data[start : start + length]
            total = words[message - 1] >> 2
            if len(taken_body) != length or total < length >> 3:
                raise ValueError(f"a message claims to have {length} bytes")
            words[head_at] = words[message]  # commit
            words[place[6]] += 1
            head = words[AT_QUICK + total] if total <= QUICK_WORDS else 0
            if head and words[head + 1] < QUICK_DEPTH:  # what ``Heap.free`` does first, without the call
                words[message] = head
                words[message + 1] = words[head + 1] + 1
                words[AT_QUICK + total] = message
            else:
                self.heap.free(message)
            return channel, taken_body
        return None

    def _pop_inbox(self, inbox: int, now: int) -> Union[None, Again, Tuple[str, bytes]]:
        """Take a message from the channel of a process whose turn it is."""
        words = self.words
        for _ in range(self.channels.directory.longest):
            local = words[inbox + READY]
            if not local:
                return None
            if not words[local + HEAD]:
                raise ValueError("a ready ring leads to a channel without messages")
            words[inbox + READY] = words[local + AFTER]  # its neighbours come first next time
            body = self._take(local, now)
            if body is not None:
                return AGAIN if isinstance(body, Again) else (self.channels.name(local), body)
        raise ValueError("a ready ring has no end")

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
        soonest, last, kept, link = NEVER, 0, 0, record + HEAD
        for _ in range(min(words[record + SENT] - words[record + TAKEN], self.heap.end // BODY)):
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
                kept += 1
                link = message + NEXT
        if words[link] or words[record + SENT] - words[record + TAKEN] != kept:
            raise ValueError("a queue is not as long as it counts")
        words[record + TAIL] = last
        words[record + SOONEST] = soonest
        if not last and words[record + INBOX]:
            self.channels.step_out(words[record + INBOX], record)
        return soonest
