"""Processes that are stopped while they hold the mutex, and event loops whose pauses are measured meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from asgi_ipc import IPCChannelLayer

from .holders import holds, opened
from .processes import Child, Children, Talk

#: Seconds for which a holder is stopped: a loop that waited for it would stand still for as long.
STOPPED = 1.0
#: Seconds for which a loop may stand still on a busy machine. Without waiting, it takes some milliseconds.
LONGEST_GAP = 0.45


class StoppedHolder:
    """A process that was stopped inside the critical section of one store."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.pid = int(child.hear())
        child.kill(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again, and leave the critical section."""
        self.child.kill(signal.SIGCONT)
        self.child.say()
        assert self.child.hear() == "out"


def stopped_inside(start: Children, prefix: str, store: str = "message_store") -> StoppedHolder:
    """Return a new process that is stopped inside the critical section of a store."""
    return StoppedHolder(start(holds, prefix, store))


def holds_admin_lock(talk: Talk, prefix: str) -> None:
    """A child: hold the admin locks of both segments, report, and release them when told to."""
    with opened(prefix) as layer:
        segments = [store.sections.opened().segment for store in (layer.message_store, layer.group_store)]
        for segment in segments:
            assert segment.locks.lock(0)
        talk.say(os.getpid())
        talk.hear()
        for segment in segments:
            segment.locks.unlock(0)
        talk.say("out")
        talk.hear()


class Heartbeat:
    """Measures how long an event loop stands still: ``longest`` is the longest time between two of its steps."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.count = 0
        self._last = time.monotonic()

    def beat(self) -> None:
        """Note that the loop has done a step."""
        now = time.monotonic()
        self.longest = max(self.longest, now - self._last)
        self._last = now
        self.count += 1

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self.beat()
            await asyncio.sleep(0.002)


@contextmanager
def beating() -> Iterator[Heartbeat]:
    """Assert that the running event loop does not stand still for long during this block."""
    heartbeat = Heartbeat()
    task = asyncio.get_running_loop().create_task(heartbeat.run())
    try:
        yield heartbeat
    finally:
        task.cancel()
    heartbeat.beat()
    assert heartbeat.longest < LONGEST_GAP, "the event loop stood still"
    assert heartbeat.count > 10


def sender(prefix: str) -> IPCChannelLayer:
    """Return a layer that waits, with the options of the children in this module."""
    return opened(prefix)
