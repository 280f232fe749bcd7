"""
The demo's accounts: the journals of all workers, what was sent, what arrived, and whether that is complete.
"""

from __future__ import annotations

__all__ = ["Journals", "Tally", "copy_sources"]

import hashlib
import os
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from .workers import Reader, cuts

#: (name of the module, path of its copy)
Source = tuple[str, str]


def copy_sources(directory: str) -> list[Source]:
    """
    Copy the modules of the installed package into ``directory``, so that they do not change during the demo.
    """
    package = Path(__file__).parent.parent
    os.mkdir(directory)
    sources = []
    for number, path in enumerate(sorted(path for path in package.rglob("*.py") if path.stat().st_size)):
        copy = os.path.join(directory, str(number))
        shutil.copyfile(path, copy)
        sources.append((path.relative_to(package).as_posix(), copy))
    return sources


class Journals:
    """The journals of all workers, also of those that have ended, by number."""

    def __init__(self, directory: str) -> None:
        os.mkdir(directory)
        self._directory = directory
        self._readers: list[tuple[str, Reader]] = []
        self._counts: list[int] = []

    def add(self, kind: str) -> tuple[int, str]:
        """Return the number and the path of a journal for a new worker."""
        number = len(self._readers)
        path = os.path.join(self._directory, f"{number}-{kind}")
        self._readers.append((kind, Reader(path)))
        self._counts.append(0)
        return number, path

    def new_lines(self) -> Iterator[tuple[int, str, list[str]]]:
        """Yield the lines written since the last call: (number of the journal, kind of the worker, words)."""
        for number, (kind, reader) in enumerate(self._readers):
            for line in reader.lines():
                self._counts[number] += 1
                yield number, kind, line

    def count(self, number: int) -> int:
        """Return how many lines of a journal were read so far."""
        return self._counts[number]


class Tally:
    """
    The sums of what the journals of ``senders`` senders and of all receivers record.

    A file that has arrived completely is compared at once and removed from ``output``.
    """

    def __init__(self, sources: list[Source], output: str, senders: int) -> None:
        self._originals = [Path(path).read_bytes() for _, path in sources]
        self._digests = [hashlib.sha256(data).digest() for data in self._originals]
        self._output = output
        self._senders = senders
        self._sent: dict[int, int] = {}  # how many pieces of each stream: they are sent in order
        self._arrived: dict[int, set[int]] = {}  # the pieces of each stream that is not complete yet
        self._last: dict[int, dict[int, int]] = {}  # the last piece of such a stream, by receiver
        self._finished: set[int] = set()
        self._following: dict[int, tuple[int, int]] = {}  # what the sender with this journal sends next
        self.sent = self.received = self.bytes = self.whole = self.torn = self.doubled = self.out_of_order = 0
        self.longest = 0.0

    def expect(self, journal: int, stream: int, part: int) -> None:
        """Record where a new sender begins."""
        self._following[journal] = (stream, part)

    def following(self, journal: int) -> tuple[int, int]:
        """Return the stream and part that a sender had to send next, according to its journal."""
        return self._following[journal]

    def note(self, journal: int, kind: str, words: list[str]) -> None:
        """Add one line of a journal."""
        if words[0] == "wait":
            self.longest = max(self.longest, float(words[1]))
        elif words[0] == "piece":
            stream, part = int(words[1]), int(words[2])
            if kind == "sender":
                self._note_sent(journal, stream, part)
            else:
                self._note_received(journal, stream, part)

    def _note_sent(self, journal: int, stream: int, part: int) -> None:
        self.sent += 1
        self._sent[stream] = part + 1
        is_last = part + 1 == len(self._pieces(stream))
        self._following[journal] = (stream + self._senders, 0) if is_last else (stream, part + 1)

    def _note_received(self, journal: int, stream: int, part: int) -> None:
        self.received += 1
        pieces = self._pieces(stream)
        start, end = pieces[part]
        self.bytes += end - start
        if self.has_arrived(stream, part):
            self.doubled += 1
            return
        last = self._last.setdefault(stream, {})
        if part < last.get(journal, 0):
            self.out_of_order += 1
        last[journal] = part
        arrived = self._arrived.setdefault(stream, set())
        arrived.add(part)
        if len(arrived) == len(pieces):
            self._finish(stream)

    def has_arrived(self, stream: int, part: int) -> bool:
        """True if a receiver has journalled this piece."""
        return stream in self._finished or part in self._arrived.get(stream, ())

    def _finish(self, stream: int) -> None:
        """Compare a complete file."""
        if hashlib.sha256(self._taken(stream)).digest() == self._digests[stream % len(self._digests)]:
            self.whole += 1
        else:
            self.torn += 1
        self._finished.add(stream)
        del self._arrived[stream], self._last[stream]

    def settle(self) -> int:
        """
        Compare the pieces of incomplete files that have arrived. Call it after all workers have ended.

        Returns how many pieces were sent but have not arrived.
        """
        missing = 0
        for stream, count in self._sent.items():
            if stream not in self._finished:
                arrived = self._arrived.get(stream, set())
                missing += len(set(range(count)) - arrived)
                taken, original = self._taken(stream), self._originals[stream % len(self._originals)]
                spans = [self._pieces(stream)[part] for part in arrived]
                self.torn += any(taken[start:end] != original[start:end] for start, end in spans)
        return missing

    def _taken(self, stream: int) -> bytes:
        """Return what the receivers wrote of a stream, and remove the file."""
        path = Path(self._output, str(stream))
        if not path.exists():
            return b""
        data = path.read_bytes()
        path.unlink()
        return data

    def _pieces(self, stream: int) -> list[tuple[int, int]]:
        return _cuts(stream, len(self._originals[stream % len(self._originals)]))


_cuts = lru_cache(maxsize=1024)(cuts)
