"""
A process is killed: how long until another one has its next pair done?

``recovery`` kills at random moments of work, which every peer can be asked to stand; ``recovery-inside`` kills this
layer's process while it keeps everybody else out, so that each kill needs a repair.
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
from .backlog import fill
from .base import Maker, Params, Stage, Unfit, Workload

#: Kills in a round, the longest pause before one, and how long the others are given before they count as stuck.
KILLS, LONGEST, LIMIT = 5, 0.02, 2.0


class Killed(Stage):
    """One process that does pairs until it is killed, and one that does a pair then."""

    def __init__(self, maker: Maker, params: Params) -> None:
        self.maker, self.params = maker, params
        self.message = message_of(params["payload"])
        self.begin()

    def begin(self) -> None:
        """A new peer, with its messages, and a process that is ready to do a pair."""
        self.peer = self.maker.make()

        def survive(peer: Peer) -> Job:
            peer.listen(CHANNEL)
            fill(peer, self.params["unread"], self.message)
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
        victim = Member(self.peer, self.victim, None)
        try:
            victim.hear()
            victim.tell(None)
            time.sleep(random.uniform(0.002, LONGEST))
        finally:
            victim.end()

    def victim(self, peer: Peer) -> Job:
        def job(order: Any) -> Any:
            while True:
                peer.pairs(100, self.message)

        return job

    def survivor(self) -> Optional[float]:
        """Seconds for its pair, or None if it is stuck."""
        survivor = self.crew.members[0]
        survivor.tell(None)
        if not select.select([survivor.reports], [], [], LIMIT)[0]:
            return None
        return float(survivor.hear())

    def end(self) -> None:
        self.crew.end()


class KilledInside(Killed):
    """The same, killed in the middle of an operation."""

    def kill(self) -> None:
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                self.peer.open()
                self.peer.die_inside()  # type: ignore[attr-defined]
            os._exit(1)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            raise Unfit(f"the process was to be killed inside the section, and ended with status {status}")


def levels(quick: bool) -> List[List[Params]]:
    if quick:
        return [[{"unread": 0, "payload": 100, "kills": 2}]]
    return [[{"unread": 0, "payload": 100}]]


def inside_levels(quick: bool) -> List[List[Params]]:
    if quick:
        return [[{"unread": 0, "payload": 100, "kills": 1}]]
    return [[{"unread": unread, "payload": 100} for unread in (0, 1000, 10_000, 100_000)]]


RECOVERY = Workload(
    name="recovery",
    title="a process is killed in its work: the next pair of another one, of 5 kills the longest",
    metrics={"longest": "ms", "stuck": "% of kills"},
    stage=Killed,
    grid=levels,
    rounds=4,
    quick_rounds=1,
    needs=lambda params: ("processes", "writers"),
    patience=120,
)
INSIDE = Workload(
    name="recovery-inside",
    title="a process is killed while it keeps the others out: the next pair of another one, of 5 kills the longest",
    metrics={"longest": "ms", "stuck": "% of kills"},
    stage=KilledInside,
    grid=inside_levels,
    rounds=3,
    quick_rounds=1,
    patience=120,
    only=("asgi_ipc",),
)
