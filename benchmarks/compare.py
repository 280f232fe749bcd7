"""
Compare two revisions of asgi_ipc in one run. Their rounds alternate, and each pair of rounds gives a ratio.

The revisions are checked out into temporary folders; the benchmarks are those of this checkout. The processes
are restarted several times, because the layout of a process's memory influences all of its figures.
"""

from __future__ import annotations

__all__ = ["ROUNDS", "STARTS", "WORKLOADS", "NoRevision", "compare"]

import contextlib
import json
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
from .suite import MEMORY, ROOT, sweep
from .tables import number, told
from .workloads import WORKLOADS as ALL
from .workloads.base import Params

ROUNDS, STARTS = 60, 4
#: The length of a round in seconds. It is short, so that other work on the machine affects both rounds of a
#: pair equally.
SECONDS = 0.02
#: The workloads that are compared, with their settings.
WORKLOADS: Dict[str, List[Params]] = {
    "pair": [{"payload": 100}],
    "payload": [{"payload": 10_000}, {"payload": 900_000}],
    "backlog": [{"unread": 100_000, "payload": 100}],
    "oneway": [{"senders": 1, "receivers": 1, "payload": 100}],
    "throughput": [{"senders": 4, "receivers": 4, "payload": 100}],
    "roundtrip": [{"payload": 100}],
    "fanout": [{"members": 1000, "processes": 2, "payload": 100}],
}
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
                for front_end in FRONT_ENDS:
                    match = Match(name, front_end, params, sources, folder)
                    try:
                        results.append(match.result(rounds, starts))
                        say(line(results[-1]))
                    except Failed as error:
                        say(f"  left out: {match.title}: {error}")
    return {"before": before, "after": after, "environment": environment(), "results": results}


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

    def result(self, rounds: int, starts: int) -> Dict[str, Any]:
        """Return the result as a dict. Raises ``Failed`` if one of the revisions cannot run the workload."""
        ratios: List[float] = []
        figures: List[List[float]] = [[], []]
        for _ in range(starts):
            for pair in self.play(max(1, rounds // starts)):
                ratios.append(pair[0] / pair[1] if self.workload.more_is_better else pair[1] / pair[0])
                for side in (0, 1):
                    figures[side].append(pair[side])
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return {
            "title": self.title,
            "workload": self.workload.name,
            "peer": self.front_end,
            "params": self.params,
            "unit": next(iter(self.workload.metrics.values())),
            "medians": [statistics.median(values) for values in figures],
            "ratio": middle,
            "quartiles": [low, high],
            "interval": list(median_interval(ratios)),
            "ratios": ratios,
        }

    def play(self, rounds: int) -> List[Tuple[float, float]]:
        """Return (before, after) of each pair of rounds; the order of the two alternates."""
        metric = next(iter(self.workload.metrics))
        prefix = f"compare{os.getpid()}-{secrets.token_hex(3)}"
        players: List[Player] = []
        found = []
        try:
            for side, path in enumerate(self.sources):
                players.append(self.player(path, f"{prefix}-{side}"))
            for turn in range(rounds):
                pair = [0.0, 0.0]
                for side in (1, 0) if turn % 2 else (0, 1):
                    value = players[side].round()[metric]
                    assert value is not None
                    pair[side] = value
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
