"""
What a queue contains: messages and their bodies, taken out, expired, freed.  The caller holds the mutex.

    message   word 0  NEXT      the message behind it: truth, as is HEAD of the channel's record
                   1  LENGTH    of the body in bytes; SHARED is added where the body lies in a block of its own
                   2  EXPIRES   ns of the monotonic clock
                   3  CAME      when it was sent, on the same clock
                   4  BODY      the body, padded to words; where it is shared, the offset of its block
    body      word 0  REFERENCES   how many messages share it
                   1  its length in bytes
                   2  the body, padded to words

With the header of the heap's block a message costs 40 bytes and the padding beside its body.
"""

from __future__ import annotations

__all__ = ["AGAIN", "Again", "Records", "body_words"]

from typing import Union

from ...shm.layout import NEVER, WORD
from ...shm.segment import Segment
from ...structures.heap import Heap
from .channels import EARLIEST_EXPIRY, HEAD, INBOX, READY, SENT, TAIL, TAKEN, Channels

NEXT = 0
LENGTH = 1
EXPIRES = 2
CAME = 3
BODY = 4
SHARED = 2**63

REFERENCES = 0
BODY_LENGTH = 1
BODY_DATA = 2

#: Expired messages that one section drops at the most before it lets others in.
EXPIRED_SLICE = 256


class Again:
    """What a section returns that has dropped its share of expired messages and wants to go on in another one."""


AGAIN = Again()


def body_words(length: int) -> int:
    """Words that a body of ``length`` bytes takes."""
    return (length + WORD - 1) // WORD


class Records:
    """The messages in the queues of one segment."""

    def __init__(self, segment: Segment, heap: Heap, channels: Channels) -> None:
        self.words = segment.words
        self.data = segment.data
        self.heap = heap
        self.channels = channels

    # -- taking -----------------------------------------------------------------------------------------------

    def take(self, record: int, now: int) -> Union[None, Again, bytes]:
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
        self.unqueue(record, message)
        return body

    def unqueue(self, record: int, message: int) -> None:
        """Take a channel's first message out and free it."""
        words = self.words
        following = words[message + NEXT]
        words[record + HEAD] = following  # commit
        words[record + TAKEN] += 1
        inbox = words[record + INBOX]
        if inbox:
            words[inbox + TAKEN] += 1
            if not following:
                self.channels.remove_ready(inbox, record)
        self.free(message)

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

    def free(self, message: int) -> None:
        words = self.words
        if words[message + LENGTH] >= SHARED:
            self.release(words[message + BODY])
        self.heap.free(message)

    def release(self, shared: int) -> None:
        """One message less shares a body."""
        words = self.words
        words[shared + REFERENCES] -= 1
        if not words[shared + REFERENCES]:
            self.heap.free(shared)

    # -- expiry -----------------------------------------------------------------------------------------------

    def make_room(self, quota: int, capacity: int, now: int) -> bool:
        """Drop what has expired in a full channel (or inbox); whether that has brought it below its capacity."""
        words = self.words
        if words[quota + EARLIEST_EXPIRY] > now:
            return False
        if words[quota + READY]:
            ready = self.channels.ready_ring(quota)
            words[quota + EARLIEST_EXPIRY] = min(self.drop_expired(local, now) for local in ready)
        else:
            self.drop_expired(quota, now)
        return bool(words[quota + SENT] - words[quota + TAKEN] < capacity)

    def drop_heads(self, record: int, now: int, most: int) -> None:
        """Drop expired messages from the head of a queue, ``most`` of them at the most."""
        words = self.words
        for _ in range(most):
            message = words[record + HEAD]
            if not message or words[message + EXPIRES] > now:
                return
            self.unqueue(record, message)

    def drop_expired(self, record: int, now: int) -> int:
        """Drop every expired message of a channel, wherever it stands in the queue; its EARLIEST_EXPIRY then."""
        words = self.words
        if not words[record + HEAD] or words[record + EARLIEST_EXPIRY] > now:
            return int(words[record + EARLIEST_EXPIRY]) if words[record + HEAD] else NEVER
        earliest, last, kept, link = NEVER, 0, 0, record + HEAD
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
                self.free(message)
            else:
                earliest = min(earliest, words[message + EXPIRES])
                last = message
                kept += 1
                link = message + NEXT
        if words[link] or words[record + SENT] - words[record + TAKEN] != kept:
            raise ValueError("a queue is not as long as it counts")
        words[record + TAIL] = last
        words[record + EARLIEST_EXPIRY] = earliest
        if not last and words[record + INBOX]:
            self.channels.remove_ready(words[record + INBOX], record)
        return earliest
