"""
Critical sections: how a store runs its operations on a segment, and goes on with a new one when that was removed.

A removed segment shows a tombstone, which the mutex reports at the next operation.  Where only the file was removed
(``rm``, systemd's RemoveIPC), nothing in memory tells, so the name is checked once a second.
"""

from __future__ import annotations

__all__ = ["STORE_ERRORS", "CriticalSections", "Parts", "is_store_error"]

import logging
import os
import threading
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..exceptions import SegmentError, SegmentGone
from ..locking.mutex import RobustMutex
from ..locking.reentrancy import is_ours
from ..shm.permissions import named_identity
from .attachment import Attachment, Kind

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    P = ParamSpec("P")

logger = logging.getLogger("asgi_ipc")

R = TypeVar("R")

#: What a store can meet that is not the caller's doing: damage, a stopped process, a layer that was closed meanwhile.
STORE_ERRORS = (SegmentError, RuntimeError, OSError)
#: ns between two checks that the segment's name still leads to the segment.
CHECK_PERIOD = 1_000_000_000
LONG_AGO = -(2**63)


def is_store_error(error: BaseException) -> bool:
    """True if an error of these kinds is the store's own, not a signal handler's (``TimeoutError``, say)."""
    return isinstance(error, SegmentError) or is_ours(error)


class Parts:
    """
    The objects that work on one attachment, by name. Subclasses have a slot for each.

    (Not a NamedTuple: its fields take three times as long to read, and the hot path reads one for each message.)
    """

    __slots__: tuple[str, ...] = ()


PartsT = TypeVar("PartsT", bound=Parts)


class CriticalSections(Generic[PartsT]):
    """
    Runs critical sections on the segment ``name``.

    ``size`` (bytes) and ``mode`` (permissions) count if it has to be created; ``patience`` is how many seconds to wait
    for a process that was stopped inside; ``clock`` gives machine-wide monotonic nanoseconds. ``build`` makes the parts
    whose methods are the critical sections, for each attachment anew; ``attached`` is called after that.
    """

    #: Held while any store attaches anew: several threads notice at once that their segment is gone.
    _attaching = threading.RLock()

    def __init__(
        self,
        name: str,
        kind: Kind,
        size: int,
        mode: int,
        patience: float,
        clock: Callable[[], int],
        build: Callable[[Attachment], PartsT],
        attached: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.clock = clock
        self._kind, self._size, self._mode, self._patience = kind, size, mode, patience
        self._build, self._attached = build, attached
        self.check_due = clock() + CHECK_PERIOD
        #: None once this was closed.
        self.attachment: Attachment | None = None
        #: The segment is gone and given back, and attaching to another one has failed so far.
        self._lost = False
        #: The mutex, the parts, and for each critical section the part that it belongs to. One tuple, so that it is
        #: read at once: another thread may attach anew between two reads.
        self.bound: tuple[RobustMutex, PartsT, dict[Callable[..., Any], Any]]
        self._attach()

    @property
    def parts(self) -> PartsT:
        """The parts of the present attachment. Another thread may attach anew at any time."""
        return self.bound[1]

    def _attach(self) -> None:
        """Open the segment and make the parts that work on it."""
        while True:
            attachment = Attachment.open(self.name, self._kind, self._size, self._mode, self._patience)
            #: Gives the attachment back when the store is garbage-collected; ``close`` calls it earlier.
            self._finalizer = weakref.finalize(self, attachment.release)
            self._finalizer.atexit = False  # the kernel takes everything back, and other finalisers may still send
            self.attachment = attachment
            try:
                parts = self._build(attachment)
                self.bound = attachment.mutex, parts, _part_of_each_section(parts)
                attachment.mutex.run(_nothing)  # acquires a slot: one process too many gets its error at once
                self._attached()
            except BaseException as error:
                self._finalizer()
                if isinstance(error, SegmentGone):  # removed meanwhile: try again
                    continue
                raise
            return

    def run(self, section: Callable[Concatenate[Any, P], R], *args: P.args, **named: P.kwargs) -> R:
        """
        Run a critical section, a method of a part's class such as ``Sweep.step``, on the part of this attachment.

        It is run once more on a new segment if this one was removed. Raises what ``RobustMutex.run`` raises, but for
        ``SegmentGone``, and ``RuntimeError`` after ``close``.
        """
        if self.clock() >= self.check_due:
            self.check_name()
        while True:
            mutex, _, part_of = self.bound
            try:
                return mutex.run(section, part_of[section], *args, **named)
            except SegmentGone:
                self.attach_anew()

    def exclusively(self, function: Callable[..., R], *args: Any) -> R:
        """Run any function as a critical section: for code that reads the segment's words itself (checks, tests)."""
        return self.bound[0].run(function, *args)

    def run_behind(self, work: Callable[[], None]) -> None:
        """
        Do some upkeep behind an operation that is done: no error of the store in there may deny the operation.

        The next operation meets what is wrong again. An error that a signal handler raises goes on.
        """
        try:
            work()
        except STORE_ERRORS as error:
            if not is_store_error(error):
                raise
            logger.warning("%s: could not be swept: %s", self.name, error)

    def give_way(self) -> None:
        """Let other processes in, between two slices of a long operation (``RobustMutex.give_way``)."""
        self.bound[0].give_way()

    def opened(self) -> Attachment:
        """The attachment. Raises ``RuntimeError`` after ``close``."""
        attachment = self.attachment
        if attachment is None:
            raise RuntimeError(f"{self.name}: this layer was closed; make a new one to go on")
        return attachment

    def check_name(self) -> None:
        """Check, once a second, that the name still leads to this segment; attach anew if it does not."""
        attachment = self.opened()
        self.check_due = self.clock() + CHECK_PERIOD
        if self._lost or attachment.is_gone():
            self.attach_anew()

    def attach_anew(self) -> None:
        """Attach to the segment that has the name now, or to a new one, unless another thread has done it."""
        with self._attaching:
            if not self._lost and not self.opened().is_gone():
                return
            if not self._lost:
                logger.warning("%s was removed while in use: attaching to a new one; what it held is gone", self.name)
            self._lost, self.check_due = True, LONG_AGO  # should it fail, every operation checks first, and tries again
            self._finalizer()
            self._attach()
            self._lost, self.check_due = False, self.clock() + CHECK_PERIOD

    def unlink(self) -> None:
        """Remove the segment for every process; those that go on using the store make a new one."""
        attachment = self.opened()
        if self._lost or (attachment.is_gone() and named_identity(self.name) is not None):
            self.attach_anew()  # to the one that has taken its place: that is the one to remove
        self.opened().remove()

    def close(self) -> None:
        """Give back what this process holds for the store. Closing twice is fine; any other use is an error."""
        with self._attaching:
            if self.attachment is not None:
                self.attachment = None
                self.check_due = LONG_AGO  # every operation checks first, and finds that it is closed
                self._finalizer()


def _part_of_each_section(parts: Parts) -> dict[Callable[..., Any], Any]:
    """The part that each method of a part's class belongs to."""
    return {
        method: part
        for part in (getattr(parts, name) for name in parts.__slots__)
        for of in reversed(type(part).__mro__)
        for method in vars(of).values()
        if isinstance(method, FunctionType)
    }


def _nothing() -> None:
    """The critical section of an attachment that only needs its slot."""


def _after_fork_in_child() -> None:
    CriticalSections._attaching = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
