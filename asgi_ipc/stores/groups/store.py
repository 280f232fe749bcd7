"""
``GroupStore``: groups, their member channels and the end of each membership, in a separate segment with its own mutex.
"""

from __future__ import annotations

__all__ = ["GROUPS", "GroupStore", "Owners"]

from collections.abc import Callable, Iterable
from typing import Protocol

from ...clock import Quickest
from ...exceptions import GroupStoreFull
from ...locking.liveness import NO_OWNER, OwnedInbox, Owner
from ...locking.recovery import recoveries
from ...shm.layout import KIND_GROUPS
from ..attachment import Attachment, Kind
from ..base import CriticalSections, Parts
from .dead_members import DeadMembers, Where
from .members import SWEEP_PERIOD, Members
from .recovery import GroupRecovery

GROUPS = Kind(KIND_GROUPS, GroupRecovery)
#: Buckets that a sweep of everything visits in one critical section.
SLICE = 512
#: ns that must pass between two sweeps of everything.
FULL_SWEEP_PAUSE = 1_000_000_000


class Owners(Protocol):
    """What only the message store knows about the processes that receive from channels."""

    def dead_owners(self, owners: Iterable[Owner]) -> set[Owner]:
        """Return the owners that are proven dead."""

    def unshared_inboxes(self, suspects: Iterable[OwnedInbox]) -> set[OwnedInbox]:
        """Of inboxes with dead owners, return those that no other process receives from."""


class GroupParts(Parts):
    """The parts of a group store."""

    __slots__ = ("dead_members", "members")

    def __init__(self, attachment: Attachment) -> None:
        self.members = Members(attachment.segment, attachment.heap)
        self.dead_members = DeadMembers(self.members)


class GroupStore:
    """
    The groups of the layers with one prefix.

    ``owners`` knows which owners of members are dead (None: all count as alive). ``expiry`` and ``patience`` are in
    seconds, ``size`` in bytes. Names are not checked here. Without ``waits``, every call raises ``WouldBlock`` instead
    of waiting for another process, and can be repeated then.
    """

    def __init__(
        self,
        prefix: str,
        owners: Owners | None = None,
        size: int = 20 * 1024 * 1024,
        expiry: float = 86400,
        mode: int = 0o600,
        patience: float = 10,
        clock: Callable[[], int] = Quickest.monotonic_ns,
        waits: bool = True,
    ) -> None:
        self.expiry = max(1, int(expiry * 1e9))
        self._owners = owners
        self._sweep_due = self._full_sweep_due = 0
        #: The bucket at which a sweep of everything was interrupted, None if none was.
        self._sweep_from: int | None = None
        self.sections: CriticalSections[GroupParts] = CriticalSections(
            f"{prefix}-groups", GROUPS, size, mode, patience, clock, GroupParts, waits=waits
        )
        self.name = self.sections.name

    # -- members ----------------------------------------------------------------------------------------------

    def add(self, group: str, channel: str, owner: Owner = NO_OWNER) -> None:
        """
        Make a channel a member of a group for ``expiry`` seconds from now, or renew its membership.

        The membership also ends with the process ``owner``, if the message store knows one. Raises ``GroupStoreFull``
        if there is no memory for it; then nothing was added.
        """
        now = self.sections.clock()
        shortage = self.sections.run(Members.add, group, channel, now + self.expiry, owner)
        if shortage and self._sweep_everything(now):
            shortage = self.sections.run(Members.add, group, channel, now + self.expiry, owner)
        if shortage:
            size = self.sections.opened().segment.size
            raise GroupStoreFull(group, channel, self.name, size, shortage)
        self._sweep_if_due(now)

    def discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group, if it is a member."""
        self.sections.run(Members.discard, group, channel)
        self._sweep_if_due(self.sections.clock())

    def channels(self, group: str) -> list[str]:
        """Return the members of a group, in the order in which they were added. Dead members are removed first."""
        listed = self.sections.run(Members.channels, group, self.sections.clock())
        if listed.owners and self._drop_dead_members(group, listed.owners):
            listed = self.sections.run(Members.channels, group, self.sections.clock())
        return list(listed.channels)  # a copy: ``Members`` keeps the original

    def _drop_dead_members(self, where: Where, owners: Iterable[Owner]) -> bool:
        """
        Ask the message store which of the owners are dead, and remove their members; True if there were any.

        No critical section of one store is inside one of the other. The steps find the dead owners, then the inboxes
        of the groups' members that belong to them, then those inboxes that no other process receives from, and then
        the members with these inboxes.
        """
        dead = self._owners.dead_owners(owners) if self._owners is not None else None
        if self._owners is None or not dead:
            return False
        inboxes = self._owners.unshared_inboxes(self.sections.run(DeadMembers.inboxes, where, dead))
        if inboxes:
            self.sections.run(DeadMembers.drop, where, inboxes)
        return bool(inboxes)

    # -- sweeping ---------------------------------------------------------------------------------------------

    def _sweep_if_due(self, now: int) -> None:
        if now >= self._sweep_due:
            self._sweep_due = now + SWEEP_PERIOD
            self.sections.run_behind(lambda: self.sections.run(Members.sweep, now))

    def _sweep_everything(self, now: int) -> bool:
        """Drop every ended membership, in slices that let other processes in. At most once a second, else False."""
        first = self._sweep_from
        if first is None:
            if now < self._full_sweep_due:
                return False
            self._full_sweep_due = now + FULL_SWEEP_PAUSE
            first = 0
        while True:
            self._sweep_from = first  # where the next call goes on if an error ends this one
            buckets = range(first, first + SLICE)
            following = self.sections.run(Members.sweep_slice, buckets, now)
            self._drop_dead_members(buckets, self.sections.run(DeadMembers.owners, buckets))
            if not following:
                self._sweep_from = None
                return True
            self.sections.give_way()
            first = following

    def recoveries(self) -> dict[str, int]:
        """Return how often the segment was recovered, by cause (``MessageStore.recoveries``)."""
        return self.sections.exclusively(recoveries, self.sections.opened().segment)

    # -- the whole store --------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, dict[str, int]]:
        """
        Return the store as a dict: for each group, its channels and the time (ns) at which their membership ends.

        For debugging and tests. This is one critical section, so it shows the state at one point in time.
        """
        return self.sections.run(Members.snapshot)

    def flush(self) -> None:
        """Empty the store, for every process."""
        self.sections.run(Members.flush)

    def unlink(self) -> None:
        """Remove the segment for every process. Those that continue to use the store create a new one."""
        self.sections.unlink()

    def close(self) -> None:
        """Release what this process holds for the store. May be called twice; any other use is then an error."""
        self.sections.close()
