"""
A host process, as the one who conducts sees it: started in a peer's Python, asked for rounds, ended whatever happens.
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
#: Let glibc keep freed memory. Otherwise it depends on what lies where in the heap whether it gives a large block back
#: to the kernel each time, which costs any peer 400 page faults for a 900 kB pair: by chance, 750 µs more than 80.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "33554432"}
#: Seconds that a host gets to clear up.
PATIENCE = 20.0


class Failed(Exception):
    """It gave no figures; the text says why."""


class TooSlow(Failed):
    """It did not answer in time, and would not with more to do."""


def command(python: str, mode: str, *words: str) -> List[str]:
    return [python, WORKER, mode, *words]


def surroundings(source: Optional[str]) -> Dict[str, str]:
    """The environment variables: the packages of a folder come before those that are installed, if one is given."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables.update(MALLOC)
    if source is not None:
        variables["PYTHONPATH"] = source
    return variables


class Player:
    """One workload with one peer, in a process group of its own."""

    def __init__(self, python: str, source: Optional[str], order: Dict[str, Any], patience: float) -> None:
        self.patience = patience
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end
        self.process = subprocess.Popen(
            command(python, "host", json.dumps(order)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env=surroundings(source),
            start_new_session=True,
        )
        self.heard = b""
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
            raise Failed(self.last_words()) from None
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
        there, deadline = self.process.stdout.fileno(), time.monotonic() + self.patience
        while b"\n" not in self.heard:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([there], [], [], left)[0]:
                raise TooSlow(f"gave no answer within {self.patience:.0f} s")
            more = os.read(there, 1 << 20)
            if not more:
                raise Failed(self.last_words())
            self.heard += more
        line, _, self.heard = self.heard.partition(b"\n")
        return line

    def last_words(self) -> str:
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").split("\n")
        return "died: " + next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def end(self) -> None:
        """Let it clear up; a process that hangs is killed, with all that it started."""
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
            self.said.close()
