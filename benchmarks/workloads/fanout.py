"""
Send a message to a group: how long the send takes, and when the last member has the message.

The members are in one or several processes. The first process also sends, as a worker of a chat site does.
"""

from __future__ import annotations

__all__ = ["FANOUT"]

import time
from typing import Any, Dict, List, Optional, Tuple

from ..adapters.base import Peer, message_of
from ..crew import Crew, Job
from .base import Maker, Params, Stage, Unfit, Workload

MEMBERS = (10, 1000, 10_000)
PROCESSES = (1, 2, 4)
QUICK = ((10, 2), (1000, 2))
#: Seconds that joining may take, and seconds that receivers have to start waiting.
LIMIT, SETTLE = 60.0, 0.02


class Group(Stage):
    """Processes with members of one group."""

    def __init__(self, maker: Maker, params: Params) -> None:
        self.message = message_of(params["payload"])
        members, processes = params["members"], params["processes"]
        ends = [members * number // processes for number in range(processes + 1)]
        shares = [last - first for first, last in zip(ends, ends[1:])]
        self.crew = Crew(maker.make(), [self.member(share) for share in shares])
        self.round()

    def member(self, share: int) -> Any:
        def start(peer: Peer) -> Job:
            begun = time.monotonic()
            while len(peer.members) < share:
                peer.join(min(50, share - len(peer.members)))
                passed = time.monotonic() - begun
                if passed > 2 and passed / len(peer.members) * share > LIMIT:
                    raise Unfit(f"joining would take over {LIMIT:.0f} s")
            return lambda order: self.act(peer, order)

        return start

    def act(self, peer: Peer, order: str) -> Any:
        if order == "arm":
            return peer.arm()
        times = peer.announce(self.message) if order == "send" else (0, 0)
        return [*times, peer.gather()]

    def round(self) -> Dict[str, Optional[float]]:
        others = len(self.crew.members) - 1
        self.crew.do("arm", *["arm"] * others)
        for member in self.crew.members[1:]:
            member.tell("receive")
        time.sleep(SETTLE)
        self.crew.members[0].tell("send")
        results = self.crew.hear()
        start, sent, _ = results[0]
        return {"last": (max(ended for *_, ended in results) - start) / 1e6, "sender": (sent - start) / 1e6}

    def end(self) -> None:
        self.crew.end()


def sizes(quick: bool) -> List[List[Params]]:
    cells = QUICK if quick else [(members, processes) for members in MEMBERS for processes in PROCESSES]
    return [[{"members": members, "processes": processes, "payload": 100}] for members, processes in cells]


def spread(params: Params) -> str:
    """Return the numbers of members and processes in words."""
    processes = "1 process" if params["processes"] == 1 else f"{params['processes']} processes"
    return f"group send to {params['members']:,} members in {processes}: last member has its message after"


def needs(params: Params) -> Tuple[str, ...]:
    return ("groups",) if params["processes"] == 1 else ("groups", "processes")


FANOUT = Workload(
    name="fanout",
    title="Send to a group",
    about="The time until the last member of the group has its message of 100 bytes, and until the send itself "
    "returns.",
    metrics={"last": "ms", "sender": "ms"},
    labels={"last": "time", "sender": "send returns"},
    stage=Group,
    grid=sizes,
    rounds=5,
    quick_rounds=5,
    needs=needs,
    patience=90,
    setting=spread,
    quick_seconds=1.4,
)
