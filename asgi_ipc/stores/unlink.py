"""
Remove the shared memory of one segment, even if it is damaged or belongs to another version.

A segment that can be attached to first gets its tombstone, so that the processes that use it notice at once;
of any other segment only the names are removed.  Objects of another user are never changed.

This is done by hand, and it is thorough: here, unlike anywhere else in the package, the time depends on how many
files of other users there are in ``/dev/shm``.
"""

from __future__ import annotations

__all__ = ["leftovers", "remove_segment"]

import contextlib
import os
import stat
from typing import List, Tuple

import posix_ipc

from ..exceptions import SegmentError
from ..options import MODES
from ..shm.fifo_directory import fifo_directory, remove_directory
from ..shm.permissions import SHM_DIRECTORY, discard_name, object_path
from ..shm.semaphores import lost_semaphore
from .attachment import Attachment, Kind

#: Seconds to wait for a process that is creating, recovering or removing the segment.
PATIENCE = 2.0
#: The size for a segment that has none yet. It is removed at once.
SMALLEST = 64 * 1024
#: The most semaphores that are named, of those that could not be removed.
NAMED = 10

#: What was removed, and what was not and why: lines to print.
Removal = Tuple[List[str], List[str]]


def leftovers(beginning: str) -> list[str]:
    """
    Return the sorted file names of all shared memory objects, including semaphores, that begin with ``beginning``.

    The list is always empty on systems that cannot list them (macOS).
    """
    if SHM_DIRECTORY is None:
        return []
    return sorted(name for name in os.listdir(SHM_DIRECTORY) if name.startswith((beginning, "sem." + beginning)))


def remove_segment(name: str, kind: Kind) -> Removal:
    """
    Remove the segment ``name``, its semaphores, and the wakeup FIFOs of dead processes.

    This includes the semaphores of asgi_ipc 1.x, and what segments of that name left when they were lost.

    ``kind`` is the kind of the store that uses the name. Returns two lists of lines: what was removed; and what was
    not, with the reason. Both are empty if nothing was found.
    """
    removed: list[str] = []
    kept: list[str] = []
    has_directory = os.path.lexists(fifo_directory(name))
    if SHM_DIRECTORY is None:
        _remove_unseen(name, kind, removed, kept)
    else:
        _remove_files(SHM_DIRECTORY, name, kind, removed, kept)
    if has_directory:
        _remove_fifos(name, removed, kept)
    return removed, kept


def _remove_files(directory: str, name: str, kind: Kind, removed: list[str], kept: list[str]) -> None:
    """Remove the objects of a segment, which are files in ``directory``."""
    # List the objects before removing any: a process that notices the tombstone creates a new segment, which must
    # stay.
    of_first_version, semaphores = f"sem.{name}", lost_semaphore(name)
    foreign = 0
    for found in leftovers(name):  # the segment itself sorts before its semaphores
        if found in (name, of_first_version) or semaphores.fullmatch(found):
            what = f"{'semaphore' if found.startswith('sem.') else 'segment'} {found}"
            try:
                _remove_file(os.path.join(directory, found), found == name, kind)
            except OSError as error:
                foreign += found != name
                if foreign <= NAMED:
                    kept.append(f"{what}: {error.strerror or error}")
                if found == name:  # then its semaphores are still in use
                    break
            else:
                removed.append(what)
    if foreign > NAMED:  # nobody else has a use for such names: somebody has created them on purpose
        kept.append(f"{foreign - NAMED} more files with names of its semaphores")


def _remove_fifos(name: str, removed: list[str], kept: list[str]) -> None:
    """Remove the wakeup FIFOs of dead processes, and their directory. A live process that still waits removes both."""
    path = fifo_directory(name)
    directory = os.path.basename(path)
    try:
        _check_owner(os.lstat(path).st_uid)
        removed += [f"wakeup FIFO {directory}/{fifo}" for fifo in remove_directory(name, 0o666)]
    except FileNotFoundError:  # removed with its segment
        pass
    except OSError as error:
        kept.append(f"directory {directory}: {error.strerror or error}")
    if not os.path.lexists(path):
        removed.append(f"directory {directory}")


def _remove_file(path: str, is_segment: bool, kind: Kind) -> None:
    """Remove one object through its file. Raises ``OSError`` if that is not possible or not allowed."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:  # a semaphore that was removed with its segment
        return
    _check_owner(found.st_uid)
    if is_segment:
        _remove_attached(os.path.basename(path), kind, found)
    with contextlib.suppress(FileNotFoundError):
        left = os.lstat(path)
        if (left.st_dev, left.st_ino) == (found.st_dev, found.st_ino):
            os.unlink(path)


def _check_owner(owner: int) -> None:
    me = os.geteuid()
    if owner != me:
        raise PermissionError(f"it belongs to user {owner}, but you are user {me}: run this as its owner")


def _remove_attached(name: str, kind: Kind, found: os.stat_result) -> None:
    """Attach to a segment and remove it with a tombstone, if it can be attached to."""
    with contextlib.suppress(SegmentError, posix_ipc.Error, OSError):
        mode = stat.S_IMODE(found.st_mode) & 0o666
        path = object_path(name)
        if mode not in MODES and path is not None:  # it would be refused, and its processes would get no tombstone
            mode = 0o600
            os.chmod(path, mode)
        attachment = Attachment.open(name, kind, found.st_size or SMALLEST, mode, PATIENCE)
        try:
            attachment.remove()
        finally:
            attachment.release()


def _remove_unseen(name: str, kind: Kind, removed: list[str], kept: list[str]) -> None:
    """Do the same on systems where objects have no files and only the names are known."""
    segment, semaphore = f"segment /{name}", f"semaphore /{name} (of asgi_ipc 1.x)"
    try:
        fd = posix_ipc.SharedMemory("/" + name).fd
        found = os.fstat(fd)
        os.close(fd)
        _check_owner(found.st_uid)
        _remove_attached(name, kind, found)
        discard_name(name)
        removed.append(segment)
    except posix_ipc.ExistentialError:
        pass
    except (posix_ipc.PermissionsError, OSError) as error:
        kept.append(f"{segment}: {error}")
    try:
        posix_ipc.unlink_semaphore("/" + name)
        removed.append(semaphore)
    except posix_ipc.ExistentialError:
        pass
    except posix_ipc.PermissionsError as error:
        kept.append(f"{semaphore}: {error}")
