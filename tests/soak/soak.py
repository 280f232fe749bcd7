"""The soak: starts everything, makes trouble, takes figures, and says whether all was well."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from helpers.processes import Children
from helpers.waiting import files_of
from stress.crew import Crew
from stress.relays import Relay, ServerRelay
from stress.workers import Inbox, Receiver, Sender, Server, Worker

from asgi_ipc import SegmentError
from asgi_ipc.stores.unlink import leftovers

from . import figures
from .figures import Sample
from .programs import LIMIT, Program, free_port, run_worker, serve, wait_until
from .settings import PATIENCE

#: The workers of the crew. The first of each kind is never killed.
CREW: list[tuple[type[Worker], int]] = [(Inbox, 2), (Server, 2), (Receiver, 2), (Relay, 1), (ServerRelay, 1)]
SENDERS = 2
#: Seconds between two sends of a sender, between two troubles, and for which some processes are frozen.
PAUSE, BETWEEN, SOME_FROZEN = (0.01, 0.05), (0.3, 1.5), (0.05, 0.4)
#: Seconds for which everything is frozen once a minute, longer than ``PATIENCE``.
ALL_FROZEN = PATIENCE + 0.5
#: Seconds after which messages that nobody has received are dropped: those of killed processes, which would fill the
#: memory. No other message waits that long.
EXPIRY = 300.0
#: Tasks that may be lost with a ``runworker`` process: Channels receives messages before it handles them.
TASKS_OF_A_WORKER = 10
#: The workers that are killed, and what the table calls them.
KINDS: dict[type[Worker], str] = {
    Inbox: "an inbox's receiver",
    Server: "an event loop",
    Receiver: "a receiver",
    Sender: "a sender",
}


class Soak:
    """A context manager: at its end, everything that it has started has ended, and nothing is left of it."""

    def __init__(self, prefix: str, directory: str) -> None:
        self._prefix, self._directory = prefix, Path(directory)
        self._random = random.Random(prefix)
        self._children = Children()
        self._programs: list[Program] = []
        self._done: Counter[str] = Counter()
        self._latencies = self._directory / "clients"
        self._read = 0
        self._pairs: list[float] = []
        self._samples: list[Sample] = []
        self._wrong: list[str] = []

    def __enter__(self) -> Soak:
        return self

    def __exit__(self, *error: object) -> None:
        for program in self._programs:
            program.kill()
        self._children.clean_up()
        with contextlib.suppress(AttributeError, SegmentError, RuntimeError):
            self._crew.layer.unlink()
            self._crew.layer.close()

    def run(self, minutes: int, minute: float) -> int:
        """Run for so many minutes of ``minute`` seconds each; return the exit status."""
        self._start()
        for number in range(minutes):
            self._run_minute(minute)
            self._samples.append(self._sample())
            figure = {f"{name} ({unit})": round(value, 2) for (name, unit), value in self._samples[-1].items()}
            say(f"minute {number + 1}: {figure}")
        return self._report()

    # -- the processes -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        journals = self._directory / "journals"
        journals.mkdir()
        self._crew = Crew(self._children, self._prefix, str(journals), patience=PATIENCE, expiry=EXPIRY)
        self._ports = [free_port(), free_port()]
        self._server = self._add(serve(self._prefix, self._log("steady"), self._ports[0], 1))
        self._killed = self._add(serve(self._prefix, self._log("killed"), self._ports[1], 2))
        self._worker = self._add(run_worker(self._prefix, self._log("worker")))
        self._killed_worker = self._add(run_worker(self._prefix, self._log("killed-worker")))
        for kind, count in CREW:
            self._crew.hire(kind, count)
        self._crew.begin()
        self._crew.hire(Sender, SENDERS, pause=PAUSE)
        clients = ["soak.clients", str(self._latencies), *map(str, self._ports)]
        self._add(Program(self._prefix, self._log("clients"), *clients))
        wait_until(self._latencies.exists, "the clients")
        self._steady = {"Uvicorn": self._server.pid, "runworker": self._worker.pid}
        for kind, label in KINDS.items():
            self._steady[label] = next(self._crew.pids[name] for name in self._of_kind(kind))

    def _of_kind(self, kind: type[Worker]) -> list[str]:
        """Return the names of the workers of a kind, in the order in which they were hired."""
        return [name for name in self._crew.pids if name.rpartition("-")[0] == kind.__name__]

    def _add(self, program: Program) -> Program:
        self._programs.append(program)
        return program

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    # -- a minute ----------------------------------------------------------------------------------------------------

    def _run_minute(self, minute: float) -> None:
        """Make trouble for a minute, and freeze everything in the middle of it."""
        middle, end = time.monotonic() + minute / 2, time.monotonic() + minute
        is_frozen = False
        troubles = [self._kill_in_crew, self._kill_server, self._kill_worker, self._run_script, self._freeze_some]
        while time.monotonic() < end:
            self._measure_pairs(self._random.uniform(*BETWEEN))
            if not is_frozen and time.monotonic() > middle:
                self._freeze_all()
                is_frozen = True
            self._random.choice(troubles)()
            self._crew.work(0)

    def _measure_pairs(self, seconds: float) -> None:
        """Measure a send and a receive, several times."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = time.perf_counter()
            self._crew.layer.send("pairs", {"n": 1})
            self._crew.layer.receive(["pairs"])
            self._pairs.append(time.perf_counter() - before)
            time.sleep(0.02)

    def _kill_in_crew(self) -> None:
        names = [name for kind in KINDS for name in self._of_kind(kind)[1:]]
        self._crew.replace(self._random.choice(names))
        self._done["kills of workers"] += 1

    def _kill_server(self) -> None:
        pids = self._killed.children()
        if len(pids) > 1:  # else one has not started again
            os.kill(self._random.choice(pids), signal.SIGKILL)
            self._done["kills of server processes"] += 1

    def _kill_worker(self) -> None:
        self._killed_worker.kill()
        self._programs.remove(self._killed_worker)
        self._killed_worker = self._add(run_worker(self._prefix, self._log("killed-worker")))
        self._done["kills of runworker"] += 1

    def _run_script(self) -> None:
        script = self._add(Program(self._prefix, self._log("scripts"), "soak.script"))
        wait_until(script.has_ended, "a script to end")
        self._programs.remove(script)
        self._done["scripts"] += 1

    def _freeze_some(self) -> None:
        """Stop the processes of some programs, or of all workers of the crew, for a moment."""
        groups = self._random.sample(self._groups(), 3)
        self._freeze(groups, self._random.uniform(*SOME_FROZEN))
        self._done["freezes of some"] += 1

    def _freeze_all(self) -> None:
        self._freeze(self._groups(), ALL_FROZEN)
        self._done["freezes of everything"] += 1

    def _groups(self) -> list[int]:
        """Return the process groups: of each program, and of all workers of the crew."""
        return [program.pid for program in self._programs] + [self._children.started[0].pid]

    def _freeze(self, groups: list[int], seconds: float) -> None:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for group in groups:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, number)
            if number == signal.SIGSTOP:
                time.sleep(seconds)

    # -- figures -----------------------------------------------------------------------------------------------------

    def _sample(self) -> Sample:
        """Take the figures of a minute."""
        layer = self._crew.layer
        sample: Sample = {
            ("memory in use for messages", "KiB"): figures.memory_in_use(layer.message_store) / 1024,
            ("memory in use for groups", "KiB"): figures.memory_in_use(layer.group_store) / 1024,
            ("shared memory objects", ""): len(leftovers(self._prefix)),
            ("wakeup FIFOs", ""): len(files_of(self._prefix)),
        }
        for label, pid in self._steady.items():
            sample.update(figures.of_process(pid, label))
        times: dict[str, list[float]] = {"said": [], "task": []}
        for line in self._new_lines():
            kind, *rest = line.split()
            if kind in times:
                times[kind].append(float(rest[0]))
            elif kind == "hung":
                self._wrong.append(f"message {rest[1]} of client {rest[0]} did not come back")
            self._done[f"of clients: {kind}"] += 1
        sample.update(figures.percentiles("through the site", times["said"]))
        sample.update(figures.percentiles("through a runworker", times["task"]))
        sample.update(figures.percentiles("send and receive", self._pairs))
        self._pairs = []
        return sample

    def _new_lines(self) -> list[str]:
        with open(self._latencies, "rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode().splitlines()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _report(self) -> int:
        for program in [self._server, self._worker]:
            if program.has_ended():
                self._wrong.append(f"{program.log.name} has ended by itself")
        for program in self._programs:
            program.kill()
        self._done["forks"] = self._crew.accounts.forks
        lost, kills = self._done["of clients: lost"], self._done["kills of runworker"]
        if lost > TASKS_OF_A_WORKER * kills:
            self._wrong.append(f"{lost} tasks are lost, but only {kills} runworker processes were killed")
        say(str(dict(self._done)))
        for log in sorted(self._directory.glob("*.log")):
            if log.stat().st_size:
                self._wrong.append(f"{log.name}: {log.read_text()[-2000:]}")
        try:
            self._crew.finish(LIMIT)
        except AssertionError as error:
            self._wrong.append(str(error))
        rows = figures.compare(self._samples)
        say("\n" + figures.table(rows))
        self._wrong += [f"not flat: {row.name}" for row in rows if not row.flat]
        for sentence in self._wrong:
            say(sentence)
        say(f"{len(self._wrong)} problems" if self._wrong else "no problems, and everything is flat")
        return 1 if self._wrong else 0


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
