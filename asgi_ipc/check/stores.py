"""
A second opinion on a store: walk its truth and compare every derived word with what the walk finds.

Each discrepancy is one sentence; a sound store gives none.  Nothing is changed, nothing in the segment is believed
(what leads out of it, or in circles, is one more sentence), and nothing of the code that keeps the derived words is
used, so that a mistake there cannot hide itself.  An audit is one section of the store's mutex: all others wait.
"""

from __future__ import annotations

__all__ = ["audit_groups", "audit_messages"]

from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

from ..exceptions import SegmentGone
from ..names import non_local_name
from ..shm.layout import AT_FLUSHING, AT_PAGES, AT_RESERVED, AT_TAG, NEVER
from ..stores.attachment import Attachment
from ..stores.base import Store
from ..stores.groups import members as m
from ..stores.groups.store import GroupStore
from ..stores.messages import channels as c
from ..stores.messages import records as q
from ..stores.messages.store import MessageStore
from ..structures.hashtable import HASH, NAME_LENGTH, HashTable
from ..structures.hashtable import NEXT as NEXT_RECORD
from ..structures.slab import PAGE_RECORDS, TAG
from .heap import HeapAudit, Reached
from .waiters import WaiterAudit

#: What a walk over a damaged segment meets.
DAMAGE = (IndexError, ValueError, OverflowError)
#: Words in front of the records of a page: next page with room, previous one, first free record, live records.
PAGE_NEXT, PAGE_PREVIOUS, PAGE_FREE, PAGE_LIVE, PAGE_HEADER = 0, 1, 2, 3, 4


def audit_messages(store: MessageStore) -> List[str]:
    """What is wrong with a message store, a sentence each. Raises what any operation of the store raises."""
    return _audit(store, _MessageAudit)


def audit_groups(store: GroupStore) -> List[str]:
    """What is wrong with a group store, a sentence each. Raises what any operation of the store raises."""
    return _audit(store, _GroupAudit)


def _audit(store: Store, kind: Callable[[Attachment], _Audit]) -> List[str]:
    while True:
        store._check_name()  # a closed store refuses; a removed segment is attached to anew
        attachment = store._attachment
        if attachment is not None:
            try:
                return attachment.mutex.run(lambda here: kind(here).run(), attachment)
            except SegmentGone:  # removed since the look
                continue


class _Audit:
    """The walk over one segment: what it finds wrong, and which blocks of the heap it has found in use."""

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self.words = attachment.segment.words
        self.start, self.end = attachment.heap.start, attachment.heap.end
        self.reserved = self.words[AT_RESERVED]
        self.wrong: List[str] = []
        self.reached: Reached = {}

    def run(self) -> List[str]:
        """Every discrepancy."""
        self.expect("the flag of a flush", self.words[AT_FLUSHING], 0)
        if not self.start <= self.reserved <= self.end:
            self.wrong.append(f"RESERVED is {self.reserved}, not between {self.start} and {self.end}")
            return self.wrong
        for part in (self.truth, self.heap):
            try:
                part()
            except DAMAGE as error:
                self.wrong.append(f"the walk over the {part.__name__} met damage: {error}")
        return self.wrong

    def truth(self) -> None:
        """Walk the truth and compare what the stores derive from it."""
        raise NotImplementedError

    def heap(self) -> None:
        """Compare the heap with what the truth has reached."""
        self.wrong += HeapAudit(self.words, self.start, self.reserved, self.reached).run()

    def expect(self, what: str, found: Any, right: Any) -> None:
        """Note a word that is not what it must be."""
        if found != right:
            self.wrong.append(f"{what} is {found}, not {right}")

    def reach(self, block: int, payload: int, what: str) -> bool:
        """Note a block in use; False if it cannot be read or was found before."""
        if not self.start < block <= self.reserved - payload:
            self.wrong.append(f"{what} at {block} lies outside of the heap")
            return False
        if block in self.reached:
            self.wrong.append(f"{what} at {block} is {self.reached[block][1]}, too")
            return False
        self.reached[block] = (payload, what)
        return True

    def walk(self, link: int, step: int, what: str) -> Iterator[int]:
        """The items of a chain that begins at the word ``link`` and goes on at word ``step`` of each item."""
        words, seen = self.words, set()
        at = words[link]
        while at:
            if at in seen or not self.start < at < self.reserved - step:
                where = "in a circle" if at in seen else "out of the heap"
                self.wrong.append(f"{what} leads {where} to {at}")
                return
            seen.add(at)
            yield at
            at = words[at + step]

    def records(self, directory: HashTable, kind: str) -> Iterator[Tuple[int, bytes]]:
        """Each record that the buckets reach, with its name."""
        names: Set[bytes] = set()
        for bucket in range(directory.at, directory.at + directory.buckets):
            for record in self.walk(bucket, NEXT_RECORD, f"the chain of bucket {bucket - directory.at}"):
                length = self.words[record + NAME_LENGTH]
                if length > 99:
                    self.wrong.append(f"the {kind} at {record} has a name of {length} bytes")
                    continue
                name = directory.name(record)
                hashed = directory.hash(name)
                self.expect(f"the hash of {kind} {name!r}", self.words[record + HASH], hashed)
                self.expect(f"the bucket of {kind} {name!r}", bucket, directory.bucket_of(hashed))
                if name in names:
                    self.wrong.append(f"{kind} {name!r} is there twice")
                    continue
                names.add(name)
                yield record, name


