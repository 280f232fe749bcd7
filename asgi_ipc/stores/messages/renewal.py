"""
What the waiting receivers of this process do when it has got another segment or another slot.
"""

from __future__ import annotations

__all__ = ["notify_own", "register_again"]

import os
import weakref

from ...shm.wakeup_fifo import WakeupFifo, live_fifos
from ..base import CriticalSections
from .parts import MessageParts
from .waiters import Waiters


def notify_own(fifos: weakref.WeakValueDictionary[int, WakeupFifo]) -> None:
    """Notify FIFOs of this process: waiting receivers check again, and register in the current segment."""
    for fifo in live_fifos(fifos):
        fifo.notify()


def register_again(
    fifos: weakref.WeakValueDictionary[int, WakeupFifo], sections: CriticalSections[MessageParts]
) -> None:
    """
    Have the waiting receivers of this process own their inboxes again, and register again.

    Others may have taken this process for dead, or it has got another slot.
    """
    for fifo in live_fifos(fifos):
        if fifo.pid != os.getpid():  # a fork that did not call Python's hooks: the receiver is in the parent
            fifo.home = None
            continue
        done = False
        while not done:
            tokens, done = sections.run(Waiters.unregister_fifo, fifo.token)
            for token in tokens:  # if this fails, a poll or a sweep detects that
                sections.opened().notifier.notify(token)
        fifo.notify()
