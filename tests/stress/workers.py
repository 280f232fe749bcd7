"""The workers of the scenarios. Each runs in a process of its own and writes a journal."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
import traceback
from typing import Any, ClassVar

from helpers.accounts import EVERYONE, Journal, Message

from asgi_ipc import AsyncIPCChannelLayer, ChannelFull, IPCChannelLayer

#: The group in which every inbox and every channel of a server is.
GROUP = "all"
#: Channels from which several processes receive, and how many messages each can hold.
TASKS = tuple(f"tasks-{number}" for number in range(3))
TASKS_CAPACITY = 500
#: Options of all layers. The members of the group must never be full: such a message would count as lost.
OPTIONS: dict[str, Any] = {
    "message_memory": 64 << 20,
    "group_memory": 1 << 20,
    "expiry": 86400,
    "capacity": 10**6,
    "channel_capacity": {"tasks-*": TASKS_CAPACITY},
}
#: Seconds for which a receiver blocks, at most.
BLOCK_TIMEOUT = 1.0
#: Seconds before a message that was refused is sent again.
RETRY = 0.002
#: Bytes of the messages.
SIZES = (0, 20, 100, 1000)
#: Each consumer of a server answers one of so many messages.
ANSWERED = 5
#: The number of CPU-bound threads of a busy process.
BUSY_THREADS = 4


class Worker:
    """
    One process. A subclass's ``work`` runs until SIGTERM, or until the process has received a last message.

    ``options`` are those of the layer, beside ``OPTIONS``; ``settings`` those of the worker.
    """

    #: Whether the worker ends with a last message, instead of with SIGTERM.
    receives: ClassVar[bool] = False
    #: Whether it receives from channels from which others receive, too.
    shares: ClassVar[bool] = False

    def __init__(self, name: str, prefix: str, directory: str, options: dict[str, Any], settings: Any) -> None:
        self.journal = Journal(directory, name)
        self.name, self.settings = name, settings
        self.options = {"prefix": prefix, **OPTIONS, **options}
        self.random = random.Random(name)
        self.told_to_stop = False

    def run(self) -> None:
        """Run the worker in this process, and note how it ended."""
        signal.signal(signal.SIGTERM, self._stop)
        if "nice" in self.settings:
            os.nice(self.settings["nice"])
        try:
            self.work()
            self.journal.write("end")
        except BaseException:
            self.journal.write("wrong", traceback.format_exc())

    def _stop(self, *_: object) -> None:
        self.told_to_stop = True

    def work(self) -> None:
        raise NotImplementedError

    def pause(self) -> float:
        """Return the seconds before the next send."""
        return self.random.uniform(*self.settings.get("pause", (0.0, 0.002)))


class Sender(Worker):
    """Sends to the shared channels, and every tenth message to the group."""

    def work(self) -> None:
        with IPCChannelLayer(**self.options) as layer:
            self.journal.write("ready")
            while not self.told_to_stop:
                self.send(layer)
                time.sleep(self.pause())

    def send(self, layer: IPCChannelLayer) -> None:
        size = self.random.choice(SIZES)
        if self.random.random() < self.settings.get("to_group", 0.1):
            message = self.journal.next_message(EVERYONE, size=size)
            self.journal.timed(layer.send_group, GROUP, message)
        else:
            channel = self.random.choice(TASKS)
            message = self.journal.next_message(channel, size=size)
            while not self._is_sent(layer, channel, message):
                time.sleep(RETRY)
        self.journal.did(message)

    def _is_sent(self, layer: IPCChannelLayer, channel: str, message: Message) -> bool:
        try:
            self.journal.timed(layer.send, channel, message)
        except ChannelFull:
            return False
        return True


class BusySender(Sender):
    """The same beside CPU-bound threads of the process."""

    def work(self) -> None:
        for _ in range(BUSY_THREADS):
            threading.Thread(target=spin, daemon=True).start()
        super().work()


class Receiver(Worker):
    """Receives from the shared channels, blocking."""

    receives = shares = True

    def work(self) -> None:
        with IPCChannelLayer(block_timeout=BLOCK_TIMEOUT, **self.options) as layer:
            self.journal.write("ready")
            while True:
                channel, message = self.journal.timed(layer.receive, TASKS, True, may_block=BLOCK_TIMEOUT)
                if message is None:
                    continue
                if "last" in message:
                    return
                self.journal.got(channel, message)


class Inbox(Worker):
    """Receives from an inbox, two channels of which are members of the group, blocking."""

    receives = True

    def work(self) -> None:
        inbox = f"{self.name}!"
        members = [f"{inbox}a", f"{inbox}b"]
        with IPCChannelLayer(block_timeout=BLOCK_TIMEOUT, **self.options) as layer:
            layer.receive([inbox])  # this process owns it from now on
            for member in members:
                layer.group_add(GROUP, member)
                self.journal.write("joined", member)
            self.journal.write("ready")
            while members:
                channel, message = self.journal.timed(layer.receive, [inbox], True, may_block=BLOCK_TIMEOUT)
                if message is None:
                    continue
                if "last" in message:
                    members.remove(channel)
                else:
                    self.journal.got(channel, message)


class Server(Worker):
    """An event loop with a consumer for each of several channels, which are members of the group."""

    receives = True

    def work(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        async with AsyncIPCChannelLayer(**self.options) as layer:
            channels = [await layer.new_channel() for _ in range(self.settings.get("consumers", 4))]
            for channel in channels:
                await layer.group_add(GROUP, channel)
                self.journal.write("joined", channel)
            self.journal.write("ready")
            await asyncio.gather(*(self._consume(layer, *each) for each in enumerate(channels)))

    async def _consume(self, layer: AsyncIPCChannelLayer, number: int, channel: str) -> None:
        sender = f"{self.name}.{number}"  # each consumer sends in order, but not all of them together
        while True:
            message = await layer.receive(channel)
            if "last" in message:
                return
            self.journal.got(channel, message)
            if message["n"] % ANSWERED == 0:
                await self._answer(layer, sender)

    async def _answer(self, layer: AsyncIPCChannelLayer, sender: str) -> None:
        channel = self.random.choice(TASKS)
        message = self.journal.next_message(channel, sender)
        while True:
            try:
                await layer.send(channel, message)
            except ChannelFull:
                await asyncio.sleep(RETRY)
            else:
                self.journal.did(message)
                return


class BusyServer(Server):
    """The same beside CPU-bound threads of the process."""

    def work(self) -> None:
        for _ in range(BUSY_THREADS):
            threading.Thread(target=spin, daemon=True).start()
        super().work()


class Pairs(Worker):
    """Sends to a channel of its own and receives from it without a pause: it is in a critical section very often."""

    def work(self) -> None:
        number = 0
        with IPCChannelLayer(**self.options) as layer:
            self.journal.write("ready")
            while not self.told_to_stop:
                number += 1
                self.journal.timed(layer.send, self.name, {"n": number})
                received = self.journal.timed(layer.receive, [self.name])
                assert received == (self.name, {"n": number}), (number, received)


class Hog(Worker):
    """Uses all of a CPU, and no layer."""

    def work(self) -> None:
        self.journal.write("ready")
        while not self.told_to_stop:
            pass


def spin() -> None:
    """Use all of a CPU, in a thread, until the process ends."""
    while True:
        pass
