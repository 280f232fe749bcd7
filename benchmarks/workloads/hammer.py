"""
How long a pair takes while another process uses the same peer all the time.

Long critical sections of the other process show in the high percentiles.
"""

from __future__ import annotations

__all__ = ["HAMMER"]

import time
from typing import Any, Dict, List, Optional, Tuple

from ..adapters.base import CHANNEL, PING, Peer, message_of
from ..crew import Crew, Job
from ..measure import percentile
from .base import Maker, Pace, Params, Stage, Workload

#: What the other process sends: nothing, small messages, large ones, or messages to a group.
LOADS = ("nothing", "small", "large", "group")
QUICK_LOADS = ("nothing", "small")
LARGE, MEMBERS = 900_000, 1000


class PairsUnderLoad(Stage):
    """One process times its pairs; the other one uses the peer meanwhile."""

    def __init__(self, maker: Maker, params: Params) -> None:
        message = message_of(params["payload"])

        def timed(peer: Peer) -> Job:
            peer.listen(CHANNEL)
            return lambda times: peer.timed_pairs(times, message)

        self.crew = Crew(maker.make(), [timed, LOAD_STARTS[params["beside"]]])
        self.pace = Pace(params.get("seconds", 0.5), least=100, most=100_000)
        self.pace.settle(lambda: sum(self.play()) / 1e9)

    def play(self) -> List[int]:
        timed, other = self.crew.members
        other.tell(self.pace.seconds)
        timed.tell(self.pace.times)
        pairs: List[int] = self.crew.hear()[0]
        return pairs

    def round(self) -> Dict[str, Optional[float]]:
        pairs = sorted(self.play())
        figures: Dict[str, Optional[float]] = {
            name: percentile(pairs, share) / 1e3 if len(pairs) * (1 - share) >= 5 else None
            for name, share in (("p99.9", 0.999), ("p99", 0.99), ("median", 0.5))
        }
        return {**figures, "longest": pairs[-1] / 1e3}

    def end(self) -> None:
        self.crew.end()


def repeating(action: Any) -> Job:
    """Return a job that repeats an action for the given seconds: about as long as a round lasts."""

    def job(seconds: float) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            action()

    return job


def nothing(peer: Peer) -> Job:
    return lambda seconds: None


def small(peer: Peer) -> Job:
    peer.listen(PING)
    message = message_of(100)

    def load() -> None:
        peer.send_all(PING, 10, message)
        peer.receive_all(PING, 10)

    return repeating(load)


def large(peer: Peer) -> Job:
    peer.listen(PING)
    message = message_of(LARGE)

    def load() -> None:
        peer.send_all(PING, 1, message)
        peer.receive_all(PING, 1)

    return repeating(load)


def group(peer: Peer) -> Job:
    peer.join(MEMBERS)
    message = message_of(100)

    def load() -> None:
        peer.arm()
        peer.announce(message)
        peer.gather()

    return repeating(load)


LOAD_STARTS = {"nothing": nothing, "small": small, "large": large, "group": group}


def loads(quick: bool) -> List[List[Params]]:
    return [[{"beside": load, "payload": 100} for load in (QUICK_LOADS if quick else LOADS)]]


def needs(params: Params) -> Tuple[str, ...]:
    return ("processes", "channels", *(("groups",) if params["beside"] == "group" else ()))


HAMMER = Workload(
    name="hammer",
    title="send + receive of 100 bytes while another process uses the peer too, each on its own core",
    metrics={"p99.9": "µs", "p99": "µs", "median": "µs", "longest": "µs"},
    stage=PairsUnderLoad,
    grid=loads,
    rounds=7,
    quick_rounds=2,
    needs=needs,
)
