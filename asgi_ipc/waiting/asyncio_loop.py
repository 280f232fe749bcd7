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
from .hub import Room, Ticket


class LoopRoom(Room):
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
            loop.add_reader(fd, self.on_ring)

    def unwatch(self, fd: int) -> None:
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            loop.remove_reader(fd)

    def call_later(self, seconds: float) -> None:
        loop = self._loop()
        if loop is not None:
            loop.call_later(seconds, self.on_look)

    def call_soon(self, shut: Callable[[], None]) -> bool:
        loop = self._loop()
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(shut)
        except RuntimeError:  # closed
            return False
        return True

    def clear(self) -> None:
        """The loop is over: take down what still hangs, wake nobody."""
        self._tickets.clear()
        self._by_waiter.clear()
        self._abandoned.clear()
        self.shut()


def room_of(store: WaitingStore, loop: asyncio.AbstractEventLoop) -> LoopRoom:
    """The room of a running loop. The rooms of loops that are over are cleared when another loop comes."""
    room = store.rooms.get(id(loop))
    if room is not None and room._loop() is loop:
        return room  # type: ignore[no-any-return]
    with store.rooms_lock:
        for key, other in list(store.rooms.items()):
            if isinstance(other, LoopRoom) and other.is_over():
                del store.rooms[key]
                other.clear()
        room = store.rooms[id(loop)] = LoopRoom(store, loop)
    return room


async def wait(store: WaitingStore, channels: Sequence[str]) -> Taken:
    """
    Take a message from one of the channels, waiting for it as long as it takes.

    However this is cancelled, no message is lost: it is taken in the last step, which nothing interrupts.
    """
    loop = asyncio.get_running_loop()
    room = room_of(store, loop)
    if room.is_empty():
        store.linger(channels)  # with others waiting, this loop has better things to do
    while True:
        future: asyncio.Future[None] = loop.create_future()
        ticket = room.enter(channels, _waker(future))
        if not isinstance(ticket, Ticket):
            return ticket
        try:
            await future
        except GeneratorExit:
            room.abandon(ticket)  # the loop has gone, and this is run by the garbage collector: anywhere
            raise
        except BaseException:
            room.leave(ticket)
            raise
        taken = store.pop(channels)
        if taken is not None:
            if len(channels) > 1:
                room.pass_on(ticket, taken[0])
            return taken


def _waker(future: asyncio.Future[None]) -> Callable[[Optional[BaseException]], None]:
    def wake(error: Optional[BaseException]) -> None:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    return wake
