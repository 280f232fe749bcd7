"""
The check of a store: walk its truth, and compare every derived word with what the walk finds.

Each problem is one sentence; a consistent store has none.  Nothing is changed.  Nothing in the segment is trusted: a
link that leads out of the heap or forms a cycle is reported too.  Of the code that maintains the derived words, the
check uses only the hash and the size classes, so that a mistake there cannot hide itself.  A check is one critical
section: all other processes wait.
"""

from __future__ import annotations

__all__ = ["GroupCheck", "MessageCheck", "StoreCheck"]

from ..names import non_local_name
from ..shm.layout import AT_FLUSHING, AT_PAGES, AT_TAG, NEVER
from ..stores.attachment import Attachment
from ..stores.groups import members as m
from ..stores.messages import channels as c
from ..stores.messages import records as q
from ..structures.hashtable import HASH, NAME_LENGTH, HashTable
from ..structures.hashtable import NEXT as NEXT_RECORD
from ..structures.slab import PAGE_RECORDS, TAG
from .heap import HeapCheck
from .waiters import WaiterCheck
from .walk import Walk

#: What a walk over a damaged segment raises.
DAMAGE = (IndexError, ValueError, OverflowError)
#: Words before the records of a page: next page with room, previous one, first free record, live records.
PAGE_NEXT, PAGE_PREVIOUS, PAGE_FREE, PAGE_LIVE, PAGE_HEADER = 0, 1, 2, 3, 4


class StoreCheck(Walk):
    """The check of one segment. Call ``run`` in a critical section."""

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment)
        self.heap = attachment.heap

    def run(self) -> list[str]:
        """Return every problem, as one sentence each."""
        self.expect("the flag of a flush", self.words[AT_FLUSHING], 0)
        if not self.start <= self.reserved <= self.end:
            self.problems.append(f"RESERVED is {self.reserved}, not between {self.start} and {self.end}")
            return self.problems
        for part, check in (("truth", self.check_truth), ("heap", self.check_heap)):
            try:
                check()
            except DAMAGE as error:
                self.problems.append(f"damage stopped the walk over the {part}: {error}")
        return self.problems

    def check_truth(self) -> None:
        """Walk the truth, and compare the words that are derived from it."""
        raise NotImplementedError

    def check_heap(self) -> None:
        """Compare the heap with what the truth has reached."""
        self.problems += HeapCheck(self.words, self.start, self.reserved, self.reached).run()


