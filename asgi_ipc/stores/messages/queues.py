"""
Queues of messages: what may happen to them inside one section.  The caller holds the mutex.

Each message is prepared first and then linked with one store: a kill in between leaves a block that nothing reaches,
which is free memory to a recovery.  What a message looks like is drawn in ``records``.
"""

from __future__ import annotations

__all__ = ["Queues", "Refusal"]

from typing import Dict, NamedTuple, Optional, Sequence, Tuple, Union

from ...locking.liveness import Liveness
from ...shm.layout import AT_GENERATION, AT_QUICK, QUICK_WORDS, WORD
from ...shm.segment import Segment
from ...structures import ring
from ...structures.heap import QUICK_MOST, Heap
from ...structures.slab import TAG
from .channels import (
    AFTER,
    EARLIEST_EXPIRY,
    HEAD,
    INBOX,
    INDIVIDUAL,
    READY,
    REFUSED,
    SENT,
    TAIL,
    TAKEN,
    WAITERS,
    Channels,
)
from .ownership import Ownership
from .records import AGAIN, BODY, BODY_DATA, CAME, EXPIRES, LENGTH, SHARED, Again, Records
from .waiters import Waiters

#: What to add to the length of a body, in bytes, to get the words of its block when divided by 8: the block's header,
#: the four words before the body, and rounding up.
BODY_ROUND = (1 + BODY) * WORD + WORD - 1

#: Where a channel was last seen: its tag, the word of its tag, its record, the words of HEAD, TAIL, SENT and
#: TAKEN, and its inbox (its own record, if it is one). Worth nothing when the tag is no longer in its word or the
#: generation has moved.
Place = Tuple[int, int, int, int, int, int, int, int]

#: Channels whose records a process remembers; past this it forgets them all and begins anew.
REMEMBERED = 16384


class Refusal(NamedTuple):
    """Why a message was not taken: its channel has ``waiting`` of ``capacity``, or there is a ``shortage``."""

    waiting: int
    capacity: int
    shortage: Optional[str] = None


