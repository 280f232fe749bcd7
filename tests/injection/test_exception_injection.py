"""
A signal handler may raise an exception anywhere: this process and all others can use the store afterwards.

As in the tests of kills, an exception is raised before each store to shared memory and before each system
call of each operation, and after each call; then a second one in the cleanup that follows. One is also raised
before some bytecodes, or before every bytecode with ``ASGI_IPC_EVERY_BYTECODE=1``. Without ``--exhaustive``,
a sample of all this runs.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from injection.children import sample
from injection.lifecycle import STAGES
from injection.table import CASES

if TYPE_CHECKING:
    from helpers.extent import Extent

    from injection.fixtures import MakeLifecycle, MakeTrial

pytest_plugins = ["injection.fixtures"]

#: Points of each operation that are tried where not all are.
SAMPLE = 3
#: Steps of an operation, or of a stage of a segment's lifecycle, and points that are tried without
#: ``--exhaustive``.
STEPS, POINTS = 4, 1


@pytest.mark.parametrize("name", CASES)
def test_an_exception_before_any_store_or_call_stops_no_process(trial: MakeTrial, extent: Extent, name: str) -> None:
    tried = trial(name)
    for at in extent.sample(range(1, tried.steps_with_calls + 1), STEPS, name):
        tried.interrupt(at, same_first=False)
    for at in extent.sample(sample(tried.steps_with_calls, SAMPLE, name), POINTS, name):
        tried.interrupt(at, same_first=True)


@pytest.mark.parametrize("name", CASES)
def test_a_second_exception_in_the_cleanup_stops_no_process(
    trial: MakeTrial, extent: Extent, name: str
) -> None:
    tried = trial(name)
    rng = random.Random(name)
    for at in extent.sample(sample(tried.steps_with_calls, SAMPLE, name), POINTS, name):
        for second in sample(max(1, tried.count_cleanup(at)), 1, f"{name} {at}"):
            tried.interrupt(at, second, same_first=rng.random() < 0.5)


@pytest.mark.parametrize("name", ["send to a queue", "second member"])
def test_a_second_exception_at_any_step_of_the_cleanup_stops_no_process(
    trial: MakeTrial, extent: Extent, name: str
) -> None:
    tried = trial(name)
    at = tried.steps_with_calls // 2
    for second in extent.sample(range(1, tried.count_cleanup(at) + 1), STEPS, name):
        tried.interrupt(at, second)


@pytest.mark.parametrize("name", CASES)
def test_an_exception_before_any_bytecode_stops_no_process(trial: MakeTrial, extent: Extent, name: str) -> None:
    tried = trial(name)
    for at in extent.sample(sample(tried.count_opcodes(), SAMPLE, name), POINTS, name):
        tried.interrupt_at_opcode(at, same_first=at % 2 == 0)


@pytest.mark.parametrize("kind", ["messages", "groups"])
@pytest.mark.parametrize("name", STAGES)
def test_an_exception_at_any_step_of_a_segments_lifecycle_stops_no_process(
    lifecycle: MakeLifecycle, extent: Extent, name: str, kind: str
) -> None:
    tried = lifecycle(name, kind)
    for at in extent.sample(range(1, tried.steps_with_calls + 1), STEPS, name):
        tried.interrupt(at, same_first=False)
    for at in extent.sample(sample(tried.steps_with_calls, 4 * SAMPLE, name), STEPS, name):
        tried.interrupt(at, same_first=True)
