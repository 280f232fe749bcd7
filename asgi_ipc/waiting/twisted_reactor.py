"""
Waiting in Twisted's reactor, as Daphne 1 does.  Imported only where that is asked for: Twisted need not be there.
"""

from __future__ import annotations

__all__ = ["nothing", "receive"]

from typing import Any, Callable, Optional, Sequence

from twisted.internet import defer, reactor
from twisted.internet.interfaces import IReadDescriptor
from twisted.python import failure, log
from zope.interface import implementer

from ..stores.messages.wakeups import WaitingStore
from .hub import Hub, PendingReceive


@implementer(IReadDescriptor)
class _Descriptor:
    """A wakeup FIFO as the reactor sees it."""

    def __init__(self, fd: int, on_notified: Callable[[], None]) -> None:
        self._fd = fd
        self.doRead = on_notified

    def fileno(self) -> int:
        return self._fd

    def connectionLost(self, reason: Any) -> None:  # noqa: N802  Twisted's name
        """The reactor ends: nothing to do, as the wakeup FIFO is not its own."""

    def logPrefix(self) -> str:  # noqa: N802  Twisted's name
        return "asgi_ipc"


class TwistedHub(Hub):
    """The room of the reactor of this process."""

    def __init__(self, store: WaitingStore) -> None:
        super().__init__(store)
        self._descriptor: Optional[_Descriptor] = None

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


class _Call:
    """One call of ``receive``, from one wakeup FIFO to the next until there is a message."""

    def __init__(self, store: WaitingStore, channels: Sequence[str], hub: TwistedHub) -> None:
        self.store, self.channels, self.hub = store, channels, hub
        self.pending: Optional[PendingReceive] = None
        self.deferred: defer.Deferred[Any] = defer.Deferred(self._cancel)

    def go_on(self, error: Optional[BaseException] = None) -> None:
        """Take a message or wait for the next ring."""
        if self.deferred.called:
            return
        was, self.pending = self.pending, None
        try:
            if error is not None:
                raise error
            outcome = self.hub.receive_or_wait(self.channels, self._wake)
        except Exception:
            self.deferred.errback(failure.Failure())
            return
        if isinstance(outcome, PendingReceive):
            self.pending = outcome
            return
        if was is not None and len(self.channels) > 1:
            self.hub.pass_on(was, outcome[0])
        self.deferred.callback(outcome)

    def _wake(self, error: Optional[BaseException]) -> None:
        # In a step of its own: a ring calls several, and what one of them does may concern the others.
        reactor.callLater(0, self.go_on, error)

    def _cancel(self, _: Any) -> None:
        pending, self.pending = self.pending, None
        if pending is not None:
            try:
                self.hub.cancel(pending)
            except Exception:
                log.err(None, "asgi_ipc: a call was cancelled")


def receive(store: WaitingStore, channels: Sequence[str]) -> defer.Deferred[Any]:
    """A Deferred that fires with a message from one of the channels. To be called in the reactor's thread."""
    hub = store.hubs.get("reactor")
    if hub is None:
        hub = store.hubs["reactor"] = TwistedHub(store)
    call = _Call(store, channels, hub)
    call.go_on()
    return call.deferred


def nothing() -> defer.Deferred[Any]:
    """What a call for no channels at all returns."""
    return defer.succeed((None, None))
