"""
The semaphores of a segment: one for each epoch, named after the segment, its nonce and the epoch.

Only users who may read the segment can read the nonce, so no other user can occupy the names in advance.
"""

from __future__ import annotations

__all__ = ["Semaphores"]

import contextlib
import errno
import os
import re
import stat

import posix_ipc

from .. import clock
from ..exceptions import SegmentRefused
from .permissions import SHM_DIRECTORY, check_trust

#: Semaphores are created with the sticky bit, which other programs' semaphores do not have. A process that is
#: killed inside ``sem_open`` leaves a file with a random name (glibc: six letters or digits); the bit marks
#: it as ours.
STICKY_MARK = stat.S_ISVTX if SHM_DIRECTORY else 0
_UNFINISHED = re.compile(r"sem\.[A-Za-z0-9]{6}", re.ASCII)
#: Seconds after which a file with such a name is a leftover: ``sem_open`` takes microseconds.
UNFINISHED_AGE = 5.0


class Semaphores:
    """
    Creates, opens and removes the semaphores of the segment ``name``.

    ``nonce`` is the segment's nonce, ``mode`` the permissions of the semaphores. They get the segment's
    ``group``, because the process that recovers the segment can have another primary group than the one that
    created it.
    """

    def __init__(self, name: str, nonce: int, mode: int, group: int) -> None:
        self.segment = name
        self.nonce = nonce
        self.mode = mode
        self.group = group

    def name(self, epoch: int) -> str:
        """Return the name of an epoch's semaphore, with its leading slash."""
        # Names are at most 31 characters where shared memory has no path (macOS).
        return f"/{self.segment}.{self.nonce:x}.{epoch:x}" if SHM_DIRECTORY else f"/{self.nonce:x}.{epoch:x}"

    def _path(self, epoch: int) -> str | None:
        return os.path.join(SHM_DIRECTORY, "sem." + self.name(epoch)[1:]) if SHM_DIRECTORY else None

    def create(self, epoch: int) -> bool:
        """
        Create an epoch's semaphore with one token. The epoch must not be published before this returns.

        Returns False if there is one that this user may not remove: another user of the group was killed
        before it published that epoch. Raises ``SegmentRefused`` if the file system is full.
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
                self.segment,
                f"{where} has no room for its semaphore: enlarge it (Docker: --shm-size), or free space in it",
            ) from None
        path = self._path(epoch)
        if path is not None:
            if os.stat(path).st_gid != self.group:
                with contextlib.suppress(PermissionError):  # not a member: then no other user needs access
                    os.chown(path, -1, self.group)
            os.chmod(path, self.mode)
        return True

    def open(self, epoch: int) -> posix_ipc.Semaphore | None:
        """
        Return an epoch's semaphore, or None if there is none.

        Raises ``SegmentRefused`` if it cannot be trusted, or this user may not open it.
        """
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
        Remove an epoch's semaphore, if it exists. Processes that have it open can go on using it.

        Only its owner can remove a semaphore that another user of the group created: it stays, and does no
        harm.
        """
        with contextlib.suppress(posix_ipc.ExistentialError, posix_ipc.PermissionsError):
            posix_ipc.unlink_semaphore(self.name(epoch))

    def unlink_lost(self) -> None:
        """
        Remove the semaphores of every segment that had this name.

        That includes semaphores of a process that was killed while it created or removed a segment, of a
        segment whose file was removed by hand, and of an epoch that another user ended. Call it only while
        creating or removing the segment of that name. Processes that have a semaphore open can go on using
        it.
        """
        if SHM_DIRECTORY is None:  # macOS cannot list them: they stay until the machine restarts
            return
        lost = re.compile(rf"sem\.{re.escape(self.segment)}\.[0-9a-f]+\.[0-9a-f]+", re.ASCII)
        with os.scandir(SHM_DIRECTORY) as entries:
            candidates = [entry.path for entry in entries if lost.fullmatch(entry.name)]
        for path in candidates:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.unlink(path)


def sweep_unfinished() -> int:
    """
    Remove what processes that were killed inside ``sem_open`` left; return how many files that were.

    These are files of this user with the sticky bit, older than ``UNFINISHED_AGE``.
    """
    swept = 0
    if SHM_DIRECTORY is None:
        return swept
    with os.scandir(SHM_DIRECTORY) as entries:
        candidates = [entry for entry in entries if _UNFINISHED.fullmatch(entry.name)]
    for entry in candidates:
        with contextlib.suppress(FileNotFoundError):
            found = entry.stat(follow_symlinks=False)
            aged = clock.wall() - found.st_mtime > UNFINISHED_AGE
            if found.st_mode & STICKY_MARK and found.st_uid == os.geteuid() and aged:
                os.unlink(entry.path)
                swept += 1
    return swept
