"""
How long the next send and receive take after another process was killed.

``recovery`` kills the process at a random moment. ``recovery-inside`` kills a process of asgi_ipc in a critical
section, so that each kill needs a recovery.
"""

from __future__ import annotations

__all__ = ["INSIDE", "RECOVERY"]

import contextlib
import os
import random
import select
import signal
import time
from typing import Any, Dict, List, Optional

from ..adapters.base import CHANNEL, Peer, message_of
from ..crew import Crew, Job, Member
from .backlog import CHANNELS, fill
from .base import Maker, Params, Stage, Unfit, Workload

#: Kills in a round, the longest pause before a kill in seconds, and the seconds after which the other process
#: counts as stuck.
KILLS, LONGEST, LIMIT = 5, 0.02, 2.0
#: What waits when a process is killed inside: messages and the channels that hold them.
WAITING = ((0, 1), (1000, 1), (10_000, 1), (10_000, 10_000), (100_000, 1000))


class Killed(Stage):
    """One process does pairs until it is killed; another one then does a pair."""

    def __init__(self, maker: Maker, params: Params) -> None:
        self.maker, self.params = maker, params
        self.message = message_of(params["payload"])
        self.begin()

    def begin(self) -> None:
        """Make a new peer with its unread messages, and a process that is ready to do a pair."""
        self.peer = self.maker.make()

        def survive(peer: Peer) -> Job:
            peer.listen(CHANNEL)
            fill(peer, self.params["unread"], self.message, self.params.get("channels", CHANNELS))
            peer.pairs(10, self.message)

            def job(order: Any) -> Any:
                start = time.perf_counter()
                peer.pairs(1, self.message)
                return time.perf_counter() - start

            return job

        self.crew = Crew(self.peer, [survive], pinned=False)

    def round(self) -> Dict[str, Optional[float]]:
        pauses, stuck = [], 0
        for _ in range(self.params.get("kills", KILLS)):
            self.kill()
            took = self.survivor()
            pauses.append((LIMIT if took is None else took) * 1000)
            if took is None:
                stuck += 1
                self.crew.end()
                self.begin()
        return {"longest": max(pauses), "stuck": stuck / len(pauses) * 100}

    def kill(self) -> None:
        killed = Member(self.peer, self.killed, None)
        try:
            killed.hear()
            killed.tell(None)
            time.sleep(random.uniform(0.002, LONGEST))
        finally:
            killed.end()

    def killed(self, peer: Peer) -> Job:
        def job(order: Any) -> Any:
            while True:
                peer.pairs(100, self.message)

        return job

    def survivor(self) -> Optional[float]:
        """Return the seconds of the survivor's pair, or None if it is stuck."""
        survivor = self.crew.members[0]
        survivor.tell(None)
        if not select.select([survivor.reports], [], [], LIMIT)[0]:
            return None
        return float(survivor.hear())

    def end(self) -> None:
        self.crew.end()


class KilledInside(Killed):
    """The same; the process is killed in a critical section."""

    def kill(self) -> None:
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                self.peer.open()
                self.peer.die_inside()  # type: ignore[attr-defined]
            os._exit(1)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            raise Unfit(f"the process was not killed in the critical section, but ended with status {status}")


def levels(quick: bool) -> List[List[Params]]:
    return [[{"unread": 0, "payload": 100}]]  # fewer kills might all miss a critical section


def inside_levels(quick: bool) -> List[List[Params]]:
    if quick:
        return [[{"unread": 0, "channels": 1, "payload": 100, "kills": 1}]]
    return [[{"unread": unread, "channels": channels, "payload": 100} for unread, channels in WAITING]]


def described(params: Params) -> str:
    """Return the number of kills, of unread messages, and of their channels, in words."""
    kills, unread = params.get("kills", KILLS), ""
    if params["unread"]:
        channels = params["channels"]
        within = "1 channel" if channels == 1 else f"{channels:,} channels"
        unread = f"{params['unread']:,} unread messages in {within}: "
    return f"{unread}the longest of {kills} kills" if kills > 1 else f"{unread}1 kill"


RECOVERY = Workload(
    name="recovery",
    title="After another process is killed",
    about="How long the next send and receive take after another process was killed while it used the layer. "
    '"Stuck": they did not end within 2,000 ms.',
    metrics={"longest": "ms", "stuck": "% of kills"},
    labels={"longest": "longest", "stuck": "stuck"},
    stage=Killed,
    grid=levels,
    rounds=4,
    quick_rounds=1,
    needs=lambda params: ("processes", "writers"),
    patience=120,
    setting=described,
    contrast=("shorter", "longer"),
    quick_seconds=1.8,
)
INSIDE = Workload(
    name="recovery-inside",
    title="After a process is killed while it holds the lock",
    about="How long the next send and receive take after another process was killed in a critical section, where "
    "the shared memory may be half changed.",
    metrics={"longest": "ms", "stuck": "% of kills"},
    labels={"longest": "longest", "stuck": "stuck"},
    stage=KilledInside,
    grid=inside_levels,
    rounds=3,
    quick_rounds=1,
    patience=120,
    only=("asgi_ipc",),
    setting=described,
    contrast=("shorter", "longer"),
)
