"""
Remove the shared memory of one segment for good, whatever state it is in: ours, another version's, broken.

A segment that can be attached to gets its tombstone first, so that the processes that use it notice at once;
of any other only the names are removed.  What belongs to another user is never touched.
"""

from __future__ import annotations

__all__ = ["leftovers", "remove_segment"]

import contextlib
import os
import re
import stat
from typing import List, Tuple

import posix_ipc

from ..exceptions import SegmentError
from ..shm.permissions import SHM_DIRECTORY, discard_name
from .attachment import Attachment, Kind

#: Seconds to wait for a process that is creating, recovering or removing the segment just now.
PATIENCE = 2.0
#: What a segment is made with that has no size yet. It lives for a moment.
SMALLEST = 64 * 1024

#: What was removed, and what was not and why: lines for people.
Removal = Tuple[List[str], List[str]]


def leftovers(beginning: str) -> list[str]:
    """
    The file names of all shared memory objects, semaphores included, that begin with ``beginning``, sorted.

    Always empty on systems that do not list them (macOS).
    """
    if SHM_DIRECTORY is None:
        return []
    return sorted(name for name in os.listdir(SHM_DIRECTORY) if name.startswith((beginning, "sem." + beginning)))


def remove_segment(name: str, kind: Kind) -> Removal:
    """
    Remove the segment ``name`` and its semaphores, those of asgi_ipc 1.x and of lost segments of that name
    included.

    ``kind`` is that of the store that keeps its data there. Returns two lists of lines: what
    was removed, and what was not, with the reason. Both are empty if there was nothing.
    """
    removed: list[str] = []
    kept: list[str] = []
    if SHM_DIRECTORY is None:
        _remove_unseen(name, kind, removed, kept)
        return removed, kept
    # Listed before anything is removed: a process that notices the tombstone makes a new segment, which is not ours
    # to take.
    ours = re.compile(rf"(sem\.)?{re.escape(name)}|sem\.{re.escape(name)}\.[0-9a-f]+\.[0-9a-f]+", re.ASCII)
    for found in leftovers(name):  # the segment itself sorts before its semaphores
        if ours.fullmatch(found):
            what = f"{'semaphore' if found.startswith('sem.') else 'segment'} {found}"
            try:
                _remove_file(os.path.join(SHM_DIRECTORY, found), found == name, kind)
            except OSError as error:
                kept.append(f"{what}: {error.strerror or error}")
                if found == name:  # then its semaphores are still in use
                    break
            else:
                removed.append(what)
    return removed, kept


def _remove_file(path: str, is_segment: bool, kind: Kind) -> None:
    """Remove one object by the file that shows it; ``OSError`` if that cannot be, or must not."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:  # a semaphore that went with its segment
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
        raise PermissionError(f"it belongs to user {owner}, and you are user {me}: run this as its owner")


def _remove_attached(name: str, kind: Kind, found: os.stat_result) -> None:
    """Remove a segment with a tombstone, if it is one that can be attached to."""
    with contextlib.suppress(SegmentError, posix_ipc.Error, OSError):
        mode = stat.S_IMODE(found.st_mode) & 0o666
        attachment = Attachment.open(name, kind, found.st_size or SMALLEST, mode, PATIENCE)
        try:
            attachment.remove()
        finally:
            attachment.release()


def _remove_unseen(name: str, kind: Kind, removed: list[str], kept: list[str]) -> None:
    """The same where objects have no files: what they are called is all one can know."""
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