class Queues:
    """The queues of one message segment, and where in it the channels of this process were last seen."""

    def __init__(self, segment: Segment, heap: Heap, liveness: Optional[Liveness] = None) -> None:
        self.words = segment.words
        self.data = segment.data
        self.heap = heap
        self.channels = Channels(segment, heap, liveness)
        self.records = Records(segment, heap, self.channels)
        self.ownership = Ownership(self.channels, self.records, liveness, segment.semaphores.nonce)
        self.waiters = Waiters(segment, heap, self.channels, liveness)
        self.generation = 0
        self.seen: Dict[str, Place] = {}
        #: Names of channels of this process's inboxes, by tag.
        self.names: Dict[int, str] = {}

    def largest_body(self) -> int:
        """The bytes of the largest body that a segment with nothing else in it has room for, in a group send too."""
        page = 1 + self.channels.slab.page_words
        around = (1 + BODY_DATA) + (1 + BODY + 1)  # the body's own block, and the message that points to it
        return (self.heap.end - self.heap.start - 1 - page - around) * WORD  # the heap ends with a header of its own

    # -- finding channels -------------------------------------------------------------------------------------

    def check_generation(self) -> None:
        """Forget where channels were seen, if the generation has moved."""
        if self.words[AT_GENERATION] != self.generation:
            self.generation = self.words[AT_GENERATION]
            self.seen.clear()
            self.names.clear()
            self.ownership.forget()

    def locate(self, channel: str, make: bool) -> Optional[Place]:
        """Where the record of a channel lies, for ``append`` and ``pop`` to remember; None if there is none."""
        self.check_generation()
        words = self.words
        record = self.channels.make(channel) if make else self.channels.find(channel)
        if not record:
            return None
        if len(self.seen) >= REMEMBERED:
            self.seen.clear()
        place = self.seen[channel] = (
            words[record + TAG],
            record + TAG,
            record,
            record + HEAD,
            record + TAIL,
            record + SENT,
            record + TAKEN,
            record if channel.endswith("!") else words[record + INBOX],
        )
        return place

    def record_of(self, channel: str) -> int:
        """The record of a channel, made if there is none; 0 if there is no memory for it."""
        place = self.seen.get(channel)
        if place is None or self.words[AT_GENERATION] != self.generation or self.words[place[1]] != place[0]:
            place = self.locate(channel, True)
        return 0 if place is None else place[2]

    # -- sending ----------------------------------------------------------------------------------------------

    def append(
        self, channel: str, capacity: int, body: bytes, now: int, expires: int
    ) -> Union[None, int, Refusal]:
        """
        Put a message at the end of a channel's queue; a refusal if it is full or there is no memory.

        Returns the token of a FIFO, if one is to be rung.
        """
        words = self.words
        place = self.seen.get(channel)
        if place is None or words[AT_GENERATION] != self.generation or words[place[1]] != place[0]:
            place = self.locate(channel, True)
            if place is None:
                return Refusal(0, capacity, self.heap.shortage)
        _, _, record, head_at, tail_at, sent_at, taken_at, inbox = place
        sent, quota = words[sent_at], record
        if inbox:
            quota = self.quota_of(record, inbox, now)
            waiting = words[quota + SENT] - words[quota + TAKEN]
        else:
            waiting = sent - words[taken_at]
        if waiting >= capacity and not self.records.make_room(quota, capacity, now):
            self.count_refused(record, inbox)
            return Refusal(waiting, capacity)
        length = len(body)
        total = (length + BODY_ROUND) >> 3
        message = words[AT_QUICK + total] if total <= QUICK_WORDS else 0
        if message:  # what ``Heap.allocate`` does first, without the call
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
            if expires < words[record + EARLIEST_EXPIRY]:
                words[record + EARLIEST_EXPIRY] = expires
        else:
            words[head_at] = message  # commit
            words[record + EARLIEST_EXPIRY] = expires
            if inbox:
                self.channels.append_ready(inbox, record)
        words[tail_at] = message
        words[sent_at] = sent + 1
        if inbox:
            self.count_in(inbox, expires)
        if words[record + WAITERS]:
            return self.waiters.notify(record) or None
        if inbox and words[inbox + WAITERS]:
            return self.waiters.notify(inbox) or None
        return None

    def quota_of(self, record: int, inbox: int, now: int) -> int:
        """The record whose messages count for a process-local channel. Drops what a dead owner has left there."""
        self.ownership.drop_unread_of_dead(inbox, now)
        return record if self.words[inbox + INDIVIDUAL] else inbox

    def count_refused(self, record: int, inbox: int) -> None:
        """Count a message for which there was no room."""
        words = self.words
        words[record + REFUSED] += 1
        if inbox:
            words[inbox + REFUSED] += 1

    def count_in(self, inbox: int, expires: int, count: int = 1) -> None:
        """Count messages that its channels have got."""
        words = self.words
        if words[inbox + SENT] == words[inbox + TAKEN] or expires < words[inbox + EARLIEST_EXPIRY]:
            words[inbox + EARLIEST_EXPIRY] = expires
        words[inbox + SENT] += count

    # -- receiving --------------------------------------------------------------------------------------------

    def pop(self, channels: Sequence[str], now: int) -> Union[None, Again, Tuple[str, bytes]]:
        """
        Take the first message of the first of these channels that has one.

        A channel that ends in ``!`` stands for all the channels of that process. Returns the full name and the body.
        """
        words = self.words
        for channel in channels:
            place = self.seen.get(channel)
            if place is None or words[AT_GENERATION] != self.generation or words[place[1]] != place[0]:
                place = self.locate(channel, "!" in channel)
                if place is None:
                    continue
            _, _, record, head_at, _, _, taken_at, inbox = place
            if inbox:
                known = self.ownership.owned if inbox == record else self.ownership.individual
                if words[inbox + TAG] not in known and not self.ownership.own(inbox, inbox != record):
                    return AGAIN  # there is more to do first
                if inbox == record:
                    record = words[inbox + READY]
                    if not record:
                        continue
                    words[inbox + READY] = words[record + AFTER]  # its neighbours come first next time
                    head_at, taken_at = record + HEAD, record + TAKEN
                    if not words[head_at]:
                        raise ValueError("a ready ring leads to a channel without messages")
                    channel = self.names.get(words[record + TAG]) or self._name(record)
            message = words[head_at]
            if not message:
                continue
            if words[message + EXPIRES] <= now:
                taken = self._pop_behind_expired(channel, record, inbox if inbox == place[2] else 0, now)
                if taken is None:
                    continue
                return taken
            length, at, shared = words[message + LENGTH], message + BODY, 0
            total = words[message - 1] >> 2
            if length >= SHARED:
                length -= SHARED
                shared = words[at]
                at = shared + BODY_DATA
            elif total < length >> 3:
                raise ValueError(f"a message claims to have {length} bytes")
            body = self.data[at << 3 : (at << 3) + length]
            if len(body) != length:
                raise ValueError(f"a message claims to have {length} bytes")
            following = words[message]
            words[head_at] = following  # commit
            words[taken_at] += 1
            if inbox:
                words[inbox + TAKEN] += 1
                if not following:
                    ring.remove(words, inbox + READY, record, AFTER)
            if shared:
                self.records.release(shared)
            head = words[AT_QUICK + total] if total <= QUICK_WORDS else 0
            if head and words[head + 1] + total <= QUICK_MOST:  # what ``Heap.free`` does first, without the call
                words[message] = head
                words[message + 1] = words[head + 1] + total
                words[AT_QUICK + total] = message
            else:
                self.heap.free(message)
            return channel, body
        return None

    def _name(self, record: int) -> str:
        """The name of a channel, which is remembered: to make a string of it costs as much as a third of a section."""
        if len(self.names) >= REMEMBERED:
            self.names.clear()
        name = self.names[self.words[record + TAG]] = self.channels.name(record)
        return name

    def _pop_behind_expired(
        self, channel: str, record: int, inbox: int, now: int
    ) -> Union[None, Again, Tuple[str, bytes]]:
        """The same where the first message has expired: in one channel, or else in the others of an inbox, too."""
        words = self.words
        for _ in range(self.channels.table.longest):
            body = self.records.take(record, now)
            if body is not None:
                return AGAIN if isinstance(body, Again) else (channel, body)
            record = words[inbox + READY] if inbox else 0
            if not record:
                return None
            if not words[record + HEAD]:
                raise ValueError("a ready ring leads to a channel without messages")
            words[inbox + READY] = words[record + AFTER]
            channel = self._name(record)
        raise ValueError("a ready ring has no end")
