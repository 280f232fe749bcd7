"""
Wait queues: which waiters wait for a channel, and which wakeup FIFO to notify.  The caller holds the mutex.

    FIFO      word 0  NEXT_FIFO     all FIFOs form a ring, headed by AT_FIFOS
                   1  (previous)
                   2  TOKEN         in the name of the FIFO's file
                   3  OWNER         the process that waits on it (``locking.liveness``)
                   4  NOTIFIED      the notified list: the waiter that was notified last; the others follow by NEXT
                   5  OF_FIFO       all its waiters form a ring
                   6  CONTENDED     not 0: another waiter may wait for the same channel as one of its waiters
    waiter    word 0  NEXT          the ring of the waiters of one channel; once notified: the one notified before
                   1  BEFORE        the previous one; once notified: the one notified next, 0 for the last
                   2  CHANNEL       the record of the channel, or of the inbox
                   3  FIFO          the FIFO
                   4  IS_NOTIFIED   1 once it was notified: then it is in the notified list, no longer in the ring
                   5  NEXT_OF_FIFO  the ring of the FIFO's waiters
                   6  (previous)

A waiter is notified once.  Appending a message takes the first waiter from the ring of the channel (or, if there is
none, from that of its inbox) and puts it into the notified list of its FIFO: one message notifies one waiter.  If that
list was empty, the FIFO is notified, outside the critical section.  If a waiter leaves after it was notified, the next
one is notified, if messages are left.  Records of channels are kept while they have waiters.

All of this is derived.  A recovery and a flush drop FIFOs and waiters, increment AT_WAIT_GENERATION and notify every
FIFO.  A receiver that waits on it finds another wait generation and registers again.
"""

from __future__ import annotations

__all__ = ["Waiters"]

from collections.abc import Iterable, Sequence

from ...locking.liveness import NOBODY, Liveness
from ...shm.fifo_directory import remove_fifo
from ...shm.layout import AT_FIFOS, AT_WAIT_GENERATION
from ...shm.segment import Segment
from ...shm.wakeup_fifo import WakeupFifo
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

#: The number of waiters of a dead process that one critical section unregisters.
UNREGISTER_SLICE = 256
#: The number of notified waiters that one critical section takes, and of waiters that one of a poll visits.
NOTIFIED_SLICE = POLL_SLICE = 256


