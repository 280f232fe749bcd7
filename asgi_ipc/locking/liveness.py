"""
Slots and owners: which processes use a segment, and the proof that one of them is dead.

A process has one slot of the segment as long as it uses the segment.  The byte lock of the slot proves that the process
is alive: the kernel drops it when the process ends for any reason, but also when the process closes another descriptor
of the file, so ``renew`` takes it again.  An *owner* is a process in one use of its slot,
``incarnation << SLOT_BITS | slot``, in one word.  It is dead when the byte lock of its slot is free, or when another
process has got the slot, which increments the incarnation.  Death is permanent.  Nothing else proves it: unknown means
alive.
"""

from __future__ import annotations

__all__ = ["NOBODY", "NO_OWNER", "SEVERAL", "Liveness", "OwnedInbox", "Owner", "Proof"]

import os
from enum import Enum
from typing import NamedTuple

from ..exceptions import TooManyProcesses
from ..memo import Memo
from ..shm.layout import AT_DIED, AT_EPOCH, AT_SEQ, AT_SLOTS, COUNTED, SLOT_WORDS, SLOTS
from ..shm.segment import Segment

SLOT_BITS = 10
#: No owner is known.
NOBODY = 0
#: Several processes are the owners. It is never proven that they are dead.
SEVERAL = 2**64 - 1
#: ns for which a process that was seen alive counts as alive, in places where a late answer does no harm.
ALIVE_FOR = 50_000_000
#: The number of owners that a process remembers as alive.
REMEMBERED = 4096


class Owner(NamedTuple):
    """A process, and the nonce of the message segment whose slots it refers to."""

    process: int
    nonce: int


class Proof(Enum):
    """What has become of this process's proof of life."""

    #: It was never lost.
    KEPT = "kept"
    #: It was lost, and taken again before another process had the slot.
    RETAKEN = "retaken"
    #: It was lost, and another process has had the slot since then.
    LOST = "lost"
    #: It belongs to the parent: this process was forked by a program that does not call Python's hooks for that.
    OF_PARENT = "of parent"


class OwnedInbox(NamedTuple):
    """An inbox, ``prefix!``, and a process that owns or owned it."""

    prefix: str
    owner: Owner


#: The owner if none is known.
NO_OWNER = Owner(NOBODY, 0)


class Liveness:
    """
    The slots of one segment, as one process sees them. ``slot`` is its own slot, -1 while it has none.

    Nothing here needs the mutex, but the segment must stay open: the caller holds the in-process lock, or is inside a
    critical section.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.words = segment.words
        self.slot = -1
        #: The process that acquired the slot, its incarnation, and the slot that this process has lost, or -1.
        self._pid = self._mine = 0
        self._lost_slot = -1
        self._alive_until: Memo[int, int] = Memo(REMEMBERED)

    def lock_slot(self) -> int:
        """
        Acquire a slot for this process, and return its number. Raises ``TooManyProcesses``.

        The caller then sets ``slot``. Until that is set, the same slot can be acquired again.
        """
        words = self.words
        epoch = words[AT_EPOCH] & ~1
        for slot in range(SLOTS):
            slot_at = AT_SLOTS + slot * SLOT_WORDS
            # Skip the slot of a process that is inside, or died there: an exception between locking its byte and
            # clearing its word would leave a live process that seems to hold the token.
            if words[slot_at] != epoch and slot != self._lost_slot and self.segment.locks.lock(1 + slot):
                if words[slot_at] == epoch | 1:  # it may have had the token: the recovery shall find out
                    words[AT_DIED] = words[AT_SEQ]
                words[slot_at] = 0
                words[slot_at + 1] = (words[slot_at + 1] + 1) % COUNTED
                self._pid, self._mine = os.getpid(), self._incarnation(slot)
                return slot
        raise TooManyProcesses(self.segment.name, SLOTS)

    def release_slot(self) -> None:
        """Give up the slot: the segment is being closed, or this is a forked child."""
        self.slot = -1

    def renew(self) -> Proof:
        """
        Take the lock of this process's slot again if the kernel has dropped it.

        After ``LOST`` and ``OF_PARENT``, this process must acquire another slot. No thread of it may be inside the
        critical section.
        """
        slot, locks = self.slot, self.segment.locks
        if slot < 0:
            return Proof.KEPT
        if self._pid != os.getpid():
            return Proof.OF_PARENT
        if self._incarnation(slot) == self._mine:
            ours = locks.is_ours(1 + slot)
            if ours:
                return Proof.KEPT
            # Compare again: a process may have had the slot until just before. Where the system cannot tell whether
            # the lock was lost (None), taking it again is all that can be done.
            if locks.lock(1 + slot):
                if self._incarnation(slot) == self._mine:
                    return Proof.KEPT if ours is None else Proof.RETAKEN
                locks.unlock(1 + slot)
        self._lost_slot = slot
        return Proof.LOST

    def live_holder(self, epoch: int) -> int | None:
        """Return the pid (0: in another PID namespace) of another live process that is inside, or None."""
        for slot, _ in self._slots_with(epoch):
            pid = self.segment.locks.holder(1 + slot)
            if pid is not None:
                return pid
        return None

    def live_slots(self, epoch: int) -> tuple[bool, set[int]]:
        """
        Return whether another live process is inside, and the slots of those that have an intent.

        Each word is read once: a process that comes inside meanwhile is in one of the two.
        """
        live = [each for each in self._slots_with(epoch, epoch | 1) if not self._is_free(each[0])]
        return any(word == epoch for _, word in live), {slot for slot, word in live if word != epoch}

    def has_dead_holder(self, epoch: int) -> bool:
        """True if a process has died inside, or while it took the epoch's token or gave it back."""
        if self.words[AT_SEQ] and self.words[AT_DIED] == self.words[AT_SEQ]:  # another process has its slot now
            return True
        return any(self._is_free(slot) for slot, _ in self._slots_with(epoch, epoch | 1))

    def _slots_with(self, *words: int) -> list[tuple[int, int]]:
        """Return the slots of other processes that contain one of the words, with that word."""
        held = self.words[AT_SLOTS : AT_SLOTS + SLOTS * SLOT_WORDS : SLOT_WORDS].tolist()
        return [(slot, word) for slot, word in enumerate(held) if word in words and slot != self.slot]

    def _is_free(self, slot: int) -> bool:
        return self.segment.locks.holder(1 + slot) is None

    def me(self) -> int:
        """Return this process as an owner. It must have a slot."""
        return self._mine << SLOT_BITS | self.slot

    def is_dead(self, owner: int) -> bool:
        """True if it is proven that ``owner`` is dead."""
        if owner in (NOBODY, SEVERAL):
            return False
        slot = owner & (SLOTS - 1)
        if slot == self.slot and owner >> SLOT_BITS == self._mine:  # this process, even if the word is damaged
            return False
        if self._incarnation(slot) != owner >> SLOT_BITS:
            return True
        # Do not ask about the byte of this process: its own lock does not conflict, so the kernel reports "free".
        return slot != self.slot and self.segment.locks.holder(1 + slot) is None

    def was_dead(self, owner: int, now: int) -> bool:
        """Do the same, but ask the kernel at most once in 50 ms for each owner."""
        if now < self._alive_until.get(owner, 0):
            return False
        if self.is_dead(owner):
            return True
        self._alive_until.remember(owner, now + ALIVE_FOR)
        return False

    def _incarnation(self, slot: int) -> int:
        """Return how many processes have had a slot, modulo the range that fits into an owner."""
        return int(self.words[AT_SLOTS + slot * SLOT_WORDS + 1] % (COUNTED >> SLOT_BITS))
