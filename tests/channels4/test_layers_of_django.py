"""``get_channel_layer`` and its settings: aliases, changes, wrong options; threads and forks."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.processes import reap

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer

pytest.importorskip("channels.layers", reason="needs Channels 4: tox -e channels4")

from asgiref.sync import async_to_sync
from channels.layers import channel_layers, get_channel_layer
from django.test.utils import override_settings

from .loops import in_loop


def configured(**aliases: dict[str, Any]) -> Any:
    """Override ``CHANNEL_LAYERS`` with these options for each alias, as a context manager."""
    return override_settings(
        CHANNEL_LAYERS={
            alias: {"BACKEND": "asgi_ipc.AsyncIPCChannelLayer", "CONFIG": options} for alias, options in aliases.items()
        }
    )


def test_options_come_from_the_settings(ipc_prefix: str) -> None:
    options = {"prefix": ipc_prefix, "expiry": 5, "group_expiry": 50, "capacity": 7, "message_memory": 1 << 20}
    with configured(default={**options, "channel_capacity": {"few*": 2}}):
        layer = get_channel_layer()
        assert isinstance(layer, AsyncIPCChannelLayer)
        assert get_channel_layer() is layer
        assert (layer.expiry, layer.group_expiry, layer.capacity) == (5, 50, 7)
        assert {"groups", "flush"} <= set(layer.extensions)
        for _ in range(2):
            async_to_sync(layer.send)("few-places", {})
        with pytest.raises(layer.ChannelFull):
            async_to_sync(layer.send)("few-places", {})
        async_to_sync(layer.close)()


def test_aliases_are_separate_unless_they_share_a_prefix(ipc_prefix: str) -> None:
    with configured(
        default={"prefix": ipc_prefix}, same={"prefix": ipc_prefix}, other={"prefix": f"{ipc_prefix}.other"}
    ):
        default, same, other = (get_channel_layer(alias) for alias in ("default", "same", "other"))
        async_to_sync(default.send)("a", {"n": 1})
        async_to_sync(default.group_add)("g", "a")
        assert async_to_sync(other.group_channels)("g") == []
        assert async_to_sync(same.group_channels)("g") == ["a"]
        assert async_to_sync(same.receive)("a") == {"n": 1}
        with IPCChannelLayer(f"{ipc_prefix}.other") as layer:
            layer.unlink()
        assert get_channel_layer("missing") is None


def test_changed_settings_make_other_layers(ipc_prefix: str) -> None:
    with configured(default={"prefix": ipc_prefix, "capacity": 3}):
        before = get_channel_layer()
        with configured(default={"prefix": ipc_prefix, "capacity": 4}):
            during = get_channel_layer()
            assert (before.capacity, during.capacity) == (3, 4)
            # The previous layer object can still be used, on the same shared memory.
            async_to_sync(before.send)("a", {"n": 1})
            assert async_to_sync(during.receive)("a") == {"n": 1}
        after = get_channel_layer()
        assert after is not before
        assert after.capacity == 3


def test_test_backends_use_test_config(ipc_prefix: str) -> None:
    setting = {
        "BACKEND": "asgi_ipc.AsyncIPCChannelLayer",
        "CONFIG": {"prefix": f"{ipc_prefix}.live"},
        "TEST_CONFIG": {"prefix": ipc_prefix, "expiry": 1},
    }
    with override_settings(CHANNEL_LAYERS={"default": setting}):
        layer = channel_layers.make_test_backend("default")
        assert layer.expiry == 1
        async_to_sync(layer.send)("a", {"n": 1})
        with IPCChannelLayer(ipc_prefix) as sync:
            assert sync.receive(["a"]) == ("a", {"n": 1})


def test_a_layer_can_replace_another(ipc_channel_layer: AsyncIPCChannelLayer) -> None:
    before = channel_layers.set("default", ipc_channel_layer)
    try:
        assert get_channel_layer() is ipc_channel_layer
    finally:
        channel_layers.backends.pop("default")
        if before is not None:
            channel_layers.set("default", before)


@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"prefix": "a/b"}, ValueError, "prefix"),
        ({"prefix": ""}, ValueError, "prefix"),
        ({"prefix": 5}, TypeError, "prefix"),
        ({"capacity": "many"}, TypeError, "capacity"),
        ({"capacity": 0}, ValueError, "capacity"),
        ({"expiry": -1}, ValueError, "expiry"),
        ({"message_memory": 5}, ValueError, "message_memory"),
        ({"channel_capacity": {"a": 0}}, ValueError, "channel_capacity"),
        ({"hosts": [("127.0.0.1", 6379)]}, TypeError, "hosts"),
    ],
)
def test_errors_for_wrong_options_name_the_option(options: dict[str, Any], kind: type, named: str) -> None:
    """They are never a ``KeyError``, which Channels would take for a site without a layer."""
    with configured(default=options), pytest.raises(kind, match=named):
        get_channel_layer()


def test_async_to_sync_from_many_threads(ipc_channel_layers: Any, ipc_layer: IPCChannelLayer) -> None:
    """Each call runs in a new event loop, which is closed afterwards."""
    layer = get_channel_layer()
    threads, each = 8, 10

    def work(number: int) -> int:
        async_to_sync(layer.group_add)("g", f"c{number}")
        for n in range(each):
            async_to_sync(layer.send)(f"c{number}", {"n": n})
        return sum(async_to_sync(layer.receive)(f"c{number}")["n"] for _ in range(each))

    with ThreadPoolExecutor(threads) as executor:
        assert list(executor.map(work, range(threads))) == [sum(range(each))] * threads
    assert sorted(ipc_layer.group_channels("g")) == [f"c{number}" for number in range(threads)]


def test_a_receive_in_one_loop_gets_a_message_sent_in_another(ipc_channel_layers: Any) -> None:
    layer = get_channel_layer()
    received: dict[str, Any] = {}
    waiting = threading.Event()

    async def wait() -> None:
        asyncio.get_running_loop().call_later(0.05, waiting.set)
        received.update(await asyncio.wait_for(layer.receive("a"), 60))

    receiver = threading.Thread(target=asyncio.run, args=(wait(),))
    receiver.start()
    assert waiting.wait(60)
    async_to_sync(layer.send)("a", {"n": 1})
    receiver.join(60)
    assert received == {"n": 1}


@in_loop
async def test_channel_names_are_unique_and_share_the_process_inbox(ipc_channel_layers: Any) -> None:
    layer = get_channel_layer()
    names = [await layer.new_channel() for _ in range(100)]
    assert len(set(names)) == 100
    inboxes = {name.partition("!")[0] for name in names}
    assert len(inboxes) == 1
    assert inboxes.pop().startswith("specific.")
    assert (await layer.new_channel("other")).startswith("other.")


def test_a_layer_works_in_processes_that_fork_after_making_it(
    ipc_channel_layers: Any, ipc_layer: IPCChannelLayer
) -> None:
    """Pre-fork servers do this. Each child gets its own inbox and its own messages."""
    layer = get_channel_layer()
    own_channel = async_to_sync(layer.new_channel)()

    async def child() -> None:
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.send("ready", {"channel": channel})
        message = await asyncio.wait_for(layer.receive(channel), 60)
        await layer.send("answers", {"channel": channel, "n": message["n"]})
        await asyncio.wait_for(layer.receive(channel), 60)

    children = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.run(child())
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    names = [async_to_sync(layer.receive)("ready")["channel"] for _ in children]
    inboxes = {name.partition("!")[0] for name in [*names, own_channel]}
    assert len(inboxes) == 3
    for n, name in enumerate(names):
        async_to_sync(layer.send)(name, {"n": n})
    answers = [async_to_sync(layer.receive)("answers") for _ in children]
    assert {answer["channel"]: answer["n"] for answer in answers} == {name: n for n, name in enumerate(names)}
    assert sorted(ipc_layer.group_channels("g")) == sorted(names)
    async_to_sync(layer.group_send)("g", {"n": "end"})
    assert [reap(pid) for pid in children] == [0, 0]
    assert ipc_layer.group_channels("g") == []
