"""
Queues: the only enqueue and the only dequeue.  The caller holds the mutex.

``enqueue`` adds one message to one or several queues.  Only it decides whether a channel is full, and links messages.
``dequeue`` takes one message from the first of several channels that has one, or from the channels of an inbox in turn.
A message is written first and then linked with one store: a kill in between leaves a block that nothing reaches, which
a recovery treats as free memory.  ``records`` describes the layout of a message.
"""

from __future__ import annotations

__all__ = ["Place", "Queues"]

from collections.abc import Sequence

from ...locking.liveness import Liveness
from ...memo import Memo
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
from .outcomes import AGAIN, Again, Enqueued, Full, InboxBatch
from .ownership import Ownership
from .records import BODY, BODY_DATA, CAME, EXPIRES, LENGTH, POINTER_WORDS, SHARED, Records, SharedBody
from .waiters import Waiters

#: A body of up to this many bytes is accepted by default if the segment can hold it (ASGI draft).
ALWAYS_ACCEPTED = 1024 * 1024
#: The number of expired messages that one critical section drops before it lets other processes in.
EXPIRED_SLICE = 256
#: Added to the length of a body, in bytes, this gives 8 times the words of its block (plus a remainder): the block's
#: header, the words of a message before its body, and rounding up.
BODY_ROUND = (1 + BODY) * WORD + WORD - 1
#: The number of channels whose places a process remembers.
REMEMBERED = 16384


class Place:
    """
    Where a channel was last seen. Invalid if its tag is no longer at ``tag_at``, or if the generation has changed.

    ``inbox`` is the record of ``prefix!`` for ``prefix!local``, the record itself for ``prefix!``, else 0. (A class
    with slots: reading a NamedTuple takes twice as long, 0.1 µs for each message.)
    """

    __slots__ = ("head_at", "inbox", "record", "sent_at", "tag", "tag_at", "tail_at", "taken_at")

    def __init__(self, record: int, tag: int, inbox: int) -> None:
        self.record = record
        self.tag, self.tag_at = tag, record + TAG
        self.head_at, self.tail_at = record + HEAD, record + TAIL
        self.sent_at, self.taken_at = record + SENT, record + TAKEN
        self.inbox = inbox


