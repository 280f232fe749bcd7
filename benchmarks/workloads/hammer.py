"""
How long a send and a receive take while another process uses the same peer all the time.

The high percentiles show how long the other process keeps this one waiting.
"""

from __future__ import annotations

__all__ = ["HAMMER"]

import time
from typing import Any, Dict, List, Optional, Tuple

from ..adapters.base import CHANNEL, PING, Peer, message_of
from ..crew import Crew, Job
from ..measure import percentile
from .base import Maker, Pace, Params, Stage, Workload

#: What the other process sends.
LOADS = {
    "nothing": "nothing",
    "small": "messages of 100 bytes",
    "large": "messages of 900,000 bytes",
    "group": "messages to a group of 1,000 members",
}
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
    if quick:  # rounds long enough for the high percentiles
        return [[{"beside": load, "payload": 100, "seconds": 0.2} for load in QUICK_LOADS]]
    return [[{"beside": load, "payload": 100} for load in LOADS]]


def needs(params: Params) -> Tuple[str, ...]:
    return ("processes", "channels", *(("groups",) if params["beside"] == "group" else ()))


HAMMER = Workload(
    name="hammer",
    title="Send and receive while another process is busy",
    about="The time to send 100 bytes and receive them again while another process, on another core, sends and "
    'receives without a pause. "99.9 % within": only one in a thousand takes longer.',
    metrics={"p99.9": "µs", "p99": "µs", "median": "µs", "longest": "µs"},
    labels={"p99.9": "99.9 % within", "p99": "99 % within", "median": "median"},
    stage=PairsUnderLoad,
    grid=loads,
    rounds=7,
    quick_rounds=3,
    needs=needs,
    setting=lambda params: f"the other process sends {LOADS[params['beside']]}",
    quick_seconds=2.0,
)
