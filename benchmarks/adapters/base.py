"""
What every adapter offers: the loops that are timed, written once for peers that are called and once for peers that are
awaited.

An adapter says how to make, open and remove its peer, and how to send, receive and (where the peer has them) join and
send to groups. The loops call what ``sender`` and ``receiver`` return directly, so that no wrapper of ours is measured.

A peer is made in one process (``prepare``), opened in each process that uses it (``open``, after the fork), and
removed by the one that made it (``remove``).
"""

from __future__ import annotations

__all__ = ["CHANNEL", "CHANNELS", "PING", "PONG", "AsyncPeer", "Peer", "Place", "SyncPeer", "Unfit", "message_of"]

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import Any, Awaitable, Callable, Coroutine, Dict, List, Tuple

#: The channels there are, but for those of unread messages and of group members.
CHANNEL, PING, PONG = CHANNELS = ("channel", "ping", "pong")
GROUP = "group"
#: Seconds that awaited receives get to settle down in before anybody sends.
SETTLE = 0.2

Message = Dict[str, Any]
now = time.perf_counter_ns


class Unfit(Exception):
    """A peer cannot take part; the text says why."""


def message_of(payload: int) -> Message:
    """A message with so many bytes of content."""
    return {"body": b"x" * payload}


@dataclass(frozen=True)
class Place:
    """Where a peer keeps what it keeps: a prefix for names, a folder in memory, and the servers that were started."""

    prefix: str
    folder: str
    servers: Dict[str, str] = field(default_factory=dict)


class Peer:
    """What the workloads call. Each loop runs as often as it is told and returns times in ns where it returns any."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.members: List[str] = []

    @classmethod
    def check(cls) -> None:
        """Raise ``Unfit`` with the reason if what is installed will not do."""

    def prepare(self) -> None:
        """Make what several processes share, before any of them is forked."""

    def remove(self) -> None:
        """Undo ``prepare``, and remove all that was left in memory."""

    def open(self) -> None:
        """Connect this process."""

    def close(self) -> None:
        """Disconnect this process."""

    def listen(self, channel: str) -> None:
        """Be about to receive from a channel: some peers keep nothing for those who come later."""

    def pairs(self, times: int, message: Message) -> None:
        """Send a message and receive it again."""
        raise NotImplementedError

    def timed_pairs(self, times: int, message: Message) -> List[int]:
        """The time of each pair."""
        raise NotImplementedError

    def send_all(self, channel: str, times: int, message: Message) -> None:
        """Send a message so often."""
        raise NotImplementedError

    def receive_all(self, channel: str, times: int) -> None:
        """Wait for so many messages."""
        raise NotImplementedError

    def ask(self, times: int, message: Message) -> List[int]:
        """The time of each round trip: a message to ``PING``, and the answer from ``PONG``."""
        raise NotImplementedError

    def answer(self, times: int, message: Message) -> None:
        """Send a message to ``PONG`` for each from ``PING``."""
        raise NotImplementedError

    def join(self, count: int) -> None:
        """Make so many channels of this process members of the group."""
        raise NotImplementedError

    def arm(self) -> None:
        """Let all members of this process wait for a message."""

    def gather(self) -> int:
        """When the last member of this process had its message."""
        raise NotImplementedError

    def announce(self, message: Message) -> Tuple[int, int]:
        """Send to the group: when it began, and when it was done."""
        raise NotImplementedError

    def wait(self, count: int) -> None:
        """Wait for ever, on so many channels."""
        raise NotImplementedError


class SyncPeer(Peer):
    """A peer that is called."""

    def sender(self, channel: str) -> Callable[[Message], Any]:
        """What sends a message to a channel."""
        raise NotImplementedError

    def receiver(self, channel: str, wait: bool) -> Callable[[], Any]:
        """What takes a message from a channel; without ``wait``, one is there already."""
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
    """A peer that is awaited, in an event loop that it has for itself."""

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
        """Make what this process needs, in its loop."""

    async def disconnect(self) -> None:
        """Undo that."""

    def sender(self, channel: str) -> Callable[[Message], Awaitable[Any]]:
        """What sends a message to a channel when awaited."""
        raise NotImplementedError

    def receiver(self, channel: str) -> Callable[[], Awaitable[Any]]:
        """What waits for a message when awaited."""
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
