"""
The locks between the threads of this process, and the libraries that replace threads.

gevent and eventlet replace ``threading.RLock`` when a program patches itself (``gevent.monkey.patch_all()``,
``eventlet.monkey_patch()``).  From then on, the program's threads are greenlets, and many of them run in one thread of
the system.  A lock that was made before does not keep them apart: its owner is the thread of the system, and a
re-entrant lock lets its owner in again.

The rule for every lock of this package is this.  A lock is chosen at its first use in a process, and must then be what
``threading.RLock`` makes.  A forked child chooses again, since its locks are new.  So a program may make a layer, fork,
and patch itself in the child (gunicorn with ``preload_app`` and its worker classes ``gevent`` and ``eventlet``).  If
threads are replaced after the first use, nothing can prove that no other thread is just acquiring the old lock, so the
lock cannot be replaced.  Then every use raises ``RuntimeError``, which says to patch first.

The hot path does not check this.  It is checked once a second, at the first use in a process, and where a call finds
another one inside.
"""

from __future__ import annotations

__all__ = ["ThreadLock"]

import _thread
import threading
from typing import Any


class ThreadLock:
    """
    A re-entrant lock between the threads of this process. Whoever has one calls ``forget`` in a forked child.

    ``lock`` is the lock itself. It can be used alone where no greenlet can run between two steps.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Have a new lock, which is not chosen yet: nobody has used it in this process."""
        self.lock: Any = threading.RLock()
        self._chosen: dict[None, Any] = {}

    def choose(self) -> Any:
        """Return the lock. The first call in a process replaces it if threads have been replaced."""
        chosen = self._chosen.get(None)
        if chosen is None:
            fitting = self.lock if _fits(self.lock) else threading.RLock()
            chosen = self.lock = self._chosen.setdefault(None, fitting)  # one step: all threads get the same lock
        return chosen

    @property
    def is_native(self) -> bool:
        """True if the lock is one of the system's threads, so that it does not keep greenlets apart."""
        return type(self.lock) is _thread.RLock

    def checked(self) -> Any:
        """Do the same, but raise ``RuntimeError`` if threads have been replaced since the first call."""
        chosen = self.choose()
        if not _fits(chosen):
            raise RuntimeError(
                "gevent or eventlet has replaced the threads of this process after asgi_ipc was used in it, so its "
                "locks cannot keep greenlets apart: call gevent.monkey.patch_all() or eventlet.monkey_patch() first, "
                "before the program creates a layer"
            )
        return chosen


def _fits(lock: Any) -> bool:
    """True if this is a lock of the kind that threads now use."""
    return type(lock) is type(threading.RLock())
