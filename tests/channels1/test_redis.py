"""asgi_redis's local layer: plain channels use asgi_ipc, groups and reply channels use Redis."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer

from .redis_server import RedisServer
from .servers import Site
from .test_http import assert_full_channel_gives_503


@pytest.fixture
def local_layer(prefix: str, redis: RedisServer) -> Iterator[Any]:
    """asgi_redis's local layer, made directly, with the defaults that it gives to asgi_ipc."""
    from .site.layers import RedisLocalChannelLayer

    layer = RedisLocalChannelLayer(prefix=prefix + ":", hosts=[redis.address], capacity=5, expiry=30)
    yield layer
    layer.local_layer.close()
    layer.connection(0).connection_pool.disconnect()


def test_local_layer_is_an_ipc_channel_layer(local_layer: Any, prefix: str) -> None:
    """It makes an ``IPCChannelLayer`` and uses it for channel names without ``!`` and ``?``."""
    assert type(local_layer.local_layer) is IPCChannelLayer
    assert repr(local_layer.local_layer) == f"IPCChannelLayer(prefix={prefix!r})"
    with IPCChannelLayer(prefix) as script:
        local_layer.send("plain", {"text": "hello", "bytes": b"\x00\xff"})
        assert script.receive(["plain"]) == ("plain", {"text": "hello", "bytes": b"\x00\xff"})
        script.send("plain", {"text": "hello"})
        assert local_layer.receive(["plain"]) == ("plain", {"text": "hello"})


def test_plain_channels_use_shared_memory_and_the_others_redis(local_layer: Any, redis: RedisServer) -> None:
    """Plain channels are in shared memory, the others on Redis; one ``receive`` may name both kinds."""
    reply = local_layer.new_channel("reply?")
    local_layer.send("plain", {"number": 1})
    local_layer.send(reply, {"number": 2, "bytes": b"\x00\xff"})
    local_layer.send("process!one", {"number": 3})
    assert local_layer.local_layer.global_statistics()["messages_pending"] == 1
    wanted = ["plain", reply, "process!"]
    received = [local_layer.receive(wanted) for _ in wanted]
    assert sorted(received, key=lambda pair: pair[1]["number"]) == [
        ("plain", {"number": 1}),
        (reply, {"number": 2, "bytes": b"\x00\xff"}),
        ("process!one", {"number": 3}),
    ]
    assert local_layer.receive(wanted) == (None, None)


def test_groups_are_on_redis(local_layer: Any) -> None:
    """Groups are on Redis and may contain channels of both kinds."""
    for channel in ("plain", "process!one"):
        local_layer.group_add("group", channel)
    assert sorted(local_layer.group_channels("group")) == ["plain", "process!one"]
    local_layer.send_group("group", {"text": "hello"})
    assert local_layer.receive(["plain"]) == ("plain", {"text": "hello"})
    assert local_layer.receive(["process!"]) == ("process!one", {"text": "hello"})
    local_layer.group_discard("group", "plain")
    assert local_layer.group_channels("group") == ["process!one"]


@pytest.mark.parametrize("channel", ["process!one", "reply?one"])
def test_capacity_on_redis(local_layer: Any, channel: str) -> None:
    """A full channel raises the layer's ``ChannelFull``."""
    for number in range(5):
        local_layer.send(channel, {"number": number})
    with pytest.raises(local_layer.ChannelFull):
        local_layer.send(channel, {"number": 5})


def test_capacity_in_shared_memory(local_layer: Any) -> None:
    """``IPCChannelLayer`` gets the same capacity and raises the same error."""
    for number in range(5):
        local_layer.send("plain", {"number": number})
    with pytest.raises(local_layer.ChannelFull, match="channel 'plain' is full: 5 messages wait in it"):
        local_layer.send("plain", {"number": 5})
    assert [local_layer.receive(["plain"])[1] for _ in range(5)] == [{"number": number} for number in range(5)]


def test_flush_empties_both_layers(local_layer: Any) -> None:
    """Both shared memory and Redis are emptied."""
    for channel in ("plain", "process!one"):
        local_layer.send(channel, {})
        local_layer.group_add("group", channel)
    local_layer.flush()
    assert local_layer.receive(["plain", "process!"]) == (None, None)
    assert local_layer.group_channels("group") == []


def test_site(redis_site: Site, redis: RedisServer, prefix: str) -> None:
    """Pages, uploads and a chat room work with two Daphnes and two workers, one of them with threads."""
    daphnes = [redis_site.daphne(), redis_site.daphne()]
    workers = {redis_site.worker().pid, redis_site.worker("--threads", "4").pid}
    for number in range(10):
        assert daphnes[number % 2].page("/")["pid"] in workers
    size = 3 * 1024 * 1024
    assert daphnes[0].page("/upload/", bytes(size), {"Content-Type": "application/octet-stream"})["size"] == size
    with daphnes[0].socket("/room/red/") as first, daphnes[1].socket("/room/red/") as second:
        for client in (first, second):
            assert client.receive() == {"hello": ""}
        for number in range(10):
            (first if number % 2 else second).send(str(number))
            for client in (first, second):
                assert client.receive()["text"] == str(number)
        first.send_bytes(b"\x00\xff" * 1000)
        for client in (first, second):
            assert client.receive_bytes() == b"\x00\xff" * 1000
        assert redis.command(f"ZCARD {prefix}::group:room-red") == b":2\r\n"
    with IPCChannelLayer(prefix) as script:
        assert script.global_statistics()["messages_count"] >= 10 + 1 + 2 + 11


def test_a_full_channel_gives_503(
    make_site: Callable[..., Site], redis: RedisServer, script: IPCChannelLayer
) -> None:
    """Daphne also handles the error that the local layer raises."""
    assert_full_channel_gives_503(make_site(environment={"SITE_REDIS": redis.address}, options={"capacity": 5}), script)


def test_a_signal_ends_an_idle_worker(redis_site: Site) -> None:
    """The worker waits in ``IPCChannelLayer.receive``, and its signal handler ends it there."""
    daphne, worker = redis_site.daphne(), redis_site.worker()
    assert daphne.page("/")["pid"] == worker.pid
    time.sleep(1)  # Channels has handled the message and waits for the next
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.log()
    assert "while idle, terminating immediately" in worker.log()
    assert "Traceback" not in worker.log()


def test_script_sends_to_a_group(redis_site: Site, local_layer: Any) -> None:
    """A script with the same layer sends a message to a chat room."""
    daphne, _ = redis_site.daphne(), redis_site.worker()
    with daphne.socket("/room/red/") as client:
        client.receive()
        local_layer.send_group("room-red", {"text": json.dumps("hello")})
        assert client.receive() == "hello"
