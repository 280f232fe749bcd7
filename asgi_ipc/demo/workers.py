"""
The demo's senders and receivers, each a separate process, and the journals that they keep.

A worker can be killed at any moment, so it keeps no results in memory: after each message it appends a line
to its journal, a file, in which an incomplete line is ignored. Senders send the pieces of a file in order,
and none twice. Receivers write each piece to its place in an output file *before* they journal it.

Lines: ``piece STREAM PART`` (sent, or received and written), ``idle`` (a receiver found no message), ``wait
SECONDS`` (the longest call so far). A *stream* is one file sent once. It has a number, which determines where
it is split.
"""

from __future__ import annotations

__all__ = [
    "CAPACITY",
    "LARGEST_PIECE",
    "PIECES",
    "Journal",
    "Reader",
    "control_channel",
    "cuts",
    "receive",
    "send",
]

import os
import random
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .. import clock
from ..core import IPCChannelLayer
from ..exceptions import ChannelFull

#: The channel that all receivers share, and how many messages may wait in it.
PIECES = "demo.pieces"
CAPACITY = 1000
#: Bytes of the largest piece. Pieces have all lengths up to it, so that memory is fragmented.
LARGEST_PIECE = 2000
#: Seconds that a worker sleeps when the channel is full or empty.
PAUSE = 0.001
#: Output files that a receiver keeps open.
OPEN_FILES = 16


def cuts(stream: int, size: int) -> list[tuple[int, int]]:
    """Return (start, end) of each piece, in order, of the file of ``size`` bytes that a stream sends."""
    lengths = random.Random(stream)
    pieces, start = [], 0
    while start < size:
        end = min(size, start + lengths.randint(1, LARGEST_PIECE))
        pieces.append((start, end))
        start = end
    return pieces


def control_channel(sender: int) -> str:
    """Return the channel on which a sender is told to stop."""
    return f"demo.sender.{sender}"


class Journal:
    """Appends lines to a file. After ``write`` a line is in the file, even if this process is killed."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._longest = 0.0

    def write(self, *words: object) -> None:
        """Append one line."""
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def timed(self, call: Callable[..., Any], *args: Any) -> Any:
        """Return ``call(*args)``, and journal how long it took if it was the longest call of this worker."""
        start = clock.monotonic()
        try:
            return call(*args)
        finally:
            took = clock.monotonic() - start
            if took > self._longest:
                self._longest = took
                self.write("wait", f"{took:.6f}")


class Reader:
    """Reads the journal of another process that is still writing it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._read = 0

    def lines(self) -> list[list[str]]:
        """Return the complete lines that are new since the last call, as words."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:  # the worker has not started yet
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [line.split() for line in whole.decode().splitlines()]


# -- the two workers -----------------------------------------------------------------------------------------


@contextmanager
def _worker_layer(prefix: str, parent: int, directory: str) -> Iterator[IPCChannelLayer]:
    """
    The layer of a worker.

    If the process that started the demo was killed, each worker cleans up, because nothing else does. So after
    the last worker, nothing is left.
    """
    layer = IPCChannelLayer(prefix, capacity=CAPACITY)
    try:
        yield layer
    except FileNotFoundError:  # another worker has cleaned up
        _exit_if_parent_died(parent)
        raise
    finally:
        if os.getppid() != parent:
            layer.unlink()
            shutil.rmtree(directory, ignore_errors=True)
        layer.close()


def _exit_if_parent_died(parent: int) -> None:
    if os.getppid() != parent:
        raise SystemExit(1)


def send(
    prefix: str,
    parent: int,
    directory: str,
    journal_path: str,
    files: list[str],
    number: int,
    senders: int,
    stream: int,
    part: int,
) -> None:
    """
    Send every ``senders``-th stream, as sender ``number``, beginning with one part of one stream.

    Stream n is file n of ``files``, modulo their number. Stops between two streams after a message on its
    control channel.
    """
    with _worker_layer(prefix, parent, directory) as layer:
        journal = Journal(journal_path)
        while layer.receive([control_channel(number)]) == (None, None):
            with open(files[stream % len(files)], "rb") as file:
                data = file.read()
            pieces = list(enumerate(cuts(stream, len(data))))
            for piece, (start, end) in pieces[part:]:
                message = {"stream": stream, "part": piece, "start": start, "body": data[start:end]}
                while not _sent(layer, journal, message):
                    time.sleep(PAUSE)
                    _exit_if_parent_died(parent)
                journal.write("piece", stream, piece)
            stream, part = stream + senders, 0
            _exit_if_parent_died(parent)


def _sent(layer: IPCChannelLayer, journal: Journal, message: Any) -> bool:
    try:
        journal.timed(layer.send, PIECES, message)
    except ChannelFull:
        return False
    return True


def receive(prefix: str, parent: int, directory: str, journal_path: str) -> None:
    """Receive pieces, and write each to its place in ``directory/output/STREAM``, until told to stop."""
    with _worker_layer(prefix, parent, directory) as layer:
        journal = Journal(journal_path)
        files: OrderedDict[int, int] = OrderedDict()
        while True:
            _, message = journal.timed(layer.receive, [PIECES])
            if message is None:
                journal.write("idle")
                time.sleep(PAUSE)
                _exit_if_parent_died(parent)
            elif "stop" in message:
                break
            else:
                stream = message["stream"]
                path = os.path.join(directory, "output", str(stream))
                os.pwrite(_opened(files, stream, path), message["body"], message["start"])
                journal.write("piece", stream, message["part"])


def _opened(files: OrderedDict[int, int], stream: int, path: str) -> int:
    """Return the descriptor of a stream's output file; closes the least recently used one if necessary."""
    fd = files.get(stream)
    if fd is None:
        if len(files) >= OPEN_FILES:
            os.close(files.popitem(last=False)[1])
        fd = files[stream] = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    else:
        files.move_to_end(stream)
    return fd
