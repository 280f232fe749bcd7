"""
The base classes of the workloads.

A ``Workload`` describes what is measured, with which settings, and what a peer must support. A ``Stage`` runs
the rounds of a workload with one peer.
"""

from __future__ import annotations

__all__ = ["Maker", "Pace", "Params", "Stage", "Unfit", "Workload"]

import dataclasses
import os
import time
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

from ..adapters.base import Peer, Place, Unfit

#: The settings of a workload, such as {"payload": 100}.
Params = Dict[str, Any]


class Maker:
    """Makes peers, each with its own prefix, and removes them."""

    def __init__(self, adapter: Type[Peer], place: Place) -> None:
        self._adapter = adapter
        self._place = place
        self._made: List[Peer] = []
        self._maker = os.getpid()

    def make(self) -> Peer:
        prefix = f"{self._place.prefix}-{len(self._made)}"
        peer = self._adapter(dataclasses.replace(self._place, prefix=prefix))
        self._made.append(peer)
        peer.prepare()
        return peer

    def remove(self) -> None:
        """Remove all peers. Does nothing in a forked process."""
        if os.getpid() == self._maker:
            while self._made:
                self._made.pop().remove()


class Stage:
    """A workload with one peer and one choice of settings. It is set up once and run in rounds."""

    def __init__(self, maker: Maker, params: Params) -> None:
        raise NotImplementedError

    def round(self) -> Dict[str, Optional[float]]:
        """Run one round; return its figures by the names of the workload's metrics."""
        raise NotImplementedError

    def end(self) -> None:
        """Clean up what the maker does not know."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the suite and the report need to know about a workload."""

    name: str
    title: str  # the heading of its tables
    about: str  # what it measures, in one or two sentences
    metrics: Dict[str, str]  # name -> unit; the first one is used for ratios
    labels: Dict[str, str]  # name -> heading of its column; the first one is compared with asgi_ipc
    stage: Type[Stage]
    grid: Callable[[bool], List[List[Params]]]  # quick? -> batches of settings; those in a batch take turns
    rounds: int
    quick_rounds: int
    needs: Callable[[Params], Tuple[str, ...]] = lambda params: ()
    more_is_better: bool = False
    setting: Callable[[Params], str] = lambda params: ""  # the settings in words; "" if there is one choice only
    contrast: Tuple[str, str] = ("faster", "slower")  # how a better and a worse figure are called
    quick_seconds: float = 1.0  # for each peer, about, in a quick run
    patience: float = 60.0  # seconds that a round may take
    only: Tuple[str, ...] = ()  # the peers that take part; empty: all

    def brief(self, params: Params) -> str:
        """Return the settings in words, without what is measured with them."""
        return self.setting(params).partition(":")[0]


class Pace:
    """The repetitions in a round: as many as fit into ``seconds``, by the duration of the last round."""

    def __init__(self, seconds: float, least: int, most: int, multiple: int = 1) -> None:
        self.seconds, self.least, self.most, self.multiple = seconds, least, most, multiple
        self.times = self._rounded(least)

    def took(self, seconds: float) -> None:
        """Adapt to a round that took ``seconds``."""
        wanted = self.times * self.seconds / max(seconds, 1e-9)
        self.times = self._rounded(int(min(max(wanted, self.least), self.most, self.times * 100)))

    def settle(self, play: Callable[[], float]) -> None:
        """Run rounds with ``play``, which returns the duration in seconds, until they are long enough."""
        deadline = time.monotonic() + max(5.0, 10 * self.seconds)
        while True:
            before, seconds = self.times, play()
            self.took(seconds)
            if self.times <= before * 1.5 or time.monotonic() > deadline:
                return

    def _rounded(self, times: int) -> int:
        return max(1, times // self.multiple) * self.multiple
