"""
Records of one fixed size, in pages that hold nothing else. The caller holds the mutex.

Each use of a record gets a new tag from a counter that only grows; a free record has tag 0. So a process can
remember ``name -> (offset, tag)`` and compare the tag, instead of searching a chain. The memory of a freed
page may become a block of any contents. So freeing a page increments AT_GENERATION, and every process forgets
what it remembered.

    page      | next page with room | previous one | first free record | live records | record | record | ...
    record    | ... two words ... | tag | ...            (a free one: word 0 leads to the next free one)

All of it is derived, except the tags and pages of records that the hash table reaches.
"""

from __future__ import annotations

__all__ = ["Slab"]

from collections.abc import Collection

from ..shm.layout import AT_GENERATION, AT_PAGES, AT_TAG, COUNTED
from ..shm.segment import Segment
from .heap import Heap
from .live_blocks import LiveBlocks

TAG = 2
_NEXT, _PREVIOUS, _FREE, _LIVE, _PAGE_HEADER = 0, 1, 2, 3, 4
#: Records in a page.
PAGE_RECORDS = 32


class Slab:
    """Records of ``size`` words, whose word ``page_at`` holds the offset of their page."""

    def __init__(self, segment: Segment, heap: Heap, size: int, page_at: int) -> None:
        self.words = segment.words
        self.heap = heap
        self.size = size
        self.page_at = page_at
        self.page_words = _PAGE_HEADER + PAGE_RECORDS * size

    def allocate(self) -> int:
        """Return a record with a new tag and otherwise undefined words; 0 if there is no memory."""
        words = self.words
        page = words[AT_PAGES] or self._new_page()
        if not page:
            return 0
        record = words[page + _FREE]
        words[page + _FREE] = words[record]
        words[page + _LIVE] += 1
        if not words[page + _FREE]:
            self._unlink(page)
        tag = words[AT_TAG] + 1
        words[AT_TAG] = tag
        words[record + TAG] = tag
        words[record + self.page_at] = page
        return record

    def free(self, record: int) -> None:
        """Free a record. It must not be reachable any more."""
        words = self.words
        page = words[record + self.page_at]
        words[record + TAG] = 0
        if not words[page + _FREE]:
            self._link(page)
        words[record] = words[page + _FREE]
        words[page + _FREE] = record
        words[page + _LIVE] -= 1
        # One page with room stays, so that a channel that comes and goes does not increment the generation
        # each time.
        if not words[page + _LIVE] and (words[page + _NEXT] or words[page + _PREVIOUS]):
            self._unlink(page)
            words[AT_GENERATION] += 1
            self.heap.free(page)

    def _new_page(self) -> int:
        page = self.heap.allocate(self.page_words)
        if page:
            self._fill(page, ())
        return page

    def _fill(self, page: int, live: Collection[int]) -> None:
        """Write a page's header and the list of its free records; ``live`` are the records in use."""
        words = self.words
        words[page + _FREE] = 0
        words[page + _LIVE] = len(live)
        if len(live) == PAGE_RECORDS:  # most pages of a recovery
            return
        first = page + _PAGE_HEADER
        for record in range(first + (PAGE_RECORDS - 1) * self.size, first - 1, -self.size):
            if record not in live:
                words[record + TAG] = 0
                words[record] = words[page + _FREE]
                words[page + _FREE] = record
        self._link(page)

    def _link(self, page: int) -> None:
        words = self.words
        following = words[AT_PAGES]
        words[page + _NEXT], words[page + _PREVIOUS] = following, 0
        if following:
            words[following + _PREVIOUS] = page
        words[AT_PAGES] = page

    def _unlink(self, page: int) -> None:
        words = self.words
        following, previous = words[page + _NEXT], words[page + _PREVIOUS]
        if following:
            words[following + _PREVIOUS] = previous
        if previous:
            words[previous + _NEXT] = following
        else:
            words[AT_PAGES] = following

    # -- after a crash ----------------------------------------------------------------------------------------

    def mark_live(self, record: int, pages: dict[int, dict[int, int]], live_blocks: LiveBlocks) -> bool:
        """Add a record that the walk has found, and its tag, to those of its page; False if it cannot be a record."""
        words = self.words
        page, tag = words[record + self.page_at], words[record + TAG]
        offset = record - page - _PAGE_HEADER
        if offset % self.size or not 0 <= offset < PAGE_RECORDS * self.size or not tag:
            return False
        live = pages.get(page)
        if live is None:
            if not live_blocks.mark(page, self.page_words):
                return False
            live = pages[page] = {}
        elif record in live:
            return False
        live[record] = tag
        return True

    def rebuild(self, pages: dict[int, dict[int, int]]) -> None:
        """
        Build the lists from what ``mark_live`` collected. Pages without a live record went back to the heap.

        The caller increments the generation, so damaged tags can be replaced by new ones.
        """
        words = self.words
        words[AT_PAGES] = 0
        tags: list[int] = []
        for page, live in pages.items():
            self._fill(page, live)
            tags += live.values()
        highest = max(tags, default=0)
        if max(highest, words[AT_TAG]) >= COUNTED or len(set(tags)) < len(tags):
            records = [record for live in pages.values() for record in live]
            for tag, record in enumerate(records, 1):
                words[record + TAG] = tag
            words[AT_TAG] = len(records)
        elif highest > words[AT_TAG]:
            words[AT_TAG] = highest
