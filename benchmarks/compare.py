"""
Compare two revisions of asgi_ipc in one run. Their rounds alternate, and each pair of rounds gives a ratio.

The revisions are checked out into temporary folders; the benchmarks are those of this checkout. The processes
are restarted several times, because the layout of a process's memory influences all of its figures.
"""

from __future__ import annotations

__all__ = ["ROUNDS", "SLOW", "STARTS", "WORKLOADS", "NoRevision", "compare"]

import contextlib
import json
import math
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from .adapters import PEERS
from .measure import environment, median_interval
from .player import Failed, Player, command, surroundings
from .suite import MEMORY, ROOT, sweep, takes_part
from .tables import number, told
from .workloads import WORKLOADS as ALL
from .workloads import recovery
from .workloads.base import Params

ROUNDS, STARTS = 60, 4
#: The length of a round in seconds. It is short, so that other work on the machine affects both rounds of a
#: pair equally.
SECONDS = 0.02
#: The workloads that are compared, with their settings. The time of a round, if it is among them, replaces ``SECONDS``.
WORKLOADS: Dict[str, List[Params]] = {
    "pair": [{"payload": 100}],
    "payload": [{"payload": 10_000}, {"payload": 900_000}],
    "backlog": [{"unread": 100_000, "payload": 100}],
    "oneway": [{"senders": 1, "receivers": 1, "payload": 100}],
    "throughput": [{"senders": 4, "receivers": 4, "payload": 100}],
    "roundtrip": [{"payload": 100}],
    "fanout": [{"members": 1000, "processes": 2, "payload": 100}],
    "fairness": [{"processes": processes, "payload": 100, "seconds": 5.0} for processes in (8, 50, 200)],
    "busy-threads": [{"threads": 4, "unread": 100_000, "payload": 100, "seconds": 10.0}],
    "recovery-inside": [
        {"unread": unread, "channels": channels, "payload": 100, "kills": 1} for unread, channels in recovery.WAITING
    ],
}
#: Workloads with long rounds: compared only if they are named, in at most so many rounds, of two starts.
SLOW = {"fairness": 6, "busy-threads": 6, "recovery-inside": 10}
#: The figures that are compared, where there are others than the first one. Those in ``MORE`` are better if higher.
FIGURES = {
    "fairness": ("longest", "p99.9", "rate", "recoveries"),
    "busy-threads": ("p99", "p99 without", "median", "recoveries"),
}
MORE = ("rate",)
FRONT_ENDS = ("asgi_ipc", "asgi_ipc-async")

Say = Callable[[str], None]


class NoRevision(Exception):
    """Git does not know the revision; the text contains git's error."""


def compare(
    before: str, after: str, workloads: Sequence[str], rounds: int, starts: int, say: Say = print
) -> Dict[str, Any]:
    """Return the ratios of all workloads with both front ends, as a document; ``say`` gets each line."""
    say(f"{after} as a multiple of {before}: median of paired rounds (quartiles); 95 % interval of the median")
    results: List[Dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(source(revision)) for revision in (before, after)]
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="asgi-ipc-compare-", dir=MEMORY))
        for name in workloads:
            for params in WORKLOADS[name]:
                for front_end in [each for each in FRONT_ENDS if takes_part(ALL[name], each)]:
                    match = Match(name, front_end, params, sources, folder)
                    try:
                        found = match.results(*lengths(name, rounds, starts))
                    except Failed as error:
                        say(f"  left out: {match.title}: {error}")
                        continue
                    results += found
                    for result in found:
                        say(line(result))
    return {"before": before, "after": after, "environment": environment(), "results": results}


def lengths(workload: str, rounds: int, starts: int) -> Tuple[int, int]:
    """Return how many rounds and starts a workload gets."""
    return (min(rounds, SLOW[workload]), min(starts, 2)) if workload in SLOW else (rounds, starts)


