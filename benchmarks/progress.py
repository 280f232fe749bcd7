"""
Messages about the progress of a run.

The title of each workload says how long the rest takes. On a terminal, a further line says which peer is being
measured. It is overwritten, and removed when the workload ends.
"""

from __future__ import annotations

__all__ = ["Progress", "minutes"]

import sys
import time
from typing import TextIO, Tuple

from .tables import WIDTH


class Progress:
    """``total`` is the number of workloads; ``seconds`` is the estimate for all of them, or 0 if unknown."""

    def __init__(self, total: int, seconds: float, stream: TextIO = sys.stderr) -> None:
        self.total, self.seconds, self.stream = total, seconds, stream
        self.number, self.expected, self.start = 0, 0.0, time.monotonic()

    def begin(self, seconds: float) -> Tuple[str, str]:
        """Return the texts before and after the next workload's title; ``seconds`` is the estimate for it."""
        self.number += 1
        left = self.left()
        self.expected += seconds
        return f"[{self.number} of {self.total}] ", f", about {minutes(left)} left" if left > 0 else ""

    def left(self) -> float:
        """Return the estimate of the remaining seconds, adapted to the speed so far."""
        pace = 1.0
        if self.expected > 10:
            pace = (time.monotonic() - self.start) / self.expected
        return (self.seconds - self.expected) * pace

    def show(self, text: str) -> None:
        """Overwrite the status line. Does nothing unless the output is a terminal."""
        if self.stream.isatty():
            self.stream.write(f"\r  {text[: WIDTH - 4]:{WIDTH - 4}}")
            self.stream.flush()

    def clear(self) -> None:
        if self.stream.isatty():
            self.stream.write("\r" + " " * (WIDTH - 2) + "\r")
            self.stream.flush()


def minutes(seconds: float) -> str:
    """Return a duration in words, rounded."""
    if seconds < 90:
        return f"{max(5, round(seconds / 5) * 5)} s"
    return f"{seconds / 60:.0f} minutes"
