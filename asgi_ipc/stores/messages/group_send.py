"""
A group send: one body for many queues, in slices that let other processes get in between.
"""

from __future__ import annotations

__all__ = ["SEND_SLICE", "GroupSend"]

from collections.abc import Callable, Sequence

from ..base import CriticalSections
from .parts import MessageParts
from .queues import Queues
from .wakeups import Wakeups

#: The number of members that one critical section serves.
SEND_SLICE = 64


class GroupSend:
    """
    One body on its way to several ``(channel, capacity)``, with ``expiry`` in ns: how far it has come.

    ``missed`` are the channels that did not get it: they were full, or there was no memory.
    """

    def __init__(
        self,
        sections: CriticalSections[MessageParts],
        wakeups: Wakeups,
        sweep_everything: Callable[[int], bool],
        targets: Sequence[tuple[str, int]],
        body: bytes,
        expiry: int,
    ) -> None:
        self._sections, self._wakeups, self._sweep_everything = sections, wakeups, sweep_everything
        self._rest, self._body, self._expiry = targets, body, expiry
        self._tokens: set[int] = set()
        self._swept = False
        self.missed: list[str] = []

    def go_on(self) -> None:
        """
        Append to all targets that are left. Each slice is one critical section, and stores the body once.

        If an error ends this, it can be called again. The caller calls ``notify`` at the end in any case.
        """
        while self._rest:
            targets = self._rest[:SEND_SLICE]
            now = self._sections.clock()
            outcome = self._sections.run(Queues.enqueue_each, targets, self._body, now, now + self._expiry)
            undecided, shortage = 0, ""
            if outcome is not None:
                undecided, shortage = outcome.undecided, outcome.shortage
                self._tokens.update(outcome.tokens)
                self.missed += [full.channel for full in outcome.full]
            self._rest = self._rest[len(targets) - undecided :]
            if shortage:
                if self._swept or not self._sweep_everything(now):
                    self.missed += [channel for channel, _ in self._rest[:undecided]]
                    self._rest = self._rest[undecided:]
                self._swept = True
            elif self._rest and not undecided:
                self._sections.give_way()

    def notify(self) -> None:
        """Notify the receivers. If they woke earlier, they would only compete with the sender for the mutex."""
        self._wakeups.notify(self._tokens)