class _MessageAudit(_Audit):
    """Channels, their queues and inboxes, and the pages of their records."""

    def truth(self) -> None:
        self.channels: Dict[str, int] = {}
        self.counts: Dict[int, int] = {}
        self.earliest: Dict[int, int] = {}
        self.bodies: Dict[int, List[int]] = {}
        self.pages: Dict[int, Set[int]] = {}
        for record, name in self.records(HashTable(self.attachment.segment, c.NAME), "channel"):
            self.channels[name.decode("ascii")] = record
        for channel, record in self.channels.items():
            self._queue(record, f"channel {channel!r}")
        for body, lengths in self.bodies.items():
            what = f"the shared body at {body}"
            self.expect(f"REFERENCES of {what}", self.words[body + q.REFERENCES], len(lengths))
            self.expect(f"the lengths of {what}", {self.words[body + q.BODY_LENGTH]}, set(lengths))
        self._inboxes()
        self.wrong += WaiterAudit(self.words, self.channels, self.reach).run()
        self._tags()
        self._pages()

    def _queue(self, record: int, what: str) -> None:
        words = self.words
        last, count, earliest = 0, 0, NEVER
        for message in self.walk(record + c.HEAD, q.NEXT, f"the queue of {what}"):
            if not self._message(message, what):
                break
            last, count = message, count + 1
            earliest = min(earliest, words[message + q.EXPIRES])
        self.counts[record], self.earliest[record] = count, earliest
        if count:
            self.expect(f"TAIL of {what}", words[record + c.TAIL], last)
            if words[record + c.EARLIEST_EXPIRY] > earliest:
                believed = words[record + c.EARLIEST_EXPIRY]
                self.wrong.append(f"EARLIEST_EXPIRY of {what} is {believed}, later than {earliest}")

    def _message(self, message: int, what: str) -> bool:
        words = self.words
        length = words[message + q.LENGTH]
        if length < q.SHARED:
            return self.reach(message, q.BODY + q.body_words(length), f"a message of {what}")
        if not self.reach(message, q.BODY + 1, f"a message of {what}"):
            return False
        length -= q.SHARED
        body = words[message + q.BODY]
        if body not in self.bodies:
            if not self.reach(body, q.BODY_DATA + q.body_words(length), f"a shared body of {what}"):
                return True
            self.bodies[body] = []
        self.bodies[body].append(length)
        return True

    def _inboxes(self) -> None:
        words = self.words
        locals_of: Dict[int, List[int]] = {}
        for name, record in self.channels.items():
            inbox = non_local_name(name)
            right = self.channels.get(inbox, 0) if inbox != name else 0
            self.expect(f"INBOX of channel {name!r}", words[record + c.INBOX], right)
            if inbox != name and not right:
                self.wrong.append(f"channel {name!r} has no inbox")
            locals_of.setdefault(right, []).append(record)
        for name, record in self.channels.items():
            what, mine = f"channel {name!r}", locals_of.get(record, [])
            count = self.counts[record] + sum(self.counts[local] for local in mine)
            self.expect(f"SENT - TAKEN of {what}", words[record + c.SENT] - words[record + c.TAKEN], count)
            self.expect(f"LOCALS of {what}", words[record + c.LOCALS], len(mine))
            if name.endswith("!"):
                self.expect(f"HEAD of {what}, which is an inbox,", words[record + c.HEAD], 0)
                if words[record + c.INDIVIDUAL] > 1:
                    self.wrong.append(f"INDIVIDUAL of {what} is {words[record + c.INDIVIDUAL]}")
            else:
                self.expect(f"OWNER of {what}, which is no inbox,", words[record + c.OWNER], 0)
                self.expect(f"INDIVIDUAL of {what}, which is no inbox,", words[record + c.INDIVIDUAL], 0)
            earliest = min((self.earliest[local] for local in mine), default=NEVER)
            if count and earliest < words[record + c.EARLIEST_EXPIRY]:
                believed = words[record + c.EARLIEST_EXPIRY]
                self.wrong.append(f"EARLIEST_EXPIRY of {what} is {believed}, later than {earliest}")
            self._ring(record, what, {local for local in mine if self.counts[local]})

    def _ring(self, inbox: int, what: str, ready: Set[int]) -> None:
        words = self.words
        first = record = words[inbox + c.READY]
        found: Set[int] = set()
        while record and record not in found:
            if record not in self.counts:
                self.wrong.append(f"the ready ring of {what} leads to {record}, which is no channel")
                return
            found.add(record)
            after = words[record + c.AFTER]
            self.expect(f"BEFORE in the ready ring of {what}", words[after + c.BEFORE], record)
            record = after
        self.expect(f"the end of the ready ring of {what}", record, first)
        self.expect(f"the channels in the ready ring of {what}", sorted(found), sorted(ready))

    def _tags(self) -> None:
        words = self.words
        seen: Dict[int, str] = {}
        for name, record in self.channels.items():
            tag, what = words[record + TAG], f"TAG of channel {name!r}"
            if not 0 < tag <= words[AT_TAG]:
                self.wrong.append(f"{what} is {tag}, not from 1 to {words[AT_TAG]}")
            if tag in seen:
                self.wrong.append(f"{what} is that of channel {seen[tag]!r}, too")
            seen[tag] = name
            page = words[record + c.PAGE]
            place, off = divmod(record - page - PAGE_HEADER, c.RECORD_WORDS)
            if off or not 0 <= place < PAGE_RECORDS:
                self.wrong.append(f"PAGE of channel {name!r} is {page}, where it has no place")
            else:
                self.pages.setdefault(page, set()).add(record)

    def _pages(self) -> None:
        words, previous = self.words, 0
        with_room: Set[int] = set()
        for page in self.walk(AT_PAGES, PAGE_NEXT, "the list of pages with room"):
            with_room.add(page)
            self.expect(f"the page before page {page}", words[page + PAGE_PREVIOUS], previous)
            previous = page
        for page in sorted(with_room | set(self.pages)):
            live = self.pages.get(page, set())
            if not self.reach(page, PAGE_HEADER + PAGE_RECORDS * c.RECORD_WORDS, "a page of channels"):
                continue
            self.expect(f"the number of live records in page {page}", words[page + PAGE_LIVE], len(live))
            has_room = len(live) < PAGE_RECORDS
            self.expect(f"whether page {page} is listed as having room", page in with_room, has_room)
            first = page + PAGE_HEADER
            free = set(self.walk(page + PAGE_FREE, 0, f"the list of free records in page {page}"))
            right = set(range(first, first + PAGE_RECORDS * c.RECORD_WORDS, c.RECORD_WORDS)) - live
            self.expect(f"the free records in page {page}", sorted(free), sorted(right))
            for record in right:
                self.expect(f"TAG of the free record at {record}", words[record + TAG], 0)


