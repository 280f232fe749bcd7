"""Waiting for something that other processes do, with a limit that only a hang reaches."""

from __future__ import annotations

import time
from typing import Callable

from helpers.processes import LIMIT


def until(happens: Callable[[], bool]) -> None:
    """Look again and again until something is so."""
    deadline = time.monotonic() + LIMIT
    while not happens():
        assert time.monotonic() < deadline, f"has not happened within {LIMIT} s"
        time.sleep(0.02)
