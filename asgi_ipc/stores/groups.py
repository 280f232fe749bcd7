"""
``GroupStore``: group -> member channels with the time their membership ends, in a segment of its own behind a guard of
its own.
"""

from __future__ import annotations

__all__ = ["GroupStore"]

import time
from typing import Any, Callable, Dict, List, Tuple

from ..exceptions import GroupStoreFull
from ..memory.arena import Arena
from ..memory.layout import KIND_GROUPS
from .base import Store
from .group_mending import GroupMender
from .members import SWEEP_PERIOD, Members

#: Buckets that a sweep of everything visits in one section.
SLICE = 512
#: ns that must pass between two sweeps of everything.
FULL_SWEEP_PAUSE = 1_000_000_000


class GroupStore(Store):
    """The groups of the layers with one prefix. ``expiry`` is in seconds. Names are not checked here."""

    kind = KIND_GROUPS
    mender = GroupMender

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
        super().__init__(f"{prefix}-groups", size, mode, patience, clock)

    def _parts(self, arena: Arena) -> Tuple[Any, ...]:
        return (Members(arena.segment, arena.heap),)

    def _attached(self, arena: Arena) -> None:
        self._size_here = arena.segment.size

    def _sweep_if_due(self, now: int) -> None:
        if now >= self._sweep_due:
            self._sweep_due = now + SWEEP_PERIOD
            self._run("sweep", now)

    def add(self, group: str, channel: str) -> None:
        """
        Make a channel a member of a group for ``expiry`` seconds from now, whether it was one or not.

        Raises ``GroupStoreFull`` when there is no memory for it; nothing was added then.
        """
        now = self.clock()
        shortage = self._run("add", group, channel, now + self.expiry)
        if shortage and self._sweep_everything(now):
            shortage = self._run("add", group, channel, now + self.expiry)
        if shortage:
            raise GroupStoreFull(group, channel, self.name, self._size_here, shortage)
        self._sweep_if_due(now)

    def discard(self, group: str, channel: str) -> None:
        """End a channel's membership in a group; nothing happens if it is no member."""
        self._run("discard", group, channel)
        self._sweep_if_due(self.clock())

    def channels(self, group: str) -> List[str]:
        """The members of a group, in the order in which they were added."""
        return self._run("list", group, self.clock())  # type: ignore[no-any-return]

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
        following = self._run("sweep_slice", 0, SLICE, now)
        while following:
            following = self._run("sweep_slice", following, following + SLICE, now)
        return True
