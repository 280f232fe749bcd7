"""
What both stores have in common: a segment of their own, attached anew when somebody has removed it.

A removed segment shows a tombstone, which the mutex reports at the next operation.  Where only the file was removed
(``rm``, systemd's RemoveIPC), nothing in memory tells: so the name is looked at once a second.
"""

from __future__ import annotations

__all__ = ["Store"]

import logging
import os
import threading
import weakref
from typing import Any, Callable, Dict, Optional, Tuple

from ..exceptions import SegmentGone
from ..locking.mutex import RobustMutex
from ..shm.permissions import named_identity
from .attachment import Attachment, MakeRecovery

logger = logging.getLogger("asgi_ipc")

#: ns between two looks whether the segment's name still leads to the segment.
CHECK_PERIOD = 1_000_000_000
LONG_AGO = -(2**63)


class Store:
    """
    A dict in the segment ``name``, of ``size`` bytes if it has to be created, with permissions ``mode``.

    ``patience`` is how many seconds to wait for a process that was stopped inside; ``clock`` gives machine-wide
    monotonic nanoseconds.
    """

    kind: int
    recovery: MakeRecovery

    #: Held while a store attaches anew: several threads notice at once that their segment is gone.
    _attaching = threading.RLock()

    def __init__(self, name: str, size: int, mode: int, patience: float, clock: Callable[[], int]) -> None:
        self.name = name
        self.clock = clock
        self._size, self._mode, self._patience = size, mode, patience
        self._check_due = clock() + CHECK_PERIOD
        self._attachment: Optional[Attachment] = None
        #: The segment is gone and given back, and attaching to another one has failed so far.
        self._lost = False
        self._bound: Tuple[RobustMutex, Tuple[Any, ...]]
        #: Methods of those parts that were asked for, by name.
        self._sections: Tuple[Tuple[Any, ...], Dict[str, Callable[..., Any]]] = (), {}
        self._attach()

    def _attach(self) -> None:
        """Open the segment and make what works on it."""
        while True:
            attachment = Attachment.open(
                self.name, self.kind, self._size, self._mode, self._patience, type(self).recovery
            )
            #: Gives the arena back when the store is garbage-collected; ``close`` calls it earlier.
            self._finalizer = weakref.finalize(self, attachment.release)
            self._finalizer.atexit = False  # the kernel takes everything back, and other finalisers may still send
            self._attachment = attachment
            self._bound = attachment.mutex, self._parts(attachment)
            try:
                self._attached(attachment)
            except BaseException as error:
                self._finalizer()
                if isinstance(error, SegmentGone):  # removed between the two lines: come again
                    continue
                raise
            return

    def _parts(self, attachment: Attachment) -> Tuple[Any, ...]:
        """The objects whose methods are this store's sections."""
        raise NotImplementedError

    def _attached(self, attachment: Attachment) -> None:
        """Called whenever a segment has been attached to."""

    def _run(self, section: str, *args: Any) -> Any:
        """
        Run a section, by the name of the method that it is; once more on a new segment if this one was removed.

        By name, because the method belongs to the segment.
        """
        if self.clock() >= self._check_due:
            self._check_name()
        while True:
            try:
                return self._run_here(section, args)
            except SegmentGone:
                self._attach_anew()

    def _run_here(self, section: str, args: Tuple[Any, ...]) -> Any:
        mutex, parts = self._bound  # in one read: another thread may attach anew between two
        of_parts, sections = self._sections
        if of_parts is not parts:
            sections = {}
            self._sections = parts, sections
        method = sections.get(section)
        if method is None:
            method = next(getattr(part, section) for part in parts if hasattr(part, section))
            sections[section] = method
        return mutex.run(method, *args)

    def _give_way(self) -> None:
        """Between two slices: let others in (``RobustMutex.give_way``)."""
        self._bound[0].give_way()

    def _exclusively(self, section: Callable[..., Any], *args: Any) -> Any:
        """Run any function as a section: for whoever looks at the segment's words itself (audits, tests)."""
        return self._bound[0].run(section, *args)

    def _opened(self) -> Attachment:
        attachment = self._attachment
        if attachment is None:
            raise RuntimeError(f"{self.name}: this layer was closed; make a new one to go on")
        return attachment

    def _check_name(self) -> None:
        """The once-a-second look whether the name still leads to this segment."""
        attachment = self._opened()
        self._check_due = self.clock() + CHECK_PERIOD
        if self._lost or attachment.is_gone():
            self._attach_anew()

    def _attach_anew(self) -> None:
        with self._attaching:
            if not self._lost and not self._opened().is_gone():  # another thread has done it
                return
            if not self._lost:
                logger.warning("%s was removed while in use: attaching to a new one; what it held is gone", self.name)
            self._lost, self._check_due = True, LONG_AGO  # should it fail, every operation looks first, and tries again
            self._finalizer()
            self._attach()
            self._lost, self._check_due = False, self.clock() + CHECK_PERIOD

    # -- the whole store --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Empty the store, for every process."""
        self._run("flush")

    def unlink(self) -> None:
        """Remove the segment for every process; those that go on using the store make a new one."""
        attachment = self._opened()
        if self._lost or (attachment.is_gone() and named_identity(self.name) is not None):
            self._attach_anew()  # to the one that has taken its place: that is the one to remove
        self._opened().remove()

    def close(self) -> None:
        """Give back what this process holds for the store. Closing twice is fine; any other use is an error."""
        with self._attaching:
            if self._attachment is not None:
                self._attachment = None
                self._check_due = LONG_AGO  # every operation looks first, and finds that it is closed
                self._finalizer()


def _after_fork_in_child() -> None:
    Store._attaching = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
