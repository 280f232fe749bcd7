"""
Recovery of a message segment: everything derived is made anew from the truth.  Runs alone, inside the guard.

A kill leaves the truth whole, so nothing that was committed is lost.  Damage (somebody wrote into the segment) can
leave anything: what leads nowhere, twice to one place or to nonsense is cut off there, and the rest goes on.
"""

from __future__ import annotations

__all__ = ["MessageMender"]

from typing import Dict, List

from ...names import non_local_name, valid_channel_name
from ...shm.layout import (
    AT_BELLS,
    AT_FLUSHING,
    AT_FULL_SWEEP,
    AT_GENERATION,
    AT_GONE_REFUSED,
    AT_GONE_SENT,
    AT_RESERVED,
    AT_ROUND,
    AT_SEQ,
    AT_SWEEP_CURSOR,
    AT_SWEEP_DUE,
    COUNTED,
    NEVER,
)
from ...shm.segment import Segment
from ...shm.wakeup_fifo import Ringer, ring_everybody
from ...structures.hashtable import HASH, NAME_LENGTH
from ...structures.hashtable import NEXT as NEXT_RECORD
from ...structures.heap import Heap
from ...structures.live_blocks import Claims
from .channels import (
    AFTER,
    BEFORE,
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
    SOONEST,
    TAIL,
    TAKEN,
    WAITERS,
    WAITING,
)
from .queues import Queues
from .records import BODY, BODY_DATA, BODY_LENGTH, CAME, EXPIRES, LENGTH, NEXT, REFERENCES, SHARED, body_words
from .upkeep import Upkeep


class MessageMender:
    """The repair of one message segment: call it."""

    def __init__(self, segment: Segment, heap: Heap) -> None:
        self.segment = segment
        self.heap = heap
        self.words = segment.words
        self.queues = Queues(segment, heap)
        self.channels = self.queues.channels
        self.directory = self.channels.directory
        self.upkeep = Upkeep(self.queues)
        self.ringer = Ringer(segment.name, segment.mode)

    def __call__(self) -> None:
        """Rebuild what is derived. May be cut off anywhere and done again."""
        if self.words[AT_FLUSHING]:
            self.upkeep.empty()
        else:
            self._rebuild()
        ring_everybody(self.ringer)  # bells and waiters are gone: those who live hang themselves up anew
        self.ringer.close()

    def _rebuild(self) -> None:
        words = self.words
        self.heap.confirm_reserved()
        claims = Claims(self.heap)
        pages: Dict[int, List[int]] = {}
        records = self._collect_records(pages, claims)
        self._find_inboxes(records, pages)
        bodies: Dict[int, int] = {}
        for record in records.values():
            self._mend_queue(record, bodies, claims)
            words[AT_SEQ] = (words[AT_SEQ] + 1) % COUNTED  # those who wait see that this goes on
        for body, references in bodies.items():
            words[body + REFERENCES] = references
        self._fill_inboxes(records)
        self.heap.rebuild(claims.live)
        self.channels.slab.rebuild(pages)
        for at in (AT_SWEEP_CURSOR, AT_SWEEP_DUE, AT_FULL_SWEEP):
            words[at] = 0
        for at in (AT_GONE_SENT, AT_GONE_REFUSED):
            if words[at] >= COUNTED:
                words[at] = 0
        words[AT_BELLS] = 0
        words[AT_ROUND] = (words[AT_ROUND] + 1) % COUNTED
        words[AT_GENERATION] = (words[AT_GENERATION] + 1) % COUNTED

    def _collect_records(self, pages: Dict[int, List[int]], claims: Claims) -> Dict[str, int]:
        """Every channel record that the buckets reach, by name."""
        words, directory = self.words, self.directory
        records: Dict[str, int] = {}
        heads = words[directory.at : directory.at + directory.buckets].tolist()
        for bucket, head in enumerate(heads, directory.at):
            link, record = bucket, head
            while record:
                name = self._name_of(record, bucket)
                if not name or name in records or not self.channels.slab.claim(record, pages, claims):
                    words[link] = 0
                    break
                records[name] = record
                link = record + NEXT_RECORD
                record = words[link]
        return records

    def _name_of(self, record: int, bucket: int) -> str:
        """The name of what may be a channel record, or "" if it is none that belongs into this bucket."""
        words, directory = self.words, self.directory
        if not self.heap.start < record < words[AT_RESERVED] - RECORD_WORDS or words[record + NAME_LENGTH] > 99:
            return ""
        raw = directory.name(record)
        hashed = directory.hash(raw)
        if words[record + HASH] != hashed or directory.bucket_of(hashed) != bucket:
            return ""
        try:
            name = raw.decode("ascii")
            return name if valid_channel_name(name, receive="!" not in name or name.endswith("!")) else ""
        except (TypeError, ValueError):
            return ""

    def _find_inboxes(self, records: Dict[str, int], pages: Dict[int, List[int]]) -> None:
        """Point each process-local channel to its inbox again; one that has lost it cannot be reached and is cut."""
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
                self.directory.remove(record)
                pages[words[record + PAGE]].remove(record)
                del records[name]

    def _mend_queue(self, record: int, bodies: Dict[int, int], claims: Claims) -> None:
        """Walk one queue: claim its blocks, cut it where it leads to nonsense, make its derived words anew."""
        words = self.words
        link, last, count, soonest = record + HEAD, 0, 0, NEVER
        while True:
            message = words[link]
            if not message:
                break
            if not self._claim_message(message, bodies, claims):
                words[link] = 0
                break
            soonest = min(soonest, words[message + EXPIRES])
            count += 1
            last = message
            link = message + NEXT
        words[record + TAIL] = last
        words[record + SOONEST] = soonest
        if words[record + TAKEN] >= COUNTED:
            words[record + TAKEN] = 0
        if words[record + REFUSED] >= COUNTED:
            words[record + REFUSED] = 0
        words[record + SENT] = words[record + TAKEN] + count

    def _claim_message(self, message: int, bodies: Dict[int, int], claims: Claims) -> bool:
        """Claim the blocks of a message; False if it cannot be one."""
        words = self.words
        if not self.heap.start < message < words[AT_RESERVED] - BODY:
            return False
        length = words[message + LENGTH]
        if words[message + EXPIRES] > NEVER or words[message + CAME] > NEVER:
            return False
        if length < SHARED:
            return claims.claim(message, BODY + body_words(length))
        if not claims.claim(message, BODY + 1):
            return False
        body = words[message + BODY]
        if not self._claim_body(body, length - SHARED, bodies, claims):
            claims.forget_last()
            return False
        bodies[body] += 1
        return True

    def _claim_body(self, body: int, length: int, bodies: Dict[int, int], claims: Claims) -> bool:
        """Claim a shared body of ``length`` bytes, unless another message has; False if it cannot be one."""
        if not self.heap.start < body < self.words[AT_RESERVED] - BODY_DATA:
            return False
        if self.words[body + BODY_LENGTH] != length:
            return False
        if body not in bodies:
            if not claims.claim(body, BODY_DATA + body_words(length)):
                return False
            bodies[body] = 0
        return True

    def _fill_inboxes(self, records: Dict[str, int]) -> None:
        """Line the channels that have messages up in their inboxes, and sum them there."""
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
            words[inbox + SOONEST] = min(words[inbox + SOONEST], words[record + SOONEST])
            words[record + AFTER] = words[record + BEFORE] = 0
            if words[record + HEAD]:
                self.channels.line_up(inbox, record)
