"""How long a call takes at most, and how many calls there are in total, while many processes use one layer."""

from __future__ import annotations

__all__ = ["FAIRNESS"]

import time
from typing import Any, Dict, List, Optional

from ..adapters.base import CHANNEL, Peer, message_of
from ..crew import Crew, Job
from ..measure import percentile
from ..recoveries import recovered
from .base import Maker, Params, Stage, Workload

PROCESSES, QUICK = (8, 50, 200), (8,)
#: Seconds from an order to the beginning, for each process: all of them begin at the same time.
START = 0.005


class Crowd(Stage):
    """Processes that send and receive without a pause, each of them on any core."""

    def __init__(self, maker: Maker, params: Params) -> None:
        self.seconds = params["seconds"]
        message = message_of(params["payload"])

        def hammer(peer: Peer) -> Job:
            recoveries = peer.recoveries()
            peer.listen(CHANNEL)

            def job(start: float) -> Any:
                time.sleep(max(0.0, start - time.monotonic()))
                return {"taken": peer.timed_calls(self.seconds, message), "recoveries": recoveries()}

            return job

        self.crew = Crew(maker.make(), [hammer] * params["processes"], pinned=False)
        self.recoveries = 0

    def round(self) -> Dict[str, Optional[float]]:
        count = len(self.crew.members)
        reports = self.crew.do(*[time.monotonic() + 0.05 + START * count] * count)
        calls = sorted(time for report in reports for time in report["taken"])
        recoveries = recovered(report["recoveries"] for report in reports)
        false, self.recoveries = recoveries - self.recoveries, recoveries
        return {
            "longest": calls[-1] / 1e6,
            "p99.9": percentile(calls, 0.999) / 1e6,
            "median": percentile(calls, 0.5) / 1e6,
            "rate": len(calls) / self.seconds,
            "recoveries": false,
        }

    def end(self) -> None:
        self.crew.end()


def crowds(quick: bool) -> List[List[Params]]:
    seconds = 0.3 if quick else 5.0
    return [
        [{"processes": processes, "payload": 100, "seconds": seconds}] for processes in (QUICK if quick else PROCESSES)
    ]


FAIRNESS = Workload(
    name="fairness",
    title="Many processes send and receive without a pause",
    about="The longest that a single send or receive of any process took, and how many of them there were each "
    'second. "Recoveries": how often the shared memory was recovered although no process had died.',
    metrics={"longest": "ms", "p99.9": "ms", "median": "ms", "rate": "/s", "recoveries": "recoveries"},
    labels={"longest": "longest", "p99.9": "99.9 % within", "rate": "calls", "recoveries": "recoveries"},
    stage=Crowd,
    grid=crowds,
    rounds=3,
    quick_rounds=1,
    patience=120,
    only=("asgi_ipc", "asgi_ipc-async"),
    setting=lambda params: f"{params['processes']} processes",
    contrast=("shorter", "longer"),
)
