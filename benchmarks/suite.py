"""
One run of the suite: check which peers are available, and measure each workload with all of them in turns.

The results are one document.
"""

from __future__ import annotations

__all__ = ["ROOT", "Suite", "interleave"]

import contextlib
import glob
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from . import environments, measure
from .adapters import PEERS
from .player import Failed, Player, TooSlow, command, surroundings
from .pyperf_pairs import timed_by_pyperf
from .redis_server import redis_server
from .report import line, told
from .workloads import WORKLOADS
from .workloads.base import Params, Workload

#: The checkout; its asgi_ipc is measured.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: A folder in memory, if the system has one.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
#: Workloads that pyperf times if it is installed; otherwise they run in rounds like the others.
BY_PYPERF = ("pair", "payload")

Say = Callable[[str], None]
#: Called with the peer that failed, its settings and the error.
Fail = Callable[[str, Params, Exception], None]


class Suite:
    """A run. ``document`` holds its environment, peers and results, and why other peers were left out."""

    def __init__(
        self,
        workloads: Sequence[str],
        peers: Sequence[str],
        quick: bool = False,
        rounds: Optional[int] = None,
        environments_folder: str = "",
        old_python: Optional[str] = None,
        say: Say = print,
    ) -> None:
        self.workloads, self.names = [WORKLOADS[name] for name in workloads], list(peers)
        self.quick, self.rounds, self.say = quick, rounds, say
        self.environments_folder, self.old_python = environments_folder, old_python
        self.pythons: Dict[str, Tuple[str, Optional[str]]] = {"here": (sys.executable, ROOT)}
        self.prefix = f"benchmark{os.getpid()}-{secrets.token_hex(3)}"
        self.document: Dict[str, Any] = {
            "format": 1,
            "command": "",
            "quick": quick,
            "took": {},
            "environment": measure.environment(),
            "peers": {},
            "left_out": [],
            "results": [],
        }

    def run(self) -> Dict[str, Any]:
        with contextlib.ExitStack() as stack:
            self.folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{self.prefix}-", dir=MEMORY))
            stack.callback(sweep, self.prefix)
            self.servers = stack.enter_context(self.redis())
            self.check_peers()
            for workload in self.workloads:
                self.say(f"\n{workload.name}: {workload.title}")
                start = time.monotonic()
                self.play(workload)
                self.document["took"][workload.name] = round(time.monotonic() - start, 1)
                self.say(f"  ({self.document['took'][workload.name]:.0f} s)")
        return self.document

    # -- peers -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def redis(self) -> Iterator[Dict[str, str]]:
        """A context manager: the addresses of a Redis server, if a peer needs one."""
        if not any(PEERS[name].server for name in self.names):
            yield {}
            return
        with redis_server(self.folder) as (servers, what):
            if servers:
                self.document["environment"]["redis"] = what
            else:
                for name in [name for name in self.names if PEERS[name].server]:
                    self.leave_out(name, what)
            yield servers

    def check_peers(self) -> None:
        """Keep the peers that are available, and list the others as left out."""
        for environment in dict.fromkeys(PEERS[name].environment for name in self.names):
            names = [name for name in self.names if PEERS[name].environment == environment]
            try:
                if environment == "old":
                    self.say("making an environment for the old packages, if there is none")
                    python = environments.old_environment(self.environments_folder, self.old_python)
                    self.pythons["old"] = python, None
                found = self.checked(environment, names)
            except (environments.Unmade, Failed) as error:
                found = {name: {"reason": str(error)} for name in names}
            for name in names:
                if "reason" in found[name]:
                    self.leave_out(name, found[name]["reason"])
                else:
                    self.document["peers"][name] = {"title": PEERS[name].title, **found[name]}

    def checked(self, environment: str, names: List[str]) -> Dict[str, Dict[str, Any]]:
        python, source = self.pythons[environment]
        answer = subprocess.run(
            command(python, "check", *names), capture_output=True, text=True, env=surroundings(source), check=False
        )
        if answer.returncode:
            raise Failed(f"{python} failed: {(answer.stderr.strip().splitlines() or ['it printed no error'])[-1]}")
        found: Dict[str, Dict[str, Any]] = json.loads(answer.stdout)
        return found

    def leave_out(self, name: str, reason: str, workload: str = "", params: Optional[Params] = None) -> None:
        """Note, and print, that a peer has no figures, and why."""
        if not workload and name in self.names:
            self.names.remove(name)
        left_out = self.document["left_out"]
        what = {"peer": name, "workload": workload, "reason": reason}
        for entry in left_out:
            if {key: entry[key] for key in what} == what:
                entry["params"].append(params)
                return
        left_out.append({**what, "params": [params] if params else []})
        self.say(f"  left out: {PEERS[name].title}: {reason}{f' ({told(params)})' if params else ''}")

    # -- workloads -------------------------------------------------------------------------------------------

    def play(self, workload: Workload) -> None:
        self.too_much: Dict[str, List[Params]] = {}
        for batch in workload.grid(self.quick):
            cells = [(name, params) for params in batch for name in self.fit(workload, params)]
            rounds = self.rounds or (workload.quick_rounds if self.quick else workload.rounds)
            if workload.name in BY_PYPERF and self.document["environment"]["packages"].get("pyperf"):
                passes = timed_by_pyperf(cells, rounds, self.quick, self.order, self.python, self.failed_in(workload))
                for (name, params), values in passes:
                    self.add(workload, name, params, {"pair": values})
                continue
            players = [(name, params, self.player(workload, params)) for name, params in cells]
            for (name, params), figures in interleave(players, rounds, self.failed_in(workload)):
                self.add(workload, name, params, figures)

    def fit(self, workload: Workload, params: Params) -> List[str]:
        """Return the peers that can run a workload with these settings; note the others as left out."""
        fit = []
        for name in self.names:
            spec = PEERS[name]
            if (workload.only and name not in workload.only) or (spec.only and workload.name not in spec.only):
                continue
            lacking = [spec.lacks[need] for need in workload.needs(params) if need in spec.lacks]
            lacking += [
                f"was too slow with {told(less)} already" for less in self.too_much.get(name, ()) if more(params, less)
            ]
            if lacking:
                self.leave_out(name, lacking[0], workload.name, params)
            else:
                fit.append(name)
        return fit

    def failed_in(self, workload: Workload) -> Fail:
        def fail(name: str, params: Params, error: Exception) -> None:
            if isinstance(error, TooSlow):
                self.too_much.setdefault(name, []).append(params)
            self.leave_out(name, str(error), workload.name, params)

        return fail

    def python(self, name: str) -> Tuple[str, Optional[str]]:
        return self.pythons[PEERS[name].environment]

    def order(self, name: str) -> Dict[str, Any]:
        """Return what a worker process needs to know about a peer."""
        number = self.numbers = getattr(self, "numbers", 0) + 1
        place = {"prefix": f"{self.prefix}-{number}", "folder": self.folder, "servers": self.servers}
        return {"peer": name, "place": place}

    def player(self, workload: Workload, params: Params) -> Callable[[str], Player]:
        def start(name: str) -> Player:
            seconds = {"seconds": 0.05} if self.quick and "seconds" not in params else {}
            order = {**self.order(name), "workload": workload.name, "params": {**params, **seconds}}
            return Player(*self.python(name), order, workload.patience)

        return start

    def add(self, workload: Workload, name: str, params: Params, figures: Dict[str, List[float]]) -> None:
        metrics = {
            metric: measure.summary(figures[metric], unit)
            for metric, unit in workload.metrics.items()
            if figures.get(metric)
        }
        result = {"workload": workload.name, "peer": name, "params": params, "metrics": metrics}
        self.document["results"].append(result)
        self.say(line(PEERS[name].title, params, metrics))


