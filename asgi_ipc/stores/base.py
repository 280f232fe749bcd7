"""
Critical sections: how a store runs its operations on a segment, and uses a new one if that was removed.

A removed segment has a tombstone, which the mutex reports in the next operation.  If only the file was removed (``rm``,
systemd's RemoveIPC), nothing in the memory shows it, so the name is checked once a second.
"""

from __future__ import annotations

__all__ = ["STORE_ERRORS", "CriticalSections", "Parts", "is_store_error"]

import logging
import os
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..clock import monotonic
from ..exceptions import SegmentBusy, SegmentError, SegmentGone
from ..locking.contention import WouldBlock
from ..locking.mutex import RobustMutex
from ..locking.reentrancy import is_ours
from ..locking.threads import ThreadLock
from ..shm.permissions import named_identity
from .attachment import Attachment, Kind

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    P = ParamSpec("P")

logger = logging.getLogger("asgi_ipc")

R = TypeVar("R")

#: Errors of a store that its caller did not cause: damage, a stopped process, a layer that was closed in the meantime.
STORE_ERRORS = (SegmentError, RuntimeError, OSError)
#: ns between two checks of the segment's name and of the proof of life. A waiting receiver polls less often, so that
#: each of its polls makes them.
CHECK_PERIOD = 900_000_000
LONG_AGO = -(2**63)

_all: weakref.WeakSet[CriticalSections[Any]] = weakref.WeakSet()


def is_store_error(error: BaseException) -> bool:
    """True if the store raised an error of these kinds, not a signal handler (``TimeoutError``, for example)."""
    return isinstance(error, SegmentError) or is_ours(error)


class Parts:
    """
    The objects that work on one attachment, by name. Subclasses have a slot for each object.

    (Not a NamedTuple: reading its fields takes three times as long, and the hot path reads one for each message.)
    """

    __slots__: tuple[str, ...] = ()

    def forget_owned(self) -> None:
        """Forget what this process owns in the segment. The caller holds the in-process lock."""


PartsT = TypeVar("PartsT", bound=Parts)


