"""
Wakeups: the FIFOs of this process's waiting receivers, and the notification of those of other processes.

Nothing here sleeps: a critical section takes a message or registers waiters, and the caller waits on its FIFO
(``waiting``).  FIFOs of other processes are notified outside the critical sections.  A notification is a hint: a
receiver that wakes always checks its queue again.
"""

from __future__ import annotations

__all__ = ["Wakeups"]

import contextlib
import logging
import os
import weakref
from collections import deque
from collections.abc import Iterable, Sequence

from ...clock import Quickest
from ...exceptions import SegmentError
from ...locking.contention import WouldBlock
from ...shm.fifo_directory import CHECKED, sweep_fifos
from ...shm.semaphores import sweep_unfinished
from ...shm.wakeup_fifo import WakeupFifo, is_open_here, live_fifos, notify_all
from ..base import STORE_ERRORS, CriticalSections, is_store_error
from .channels import READY
from .outcomes import Again, Swept
from .own_fifo import OwnFifo, remove_dropped
from .parts import MessageParts
from .receiving import Receiving, Registered, Taken
from .waiters import NOTIFIED_SLICE, POLL_SLICE, Waiters

logger = logging.getLogger("asgi_ipc")

#: ns for which a receiver spins before it sleeps: at most as long as a wake-up takes. On a single core, no process
#: could send during that time.
SPIN_NS = 50_000 if (os.cpu_count() or 1) > 1 else 0
#: The most looks at the queues during that time. Each takes longer than 25 ns, so the time is over before.
MOST_LOOKS = SPIN_NS // 25
#: The most receives in a row that skip spinning because it was not successful.
MOST_SKIPPED = 255
#: The most unused FIFOs that are kept for later receives.
IDLE_FIFOS = 64

_wakeups: weakref.WeakSet[Wakeups] = weakref.WeakSet()


