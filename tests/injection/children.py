"""
Run an operation in a child process that is killed or interrupted at some step, then check what it leaves.
"""

from __future__ import annotations

__all__ = ["Trial", "die", "reap", "sample", "side_by_side", "spawn", "run_interrupted", "throw"]

import gc
import os
import random
import signal
import time
import traceback
from typing import Callable, Sequence

from asgi_ipc.shm.layout import AT_SLOTS, SLOT_WORDS

from .cases import Case
from .opcodes import Opcodes, stop_counting
from .steps import STEPS, Injected
from .world import Snapshot, World, garble, postpone_sweeps, unexpired

#: Seconds that the next operation after a kill may take. The package promises 0.1, but tests check no timing.
PATIENCE = 5.0
#: Seconds after which a child is killed.
TIMEOUT = 30

#: Set by hand, with ``--exhaustive``: try every bytecode, which takes very long.
EVERY_BYTECODE = bool(os.environ.get("ASGI_IPC_EVERY_BYTECODE"))

Body = Callable[[], None]


def sample(count: int, size: int, seed: str) -> Sequence[int]:
    """Return points from 1 to ``count``: the same sample each time, or all with ``EVERY_BYTECODE``."""
    points = range(1, count + 1)
    return points if EVERY_BYTECODE else sorted(random.Random(seed).sample(points, min(size, count)))


def spawn(body: Body) -> int:
    """Fork a child that runs ``body``; return its id. It exits with 0, or with 1 and a traceback."""
    pid = os.fork()
    if pid:
        return pid
    try:
        gc.disable()  # so that the steps are the same each time
        signal.alarm(TIMEOUT)
        body()
        os._exit(0)
    except BaseException:
        STEPS.disarm()
        stop_counting()
        traceback.print_exc()
    finally:
        os._exit(1)


