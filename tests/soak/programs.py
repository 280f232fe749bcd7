"""The programs of a soak: servers, workers, clients and scripts, each in a process group of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asgi_ipc

from .site import WORK

#: Where ``asgi_ipc``, ``soak`` and ``stress`` are.
PATHS = [Path(asgi_ipc.__file__).resolve().parents[1], Path(__file__).resolve().parents[1]]
#: Seconds after which a program that did not start counts as broken.
LIMIT = 60.0


class Program:
    """A program that runs until it is ended. What it prints goes to the file ``log``."""

    def __init__(self, prefix: str, log: Path, *arguments: str) -> None:
        self.log = log
        path = os.pathsep.join([*map(str, PATHS), os.environ.get("PYTHONPATH", "")])
        settings = {"PYTHONPATH": path, "SOAK_PREFIX": prefix, "DJANGO_SETTINGS_MODULE": "soak.settings"}
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **settings},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        return self._process.pid

    def children(self) -> list[int]:
        """Return the processes that it has started and that use the layer: not the helper of ``multiprocessing``."""
        pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in pids if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]

    def has_ended(self) -> bool:
        """True if it runs no more."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill it and all that it has started, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def serve(prefix: str, log: Path, port: int, workers: int) -> Program:
    """Start a server, and wait until it listens."""
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), "--log-level", "warning"]
    program = Program(prefix, log, "uvicorn", "soak.site:application", *arguments, "--lifespan", "off")
    wait_until(lambda: _listens(port) and len(program.children()) >= workers * (workers > 1), f"{log} to be served")
    return program


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def run_worker(prefix: str, log: Path) -> Program:
    """Start a process that answers the tasks of the site."""
    return Program(prefix, log, "django", "runworker", WORK)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {LIMIT} s for {what}")
        time.sleep(0.05)
