"""
The processes of a workload. They are forked from the process that made the peer, and each is pinned to a core.

The leader sends an argument to each process. The process runs its job with it and sends back the result.
"""

from __future__ import annotations

__all__ = ["Crew", "Job", "Member", "end_all"]

import contextlib
import gc
import json
import os
import select
import signal
import traceback
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Sequence

from .adapters.base import Peer, Unfit

#: Runs in a member's process, with an argument from the leader; the leader gets its result.
Job = Callable[[Any], Any]
#: The crews of this process that have not ended.
CREWS: List[Crew] = []


class Member:
    """The leader's side of one process."""

    def __init__(self, peer: Peer, start: Callable[[Peer], Job], core: Optional[int]) -> None:
        there, self._write = os.pipe()
        self._read, here = os.pipe()
        self.process = os.fork()
        if not self.process:
            status = 1
            try:
                os.close(self._write)
                os.close(self._read)
                pin(core)
                with os.fdopen(there, "rb") as orders, os.fdopen(here, "wb") as reports:
                    work(peer, start, orders, reports)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(there)
        os.close(here)
        self.reports = os.fdopen(self._read, "rb")

    def tell(self, argument: Any) -> None:
        os.write(self._write, json.dumps(argument).encode() + b"\n")

    def hear(self) -> Any:
        line = self.reports.readline()
        if not line:
            raise RuntimeError("a process of the workload died")
        report = json.loads(line)
        if "unfit" in report:
            raise Unfit(report["unfit"])
        if "failed" in report:
            raise RuntimeError(report["failed"])
        return report["done"]

    def end(self) -> None:
        """Kill it: its peer may wait for a message that never comes."""
        os.close(self._write)
        self.reports.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


class Crew:
    """The members; each calls one of ``starts``, which returns its job."""

    def __init__(self, peer: Peer, starts: Sequence[Callable[[Peer], Job]], pinned: bool = True) -> None:
        cores = sorted(os.sched_getaffinity(0)) if pinned and hasattr(os, "sched_getaffinity") else []
        self.members: List[Member] = []
        CREWS.append(self)
        try:
            for number, start in enumerate(starts):
                self.members.append(Member(peer, start, cores[number % len(cores)] if cores else None))
            self.hear()  # ready
        except BaseException:
            self.end()
            raise

    def do(self, *arguments: Any) -> List[Any]:
        """Send one argument to each member; return the results in the order of the members."""
        for member, argument in zip(self.members, arguments):
            member.tell(argument)
        return self.hear()

    def hear(self) -> List[Any]:
        """Return the results in the order of the members. Raises the first error immediately."""
        results: Dict[int, Any] = {}
        waiting = {member.reports.fileno(): number for number, member in enumerate(self.members)}
        while waiting:
            for ready in select.select(list(waiting), [], [])[0]:
                number = waiting.pop(ready)
                results[number] = self.members[number].hear()
        return [results[number] for number in range(len(self.members))]

    def end(self) -> None:
        while self.members:
            self.members.pop().end()
        if self in CREWS:
            CREWS.remove(self)


def end_all() -> None:
    """End every crew that was not ended because of an error."""
    while CREWS:
        CREWS[-1].end()


def pin(core: Optional[int]) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})


def work(peer: Peer, start: Callable[[Peer], Job], orders: BinaryIO, reports: BinaryIO) -> None:
    """Run a member: start it, and run its job once for each order."""

    def report(**what: Any) -> None:
        reports.write(json.dumps(what).encode() + b"\n")
        reports.flush()

    try:
        peer.open()
        job = start(peer)
        gc.collect()
        gc.freeze()
        report(done=None)
        for line in orders:
            report(done=job(json.loads(line)))
            gc.collect()
    except Unfit as error:
        report(unfit=str(error))
    except Exception as error:
        traceback.print_exc()
        report(failed=f"{type(error).__name__}: {error}")