def interleave(
    players: Sequence[Tuple[str, Params, Callable[[str], Player]]],
    rounds: int,
    fail: Fail,
) -> List[Tuple[Tuple[str, Params], Dict[str, List[float]]]]:
    """
    Start all players, let them take turns for ``rounds`` rounds, and end them.

    Return the figures of each, in the order of the players. Every second round runs in reverse order, so that
    no player always runs after the same one.
    """
    playing: Dict[int, Player] = {}
    figures: Dict[int, Dict[str, List[float]]] = {}
    try:
        for number, (name, params, start) in enumerate(players):
            try:
                playing[number] = start(name)
                figures[number] = {}
            except Failed as error:
                fail(name, params, error)
        for turn in range(rounds):
            for number in list(playing)[:: -1 if turn % 2 else 1]:
                try:
                    answer = playing[number].round()
                except Failed as error:
                    fail(players[number][0], players[number][1], error)
                    playing.pop(number).end()
                    del figures[number]
                    continue
                for metric, value in answer.items():
                    if value is not None:
                        figures[number].setdefault(metric, []).append(value)
    finally:
        for player in playing.values():
            player.end()
    return [(players[number][:2], told_figures) for number, told_figures in sorted(figures.items())]


def more(params: Params, less: Params) -> bool:
    """Return True if every number in ``params`` is at least that in ``less``, and the rest is equal."""
    return params.keys() == less.keys() and all(
        value == less[name] or (isinstance(value, (int, float)) and value > less[name])
        for name, value in params.items()
    )


def sweep(prefix: str) -> None:
    """Remove the shared memory of processes that had to be killed."""
    for path in glob.glob(f"/dev/shm/*{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):
            os.unlink(path)
