"""``await_many_dispatch``, the loop of every consumer: several pending receives, one handled at a time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

pytest.importorskip("channels.layers", reason="needs Channels 4: tox -e channels4")

from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer
from channels.utils import await_many_dispatch

from .loops import in_loop

pytestmark = pytest.mark.usefixtures("ipc_channel_layers")


@in_loop
async def test_messages_that_arrive_during_a_dispatch_are_dispatched_next() -> None:
    layer = get_channel_layer()
    first, second = await layer.new_channel(), await layer.new_channel()
    handled: list[int] = []

    async def dispatch(message: dict[str, Any]) -> None:
        handled.append(message["n"])
        if message["n"] == 0:  # the receive on ``second`` is pending
            for n in (1, 2, 3):
                await layer.send(second, {"n": n})
            await asyncio.sleep(0.05)
            assert handled == [0]
        if message["n"] == 3:
            raise StopConsumer

    await layer.send(first, {"n": 0})
    with pytest.raises(StopConsumer):
        await await_many_dispatch([partial(layer.receive, first), partial(layer.receive, second)], dispatch)
    assert handled == [0, 1, 2, 3]


@in_loop
async def test_many_channels_each_keep_their_order() -> None:
    layer = get_channel_layer()
    channels = [await layer.new_channel() for _ in range(10)]
    handled: dict[int, list[int]] = {number: [] for number in range(10)}

    async def dispatch(message: dict[str, Any]) -> None:
        handled[message["from"]].append(message["n"])
        await asyncio.sleep(0)
        if all(len(found) == 20 for found in handled.values()):
            raise StopConsumer

    task = asyncio.ensure_future(
        await_many_dispatch([partial(layer.receive, channel) for channel in channels], dispatch)
    )
    for n in range(20):
        for number, channel in enumerate(channels):
            await layer.send(channel, {"from": number, "n": n})
        await asyncio.sleep(0)
    with pytest.raises(StopConsumer):
        await task
    assert handled == {number: list(range(20)) for number in range(10)}


@pytest.mark.parametrize("turns", range(6))
@in_loop
async def test_a_receive_that_is_cancelled_at_the_end_loses_no_message(turns: int) -> None:
    """
    The dispatch sends to the channel of the other pending receive, and ends ``turns`` loop steps later.

    Each message must then either be the result of that receive or still be in the channel.
    """
    layer = get_channel_layer()
    first, second = await layer.new_channel(), await layer.new_channel()
    results: list[int] = []

    async def receive_second() -> dict[str, Any]:
        message: dict[str, Any] = await layer.receive(second)
        results.append(message["n"])
        return message

    async def dispatch(message: dict[str, Any]) -> None:
        await layer.send(second, {"n": 1})
        await layer.send(second, {"n": 2})
        for _ in range(turns):
            await asyncio.sleep(0)
        raise StopConsumer

    await layer.send(first, {"n": 0})
    with pytest.raises(StopConsumer):
        await await_many_dispatch([partial(layer.receive, first), receive_second], dispatch)
    left = [(await layer.receive(second))["n"] for _ in range(2 - len(results))]
    assert results + left == [1, 2]


@pytest.mark.parametrize("gap", [0, 0.001, 0.02])
@in_loop
async def test_consumers_that_are_cancelled_in_turn_lose_no_message(gap: float) -> None:
    """Each consumer reads the same channel and is cancelled while it waits; the next one continues."""
    layer = get_channel_layer()
    received: list[int] = []  # not the dispatched ones: a consumer may be cancelled in between

    async def receive() -> dict[str, Any]:
        message: dict[str, Any] = await layer.receive("shared")
        received.append(message["n"])
        return message

    async def dispatch(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)

    async def send_all() -> None:
        for n in range(100):
            await layer.send("shared", {"n": n})
            await asyncio.sleep(0.001 if n % 5 else 0)

    sender = asyncio.ensure_future(send_all())
    while not sender.done() or len(received) < 100:
        consumer = asyncio.ensure_future(await_many_dispatch([receive], dispatch))
        await asyncio.sleep(gap)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        await asyncio.sleep(0.001)
    assert received == list(range(100))
