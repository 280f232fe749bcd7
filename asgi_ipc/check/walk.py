"""
The walk over one segment, which all checks share: it collects problems and the heap blocks that are in use.

It only reads.  The caller holds the mutex.
"""

from __future__ import annotations

__all__ = ["Reached", "Walk"]

from collections.abc import Iterator
from typing import Any, Dict, Tuple

from ..shm.layout import AT_RESERVED
from ..stores.attachment import Attachment
from ..structures.hashtable import HASH, NAME_LENGTH, HashTable
from ..structures.hashtable import NEXT as NEXT_RECORD

#: Payload offset -> (payload words, what it is) of the blocks in use.
Reached = Dict[int, Tuple[int, str]]


class Walk:
    """What a walk over one segment has found: ``problems``, one sentence each, and the blocks ``reached``."""

    def __init__(self, attachment: Attachment) -> None:
        self.segment = attachment.segment
        self.words = attachment.segment.words
        self.start, self.end = attachment.heap.start, attachment.heap.end
        self.reserved = self.words[AT_RESERVED]
        self.problems: list[str] = []
        self.reached: Reached = {}

    def expect(self, what: str, found: Any, right: Any) -> None:
        """Report a word that does not have the right value."""
        if found != right:
            self.problems.append(f"{what} is {found}, not {right}")

    def reach(self, block: int, payload: int, what: str) -> bool:
        """Record a block in use; False if it cannot be read or was found before."""
        if not self.start < block <= self.reserved - payload:
            self.problems.append(f"{what} at {block} is outside the heap")
            return False
        if block in self.reached:
            self.problems.append(f"{what} at {block} is also {self.reached[block][1]}")
            return False
        self.reached[block] = (payload, what)
        return True

    def walk(self, link: int, step: int, what: str) -> Iterator[int]:
        """Yield the items of a chain that begins at the word ``link`` and continues at word ``step`` of each item."""
        words, seen = self.words, set()
        at = words[link]
        while at:
            if at in seen or not self.start < at < self.reserved - step:
                where = "in a cycle" if at in seen else "out of the heap"
                self.problems.append(f"{what} leads {where} to {at}")
                return
            seen.add(at)
            yield at
            at = words[at + step]

    def records(self, directory: HashTable, kind: str) -> Iterator[tuple[int, bytes]]:
        """Yield each record that the buckets reach, with its name."""
        names: set[bytes] = set()
        for bucket in range(directory.at, directory.at + directory.buckets):
            for record in self.walk(bucket, NEXT_RECORD, f"the chain of bucket {bucket - directory.at}"):
                length = self.words[record + NAME_LENGTH]
                if length > 99:
                    self.problems.append(f"the {kind} at {record} has a name of {length} bytes")
                    continue
                name = directory.name(record)
                hashed = directory.hash(name)
                self.expect(f"the hash of {kind} {name!r}", self.words[record + HASH], hashed)
                self.expect(f"the bucket of {kind} {name!r}", bucket, directory.bucket_of(hashed))
                if name in names:
                    self.problems.append(f"{kind} {name!r} exists twice")
                    continue
                names.add(name)
                yield record, name

    def ring(self, head_at: int, at: int, what: str) -> set[int]:
        """Return the items of a ring (``structures.ring``) whose head is the word ``head_at``."""
        words = self.words
        first = item = words[head_at]
        found: set[int] = set()
        while item and item not in found:
            if not self.start < item < self.reserved - at - 1:
                self.problems.append(f"{what} leads out of the heap to {item}")
                return found
            found.add(item)
            after = words[item + at]
            self.expect(f"the item before {after} in {what}", words[after + at + 1], item)
            item = after
        self.expect(f"the end of {what}", item, first)
        return found
