"""
Who is in a room, for the sockets of this process: the visitors, and the processes of the site.

One query of the two groups serves all sockets of this process in the room. Arrivals and departures are
announced, which causes a query at once. A killed process announces nothing. But the layer has dropped it and
its visitors from the groups, and the next query, at most ``PERIOD`` seconds later, finds that.
"""

import asyncio
import contextlib
from dataclasses import asdict
from typing import Any

from .processes import Process, list_processes
from .rooms import list_visitors

#: Seconds between two queries. A query costs about as much as sending a message.
PERIOD = 0.3


class Watch:
    """Queries who is in one room, and sends changes to the sockets that this process has in it."""

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
        """Send this socket who is here, now and after each change, until it leaves."""
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
        """Query until the task is cancelled: the task of the watch."""
        while True:
            self.nudged.clear()
            here = await who_is_here(self.layer, self.room)
            if here != self.shown:
                self.shown = here
                # A socket that is just being closed may raise; the others must still get the list.
                await asyncio.gather(*(socket.show_here(here) for socket in self.sockets), return_exceptions=True)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.nudged.wait(), PERIOD)


async def who_is_here(layer: Any, room: str) -> dict[str, list[dict[str, Any]]]:
    """Return the visitors of a room, and all processes of the site: idle workers too, and the bot."""
    visitors = await list_visitors(layer, room)
    processes = set(await list_processes(layer))
    # If a worker dies between the two queries, its visitors are still shown with it, until the next query.
    processes |= {Process(visitor.pid, "worker") for visitor in visitors}
    ordered = sorted(processes, key=lambda process: (process.kind == "bot", process.pid))
    return {"visitors": list(map(asdict, visitors)), "processes": list(map(asdict, ordered))}
