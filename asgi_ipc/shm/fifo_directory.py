"""
The directory that holds the wakeup FIFOs of one segment.

It is next to the segment, exists as long as the segment does, and only users of the segment may read or write it. So
a process can look through all FIFOs of a segment, and the time that this takes does not depend on what other
users put into ``/dev/shm``. A directory that other users own or may write to is refused, and is never looked through.

A FIFO gets its final name only when its owner has it open. So a FIFO that no process has open has lost its owner. A
name that ends in ``~`` is not final yet.
"""

from __future__ import annotations

__all__ = [
    "CHECKED",
    "check_directory",
    "drop_directory",
    "fifo_directory",
    "fifo_files",
    "fifo_path",
    "prepare_directory",
    "remove_directory",
    "remove_fifo",
    "sweep_fifos",
]

import contextlib
import errno
import os
import posix
import re
import secrets
import stat
import tempfile

import posix_ipc

from .. import clock
from ..exceptions import SegmentRefused
from .permissions import SHM_DIRECTORY, check_trust, named_identity

#: The directories are next to the segments, or in the temporary directory if segments have no path (macOS).
PARENT = SHM_DIRECTORY or tempfile.gettempdir()
#: Seconds after which a FIFO that has not got its final name is a leftover.
UNFINISHED_AGE = 5.0
#: How a FIFO is opened to be notified, or to find out whether a process has it open.
TO_NOTIFY = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)

#: The most FIFOs that a sweep beside other work checks. It takes about 2 ms.
CHECKED = 256

_FILE = re.compile(r"[0-9a-f]+~?", re.ASCII)


def fifo_directory(segment: str) -> str:
    """Return the path of the directory for the wakeup FIFOs of a segment."""
    return os.path.join(PARENT, f"{segment}.wakeup")


def fifo_path(segment: str, token: int) -> str:
    """Return the path of the wakeup FIFO with this token."""
    return os.path.join(fifo_directory(segment), f"{token:x}")


# -- the directory -------------------------------------------------------------------------------------------------


def prepare_directory(segment: str, mode: int, group: int) -> None:
    """
    Create the directory of a segment, or take over an existing one.

    An existing one that this user owns gets the segment's ``group``, and permissions that fit to ``mode``, those of
    the segment. FIFOs in it that no process has open are removed. Raises ``SegmentRefused`` if the directory cannot
    be trusted.
    """
    path = fifo_directory(segment)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        if found.st_gid != group:
            with contextlib.suppress(PermissionError):  # not a member: then no other user needs access
                os.chown(path, -1, group)
        os.chmod(path, mode | (mode & 0o444) >> 2)  # who may read it may search it
    check_directory(segment, mode)
    sweep_fifos(segment, mode)


def check_directory(segment: str, mode: int) -> None:
    """Raise ``SegmentRefused`` if the directory of a segment cannot be trusted, ``FileNotFoundError`` without one."""
    path = fifo_directory(segment)
    found = os.lstat(path)
    check_trust(found, mode, segment, f"the directory of its wakeup FIFOs, {path},")
    if not stat.S_ISDIR(found.st_mode):
        raise SegmentRefused(segment, f"{path} is not a directory: remove it, or choose another prefix")


def remove_directory(segment: str, mode: int) -> list[str]:
    """
    Remove the FIFOs that no process has open, and return their names. Remove the directory if it is empty then.

    Otherwise a process that still waits removes it (``drop_directory``).
    """
    swept = sweep_fifos(segment, mode)
    drop_directory(segment)
    return swept


def drop_directory(segment: str) -> None:
    """Remove the directory if it is empty and its segment no longer exists. Never raises ``OSError``."""
    with contextlib.suppress(OSError, posix_ipc.Error):
        if named_identity(segment) is None:
            os.rmdir(fifo_directory(segment))


# -- its FIFOs -----------------------------------------------------------------------------------------------------


def fifo_files(segment: str, mode: int) -> list[str]:
    """Return the file names of all FIFOs of a segment: tokens in hexadecimal. There are none in a foreign directory."""
    try:
        check_directory(segment, mode)
        return [name for name in os.listdir(fifo_directory(segment)) if _FILE.fullmatch(name)]
    except (OSError, SegmentRefused):  # no directory, or for example no descriptor left: the waiters poll
        return []


def remove_fifo(segment: str, token: int) -> None:
    """Remove the wakeup FIFO of an owner that is proven dead."""
    with contextlib.suppress(OSError):
        os.unlink(fifo_path(segment, token))


def sweep_fifos(segment: str, mode: int, most: int | None = None) -> list[str]:
    """
    Remove the wakeup FIFOs that no process has open, and return their names. Their segment may be gone.

    With ``most``, check only so many of them, beginning at a random one.
    """
    directory = fifo_directory(segment)
    files = fifo_files(segment, mode)
    if most is not None and len(files) > most:
        first = secrets.randbelow(len(files))
        files = (files[first:] + files[:first])[:most]
    return [name for name in files if _is_swept(os.path.join(directory, name))]


def _is_swept(path: str) -> bool:
    with contextlib.suppress(OSError):
        if _is_outdated(path) if path.endswith("~") else _is_abandoned(path):
            os.unlink(path)
            return True
    return False


def _is_outdated(path: str) -> bool:
    return abs(clock.wall() - os.lstat(path).st_mtime) > UNFINISHED_AGE  # the clock may have been set back


def _is_abandoned(path: str) -> bool:
    try:
        posix.close(posix.open(path, TO_NOTIFY))  # see fifo_io
    except OSError as error:
        return error.errno == errno.ENXIO
    return False
