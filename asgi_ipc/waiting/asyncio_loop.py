"""
Waiting in an asyncio event loop (uvloop's are such, too): any number of loops, one after the other or at once.
"""

from __future__ import annotations

__all__ = ["wait"]

import asyncio
import weakref
from typing import Callable, Optional, Sequence

from ..stores.messages.waits import Taken
from ..stores.messages.wakeups import WaitingStore
from .hub import Hub, PendingReceive


class AsyncioHub(Hub):
    """The room of one asyncio event loop."""

    def __init__(self, store: WaitingStore, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(store)
        self._loop = weakref.ref(loop)

    def is_over(self) -> bool:
        """Whether its loop was closed, or is gone: nobody will ever wake in it."""
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
        """The loop is over: take down what still hangs, wake nobody."""
        self._pending.clear()
        self._by_waiter.clear()
        self._abandoned.clear()
        self.reset()


def hub_of(store: WaitingStore, loop: asyncio.AbstractEventLoop) -> AsyncioHub:
    """The room of a running loop. The rooms of loops that are over are cleared when another loop comes."""
    hub = store.hubs.get(id(loop))
    if hub is not None and hub._loop() is loop:
        return hub  # type: ignore[no-any-return]
    with store.hubs_lock:
        for key, other in list(store.hubs.items()):
            if isinstance(other, AsyncioHub) and other.is_over():
                del store.hubs[key]
                other.clear()
        hub = store.hubs[id(loop)] = AsyncioHub(store, loop)
    return hub


async def wait(store: WaitingStore, channels: Sequence[str]) -> Taken:
    """
    Take a message from one of the channels, waiting for it as long as it takes.

    However this is cancelled, no message is lost: it is taken in the last step, which nothing interrupts.
    """
    loop = asyncio.get_running_loop()
    hub = hub_of(store, loop)
    if hub.is_empty():
        store.spin(channels)  # with others waiting, this loop has better things to do
    while True:
        future: asyncio.Future[None] = loop.create_future()
        pending = hub.receive_or_wait(channels, _waker(future))
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


def _waker(future: asyncio.Future[None]) -> Callable[[Optional[BaseException]], None]:
    def wake(error: Optional[BaseException]) -> None:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    return wake
