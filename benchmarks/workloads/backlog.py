"""Send a message and receive it while unread messages wait in other channels."""

from __future__ import annotations

__all__ = ["BACKLOG", "fill"]

import time
from typing import List

from ..adapters.base import Message, Peer
from .base import Maker, Params, Unfit, Workload
from .pair import Pairs

LEVELS = (0, 1000, 10_000, 100_000, 1_000_000)
QUICK_LEVELS = (0, 1000)
#: The number of channels that hold the unread messages.
CHANNELS = 1000
#: Seconds that filling may take, and the shorter limit for more than 100,000 messages.
LIMIT, MANY, MANY_LIMIT = 60.0, 100_000, 20.0


class Beside(Pairs):
    """Pairs with a peer that holds unread messages."""

    def __init__(self, maker: Maker, params: Params) -> None:
        self.unread = params["unread"]
        super().__init__(maker, params)

    def prepare(self) -> None:
        fill(self.peer, self.unread, self.message)


def fill(peer: Peer, messages: int, message: Message, channels: int = CHANNELS) -> None:
    """Send messages that stay unread. Raises ``Unfit`` if that would take too long."""
    limit = MANY_LIMIT if messages > MANY else LIMIT
    start, done = time.monotonic(), 0
    each, rest = divmod(messages, channels)
    for number in range(channels if each else rest):
        share = each + (number < rest)
        peer.send_all(f"unread.{number}", share, message)
        done += share
        passed = time.monotonic() - start
        # If the cost of a message grows with the backlog, the estimate is too low; so test it after each
        # channel.
        if passed > 2 and passed / done * messages > limit:
            raise Unfit(f"leaving {messages:,} messages unread would take over {limit:.0f} s")


def levels(quick: bool) -> List[List[Params]]:
    return [[{"unread": unread, "payload": 100} for unread in (QUICK_LEVELS if quick else LEVELS)]]


BACKLOG = Workload(
    name="backlog",
    title="Send and receive while unread messages wait",
    about="The time to send a message of 100 bytes and receive it again while other messages wait in 1,000 other "
    "channels.",
    metrics={"pair": "µs"},
    labels={"pair": "time"},
    stage=Beside,
    grid=levels,
    rounds=60,
    quick_rounds=5,
    needs=lambda params: ("channels",),
    patience=120,
    setting=lambda params: f"{params['unread']:,} unread messages" if params["unread"] else "no unread messages",
    quick_seconds=0.7,
)
