"""
Child processes that exchange values with a test.

A child is a new Python interpreter that runs one function of a test module. The function gets a ``Talk`` and
the arguments. The two sides exchange JSON values, one a line. Every wait for a child has a limit: a child
that does not answer fails the test with its standard error. Each child has its own session and is always
killed and reaped.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asgi_ipc

#: Seconds after which a child that sends nothing counts as stuck. No test measures time with it.
LIMIT = 60.0

_BOOT = "import sys; from helpers.processes import main; main(sys.argv)"
_PATHS = [Path(asgi_ipc.__file__).resolve().parents[1], Path(__file__).resolve().parents[1]]


class Talk:
    """The child's side of the connection to the test."""

    def say(self, value: Any) -> None:
        """Send one value to the test."""
        os.write(1, (json.dumps(value) + "\n").encode())

    def hear(self) -> Any:
        """Wait for one value from the test. If the test has ended, end this process."""
        line = bytearray()
        while not line.endswith(b"\n"):
            more = os.read(0, 1)
            if not more:
                os._exit(3)
            line += more
        return json.loads(line)


class Child:
    """
    A process that runs ``function(talk, *args)``.

    ``through`` is a command that starts it, such as ``unshare``. ``python`` is another interpreter.
    """

    def __init__(
        self, function: Callable[..., None], *args: Any, through: Sequence[str] = (), python: str = sys.executable
    ) -> None:
        self.name = function.__qualname__
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by clean_up
        self._received = b""
        path = os.pathsep.join([*map(str, _PATHS), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [*through, python, "-c", _BOOT, function.__module__, function.__qualname__, json.dumps(args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin, self.process.stdout

    @property
    def pid(self) -> int:
        """The id of the started process (of ``through``, if given)."""
        return self.process.pid

    def say(self, value: Any = None) -> None:
        """Send one value to the child."""
        self._to.write((json.dumps(value) + "\n").encode())

    def hear(self) -> Any:
        """Wait for one value from the child."""
        deadline = time.monotonic() + LIMIT
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"{self.name} did not answer within {LIMIT} s{self.errors()}")
                more = os.read(self._from.fileno(), 65536)
                if not more:
                    raise AssertionError(f"{self.name} ended without an answer{self.errors()}")
                self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the child and to every process that it has started."""
        os.killpg(self.process.pid, number)

    def die(self) -> None:
        """Kill the child and wait for its end."""
        self.kill()
        self._wait()

    def _wait(self) -> int:
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end{self.errors()}") from None

    def end(self) -> None:
        """Wait for the function to return; fail if it raised."""
        code = self._wait()
        assert code == 0, f"{self.name} ended with {code}{self.errors()}"

    def errors(self) -> str:
        """Return the child's standard error, to append to a message."""
        self._errors.seek(0)
        return ":\n" + self._errors.read().decode(errors="replace")

    def clean_up(self) -> None:
        """Kill the child's process group, reap the child, and close its streams."""
        with contextlib.suppress(ProcessLookupError):
            self.kill()  # the process group exists as long as any process of it runs
        self.process.wait()
        for stream in (self._to, self._from, self._errors):
            stream.close()


class Children:
    """Starts children and, in ``clean_up``, kills them all."""

    def __init__(self) -> None:
        self.started: list[Child] = []

    def __call__(
        self, function: Callable[..., None], *args: Any, through: Sequence[str] = (), python: str = sys.executable
    ) -> Child:
        """Start a child that runs ``function(talk, *args)``; the function's module must be importable."""
        child = Child(function, *args, through=through, python=python)
        self.started.append(child)
        return child

    def clean_up(self) -> None:
        """Kill and reap every child."""
        for child in self.started:
            child.clean_up()


def reap(pid: int) -> int | None:
    """Return a forked process's exit code (negative: the signal), or None if it hung and was killed."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def main(argv: list[str]) -> None:
    """Run a child's function: the entry point of the child process."""
    module, name, args = argv[1:]
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    function(Talk(), *json.loads(args))


def is_alive(pid: int) -> bool:
    """
    True if any thread of a process still runs; a zombie does not run.

    A process's first thread may be a zombie while others still end. Its locks are held until all have ended.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_stopped(pid: int) -> bool:
    """True if no thread of a process runs: it was stopped by SIGSTOP, or has ended."""
    try:
        threads = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return not is_alive(pid)
    return all(stat.rpartition(")")[2].split()[0] in "TtZX" for stat in threads)
