"""The soak itself: two minutes of it, and whether it would notice a leak."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import asgi_ipc

from .figures import FIFOS, MOST_FIFOS, Sample, compare, table

MEMORY, DESCRIPTORS, TIME = ("memory", "MiB"), ("descriptors", ""), ("median", "ms")


def samples(memory: float = 0, descriptors: float = 0, time: float = 0) -> list[Sample]:
    """Return the figures of half an hour, in which these grow by so much in each minute."""
    return [
        {MEMORY: 20 + memory * minute, DESCRIPTORS: 12 + descriptors * minute, TIME: 2 + time * minute}
        for minute in range(30)
    ]


def test_fifos_of_others_are_kept_open_up_to_a_limit() -> None:
    found: list[Sample] = [{("open", FIFOS): min(minute, MOST_FIFOS)} for minute in range(90)]
    assert flat(found) == [True]
    assert flat([*found, *({("open", FIFOS): MOST_FIFOS + 1.0} for _ in range(90))]) == [False]


def flat(found: list[Sample]) -> list[bool]:
    return [row.flat for row in compare(found)]


def test_figures_that_do_not_grow_are_flat() -> None:
    assert flat(samples()) == [True, True, True]
    assert "**no**" not in table(compare(samples()))


def test_figures_that_grow_without_end_are_not_flat() -> None:
    """A leak of 200 KiB or of half a descriptor in a minute."""
    found = samples(memory=0.2, descriptors=0.5, time=10)
    assert flat(found) == [False, False, False]
    assert table(compare(found)).count("**no**") == 3


def test_figures_that_grow_only_at_the_beginning_are_flat() -> None:
    found = samples()
    for minute in range(10):
        found[minute] = {MEMORY: 10, DESCRIPTORS: 4, TIME: 1}
    assert flat(found) == [True, True, True]


@pytest.mark.exhaustive
def test_two_minutes_without_a_problem(prefix: str) -> None:
    """Two minutes are too short to say what is flat."""
    for module in ("channels.layers", "uvicorn", "websockets"):
        pytest.importorskip(module, reason="needs tests/channels4/requirements.txt")
    directory = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(Path(asgi_ipc.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "soak", "--minutes", "8", "--minute", "15", "--prefix", prefix],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()  # then it ends what it has started
        process.communicate()
    sys.stdout.write(output)
    _, _, verdict = output.rpartition("=\n")
    assert all(
        line.startswith(("not flat", "no problems")) or line.endswith(" problems") for line in verdict.splitlines()
    )
    assert "messages" in output
