"""
The blocks of a heap that a recovery has found in use.
"""

from __future__ import annotations

__all__ = ["LiveBlocks"]

from ..shm.layout import AT_RESERVED
from .heap import MIN_WORDS, Heap


class LiveBlocks:
    """
    The words of the heap that a walk over the truth has marked as live.

    A block that would be marked twice cannot be trusted. The marks are in the memory of the recovering process,
    not in the segment.
    """

    def __init__(self, heap: Heap) -> None:
        self.start = heap.start
        self.end = heap.words[AT_RESERVED] - 1
        self._taken = bytearray(max(0, self.end - self.start))
        #: (payload offset, payload words) of each block that was marked.
        self.live: list[tuple[int, int]] = []

    def mark(self, block: int, payload: int) -> bool:
        """Mark a block as live; False, and nothing marked, if it is outside the heap or overlaps another."""
        first = block - 1 - self.start
        last = first + max(payload + 1, MIN_WORDS)
        if first < 0 or last > len(self._taken) or self._taken.find(1, first, last) >= 0:
            return False
        self._taken[first:last] = b"\1" * (last - first)
        self.live.append((block, payload))
        return True

    def unmark_last(self) -> None:
        """Undo the last ``mark``."""
        block, payload = self.live.pop()
        first = block - 1 - self.start
        last = first + max(payload + 1, MIN_WORDS)
        self._taken[first:last] = bytes(last - first)
