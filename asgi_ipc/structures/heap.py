"""
Memory allocation inside a segment. The caller always holds the mutex.

Everything here is derived: after a crash ``rebuild`` computes it from the blocks that the truth reaches. So
the order of stores in this module does not matter, and the contents of free memory have no meaning.

    used block    | header | payload ...                                   |
    free block    | header | next free | previous free | ... | own header's offset |
                             ^ what offsets point to

Sizes are in words and include the header; a block has at least four words. Free blocks are in lists by size class
(two-level segregated fit: Masmano et al., ECRTS 2004), neighbouring free blocks are merged at once, and every operation
takes constant time. Splitting and merging on every message would double the cost of its critical section. So freed
blocks of up to ``QUICK_WORDS`` words are not merged until memory is short: they stay marked as used in a *quick list*
of their exact size.
"""

from __future__ import annotations

__all__ = ["MIN_WORDS", "Heap"]

from collections.abc import Callable

from ..shm.layout import (
    AT_FREE_HEADS,
    AT_FREE_WORDS,
    AT_POWER_MAP,
    AT_QUICK,
    AT_RESERVED,
    AT_SPLIT_MAPS,
    POWERS,
    QUICK_WORDS,
    SPLIT_BITS,
    SPLITS,
    WORD,
    size_class,
)
from ..shm.segment import Segment

_FREE = 1
_AFTER_FREE = 2
MIN_WORDS = 4
#: The most words in one quick list (64 KiB): enough for a group send to a thousand members.
QUICK_MOST = 64 * 1024 // WORD
#: How many blocks are cut at once for an empty quick list.
QUICK_BATCH = 16
#: Memory is reserved in pieces of this many words (256 KiB): the kernel needs some 50 µs to zero one.
PIECE = 256 * 1024 // WORD
#: How many blocks of the size's own class are tried when the larger classes are empty.
LAST_RESORT = 64


