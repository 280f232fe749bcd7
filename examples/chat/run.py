"""
Start the chat with one command: ``python examples/chat/run.py``, then open http://127.0.0.1:8000/.

It starts the web server with several worker processes, and the bot's ``runworker`` process. It replaces processes
that die, and ends all of them on Ctrl-C. With ``--server daphne``, the workers are Daphne processes that share a
socket.
"""

import argparse
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: The modules that each server needs.
NEEDED = {
    "uvicorn": ["asgi_ipc", "django", "channels", "daphne", "uvicorn", "websockets"],
    "daphne": ["asgi_ipc", "django", "channels", "daphne"],
}
INSTALL = "pip install -e '.[channels]' -r examples/chat/requirements.txt"
#: Seconds: a process that fails sooner after its start is not restarted.
TOO_SOON = 3.0


def main() -> int:
    given = arguments()
    missing = [name for name in NEEDED[given.server] if importlib.util.find_spec(name) is None]
    if missing:
        print(f"The chat needs {', '.join(missing)}, which {sys.executable} does not have.", file=sys.stderr)
        print(f"At the top of a checkout of asgi_ipc, this installs it:\n\n    {INSTALL}\n", file=sys.stderr)
        return 1
    try:
        listening = socket.create_server((given.host, given.port), backlog=128)
    except OSError as error:
        print(f"Cannot listen on {given.host}:{given.port}: {error.strerror}. Choose another --port.", file=sys.stderr)
        return 1
    port = listening.getsockname()[1]
    prefix = given.prefix or f"chat-{port}"
    workers = "1 worker process" if given.workers == 1 else f"{given.workers} worker processes"
    os.environ.update(
        CHAT_PREFIX=prefix,
        CHAT_SERVER=f"{given.server.capitalize()}, {workers}",
        DJANGO_SETTINGS_MODULE="chatsite.settings",
    )
    if given.host not in ("127.0.0.1", "localhost", "::1"):
        os.environ.setdefault("CHAT_HOSTS", "*")
    crew = Crew()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        crew.start("bot", [sys.executable, "manage.py", "runworker", "dice"])
        if given.server == "uvicorn":
            listening.close()  # Uvicorn makes its own socket for its workers
            crew.start("uvicorn", uvicorn(given.host, port, given.workers))
        else:
            for _ in range(given.workers):
                crew.start("daphne", daphne(listening), pass_fds=[listening.fileno()])
        crew.wait_for(given.host, port)
        print(f"The chat is at http://{given.host}:{port}/   ({os.environ['CHAT_SERVER']}, layer {prefix!r})")
        print("Open it in two windows, and kill -9 a worker. Ctrl-C ends the chat.", flush=True)
        crew.watch()
    except KeyboardInterrupt:
        return 0
    except KeepsFailing as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        crew.end()
        if not given.prefix:
            forget(prefix)


def arguments() -> Any:
    parser = argparse.ArgumentParser(description="Start the chat: a web server with several processes, and the bot.")
    parser.add_argument("--server", choices=sorted(NEEDED), default="uvicorn", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=3, help="worker processes (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port, or 0 for any (default: %(default)s)")
    parser.add_argument(
        "--prefix",
        help="prefix of the channel layer, which then stays at the end (default: chat-PORT, which is removed)",
    )
    given = parser.parse_args()
    if given.workers < 1:
        parser.error(f"--workers must be at least 1, not {given.workers}")
    return given


def uvicorn(host: str, port: int, workers: int) -> list[str]:
    """Return the command of Uvicorn, which itself replaces workers that die."""
    return [
        *[sys.executable, "-m", "uvicorn", "chatsite.asgi:application", "--workers", str(workers)],
        *["--host", host, "--port", str(port), "--lifespan", "off", "--log-level", "warning"],
        *["--timeout-graceful-shutdown", "1"],
    ]


def daphne(listening: socket.socket) -> list[str]:
    """Return the command of one Daphne process. Several share a socket, and the kernel distributes connections."""
    return [
        *[sys.executable, "-m", "daphne", "--fd", str(listening.fileno()), "--verbosity", "0"],
        *["--application-close-timeout", "1", "chatsite.asgi:application"],
    ]


class KeepsFailing(Exception):
    """A process keeps failing."""


@dataclass
class Process:
    """A process of the chat, and how to start it again."""

    name: str
    command: list[str]
    options: dict[str, Any]
    started: float = field(init=False)
    running: "subprocess.Popen[bytes]" = field(init=False)

    def start(self) -> None:
        # In its own process group: Ctrl-C reaches only this script, and the children of a dead process can be
        # killed.
        self.running = subprocess.Popen(self.command, cwd=HERE, start_new_session=True, **self.options)
        self.started = time.monotonic()

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running.pid, number)


class Crew:
    """The processes of the chat. While it runs, those that die are replaced. They end when the chat ends."""

    def __init__(self) -> None:
        self.processes: list[Process] = []

    def start(self, name: str, command: list[str], **options: Any) -> None:
        process = Process(name, command, options)
        process.start()
        self.processes.append(process)

    def watch(self) -> None:
        """Restart processes that die, until this is interrupted."""
        while True:
            self.look()
            time.sleep(0.2)

    def look(self) -> None:
        for process in self.processes:
            code = process.running.poll()
            if code is None:
                continue
            if code > 0 and time.monotonic() - process.started < TOO_SOON:
                raise KeepsFailing(f"{process.name} does not stay up (exit status {code}): {' '.join(process.command)}")
            print(f"{process.name} {process.running.pid} has ended ({code}). Starting another one.", flush=True)
            process.signal(signal.SIGKILL)  # its children may still run
            process.start()

    def wait_for(self, host: str, port: int) -> None:
        """Wait until the server answers."""
        while True:
            self.look()
            with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5) as connection:
                connection.sendall(f"GET / HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n".encode())
                if connection.recv(5) == b"HTTP/":
                    return
            time.sleep(0.05)

    def end(self) -> None:
        """End all processes: with SIGTERM, so that they close their sockets, then with SIGKILL."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in self.processes:
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.running.wait(max(0.1, deadline - time.monotonic()))
            process.signal(signal.SIGKILL)
            process.running.wait()


def forget(prefix: str) -> None:
    """Remove the channel layer of this run."""
    from asgi_ipc import IPCChannelLayer

    with IPCChannelLayer(prefix=prefix) as layer:
        layer.unlink()


if __name__ == "__main__":
    sys.exit(main())
