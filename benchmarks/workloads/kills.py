"""Senders and receivers are killed at random: how many messages are lost or doubled, and the longest wait."""

from __future__ import annotations

__all__ = ["KILLS"]

import tempfile
from typing import Dict, List, Optional

from .base import Maker, Params, Stage, Workload


class Kills(Stage):
    """Two senders and two receivers, each replaced when it is killed."""

    def __init__(self, maker: Maker, params: Params) -> None:
        self.prefix = maker.make().place.prefix
        self.kills = params["kills"]

    def round(self) -> Dict[str, Optional[float]]:
        from .storm import Storm  # needs modules that asgi_ipc 1.4 does not have

        with tempfile.TemporaryDirectory(prefix="asgi-ipc-kills-") as directory:
            storm = Storm(self.prefix, directory)
            try:
                storm.run(self.kills)
            finally:
                storm.end()
            return storm.report()


def kills(quick: bool) -> List[List[Params]]:
    return [[{"kills": 5 if quick else 100}]]


KILLS = Workload(
    name="kills",
    title="Processes are killed again and again",
    about="The longest that a call of another process took, and the messages that were lost (for each killed "
    "receiver), received twice, and sent, while two senders and two receivers are killed at random.",
    metrics={"longest stall": "ms", "gone": "messages", "doubled": "messages", "messages": "messages"},
    labels={"longest stall": "longest", "gone": "lost", "doubled": "twice", "messages": "sent"},
    stage=Kills,
    grid=kills,
    rounds=3,
    quick_rounds=1,
    patience=120,
    only=("asgi_ipc",),
    setting=lambda params: f"{params['kills']} kills",
    contrast=("shorter", "longer"),
)
