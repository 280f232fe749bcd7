"""
``Memo``: what a process remembers of earlier answers.
"""

from __future__ import annotations

__all__ = ["Memo"]

from typing import Dict, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(Dict[K, V]):
    """
    A dict that holds at most ``limit`` items: when it is full, it forgets all of them and begins anew.

    Simpler than to forget the oldest one, and as good where the limit is far above what a program uses.
    """

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def remember(self, key: K, value: V) -> V:
        """Keep an item, and return its value."""
        if len(self) >= self.limit:
            self.clear()
        self[key] = value
        return value

    def knows(self, keys: list[K]) -> bool:
        """True if every key is remembered. Raises ``TypeError`` for one that cannot be a key."""
        return all(map(self.__contains__, keys))
