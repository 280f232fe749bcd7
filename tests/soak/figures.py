"""Figures that a soak takes once a minute, and whether they are flat."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asgi_ipc.shm.layout import AT_RESERVED, WORD
from asgi_ipc.shm.wakeup_fifo import OPEN_FIFOS

#: For each unit: by which factor, and by how much more, the last third of the time may be above the middle third.
#: Memory and descriptors that leak grow without end, so little is allowed. How long messages take depends on the
#: machine, so more is allowed, and most for the slowest messages: those that were on their way during a freeze.
ALLOWED = {"KiB": (1.05, 64), "MiB": (1.02, 1), "": (1.0, 2), "ms": (1.5, 5)}
ALLOWED_FOR_SLOWEST = (3.0, 100)
#: How the figure of the slowest messages is called.
SLOWEST = "99 %"
#: The most FIFOs that a process may have open: it keeps so many of others open, and has some of its own.
MOST_FIFOS = OPEN_FIFOS + 8
#: The unit of that figure, which grows until the process keeps as many open as it may.
FIFOS = "FIFOs"

#: The figures of one minute: (name, unit) -> value.
Sample = dict[tuple[str, str], float]


class Row(NamedTuple):
    """One figure: its medians in the three thirds of the time, and whether it is flat."""

    name: str
    unit: str
    first: float
    middle: float
    last: float
    flat: bool


def memory_in_use(store: Any) -> int:
    """Return how many bytes of a store's segment are in use."""

    def count() -> int:
        attachment = store.sections.opened()
        heap = attachment.heap
        words: int = min(attachment.segment.words[AT_RESERVED], heap.end) - heap.free_words()
        return words * WORD

    return int(store.sections.exclusively(count))


def of_process(pid: int, label: str) -> Sample:
    """Return the memory of a process, and the number of its descriptors: those of wakeup FIFOs, and the others."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    memory = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    targets = []
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            targets.append(os.readlink(descriptor.path))
    fifos = sum(".wakeup" in target for target in targets)
    return {
        (f"memory of {label}", "MiB"): memory / 1024,
        (f"descriptors of {label}", ""): len(targets) - fifos,
        (f"open in {label}", FIFOS): fifos,
    }


def percentiles(name: str, seconds: Sequence[float]) -> Sample:
    """Return the median and the 99th percentile of some durations, in ms."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    found = {"median": statistics.median(ordered), SLOWEST: ordered[int(0.99 * (len(ordered) - 1))]}
    return {(f"{name}, {which}", "ms"): 1000 * value for which, value in found.items()}


def compare(samples: Sequence[Sample]) -> list[Row]:
    """Return a row for each figure. There must be at least three samples."""
    third = len(samples) // 3
    thirds = samples[: len(samples) - 2 * third], samples[-2 * third : -third], samples[-third:]
    rows = []
    for name, unit in samples[-1]:
        first, middle, last = (_median(each, name, unit) for each in thirds)
        rows.append(Row(name, unit, first, middle, last, last <= _limit(name, unit, middle)))
    return rows


def _limit(name: str, unit: str, middle: float) -> float:
    """Return up to which value a figure is flat in the last third."""
    if unit == FIFOS:
        return MOST_FIFOS
    factor, slack = ALLOWED_FOR_SLOWEST if name.endswith(SLOWEST) else ALLOWED[unit]
    return factor * middle + slack


def _median(samples: Iterable[Sample], name: str, unit: str) -> float:
    values = [sample[name, unit] for sample in samples if (name, unit) in sample]
    return statistics.median(values) if values else float("nan")


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a table of reStructuredText."""
    head = ["Figure", "first third", "middle third", "last third", "flat"]
    body = [[_label(row), *map(_number, row[2:5]), "yes" if row.flat else "**no**"] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *body)]
    rule = " ".join("=" * width for width in widths)
    lines = [" ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in [head, *body]]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _label(row: Row) -> str:
    return f"{row.name} ({row.unit})" if row.unit else row.name


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
