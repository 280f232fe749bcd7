"""
What the critical sections of the queues return, and the data that they need while they run.
"""

from __future__ import annotations

__all__ = ["AGAIN", "NOTHING_LEFT", "Again", "Enqueued", "Full", "InboxBatch", "Swept"]

from typing import NamedTuple


class Again:
    """What a critical section returns if it has done a part of the work and must be run again."""


AGAIN = Again()


class Swept(NamedTuple):
    """
    What is left to do after a sweep, outside the mutex.

    ``fifo`` is the owner and the token of one FIFO, which is unregistered if the owner is dead. ``files`` is True if
    files that dead processes left must be searched for.
    """

    fifo: tuple[int, int] | None
    files: bool


NOTHING_LEFT = Swept(None, False)


class Full(NamedTuple):
    """A channel that was full: ``waiting`` messages, which are those of its inbox if that shares one ``capacity``."""

    channel: str
    waiting: int
    capacity: int


class Enqueued:
    """
    The result of an enqueue in which a target did not get the message, or a FIFO must be notified.

    ``full`` are the channels that were full. ``undecided`` is the number of targets, the last ones, that were not
    reached: because of a ``shortage`` ("memory" or "filesystem"), or, if that is empty, because a dead owner has left
    so many messages that another critical section must continue. ``tokens`` are those of the FIFOs to notify.
    """

    __slots__ = ("awaited", "full", "shortage", "tokens", "undecided")

    def __init__(self) -> None:
        self.full: list[Full] = []
        self.undecided = 0
        self.shortage = ""
        #: Channels and inboxes with waiters that got a message; ``tokens`` is determined from them.
        self.awaited: list[int] = []
        self.tokens: list[int] = []


class InboxBatch:
    """What one inbox gets from a slice of a group send: how many messages, and which channels had none before."""

    __slots__ = ("added", "ready")

    def __init__(self) -> None:
        self.added = 0
        self.ready: list[int] = []
