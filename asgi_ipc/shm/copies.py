"""
One copy of the package for each segment and process.

The kernel grants a byte lock to a process, not to the code that asked for it.  So two copies of the package in one
process, as in two subinterpreters, would get the same slot, and neither would exclude the other.  The mark of a copy is
its mapping of the segment, which belongs to the process: another copy finds it in ``/proc/self/maps``, or if that
cannot be read, by the byte locks that the process holds.

The kernel also drops the byte locks of a process when it closes *any* descriptor of the file, and ``mmap`` holds a
descriptor too.  So a descriptor that was opened although the file is in use in this process stays open as long as that
use.
"""

from __future__ import annotations

__all__ = ["Mapping", "alone", "check_alone", "close_unused", "kept", "let_go", "use"]

import contextlib
import gc
import os
import re
from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple, Protocol

from .. import clock
from ..exceptions import SegmentBusy, SegmentRefused
from .file_locks import ByteLocks
from .layout import SLOTS
from .permissions import Identity

#: The mappings of this process, one a line. Does not exist outside Linux, or if ``/proc`` is not mounted.
MAPS = "/proc/self/maps"
#: The first byte of a gate, far behind the bytes of the slots. Each process has its own.
FIRST_GATE = 1 << 40
#: Seconds between two tries while another copy holds the gate.
GATE_PAUSE = 0.001


class User(Protocol):
    """What uses a file: a ``Segment``."""

    def close(self) -> None:
        """Let go of the file."""


class Mapping(NamedTuple):
    """A mapping of a file, and the view of it that must be released first."""

    words: memoryview | None
    data: mmap


class Use:
    """A file with locks that ``user`` uses, and what to close when that ends."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.fds: set[int] = set()
        self.mappings: dict[int, Mapping] = {}
        self.has_ended = False

    def close(self) -> None:
        """Close everything, each thing once: a signal handler may interrupt this, and then it is called again."""
        while self.mappings:
            _, (words, data) = self.mappings.popitem()
            if words is not None:
                words.release()
            data.close()
        while self.fds:
            os.close(self.fds.pop())


#: The files with locks that this copy uses.
_uses: dict[Identity, Use] = {}
#: Descriptors of files that another copy uses, one for each file.
_kept: dict[Identity, int] = {}


def check_alone(identity: Identity | None, name: str, locks: ByteLocks | None = None) -> None:
    """
    Raise ``SegmentRefused`` if another copy of the package in this process has mapped the segment ``name``.

    ``identity`` is its file, or None if that does not exist. ``locks`` are looked at if the system does not show the
    mappings. Without them, nothing can be said then.
    """
    if identity is None or identity in _uses or not _is_used(identity[1], name, locks):
        return
    gc.collect()  # a copy that was dropped closes its layers only then
    if _is_used(identity[1], name, locks):
        raise SegmentRefused(
            name,
            "another copy of asgi_ipc in this process already uses it, and the kernel does not tell two copies in one "
            "process apart; use one copy: WSGIApplicationGroup %{GLOBAL} for mod_wsgi, single-interpreter = true for "
            "uWSGI; do not remove asgi_ipc from sys.modules and import it again; or use another prefix in each copy",
        )


def _is_used(inode: int, name: str, locks: ByteLocks | None) -> bool:
    """True if the mappings of this process show the file, or if they are not known, the byte locks do."""
    mapped = _is_mapped(inode, name)
    if mapped is None and locks is not None:
        return any(locks.is_ours(1 + slot) for slot in range(SLOTS))
    return bool(mapped)


def _is_mapped(inode: int, name: str) -> bool | None:
    """True if this process has mapped the file with this inode and name; None if the system does not show that."""
    try:
        with open(MAPS, "rb") as file:
            maps = file.read()
    except OSError:
        return None
    # address, permissions, offset, device, inode, path. The device is left out: some file systems show another one
    # here than ``stat`` returns.
    line = rb"^\S+ \S+ \S+ \S+ %d +(.*/)?%s( \(deleted\))?$" % (inode, re.escape(name.encode()))
    return re.search(line, maps, re.MULTILINE) is not None


@contextlib.contextmanager
def alone(locks: ByteLocks, identity: Identity, name: str, patience: float) -> Iterator[None]:
    """
    Let one copy at a time check that it is alone, and map the segment ``name``, which is open as ``locks.fd``.

    The gate is a lock of the open file description, which other copies in this process do not share. Raises
    ``SegmentRefused`` if another copy has mapped the segment, and ``SegmentBusy`` after ``patience`` seconds.
    """
    byte = FIRST_GATE + os.getpid()
    for _ in clock.tries(patience, GATE_PAUSE):
        if locks.lock_description(byte) is not False:  # None: the system has no such locks
            break
    else:
        raise SegmentBusy(name, None, patience)
    try:
        close_unused(identity)  # what a signal handler has interrupted
        try:
            check_alone(identity, name, locks)
        except SegmentRefused:
            _kept[identity] = locks.fd
            raise
        yield
    finally:
        locks.unlock_description(byte)


def use(identity: Identity, user: User) -> None:
    """Record that ``user`` uses a file, unless another user in this copy does."""
    _uses.setdefault(identity, Use(user))


def let_go(identity: Identity, user: User, mapping: Mapping | None, fds: set[int]) -> None:
    """
    Record that ``user`` no longer uses a file, and what it has of it. ``close_unused`` closes that.

    If another user in this copy uses the same file, it is closed when that one lets go of it. A descriptor of a file
    that another copy uses stays open.
    """
    used = _uses.setdefault(identity, Use(user))
    used.fds |= fds - {-1, _kept.get(identity, -1)}
    if mapping is not None:
        used.mappings[id(mapping.data)] = mapping
    used.has_ended = used.has_ended or used.user is user


def close_unused(identity: Identity | None) -> None:
    """Close what this copy has of a file that it no longer uses. That drops all byte locks of this process on it."""
    used = None if identity is None else _uses.get(identity)
    if identity is not None and used is not None and used.has_ended:
        used.close()
        _uses.pop(identity, None)


def kept(identity: Identity | None) -> int | None:
    """Return the descriptor that was kept open for a file, which is then no longer kept; None if there is none."""
    return None if identity is None else _kept.pop(identity, None)
