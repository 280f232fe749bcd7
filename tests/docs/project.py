"""
A directory in which the blocks of a page run as they stand, and the shell that runs their commands.

The pages use port 8000 and prefixes such as "mysite". Both belong to the whole machine, so one page runs at a
time: a project waits for a lock. It refuses to run if the port or one of the prefixes is in use.
"""

from __future__ import annotations

import contextlib
import doctest
import fcntl
import importlib.metadata
import io
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("packaging", reason="needs packaging: see tests/docs/requirements.txt")

from helpers.processes import is_alive
from packaging.requirements import Requirement

from asgi_ipc.cli.unlink import remove

from .blocks import Block, section, sections

#: Seconds after which a command counts as stuck.
LIMIT = 120.0
PORT = 8000
SHM = Path("/dev/shm")
#: Commands that keep running although they do not end in "&". They listen on ``PORT``.
SERVERS = ("uvicorn ", "daphne ", "gunicorn ", "hypercorn ", "python manage.py runserver")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_PREFIX = re.compile(r"""(?:prefix"?[=:]\s*|IPCChannelLayer\()"([\w.-]+)\"""")


def is_listening() -> bool:
    """Return whether a server listens on the port of the pages."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1):
        return True
    return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition is true; fail the test after ``LIMIT`` seconds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def machine_to_itself(prefixes: Iterable[str]) -> Iterator[None]:
    """Wait until no other page runs, and check before and after that port and prefixes are not in use."""
    with open(Path(tempfile.gettempdir()) / "asgi_ipc-docs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not is_listening(), f"the docs use port {PORT}, and a server listens on it: stop that first"
        for prefix in prefixes:
            found = [path.name for kind in ("messages", "groups") for path in SHM.glob(f"{prefix}-{kind}*")]
            assert not found, f"the docs use the prefix {prefix!r}, and it is in use: asgi-ipc unlink {prefix}"
        try:
            yield
        finally:
            kept = [line for prefix in prefixes for line in remove(prefix)[1]]
        assert not kept
        assert not is_listening(), f"a page has left a server on port {PORT}"


class Shell:
    """One bash, as a reader has it open in a terminal: directory and variables stay from command to command."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )

    def run(self, command: str, limit: float = LIMIT) -> tuple[int, str]:
        """Run a command, and return its exit status and what it has printed, to either stream."""
        assert self._process.stdin
        assert self._process.stdout
        mark = f"end-{secrets.token_hex(8)}"
        # The command must not read what follows it. The empty line is for output without a newline at its end.
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\nstatus=$?; echo; echo {mark} $status\n")
        self._process.stdin.flush()
        timer = threading.Timer(limit, self._signal, [signal.SIGKILL])
        timer.start()
        lines = []
        try:
            for line in self._process.stdout:
                if line.startswith(mark):
                    return int(line.split()[1]), "".join(lines)[:-1]
                lines.append(line)
        finally:
            timer.cancel()
        raise AssertionError(f"{command} took more than {limit:g} s, or ended the shell:\n{''.join(lines)}")

    def end(self) -> None:
        """End the shell and all that it has started: with SIGTERM, then with SIGKILL."""
        self._process.terminate()  # bash itself ignores the one to its group
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while self._signal(0) and time.monotonic() < deadline:
            self._process.poll()
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        self._process.communicate()

    def _signal(self, number: int) -> bool:
        """Send a signal to the shell and its children; False if there are none."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
            return True
        return False


class Project:
    """The directory of a page. Use it within ``machine_to_itself``."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.really_installs = False
        self._started = 0
        path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        self.environment = {**kept, "PATH": path, "COLUMNS": "80", "PYTHONUNBUFFERED": "1", **environment}
        self.shell = Shell(directory, self.environment)

    def end(self) -> None:
        self.shell.end()

    # -- blocks -----------------------------------------------------------------------------------------------

    def run_all(self, blocks: Iterable[Block], before: Callable[[Block], None] = lambda block: None) -> None:
        """Run the blocks of a page in order, and call ``before`` with each before it runs."""
        printed: str | None = None
        for block in blocks:
            before(block)
            if block.language == "text":
                assert printed is not None, f"line {block.line}: output that follows no script"
                self._compare(block.text, printed, f"line {block.line}")
                printed = None
            else:
                printed = self.run(block)

    def run(self, block: Block) -> str | None:
        """Run a block, or write its file. Return what it has printed."""
        if block.file:
            self.write(block)
        elif block.language == "console":
            for command, shown in block.steps:
                self.command(command, shown, f"line {block.line}")
        elif block.language == "python":
            return self.script(block.text)
        elif block.language == "pycon":
            self._session(block)
        else:
            raise AssertionError(f"line {block.line}: nothing runs a block of {block.language!r}")
        return None

    def write(self, block: Block) -> None:
        """Write the file of a block, or append to it."""
        path = self.directory / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if block.is_appended else ""
        assert before or not block.is_appended, f"line {block.line}: {block.file} has to exist"
        path.write_text(f"{before}\n{block.text}" if before else block.text)

    def command(self, command: str, shown: str = "", where: str = "the command") -> str:
        """Run a command of the page, check its exit status and its output, and return the output."""
        if command.startswith("pip install") and not self.really_installs:
            self._is_installed(command)
            return ""
        if command.endswith("&") or command.startswith(SERVERS):
            self.start(command.removesuffix("&").strip())
            return ""
        status, printed = self.shell.run(command)
        assert status == 0, f"{where}: {command} has exit status {status}:\n{printed}"
        if shown:
            self._compare(shown, printed, f"{where}: {command}")
        return printed

    def start(self, command: str) -> Path:
        """Start a command that keeps running, wait until it serves or receives, and return its log."""
        self._started += 1
        log = self.directory / f"started-{self._started}.log"
        waiting = len(list(SHM.glob("*.wakeup/*")))
        _, printed = self.shell.run(f"{command} >{log} 2>&1 & echo $!")
        pid = int(printed)

        def is_up() -> bool:
            assert is_alive(pid), f"{command} has ended:\n{log.read_text()}"
            if command.startswith(SERVERS):
                return is_listening()
            return len(list(SHM.glob("*.wakeup/*"))) > waiting  # it waits for a message

        wait_until(is_up, f"{command} to start")
        return log

    def script(self, text: str) -> str:
        """Run a script in the directory, and return what it has printed. Nothing may come on stderr."""
        done = subprocess.run(
            [sys.executable, "-c", text],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        assert not done.stderr
        return done.stdout

    # -- parts ------------------------------------------------------------------------------------------------

    def _compare(self, shown: str, printed: str, where: str) -> None:
        checker = doctest.OutputChecker()
        assert checker.check_output(shown, printed, FLAGS), f"{where} shows\n{shown}\nand this came:\n{printed}"

    def _session(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(block.text, {}, f"line {block.line}", None, block.line)
        report = io.StringIO()
        results = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.write)
        assert test.examples
        assert not results.failed, report.getvalue()

    def _is_installed(self, command: str) -> None:
        """Check that what a page installs is what the tests have, instead of installing it once more."""
        requirements = [word for word in shlex.split(command)[2:] if not word.startswith("-")]
        assert requirements, command
        for each in map(Requirement, requirements):
            version = importlib.metadata.version(each.name)
            assert each.url or each.specifier.contains(version), f"{command}: {each.name} {version} is installed"


def prefixes_of(page: str | Path) -> list[str]:
    """Return the prefixes of the layers that the blocks of a page make."""
    return sorted({name for each in sections(page) for block in each.blocks for name in _PREFIX.findall(block.text)})


def build_quickstart(project: Project) -> None:
    """Make the project of the quick start, from the blocks of its page."""
    project.run_all(section("quickstart.rst", "Create the project").blocks)
    for each in sections("quickstart.rst"):
        if each.title != "Create the project":
            for block in each.files:
                project.write(block)
