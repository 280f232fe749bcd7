"""
The processes of the site (Daphne, workers, Django's commands), and HTTP and WebSocket clients for them.

Every process writes to a log in the test's folder, which is shown if a test fails. Every process has its own
session, so that it can be killed together with its children.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.processes import LIMIT

import asgi_ipc

from .waiting import until

#: The folders from which a process imports the site and the package.
TESTS, PACKAGE = Path(__file__).resolve().parents[1], Path(asgi_ipc.__file__).resolve().parents[1]
MANAGE = str(Path(__file__).with_name("site") / "manage.py")
#: Options of the layer, besides its prefix. A script with other sizes would log a warning.
MEMORY = {"message_memory": 64 * 1024 * 1024, "group_memory": 1024 * 1024}


class Process:
    """One process of the site."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, keep: Sequence[int] = ()):
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=str(log.parent),
                pass_fds=keep,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def log(self) -> str:
        """Return what the process has written so far."""
        return self._log.read_text(errors="replace")

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, but not to its children."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end and return its exit code, negative for a signal."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._log.name} did not end:\n{self.log()}") from None

    def wait_for(self, text: str) -> None:
        """Wait until the process has written ``text``."""
        deadline = time.monotonic() + LIMIT
        while text not in self.log():
            assert self.process.poll() is None, f"{self._log.name} ended before it wrote {text!r}:\n{self.log()}"
            assert time.monotonic() < deadline, f"{self._log.name} did not write {text!r}:\n{self.log()}"
            time.sleep(0.02)

    def die(self) -> None:
        """Kill the process and its children, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Socket:
    """A WebSocket client; as a context manager, it closes itself."""

    def __init__(self, address: str, cookie: str) -> None:
        import websocket  # installed only together with the site's packages

        self._opcodes = websocket.ABNF
        self._socket = websocket.create_connection(address, timeout=LIMIT, cookie=cookie or None)

    def send(self, text: str) -> None:
        """Send a text."""
        self._socket.send(text)

    def send_bytes(self, content: bytes) -> None:
        """Send bytes."""
        self._socket.send_binary(content)

    def receive_bytes(self) -> bytes:
        """Return the next message, text as UTF-8. Skip Daphne's pings, which restart the timeout."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            opcode, content = self._socket.recv_data(control_frame=True)
            assert opcode != self._opcodes.OPCODE_CLOSE, f"the server closed the socket: {content!r}"
            if opcode in (self._opcodes.OPCODE_TEXT, self._opcodes.OPCODE_BINARY):
                return bytes(content)
        raise AssertionError(f"no message arrived on the socket within {LIMIT} s")

    def receive(self) -> Any:
        """Return the next message, decoded from JSON."""
        return json.loads(self.receive_bytes())

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Server(Process):
    """A process that serves HTTP and WebSockets on ``port``."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, port: int, keep: Sequence[int]
    ):
        super().__init__(command, environment, log, keep)
        self.port = port

    def listens(self) -> bool:
        """True if the server accepts connections. A server with an inherited listening socket always does."""
        assert self.process.poll() is None, f"{self._log.name} ended:\n{self.log()}"
        try:
            socket.create_connection(("127.0.0.1", self.port), LIMIT).close()
        except ConnectionRefusedError:
            return False
        return True

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection for several requests."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)

    def request(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """Return the answer to one request, with its whole body in ``answer.content``."""
        connection = self.connect()
        try:
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            answer: Any = connection.getresponse()
            answer.content = answer.read()
        finally:
            connection.close()
        return answer

    def page(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Request a page of the site and return its JSON values; the status must be 200."""
        answer: Any = self.request(path, body, headers)
        assert answer.status == 200, f"{path}: {answer.status} {answer.content!r}\n{self.log()}"
        return json.loads(answer.content)

    def socket(self, path: str, cookie: str = "") -> Socket:
        """Return an open WebSocket client."""
        return Socket(f"ws://127.0.0.1:{self.port}{path}", cookie)


class Site:
    """
    The site on one prefix: starts its processes and kills them.

    ``environment`` adds variables for ``site.settings``, ``options`` adds options of the layer. ``python`` is
    an interpreter of another installation, which imports its own ``asgi_ipc``.
    """

    def __init__(
        self,
        prefix: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.database = folder / "db.sqlite3"
        self._folder = folder
        self._python = python
        self._started: list[Process] = []
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [TESTS, PACKAGE] if python == sys.executable else [TESTS])),
            "DJANGO_SETTINGS_MODULE": "channels1.site.settings",
            "SITE_DIR": str(folder),
            "SITE_DATABASE": str(self.database),
            "SITE_LAYER": json.dumps({"prefix": prefix, **MEMORY, **(options or {})}),
            **(environment or {}),
        }

    def make_tables(self) -> None:
        """Create the tables of the database."""
        command = self.command("migrate")
        assert command.wait() == 0, command.log()

    def command(self, *words: str) -> Process:
        """Start a management command of Django."""
        process = Process([self._python, MANAGE, *words], self._environment, self._name(words[0]))
        self._started.append(process)
        return process

    def worker(self, *options: str) -> Process:
        """Start a worker process and wait until it receives messages."""
        worker = self.command("runworker", *options)
        worker.wait_for("Listening on channels")
        return worker

    def daphne(self, *options: str) -> Server:
        """Start Daphne. It inherits a socket that is bound here to a free port, as with systemd."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number, port = listener.fileno(), listener.getsockname()[1]
            daphne = Path(self._python).with_name("daphne")  # pip installs it beside the interpreter
            command = [self._python, str(daphne), "--fd", str(number), *options, "channels1.site.asgi:channel_layer"]
            server = Server(command, self._environment, self._name("daphne"), port, keep=[number])
        self._started.append(server)
        return server

    def runserver(self, *options: str) -> Server:
        """Start Django's development server, with workers in threads of its process."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        command = [self._python, MANAGE, "runserver", *options, f"127.0.0.1:{port}"]
        server = Server(command, self._environment, self._name("runserver"), port, keep=[])
        self._started.append(server)
        until(server.listens)
        return server

    def _name(self, what: str) -> Path:
        return self._folder / f"{what}-{len(self._started)}.log"

    def clean_up(self) -> None:
        """Kill every process."""
        for process in self._started:
            process.die()
