"""
Wakeup FIFOs: how a waiting process sleeps, and how another process wakes it.

A wakeup FIFO is a named pipe in the directory of its segment (``fifo_directory``). Its owner, a waiting thread or
an event loop, opens it for reading and writing (a reader without a writer would spin on end-of-file) and sleeps
until it is readable. Other processes write a byte into it. The byte is only a hint: a process that wakes reads the
notified list in shared memory, and a lost byte delays it by no more than the time to its next poll. So a
notification never waits and never raises.

The FIFO records in the segment (``stores.messages.waiters``) hold the names.
"""

from __future__ import annotations

__all__ = ["WakeupFifo", "Notifier", "live_fifos", "is_open_here", "notify_all"]

import atexit
import contextlib
import errno
import os
import posix
import secrets
import stat
import threading
import weakref
from collections import OrderedDict
from typing import Any

from ..exceptions import SegmentRefused
from .fifo_directory import (
    PARENT,
    TO_NOTIFY,
    check_directory,
    drop_directory,
    fifo_files,
    fifo_path,
    prepare_directory,
    remove_fifo,
)
from .fifo_io import discard, wait_readable, write_byte
from .permissions import check_trust

#: How many wakeup FIFOs of other owners a notifier keeps open.
OPEN_FIFOS = 64
#: How often the creation of a FIFO starts again if its directory is removed meanwhile.
TRIES = 100

#: The FIFOs of this process by token. Not a set: other threads may add to it during an iteration, and the
#: references of a dict can be copied in one step.
_ours: weakref.WeakValueDictionary[int, WakeupFifo] = weakref.WeakValueDictionary()
_notifiers: weakref.WeakSet[Notifier] = weakref.WeakSet()


def live_fifos(fifos: weakref.WeakValueDictionary[int, WakeupFifo]) -> list[WakeupFifo]:
    """Return the wakeup FIFOs that still exist; other threads may add to ``fifos`` at the same time."""
    return [fifo for reference in fifos.valuerefs() for fifo in [reference()] if fifo is not None]


class WakeupFifo:
    """
    A FIFO of this process, for the segment called ``segment``, on which one thread or event loop sleeps.

    ``mode`` and ``group`` are its permissions and its group. ``fd`` is watched for reading, by ``wait`` or by
    an event loop; ``token`` is the number in its name. ``home``, ``record``, ``wait_generation`` and
    ``registration`` belong to ``stores.messages.waiters``: they say where it is registered in a segment.

    Raises ``SegmentRefused`` if the file system is full, or the directory cannot be trusted.
    """

    def __init__(self, segment: str, mode: int, group: int) -> None:
        self.pid = os.getpid()
        self.fd = -1
        self.home: Any = None
        self.record = 0
        self.wait_generation = -1
        self.registration = 0
        self.segment = segment
        self.token = secrets.randbits(62)
        self.path = fifo_path(segment, self.token)
        _ours[self.token] = self
        try:
            self._create(mode, group)
        except OSError as error:
            self.close()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SegmentRefused(
                segment,
                f"{PARENT} has no room for its wakeup FIFO: enlarge it (Docker: --shm-size), or free space in it",
            ) from None
        found = os.fstat(self.fd)
        self._identity = (found.st_dev, found.st_ino)

    def _create(self, mode: int, group: int) -> None:
        """Create the file, open it, and give it its name. The directory exists unless it was removed by hand."""
        for left in reversed(range(TRIES)):
            try:
                self._create_once(mode, group)
                return
            except FileNotFoundError:  # in between, another process has removed the segment with its directory
                fd, self.fd = self.fd, -1
                if fd >= 0:
                    os.close(fd)
                if not left:
                    raise

    def _create_once(self, mode: int, group: int) -> None:
        try:
            check_directory(self.segment, mode)
        except FileNotFoundError:
            prepare_directory(self.segment, mode, group)
        unnamed = self.path + "~"
        os.mkfifo(unnamed, 0o600)
        self.fd = os.open(unnamed, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if os.fstat(self.fd).st_gid != group:
            with contextlib.suppress(PermissionError):  # not a member: then no other user needs access
                os.fchown(self.fd, -1, group)
        os.fchmod(self.fd, mode)  # regardless of the umask
        os.rename(unnamed, self.path)

    def wait(self, seconds: float) -> bool:
        """Sleep until notified (True), or for ``seconds`` (False). Signal handlers run, and may raise."""
        is_readable = self.fd >= 0 and wait_readable(self.fd, max(0.0, seconds))
        if not is_readable or self.fd < 0:  # closed in a child that was forked meanwhile
            return False
        self.drain()
        return True

    def drain(self) -> None:
        """Discard the bytes in it. Call it before the notified list is read, never after."""
        discard(self.fd)

    def notify(self) -> None:
        """Wake its own sleeper, from any thread. Opens it by name: the sleeper may be closing ``fd``."""
        with contextlib.suppress(OSError):
            fd = posix.open(self.path, TO_NOTIFY)
            try:
                write_byte(fd)
            finally:
                posix.close(fd)

    def is_unlinked(self) -> bool:
        """
        True if its file was removed or replaced, so that it can no longer be notified.

        Also True in a forked child, where it is closed. (Greenlets survive a fork, so a child can ask.)
        """
        if self.fd < 0:
            return True
        try:
            found = os.stat(self.path)
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def close(self) -> None:
        """Close and remove it. A sweep of the segment later unregisters its record."""
        self.home = None
        self.remove_name()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)  # gevent's, if it is there: its event loop has watched this descriptor

    def remove_name(self) -> None:
        """Remove its file, unless this is a forked child: the file belongs to the parent."""
        if self.pid == os.getpid():
            for path in (self.path, self.path + "~"):
                with contextlib.suppress(OSError):
                    os.unlink(path)
            drop_directory(self.segment)

    def __del__(self) -> None:
        self.close()


