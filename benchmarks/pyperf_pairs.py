"""
Time a send and a receive in one process with pyperf. Every pass starts new pyperf workers.

The peers take turns after each pass. pyperf itself would measure all values of one peer before those of the next.
"""

from __future__ import annotations

__all__ = ["timed_by_pyperf"]

import json
import os
import subprocess
import tempfile
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .player import MALLOC, command, surroundings
from .workloads.base import Params

#: Options of a pass: worker processes, values and warm-ups of each, minimum seconds of a value.
PASS = ("--processes=1", "--values=5", "--warmups=1", "--min-time=0.05")
#: The environment variables that pyperf passes on to its workers.
INHERITED = ",".join(("PYTHONPATH", *MALLOC))
#: Timeout of a pass in seconds.
PATIENCE = 120

Cell = Tuple[str, Params]


def timed_by_pyperf(
    cells: Sequence[Cell],
    passes: int,
    order: Callable[[str], Dict[str, Any]],
    python: Callable[[str], Tuple[str, Optional[str]]],
    step: Callable[[str], None],
    fail: Callable[[str, Params, Exception], None],
) -> List[Tuple[Cell, List[float]]]:
    """Return (cell, µs for a pair: all values of all passes) of each cell, a peer with its settings."""
    values: Dict[int, List[float]] = {number: [] for number in range(len(cells))}
    for turn in range(passes):
        for number in list(values)[:: -1 if turn % 2 else 1]:
            name, params = cells[number]
            step(name)
            try:
                values[number] += one_pass({**order(name), **params}, python(name))
            except RuntimeError as error:
                del values[number]
                fail(name, params, error)
    return [(cells[number], figures) for number, figures in values.items()]


def one_pass(order: Dict[str, Any], python: Tuple[str, Optional[str]]) -> List[float]:
    with tempfile.TemporaryDirectory(prefix="asgi-ipc-pyperf-") as folder:
        output = os.path.join(folder, "pairs.json")
        words = [*PASS, "--quiet", f"--inherit-environ={INHERITED}", f"--timeout={PATIENCE}", f"--output={output}"]
        try:
            answer = subprocess.run(
                command(python[0], "pyperf", json.dumps(order), *words),
                capture_output=True,
                text=True,
                env=surroundings(python[1]),
                timeout=2 * PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"gave no answer within {2 * PATIENCE} s") from None
        if answer.returncode:
            lines = [text for text in answer.stderr.splitlines() if text.strip()]
            raise RuntimeError(f"failed: {lines[-1] if lines else 'it printed no error'}")
        return read(output)


def read(path: str) -> List[float]:
    """Return the values of a pyperf file in µs, without calibrations and warm-ups."""
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    return [value * 1e6 for run in document["benchmarks"][0]["runs"] for value in run.get("values", ())]
