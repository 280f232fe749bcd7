"""
The integrity check: what is wrong with the stores in shared memory.

``check_stores`` is its one entry point. Nothing in the package imports this at run time.
"""

from __future__ import annotations

__all__ = ["Finding", "check_stores"]

from typing import NamedTuple

from ..exceptions import SegmentGone
from ..stores.groups.store import GroupStore
from ..stores.messages.store import MessageStore
from .stores import GroupCheck, MessageCheck


class Finding(NamedTuple):
    """One thing that is wrong: the name of the segment, and a sentence."""

    segment: str
    problem: str

    def __str__(self) -> str:
        return f"{self.segment}: {self.problem}"


def check_stores(*stores: MessageStore | GroupStore) -> list[Finding]:
    """
    Check the integrity of stores; a sound store has no findings.

    Each store is checked in one critical section, and every other process that uses it waits meanwhile. Raises what any
    operation of the store raises.
    """
    findings = []
    for store in stores:
        findings += [Finding(store.name, problem) for problem in _problems(store)]
    return findings


def _problems(store: MessageStore | GroupStore) -> list[str]:
    check = MessageCheck if isinstance(store, MessageStore) else GroupCheck
    while True:
        store.sections.check_name()  # a closed store refuses; a removed segment is attached to anew
        attachment = store.sections.opened()
        try:
            return store.sections.exclusively(lambda here: check(here).run(), attachment)
        except SegmentGone:  # removed since then
            continue
