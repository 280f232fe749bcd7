"""
The processes of the site: Daphne, workers, Django's commands, and clients that talk to them.

Every process writes to a log in the test's folder, which is shown when something fails, and lives in a
session of its own, so that it can be ended with all that it has started.
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
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from helpers.processes import LIMIT

import asgi_ipc

from .waiting import until

#: Where a process finds the site, and the layer.
TESTS, PACKAGE = Path(__file__).resolve().parents[1], Path(asgi_ipc.__file__).resolve().parents[1]
MANAGE = str(Path(__file__).with_name("site") / "manage.py")
#: Options of the layer, beside its prefix; a script that gives others would only get a warning.
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
        """What the process has written so far."""
        return self._log.read_text(errors="replace")

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, and to nothing that it has started."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end: its exit code, negative for a signal."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._log.name} does not end:\n{self.log()}") from None

    def wait_for(self, text: str) -> None:
        """Wait until the process has written something."""
        deadline = time.monotonic() + LIMIT
        while text not in self.log():
            assert self.process.poll() is None, f"{self._log.name} has ended before {text!r}:\n{self.log()}"
            assert time.monotonic() < deadline, f"{self._log.name} has not written {text!r}:\n{self.log()}"
            time.sleep(0.02)

    def die(self) -> None:
        """Kill the process and all that it has started, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Socket:
    """A WebSocket; a context manager that closes it."""

    def __init__(self, address: str, cookie: str) -> None:
        import websocket  # it is there only where the site is

        self._opcodes = websocket.ABNF
        self._socket = websocket.create_connection(address, timeout=LIMIT, cookie=cookie or None)

    def say(self, text: str) -> None:
        """Send a text."""
        self._socket.send(text)

    def say_bytes(self, content: bytes) -> None:
        """Send bytes."""
        self._socket.send_binary(content)

    def hear_bytes(self) -> bytes:
        """The next message, text as UTF-8. Daphne's pings are passed over: with them a wait has no limit."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            opcode, content = self._socket.recv_data(control_frame=True)
            assert opcode != self._opcodes.OPCODE_CLOSE, f"the server has closed the socket: {content!r}"
            if opcode in (self._opcodes.OPCODE_TEXT, self._opcodes.OPCODE_BINARY):
                return bytes(content)
        raise AssertionError(f"nothing was said on the socket for {LIMIT} s")

    def hear(self) -> Any:
        """The next message, from JSON."""
        return json.loads(self.hear_bytes())

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
        """Whether it takes connections yet; where the port was handed over it does from the beginning."""
        assert self.process.poll() is None, f"{self._log.name} has ended:\n{self.log()}"
        try:
            socket.create_connection(("127.0.0.1", self.port), LIMIT).close()
        except ConnectionRefusedError:
            return False
        return True

    def connect(self) -> http.client.HTTPConnection:
        """A connection for several requests."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)

    def request(
        self, path: str, body: Optional[bytes] = None, headers: Optional[Dict[str, str]] = None
    ) -> http.client.HTTPResponse:
        """The answer to one request, read to its end into ``answer.content``."""
        connection = self.connect()
        try:
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            answer: Any = connection.getresponse()
            answer.content = answer.read()
        finally:
            connection.close()
        return answer

    def page(self, path: str, body: Optional[bytes] = None, headers: Optional[Dict[str, str]] = None) -> Dict[str, Any]:
        """The values on a page of the site."""
        answer: Any = self.request(path, body, headers)
        assert answer.status == 200, f"{path}: {answer.status} {answer.content!r}\n{self.log()}"
        return json.loads(answer.content)

    def socket(self, path: str, cookie: str = "") -> Socket:
        """A WebSocket, opened."""
        return Socket(f"ws://127.0.0.1:{self.port}{path}", cookie)


class Site:
    """
    The site on one prefix: starts its processes, and ends them.

    ``environment`` adds to what ``site.settings`` reads, ``options`` to those of the layer. ``python`` is an
    interpreter with another installation, which then brings its own ``asgi_ipc``.
    """

    def __init__(
        self,
        prefix: str,
        folder: Path,
        environment: Optional[Mapping[str, str]] = None,
        options: Optional[Mapping[str, Any]] = None,
        python: str = sys.executable,
    ) -> None:
        self.database = folder / "db.sqlite3"
        self._folder = folder
        self._python = python
        self._started: List[Process] = []
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
        """What a project does once, before it starts."""
        command = self.command("migrate")
        assert command.wait() == 0, command.log()

    def command(self, *words: str) -> Process:
        """A command of Django."""
        process = Process([self._python, MANAGE, *words], self._environment, self._name(words[0]))
        self._started.append(process)
        return process

    def worker(self, *options: str) -> Process:
        """A worker process, ready to take messages."""
        worker = self.command("runworker", *options)
        worker.wait_for("Listening on channels")
        return worker

    def daphne(self, *options: str) -> Server:
        """Daphne, on a port that the kernel chooses: it is bound here and handed over, as systemd does it."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number, port = listener.fileno(), listener.getsockname()[1]
            daphne = Path(self._python).with_name("daphne")  # pip has put it beside the interpreter
            command = [self._python, str(daphne), "--fd", str(number), *options, "channels1.site.asgi:channel_layer"]
            server = Server(command, self._environment, self._name("daphne"), port, keep=[number])
        self._started.append(server)
        return server

    def runserver(self, *options: str) -> Server:
        """Django's server for development: workers in threads of the process that serves."""
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
        """End every process."""
        for process in self._started:
            process.die()
