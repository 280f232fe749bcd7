"""
A process may be killed anywhere: the next one finds the state before or after, nothing lost or damaged, and goes on.

Every operation of both stores runs in a child process that is killed before each of its stores to shared memory and
each of its system calls, with all memory that means nothing full of garbage.  It is killed before some bytecodes, too,
or before every bytecode with ``ASGI_IPC_EVERY_BYTECODE=1``.  Without ``--exhaustive``, a sample of all this runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

import pytest

from injection.children import sample
from injection.lives import LIVES
from injection.table import CASES

if TYPE_CHECKING:
    from helpers.extent import Extent

    from injection.fixtures import MakeLife, MakeTrial

#: Bytecodes of each operation before which a child is killed when not all are tried.
SAMPLE = 3
#: Without ``--exhaustive``: steps that are tried of an operation, or of a segment's life; and bytecodes.
STEPS, BYTECODES = 6, 1

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
@pytest.mark.parametrize("name", LIVES)
def test_a_kill_at_any_step_of_a_segments_life_spoils_nothing(
    life: MakeLife, extent: Extent, name: str, kind: str, record_property: Callable[[str, object], None]
) -> None:
    tried = life(name, kind)
    for at in extent.sample(range(1, tried.steps + 1), STEPS, name):
        tried.kill(at)
    record_property("longest wait in ms", round(tried.longest * 1000, 1))
