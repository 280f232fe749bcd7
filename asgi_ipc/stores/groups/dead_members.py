"""
Finds members of groups whose process is dead, and removes them.  The caller holds the groups' mutex.

Only the message store knows whether an owner is dead, and whether no other process receives from its inbox.  It is
asked outside the critical sections of this store.  So a search goes from the owners to the inboxes of the dead ones,
and from these to the members (``GroupStore``).
"""

from __future__ import annotations

__all__ = ["DeadMembers", "Where"]

from collections.abc import Iterable, Iterator
from typing import Union

from ...locking.liveness import OwnedInbox, Owner
from ...names import non_local_name
from .members import NONCE, OWNER, Members

#: Which groups: one by its name, or those in some buckets.
Where = Union[str, range]


class DeadMembers:
    """Searches the groups of one segment for members of dead processes."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.words = members.words

    def owners(self, where: Where) -> set[Owner]:
        """Return the owners of all members of these groups."""
        return {owner for record in self._groups(where) for _, owner in self._owned(record)}

    def inboxes(self, where: Where, dead: Iterable[Owner]) -> set[OwnedInbox]:
        """Return the inboxes of the members of these groups whose owners are ``dead``."""
        return {
            OwnedInbox(self._inbox(member), owner)
            for record in self._groups(where)
            for member, owner in self._owned(record)
            if owner in dead
        }

    def drop(self, where: Where, inboxes: Iterable[OwnedInbox]) -> None:
        """Drop the members of these groups whose inboxes belonged to these owners."""
        dead = {inbox.owner for inbox in inboxes}
        for record in self._groups(where):
            for member, owner in self._owned(record):
                if owner in dead and OwnedInbox(self._inbox(member), owner) in inboxes:
                    self.members.unlink(record, member)
            self.members.keep_if_filled(record)

    def _groups(self, where: Where) -> Iterable[int]:
        if isinstance(where, range):
            return self.members.groups_in(where)
        return filter(None, [self.members.find_group(where)])

    def _owned(self, record: int) -> Iterator[tuple[int, Owner]]:
        """Return the members of a group with their owners. The current member may be removed."""
        words = self.words
        return ((member, Owner(words[member + OWNER], words[member + NONCE])) for member in self.members.walk(record))

    def _inbox(self, member: int) -> str:
        return non_local_name(self.members.index.name(member).decode("ascii"))
