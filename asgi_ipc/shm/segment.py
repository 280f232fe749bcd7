"""
One segment of named shared memory: found or created, checked, mapped.

A kill at any point of the creation does no harm. The process that holds byte lock 0, the admin lock,
initialises the segment and writes the magic last. A segment without magic is unfinished, and the next process
that opens it initialises it from the start. A removed segment has a tombstone in its epoch word, which the
processes that still map it notice.

The kernel drops a byte lock when its process closes any descriptor of the file (``file_locks``), and ``mmap``
holds a descriptor too. So a process maps a segment once, and ``copies`` decides when a descriptor is closed.
"""

from __future__ import annotations

__all__ = ["Segment"]

import contextlib
import errno
import mmap
import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

import posix_ipc

from .. import clock
from ..exceptions import SegmentBusy, SegmentMismatch, SegmentRefused
from . import copies
from .fifo_directory import prepare_directory, remove_directory
from .file_locks import ByteLocks
from .header import flaw_of, has_magic
from .layout import (
    AT_CHECKSUM,
    AT_EPOCH,
    AT_KEY,
    AT_KIND,
    AT_LOCK_DEVICE,
    AT_LOCK_INODE,
    AT_MAGIC,
    AT_NONCE,
    AT_RESERVED,
    AT_SIZE,
    AT_VERSION,
    HEADER_WORDS,
    KIND_MESSAGES,
    MAGIC,
    TOMBSTONE,
    VERSION,
    WORD,
    Geometry,
    fixed_checksum,
)
from .permissions import (
    SHM_DIRECTORY,
    Identity,
    check_kind,
    check_removable,
    check_trust,
    create_object,
    discard_name,
    just_created,
    named_identity,
    object_path,
    removal_hint,
    restore_mode,
)
from .semaphores import Semaphores

R = TypeVar("R")

#: macOS cannot lock a shared memory descriptor: there the locks are on a file in the temporary directory.
LOCKS_IN_FILE = SHM_DIRECTORY is None
#: The epoch of a segment that was never recovered.
FIRST_EPOCH = 2
#: The byte of the admin lock, which a process holds while it creates, recovers or removes the segment.
ADMIN_LOCK_BYTE = 0
#: Seconds between two tries while another process holds the admin lock.
ADMIN_LOCK_PAUSE = 0.001


