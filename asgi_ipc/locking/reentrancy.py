"""
What a call can find out about itself: from its call stack, and from the locks that its thread holds.

A frame that runs the mutex's protocol keeps an ``Entry`` in a local variable until it has left the critical section
and released the in-process lock.  Frames are recognised by the type of that value, not by the name of the variable:
``NOT_INSIDE`` before the lock is acquired, the mutex's own entry inside.

Only the stack answers exactly.  A signal handler can raise an exception between any two instructions, also in a
``finally`` clause.  So anything that a call writes down when it begins and deletes when it ends may be left behind.  A
frame cannot: the interpreter removes it, however the call ends.
"""

from __future__ import annotations

__all__ = ["NOT_INSIDE", "Entry", "acquire_surely", "holds", "is_nested", "is_ours", "is_owned", "refuse_nested"]

import gc
import inspect
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_PACKAGE = __name__.partition(".")[0] + "."


class Entry:
    """
    The mark of a call that runs the protocol of a mutex.

    Each mutex has one, which its calls use in turn, because at most one of them is inside.
    """

    __slots__ = ()


#: The mark of a call that is not inside yet. It may hold the in-process lock already.
NOT_INSIDE = Entry()


def _locals(frame: FrameType | None) -> Iterator[Any]:
    """
    Yield the local variables of this package's functions, in ``frame`` and the frames that called it.

    Other frames are not read. The locals of a module are its globals, which other threads may be changing. And before
    CPython 3.13, reading the locals of a function keeps all of them alive until it ends.
    """
    while frame is not None:
        ours = frame.f_globals.get("__name__", "").startswith(_PACKAGE)
        if ours and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            yield from list(frame.f_locals.values())
        frame = frame.f_back


def holds(frame: FrameType, entry: Entry | None) -> bool:
    """True if ``frame`` or one that called it, directly or not, is inside with this entry."""
    return any(value is entry for value in _locals(frame))


def refuse_nested(frame: FrameType, entry: Entry | None, name: str, is_native: bool) -> None:
    """
    Raise ``RuntimeError`` if the call with this entry is inside the segment ``name`` and is further up in this stack.

    If the lock ``is_native`` and so does not keep greenlets apart, also if the call is in a greenlet that does not run
    now. To find that out is slow, because the greenlets are found among all objects.
    """
    if holds(frame, entry):
        raise RuntimeError(
            f"this thread is already using {name}: a signal handler or a finaliser must not call "
            "the layer; let it set a flag, or pass the work to another thread"
        )
    if not is_native or "greenlet" not in sys.modules:
        return
    kind = sys.modules["greenlet"].greenlet
    paused = [each.gr_frame for each in gc.get_objects() if issubclass(type(each), kind)]
    if any(each is not None and holds(each, entry) for each in paused):
        raise RuntimeError(
            f"another greenlet of this thread is using {name}, and the lock of this process does not keep greenlets "
            "apart: gevent.monkey.patch_all() or eventlet.monkey_patch() must replace threads, too"
        )


def is_nested(frame: FrameType) -> bool:
    """True if the call in ``frame`` has interrupted another call of the protocol, which may hold the lock."""
    return any(type(value) is Entry for value in _locals(frame.f_back))


def is_owned(lock: Any) -> bool:
    """
    True if this thread holds the ``RLock``.

    The lock has no public method for this, but it is documented that ``Condition.notify`` raises ``RuntimeError`` if
    the thread does not hold the lock of the condition. ``notify(0)`` does nothing else.
    """
    try:
        threading.Condition(lock).notify(0)
    except RuntimeError as error:
        trace = error.__traceback__
        if trace is None or trace.tb_next is None or trace.tb_next.tb_next is not None:
            raise  # it is not from notify, but from a signal handler that interrupted it
        return False
    return True


def is_ours(error: BaseException) -> bool:
    """True if this package raised the error, False if a signal handler that ran in it did."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or trace.tb_frame.f_globals.get("__name__", "").startswith(_PACKAGE)


def acquire_surely(lock: Any) -> None:
    """Acquire a lock, and only then raise what a signal handler has raised meanwhile: the caller will release it."""
    raised: BaseException | None = None
    while True:
        try:
            lock.acquire()
            break
        except BaseException as error:
            raised = error
    if raised is not None:
        raise raised
