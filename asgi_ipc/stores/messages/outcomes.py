"""
What the critical sections of the queues return, and what they keep while they run.
"""

from __future__ import annotations

__all__ = ["AGAIN", "Again", "Enqueued", "Full", "InboxBatch"]

from typing import NamedTuple


class Again:
    """What a critical section returns that has done its share and must be run once more to go on."""


AGAIN = Again()


class Full(NamedTuple):
    """A channel that was full: ``waiting`` of ``capacity`` messages, counted as its inbox wants it."""

    channel: str
    waiting: int
    capacity: int


class Enqueued:
    """
    What has become of a message that not every target simply got.

    ``full`` are the channels that were full; ``undecided`` of the targets, the last ones, were not reached, for want of
    memory (``shortage``: "memory" or "filesystem") or, if that is empty, because a dead owner has left so much that
    another critical section must go on; ``tokens`` are those of FIFOs to notify.
    """

    __slots__ = ("awaited", "full", "shortage", "tokens", "undecided")

    def __init__(self) -> None:
        self.full: list[Full] = []
        self.undecided = 0
        self.shortage = ""
        #: Channels and inboxes with waiters that got a message, and what comes of them.
        self.awaited: list[int] = []
        self.tokens: list[int] = []


class InboxBatch:
    """What one inbox gets of a slice of a group send: how many messages, and which channels had none before."""

    __slots__ = ("added", "ready")

    def __init__(self) -> None:
        self.added = 0
        self.ready: list[int] = []
