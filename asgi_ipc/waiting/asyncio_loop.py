"""
Waiting in asyncio event loops, including uvloop's: in any number of loops, in turn or at the same time.
"""

from __future__ import annotations

__all__ = ["wait"]

import asyncio
import weakref
from collections.abc import Callable, Sequence

from ..stores.messages.receiving import Taken
from .hub import Hub, Hubs, PendingReceive, Wake


class AsyncioHub(Hub):
    """The hub of one asyncio event loop."""

    def __init__(self, hubs: Hubs, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(hubs)
        self._loop = weakref.ref(loop)

    def is_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        """True if this is the hub of that loop, and not of an earlier loop with the same id."""
        return self._loop() is loop

    def is_closed(self) -> bool:
        """True if its loop was closed or no longer exists: nothing will ever run in it."""
        loop = self._loop()
        return loop is None or loop.is_closed()

    def watch(self, fd: int) -> None:
        loop = self._loop()
        if loop is not None:
            loop.add_reader(fd, self.on_notified)

    def unwatch(self, fd: int) -> None:
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            loop.remove_reader(fd)

    def call_later(self, seconds: float) -> None:
        loop = self._loop()
        if loop is not None:
            loop.call_later(seconds, self.on_poll)

    def call_soon(self, reset: Callable[[], None]) -> bool:
        loop = self._loop()
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(reset)
        except RuntimeError:  # closed
            return False
        return True

    def clear(self) -> None:
        """Unregister what is left, because the loop was closed. Wakes no receive."""
        self.pending.clear()
        self._by_waiter.clear()
        self._abandoned.clear()
        self.reset()


def hub_of(hubs: Hubs, loop: asyncio.AbstractEventLoop) -> AsyncioHub:
    """Return the hub of a running loop. A call for a new loop clears the hubs of closed loops."""
    hub = hubs.by_loop.get(id(loop))
    if isinstance(hub, AsyncioHub) and hub.is_of(loop):
        return hub
    with hubs.lock.checked():
        for key, other in list(hubs.by_loop.items()):
            if isinstance(other, AsyncioHub) and other.is_closed():
                del hubs.by_loop[key]
                other.clear()
        hub = hubs.by_loop[id(loop)] = AsyncioHub(hubs, loop)
    return hub


async def wait(hubs: Hubs, channels: Sequence[str]) -> Taken:
    """
    Wait for a message in one of the channels, without a timeout, and take it.

    A cancellation at any point loses no message: a message is taken in the last step, which nothing interrupts.
    """
    store, loop = hubs.store, asyncio.get_running_loop()
    hub = hub_of(hubs, loop)
    if not hub.pending:
        store.wakeups.spin(channels)  # not if other receives are pending: the loop may have work to do
    while True:
        future: asyncio.Future[None] = loop.create_future()
        pending = hub.pop_or_wait(channels, _waker(future))
        if not isinstance(pending, PendingReceive):
            return pending
        try:
            await future
        except GeneratorExit:
            hub.abandon(pending)  # the loop no longer exists; the garbage collector runs this, at any point
            raise
        except BaseException:
            hub.cancel(pending)
            raise
        taken = store.pop(channels)
        if taken is not None:
            if len(channels) > 1:
                hub.pass_on(pending, taken[0])
            return taken


def _waker(future: asyncio.Future[None]) -> Wake:
    def wake(error: BaseException | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    return wake
