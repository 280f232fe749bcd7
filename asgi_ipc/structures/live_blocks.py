"""
Which blocks of a heap a recovery has found in use.
"""

from __future__ import annotations

__all__ = ["LiveBlocks"]

from typing import List, Tuple

from ..shm.layout import AT_RESERVED
from .heap import MIN_WORDS, Heap


class LiveBlocks:
    """
    Which words of the heap a walk over the truth has found in use: what is claimed twice cannot be trusted.

    Lives in the memory of the process that repairs, not in the segment.
    """

    def __init__(self, heap: Heap) -> None:
        self.start = heap.start
        self.end = heap.words[AT_RESERVED] - 1
        self._taken = bytearray(max(0, self.end - self.start))
        #: (payload offset, payload words) of everything claimed.
        self.live: List[Tuple[int, int]] = []

    def mark(self, block: int, payload: int) -> bool:
        """Claim a block; False, and nothing claimed, if it lies outside or over another one."""
        first = block - 1 - self.start
        last = first + max(payload + 1, MIN_WORDS)
        if first < 0 or last > len(self._taken) or self._taken.find(1, first, last) >= 0:
            return False
        self._taken[first:last] = b"\1" * (last - first)
        self.live.append((block, payload))
        return True

    def unmark_last(self) -> None:
        """Take the last claim back."""
        block, payload = self.live.pop()
        first = block - 1 - self.start
        last = first + max(payload + 1, MIN_WORDS)
        self._taken[first:last] = bytes(last - first)
