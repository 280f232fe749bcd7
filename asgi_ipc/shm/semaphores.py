"""
The semaphores of a segment: one for each epoch.

Their names are visible to every user, because they are files in a directory that everybody may read and write. So the
name of an epoch is a hash of its number, with the secret key of the segment. Only a user who may read the segment can
tell the next name. Nobody else can create a file of that name first, which would slow a recovery down or stop it.

No operation looks through all files in that directory, because other users decide how many there are. What
killed processes left there is searched for among a limited number of files. That is enough wherever nobody fills the
directory on purpose. ``asgi-ipc unlink`` searches all files.
"""

from __future__ import annotations

__all__ = ["Semaphores", "lost_semaphore", "sweep_unfinished"]

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from itertools import islice

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
#: Bytes of a hash in a name. Names are at most 31 characters where shared memory has no path (macOS).
HASH_BYTES = 12
#: How many epochs are tried if the names of the next ones are taken.
TRIES = 8
#: A further try skips up to this many epochs, so that nobody can take all the names in advance.
LARGEST_JUMP = 2**40
#: The most files of the directory that a search for leftovers visits. It takes about 1 ms, at worst 3.
VISITED = 1024


def lost_semaphore(segment: str) -> re.Pattern[str]:
    """Return a pattern for the file names of all semaphores of all segments that are called ``segment``."""
    return re.compile(rf"sem\.{re.escape(segment)}\.[0-9a-f]{{{2 * HASH_BYTES}}}", re.ASCII)


class Semaphores:
    """
    Creates, opens and removes the semaphores of the segment ``name``.

    ``nonce`` and ``key`` are the segment's nonce and its secret key, ``mode`` the permissions of the semaphores. They
    get the segment's ``group``, because the process that recovers the segment can have another primary group than
    the one that created it.
    """

    def __init__(self, name: str, nonce: int, key: bytes, mode: int, group: int) -> None:
        self.segment = name
        self.nonce = nonce
        self.mode = mode
        self.group = group
        self._hash = hashlib.blake2b(nonce.to_bytes(8, "little"), digest_size=HASH_BYTES, key=key, person=b"semaphore")

    def name(self, epoch: int) -> str:
        """Return the name of an epoch's semaphore, with its leading slash."""
        hashed = self._hash.copy()
        hashed.update(epoch.to_bytes(8, "little"))
        return f"/{self.segment}.{hashed.hexdigest()}" if SHM_DIRECTORY else f"/{hashed.hexdigest()}"

    def _path(self, epoch: int) -> str | None:
        return os.path.join(SHM_DIRECTORY, "sem." + self.name(epoch)[1:]) if SHM_DIRECTORY else None

    def create_from(self, epoch: int) -> int:
        """
        Create the semaphore of ``epoch``, or of a later epoch if that name is taken. Returns the epoch.

        The number of tries is limited, and only the first one can be known in advance. Raises ``SegmentRefused`` if
        none succeeds.
        """
        for _ in range(TRIES):
            if self.create(epoch):
                return epoch
            epoch += 2 * (1 + secrets.randbelow(LARGEST_JUMP))
        raise SegmentRefused(
            self.segment,
            f"other users have created files with the names of its next semaphores in {SHM_DIRECTORY}: remove "
            f"sem.{self.segment}.*, and do not share the layer with these users",
        )

    def create(self, epoch: int) -> bool:
        """
        Create an epoch's semaphore with one token. The epoch must not be published before this returns.

        Returns False if there is one that this user may not remove: another user of the group was killed
        before it published that epoch. Raises ``SegmentRefused`` if the file system is full.
        """
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
        Remove the semaphores of every segment that had this name, and the unfinished ones.

        That includes semaphores of a process that was killed while it created or removed a segment, of a
        segment whose file was removed by hand, and of an epoch that another user ended. Call it only while
        creating or removing the segment of that name. Processes that have a semaphore open can go on using
        it. macOS cannot list semaphores: there they stay until the machine restarts.
        """
        for entry in _visit(lost_semaphore(self.segment)):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.unlink(entry.path)
        sweep_unfinished()


def sweep_unfinished() -> int:
    """
    Remove what processes that were killed inside ``sem_open`` left; return how many files that were.

    These are files of this user with the sticky bit, older than ``UNFINISHED_AGE``.
    """
    swept = 0
    for entry in _visit(_UNFINISHED):
        with contextlib.suppress(FileNotFoundError):
            found = entry.stat(follow_symlinks=False)
            aged = abs(clock.wall() - found.st_mtime) > UNFINISHED_AGE
            if found.st_mode & STICKY_MARK and found.st_uid == os.geteuid() and aged:
                os.unlink(entry.path)
                swept += 1
    return swept


def _visit(names: re.Pattern[str]) -> list[os.DirEntry[str]]:
    """Return the files with one of these names, among the first ``VISITED`` files of the directory."""
    if SHM_DIRECTORY is None:
        return []
    with os.scandir(SHM_DIRECTORY) as entries:
        return [entry for entry in islice(entries, VISITED) if names.fullmatch(entry.name)]
