"""WebSockets of the site of the quick start, over its several workers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("websockets", reason="needs websockets: see tests/docs/requirements.txt")

from websockets.sync.client import ClientConnection, connect

from asgi_ipc import IPCChannelLayer

from .project import LIMIT, PORT, wait_until

URL = f"ws://127.0.0.1:{PORT}/ws/news/"


def processes(layer: IPCChannelLayer) -> set[str]:
    """Return the processes over which the members of the group are spread, as the names of their channels say."""
    return {member.partition("!")[0] for member in layer.group_channels("news")}


@contextlib.contextmanager
def open_sockets(workers: int = 2) -> Iterator[list[ClientConnection]]:
    """
    Open sockets until so many workers serve one, and keep those that are the first of their worker.

    The kernel decides which worker accepts a socket, and a worker that has just been started accepts none yet.
    """
    sockets: list[ClientConnection] = []
    with contextlib.ExitStack() as stack, IPCChannelLayer(prefix="mysite") as layer:

        def reaches_another() -> bool:
            before, members = processes(layer), len(layer.group_channels("news"))
            with contextlib.ExitStack() as one:
                socket = one.enter_context(connect(URL))
                wait_until(lambda: len(layer.group_channels("news")) > members, "the socket to join the group")
                if processes(layer) != before:
                    sockets.append(socket)
                    stack.push(one.pop_all())
                    return True
            wait_until(lambda: len(layer.group_channels("news")) == members, "the socket to leave the group")
            return False

        while len(processes(layer)) < workers:
            wait_until(reaches_another, f"{workers} workers to accept sockets")
        yield sockets


def receive(socket: ClientConnection) -> Any:
    """Return the next message of a socket."""
    return json.loads(socket.recv(LIMIT))