class Queues:
    """
    The queues of one message segment, and where in it the channels of this process were last seen.

    ``limit`` is the largest body in bytes (None: 1 MiB or an eighth of the memory, whichever is larger). It is reduced
    to what an empty segment can hold: otherwise a larger message would be refused as if the memory were only full.
    """

    def __init__(self, segment: Segment, heap: Heap, liveness: Liveness, limit: int | None = None) -> None:
        self.words = segment.words
        self.heap = heap
        self.data = segment.data
        self.channels = Channels(segment, heap, liveness)
        self.records = Records(segment, heap, self.channels)
        self.ownership = Ownership(self.channels, self.records, liveness)
        self.waiters = Waiters(segment, heap, self.channels, liveness)
        self.limit = min(limit or max(ALWAYS_ACCEPTED, segment.size // 8), self._largest_body())
        self.generation = 0
        self.places: Memo[str, Place] = Memo(REMEMBERED)
        self.find_place = self.places.get  # bound once: saves two attribute look-ups on the hot path
        #: Names of channels in this process's inboxes, by tag.
        self.names: Memo[int, str] = Memo(REMEMBERED)

    def _largest_body(self) -> int:
        """Return the bytes of the largest body for which an empty segment has room, as a shared body of one message."""
        page = 1 + self.channels.slab.page_words
        around = (1 + BODY_DATA) + (1 + POINTER_WORDS)  # the body's own block, and the message that points to it
        return (self.heap.end - self.heap.start - 1 - page - around) * WORD  # the heap ends with a header of its own

    # -- finding channels -------------------------------------------------------------------------------------

    def check_generation(self) -> None:
        """Forget where channels were seen, if the generation has changed."""
        if self.words[AT_GENERATION] != self.generation:
            self.generation = self.words[AT_GENERATION]
            self.places.clear()
            self.names.clear()
            self.ownership.forget()

    def locate(self, channel: str, make: bool) -> Place | None:
        """Find (or ``make``) the record of a channel and remember its place. None if there is none, or no memory."""
        words = self.words
        record = self.channels.make(channel) if make else self.channels.find(channel)
        self.check_generation()  # after that: making a record can free a page of other records
        if not record:
            return None
        place = Place(record, words[record + TAG], record if channel.endswith("!") else words[record + INBOX])
        return self.places.remember(channel, place)

    def record_of(self, channel: str) -> int:
        """Return the record of a channel, which is created if necessary; 0 if there is no memory for it."""
        self.check_generation()
        place = self.find_place(channel)
        if place is None or self.words[place.tag_at] != place.tag:
            place = self.locate(channel, True)
        return 0 if place is None else place.record

    # -- sending ----------------------------------------------------------------------------------------------

    def enqueue(
        self,
        targets: Sequence[tuple[str, int]],
        body: bytes,
        now: int,
        expires: int,
        shared: SharedBody | None = None,
    ) -> Enqueued | None:
        """
        Append one message to the queue of each ``(channel, capacity)`` that has room for it.

        Several targets share a body (``enqueue_each``); a single target gets a copy. Returns None if every target got
        the message and no FIFO must be notified.
        """
        words = self.words
        if words[AT_GENERATION] != self.generation:
            self.check_generation()
        outcome: Enqueued | None = None
        #: For several targets: what is added to each inbox at the end, for all its channels together.
        batches: dict[int, InboxBatch] | None = None if shared is None else {}
        for channel, capacity in targets:
            place = self.find_place(channel)
            if place is None or words[place.tag_at] != place.tag:
                place = self.locate(channel, True)
                if place is None:
                    outcome = self._count_undecided(outcome, targets, shared, self.heap.shortage)
                    break
            record, head_at, inbox = place.record, place.head_at, place.inbox
            if inbox:
                batch = batches.get(inbox) if batches is not None else None
                if batch is None:
                    if not self.ownership.drop_unread_of_dead(inbox, now):
                        outcome = self._count_undecided(outcome, targets, shared, "")
                        break
                    if batches is not None:
                        batch = batches[inbox] = InboxBatch()
            sent, quota = words[place.sent_at], record
            waiting = sent - words[place.taken_at]
            if inbox and not words[inbox + INDIVIDUAL]:
                quota = inbox
                waiting = words[inbox + SENT] - words[inbox + TAKEN] + (0 if batch is None else batch.added)
            if waiting >= capacity:
                waiting -= self._drop_expired(quota, now)
                if waiting >= capacity:
                    outcome = self._count_refused(outcome, place, Full(channel, waiting, capacity))
                    continue
            if shared is not None:
                message = shared.messages.pop() if shared.messages else 0
            else:
                total = (len(body) + BODY_ROUND) >> 3
                message = words[AT_QUICK + total] if total <= QUICK_WORDS else 0
                if message:  # a copy of the quick list in Heap.allocate
                    if words[message - 1] >> 2 != total:
                        raise ValueError(f"a free list of {total} words leads to a block of another size")
                    words[AT_QUICK + total] = words[message]
                else:
                    message = self.heap.allocate(total - 1)
                if message:
                    words[message] = 0
                    words[message + LENGTH] = len(body)
                    words[message + EXPIRES] = expires
                    words[message + CAME] = now
                    start = (message + BODY) << 3
                    self.data[start : start + len(body)] = body
            if not message:
                outcome = self._count_undecided(outcome, targets, shared, self.heap.shortage)
                break
            was_empty = not words[head_at]
            if was_empty:
                words[head_at] = message  # commit
                words[record + EARLIEST_EXPIRY] = expires
            else:
                words[words[place.tail_at]] = message  # commit: the NEXT of the last message
                if expires < words[record + EARLIEST_EXPIRY]:
                    words[record + EARLIEST_EXPIRY] = expires
            words[place.tail_at] = message
            words[place.sent_at] = sent + 1
            if inbox:
                if batch is None:
                    self._count_in(inbox, 1, (record,) if was_empty else (), expires)
                else:
                    batch.added += 1
                    if was_empty:
                        batch.ready.append(record)
            if words[record + WAITERS] or (inbox and words[inbox + WAITERS]):
                outcome = outcome or Enqueued()
                outcome.awaited.append(record if words[record + WAITERS] else inbox)
        if batches:
            for inbox, batch in batches.items():
                self._count_in(inbox, batch.added, batch.ready, expires)
        if outcome is not None:
            outcome.tokens = self.waiters.notify_each(outcome.awaited)
        return outcome

    def enqueue_each(
        self, targets: Sequence[tuple[str, int]], body: bytes, now: int, expires: int
    ) -> Enqueued | None:
        """Do the same for several targets, and store the body only once."""
        if len(targets) == 1:
            return self.enqueue(targets, body, now, expires)
        shared = self.records.write_shared(body, now, expires, len(targets))
        outcome = self.enqueue(targets, body, now, expires, shared)
        self.records.end_shared(shared)
        return outcome

    def _count_in(self, inbox: int, added: int, ready: Sequence[int], expires: int) -> None:
        """Count ``added`` messages in an inbox, and append its channels that had none before to its ready ring."""
        words = self.words
        if added:
            if words[inbox + SENT] == words[inbox + TAKEN] or expires < words[inbox + EARLIEST_EXPIRY]:
                words[inbox + EARLIEST_EXPIRY] = expires
            words[inbox + SENT] += added
            if ready:
                ring.extend(words, inbox + READY, ready, AFTER)

    def _drop_expired(self, quota: int, now: int) -> int:
        """Drop the expired messages of a full channel or inbox. Returns how many there were."""
        words = self.words
        before = words[quota + TAKEN]
        self.records.drop_expired_of(quota, now)
        return int(words[quota + TAKEN] - before)

    def _count_refused(self, outcome: Enqueued | None, place: Place, full: Full) -> Enqueued:
        """Count a refused message, in the segment and in the outcome."""
        words, outcome = self.words, outcome or Enqueued()
        words[place.record + REFUSED] += 1
        if place.inbox:
            words[place.inbox + REFUSED] += 1
        outcome.full.append(full)
        return outcome

    def _count_undecided(
        self, outcome: Enqueued | None, targets: Sequence[tuple[str, int]], shared: SharedBody | None, shortage: str
    ) -> Enqueued:
        """Record in the outcome how many of the targets were not reached."""
        outcome = outcome or Enqueued()
        outcome.shortage = shortage
        outcome.undecided = len(targets) - len(outcome.full) - (shared.used() if shared is not None else 0)
        return outcome

    # -- receiving --------------------------------------------------------------------------------------------

    def dequeue(self, channels: Sequence[str], now: int) -> tuple[str, bytes] | Again | None:
        """
        Take the first message of the first of these channels that has one. Returns the full name and the body.

        A name that ends in ``!`` stands for all channels of that inbox, which are used in turn.
        """
        words = self.words
        if words[AT_GENERATION] != self.generation:
            self.check_generation()
        for channel in channels:
            place = self.find_place(channel)
            if place is None or words[place.tag_at] != place.tag:
                place = self.locate(channel, "!" in channel)
                if place is None:
                    continue
            record, head_at, inbox = place.record, place.head_at, place.inbox
            if inbox:
                known = self.ownership.owned if inbox == record else self.ownership.individual
                if words[inbox + TAG] not in known and not self.ownership.own(inbox, inbox != record):
                    return AGAIN  # messages of a dead owner must be dropped first
                if inbox == record:
                    record = words[inbox + READY]
                    if not record:
                        continue
                    words[inbox + READY] = words[record + AFTER]  # the other channels come first next time
                    head_at = record + HEAD
                    if not words[head_at]:
                        raise ValueError("a ready ring leads to a channel without messages")
                    channel = self.names.get(words[record + TAG]) or self._name(record)
            message = words[head_at]
            if not message:
                continue
            if words[message + EXPIRES] <= now:
                self.records.drop_heads(record, now, EXPIRED_SLICE)
                message = words[head_at]
                if not message and inbox != place.record:
                    continue
                if not message or words[message + EXPIRES] <= now:
                    return AGAIN  # more have expired, or another channel of the inbox is next
            length, at, total = words[message + LENGTH], message + BODY, words[message - 1] >> 2
            size = length
            if length >= SHARED:
                size, at = length - SHARED, words[at] + BODY_DATA
            elif total < length >> 3:
                raise ValueError(f"a message has an impossible length of {length} bytes")
            body = self.data[at << 3 : (at << 3) + size]
            if len(body) != size:
                raise ValueError(f"a message has an impossible length of {size} bytes")
            # From here to the end: a copy of Records.unlink, and of the quick list in Heap.free.
            words[head_at] = words[message]  # commit
            words[record + TAKEN] += 1
            if inbox:
                words[inbox + TAKEN] += 1
                if not words[record + HEAD]:
                    ring.remove(words, inbox + READY, record, AFTER)
            if length >= SHARED:
                self.records.release(words[message + BODY])
            if total <= QUICK_WORDS:
                head = words[AT_QUICK + total]
                waiting = words[head + 1] + total if head else total
                if waiting <= QUICK_MOST:
                    words[message] = head
                    words[message + 1] = waiting
                    words[AT_QUICK + total] = message
                    return channel, body
            self.heap.free(message)
            return channel, body
        return None

    def _name(self, record: int) -> str:
        """Return the name of a channel, and remember it: decoding it takes a third of a critical section's time."""
        return self.names.remember(self.words[record + TAG], self.channels.name(record))
