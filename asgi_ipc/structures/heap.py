"""
Allocate and free inside a segment.  The caller holds the mutex, always.

Everything here is derived: after a crash ``rebuild`` makes it anew from the blocks that the truth reaches, so no store
in this module needs an order, and what free memory contains means nothing.

    used block    | header | payload ...                                   |
    free block    | header | next free | previous free | ... | own header's offset |
                             ^ what offsets point to

Sizes count words and include the header; a block has at least four.  Free blocks lie in lists by size class (two-level
segregated fit: Masmano et al., ECRTS 2004), neighbours are merged at once, and everything takes constant time.
Splitting and merging on every message would cost as much as the rest of its section, so blocks of up to
``QUICK_WORDS`` words are not merged when they are freed: they wait, marked as used, in a *quick list* of their exact
size, at most ``QUICK_MOST`` words of each, and all go back before memory is reported to be full.
"""

from __future__ import annotations

__all__ = ["MIN_WORDS", "Heap"]

from typing import Callable, List, Tuple

from ..shm.layout import (
    AT_FREE_HEADS,
    AT_POWER_MAP,
    AT_QUICK,
    AT_RESERVED,
    AT_SPLIT_MAPS,
    POWERS,
    QUICK_WORDS,
    SPLIT_BITS,
    SPLITS,
    WORD,
)
from ..shm.segment import Segment

_FREE = 1
_AFTER_FREE = 2
MIN_WORDS = 4
#: Words in blocks of one size that wait unmerged (64 KiB): those of a group send to a thousand members, or of a few
#: channels that are full.
QUICK_MOST = 64 * 1024 // WORD
#: Blocks that are cut at once for a quick list that is empty.
QUICK_BATCH = 16
#: Memory is taken from the system in pieces of this many words (256 KiB): zeroing one takes some 50 µs.
PIECE = 256 * 1024 // WORD
#: How many blocks of the class below are tried when no class above has any.
LAST_RESORT = 64


def size_class(total: int) -> Tuple[int, int]:
    """The class (power, split) whose list a free block of ``total`` words lies in."""
    power = total.bit_length() - 1 - SPLIT_BITS
    if power < 0:
        return 0, total
    return power + 1, (total >> power) & (SPLITS - 1)


