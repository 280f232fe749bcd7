"""
Groups and their members, and the operations on them.  The caller holds the mutex.

    group     word  0  next in the bucket's chain     (hash table)
                    1  hash of the name               (hash table)
                    2  COUNT    members in the chain
                    3  length of the name             (hash table)
                    4  FIRST    first member: truth
                    5  LAST     last member, void while FIRST is 0
                    6  EARLIEST_EXPIRY  no membership ends before this time (ns)
                    7  name
    member    word  0  next in the index's chain      (hash table of the index)
                    1  hash of group and channel      (hash table of the index)
                    2  GROUP    the group's record
                    3  length of the channel's name   (hash table of the index)
                    4  NEXT     the next member: truth, as is FIRST of the group
                    5  BEFORE   the previous member, 0 for the first
                    6  EXPIRES  ns of the monotonic clock: truth
                    7  OWNER    the process that receives from the channel, NOBODY if that is not known
                    8  NONCE    of the message segment whose slots OWNER refers to
                    9  channel name

A group's chain is the truth.  The index, which is derived, finds (group, channel) in it, so that adding, renewing and
discarding take the same time in groups of all sizes.
"""

from __future__ import annotations

__all__ = ["Members"]

from collections.abc import Iterator
from typing import NamedTuple

from ...locking.liveness import NOBODY, Owner
from ...memo import Memo
from ...names import valid_channel_name
from ...shm.layout import AT_CHANGES, AT_FLUSHING, AT_GENERATION, AT_SWEEP_CURSOR, AT_SWEEP_DUE, COUNTED, NEVER
from ...shm.segment import Segment
from ...structures.hashtable import HASH, HashTable
from ...structures.heap import Heap

COUNT = 2
FIRST = 4
LAST = 5
EARLIEST_EXPIRY = 6
GROUP_NAME = 7

GROUP = 2
NEXT = 4
BEFORE = 5
EXPIRES = 6
OWNER = 7
NONCE = 8
MEMBER_NAME = 9

#: Buckets swept for each millisecond that has passed, and the most that one operation sweeps.
SWEEP_RATE = 2
SWEEP_MOST = 64
SWEEP_PERIOD = 1_000_000
#: The number of members' names that a process remembers.
REMEMBERED = 65536
#: The number of groups whose members a process remembers.
REMEMBERED_LISTS = 256


class Listed(NamedTuple):
    """What ``channels`` has found. Valid while the segment has this ``state``, and only before the time ``until``."""

    state: tuple[int, int]
    until: int
    channels: list[str]
    owners: set[Owner]


def name_words(length: int) -> int:
    """Return the number of words for a name of ``length`` bytes."""
    return (length + 7) // 8


