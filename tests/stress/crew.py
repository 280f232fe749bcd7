"""The processes of a scenario: forked by one that has no threads, killed, replaced, ended, and checked at the end."""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from helpers.accounts import Accounts
from helpers.layers import Clock, assert_sound, recoveries
from helpers.processes import LIMIT, Children, Talk, is_alive
from helpers.waiting import files_of

from asgi_ipc import ChannelFull, IPCChannelLayer

from .workers import GROUP, OPTIONS, RETRY, TASKS, Worker

#: Seconds that an operation may take where nothing is frozen. Very loose: the machine may be busy with other tests.
LONGEST = 20.0
#: Seconds between two kills.
BETWEEN_KILLS = 0.05, 0.4
#: Seconds after which the layer looks again for files that dead processes have left.
MINUTE = 61.0
#: The last message of every receiver.
LAST = {"last": True}


def stage(talk: Talk, prefix: str, directory: str) -> None:
    """A child that starts the workers: it forks one for each list of arguments that it hears, and says its pid."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the workers that end do not stay as zombies
    while True:
        module, kind, name, options, settings = talk.hear()
        worker: type[Worker] = getattr(importlib.import_module(module), kind)
        pid = os.fork()
        if pid:
            talk.say(pid)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            worker(name, prefix, directory, options, settings).run()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)


class Crew:
    """
    The workers of a scenario, by name. ``options`` are those of every layer, beside ``OPTIONS``.

    Hire those that receive, call ``begin``, hire those that send, make trouble, and call ``finish``.
    """

    def __init__(self, start: Children, prefix: str, directory: str, **options: Any) -> None:
        self.prefix, self.options = prefix, options
        self.layer = IPCChannelLayer(prefix, **{**OPTIONS, **options})
        self.accounts = Accounts(directory)
        self.pids: dict[str, int] = {}
        self.killed: set[str] = set()
        self._hired: dict[str, tuple[type[Worker], dict[str, Any]]] = {}
        self._stage = start(stage, prefix, directory)

    def hire(self, kind: type[Worker], count: int = 1, **settings: Any) -> list[int]:
        """Start workers, wait until they are ready, and return their pids."""
        names = [self._start(kind, settings) for _ in range(count)]
        self._until(lambda: self.accounts.ready.issuperset(names), "the workers to be ready")
        return [self.pids[name] for name in names]

    def _start(self, kind: type[Worker], settings: dict[str, Any]) -> str:
        name = f"{kind.__name__}-{len(self._hired)}"
        self._hired[name] = kind, settings
        self._stage.say([kind.__module__, kind.__name__, name, self.options, settings])
        self.pids[name] = self._stage.hear()
        return name

    def begin(self) -> None:
        """Note that the group now has its first members. Those that join later may miss messages."""
        self.accounts.read()
        self.accounts.began = True

    def work(self, seconds: float) -> None:
        """Let the workers work, and fail at once if one of them does."""
        end = time.monotonic() + seconds
        self._read()
        while time.monotonic() < end:
            time.sleep(min(0.5, seconds))
            self._read()

    def kill_at_random(self, seconds: float, *kinds: type[Worker]) -> None:
        """For so many seconds, kill workers of these kinds, less than half a second apart, and replace each."""
        rng = random.Random(self.prefix)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(rng.uniform(*BETWEEN_KILLS))
            self.replace(rng.choice([name for name in self.pids if self._hired[name][0] in kinds]))

    def replace(self, name: str) -> None:
        """Kill a worker, and start another one of its kind."""
        pid = self.pids.pop(name)
        self.killed.add(name)
        os.kill(pid, signal.SIGKILL)
        self._until(lambda: not is_alive(pid), f"{name} to die")
        self._start(*self._hired[name])

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self, longest: float = LONGEST) -> None:
        """End all workers, and check what the package promises. No operation may have taken more than ``longest``."""
        self._end()
        for channel in TASKS:
            while (message := self.layer.receive([channel])[1]) is not None:
                self.accounts.arrived("the test", message["from"], message["stream"], message["n"], channel)
        self.accounts.settle(self.killed, sum(self._hired[name][0].shares for name in self.killed))
        self._read()
        found = recoveries(self.layer)
        self._report(found)
        deaths = found.pop("death")
        assert not any(found.values()), (found, self.accounts.logged)  # then a live process was taken for a dead one
        assert deaths <= len(self.killed), self.accounts.logged
        assert self.accounts.longest < longest, self.accounts.longest
        assert_sound(self.layer)
        self._assert_no_files_of_dead()
        self.layer.unlink()
        self.layer.close()

    def _end(self) -> None:
        """End the senders, then each kind of receivers by a last message, which is behind all others."""
        self._until(lambda: self.accounts.ready >= self.pids.keys(), "the last workers to be ready")
        for name, pid in self.pids.items():
            if not self._hired[name][0].receives:
                os.kill(pid, signal.SIGTERM)
        self._until_ended(lambda kind: not kind.receives)
        members, expected = set(self.layer.group_channels(GROUP)), self.accounts.members(self.killed)
        assert members == expected, f"too many: {members - expected}, missing: {expected - members}"
        self.layer.send_group(GROUP, LAST)
        self._until_ended(lambda kind: not kind.shares)
        for name in self.pids:
            if self._hired[name][0].shares:
                self._send_last()
        self._until_ended(lambda kind: True)

    def _send_last(self) -> None:
        while True:
            try:
                return self.layer.send(TASKS[0], LAST)
            except ChannelFull:
                time.sleep(RETRY)

    def _until_ended(self, which: Callable[[type[Worker]], bool]) -> None:
        names = {name for name in self.pids if which(self._hired[name][0])}
        self._until(lambda: self.accounts.ended >= names, "the workers to end")

    def _assert_no_files_of_dead(self) -> None:
        """Assert that the FIFOs of killed workers go within minutes, as the layer is used."""
        clock = Clock(self.layer)

        def nothing_left() -> bool:
            clock.forward(MINUTE)
            self.layer.receive(["nothing"])
            return not files_of(self.prefix)

        self._until(nothing_left, f"the FIFOs of the dead to go: {files_of(self.prefix)}")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT
        self._read()
        while not condition():
            assert time.monotonic() < deadline, f"waited {LIMIT} s for {what}{self._stage.errors()}"
            time.sleep(0.01)
            self._read()

    def _read(self) -> None:
        self.accounts.read()
        assert not self.accounts.wrong, self.accounts.wrong[:9]

    def _report(self, found: dict[str, int]) -> None:
        """Print what happened, which pytest shows with ``-s`` and for a test that fails."""
        kinds = Counter(kind.__name__ for kind, _ in self._hired.values())
        sys.stdout.write(
            f"{dict(kinds)}: {self.accounts.sent} sent, {self.accounts.received} received, {len(self.killed)} killed, "
            f"{len(self.accounts.lost)} lost with a receiver, recoveries: {found}, "
            f"longest operation {self.accounts.longest:.3f} s\n"
        )
