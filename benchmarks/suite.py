"""
One run of the suite. It checks which peers are available, and measures each workload with them in turns.

The results are one document, which can be written as JSON.
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
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from . import environments, measure
from .adapters import PEERS
from .player import Failed, Player, TooSlow, command, surroundings
from .progress import Progress
from .pyperf_pairs import timed_by_pyperf
from .redis_server import redis_server
from .report import heading, introduction, section
from .workloads import WORKLOADS
from .workloads.base import Params, Workload

#: The checkout; its asgi_ipc is measured.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: A folder in memory, if the system has one.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
#: Workloads that pyperf times in a full run if it is installed; otherwise they run in rounds like the others.
#: In a quick run, pyperf would spend most of the time on starting processes.
BY_PYPERF = ("pair", "payload")

Say = Callable[[str], None]
#: Called with the name of the peer whose turn it is.
Step = Callable[[str], None]
#: Called with the peer that failed, its settings and the error.
Fail = Callable[[str, Params, Exception], None]


class Suite:
    """A run. ``document`` contains the environment, the peers and the results, and why peers were left out."""

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
            self.print(introduction(self.document))
            if not self.names:
                return self.document
            self.progress = Progress(len(self.workloads), sum(map(self.estimate, self.workloads)))
            for workload in self.workloads:
                self.print(heading(workload.name, *self.progress.begin(self.estimate(workload))))
                start = time.monotonic()
                try:
                    self.play(workload)
                finally:
                    self.progress.clear()
                    self.document["took"][workload.name] = round(time.monotonic() - start, 1)
                    self.print(section(self.document, workload.name))
        return self.document

    def print(self, lines: Iterable[str]) -> None:
        for text in lines:
            self.say(text)

    def estimate(self, workload: Workload) -> float:
        """Return about how many seconds a workload takes; 0 if that is not known."""
        if not self.quick or self.rounds:
            return 0.0
        return workload.quick_seconds * sum(takes_part(workload, name) for name in self.names)

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
                    self.say("Installing the layers for Channels 1, unless that was done before ...")
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
        """Note that a peer has no figures, and why."""
        if not workload and name in self.names:
            self.names.remove(name)
        left_out = self.document["left_out"]
        what = {"peer": name, "workload": workload, "reason": reason}
        for entry in left_out:
            if {key: entry[key] for key in what} == what:
                entry["params"].append(params)
                return
        left_out.append({**what, "params": [params] if params else []})

    # -- workloads -------------------------------------------------------------------------------------------

    def play(self, workload: Workload) -> None:
        self.too_much: Dict[str, List[Params]] = {}
        for batch in workload.grid(self.quick):
            cells = [(name, params) for params in batch for name in self.fit(workload, params)]
            rounds = self.rounds or (workload.quick_rounds if self.quick else workload.rounds)
            pyperf = not self.quick and self.document["environment"]["packages"].get("pyperf")
            if workload.name in BY_PYPERF and pyperf:
                fail = self.failed_in(workload)
                passes = timed_by_pyperf(cells, rounds, self.order, self.python, self.step, fail)
                for (name, params), values in passes:
                    self.add(workload, name, params, {"pair": values})
                continue
            players = [(name, params, self.player(workload, params)) for name, params in cells]
            for (name, params), figures in interleave(players, rounds, self.step, self.failed_in(workload)):
                self.add(workload, name, params, figures)

    def fit(self, workload: Workload, params: Params) -> List[str]:
        """Return the peers that can run a workload with these settings; note the others as left out."""
        fit = []
        for name in self.names:
            if not takes_part(workload, name):
                continue
            spec = PEERS[name]
            lacking = [spec.lacks[need] for need in workload.needs(params) if need in spec.lacks]
            lacking += [
                f"too slow already with {workload.brief(less)}"
                for less in self.too_much.get(name, ())
                if more(params, less)
            ]
            if lacking:
                self.leave_out(name, lacking[0], workload.name, params)
            else:
                fit.append(name)
        return fit

    def step(self, name: str) -> None:
        self.progress.show(f"measuring {PEERS[name].title}")

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


def interleave(
    players: Sequence[Tuple[str, Params, Callable[[str], Player]]],
    rounds: int,
    step: Step,
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
            step(name)
            try:
                playing[number] = start(name)
                figures[number] = {}
            except Failed as error:
                fail(name, params, error)
        for turn in range(rounds):
            for number in list(playing)[:: -1 if turn % 2 else 1]:
                step(players[number][0])
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


def takes_part(workload: Workload, name: str) -> bool:
    """Return False if the workload is limited to other peers, or the peer to other workloads."""
    spec = PEERS[name]
    return (not workload.only or name in workload.only) and (not spec.only or workload.name in spec.only)


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
