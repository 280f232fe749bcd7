"""gunicorn with ``--preload`` and workers of greenlets: the layer is made in the master, which is never patched."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.layers import assert_sound
from helpers.processes import LIMIT, Children

from asgi_ipc import IPCChannelLayer

from .boot import need
from .crowd import killing, player
from .traffic import OPTIONS, assert_accounted, assert_all_took_part

SECONDS = 6.0
TESTS = Path(__file__).resolve().parents[1]


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix domain socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LIMIT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Server:
    """A gunicorn that serves ``application``; its log is in ``log``."""

    def __init__(self, prefix: str, folder: Path, *options: str) -> None:
        self.at, self.log = folder / "socket", folder / "log"
        paths = [str(Path(sys.modules["asgi_ipc"].__file__ or "").parents[1]), str(TESTS)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *options, "--bind", f"unix:{self.at}", "greenlets.application"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "GREENLETS_PREFIX": prefix},
                start_new_session=True,
                cwd=folder,
            )

    def ask(self, **query: Any) -> Any:
        """Return the answer to a request."""
        connection = Connection(self.at)
        try:
            connection.request("GET", "/?" + "&".join(f"{key}={value}" for key, value in query.items()))
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, self.log.read_text()
            return json.loads(body)
        finally:
            connection.close()

    def wait(self) -> None:
        """Wait until it listens."""
        deadline = time.monotonic() + LIMIT
        while not self.at.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, and everything that it has started."""
        self.process.terminate()
        try:
            self.process.wait(LIMIT)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


@pytest.fixture(params=["gevent", "eventlet"])
def server(request: pytest.FixtureRequest, prefix: str, tmp_path: Path) -> Iterator[Server]:
    """A gunicorn with two workers of this class, and ``--preload``."""
    need("gunicorn")
    need(request.param)
    if request.param == "eventlet" and not importlib.util.find_spec("gunicorn.workers.geventlet"):
        pytest.skip("this gunicorn has no workers of eventlet any more")
    server = Server(prefix, tmp_path, "--preload", "--worker-class", request.param, "--workers", "2", "--timeout", "90")
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def test_every_message_is_accounted_for_if_gunicorn_has_loaded_the_application_before_it_forks(
    server: Server, prefix: str, start: Children, make_layer: Callable[..., IPCChannelLayer]
) -> None:
    layer = make_layer(**OPTIONS)
    beside = player(start, prefix, "threads", SECONDS)
    answers: list[Any] = []

    def play(name: str) -> None:
        answers.append(server.ask(name=name, seconds=SECONDS))

    with killing(start, prefix):
        beside.say()
        requests = [threading.Thread(target=play, args=(name,)) for name in ("one", "two")]
        for request in requests:
            request.start()
        for request in requests:
            request.join()
        tallies = [beside.hear()]
    for answer in answers:
        assert answer["loaded_by"] == server.process.pid != answer["pid"]
        tallies.append(answer["tally"])
    assert_accounted(layer, tallies, ["threads", "one", "two"])
    assert_all_took_part(tallies)
    assert_sound(layer)
