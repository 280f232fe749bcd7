"""
Members that have lost their process: found and taken out of their groups.  The caller holds the mutex of the groups.

Whether an owner is dead, and whether nobody else receives from his inbox, only the message store can tell, outside of
every section of this one: so a search goes from the owners to the inboxes of the dead, and from these to the members.
"""

from __future__ import annotations

__all__ = ["Inbox", "DeadMembers"]

from typing import Iterable, Set, Tuple

from ...names import non_local_name
from .members import HOME, OWNER, Members, Owner

#: The inbox of a process, and that process.
Inbox = Tuple[str, Owner]


class DeadMembers:
    """Searches the groups of one segment for members of dead processes."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.words = members.words

    def owners_slice(self, first: int, last: int) -> Set[Owner]:
        """The owners of all members of the groups in buckets ``first`` to ``last``."""
        words = self.words
        return {
            (words[member + OWNER], words[member + HOME])
            for record in self.members.groups_in(first, last)
            for member in self.members.walk(record)
        }

    def inboxes_slice(self, first: int, last: int, dead: Set[Owner]) -> Set[Inbox]:
        """The inboxes that members of the groups in these buckets have in common with their dead owners."""
        return self._inboxes(self.members.groups_in(first, last), dead)

    def inboxes_of(self, group: str, dead: Set[Owner]) -> Set[Inbox]:
        """The same of one group."""
        return self._inboxes(filter(None, [self.members.find_group(group)]), dead)

    def _inboxes(self, records: Iterable[int], dead: Set[Owner]) -> Set[Inbox]:
        words = self.words
        found = set()
        for record in records:
            for member in self.members.walk(record):
                owner = words[member + OWNER], words[member + HOME]
                if owner in dead:
                    found.add((self._inbox(member), owner))
        return found

    def drop_slice(self, first: int, last: int, orphans: Set[Inbox]) -> None:
        """Drop the members of the groups in these buckets whose inboxes belonged to these owners."""
        self._drop(self.members.groups_in(first, last), orphans)

    def drop_orphans(self, group: str, orphans: Set[Inbox]) -> None:
        """The same in one group."""
        self._drop(filter(None, [self.members.find_group(group)]), orphans)

    def _drop(self, records: Iterable[int], orphans: Set[Inbox]) -> None:
        words = self.words
        dead = {owner for _, owner in orphans}
        for record in records:
            for member in self.members.walk(record):
                owner = words[member + OWNER], words[member + HOME]
                if owner in dead and (self._inbox(member), owner) in orphans:
                    self.members.unlink(record, member)
            self.members.keep_if_filled(record)

    def _inbox(self, member: int) -> str:
        return non_local_name(self.members.index.name(member).decode("ascii"))
