"""Blocking receives: in threads of the test itself, in a child, and in many forked processes."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Optional

from asgi_ipc import IPCChannelLayer

from .processes import LIMIT, Talk, reap
from .waiting import OPTIONS, until

#: What ``receive`` returns.
Received = tuple[Optional[str], Any]


class Sleeper(threading.Thread):
    """A thread that runs one blocking ``receive``."""

    def __init__(self, layer: IPCChannelLayer, channels: Iterable[str]) -> None:
        super().__init__(daemon=True)
        self.layer, self.channels = layer, channels
        self._found: Received = (None, None)
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._found = self.layer.receive(self.channels, block=True)
        except BaseException as error:
            self._error = error

    def result(self) -> Received:
        """Wait for the end of the ``receive``; return its result, or raise its exception."""
        self.join(LIMIT)
        assert not self.is_alive(), f"still asleep after {LIMIT} s"
        if self._error is not None:
            raise self._error
        return self._found


def sleeps(talk: Talk, prefix: str, channels: list[str], poll: bool, times: int = 1) -> None:
    """A child: block in ``receive``, ``times`` times, and report each result; poll only with ``poll``."""
    from .waiting import never_poll

    if not poll:
        never_poll()
    with IPCChannelLayer(prefix, block_timeout=3600, **OPTIONS) as layer:
        for _ in range(times):
            talk.say(layer.receive(channels, block=True))
        talk.hear()


class Crowd:
    """
    Forked processes that run ``body(number, words)``; they share ``words`` with the test.

    A context manager: at its end the processes are killed and reaped.
    """

    def __init__(self, count: int, body: Callable[[int, memoryview], None], words: int = 64) -> None:
        self.words = memoryview(mmap.mmap(-1, words * 8)).cast("Q")
        self.pids = [self._fork(body, number) for number in range(count)]

    def _fork(self, body: Callable[[int, memoryview], None], number: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.alarm(int(4 * LIMIT))  # ends the process even if the test was killed
            body(number, self.words)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def sum(self, first: int = 0, last: int = 0) -> int:
        """Return the sum of ``words[first:last]``, or of ``words[first:]``."""
        return sum(self.words[first : last or len(self.words)])

    def until_sum(self, total: int, first: int = 0, last: int = 0) -> None:
        """Wait until the sum of these words is at least ``total``."""
        until(lambda: self.sum(first, last) >= total)

    def kill(self, number: int, how: int = signal.SIGKILL) -> None:
        """Send a signal to one of the processes; after SIGKILL, reap it."""
        os.kill(self.pids[number], how)
        if how == signal.SIGKILL:
            os.waitpid(self.pids[number], 0)
            self.pids[number] = 0

    def end(self) -> list[int | None]:
        """Wait for all processes that were not killed; return what ``reap`` returns for each."""
        codes = [reap(pid) for pid in self.pids if pid]
        self.pids = []
        return codes

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *error: Any) -> None:
        for pid in filter(None, self.pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
