"""
Waiting in event loops: a hub holds the pending receives of one loop, with one FIFO, and polls once a second for all.

A notification only wakes the receives that were notified.  Each takes its own message when it runs.  So a receive that
is cancelled in between has taken nothing, and passes the notification on.  An event loop must provide four small
methods: ``asyncio_loop`` has them for asyncio, ``twisted_reactor`` for Twisted.  A hub belongs to the thread of its
loop.
"""

from __future__ import annotations

__all__ = ["Hub", "Hubs", "PendingReceive", "Wake"]

import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Optional

from ..exceptions import SegmentError
from ..locking.threads import ThreadLock
from ..shm.wakeup_fifo import WakeupFifo
from ..stores.messages.receiving import Registered, Taken
from ..stores.messages.store import MessageStore
from ..stores.messages.waiters import POLL_SLICE
from ..stores.messages.wakeups import Wakeups
from .thread import POLL_PERIOD, SHORT_POLL_PERIOD

#: Called once, when there may be a message, or with the error that ended the wait.
Wake = Callable[[Optional[BaseException]], None]
#: If more receives than this are pending in a loop, the next one will most likely wait too.
CROWD = 8

_all_hubs: weakref.WeakSet[Hubs] = weakref.WeakSet()


class Hubs:
    """The hubs of one message store in this process, one for each event loop. A layer owns them."""

    def __init__(self, store: MessageStore) -> None:
        self.store = store
        self.forget()
        _all_hubs.add(self)

    def forget(self) -> None:
        """Have no hubs: this is a new object, or a forked child, whose parent runs the loops."""
        #: The hubs by a key that identifies an event loop.
        self.by_loop: dict[Any, Hub] = {}
        self.lock = ThreadLock()
        #: Many receives are pending: then one critical section should take a message or register a waiter.
        self.crowded = False


class PendingReceive:
    """A receive that waits: its waiters with their channels, and the channels that it was notified for."""

    __slots__ = ("fifo", "notified_for", "registration", "waiters", "wake")

    def __init__(self, fifo: WakeupFifo, registration: int, waiters: dict[int, str], wake: Wake) -> None:
        self.fifo = fifo
        self.registration = registration
        self.waiters = waiters
        self.notified_for: list[str] = []
        self.wake = wake


