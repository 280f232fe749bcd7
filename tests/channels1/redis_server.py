"""A real Redis for one test, on a socket in the test's folder, so that nothing else can connect to it."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from helpers.processes import LIMIT


class RedisServer:
    """A ``redis-server`` process; the constructor waits until it answers."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "redis.sock"
        self._log = folder / "redis.log"
        #: The address in the form that asgi_redis expects in ``hosts``.
        self.address = f"unix://{self._socket}?db=0"
        options = ["--port", "0", "--unixsocket", str(self._socket), "--dir", str(folder), "--save", ""]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["redis-server", *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + LIMIT
        while not self._answers():
            assert self.process.poll() is None, f"redis-server ended: {self._log.read_text()}"
            assert time.monotonic() < deadline, f"redis-server did not answer: {self._log.read_text()}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return self.command("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def command(self, line: str) -> bytes:
        """Send one command and return the raw answer, which must fit into one packet."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LIMIT)
            client.connect(str(self._socket))
            client.sendall(line.encode() + b"\r\n")
            return client.recv(65536)

    def clean_up(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
