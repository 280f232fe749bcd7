"""
The check of the heap: walk it block by block, and compare it with its lists and with the blocks in use.

It only reads.  The caller holds the mutex; ``check.stores`` finds the blocks that the truth reaches.
"""

from __future__ import annotations

__all__ = ["HeapCheck"]

from typing import Any

from ..shm.layout import (
    AT_FREE_HEADS,
    AT_FREE_WORDS,
    AT_POWER_MAP,
    AT_QUICK,
    AT_SPLIT_MAPS,
    POWERS,
    QUICK_WORDS,
    SPLITS,
    size_class,
)
from ..structures.heap import MIN_WORDS, QUICK_BATCH, QUICK_MOST
from .walk import Reached


class HeapCheck:
    """Checks the blocks of the heap, its lists, and that the blocks in use are exactly those in ``reached``."""

    def __init__(self, words: Any, start: int, reserved: int, reached: Reached) -> None:
        self.words = words
        self.start, self.last = start, reserved - 1
        self.reached = reached
        self.problems: list[str] = []
        #: Header offset -> words, header included.
        self.free: dict[int, int] = {}
        self.used: dict[int, int] = {}

    def run(self) -> list[str]:
        """Return every problem of the heap, as one sentence each."""
        if self.last >= self.start:
            self._blocks()
        self._free_lists()
        waiting = self._quick_lists()
        for block, (payload, what) in sorted(self.reached.items()):
            total = self.used.pop(block - 1, None)
            least = max(payload + 1, MIN_WORDS)
            if total is None or not least <= total < least + MIN_WORDS:
                self.problems.append(f"{what} at {block} needs a block of {least} words, but has one of {total or 0}")
        for header in waiting:
            if self.used.pop(header, None) is None:
                self.problems.append(f"the block at {header} is in a quick list, but does not exist or is in use")
        self.problems += [f"a block of {total} words at {header} is lost" for header, total in self.used.items()]
        return self.problems

    def _blocks(self) -> None:
        words, last = self.words, self.last
        # A rebuild of a damaged heap can leave a gap smaller than a block before the first block.
        first = min((block - 1 for block in self.reached), default=self.start)
        header = first if self.start < first < self.start + MIN_WORDS else self.start
        after_free = False
        while header < last:
            total, free = words[header] >> 2, bool(words[header] & 1)
            if total < MIN_WORDS or total > last - header:
                self.problems.append(f"the block at {header} has an impossible size of {total} words")
                return
            self._flag(header, after_free)
            if free:
                if after_free:
                    self.problems.append(f"the free block at {header} was not merged with the one before it")
                if words[header + total - 1] != header:
                    self.problems.append(f"the free block at {header} ends with {words[header + total - 1]}")
            (self.free if free else self.used)[header] = total
            header, after_free = header + total, free
        self._flag(last, after_free)
        if words[last] & ~2:
            self.problems.append(f"the block at {last} that ends the heap is not empty")

    def _flag(self, header: int, after_free: bool) -> None:
        if bool(self.words[header] & 2) != after_free:
            says = "used" if after_free else "free"
            self.problems.append(f"the block at {header} marks the block before it as {says}")

    def _free_lists(self) -> None:
        words = self.words
        heads = words[AT_FREE_HEADS : AT_FREE_HEADS + POWERS * SPLITS].tolist()
        found: set[int] = set()
        for power in range(POWERS):
            map_right = 0
            for split, header in enumerate(heads[power * SPLITS : (power + 1) * SPLITS]):
                if not header:
                    continue
                previous = 0
                map_right |= 1 << split
                what = f"the free list ({power}, {split})"
                while header:
                    if header in found or header not in self.free:
                        why = "already in a list" if header in found else "not free"
                        self.problems.append(f"{what} leads to {header}, which is {why}")
                        break
                    found.add(header)
                    if size_class(self.free[header]) != (power, split):
                        self.problems.append(f"{what} has the block at {header} of {self.free[header]} words")
                    if words[header + 2] != previous:
                        self.problems.append(f"{what} has {words[header + 2]} before {header}, not {previous}")
                    header, previous = words[header + 1], header
            has = words[AT_SPLIT_MAPS + power]
            if has != map_right:
                self.problems.append(f"the bitmap of power {power} is {has:#x}, not {map_right:#x}")
            if bool(words[AT_POWER_MAP] >> power & 1) != bool(map_right):
                self.problems.append(f"bit {power} of the bitmap of powers is wrong")
        if words[AT_POWER_MAP] >> POWERS:
            self.problems.append("the bitmap of powers has bits beyond the last power")
        if words[AT_FREE_WORDS] != sum(self.free.values()):
            self.problems.append(f"FREE_WORDS is {words[AT_FREE_WORDS]}, not {sum(self.free.values())}")
        lost = [header for header in self.free if header not in found]
        self.problems += [f"the free block at {header} is in no list" for header in lost]

    def _quick_lists(self) -> list[int]:
        """Return the headers of the blocks in the quick lists."""
        words = self.words
        waiting: list[int] = []
        for total, block in enumerate(words[AT_QUICK : AT_QUICK + QUICK_WORDS + 1].tolist()):
            if not block:
                continue
            mine: list[int] = []
            what = f"the quick list of {total} words"
            while block:
                too_long = len(mine) >= max(QUICK_MOST // total, QUICK_BATCH - 1)  # a whole batch may exceed the limit
                if self.used.get(block - 1) != total or too_long:
                    why = "is too long" if too_long else f"leads to {block}, which is not such a block"
                    self.problems.append(f"{what} {why}")
                    break
                mine.append(block - 1)
                block = words[block]
            counts = [words[header + 2] for header in mine]
            if counts != list(range(len(mine) * total, 0, -total)):
                self.problems.append(f"{what} counts {counts}")
            waiting += mine
        return waiting
