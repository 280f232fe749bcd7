"""
``MessageStore``: queues of messages by channel name, in a separate segment with its own mutex.

Every operation on a queue is one critical section (``queues``, ``sweep``).  Outside it, this module turns refusals into
exceptions, and sweeps if there is not enough memory.
"""

from __future__ import annotations

__all__ = ["MESSAGES", "MessageStore"]

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ...clock import Quickest
from ...exceptions import ChannelFull, MemoryFull, MessageTooLarge, SegmentCorrupt, SegmentGone
from ...locking.liveness import OwnedInbox, Owner
from ...locking.mutex import BusyError
from ...locking.recovery import recoveries
from ...locking.reentrancy import NOT_INSIDE
from ...shm.layout import AT_EPOCH, AT_SEQ, KIND_MESSAGES, WORD
from ...shm.wakeup_fifo import WakeupFifo
from ...statistics import Figures
from ..attachment import Kind
from ..base import CriticalSections
from .group_send import GroupSend
from .inspect import Inspect
from .outcomes import Again, Enqueued
from .ownership import Ownership
from .parts import MessageParts
from .queues import Queues
from .receiving import Taken
from .records import BODY
from .recovery import MessageRecovery
from .renewal import notify_own, register_again
from .sweep import SWEEP_PERIOD, Sweep
from .wakeups import Wakeups

MESSAGES = Kind(KIND_MESSAGES, MessageRecovery)


