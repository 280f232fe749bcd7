"""
Send a message and receive it in one process: the cost of the layer itself.

A full run times this with pyperf. Quick runs and the comparison of revisions use the stage below, because its
rounds are shorter.
"""

from __future__ import annotations

__all__ = ["PAIR", "PAYLOAD"]

import time
from typing import Dict, List, Optional, Tuple

from ..adapters.base import CHANNEL, message_of
from .base import Maker, Pace, Params, Stage, Workload

PAYLOADS = (10, 100, 1000, 10_000, 100_000, 900_000, 1_000_000)
QUICK_PAYLOADS = (10_000, 900_000)
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
    title="Send and receive in one process",
    about="The time to send a message of 100 bytes and receive it again.",
    metrics={"pair": "µs"},
    labels={"pair": "time"},
    stage=Pairs,
    grid=lambda quick: [[{"payload": 100}]],
    rounds=9,
    quick_rounds=7,
    needs=needs,
    quick_seconds=0.7,
)
PAYLOAD = Workload(
    name="payload",
    title="Send and receive messages of different sizes in one process",
    about="The time to send a message and receive it again.",
    metrics={"pair": "µs"},
    labels={"pair": "time"},
    stage=Pairs,
    grid=payloads,
    rounds=2,
    quick_rounds=5,
    needs=needs,
    setting=lambda params: f"{params['payload']:,} bytes",
    quick_seconds=1.2,
)
