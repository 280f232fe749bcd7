"""
The operations that are cut short: what an entry of the table is, and words to write entries in.

``prepare`` fills a world, which is then remembered and filled with garbage; ``operate`` is what is cut short.
Whatever is named ``old`` in a world has expired when the operation begins.
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
#: The states that an operation may leave, given those before and after it.
Lawful = Callable[[Snapshot, Snapshot], Iterable[Snapshot]]


def old_or_new(old: Snapshot, new: Snapshot) -> Iterable[Snapshot]:
    """The rule."""
    return old, new


def only_new(old: Snapshot, new: Snapshot) -> Iterable[Snapshot]:
    """The rule for what must be done, such as a recovery."""
    return (new,)


@dataclass(frozen=True)
class Case:
    """
    One operation on a store of a kind ("messages", "groups").

    ``fresh``: by a process that has no slot yet; ``dead``: after another process was killed in the middle.
    """

    name: str
    kind: str
    prepare: Act
    operate: Act
    fresh: bool
    lawful: Lawful
    dead: bool


CASES: Dict[str, Case] = {}


def case(
    kind: str,
    name: str,
    prepare: Act,
    operate: Act,
    fresh: bool = False,
    lawful: Lawful = old_or_new,
    dead: bool = False,
) -> None:
    """Enter a case into the table."""
    assert name not in CASES
    CASES[name] = Case(name, kind, prepare, operate, fresh, lawful, dead)


def first(*acts: Act) -> Act:
    """One after the other."""

    def act(world: World) -> None:
        for each in acts:
            each(world)

    return act


def check(true: bool, why: str) -> None:
    """For lambdas."""
    assert true, why


def refused(operate: Act) -> Act:
    """The same, which must end in a refusal."""

    def act(world: World) -> None:
        try:
            operate(world)
        except ChannelFull:
            return
        raise AssertionError("it was not refused")

    return act


def grows(operate: Act) -> Act:
    """The same, which must need memory that is not reserved yet."""

    def act(world: World) -> None:
        before = world.words[AT_RESERVED]
        operate(world)
        check(world.words[AT_RESERVED] > before, "it needed no more memory")

    return act


def sweep_all(world: World) -> None:
    """Sweep every bucket, some at a time."""
    for _ in range(BUCKETS // 64 + 1):
        world.clock.now += 10**9
        world.store.sections.run(Sweep.step if world.kind == "messages" else Members.sweep, world.clock.now)