class Segment:
    """
    A mapped segment: ``words`` accesses it as 64-bit words, ``data`` copies payloads in and out as bytes.

    ``size``, ``geometry`` and ``key`` are checked at attach and never read from memory again.
    """

    words: memoryview
    data: mmap.mmap
    locks: ByteLocks
    semaphores: Semaphores
    size: int
    geometry: Geometry
    key: bytes

    def __init__(self, name: str, kind: int, mode: int, patience: float) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.patience = patience
        self.fd = -1
        self.identity: Identity = (0, 0)
        self.locked: Identity = (0, 0)

    @classmethod
    def attach(
        cls, name: str, kind: int, size: int, mode: int, patience: float, prepare: Callable[[Segment], None]
    ) -> Segment:
        """
        Open the segment ``name``, or create it with ``size`` bytes if it does not exist.

        ``prepare(segment)`` initialises what follows the header of a new segment before it is published;
        ``mode`` are the permissions. Raises ``SegmentRefused`` (owner, permissions, no room for the fixed
        parts, another copy of the package in this process), ``SegmentMismatch`` (not a segment of this
        package, or of another version) and ``SegmentBusy`` (another process has been creating or removing it
        for ``patience`` seconds).
        """
        for _ in clock.tries(patience, ADMIN_LOCK_PAUSE):
            segment = cls(name, kind, mode, patience)
            try:
                if segment._open() and segment._finish_alone(size, prepare):
                    return segment
            except BaseException:
                segment.close()
                raise
            segment.close()
        raise SegmentBusy(name, None, patience)

    def _open(self) -> bool:
        """Open a descriptor; False if the name appeared or disappeared in between: the caller tries again."""
        check_kind(self.name)
        named = named_identity(self.name)
        copies.check_alone(named, self.name)  # before there is a descriptor that could not be closed
        # Where fs.protected_regular is set, O_CREAT fails on an existing file of another user. So the first
        # try is without it.
        try:
            kept = copies.kept(named)
            self.fd = posix_ipc.SharedMemory("/" + self.name).fd if kept is None else kept
        except posix_ipc.ExistentialError:
            try:
                self.fd = create_object(self.name, self.mode)
            except posix_ipc.ExistentialError:
                return False
        except posix_ipc.PermissionsError:
            if just_created(self.name) or restore_mode(self.name, self.mode):  # the mode is not set yet
                return False
            raise SegmentRefused(
                self.name,
                "this user may not open it: run as the user who created it, or let both users share a group and pass "
                "mode=0o660 on both sides",
            ) from None
        found = os.fstat(self.fd)
        self.identity = self.locked = (found.st_dev, found.st_ino)
        check_trust(found, self.mode, self.name)
        self.locks = ByteLocks(self._open_lock_file() if LOCKS_IN_FILE else self.fd)
        if LOCKS_IN_FILE:
            self.locked = self._lock_file()
        return True

    def _open_lock_file(self) -> int:
        """Open the file whose bytes are locked where the segment itself cannot be locked."""
        path = os.path.join(tempfile.gettempdir(), f"asgi_ipc-{self.name}.lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), self.mode)
        if os.fstat(fd).st_uid == os.geteuid():
            os.fchmod(fd, self.mode)
        check_trust(os.fstat(fd), self.mode, self.name, f"its lock file {path}")
        return fd

    # -- creating and checking --------------------------------------------------------------------------------

    def _finish_alone(self, size: int, prepare: Callable[[Segment], None]) -> bool:
        """Map the segment if no other copy in this process has. False if it was removed: the caller tries again."""
        with copies.alone(self.locks, self.locked, self.name, self.patience):
            if not self._finish(size, prepare):
                return False
            copies.use(self.locked, self)
            return True

    def _finish(self, size: int, prepare: Callable[[Segment], None]) -> bool:
        """Map the segment, creating it if unfinished. False if it was removed."""
        if not self._map_finished() and not self._with_admin_lock(self.patience, self._map_or_create, size, prepare):
            return False
        self._check_header()
        if self.words[AT_EPOCH] == TOMBSTONE:  # a process was killed before it removed the name
            self.remove(self.patience)
            return False
        return True

    def _map_or_create(self, size: int, prepare: Callable[[Segment], None]) -> bool:
        if not self.still_named():
            return False
        if not self._map_finished():
            self._create(size, prepare)
        return True

    def _map_finished(self) -> bool:
        """Map the whole file; False if it has no magic yet, that is, if it is unfinished."""
        finished = has_magic(self.fd, LOCKS_IN_FILE)
        size = os.fstat(self.fd).st_size  # read after the magic: a creator sets it before
        if size == 0:
            return False
        if size < HEADER_WORDS * WORD or size % WORD:
            flaw = f"it has {size} bytes, which is not the size of a segment of this package"
            raise SegmentMismatch(self.name, f"{flaw}: {removal_hint(self.name)}")
        if finished:
            self._map(size)
            return True
        path = object_path("sem." + self.name)
        if path is not None and os.path.exists(path):  # 1.x created a semaphore of exactly that name
            raise SegmentMismatch(self.name, f"it was created by asgi_ipc 1.x: {removal_hint(self.name)}")
        return False

    def _check_header(self) -> None:
        """Raise ``SegmentMismatch`` unless every header word that never changes is as it was written."""
        flaw = flaw_of(self.words, self.kind, len(self.data), self._lock_file())
        if flaw is not None:
            raise SegmentMismatch(self.name, f"{flaw}: {removal_hint(self.name)}")
        self._remember()

    def _create(self, size: int, prepare: Callable[[Segment], None]) -> None:
        """Initialise a new segment. The caller holds the admin lock and has checked ``still_named``."""
        if stat.S_IMODE(os.fstat(self.fd).st_mode) != self.mode:  # because of the umask
            os.fchmod(self.fd, self.mode)  # only if it differs: another user of the group may not change it
        os.ftruncate(self.fd, 0)  # discard what an unfinished creation left
        os.ftruncate(self.fd, size)
        heap_at = Geometry.of(size, self.kind).heap_at
        if not self.reserve(0, heap_at):
            os.ftruncate(self.fd, 0)
            with contextlib.suppress(posix_ipc.Error):
                discard_name(self.name)
            problem = f"{SHM_DIRECTORY or 'shared memory'} has no room for its first {heap_at * WORD} bytes"
            raise SegmentRefused(self.name, f"{problem}: enlarge it (Docker: --shm-size)")
        self._map(size)
        words = self.words
        words[AT_VERSION], words[AT_KIND], words[AT_SIZE] = VERSION, self.kind, size
        words[AT_NONCE] = secrets.randbits(48)
        words[AT_KEY], words[AT_KEY + 1] = secrets.randbits(64), secrets.randbits(64)
        words[AT_LOCK_DEVICE], words[AT_LOCK_INODE] = self._lock_file()
        words[AT_CHECKSUM] = fixed_checksum([MAGIC, *words[1:AT_CHECKSUM]])
        words[AT_RESERVED] = heap_at
        self._remember()
        prepare(self)
        self.semaphores.unlink_lost()  # no other segment has this name now
        if self.kind == KIND_MESSAGES:
            prepare_directory(self.name, self.mode, self.semaphores.group)
        words[AT_EPOCH] = self.semaphores.create_from(FIRST_EPOCH)
        words[AT_MAGIC] = MAGIC  # commit

    def _lock_file(self) -> tuple[int, int]:
        if not LOCKS_IN_FILE:
            return 0, 0
        found = os.fstat(self.locks.fd)
        return found.st_dev, found.st_ino

    def _remember(self) -> None:
        """Copy the words that never change, so that no later damage to them has an effect."""
        words = self.words
        self.size = words[AT_SIZE]
        self.geometry = Geometry.of(self.size, self.kind)
        self.key = words[AT_KEY].to_bytes(WORD, "little") + words[AT_KEY + 1].to_bytes(WORD, "little")
        self.semaphores = Semaphores(self.name, words[AT_NONCE], self.key, self.mode, os.fstat(self.fd).st_gid)

    # -- memory -----------------------------------------------------------------------------------------------

    def _map(self, size: int) -> None:
        self.data = mmap.mmap(self.fd, size)
        self.words = memoryview(self.data).cast("Q")

    def reserve(self, first: int, last: int) -> bool:
        """
        Reserve memory for words ``first`` to ``last`` (exclusive) before they are used.

        Returns False if the file system is full. Without this, an access to a page that cannot be allocated
        would raise SIGBUS.
        """
        if not hasattr(os, "posix_fallocate"):
            return True  # macOS allocates all memory of a shared memory object when its size is set
        try:
            os.posix_fallocate(self.fd, first * WORD, (last - first) * WORD)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT):
                return False
            raise
        return True

    # -- removal ----------------------------------------------------------------------------------------------

    def take_admin_lock(self, patience: float) -> None:
        """Take the admin lock. Raises ``SegmentBusy``, with the holder's id, after ``patience`` seconds."""
        for _ in clock.tries(patience, ADMIN_LOCK_PAUSE):
            if self.locks.lock(ADMIN_LOCK_BYTE):
                return
        raise SegmentBusy(self.name, self.locks.holder(ADMIN_LOCK_BYTE) or None, patience)

    def _with_admin_lock(self, patience: float, work: Callable[..., R], *args: Any) -> R:
        """Return ``work(*args)``, called with the admin lock, which an exception at any point releases."""
        try:
            try:
                self.take_admin_lock(patience)
                return work(*args)
            finally:
                self.locks.unlock(ADMIN_LOCK_BYTE)
        finally:
            self.locks.unlock(ADMIN_LOCK_BYTE)  # an exception may have come just before the first unlock

    def still_named(self) -> bool:
        """True if the name still refers to this file: it was neither removed nor replaced."""
        return named_identity(self.name) == self.identity

    def remove(self, patience: float) -> None:
        """Remove the segment for every process. Raises ``SegmentRefused``, and ``SegmentBusy`` after ``patience``."""
        self._with_admin_lock(patience, self._remove)

    def _remove(self) -> None:
        check_removable(os.fstat(self.fd), self.name)
        epoch = self.words[AT_EPOCH]
        self.words[AT_EPOCH] = TOMBSTONE  # commit
        if self.still_named():
            self.semaphores.unlink_lost()  # before the name: the next segment creates its own
            discard_name(self.name)
            remove_directory(self.name, self.mode)
        if epoch != TOMBSTONE:
            for candidate in (epoch & ~1, (epoch & ~1) + 2):  # a recovery may have created the next one
                self.semaphores.unlink(candidate)

    def close(self) -> None:
        """
        Unmap the segment and close its descriptors. That drops every byte lock of this process on it.

        If the same file is mapped by another ``Segment``, both are done when that one is closed.
        """
        mapping = None
        if hasattr(self, "data"):
            mapping = copies.Mapping(getattr(self, "words", None), self.data)
        fds = {self.fd}
        if LOCKS_IN_FILE and hasattr(self, "locks"):
            fds.add(self.locks.fd)
        copies.let_go(self.locked, self, mapping, fds)  # first: a signal handler may interrupt the rest
        self.fd = -1
        self.__dict__.pop("words", None)
        self.__dict__.pop("data", None)
        copies.close_unused(self.locked)
