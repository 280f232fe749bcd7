"""
The processes of a workload: forked from the one that made the peer, each on a core of its own, doing what they are
told and saying what it took.
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

#: Does something in a member's process, with an argument from the leader; what it returns goes back to the leader.
Job = Callable[[Any], Any]
#: The crews of this process.
LIVING: List[Crew] = []


class Member:
    """One process, as the leader sees it."""

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
        """Let it go; it is killed, since peers may wait for what will not come."""
        os.close(self._write)
        self.reports.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


class Crew:
    """The members; each starts with a function of its own, which returns its job."""

    def __init__(self, peer: Peer, starts: Sequence[Callable[[Peer], Job]], pinned: bool = True) -> None:
        cores = sorted(os.sched_getaffinity(0)) if pinned and hasattr(os, "sched_getaffinity") else []
        self.members: List[Member] = []
        LIVING.append(self)
        try:
            for number, start in enumerate(starts):
                self.members.append(Member(peer, start, cores[number % len(cores)] if cores else None))
            self.hear()  # ready
        except BaseException:
            self.end()
            raise

    def do(self, *arguments: Any) -> List[Any]:
        """Tell each member an argument, and wait for what all of them say."""
        for member, argument in zip(self.members, arguments):
            member.tell(argument)
        return self.hear()

    def hear(self) -> List[Any]:
        """What all members say, in their order; or the error of the first one that fails, though others still work."""
        said: Dict[int, Any] = {}
        waiting = {member.reports.fileno(): number for number, member in enumerate(self.members)}
        while waiting:
            for ready in select.select(list(waiting), [], [])[0]:
                number = waiting.pop(ready)
                said[number] = self.members[number].hear()
        return [said[number] for number in range(len(self.members))]

    def end(self) -> None:
        while self.members:
            self.members.pop().end()
        if self in LIVING:
            LIVING.remove(self)


def end_all() -> None:
    """End every crew that there is: whoever made it may have failed before it could."""
    while LIVING:
        LIVING[-1].end()


def pin(core: Optional[int]) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})


def work(peer: Peer, start: Callable[[Peer], Job], orders: BinaryIO, reports: BinaryIO) -> None:
    """The life of a member."""

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