class Hub:
    """The pending receives of one event loop, for the messages of one store."""

    def __init__(self, hubs: Hubs) -> None:
        self._hubs = weakref.ref(hubs, self._lost_hubs)
        self._fifo: WakeupFifo | None = None
        self._registration = -1
        #: All receives that wait, including those for whose waiters there was no memory.
        self.pending: dict[PendingReceive, None] = {}
        self._by_waiter: dict[int, PendingReceive] = {}
        #: Receives that gave up but may still have waiters: their cancellation failed, or a finaliser, which must not
        #: enter the mutex, ended them.
        self._abandoned: deque[PendingReceive] = deque()
        self._poll_scheduled = False
        #: Set while the segment and this hub may disagree about what is registered. An exception at such a point (from
        #: a signal handler) leaves it set, and the next use of the hub resets it.
        self._inconsistent = False

    # -- what an event loop provides --------------------------------------------------------------------------

    def watch(self, fd: int) -> None:
        """Call ``on_notified`` whenever ``fd`` can be read."""
        raise NotImplementedError

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``."""
        raise NotImplementedError

    def call_later(self, seconds: float) -> None:
        """Call ``on_poll`` once, after ``seconds``."""
        raise NotImplementedError

    def call_soon(self, reset: Callable[[], None]) -> bool:
        """Call ``reset`` in the thread of the loop. May be called in any thread; False if the loop was closed."""
        raise NotImplementedError

    # -- for receives -----------------------------------------------------------------------------------------

    def pop_or_wait(self, channels: Sequence[str], wake: Wake) -> Taken | PendingReceive:
        """
        Take a message from one of the channels, or register a receive: ``wake`` is called when it should try again.

        A receive that was woken is no longer pending. One that gives up before that calls ``cancel``.
        """
        wakeups = self._open_wakeups()
        if self._inconsistent:
            self.reset()
        self._cancel_abandoned()
        fifo = self._fifo or self._open_fifo(wakeups)
        self._inconsistent = True
        try:
            outcome = wakeups.pop_or_register(channels, fifo)
        except SegmentError:  # then nothing was registered, or no waiter exists any more
            self._inconsistent = False
            raise
        if isinstance(outcome, Registered):
            return self._add(fifo, outcome, channels, wake)
        self._inconsistent = False
        return outcome

    def _add(self, fifo: WakeupFifo, registered: Registered, channels: Sequence[str], wake: Wake) -> PendingReceive:
        """Add a receive whose waiters were registered."""
        if registered.registration != self._registration:
            self._wake_all()  # their waiters no longer exist
            self._registration = registered.registration
        waiters = dict(zip(registered.waiters, dict.fromkeys(channels)))
        pending = PendingReceive(fifo, registered.registration, waiters, wake)
        self.pending[pending] = None
        hubs = self._hubs()
        if hubs is not None:
            hubs.crowded = len(self.pending) > CROWD
        for waiter in registered.waiters:
            self._by_waiter[waiter] = pending
        if not self._poll_scheduled:
            self._poll_later(POLL_PERIOD if registered.waiters else SHORT_POLL_PERIOD)
        self._inconsistent = False
        return pending

    def cancel(self, pending: PendingReceive) -> None:
        """
        Cancel a receive, and pass on its notifications.

        An error of the segment or a closed layer must not replace the exception that cancelled the receive. If
        unregistering fails, the next poll does it.
        """
        if self._inconsistent:
            self.reset()
        if not self._try_cancel(pending):
            self.abandon(pending)
            if not self._poll_scheduled:
                self._poll_later(POLL_PERIOD)

    def abandon(self, pending: PendingReceive) -> None:
        """Cancel a receive when the hub is next used: for finalisers."""
        self._abandoned.append(pending)

    def pass_on(self, pending: PendingReceive, taken: str) -> None:
        """Pass on the notifications of a receive that took a message, except those for the channel ``taken``."""
        rest = [channel for channel in pending.notified_for if channel != taken]
        if rest:
            pending.notified_for = rest
            self._try_cancel(pending)

    # -- for the event loop -----------------------------------------------------------------------------------

    def on_notified(self) -> None:
        """Wake the receives that were notified: the FIFO can be read."""
        fifo, wakeups = self._fifo, self._wakeups()
        if fifo is None or wakeups is None:
            return
        fifo.drain()
        self._wake_those(lambda: wakeups.take_notified(fifo))

    def on_poll(self) -> None:
        """Detect a lost notification, a killed receiver and a removed segment."""
        self._poll_scheduled = False
        wakeups = self._wakeups()
        if wakeups is None:
            return
        without_waiters: list[PendingReceive] = []
        try:
            self._cancel_abandoned()
            without_waiters = [pending for pending in self.pending if not pending.waiters]
            for pending in without_waiters:
                self._wake(pending)
            fifo = self._fifo
            if fifo is None or fifo.is_unlinked():
                self.reset()
            else:
                self._wake_those(lambda: wakeups.poll(fifo, len(self._by_waiter)))
        finally:
            if (self.pending or self._abandoned or without_waiters) and not self._poll_scheduled:
                self._poll_later(SHORT_POLL_PERIOD if without_waiters else POLL_PERIOD)

    def reset(self, error: BaseException | None = None) -> None:
        """Close the FIFO and wake every receive. Those that wait again get a new FIFO."""
        self._inconsistent = True
        fifo, wakeups = self._fifo, self._wakeups()
        if fifo is not None:
            if fifo.fd >= 0:
                self.unwatch(fifo.fd)
            self._fifo = None
            if wakeups is not None:
                wakeups.dismiss(fifo)
            fifo.close()
        self._wake_all(error)
        self._inconsistent = False

    # -- internal ---------------------------------------------------------------------------------------------

    def _wakeups(self) -> Wakeups | None:
        hubs = self._hubs()
        return None if hubs is None else hubs.store.wakeups

    def _open_wakeups(self) -> Wakeups:
        wakeups = self._wakeups()
        if wakeups is None:
            raise RuntimeError("this layer no longer exists; create a new one")
        return wakeups

    def _open_fifo(self, wakeups: Wakeups) -> WakeupFifo:
        fifo = wakeups.new_fifo()
        self._fifo, self._registration = fifo, -1
        try:
            self.watch(fifo.fd)
        except BaseException:
            self.reset()
            raise
        return fifo

    def _poll_later(self, seconds: float) -> None:
        self.call_later(seconds)
        self._poll_scheduled = True  # after the call: one poll too many does no harm

    def _wake_those(self, ask: Callable[[], list[int] | None]) -> None:
        """Wake the receives whose waiters ``ask`` returns; all of them if it returns None or fails."""
        if self._inconsistent:
            self.reset()
            return
        self._inconsistent = True
        try:
            notified = ask()
        except (SegmentError, RuntimeError, OSError) as error:
            self.reset(error)
            return
        if notified is None:
            self._wake_all()
        else:
            self._wake_notified(notified)
        self._inconsistent = False

    def _wake_notified(self, notified: list[int]) -> None:
        """Wake the receives whose waiters were notified, and unregister their other waiters."""
        woken: dict[PendingReceive, None] = {}
        strays = False
        for waiter in notified:  # before any wake: a receive may have been notified for two of its channels
            pending = self._by_waiter.pop(waiter, None)
            if pending is None:
                strays = True
            else:
                pending.notified_for.append(pending.waiters.pop(waiter))
                woken[pending] = None
        for pending in woken:
            self._wake(pending)
        left = [waiter for pending in woken for waiter in pending.waiters]
        for pending in woken:
            pending.waiters.clear()
        if self._fifo is not None:
            for first in range(0, len(left), POLL_SLICE):
                self._unregister(self._fifo, left[first : first + POLL_SLICE])
        if strays:  # an exception came between a critical section and ``_add``: all receives must try again
            self.reset()

    def _unregister(self, fifo: WakeupFifo, waiters: list[int]) -> None:
        """Unregister waiters of receives that were woken."""
        rest = PendingReceive(fifo, self._registration, dict.fromkeys(waiters, ""), _wake_nothing)
        if not self._try_cancel(rest):
            self._by_waiter.update(dict.fromkeys(waiters, rest))
            self.abandon(rest)

    def _try_cancel(self, pending: PendingReceive) -> bool:
        """Unregister the waiters of a receive, and pass on its notifications; False if that must be done later."""
        wakeups = self._wakeups()
        if wakeups is None or not (pending.waiters or pending.notified_for):
            self._forget(pending)
            return True
        was_inconsistent, self._inconsistent = self._inconsistent, True
        cancelled = True
        try:
            wakeups.cancel(pending.fifo, pending.registration, list(pending.waiters), pending.notified_for)
        except SegmentError:
            cancelled = False
        except (RuntimeError, OSError):  # the layer was closed, or the segment was removed and cannot be replaced
            pass
        if cancelled:
            self._forget(pending)
            pending.waiters.clear()
            pending.notified_for.clear()
        self._inconsistent = was_inconsistent
        return cancelled

    def _wake(self, pending: PendingReceive, error: BaseException | None = None) -> None:
        pending.wake(error)
        self._forget(pending)

    def _wake_all(self, error: BaseException | None = None) -> None:
        """Wake every receive: their waiters no longer exist."""
        for pending in list(self.pending):
            self._wake(pending, error)
            pending.waiters.clear()
        self._by_waiter.clear()

    def _forget(self, pending: PendingReceive) -> None:
        self.pending.pop(pending, None)
        for waiter in pending.waiters:
            if self._by_waiter.get(waiter) is pending:
                del self._by_waiter[waiter]

    def _cancel_abandoned(self) -> None:
        """Cancel the receives that were abandoned."""
        while self._abandoned:
            pending = self._abandoned.popleft()
            if not self._try_cancel(pending):
                self._abandoned.appendleft(pending)
                return

    def _lost_hubs(self, _: object) -> None:
        """Clean up after the layer was garbage-collected: no receive is pending any more."""
        fifo = self._fifo
        if fifo is not None and fifo.fd >= 0 and not self.call_soon(self.reset):
            fifo.close()


def _wake_nothing(_: BaseException | None) -> None:
    """The ``wake`` of a receive that was already woken."""


def _after_fork_in_child() -> None:
    for hubs in list(_all_hubs):
        hubs.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
