"""How many messages a second processes can pass to others through one channel."""

from __future__ import annotations

__all__ = ["ONEWAY", "THROUGHPUT"]

import math
import time
from typing import Any, Dict, List, Optional, Tuple

from ..adapters.base import CHANNEL, Peer, message_of
from ..crew import Crew, Job
from .base import Maker, Pace, Params, Stage, Workload

CREWS = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 4), (8, 8))
QUICK_CREWS = ((1, 1), (2, 2))


class Stream(Stage):
    """Senders, which send equal numbers of messages, and receivers, which take equal numbers."""

    def __init__(self, maker: Maker, params: Params) -> None:
        self.senders, self.receivers = params["senders"], params["receivers"]
        message = message_of(params["payload"])

        def send(peer: Peer) -> Job:
            def job(times: int) -> Any:
                start = time.perf_counter_ns()
                peer.send_all(CHANNEL, times, message)
                return start

            return job

        def receive(peer: Peer) -> Job:
            peer.listen(CHANNEL)

            def job(times: int) -> Any:
                peer.receive_all(CHANNEL, times)
                return time.perf_counter_ns()

            return job

        pinned = self.senders == self.receivers == 1
        self.crew = Crew(maker.make(), [receive] * self.receivers + [send] * self.senders, pinned)
        parts = math.lcm(self.senders, self.receivers)
        self.pace = Pace(params.get("seconds", 0.3), least=20 * parts, most=200_000, multiple=parts)
        self.pace.settle(self.play)

    def play(self) -> float:
        """Return the seconds from the first sender's start to the last receiver's end."""
        each = [self.pace.times // count for count in (self.receivers, self.senders)]
        times = self.crew.do(*[each[0]] * self.receivers, *[each[1]] * self.senders)
        return float(max(times[: self.receivers]) - min(times[self.receivers :])) / 1e9

    def round(self) -> Dict[str, Optional[float]]:
        return {"rate": self.pace.times / self.play()}

    def end(self) -> None:
        self.crew.end()


def crews(quick: bool) -> List[List[Params]]:
    return [
        [{"senders": senders, "receivers": receivers, "payload": 100}]
        for senders, receivers in (QUICK_CREWS if quick else CREWS)
    ]


def people(params: Params) -> str:
    """Return the numbers of senders and receivers in words."""
    return ", ".join(f"{params[kind + 's']} {kind}{'s' * (params[kind + 's'] > 1)}" for kind in ("sender", "receiver"))


def needs(params: Params) -> Tuple[str, ...]:
    alone = params["senders"] == params["receivers"] == 1
    return ("processes",) if alone else ("processes", "sharing")


ONEWAY = Workload(
    name="oneway",
    title="One process sends, another receives",
    about="How many messages of 100 bytes pass each second, with each process on its own core.",
    metrics={"rate": "messages/s"},
    labels={"rate": "rate"},
    stage=Stream,
    grid=lambda quick: [[{"senders": 1, "receivers": 1, "payload": 100}]],
    rounds=11,
    quick_rounds=5,
    needs=needs,
    more_is_better=True,
    quick_seconds=0.7,
)
THROUGHPUT = Workload(
    name="throughput",
    title="Several processes send, several receive",
    about="How many messages of 100 bytes pass each second through one channel that all processes share.",
    metrics={"rate": "messages/s"},
    labels={"rate": "rate"},
    stage=Stream,
    grid=crews,
    rounds=5,
    quick_rounds=3,
    needs=needs,
    more_is_better=True,
    setting=people,
    quick_seconds=2.0,
)
