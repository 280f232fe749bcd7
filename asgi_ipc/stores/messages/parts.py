"""
The objects that work on one attachment of a message segment. Their methods are the store's critical sections.
"""

from __future__ import annotations

__all__ = ["MessageParts"]

from ..attachment import Attachment
from ..base import Parts
from .inspect import Inspect
from .ownership import Ownership
from .queues import Queues
from .receiving import Receiving
from .sweep import Sweep
from .waiters import Waiters


class MessageParts(Parts):
    """The parts of a message store. ``limit`` is the option ``message_limit``, in bytes."""

    __slots__ = ("inspect", "ownership", "queues", "receiving", "sweep", "waiters")

    def __init__(self, limit: int | None, attachment: Attachment) -> None:
        self.queues = Queues(attachment.segment, attachment.heap, attachment.liveness, limit)
        self.receiving = Receiving(self.queues)
        self.waiters: Waiters = self.queues.waiters
        self.ownership: Ownership = self.queues.ownership
        self.sweep = Sweep(self.queues)
        self.inspect = Inspect(self.queues)

    def forget_owned(self) -> None:
        self.ownership.forget()
