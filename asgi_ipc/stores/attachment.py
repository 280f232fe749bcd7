"""
A segment as one process uses it: mapped once, locked once, and shared by all layer objects that use its name.

A process must not map a segment twice: closing the second descriptor would drop the byte locks that prove that the
process is alive (``shm.file_locks``), and two mutexes would each acquire a slot.  So the attachments of a process are
stored here by name, and their users are counted.
"""

from __future__ import annotations

__all__ = ["Attachment", "Kind"]

import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from ..locking.liveness import Liveness, Proof
from ..locking.mutex import RobustMutex
from ..locking.reentrancy import is_owned
from ..locking.threads import ThreadLock
from ..shm.layout import AT_EPOCH, TOMBSTONE
from ..shm.segment import Segment
from ..shm.wakeup_fifo import Notifier
from ..structures.heap import Heap

logger = logging.getLogger("asgi_ipc")

LOST = "this process had lost its proof of life, because code in it has opened the file of the segment and closed it"
WARNINGS = {
    Proof.RETAKEN: f"{LOST}; it has the proof again, but in the meantime, other processes may have dropped its unread "
    "messages and its memberships",
    Proof.LOST: f"{LOST}; another process got its slot, so its unread messages and its memberships are lost",
    Proof.OF_PARENT: "this process was forked without a call of the hooks of os.register_at_fork, so until now it was "
    "taken for its parent; for uWSGI, set py-call-osafterfork = true",
}


class Kind(NamedTuple):
    """A kind of segment: its number in the header, and a factory of the function that recovers a segment."""

    number: int
    recovery: Callable[[Segment, Heap, Liveness], Callable[[], None]]


class User(Protocol):
    """A store that uses an attachment."""

    def taken_for_dead(self) -> None:
        """Learn that others may have taken this process for dead. The caller holds the in-process lock."""


class Attachment:
    """A segment with its heap, liveness, mutex and notifier. Get one with ``open``, give it up with ``release``."""

    _open: dict[str, Attachment] = {}
    #: Re-entrant only because that lock knows its owner: a signal handler that interrupts the owner must not wait.
    _lock = ThreadLock()
    #: Attachments whose users were garbage-collected: a finaliser can run anywhere, so it may not wait for the lock.
    _dropped: deque[Attachment] = deque()

    def __init__(self, segment: Segment, kind: Kind, patience: float) -> None:
        self.segment = segment
        self.heap = Heap(segment)
        self.liveness = Liveness(segment)
        self.mutex = RobustMutex(segment, self.liveness, kind.recovery(segment, self.heap, self.liveness), patience)
        self.notifier = Notifier(segment.name, segment.mode)
        self.users = 0
        #: The stores that must be told if the proof of life is lost.
        self.stores: weakref.WeakSet[User] = weakref.WeakSet()

    @classmethod
    def open(cls, name: str, kind: Kind, size: int, mode: int, patience: float, waits: bool = True) -> Attachment:
        """
        Return the attachment of the segment ``name``, which is created with ``size`` bytes if it does not exist.

        An existing segment keeps its size, and a warning gives both. Call ``release`` for each call of ``open``. Raises
        what ``Segment.attach`` raises (without ``waits``, ``SegmentBusy`` at once), and ``RuntimeError`` in a signal
        handler that has interrupted this class.
        """
        cls._check_handler(f"opening {name}")
        with cls._lock.checked():
            cls._close_dropped()
            attachment = cls._open.get(name)
            if attachment is None or attachment.is_gone():
                segment = Segment.attach(
                    name, kind.number, size, mode, patience if waits else 0.0, lambda new: Heap(new).rebuild([])
                )
                attachment = cls._open[name] = cls(segment, kind, patience)
            attachment.users += 1
        if attachment.segment.size != size:
            logger.warning(
                "%s has %d bytes, not the %d requested: its first process set the size; to change that, stop the "
                "processes that use it and run 'asgi-ipc unlink %s'",
                name,
                attachment.segment.size,
                size,
                name.rpartition("-")[0],
            )
        return attachment

    @classmethod
    def _check_handler(cls, doing: str) -> None:
        """Raise ``RuntimeError`` in a signal handler or finaliser that has interrupted this thread in this class."""
        if is_owned(cls._lock.choose()):
            raise RuntimeError(
                f"{doing}: this thread is already opening, closing or removing shared memory; a signal handler or a "
                "finaliser must not create, close or unlink a layer; let it set a flag instead"
            )

    def check_threads(self) -> None:
        """
        Choose the in-process lock at the first use in this process; later check that it keeps threads apart.

        Raises ``RuntimeError`` if threads have been replaced in between (``locking.threads``).
        """
        self.mutex.lock = self.mutex.threads.checked()

    def dead_processes(self, processes: Iterable[int]) -> set[int]:
        """
        Return the owners that are proven dead. Needs no critical section.

        The in-process lock prevents other threads from closing the segment during the call. The descriptor could
        then refer to another file, and a query there would look like proof of death.
        """
        with self.mutex.threads.choose():
            if self.segment.fd < 0:  # closed by another thread: unknown means alive
                return set()
            return {process for process in processes if self.liveness.is_dead(process)}

    def renew_proof(self) -> None:
        """
        Take the proof of life of this process again if it was lost.

        Until that is noticed, other processes may take this process for dead.
        """
        with self.mutex.lock:
            if self.segment.fd < 0 or self.mutex.inside is not None:  # closed, or a handler has interrupted a call
                return
            proof = self.liveness.renew()
            if proof is Proof.KEPT:
                return
            if proof is not Proof.RETAKEN:
                self.mutex.leave_slot()
            for store in list(self.stores):
                store.taken_for_dead()
        logger.warning("%s: %s", self.segment.name, WARNINGS[proof])

    def remove(self, waits: bool = True) -> None:
        """
        Remove the segment for every process that uses it. Without ``waits``, raises ``WouldBlock`` instead of waiting.

        No thread of this process attaches during the call: file locks do not exclude threads of one process.
        """
        self._check_handler(f"removing {self.segment.name}")
        with self._lock.checked():
            self.mutex.remove(waits)

    def is_gone(self) -> bool:
        """True if the segment was removed, its name now refers to another one, or this process has closed it."""
        segment = self.segment
        try:
            return segment.fd < 0 or segment.words[AT_EPOCH] == TOMBSTONE or not segment.still_named()
        except (AttributeError, ValueError):  # another thread is closing it
            return True

    def release(self) -> None:
        """
        Give up one use. Giving up the last one unmaps the segment.

        Finalisers call this, and they can run at any point, so it never waits. If another thread is opening or closing
        an attachment at this time, that thread or a later one does the work.
        """
        self._dropped.append(self)
        lock = self._lock.choose()
        # Checked again after the lock was released: another thread may have dropped an attachment in between.
        while self._dropped and not is_owned(lock) and lock.acquire(False):
            try:
                self._close_dropped()
            finally:
                lock.release()

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


os.register_at_fork(after_in_child=Attachment._lock.forget)
