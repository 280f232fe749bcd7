"""
Who waits for messages, and at which wakeup FIFO to wake whom.  The caller holds the mutex.

    FIFO      word 0  NEXT_FIFO     all FIFOs form a ring, headed by AT_FIFOS
                   1  (previous)
                   2  TOKEN         of its wakeup FIFO: leads to the FIFO
                   3  OWNER         the process that sleeps there (presence)
                   4  NOTIFIED          the waiter that was called last; the others follow by NEXT
                   5  WAITERS       all its waiters form a ring, too
                   6  CONTENDED        not 0: on a channel of its waiters somebody else may wait, too
    waiter    word 0  NEXT          the ring of those who wait for one channel; once called: the one called before
                   1  BEFORE        the previous one; once called: the one called next, 0 for the last
                   2  CHANNEL       the record of the channel, or of the inbox
                   3  FIFO          the FIFO
                   4  IS_NOTIFIED        1 once it was called: it stands in the news of its FIFO then, not in the ring
                   5  NEXT_OF_FIFO  the ring of the FIFO's waiters
                   6  (previous)

A waiter is good for one call.  Whoever appends a message takes the first waiter from the ring of its channel (or, if
nobody waits there, from that of its inbox) and puts it into the news of its FIFO: so one message calls one waiter.
The FIFO must be rung if there was no other news, and is rung outside of the section.  A waiter that leaves after it
was called passes the call on, if messages are left.  Waiting records are kept as long as anybody waits for them.

All of this is derived.  A recovery and a flush forget FIFOs and waiters, move AT_WAIT_GENERATION and notify every
FIFO: whoever sleeps there finds another wait generation, and registers again.
"""

from __future__ import annotations

__all__ = ["Waiters"]

from typing import Iterable, List, Optional, Tuple

from ...locking.liveness import Liveness
from ...shm.layout import AT_FIFOS, AT_WAIT_GENERATION
from ...shm.segment import Segment
from ...shm.wakeup_fifo import WakeupFifo, is_open_here, remove_fifo
from ...structures import ring
from ...structures.heap import Heap
from .channels import HEAD, INBOX, READY, WAITERS, WAITING, Channels

NEXT_FIFO = 0
TOKEN = 2
OWNER = 3
NOTIFIED = 4
OF_FIFO = 5
CONTENDED = 6
FIFO_WORDS = 7

NEXT = 0
BEFORE = 1
CHANNEL = 2
FIFO = 3
IS_NOTIFIED = 4
NEXT_OF_FIFO = 5
WAITER_WORDS = 7

#: Waiters of a dead process that one section takes down.
UNREGISTER_SLICE = 256
#: Called waiters that one section tells of, and waiters that one section of a look visits.
NOTIFIED_SLICE = POLL_SLICE = 256


