"""
The receives of one event loop that wait, and to which of them each waiter in the segment belongs.
"""

from __future__ import annotations

__all__ = ["PendingReceive", "PendingReceives", "Wake"]

from collections.abc import Callable, Iterable, Sequence
from typing import Optional

from ..stores.messages.own_fifo import OwnFifo
from ..stores.messages.receiving import Registered

#: Called once, when there may be a message, or with the error that ended the wait.
Wake = Callable[[Optional[BaseException]], None]


class PendingReceive:
    """A receive that waits: its waiters with their channels, and the channels that it was notified for."""

    __slots__ = ("fifo", "notified_for", "registration", "waiters", "wake")

    def __init__(self, fifo: OwnFifo, registration: int, waiters: dict[int, str], wake: Wake) -> None:
        self.fifo = fifo
        self.registration = registration
        self.waiters = waiters
        self.notified_for: list[str] = []
        self.wake = wake


class PendingReceives:
    """The pending receives of one hub, and the waiters that are registered with its FIFO."""

    def __init__(self) -> None:
        #: All receives that wait, including those for whose waiters there was no memory.
        self.receives: dict[PendingReceive, None] = {}
        #: Also of receives that do not wait any more, if their waiters could not be unregistered.
        self.by_waiter: dict[int, PendingReceive] = {}
        #: The registration of the FIFO to which these waiters belong.
        self.registration = -1

    def add(self, fifo: OwnFifo, registered: Registered, channels: Sequence[str], wake: Wake) -> PendingReceive:
        """Add a receive whose waiters were registered. If the FIFO has a new record, wake all that had waiters."""
        if registered.registration != self.registration:
            self.wake_all()  # their waiters no longer exist
            self.registration = registered.registration
        waiters = dict(zip(registered.waiters, dict.fromkeys(channels)))
        pending = PendingReceive(fifo, registered.registration, waiters, wake)
        self.receives[pending] = None
        for waiter in registered.waiters:
            self.by_waiter[waiter] = pending
        return pending

    def without_waiters(self) -> list[PendingReceive]:
        """Return the receives for whose waiters there was no memory."""
        return [pending for pending in self.receives if not pending.waiters]

    def wake(self, pending: PendingReceive, error: BaseException | None = None) -> None:
        """Wake one receive, which is then not pending any more."""
        pending.wake(error)
        self.forget(pending)

    def wake_all(self, error: BaseException | None = None) -> None:
        """Wake every receive: their waiters no longer exist."""
        for pending in list(self.receives):
            self.wake(pending, error)
            pending.waiters.clear()
        self.by_waiter.clear()

    def wake_notified(self, notified: Iterable[int]) -> tuple[list[int], bool]:
        """
        Wake the receives whose waiters were notified.

        Returns their other waiters, to unregister, and True if a waiter belongs to no receive.
        """
        woken: dict[PendingReceive, None] = {}
        strays = False
        for waiter in notified:  # before any wake: a receive may have been notified for two of its channels
            pending = self.by_waiter.pop(waiter, None)
            if pending is None:
                strays = True
            else:
                pending.notified_for.append(pending.waiters.pop(waiter))
                woken[pending] = None
        for pending in woken:
            self.wake(pending)
        left = [waiter for pending in woken for waiter in pending.waiters]
        for pending in woken:
            pending.waiters.clear()
        return left, strays

    def leave(self, fifo: OwnFifo, waiters: Sequence[int]) -> PendingReceive:
        """Return a receive that does not wait, to cancel: it has these waiters of receives that were woken."""
        rest = PendingReceive(fifo, self.registration, dict.fromkeys(waiters, ""), _wake_nothing)
        self.by_waiter.update(dict.fromkeys(waiters, rest))
        return rest

    def forget(self, pending: PendingReceive) -> None:
        """Remove a receive that was woken or cancelled."""
        self.receives.pop(pending, None)
        for waiter in pending.waiters:
            if self.by_waiter.get(waiter) is pending:
                del self.by_waiter[waiter]

    def clear(self) -> None:
        """Remove everything, and wake no receive."""
        self.receives.clear()
        self.by_waiter.clear()


def _wake_nothing(_: BaseException | None) -> None:
    """The ``wake`` of a receive that was already woken."""