class MessageStore:
    """
    The messages of the layers with one prefix: FIFO queues of bytes by channel name.

    ``expiry`` and ``patience`` are in seconds, ``size`` and ``limit`` in bytes. Names are not checked here. Without
    ``waits``, every call raises ``WouldBlock`` instead of waiting for another process, and can be repeated then.
    """

    def __init__(
        self,
        prefix: str,
        size: int = 100 * 1024 * 1024,
        expiry: float = 60,
        mode: int = 0o600,
        patience: float = 10,
        limit: int | None = None,
        clock: Callable[[], int] = Quickest.monotonic_ns,
        waits: bool = True,
    ) -> None:
        self.expiry = max(1, int(expiry * 1e9))
        self._sweep_due = 0
        #: The bucket at which a sweep of everything was interrupted, None if none was.
        self._sweep_from: int | None = None
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
            partial(register_again, fifos),
            waits,
        )
        self.wakeups = Wakeups(self.sections, fifos)
        self.name = self.sections.name

    # -- sending ----------------------------------------------------------------------------------------------

    def append(self, channel: str, capacity: int, body: bytes) -> None:
        """
        Append ``body`` to the channel's queue. When this returns, every process can receive it.

        Raises ``ChannelFull`` if ``capacity`` messages are waiting already, ``MemoryFull`` if there is no memory, and
        ``MessageTooLarge`` if the body is larger than the limit. Then nothing was appended.
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
        try:  # a copy of RobustMutex.run: saves two calls on the hot path
            with mutex.lock:
                if mutex.inside is not None:
                    mutex.resolve_inside()
                entry = mutex.inside = mutex.entry
                words = mutex.words
                words[mutex.slot_at] = mutex.intent
                try:
                    if mutex.token(0):
                        raise BusyError
                except BusyError:
                    mutex.enter(sections.waits)
                    now = sections.clock()  # it may have waited long
                else:
                    epoch = mutex.epoch
                    words[mutex.slot_at] = epoch  # store first
                    if words[AT_EPOCH] != epoch:  # then check
                        mutex.enter(sections.waits)
                refused = queues.enqueue(targets, body, now, now + self.expiry)
                if mutex.inside is entry:  # not in a child that was forked in there: it holds no token
                    words[mutex.slot_at] = mutex.intent
                    mutex.post()
                    words[AT_SEQ] = now
                    words[mutex.slot_at] = 0
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
        """Notify a receiver; or sweep to get memory and try again; or raise the exception for the refusal."""
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
        if now >= self._sweep_due:  # a sender whose messages are all refused sweeps too
            self.sections.run_behind(partial(self._sweep, now))
        for full in outcome.full:
            raise ChannelFull(*full)
        memory = self.sections.run(Inspect.memory)
        raise MemoryFull(channel, self.name, *memory, outcome.shortage)

    def append_each(self, targets: Sequence[tuple[str, int]], body: bytes) -> list[str]:
        """
        Append ``body`` to the queue of each ``(channel, capacity)``, and return the channels that did not get it.

        Raises ``MessageTooLarge``, but no other refusal.
        """
        sending = self.begin_each(targets, body)
        try:
            sending.go_on()
        finally:
            sending.notify()
        return sending.missed

    def begin_each(self, targets: Sequence[tuple[str, int]], body: bytes) -> GroupSend:
        """Return a group send that ``go_on`` performs. Raises ``MessageTooLarge``."""
        limit = self.sections.parts.queues.limit
        if len(body) > limit:
            raise MessageTooLarge(len(body), limit)
        return GroupSend(self.sections, self.wakeups, self._sweep_everything, targets, body, self.expiry)

    # -- receiving --------------------------------------------------------------------------------------------

    def pop(self, channels: Sequence[str]) -> Taken | None:
        """
        Take the oldest message of the first of these channels that has one. Returns its full name and body, or None.

        ``prefix!`` stands for all channels of that inbox, which are used in turn.
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
                words = mutex.words
                words[mutex.slot_at] = mutex.intent
                try:
                    if mutex.token(0):
                        raise BusyError
                except BusyError:
                    mutex.enter(sections.waits)
                    now = sections.clock()  # it may have waited long
                else:
                    epoch = mutex.epoch
                    words[mutex.slot_at] = epoch  # store first
                    if words[AT_EPOCH] != epoch:  # then check
                        mutex.enter(sections.waits)
                taken = queues.dequeue(channels, now)
                if mutex.inside is entry:  # not in a child that was forked in there: it holds no token
                    words[mutex.slot_at] = mutex.intent
                    mutex.post()
                    words[AT_SEQ] = now
                    words[mutex.slot_at] = 0
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
        """Continue, one critical section after the other, until the expired messages at the front are dropped."""
        memory = self.sections.run(Inspect.memory)
        for _ in range(memory.size // (BODY * WORD) + 1):  # more messages do not fit
            taken = self.sections.run(Queues.dequeue, channels, self.sections.clock())
            if not isinstance(taken, Again):
                return taken
        raise SegmentCorrupt(self.name, "a queue of expired messages forms a cycle; call flush() to empty the layer")

    # -- sweeping ---------------------------------------------------------------------------------------------

    def _sweep(self, now: int) -> None:
        self._sweep_due = now + SWEEP_PERIOD
        self.wakeups.sweep(self.sections.run(Sweep.step, now))

    def _sweep_everything(self, now: int) -> bool:
        """Sweep every bucket, in slices that let other processes in; False if this was done less than a second ago."""
        following = self._sweep_from
        if following is None:
            if not self.sections.run(Sweep.begin_full_sweep, now):
                return False
            following = 0
        while True:
            self._sweep_from = following  # where the next call goes on if an error ends this one
            following = self.sections.run(Sweep.sweep_slice, following, now)
            if not following:
                self._sweep_from = None
                return True
            self.sections.give_way()

    # -- owners of inboxes ------------------------------------------------------------------------------------

    def own_inbox(self, prefix: str) -> None:
        """Own the inbox ``prefix``: this process creates names in it, and receives from each one separately."""
        while not self.sections.run(Ownership.own_inbox, prefix):
            pass

    def owner_of(self, channel: str) -> Owner:
        """Return the process that receives from a process-local channel; NO_OWNER if none or several are known."""
        return self.sections.run(Ownership.owner_of, channel)

    def dead_owners(self, owners: Iterable[Owner]) -> set[Owner]:
        """Return the owners that are proven dead. Nothing can be proven about an owner in another segment."""
        attachment = self.sections.opened()
        nonce = attachment.segment.semaphores.nonce
        dead = attachment.dead_processes(owner.process for owner in owners if owner.nonce == nonce)
        return {Owner(process, nonce) for process in dead}

    def unshared_inboxes(self, suspects: Iterable[OwnedInbox]) -> set[OwnedInbox]:
        """Of inboxes with dead owners, return those that no other process receives from."""
        return self.sections.run(Ownership.unshared, suspects)

    # -- queries ----------------------------------------------------------------------------------------------

    def has(self, channel: str) -> bool:
        """True if a channel has messages, expired or not."""
        return self.sections.run(Inspect.has, channel)

    def figures(self, channel: str | None = None) -> Figures:
        """Return the figures of one channel, or of all channels together."""
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
        Return the store as a dict: the waiting bodies, in order, by channel. For debugging and tests.

        This is one critical section, so it shows the state at one point in time. All other processes wait for it.
        """
        return self.sections.run(Inspect.snapshot)

    def recoveries(self) -> dict[str, int]:
        """
        Return how often the segment was recovered, by cause.

        ``death``: a process ended inside the critical section; ``exception``: a call did; ``silence``: no process had
        ended, but one did not run for too long; ``semaphore``: it was removed.
        """
        return self.sections.exclusively(recoveries, self.sections.opened().segment)

    # -- the whole store --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Empty the store for every process. Waiting receivers wake up and register again."""
        self.sections.run(Sweep.flush)
        self.wakeups.notify_all()

    def unlink(self) -> None:
        """Remove the segment for every process. Waiting receivers wake up and attach to a new one."""
        self.sections.unlink()
        self.wakeups.notify_all()

    def close(self) -> None:
        """Release what this process holds for the store. May be called twice; any other use is then an error."""
        self.sections.close()
        self.wakeups.close()
