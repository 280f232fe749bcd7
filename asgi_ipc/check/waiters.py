"""
A second opinion on bells and waiters, as ``audit`` has it of the rest.  The caller holds the guard.

Bells and waiters are derived, and nothing stands behind them but each other: whatever leads to a waiter must agree with
what the waiter says of itself.
"""

from __future__ import annotations

__all__ = ["WaiterAudit"]

from typing import Any, Callable, Dict, List, Set

from ..shm.layout import AT_BELLS
from ..stores.messages import channels as c
from ..stores.messages import waiters as w


class WaiterAudit:
    """The walk over all bells: ``channels`` are the records that were found, ``reach`` notes a block in use."""

    def __init__(self, words: Any, channels: Dict[str, int], reach: Callable[[int, int, str], bool]) -> None:
        self.words = words
        self.channels = channels
        self.reach = reach
        self.wrong: List[str] = []

    def run(self) -> List[str]:
        """Every discrepancy, a sentence each."""
        hanging: Dict[int, Set[int]] = {}
        waiting: Dict[int, int] = {}
        for bell in self._ring(AT_BELLS, w.NEXT_BELL, "the ring of bells"):
            if self.reach(bell, w.BELL_WORDS, "a bell"):
                self._bell(bell, hanging, waiting)
        for name, record in self.channels.items():
            what = f"channel {name!r}"
            self._expect(f"WAITING of {what}", self.words[record + c.WAITING], waiting.pop(record, 0))
            found = set(self._ring(record + c.WAITERS, w.NEXT, f"the ring of those who wait for {what}"))
            self._expect(f"those who wait for {what}", sorted(found), sorted(hanging.get(record, ())))
        for record in waiting:
            self.wrong.append(f"a waiter waits for {record}, which is no channel")
        return self.wrong

    def _bell(self, bell: int, hanging: Dict[int, Set[int]], waiting: Dict[int, int]) -> None:
        words, what = self.words, f"the bell at {bell}"
        called: Set[int] = set()
        for waiter in self._ring(bell + w.OF_BELL, w.NEXT_OF_BELL, f"the ring of waiters of {what}"):
            if not self.reach(waiter, w.WAITER_WORDS, "a waiter"):
                continue
            self._expect(f"BELL of the waiter at {waiter}", words[waiter + w.BELL], bell)
            record = words[waiter + w.CHANNEL]
            waiting[record] = waiting.get(record, 0) + 1
            if words[waiter + w.CALLED]:
                called.add(waiter)
            else:
                hanging.setdefault(record, set()).add(waiter)
        news: Set[int] = set()
        waiter = words[bell + w.NEWS]
        while waiter and waiter not in news:
            news.add(waiter)
            waiter = words[waiter + w.NEXT]
        self._expect(f"the news of {what}", sorted(news), sorted(called))

    def _ring(self, head_at: int, at: int, what: str) -> List[int]:
        words = self.words
        first = item = words[head_at]
        found: List[int] = []
        seen: Set[int] = set()
        while item and item not in seen:
            seen.add(item)
            found.append(item)
            after = words[item + at]
            self._expect(f"the item before {after} in {what}", words[after + at + 1], item)
            item = after
        self._expect(f"the end of {what}", item, first)
        return found

    def _expect(self, what: str, found: Any, right: Any) -> None:
        if found != right:
            self.wrong.append(f"{what} is {found}, not {right}")
