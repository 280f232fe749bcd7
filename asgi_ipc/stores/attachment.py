"""
One segment as one process uses it: mapped once, protected once, shared by every layer object that names it.

A process must not map a segment twice: closing the second descriptor would drop the byte locks that prove it alive
(``locks``), and two mutexes would each take a slot.  So the arenas of a process are kept by name here and counted.
"""

from __future__ import annotations

__all__ = ["Attachment"]

import logging
import os
import threading
from collections import deque
from typing import Callable, Deque, Dict

from ..locking.liveness import Liveness
from ..locking.mutex import RobustMutex
from ..shm.layout import AT_EPOCH, TOMBSTONE
from ..shm.segment import Segment
from ..shm.wakeup_fifo import Notifier
from ..structures.heap import Heap

logger = logging.getLogger("asgi_ipc")

#: Makes the function that repairs a segment of one kind after a holder has died.
MakeRecovery = Callable[[Segment, Heap], Callable[[], None]]


class Attachment:
    """A segment with its mutex and heap. Made by ``Attachment.open``, given back with ``release``."""

    _open: Dict[str, Attachment] = {}
    #: Re-entrant only so that it tells its owner: a signal handler that interrupts him must not wait for him.
    _lock = threading.RLock()
    #: Arenas whose users were garbage-collected: a finaliser can run anywhere, so it may not wait for the lock.
    _dropped: Deque[Attachment] = deque()

    def __init__(self, segment: Segment, recovery: MakeRecovery, patience: float) -> None:
        self.segment = segment
        self.heap = Heap(segment)
        self.mutex = RobustMutex(segment, recovery(segment, self.heap), patience)
        self.liveness = Liveness(segment, self.mutex)
        self.notifier = Notifier(segment.name, segment.mode)
        self.users = 0

    @classmethod
    def open(cls, name: str, kind: int, size: int, mode: int, patience: float, recovery: MakeRecovery) -> Attachment:
        """
        The arena of the segment ``name``, created with ``size`` bytes if there is none. Raises what ``Segment`` raises.

        A segment that exists keeps its size: one warning names both. Give the arena back with ``release``.
        """
        cls._check_handler(f"opening {name}")
        with cls._lock:
            cls._close_dropped()
            attachment = cls._open.get(name)
            if attachment is None or attachment.is_gone():
                segment = Segment.attach(name, kind, size, mode, patience, lambda new: Heap(new).rebuild([]))
                attachment = cls._open[name] = cls(segment, recovery, patience)
            attachment.users += 1
        if attachment.segment.size != size:
            logger.warning(
                "%s has %d bytes, not the %d asked for: who comes first sets the size, until 'asgi-ipc unlink'",
                name,
                attachment.segment.size,
                size,
            )
        return attachment

    @classmethod
    def _check_handler(cls, doing: str) -> None:
        """Refuse a call from a signal handler or finaliser that has interrupted this thread in here."""
        if cls._lock._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError(
                f"{doing}: this thread is opening, closing or removing shared memory already; a signal handler must "
                "not make, close or unlink a layer"
            )

    def remove(self) -> None:
        """
        Take the segment away from every process that uses it.

        Nobody of this process attaches meanwhile: file locks do not keep threads of one process apart.
        """
        self._check_handler(f"removing {self.segment.name}")
        with self._lock:
            self.mutex.remove()

    def is_gone(self) -> bool:
        """Whether the segment was removed, its name leads to another one now, or it is closed here already."""
        segment = self.segment
        try:
            return segment.fd < 0 or segment.words[AT_EPOCH] == TOMBSTONE or not segment.still_named()
        except (AttributeError, ValueError):  # another thread is closing it just now
            return True

    def release(self) -> None:
        """
        Give up one use; the last one unmaps the segment.

        Finalisers call this, and they can run anywhere: so it waits for nobody, and where another thread is opening or
        closing an arena just now, that thread does it on its way out or the next one does.
        """
        self._dropped.append(self)
        # Looked at again after the lock was given back: somebody may have dropped one in between.
        while self._dropped and not self._lock._is_owned() and self._lock.acquire(False):  # type: ignore[attr-defined]
            try:
                self._close_dropped()
            finally:
                self._lock.release()

    def _release(self) -> None:
        self.users -= 1
        if self.users == 0:
            if self._open.get(self.segment.name) is self:
                del self._open[self.segment.name]
            self.mutex.close()
            self.notifier.close()

    @classmethod
    def _close_dropped(cls) -> None:
        while cls._dropped:
            cls._dropped.popleft()._release()

    @classmethod
    def _after_fork_in_child(cls) -> None:
        cls._lock = threading.RLock()


os.register_at_fork(after_in_child=Attachment._after_fork_in_child)
