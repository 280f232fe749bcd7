"""
Statistics of the message store, as the statistics extension of the ASGI draft defines them.
"""

from __future__ import annotations

__all__ = ["Figures", "Rates"]

from collections.abc import Callable
from dataclasses import dataclass

from . import clock
from .memo import Memo

#: The number of channels whose last figures a layer remembers, to calculate rates.
REMEMBERED = 4096


@dataclass(frozen=True)
class Figures:
    """
    Figures of one channel or the sums of several.

    Messages that were sent, that are waiting and that were refused; the age of the oldest waiting one, in ns.
    """

    sent: int = 0
    pending: int = 0
    refused: int = 0
    oldest: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.sent + other.sent,
            self.pending + other.pending,
            self.refused + other.refused,
            max(self.oldest, other.oldest),
        )


class Rates:
    """
    Turns figures into reports. Rates are calculated from two reports, so the store need not measure them.

    ``seconds`` reads a clock.
    """

    def __init__(self, seconds: Callable[[], float] = clock.monotonic) -> None:
        self._seconds = seconds
        self._last: Memo[str | None, tuple[float, int, int]] = Memo(REMEMBERED)

    def report(self, channel: str | None, figures: Figures) -> dict[str, float]:
        """Return the report on a channel, or on all channels if it is None. Rates are 0.0 in the first report."""
        now = self._seconds()
        then, sent, refused = self._last.get(channel, (now, figures.sent, figures.refused))
        self._last.remember(channel, (now, figures.sent, figures.refused))
        passed = now - then
        return {
            "messages_count": figures.sent,
            "messages_count_per_second": max(0.0, (figures.sent - sent) / passed) if passed > 0 else 0.0,
            "messages_pending": figures.pending,
            "messages_max_age": figures.oldest / 1e9,
            "channel_full_count": figures.refused,
            "channel_full_count_per_second": max(0.0, (figures.refused - refused) / passed) if passed > 0 else 0.0,
        }
