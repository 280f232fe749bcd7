"""
Recovery of a group segment: rebuilds everything derived from the members' chains.  Runs alone, inside the mutex.
"""

from __future__ import annotations

__all__ = ["GroupRecovery"]

from itertools import compress

from ...locking.liveness import Liveness
from ...names import MAX_LENGTH, valid_group_name, valid_stored_name
from ...shm.layout import AT_FLUSHING, AT_GENERATION, AT_RESERVED, AT_SEQ, AT_SWEEP_CURSOR, AT_SWEEP_DUE, COUNTED, NEVER
from ...shm.segment import Segment
from ...structures.hashtable import HASH, NAME_LENGTH
from ...structures.hashtable import NEXT as NEXT_RECORD
from ...structures.heap import Heap
from ...structures.live_blocks import LiveBlocks
from .members import (
    BEFORE,
    COUNT,
    EARLIEST_EXPIRY,
    EXPIRES,
    FIRST,
    GROUP,
    GROUP_NAME,
    LAST,
    MEMBER_NAME,
    NEXT,
    Members,
    name_words,
)

#: How many groups are recovered between two stores that show waiters that this makes progress.
PROGRESS = 64


class GroupRecovery:
    """Recovers one group segment when it is called. It does not use ``liveness``."""

    def __init__(self, segment: Segment, heap: Heap, liveness: Liveness) -> None:
        self.segment = segment
        self.heap = heap
        self.words = segment.words
        self.members = Members(segment, heap)

    def __call__(self) -> None:
        """Rebuild what is derived. Can be interrupted at any point and repeated."""
        words, members = self.words, self.members
        if words[AT_FLUSHING]:
            members.empty()
            return
        self.heap.confirm_reserved()
        live_blocks = LiveBlocks(self.heap)
        members.index.clear()
        groups = members.groups
        buckets = range(groups.at, groups.at + groups.buckets)
        seen: set[bytes] = set()
        for bucket in compress(buckets, words[buckets.start : buckets.stop].tolist()):  # those that are not empty
            link = bucket
            record = words[link]
            while record:
                name = self._group_name(record, bucket)
                if not name or name in seen or not live_blocks.mark(record, GROUP_NAME + name_words(len(name))):
                    words[link] = 0
                    break
                if not len(seen) % PROGRESS:
                    words[AT_SEQ] = (words[AT_SEQ] + 1) % COUNTED
                seen.add(name)
                if self._recover_chain(record, name, live_blocks):
                    link = record + NEXT_RECORD
                else:  # a kill between the group and its first member
                    live_blocks.unmark_last()
                    words[link] = words[record + NEXT_RECORD]
                record = words[link]
        self.heap.rebuild(live_blocks.live)
        words[AT_SWEEP_CURSOR] = words[AT_SWEEP_DUE] = 0
        words[AT_GENERATION] = (words[AT_GENERATION] + 1) % COUNTED

    def _readable(self, record: int, name_at: int) -> bool:
        """True if all of a record, whose name is ``name_at`` words into it, is in reserved memory."""
        words, reserved = self.words, self.words[AT_RESERVED]
        if not self.heap.start < record < reserved - name_at:
            return False
        length = words[record + NAME_LENGTH]
        return 0 < length <= MAX_LENGTH and record + name_at + name_words(length) < reserved

    def _group_name(self, record: int, bucket: int) -> bytes:
        """Return the name of a possible group record, or b"" if it is not one that belongs in this bucket."""
        groups = self.members.groups
        if not self._readable(record, GROUP_NAME):
            return b""
        name = groups.name(record)
        hashed = groups.hash(name)
        if self.words[record + HASH] != hashed or groups.bucket_of(hashed) != bucket:
            return b""
        try:
            valid_group_name(name.decode("ascii"))
        except (TypeError, ValueError):
            return b""
        return name

    def _recover_chain(self, record: int, group: bytes, live_blocks: LiveBlocks) -> int:
        """Index the members of one group, and cut its chain at invalid data. Returns the number of members."""
        words, index, member_hash = self.words, self.members.index, self.members.member_hash
        link, before, count, earliest = record + FIRST, 0, 0, NEVER
        known: set[bytes] = set()
        while True:
            member = words[link]
            if not member:
                break
            name = self._member_name(member, record)
            if not name or name in known or not live_blocks.mark(member, MEMBER_NAME + name_words(len(name))):
                words[link] = 0
                break
            known.add(name)
            words[member + BEFORE] = before
            words[member + HASH] = member_hash(group, name)
            index.insert(member)
            expires = words[member + EXPIRES]
            if expires < earliest:
                earliest = expires
            before, count, link = member, count + 1, member + NEXT
        words[record + LAST], words[record + COUNT], words[record + EARLIEST_EXPIRY] = before, count, earliest
        return count

    def _member_name(self, member: int, record: int) -> bytes:
        """Return the channel of a possible member of this group, or b"" if it is not one."""
        words = self.words
        if not self._readable(member, MEMBER_NAME):
            return b""
        if words[member + GROUP] != record or words[member + EXPIRES] > NEVER:
            return b""
        name = self.members.index.name(member)
        return name if valid_stored_name(name) and not name.endswith(b"!") else b""
