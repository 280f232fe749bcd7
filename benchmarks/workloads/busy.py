"""
How a process whose threads compute delays the others: it holds the mutex while its other threads hold the GIL.

The process has CPU-bound threads, and its main thread sends to a group now and then. Another process sends and
receives. Nobody dies, so each recovery is one too many.
"""

from __future__ import annotations

__all__ = ["BUSY_THREADS"]

import random
import threading
import time
from typing import Any, Dict, List, Optional

from ..adapters.base import CHANNEL, Peer, message_of
from ..crew import Crew, Job
from ..measure import percentile
from ..recoveries import recovered
from .backlog import fill
from .base import Maker, Params, Stage, Workload

#: Seconds between two group sends, and the members of the group.
PAUSES, MEMBERS = (0.02, 0.07), 10
#: ns between the times at which two pairs of the other process are due. A pair that is due while the one before is
#: delayed is late, and its time counts from when it was due: so a percentile says what a pair at any moment takes.
#: (Pairs without a pause would be many between two delays and few in them.)
PERIOD = 1_000_000
#: The longest part of a round without a change between sending and not sending, in seconds.
PART = 5.0


class BesideBusyThreads(Stage):
    """One process times its pairs. The threads of the other one are always busy; in half of the time it also sends."""

    def __init__(self, maker: Maker, params: Params) -> None:
        self.seconds, self.threads, self.unread = params["seconds"], params["threads"], params["unread"]
        self.message = message_of(params["payload"])
        self.crew = Crew(maker.make(), [self.timed, self.busy])
        self.recoveries = self.play(0.0, False)[1]

    def timed(self, peer: Peer) -> Job:
        recoveries = peer.recoveries()
        peer.listen(CHANNEL)
        fill(peer, self.unread, self.message, channels=1)
        peer.pairs(100, self.message)

        def job(order: Any) -> Any:
            return {"taken": paced_pairs(peer, order["seconds"], self.message), "recoveries": recoveries()}

        return job

    def busy(self, peer: Peer) -> Job:
        recoveries = peer.recoveries()
        peer.join(MEMBERS)
        for _ in range(self.threads):
            threading.Thread(target=compute, daemon=True).start()

        def job(order: Any) -> Any:
            end, sends = time.monotonic() + order["seconds"], 0
            while time.monotonic() < end:
                time.sleep(random.uniform(*PAUSES))
                if order["sending"]:
                    peer.announce(self.message)
                    sends += 1
            return {"sends": sends, "recoveries": recoveries()}

        return job

    def play(self, seconds: float, sending: bool) -> Any:
        """Return the times of the pairs, the recoveries since the start, and the sends."""
        order = {"seconds": seconds, "sending": sending}
        timed, busy = self.crew.do(order, order)
        return timed["taken"], recovered(each["recoveries"] for each in (timed, busy)), busy["sends"]

    def round(self) -> Dict[str, Optional[float]]:
        parts = max(1, round(self.seconds / PART))
        pairs: Dict[bool, List[int]] = {False: [], True: []}
        sends = 0
        for part in range(parts):
            for sending in (False, True) if part % 2 else (True, False):
                taken, recoveries, sent = self.play(self.seconds / parts, sending)
                pairs[sending] += taken
                sends += sent
        false, self.recoveries = recoveries - self.recoveries, recoveries
        beside, without = sorted(pairs[True]), sorted(pairs[False])
        return {
            "p99": percentile(beside, 0.99) / 1e3,
            "p99 without": percentile(without, 0.99) / 1e3,
            "median": percentile(beside, 0.5) / 1e3,
            "median without": percentile(without, 0.5) / 1e3,
            "longest": beside[-1] / 1e3,
            "recoveries": false,
            "sends": sends,
        }

    def end(self) -> None:
        self.crew.end()


def paced_pairs(peer: Peer, seconds: float, message: Any) -> List[int]:
    """Do pairs at a steady rate; return the time in ns of each, from when it was due."""
    taken, due = [], time.perf_counter_ns()
    end = due + seconds * 1e9
    while due < end:
        late = time.perf_counter_ns() - due
        if late < 0:
            time.sleep(-late / 1e9)
            late, due = 0, time.perf_counter_ns()  # if the sleep was too long, that is not the layer's delay
        taken.append(late + peer.timed_pairs(1, message)[0])
        due += PERIOD
    return taken


def compute() -> None:
    """Use the CPU, and give up the GIL only when another thread asks for it."""
    number = 0
    while True:
        number = (number * 3 + 1) % 1_000_003


def lengths(quick: bool) -> List[List[Params]]:
    return [[{"threads": 4, "unread": 100_000, "payload": 100, "seconds": 1.0 if quick else 60.0}]]


def described(params: Params) -> str:
    """Return the settings in words."""
    return f"{params['threads']} busy threads, {params['unread']:,} unread messages, {params['seconds']:.0f} s"


BUSY_THREADS = Workload(
    name="busy-threads",
    title="Send and receive beside busy threads",
    about="The time to send 100 bytes and receive them again while another process, whose threads compute without a "
    'pause, sends to a group every 20 to 70 ms. "Without": while it computes, but does not send. "Recoveries": how '
    "often the shared memory was recovered although no process had died.",
    metrics={
        "p99": "µs",
        "p99 without": "µs",
        "median": "µs",
        "median without": "µs",
        "longest": "µs",
        "recoveries": "recoveries",
        "sends": "sends",
    },
    labels={
        "p99": "99 % within",
        "p99 without": "without",
        "median": "median",
        "median without": "without",
        "recoveries": "recoveries",
    },
    stage=BesideBusyThreads,
    grid=lengths,
    rounds=1,
    quick_rounds=1,
    patience=600,
    only=("asgi_ipc",),
    setting=described,
)
