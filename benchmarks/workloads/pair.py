"""
Send a message and receive it in one process: the cost of the layer itself.

The suite times this with pyperf, in passes that take turns. The stage below serves the comparison of
revisions, whose rounds take turns much faster.
"""

from __future__ import annotations

__all__ = ["PAIR", "PAYLOAD"]

import time
from typing import Dict, List, Optional, Tuple

from ..adapters.base import CHANNEL, message_of
from .base import Maker, Pace, Params, Stage, Workload

PAYLOADS = (10, 100, 1000, 10_000, 100_000, 900_000, 1_000_000)
QUICK_PAYLOADS = (10, 900_000)
#: Bytes: a larger payload does not fit into a pipe's buffer.
LARGE = 50_000


class Pairs(Stage):
    """One process, and the peer alone."""

    def __init__(self, maker: Maker, params: Params) -> None:
        self.peer = maker.make()
        self.peer.open()
        self.peer.listen(CHANNEL)
        self.message = message_of(params["payload"])
        self.prepare()
        self.pace = Pace(params.get("seconds", 0.01), least=10, most=100_000)
        self.pace.settle(self.play)

    def prepare(self) -> None:
        """Prepare the peer before pairs are timed; for subclasses."""

    def play(self) -> float:
        start = time.perf_counter()
        self.peer.pairs(self.pace.times, self.message)
        return time.perf_counter() - start

    def round(self) -> Dict[str, Optional[float]]:
        return {"pair": self.play() / self.pace.times * 1e6}

    def end(self) -> None:
        self.peer.close()


def payloads(quick: bool) -> List[List[Params]]:
    return [[{"payload": payload}] for payload in (QUICK_PAYLOADS if quick else PAYLOADS)]


def needs(params: Params) -> Tuple[str, ...]:
    return ("large",) if params["payload"] > LARGE else ()


PAIR = Workload(
    name="pair",
    title="send + receive of 100 bytes, one process",
    metrics={"pair": "µs"},
    stage=Pairs,
    grid=lambda quick: [[{"payload": 100}]],
    rounds=9,
    quick_rounds=1,
    needs=needs,
)
PAYLOAD = Workload(
    name="payload",
    title="send + receive, one process, by size of message",
    metrics={"pair": "µs"},
    stage=Pairs,
    grid=payloads,
    rounds=2,
    quick_rounds=1,
    needs=needs,
)
