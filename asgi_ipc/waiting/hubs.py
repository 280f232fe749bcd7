"""
The hubs of one message store: which event loops of this process wait for its messages.
"""

from __future__ import annotations

__all__ = ["Hubs"]

import os
import weakref
from collections.abc import Sequence

from ..locking.contention import WouldBlock
from ..locking.threads import ThreadLock
from ..stores.messages.receiving import Taken
from ..stores.messages.store import MessageStore
from .event_loop import EventLoop, PerLoop
from .hub import Hub
from .loop_turns import LoopTurns

_all_hubs: weakref.WeakSet[Hubs] = weakref.WeakSet()


class Hubs:
    """
    The hubs of one message store in this process, one for each event loop. A layer owns them.

    The store does not wait; ``turns`` are those of its operations in event loops.
    """

    def __init__(self, store: MessageStore, turns: LoopTurns) -> None:
        self.store = store
        self.turns = turns
        self.forget()
        _all_hubs.add(self)

    def forget(self) -> None:
        """Have no hubs: this is a new object, or a forked child, whose parent runs the loops."""
        self.by_loop: PerLoop[Hub] = PerLoop()
        self.lock = ThreadLock()
        #: Many receives are pending: then one critical section should take a message or register a waiter.
        self.crowded = False

    def hub_of(self, loop: EventLoop) -> Hub:
        """Return the hub of a running loop. A call for a new loop clears the hubs of closed loops."""
        hub = self.by_loop.get(loop)
        if hub is None:
            with self.lock.checked():
                for other in self.by_loop.all():
                    if other.loop.is_closed():
                        self.by_loop.remove(other)
                        other.clear()
                hub = Hub(self, loop)
                self.by_loop.put(hub)
        return hub

    def try_pop(self, channels: Sequence[str]) -> Taken | None:
        """Take a message from one of the channels at once, unless a receive should wait for its turn."""
        if self.crowded or self.turns.waiting:
            return None
        try:
            return self.store.pop(channels)
        except WouldBlock:
            return None


def _after_fork_in_child() -> None:
    for hubs in list(_all_hubs):
        hubs.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