class Waiters:
    """The FIFOs and waiters of one message segment."""

    def __init__(self, segment: Segment, heap: Heap, channels: Channels, liveness: Optional[Liveness]) -> None:
        self.name = segment.name
        self.words = segment.words
        self.heap = heap
        self.channels = channels
        self.liveness = liveness
        # More waiters than this do not fit into the segment.
        self.most = segment.geometry.end // WAITER_WORDS

    # -- FIFOs ------------------------------------------------------------------------------------------------

    def is_fifo_registered(self, fifo: WakeupFifo) -> bool:
        """Whether a wakeup FIFO has a record here that is still good."""
        return fifo.home is self and fifo.wait_generation == self.words[AT_WAIT_GENERATION]

    def register_fifo(self, fifo: WakeupFifo) -> bool:
        """Have a record for a wakeup FIFO of this process; False if there is no memory for it."""
        if self.is_fifo_registered(fifo):
            return True
        record = self.heap.allocate(FIFO_WORDS)
        if not record or self.liveness is None:
            return False
        words = self.words
        words[record + TOKEN] = fifo.token
        words[record + OWNER] = self.liveness.me()
        words[record + NOTIFIED] = words[record + OF_FIFO] = words[record + CONTENDED] = 0
        ring.append(words, AT_FIFOS, record, NEXT_FIFO)
        fifo.home, fifo.record, fifo.wait_generation = self, record, words[AT_WAIT_GENERATION]
        fifo.registration += 1
        return True

    def _unregister_slice(self, fifo: int, most: int, tokens: List[int]) -> None:
        """Take waiters of a FIFO down, ``most`` of them at the most, and the FIFO itself behind the last one."""
        words = self.words
        for _ in range(most):
            waiter = words[fifo + OF_FIFO]
            if not waiter:
                ring.remove(words, AT_FIFOS, fifo, NEXT_FIFO)
                self.heap.free(fifo)
                return
            self._end_waiter(fifo, waiter, tokens)

    def sweep(self, now: int) -> List[int]:
        """
        See whether one FIFO still has its owner, another one each time. Returns the tokens of FIFOs to ring.

        One whose process is dead has not; nor has one of this very process that is closed, with a layer that was
        dropped (finalisers do not enter the mutex) or closed.
        """
        words = self.words
        fifo = words[AT_FIFOS]
        tokens: List[int] = []
        if fifo and self.liveness is not None:
            words[AT_FIFOS] = words[fifo + NEXT_FIFO]
            owner, token = words[fifo + OWNER], words[fifo + TOKEN]
            if self.liveness.was_dead(owner, now) or (owner == self.liveness.me() and not is_open_here(token)):
                remove_fifo(self.name, token)
                self._unregister_slice(fifo, UNREGISTER_SLICE, tokens)
        return tokens

    def abandoned_slice(self, token: int) -> Tuple[List[int], bool]:
        """
        Nobody has the wakeup FIFO with this token open: take a slice of its waiters down.

        Returns the tokens of FIFOs to ring, as calls were passed on, and whether that was all.
        """
        words = self.words
        tokens: List[int] = []
        for fifo in ring.walk(words, AT_FIFOS, NEXT_FIFO, self.most):
            if words[fifo + TOKEN] == token:
                remove_fifo(self.name, token)
                self._unregister_slice(fifo, UNREGISTER_SLICE, tokens)
                return tokens, False
        return tokens, True

    # -- waiters ----------------------------------------------------------------------------------------------

    def register(self, fifo: WakeupFifo, record: int) -> int:
        """Let a wakeup FIFO wait for a message in a channel: the waiter, or 0 if there is no memory for one."""
        waiter = self.heap.allocate(WAITER_WORDS) if self.register_fifo(fifo) else 0
        if not waiter:
            return 0
        words, at_fifo = self.words, fifo.record
        words[waiter + CHANNEL] = record
        words[waiter + FIFO] = at_fifo
        words[waiter + IS_NOTIFIED] = 0
        first = words[record + WAITERS]
        if first:
            # If one of them is called and killed before it takes the message, the other must look by itself.
            words[words[first + FIFO] + CONTENDED] = words[at_fifo + CONTENDED] = 1
        elif not words[record + INBOX] and self.channels.is_inbox(record):
            words[at_fifo + CONTENDED] = 1  # others may wait for one of its channels
        ring.append(words, record + WAITERS, waiter, NEXT)
        ring.append(words, at_fifo + OF_FIFO, waiter, NEXT_OF_FIFO)
        words[record + WAITING] += 1
        return waiter

    def notify(self, record: int) -> int:
        """Call the first waiter of a channel, which has one: the token of its FIFO if it must be rung, else 0."""
        tokens = self.notify_each((record,))
        return tokens[0] if tokens else 0

    def notify_each(self, records: Iterable[int]) -> List[int]:
        """The same with several channels that have one: the tokens of the FIFOs that must be rung."""
        words = self.words
        tokens: List[int] = []
        for record in records:
            waiter = words[record + WAITERS]
            if not waiter:  # the channel stands there twice
                continue
            if words[waiter + CHANNEL] != record or words[waiter + IS_NOTIFIED]:
                raise ValueError("a channel is waited for by a waiter of another one")
            fifo = words[waiter + FIFO]
            if words[waiter + NEXT] == waiter:
                words[record + WAITERS] = 0
            else:
                ring.remove(words, record + WAITERS, waiter, NEXT)
            take_notified = words[fifo + NOTIFIED]  # from here on as ``_move_to_notified`` does it, without the call
            if take_notified:
                words[take_notified + BEFORE] = waiter
            else:
                tokens.append(words[fifo + TOKEN])
            words[waiter + IS_NOTIFIED] = 1
            words[waiter + NEXT], words[waiter + BEFORE] = take_notified, 0
            words[fifo + NOTIFIED] = waiter
        return tokens

    def _move_to_notified(self, record: int, waiter: int, fifo: int) -> None:
        """Move a waiter from the ring of its channel to the news of its FIFO."""
        words = self.words
        ring.remove(words, record + WAITERS, waiter, NEXT)
        take_notified = words[fifo + NOTIFIED]
        words[waiter + IS_NOTIFIED] = 1
        words[waiter + NEXT], words[waiter + BEFORE] = take_notified, 0
        if take_notified:
            words[take_notified + BEFORE] = waiter
        words[fifo + NOTIFIED] = waiter

    def take_notified(self, fifo: WakeupFifo) -> Optional[List[int]]:
        """
        A slice of the waiters of a wakeup FIFO that were called, the last one first, which are gone now.

        Others may be left if there are ``NOTIFIED_SLICE`` of them. None: all waiters are gone.
        """
        if not self.is_fifo_registered(fifo):
            return None
        words, record = self.words, fifo.record
        notified: List[int] = []
        waiter = words[record + NOTIFIED]
        while waiter and len(notified) < NOTIFIED_SLICE:
            if words[waiter + FIFO] != record or not words[waiter + IS_NOTIFIED]:
                raise ValueError("the news of a FIFO lead to another one's")
            notified.append(waiter)
            following = words[waiter + NEXT]
            self._free(waiter)
            waiter = following
        words[record + NOTIFIED] = waiter
        if waiter:
            words[waiter + BEFORE] = 0
        return notified

    def poll(self, fifo: WakeupFifo, first: bool, most: int) -> None:
        """
        Once a second: call those waiters of a wakeup FIFO whose channels have messages, whoever was called for them.

        Looks at ``most`` of the waiters, others the next time; ``first`` begins a new look at all of them.
        """
        if not self.is_fifo_registered(fifo):
            return
        words, record = self.words, fifo.record
        if first:
            words[record + CONTENDED] = 0
        for _ in range(most):
            waiter = words[record + OF_FIFO]
            if not waiter:
                return
            words[record + OF_FIFO] = words[waiter + NEXT_OF_FIFO]
            if not words[waiter + IS_NOTIFIED]:
                channel = words[waiter + CHANNEL]
                if words[waiter + NEXT] != waiter or self.channels.is_inbox(channel):
                    words[record + CONTENDED] = 1
                if words[channel + HEAD] or words[channel + READY]:
                    self._move_to_notified(channel, waiter, record)

    def is_contended(self, fifo: WakeupFifo) -> bool:
        """Whether a look at the channels themselves is worth its time."""
        return not self.is_fifo_registered(fifo) or bool(self.words[fifo.record + CONTENDED])

    def unregister(self, fifo: WakeupFifo, registration: int, waiters: List[int]) -> List[int]:
        """
        Take waiters down that were hung in this life of a wakeup FIFO's record, and not told of in its news since.

        Returns the tokens of FIFOs to ring.
        """
        tokens: List[int] = []
        if not self.is_fifo_registered(fifo) or fifo.registration != registration:
            return tokens
        for waiter in waiters:
            self._end_waiter(fifo.record, waiter, tokens)
        return tokens

    def unregister_all(self, fifo: WakeupFifo, served: int = 0) -> List[int]:
        """
        The same with every waiter of a wakeup FIFO.

        From the channel ``served`` a message was taken: one call for it, or for its inbox, is not passed on.
        """
        tokens: List[int] = []
        if self.is_fifo_registered(fifo):
            words, record = self.words, fifo.record
            for _ in range(self.most):
                waiter = words[record + OF_FIFO]
                if not waiter:
                    return tokens
                channel = words[waiter + CHANNEL]
                if served and words[waiter + IS_NOTIFIED] and channel in (served, words[served + INBOX]):
                    served = 0
                    self._remove_notified(record, waiter)
                    self._free(waiter)
                else:
                    self._end_waiter(record, waiter, tokens)
            raise ValueError("the waiters of a FIFO have no end")
        return tokens

    def pass_on(self, record: int, tokens: List[int]) -> None:
        """Somebody who was called for a channel has not taken a message from it: call the next one if any are left."""
        words = self.words
        inbox = words[record + INBOX]
        if words[record + HEAD] or words[record + READY]:
            if words[record + WAITERS]:
                tokens.append(self.notify(record))
            elif inbox and words[inbox + WAITERS]:
                tokens.append(self.notify(inbox))

    def _remove_notified(self, fifo: int, notified: int) -> None:
        """Take a waiter out of the news of its FIFO."""
        words = self.words
        earlier, later = words[notified + NEXT], words[notified + BEFORE]
        link = later + NEXT if later else fifo + NOTIFIED
        if words[link] != notified:
            raise ValueError("a waiter that was called is not in the news of its FIFO")
        words[link] = earlier
        if earlier:
            words[earlier + BEFORE] = later

    def _end_waiter(self, fifo: int, waiter: int, tokens: List[int]) -> None:
        """End a waiter of a FIFO; if it was called, pass the call on."""
        words = self.words
        record = words[waiter + CHANNEL]
        if words[waiter + FIFO] != fifo:
            raise ValueError("a waiter hangs on another FIFO than the one that leads to it")
        if words[waiter + IS_NOTIFIED]:
            self._remove_notified(fifo, waiter)
            self._free(waiter)
            self.pass_on(record, tokens)
        else:
            ring.remove(words, record + WAITERS, waiter, NEXT)
            self._free(waiter)

    def _free(self, waiter: int) -> None:
        """Give back a waiter that stands in no ring of a channel any more."""
        words = self.words
        words[waiter + IS_NOTIFIED] = 0  # whoever comes here once more finds that out
        ring.remove(words, words[waiter + FIFO] + OF_FIFO, waiter, NEXT_OF_FIFO)
        words[words[waiter + CHANNEL] + WAITING] -= 1
        self.heap.free(waiter)
