"""
Accounts of messages: what processes have sent and received, from journals that they write.

A worker can be killed at any moment, so it keeps no results in memory: it appends lines to its journal, a file. One
line is one ``write``, which SIGKILL does not interrupt. A *stream* is what one sender sends to one channel, or to a
group (``EVERYONE``). Its messages have the numbers 1, 2, 3, ... A message that was refused is sent again with the same
number, so none is left out.

Lines, with their words:

- ``joined CHANNEL``: the channel is a member of the group, and only this process receives from it
- ``ready``: the worker has prepared everything; members that join later may have missed the first messages of a stream
- ``will SENDER STREAM NUMBER`` and ``did SENDER STREAM NUMBER``: before and after a send
- ``got SENDER STREAM NUMBER CHANNEL``: received from this channel
- ``forked``: the worker has forked, and one of the two processes goes on with the journal
- ``longest SECONDS``: an operation took longer than any before it, without the time for which it may block
- ``log LEVEL TEXT``: the package has logged this
- ``wrong TEXT``, and ``end`` as the last line of a worker that was not killed
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Dict

#: The stream of messages that go to all members of the group.
EVERYONE = "*"

Message = Dict[str, Any]


class Journal:
    """Appends lines to the journal of one worker. Other threads of the worker do not use it."""

    def __init__(self, directory: str, name: str) -> None:
        self.name = name
        self._fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._longest = 0.0
        logging.getLogger("asgi_ipc").setLevel(logging.INFO)
        logging.getLogger("asgi_ipc").addHandler(_ToJournal(self))

    def write(self, *words: object) -> None:
        """Append one line."""
        line = " ".join(map(str, words)).replace("\n", "\r")
        os.write(self._fd, f"{line}\n".encode())

    def next_message(self, stream: str, sender: str = "", size: int = 0) -> Message:
        """Return the next message of a stream, and note that it will be sent."""
        sender = sender or self.name
        self._numbers[sender, stream] += 1
        number = self._numbers[sender, stream]
        self.write("will", sender, stream, number)
        data = os.urandom(size)
        return {"from": sender, "stream": stream, "n": number, "data": data, "sum": zlib.crc32(data)}

    def did(self, message: Message) -> None:
        """Note that a message was sent."""
        self.write("did", message["from"], message["stream"], message["n"])

    def got(self, channel: str, message: Message) -> None:
        """Note that a message was received."""
        if zlib.crc32(message["data"]) != message["sum"]:
            self.write("wrong", f"a damaged message came from {channel}: {message!r:.200}")
        self.write("got", message["from"], message["stream"], message["n"], channel)

    def timed(self, call: Callable[..., Any], *args: Any, may_block: float = 0.0) -> Any:
        """Return ``call(*args)``, and note how long it took if no call took longer."""
        began = time.monotonic()
        try:
            return call(*args)
        finally:
            took = time.monotonic() - began - may_block
            if took > self._longest:
                self._longest = took
                self.write("longest", f"{took:.6f}")


class _ToJournal(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.write("log", record.levelname, record.getMessage())


class Numbers:
    """Which numbers of a stream have arrived: the highest, and those below it that have not."""

    def __init__(self, first: int = 1) -> None:
        self.highest = first - 1
        self.missing: set[int] = set()

    def add(self, number: int) -> bool:
        """Note that a number has arrived. False if it had before."""
        if number > self.highest:
            self.missing.update(range(self.highest + 1, number))
            self.highest = number
        elif number in self.missing:
            self.missing.remove(number)
        else:
            return False
        return True

    def lost(self, sent: int) -> list[int]:
        """Return which of the numbers up to ``sent`` have not arrived."""
        return sorted(self.missing) + list(range(self.highest + 1, sent + 1))


class Accounts:
    """The sums of all journals in a directory. ``wrong`` has a sentence for each thing that must not happen."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._read: Counter[str] = Counter()  # bytes of each journal
        self._will: Counter[tuple[str, str]] = Counter()
        self._did: Counter[tuple[str, str]] = Counter()
        self._arrived: dict[tuple[str, str, str], Numbers] = {}  # by sender, stream and channel
        self._last: Counter[tuple[str, str, str, str]] = Counter()  # the same of each journal
        self._owners: dict[str, str] = {}  # of the members of the group
        self._early: set[str] = set()
        self.began = False
        self.ready: set[str] = set()
        self.ended: set[str] = set()
        self.logged: list[str] = []
        self.longest = 0.0
        self.sent = self.received = self.forks = 0
        self.lost: list[tuple[str, str, int]] = []
        self.wrong: list[str] = []

    def read(self) -> None:
        """Add the lines that are new since the last call."""
        for path in sorted(self._directory.iterdir()):
            for line in self._new_lines(path):
                word, *rest = line.split(" ")
                getattr(self, f"_note_{word}")(path.name, *rest)

    def _new_lines(self, path: Path) -> Iterator[str]:
        with open(path, "rb") as file:
            file.seek(self._read[path.name])
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path.name] += len(whole)
        yield from whole.decode().splitlines()

    def _note_joined(self, name: str, channel: str) -> None:
        self._owners[channel] = name
        if not self.began:
            self._early.add(channel)

    def _note_ready(self, name: str) -> None:
        self.ready.add(name)

    def _note_will(self, _: str, sender: str, stream: str, number: str) -> None:
        self._will[sender, stream] = int(number)

    def _note_did(self, _: str, sender: str, stream: str, number: str) -> None:
        self._did[sender, stream] = int(number)
        self.sent += 1

    def _note_got(self, name: str, sender: str, stream: str, number: str, channel: str) -> None:
        self.arrived(name, sender, stream, int(number), channel)
        self.received += 1

    def _note_forked(self, _: str) -> None:
        self.forks += 1

    def _note_longest(self, _: str, seconds: str) -> None:
        self.longest = max(self.longest, float(seconds))

    def _note_log(self, name: str, level: str, *text: str) -> None:
        self.logged.append(f"{name} {level} {' '.join(text)}")
        if level != "INFO":
            self.wrong.append(f"{name} has logged: {' '.join(text)}")

    def _note_wrong(self, name: str, *text: str) -> None:
        self.wrong.append(f"{name}: " + " ".join(text).replace("\r", "\n"))

    def _note_end(self, name: str) -> None:
        self.ended.add(name)

    def arrived(self, receiver: str, sender: str, stream: str, number: int, channel: str) -> None:
        """Note that a message was received by a worker, or is still in its channel."""
        key = (sender, stream, channel)
        if key not in self._arrived:
            is_whole = stream != EVERYONE or channel in self._early
            self._arrived[key] = Numbers(1 if is_whole else number)
        if not self._arrived[key].add(number):
            self.wrong.append(f"{receiver} got message {number} of {key} again")
        elif self._last[(receiver, *key)] >= number:
            self.wrong.append(f"{receiver} got message {number} of {key} after {self._last[(receiver, *key)]}")
        self._last[(receiver, *key)] = number

    def members(self, killed: set[str]) -> set[str]:
        """Return the members of the group whose owners were not killed."""
        return {channel for channel, owner in self._owners.items() if owner not in killed}

    def settle(self, killed: set[str], receivers: int) -> None:
        """
        Compare what was sent and what has arrived, after all workers have ended and their channels were emptied.

        ``killed`` are the killed workers; ``receivers`` of them received from channels that others use as well. Each of
        those may have lost the one message that it had just taken.
        """
        for (sender, stream), will in self._will.items():
            for channel in self.members(killed) if stream == EVERYONE else [stream]:
                self._settle_one(sender, stream, channel, will)
        if len(self.lost) > receivers:
            some = self.lost[:9]
            self.wrong.append(f"{len(self.lost)} messages are lost, but {receivers} receivers were killed: {some}")
        self.wrong += [f"{name} has ended too early" for name in sorted(self.ready - self.ended - killed)]

    def _settle_one(self, sender: str, stream: str, channel: str, will: int) -> None:
        numbers = self._arrived.get((sender, stream, channel))
        if numbers is None:
            is_whole = stream != EVERYONE or channel in self._early
            numbers = Numbers() if is_whole else Numbers(will + 1)
        if numbers.highest > will:
            self.wrong.append(f"message {numbers.highest} of {sender} to {channel} came, but was never sent")
        lost = numbers.lost(self._did[sender, stream])
        if stream != EVERYONE:
            self.lost += [(sender, stream, number) for number in lost]
        elif lost:
            what = f"{len(lost)} messages that {sender} sent to the group: {lost[:9]}"
            self.wrong.append(f"{channel} did not get {what}")