class CriticalSections(Generic[PartsT]):
    """
    Runs critical sections on the segment ``name``.

    ``size`` (bytes) and ``mode`` (permissions) are used if it must be created; ``patience`` is how many seconds to wait
    for a process that was stopped inside; ``clock`` returns machine-wide monotonic nanoseconds. For each attachment,
    ``build`` makes the parts whose methods are the critical sections; ``attached`` is called after that.
    ``register_again`` is called with this object after others may have taken this process for dead.

    Without ``waits``, it is for event loops: a call that would wait for another process raises ``WouldBlock``. It can
    be repeated then, since it has committed nothing. (The constructor waits, unless the process has the segment open.)
    """

    #: Held while any store attaches again: several threads may notice at once that their segment was removed.
    _attaching = ThreadLock()

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
        register_again: Callable[[CriticalSections[PartsT]], None] = lambda _: None,
        waits: bool = True,
    ) -> None:
        self.name = name
        self.clock = clock
        self._kind, self._size, self._mode, self._patience = kind, size, mode, patience
        self._build, self._attached, self._register_again = build, attached, register_again
        self.waits = waits
        #: ns. The first operation checks: in a child forked without Python's hooks, its slot is that of the parent.
        self.check_due = LONG_AGO
        _all.add(self)
        #: None after ``close``.
        self.attachment: Attachment | None = None
        #: The segment was removed and released, and attaching to another one has not succeeded yet.
        self._lost = False
        #: When attaching to another segment was first tried in vain, because another process was creating it.
        self._blocked_since = 0.0
        #: Others may have taken this process for dead, and ``register_again`` has not succeeded yet.
        self._taken_for_dead = False
        #: The mutex, the parts, and for each critical section the part that it belongs to. This is one tuple, so that
        #: one read gets all three: another thread may attach again between two reads.
        self.bound: tuple[RobustMutex, PartsT, dict[Callable[..., Any], Any]]
        self._attach(waits=True)

    @property
    def parts(self) -> PartsT:
        """The parts of the current attachment. Another thread may attach again at any time."""
        return self.bound[1]

    def _attach(self, waits: bool) -> None:
        """Open the segment and make the parts that work on it."""
        while True:
            attachment = self._open(waits)
            #: Releases the attachment when the store is garbage-collected; ``close`` calls it earlier.
            self._finalizer = weakref.finalize(self, attachment.release)
            self._finalizer.atexit = False  # the kernel frees everything, and other finalisers may still send
            self.attachment = attachment
            try:
                parts = self._build(attachment)
                self.bound = attachment.mutex, parts, _part_of_each_section(parts)
                attachment.check_threads()
                attachment.stores.add(self)
                if attachment.users == 1:
                    attachment.mutex.run(_nothing, waits=waits)  # acquires a slot, or raises TooManyProcesses here
                self._attached()
            except BaseException as error:
                self._finalizer()
                if isinstance(error, SegmentGone):  # removed in the meantime: try again
                    continue
                raise
            return

    def _open(self, waits: bool) -> Attachment:
        """Open the segment. Without ``waits``, raises ``WouldBlock`` while another process is creating it."""
        if waits:
            return Attachment.open(self.name, self._kind, self._size, self._mode, self._patience)
        try:
            attachment = Attachment.open(self.name, self._kind, self._size, self._mode, self._patience, False)
        except SegmentBusy as busy:
            now = monotonic()
            self._blocked_since = self._blocked_since or now
            if now - self._blocked_since <= self._patience:
                raise WouldBlock(None) from None
            self._blocked_since = 0.0
            raise SegmentBusy(self.name, busy.pid, self._patience) from None
        self._blocked_since = 0.0
        return attachment

    def run(self, section: Callable[Concatenate[Any, P], R], *args: P.args, **named: P.kwargs) -> R:
        """
        Run a critical section, a method of a part's class such as ``Sweep.step``, on the part of this attachment.

        It is run again on a new segment if this one was removed. Raises what ``RobustMutex.run`` raises, except
        ``SegmentGone``, and ``RuntimeError`` after ``close``.
        """
        if self.clock() >= self.check_due:
            self.check_name()
        while True:
            mutex, _, part_of = self.bound
            try:
                return mutex.run(section, part_of[section], *args, waits=self.waits, **named)
            except SegmentGone:
                self.attach_anew()

    def exclusively(self, function: Callable[..., R], *args: Any) -> R:
        """Run any function as a critical section: for checks and tests, which read the segment's words themselves."""
        self.opened().check_threads()
        return self.bound[0].run(function, *args)

    def run_behind(self, work: Callable[[], None]) -> None:
        """
        Do some upkeep after a completed operation: no error of the store in it may make the operation seem to fail.

        The next operation finds the problem again. An exception that a signal handler raises is not caught.
        """
        try:
            work()
            self.bound[0].turns.end()
        except WouldBlock:
            pass
        except STORE_ERRORS as error:
            if not is_store_error(error):
                raise
            logger.warning("%s: sweeping expired entries failed: %s", self.name, error)

    def give_way(self) -> None:
        """Let other processes in, between two slices of a long operation (``Turns.give_way``)."""
        self.bound[0].turns.give_way()

    def opened(self) -> Attachment:
        """Return the attachment. Raises ``RuntimeError`` after ``close``."""
        attachment = self.attachment
        if attachment is None:
            raise RuntimeError(f"{self.name}: this layer was closed; create a new one")
        return attachment

    def check_name(self) -> None:
        """
        Check that the name still refers to this segment, which is due once a second; if not, attach again.

        Also check that the kernel still proves that this process is alive. Raises ``RuntimeError`` if threads have been
        replaced. The check is then due in the next operation, too.
        """
        attachment = self.opened()
        attachment.check_threads()
        self.check_due = self.clock() + CHECK_PERIOD
        attachment.mutex.choose_try()
        if self._lost or attachment.is_gone():
            self.attach_anew()
            return
        attachment.renew_proof()
        if self._taken_for_dead:
            self._taken_for_dead, self.check_due = False, self.clock() + CHECK_PERIOD
            try:
                self._register_again(self)
            except BaseException:
                self._taken_for_dead, self.check_due = True, LONG_AGO  # the next operation tries again
                raise

    def taken_for_dead(self) -> None:
        """Forget what this process owns: others may have taken it for dead. The caller holds the in-process lock."""
        self.parts.forget_owned()
        self._taken_for_dead, self.check_due = True, LONG_AGO

    def attach_anew(self) -> None:
        """Attach to the segment that now has the name, or to a new one, unless another thread has done it."""
        with self._attaching.checked():
            if not self._lost and not self.opened().is_gone():
                return
            if not self._lost:
                logger.warning("%s was removed while in use: its contents are lost; attaching to a new one", self.name)
            self._lost, self.check_due = True, LONG_AGO  # if this fails, every operation checks first and tries again
            self._finalizer()
            self._attach(self.waits)
            self._lost, self.check_due = False, self.clock() + CHECK_PERIOD

    def unlink(self) -> None:
        """Remove the segment for every process. Those that continue to use the store create a new one."""
        attachment = self.opened()
        attachment.check_threads()
        if self._lost or (attachment.is_gone() and named_identity(self.name) is not None):
            self.attach_anew()  # to the segment that has replaced it: that is the one to remove
        self.opened().remove(self.waits)

    def close(self) -> None:
        """Release what this process holds for the store. May be called twice; any other use is then an error."""
        with self._attaching.choose():
            if self.attachment is not None:
                self.attachment = None
                self.check_due = LONG_AGO  # so that every operation checks first, and finds that this is closed
                self._finalizer()


def _part_of_each_section(parts: Parts) -> dict[Callable[..., Any], Any]:
    """Return a dict from each method of the parts' classes to its part."""
    return {
        method: part
        for part in (getattr(parts, name) for name in parts.__slots__)
        for of in reversed(type(part).__mro__)
        for method in vars(of).values()
        if isinstance(method, FunctionType)
    }


def _nothing() -> None:
    """Do nothing: a critical section that only acquires a slot."""


def _after_fork_in_child() -> None:
    CriticalSections._attaching.forget()
    for sections in list(_all):
        sections.check_due = LONG_AGO  # the first operation of this process chooses the lock (locking.threads)


os.register_at_fork(after_in_child=_after_fork_in_child)
