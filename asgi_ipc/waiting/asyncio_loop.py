"""
Waiting in an asyncio event loop (uvloop's are such, too): any number of loops, one after the other or at once.
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
        """True if this is the hub of that loop, not of an earlier one with the same address."""
        return self._loop() is loop

    def is_closed(self) -> bool:
        """True if its loop was closed, or is gone: nothing will ever run in it."""
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
        """The loop was closed: unregister what is left, wake nothing."""
        self.pending.clear()
        self._by_waiter.clear()
        self._abandoned.clear()
        self.reset()


def hub_of(hubs: Hubs, loop: asyncio.AbstractEventLoop) -> AsyncioHub:
    """The hub of a running loop. The hubs of loops that were closed are cleared when another loop comes."""
    hub = hubs.by_loop.get(id(loop))
    if isinstance(hub, AsyncioHub) and hub.is_of(loop):
        return hub
    with hubs.lock:
        for key, other in list(hubs.by_loop.items()):
            if isinstance(other, AsyncioHub) and other.is_closed():
                del hubs.by_loop[key]
                other.clear()
        hub = hubs.by_loop[id(loop)] = AsyncioHub(hubs, loop)
    return hub


async def wait(hubs: Hubs, channels: Sequence[str]) -> Taken:
    """
    Take a message from one of the channels, waiting for it as long as it takes.

    However this is cancelled, no message is lost: it is taken in the last step, which nothing interrupts.
    """
    store, loop = hubs.store, asyncio.get_running_loop()
    hub = hub_of(hubs, loop)
    if not hub.pending:
        store.wakeups.spin(channels)  # with others pending, this loop has better things to do
    while True:
        future: asyncio.Future[None] = loop.create_future()
        pending = hub.pop_or_wait(channels, _waker(future))
        if not isinstance(pending, PendingReceive):
            return pending
        try:
            await future
        except GeneratorExit:
            hub.abandon(pending)  # the loop has gone, and this is run by the garbage collector: anywhere
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
