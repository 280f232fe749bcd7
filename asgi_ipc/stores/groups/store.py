"""
``GroupStore``: group -> member channels with the time their membership ends, in a segment of its own behind a mutex of
its own.
"""

from __future__ import annotations

__all__ = ["GroupStore"]

import time
from typing import Any, Callable, Dict, List, Set, Tuple

from ...exceptions import GroupStoreFull
from ...shm.layout import KIND_GROUPS
from ..attachment import Attachment
from ..base import Store
from .dead_members import DeadMembers, Inbox
from .members import SWEEP_PERIOD, Members, Owner
from .recovery import GroupRecovery

#: Buckets that a sweep of everything visits in one section.
SLICE = 512
#: ns that must pass between two sweeps of everything.
FULL_SWEEP_PAUSE = 1_000_000_000


class GroupStore(Store):
    """The groups of the layers with one prefix. ``expiry`` is in seconds. Names are not checked here."""

    kind = KIND_GROUPS
    recovery = GroupRecovery

    def __init__(
        self,
        prefix: str,
        size: int = 20 * 1024 * 1024,
        expiry: float = 86400,
        mode: int = 0o600,
        patience: float = 10,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.expiry = max(1, int(expiry * 1e9))
        self._sweep_due = self._full_sweep_due = 0
        #: Of the owners of members, those that are proven dead; and of their inboxes, those that nobody else reads.
        #: The message store knows: no section of it runs inside one of this store, nor the other way round.
        self.find_dead: Callable[[Set[Owner]], Set[Owner]] = lambda owners: set()
        self.find_orphans: Callable[[Set[Inbox]], Set[Inbox]] = lambda inboxes: inboxes
        super().__init__(f"{prefix}-groups", size, mode, patience, clock)

    def _parts(self, attachment: Attachment) -> Tuple[Any, ...]:
        members = Members(attachment.segment, attachment.heap)
        return members, DeadMembers(members)

    def _attached(self, attachment: Attachment) -> None:
        self._size_here = attachment.segment.size

    def _sweep_if_due(self, now: int) -> None:
        if now >= self._sweep_due:
            self._sweep_due = now + SWEEP_PERIOD
            self._run("sweep", now)

    def add(self, group: str, channel: str, owner: Owner = (0, 0)) -> None:
        """
        Make a channel a member of a group for ``expiry`` seconds from now, whether it was one or not.

        ``owner`` is the process with which the membership ends, as the message store tells, (0, 0) if none is known.
        Raises ``GroupStoreFull`` when there is no memory for it; nothing was added then.
        """
        now = self.clock()
        shortage = self._run("add", group, channel, now + self.expiry, owner)
        if shortage and self._sweep_everything(now):
            shortage = self._run("add", group, channel, now + self.expiry, owner)
        if shortage:
            raise GroupStoreFull(group, channel, self.name, self._size_here, shortage)
        self._sweep_if_due(now)

    def discard(self, group: str, channel: str) -> None:
        """End a channel's membership in a group; nothing happens if it is no member."""
        self._run("discard", group, channel)
        self._sweep_if_due(self.clock())

    def channels(self, group: str) -> List[str]:
        """The members of a group, in the order in which they were added; those of dead processes leave it now."""
        found, owners = self._run("list", group, self.clock())
        dead = self.find_dead(owners) if owners else None
        if dead:
            orphans = self.find_orphans(self._run("inboxes_of", group, dead))
            if orphans:
                self._run("drop_orphans", group, orphans)
                found, _ = self._run("list", group, self.clock())
        return list(found)  # the store remembers its own

    def snapshot(self) -> Dict[str, Dict[str, int]]:
        """
        The store as a plain dict: for each group, its channels and the time (ns) at which their membership ends.

        For debugging and tests. One section, so that it is true of one moment.
        """
        return self._run("snapshot")  # type: ignore[no-any-return]

    def _sweep_everything(self, now: int) -> bool:
        """Drop every membership that has ended, in slices that let others in; at most once a second."""
        if now < self._full_sweep_due:
            return False
        self._full_sweep_due = now + FULL_SWEEP_PAUSE
        owners: Set[Owner] = set()
        first = 0
        while True:
            following = self._run("sweep_slice", first, first + SLICE, now)
            owners |= self._run("owners_slice", first, first + SLICE)
            if not following:
                break
            self._give_way()
            first = following
        dead = self.find_dead(owners)
        for begin in range(0, first + 1, SLICE) if dead else ():
            self._give_way()
            orphans = self.find_orphans(self._run("inboxes_slice", begin, begin + SLICE, dead))
            if orphans:
                self._run("drop_slice", begin, begin + SLICE, orphans)
        return True
