"""
The performance targets of the developers, and which of them a run reached. A target limits a figure or a ratio.
"""

from __future__ import annotations

__all__ = ["Target", "judged"]

import statistics
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional

Document = Dict[str, Any]
#: Looks up a figure by workload, peer, metric and settings. With ``over`` another peer, it returns the median
#: of the ratios of both, round by round.
Look = Callable[..., float]


@dataclass(frozen=True)
class Target:
    """A figure and its limit: a maximum, or a minimum with ``at_least``."""

    text: str
    figure: Callable[[Look], float]
    limit: float
    unit: str = "x"
    at_least: bool = False


class Missing(Exception):
    """The run has no such figure."""


def ratio(peer: str, other: str, workload: str = "pair", metric: str = "pair") -> Callable[[Look], float]:
    return lambda look: look(workload, peer, metric, over=other)


def trip(peer: str, floor: str, pair_of: str) -> Callable[[Look], float]:
    """Return how much longer a round trip takes than through two bare FIFOs, in pairs (a send and a receive)."""
    return lambda look: (
        (look("roundtrip", peer, "median") - look("roundtrip", floor, "median")) / look("pair", pair_of, "pair")
    )


def rare(peer: str) -> Callable[[Look], float]:
    return lambda look: look("roundtrip", peer, "p99") / look("roundtrip", peer, "median")


def large(look: Look) -> float:
    """Return the time of a pair of 900 kB without msgpack, divided by the time to copy it in and out."""
    ours, codec, copies = (
        look("payload", peer, "pair", payload=900_000) for peer in ("asgi_ipc", "floor-msgpack", "floor-memcpy")
    )
    return (ours - codec) / copies


def thousand(peer: str, metric: str) -> Callable[[Look], float]:
    """Return ms for 1,000 members in two processes. That equals µs for each member."""
    return lambda look: look("fanout", peer, metric, members=1000, processes=2)


def full(look: Look) -> float:
    return look("backlog", "asgi_ipc", "pair", unread=100_000) / look("backlog", "asgi_ipc", "pair", unread=0)


def recovery(unread: int, channels: int) -> Callable[[Look], float]:
    return lambda look: look("recovery-inside", "asgi_ipc", "longest", unread=unread, channels=channels)


def busy(figure: str) -> Callable[[Look], float]:
    return lambda look: look("busy-threads", "asgi_ipc", figure)


def starved(look: Look) -> float:
    return look("fairness", "asgi_ipc", "longest", processes=200)


def crowd(look: Look) -> float:
    """Return the lowest throughput of several processes, as a ratio to that of one sender and receiver."""
    alone = look("throughput", "asgi_ipc", "rate", senders=1, receivers=1)
    return min(look("throughput", "asgi_ipc", "rate", senders=count, receivers=count) for count in (2, 4, 8)) / alone


TARGETS = (
    Target("pair, over the floor", ratio("asgi_ipc", "floor"), 4),
    Target("pair, over multiprocessing.Pipe", ratio("asgi_ipc", "mp-pipe"), 1),
    Target("pair, over faster_fifo", ratio("asgi_ipc", "faster-fifo"), 1),
    Target("pair, over a bare LMDB queue", ratio("asgi_ipc", "lmdb"), 1.25),
    Target("pair async, over Channels' in-memory layer", ratio("asgi_ipc-async", "in-memory"), 1),
    Target("one way", lambda look: look("oneway", "asgi_ipc", "rate"), 200_000, "messages/s", at_least=True),
    Target("one way, over faster_fifo", ratio("asgi_ipc", "faster-fifo", "oneway", "rate"), 1, at_least=True),
    Target("total throughput of more processes, over that of two", crowd, 1, at_least=True),
    Target("round trip above two FIFOs, in pairs", trip("asgi_ipc", "floor-fifos", "asgi_ipc"), 5, "pairs"),
    Target(
        "the same async, above two FIFOs watched by asyncio",
        trip("asgi_ipc-async", "floor-fifos-async", "asgi_ipc-async"),
        5,
        "pairs",
    ),
    Target("round trip, p99 over median", rare("asgi_ipc"), 3),
    Target("the same async", rare("asgi_ipc-async"), 3),
    Target("900 kB pair without msgpack, over copies in and out", large, 3),
    Target("send to a group of 1,000 in two processes, each", thousand("asgi_ipc", "sender"), 1.5, "µs"),
    Target("the same async", thousand("asgi_ipc-async", "sender"), 1.5, "µs"),
    Target("time until the last of these members has its message", thousand("asgi_ipc", "last"), 7, "ms"),
    Target("the same async", thousand("asgi_ipc-async", "last"), 7, "ms"),
    Target("p99.9 of pairs, group sends", lambda look: look("hammer", "asgi_ipc", "p99.9", beside="group"), 1000, "µs"),
    Target("pair with 100,000 unread messages, over none", full, 1.1),
    Target("CPU of a process that waits", lambda look: look("idle", "asgi_ipc", "cpu", waiting=1), 0.1, "%"),
    Target("first pair after a kill, 10,000 messages in 1 channel", recovery(10_000, 1), 100, "ms"),
    Target("the same, 10,000 messages in 10,000 channels", recovery(10_000, 10_000), 100, "ms"),
    Target("the same, 100,000 messages in 1,000 channels", recovery(100_000, 1000), 100, "ms"),
    Target("recoveries beside busy threads, though nothing died", busy("recoveries"), 0, "in 60 s"),
    Target(
        "p99 of pairs beside busy threads that send, over the same without",
        lambda look: busy("p99")(look) / busy("p99 without")(look),
        3,
    ),
    Target("longest call of 200 processes without a pause", starved, 1000, "ms"),
)


def judged(document: Document) -> Iterator[str]:
    """Yield a line for each target that the run has figures for."""

    def look(workload: str, peer: str, metric: str, over: Optional[str] = None, **params: Any) -> float:
        values = find(document["results"], workload, peer, metric, params)
        if over is None:
            return statistics.median(values)
        others = find(document["results"], workload, over, metric, params)
        if len(others) != len(values):
            return statistics.median(values) / statistics.median(others)
        return statistics.median(value / other for value, other in zip(values, others))

    for target in TARGETS:
        try:
            figure = target.figure(look)
        except Missing:
            continue
        reached = figure >= target.limit if target.at_least else figure <= target.limit
        bound = "at least" if target.at_least else "at most"
        told = f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.3g}"
        verdict = "reached" if reached else "MISSED "
        yield f"{verdict}  {target.text}: {told} {target.unit} ({bound} {target.limit:,g})"


def find(
    results: List[Dict[str, Any]], workload: str, peer: str, metric: str, params: Dict[str, Any]
) -> List[float]:
    """Return all values of a figure. Raises ``Missing`` if the run has no such figure."""
    for result in results:
        if (
            result["workload"] == workload
            and result["peer"] == peer
            and metric in result["metrics"]
            and params.items() <= result["params"].items()
        ):
            return list(result["metrics"][metric]["values"])
    raise Missing