class Wakeups:
    """
    The FIFOs of one message store in this process. ``fifos`` has all of them, by token.
    """

    def __init__(
        self, sections: CriticalSections[MessageParts], fifos: weakref.WeakValueDictionary[int, WakeupFifo]
    ) -> None:
        self._sections = sections
        self._fifos = fifos
        self._forget()
        _wakeups.add(self)

    def _forget(self) -> None:
        """Have no FIFOs: this is a new object, or a forked child, whose parent waits on them."""
        self._idle: list[OwnFifo] = []
        #: How many receives will skip spinning, and how many have already skipped it.
        self._skip = self._skipped = 0
        self._fifos.clear()
        #: The tokens of FIFOs that were garbage-collected with waiters, such as those of event loops that were dropped.
        self._dropped: deque[int] = deque()

    # -- FIFOs of this process --------------------------------------------------------------------------------

    def new_fifo(self) -> OwnFifo:
        """Return a new FIFO, for ``give_back`` or ``dismiss`` to release. Raises ``SegmentRefused`` and ``OSError``."""
        segment = self._sections.opened().segment
        fifo = OwnFifo(segment.name, segment.mode, segment.semaphores.group, self._dropped)
        self._fifos[fifo.token] = fifo
        return fifo

    def take_fifo(self) -> OwnFifo:
        """Return a FIFO that was given back, or a new one."""
        self.unregister_dropped()
        while self._idle:
            try:
                fifo = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if not fifo.is_unlinked():
                return fifo
            self.dismiss(fifo)
        return self.new_fifo()

    def give_back(self, fifo: OwnFifo, is_registered: bool) -> None:
        """
        Give back a FIFO; ``is_registered`` if it may have waiters.

        If these cannot be unregistered now, it is closed, and a sweep unregisters them. So no error replaces the one
        that ended the wait.
        """
        if is_registered:
            try:
                self.unregister_all(fifo)
            except STORE_ERRORS as error:
                fifo.drop()
                if not is_store_error(error):
                    raise
        if fifo.fd < 0 or len(self._idle) >= IDLE_FIFOS:
            fifo.close()
        else:
            self._idle.append(fifo)
        if self._sections.attachment is None:
            self._close_idle()

    def dismiss(self, fifo: OwnFifo) -> None:
        """Close a FIFO permanently, and unregister its waiters. Never raises ``SegmentError`` or ``WouldBlock``."""
        fifo.drop()
        if self._sections.attachment is None:
            return
        try:
            self.unregister_dead(fifo.token)
        except (SegmentError, RuntimeError, WouldBlock):  # then ``unregister_dropped`` or a sender does it
            return
        with contextlib.suppress(ValueError):
            self._dropped.remove(fifo.token)
        remove_dropped(fifo.token)

    def unregister_dropped(self) -> None:
        """
        Unregister the waiters of FIFOs that were closed without that.

        If this is not possible now, it is done later, here or by a sender that finds that no process has the FIFO open.
        """
        while self._dropped:
            try:
                token = self._dropped.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                self.unregister_dead(token)
            except BaseException as error:
                self._dropped.appendleft(token)
                if not isinstance(error, WouldBlock):
                    raise
                return
            remove_dropped(token)

    def close(self) -> None:
        """Wake the receivers that still wait. They raise an error, because the layer is closed."""
        self._close_idle()
        for fifo in live_fifos(self._fifos):
            fifo.notify()
            fifo.remove_name()  # its receiver may not run again

    def _close_idle(self) -> None:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._idle.pop().close()

    # -- notifying --------------------------------------------------------------------------------------------

    def notify(self, tokens: Iterable[int]) -> None:
        """
        Notify FIFOs by their tokens, outside all critical sections. Unregisters those that no process has open.

        Never fails, because the message is already sent. If unregistering fails, a sweep does it later.
        """
        pending = list(tokens)
        while pending:
            attachment, token = self._sections.attachment, pending.pop()
            if attachment is not None and not attachment.notifier.notify(token):
                try:
                    self._unregister_dead(token, pending)
                except WouldBlock:
                    pass
                except STORE_ERRORS as error:
                    if not is_store_error(error):
                        raise
                    logger.warning(
                        "%s: unregistering the FIFO of a dead process failed: %s", self._sections.name, error
                    )

    def notify_all(self) -> None:
        """Notify every FIFO of the store, of all processes."""
        attachment = self._sections.attachment
        if attachment is not None:
            notify_all(attachment.notifier)

    def unregister_dead(self, token: int) -> None:
        """Unregister a FIFO that no process has open, and pass on the notifications of its waiters."""
        found: list[int] = []
        try:
            self._unregister_dead(token, found)
        finally:
            self.notify(found)

    def _unregister_dead(self, token: int, found: list[int]) -> None:
        """Do the same, but only add to ``found`` the tokens of the FIFOs to notify."""
        done = False
        while not done:
            tokens, done = self._sections.run(Waiters.unregister_dead, token)
            found += tokens

    # -- sweeping ---------------------------------------------------------------------------------------------

    def sweep(self, swept: Swept) -> None:
        """Do what a sweep has left to do outside the mutex."""
        if swept.fifo is not None and self._is_dead_fifo(*swept.fifo):
            self.unregister_dead(swept.fifo[1])
        if swept.files:
            self.sweep_files()

    def _is_dead_fifo(self, owner: int, token: int) -> bool:
        """
        True if the owner of a FIFO is dead, or if it is this process (NOBODY) and has closed the FIFO.

        When a layer is garbage-collected, its FIFOs are closed but stay registered: finalisers do not enter the mutex.
        """
        return bool(self._sections.opened().dead_processes([owner])) if owner else not is_open_here(token)

    def sweep_files(self) -> None:
        """
        Remove files that dead processes left and that are registered nowhere. Checks a limited number.

        The process was killed before it registered its FIFO, or while it created a semaphore; or its FIFO could not be
        notified when a recovery dropped the registrations.
        """
        segment = self._sections.opened().segment
        sweep_fifos(segment.name, segment.mode, CHECKED)
        sweep_unfinished()

    # -- waiting ----------------------------------------------------------------------------------------------

    def spin(self, channels: Sequence[str]) -> None:
        """
        Watch the queues of some channels for a short time, because a message may arrive: this is faster than a wake-up.

        It does not take the mutex, which would delay senders. So what it sees is only a hint and may be wrong. Each
        time that no message arrives, more of the following receives skip this.
        """
        if self._skipped < self._skip:
            self._skipped += 1
            return
        queues = self._sections.parts.queues
        words = queues.words
        heads = []
        for channel in channels:
            place = queues.places.get(channel)
            if place is not None:
                heads.append(place.record + READY if place.inbox == place.record else place.head_at)
        monotonic_ns = Quickest.monotonic_ns
        until = monotonic_ns() + SPIN_NS
        try:
            for _ in range(MOST_LOOKS if heads else 0):
                if monotonic_ns() >= until:
                    break
                for at in heads:
                    if words[at]:
                        self._skip = 0
                        return
        except (ValueError, IndexError):  # another thread has closed the segment
            return
        self._skip, self._skipped = min(2 * self._skip + 1, MOST_SKIPPED), 0

    def pop_or_register(self, channels: Sequence[str], fifo: OwnFifo) -> Taken | Registered:
        """Take a message from one of the channels, or register a waiter for each of them with a FIFO."""
        sections = self._sections
        while True:
            outcome = sections.run(Receiving.pop_or_register, channels, fifo, sections.clock())
            if not isinstance(outcome, Again):
                return outcome

    def pop_again(self, channels: Sequence[str], fifo: OwnFifo) -> Taken | Registered:
        """
        Take a message from one of the channels, or register waiters for exactly these channels.

        For a FIFO that has only one receiver. A notification that the receiver does not use is passed on.
        """
        sections = self._sections
        while True:
            tokens, outcome = sections.run(Receiving.pop_again, channels, fifo, sections.clock())
            self.notify(tokens)
            if not isinstance(outcome, Again):
                return outcome

    def unregister_all(self, fifo: OwnFifo) -> None:
        """Unregister all waiters of a FIFO, and pass on their notifications."""
        self.notify(self._sections.run(Waiters.unregister_all, fifo))

    def cancel(
        self, fifo: OwnFifo, registration: int, waiters: Sequence[int], notified_for: Sequence[str] = ()
    ) -> None:
        """Unregister waiters of this registration of a FIFO, and pass on the notifications of these channels."""
        self.notify(self._sections.run(Receiving.cancel, fifo, registration, waiters, notified_for))

    def take_notified(self, fifo: OwnFifo, notified: list[int]) -> bool:
        """
        Move the notified waiters of a FIFO to ``notified``, in the order of notification.

        Returns False if the FIFO is not registered. This is done in slices, so that thousands of waiters do not keep
        other processes out. If an error ends it, those of the completed slices are in ``notified``.
        """
        first = len(notified)
        try:
            while True:
                more = self._sections.run(Waiters.take_notified, fifo)
                if more is None:
                    return False
                notified += more
                if len(more) < NOTIFIED_SLICE:
                    return True
        finally:
            notified[first:] = reversed(notified[first:])

    def poll(self, fifo: OwnFifo, waiters: int, notified: list[int]) -> bool:
        """
        Do the same, and also move waiters of contended channels that have messages.

        Called once a second, this detects every lost notification. ``waiters`` is how many are registered with the
        FIFO.
        """
        if not self.take_notified(fifo, notified):
            return False
        if not self._sections.run(Waiters.is_contended, fifo):
            return True
        for first in range(0, waiters, POLL_SLICE):
            self._sections.run(Waiters.poll, fifo, first == 0, min(POLL_SLICE, waiters - first))
        return self.take_notified(fifo, notified)


def _after_fork_in_child() -> None:
    for wakeups in list(_wakeups):
        wakeups._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
