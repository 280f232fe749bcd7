"""
Who lives: owners of things in a segment, and the proof that one is dead.

An owner is a process in one life of its slot: ``incarnation << SLOT_BITS | slot``, in one word.  Whoever has died has
dropped the byte lock of its slot, or another process has the slot by now and the slot counts one incarnation more.
Death is permanent, and nothing but this proves it: unknown means alive.
"""

from __future__ import annotations

__all__ = ["NOBODY", "SEVERAL", "Liveness"]

from typing import Dict

from ..shm.layout import AT_SLOTS, COUNTED, SLOT_WORDS, SLOTS
from ..shm.segment import Segment
from .mutex import RobustMutex

SLOT_BITS = 10
#: No owner is known.
NOBODY = 0
#: Several processes are: that these are dead is never proven.
SEVERAL = 2**64 - 1
#: ns for which a process that was seen alive is taken to be so where a late answer does no harm.
ALIVE_FOR = 50_000_000
#: Owners that a process remembers to have seen alive.
REMEMBERED = 4096


class Liveness:
    """Which of the processes that use one segment live."""

    def __init__(self, segment: Segment, mutex: RobustMutex) -> None:
        self.segment = segment
        self.words = segment.words
        self.mutex = mutex
        self._alive_until: Dict[int, int] = {}

    def me(self) -> int:
        """This process as an owner. The caller holds the mutex, and so has a slot."""
        slot = self.mutex.slot
        return int(self.words[AT_SLOTS + slot * SLOT_WORDS + 1] % (COUNTED >> SLOT_BITS) << SLOT_BITS | slot)

    def is_dead(self, owner: int) -> bool:
        """Whether it is proven that ``owner`` is dead. Needs no mutex."""
        if owner in (NOBODY, SEVERAL):
            return False
        slot = owner & (SLOTS - 1)
        incarnation = self.words[AT_SLOTS + slot * SLOT_WORDS + 1] % (COUNTED >> SLOT_BITS)
        if incarnation != owner >> SLOT_BITS:
            return True
        # A process never asks for its own byte: its own lock does not stand in its way.
        return slot != self.mutex.slot and self.segment.locks.holder(1 + slot) is None

    def was_dead(self, owner: int, now: int) -> bool:
        """The same, asked of the kernel once in 50 ms at the most for each owner."""
        if now < self._alive_until.get(owner, 0):
            return False
        if self.is_dead(owner):
            return True
        if len(self._alive_until) >= REMEMBERED:
            self._alive_until.clear()
        self._alive_until[owner] = now + ALIVE_FOR
        return False
