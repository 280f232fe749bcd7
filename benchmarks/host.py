"""
The worker process. It checks which peers are available, runs a workload with a peer, or times a send and a
receive for pyperf.

A host reads one command (``round``) per line and answers with a line of JSON: ``{"round": figures}``,
``{"unfit": reason}`` if the peer cannot run the workload, or ``{"failed": error}``. It cleans up when its input
ends.
"""

from __future__ import annotations

__all__ = ["main"]

import dataclasses
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any, Dict, List

from . import measure
from .adapters import PEERS, load
from .adapters.base import Place, message_of
from .crew import end_all
from .workloads import WORKLOADS
from .workloads.base import Maker, Unfit


def main(words: List[str]) -> None:
    mode, *rest = words
    if mode == "check":
        check(rest)
    elif mode == "host":
        Host(json.loads(rest[0])).serve()
    else:
        pyperf_pairs(json.loads(rest[0]), rest)


def check(names: List[str]) -> None:
    """Print, as JSON, the versions of the packages of each peer, or why the peer is not available."""
    found: Dict[str, Any] = {}
    for name in names:
        spec = PEERS[name]
        try:
            for module in spec.modules:
                importlib.import_module(module)
            load(name).check()
            found[name] = {"versions": measure.versions(spec.packages), "python": sys.version.split()[0]}
        except ModuleNotFoundError as error:
            found[name] = {"reason": f"{error.name} is not installed"}
        except ImportError as error:
            found[name] = {"reason": f"it cannot be imported ({error})"}
        except Unfit as error:
            found[name] = {"reason": str(error)}
    print(json.dumps(found))


class Host:
    """Runs one workload with one peer."""

    def __init__(self, order: Dict[str, Any]) -> None:
        # Answers have their own descriptor, so that the output of peers cannot get between them.
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.maker = Maker(load(order["peer"]), Place(**order["place"]))
        self.workload = WORKLOADS[order["workload"]]
        self.params = order["params"]

    def serve(self) -> None:
        try:
            stage = self.answering("ready", lambda: self.workload.stage(self.maker, self.params))
            for _ in sys.stdin if stage else ():
                self.answering("round", stage.round)
            if stage:
                stage.end()
        finally:
            end_all()
            self.maker.remove()

    def answering(self, what: str, act: Any) -> Any:
        try:
            answer = act()
        except Unfit as error:
            return self.answer(unfit=str(error))
        except Exception as error:
            traceback.print_exc()
            return self.answer(failed=f"{type(error).__name__}: {error}")
        self.answer(**{what: answer if what == "round" else True})
        return answer

    def answer(self, **what: Any) -> None:
        self.answers.write(json.dumps(what) + "\n")
        self.answers.flush()


def pyperf_pairs(order: Dict[str, Any], words: List[str]) -> None:
    """Let pyperf time a send and a receive. pyperf starts this command again for each of its workers."""
    import pyperf

    place = Place(**order["place"])
    place = dataclasses.replace(place, prefix=f"{place.prefix}-{os.getpid()}")
    message = message_of(order["payload"])
    runner = pyperf.Runner(program_args=(os.path.join(os.path.dirname(__file__), "worker.py"), "pyperf", words[0]))
    arguments = runner.parse_args(words[1:])
    if not arguments.worker:
        runner.bench_time_func("pair", lambda times: 0.0)
        return
    maker = Maker(load(order["peer"]), place)
    try:
        peer = maker.make()
        peer.open()
        peer.listen("channel")

        def pairs(times: int) -> float:
            start = time.perf_counter()
            peer.pairs(times, message)
            return time.perf_counter() - start

        runner.bench_time_func("pair", pairs)
        peer.close()
    finally:
        maker.remove()
