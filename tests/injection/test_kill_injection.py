"""
A process may be killed anywhere: the next operation finds the state before or after, and the store works.

Every operation of both stores runs in a child process. It is killed before each store to shared memory and
before each system call; all unused memory is full of garbage. It is also killed before some bytecodes, or
before every bytecode with ``ASGI_IPC_EVERY_BYTECODE=1``. Without ``--exhaustive``, a sample of all this runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

import pytest

from injection.children import sample
from injection.lifecycle import STAGES
from injection.table import CASES

if TYPE_CHECKING:
    from helpers.extent import Extent

    from injection.fixtures import MakeLifecycle, MakeTrial

#: Bytecodes of each operation that are tried without ``ASGI_IPC_EVERY_BYTECODE``.
SAMPLE = 3
#: Steps of an operation, or of a stage of a segment's lifecycle, and bytecodes that are tried without
#: ``--exhaustive``.
STEPS, BYTECODES = 4, 1

pytest_plugins = ["injection.fixtures"]


@pytest.mark.parametrize("name", CASES)
def test_a_kill_before_any_store_or_call_leaves_the_state_before_or_after(
    trial: MakeTrial, extent: Extent, name: str, record_property: Callable[[str, object], None]
) -> None:
    tried = trial(name)
    for at in extent.sample(range(1, tried.steps + 1), STEPS, name):
        tried.kill(at)
    record_property("longest wait in ms", round(tried.longest * 1000, 1))


@pytest.mark.parametrize("name", CASES)
def test_a_kill_before_any_bytecode_leaves_the_state_before_or_after(
    trial: MakeTrial, extent: Extent, name: str
) -> None:
    tried = trial(name)
    for at in extent.sample(sample(tried.count_opcodes(), SAMPLE, name), BYTECODES, name):
        tried.kill_at_opcode(at)


@pytest.mark.parametrize("kind", ["messages", "groups"])
@pytest.mark.parametrize("name", STAGES)
def test_a_kill_at_any_step_of_a_segments_lifecycle_damages_nothing(
    lifecycle: MakeLifecycle, extent: Extent, name: str, kind: str, record_property: Callable[[str, object], None]
) -> None:
    tried = lifecycle(name, kind)
    for at in extent.sample(range(1, tried.steps + 1), STEPS, name):
        tried.kill(at)
    record_property("longest wait in ms", round(tried.longest * 1000, 1))
