"""
What a call of the mutex can tell from the stack that it stands on.

A call marks itself with a list of its own in its local variable ``mine``: so a mark says whose frame it is.  One that
goes on behind its section, and may enter others, sets it to ``OUTSIDE`` first.
"""

from __future__ import annotations

__all__ = ["OUTSIDE", "is_nested", "is_ours", "stands_on"]

from typing import Any, List

#: The mark of a call that has left its section, and the lock.
OUTSIDE: List[None] = []

_PACKAGE = __name__.partition(".")[0] + "."


def stands_on(frame: Any, mark: Any) -> bool:
    """Whether the call with this mark is further up the stack, or ``frame`` itself."""
    while frame is not None:
        if frame.f_locals.get("mine") is mark:
            return True
        frame = frame.f_back
    return False


def is_nested(frame: Any) -> bool:
    """Whether a call of a section (its frame) has interrupted another one of its thread, which may hold the lock."""
    frame = frame.f_back
    while frame is not None:
        ours = frame.f_globals.get("__name__", "").startswith(_PACKAGE)
        if ours and "mine" in frame.f_code.co_varnames and frame.f_locals.get("mine") is not OUTSIDE:
            return True
        frame = frame.f_back
    return False


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package, not by a signal handler that ran in between."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or trace.tb_frame.f_globals.get("__name__", "").startswith(_PACKAGE)
