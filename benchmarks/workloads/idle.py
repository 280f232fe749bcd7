"""The CPU and the memory that a process uses while it waits for a message that never arrives."""

from __future__ import annotations

__all__ = ["IDLE"]

import glob
import os
import select
import time
from typing import Any, Dict, List, Optional

from ..adapters.base import AsyncPeer, Peer
from ..crew import Crew, Job
from .base import Maker, Params, Stage, Unfit, Workload

#: Seconds that the process has to start waiting.
SETTLE = 1.0


class Waiting(Stage):
    """One process that waits."""

    def __init__(self, maker: Maker, params: Params) -> None:
        try:
            import psutil
        except ImportError:
            raise Unfit("psutil is not installed") from None

        def wait(peer: Peer) -> Job:
            def job(order: Any) -> Any:
                peer.wait(params["waiting"])

            return job

        self.seconds = params.get("seconds", 5.0)
        self.peer = maker.make()
        if params["waiting"] > 1 and not isinstance(self.peer, AsyncPeer):
            raise Unfit("a thread can wait only once")
        self.crew = Crew(self.peer, [wait])
        self.crew.members[0].tell(None)
        self.process = psutil.Process(self.crew.members[0].process)
        time.sleep(SETTLE)

    def round(self) -> Dict[str, Optional[float]]:
        if select.select([self.crew.members[0].reports], [], [], 0)[0]:
            raise RuntimeError(f"it did not wait: {self.crew.hear()}")
        before, woken = self.busy(), self.process.num_ctx_switches().voluntary
        start = time.monotonic()
        time.sleep(self.seconds)
        passed = time.monotonic() - start
        return {
            "cpu": round((self.busy() - before) / passed * 100, 4),
            "wake-ups": (self.process.num_ctx_switches().voluntary - woken) / passed,
            "memory": self.process.memory_full_info().uss / 2**20,
            "store": shared(self.peer.place.prefix) / 2**20,
        }

    def busy(self) -> float:
        """Return the CPU seconds of the process. The scheduler counts them more exactly than the clock ticks do."""
        threads = glob.glob(f"/proc/{self.process.pid}/task/*/schedstat")
        if threads:
            return sum(run_time(path) for path in threads) / 1e9
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def end(self) -> None:
        self.crew.end()


def run_time(path: str) -> int:
    """Return the CPU time of a thread in ns."""
    with open(path, encoding="ascii") as file:
        return int(file.read().split()[0])


def shared(prefix: str) -> int:
    """Return the bytes of memory that the files of a prefix use."""
    return sum(os.stat(path).st_blocks * 512 for path in glob.glob(f"/dev/shm/*{glob.escape(prefix)}*"))


def counts(quick: bool) -> List[List[Params]]:
    if quick:
        return [[{"waiting": 1, "seconds": 1.0}]]  # asgi_ipc wakes up once a second
    return [[{"waiting": 1}], [{"waiting": 1000}]]


IDLE = Workload(
    name="idle",
    title="A process that waits for a message",
    about="What a process uses while no message arrives: CPU, how often it wakes up, its own memory, and the "
    "memory in /dev/shm that it shares with others.",
    metrics={"cpu": "%", "wake-ups": "/s", "memory": "MiB", "store": "MiB"},
    labels={"cpu": "CPU", "wake-ups": "wakes up", "memory": "memory", "store": "shared"},
    stage=Waiting,
    grid=counts,
    rounds=2,
    quick_rounds=1,
    setting=lambda params: "1 receive waits" if params["waiting"] == 1 else f"{params['waiting']:,} receives wait",
    contrast=("less", "more"),
    quick_seconds=2.3,
)
