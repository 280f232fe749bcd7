"""
What the operating system calls our objects, and whom we trust with them.

Named shared memory shows up as files on Linux; elsewhere (macOS) it has no path at all, and what needs one does
without.  An object that a stranger owns, or that more people may write than were asked for, is refused: whoever can
write a segment can make its readers believe anything.
"""

from __future__ import annotations

__all__ = [
    "SHM_DIRECTORY",
    "check_kind",
    "check_removable",
    "check_trust",
    "discard_name",
    "just_created",
    "removal_hint",
    "named_identity",
    "object_path",
    "restore_mode",
]

import contextlib
import os
import stat
import sys
import time
from typing import Optional, Tuple

import posix_ipc

from ..exceptions import SegmentRefused

#: Where the kernel shows named shared memory as files.
SHM_DIRECTORY: Optional[str] = "/dev/shm" if sys.platform.startswith("linux") else None

Identity = Tuple[int, int]


def object_path(name: str) -> Optional[str]:
    """The file that shows the object called ``name``, or None where the system has no such files."""
    return os.path.join(SHM_DIRECTORY, name) if SHM_DIRECTORY else None


def named_identity(name: str) -> Optional[Identity]:
    """Device and inode that the segment name leads to now; None if it leads nowhere."""
    path = object_path(name)
    try:
        if path is not None:
            found = os.stat(path)
        else:
            fd = posix_ipc.SharedMemory("/" + name).fd
            found = os.fstat(fd)
            os.close(fd)  # drops no lock: where names have no path, locks live in a file of their own
    except (FileNotFoundError, posix_ipc.Error):
        return None
    return found.st_dev, found.st_ino


def removal_hint(segment: str) -> str:
    """What to do about a segment that cannot be used, for an error message."""
    path = object_path(segment)
    by_hand = f" (or: rm {path})" if path else ""
    return f"stop the processes that use it, then 'asgi-ipc unlink {segment.rpartition('-')[0]}'{by_hand}"


def just_created(name: str) -> bool:
    """Whether the object called ``name`` was made or changed within the last second, or has just vanished."""
    path = object_path(name)
    try:
        return path is not None and time.time() - os.stat(path).st_ctime < 1.0
    except FileNotFoundError:
        return True


def restore_mode(name: str, mode: int) -> bool:
    """
    Set the mode of an object of ours that we may not open: made under a umask that denies even its owner, by a process
    that was killed before it had done this itself. False if it is not ours.
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
    """Remove the name of a segment; False if there was none. Its memory goes with the last process that maps it."""
    try:
        posix_ipc.unlink_shared_memory("/" + name)
    except posix_ipc.ExistentialError:
        return False
    return True


def check_trust(found: os.stat_result, mode: int, segment: str, what: str = "it") -> None:
    """
    Raise ``SegmentRefused`` for an object that belongs to a stranger, or that more people may write than ``mode`` says.

    Its owner must be this user or root; where ``mode`` lets a group (or everybody) write, another member of that group
    (or anybody) may be the owner too.
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
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) & ~mode:
        is_mode = stat.S_IMODE(found.st_mode)
        raise SegmentRefused(
            segment,
            f"{what} has mode {is_mode:#o}, so that others may write it, and mode {mode:#o} was asked for: pass "
            f"mode={is_mode:#o} if that is meant, or remove it",
        )


def check_kind(segment: str) -> None:
    """Raise ``SegmentRefused`` where a link, a directory or a FIFO bears the name of a segment."""
    path = object_path(segment)
    if path is not None:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise SegmentRefused(segment, f"{path} is no shared memory: remove it, or choose another prefix")


def check_removable(found: os.stat_result, segment: str) -> None:
    """Raise ``SegmentRefused`` for a segment whose name this user may not remove, though he may use it."""
    me = os.geteuid()
    if me not in (0, found.st_uid):
        raise SegmentRefused(
            segment,
            f"it belongs to user {found.st_uid}, who alone can remove it, and this process is user {me}: run "
            f"'asgi-ipc unlink {segment.rpartition('-')[0]}' as its owner",
        )
