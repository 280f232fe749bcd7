"""
How often the segments of a layer were recovered, in revisions that count recoveries and in those that only log them.
"""

from __future__ import annotations

__all__ = ["Known", "Recoveries", "recovered"]

import logging
from typing import Any, Dict, Iterable, List, Optional

#: How the log says it: now, and in earlier revisions, which ``compare`` also runs.
LOGGED = (": recovered a", ": repaired after")
#: What a process knows: "all", the recoveries by any process since the segments were created, None if the revision
#: does not count them; "own", those that this process has logged.
Known = Dict[str, Optional[int]]


class Recoveries(logging.Handler):
    """Counts the recoveries that this process logs, from now on."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.logged = 0
        logger = logging.getLogger("asgi_ipc")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if any(text in record.getMessage() for text in LOGGED):
            self.logged += 1

    def known(self, layer: Any) -> Known:
        stores: List[Any] = [getattr(layer, name, None) for name in ("message_store", "group_store")]
        counts = [store.recoveries() for store in stores if hasattr(store, "recoveries")]
        every = sum(sum(by_cause.values()) for by_cause in counts) if counts else None
        return {"all": every, "own": self.logged}


def recovered(known: Iterable[Known]) -> int:
    """Return the number of recoveries, from what each process knows."""
    each = list(known)
    counted = [one["all"] for one in each if one["all"] is not None]
    return max(counted) if counted else sum(one["own"] or 0 for one in each)
