"""The chat of ``examples/chat`` as a running site: started with ``run.py`` and ended by a signal."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers.processes import LIMIT, is_alive

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "chat"
_READY = re.compile(r"The chat is at (http://\S+)")


class Chat:
    """
    A process with ``run.py`` on a free port; the constructor waits until the site is ready.

    Without ``prefix``, ``run.py`` chooses one, as it does by default. It is started at the top of the checkout, as the
    documentation says; ``example`` and ``python`` are for a site in another place.
    """

    def __init__(
        self,
        prefix: str | None,
        server: str,
        workers: int,
        example: Path = EXAMPLE,
        python: str = sys.executable,
    ) -> None:
        self.prefix = prefix
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by end
        command = [python, str(example / "run.py"), "--port", "0", "--server", server, "--workers", str(workers)]
        self.process = subprocess.Popen(
            [*command, *(["--prefix", prefix] if prefix else [])],
            cwd=example.parents[1],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            self.url = self._wait_until_ready()
        except BaseException:
            self.end()
            raise

    def _wait_until_ready(self) -> str:
        assert self.process.stdout is not None
        output = b""
        deadline = time.monotonic() + LIMIT
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while True:
                found = _READY.search(output.decode())
                if found and output.endswith(b"\n"):
                    return found[1]
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"the chat did not start{self.errors()}")
                more = os.read(self.process.stdout.fileno(), 65536)
                if not more:
                    raise AssertionError(f"the chat ended{self.errors()}")
                output += more

    def errors(self) -> str:
        """Return the site's standard error, to append to a message."""
        self._errors.seek(0)
        return ":\n" + self._errors.read().decode(errors="replace")

    def post(self, room: str, text: str, name: str = "Script") -> int:
        """Run ``post.py`` and return its process id."""
        assert self.prefix
        command = [sys.executable, "post.py", room, text, "--name", name, "--prefix", self.prefix]
        with subprocess.Popen(command, cwd=EXAMPLE, stderr=subprocess.PIPE) as script:
            _, errors = script.communicate(timeout=LIMIT)
            assert script.returncode == 0, errors.decode()
            return script.pid

    def end(self) -> None:
        """End the site with SIGTERM; fail if it returns an error or leaves a process running."""
        started = descendants(self.process.pid)
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(LIMIT)
        finally:
            left = [pid for pid in started if is_alive(pid)]
            for pid in [self.process.pid, *left]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            errors = self.errors()
            self._errors.close()
        assert code == 0, f"run.py ended with {code}{errors}"
        assert not left, f"run.py left processes behind: {left}{errors}"


def run_in_shell(command: str, directory: str = "/") -> None:
    """Run a command as a user would who pastes it into a shell, without the environment of the tests."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children and their children."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def kill(pid: int) -> None:
    """Send SIGKILL to a process, and return when the kernel has released its locks."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + LIMIT
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} survives SIGKILL"
        time.sleep(0.001)
