"""
``ChannelsLiveServerTestCase``: a Daphne in a process of its own, and tests that talk to its consumers.

With the layer the test process reaches them through ``get_channel_layer``, which no layer in memory can.
``test_live_server.py`` runs this in a process of its own: Channels forks the server off the process of the tests, and
the threads that asgiref has started for earlier tests do not survive that.
"""

from __future__ import annotations

import json
import os
from typing import Any, Iterator

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
    """What a test runner of Django's does for its tests, and the layer of the settings removed after them."""
    setup_test_environment()
    made = setup_databases(verbosity=0, interactive=False)
    yield
    teardown_databases(made, verbosity=0)
    teardown_test_environment()
    channel_layers.backends.clear()
    with IPCChannelLayer(settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"]) as layer:
        layer.unlink()


class TestLiveServer(ChannelsLiveServerTestCase):
    """Two processes: Daphne with the consumers, and this one."""

    def enter(self, path: str) -> tuple[ClientConnection, dict[str, Any]]:
        """A socket in a room, and what it is greeted with."""
        socket = self.enterContext(connect(f"{self.live_server_ws_url}{path}", open_timeout=LIMIT, proxy=None))
        return socket, json.loads(socket.recv(LIMIT))

    def hear(self, socket: ClientConnection) -> Any:
        return json.loads(socket.recv(LIMIT))

    def test_sockets_hear_each_other(self) -> None:
        for kind in ("async", "sync"):
            first, greeting = self.enter(f"/{kind}-json/{kind}/")
            second, _ = self.enter(f"/{kind}-json/{kind}/")
            assert greeting["pid"] != os.getpid()
            first.send(json.dumps({"text": "hello"}))
            for socket in (first, second):
                assert self.hear(socket) == {"said": "hello", "pid": greeting["pid"]}

    def test_the_test_talks_to_consumers_in_the_server(self) -> None:
        layer = get_channel_layer()
        socket, greeting = self.enter("/async-json/a/")
        assert async_to_sync(layer.group_channels)("a") == [greeting["channel"]]
        async_to_sync(layer.group_send)("a", {"type": "say", "text": "to all"})
        async_to_sync(layer.send)(greeting["channel"], {"type": "say", "text": "to one"})
        assert [self.hear(socket)["said"] for _ in range(2)] == ["to all", "to one"]

    def test_a_consumer_in_the_server_talks_to_the_test(self) -> None:
        layer = get_channel_layer()
        mine = async_to_sync(layer.new_channel)()
        async_to_sync(layer.group_add)("b", mine)
        socket, _ = self.enter("/sync-json/b/")
        socket.send(json.dumps({"text": "is anybody there?"}))
        assert async_to_sync(layer.receive)(mine) == {"type": "say", "text": "is anybody there?"}
        async_to_sync(layer.group_discard)("b", mine)

    def test_a_script_talks_to_consumers_in_the_server(self) -> None:
        socket, greeting = self.enter("/sync-json/c/")
        with IPCChannelLayer(settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"]) as layer:
            assert layer.group_channels("c") == [greeting["channel"]]
            layer.send_group("c", {"type": "say", "text": "from a script"})
        assert self.hear(socket)["said"] == "from a script"

    def test_who_hangs_up_leaves_the_group(self) -> None:
        layer = get_channel_layer()
        socket, _ = self.enter("/async-json/d/")
        other, greeting = self.enter("/async-json/d/")
        socket.close()
        other.send(json.dumps({"text": "still here"}))
        assert self.hear(other)["said"] == "still here"
        for _ in range(1000):
            if async_to_sync(layer.group_channels)("d") == [greeting["channel"]]:
                return
            other.send(json.dumps({"text": "and now?"}))
            self.hear(other)
        raise AssertionError("the group still has a socket that was closed")
