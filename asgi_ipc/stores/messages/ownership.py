"""
Ownership of inboxes: the process that receives from ``prefix!`` owns it.  The caller holds the mutex.

The owner is the process that created names in the inbox, or the first that received from it.  If a second live process
receives, the inbox is shared from then on.  If an owner is proven dead (``locking.liveness``), the next use drops the
messages that it has not received, and its channels leave their groups.  OWNER and INDIVIDUAL are truth: each is set by
one store.
"""

from __future__ import annotations

__all__ = ["Ownership"]

import os
import weakref
from collections.abc import Iterable

from ...locking.liveness import NO_OWNER, NOBODY, SEVERAL, Liveness, OwnedInbox, Owner
from ...names import non_local_name
from ...structures.slab import TAG
from .channels import HEAD, INDIVIDUAL, OWNER, READY, SENT, TAKEN, WAITERS, WAITING, Channels
from .records import Records

#: The number of messages of a dead process that one critical section drops.
DROP_SLICE = 256
#: The number of inboxes without messages and waiters that a process owns at the same time.
MAX_OWNED = 64

_all: weakref.WeakSet[Ownership] = weakref.WeakSet()


class Ownership:
    """The owners of the inboxes of one message segment, and which inboxes this process owns."""

    def __init__(self, channels: Channels, records: Records, liveness: Liveness) -> None:
        self.words = channels.words
        self.channels = channels
        self.records = records
        self.liveness = liveness
        self.nonce: int = liveness.segment.semaphores.nonce
        #: Inboxes that this process receives from, by tag, and the tags of those marked as INDIVIDUAL.
        self.owned: dict[int, int] = {}
        self.individual: set[int] = set()
        _all.add(self)

    def forget(self) -> None:
        """
        Forget which inboxes this process owns.

        The generation has changed, this is a forked child, or others may have taken this process for dead.
        """
        self.owned.clear()
        self.individual.clear()

    def own(self, inbox: int, individual: bool) -> bool:
        """
        Record that this process receives from an inbox; with ``individual``, from each of its channels separately.

        False if a dead owner has left so many messages that another critical section must continue to drop them.
        """
        words, me = self.words, self.liveness.me()
        owner = words[inbox + OWNER]
        if owner not in (me, NOBODY, SEVERAL):
            if not self.liveness.is_dead(owner):
                words[inbox + OWNER] = SEVERAL  # commit
            elif not self._drop_unread(inbox):
                return False
            else:
                words[inbox + OWNER] = me  # commit
        elif owner == NOBODY:
            words[inbox + OWNER] = SEVERAL if words[inbox + WAITERS] else me  # commit
        if individual:
            words[inbox + INDIVIDUAL] = 1  # commit
            self.individual.add(words[inbox + TAG])
        self.owned[words[inbox + TAG]] = inbox
        if len(self.owned) > MAX_OWNED:
            self._give_up_oldest(me)
        return True

    def _give_up_oldest(self, me: int) -> None:
        """
        Give up the inbox that was owned first. This process owns it again when it next receives from it.

        Records of live owners are kept, so without a limit a server that uses each inbox once would fill the memory.
        """
        words = self.words
        tag, inbox = next(iter(self.owned.items()))
        del self.owned[tag]
        self.individual.discard(tag)
        if words[inbox + TAG] == tag and words[inbox + OWNER] == me:
            if words[inbox + WAITING] or words[inbox + SENT] != words[inbox + TAKEN]:
                self.owned[tag] = inbox
            else:
                words[inbox + OWNER] = NOBODY  # commit

    def drop_unread_of_dead(self, inbox: int, now: int) -> bool:
        """
        Drop what a dead owner has not received, before a message is added; False if another call must continue.

        Later messages are not for the dead process: the inbox then has no owner, and the next receiver gets them.
        """
        words = self.words
        owner = words[inbox + OWNER]
        if owner in (NOBODY, SEVERAL) or not self.liveness.was_dead(owner, now):
            return True
        if not self._drop_unread(inbox):
            return False
        words[inbox + OWNER] = NOBODY  # commit
        return True

    def _drop_unread(self, inbox: int) -> bool:
        """Drop a slice of an inbox's messages; True if none are left."""
        words = self.words
        for _ in range(DROP_SLICE):
            local = words[inbox + READY]
            if not local:
                return True
            if not words[local + HEAD]:
                raise ValueError("a ready ring leads to a channel without messages")
            self.records.unlink(local, inbox, local + HEAD, words[local + HEAD])
        return not words[inbox + READY]

    def own_inbox(self, prefix: str) -> bool:
        """
        Own the inbox ``prefix``: this process creates names in it, and receives from each one. False: call it again.

        Has no effect if there is no memory for its record: an unknown owner counts as alive.
        """
        inbox = self.channels.make(prefix)
        return not inbox or self.own(inbox, True)

    def owner_of(self, channel: str) -> Owner:
        """Return the only process that is known to receive from a process-local channel, or NO_OWNER."""
        inbox = self.channels.find(non_local_name(channel))
        process = self.words[inbox + OWNER] if inbox else NOBODY
        return NO_OWNER if process in (NOBODY, SEVERAL) else Owner(process, self.nonce)

    def unshared(self, suspects: Iterable[OwnedInbox]) -> set[OwnedInbox]:
        """
        Of inboxes with dead owners, return those that no other process receives from.

        Nothing is known about owners in another segment: their numbers can be those of live processes here.
        """
        words, nonce = self.words, self.nonce
        found = set()
        for suspect in suspects:
            if suspect.owner.nonce != nonce:
                continue
            inbox = self.channels.find(suspect.prefix)
            if not inbox or words[inbox + OWNER] in (suspect.owner.process, NOBODY):
                found.add(suspect)
        return found


def _after_fork_in_child() -> None:
    # A child is another process. With what its parent remembers it would receive from an inbox of the parent without
    # making it shared, and lose messages and memberships when the parent ends.
    for each in list(_all):
        each.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
