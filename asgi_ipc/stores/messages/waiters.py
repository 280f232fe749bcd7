"""
Who waits for messages, and at which doorbell to wake whom.  The caller holds the guard.

    bell      word 0  NEXT_BELL     all bells form a ring, headed by AT_BELLS
                   1  (previous)
                   2  TOKEN         of its doorbell: leads to the FIFO
                   3  OWNER         the process that sleeps there (presence)
                   4  NEWS          the waiter that was called last; the others follow by NEXT
                   5  WAITERS       all its waiters form a ring, too
                   6  SHARES        not 0: on a channel of its waiters somebody else may wait, too
    waiter    word 0  NEXT          the ring of those who wait for one channel; once called: the one called before
                   1  BEFORE        the previous one; once called: the one called next, 0 for the last
                   2  CHANNEL       the record of the channel, or of the inbox
                   3  BELL          the bell
                   4  CALLED        1 once it was called: it stands in the news of its bell then, not in the ring
                   5  NEXT_OF_BELL  the ring of the bell's waiters
                   6  (previous)

A waiter is good for one call.  Whoever appends a message takes the first waiter from the ring of its channel (or, if
nobody waits there, from that of its inbox) and puts it into the news of its bell: so one message calls one waiter.
The bell must be rung if there was no other news, and is rung outside of the section.  A waiter that leaves after it
was called passes the call on, if messages are left.  Waiting records are kept as long as anybody waits for them.

All of this is derived.  A recovery and a flush forget bells and waiters and move AT_ROUND, and every sleeper is rung:
he finds another round, and hangs himself up anew.
"""

from __future__ import annotations

__all__ = ["Waiters"]

from typing import Iterable, List, Optional, Tuple

from ...locking.liveness import Presence
from ...shm.layout import AT_BELLS, AT_ROUND
from ...shm.segment import Segment
from ...shm.wakeup_fifo import Doorbell, is_here, remove_bell
from ...structures import ring as rings
from ...structures.heap import Heap
from .channels import HEAD, INBOX, READY, WAITERS, WAITING, Channels

NEXT_BELL = 0
TOKEN = 2
OWNER = 3
NEWS = 4
OF_BELL = 5
SHARES = 6
BELL_WORDS = 7

NEXT = 0
BEFORE = 1
CHANNEL = 2
BELL = 3
CALLED = 4
NEXT_OF_BELL = 5
WAITER_WORDS = 7

#: Waiters of a dead process that one section takes down.
BURY_SLICE = 256
#: Called waiters that one section tells of, and waiters that one section of a look visits.
NEWS_SLICE = LOOK_SLICE = 256


