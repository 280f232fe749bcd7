"""What schedulers do to processes, done by signals: it needs no permission to make control groups."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

from .processes import LIMIT, is_stopped


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class SignalQuota:
    """
    Lets processes run for ``quota`` of each ``period``, in seconds: SIGSTOP and SIGCONT in the rhythm of a quota.

    A context manager: at its end, all processes run.
    """

    def __init__(self, quota: float, period: float) -> None:
        self._quota, self._period = quota, period
        self._pids: list[int] = []
        self._ended = threading.Event()
        self._periods = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._quota):
            _signal(self._pids, signal.SIGSTOP)
            self._ended.wait(self._period - self._quota)
            _signal(self._pids, signal.SIGCONT)
            self._periods += 1

    def add(self, pid: int) -> None:
        """Add a process."""
        self._pids.append(pid)

    def throttled(self) -> int:
        """Return in how many periods the processes were stopped."""
        return self._periods

    def __enter__(self) -> SignalQuota:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


class SignalFreezer:
    """Freezes processes by SIGSTOP. A context manager: at its end, all processes run."""

    def __init__(self) -> None:
        self._pids: list[int] = []

    def add(self, pid: int) -> None:
        """Add a process."""
        self._pids.append(pid)

    def freeze(self) -> None:
        """Stop all processes, and wait until each of them has stopped."""
        _signal(self._pids, signal.SIGSTOP)
        for pid in self._pids:
            self._await_stop(pid)

    def _await_stop(self, pid: int) -> None:
        deadline = time.monotonic() + LIMIT
        while not is_stopped(pid):
            assert time.monotonic() < deadline, f"process {pid} did not stop"
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let them go on."""
        _signal(self._pids, signal.SIGCONT)

    def __enter__(self) -> SignalFreezer:
        return self

    def __exit__(self, *error: object) -> None:
        self.thaw()
