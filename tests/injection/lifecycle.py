"""
The stages of a segment's lifecycle, interrupted: creation, attachment, removal, use after a removal, closing.
"""

from __future__ import annotations

__all__ = ["STAGES", "LifecycleTrial"]

import os
import signal
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple

from asgi_ipc.shm import copies
from asgi_ipc.shm.permissions import SHM_DIRECTORY
from asgi_ipc.stores.attachment import Attachment

from .children import PATIENCE, die, reap, run_interrupted, side_by_side, spawn, throw
from .group_cases import members
from .message_cases import sent
from .steps import STEPS
from .world import Clock, Snapshot, World, garble, postpone_sweeps


@dataclass(frozen=True)
class Stage:
    """
    An operation on a segment as a whole.

    ``exists``: the segment exists and has content. ``removed``: it was removed, but the child is still
    attached to it. ``may_empty``: the segment may be empty afterwards. ``operate`` gets the world, if any.
    """

    exists: bool
    operate: Callable[[LifecycleTrial, Optional[World]], None]
    removed: bool = False
    may_empty: bool = False


def attach(trial: LifecycleTrial, world: Optional[World]) -> None:
    trial.newcomer()


def remove(trial: LifecycleTrial, world: Optional[World]) -> None:
    assert world is not None
    world.store.unlink()


def use(trial: LifecycleTrial, world: Optional[World]) -> None:
    assert world is not None
    world.store.snapshot()


def close(trial: LifecycleTrial, world: Optional[World]) -> None:
    assert world is not None
    world.store.close()


STAGES: Dict[str, Stage] = {
    "creation": Stage(False, attach),
    "attachment": Stage(True, attach),
    "removal": Stage(True, remove, may_empty=True),
    "use after a removal": Stage(True, use, removed=True, may_empty=True),
    "closing": Stage(True, close),
}


class LifecycleTrial:
    """One stage of a segment of one kind, run again and again."""

    def __init__(self, prefix: str, kind: str, name: str) -> None:
        self.prefix, self.kind, self.name = prefix, kind, name
        self.stage = STAGES[name]
        self.clock = Clock()
        self.world: Optional[World] = None
        self.old: Snapshot = {}
        self.longest = 0.0
        self.steps = self._count(False)
        self.steps_with_calls = self._count(True)

    # -- setting up ------------------------------------------------------------------------------------------

    def newcomer(self) -> World:
        """Return a world for a process that has not used the segment yet: without what the parent has mapped."""
        armed, STEPS.armed = STEPS.armed, False  # what the newcomer never had takes no steps
        Attachment._open.clear()
        for used in list(copies._uses.values()):
            used.user.close()
        self.world = None
        STEPS.armed = armed
        return World(self.prefix, self.kind, self.clock)

    def _set_up(self) -> None:
        self.old = {}
        if self.stage.exists:
            self.world = World(self.prefix, self.kind, self.clock)
            postpone_sweeps(self.world)
            (sent("c", "p!1", "c") if self.kind == "messages" else members("g", "a", "b"))(self.world)
            garble(self.world, self.name)
            self.old = self.world.snapshot()

    def clean_up(self) -> List[str]:
        """Remove the segment; return the names of the objects that are left of it."""
        if self.world is not None:
            self.world.close()
            self.world = None
        if SHM_DIRECTORY is None:
            return []
        left = [name for name in os.listdir(SHM_DIRECTORY) if self.prefix in name]
        for name in left:
            path = os.path.join(SHM_DIRECTORY, name)
            (os.rmdir if os.path.isdir(path) else os.unlink)(path)
        return left

    def _operate(self) -> None:
        self.stage.operate(self, self.world)

    def _begin(self) -> None:
        if self.world is not None:
            self.world.store.snapshot()
            if self.stage.removed:
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
        self._check(f"{self.name}, uninterrupted")
        assert self.clean_up() == []
        return STEPS.count_noted()

    # -- kills and exceptions --------------------------------------------------------------------------------

    def kill(self, at: int) -> None:
        """Kill a child before its step ``at``, and check what it leaves."""
        self._set_up()
        STEPS.note_down("?")

        def body() -> None:
            self._begin()
            STEPS.arm(at, die)
            self._operate()

        status = reap(spawn(body))
        label = f"{self.name} of {self.kind}, killed before step {STEPS.read()}"
        assert status == -signal.SIGKILL, f"{label}: it ended with {status}"
        self._check(label)
        left = self.clean_up()
        assert not left, f"{label}: left {left}"

    def interrupt(self, at: int, same_first: bool) -> None:
        """Raise an exception in a child before its step ``at``; child and parent must both go on."""
        self._set_up()
        STEPS.note_down("?")

        def label() -> str:
            return f"{self.name} of {self.kind}, exception before step {STEPS.read()}"

        def operate() -> None:
            STEPS.arm(at, throw, after_calls=True)
            self._operate()

        def use_world() -> None:
            if self.world is None or self.name == "closing":
                self.world = World(self.prefix, self.kind, self.clock)
            self.world.use()

        def begin() -> None:
            self._begin()
            run_interrupted(operate)
            if same_first:
                use_world()

        def others() -> None:
            if same_first:
                use_world()
            else:
                self._check(label())

        status = side_by_side(begin, others, lambda: None if same_first else use_world())
        assert status == 0, f"{label()}: the same process did not go on ({status}), see its traceback"
        left = self.clean_up()
        assert not left, f"{label()}: left {left}"

    # -- checks ----------------------------------------------------------------------------------------------

    def _check(self, label: str) -> None:
        begin = time.monotonic()
        if self.world is None:
            self.world = World(self.prefix, self.kind, self.clock)
        found = self.world.snapshot()
        took = time.monotonic() - begin
        self.longest = max(self.longest, took)
        assert took < PATIENCE, f"{label}: the next operation took {took:.1f} s"
        assert self.world.admin_lock_holder() is None, f"{label}: no process can recover, as the admin lock is held"
        wrong = self.world.problems()
        assert not wrong, f"{label}: {wrong}"
        allowed: Tuple[Snapshot, ...] = (self.old, {}) if self.stage.may_empty else (self.old,)
        assert found in allowed, f"{label}: left {found}, which is none of {allowed}"
        self.world.use()
        status = reap(spawn(lambda: self.newcomer().use()))
        assert status == 0, f"{label}: a new process cannot use it ({status}), see its traceback"
