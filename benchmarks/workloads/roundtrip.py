"""The time from sending a message to a waiting process until its answer arrives. Each process has its own core."""

from __future__ import annotations

__all__ = ["ROUNDTRIP"]

from typing import Any, Dict, List, Optional

from ..adapters.base import PING, PONG, Peer, message_of
from ..crew import Crew, Job
from ..measure import percentile
from .base import Maker, Pace, Params, Stage, Workload


class Trips(Stage):
    """One process asks, the other one answers."""

    def __init__(self, maker: Maker, params: Params) -> None:
        message = message_of(params["payload"])

        def ask(peer: Peer) -> Job:
            peer.listen(PONG)
            return lambda times: peer.ask(times, message)

        def answer(peer: Peer) -> Job:
            peer.listen(PING)

            def job(times: int) -> Any:
                peer.answer(times, message)

            return job

        self.crew = Crew(maker.make(), [answer, ask])
        self.pace = Pace(params.get("seconds", 0.3), least=20, most=10_000)
        self.pace.settle(lambda: sum(self.play()) / 1e9)

    def play(self) -> List[int]:
        """Return the time of each round trip."""
        trips: List[int] = self.crew.do(self.pace.times, self.pace.times)[1]
        return trips

    def round(self) -> Dict[str, Optional[float]]:
        trips = sorted(self.play())
        return {"median": percentile(trips, 0.5) / 1e3, "p99": percentile(trips, 0.99) / 1e3}

    def end(self) -> None:
        self.crew.end()


ROUNDTRIP = Workload(
    name="roundtrip",
    title="A message to another process, and its answer",
    about="The time from sending 100 bytes to a process that waits until its answer of 100 bytes has arrived. "
    '"99 % within": only one answer in a hundred takes longer.',
    metrics={"median": "µs", "p99": "µs"},
    labels={"median": "time", "p99": "99 % within"},
    stage=Trips,
    grid=lambda quick: [[{"payload": 100}]],
    rounds=11,
    quick_rounds=5,
    needs=lambda params: ("processes",),
    quick_seconds=0.8,
)
