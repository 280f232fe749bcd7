"""Waiting for other processes, with a limit that only a hang reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

from helpers.processes import LIMIT


def until(condition: Callable[[], bool]) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not hold within {LIMIT} s"
        time.sleep(0.02)
