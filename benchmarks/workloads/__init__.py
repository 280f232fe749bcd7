"""The workloads, by name."""

from __future__ import annotations

__all__ = ["WORKLOADS"]

from typing import Dict

from . import backlog, busy, fairness, fanout, hammer, idle, kills, oneway, pair, recovery, roundtrip
from .base import Workload

WORKLOADS: Dict[str, Workload] = {
    workload.name: workload
    for workload in (
        pair.PAIR,
        pair.PAYLOAD,
        backlog.BACKLOG,
        oneway.ONEWAY,
        oneway.THROUGHPUT,
        roundtrip.ROUNDTRIP,
        fanout.FANOUT,
        hammer.HAMMER,
        busy.BUSY_THREADS,
        fairness.FAIRNESS,
        idle.IDLE,
        recovery.RECOVERY,
        recovery.INSIDE,
        kills.KILLS,
    )
}
