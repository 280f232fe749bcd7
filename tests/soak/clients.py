"""
The clients of the site, all in one process: ``python -m soak.clients FILE PORT...``.

Each connects to a server, talks for some seconds, leaves, and comes back. It appends lines to a file: ``said SECONDS``
and ``task SECONDS`` for how long its messages took to come back, and ``hung WHAT`` for one that did not, although the
connection was still open. (A task may be lost with the ``runworker`` process that had it: then the line is ``lost``.)
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

#: Clients of each server.
CLIENTS = 4
#: Seconds between two messages of a client, for which it stays, and after which a message counts as lost.
PAUSE, STAY, LIMIT = (0.2, 0.6), (2.0, 40.0), 30.0
#: One of so many messages is a task.
TASKS = 4


class Client:
    """One client. ``out`` is a descriptor of the file."""

    def __init__(self, out: int, port: int, name: str) -> None:
        self._out, self._port, self._name = out, port, name
        self._sent: dict[int, tuple[str, float]] = {}  # what has not come back: its kind, and when it was sent
        self._number = 0

    def _write(self, *words: object) -> None:
        os.write(self._out, (" ".join(map(str, words)) + "\n").encode())

    async def run(self) -> None:
        """Connect, talk and leave, forever."""
        while True:
            try:
                async with connect(f"ws://127.0.0.1:{self._port}/", ping_interval=None, close_timeout=5) as socket:
                    self._sent.clear()
                    reader = asyncio.ensure_future(self._read(socket))
                    try:
                        await self._talk(socket)
                    finally:
                        reader.cancel()
            except (OSError, WebSocketException, asyncio.TimeoutError):  # its worker was killed
                await asyncio.sleep(0.2)

    async def _talk(self, socket: Any) -> None:
        until = time.monotonic() + random.uniform(*STAY)
        while time.monotonic() < until:
            self._number += 1
            kind = "task" if self._number % TASKS == 0 else "said"
            self._sent[self._number] = kind, time.monotonic()
            await socket.send(json.dumps({"name": self._name, "number": self._number, kind: True}))
            await asyncio.sleep(random.uniform(*PAUSE))
            for number, (kind, at) in list(self._sent.items()):
                if time.monotonic() - at > LIMIT:
                    del self._sent[number]
                    self._write("lost" if kind == "task" else "hung", self._name, number)

    async def _read(self, socket: Any) -> None:
        async for text in socket:
            content = json.loads(text)
            if content.get("name") == self._name and content["number"] in self._sent:
                kind, at = self._sent.pop(content["number"])
                self._write(kind, f"{time.monotonic() - at:.6f}")


async def main(path: str, *ports: str) -> None:
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    clients = [Client(out, int(port), f"{port}-{number}") for port in ports for number in range(CLIENTS)]
    await asyncio.gather(*(client.run() for client in clients))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