class Waiters:
    """The bells and waiters of one message segment."""

    def __init__(self, segment: Segment, heap: Heap, channels: Channels, presence: Optional[Presence]) -> None:
        self.name = segment.name
        self.words = segment.words
        self.heap = heap
        self.channels = channels
        self.presence = presence
        # More waiters than this do not fit into the segment.
        self.most = segment.geometry.end // WAITER_WORDS

    # -- bells ------------------------------------------------------------------------------------------------

    def is_enlisted(self, bell: Doorbell) -> bool:
        """Whether a doorbell has a record here that is still good."""
        return bell.home is self and bell.round == self.words[AT_ROUND]

    def enlist(self, bell: Doorbell) -> bool:
        """Have a record for a doorbell of this process; False if there is no memory for it."""
        if self.is_enlisted(bell):
            return True
        record = self.heap.allocate(BELL_WORDS)
        if not record or self.presence is None:
            return False
        words = self.words
        words[record + TOKEN] = bell.token
        words[record + OWNER] = self.presence.me()
        words[record + NEWS] = words[record + OF_BELL] = words[record + SHARES] = 0
        rings.append(words, AT_BELLS, record, NEXT_BELL)
        bell.home, bell.record, bell.round = self, record, words[AT_ROUND]
        bell.life += 1
        return True

    def _bury(self, bell: int, most: int, calls: List[int]) -> None:
        """Take waiters of a bell down, ``most`` of them at the most, and the bell itself behind the last one."""
        words = self.words
        for _ in range(most):
            waiter = words[bell + OF_BELL]
            if not waiter:
                rings.remove(words, AT_BELLS, bell, NEXT_BELL)
                self.heap.free(bell)
                return
            self._end(bell, waiter, calls)

    def sweep(self, now: int) -> List[int]:
        """
        See whether one bell still has its owner, another one each time. Returns the tokens of bells to ring.

        One whose process is dead has not; nor has one of this very process that is closed, with a layer that was
        dropped (finalisers do not enter the guard) or closed.
        """
        words = self.words
        bell = words[AT_BELLS]
        calls: List[int] = []
        if bell and self.presence is not None:
            words[AT_BELLS] = words[bell + NEXT_BELL]
            owner, token = words[bell + OWNER], words[bell + TOKEN]
            if self.presence.was_dead(owner, now) or (owner == self.presence.me() and not is_here(token)):
                remove_bell(self.name, token)
                self._bury(bell, BURY_SLICE, calls)
        return calls

    def deserted(self, token: int) -> Tuple[List[int], bool]:
        """
        Nobody has the doorbell with this token open: take a slice of its waiters down.

        Returns the tokens of bells to ring, as calls were passed on, and whether that was all.
        """
        words = self.words
        calls: List[int] = []
        for bell in rings.walk(words, AT_BELLS, NEXT_BELL, self.most):
            if words[bell + TOKEN] == token:
                remove_bell(self.name, token)
                self._bury(bell, BURY_SLICE, calls)
                return calls, False
        return calls, True

    # -- waiters ----------------------------------------------------------------------------------------------

    def hang(self, bell: Doorbell, record: int) -> int:
        """Let a doorbell wait for a message in a channel: the waiter, or 0 if there is no memory for one."""
        waiter = self.heap.allocate(WAITER_WORDS) if self.enlist(bell) else 0
        if not waiter:
            return 0
        words, at_bell = self.words, bell.record
        words[waiter + CHANNEL] = record
        words[waiter + BELL] = at_bell
        words[waiter + CALLED] = 0
        first = words[record + WAITERS]
        if first:
            # If one of them is called and killed before it takes the message, the other must look by itself.
            words[words[first + BELL] + SHARES] = words[at_bell + SHARES] = 1
        elif not words[record + INBOX] and self.channels.is_inbox(record):
            words[at_bell + SHARES] = 1  # others may wait for one of its channels
        rings.append(words, record + WAITERS, waiter, NEXT)
        rings.append(words, at_bell + OF_BELL, waiter, NEXT_OF_BELL)
        words[record + WAITING] += 1
        return waiter

    def call(self, record: int) -> int:
        """Call the first waiter of a channel, which has one: the token of its bell if it must be rung, else 0."""
        tokens = self.call_each((record,))
        return tokens[0] if tokens else 0

    def call_each(self, records: Iterable[int]) -> List[int]:
        """The same with several channels that have one: the tokens of the bells that must be rung."""
        words = self.words
        tokens: List[int] = []
        for record in records:
            waiter = words[record + WAITERS]
            if not waiter:  # the channel stands there twice
                continue
            if words[waiter + CHANNEL] != record or words[waiter + CALLED]:
                raise ValueError("a channel is waited for by a waiter of another one")
            bell = words[waiter + BELL]
            if words[waiter + NEXT] == waiter:
                words[record + WAITERS] = 0
            else:
                rings.remove(words, record + WAITERS, waiter, NEXT)
            news = words[bell + NEWS]  # from here on as ``_tell`` does it, without the call
            if news:
                words[news + BEFORE] = waiter
            else:
                tokens.append(words[bell + TOKEN])
            words[waiter + CALLED] = 1
            words[waiter + NEXT], words[waiter + BEFORE] = news, 0
            words[bell + NEWS] = waiter
        return tokens

    def _tell(self, record: int, waiter: int, bell: int) -> None:
        """Move a waiter from the ring of its channel to the news of its bell."""
        words = self.words
        rings.remove(words, record + WAITERS, waiter, NEXT)
        news = words[bell + NEWS]
        words[waiter + CALLED] = 1
        words[waiter + NEXT], words[waiter + BEFORE] = news, 0
        if news:
            words[news + BEFORE] = waiter
        words[bell + NEWS] = waiter

    def news(self, bell: Doorbell) -> Optional[List[int]]:
        """
        A slice of the waiters of a doorbell that were called, the last one first, which are gone now.

        Others may be left if there are ``NEWS_SLICE`` of them. None: all waiters are gone.
        """
        if not self.is_enlisted(bell):
            return None
        words, record = self.words, bell.record
        called: List[int] = []
        waiter = words[record + NEWS]
        while waiter and len(called) < NEWS_SLICE:
            if words[waiter + BELL] != record or not words[waiter + CALLED]:
                raise ValueError("the news of a bell lead to another one's")
            called.append(waiter)
            following = words[waiter + NEXT]
            self._free(waiter)
            waiter = following
        words[record + NEWS] = waiter
        if waiter:
            words[waiter + BEFORE] = 0
        return called

    def look(self, bell: Doorbell, first: bool, most: int) -> None:
        """
        Once a second: call those waiters of a doorbell whose channels have messages, whoever was called for them.

        Looks at ``most`` of the waiters, others the next time; ``first`` begins a new look at all of them.
        """
        if not self.is_enlisted(bell):
            return
        words, record = self.words, bell.record
        if first:
            words[record + SHARES] = 0
        for _ in range(most):
            waiter = words[record + OF_BELL]
            if not waiter:
                return
            words[record + OF_BELL] = words[waiter + NEXT_OF_BELL]
            if not words[waiter + CALLED]:
                channel = words[waiter + CHANNEL]
                if words[waiter + NEXT] != waiter or self.channels.is_inbox(channel):
                    words[record + SHARES] = 1
                if words[channel + HEAD] or words[channel + READY]:
                    self._tell(channel, waiter, record)

    def shares(self, bell: Doorbell) -> bool:
        """Whether a look at the channels themselves is worth its time."""
        return not self.is_enlisted(bell) or bool(self.words[bell.record + SHARES])

    def take_down(self, bell: Doorbell, life: int, waiters: List[int]) -> List[int]:
        """
        Take waiters down that were hung in this life of a doorbell's record, and not told of in its news since.

        Returns the tokens of bells to ring.
        """
        calls: List[int] = []
        if not self.is_enlisted(bell) or bell.life != life:
            return calls
        for waiter in waiters:
            self._end(bell.record, waiter, calls)
        return calls

    def take_all_down(self, bell: Doorbell, served: int = 0) -> List[int]:
        """
        The same with every waiter of a doorbell.

        From the channel ``served`` a message was taken: one call for it, or for its inbox, is not passed on.
        """
        calls: List[int] = []
        if self.is_enlisted(bell):
            words, record = self.words, bell.record
            for _ in range(self.most):
                waiter = words[record + OF_BELL]
                if not waiter:
                    return calls
                if served and words[waiter + CALLED] and words[waiter + CHANNEL] in (served, words[served + INBOX]):
                    served = 0
                    self._withdraw(record, waiter)
                    self._free(waiter)
                else:
                    self._end(record, waiter, calls)
            raise ValueError("the waiters of a bell have no end")
        return calls

    def pass_on(self, record: int, calls: List[int]) -> None:
        """Somebody who was called for a channel has not taken a message from it: call the next one if any are left."""
        words = self.words
        inbox = words[record + INBOX]
        if words[record + HEAD] or words[record + READY]:
            if words[record + WAITERS]:
                calls.append(self.call(record))
            elif inbox and words[inbox + WAITERS]:
                calls.append(self.call(inbox))

    def _withdraw(self, bell: int, called: int) -> None:
        """Take a waiter out of the news of its bell."""
        words = self.words
        earlier, later = words[called + NEXT], words[called + BEFORE]
        link = later + NEXT if later else bell + NEWS
        if words[link] != called:
            raise ValueError("a waiter that was called is not in the news of its bell")
        words[link] = earlier
        if earlier:
            words[earlier + BEFORE] = later

    def _end(self, bell: int, waiter: int, calls: List[int]) -> None:
        """End a waiter of a bell; if it was called, pass the call on."""
        words = self.words
        record = words[waiter + CHANNEL]
        if words[waiter + BELL] != bell:
            raise ValueError("a waiter hangs on another bell than the one that leads to it")
        if words[waiter + CALLED]:
            self._withdraw(bell, waiter)
            self._free(waiter)
            self.pass_on(record, calls)
        else:
            rings.remove(words, record + WAITERS, waiter, NEXT)
            self._free(waiter)

    def _free(self, waiter: int) -> None:
        """Give back a waiter that stands in no ring of a channel any more."""
        words = self.words
        words[waiter + CALLED] = 0  # whoever comes here once more finds that out
        rings.remove(words, words[waiter + BELL] + OF_BELL, waiter, NEXT_OF_BELL)
        words[words[waiter + CHANNEL] + WAITING] -= 1
        self.heap.free(waiter)
