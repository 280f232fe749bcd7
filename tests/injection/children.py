"""
Run an operation in a child process that ends, or gets an exception, in the middle; then see what it has left.
"""

from __future__ import annotations

__all__ = ["Trial", "die", "reap", "sample", "side_by_side", "spawn", "throughout", "throw"]

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
from .world import Snapshot, World, garble, quietly, strip

#: Seconds that the next operation after a death may take. (Promised are 0.1; but timing is not judged in tests.)
PATIENCE = 5.0
#: Seconds after which a child that hangs is ended.
HANGING = 30

#: Set by hand, with ``--exhaustive``: try every bytecode, however long it takes.
EVERY_BYTECODE = bool(os.environ.get("ASGI_IPC_EVERY_BYTECODE"))

Body = Callable[[], None]


def sample(count: int, size: int, seed: str) -> Sequence[int]:
    """Some of the points from 1 to ``count``, the same ones each time; all of them where every bytecode is tried."""
    points = range(1, count + 1)
    return points if EVERY_BYTECODE else sorted(random.Random(seed).sample(points, min(size, count)))


def spawn(body: Body) -> int:
    """Start a child process that runs ``body``; its id. It ends with 0, or with 1 and a traceback."""
    pid = os.fork()
    if pid:
        return pid
    try:
        gc.disable()  # so that the same steps come each time
        signal.alarm(HANGING)
        body()
        os._exit(0)
    except BaseException:
        STEPS.disarm()
        stop_counting()
        traceback.print_exc()
    finally:
        os._exit(1)


