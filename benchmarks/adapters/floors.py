"""The lower bounds ("floors"). Each measures one part that every layer of this kind needs."""

from __future__ import annotations

import asyncio
import mmap
import os
from typing import Any, Callable, List

import msgpack
import posix_ipc

from asgi_ipc.codec import decode, encode

from .base import CHANNELS, PING, PONG, Message, Peer, SyncPeer, now

#: Bytes of memory to copy into and out of.
SIZE = 4 * 1024 * 1024
#: Offset of the copies: not at the start of a page or of a cache line.
START = 4096 + 24


class Floor(Peer):
    """Acquire and release a semaphore twice, encode and decode the message, copy it into memory and out."""

    def open(self) -> None:
        name = f"/{self.place.prefix}"
        self.semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=1)
        self.semaphore.unlink()
        self.memory = mmap.mmap(-1, SIZE)

    def close(self) -> None:
        self.semaphore.close()
        self.memory.close()

    def pairs(self, times: int, message: Message) -> None:
        acquire, release, data = self.semaphore.acquire, self.semaphore.release, self.memory
        for _ in range(times):
            body = encode(message)
            end = START + len(body)
            acquire()
            data[START:end] = body
            release()
            acquire()
            taken = data[START:end]
            release()
            decode(taken)


class Codec(Peer):
    """Encode and decode the message with msgpack, without checks."""

    def pairs(self, times: int, message: Message) -> None:
        pack, unpack = msgpack.packb, msgpack.unpackb
        for _ in range(times):
            unpack(pack(message))


class Copies(Peer):
    """Copy the content of a message into memory and out."""

    def open(self) -> None:
        self.memory = mmap.mmap(-1, SIZE)

    def close(self) -> None:
        self.memory.close()

    def pairs(self, times: int, message: Message) -> None:
        body, data = message["body"], self.memory
        end = START + len(body)
        for _ in range(times):
            data[START:end] = body
            data[START:end]


class Fifos(SyncPeer):
    """Send one byte through each of two FIFOs: the cost of waking another process and of being woken."""

    def path(self, channel: str) -> str:
        return os.path.join(self.place.folder, f"{self.place.prefix}.{channel}")

    def prepare(self) -> None:
        for channel in CHANNELS:
            os.mkfifo(self.path(channel))

    def remove(self) -> None:
        for channel in CHANNELS:
            os.unlink(self.path(channel))

    def open(self) -> None:
        self.fifos = {channel: os.open(self.path(channel), os.O_RDWR) for channel in CHANNELS}

    def close(self) -> None:
        for fifo in self.fifos.values():
            os.close(fifo)

    def sender(self, channel: str) -> Callable[[Message], Any]:
        fifo, write = self.fifos[channel], os.write
        return lambda message: write(fifo, b"!")

    def receiver(self, channel: str, wait: bool) -> Callable[[], Any]:
        fifo, read = self.fifos[channel], os.read
        return lambda: read(fifo, 1)


class AsyncFifos(Fifos):
    """The same with an event loop that watches the FIFOs."""

    def open(self) -> None:
        super().open()
        self.loop = asyncio.new_event_loop()
        for fifo in self.fifos.values():
            os.set_blocking(fifo, False)

    def close(self) -> None:
        self.loop.close()
        super().close()

    def ask(self, times: int, message: Message) -> List[int]:
        taken: List[int] = []
        start = now()
        os.write(self.fifos[PING], b"!")

        def on_readable() -> None:
            nonlocal start
            os.read(self.fifos[PONG], 1)
            taken.append(now() - start)
            if len(taken) == times:
                self.loop.stop()
                return
            start = now()
            os.write(self.fifos[PING], b"!")

        self.watch(PONG, on_readable)
        return taken

    def answer(self, times: int, message: Message) -> None:
        left = times

        def on_readable() -> None:
            nonlocal left
            os.read(self.fifos[PING], 1)
            os.write(self.fifos[PONG], b"!")
            left -= 1
            if not left:
                self.loop.stop()

        self.watch(PING, on_readable)

    def watch(self, channel: str, on_readable: Callable[[], None]) -> None:
        self.loop.add_reader(self.fifos[channel], on_readable)
        try:
            self.loop.run_forever()
        finally:
            self.loop.remove_reader(self.fifos[channel])
