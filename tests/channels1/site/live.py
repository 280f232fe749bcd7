"""
Tests with the live server of Channels 1, as a project writes them: ``manage.py test channels1.site.live``.

For each test, Channels forks two processes from the test runner, one with Daphne and one with a worker, and
kills them afterwards. Layers are made in this process before the forks, and in both children after them.
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
        """Return an open WebSocket that is closed after the test."""
        client = websocket.create_connection(self.live_server_ws_url + path, timeout=30)
        self.addCleanup(client.close)
        return client

    def test_page(self):
        """A page is served by Daphne and a worker, in other processes than this one."""
        for _ in range(5):
            with urlopen(self.live_server_url, timeout=30) as page:
                assert json.load(page)["pid"] != os.getpid()

    def test_upload(self):
        """A body of several megabytes arrives complete."""
        body = os.urandom(3000000)
        headers = {"Content-Type": "application/octet-stream"}
        with urlopen(Request(self.live_server_url + "/upload/", body, headers), timeout=30) as page:
            assert json.load(page)["size"] == 3000000

    def test_database(self):
        """The worker writes to the database of the tests, which this process reads."""
        with urlopen(self.live_server_url + "/login/?name=ann", timeout=30) as page:
            assert json.load(page)["user"] == "ann"
        assert [user.username for user in User.objects.all()] == ["ann"]

    def test_room(self):
        """A message of one socket reaches both sockets of a room."""
        first, second = self.socket("/room/red/"), self.socket("/room/red/")
        for client in (first, second):
            assert json.loads(client.recv()) == {"hello": ""}
        first.send("hello")
        for client in (first, second):
            assert json.loads(client.recv())["text"] == "hello"

    def test_layer_starts_empty(self):
        """The live server flushes its layer, so no membership of the previous test is left."""
        layer = channel_layers.make_test_backend("default")
        self.addCleanup(layer.close)
        assert layer.group_channels("room-red") == []
        self.socket("/room/red/").recv()
        assert len(layer.group_channels("room-red")) == 1


class LiveCaseWithThreads(LiveCase):
    """The same tests, with four worker threads."""

    worker_threads = 4