class Heap:
    """The blocks of one segment."""

    def __init__(self, segment: Segment) -> None:
        self.words = segment.words
        self.start = segment.geometry.heap_at
        self.end = segment.geometry.end
        self._reserve: Callable[[int, int], bool] = segment.reserve
        #: Why the last ``allocate`` failed: "memory" or "filesystem".
        self.shortage = "memory"

    # -- the two calls ----------------------------------------------------------------------------------------

    def allocate(self, payload: int) -> int:
        """A block with room for ``payload`` words, as the offset of its payload; 0 if there is none."""
        words = self.words
        total = payload + 1
        if total <= QUICK_WORDS:
            if total < MIN_WORDS:
                total = MIN_WORDS
            block = words[AT_QUICK + total]
            if block:
                if words[block - 1] >> 2 != total:
                    raise ValueError(f"a free list of {total} words leads to a block of another size")
                words[AT_QUICK + total] = words[block]
                return block
            return self._cut_batch(total)
        return self._find(total)

    def allocate_several(self, payload: int, count: int) -> List[int]:
        """So many such blocks, or as many as there are."""
        words, total = self.words, max(payload + 1, MIN_WORDS)
        blocks: List[int] = []
        if total <= QUICK_WORDS:
            block = words[AT_QUICK + total]
            while block and len(blocks) < count:
                if words[block - 1] >> 2 != total:
                    raise ValueError(f"a free list of {total} words leads to a block of another size")
                blocks.append(block)
                block = words[block]
            words[AT_QUICK + total] = block
        while len(blocks) < count:
            block = self.allocate(payload)
            if not block:
                break
            blocks.append(block)
        return blocks

    def free(self, block: int) -> None:
        """Give back the block whose payload starts at ``block``."""
        words = self.words
        total = words[block - 1] >> 2
        if total <= QUICK_WORDS:
            head = words[AT_QUICK + total]
            waiting = words[head + 1] + total if head else total  # each block knows how much waits from it on
            if waiting <= QUICK_MOST:
                words[block] = head
                words[block + 1] = waiting
                words[AT_QUICK + total] = block
                return
        self._merge(block - 1, total)

    # -- quick lists ------------------------------------------------------------------------------------------

    def _cut_batch(self, total: int) -> int:
        """Cut several blocks of one size from one free block: one for the caller, the rest for the quick list."""
        batch = self._find(total * QUICK_BATCH)
        if not batch:
            return self._find(total)
        words = self.words
        header = batch - 1
        spare = (words[header] >> 2) - total * QUICK_BATCH  # what was too little to split off
        words[header] = total << 2 | (words[header] & _AFTER_FREE)
        for number in range(1, QUICK_BATCH):
            header += total
            size = total + spare if number == QUICK_BATCH - 1 else total
            words[header] = size << 2
            if size == total:
                words[header + 1], words[header + 2] = words[AT_QUICK + total], number * total
                words[AT_QUICK + total] = header + 1
            else:
                self._merge(header, size)
        return batch

    def _merge_quick(self, wanted: int) -> int:
        """Give waiting blocks back, size by size, until there is a free block of ``wanted`` words: its header, or 0."""
        words = self.words
        for total in range(QUICK_WORDS, MIN_WORDS - 1, -1):
            block, words[AT_QUICK + total] = words[AT_QUICK + total], 0
            if not block:
                continue
            for _ in range(QUICK_MOST // total + QUICK_BATCH):
                if not block:
                    break
                following = words[block]
                self._merge(block - 1, words[block - 1] >> 2)
                block = following
            header = self._search(wanted)
            if header:
                return header
        return 0

    # -- segregated fit ---------------------------------------------------------------------------------------

    def _find(self, total: int) -> int:
        """A block of ``total`` words from the free lists, else from new memory, else from what waits unmerged."""
        header = self._search(total)
        if not header and self._grow(total):
            header = self._search(total)
        if not header:
            header = self._merge_quick(total) or self._search_below(total)
        if not header:
            return 0
        self._unlink(header)
        self._split(header, total)
        return header + 1

    def _search(self, total: int) -> int:
        """A free block from the first class in which every block is large enough; 0 if all those are empty."""
        words = self.words
        step = total.bit_length() - 1 - SPLIT_BITS
        power, split = size_class(total + (1 << step) - 1 if step > 0 else total)
        splits = words[AT_SPLIT_MAPS + power] >> split << split if power < POWERS else 0
        if not splits:
            powers = words[AT_POWER_MAP] >> power + 1 << power + 1
            if not powers:
                return 0
            power = (powers & -powers).bit_length() - 1
            splits = words[AT_SPLIT_MAPS + power]
        split = (splits & -splits).bit_length() - 1
        return words[AT_FREE_HEADS + power * SPLITS + split]

    def _search_below(self, total: int) -> int:
        """A block of the very class of ``total``, which holds larger and smaller ones: a few are tried."""
        words = self.words
        power, split = size_class(total)
        header = words[AT_FREE_HEADS + power * SPLITS + split]
        for _ in range(LAST_RESORT):
            if not header or words[header] >> 2 >= total:
                return header
            header = words[header + 1]
        return 0

    def _split(self, header: int, total: int) -> None:
        """Mark a block used that was just unlinked, giving back what it has beyond ``total``."""
        words = self.words
        has = words[header] >> 2
        rest = has - total
        if rest >= MIN_WORDS:
            words[header] = total << 2
            words[header + total] = rest << 2
            self._link(header + total, rest)
        else:
            words[header] = has << 2
            words[header + has] &= ~_AFTER_FREE

    def _link(self, header: int, total: int) -> None:
        """Make a block free: into its list, its bits set, its end and its neighbour told."""
        words = self.words
        power, split = size_class(total)
        head_at = AT_FREE_HEADS + power * SPLITS + split
        head = words[head_at]
        words[header] = total << 2 | _FREE
        words[header + 1], words[header + 2] = head, 0
        words[header + total - 1] = header
        if head:
            words[head + 2] = header
        words[head_at] = header
        words[AT_SPLIT_MAPS + power] |= 1 << split
        words[AT_POWER_MAP] |= 1 << power
        words[header + total] |= _AFTER_FREE

    def _unlink(self, header: int) -> None:
        """Take a free block out of its list."""
        words = self.words
        power, split = size_class(words[header] >> 2)
        following, previous = words[header + 1], words[header + 2]
        if following:
            words[following + 2] = previous
        if previous:
            words[previous + 1] = following
            return
        words[AT_FREE_HEADS + power * SPLITS + split] = following
        if not following:
            words[AT_SPLIT_MAPS + power] &= ~(1 << split)
            if not words[AT_SPLIT_MAPS + power]:
                words[AT_POWER_MAP] &= ~(1 << power)

    def _merge(self, header: int, total: int) -> None:
        """Free a block together with whatever is free on either side of it."""
        words = self.words
        if words[header] & _AFTER_FREE:
            before = words[header - 1]
            self._unlink(before)
            total += words[before] >> 2
            header = before
        behind = header + total
        if words[behind] & _FREE:
            self._unlink(behind)
            total += words[behind] >> 2
        self._link(header, total)

    # -- new memory -------------------------------------------------------------------------------------------

    def _grow(self, total: int) -> bool:
        """Reserve more of the segment, enough for a block of ``total`` words; False if that cannot be had."""
        words = self.words
        step = max(0, total.bit_length() - 1 - SPLIT_BITS)
        missing = total + (1 << step)  # so that the search, which rounds up, finds it
        while missing > 0:
            old = words[AT_RESERVED]
            if old >= self.end:
                self.shortage = "memory"
                return False
            new = min(old + PIECE, self.end)
            if old < self.start:
                raise ValueError("the memory ends before it begins")
            if not self._reserve(old - 1, new):  # with the word before it, which is looked at
                self.shortage = "filesystem"
                return False
            if old > self.start and words[old - 1] >> 2:
                raise ValueError("the memory does not end where it is said to")
            self._append_piece(old, new)
            missing -= new - old
        return True

    def _append_piece(self, old: int, new: int) -> None:
        """Turn reserved memory into a free block. The word before the end of memory is a used block of size 0."""
        words = self.words
        header = old - 1 if old > self.start else self.start
        after_free = words[header] & _AFTER_FREE if old > self.start else 0
        words[new - 1] = 0
        words[AT_RESERVED] = new
        words[header] = (new - 1 - header) << 2 | after_free
        self._merge(header, new - 1 - header)

    # -- after a crash ----------------------------------------------------------------------------------------

    def confirm_reserved(self) -> None:
        """Make sure that the memory which AT_RESERVED promises is there; where the word is damaged, find out."""
        words = self.words
        reserved = words[AT_RESERVED]
        if self.start <= reserved <= self.end and self._reserve(0, reserved):
            return
        reserved = self.start
        while reserved < self.end and self._reserve(reserved, min(reserved + PIECE, self.end)):
            reserved = min(reserved + PIECE, self.end)
        words[AT_RESERVED] = reserved

    def rebuild(self, live: List[Tuple[int, int]]) -> None:
        """
        Make headers and lists anew: ``live`` has (payload offset, payload words) of each block in use.

        The blocks must not overlap (``LiveBlocks`` sees to that); all else between the ends of the heap becomes free.
        """
        words = self.words
        self.clear()
        reserved = words[AT_RESERVED]
        if reserved <= self.start:
            return
        last = reserved - 1
        words[last] = 0
        position, previous = self.start, 0
        after_free = 0
        for block, payload in [*sorted(live), (reserved, 0)]:
            header = block - 1
            gap = header - position
            if 0 < gap < MIN_WORDS:  # too small to be a free block: the one before keeps it, or nobody
                if previous:
                    words[previous] += gap << 2
                else:
                    words[position] = gap << 2
            elif gap > 0:
                words[header] = 0
                self._link(position, gap)
                after_free = _AFTER_FREE
            if header == last:
                words[last] = after_free
                break
            total = max(payload + 1, MIN_WORDS)
            words[header] = total << 2 | after_free
            position, previous, after_free = header + total, header, 0

    def clear(self) -> None:
        """Empty every list. What the lists led to is lost until ``rebuild`` or ``reset`` finds it again."""
        words = self.words
        for at in range(AT_POWER_MAP, AT_QUICK + QUICK_WORDS + 1):
            words[at] = 0