class Waiters:
    """The FIFOs and waiters of one message segment."""

    def __init__(self, segment: Segment, heap: Heap, channels: Channels, liveness: Liveness) -> None:
        self.name = segment.name
        self.words = segment.words
        self.heap = heap
        self.channels = channels
        self.liveness = liveness
        # More waiters than this do not fit into the segment.
        self.most = segment.geometry.end // WAITER_WORDS

    # -- FIFOs ------------------------------------------------------------------------------------------------

    def is_fifo_registered(self, fifo: WakeupFifo) -> bool:
        """
        True if a FIFO has a record here that is still valid.

        A process that has taken this one for dead may have freed the record.
        """
        words = self.words
        return (
            fifo.home is self
            and fifo.wait_generation == words[AT_WAIT_GENERATION]
            and bool(words[fifo.record + TOKEN] == fifo.token)
        )

    def register_fifo(self, fifo: WakeupFifo) -> bool:
        """Make a record for a FIFO of this process if it has none; False if there is no memory for it."""
        if self.is_fifo_registered(fifo):
            return True
        record = self.heap.allocate(FIFO_WORDS)
        if not record:
            return False
        words = self.words
        words[record + TOKEN] = fifo.token
        words[record + OWNER] = self.liveness.me()
        words[record + NOTIFIED] = words[record + OF_FIFO] = words[record + CONTENDED] = 0
        ring.append(words, AT_FIFOS, record, NEXT_FIFO)
        fifo.home, fifo.record, fifo.wait_generation = self, record, words[AT_WAIT_GENERATION]
        fifo.registration += 1
        return True

    def has_waiters(self, fifo: WakeupFifo) -> bool:
        """True if a FIFO most likely has waiters. This needs no mutex and never raises: it is for finalisers."""
        try:
            return self.is_fifo_registered(fifo) and bool(self.words[fifo.record + OF_FIFO])
        except (ValueError, IndexError):  # the segment was closed
            return False

    def next_fifo(self) -> tuple[int, int] | None:
        """Return the owner (NOBODY: this process) and token of one FIFO, each time the next one; None without FIFOs."""
        words = self.words
        fifo = words[AT_FIFOS]
        if not fifo:
            return None
        words[AT_FIFOS] = words[fifo + NEXT_FIFO]
        owner = words[fifo + OWNER]
        return (NOBODY if owner == self.liveness.me() else owner), words[fifo + TOKEN]

    def unregister_dead(self, token: int) -> tuple[list[int], bool]:
        """Remove a FIFO that no process has open, and do the same as ``unregister_fifo``."""
        remove_fifo(self.name, token)
        return self.unregister_fifo(token)

    def unregister_fifo(self, token: int) -> tuple[list[int], bool]:
        """
        Unregister a slice of the waiters of a FIFO, and after the last one the FIFO.

        Returns the tokens of FIFOs to notify, as notifications were passed on, and True if nothing was left to do.
        """
        words = self.words
        tokens: list[int] = []
        for fifo in ring.walk(words, AT_FIFOS, NEXT_FIFO, self.most):
            if words[fifo + TOKEN] == token:
                for _ in range(UNREGISTER_SLICE):
                    waiter = words[fifo + OF_FIFO]
                    if not waiter:
                        ring.remove(words, AT_FIFOS, fifo, NEXT_FIFO)
                        words[fifo + TOKEN] = 0  # its owner may be alive and refer to the record
                        self.heap.free(fifo)
                        break
                    self._unregister_one(fifo, waiter, tokens)
                return tokens, False
        return tokens, True

    # -- waiters ----------------------------------------------------------------------------------------------

    def register(self, fifo: WakeupFifo, record: int) -> int:
        """Register a FIFO for a message in a channel. Returns the waiter, or 0 if there is no memory for one."""
        waiter = self.heap.allocate(WAITER_WORDS) if self.register_fifo(fifo) else 0
        if not waiter:
            return 0
        words, at_fifo = self.words, fifo.record
        words[waiter + CHANNEL] = record
        words[waiter + FIFO] = at_fifo
        words[waiter + IS_NOTIFIED] = 0
        first = words[record + WAITERS]
        if first:
            # If one of them is notified and killed before it takes the message, the other must find it by polling.
            words[words[first + FIFO] + CONTENDED] = words[at_fifo + CONTENDED] = 1
        elif not words[record + INBOX] and self.channels.is_inbox(record):
            words[at_fifo + CONTENDED] = 1  # others may wait for one of its channels
        ring.append(words, record + WAITERS, waiter, NEXT)
        ring.append(words, at_fifo + OF_FIFO, waiter, NEXT_OF_FIFO)
        words[record + WAITING] += 1
        return waiter

    def notify_each(self, records: Iterable[int]) -> list[int]:
        """Notify a waiter for each of these channels, if one is left. Returns the tokens of FIFOs to notify."""
        words = self.words
        tokens: list[int] = []
        for record in records:
            waiter = words[record + WAITERS]
            if not waiter:  # the channel is in ``records`` more often than it has waiters
                continue
            if words[waiter + CHANNEL] != record or words[waiter + IS_NOTIFIED]:
                raise ValueError("a waiter of another channel is in the ring of a channel")
            if words[waiter + NEXT] == waiter:  # the only one, which is the usual case
                words[record + WAITERS] = 0
            else:
                ring.remove(words, record + WAITERS, waiter, NEXT)
            fifo = words[waiter + FIFO]
            newest = words[fifo + NOTIFIED]
            if newest:
                words[newest + BEFORE] = waiter
            else:
                tokens.append(words[fifo + TOKEN])
            words[waiter + IS_NOTIFIED] = 1
            words[waiter + NEXT], words[waiter + BEFORE] = newest, 0
            words[fifo + NOTIFIED] = waiter
        return tokens

    def take_notified(self, fifo: WakeupFifo) -> list[int] | None:
        """
        Remove and return a slice of the notified waiters of a FIFO, the last one first.

        More may be left if it returns ``NOTIFIED_SLICE`` of them. None: the FIFO is not registered any more.
        """
        if not self.is_fifo_registered(fifo):
            return None
        words, record = self.words, fifo.record
        notified: list[int] = []
        waiter = words[record + NOTIFIED]
        while waiter and len(notified) < NOTIFIED_SLICE:
            if words[waiter + FIFO] != record or not words[waiter + IS_NOTIFIED]:
                raise ValueError("the notified list of a FIFO leads to the waiter of another one")
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
        Notify the waiters of a FIFO whose channels have messages, even if other waiters were notified of these.

        Visits at most ``most`` waiters. The next call visits the following ones; ``first`` begins a new round.
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
                    words[channel + WAITERS] = waiter  # the ring begins with it
                    self.notify_each((channel,))

    def is_contended(self, fifo: WakeupFifo) -> bool:
        """True if a poll must also check the channels of the waiters."""
        return not self.is_fifo_registered(fifo) or bool(self.words[fifo.record + CONTENDED])

    # -- leaving ----------------------------------------------------------------------------------------------

    def unregister(self, fifo: WakeupFifo, registration: int, waiters: Sequence[int]) -> list[int]:
        """
        Unregister waiters of this registration of a FIFO, which ``take_notified`` must not have returned.

        Returns the tokens of FIFOs to notify.
        """
        tokens: list[int] = []
        if self.is_fifo_registered(fifo) and fifo.registration == registration:
            for waiter in waiters:
                self._unregister_one(fifo.record, waiter, tokens)
        return tokens

    def unregister_all(self, fifo: WakeupFifo, served: int = 0) -> list[int]:
        """
        Unregister every waiter of a FIFO. Returns the tokens of FIFOs to notify.

        One notification for the channel ``served``, or for its inbox, is not passed on: its message was taken.
        """
        tokens: list[int] = []
        if not self.is_fifo_registered(fifo):
            return tokens
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
                self._unregister_one(record, waiter, tokens)
        raise ValueError("the ring of waiters of a FIFO does not close")

    def pass_on(self, record: int, tokens: list[int]) -> None:
        """Notify the next waiter if messages are left, because a notified waiter has not taken one."""
        words = self.words
        inbox = words[record + INBOX]
        if words[record + HEAD] or words[record + READY]:
            if words[record + WAITERS]:
                tokens += self.notify_each((record,))
            elif inbox and words[inbox + WAITERS]:
                tokens += self.notify_each((inbox,))

    def _remove_notified(self, fifo: int, waiter: int) -> None:
        """Remove a waiter from the notified list of its FIFO."""
        words = self.words
        earlier, later = words[waiter + NEXT], words[waiter + BEFORE]
        link = later + NEXT if later else fifo + NOTIFIED
        if words[link] != waiter:
            raise ValueError("a waiter that was notified is not in the notified list of its FIFO")
        words[link] = earlier
        if earlier:
            words[earlier + BEFORE] = later

    def _unregister_one(self, fifo: int, waiter: int, tokens: list[int]) -> None:
        """Unregister a waiter of a FIFO. If it was notified, pass the notification on."""
        words = self.words
        record = words[waiter + CHANNEL]
        if words[waiter + FIFO] != fifo:
            raise ValueError("a waiter is in the ring of another FIFO")
        if words[waiter + IS_NOTIFIED]:
            self._remove_notified(fifo, waiter)
            self._free(waiter)
            self.pass_on(record, tokens)
        else:
            ring.remove(words, record + WAITERS, waiter, NEXT)
            self._free(waiter)

    def _free(self, waiter: int) -> None:
        """Free a waiter that is no longer in the ring of a channel."""
        words = self.words
        words[waiter + IS_NOTIFIED] = 0  # so that a second link to it is detected
        ring.remove(words, words[waiter + FIFO] + OF_FIFO, waiter, NEXT_OF_FIFO)
        words[words[waiter + CHANNEL] + WAITING] -= 1
        self.heap.free(waiter)
