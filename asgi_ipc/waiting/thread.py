"""
Waiting in a thread: it sleeps at a doorbell of its own, in ``poll``, which gives the GIL away and lets signals in.
"""

from __future__ import annotations

__all__ = ["LOOK", "SHORT", "receive"]

import time
from typing import Optional, Sequence

from ..stores.messages.waits import Taken
from ..stores.messages.wakeups import Hung, WaitingStore

#: Seconds between two looks of a sleeper: whatever was lost is found by then.
LOOK = 1.0
#: The same where no waiter could be hung up for want of memory, so that nobody rings.
SHORT = 0.05


def receive(store: WaitingStore, channels: Sequence[str], seconds: float) -> Optional[Taken]:
    """
    Take a message from one of the channels, for which this thread sleeps up to ``seconds``; None if none has come.

    Whatever a signal handler raises ends the sleep, and no message is taken then.
    """
    deadline = time.monotonic() + seconds
    store.linger(channels)
    bell = store.take_bell()
    hangs = False
    try:
        while True:
            hangs = True
            outcome = store.pop_again(channels, bell)
            if not isinstance(outcome, Hung):
                hangs = False
                return outcome
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if not bell.sleep(min(left, LOOK if outcome.waiters else SHORT)) and bell.is_spoiled():
                store.dismiss(bell)
                bell = store.new_bell()
    finally:
        store.give_bell(bell, hangs)
