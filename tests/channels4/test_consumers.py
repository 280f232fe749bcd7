"""Channels' consumers of every kind on the layer: groups, channels, full channels, and their end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.processes import LIMIT

from asgi_ipc import IPCChannelLayer

pytest.importorskip("channels.layers", reason="needs Channels 4: tox -e channels4")
pytest.importorskip("daphne", reason="needs daphne, which channels.testing imports: tox -e channels4")

from channels.layers import get_channel_layer
from channels.testing import ApplicationCommunicator, HttpCommunicator, WebsocketCommunicator

from .application import Plain, PlainSync, application
from .loops import eventually, in_loop

pytestmark = pytest.mark.usefixtures("ipc_channel_layers")

plain = pytest.mark.parametrize("consumer", [Plain, PlainSync])
text_paths = pytest.mark.parametrize("path", ["/async-text/", "/sync-text/"])
json_paths = pytest.mark.parametrize("path", ["/async-json/", "/sync-json/"])


async def joined(consumer: Any) -> ApplicationCommunicator:
    """Return a consumer that has joined the group ``g``."""
    communicator = ApplicationCommunicator(consumer.as_asgi(), {"type": "test"})
    await communicator.send_input({"type": "test.join", "group": "g"})
    answer = await communicator.receive_output(LIMIT)
    communicator.channel = answer["channel"]
    return communicator


@plain
@in_loop
async def test_events_from_a_group_and_to_the_channel_come_in_order(consumer: Any) -> None:
    layer = get_channel_layer()
    communicator = await joined(consumer)
    for n in range(20):
        if n % 2:
            await layer.group_send("g", {"type": "test.event", "n": n})
        else:
            await layer.send(communicator.channel, {"type": "test.event", "n": n})
    assert [(await communicator.receive_output(LIMIT))["n"] for _ in range(20)] == list(range(20))
    await communicator.send_input({"type": "test.stop"})
    await communicator.wait(LIMIT)


@plain
@in_loop
async def test_a_consumer_that_left_the_group_receives_no_more_events(consumer: Any) -> None:
    layer = get_channel_layer()
    communicator = await joined(consumer)
    await communicator.send_input({"type": "test.leave", "group": "g"})
    assert await communicator.receive_output(LIMIT) == {"type": "left"}
    assert await layer.group_channels("g") == []
    await layer.group_send("g", {"type": "test.event", "n": 0})
    await layer.send(communicator.channel, {"type": "test.event", "n": 1})
    assert await communicator.receive_output(LIMIT) == {"type": "event", "n": 1}
    await communicator.send_input({"type": "test.stop"})
    await communicator.wait(LIMIT)


@plain
@in_loop
async def test_an_event_ends_the_consumer(consumer: Any) -> None:
    """A handler of a layer's message raises ``StopConsumer`` while a receive from the client is pending."""
    communicator = await joined(consumer)
    await get_channel_layer().send(communicator.channel, {"type": "test.stop"})
    await communicator.wait(LIMIT)


@plain
@in_loop
async def test_a_cancelled_consumer_loses_no_message(consumer: Any) -> None:
    """Its receive is pending when it is cancelled; a later message goes to the channel's next receiver."""
    layer = get_channel_layer()
    communicator = await joined(consumer)
    communicator.stop()
    await asyncio.sleep(0)
    await layer.send(communicator.channel, {"type": "test.event", "n": 7})
    assert (await layer.receive(communicator.channel))["n"] == 7


@plain
@in_loop
async def test_an_event_without_a_handler_is_an_error_of_that_consumer_only(consumer: Any) -> None:
    layer = get_channel_layer()
    wrong, right = await joined(consumer), await joined(consumer)
    await layer.send(wrong.channel, {"type": "no.such"})
    with pytest.raises(ValueError, match=r"no\.such"):
        await wrong.wait(LIMIT)
    await layer.send(right.channel, {"type": "test.event", "n": 1})
    assert await right.receive_output(LIMIT) == {"type": "event", "n": 1}
    right.stop()


@text_paths
@in_loop
async def test_sockets_join_and_leave_their_groups(path: str) -> None:
    layer = get_channel_layer()
    sockets = [WebsocketCommunicator(application, path) for _ in range(3)]
    for socket in sockets:
        assert await socket.connect(LIMIT) == (True, None)
    assert len(await layer.group_channels("texts")) == 3
    await sockets[0].send_to(text_data="grüß dich")
    await sockets[1].send_to(bytes_data=b"\x00\xff")
    for socket in sockets:
        assert {await socket.receive_from(LIMIT), await socket.receive_from(LIMIT)} == {"grüß dich", b"\x00\xff"}
    for left, socket in enumerate(reversed(sockets)):
        assert len(await layer.group_channels("texts")) == 3 - left
        await socket.disconnect(timeout=LIMIT)
    assert await layer.group_channels("texts") == []


