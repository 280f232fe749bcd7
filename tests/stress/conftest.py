"""The fixtures of the scenarios."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cgroups import CpuQuota, Freezer
from helpers.extent import Extent
from helpers.processes import Children
from helpers.schedulers import SignalFreezer, SignalQuota

from .crew import Crew

#: Seconds of a scenario with ``--exhaustive``, and without it: CI has no time for more.
SECONDS = 2.0, 2.0
#: Seconds of CPU time in each period, and the period.
QUOTA = 0.02, 0.1


@pytest.fixture
def seconds(extent: Extent) -> float:
    """How long a scenario works."""
    return extent.amount("ASGI_IPC_STRESS_SECONDS", *SECONDS)


@pytest.fixture
def make_crew(prefix: str, tmp_path: Path, start: Children) -> Iterator[Callable[..., Crew]]:
    """Return a function that makes a crew, with options for the layers. Its workers end before the test does."""
    made: list[Crew] = []

    def make(**options: Any) -> Crew:
        made.append(Crew(start, prefix, str(tmp_path), **options))
        return made[-1]

    yield make
    start.clean_up()
    for crew in made:
        crew.layer.close()


@pytest.fixture(params=["cgroup", pytest.param("signals", marks=pytest.mark.exhaustive)])
def quota(request: pytest.FixtureRequest, prefix: str, start: Children) -> Iterator[CpuQuota | SignalQuota]:
    """A quota of 20 ms in each 100 ms for the processes that are added to it: the kernel's, and one by signals."""
    kind = CpuQuota(prefix, *QUOTA) if request.param == "cgroup" else SignalQuota(*QUOTA)
    with kind as made:
        yield made
        start.clean_up()


@pytest.fixture(params=["signals", pytest.param("cgroup", marks=pytest.mark.exhaustive)])
def freezer(request: pytest.FixtureRequest, prefix: str, start: Children) -> Iterator[Freezer | SignalFreezer]:
    """A freezer for the processes that are added to it."""
    kind = Freezer(prefix) if request.param == "cgroup" else SignalFreezer()
    with kind as made:
        yield made
        made.thaw()  # frozen processes cannot be killed
        start.clean_up()
