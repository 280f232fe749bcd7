"""
The base classes of the adapters, for synchronous and asynchronous peers, with the loops that are timed.

An adapter implements how to make, open and remove its peer, how to send and receive, and, if the peer has
groups, how to join and send to them. The loops call what ``sender`` and ``receiver`` return directly, so that
no wrapper is measured.

One process makes a peer (``prepare``). Each process that uses it opens it (``open``, after the fork). The
process that made it removes it (``remove``).
"""

from __future__ import annotations

__all__ = ["CHANNEL", "CHANNELS", "PING", "PONG", "AsyncPeer", "Peer", "Place", "SyncPeer", "Unfit", "message_of"]

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import Any, Awaitable, Callable, Coroutine, Dict, List, Tuple

from ..recoveries import Known

#: All channels except those of unread messages and of group members.
CHANNEL, PING, PONG = CHANNELS = ("channel", "ping", "pong")
GROUP = "group"
#: Seconds that receives have to start waiting before a message is sent.
SETTLE = 0.2

Message = Dict[str, Any]
now = time.perf_counter_ns


class Unfit(Exception):
    """A peer cannot run a workload; the text contains the reason."""


def message_of(payload: int) -> Message:
    """Return a message with ``payload`` bytes of content."""
    return {"body": b"x" * payload}


@dataclass(frozen=True)
class Place:
    """Where a peer stores its data: a prefix for names, a folder in memory, and the addresses of servers."""

    prefix: str
    folder: str
    servers: Dict[str, str] = field(default_factory=dict)