def reap(pid: int) -> int:
    """Wait for a child; return its exit status, or the negative number of the signal that ended it."""
    _, status = os.waitpid(pid, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def side_by_side(begin: Body, others: Body, finish: Body) -> int:
    """
    Run ``begin`` in a child, then ``others`` here while the child waits, then ``finish`` in the child.

    Return what ``reap`` returns. ``others`` does not run if the child has ended before.
    """
    ready, resume = os.pipe(), os.pipe()

    def body() -> None:
        begin()
        os.write(ready[1], b"!")
        os.read(resume[0], 1)
        finish()

    pid = spawn(body)
    os.close(ready[1])
    os.close(resume[0])
    try:
        if os.read(ready[0], 1):
            others()
            os.write(resume[1], b"!")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(ready[0])
        os.close(resume[1])
        status = reap(pid)
    return status


def run_interrupted(operate: Body) -> None:
    """Run an operation that ``Injected`` may interrupt; then stop counting."""
    try:
        operate()
    except Injected:
        pass
    finally:
        STEPS.disarm()
        stop_counting()


def die() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def throw() -> None:
    """Raise an exception that no code expects."""
    raise Injected


def die_at(where: str) -> None:
    """Kill this process, and leave a note of the bytecode."""
    STEPS.note_down(where)
    die()


def throw_at(where: str) -> None:
    """Raise an exception that no code expects, and leave a note of the bytecode."""
    STEPS.note_down(where)
    throw()


class Trial:
    """
    One case in one world: the states before and after it, and the number of its steps.

    ``longest`` is the longest time in seconds of an operation after a process was killed or interrupted.
    """

    def __init__(self, world: World, case: Case) -> None:
        self.world, self.case = world, case
        self.longest = 0.0
        postpone_sweeps(world)
        case.prepare(world)
        self.old: Snapshot = {}
        if not case.dead:
            postpone_sweeps(world)
            garble(world, case.name)
            self.old = world.snapshot()
            world.remember()
        self.steps = self._count(False)
        self.new = world.snapshot()
        self.allowed = [unexpired(state) for state in case.allowed(self.old, self.new)]
        self.steps_with_calls = self._count(True)

    def _count(self, after_calls: bool) -> int:
        """Run the operation to its end; return the number of its steps."""
        world = self.world
        world.restore()

        def body() -> None:
            self._begin()
            STEPS.arm(0, die, after_calls=after_calls)
            self.case.operate(world)
            STEPS.disarm()
            STEPS.note_down(f"{STEPS.count} steps")

        assert reap(spawn(body)) == 0, f"{self.case.name}: the operation itself fails"
        wrong = world.problems()
        assert not wrong, f"{self.case.name}, uninterrupted: {wrong}"
        return STEPS.count_noted()

    def count_opcodes(self) -> int:
        """Return the number of bytecodes that the operation executes."""
        self.world.restore()
        counter = Opcodes(0, die_at)

        def body() -> None:
            self._begin()
            counter.start()
            self.case.operate(self.world)
            stop_counting()
            STEPS.note_down(f"{counter.count} bytecodes")

        assert reap(spawn(body)) == 0
        return STEPS.count_noted()

    def _begin(self) -> None:
        """Acquire a slot, unless that is part of the case; take over the parent's FIFOs."""
        self.world.adopt_fifos()
        if not self.case.fresh:
            self.world.store.snapshot()

    # -- a kill ----------------------------------------------------------------------------------------------

    def kill(self, at: int) -> None:
        """Kill a child before its step ``at``, and check what it leaves."""
        self.world.restore()

        def body() -> None:
            self._begin()
            STEPS.arm(at, die)
            self.case.operate(self.world)

        self._killed(spawn(body))

    def kill_at_opcode(self, at: int) -> None:
        """Do the same before a bytecode."""
        self.world.restore()

        def body() -> None:
            self._begin()
            Opcodes(at, die_at).start()
            self.case.operate(self.world)

        # The parent may remember more names and places by now, which makes the operation shorter than it was.
        self._killed(spawn(body), may_finish=True)

    def _killed(self, pid: int, may_finish: bool = False) -> None:
        STEPS.note_down("?")
        status = reap(pid)
        label = f"{self.case.name}, killed before step {STEPS.read()}"
        assert status == -signal.SIGKILL or (may_finish and status == 0), f"{label}: it ended with {status}"
        self._check(label)

    # -- an exception ----------------------------------------------------------------------------------------

    def interrupt(self, at: int, second: int = 0, same_first: bool = False) -> None:
        """
        Raise an exception in a child before its step ``at``, and a second one ``second`` steps later, if not
        0.

        The end of a call is a step, too. Check what the child leaves, and that child and parent can go on:
        the child first with ``same_first``.
        """

        def operate() -> None:
            STEPS.arm(at, throw, second, after_calls=True)
            self.case.operate(self.world)

        self._interrupted(operate, same_first)

    def count_cleanup(self, at: int) -> int:
        """Return the number of steps of the cleanup after an exception before step ``at``."""
        self.world.restore()

        def operate() -> None:
            STEPS.arm(at, throw, after_calls=True)
            self.case.operate(self.world)

        def body() -> None:
            self._begin()
            run_interrupted(operate)
            STEPS.note_down(f"{STEPS.count} steps")

        assert reap(spawn(body)) == 0
        self.world.problems()
        return STEPS.count_noted() - at

    def interrupt_at_opcode(self, at: int, second: int = 0, same_first: bool = False) -> None:
        """Do the same before a bytecode, and before a bytecode of the cleanup."""

        def operate() -> None:
            if second:
                Opcodes(second, throw_at).start_at_abandon()
            Opcodes(at, throw_at).start()
            self.case.operate(self.world)

        self._interrupted(operate, same_first)

    def _interrupted(self, operate: Body, same_first: bool) -> None:
        self.world.restore()
        STEPS.note_down("?")

        def label() -> str:
            return f"{self.case.name}, exception before step {STEPS.read()}"

        def begin() -> None:
            self._begin()
            run_interrupted(operate)
            if same_first:
                self._check(label())
            self._check_process(label())

        def others() -> None:
            if same_first:
                self.world.use()
            else:
                self._check(label())

        status = side_by_side(begin, others, lambda: None if same_first else self.world.use())
        assert status == 0, f"{label()}: the same process did not go on ({status}), see its traceback"
        wrong = self.world.problems()
        assert not wrong, f"{label()}, after both went on: {wrong}"

    def _check_process(self, label: str) -> None:
        """Check the state of this process that other processes cannot see: its lock and its slot."""
        mutex = self.world.store.sections.attachment.mutex
        assert not mutex.lock._is_owned(), f"{label}: the in-process lock is still held"
        if mutex.liveness.slot >= 0:
            right = AT_SLOTS + mutex.liveness.slot * SLOT_WORDS
            assert mutex.slot_at == right, f"{label}: slot {mutex.liveness.slot} is not at {mutex.slot_at}"

    # -- checks ----------------------------------------------------------------------------------------------

    def _check(self, label: str) -> None:
        world = self.world
        begin = time.monotonic()
        found = world.snapshot()
        took = time.monotonic() - begin
        world.must_have_notified()
        self.longest = max(self.longest, took)
        assert took < PATIENCE, f"{label}: the next operation took {took:.1f} s"
        assert world.admin_lock_holder() is None, f"{label}: no process can recover, as the admin lock is held"
        wrong = world.problems()
        assert not wrong, f"{label}: {wrong}"
        assert unexpired(found) in self.allowed, f"{label}: left {found}, which is none of {self.allowed}"
        for name, items in found.items():
            kept = [item for item in items if item not in unexpired(found).get(name, [])]
            were = iter(self.old.get(name, self.new.get(name, [])))
            assert all(item in were for item in kept), f"{label}: {name!r} holds {kept}"
        world.use()
