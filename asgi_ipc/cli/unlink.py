"""
``asgi-ipc unlink PREFIX``: remove the shared memory of a prefix, for all processes.

Error texts recommend this command: for segments of another version or of asgi_ipc 1.x, for damaged ones, and
to create segments again with another size.
"""

from __future__ import annotations

__all__ = ["remove", "unlink"]

import sys

from ..stores.groups.store import GROUPS
from ..stores.messages.store import MESSAGES
from ..stores.unlink import Removal, remove_segment


def unlink(prefix: str) -> int:
    """
    Remove all shared memory of the layers with this prefix, and print what was removed.

    Returns the exit status: 0, or 1 if there was nothing to remove, or something could not be removed.
    """
    if not prefix or "/" in prefix or "\0" in prefix:
        print(f"asgi-ipc: {prefix!r} is not a prefix: it must not be empty or contain a slash", file=sys.stderr)
        return 1
    removed, kept = remove(prefix)
    for line in removed:
        print(f"removed {line}")
    for line in kept:
        print(f"asgi-ipc: not removed: {line}", file=sys.stderr)
    if not (removed or kept):
        print(f"asgi-ipc: nothing to remove: no shared memory has the prefix {prefix!r}", file=sys.stderr)
    return 0 if removed and not kept else 1


def remove(prefix: str) -> Removal:
    """
    Remove all shared memory of the layers with this prefix.

    Returns two lists of lines: what was removed; and what was not, with the reason.
    """
    removed, kept = remove_segment(f"{prefix}-messages", MESSAGES)
    more_removed, more_kept = remove_segment(f"{prefix}-groups", GROUPS)
    return removed + more_removed, kept + more_kept
