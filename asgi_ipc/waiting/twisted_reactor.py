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

from ..locking.contention import WouldBlock
from .event_loop import EventLoop
from .hubs import Hubs
from .loop_turns import Turn
from .pending import PendingReceive


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


class ReactorLoop(EventLoop):
    """The reactor of this process."""

    key = "reactor"

    def is_same(self, other: EventLoop) -> bool:
        return other is self

    def is_closed(self) -> bool:
        return False

    def time(self) -> float:
        return float(reactor.seconds())

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        reactor.addReader(_Descriptor(fd, callback))

    def unwatch(self, fd: int) -> None:
        for reader in reactor.getReaders():
            if isinstance(reader, _Descriptor) and reader.fileno() == fd:
                reactor.removeReader(reader)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        reactor.callLater(seconds, callback)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> bool:
        reactor.callFromThread(callback)
        return True


LOOP = ReactorLoop()


class _Receive:
    """One call of ``receive``, until it has a message. It can take several notifications."""

    def __init__(self, channels: Sequence[str], hubs: Hubs) -> None:
        self.channels, self.turns, self.hub = channels, hubs.turns, hubs.hub_of(LOOP)
        #: Registered; or woken, until it has taken a message or is registered again.
        self.pending: PendingReceive | None = None
        #: While it waits for the mutex, or for its turn to do so.
        self.turn: Turn | None = None
        self.deferred: defer.Deferred[Any] = defer.Deferred(self._cancel)

    def begin(self) -> None:
        """Try for the first time, or after a notification: at once, or in its turn."""
        if self.turns.waiting:
            self.turn = self.turns.join(LOOP, self._wake_for_turn)
            if not self.turn.is_first():
                return
        self.go_on()

    def go_on(self) -> None:
        """Take a message, or register to be notified, or wait for the mutex."""
        if self.deferred.called:
            return
        try:
            try:
                outcome = self.hub.pop_or_wait(self.channels, self._wake)
            except WouldBlock as error:
                blocked = error
            else:
                self._succeed(outcome)
                return
            if self.turn is None:
                self.turn = self.turns.join(LOOP, self._wake_for_turn)
            if self.turn.is_first():
                self.turn.pause(blocked)
        except Exception:
            self._give_up()
            self.deferred.errback(failure.Failure())

    def _succeed(self, outcome: Any) -> None:
        self._leave()
        was, self.pending = self.pending, None
        if isinstance(outcome, PendingReceive):
            self.pending = outcome
            return
        if was is not None and len(self.channels) > 1:
            self.hub.pass_on(was, outcome[0])
        self.deferred.callback(outcome)

    # In separate steps: a notification wakes several receives, and what one of them does can affect the others.

    def _wake(self, error: BaseException | None) -> None:
        reactor.callLater(0, self._on_notified, error)

    def _on_notified(self, error: BaseException | None) -> None:
        if self.deferred.called:
            return
        if error is None:
            self.begin()
        else:
            self.deferred.errback(failure.Failure(error))

    def _wake_for_turn(self) -> None:
        reactor.callLater(0, self.go_on)

    def _leave(self) -> None:
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.leave()

    def _give_up(self) -> None:
        """Leave the queue, and pass on the notifications."""
        self._leave()
        pending, self.pending = self.pending, None
        if pending is not None:
            try:
                self.hub.cancel(pending)
            except Exception:
                log.err(None, "asgi_ipc: cancelling a receive failed")

    def _cancel(self, _: Any) -> None:
        self._give_up()


def receive(hubs: Hubs, channels: Sequence[str]) -> defer.Deferred[Any]:
    """Return a Deferred that fires with a message from one of the channels. Call it in the reactor's thread."""
    call = _Receive(channels, hubs)
    call.begin()
    return call.deferred


def nothing() -> defer.Deferred[Any]:
    """Return the result of a call without channels."""
    return defer.succeed((None, None))
