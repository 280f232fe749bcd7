"""
Sending and receiving beside messages that nobody reads, against the same in an empty layer.
"""

from __future__ import annotations

__all__ = ["run"]

from typing import Iterator

from .measure import fill, interleaved, own_layer, pairs, spread

#: Rounds are shorter than what a scheduler gives at a time, so that other work falls between most of them.
TIMES, ROUNDS = 250, 400
UNREAD, CHANNELS = 100_000, 1000


def run() -> Iterator[str]:
    """Lines of the report."""
    with own_layer() as empty, own_layer() as loaded:
        fill(loaded, UNREAD, CHANNELS)
        figures = interleaved({"empty": pairs(empty), "loaded": pairs(loaded)}, TIMES, ROUNDS)
        left = loaded.global_statistics()["messages_pending"]
    ratios = [beside / alone for beside, alone in zip(figures["loaded"], figures["empty"])]
    yield f"the same with {left:,} messages unread in {CHANNELS:,} other channels"
    yield f"empty   {spread(figures['empty'], ' µs', 1e-3)}"
    yield f"loaded  {spread(figures['loaded'], ' µs', 1e-3)}"
    yield f"ratio   {spread(ratios, ' x')}"
