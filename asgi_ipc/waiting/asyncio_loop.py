"""
Waiting in asyncio event loops, including uvloop's: in any number of loops, in turn or at the same time.

No function here awaits anything after the step that takes effect.  So a task that is cancelled while it waits has done
nothing, and a task that has done something is not cancelled any more.
"""

from __future__ import annotations

__all__ = ["AsyncioLoop", "call", "call_in_turn", "receive"]

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..locking.contention import WouldBlock
from ..stores.messages.receiving import Taken
from .event_loop import EventLoop
from .hubs import Hubs
from .loop_turns import LoopTurns
from .pending import PendingReceive, Wake

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

R = TypeVar("R")


class AsyncioLoop(EventLoop):
    """An asyncio event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.key = id(loop)
        self.reference = weakref.ref(loop)

    def is_same(self, other: EventLoop) -> bool:
        return isinstance(other, AsyncioLoop) and self.reference() is other.reference() is not None

    def is_closed(self) -> bool:
        loop = self.reference()
        return loop is None or loop.is_closed()

    def time(self) -> float:
        loop = self.reference()
        return 0.0 if loop is None else loop.time()

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        loop = self.reference()
        if loop is not None:
            loop.add_reader(fd, callback)

    def unwatch(self, fd: int) -> None:
        loop = self.reference()
        if loop is not None and not loop.is_closed():
            loop.remove_reader(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        loop = self.reference()
        if loop is not None and seconds:
            loop.call_later(seconds, callback)
        elif loop is not None:
            loop.call_soon(callback)  # if the clock is frozen, even a timer of 0 seconds may never fire

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> bool:
        loop = self.reference()
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(callback)
        except RuntimeError:  # closed
            return False
        return True


async def call(turns: LoopTurns, operation: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
    """
    Return ``operation(*args, **named)``, an operation of a store that does not wait, of which these are the turns.

    It is tried at once if no other operation waits for its turn, and repeated until it does not raise ``WouldBlock``.
    Raises ``SegmentBusy`` if it has needed a mutex for ``patience`` seconds in which nothing made progress.
    """
    if not turns.waiting:
        try:
            return operation(*args, **named)
        except WouldBlock:
            pass
    return await call_in_turn(turns, operation, *args, **named)


async def call_in_turn(turns: LoopTurns, operation: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
    """Do the same for an operation that was tried in vain, or that may not be tried before its turn."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    turn = turns.join(AsyncioLoop(loop), wake)
    try:
        while True:
            if turn.is_first():
                try:
                    return operation(*args, **named)
                except WouldBlock as error:
                    blocked = error
                turn.pause(blocked)
            await woken
            woken = loop.create_future()
    except GeneratorExit:
        turn.leave(in_loop=False)  # the garbage collector runs this, perhaps in another thread
        raise
    finally:
        turn.leave()


async def receive(hubs: Hubs, channels: Sequence[str]) -> Taken:
    """
    Wait for a message in one of the channels, without a timeout, and take it.

    A cancellation at any point loses no message: a message is taken in the last step, which nothing interrupts.
    """
    store, turns, loop = hubs.store, hubs.turns, asyncio.get_running_loop()
    hub = hubs.hub_of(AsyncioLoop(loop))
    if not hub.pending.receives and not turns.waiting:
        store.wakeups.spin(channels)  # not if other receives are pending: the loop may have work to do
    while True:
        woken: asyncio.Future[None] = loop.create_future()
        pending = await call(turns, hub.pop_or_wait, channels, _waker(woken))
        if not isinstance(pending, PendingReceive):
            return pending
        try:
            await woken
            taken = await call(turns, store.pop, channels)
        except GeneratorExit:
            hub.abandon(pending)  # the loop no longer exists; the garbage collector runs this, at any point
            raise
        except BaseException:
            hub.cancel(pending)
            raise
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
