"""
Waiting in a thread: it sleeps at a wakeup FIFO of its own, in ``poll``, which gives the GIL away and lets signals in.
"""

from __future__ import annotations

__all__ = ["POLL_PERIOD", "SHORT_POLL_PERIOD", "receive"]

import time
from typing import Optional, Sequence

from ..stores.messages.waits import Taken
from ..stores.messages.wakeups import Registered, WaitingStore

#: Seconds between two looks of a sleeper: whatever was lost is found by then.
POLL_PERIOD = 1.0
#: The same where no waiter could be hung up for want of memory, so that nobody rings.
SHORT_POLL_PERIOD = 0.05


def receive(store: WaitingStore, channels: Sequence[str], seconds: float) -> Optional[Taken]:
    """
    Take a message from one of the channels, for which this thread sleeps up to ``seconds``; None if none has come.

    Whatever a signal handler raises ends the sleep, and no message is taken then.
    """
    deadline = time.monotonic() + seconds
    store.spin(channels)
    fifo = store.take_fifo()
    is_registered = False
    try:
        while True:
            is_registered = True
            outcome = store.pop_again(channels, fifo)
            if not isinstance(outcome, Registered):
                is_registered = False
                return outcome
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if not fifo.wait(min(left, POLL_PERIOD if outcome.waiters else SHORT_POLL_PERIOD)) and fifo.is_unlinked():
                store.dismiss(fifo)
                fifo = store.new_fifo()
    finally:
        store.give_back_fifo(fifo, is_registered)
