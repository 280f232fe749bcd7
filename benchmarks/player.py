"""
The suite's side of a host process. It starts the process with the peer's Python, asks for rounds, and ends it.
"""

from __future__ import annotations

__all__ = ["MALLOC", "Failed", "Player", "TooSlow", "command", "surroundings"]

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from typing import Any, Dict, List, Optional

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
#: Let glibc keep freed memory. Otherwise it depends on the state of the heap whether a large block is returned
#: to the kernel each time. Each return causes 400 page faults when 900 kB are sent and received: that can take
#: 830 µs instead of 80 µs, with any peer.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "33554432"}
#: Seconds that a host has to clean up.
PATIENCE = 20.0


class Failed(Exception):
    """There are no figures; the text contains the reason."""


class TooSlow(Failed):
    """The peer did not answer in time; it is not tried with larger settings."""


def command(python: str, mode: str, *words: str) -> List[str]:
    return [python, WORKER, mode, *words]


def surroundings(source: Optional[str]) -> Dict[str, str]:
    """Return the environment variables; the packages of ``source``, if given, come before installed ones."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables.update(MALLOC)
    if source is not None:
        variables["PYTHONPATH"] = source
    return variables


class Player:
    """One workload with one peer, in a process group of its own."""

    def __init__(self, python: str, source: Optional[str], order: Dict[str, Any], patience: float) -> None:
        self.patience = patience
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end
        self.process = subprocess.Popen(
            command(python, "host", json.dumps(order)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=surroundings(source),
            start_new_session=True,
        )
        self.received = b""
        try:
            self.hear("ready")
        except BaseException:
            self.end()
            raise

    def round(self) -> Dict[str, Optional[float]]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"round\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self.last_error()) from None
        figures: Dict[str, Optional[float]] = self.hear("round")
        return figures

    def hear(self, what: str) -> Any:
        answer = json.loads(self.line())
        if "unfit" in answer:
            raise Failed(answer["unfit"])
        if "failed" in answer:
            raise Failed(f"failed: {answer['failed']}")
        return answer[what]

    def line(self) -> bytes:
        assert self.process.stdout is not None
        fd, deadline = self.process.stdout.fileno(), time.monotonic() + self.patience
        while b"\n" not in self.received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise TooSlow(f"gave no answer within {self.patience:.0f} s")
            more = os.read(fd, 1 << 20)
            if not more:
                raise Failed(self.last_error())
            self.received += more
        line, _, self.received = self.received.partition(b"\n")
        return line

    def last_error(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        return "died: " + next((line for line in reversed(lines) if line.strip()), "it printed no error")

    def end(self) -> None:
        """Let it clean up; kill it and every process that it started after ``PATIENCE``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdout.close()
            self.errors.close()
