"""Those who sleep in a blocking receive: threads of the test itself, and crowds of forked processes."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
import traceback
from typing import Any, Callable, Iterable, List, Optional, Tuple

from asgi_ipc import IPCChannelLayer

from .processes import LIMIT, Talk, reap
from .waiting import OPTIONS, until

Received = Tuple[Optional[str], Any]


class Sleeper(threading.Thread):
    """A thread that receives once, and sleeps for that as long as its layer allows."""

    def __init__(self, layer: IPCChannelLayer, channels: Iterable[str]) -> None:
        super().__init__(daemon=True)
        self.layer, self.channels = layer, channels
        self._found: Received = (None, None)
        self._error: Optional[BaseException] = None
        self.start()

    def run(self) -> None:
        try:
            self._found = self.layer.receive(self.channels, block=True)
        except BaseException as error:
            self._error = error

    def result(self) -> Received:
        """What it has received, once it has."""
        self.join(LIMIT)
        assert not self.is_alive(), f"still asleep after {LIMIT} s"
        if self._error is not None:
            raise self._error
        return self._found


def sleeps(talk: Talk, prefix: str, channels: List[str], look: bool, times: int = 1) -> None:
    """A child: sleep in a receive, say what has come, and again. Without ``look`` it depends on being rung."""
    from .waiting import never_poll

    if not look:
        never_poll()
    with IPCChannelLayer(prefix, block_timeout=3600, **OPTIONS) as layer:
        for _ in range(times):
            talk.say(layer.receive(channels, block=True))
        talk.hear()


class Crowd:
    """
    Forked processes that run ``body(number, words)``, with words that they share with the test.

    A context manager: leaving it ends and reaps them.
    """

    def __init__(self, count: int, body: Callable[[int, memoryview], None], words: int = 64) -> None:
        self.words = memoryview(mmap.mmap(-1, words * 8)).cast("Q")
        self.pids = [self._fork(body, number) for number in range(count)]

    def _fork(self, body: Callable[[int, memoryview], None], number: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.alarm(int(4 * LIMIT))  # whatever happens to the test
            body(number, self.words)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def sum(self, first: int = 0, last: int = 0) -> int:
        """The sum of these words."""
        return sum(self.words[first : last or len(self.words)])

    def until_sum(self, total: int, first: int = 0, last: int = 0) -> None:
        """Wait until these words come to so much."""
        until(lambda: self.sum(first, last) >= total)

    def kill(self, number: int, how: int = signal.SIGKILL) -> None:
        """Send a signal to one of them; wait for its end if that is what it does."""
        os.kill(self.pids[number], how)
        if how == signal.SIGKILL:
            os.waitpid(self.pids[number], 0)
            self.pids[number] = 0

    def end(self) -> List[Optional[int]]:
        """Wait for all that were not killed: how they ended."""
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