class Heap:
    """The blocks of one segment."""

    def __init__(self, segment: Segment) -> None:
        self.words = segment.words
        self.start = segment.geometry.heap_at
        self.end = segment.geometry.end
        self._reserve: Callable[[int, int], bool] = segment.reserve
        #: Why the last ``allocate`` failed: "memory" or "filesystem".
        self.shortage = "memory"

    # -- allocate and free ------------------------------------------------------------------------------------

    def allocate(self, payload: int) -> int:
        """Return the payload offset of a block with ``payload`` words; 0, with ``shortage`` set, if none."""
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

    def allocate_several(self, payload: int, count: int) -> list[int]:
        """Return ``count`` such blocks, or as many as there is memory for."""
        words, total = self.words, max(payload + 1, MIN_WORDS)
        blocks: list[int] = []
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
        """Free the block whose payload starts at ``block``."""
        words = self.words
        total = words[block - 1] >> 2
        if total <= QUICK_WORDS:
            head = words[AT_QUICK + total]
            waiting = words[head + 1] + total if head else total  # words from here to the list's end
            if waiting <= QUICK_MOST:
                words[block] = head
                words[block + 1] = waiting
                words[AT_QUICK + total] = block
                return
        self._merge(block - 1, total)

    def free_words(self) -> int:
        """Return the number of words in all free blocks, including headers."""
        words = self.words
        heads = words[AT_QUICK : AT_QUICK + QUICK_WORDS + 1].tolist()
        return int(words[AT_FREE_WORDS]) + sum(words[block + 1] for block in heads if block)

    # -- quick lists ------------------------------------------------------------------------------------------

    def _cut_batch(self, total: int) -> int:
        """Cut several blocks of one size from a free one: one for the caller, the rest for the quick list."""
        batch = self._find(total * QUICK_BATCH)
        if not batch:
            return self._find(total)
        words = self.words
        header = batch - 1
        spare = (words[header] >> 2) - total * QUICK_BATCH  # too little to be split off
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
        """Merge quick lists, size by size, until a block of ``wanted`` words is free; its header, or 0."""
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
        """Get a block of ``total`` words: from the free lists, new memory or the quick lists; 0 if none."""
        header = self._search(total)
        if not header:
            self._grow(total)
            header = self._search(total)  # even if it grew by less: that may have been merged with what was there
        if not header:
            header = self._merge_quick(total) or self._search_below(total)
        if not header:
            return 0
        self._unlink(header)
        self._split(header, total)
        return header + 1

    def _search(self, total: int) -> int:
        """Return a free block of the first non-empty class in which every block is large enough, or 0."""
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
        """Try a few blocks of the class of ``total`` itself, which also has blocks that are too small."""
        words = self.words
        power, split = size_class(total)
        header = words[AT_FREE_HEADS + power * SPLITS + split]
        for _ in range(LAST_RESORT):
            if not header or words[header] >> 2 >= total:
                return header
            header = words[header + 1]
        return 0

    def _split(self, header: int, total: int) -> None:
        """Mark a block that was just unlinked as used, and free what it has beyond ``total``."""
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
        """Mark a block as free: list, bitmaps, its last word, and the flag of the block after it."""
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
        words[AT_FREE_WORDS] += total
        words[header + total] |= _AFTER_FREE

    def _unlink(self, header: int) -> None:
        """Take a free block out of its list."""
        words = self.words
        total = words[header] >> 2
        power, split = size_class(total)
        words[AT_FREE_WORDS] -= total
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
        """Free a block, merged with the free blocks on either side."""
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

    def _grow(self, total: int) -> None:
        """Reserve memory for a block of ``total`` words; if there is less, set ``shortage``."""
        words = self.words
        step = max(0, total.bit_length() - 1 - SPLIT_BITS)
        missing = total + (1 << step)  # the search rounds up
        while missing > 0:
            old = words[AT_RESERVED]
            if old >= self.end:
                self.shortage = "memory"
                return
            new = min(old + PIECE, self.end)
            if old < self.start:
                raise ValueError("the reserved memory ends before the heap begins")
            if not self._reserve(old - 1, new):  # with the word before it, which is read below
                self.shortage = "filesystem"
                return
            if old > self.start and words[old - 1] >> 2:
                raise ValueError("the reserved memory does not end with an empty block")
            self._append_piece(old, new)
            missing -= new - old

    def _append_piece(self, old: int, new: int) -> None:
        """Turn reserved memory into a free block. The last reserved word is a used block of size 0."""
        words = self.words
        header = old - 1 if old > self.start else self.start
        after_free = words[header] & _AFTER_FREE if old > self.start else 0
        words[new - 1] = 0
        words[AT_RESERVED] = new
        words[header] = (new - 1 - header) << 2 | after_free
        self._merge(header, new - 1 - header)

    # -- after a crash ----------------------------------------------------------------------------------------

    def confirm_reserved(self) -> None:
        """Reserve the memory up to AT_RESERVED again; if the word is damaged, reserve all and set it."""
        words = self.words
        reserved = words[AT_RESERVED]
        if self.start <= reserved <= self.end and self._reserve(0, reserved):
            return
        reserved = self.start
        while reserved < self.end and self._reserve(reserved, min(reserved + PIECE, self.end)):
            reserved = min(reserved + PIECE, self.end)
        words[AT_RESERVED] = reserved

    def rebuild(self, live: list[tuple[int, int]]) -> None:
        """
        Compute headers and lists: ``live`` has (payload offset, payload words) of each block in use.

        The blocks must not overlap (``LiveBlocks`` makes sure of that). Everything else becomes free.
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
            if 0 < gap < MIN_WORDS:  # too small for a free block: the block before gets it, if there is one
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
        """Empty every list. The blocks in them are lost until ``rebuild`` finds them again."""
        words = self.words
        for at in range(AT_POWER_MAP, AT_QUICK + QUICK_WORDS + 1):
            words[at] = 0
        words[AT_FREE_WORDS] = 0
