"""
Who is here, for the sockets of this process: one look at a room's group for all of them together.

Arrivals and departures are announced, and looked at when they are. A process that was killed announces nothing: its
visitors are gone from the group all the same, and the next look, ``PERIOD`` seconds later at most, finds that.
"""

import asyncio
import contextlib
from typing import Any

from .rooms import who_is_here

#: Seconds between two looks. One costs about as much as sending a message.
PERIOD = 0.3


class Watch:
    """Looks who is in a room, and tells the sockets that this process has in it."""

    #: One for each room in which this process has a socket.
    watches: dict[str, "Watch"] = {}

    def __init__(self, layer: Any, room: str) -> None:
        self.layer = layer
        self.room = room
        self.sockets: set[Any] = set()
        self.shown: Any = None
        self.nudged = asyncio.Event()
        self.task = asyncio.create_task(self.look_again_and_again())

    @classmethod
    def join(cls, layer: Any, room: str, socket: Any) -> "Watch":
        """Tell this socket who is here, from now on until it leaves."""
        watch = cls.watches.get(room)
        if watch is None:
            watch = cls.watches[room] = cls(layer, room)
        watch.sockets.add(socket)
        watch.shown = None  # the new one has seen nothing yet
        watch.nudge()
        return watch

    def leave(self, socket: Any) -> None:
        """The socket is closed. The last one to leave ends the watch."""
        self.sockets.discard(socket)
        if not self.sockets and self.watches.get(self.room) is self:
            del self.watches[self.room]
            self.task.cancel()

    def nudge(self) -> None:
        """Look now: somebody came or went."""
        self.nudged.set()

    async def look_again_and_again(self) -> None:
        """The task that looks."""
        while True:
            self.nudged.clear()
            visitors = await who_is_here(self.layer, self.room)
            if visitors != self.shown:
                self.shown = visitors
                # A socket that is just being closed may refuse; the others are told all the same.
                await asyncio.gather(
                    *(socket.show_visitors(visitors) for socket in self.sockets), return_exceptions=True
                )
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.nudged.wait(), PERIOD)
