"""What a call finds out about itself, on every Python: is the lock its thread's, and whose was an error?"""

from __future__ import annotations

import signal
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_ipc.locking import reentrancy

#: Both kinds of RLock that CPython has. Programs that are patched by eventlet use the one in Python.
LOCKS: list[Any] = [threading.RLock, threading._PyRLock]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_is_owned_by_the_thread_that_holds_it(kind: Any) -> None:
    lock, of_another = kind(), []
    assert not reentrancy.is_owned(lock)
    with lock, lock:
        assert reentrancy.is_owned(lock)
        thread = threading.Thread(target=lambda: of_another.append(reentrancy.is_owned(lock)))
        thread.start()
        thread.join()
    assert of_another == [False]
    assert not reentrancy.is_owned(lock)
    assert lock.acquire(False), "it is free again"


class Refused(RuntimeError):
    """An error of a signal handler."""


@pytest.fixture
def raised_in_notify() -> Iterator[None]:
    """A signal, with a handler that raises, arrives as soon as ``Condition.notify`` runs."""

    def refuse(number: int, frame: types.FrameType | None) -> None:
        raise Refused

    def trace(frame: types.FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is threading.Condition.notify.__code__:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, refuse)
    sys.setprofile(trace)
    yield
    sys.setprofile(None)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("kind", LOCKS)
def test_the_error_of_a_signal_handler_is_no_answer(kind: Any, raised_in_notify: None) -> None:
    with pytest.raises(Refused):
        reentrancy.is_owned(kind())
