"""
The checks on the header of an existing segment: whether it is finished, and whether it is valid.
"""

from __future__ import annotations

__all__ = ["flaw_of", "has_magic"]

import mmap
import os
from collections.abc import Sequence

from .layout import (
    AT_CHECKSUM,
    AT_KIND,
    AT_LOCK_DEVICE,
    AT_LOCK_INODE,
    AT_MAGIC,
    AT_SIZE,
    AT_VERSION,
    HEADER_WORDS,
    MAGIC,
    VERSION,
    WORD,
    fixed_checksum,
)


def has_magic(fd: int, mapped: bool) -> bool:
    """
    True if the segment open as ``fd`` has its magic, that is, if its creator has finished it.

    Unless ``mapped``, this reads through the descriptor. A mapping would be wrong here: unmapping the file
    drops every byte lock of this process on it, and a page that is not reserved yet raises SIGBUS when the
    file system is full. macOS cannot read from the descriptor of shared memory, so ``mapped`` is set there;
    locks are in a separate file on macOS, and shared memory has no holes.
    """
    if not mapped:
        return any(os.pread(fd, WORD, AT_MAGIC * WORD))
    if os.fstat(fd).st_size < HEADER_WORDS * WORD:
        return False
    with mmap.mmap(fd, HEADER_WORDS * WORD) as header:
        return any(header[AT_MAGIC * WORD : (AT_MAGIC + 1) * WORD])


def flaw_of(words: Sequence[int], kind: int, size: int, lock_file: tuple[int, int]) -> str | None:
    """
    Return what is wrong with a header, or None.

    ``words`` is the mapped segment, ``kind`` the expected kind, ``size`` the size of the file in bytes, and
    ``lock_file`` the device and inode of the current lock file, ``(0, 0)`` where there is none.
    """
    if words[AT_MAGIC] != MAGIC:
        if words[AT_MAGIC].to_bytes(WORD, "little") == MAGIC.to_bytes(WORD, "big"):
            return "it was written in the other byte order"
        return "it is not a segment of this package (asgi_ipc 1.x or another program created it)"
    if words[AT_VERSION] != VERSION:
        return f"it has layout version {words[AT_VERSION]}, and this asgi_ipc needs {VERSION}"
    if words[AT_CHECKSUM] != fixed_checksum(words):
        return "its header is damaged"
    if words[AT_KIND] != kind:
        return "it is a segment of another kind"
    if words[AT_SIZE] != size:
        return f"it was truncated to {size} of {words[AT_SIZE]} bytes"
    if (words[AT_LOCK_DEVICE], words[AT_LOCK_INODE]) != lock_file:
        return "its lock file was replaced, so it is unknown which processes are alive"
    return None