class _GroupAudit(_Audit):
    """Groups, their members, and the index of these."""

    def truth(self) -> None:
        self.members: Dict[int, str] = {}
        ours = m.Members(self.attachment.segment, self.attachment.heap)
        for record, name in self.records(ours.groups, "group"):
            if self.reach(record, m.GROUP_NAME + m.name_words(len(name)), "a group"):
                self._chain(ours, record, name)
        self._index(ours.index)

    def _chain(self, ours: m.Members, record: int, group: bytes) -> None:
        words, what = self.words, f"group {group.decode('ascii')!r}"
        before, earliest = 0, NEVER
        names: Set[bytes] = set()
        for member in self.walk(record + m.FIRST, m.NEXT, f"the chain of {what}"):
            length = words[member + NAME_LENGTH]
            if length > 99:
                self.wrong.append(f"the member at {member} of {what} has a name of {length} bytes")
                break
            if not self.reach(member, m.MEMBER_NAME + m.name_words(length), f"a member of {what}"):
                break
            name = ours.index.name(member)
            called = f"member {name.decode('ascii')!r} of {what}"
            if name in names:
                self.wrong.append(f"{called} is there twice")
            names.add(name)
            self.members[member] = called
            self.expect(f"GROUP of {called}", words[member + m.GROUP], record)
            self.expect(f"BEFORE of {called}", words[member + m.BEFORE], before)
            self.expect(f"the hash of {called}", words[member + HASH], ours.member_hash(group, name))
            earliest, before = min(earliest, words[member + m.EXPIRES]), member
        self.expect(f"LAST of {what}", words[record + m.LAST], before)
        self.expect(f"COUNT of {what}", words[record + m.COUNT], len(names))
        if words[record + m.EARLIEST_EXPIRY] > earliest:
            believed = words[record + m.EARLIEST_EXPIRY]
            self.wrong.append(f"EARLIEST_EXPIRY of {what} is {believed}, later than {earliest}")
        if not names:
            self.wrong.append(f"{what} has no members")

    def _index(self, index: HashTable) -> None:
        found: Set[int] = set()
        for bucket in range(index.at, index.at + index.buckets):
            for member in self.walk(bucket, NEXT_RECORD, f"the chain of index bucket {bucket - index.at}"):
                if member in found or member not in self.members:
                    why = "there twice" if member in found else "no member"
                    self.wrong.append(f"the index leads to {member}, which is {why}")
                    continue
                found.add(member)
                right = index.bucket_of(self.words[member + HASH])
                self.expect(f"the index bucket of {self.members[member]}", bucket, right)
        for member in sorted(set(self.members) - found):
            self.wrong.append(f"{self.members[member]} is not in the index")
