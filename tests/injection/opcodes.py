"""
Kill or interrupt an operation before the n-th bytecode that the package executes.

This is finer than ``steps``, but slow: for samples, and for long runs by hand.
"""

from __future__ import annotations

__all__ = ["Opcodes", "stop_counting"]

import dis
import os
import sys
from types import CodeType, FrameType
from typing import Any, Callable, Dict, Optional

import asgi_ipc
from asgi_ipc.locking.mutex import RobustMutex

PACKAGE = os.path.dirname(asgi_ipc.__file__) + os.sep
NOP = dis.opmap["NOP"]
#: From 3.12 on, tracing misses most bytecodes; ``sys.monitoring`` replaces it.
MONITORING: Any = getattr(sys, "monitoring", None)


class Opcodes:
    """
    Counts the bytecodes of frames of the package, and calls ``act(where)`` before number ``at`` (0: never).

    NOP does not count. It stands for a line that does nothing (``try:``) and raises nothing, so CPython 3.11
    and later have no entry for it in the table of exception handlers.
    """

    def __init__(self, at: int, act: Callable[[str], None]) -> None:
        self.count = 0
        self.at = at
        self.act = act
        self._codes: Dict[CodeType, bytes] = {}

    def start(self) -> None:
        """Start to count in every new frame."""
        if MONITORING is None:
            sys.settrace(self._call)
            return
        stop_counting()
        MONITORING.use_tool_id(MONITORING.DEBUGGER_ID, "opcodes")
        MONITORING.register_callback(MONITORING.DEBUGGER_ID, MONITORING.events.INSTRUCTION, self._instruction)
        MONITORING.set_events(MONITORING.DEBUGGER_ID, MONITORING.events.INSTRUCTION)

    def start_at_abandon(self) -> None:
        """Start to count at the cleanup of the next call that fails."""
        clean_up = RobustMutex.abandon
        counter = self

        def abandon(self: RobustMutex, *args: Any) -> None:
            counter.start()
            clean_up(self, *args)

        RobustMutex.abandon = abandon  # type: ignore[method-assign]

    def _call(self, frame: FrameType, event: str, arg: Any) -> Optional[Callable[..., Any]]:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if event == "opcode":
            self._count(frame, frame.f_lasti)
        return self._opcode

    def _instruction(self, code: CodeType, offset: int) -> Any:
        if not code.co_filename.startswith(PACKAGE):
            return MONITORING.DISABLE
        self._count(sys._getframe(1), offset)
        return None

    def _count(self, frame: FrameType, offset: int) -> None:
        code = frame.f_code
        opcodes = self._codes.get(code)
        if opcodes is None:
            opcodes = self._codes[code] = code.co_code
        if opcodes[offset] != NOP:
            self.count += 1
            if self.count == self.at:
                self.act(f"{self.count} {where(frame, offset)}")


def stop_counting() -> None:
    """Stop the counting of every counter."""
    sys.settrace(None)
    if MONITORING is not None and MONITORING.get_tool(MONITORING.DEBUGGER_ID):
        MONITORING.set_events(MONITORING.DEBUGGER_ID, 0)
        MONITORING.free_tool_id(MONITORING.DEBUGGER_ID)


def where(frame: FrameType, offset: int) -> str:
    """Describe the bytecode that a frame is about to execute, with its place in the source."""
    code = frame.f_code
    name = next((each.opname for each in dis.get_instructions(code) if each.offset == offset), "?")
    return f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}, at {offset} {name}"
