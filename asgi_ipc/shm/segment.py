"""
One segment of named shared memory: found or created, checked, mapped.

A segment comes into being so that a kill at any point spoils nothing: whoever holds byte lock 0 fills it in and
writes the magic last; a segment without magic is nobody's yet, and the next comer fills it in again from nothing.
A segment that was removed has a tombstone for an epoch, so that processes that still map it notice.

A byte lock falls as soon as its process closes any descriptor of the file (``locks``), and ``mmap`` holds a descriptor
too: so a segment is mapped once a process, and a second descriptor that was opened by a race is not closed before it.
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
import time
from typing import Any, Callable, Dict, List, Tuple, TypeVar

import posix_ipc

from ..exceptions import SegmentBusy, SegmentMismatch, SegmentRefused
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
    discard_name,
    just_created,
    named_identity,
    object_path,
    removal_hint,
    restore_mode,
)
from .semaphores import Semaphores
from .wakeup_fifo import sweep_fifos

R = TypeVar("R")

#: macOS cannot lock a shared memory descriptor: a file in the temporary directory stands in for it there.
LOCKS_IN_FILE = SHM_DIRECTORY is None
#: The epoch of a segment that nobody has recovered yet.
FIRST_EPOCH = 2
#: The byte whose lock says "I am creating, recovering or removing this segment".
ADMIN_LOCK_BYTE = 0
#: Seconds between two looks while somebody else has the admin lock.
ADMIN_LOCK_PAUSE = 0.001


class Segment:
    """
    A mapped segment: ``words`` to read and write as 64-bit words, ``data`` to copy payloads in and out as bytes.

    ``size``, ``geometry`` and ``key`` were checked when it was attached and are never read from memory again.
    """

    #: Segments this process has mapped, by the file with their locks, whose other descriptors must outlive theirs.
    _mapped: Dict[Identity, Segment] = {}

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
        self._others: List[int] = []

    @classmethod
    def attach(
        cls, name: str, kind: int, size: int, mode: int, patience: float, prepare: Callable[[Segment], None]
    ) -> Segment:
        """
        Open the segment ``name``, creating it with ``size`` bytes if there is none.

        ``prepare(segment)`` fills in what lies behind the header of a new segment, before it is published.
        Raises ``SegmentRefused`` (owner, permissions, no room for the fixed parts), ``SegmentMismatch`` (not ours, or
        of another version) and ``SegmentBusy`` (somebody has been creating it for ``patience`` seconds).
        """
        deadline = time.monotonic() + patience
        while True:
            segment = cls(name, kind, mode, patience)
            try:
                if segment._open() and segment._finish(size, prepare):
                    cls._mapped[segment.locked] = segment
                    return segment
            except BaseException:
                segment.close()
                raise
            segment.close()
            if time.monotonic() > deadline:
                raise SegmentBusy(name, None, patience)
            time.sleep(ADMIN_LOCK_PAUSE)

    def _open(self) -> bool:
        """Get a descriptor; False if the name appeared or vanished meanwhile (come again)."""
        check_kind(self.name)
        # O_CREAT on a file that exists and belongs to another user fails where fs.protected_regular is set,
        # so a segment that exists is opened without it.
        try:
            self.fd = posix_ipc.SharedMemory("/" + self.name).fd
        except posix_ipc.ExistentialError:
            try:
                self.fd = posix_ipc.SharedMemory("/" + self.name, posix_ipc.O_CREX, mode=self.mode).fd
            except posix_ipc.ExistentialError:
                return False
        except posix_ipc.PermissionsError:
            if just_created(self.name) or restore_mode(self.name, self.mode):  # its creator has not set its mode yet
                return False
            raise SegmentRefused(
                self.name,
                "this user may not open it: run as the user who made it, or let both users share a group and pass "
                "mode=0o660 on both sides",
            ) from None
        found = os.fstat(self.fd)
        self.identity = (found.st_dev, found.st_ino)
        check_trust(found, self.mode, self.name)
        self.locks = ByteLocks(self._open_lock_file() if LOCKS_IN_FILE else self.fd)
        self.locked = self._lock_file() if LOCKS_IN_FILE else self.identity
        return True

    def _open_lock_file(self) -> int:
        """The file whose bytes are locked in place of the segment's, where a segment itself cannot be locked."""
        path = os.path.join(tempfile.gettempdir(), f"asgi_ipc-{self.name}.lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), self.mode)
        if os.fstat(fd).st_uid == os.geteuid():
            os.fchmod(fd, self.mode)
        check_trust(os.fstat(fd), self.mode, self.name, f"its lock file {path}")
        return fd

    # -- creating and checking --------------------------------------------------------------------------------

    def _finish(self, size: int, prepare: Callable[[Segment], None]) -> bool:
        """Map a finished segment, or finish it first; False if it was removed meanwhile (come again)."""
        if not self._map_finished() and not self._with_admin_lock(self._map_or_create, size, prepare):
            return False
        self._check_header()
        if self.words[AT_EPOCH] == TOMBSTONE:  # whoever removed it was killed between tombstone and name
            self.remove()
            return False
        return True

    def _map_or_create(self, size: int, prepare: Callable[[Segment], None]) -> bool:
        if not self.still_named():
            return False
        if not self._map_finished():
            self._create(size, prepare)
        return True

    def _map_finished(self) -> bool:
        """Map the whole file; False if it has no magic yet, that is, if its creator has not finished it."""
        finished = has_magic(self.fd, LOCKS_IN_FILE)
        size = os.fstat(self.fd).st_size  # after the magic: it is set before
        if size == 0:
            return False
        if size < HEADER_WORDS * WORD or size % WORD:
            flaw = f"its {size} bytes are no segment of this package"
            raise SegmentMismatch(self.name, f"{flaw}: {removal_hint(self.name)}")
        if finished:
            self._map(size)
            return True
        path = object_path("sem." + self.name)
        if path is not None and os.path.exists(path):  # the old package made a semaphore of just that name
            raise SegmentMismatch(self.name, f"it was made by asgi_ipc 1.x: {removal_hint(self.name)}")
        return False

    def _check_header(self) -> None:
        """Believe a header only when every word that never changes is as it was written."""
        flaw = flaw_of(self.words, self.kind, len(self.data), self._lock_file())
        if flaw is not None:
            raise SegmentMismatch(self.name, f"{flaw}: {removal_hint(self.name)}")
        self._remember()

    def _create(self, size: int, prepare: Callable[[Segment], None]) -> None:
        """Fill in a new segment. Caller holds the admin lock and has seen that the name still leads here."""
        if stat.S_IMODE(os.fstat(self.fd).st_mode) != self.mode:  # whatever the umask
            os.fchmod(self.fd, self.mode)  # only its owner may: another user can finish what he left half done
        os.ftruncate(self.fd, 0)  # what an earlier creator left half done is gone
        os.ftruncate(self.fd, size)
        heap_at = Geometry.of(size, self.kind).heap_at
        if not self.reserve(0, heap_at):
            os.ftruncate(self.fd, 0)
            with contextlib.suppress(posix_ipc.Error):
                discard_name(self.name)
            hub = f"{SHM_DIRECTORY or 'shared memory'} has no room for its first {heap_at * WORD} bytes"
            raise SegmentRefused(self.name, f"{hub}: enlarge it (Docker: --shm-size)")
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
        self.semaphores.unlink_lost()  # the name is ours alone now
        sweep_fifos(self.name)
        self.semaphores.create(FIRST_EPOCH)
        words[AT_EPOCH] = FIRST_EPOCH
        words[AT_MAGIC] = MAGIC  # commit

    def _lock_file(self) -> Tuple[int, int]:
        if not LOCKS_IN_FILE:
            return 0, 0
        found = os.fstat(self.locks.fd)
        return found.st_dev, found.st_ino

    def _remember(self) -> None:
        """Keep the words that never change: nobody can change them under us any more."""
        words = self.words
        self.size = words[AT_SIZE]
        self.geometry = Geometry.of(self.size, self.kind)
        self.key = words[AT_KEY].to_bytes(WORD, "little") + words[AT_KEY + 1].to_bytes(WORD, "little")
        self.semaphores = Semaphores(self.name, words[AT_NONCE], self.mode, os.fstat(self.fd).st_gid)

    # -- memory -----------------------------------------------------------------------------------------------

    def _map(self, size: int) -> None:
        self.data = mmap.mmap(self.fd, size)
        self.words = memoryview(self.data).cast("Q")

    def _unmap(self) -> None:
        if hasattr(self, "words"):
            self.words.release()
            self.data.close()
            del self.words, self.data

    def reserve(self, first: int, last: int) -> bool:
        """
        Get memory for words ``first`` to ``last`` (exclusive) before anybody touches them.

        False if the file system has none left: touching a page that cannot be had is a SIGBUS, this is a refusal.
        """
        if not hasattr(os, "posix_fallocate"):
            return True  # macOS takes all the memory of a shared memory object when its size is set
        try:
            os.posix_fallocate(self.fd, first * WORD, (last - first) * WORD)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT):
                return False
            raise
        return True

    # -- removal ----------------------------------------------------------------------------------------------

    def take_admin_lock(self) -> None:
        """Take the admin lock, waiting ``patience`` seconds for it; ``SegmentBusy`` names who has it."""
        deadline = time.monotonic() + self.patience
        while not self.locks.lock(ADMIN_LOCK_BYTE):
            if time.monotonic() > deadline:
                raise SegmentBusy(self.name, self.locks.holder(ADMIN_LOCK_BYTE) or None, self.patience)
            time.sleep(ADMIN_LOCK_PAUSE)

    def _with_admin_lock(self, work: Callable[..., R], *args: Any) -> R:
        """Return ``work(*args)``, done with the admin lock, which is given back whatever exception comes when."""
        try:
            try:
                self.take_admin_lock()
                return work(*args)
            finally:
                self.locks.unlock(ADMIN_LOCK_BYTE)
        finally:
            self.locks.unlock(ADMIN_LOCK_BYTE)  # an exception may have come just before the first

    def still_named(self) -> bool:
        """Whether the name still leads here: nobody has removed the file, or put another in its place."""
        return named_identity(self.name) == self.identity

    def remove(self) -> None:
        """Take the segment away from everybody: tombstone, then name, then semaphores."""
        self._with_admin_lock(self._remove)

    def _remove(self) -> None:
        check_removable(os.fstat(self.fd), self.name)
        epoch = self.words[AT_EPOCH]
        self.words[AT_EPOCH] = TOMBSTONE  # commit
        if self.still_named():
            self.semaphores.unlink_lost()  # before the name: whoever comes after it makes new ones
            discard_name(self.name)
            sweep_fifos(self.name)
        if epoch != TOMBSTONE:
            for half_open in (epoch & ~1, (epoch & ~1) + 2):  # a recovery may have made the next one already
                self.semaphores.unlink(half_open)

    def close(self) -> None:
        """Unmap and give back the descriptors, and with them every byte lock of this process on the segment."""
        self._unmap()
        mapped = self._mapped.get(self.locked)
        fds = {self.fd, *self._others} - {-1}
        if LOCKS_IN_FILE and hasattr(self, "locks"):
            fds.add(self.locks.fd)
        if mapped is None or mapped is self:
            self._mapped.pop(self.locked, None)
            for fd in fds:
                os.close(fd)
        else:  # closing them now would drop the locks of the segment that is in use
            mapped._others.extend(fds)
        self.fd = -1
        self._others = []
