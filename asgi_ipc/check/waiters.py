"""
A second opinion on FIFOs and waiters, as ``audit`` has it of the rest.  The caller holds the mutex.

FIFOs and waiters are derived, and nothing stands behind them but each other: whatever leads to a waiter must agree with
what the waiter says of itself.
"""

from __future__ import annotations

__all__ = ["WaiterAudit"]

from typing import Any, Callable, Dict, List, Set

from ..shm.layout import AT_FIFOS
from ..stores.messages import channels as c
from ..stores.messages import waiters as w


class WaiterAudit:
    """The walk over all FIFOs: ``channels`` are the records that were found, ``reach`` notes a block in use."""

    def __init__(self, words: Any, channels: Dict[str, int], reach: Callable[[int, int, str], bool]) -> None:
        self.words = words
        self.channels = channels
        self.reach = reach
        self.wrong: List[str] = []

    def run(self) -> List[str]:
        """Every discrepancy, a sentence each."""
        hanging: Dict[int, Set[int]] = {}
        waiting: Dict[int, int] = {}
        for fifo in self._ring(AT_FIFOS, w.NEXT_FIFO, "the ring of FIFOs"):
            if self.reach(fifo, w.FIFO_WORDS, "a FIFO"):
                self._fifo(fifo, hanging, waiting)
        for name, record in self.channels.items():
            what = f"channel {name!r}"
            self._expect(f"WAITING of {what}", self.words[record + c.WAITING], waiting.pop(record, 0))
            found = set(self._ring(record + c.WAITERS, w.NEXT, f"the ring of those who wait for {what}"))
            self._expect(f"those who wait for {what}", sorted(found), sorted(hanging.get(record, ())))
        for record in waiting:
            self.wrong.append(f"a waiter waits for {record}, which is no channel")
        return self.wrong

    def _fifo(self, fifo: int, hanging: Dict[int, Set[int]], waiting: Dict[int, int]) -> None:
        words, what = self.words, f"the FIFO at {fifo}"
        called: Set[int] = set()
        for waiter in self._ring(fifo + w.OF_FIFO, w.NEXT_OF_FIFO, f"the ring of waiters of {what}"):
            if not self.reach(waiter, w.WAITER_WORDS, "a waiter"):
                continue
            self._expect(f"FIFO of the waiter at {waiter}", words[waiter + w.FIFO], fifo)
            record = words[waiter + w.CHANNEL]
            waiting[record] = waiting.get(record, 0) + 1
            if words[waiter + w.IS_NOTIFIED]:
                called.add(waiter)
            else:
                hanging.setdefault(record, set()).add(waiter)
        news: Set[int] = set()
        waiter = words[fifo + w.NOTIFIED]
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
