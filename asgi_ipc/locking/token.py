"""
The token of an epoch: a named semaphore, which is tried and posted, but never slept on.

``posix_ipc`` releases the GIL while it tries.  In a process with busy threads, a call that has taken the token then
waits until a thread gives up the GIL, and every other process waits for it.  So there is a second way to try, through
``ctypes``, that keeps the GIL.  It costs 50 ns more on CPython 3.13, and only a process with several threads needs it.
"""

from __future__ import annotations

__all__ = ["BusyError", "Token", "no_post", "no_token"]

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from posix_ipc import BusyError, Semaphore

try:
    import ctypes

    _libc = ctypes.PyDLL(None)  # unlike CDLL, it keeps the GIL
    _open, _close, _try = _libc.sem_open, _libc.sem_close, _libc.sem_trywait
    _open.restype = ctypes.c_void_p
    _open.argtypes = [ctypes.c_char_p, ctypes.c_int]
    _close.argtypes = [ctypes.c_void_p]
    _has_ctypes = True
except (ImportError, OSError, AttributeError):  # a Python without ctypes, or a libc that does not export them
    _has_ctypes = False

#: What ``sem_open`` returns if it fails: NULL, or -1 on macOS.
_FAILED = (None, 2**64 - 1, 2**32 - 1)


class Token:
    """
    The opened semaphore of one epoch; ``name`` is its name.

    ``acquire(0)`` and ``acquire_keeping_gil(0)`` try to take the token. If it is not there, the first raises
    ``BusyError``, and the second raises that or returns a true value. ``post()`` gives the token back.
    """

    __slots__ = ("_handle", "_semaphore", "acquire", "acquire_keeping_gil", "post")

    def __init__(self, semaphore: Semaphore, name: str) -> None:
        self._semaphore = semaphore
        self.post: Callable[[], None] = semaphore.release
        self.acquire: Callable[[float], Any] = semaphore.acquire
        self.acquire_keeping_gil = self.acquire
        self._handle = None
        if _has_ctypes:
            # The C library counts how often a process has opened a semaphore, so this one is closed separately.
            handle = _open(name.encode("ascii"), 0)
            if handle not in _FAILED:
                self._handle = ctypes.c_void_p(handle)
                # Its argument is one too many, which does no harm: so both ways to try are called alike.
                self.acquire_keeping_gil = partial(_try, self._handle)

    def best_acquire(self) -> Callable[[float], Any]:
        """Return the faster way to try, or, if this process has several threads, the one that keeps the GIL."""
        # Not threading.active_count(): it takes a lock, which a signal handler's thread may hold already.
        return self.acquire if len(sys._current_frames()) == 1 else self.acquire_keeping_gil

    @property
    def value(self) -> int:
        """1 if the token can be taken, 0 if a process has it."""
        return int(self._semaphore.value)

    def close(self) -> None:
        """Close the semaphore. No function of this object may be called any more."""
        self.acquire = self.acquire_keeping_gil = no_token
        self.post = no_post
        handle, self._handle = self._handle, None
        if handle is not None:
            _close(handle)
        self._semaphore.close()


def no_token(timeout: float) -> Any:
    """Replaces ``acquire`` while no epoch is open in this process."""
    raise BusyError


def no_post() -> None:
    """Replaces ``post`` while no epoch is open in this process (in a child forked inside a critical section)."""
