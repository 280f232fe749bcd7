"""
A hash table in shared memory: a fixed array of buckets, each the head of a chain of records.

The caller holds the mutex. Every record begins with the same four words. Its name follows, at an offset that
depends on the kind of record:

    | next in chain | hash of the name | tag or link | length of the name | ... | name, padded to words |

The hash is keyed with a secret of the segment, so that nobody can choose names that all fall into one bucket.
"""

from __future__ import annotations

__all__ = ["HashTable"]

import hashlib
from collections.abc import Iterator

from ..shm.layout import AT_BUCKETS, WORD
from ..shm.segment import Segment

NEXT = 0
HASH = 1
NAME_LENGTH = 3


class HashTable:
    """
    Records by name, in ``buckets`` chains whose heads begin at word ``at``.

    The name is ``name_at`` words into a record. What the buckets of channels and groups reach is truth:
    ``insert`` and ``remove`` commit. The member index of a group segment is derived.
    """

    def __init__(self, segment: Segment, name_at: int, at: int = AT_BUCKETS, buckets: int = 0) -> None:
        self.words = segment.words
        self.data = segment.data
        self.key = segment.key
        self.at = at
        self.buckets = buckets or segment.geometry.buckets
        self.name_at = name_at
        # The segment has no room for more records than this: a longer chain is a cycle.
        self.longest = segment.geometry.end // name_at

    def hash(self, name: bytes) -> int:
        """Return the keyed hash of a name, 64 bits (BLAKE2b, RFC 7693)."""
        return int.from_bytes(hashlib.blake2b(name, digest_size=WORD, key=self.key).digest(), "little")

    def bucket_of(self, hashed: int) -> int:
        """Return the word that is the head of the chain for a hash."""
        return self.at + hashed % self.buckets

    def name(self, record: int) -> bytes:
        """Return the name of a record."""
        start = (record + self.name_at) * WORD
        return self.data[start : start + self.words[record + NAME_LENGTH]]

    def write_name(self, record: int, name: bytes, hashed: int) -> None:
        """Write name and hash of a record that is not reachable yet."""
        words = self.words
        start = (record + self.name_at) * WORD
        self.data[start : start + len(name)] = name
        words[record + NAME_LENGTH] = len(name)
        words[record + HASH] = hashed

    def chain(self, bucket: int) -> Iterator[int]:
        """
        Yield the records of one chain. The current record may be removed.

        Raises ``ValueError`` if the chain is a cycle.
        """
        words = self.words
        record = words[bucket]
        for _ in range(self.longest):
            if not record:
                return
            following = words[record + NEXT]
            yield record
            record = following
        raise ValueError("a chain of the hash table is a cycle")

    def find(self, name: bytes, hashed: int) -> int:
        """Return the record called ``name``, or 0. Raises ``ValueError`` if the chain is a cycle."""
        words = self.words
        record = words[self.at + hashed % self.buckets]
        for _ in range(self.longest):
            if not record or (words[record + HASH] == hashed and self.name(record) == name):
                return record
            record = words[record + NEXT]
        raise ValueError("a chain of the hash table is a cycle")

    def insert(self, record: int) -> None:
        """Make a record that has its name and hash reachable."""
        words = self.words
        bucket = self.at + words[record + HASH] % self.buckets
        words[record + NEXT] = words[bucket]
        words[bucket] = record  # commit

    def remove(self, record: int) -> None:
        """Make a record unreachable. Raises ``ValueError`` if it is not in its chain."""
        words = self.words
        link = self.at + words[record + HASH] % self.buckets
        for _ in range(self.longest):
            if words[link] == record:
                words[link] = words[record + NEXT]  # commit
                return
            link = words[link] + NEXT
        raise ValueError("a record is not in its chain of the hash table")

    def clear(self) -> None:
        """Empty every bucket."""
        start = self.at * WORD
        self.data[start : start + self.buckets * WORD] = bytes(self.buckets * WORD)