@contextlib.contextmanager
def source(revision: str) -> Iterator[str]:
    """A context manager: the folder with the files of a revision."""
    if revision == ".":
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="asgi-ipc-revision-") as folder:
        place = os.path.join(folder, "files")
        try:
            git("worktree", "add", "--detach", place, revision)
        except NoRevision as error:
            raise NoRevision(f"{revision} is not available: {error}") from None
        try:
            yield place
        finally:
            git("worktree", "remove", "--force", place)


def git(*words: str) -> None:
    answer = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise NoRevision(f"git {' '.join(words[:2])} failed: {answer.stderr.strip()}")


class Match:
    """One workload with one front end and its settings, measured with both revisions."""

    def __init__(self, workload: str, front_end: str, params: Params, sources: Sequence[str], folder: str) -> None:
        self.workload, self.front_end, self.params = ALL[workload], front_end, params
        self.sources, self.folder = sources, folder
        self.title = f"{PEERS[front_end].title}, {workload} {told(params)}"

    def results(self, rounds: int, starts: int) -> List[Dict[str, Any]]:
        """Return a dict for each figure. Raises ``Failed`` if one of the revisions cannot run the workload."""
        pairs = [pair for _ in range(starts) for pair in self.play(max(1, rounds // starts))]
        names = FIGURES.get(self.workload.name) or [next(iter(self.workload.metrics))]
        return [self.result(name, [(before[name], after[name]) for before, after in pairs]) for name in names]

    def result(self, figure: str, pairs: List[Tuple[float, float]]) -> Dict[str, Any]:
        ratios = [ratio(before, after) if figure in MORE else ratio(after, before) for before, after in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return {
            "title": f"{self.title}{f', {figure}' if self.workload.name in FIGURES else ''}",
            "workload": self.workload.name,
            "peer": self.front_end,
            "params": self.params,
            "figure": figure,
            "unit": self.workload.metrics[figure],
            "medians": [statistics.median(values) for values in zip(*pairs)],
            "ratio": middle,
            "quartiles": [low, high],
            "interval": list(median_interval(ratios)),
            "ratios": ratios,
        }

    def play(self, rounds: int) -> List[Tuple[Any, Any]]:
        """Return the figures (before, after) of each pair of rounds; the order of the two alternates."""
        prefix = f"compare{os.getpid()}-{secrets.token_hex(3)}"
        players: List[Player] = []
        found = []
        try:
            for side, path in enumerate(self.sources):
                players.append(self.player(path, f"{prefix}-{side}"))
            for turn in range(rounds):
                pair: List[Any] = [None, None]
                for side in (1, 0) if turn % 2 else (0, 1):
                    pair[side] = players[side].round()
                found.append((pair[0], pair[1]))
        finally:
            for player in players:
                player.end()
            sweep(prefix)
        return found

    def player(self, path: str, prefix: str) -> Player:
        checked(path, self.front_end)
        place = {"prefix": prefix, "folder": self.folder, "servers": {}}
        params = {"seconds": SECONDS, **self.params}
        order = {"peer": self.front_end, "place": place, "workload": self.workload.name, "params": params}
        return Player(sys.executable, path, order, self.workload.patience)


def ratio(one: float, other: float) -> float:
    """Return one figure as a multiple of the other. Counts can be 0."""
    if other:
        return one / other
    return math.inf if one else 1.0


def checked(path: str, front_end: str) -> None:
    """Raise ``Failed`` if a revision does not have a front end."""
    answer = subprocess.run(
        command(sys.executable, "check", front_end), capture_output=True, text=True, env=surroundings(path), check=False
    )
    if answer.returncode:
        raise Failed((answer.stderr.strip().splitlines() or ["it printed no error"])[-1])
    reason = json.loads(answer.stdout)[front_end].get("reason")
    if reason:
        raise Failed(reason)


def line(result: Dict[str, Any]) -> str:
    """Return the result in one line."""
    (low, high), (least, most) = result["quartiles"], result["interval"]
    before, after = (number(median) for median in result["medians"])
    return (
        f"  {result['title']}: {result['ratio']:.3f} ({low:.3f} to {high:.3f}); {least:.3f} to {most:.3f}; "
        f"{before} -> {after} {result['unit']}"
    )
