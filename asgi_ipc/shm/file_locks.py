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

    def holder(self, byte: int) -> int | None:
        """
        Return the id of the process that holds the lock on a byte.

        Returns 0 if that process is in another PID namespace, None if the byte is not locked. Do not ask
        about a byte that this process itself holds: its own lock does not conflict with it, so POSIX reports
        "not locked".
        """
        if sys.platform.startswith("linux"):  # struct flock has the type first here and last on the BSDs
            ask = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(self.fd, fcntl.F_GETLK, ask))
        else:
            ask = struct.pack("qqihh", byte, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
            _, _, pid, kind, _ = struct.unpack("qqihh", fcntl.fcntl(self.fd, fcntl.F_GETLK, ask))
        return None if kind == fcntl.F_UNLCK else max(int(pid), 0)
