"""
Whose inbox is it: the process that receives from ``prefix!`` owns it.  The caller holds the mutex.

The owner is the process that has made names in the inbox, or the first that received from it; a second live one makes
it everybody's for good.  When an owner is dead, which takes proof (``memory.liveness``), what it has not read is
dropped at the next use, and its channels leave their groups.  OWNER and INDIVIDUAL are truth: one store each.
"""

from __future__ import annotations

__all__ = ["Owner", "Ownership"]

from typing import Dict, Iterable, Optional, Set, Tuple

from ...locking.liveness import NOBODY, SEVERAL, Liveness
from ...names import non_local_name
from ...structures.slab import TAG
from .channels import HEAD, INDIVIDUAL, OWNER, READY, SENT, TAKEN, WAITERS, WAITING, Channels
from .records import Records

#: Messages of a dead process that one section drops.
DROP_SLICE = 256
#: Such slices that a sender drops at the most: a few thousand messages, some milliseconds. The next one goes on.
DROP_SLICES = 16
#: Inboxes that a process owns at a time.
MAX_OWNED = 64


#: A process, and the nonce of the segment in which it has its slot.
Owner = Tuple[int, int]


class Ownership:
    """The owners of the inboxes of one message segment, and which of them this process has claimed."""

    def __init__(self, channels: Channels, records: Records, liveness: Optional[Liveness], home: int) -> None:
        self.home = home
        self.words = channels.words
        self.channels = channels
        self.records = records
        self.liveness = liveness
        #: Inboxes that this process receives from, by tag, and the tags of those whose channels count one by one.
        self.owned: Dict[int, int] = {}
        self.individual: Set[int] = set()

    def forget(self) -> None:
        """What is remembered of the inboxes is void: the generation has moved."""
        self.owned.clear()
        self.individual.clear()

    def own(self, inbox: int, individual: bool) -> bool:
        """
        This process receives from an inbox; with ``individual``, from one of its channels alone.

        False if a dead owner has left so much that another section must go on with it.
        """
        if self.liveness is None:
            return True
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
            self._release_one(me)
        return True

    def _release_one(self, me: int) -> None:
        """
        Give up the inbox that was claimed longest ago; it is claimed again when this process next receives from it.

        Records of live owners are kept: without a limit, a server that uses each inbox once would fill the memory.
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

    def drop_unread_of_dead(self, inbox: int, now: int) -> None:
        """
        Drop what a dead owner has not read, before somebody adds to it.

        What is sent from now on is not his: the inbox is nobody's, and whoever receives from it next gets that.
        """
        words = self.words
        owner = words[inbox + OWNER]
        if owner in (NOBODY, SEVERAL) or self.liveness is None or not self.liveness.was_dead(owner, now):
            return
        for _ in range(DROP_SLICES):
            if self._drop_unread(inbox):
                words[inbox + OWNER] = NOBODY  # commit
                return

    def _drop_unread(self, inbox: int) -> bool:
        """Drop a slice of an inbox's messages; whether that was all."""
        words = self.words
        for _ in range(DROP_SLICE):
            local = words[inbox + READY]
            if not local:
                return True
            if not words[local + HEAD]:
                raise ValueError("a ready ring leads to a channel without messages")
            self.records.unqueue(local, words[local + HEAD])
        return not words[inbox + READY]

    def own_inbox(self, prefix: str) -> bool:
        """
        Names are made in the inbox ``prefix``, each to be received from alone. False: come again.

        Nothing happens where there is no memory for it: what is not known counts as alive.
        """
        inbox = self.channels.make(prefix)
        return not inbox or self.own(inbox, True)

    def owner_of(self, channel: str) -> Owner:
        """The one process that is known to receive from a process-local channel, or NOBODY; and of which segment."""
        inbox = self.channels.find(non_local_name(channel))
        owner = self.words[inbox + OWNER] if inbox else NOBODY
        return (NOBODY if owner == SEVERAL else int(owner)), self.home

    def dead(self, owners: Iterable[Owner]) -> Set[Owner]:
        """Those owners that are proven dead. Of one in another segment nothing can be proven."""
        if self.liveness is None:
            return set()
        return {(owner, home) for owner, home in owners if home == self.home and self.liveness.is_dead(owner)}

    def orphans(self, suspects: Iterable[Tuple[str, Owner]]) -> Set[Tuple[str, Owner]]:
        """Of inboxes with their dead owners, those that nobody else receives from."""
        words = self.words
        found = set()
        for prefix, owner in suspects:
            inbox = self.channels.find(prefix)
            if not inbox or words[inbox + OWNER] in (owner[0], NOBODY):
                found.add((prefix, owner))
        return found
