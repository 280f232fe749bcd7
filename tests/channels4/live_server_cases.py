"""
``ChannelsLiveServerTestCase``: Daphne in another process, and tests that send messages to its consumers.

On this layer the tests can reach the consumers through ``get_channel_layer``; on the in-memory layer they
cannot. ``test_live_server.py`` runs this module in a separate process, since Channels forks the server off
the test process, and the threads that asgiref has started for earlier tests would not exist after the fork.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import channel_layers, get_channel_layer
from channels.testing import ChannelsLiveServerTestCase
from django.conf import settings
from django.test.utils import setup_databases, setup_test_environment, teardown_databases, teardown_test_environment
from helpers.processes import LIMIT
from websockets.sync.client import ClientConnection, connect

from asgi_ipc import IPCChannelLayer


@pytest.fixture(scope="module", autouse=True)
def databases() -> Iterator[None]:
    """Set up databases as Django's test runner does, and remove the shared memory of the settings' layer."""
    setup_test_environment()
    made = setup_databases(verbosity=0, interactive=False)
    yield
    teardown_databases(made, verbosity=0)
    teardown_test_environment()
    channel_layers.backends.clear()
    with IPCChannelLayer(settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"]) as layer:
        layer.unlink()


class TestLiveServer(ChannelsLiveServerTestCase):
    """Two processes: Daphne with the consumers, and the test process."""

    def enter(self, path: str) -> tuple[ClientConnection, dict[str, Any]]:
        """Open a socket in a room; return it and its greeting."""
        socket = self.enterContext(connect(f"{self.live_server_ws_url}{path}", open_timeout=LIMIT, proxy=None))
        return socket, json.loads(socket.recv(LIMIT))

    def receive_json(self, socket: ClientConnection) -> Any:
        return json.loads(socket.recv(LIMIT))

    def test_sockets_of_a_room_receive_each_others_messages(self) -> None:
        for kind in ("async", "sync"):
            first, greeting = self.enter(f"/{kind}-json/{kind}/")
            second, _ = self.enter(f"/{kind}-json/{kind}/")
            assert greeting["pid"] != os.getpid()
            first.send(json.dumps({"text": "hello"}))
            for socket in (first, second):
                assert self.receive_json(socket) == {"said": "hello", "pid": greeting["pid"]}

    def test_the_test_sends_to_consumers_in_the_server(self) -> None:
        layer = get_channel_layer()
        socket, greeting = self.enter("/async-json/a/")
        assert async_to_sync(layer.group_channels)("a") == [greeting["channel"]]
        async_to_sync(layer.group_send)("a", {"type": "say", "text": "to all"})
        async_to_sync(layer.send)(greeting["channel"], {"type": "say", "text": "to one"})
        assert [self.receive_json(socket)["said"] for _ in range(2)] == ["to all", "to one"]

    def test_a_consumer_in_the_server_sends_to_the_test(self) -> None:
        layer = get_channel_layer()
        own_channel = async_to_sync(layer.new_channel)()
        async_to_sync(layer.group_add)("b", own_channel)
        socket, _ = self.enter("/sync-json/b/")
        socket.send(json.dumps({"text": "is anybody there?"}))
        assert async_to_sync(layer.receive)(own_channel) == {"type": "say", "text": "is anybody there?"}
        async_to_sync(layer.group_discard)("b", own_channel)

    def test_a_script_sends_to_consumers_in_the_server(self) -> None:
        socket, greeting = self.enter("/sync-json/c/")
        with IPCChannelLayer(settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"]) as layer:
            assert layer.group_channels("c") == [greeting["channel"]]
            layer.send_group("c", {"type": "say", "text": "from a script"})
        assert self.receive_json(socket)["said"] == "from a script"

    def test_a_closed_socket_leaves_the_group(self) -> None:
        layer = get_channel_layer()
        socket, _ = self.enter("/async-json/d/")
        other, greeting = self.enter("/async-json/d/")
        socket.close()
        other.send(json.dumps({"text": "still here"}))
        assert self.receive_json(other)["said"] == "still here"
        for _ in range(1000):
            if async_to_sync(layer.group_channels)("d") == [greeting["channel"]]:
                return
            other.send(json.dumps({"text": "and now?"}))
            self.receive_json(other)
        raise AssertionError("the group still has a socket that was closed")
