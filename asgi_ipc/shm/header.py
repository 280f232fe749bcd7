"""
The header of a segment that somebody else made: whether it is finished, and whether it can be believed.
"""

from __future__ import annotations

__all__ = ["flaw_of", "has_magic"]

import mmap
import os
from typing import Optional, Sequence, Tuple

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
    Whether the magic is there, without mapping a file that may be half made, unless ``mapped``.

    Unmapping it again would drop every byte lock of this process on the file, and reading a page that nobody has
    reserved through a mapping is a SIGBUS where the file system is full. macOS cannot read from the descriptor of
    shared memory; but there locks live in a file of their own, and there are no holes.
    """
    if not mapped:
        return any(os.pread(fd, WORD, AT_MAGIC * WORD))
    if os.fstat(fd).st_size < HEADER_WORDS * WORD:
        return False
    with mmap.mmap(fd, HEADER_WORDS * WORD) as header:
        return any(header[AT_MAGIC * WORD : (AT_MAGIC + 1) * WORD])


def flaw_of(words: Sequence[int], kind: int, size: int, lock_file: Tuple[int, int]) -> Optional[str]:
    """What is wrong with a header, or None; ``size`` is the file's, in bytes, ``lock_file`` the one that is there."""
    if words[AT_MAGIC] != MAGIC:
        if words[AT_MAGIC].to_bytes(WORD, "little") == MAGIC.to_bytes(WORD, "big"):
            return "it was written in the other byte order"
        return "it is no segment of this package (asgi_ipc 1.x or another program made it)"
    if words[AT_VERSION] != VERSION:
        return f"it has layout version {words[AT_VERSION]}, and this asgi_ipc needs {VERSION}"
    if words[AT_CHECKSUM] != fixed_checksum(words):
        return "its header is damaged"
    if words[AT_KIND] != kind:
        return "it is a segment of another kind"
    if words[AT_SIZE] != size:
        return f"it was cut short: {size} bytes are left of {words[AT_SIZE]}"
    if (words[AT_LOCK_DEVICE], words[AT_LOCK_INODE]) != lock_file:
        return "its lock file was replaced, so that nobody can tell which processes live"
    return None
