"""
Other processes for a test to talk to.

A child is a new Python interpreter that runs one function of a test module. It gets a ``Talk`` and the arguments, says
and hears JSON values, one a line, and every wait for it has a limit: a child that does not answer fails the test with
what it wrote to its standard error. Children live in a session of their own and are always ended and reaped.
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
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

import asgi_ipc

#: Seconds after which a child that says nothing is taken for stuck. Never a measure of anything.
LIMIT = 60.0

_BOOT = "import sys; from helpers.processes import main; main(sys.argv)"
_PATHS = [Path(asgi_ipc.__file__).resolve().parents[1], Path(__file__).resolve().parents[1]]


class Talk:
    """The child's side: values to and from the test."""

    def say(self, value: Any) -> None:
        """Send one value to the test."""
        os.write(1, (json.dumps(value) + "\n").encode())

    def hear(self) -> Any:
        """Wait for one value from the test; ends the process when the test has gone."""
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

    ``through`` is a command that starts it, as ``unshare``; ``python`` an interpreter that can import the package.
    """

    def __init__(
        self, function: Callable[..., None], *args: Any, through: Sequence[str] = (), python: str = sys.executable
    ) -> None:
        self.name = function.__qualname__
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by clean_up
        self._heard = b""
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
        """The id of the process that was started (that of ``through``, if there is one)."""
        return self.process.pid

    def say(self, value: Any = None) -> None:
        """Send one value to the child."""
        self._to.write((json.dumps(value) + "\n").encode())

    def hear(self) -> Any:
        """Wait for one value from the child."""
        deadline = time.monotonic() + LIMIT
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"{self.name} has not answered for {LIMIT} s{self.errors()}")
                more = os.read(self._from.fileno(), 65536)
                if not more:
                    raise AssertionError(f"{self.name} has ended without an answer{self.errors()}")
                self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the child and all that it has started."""
        os.killpg(self.process.pid, number)

    def die(self) -> None:
        """Kill the child and wait until it is gone."""
        self.kill()
        self._wait()

    def _wait(self) -> int:
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end{self.errors()}") from None

    def end(self) -> None:
        """Wait for the function to return; fail if it raised."""
        code = self._wait()
        assert code == 0, f"{self.name} ended with {code}{self.errors()}"

    def errors(self) -> str:
        """What the child has written to its standard error, to put into a message."""
        self._errors.seek(0)
        return ":\n" + self._errors.read().decode(errors="replace")

    def clean_up(self) -> None:
        """End whatever still runs, reap it, and close what leads to it."""
        with contextlib.suppress(ProcessLookupError):
            self.kill()  # the group outlives its first process as long as anything in it runs
        self.process.wait()
        for stream in (self._to, self._from, self._errors):
            stream.close()


class Children:
    """Starts children, and ends them all."""

    def __init__(self) -> None:
        self.started: List[Child] = []

    def __call__(
        self, function: Callable[..., None], *args: Any, through: Sequence[str] = (), python: str = sys.executable
    ) -> Child:
        """Start a child that runs ``function(talk, *args)``, a function of a module that can be imported."""
        child = Child(function, *args, through=through, python=python)
        self.started.append(child)
        return child

    def clean_up(self) -> None:
        """End and reap every child."""
        for child in self.started:
            child.clean_up()


def reap(pid: int) -> Optional[int]:
    """Wait for a forked process: its exit code (negative: the signal), or None if it hangs, and was killed for it."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def main(argv: List[str]) -> None:
    """What a child runs."""
    module, name, args = argv[1:]
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    function(Talk(), *json.loads(args))
