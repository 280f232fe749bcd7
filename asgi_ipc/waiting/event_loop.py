"""
What hubs and queues need of an event loop, and what they share.

Nothing here refers strongly to an event loop.  A program may drop its loop without closing it, with receives that still
wait, and then the garbage collector must be able to free all of it.  So a loop owns its hub and its queues, by its
readers and timers; this package remembers them by weak references only.
"""

from __future__ import annotations

__all__ = ["EventLoop", "Pace", "PerLoop"]

import time
import weakref
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from .. import clock


class EventLoop:
    """One event loop. ``asyncio_loop`` has a subclass for asyncio, ``twisted_reactor`` one for Twisted."""

    #: Identifies the loop while it exists.
    key: Hashable

    def is_same(self, other: EventLoop) -> bool:
        """True if both are the same loop, not only two loops of which the second has got the key of the first."""
        raise NotImplementedError

    def is_closed(self) -> bool:
        """True if the loop was closed or no longer exists: nothing will ever run in it."""
        raise NotImplementedError

    def time(self) -> float:
        """Return the time of the loop's timers, in seconds."""
        raise NotImplementedError

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``fd`` can be read."""
        raise NotImplementedError

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``."""
        raise NotImplementedError

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, after ``seconds``, in a later step of the loop."""
        raise NotImplementedError

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> bool:
        """Call ``callback`` in the thread of the loop. May be called in any thread; False if the loop was closed."""
        raise NotImplementedError


class HasLoop(Protocol):
    """An object that belongs to one event loop."""

    @property
    def loop(self) -> EventLoop: ...


T = TypeVar("T", bound=HasLoop)


class PerLoop(Generic[T]):
    """Objects that belong to event loops, one for each loop, which the loops own."""

    def __init__(self) -> None:
        #: By the key of the loop. Empty if there are none, which can be asked in any thread.
        self.references: dict[Hashable, weakref.ref[T]] = {}

    def get(self, loop: EventLoop) -> T | None:
        """Return the object of a loop."""
        reference = self.references.get(loop.key)
        item = None if reference is None else reference()
        return item if item is not None and item.loop.is_same(loop) else None

    def put(self, item: T) -> None:
        """Have this object for its loop."""
        references, key = self.references, item.loop.key

        def forget(dead: weakref.ref[T]) -> None:
            if references.get(key) is dead:
                references.pop(key, None)

        references[key] = weakref.ref(item, forget)

    def remove(self, item: T) -> None:
        """Have this object no longer."""
        reference = self.references.get(item.loop.key)
        if reference is not None and reference() is item:
            self.references.pop(item.loop.key, None)

    def all(self) -> list[T]:
        """Return the objects of all loops."""
        found = [reference() for reference in list(self.references.values())]
        return [item for item in found if item is not None]


class Pace:
    """
    Pauses in an event loop, between two tries of something.

    Test libraries such as freezegun stop the clock of a loop: a timer then never fires. So this compares the loop's
    clock with that of the kernel. While the former stands still, the thread sleeps instead, for as long as a pause of a
    waiting thread, and the loop runs its other tasks in between.
    """

    #: Seconds after which the two clocks are compared. A loop may read its clock once in each of its steps only.
    COMPARED_AFTER = 0.003
    #: The most seconds that the thread sleeps.
    LONGEST_SLEEP = 0.001

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._was, self._compared_at = loop.time(), clock.monotonic()
        self._runs = False

    def delay(self, seconds: float) -> float:
        """Return the seconds for ``EventLoop.call_later``: ``seconds``; or, after a sleep, 0."""
        now = clock.monotonic()
        if now - self._compared_at > self.COMPARED_AFTER:
            was, self._was = self._was, self._loop.time()
            self._runs, self._compared_at = self._was != was, now
        if self._runs:
            return seconds
        time.sleep(min(seconds, self.LONGEST_SLEEP))
        return 0.0