def reap(pid: int) -> int:
    """Wait for a child: its exit status, or minus the signal that ended it."""
    _, status = os.waitpid(pid, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def side_by_side(begin: Body, others: Body, finish: Body) -> int:
    """
    Run ``begin`` in a child, then ``others`` here while the child lives, then ``finish`` in the child; how it ended.

    ``others`` is left out where the child did not get so far.
    """
    there, back = os.pipe(), os.pipe()

    def body() -> None:
        begin()
        os.write(there[1], b"!")
        os.read(back[0], 1)
        finish()

    pid = spawn(body)
    os.close(there[1])
    os.close(back[0])
    try:
        if os.read(there[0], 1):
            others()
            os.write(back[1], b"!")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(there[0])
        os.close(back[1])
        status = reap(pid)
    return status


def throughout(operate: Body) -> None:
    """Run what may be cut short by an exception, and count no longer."""
    try:
        operate()
    except Injected:
        pass
    finally:
        STEPS.disarm()
        stop_counting()


def die() -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def throw() -> None:
    """Raise what no code expects."""
    raise Injected


def die_there(where: str) -> None:
    """The same, at a bytecode."""
    STEPS.note_down(where)
    die()


def throw_there(where: str) -> None:
    """The same, at a bytecode."""
    STEPS.note_down(where)
    throw()


class Trial:
    """
    One case in one world: the states before and after it, and how many steps lie between.

    ``longest`` is the longest time in seconds that an operation has taken after a process had ended in the middle.
    """

    def __init__(self, world: World, case: Case) -> None:
        self.world, self.case = world, case
        self.longest = 0.0
        quietly(world)
        case.prepare(world)
        self.old: Snapshot = {}
        if not case.dead:
            quietly(world)
            garble(world, case.name)
            self.old = world.snapshot()
            world.remember()
        self.steps = self._count(False)
        self.new = world.snapshot()
        self.lawful = [strip(state) for state in case.lawful(self.old, self.new)]
        self.steps_with_calls = self._count(True)

    def _count(self, after_calls: bool) -> int:
        """Let the operation run to its end: how many steps it has."""
        world = self.world
        world.restore()

        def body() -> None:
            self._begin()
            STEPS.arm(0, die, after_calls=after_calls)
            self.case.operate(world)
            STEPS.disarm()
            STEPS.note_down(f"{STEPS.count} steps")

        assert reap(spawn(body)) == 0, f"{self.case.name}: the operation itself fails"
        wrong = world.audit()
        assert not wrong, f"{self.case.name}, uninterrupted: {wrong}"
        return STEPS.count_noted()

    def count_opcodes(self) -> int:
        """How many bytecodes the operation executes."""
        self.world.restore()
        counter = Opcodes(0, die_there)

        def body() -> None:
            self._begin()
            counter.start()
            self.case.operate(self.world)
            stop_counting()
            STEPS.note_down(f"{counter.count} bytecodes")

        assert reap(spawn(body)) == 0
        return STEPS.count_noted()

    def _begin(self) -> None:
        """Claim a slot, unless claiming one belongs to the case; wait where the parent waits."""
        self.world.stand_in()
        if not self.case.fresh:
            self.world.store.snapshot()

    # -- a kill -----------------------------------------------------------------------------------------------

    def kill(self, at: int) -> None:
        """Kill a child before its step ``at``, and judge what it leaves."""
        self.world.restore()

        def body() -> None:
            self._begin()
            STEPS.arm(at, die)
            self.case.operate(self.world)

        self._killed(spawn(body))

    def kill_at_opcode(self, at: int) -> None:
        """The same before a bytecode."""
        self.world.restore()

        def body() -> None:
            self._begin()
            Opcodes(at, die_there).start()
            self.case.operate(self.world)

        # What the parent has learnt meanwhile (names, places) can make the operation shorter than it was.
        self._killed(spawn(body), may_finish=True)

    def _killed(self, pid: int, may_finish: bool = False) -> None:
        STEPS.note_down("?")
        status = reap(pid)
        label = f"{self.case.name}, killed before step {STEPS.read()}"
        assert status == -signal.SIGKILL or (may_finish and status == 0), f"{label}: it ended with {status}"
        self._judge(label)

    # -- an exception -----------------------------------------------------------------------------------------

    def interrupt(self, at: int, second: int = 0, same_first: bool = False) -> None:
        """
        Raise an exception in a child before its step ``at`` (a call's end is a step, too), and one more ``second``
        steps later, if that is not 0; and judge what it leaves, then whether child and parent both go on.
        """

        def operate() -> None:
            STEPS.arm(at, throw, second, after_calls=True)
            self.case.operate(self.world)

        self._interrupted(operate, same_first)

    def count_cleaning(self, at: int) -> int:
        """How many steps the cleaning up has after an exception before step ``at``."""
        self.world.restore()

        def operate() -> None:
            STEPS.arm(at, throw, after_calls=True)
            self.case.operate(self.world)

        def body() -> None:
            self._begin()
            throughout(operate)
            STEPS.note_down(f"{STEPS.count} steps")

        assert reap(spawn(body)) == 0
        self.world.audit()
        return STEPS.count_noted() - at

    def interrupt_at_opcode(self, at: int, second: int = 0, same_first: bool = False) -> None:
        """The same before a bytecode, and before another one of the cleaning up."""

        def operate() -> None:
            if second:
                Opcodes(second, throw_there).start_at_abandon()
            Opcodes(at, throw_there).start()
            self.case.operate(self.world)

        self._interrupted(operate, same_first)

    def _interrupted(self, operate: Body, same_first: bool) -> None:
        self.world.restore()
        STEPS.note_down("?")

        def label() -> str:
            return f"{self.case.name}, exception before step {STEPS.read()}"

        def begin() -> None:
            self._begin()
            throughout(operate)
            if same_first:
                self._judge(label())
            self._check_process(label())

        def others() -> None:
            if same_first:
                self.world.go_on()
            else:
                self._judge(label())

        status = side_by_side(begin, others, lambda: None if same_first else self.world.go_on())
        assert status == 0, f"{label()}: the same process did not go on ({status}), see its traceback"
        wrong = self.world.audit()
        assert not wrong, f"{label()}, after both went on: {wrong}"

    def _check_process(self, label: str) -> None:
        """What other processes could not see: locks and marks of this one."""
        mutex = self.world.store.sections.attachment.mutex
        assert not mutex.lock._is_owned(), f"{label}: the in-process lock is still held"
        if mutex.liveness.slot >= 0:
            right = AT_SLOTS + mutex.liveness.slot * SLOT_WORDS
            assert mutex.slot_at == right, f"{label}: slot {mutex.liveness.slot} is not at {mutex.slot_at}"

    # -- judging ----------------------------------------------------------------------------------------------

    def _judge(self, label: str) -> None:
        world = self.world
        begin = time.monotonic()
        found = world.snapshot()
        took = time.monotonic() - begin
        world.must_have_notified()
        self.longest = max(self.longest, took)
        assert took < PATIENCE, f"{label}: the next operation took {took:.1f} s"
        assert world.admin_lock_holder() is None, f"{label}: nobody could recover, as the admin lock is locked"
        wrong = world.audit()
        assert not wrong, f"{label}: {wrong}"
        assert strip(found) in self.lawful, f"{label}: left {found}, which is none of {self.lawful}"
        for name, items in found.items():
            kept = [item for item in items if item not in strip(found).get(name, [])]
            were = iter(self.old.get(name, self.new.get(name, [])))
            assert all(item in were for item in kept), f"{label}: {name!r} holds {kept}"
        world.go_on()
