"""``await_many_dispatch``, the loop in every consumer: several receives at once, one of them handled, all cancelled."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Dict, List

import pytest

pytest.importorskip("channels.layers", reason="needs Channels 4: tox -e channels4")

from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer
from channels.utils import await_many_dispatch

from .loops import in_loop

pytestmark = pytest.mark.usefixtures("ipc_channel_layers")


@in_loop
async def test_what_arrives_during_a_dispatch_is_dispatched_next() -> None:
    layer = get_channel_layer()
    first, second = await layer.new_channel(), await layer.new_channel()
    handled: List[int] = []

    async def dispatch(message: Dict[str, Any]) -> None:
        handled.append(message["n"])
        if message["n"] == 0:  # both receives are outstanding or about to be: the one on ``second`` is
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
    handled: Dict[int, List[int]] = {number: [] for number in range(10)}

    async def dispatch(message: Dict[str, Any]) -> None:
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
async def test_a_receive_that_is_cancelled_at_the_end_has_taken_nothing(turns: int) -> None:
    """
    The dispatch sends to the channel that the other receive waits on, and ends that many turns of the loop later.

    Then the message was either handed to the loop of the consumer, which had it as a result, or it is still there.
    """
    layer = get_channel_layer()
    first, second = await layer.new_channel(), await layer.new_channel()
    results: List[int] = []

    async def receive_second() -> Dict[str, Any]:
        message: Dict[str, Any] = await layer.receive(second)
        results.append(message["n"])
        return message

    async def dispatch(message: Dict[str, Any]) -> None:
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
async def test_consumers_that_come_and_go_lose_nothing_between_them(gap: float) -> None:
    """One after the other reads the same channel, is cancelled while it waits, and the next one goes on."""
    layer = get_channel_layer()
    received: List[int] = []  # not what was dispatched: a consumer may be cancelled between the two

    async def receive() -> Dict[str, Any]:
        message: Dict[str, Any] = await layer.receive("shared")
        received.append(message["n"])
        return message

    async def dispatch(message: Dict[str, Any]) -> None:
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
