"""
Figures of the message store in the form of the ASGI draft's statistics extension.
"""

from __future__ import annotations

__all__ = ["Figures", "Rates"]

import time
from typing import Callable, Dict, Optional, Protocol, Tuple

#: Channels whose last figures are kept for a rate.
REMEMBERED = 4096


class Figures(Protocol):
    """What the store counts: messages ever sent, waiting now, refused; the age of the oldest one in ns."""

    @property
    def sent(self) -> int: ...

    @property
    def pending(self) -> int: ...

    @property
    def refused(self) -> int: ...

    @property
    def oldest(self) -> int: ...


class Rates:
    """
    Turns figures into reports. Rates are taken between two reports, so that they cost the store nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: Dict[Optional[str], Tuple[float, int, int]] = {}

    def report(self, channel: Optional[str], figures: Figures) -> Dict[str, float]:
        """The report on a channel, None for all together; rates are 0.0 in the first one."""
        now = self._clock()
        then, sent, refused = self._last.get(channel, (now, figures.sent, figures.refused))
        if len(self._last) >= REMEMBERED:
            self._last.clear()
        self._last[channel] = (now, figures.sent, figures.refused)
        passed = now - then
        return {
            "messages_count": figures.sent,
            "messages_count_per_second": max(0.0, (figures.sent - sent) / passed) if passed > 0 else 0.0,
            "messages_pending": figures.pending,
            "messages_max_age": figures.oldest / 1e9,
            "channel_full_count": figures.refused,
            "channel_full_count_per_second": max(0.0, (figures.refused - refused) / passed) if passed > 0 else 0.0,
        }
