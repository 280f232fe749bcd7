"""
The visitors of a room, for the sockets of this process: one query of the room's group serves all of them.

Arrivals and departures are announced, which causes a query at once. A killed process announces nothing. But
its visitors are gone from the group, and the next query, at most ``PERIOD`` seconds later, finds that.
"""

import asyncio
import contextlib
from typing import Any

from .rooms import who_is_here

#: Seconds between two queries. A query costs about as much as sending a message.
PERIOD = 0.3


class Watch:
    """Queries the visitors of one room, and sends changes to the sockets that this process has in it."""

    #: The watches of this process, by room.
    watches: dict[str, "Watch"] = {}

    def __init__(self, layer: Any, room: str) -> None:
        self.layer = layer
        self.room = room
        self.sockets: set[Any] = set()
        self.shown: Any = None
        self.nudged = asyncio.Event()
        self.task = asyncio.create_task(self.query_forever())

    @classmethod
    def join(cls, layer: Any, room: str, socket: Any) -> "Watch":
        """Send the visitors to this socket, now and after each change, until it leaves."""
        watch = cls.watches.get(room)
        if watch is None:
            watch = cls.watches[room] = cls(layer, room)
        watch.sockets.add(socket)
        watch.shown = None  # the new socket has no list yet
        watch.nudge()
        return watch

    def leave(self, socket: Any) -> None:
        """Remove a socket that is closed. The last one ends the watch."""
        self.sockets.discard(socket)
        if not self.sockets and self.watches.get(self.room) is self:
            del self.watches[self.room]
            self.task.cancel()

    def nudge(self) -> None:
        """Query now: a visitor came or went."""
        self.nudged.set()

    async def query_forever(self) -> None:
        """Query the visitors for ever: the task of the watch."""
        while True:
            self.nudged.clear()
            visitors = await who_is_here(self.layer, self.room)
            if visitors != self.shown:
                self.shown = visitors
                # A socket that is just being closed may raise; the others must still get the list.
                await asyncio.gather(
                    *(socket.show_visitors(visitors) for socket in self.sockets), return_exceptions=True
                )
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.nudged.wait(), PERIOD)
