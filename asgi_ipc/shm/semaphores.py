"""
The semaphores of a segment: one for each epoch, named after the segment, its nonce and the epoch.

The nonce can be read only by those who may read the segment, so nobody else can squat the names.
"""

from __future__ import annotations

__all__ = ["Semaphores"]

import contextlib
import errno
import os
import re
import stat
import time
from typing import Optional

import posix_ipc

from ..exceptions import SegmentRefused
from .permissions import SHM_DIRECTORY, check_trust

#: Semaphores are born with the sticky bit, which nobody else's have: what a kill inside ``sem_open`` leaves behind
#: under a random name (glibc: six letters or digits) is thereby known as ours.
STICKY_MARK = stat.S_ISVTX if SHM_DIRECTORY else 0
_UNFINISHED = re.compile(r"sem\.[A-Za-z0-9]{6}", re.ASCII)
#: Seconds after which a creation is surely over (``sem_open`` takes microseconds).
UNFINISHED_AGE = 5.0


class Semaphores:
    """
    Makes, opens and removes the semaphores of the segment ``name``.

    They get the segment's own ``group``: whoever repairs it may have another primary group than who made it.
    """

    def __init__(self, name: str, nonce: int, mode: int, group: int) -> None:
        self.segment = name
        self.nonce = nonce
        self.mode = mode
        self.group = group

    def name(self, epoch: int) -> str:
        """The name of an epoch's semaphore, with its leading slash."""
        # Names are at most 31 characters where shared memory has no path (macOS).
        return f"/{self.segment}.{self.nonce:x}.{epoch:x}" if SHM_DIRECTORY else f"/{self.nonce:x}.{epoch:x}"

    def _path(self, epoch: int) -> Optional[str]:
        return os.path.join(SHM_DIRECTORY, "sem." + self.name(epoch)[1:]) if SHM_DIRECTORY else None

    def create(self, epoch: int) -> bool:
        """
        Make an epoch's semaphore with one token. The epoch must not be published before this has returned.

        False if there is one that is not ours to remove: another user of the group was killed before he could publish
        that epoch. Raises ``SegmentRefused`` where the file system has no room left for its few bytes.
        """
        sweep_unfinished()
        self.unlink(epoch)
        try:
            posix_ipc.Semaphore(self.name(epoch), posix_ipc.O_CREX, mode=0o600 | STICKY_MARK, initial_value=1).close()
        except posix_ipc.ExistentialError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            where = SHM_DIRECTORY or "shared memory"
            raise SegmentRefused(
                self.segment, f"{where} has no room for its semaphore: enlarge it (Docker: --shm-size), or make room"
            ) from None
        path = self._path(epoch)
        if path is not None:
            if os.stat(path).st_gid != self.group:
                with contextlib.suppress(PermissionError):  # no member of it: then it matters to nobody but us
                    os.chown(path, -1, self.group)
            os.chmod(path, self.mode)
        return True

    def open(self, epoch: int) -> Optional[posix_ipc.Semaphore]:
        """An epoch's semaphore, or None if there is none."""
        path = self._path(epoch)
        try:
            if path is not None:
                check_trust(os.stat(path), self.mode, self.segment, f"its semaphore {path}")
            return posix_ipc.Semaphore(self.name(epoch))
        except (posix_ipc.ExistentialError, FileNotFoundError):
            return None
        except posix_ipc.PermissionsError:
            what = f"its semaphore {path or self.name(epoch)}"
            raise SegmentRefused(self.segment, f"this user may not open {what}: run as its owner") from None

    def unlink(self, epoch: int) -> None:
        """
        Remove an epoch's semaphore, if it is there; processes that have it open may go on using it.

        One that another user of the group made can only be removed by him: it stays, and does no harm.
        """
        with contextlib.suppress(posix_ipc.ExistentialError, posix_ipc.PermissionsError):
            posix_ipc.unlink_semaphore(self.name(epoch))

    def unlink_lost(self) -> None:
        """
        Remove the semaphores of every segment that had this name: also of a process killed while it made or removed
        one, of a file that was removed by hand, of an epoch that another user ended.

        For whoever makes or removes the segment of that name. Those who have one open may go on using it.
        """
        if SHM_DIRECTORY is None:  # where objects cannot be listed (macOS) they stay until the machine restarts
            return
        lost = re.compile(rf"sem\.{re.escape(self.segment)}\.[0-9a-f]+\.[0-9a-f]+", re.ASCII)
        with os.scandir(SHM_DIRECTORY) as entries:
            candidates = [entry.path for entry in entries if lost.fullmatch(entry.name)]
        for path in candidates:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.unlink(path)


def sweep_unfinished() -> int:
    """Remove what processes killed inside ``sem_open`` left: files with our birthmark, seconds old. How many."""
    swept = 0
    if SHM_DIRECTORY is None:
        return swept
    with os.scandir(SHM_DIRECTORY) as entries:
        candidates = [entry for entry in entries if _UNFINISHED.fullmatch(entry.name)]
    for entry in candidates:
        with contextlib.suppress(FileNotFoundError):
            found = entry.stat(follow_symlinks=False)
            aged = time.time() - found.st_mtime > UNFINISHED_AGE
            if found.st_mode & STICKY_MARK and found.st_uid == os.geteuid() and aged:
                os.unlink(entry.path)
                swept += 1
    return swept
