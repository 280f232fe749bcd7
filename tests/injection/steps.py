"""
Count the steps of an operation, and kill or interrupt it before (or after) the n-th.

A step is a store that changes shared memory, or a system call of the modules that reach shared memory (the
calls of a semaphore count as such). Between two steps nothing happens that another process could see. So a
process that is killed before each step in turn has been killed everywhere.
"""

from __future__ import annotations

__all__ = ["STEPS", "Injected", "Steps", "install"]

import fcntl
import mmap
import os
import sys
from types import ModuleType
from typing import Any, Callable, Dict, List

import posix_ipc
import pytest

from asgi_ipc.locking import token
from asgi_ipc.shm.segment import Segment


class Injected(BaseException):
    """The exception that is raised at a step; no code expects it."""


class Steps:
    """
    The steps of this process: counted while armed, with an action at one or two of them.

    ``note`` is memory that a forked process shares with its parent. It contains the number of steps and a
    description of the last one, even if the process was killed.
    """

    def __init__(self) -> None:
        self.note = mmap.mmap(-1, 4096)
        self.armed = self.after_calls = False
        self.count = self.at = self.second = 0

    def arm(self, at: int, act: Callable[[], None], second: int = 0, after_calls: bool = False) -> None:
        """
        Count from now on; call ``act`` before step ``at`` (0: never), and again ``second`` steps later, if
        not 0.

        With ``after_calls`` a system call is two steps: one before it and, if it succeeds, one after it.
        """
        self.at, self.act, self.second, self.after_calls = at, act, second, after_calls
        self.count = 0
        self.armed = True

    def disarm(self) -> None:
        """Stop counting."""
        self.armed = False

    def step(self, what: str, *about: Any) -> None:
        """Count a step; ``what`` and ``about`` describe it in the message of a failure."""
        self.count += 1
        if self.count == self.at:
            self.at = self.at + self.second if self.second else 0
            self.second = 0
            self.note_down(f"{self.count} {what.format(*about)}")
            self.act()

    def note_down(self, what: str) -> None:
        """Write a note for the parent."""
        note = what.encode()[:4000]
        self.note[: len(note) + 1] = note + b"\0"

    def read(self) -> str:
        """Return the note of a child: in most cases the number of steps and the last step."""
        return self.note[:].partition(b"\0")[0].decode(errors="replace")

    def count_noted(self) -> int:
        """Return the number of steps that a child has counted."""
        return int(self.read().partition(" ")[0])


STEPS = Steps()


class Words:
    """Wraps the words of a segment, and counts stores."""

    def __init__(self, words: memoryview) -> None:
        self.raw = words
        self.release = words.release

    def __getitem__(self, at: Any) -> Any:
        return self.raw[at]

    def __setitem__(self, at: int, value: int) -> None:
        if STEPS.armed and self.raw[at] != value:
            STEPS.step("words[{}] = {}", at, value)
        self.raw[at] = value

    def __len__(self) -> int:
        return len(self.raw)


class Data:
    """Wraps the bytes of a segment, and counts stores."""

    def __init__(self, data: mmap.mmap) -> None:
        self.raw = data
        self.close = data.close

    def __getitem__(self, at: Any) -> Any:
        return self.raw[at]

    def __setitem__(self, at: Any, value: bytes) -> None:
        if STEPS.armed and self.raw[at] != value:
            STEPS.step("data[{}] = {} bytes", at, len(value))
            if len(value) > 8:  # copying several words is not atomic: the process can be killed in the middle
                middle = at.start + len(value) // 16 * 8
                self.raw[at.start : middle] = value[: middle - at.start]
                STEPS.step("data[{}] = {} bytes, half done", at, len(value))
        self.raw[at] = value

    def __len__(self) -> int:
        return len(self.raw)


def counted(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a wrapper of a system call that counts a step."""

    def stand_in(*args: Any, **options: Any) -> Any:
        if STEPS.armed:
            STEPS.step("{}{}", name, args)
        result = call(*args, **options)
        if STEPS.armed and STEPS.after_calls:
            STEPS.step("after {}{}", name, args)
        return result

    return stand_in


class Semaphore:
    """Wraps a named semaphore, and counts its calls."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.raw = counted(posix_ipc.Semaphore, "Semaphore")(*args, **options)
        self.acquire = counted(self.raw.acquire, "acquire")
        self.release = counted(self.raw.release, "release")
        self.close = counted(self.raw.close, "close")


class Module:
    """Wraps a module, and counts calls of its functions."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        found: Any = getattr(self.module, name)
        if found is posix_ipc.Semaphore:
            found = Semaphore
        elif callable(found) and not (isinstance(found, type) and issubclass(found, BaseException)):
            found = counted(found, name)
        setattr(self, name, found)
        return found


MODULES: List[ModuleType] = [os, fcntl, mmap, posix_ipc]


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the wrappers in all modules of the package that reach shared memory and the system."""
    map_it = Segment._map

    def map_with_steps(self: Segment, size: int) -> None:
        map_it(self, size)
        self.words, self.data = Words(self.words), Data(self.data)  # type: ignore[assignment]

    monkeypatch.setattr(Segment, "_map", map_with_steps)
    monkeypatch.setattr(token, "_has_ctypes", False)  # then every try is a call of the semaphore, which is counted
    stand_ins: Dict[str, Any] = {module.__name__: Module(module) for module in MODULES}
    for name, module in list(sys.modules.items()):
        if name.startswith(("asgi_ipc.shm.", "asgi_ipc.structures.", "asgi_ipc.locking.")):
            for called, stand_in in stand_ins.items():
                if getattr(module, called, None) is stand_in.module:
                    monkeypatch.setattr(module, called, stand_in)
