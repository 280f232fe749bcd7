"""Workers that fork: one of the two processes goes on with what the parent owned, and the other one ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

from helpers.accounts import Message

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer

from .workers import GROUP, Worker

#: Seconds for which a generation receives before the fork, and for which a receive blocks.
TURN = 0.1
BLOCK_TIMEOUT = 0.02


class Relay(Worker):
    """
    Receives from an inbox like ``Inbox``, and forks all the time.

    The forked process receives at least once, which makes the inbox shared. Then it or its parent ends: by a kill, by
    itself, or after closing the layer. The other one goes on, with the same journal. The two never receive at the same
    time, as the journal could not tell which of them got a message first.
    """

    receives = True

    def work(self) -> None:
        self.left = self.open()  # the members of the group that have not received a last message
        self.journal.write("ready")
        while self.left:
            self.receive_for(TURN)
            if self.left:
                self._fork()
        self.close()

    def _fork(self) -> None:
        parent_goes_on, how = self.random.random() < 0.3, self.random.choice((self._kill, self._exit, self._close))
        self.journal.write("forked")
        heard, say = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(heard)
            self.receive_for(0)
            os.write(say, json.dumps(self.left).encode())
            os.close(say)
            if parent_goes_on:
                how()
            return
        os.close(say)
        with open(heard, "rb") as pipe:
            left = pipe.read()
        if not parent_goes_on:
            how()
        self.left = json.loads(left)
        os.waitpid(pid, 0)

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _exit(self) -> None:
        os._exit(0)

    def _close(self) -> None:
        self.close()
        os._exit(0)

    # -- what differs between the front ends -------------------------------------------------------------------------

    def open(self) -> list[str]:
        """Open the layer, own an inbox, and return the members of the group in it."""
        self.inbox = f"{self.name}!"
        self.layer = IPCChannelLayer(block_timeout=BLOCK_TIMEOUT, **self.options)
        self.layer.receive([self.inbox])
        members = [f"{self.inbox}a", f"{self.inbox}b"]
        for member in members:
            self.layer.group_add(GROUP, member)
            self.journal.write("joined", member)
        return members

    def receive_for(self, seconds: float) -> None:
        """Receive for so many seconds, and at least once."""
        end = time.monotonic() + seconds
        while True:
            channel, message = self.layer.receive([self.inbox], block=True)
            if message is not None:
                self.note(channel or "", message)
            if not self.left or time.monotonic() >= end:
                return

    def note(self, channel: str, message: Message) -> None:
        """Note a message in the journal, or that it is the last one."""
        if "last" in message:
            self.left.remove(channel)
        else:
            self.journal.got(channel, message)

    def close(self) -> None:
        """Close the layer."""
        self.layer.close()


class ServerRelay(Relay):
    """The same with channels that ``new_channel`` made, in an event loop that ends before each fork."""

    def open(self) -> list[str]:
        self.channels = AsyncIPCChannelLayer(**self.options)
        return asyncio.run(self._open())

    async def _open(self) -> list[str]:
        members = [await self.channels.new_channel() for _ in range(2)]
        for member in members:
            await self.channels.group_add(GROUP, member)
            self.journal.write("joined", member)
        return members

    def receive_for(self, seconds: float) -> None:
        asyncio.run(self._receive_for(seconds))

    async def _receive_for(self, seconds: float) -> None:
        await asyncio.wait([asyncio.ensure_future(self._consume(each)) for each in self.left], timeout=seconds)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # which takes no message

    async def _consume(self, channel: str) -> None:
        while channel in self.left:
            self.note(channel, await self.channels.receive(channel))

    def close(self) -> None:
        asyncio.run(self.channels.close())