class Notifier:
    """Notifies the wakeup FIFOs of one segment; keeps some of them open. ``mode`` says who may own them."""

    def __init__(self, segment: str, mode: int) -> None:
        self.segment = segment
        self.mode = mode
        self._forget()
        _notifiers.add(self)

    def _forget(self) -> None:
        self._closed = False
        #: Held while a descriptor is in use, so that no other thread closes it. It may let in a signal handler or
        #: another greenlet of this thread: they see ``_busy``.
        self._lock = threading.RLock()
        self._busy = False
        self._open: OrderedDict[int, int] = OrderedDict()

    def notify(self, token: int) -> bool:
        """Notify a FIFO; False if it is proven that no process has it open. Never waits or raises."""
        with self._lock:
            # A signal handler that interrupted this very method must not touch its descriptors. After
            # ``close`` no descriptor may be kept open, as nothing would close it.
            if self._busy or self._closed:
                return self._notify_once(token)
            self._busy = True
            try:
                return self._notify(token)
            finally:
                self._busy = False
                if self._closed:
                    self._close_all()

    def _notify(self, token: int) -> bool:
        fd = self._open.get(token)
        if fd is not None:
            if write_byte(fd):
                self._open.move_to_end(token)
                return True
            # No process has it open, or the program has closed our descriptor: opening it again shows which.
            self._drop(self._open.pop(token, -1))
        fd, there = self._open_fifo(token)
        if fd is None:
            return there
        self._open[token] = fd
        if len(self._open) > OPEN_FIFOS:
            self._drop(self._open.popitem(last=False)[1])
        return write_byte(fd)

    def _notify_once(self, token: int) -> bool:
        fd, there = self._open_fifo(token)
        if fd is None:
            return there
        try:
            return write_byte(fd)
        finally:
            posix.close(fd)

    def _open_fifo(self, token: int) -> tuple[int | None, bool]:
        """Return (descriptor to write to, or None; whether a process may have the FIFO open)."""
        try:
            fd = posix.open(fifo_path(self.segment, token), TO_NOTIFY)
        except OSError as error:
            return None, error.errno != errno.ENXIO  # other errors: removed, or not allowed; its owner polls
        found = os.fstat(fd)
        try:
            check_trust(found, self.mode, self.segment)
        except SegmentRefused:
            posix.close(fd)
            return None, True
        if not stat.S_ISFIFO(found.st_mode):
            posix.close(fd)
            return None, True
        return fd, True

    def close(self) -> None:
        """Close the FIFOs that are kept open. If this has interrupted ``notify``, that closes them at its end."""
        with self._lock:
            self._closed = True
            if not self._busy:
                self._close_all()

    def _close_all(self) -> None:
        while self._open:
            self._drop(self._open.popitem()[1])

    @staticmethod
    def _drop(fd: int) -> None:
        with contextlib.suppress(OSError):  # a program that becomes a daemon closes every descriptor it has
            posix.close(fd)


# -- all wakeup FIFOs of a segment ---------------------------------------------------------------------------------


def notify_all(notifier: Notifier) -> None:
    """Notify every wakeup FIFO of a segment, and remove those that no process has open. Never raises ``OSError``."""
    for name in fifo_files(notifier.segment, notifier.mode):
        if not name.endswith("~") and not notifier.notify(int(name, 16)):
            remove_fifo(notifier.segment, int(name, 16))


def is_open_here(token: int) -> bool:
    """True if the wakeup FIFO with this token belongs to this process and is not closed."""
    fifo = _ours.get(token)
    return fifo is not None and fifo.fd >= 0


# -- fork and exit ----------------------------------------------------------------------------------------------


def _after_fork_in_child() -> None:
    """A child opens its own descriptors to notify, and does not sleep on the FIFOs of its parent."""
    for notifier in list(_notifiers):
        for fd in notifier._open.values():
            Notifier._drop(fd)
        notifier._forget()
    for fifo in live_fifos(_ours):
        fifo.home = None  # its waiters belong to the parent: the child must not unregister them
        fd, fifo.fd = fifo.fd, -1
        if fd >= 0:
            os.close(fd)


def _at_exit() -> None:
    """Remove the files, which outlive the process. Other threads may still sleep, so nothing is closed."""
    for fifo in live_fifos(_ours):
        fifo.remove_name()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
