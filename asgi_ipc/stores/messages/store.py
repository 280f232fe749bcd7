"""
``MessageStore``: queues of messages by channel name, in a segment of its own behind a mutex of its own.

Everything that happens to a queue happens in one critical section (``queues``, ``sweep``).  This module turns refusals
into exceptions outside of it, and finds memory when it runs short.
"""

from __future__ import annotations

__all__ = ["MESSAGES", "MessageStore"]

import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ...exceptions import ChannelFull, MemoryFull, MessageTooLarge, SegmentCorrupt, SegmentGone
from ...locking.liveness import NO_OWNER, OwnedInbox, Owner
from ...locking.mutex import BusyError
from ...locking.reentrancy import NOT_INSIDE
from ...shm.layout import AT_EPOCH, AT_SEQ, KIND_MESSAGES, WORD
from ...shm.wakeup_fifo import WakeupFifo, is_open_here
from ...statistics import Figures
from ..attachment import Kind
from ..base import CriticalSections
from .inspect import Inspect
from .outcomes import Again, Enqueued
from .ownership import Ownership
from .parts import MessageParts
from .queues import Queues
from .receiving import Taken
from .records import BODY
from .recovery import MessageRecovery
from .sweep import SWEEP_PERIOD, Sweep
from .wakeups import Wakeups, notify_own

MESSAGES = Kind(KIND_MESSAGES, MessageRecovery)
#: Members that one critical section of a group send serves before it lets other processes in.
SEND_SLICE = 64


