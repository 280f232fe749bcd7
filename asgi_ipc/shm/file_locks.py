"""
Locks on single bytes of a file: the kernel's proof that a process is alive.

The kernel drops a process's locks when the process ends for any reason, also when it is a zombie or in
another PID namespace. It also drops them when the process closes *any* descriptor of the file, so a user of
these locks must keep one descriptor for each file and process. Locks belong to the process, not to a thread,
so the caller must hold an in-process lock.
"""

from __future__ import annotations

__all__ = ["ByteLocks"]

import errno
import fcntl
import os
import struct
import sys

IS_LINUX = sys.platform.startswith("linux")
#: Linux's struct flock: kind, whence, start, length, process id. The BSDs have the kind last.
FLOCK = "hhqqi4x"


class ByteLocks:
    """The byte locks of one open file, by its descriptor ``fd``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def lock(self, byte: int) -> bool:
        """
        Lock one byte for this process, without waiting.

        Returns False if another process holds it. Raises ``OSError`` for any other failure.
        """
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def unlock(self, byte: int) -> None:
        """Release the lock on one byte."""
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, byte)

    def is_ours(self, byte: int) -> bool | None:
        """
        True if this process holds the lock on a byte; None if the system cannot tell.

        The owner of the question is the open file description, so the lock of this process conflicts with it.
        """
        found = self._of_description("F_OFD_GETLK", byte)
        if found is None:
            return None
        return found != fcntl.F_UNLCK and self.holder(byte) is None

    def lock_description(self, byte: int) -> bool | None:
        """
        Lock one byte for the open file description, without waiting.

        Excludes other descriptions of the same process, too. Returns False if another description or process holds
        it, and None if the system has no such locks.
        """
        try:
            return None if self._of_description("F_OFD_SETLK", byte) is None else True
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise

    def unlock_description(self, byte: int) -> None:
        """Release the lock of the open file description on one byte."""
        self._of_description("F_OFD_SETLK", byte, fcntl.F_UNLCK)

    def _of_description(self, command: str, byte: int, kind: int = fcntl.F_WRLCK) -> int | None:
        """Return the kind of lock that the command reports; None if the system does not know the command."""
        number = getattr(fcntl, command, None)
        if number is None or not IS_LINUX:
            return None
        try:
            reply = fcntl.fcntl(self.fd, number, struct.pack(FLOCK, kind, os.SEEK_SET, byte, 1, 0))
        except OSError as error:
            if error.errno == errno.EINVAL:  # Linux before 3.15, or a sandbox without them
                return None
            raise
        return int(struct.unpack(FLOCK, reply)[0])

    def holder(self, byte: int) -> int | None:
        """
        Return the id of the process that holds the lock on a byte.

        Returns 0 if that process is in another PID namespace, None if the byte is not locked. Do not ask
        about a byte that this process itself holds: its own lock does not conflict with it, so POSIX reports
        "not locked".
        """
        if IS_LINUX:
            ask = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(self.fd, fcntl.F_GETLK, ask))
        else:
            ask = struct.pack("qqihh", byte, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
            _, _, pid, kind, _ = struct.unpack("qqihh", fcntl.fcntl(self.fd, fcntl.F_GETLK, ask))
        return None if kind == fcntl.F_UNLCK else max(int(pid), 0)