async def entered(path: str, room: str) -> WebsocketCommunicator:
    """Return a socket that has entered a room."""
    socket = WebsocketCommunicator(application, f"{path}{room}/")
    assert (await socket.connect(LIMIT))[0]
    socket.channel = (await socket.receive_json_from(LIMIT))["channel"]
    return socket


@json_paths
@in_loop
async def test_rooms_are_separate(path: str) -> None:
    here, also_here, elsewhere = await entered(path, "a"), await entered(path, "a"), await entered(path, "b")
    await here.send_json_to({"text": "hello"})
    for socket in (here, also_here):
        assert (await socket.receive_json_from(LIMIT))["said"] == "hello"
    await elsewhere.send_json_to({"text": "over here"})
    assert (await elsewhere.receive_json_from(LIMIT))["said"] == "over here"
    for socket in (here, also_here, elsewhere):
        assert await socket.receive_nothing(0.01, 0.01)
        await socket.disconnect(timeout=LIMIT)


@json_paths
@in_loop
async def test_many_sockets_receive_everything_in_the_same_order(path: str) -> None:
    sockets = [await entered(path, "a") for _ in range(20)]
    for number, socket in enumerate(sockets):
        await socket.send_json_to({"text": f"{number}"})
    received: list[list[str]] = []
    for socket in sockets:
        received.append([(await socket.receive_json_from(LIMIT))["said"] for _ in sockets])
    assert sorted(received[0], key=int) == [f"{number}" for number in range(20)]
    assert received == [received[0]] * 20
    for socket in sockets:
        await socket.disconnect(timeout=LIMIT)


@json_paths
@in_loop
async def test_full_channels_raise_the_exception_of_channels(path: str) -> None:
    socket = await entered(path, "a")
    await socket.send_json_to({"fill": "not-received-from"})
    assert await socket.receive_json_from(LIMIT) == {"sent": get_channel_layer().capacity}
    await socket.disconnect(timeout=LIMIT)


@in_loop
async def test_exceptions_belong_to_channels_and_to_the_layer() -> None:
    import channels.exceptions

    import asgi_ipc

    layer = get_channel_layer()
    for _ in range(layer.capacity):
        await layer.send("full", {})
    for kind in (channels.exceptions.ChannelFull, layer.ChannelFull, asgi_ipc.ChannelFull):
        with pytest.raises(kind, match="full"):
            await layer.send("full", {})
    for kind in (channels.exceptions.MessageTooLarge, layer.MessageTooLarge, asgi_ipc.MessageTooLarge):
        with pytest.raises(kind):
            await layer.send("large", {"bytes": b"x" * (64 << 20)})


@json_paths
@in_loop
async def test_a_script_in_another_thread_sends_to_sockets(path: str, ipc_prefix: str) -> None:
    """The script uses the synchronous front end, as a script in another process would."""
    sockets = [await entered(path, "a") for _ in range(3)]

    def script() -> None:
        with IPCChannelLayer(ipc_prefix) as layer:
            assert sorted(layer.group_channels("a")) == sorted(socket.channel for socket in sockets)
            layer.send_group("a", {"type": "say", "text": "to all"})
            layer.send(sockets[1].channel, {"type": "say", "text": "to one"})

    await asyncio.to_thread(script)
    for socket in sockets:
        assert (await socket.receive_json_from(LIMIT))["said"] == "to all"
    assert (await sockets[1].receive_json_from(LIMIT))["said"] == "to one"
    for socket in sockets:
        assert await socket.receive_nothing(0.01, 0.01)
        await socket.disconnect(timeout=LIMIT)


@json_paths
@in_loop
async def test_more_sockets_in_one_process_than_the_capacity(path: str, ipc_layer: IPCChannelLayer) -> None:
    """Each socket's channel has its own capacity, also for a group send from a script."""
    sockets = [await entered(path, "a") for _ in range(ipc_layer.capacity + 20)]
    for n in range(3):
        ipc_layer.send_group("a", {"type": "say", "text": f"{n}"})
    for socket in sockets:
        assert [(await socket.receive_json_from(LIMIT))["said"] for _ in range(3)] == ["0", "1", "2"]
        await socket.disconnect(timeout=LIMIT)
    assert ipc_layer.group_channels("a") == []


@in_loop
async def test_a_request_waits_for_an_event() -> None:
    layer = get_channel_layer()
    poll = HttpCommunicator(application, "GET", "/poll/")
    answer = asyncio.ensure_future(poll.get_response(LIMIT))
    (channel,) = await eventually(lambda: layer.group_channels("polls"))
    assert channel.startswith("poll.")
    await layer.group_send("polls", {"type": "say", "text": "now"})
    assert (await answer)["body"] == b"now"
    assert await layer.group_channels("polls") == []
