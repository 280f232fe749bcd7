"""
``Memo``: a cache of limited size.
"""

from __future__ import annotations

__all__ = ["Memo"]

from typing import Dict, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(Dict[K, V]):
    """
    A dict that holds at most ``limit`` items. When it is full, it drops all of them.

    This is simpler than dropping the oldest item, and as good if the limit is far above what a program uses.
    """

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def remember(self, key: K, value: V) -> V:
        """Store an item, and return its value."""
        if len(self) >= self.limit:
            self.clear()
        self[key] = value
        return value

    def knows(self, keys: list[K]) -> bool:
        """True if every key is stored. Raises ``TypeError`` for an object that cannot be a key."""
        return all(map(self.__contains__, keys))
