"""
The blocks of a heap that a recovery has found in use.
"""

from __future__ import annotations

__all__ = ["LiveBlocks"]

from ..shm.layout import AT_RESERVED
from .heap import MIN_WORDS, Heap

_CACHED = 64
#: The marks of blocks of up to this many words, by size. To make them for each block, and as bytes, which a bytearray
#: copies before it takes them, takes three times as long.
_MARKS = [bytearray(b"\1" * size) for size in range(_CACHED + 1)]


class LiveBlocks:
    """
    The words of the heap that a walk over the truth has marked as live.

    A block that would be marked twice cannot be trusted. The marks are in the memory of the recovering process,
    not in the segment.
    """

    def __init__(self, heap: Heap) -> None:
        self.start = heap.start
        self.end = heap.words[AT_RESERVED] - 1
        self._size = max(0, self.end - self.start)
        self._taken = bytearray(self._size)
        #: (payload offset, payload words) of each block that was marked.
        self.live: list[tuple[int, int]] = []

    def mark(self, block: int, payload: int) -> bool:
        """Mark a block as live; False, and nothing marked, if it is outside the heap or overlaps another."""
        taken = self._taken
        first = block - 1 - self.start
        size = payload + 1 if payload >= MIN_WORDS else MIN_WORDS
        last = first + size
        if first < 0 or last > self._size or taken.find(1, first, last) >= 0:
            return False
        taken[first:last] = _MARKS[size] if size <= _CACHED else b"\1" * size
        self.live.append((block, payload))
        return True

    def unmark_last(self) -> None:
        """Undo the last ``mark``."""
        block, payload = self.live.pop()
        first = block - 1 - self.start
        last = first + max(payload + 1, MIN_WORDS)
        self._taken[first:last] = bytes(last - first)
