"""
The life of a segment, cut short: it is made, attached to, closed, removed, and missed by those who used it.
"""

from __future__ import annotations

__all__ = ["LIVES", "LifeTrial"]

import os
import signal
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple

from asgi_ipc.shm.permissions import SHM_DIRECTORY
from asgi_ipc.shm.segment import Segment
from asgi_ipc.stores.attachment import Attachment

from .children import PATIENCE, die, reap, side_by_side, spawn, throughout, throw
from .group_cases import members
from .message_cases import sent
from .steps import STEPS
from .world import Clock, Snapshot, World, garble, quietly


@dataclass(frozen=True)
class Life:
    """
    Something that happens to a segment as a whole.

    ``exists``: the segment is there, with something in it; ``removed``: it was until a moment ago, and the child is
    still attached to it. ``may_empty``: the segment may be empty afterwards. ``operate`` gets the world, if any.
    """

    exists: bool
    operate: Callable[[LifeTrial, Optional[World]], None]
    removed: bool = False
    may_empty: bool = False


def attach(trial: LifeTrial, world: Optional[World]) -> None:
    trial.newcomer()


def remove(trial: LifeTrial, world: Optional[World]) -> None:
    assert world is not None
    world.store.unlink()


def use(trial: LifeTrial, world: Optional[World]) -> None:
    assert world is not None
    world.store.snapshot()


def close(trial: LifeTrial, world: Optional[World]) -> None:
    assert world is not None
    world.store.close()


LIVES: Dict[str, Life] = {
    "creation": Life(False, attach),
    "attachment": Life(True, attach),
    "removal": Life(True, remove, may_empty=True),
    "use after a removal": Life(True, use, removed=True, may_empty=True),
    "closing": Life(True, close),
}


class LifeTrial:
    """One of these lives, of a segment of one kind, again and again."""

    def __init__(self, prefix: str, kind: str, name: str) -> None:
        self.prefix, self.kind, self.name = prefix, kind, name
        self.life = LIVES[name]
        self.clock = Clock()
        self.world: Optional[World] = None
        self.old: Snapshot = {}
        self.longest = 0.0
        self.steps = self._count(False)
        self.steps_with_calls = self._count(True)

    # -- setting up -------------------------------------------------------------------------------------------

    def newcomer(self) -> World:
        """The segment as a process sees it that has not used it yet."""
        Attachment._open.clear()
        Segment._mapped.clear()
        return World(self.prefix, self.kind, self.clock)

    def _set_up(self) -> None:
        self.old = {}
        if self.life.exists:
            self.world = World(self.prefix, self.kind, self.clock)
            quietly(self.world)
            (sent("c", "p!1", "c") if self.kind == "messages" else members("g", "a", "b"))(self.world)
            garble(self.world, self.name)
            self.old = self.world.snapshot()

    def clean_up(self) -> List[str]:
        """Remove the segment; what was left of it all the same."""
        if self.world is not None:
            self.world.close()
            self.world = None
        if SHM_DIRECTORY is None:
            return []
        left = [name for name in os.listdir(SHM_DIRECTORY) if self.prefix in name]
        for name in left:
            os.unlink(os.path.join(SHM_DIRECTORY, name))
        return left

    def _operate(self) -> None:
        self.life.operate(self, self.world)

    def _begin(self) -> None:
        if self.world is not None:
            self.world.store.snapshot()
            if self.life.removed:
                self.world.store.unlink()

    def _count(self, after_calls: bool) -> int:
        self._set_up()

        def body() -> None:
            self._begin()
            STEPS.arm(0, die, after_calls=after_calls)
            self._operate()
            STEPS.disarm()
            STEPS.note_down(f"{STEPS.count} steps")

        assert reap(spawn(body)) == 0, f"{self.name}: the operation itself fails"
        self._judge(f"{self.name}, uninterrupted")
        assert self.clean_up() == []
        return STEPS.count_noted()

    # -- cutting short ----------------------------------------------------------------------------------------

    def kill(self, at: int) -> None:
        """Kill a child before its step ``at``, and judge what it leaves."""
        self._set_up()
        STEPS.note_down("?")

        def body() -> None:
            self._begin()
            STEPS.arm(at, die)
            self._operate()

        status = reap(spawn(body))
        label = f"{self.name} of {self.kind}, killed before step {STEPS.read()}"
        assert status == -signal.SIGKILL, f"{label}: it ended with {status}"
        self._judge(label)
        left = self.clean_up()
        assert not left, f"{label}: left {left}"

    def interrupt(self, at: int, same_first: bool) -> None:
        """Raise an exception in a child before its step ``at``; child and parent must go on, in either order."""
        self._set_up()
        STEPS.note_down("?")

        def label() -> str:
            return f"{self.name} of {self.kind}, exception before step {STEPS.read()}"

        def operate() -> None:
            STEPS.arm(at, throw, after_calls=True)
            self._operate()

        def go_on() -> None:
            if self.world is None or self.name == "closing":
                self.world = World(self.prefix, self.kind, self.clock)
            self.world.go_on()

        def begin() -> None:
            self._begin()
            throughout(operate)
            if same_first:
                go_on()

        def others() -> None:
            if same_first:
                go_on()
            else:
                self._judge(label())

        status = side_by_side(begin, others, lambda: None if same_first else go_on())
        assert status == 0, f"{label()}: the same process did not go on ({status}), see its traceback"
        left = self.clean_up()
        assert not left, f"{label()}: left {left}"

    # -- judging ----------------------------------------------------------------------------------------------

    def _judge(self, label: str) -> None:
        begin = time.monotonic()
        if self.world is None:
            self.world = World(self.prefix, self.kind, self.clock)
        found = self.world.snapshot()
        took = time.monotonic() - begin
        self.longest = max(self.longest, took)
        assert took < PATIENCE, f"{label}: the next operation took {took:.1f} s"
        assert self.world.admin_lock_holder() is None, f"{label}: nobody could recover, as the admin lock is locked"
        wrong = self.world.audit()
        assert not wrong, f"{label}: {wrong}"
        lawful: Tuple[Snapshot, ...] = (self.old, {}) if self.life.may_empty else (self.old,)
        assert found in lawful, f"{label}: left {found}, which is none of {lawful}"
        self.world.go_on()
        status = reap(spawn(lambda: self.newcomer().go_on()))
        assert status == 0, f"{label}: a process that comes later cannot use it ({status}), see its traceback"