class MessageStore:
    """
    The messages of the layers with one prefix: FIFO queues of bytes by channel name.

    ``expiry`` and ``patience`` are in seconds, ``size`` and ``limit`` in bytes. Names are not checked here.
    """

    def __init__(
        self,
        prefix: str,
        size: int = 100 * 1024 * 1024,
        expiry: float = 60,
        mode: int = 0o600,
        patience: float = 10,
        limit: int | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.expiry = max(1, int(expiry * 1e9))
        self._sweep_due = 0
        fifos: weakref.WeakValueDictionary[int, WakeupFifo] = weakref.WeakValueDictionary()
        self.sections: CriticalSections[MessageParts] = CriticalSections(
            f"{prefix}-messages",
            MESSAGES,
            size,
            mode,
            patience,
            clock,
            partial(MessageParts, limit),
            partial(notify_own, fifos),
        )
        self.wakeups = Wakeups(self.sections, fifos)
        self.name = self.sections.name

    # -- sending ----------------------------------------------------------------------------------------------

    def append(self, channel: str, capacity: int, body: bytes) -> None:
        """
        Put ``body`` at the end of the channel's queue; it is there for every process when this returns.

        Raises ``ChannelFull`` when ``capacity`` messages wait already, ``MemoryFull`` when there is no memory for it,
        ``MessageTooLarge`` when there never would be. Nothing has changed then.
        """
        sections = self.sections
        now = sections.clock()
        if now >= sections.check_due:
            sections.check_name()
        mutex, parts, _ = sections.bound
        queues, targets = parts.queues, ((channel, capacity),)
        if len(body) > queues.limit:
            raise MessageTooLarge(len(body), queues.limit, channel)
        entry = NOT_INSIDE
        try:  # a copy of RobustMutex.run: two calls less on the hot path
            with mutex.lock:
                if mutex.inside is not None:
                    mutex.resolve_inside()
                entry = mutex.inside = mutex.entry
                try:
                    mutex.token(0)
                except BusyError:
                    mutex.enter()
                    now = sections.clock()  # it may have waited long
                else:
                    words, epoch = mutex.words, mutex.epoch
                    words[mutex.slot_at] = epoch  # store first
                    if words[AT_EPOCH] != epoch:  # then check
                        mutex.enter()
                refused = queues.enqueue(targets, body, now, now + self.expiry)
                if mutex.inside is entry:  # not in a child that was forked in there: it holds no token
                    words = mutex.words
                    words[AT_SEQ] += 1
                    words[mutex.slot_at] = 0
                    mutex.post()
                    mutex.inside = None
        except BaseException as error:
            mutex.abandon(entry, error)
            if not isinstance(error, SegmentGone):
                raise
            del entry  # not inside any more
            sections.attach_anew()
            refused = sections.run(Queues.enqueue, targets, body, now, now + self.expiry)
        else:
            del entry
        if refused is not None:
            self._after_append(refused, channel, capacity, body)
        if now >= self._sweep_due:
            self.sections.run_behind(partial(self._sweep, now))

    def _after_append(self, outcome: Enqueued, channel: str, capacity: int, body: bytes) -> None:
        """Notify a receiver; find memory for a message that was refused, or raise what its refusal means."""
        swept = False
        while outcome.undecided:
            now = self.sections.clock()
            if outcome.shortage:
                if swept or not self._sweep_everything(now):
                    break
                swept = True
            found = self.sections.run(Queues.enqueue, ((channel, capacity),), body, now, now + self.expiry)
            if found is None:
                return
            outcome = found
        if not (outcome.shortage or outcome.full):
            self.wakeups.notify(outcome.tokens)
            return
        now = self.sections.clock()
        if now >= self._sweep_due:  # a sender that is only ever refused sweeps, too
            self.sections.run_behind(partial(self._sweep, now))
        for full in outcome.full:
            raise ChannelFull(*full)
        memory = self.sections.run(Inspect.memory)
        raise MemoryFull(channel, self.name, *memory, outcome.shortage)

    def append_each(self, targets: Sequence[tuple[str, int]], body: bytes) -> list[str]:
        """
        Put ``body`` into the queue of each ``(channel, capacity)``, and return the channels that did not get it.

        In slices, so that other processes get in between; each slice stores the body once. FIFOs are notified behind
        the last one: receivers that woke earlier would only compete with the sender for the mutex. Raises
        ``MessageTooLarge``, and no other refusal.
        """
        limit = self.sections.parts.queues.limit
        if len(body) > limit:
            raise MessageTooLarge(len(body), limit)
        missed: list[str] = []
        tokens: set[int] = set()
        swept = False
        try:
            for first in range(0, len(targets), SEND_SLICE):
                if first:
                    self.sections.give_way()
                rest = targets[first : first + SEND_SLICE]
                while rest:
                    now = self.sections.clock()
                    outcome = self.sections.run(Queues.enqueue_each, rest, body, now, now + self.expiry)
                    if outcome is None:
                        break
                    tokens.update(outcome.tokens)
                    missed += [full.channel for full in outcome.full]
                    rest = rest[len(rest) - outcome.undecided :]
                    if rest and outcome.shortage:
                        if swept or not self._sweep_everything(now):
                            missed += [channel for channel, _ in rest]
                            break
                        swept = True
        finally:  # those of the slices that are done, too, if an error ends it
            self.wakeups.notify(tokens)
        return missed

    # -- receiving --------------------------------------------------------------------------------------------

    def pop(self, channels: Sequence[str]) -> Taken | None:
        """
        Take the oldest message of the first of these channels that has one: its full name and its body, or None.

        ``prefix!`` takes from all channels of that process in turn.
        """
        sections = self.sections
        now = sections.clock()
        if now >= sections.check_due:
            sections.check_name()
        mutex, parts, _ = sections.bound
        queues = parts.queues
        entry = NOT_INSIDE
        try:  # a copy of RobustMutex.run
            with mutex.lock:
                if mutex.inside is not None:
                    mutex.resolve_inside()
                entry = mutex.inside = mutex.entry
                try:
                    mutex.token(0)
                except BusyError:
                    mutex.enter()
                    now = sections.clock()  # it may have waited long
                else:
                    words, epoch = mutex.words, mutex.epoch
                    words[mutex.slot_at] = epoch  # store first
                    if words[AT_EPOCH] != epoch:  # then check
                        mutex.enter()
                taken = queues.dequeue(channels, now)
                if mutex.inside is entry:  # not in a child that was forked in there: it holds no token
                    words = mutex.words
                    words[AT_SEQ] += 1
                    words[mutex.slot_at] = 0
                    mutex.post()
                    mutex.inside = None
        except BaseException as error:
            mutex.abandon(entry, error)
            if not isinstance(error, SegmentGone):
                raise
            del entry  # not inside any more
            sections.attach_anew()
            taken = sections.run(Queues.dequeue, channels, now)
        else:
            del entry
        if isinstance(taken, Again):
            taken = self._pop_behind_expired(channels)
        if now >= self._sweep_due:
            self.sections.run_behind(partial(self._sweep, now))
        return taken

    def _pop_behind_expired(self, channels: Sequence[str]) -> Taken | None:
        """Go on, one critical section after the other, until the expired messages in front are gone."""
        memory = self.sections.run(Inspect.memory)
        for _ in range(memory.size // (BODY * WORD) + 1):  # more messages do not fit
            taken = self.sections.run(Queues.dequeue, channels, self.sections.clock())
            if not isinstance(taken, Again):
                return taken
        raise SegmentCorrupt(self.name, "a queue of expired messages runs in a circle; flush() makes it new")

    # -- sweeping ---------------------------------------------------------------------------------------------

    def _sweep(self, now: int) -> None:
        """Do a share of the sweeping."""
        self._sweep_due = now + SWEEP_PERIOD
        fifo = self.sections.run(Sweep.step, now)
        if fifo is not None and self._is_dead_fifo(*fifo):
            self.wakeups.unregister_dead(fifo[1])

    def _is_dead_fifo(self, owner: int, token: int) -> bool:
        """
        True if the owner of a FIFO is dead, or (NOBODY) is this process, which has closed it.

        A FIFO is closed without unregistering it when its layer was dropped: finalisers do not enter the mutex.
        """
        return bool(self.sections.opened().dead_processes([owner])) if owner else not is_open_here(token)

    def _sweep_everything(self, now: int) -> bool:
        """Sweep every bucket, in slices that let other processes in; False if that was not worth its time."""
        if not self.sections.run(Sweep.begin_full_sweep, now):
            return False
        following = self.sections.run(Sweep.sweep_slice, 0, now)
        while following:
            self.sections.give_way()
            following = self.sections.run(Sweep.sweep_slice, following, now)
        return True

    # -- owners of inboxes ------------------------------------------------------------------------------------

    def own_inbox(self, prefix: str) -> None:
        """Own the inbox ``prefix``: this process makes names in it, and receives from each alone."""
        while not self.sections.run(Ownership.own_inbox, prefix):
            pass

    def owner_of(self, channel: str) -> Owner:
        """The process that receives from a process-local channel; NOBODY if none or several are known to."""
        attachment = self.sections.opened()
        process = self.sections.run(Ownership.owner_of, channel)
        return Owner(process, attachment.segment.semaphores.nonce) if process else NO_OWNER

    def dead_owners(self, owners: Iterable[Owner]) -> set[Owner]:
        """Those owners that are proven dead. Nothing can be proven of an owner in another segment."""
        attachment = self.sections.opened()
        nonce = attachment.segment.semaphores.nonce
        dead = attachment.dead_processes(owner.process for owner in owners if owner.nonce == nonce)
        return {Owner(process, nonce) for process in dead}

    def unshared_inboxes(self, suspects: Iterable[OwnedInbox]) -> set[OwnedInbox]:
        """Of inboxes with their dead owners, those that no other process receives from."""
        return self.sections.run(Ownership.unshared, suspects)

    # -- queries ----------------------------------------------------------------------------------------------

    def has(self, channel: str) -> bool:
        """True if messages may wait in a channel (they may have expired)."""
        return self.sections.run(Inspect.has, channel)

    def figures(self, channel: str | None = None) -> Figures:
        """Figures of one channel, or of all of them together."""
        now = self.sections.clock()
        if channel is not None:
            return self.sections.run(Inspect.figures, channel, now)
        following, total = self.sections.run(Inspect.figures_slice, 0, now)
        while following:
            self.sections.give_way()
            following, more = self.sections.run(Inspect.figures_slice, following, now)
            total += more
        return total

    def snapshot(self) -> dict[str, list[bytes]]:
        """
        The store as a plain dict: the bodies that wait, in order, by channel. For debugging and tests.

        One critical section, so that it is true of one moment: all other processes wait while it is taken.
        """
        return self.sections.run(Inspect.snapshot)

    # -- the whole store --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Empty the store, for every process. Waiting receivers are woken, and register again."""
        self.sections.run(Sweep.flush)
        self.wakeups.notify_all()

    def unlink(self) -> None:
        """Remove the segment, for every process. Waiting receivers are woken, and attach anew."""
        self.sections.unlink()
        self.wakeups.notify_all()

    def close(self) -> None:
        """Give back what this process holds for the store. Closing twice is fine; any other use is an error."""
        self.sections.close()
        self.wakeups.close()
