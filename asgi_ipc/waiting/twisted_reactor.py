"""
Waiting in Twisted's reactor, as Daphne 1 does.  This is imported only when it is used: Twisted is optional.
"""

from __future__ import annotations

__all__ = ["nothing", "receive"]

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import defer, reactor
from twisted.internet.interfaces import IReadDescriptor
from twisted.python import failure, log
from zope.interface import implementer

from .hub import Hub, Hubs, PendingReceive


@implementer(IReadDescriptor)
class _Descriptor:
    """A FIFO as the reactor sees it."""

    def __init__(self, fd: int, on_notified: Callable[[], None]) -> None:
        self._fd = fd
        self.doRead = on_notified

    def fileno(self) -> int:
        return self._fd

    def connectionLost(self, reason: Any) -> None:  # noqa: N802  Twisted's name
        """Do nothing when the reactor stops: the wakeup FIFO belongs to the hub."""

    def logPrefix(self) -> str:  # noqa: N802  Twisted's name
        return "asgi_ipc"


class TwistedHub(Hub):
    """The hub of the reactor of this process."""

    def __init__(self, hubs: Hubs) -> None:
        super().__init__(hubs)
        self._descriptor: _Descriptor | None = None

    def watch(self, fd: int) -> None:
        self._descriptor = _Descriptor(fd, self.on_notified)
        reactor.addReader(self._descriptor)

    def unwatch(self, fd: int) -> None:
        if self._descriptor is not None:
            reactor.removeReader(self._descriptor)

    def call_later(self, seconds: float) -> None:
        reactor.callLater(seconds, self.on_poll)

    def call_soon(self, reset: Callable[[], None]) -> bool:
        reactor.callFromThread(reset)
        return True


class _Receive:
    """One call of ``receive``, until it has a message. It can take several notifications."""

    def __init__(self, channels: Sequence[str], hub: Hub) -> None:
        self.channels, self.hub = channels, hub
        self.pending: PendingReceive | None = None
        self.deferred: defer.Deferred[Any] = defer.Deferred(self._cancel)

    def go_on(self, error: BaseException | None = None) -> None:
        """Take a message or wait for the next notification."""
        if self.deferred.called:
            return
        was, self.pending = self.pending, None
        try:
            if error is not None:
                raise error
            outcome = self.hub.pop_or_wait(self.channels, self._wake)
        except Exception:
            self.deferred.errback(failure.Failure())
            return
        if isinstance(outcome, PendingReceive):
            self.pending = outcome
            return
        if was is not None and len(self.channels) > 1:
            self.hub.pass_on(was, outcome[0])
        self.deferred.callback(outcome)

    def _wake(self, error: BaseException | None) -> None:
        # In a separate step: a notification wakes several receives, and what one of them does can affect the others.
        reactor.callLater(0, self.go_on, error)

    def _cancel(self, _: Any) -> None:
        pending, self.pending = self.pending, None
        if pending is not None:
            try:
                self.hub.cancel(pending)
            except Exception:
                log.err(None, "asgi_ipc: cancelling a receive failed")


def receive(hubs: Hubs, channels: Sequence[str]) -> defer.Deferred[Any]:
    """Return a Deferred that fires with a message from one of the channels. Call it in the reactor's thread."""
    hub = hubs.by_loop.get("reactor")
    if hub is None:
        hub = hubs.by_loop["reactor"] = TwistedHub(hubs)
    call = _Receive(channels, hub)
    call.go_on()
    return call.deferred


def nothing() -> defer.Deferred[Any]:
    """Return the result of a call without channels."""
    return defer.succeed((None, None))
