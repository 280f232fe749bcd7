"""
Tests as a project of Channels 1 writes them, with its live server: ``manage.py test channels1.site.live``.

For each test Channels forks two processes from the test runner, one with Daphne and one with a worker, and
kills them afterwards. Layers are made in this process before the forks, and in each of the two after it.
"""

import json
import os
from urllib.request import Request, urlopen

import websocket
from channels import channel_layers
from channels.test import ChannelLiveServerTestCase
from django.contrib.auth.models import User


class LiveCase(ChannelLiveServerTestCase):
    """The tests, with one worker thread."""

    host = "127.0.0.1"
    serve_static = False

    def socket(self, path):
        """A WebSocket that is closed after the test."""
        client = websocket.create_connection(self.live_server_ws_url + path, timeout=30)
        self.addCleanup(client.close)
        return client

    def test_page(self):
        """A page comes through Daphne and a worker, in processes other than this one."""
        for _ in range(5):
            with urlopen(self.live_server_url, timeout=30) as page:
                assert json.load(page)["pid"] != os.getpid()

    def test_upload(self):
        """A body of several megabytes."""
        body = os.urandom(3000000)
        headers = {"Content-Type": "application/octet-stream"}
        with urlopen(Request(self.live_server_url + "/upload/", body, headers), timeout=30) as page:
            assert json.load(page)["size"] == 3000000

    def test_database(self):
        """What the worker writes is seen here, in the database of the tests."""
        with urlopen(self.live_server_url + "/login/?name=ann", timeout=30) as page:
            assert json.load(page)["user"] == "ann"
        assert [user.username for user in User.objects.all()] == ["ann"]

    def test_room(self):
        """Two sockets in a room hear each other."""
        first, second = self.socket("/room/red/"), self.socket("/room/red/")
        for client in (first, second):
            assert json.loads(client.recv()) == {"hello": ""}
        first.send("hello")
        for client in (first, second):
            assert json.loads(client.recv())["text"] == "hello"

    def test_layer_starts_empty(self):
        """The live server flushes its layer: what the last test left is gone."""
        layer = channel_layers.make_test_backend("default")
        self.addCleanup(layer.close)
        assert layer.group_channels("room-red") == []
        self.socket("/room/red/").recv()
        assert len(layer.group_channels("room-red")) == 1


class LiveCaseWithThreads(LiveCase):
    """The same, with a worker of four threads."""

    worker_threads = 4