class Members:
    """The groups of one group segment."""

    def __init__(self, segment: Segment, heap: Heap) -> None:
        self.words = segment.words
        self.heap = heap
        geometry = segment.geometry
        self.groups = HashTable(segment, GROUP_NAME)
        self.index = HashTable(segment, MEMBER_NAME, geometry.index_at, geometry.indexes)
        # More members than this do not fit into the segment, even if a group's COUNT is larger.
        self.most = geometry.end // MEMBER_NAME
        #: Names of members that were checked and are channel names.
        self._known: Memo[str, None] = Memo(REMEMBERED)
        self._listed: Memo[str, Listed] = Memo(REMEMBERED_LISTS)

    # -- finding ----------------------------------------------------------------------------------------------

    def find_group(self, group: str) -> int:
        """Return the record of a group, or 0."""
        name = group.encode("ascii")
        return self.groups.find(name, self.groups.hash(name))

    def member_hash(self, group: bytes, channel: bytes) -> int:
        """Return the hash of a membership. No name contains the byte between the two names."""
        return self.index.hash(group + b"\0" + channel)

    def _find_member(self, record: int, channel: bytes, hashed: int) -> int:
        words, index = self.words, self.index
        for member in index.chain(index.bucket_of(hashed)):
            if words[member + HASH] == hashed and words[member + GROUP] == record and index.name(member) == channel:
                return member
        return 0

    # -- changing ---------------------------------------------------------------------------------------------

    def add(self, group: str, channel: str, expires: int, owner: Owner) -> str | None:
        """Add a channel to a group, or renew its membership. Returns None, or the shortage if there is no memory."""
        words = self.words
        group_name, channel_name = group.encode("ascii"), channel.encode("ascii")
        record = self.find_group(group) or self._make_group(group_name)
        if not record:
            return self.heap.shortage
        hashed = self.member_hash(group_name, channel_name)
        member = self._find_member(record, channel_name, hashed)
        if member:
            # Memberships added by another layer may last longer than ours: a renewal can make one end earlier.
            words[record + EARLIEST_EXPIRY] = min(words[record + EARLIEST_EXPIRY], expires)
            self._changed()
            # An owner is valid only together with its nonce, so a kill between the stores leaves none.
            if words[member + NONCE] != owner.nonce:
                words[member + OWNER] = NOBODY
                words[member + NONCE] = owner.nonce
            words[member + OWNER] = owner.process
            words[member + EXPIRES] = expires  # commit
            return None
        member = self.heap.allocate(MEMBER_NAME + name_words(len(channel_name)))
        if not member:
            if not words[record + FIRST]:
                self._drop_group(record)
            return self.heap.shortage
        words[member + GROUP] = record
        words[member + NEXT] = 0
        words[member + EXPIRES] = expires
        words[member + OWNER], words[member + NONCE] = owner
        self.index.write_name(member, channel_name, hashed)
        if words[record + FIRST]:
            words[member + BEFORE] = words[record + LAST]
            words[words[record + LAST] + NEXT] = member  # commit
            words[record + EARLIEST_EXPIRY] = min(words[record + EARLIEST_EXPIRY], expires)
        else:
            words[member + BEFORE] = 0
            words[record + FIRST] = member  # commit
            words[record + EARLIEST_EXPIRY] = expires
        words[record + LAST] = member
        words[record + COUNT] += 1
        self.index.insert(member)
        self._changed()
        return None

    def _changed(self) -> None:
        """Invalidate the lists that processes remember. (After a kill before this, the new generation does that.)"""
        self.words[AT_CHANGES] = (self.words[AT_CHANGES] + 1) % COUNTED

    def discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group, if it is a member."""
        record = self.find_group(group)
        if not record:
            return
        group_name, channel_name = group.encode("ascii"), channel.encode("ascii")
        member = self._find_member(record, channel_name, self.member_hash(group_name, channel_name))
        if member:
            self.unlink(record, member)
            if not self.words[record + FIRST]:
                self._drop_group(record)

    def _make_group(self, name: bytes) -> int:
        record = self.heap.allocate(GROUP_NAME + name_words(len(name)))
        if record:
            words = self.words
            for at in (COUNT, FIRST, LAST):
                words[record + at] = 0
            words[record + EARLIEST_EXPIRY] = NEVER
            self.groups.write_name(record, name, self.groups.hash(name))
            self.groups.insert(record)
        return record

    def _drop_group(self, record: int) -> None:
        self.groups.remove(record)
        self.heap.free(record)

    def unlink(self, record: int, member: int) -> None:
        """Remove a member from its group."""
        words = self.words
        following, before = words[member + NEXT], words[member + BEFORE]
        if before:
            words[before + NEXT] = following  # commit
        else:
            words[record + FIRST] = following  # commit
        if following:
            words[following + BEFORE] = before
        else:
            words[record + LAST] = before
        words[record + COUNT] -= 1
        self._changed()
        self.index.remove(member)
        self.heap.free(member)

    # -- queries ----------------------------------------------------------------------------------------------

    def channels(self, group: str, now: int) -> Listed:
        """Return the channels of a group, in the order in which they were added, and their owners."""
        words = self.words
        state = words[AT_CHANGES], words[AT_GENERATION]
        listed = self._listed.get(group)
        if listed is not None and listed.state == state and now < listed.until:
            return listed
        record = self.find_group(group)
        if record and words[record + EARLIEST_EXPIRY] <= now:
            if not self.drop_expired(record, now):
                record = 0
            state = words[AT_CHANGES], words[AT_GENERATION]
        if not record:
            return Listed(state, now, [], set())
        channels, owners = self._collect(record)
        if not self._known.knows(channels):
            self._check_names(channels)
        return self._listed.remember(group, Listed(state, words[record + EARLIEST_EXPIRY], channels, owners))

    def _collect(self, record: int) -> tuple[list[str], set[Owner]]:
        """Return the channels of a group and their owners."""
        words, name_at = self.words, self.index.name
        channels: list[str] = []
        owners: set[tuple[int, int]] = set()
        for member in self.walk(record):
            if words[member + OWNER]:
                owners.add((words[member + OWNER], words[member + NONCE]))
            channels.append(name_at(member).decode("ascii"))
        return channels, {Owner(process, nonce) for process, nonce in owners}

    def _check_names(self, found: list[str]) -> None:
        """Check that every name is a valid channel name: a damaged one must not reach a sender."""
        for name in found:
            try:
                valid_channel_name(name)
            except TypeError as error:
                raise ValueError(f"a group has a member with a damaged name: {error}") from error
            self._known.remember(name, None)

    def walk(self, record: int) -> Iterator[int]:
        """Yield the members of a group. The current one may be removed."""
        words = self.words
        member = words[record + FIRST]
        for _ in range(min(words[record + COUNT], self.most)):
            if not member:
                raise ValueError("a group has fewer members than its count")
            following = words[member + NEXT]
            yield member
            member = following
        if member:
            raise ValueError("a group has more members than its count")

    def drop_expired(self, record: int, now: int) -> bool:
        """Drop the memberships that have ended, and the group if it is then empty. False if the group was dropped."""
        words = self.words
        earliest = NEVER
        for member in self.walk(record):
            if words[member + EXPIRES] <= now:
                self.unlink(record, member)
            else:
                earliest = min(earliest, words[member + EXPIRES])
        words[record + EARLIEST_EXPIRY] = earliest
        return self.keep_if_filled(record)

    def keep_if_filled(self, record: int) -> bool:
        """Drop a group if it has no members any more; False if it was dropped."""
        if self.words[record + FIRST]:
            return True
        self._drop_group(record)
        return False

    def groups_in(self, buckets: range) -> Iterator[int]:
        """Yield the records of the groups in these buckets, as far as the buckets exist."""
        groups = self.groups
        for bucket in range(buckets.start, min(buckets.stop, groups.buckets)):
            yield from groups.chain(groups.at + bucket)

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Return, for each group, a dict from channel to the time (ns) at which its membership ends."""
        return {
            self.groups.name(record).decode("ascii"): {
                self.index.name(member).decode("ascii"): self.words[member + EXPIRES]
                for member in self.walk(record)
            }
            for record in self.groups_in(range(self.groups.buckets))
        }

    # -- sweeping ---------------------------------------------------------------------------------------------

    def sweep(self, now: int) -> None:
        """Drop ended memberships in a number of buckets that depends on the time since the last sweep."""
        words = self.words
        elapsed = now - words[AT_SWEEP_DUE]
        if -SWEEP_PERIOD <= elapsed < 0:  # another process has just swept
            return
        first = words[AT_SWEEP_CURSOR] % self.groups.buckets
        last = first + min(SWEEP_RATE * (1 + abs(elapsed) // SWEEP_PERIOD), SWEEP_MOST)
        words[AT_SWEEP_CURSOR] = self.sweep_slice(range(first, last), now)
        words[AT_SWEEP_DUE] = now + SWEEP_PERIOD

    def sweep_slice(self, buckets: range, now: int) -> int:
        """Drop ended memberships in these buckets. Returns the bucket to continue with, 0 at the end."""
        for record in self.groups_in(buckets):
            if self.words[record + EARLIEST_EXPIRY] <= now:
                self.drop_expired(record, now)
        return 0 if buckets.stop >= self.groups.buckets else buckets.stop

    def flush(self) -> None:
        """Empty the store."""
        self.words[AT_FLUSHING] = 1  # commit
        self.empty()

    def empty(self) -> None:
        """Empty the store and clear the flag. Can be repeated from the start at any time until the flag is cleared."""
        words = self.words
        self.heap.confirm_reserved()
        self.groups.clear()
        self.index.clear()
        self.heap.rebuild([])
        words[AT_SWEEP_DUE] = 0
        words[AT_GENERATION] = (words[AT_GENERATION] + 1) % COUNTED
        words[AT_FLUSHING] = 0
