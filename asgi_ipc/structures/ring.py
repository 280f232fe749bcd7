"""
Rings of records in shared memory: doubly linked, so that any item leaves in constant time.  The caller holds the mutex.

A ring is known by the word of its head, which leads to its first item, or is 0.  Each item has two words for the ring,
``at`` words into it:

    | next item | previous item |

Everything here is derived: a recovery forgets the rings and makes them anew.
"""

from __future__ import annotations

__all__ = ["append", "extend", "remove", "walk"]

from typing import Iterator, MutableSequence, Sequence, Union

Words = Union["MutableSequence[int]", memoryview]


def append(words: Words, head_at: int, item: int, at: int) -> None:
    """Put an item at the end of the ring whose head is the word ``head_at``."""
    first = words[head_at]
    if not first:
        words[item + at] = words[item + at + 1] = item
        words[head_at] = item
        return
    last = words[first + at + 1]
    words[item + at], words[item + at + 1] = first, last
    words[last + at] = words[first + at + 1] = item


def extend(words: Words, head_at: int, items: Sequence[int], at: int) -> None:
    """Put several items at the end of a ring, in their order."""
    if not items:
        return
    first = words[head_at] or items[0]
    last = words[first + at + 1] if words[head_at] else 0
    words[head_at] = first
    for item in items:
        if last:
            words[last + at] = item
        words[item + at + 1] = last
        last = item
    words[last + at], words[first + at + 1] = first, last


def remove(words: Words, head_at: int, item: int, at: int) -> None:
    """Take an item out of its ring; the one behind it comes first then, if it was the first."""
    after, before = words[item + at], words[item + at + 1]
    if after == item:
        words[head_at] = 0
        return
    words[before + at], words[after + at + 1] = after, before
    if words[head_at] == item:
        words[head_at] = after


def walk(words: Words, head_at: int, at: int, most: int) -> Iterator[int]:
    """The items of a ring, first to last. None may be removed meanwhile. ``ValueError`` past ``most`` items."""
    first = item = words[head_at]
    if not item:
        return
    for _ in range(most):
        yield item
        item = words[item + at]
        if item == first:
            return
    raise ValueError("a ring does not close")