class Peer:
    """The interface that the workloads use. Each loop runs ``times`` times; durations are in ns."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.members: List[str] = []

    @classmethod
    def check(cls) -> None:
        """Raise ``Unfit`` with the reason if the installed packages are unsuitable."""

    def prepare(self) -> None:
        """Create what the processes share, before they are forked."""

    def remove(self) -> None:
        """Undo ``prepare``, and remove everything that is in memory."""

    def open(self) -> None:
        """Connect this process."""

    def close(self) -> None:
        """Disconnect this process."""

    def listen(self, channel: str) -> None:
        """Prepare to receive from a channel. Some peers drop messages that nobody listens for."""

    def pairs(self, times: int, message: Message) -> None:
        """Send a message and receive it, ``times`` times."""
        raise NotImplementedError

    def timed_pairs(self, times: int, message: Message) -> List[int]:
        """Do the same; return the time of each pair."""
        raise NotImplementedError

    def timed_calls(self, seconds: float, message: Message) -> List[int]:
        """Send a message and receive it, for some seconds; return the time of each call."""
        raise NotImplementedError

    def send_all(self, channel: str, times: int, message: Message) -> None:
        """Send a message ``times`` times."""
        raise NotImplementedError

    def receive_all(self, channel: str, times: int) -> None:
        """Wait for ``times`` messages and receive them."""
        raise NotImplementedError

    def ask(self, times: int, message: Message) -> List[int]:
        """Send to ``PING`` and wait for the answer at ``PONG``; return the time of each round trip."""
        raise NotImplementedError

    def answer(self, times: int, message: Message) -> None:
        """Wait for each message at ``PING``, and answer it at ``PONG``."""
        raise NotImplementedError

    def join(self, count: int) -> None:
        """Add ``count`` channels of this process to the group."""
        raise NotImplementedError

    def arm(self) -> None:
        """Make all members of this process wait for a message."""

    def gather(self) -> int:
        """Receive the message at every member of this process; return the time when the last one had it."""
        raise NotImplementedError

    def announce(self, message: Message) -> Tuple[int, int]:
        """Send to the group; return the times when the call began and when it returned."""
        raise NotImplementedError

    def wait(self, count: int) -> None:
        """Wait forever on ``count`` channels."""
        raise NotImplementedError

    def recoveries(self) -> Callable[[], Known]:
        """Return a function that returns what this process knows of recoveries. Call this once, after ``open``."""
        raise NotImplementedError


class SyncPeer(Peer):
    """A peer with a synchronous interface."""

    def sender(self, channel: str) -> Callable[[Message], Any]:
        """Return a function that sends a message to a channel."""
        raise NotImplementedError

    def receiver(self, channel: str, wait: bool) -> Callable[[], Any]:
        """Return a function that takes a message from a channel. Without ``wait``, a message is already there."""
        raise NotImplementedError

    def group_add(self, group: str, channel: str) -> None:
        raise NotImplementedError

    def group_send(self, group: str, message: Message) -> None:
        raise NotImplementedError

    def pairs(self, times: int, message: Message) -> None:
        send, receive = self.sender(CHANNEL), self.receiver(CHANNEL, wait=False)
        for _ in range(times):
            send(message)
            receive()

    def timed_pairs(self, times: int, message: Message) -> List[int]:
        send, receive, taken = self.sender(CHANNEL), self.receiver(CHANNEL, wait=False), []
        for _ in range(times):
            start = now()
            send(message)
            receive()
            taken.append(now() - start)
        return taken

    def timed_calls(self, seconds: float, message: Message) -> List[int]:
        send, receive = self.sender(CHANNEL), self.receiver(CHANNEL, wait=False)
        taken: List[int] = []
        received = now()
        end = received + seconds * 1e9
        while received < end:
            start = now()
            send(message)
            sent = now()
            receive()
            received = now()
            taken += (sent - start, received - sent)
        return taken

    def send_all(self, channel: str, times: int, message: Message) -> None:
        send = self.sender(channel)
        for _ in range(times):
            send(message)

    def receive_all(self, channel: str, times: int) -> None:
        receive = self.receiver(channel, wait=True)
        for _ in range(times):
            receive()

    def ask(self, times: int, message: Message) -> List[int]:
        send, receive, taken = self.sender(PING), self.receiver(PONG, wait=True), []
        for _ in range(times):
            start = now()
            send(message)
            receive()
            taken.append(now() - start)
        return taken

    def answer(self, times: int, message: Message) -> None:
        receive, send = self.receiver(PING, wait=True), self.sender(PONG)
        for _ in range(times):
            receive()
            send(message)

    def join(self, count: int) -> None:
        for _ in range(count):
            channel = f"member.{os.getpid()}!{len(self.members)}"
            self.group_add(GROUP, channel)
            self.members.append(channel)

    def gather(self) -> int:
        receive = self.receiver(f"member.{os.getpid()}!", wait=True)
        for _ in self.members:
            receive()
        return now()

    def announce(self, message: Message) -> Tuple[int, int]:
        start = now()
        self.group_send(GROUP, message)
        return start, now()

    def wait(self, count: int) -> None:
        self.receiver(CHANNEL, wait=True)()


class AsyncPeer(Peer):
    """A peer with an asynchronous interface, in its own event loop."""

    loop: asyncio.AbstractEventLoop

    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.run(self.connect())

    def close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.run(asyncio.sleep(0))
        self.run(self.disconnect())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def connect(self) -> None:
        """Connect this process, in its event loop."""

    async def disconnect(self) -> None:
        """Disconnect this process."""

    def sender(self, channel: str) -> Callable[[Message], Awaitable[Any]]:
        """Return a coroutine function that sends a message to a channel."""
        raise NotImplementedError

    def receiver(self, channel: str) -> Callable[[], Awaitable[Any]]:
        """Return a coroutine function that waits for a message."""
        raise NotImplementedError

    async def new_channel(self) -> str:
        raise NotImplementedError

    async def group_add(self, group: str, channel: str) -> None:
        raise NotImplementedError

    async def group_send(self, group: str, message: Message) -> None:
        raise NotImplementedError

    def pairs(self, times: int, message: Message) -> None:
        async def work() -> None:
            send, receive = self.sender(CHANNEL), self.receiver(CHANNEL)
            for _ in range(times):
                await send(message)
                await receive()

        self.run(work())

    def timed_pairs(self, times: int, message: Message) -> List[int]:
        async def work() -> List[int]:
            send, receive, taken = self.sender(CHANNEL), self.receiver(CHANNEL), []
            for _ in range(times):
                start = now()
                await send(message)
                await receive()
                taken.append(now() - start)
            return taken

        return list(self.run(work()))

    def timed_calls(self, seconds: float, message: Message) -> List[int]:
        async def work() -> List[int]:
            send, receive = self.sender(CHANNEL), self.receiver(CHANNEL)
            taken: List[int] = []
            received = now()
            end = received + seconds * 1e9
            while received < end:
                start = now()
                await send(message)
                sent = now()
                await receive()
                received = now()
                taken += (sent - start, received - sent)
            return taken

        return list(self.run(work()))

    def send_all(self, channel: str, times: int, message: Message) -> None:
        async def work() -> None:
            send = self.sender(channel)
            for _ in range(times):
                await send(message)

        self.run(work())

    def receive_all(self, channel: str, times: int) -> None:
        async def work() -> None:
            receive = self.receiver(channel)
            for _ in range(times):
                await receive()

        self.run(work())

    def ask(self, times: int, message: Message) -> List[int]:
        async def work() -> List[int]:
            send, receive, taken = self.sender(PING), self.receiver(PONG), []
            for _ in range(times):
                start = now()
                await send(message)
                await receive()
                taken.append(now() - start)
            return taken

        return list(self.run(work()))

    def answer(self, times: int, message: Message) -> None:
        async def work() -> None:
            receive, send = self.receiver(PING), self.sender(PONG)
            for _ in range(times):
                await receive()
                await send(message)

        self.run(work())

    def join(self, count: int) -> None:
        async def work() -> None:
            for _ in range(count):
                channel = await self.new_channel()
                await self.group_add(GROUP, channel)
                self.members.append(channel)

        self.run(work())

    def arm(self) -> None:
        async def one(channel: str) -> int:
            await self.receiver(channel)()
            return now()

        self.waiting = [self.loop.create_task(one(channel)) for channel in self.members]
        self.run(asyncio.sleep(SETTLE))

    def gather(self) -> int:
        async def work() -> int:
            return max(await asyncio.gather(*self.waiting))

        return int(self.run(work()))

    def announce(self, message: Message) -> Tuple[int, int]:
        async def work() -> Tuple[int, int]:
            start = now()
            await self.group_send(GROUP, message)
            return start, now()

        start, end = self.run(work())
        return start, end

    def wait(self, count: int) -> None:
        async def work() -> None:
            await asyncio.gather(*[self.receiver(await self.new_channel())() for _ in range(count)])

        self.run(work())