class MessageCheck(StoreCheck):
    """Checks channels, their queues and inboxes, and the pages of their records."""

    def check_truth(self) -> None:
        self.channels: dict[str, int] = {}
        self.counts: dict[int, int] = {}
        self.earliest: dict[int, int] = {}
        self.bodies: dict[int, list[int]] = {}
        self.pages: dict[int, set[int]] = {}
        for record, name in self.records(HashTable(self.segment, c.NAME), "channel"):
            self.channels[name.decode("ascii")] = record
        for channel, record in self.channels.items():
            self._queue(record, f"channel {channel!r}")
        for body, lengths in self.bodies.items():
            what = f"the shared body at {body}"
            self.expect(f"REFERENCES of {what}", self.words[body + q.REFERENCES], len(lengths))
            self.expect(f"the lengths of {what}", {self.words[body + q.BODY_LENGTH]}, set(lengths))
        self._inboxes()
        WaiterCheck(self, self.channels).run()
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
                self.problems.append(f"EARLIEST_EXPIRY of {what} is {believed}, later than {earliest}")

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
        locals_of: dict[int, list[int]] = {}
        for name, record in self.channels.items():
            inbox = non_local_name(name)
            right = self.channels.get(inbox, 0) if inbox != name else 0
            self.expect(f"INBOX of channel {name!r}", words[record + c.INBOX], right)
            if inbox != name and not right:
                self.problems.append(f"channel {name!r} has no inbox")
            locals_of.setdefault(right, []).append(record)
        for name, record in self.channels.items():
            what, mine = f"channel {name!r}", locals_of.get(record, [])
            count = self.counts[record] + sum(self.counts[local] for local in mine)
            self.expect(f"SENT - TAKEN of {what}", words[record + c.SENT] - words[record + c.TAKEN], count)
            self.expect(f"LOCALS of {what}", words[record + c.LOCALS], len(mine))
            if name.endswith("!"):
                self.expect(f"HEAD of {what}, which is an inbox,", words[record + c.HEAD], 0)
                if words[record + c.INDIVIDUAL] > 1:
                    self.problems.append(f"INDIVIDUAL of {what} is {words[record + c.INDIVIDUAL]}, not 0 or 1")
            else:
                self.expect(f"OWNER of {what}, which is not an inbox,", words[record + c.OWNER], 0)
                self.expect(f"INDIVIDUAL of {what}, which is not an inbox,", words[record + c.INDIVIDUAL], 0)
            earliest = min((self.earliest[local] for local in mine), default=NEVER)
            if count and earliest < words[record + c.EARLIEST_EXPIRY]:
                believed = words[record + c.EARLIEST_EXPIRY]
                self.problems.append(f"EARLIEST_EXPIRY of {what} is {believed}, later than {earliest}")
            self._ready_ring(record, what, {local for local in mine if self.counts[local]})

    def _ready_ring(self, inbox: int, what: str, ready: set[int]) -> None:
        found = self.ring(inbox + c.READY, c.AFTER, f"the ready ring of {what}")
        for record in sorted(found - set(self.counts)):
            self.problems.append(f"the ready ring of {what} leads to {record}, which is not a channel")
        self.expect(f"the channels in the ready ring of {what}", sorted(found), sorted(ready))

    def _tags(self) -> None:
        words = self.words
        seen: dict[int, str] = {}
        for name, record in self.channels.items():
            tag, what = words[record + TAG], f"TAG of channel {name!r}"
            if not 0 < tag <= words[AT_TAG]:
                self.problems.append(f"{what} is {tag}, not from 1 to {words[AT_TAG]}")
            if tag in seen:
                self.problems.append(f"{what} is also that of channel {seen[tag]!r}")
            seen[tag] = name
            page = words[record + c.PAGE]
            place, off = divmod(record - page - PAGE_HEADER, c.RECORD_WORDS)
            if off or not 0 <= place < PAGE_RECORDS:
                self.problems.append(f"PAGE of channel {name!r} is {page}, which is not its page")
            else:
                self.pages.setdefault(page, set()).add(record)

    def _pages(self) -> None:
        words, previous = self.words, 0
        with_room: set[int] = set()
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


class GroupCheck(StoreCheck):
    """Checks groups, their members, and the index of the members."""

    def check_truth(self) -> None:
        self.members: dict[int, str] = {}
        ours = m.Members(self.segment, self.heap)
        for record, name in self.records(ours.groups, "group"):
            if self.reach(record, m.GROUP_NAME + m.name_words(len(name)), "a group"):
                self._chain(ours, record, name)
        self._index(ours.index)

    def _chain(self, ours: m.Members, record: int, group: bytes) -> None:
        words, what = self.words, f"group {group.decode('ascii')!r}"
        before, earliest = 0, NEVER
        names: set[bytes] = set()
        for member in self.walk(record + m.FIRST, m.NEXT, f"the chain of {what}"):
            length = words[member + NAME_LENGTH]
            if length > 99:
                self.problems.append(f"the member at {member} of {what} has a name of {length} bytes")
                break
            if not self.reach(member, m.MEMBER_NAME + m.name_words(length), f"a member of {what}"):
                break
            name = ours.index.name(member)
            called = f"member {name.decode('ascii')!r} of {what}"
            if name in names:
                self.problems.append(f"{called} exists twice")
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
            self.problems.append(f"EARLIEST_EXPIRY of {what} is {believed}, later than {earliest}")
        if not names:
            self.problems.append(f"{what} has no members")

    def _index(self, index: HashTable) -> None:
        found: set[int] = set()
        for bucket in range(index.at, index.at + index.buckets):
            for member in self.walk(bucket, NEXT_RECORD, f"the chain of index bucket {bucket - index.at}"):
                if member in found or member not in self.members:
                    why = "in it twice" if member in found else "not a member"
                    self.problems.append(f"the index leads to {member}, which is {why}")
                    continue
                found.add(member)
                right = index.bucket_of(self.words[member + HASH])
                self.expect(f"the index bucket of {self.members[member]}", bucket, right)
        for member in sorted(set(self.members) - found):
            self.problems.append(f"{self.members[member]} is not in the index")
