"""
Locks on single bytes of a file: the kernel's proof that a process lives.

The kernel drops a process's locks when it ends, however it ends, zombies and other PID namespaces included.  It also
drops them as soon as the process closes *any* descriptor of the file, so whoever uses these locks keeps one descriptor
a file and process.  Locks belong to the process, not to a thread: the caller holds an in-process lock.
"""

from __future__ import annotations

__all__ = ["ByteLocks"]

import errno
import fcntl
import os
import struct
import sys
from typing import Optional


class ByteLocks:
    """The byte locks of one open file."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def lock(self, byte: int) -> bool:
        """Lock one byte for this process, without waiting; False if another process has it."""
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def unlock(self, byte: int) -> None:
        """Give the lock on one byte back."""
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, byte)

    def holder(self, byte: int) -> Optional[int]:
        """
        The id of the process that has the byte locked, 0 if it is in another PID namespace, None if nobody has.

        Never ask for a byte that this process itself holds: its own lock does not stand in its way, so POSIX says
        "nobody".
        """
        if sys.platform.startswith("linux"):  # struct flock has the type first here and last on the BSDs
            ask = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(self.fd, fcntl.F_GETLK, ask))
        else:
            ask = struct.pack("qqihh", byte, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
            _, _, pid, kind, _ = struct.unpack("qqihh", fcntl.fcntl(self.fd, fcntl.F_GETLK, ask))
        return None if kind == fcntl.F_UNLCK else max(int(pid), 0)
