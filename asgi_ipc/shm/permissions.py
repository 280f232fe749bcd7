"""
The names and permissions of shared memory objects, and the checks that they can be trusted.

On Linux, named shared memory appears as files. Elsewhere (macOS) it has no path, and the checks that need one
are skipped. An object that another user owns, or that more users may write to than was requested, is
refused: a process that can write to a segment can pass any data to its readers. An object that some users may
only read is refused, too: such a user could hold locks that look like proofs of life (``file_locks``), or read the
bytes that notify a waiting process.
"""

from __future__ import annotations

__all__ = [
    "SHM_DIRECTORY",
    "check_kind",
    "check_removable",
    "check_trust",
    "create_object",
    "discard_name",
    "just_created",
    "removal_hint",
    "named_identity",
    "object_path",
    "restore_mode",
]

import contextlib
import errno
import os
import stat
import sys

import posix_ipc

from .. import clock
from ..exceptions import SegmentRefused

#: The directory in which named shared memory appears as files, or None.
SHM_DIRECTORY: str | None = "/dev/shm" if sys.platform.startswith("linux") else None

Identity = tuple[int, int]


def object_path(name: str) -> str | None:
    """Return the path of the object called ``name``, or None where objects have no path."""
    return os.path.join(SHM_DIRECTORY, name) if SHM_DIRECTORY else None


def named_identity(name: str) -> Identity | None:
    """Return the device and inode that a segment's name refers to now; None if there is no such name."""
    path = object_path(name)
    try:
        if path is not None:
            found = os.stat(path)
        else:
            fd = posix_ipc.SharedMemory("/" + name).fd
            found = os.fstat(fd)
            os.close(fd)  # drops no lock: where names have no path, locks are in a separate file
    except (FileNotFoundError, posix_ipc.Error):
        return None
    return found.st_dev, found.st_ino


def create_object(name: str, mode: int) -> int:
    """
    Create an empty shared memory object, and return its descriptor.

    The umask has no effect on ``mode``. It could otherwise leave a group that may read and not write, which
    ``check_trust`` refuses.

    Raises ``posix_ipc.ExistentialError`` if it exists, and ``SegmentRefused`` if this user may not create any.
    """
    try:
        fd: int = posix_ipc.SharedMemory("/" + name, posix_ipc.O_CREX, mode=0o600).fd
    except (posix_ipc.PermissionsError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EROFS:
            raise
        raise SegmentRefused(
            name,
            f"this user may not create it ({error}): {SHM_DIRECTORY or 'shared memory'} must be writable, with mode "
            "1777; in a container or a service, check how it is mounted",
        ) from None
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            os.fchmod(fd, mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def removal_hint(segment: str) -> str:
    """Return how to fix a segment that cannot be used, for an error message."""
    path = object_path(segment)
    by_hand = f" (or: rm {path})" if path else ""
    return f"stop the processes that use it, then 'asgi-ipc unlink {segment.rpartition('-')[0]}'{by_hand}"


def just_created(name: str) -> bool:
    """True if the object called ``name`` was created or changed in the last second, or no longer exists."""
    path = object_path(name)
    try:
        return path is not None and abs(clock.wall() - os.stat(path).st_ctime) < 1.0  # the clock may be set back
    except FileNotFoundError:
        return True


def restore_mode(name: str, mode: int) -> bool:
    """
    Set the mode of an object that this user owns but may not open.

    Such an object was created under a umask that denies access even to its owner, and its creator was killed
    before it set the mode. Returns False if another user owns the object, or objects have no path.
    """
    path = object_path(name)
    try:
        if path is None or os.lstat(path).st_uid != os.geteuid():
            return False
        os.chmod(path, mode)
    except FileNotFoundError:
        pass
    return True


def discard_name(name: str) -> bool:
    """
    Remove the name of a segment; False if there was none.

    The memory is freed when the last process unmaps it.
    """
    try:
        posix_ipc.unlink_shared_memory("/" + name)
    except posix_ipc.ExistentialError:
        return False
    return True


def check_trust(found: os.stat_result, mode: int, segment: str, what: str = "it") -> None:
    """
    Raise ``SegmentRefused`` for an object of another user, or one with unsuitable permissions.

    These are more write permissions than ``mode`` has, and a group or other users who may read but not write, or
    write but not read.

    The owner must be this user or root. Where both ``mode`` and the object's mode allow the group (or
    everybody) to write, another member of the group (or any user) may be the owner too. ``segment`` and
    ``what`` are for the error: the name of the segment, and the object.
    """
    me = os.geteuid()
    if found.st_uid not in (me, 0):
        shared = found.st_mode & mode
        in_group = found.st_gid == os.getegid() or found.st_gid in os.getgroups()
        if not (shared & stat.S_IWOTH or (shared & stat.S_IWGRP and in_group)):
            raise SegmentRefused(
                segment,
                f"{what} belongs to user {found.st_uid}, and this process is user {me}: remove it, choose another "
                "prefix, or let both users share a group and pass mode=0o660",
            )
    is_mode = stat.S_IMODE(found.st_mode)
    # With the write bits at the place of the read bits, the two must agree.
    if (is_mode ^ is_mode << 1) & (stat.S_IRGRP | stat.S_IROTH):
        raise SegmentRefused(
            segment,
            f"{what} has mode {is_mode:#o}, so other users may open it but not read and write it; they could make "
            f"dead processes look alive. Use mode 0o600, 0o660 or 0o666: {removal_hint(segment)}",
        )
    if is_mode & (stat.S_IWGRP | stat.S_IWOTH) & ~mode:
        wider = 0o666 if is_mode & stat.S_IWOTH else 0o660
        raise SegmentRefused(
            segment,
            f"{what} has mode {is_mode:#o}, so other users may write to it, but mode {mode:#o} was requested: pass "
            f"mode={wider:#o} if that is intended, or remove it",
        )


def check_kind(segment: str) -> None:
    """Raise ``SegmentRefused`` if a link, a directory or a FIFO has the name of a segment."""
    path = object_path(segment)
    if path is not None:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise SegmentRefused(segment, f"{path} is not shared memory: remove it, or choose another prefix")


def check_removable(found: os.stat_result, segment: str) -> None:
    """Raise ``SegmentRefused`` for a segment that this user may use, but not remove."""
    me = os.geteuid()
    if me not in (0, found.st_uid):
        raise SegmentRefused(
            segment,
            f"it belongs to user {found.st_uid}, and only its owner can remove it, but this process is user {me}: "
            f"run 'asgi-ipc unlink {segment.rpartition('-')[0]}' as its owner",
        )
