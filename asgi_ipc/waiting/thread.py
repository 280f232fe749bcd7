"""
Waiting in a thread: it sleeps on its own FIFO in ``poll``, which releases the GIL and lets signal handlers run.
"""

from __future__ import annotations

__all__ = ["POLL_PERIOD", "SHORT_POLL_PERIOD", "receive"]

from collections.abc import Sequence

from .. import clock
from ..stores.messages.receiving import Registered, Taken
from ..stores.messages.wakeups import Wakeups

#: Seconds between two polls of a waiting receiver. A poll finds messages whose notification was lost.
POLL_PERIOD = 1.0
#: The same if there was no memory to register a waiter, so that no sender notifies.
SHORT_POLL_PERIOD = 0.05


def receive(wakeups: Wakeups, channels: Sequence[str], seconds: float) -> Taken | None:
    """
    Take a message from one of the channels. Sleeps until there is one, for up to ``seconds``; then returns None.

    An exception that a signal handler raises ends the sleep. Then no message is taken.
    """
    deadline, left = clock.monotonic() + seconds, seconds
    wakeups.spin(channels)
    fifo = wakeups.take_fifo()
    is_registered = False
    try:
        while True:
            is_registered = True
            outcome = wakeups.pop_again(channels, fifo)
            if not isinstance(outcome, Registered):
                is_registered = False
                return outcome
            left = min(left, deadline - clock.monotonic())
            if left <= 0:
                return None
            period = min(left, POLL_PERIOD if outcome.waiters else SHORT_POLL_PERIOD)
            if not fifo.wait(period):
                left -= period  # the wait ends even if the clock stands still
                if fifo.is_unlinked():
                    wakeups.dismiss(fifo)
                    fifo = wakeups.new_fifo()
    finally:
        wakeups.give_back(fifo, is_registered)
