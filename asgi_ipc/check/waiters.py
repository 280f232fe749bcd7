"""
The check of FIFOs and waiters.  The caller holds the mutex.

They are derived, but not from other words in the segment.  So they are compared with each other: every list that leads
to a waiter must agree with the fields of the waiter.
"""

from __future__ import annotations

__all__ = ["WaiterCheck"]

from ..shm.layout import AT_FIFOS
from ..stores.messages import channels as c
from ..stores.messages import waiters as w
from .walk import Walk


class WaiterCheck:
    """Checks all FIFOs of a message segment, whose channel records are ``channels``."""

    def __init__(self, walk: Walk, channels: dict[str, int]) -> None:
        self.walk = walk
        self.words = walk.words
        self.channels = channels

    def run(self) -> None:
        """Add every problem to those of the walk."""
        walk, words = self.walk, self.words
        registered: dict[int, set[int]] = {}
        waiting: dict[int, int] = {}
        for fifo in sorted(walk.ring(AT_FIFOS, w.NEXT_FIFO, "the ring of FIFOs")):
            if walk.reach(fifo, w.FIFO_WORDS, "a FIFO"):
                self._check_fifo(fifo, registered, waiting)
        for name, record in self.channels.items():
            what = f"channel {name!r}"
            walk.expect(f"WAITING of {what}", words[record + c.WAITING], waiting.pop(record, 0))
            found = walk.ring(record + c.WAITERS, w.NEXT, f"the ring of waiters of {what}")
            walk.expect(f"the waiters of {what}", sorted(found), sorted(registered.get(record, ())))
        for record in waiting:
            walk.problems.append(f"a waiter waits for {record}, which is not a channel")

    def _check_fifo(self, fifo: int, registered: dict[int, set[int]], waiting: dict[int, int]) -> None:
        walk, words, what = self.walk, self.words, f"the FIFO at {fifo}"
        notified: set[int] = set()
        for waiter in sorted(walk.ring(fifo + w.OF_FIFO, w.NEXT_OF_FIFO, f"the ring of waiters of {what}")):
            if not walk.reach(waiter, w.WAITER_WORDS, "a waiter"):
                continue
            walk.expect(f"FIFO of the waiter at {waiter}", words[waiter + w.FIFO], fifo)
            record = words[waiter + w.CHANNEL]
            waiting[record] = waiting.get(record, 0) + 1
            if words[waiter + w.IS_NOTIFIED]:
                notified.add(waiter)
            else:
                registered.setdefault(record, set()).add(waiter)
        found = set(walk.walk(fifo + w.NOTIFIED, w.NEXT, f"the notified list of {what}"))
        walk.expect(f"the notified list of {what}", sorted(found), sorted(notified))
