"""
The table of operations that are interrupted, and functions to write its cases with.

``prepare`` fills a world. Its unused memory is then filled with garbage, and its state is saved. ``operate``
is the operation that is interrupted. Messages and members that are named ``old`` have expired when it begins.
"""

from __future__ import annotations

__all__ = [
    "CASES",
    "PAGE_RECORDS",
    "Act",
    "Case",
    "case",
    "check",
    "first",
    "grows",
    "old_or_new",
    "only_new",
    "refused",
    "sweep_all",
]

from dataclasses import dataclass
from typing import Callable, Dict, Iterable

from asgi_ipc.exceptions import ChannelFull
from asgi_ipc.shm.layout import AT_RESERVED
from asgi_ipc.stores.groups.members import Members
from asgi_ipc.stores.messages.sweep import Sweep

from .world import Snapshot, World

#: The buckets of a small segment.
BUCKETS = 128
#: Channel records in a page, in these worlds.
PAGE_RECORDS = 6

Act = Callable[[World], None]
#: Returns the states that an operation may leave, given the states before and after it.
Allowed = Callable[[Snapshot, Snapshot], Iterable[Snapshot]]


def old_or_new(old: Snapshot, new: Snapshot) -> Iterable[Snapshot]:
    """Allow the state before and the state after the operation: the rule."""
    return old, new


def only_new(old: Snapshot, new: Snapshot) -> Iterable[Snapshot]:
    """Allow only the state after: the rule for a recovery."""
    return (new,)


@dataclass(frozen=True)
class Case:
    """
    One operation on a store of a kind ("messages" or "groups").

    ``fresh``: the process has no slot yet. ``dead``: another process was killed in a critical section before.
    """

    name: str
    kind: str
    prepare: Act
    operate: Act
    fresh: bool
    allowed: Allowed
    dead: bool


CASES: Dict[str, Case] = {}


def case(
    kind: str,
    name: str,
    prepare: Act,
    operate: Act,
    fresh: bool = False,
    allowed: Allowed = old_or_new,
    dead: bool = False,
) -> None:
    """Add a case to the table."""
    assert name not in CASES
    CASES[name] = Case(name, kind, prepare, operate, fresh, allowed, dead)


def first(*acts: Act) -> Act:
    """Return an act that runs these acts in order."""

    def act(world: World) -> None:
        for each in acts:
            each(world)

    return act


def check(true: bool, why: str) -> None:
    """Assert, in a lambda."""
    assert true, why


def refused(operate: Act) -> Act:
    """Return the same operation, which must raise ``ChannelFull``."""

    def act(world: World) -> None:
        try:
            operate(world)
        except ChannelFull:
            return
        raise AssertionError("it did not raise ChannelFull")

    return act


def grows(operate: Act) -> Act:
    """Return the same operation, which must reserve more memory."""

    def act(world: World) -> None:
        before = world.words[AT_RESERVED]
        operate(world)
        check(world.words[AT_RESERVED] > before, "it reserved no memory")

    return act


def sweep_all(world: World) -> None:
    """Sweep every bucket, in several steps."""
    for _ in range(BUCKETS // 64 + 1):
        world.clock.now += 10**9
        world.store.sections.run(Sweep.step if world.kind == "messages" else Members.sweep, world.clock.now)
