"""
Rings of records in shared memory: doubly linked lists, so that any item can be removed in constant time.

The caller holds the mutex. A ring is identified by the word of its head, which is the offset of its first
item, or 0. Each item has two words for the ring, ``at`` words into it:

    | next item | previous item |

Everything here is derived: a recovery discards the rings and builds them again.
"""

from __future__ import annotations

__all__ = ["append", "extend", "remove", "walk"]

from collections.abc import Iterator, MutableSequence, Sequence
from typing import Union

Words = Union[MutableSequence[int], memoryview]


def append(words: Words, head_at: int, item: int, at: int) -> None:
    """Append an item to the ring whose head is the word ``head_at``."""
    first = words[head_at]
    if not first:
        words[item + at] = words[item + at + 1] = item
        words[head_at] = item
        return
    last = words[first + at + 1]
    words[item + at], words[item + at + 1] = first, last
    words[last + at] = words[first + at + 1] = item


def extend(words: Words, head_at: int, items: Sequence[int], at: int) -> None:
    """Append several items, at least one, to a ring, in their order."""
    first = words[head_at]
    if first:
        last = words[first + at + 1]
        for item in items:
            words[last + at], words[item + at + 1] = item, last
            last = item
    else:
        words[head_at] = first = last = items[0]
        for item in items[1:]:
            words[last + at], words[item + at + 1] = item, last
            last = item
    words[last + at], words[first + at + 1] = first, last


def remove(words: Words, head_at: int, item: int, at: int) -> None:
    """Remove an item from its ring. If it was the first, the next one becomes the first."""
    after, before = words[item + at], words[item + at + 1]
    if after == item:
        words[head_at] = 0
        return
    words[before + at], words[after + at + 1] = after, before
    if words[head_at] == item:
        words[head_at] = after


def walk(words: Words, head_at: int, at: int, most: int) -> Iterator[int]:
    """
    Yield the items of a ring, first to last. No item may be removed during the iteration.

    Raises ``ValueError`` if the ring does not close after ``most`` items.
    """
    first = item = words[head_at]
    if not item:
        return
    for _ in range(most):
        yield item
        item = words[item + at]
        if item == first:
            return
    raise ValueError("a ring does not close")
