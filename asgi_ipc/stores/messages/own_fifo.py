"""
The wakeup FIFOs of this process, which may be dropped with waiters: when a program drops an event loop, for example.

A finaliser must not enter the mutex, so it cannot unregister the waiters.  It closes the descriptor, but it leaves the
file.  The file is what proves to a sender that no process has the FIFO open: then the sender unregisters the waiters
and passes its notification on.  Where a sender does not find the file, it takes the owner for alive.
"""

from __future__ import annotations

__all__ = ["OwnFifo", "remove_dropped"]

import atexit
import contextlib
import os
from collections import deque

from ...shm.wakeup_fifo import WakeupFifo

#: The paths, by token, of FIFOs that were dropped, and whose files may still exist.
_paths: dict[int, str] = {}


class OwnFifo(WakeupFifo):
    """A wakeup FIFO of one store in this process. ``dropped`` gets its token if it is dropped with waiters."""

    _dropped: deque[int] | None = None

    def __init__(self, segment: str, mode: int, group: int, dropped: deque[int]) -> None:
        super().__init__(segment, mode, group)
        self._dropped = dropped

    def drop(self) -> None:
        """Close it, even if it has waiters. For finalisers too."""
        if self._dropped is None or self.fd < 0 or self.home is None or not self.home.has_waiters(self):
            self.close()
            return
        self.home = None
        _paths[self.token] = self.path
        fd, self.fd = self.fd, -1
        os.close(fd)
        self._dropped.append(self.token)

    def __del__(self) -> None:
        self.drop()


def remove_dropped(token: int) -> None:
    """Remove the file of a FIFO whose waiters were unregistered."""
    path = _paths.pop(token, None)
    if path is not None:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _at_exit() -> None:
    for token in list(_paths):
        remove_dropped(token)


os.register_at_fork(after_in_child=_paths.clear)
atexit.register(_at_exit)
