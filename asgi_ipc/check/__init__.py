"""
The integrity check of the stores in shared memory.

``check_stores`` is its only entry point. Nothing else in the package imports this.
"""

from __future__ import annotations

__all__ = ["Finding", "check_stores"]

from typing import NamedTuple

from ..exceptions import SegmentGone
from ..stores.groups.store import GroupStore
from ..stores.messages.store import MessageStore
from .stores import GroupCheck, MessageCheck


class Finding(NamedTuple):
    """
    One problem that the integrity check has found.

    Attributes:
        segment: The name of the segment.
        problem: A sentence that describes the problem.
    """

    segment: str
    problem: str

    def __str__(self) -> str:
        return f"{self.segment}: {self.problem}"


def check_stores(*stores: MessageStore | GroupStore) -> list[Finding]:
    """
    Check the integrity of stores.

    Each store is checked in one critical section. Every other process that uses it waits during that time.

    Arguments:
        stores: The attributes ``message_store`` and ``group_store`` of an ``IPCChannelLayer``.

    Returns:
        A list with one finding for each problem. It is empty if the stores are consistent.

    Raises:
        SegmentError: A segment cannot be used.
        RuntimeError: A store is closed.
    """
    findings = []
    for store in stores:
        findings += [Finding(store.name, problem) for problem in _problems(store)]
    return findings


def _problems(store: MessageStore | GroupStore) -> list[str]:
    check = MessageCheck if isinstance(store, MessageStore) else GroupCheck
    while True:
        store.sections.check_name()  # raises for a closed store, and replaces a removed segment
        attachment = store.sections.opened()
        try:
            return store.sections.exclusively(lambda here: check(here).run(), attachment)
        except SegmentGone:  # removed since then
            continue
