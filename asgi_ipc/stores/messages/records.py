"""
Message and body records: writes, reads, unlinks, frees and expires them.  The caller holds the mutex.

    message   word 0  NEXT      the next message: truth, as is HEAD of the channel's record
                   1  LENGTH    of the body in bytes; SHARED is added if the body is in a separate block
                   2  EXPIRES   ns of the monotonic clock
                   3  CAME      when it was sent, on the same clock
                   4  BODY      the body, padded to words; if it is shared, the offset of its block
    body      word 0  REFERENCES   how many messages share it
                   1  its length in bytes
                   2  the body, padded to words

With the header of its heap block, a message takes 40 bytes and the padding in addition to its body.

``unlink`` defines how a message leaves a queue (``queues.dequeue``, on the hot path, has a tested copy of it).
``queues.enqueue`` defines how it joins one.
"""

from __future__ import annotations

__all__ = ["Records", "body_words"]

from array import array

from ...shm.layout import NEVER, WORD
from ...shm.segment import Segment
from ...structures import ring
from ...structures.heap import Heap
from .channels import AFTER, EARLIEST_EXPIRY, HEAD, INBOX, READY, SENT, TAIL, TAKEN, Channels

NEXT = 0
LENGTH = 1
EXPIRES = 2
CAME = 3
BODY = 4
SHARED = 2**63

REFERENCES = 0
BODY_LENGTH = 1
BODY_DATA = 2

#: Words of a message whose body is in a separate block.
POINTER_WORDS = BODY + 1


def body_words(length: int) -> int:
    """Return the number of words for a body of ``length`` bytes."""
    return (length + WORD - 1) // WORD


class SharedBody:
    """A body that several messages share: its block (0: no memory for it), and the messages that point to it."""

    __slots__ = ("block", "count", "messages")

    def __init__(self, block: int, messages: list[int]) -> None:
        self.block = block
        self.count = len(messages)
        #: Messages that are written but not yet in a queue.
        self.messages = messages

    def used(self) -> int:
        """Return how many of the messages are in queues."""
        return self.count - len(self.messages)


class Records:
    """The messages in the queues of one segment."""

    def __init__(self, segment: Segment, heap: Heap, channels: Channels) -> None:
        self.words = segment.words
        self.data = segment.data
        self.heap = heap
        self.channels = channels

    # -- shared bodies ----------------------------------------------------------------------------------------

    def write_shared(self, body: bytes, now: int, expires: int, count: int) -> SharedBody:
        """Write a body, and as many of ``count`` messages that share it as there is memory for."""
        words, length = self.words, len(body)
        block = self.heap.allocate(BODY_DATA + body_words(length))
        if not block:
            return SharedBody(0, [])
        words[block + REFERENCES] = 0
        words[block + BODY_LENGTH] = length
        start = (block + BODY_DATA) * WORD
        self.data[start : start + length] = body
        messages = self.heap.allocate_several(POINTER_WORDS, count)
        content = memoryview(array("Q", (0, length + SHARED, expires, now, block)))
        for message in messages:
            words[message : message + POINTER_WORDS] = content
        return SharedBody(block, messages)

    def end_shared(self, shared: SharedBody) -> None:
        """
        Count the messages that share a body, and free what was not needed.

        Called at the end of the critical section. The count is derived: a recovery counts again.
        """
        for message in shared.messages:
            self.heap.free(message)
        if shared.used():
            self.words[shared.block + REFERENCES] = shared.used()
        elif shared.block:
            self.heap.free(shared.block)

    # -- reading and taking out -------------------------------------------------------------------------------

    def body(self, message: int) -> bytes:
        """Return the body of a message. Raises ``ValueError`` if its length is damaged."""
        words = self.words
        length, at = words[message + LENGTH], message + BODY
        if length >= SHARED:
            length -= SHARED
            at = words[at] + BODY_DATA
        elif words[message - 1] >> 2 < length >> 3:
            raise ValueError(f"a message has an impossible length of {length} bytes")
        body = self.data[at << 3 : (at << 3) + length]
        if len(body) != length:
            raise ValueError(f"a message has an impossible length of {length} bytes")
        return body

    def unlink(self, record: int, inbox: int, link: int, message: int) -> None:
        """
        Remove a message from any position in the queue of ``record``, and free it.

        ``link`` is the word that points to it; ``inbox`` is the inbox of the channel, or 0. If the message was the last
        one of a longer queue, the caller must set its TAIL.
        """
        words = self.words
        length = words[message + LENGTH]
        words[link] = words[message]  # commit: the NEXT of the message
        words[record + TAKEN] += 1
        if inbox:
            words[inbox + TAKEN] += 1
            if not words[record + HEAD]:
                ring.remove(words, inbox + READY, record, AFTER)
        if length >= SHARED:
            self.release(words[message + BODY])
        self.heap.free(message)

    def release(self, block: int) -> None:
        """Count one message less for a shared body, and free the body after the last one."""
        words = self.words
        words[block + REFERENCES] -= 1
        if not words[block + REFERENCES]:
            self.heap.free(block)

    # -- expiry -----------------------------------------------------------------------------------------------

    def drop_heads(self, record: int, now: int, most: int) -> int:
        """Drop expired messages from the head of a queue, at most ``most`` of them. Returns how many were dropped."""
        words, inbox = self.words, self.words[record + INBOX]
        for dropped in range(most):
            message = words[record + HEAD]
            if not message or words[message + EXPIRES] > now:
                return dropped
            self.unlink(record, inbox, record + HEAD, message)
        return most

    def drop_expired(self, record: int, now: int) -> int:
        """Drop every expired message of a channel, at any position. Returns the new EARLIEST_EXPIRY."""
        words = self.words
        if not words[record + HEAD]:
            return NEVER
        if words[record + EARLIEST_EXPIRY] > now:
            return int(words[record + EARLIEST_EXPIRY])
        earliest, last, kept, link = NEVER, 0, 0, record + HEAD
        for _ in range(min(words[record + SENT] - words[record + TAKEN], self.heap.end // BODY)):
            message = words[link]
            if not message:
                break
            if words[message + EXPIRES] <= now:
                self.unlink(record, words[record + INBOX], link, message)
            else:
                earliest = min(earliest, words[message + EXPIRES])
                last, link = message, message + NEXT
                kept += 1
        if words[link] or words[record + SENT] - words[record + TAKEN] != kept:
            raise ValueError("the length of a queue is not its count")
        words[record + TAIL] = last
        words[record + EARLIEST_EXPIRY] = earliest
        return earliest

    def drop_expired_of(self, quota: int, now: int) -> None:
        """Drop every expired message that a quota record counts: of a channel, or of all channels of an inbox."""
        words = self.words
        if words[quota + EARLIEST_EXPIRY] > now:
            return
        if words[quota + READY]:
            earliest = [self.drop_expired(local, now) for local in self.channels.ready_ring(quota)]
            words[quota + EARLIEST_EXPIRY] = min(earliest)
        else:
            self.drop_expired(quota, now)
