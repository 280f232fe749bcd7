"""
How much of the suite runs: all of it with ``--exhaustive``; without it, a part that takes a few minutes.

A long test tries a sample of its cases then, the same ones each time. What cannot be sampled has the marker
``exhaustive``, and is skipped. The last lines of a run say so.
"""

from __future__ import annotations

__all__ = ["SKIPPED", "Extent", "is_in_part"]

import os
import random
from collections.abc import Sequence
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
N = TypeVar("N", int, float)

#: Why a test with the marker is skipped.
SKIPPED = "exhaustive: runs with --exhaustive, as in .ci/run"
#: What a test notes that has not run in full. pytest-xdist passes it on from its workers.
IN_PART = ("ran", "in part")


class Extent:
    """How much of its cases a test tries."""

    def __init__(self, whole: bool, properties: list[tuple[str, Any]]) -> None:
        self._whole = whole
        self._properties = properties

    def _note(self) -> None:
        if IN_PART not in self._properties:
            self._properties.append(IN_PART)

    def sample(self, cases: Sequence[T], size: int, seed: str) -> Sequence[T]:
        """Return all cases, or ``size`` of them: the same ones each time, in their order."""
        if self._whole or len(cases) <= size:
            return cases
        self._note()
        return [cases[at] for at in sorted(random.Random(seed).sample(range(len(cases)), size))]

    def amount(self, variable: str, whole: N, part: N) -> N:
        """Return ``whole`` or ``part``, or the value of an environment variable, which is set by hand."""
        if variable in os.environ:
            return type(whole)(os.environ[variable])
        if self._whole:
            return whole
        self._note()
        return part


def is_in_part(report: pytest.TestReport) -> bool:
    """Whether a test has run, but not in full."""
    return report.when == "call" and any(tuple(each) == IN_PART for each in report.user_properties)
