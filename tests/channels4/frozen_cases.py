"""Tests of consumers while time is frozen, as a project writes them. ``test_frozen_time`` runs them, with a limit."""

from __future__ import annotations

import asyncio
import datetime
import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import time_machine
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from freezegun import freeze_time

from asgi_ipc import IPCChannelLayer

from .application import application

pytestmark = pytest.mark.usefixtures("ipc_channel_layers")

NOON = datetime.datetime(2012, 1, 14, 12, tzinfo=datetime.timezone.utc)
FREEZERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "freezegun": lambda: freeze_time(NOON),
    "freezegun-tick": lambda: freeze_time(NOON, tick=True),
    "freezegun-real-asyncio": lambda: freeze_time(NOON, real_asyncio=True),
    "time-machine": lambda: time_machine.travel(NOON),
    "time-machine-still": lambda: time_machine.travel(NOON, tick=False),
}


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in a new event loop. Its timers may be frozen, so it has no limit."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def use_sockets(path: str, script: IPCChannelLayer) -> None:
    sockets = [WebsocketCommunicator(application, f"{path}a/") for _ in range(2)]
    for socket in sockets:
        assert (await socket.connect())[0]
        assert "channel" in await socket.receive_json_from()
    await sockets[0].send_json_to({"text": "hello"})
    for socket in sockets:
        assert (await socket.receive_json_from())["said"] == "hello"
    script.send_group("a", {"type": "say", "text": str(datetime.date.today())})
    for socket in sockets:
        assert (await socket.receive_json_from())["said"] == "2012-01-14"
    for socket in sockets:
        await socket.disconnect()
    assert await get_channel_layer().group_channels("a") == []


@pytest.mark.parametrize("path", ["/async-json/", "/sync-json/"])
@pytest.mark.parametrize("freezer", FREEZERS)
def test_time_is_frozen_before_the_loop_begins(path: str, freezer: str, ipc_layer: IPCChannelLayer) -> None:
    with FREEZERS[freezer]():
        asyncio.run(use_sockets(path, ipc_layer))


@pytest.mark.parametrize("path", ["/async-json/", "/sync-json/"])
@pytest.mark.parametrize("freezer", FREEZERS)
@in_loop
async def test_time_is_frozen_within_a_loop(path: str, freezer: str, ipc_layer: IPCChannelLayer) -> None:
    with FREEZERS[freezer]():
        await use_sockets(path, ipc_layer)


@in_loop
@freeze_time("2012-01-14")
async def test_the_decorator(ipc_layer: IPCChannelLayer) -> None:
    await use_sockets("/async-json/", ipc_layer)
