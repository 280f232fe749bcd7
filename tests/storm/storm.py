"""
A storm: processes send and receive while others are killed and stopped at random; then the books are balanced.

By hand, for as long as one likes: ``python tests/storm/storm.py --seconds 600`` in the checkout.
``test_storm.py`` runs it for a while.  It ends with 0 when all of this was true:

- Every message whose ``send`` returned was received once or is still there, but for at most one message for each
  receiver that was killed (the one it had taken). None came twice, none was torn, none that had been refused came.
  What was being sent when its sender was killed may be there or not.
- For each channel and sender, a receiver got the messages in the order in which they were sent.
- No two processes were ever inside one mutex. Whoever is inside signs an owner word and signs off again: he must
  find nobody's mark but his own or a dead process's. And he counts, and moves a pair of words, in steps: a pair that
  differs although its last owner left in good order, or a count that has lost something, gives two holders away.
- Memberships of groups were what those who changed them had done last.
- No operation took longer than ``LONGEST_WAIT``, the time not counted for which its own process was stopped; and no
  message lay longer than that in a channel where somebody always slept until one came.

Workers keep journals, in files opened to append: a line is written by one ``write``, which no SIGKILL cuts.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import mmap
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from asgi_ipc import ChannelFull, IPCChannelLayer
from asgi_ipc.check import check_stores
from asgi_ipc.locking.mutex import SUSPICION, RobustMutex
from asgi_ipc.shm.layout import AT_EPOCH
from asgi_ipc.stores.base import CriticalSections
from asgi_ipc.stores.messages.parts import MessageParts
from asgi_ipc.stores.messages.queues import Queues

#: Seconds that one operation may take. The longest seen on an idle machine is a twentieth of a second.
LONGEST_WAIT = 10.0
#: Seconds between two balances: journals of longer storms would not fit into memory.
ROUND = 20.0
#: Seconds that the workers have to end when they are told to.
LAST_ORDERS = 30.0
#: How many of each kind work at a time.
CREW = ("sender", "sender", "sender", "receiver", "receiver", "receiver", "both", "visitor", "sleeper", "sleeper")
#: Seconds for which one who sleeps until a message comes does so at a time.
SLEEP = 1.0

PLAIN = tuple(f"plain-{number}" for number in range(4))
LOCALS = tuple(f"box-{box}!{number}" for box in "ab" for number in range(4))
BOXES = ("box-a!", "box-b!")
#: Channels to which little is sent: whoever receives from them sleeps until something comes.
QUIET = ("quiet-0", "quiet-1")
MEMBERS = (*(f"member-{number}" for number in range(6)), "box-a!member", "box-b!member")
TO_RECEIVE = (*PLAIN, *MEMBERS[:6], *BOXES)
ALL = (*TO_RECEIVE, *QUIET)
SIZES = (0, 10, 100, 100, 100, 300, 1000, 1100, 5000, 20_000, 20_000, 200_000)

#: (sender, its number of the message, channel): what a message is known by.
Key = Tuple[int, int, str]


class Scratch:
    """Words beside the layer's memory, shared by all: ``words`` of the storm, of each mutex, and of each worker."""

    STOP = 0
    GUARDS, GUARD_WORDS = 8, 4
    OWNER, FIRST, SECOND, COUNT = 0, 1, 2, 3
    WORKERS, WORKER_WORDS = 16, 8
    PID, DEAD, STOPPED, LONGEST, COUNTED = 0, 1, 2, 3, 4  # the last one for each mutex
    MOST_WORKERS = 60_000

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, (self.WORKERS + self.MOST_WORKERS * self.WORKER_WORDS) * 8)).cast("Q")

    def mutex(self, number: int) -> int:
        return self.GUARDS + number * self.GUARD_WORDS

    def worker(self, index: int) -> int:
        return self.WORKERS + index * self.WORKER_WORDS

    def is_dead(self, index: int) -> bool:
        """Whether a worker has ended: for certain, or it has five seconds to do so (it may just be dying)."""
        mine = self.worker(index)
        deadline = time.monotonic() + 5
        while not self.words[mine + self.DEAD]:
            pid = self.words[mine + self.PID]
            try:
                os.kill(pid, 0)
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except (OSError, IndexError):
                return True
            if state in "ZX":
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True


class Violation(Exception):
    """Two processes were inside one mutex."""


# -- exclusion ------------------------------------------------------------------------------------------------


class Watched:
    """Every section that a worker runs in one mutex, with a look at who else may be inside."""

    def __init__(self, scratch: Scratch, mutex: int, index: int, dice: random.Random) -> None:
        self.words, self.scratch = scratch.words, scratch
        self.at = scratch.mutex(mutex)
        self.counted = scratch.worker(index) + scratch.COUNTED + mutex
        self.mark = index + 1
        self.dice = dice

    def come_in(self) -> None:
        words, at, scratch = self.words, self.at, self.scratch
        owner = words[at + scratch.OWNER]
        words[at + scratch.OWNER] = self.mark
        if owner and (owner == self.mark or not scratch.is_dead(owner - 1)):
            raise Violation(f"worker {self.mark - 1} found worker {owner - 1} inside, which is alive")
        if words[at + scratch.FIRST] != words[at + scratch.SECOND]:
            if not owner:
                raise Violation(f"worker {self.mark - 1} found the pair torn, and its last owner had left in order")
            words[at + scratch.SECOND] = words[at + scratch.FIRST]

    def go_out(self) -> None:
        words, at, scratch = self.words, self.at, self.scratch
        value, count = self.dice.getrandbits(60), words[at + scratch.COUNT]
        words[at + scratch.FIRST] = value
        for _ in range(self.dice.choice((0, 0, 5, 50, 500))):
            pass
        words[at + scratch.COUNT] = count + 1
        words[self.counted] += 1
        words[at + scratch.SECOND] = value
        if words[at + scratch.OWNER] != self.mark:
            raise Violation(f"worker {self.mark - 1} was not alone: worker {words[at + scratch.OWNER] - 1} came in")
        words[at + scratch.OWNER] = 0

    def section(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            self.come_in()
            result = inner(*args)
            self.go_out()
            return result

        return run


class WatchedQueues:
    """The queues as the hot path sees them: the two critical sections that do not go through ``RobustMutex.run``."""

    def __init__(self, queues: Queues, watched: Watched) -> None:
        self._queues = queues
        self.enqueue = watched.section(queues.enqueue)
        self.dequeue = watched.section(queues.dequeue)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queues, name)


def watch(sections: CriticalSections[Any], watched: Watched) -> None:
    """Watch every critical section of a store."""
    mutex, parts, part_of = sections.bound
    run = mutex.run
    mutex.run = lambda section, *args: run(watched.section(section), *args)  # type: ignore[method-assign]
    sections.exclusively = run  # type: ignore[method-assign]  # for those that watch themselves
    if isinstance(parts, MessageParts):
        seen = copy.copy(parts)
        seen.queues = WatchedQueues(parts.queues, watched)  # type: ignore[assignment]
        sections.bound = mutex, seen, part_of


def dawdle(dice: random.Random) -> None:
    """
    Make this process slow where it matters most: when it has a token and has not said so, and before it gives it back.

    Others see no holder then, and repair the store: the token is worth nothing any more.
    """
    use = RobustMutex._open_semaphore

    def slowly(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            if operation.__name__ == "release" and dice.random() < 0.005:
                time.sleep(2 * SUSPICION)
            operation(*args)
            if operation.__name__ == "acquire" and dice.random() < 0.005:
                time.sleep(2 * SUSPICION)

        return run

    def use_slowly(mutex: RobustMutex, epoch: int) -> bool:
        known = mutex.epoch
        if not use(mutex, epoch):
            return False
        if epoch != known:
            mutex.token, mutex.post = slowly(mutex.token), slowly(mutex.post)
        return True

    RobustMutex._open_semaphore = use_slowly  # type: ignore[method-assign]


class Interruption(Exception):
    """What a section raises to end like a crash, its process alive."""


# -- the workers ----------------------------------------------------------------------------------------------


class Worker:
    """One process: what it does, and its journal."""

    def __init__(self, kind: str, index: int, prefix: str, directory: str, seed: str, scratch: Scratch) -> None:
        self.kind, self.index, self.prefix, self.scratch = kind, index, prefix, scratch
        self.dice = random.Random(f"{seed} {index}")
        self.parent = os.getppid()
        self.mine = scratch.worker(index)
        self.journal = os.open(os.path.join(directory, f"{kind}-{index}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.number = 0
        self.missed: List[str] = []

    def write(self, line: str) -> None:
        os.write(self.journal, f"{line}\n".encode())

    def timed(self, operation: Callable[..., Any], *args: Any, asleep: float = 0.0) -> Any:
        """
        Run an operation and note how long it took, without the time for which this process was stopped, nor the
        seconds for which it may sleep.
        """
        words, scratch = self.scratch.words, self.scratch
        began, stopped = time.monotonic_ns(), words[self.mine + scratch.STOPPED]
        try:
            return operation(*args)
        finally:
            took = time.monotonic_ns() - began - (words[self.mine + scratch.STOPPED] - stopped) - int(asleep * 1e9)
            words[self.mine + scratch.LONGEST] = max(took, words[self.mine + scratch.LONGEST])

    def open(self) -> IPCChannelLayer:
        layer: IPCChannelLayer = self.timed(open_layer, self.prefix)
        self.watches = [Watched(self.scratch, number, self.index, self.dice) for number in (0, 1)]
        if self.index % 2:  # the other half runs as everybody does, with a watched section now and then
            for store, watched in zip((layer.message_store, layer.group_store), self.watches):
                watch(store.sections, watched)
        append_each = layer.message_store.append_each

        def noted(targets: Sequence[Tuple[str, int]], body: bytes) -> List[str]:
            self.missed = append_each(targets, body)
            return self.missed

        layer.message_store.append_each = noted  # type: ignore[method-assign]
        return layer

    def run(self) -> None:
        """Work until told to stop."""
        if self.index % 4 == 3:
            dawdle(self.dice)
        layer = self.open()
        kinds = {"sender": (self.send,), "receiver": (self.receive,), "sleeper": (self.sleep,)}
        steps = kinds.get(self.kind, (self.send, self.receive))
        while not self.scratch.words[Scratch.STOP] and os.getppid() == self.parent:
            self.dice.choice(steps)(layer)
            if self.dice.random() < 0.05:
                self.look_inside(layer)
            if self.dice.random() < 0.02:
                self.change_group(layer)
            if self.kind == "visitor" and self.dice.random() < 0.1:
                self.timed(layer.close)
                layer = self.open()
        layer.close()
        self.write("end")

    def send(self, layer: IPCChannelLayer) -> None:
        self.number += 1
        number, data = self.number, self.dice.randbytes(self.dice.choice(SIZES))
        if self.dice.random() < 0.1:
            message = {"from": self.index, "number": number, "data": data, "sum": checksum(self.index, number, data)}
            self.write(f"will-all {number}")
            self.timed(layer.send_group, "everyone", message)
            self.write(f"did-all {number} {' '.join(self.missed)}")
        else:
            channel = self.dice.choice(QUIET if self.dice.random() < 0.03 else (*PLAIN, *LOCALS))
            message = {"from": self.index, "number": number, "data": data, "sum": checksum(self.index, number, data)}
            message["at"] = time.monotonic_ns()
            self.write(f"will {number} {channel}")
            try:
                self.timed(layer.send, channel, message)
            except ChannelFull:
                self.write(f"refused {number} {channel}")
                time.sleep(0.001)
                return
            self.write(f"did {number} {channel}")
        if self.dice.random() < 0.5:
            time.sleep(0.0002)

    def receive(self, layer: IPCChannelLayer) -> None:
        wanted = list(TO_RECEIVE) if self.dice.random() < 0.7 else self.dice.sample(TO_RECEIVE, 3)
        channel, message = self.timed(layer.receive, wanted, self.dice.random() < 0.5, asleep=SLEEP)
        if channel is None:
            time.sleep(0.0005)
        else:
            self.note(channel, message)

    def sleep(self, layer: IPCChannelLayer) -> None:
        """Wait for a message in channels that are empty most of the time."""
        wanted = list(QUIET) if self.dice.random() < 0.5 else [self.dice.choice(QUIET)]
        words, stopped_at = self.scratch.words, self.mine + self.scratch.STOPPED
        stopped = words[stopped_at]
        channel, message = self.timed(layer.receive, wanted, True, asleep=SLEEP)
        if channel is None:
            return
        lay = time.monotonic_ns() - message["at"] - (words[stopped_at] - stopped)
        words[self.mine + self.scratch.LONGEST] = max(lay, words[self.mine + self.scratch.LONGEST])
        self.note(channel, message)

    def note(self, channel: str, message: Dict[str, Any]) -> None:
        """Write down what has come."""
        if message["sum"] != checksum(message["from"], message["number"], message["data"]):
            self.write(f"torn {channel} {message!r:.200}")
        else:
            self.write(f"got {message['from']} {message['number']} {channel}")

    def look_inside(self, layer: IPCChannelLayer) -> None:
        """A section of our own, between everybody else's; now and then one that ends like a crash."""
        crash, spin = self.dice.random() < 0.02, self.dice.random() < 0.01
        number = self.dice.randrange(2)
        watched = self.watches[number]
        store = (layer.message_store, layer.group_store)[number]

        def section() -> None:
            watched.come_in()
            if spin:
                time.sleep(1.5 * SUSPICION)  # nobody may take a holder for dead who is only slow
            watched.go_out()
            if crash:
                raise Interruption

        with contextlib.suppress(Interruption):
            self.timed(store.sections.exclusively, section)

    def change_group(self, layer: IPCChannelLayer) -> None:
        members = self.timed(layer.group_channels, "everyone")
        if sorted(members) != sorted(MEMBERS):
            self.write(f"wrong the group has the members {members}")
        channel = f"changing-{self.index}-{self.dice.randrange(5)}"
        what = self.dice.choice(("add", "discard"))
        self.write(f"will-{what} {channel}")
        self.timed(layer.group_add if what == "add" else layer.group_discard, "changing", channel)
        self.write(f"did-{what} {channel}")


def open_layer(prefix: str) -> IPCChannelLayer:
    return IPCChannelLayer(
        prefix,
        expiry=86400,
        capacity=60,
        message_memory=8 * 1024 * 1024,
        group_memory=256 * 1024,
        block_timeout=SLEEP,
    )


def checksum(sender: int, number: int, data: bytes) -> int:
    return zlib.crc32(f"{sender} {number} ".encode() + data)


def work(kind: str, index: int, prefix: str, directory: str, seed: str, scratch: Scratch, limit: float) -> None:
    """All that a worker's process does."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(limit))  # whatever happens to the parent
    worker = Worker(kind, index, prefix, directory, seed, scratch)
    try:
        worker.run()
    except BaseException:
        worker.write("wrong " + traceback.format_exc().replace("\n", "\r"))


# -- the weather ----------------------------------------------------------------------------------------------


class Storm:
    """Starts the workers, troubles them, replaces them, and reaps them all."""

    def __init__(self, prefix: str, seed: str, directory: str, seconds: float) -> None:
        self.prefix, self.seed = prefix, seed
        self.dice = random.Random(seed)
        self.directory, self.seconds = directory, seconds
        self.scratch = Scratch()
        self.started = self.stops = 0
        #: pid -> (kind, index); pid -> (when it was stopped in ns, until when); index -> kind.
        self.crew: Dict[int, Tuple[str, int]] = {}
        self.stopped: Dict[int, Tuple[int, float]] = {}
        self.killed: Dict[int, str] = {}
        self.wrong: List[str] = []

    def blow(self) -> None:
        """Nothing that this started lives when it returns or raises."""
        try:
            for kind in CREW:
                self.start(kind)
            end = time.monotonic() + self.seconds
            while time.monotonic() < end:
                time.sleep(self.dice.uniform(0.002, 0.03))
                self.trouble()
            self.call_it_a_day()
        finally:
            for pid in list(self.crew):
                self.end(pid)

    def start(self, kind: str) -> None:
        index, self.started = self.started, self.started + 1
        pid = os.fork()
        if not pid:
            code = 1
            try:
                mine = self.scratch.worker(index)
                self.scratch.words[mine + Scratch.PID] = os.getpid()
                limit = self.seconds + LAST_ORDERS + 30
                work(kind, index, self.prefix, self.directory, self.seed, self.scratch, limit)
                code = 0
            finally:
                os._exit(code)
        self.crew[pid] = (kind, index)

    def trouble(self) -> None:
        """Let go on who was stopped long enough; then kill, stop, or stop and kill somebody."""
        now = time.monotonic()
        for pid, (since, until) in list(self.stopped.items()):
            if now >= until:
                self.go_on(pid, since)
        for pid in self.ended():
            self.wrong.append(f"worker {self.crew.pop(pid)} has ended of itself")
            self.stopped.pop(pid, None)
        if not self.crew:
            return
        pid = self.dice.choice(list(self.crew))
        chance = self.dice.random()
        if chance < 0.6:
            kind, index = self.crew[pid]
            self.end(pid)
            self.killed[index] = kind
            self.start(kind)
        elif pid not in self.stopped:
            os.kill(pid, signal.SIGSTOP)
            self.stops += 1
            self.stopped[pid] = (time.monotonic_ns(), now + self.dice.choice((0.001, 0.01, 0.05, 0.15)))

    def go_on(self, pid: int, since: int) -> None:
        del self.stopped[pid]
        mine = self.scratch.worker(self.crew[pid][1])
        self.scratch.words[mine + Scratch.STOPPED] += time.monotonic_ns() - since
        os.kill(pid, signal.SIGCONT)

    def ended(self) -> Iterator[int]:
        for pid in list(self.crew):
            found, _ = os.waitpid(pid, os.WNOHANG)
            if found:
                yield pid

    def end(self, pid: int) -> None:
        """Kill a worker, wherever it is, and reap it."""
        _, index = self.crew.pop(pid)
        self.stopped.pop(pid, None)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.scratch.words[self.scratch.worker(index) + Scratch.DEAD] = 1

    def call_it_a_day(self) -> None:
        """Tell all to stop, and wait until they have."""
        self.scratch.words[Scratch.STOP] = 1
        for pid, (since, _) in list(self.stopped.items()):
            self.go_on(pid, since)
        deadline = time.monotonic() + LAST_ORDERS
        while self.crew and time.monotonic() < deadline:
            time.sleep(0.01)
            for pid in self.ended():
                del self.crew[pid]
        self.wrong += [f"worker {who} did not stop" for who in self.crew.values()]


# -- the books ------------------------------------------------------------------------------------------------


class Books:
    """All journals of a round, and what is left in the store, held against each other."""

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        self.wrong: List[str] = []
        self.sent: Set[Key] = set()
        self.unknown: Set[Key] = set()
        self.refused = 0
        self.received: Set[Key] = set()
        self.left: Set[Key] = set()
        self.memberships: Dict[str, Optional[bool]] = {}

    def balance(self) -> None:
        for path in sorted(Path(self.storm.directory).iterdir()):
            self.read(path)
        with open_layer(self.storm.prefix) as layer:
            self.look_at(layer)
        for key in sorted((self.received | self.left) - self.sent - self.unknown):
            self.wrong.append(f"message {key} came although it was never sent, or refused")
        lost = self.sent - self.received - self.left
        takers = [kind for kind in self.storm.killed.values() if kind != "sender"]
        if len(lost) > len(takers):
            some = sorted(lost)[:9]
            self.wrong.append(f"{len(lost)} messages are lost, and only {len(takers)} receivers were killed: {some}")
        self.lost = len(lost)
        self.count_sections()

    def read(self, path: Path) -> None:
        index = int(path.name.rpartition("-")[2])
        last: Dict[Tuple[str, int], int] = {}
        ended = False
        for line in path.read_text().splitlines():
            word, *rest = line.split(" ")
            if word in ("will", "did", "refused"):
                self.note_sent(word, (index, int(rest[0]), rest[1]))
            elif word in ("will-all", "did-all"):
                for channel in MEMBERS:
                    missed = channel in rest[1:]
                    self.note_sent("refused" if missed else word[:-4], (index, int(rest[0]), channel))
            elif word == "got":
                key = (int(rest[0]), int(rest[1]), rest[2])
                self.note_received(key, self.received)
                if last.get((key[2], key[0]), 0) >= key[1]:
                    self.wrong.append(f"{path.name} got {key} after number {last[key[2], key[0]]}")
                last[key[2], key[0]] = key[1]
            elif word in ("will-add", "will-discard"):
                self.memberships[rest[0]] = None
            elif word in ("did-add", "did-discard"):
                self.memberships[rest[0]] = word == "did-add"
            elif word == "end":
                ended = True
            else:
                self.wrong.append(f"{path.name}: " + line.replace("\r", "\n"))
        if not ended and index not in self.storm.killed:
            self.wrong.append(f"{path.name} ended before its time")

    def note_sent(self, word: str, key: Key) -> None:
        if word == "will":
            self.unknown.add(key)
        else:
            self.unknown.discard(key)
            if word == "did":
                self.sent.add(key)
            else:
                self.refused += 1

    def note_received(self, key: Key, where: Set[Key]) -> None:
        if key in self.received or key in self.left:
            self.wrong.append(f"message {key} came twice")
        where.add(key)

    def look_at(self, layer: IPCChannelLayer) -> None:
        """What the storm has left behind: it must be sound, and is taken out."""
        self.wrong += map(str, check_stores(layer.message_store, layer.group_store))
        for wanted in ALL:
            last: Dict[Tuple[str, int], int] = {}
            while True:
                channel, message = layer.receive([wanted])
                if channel is None or message is None:
                    break
                sender, number = message["from"], message["number"]
                if message["sum"] != checksum(sender, number, message["data"]):
                    self.wrong.append(f"torn: what is left in {channel}")
                if last.get((channel, sender), 0) >= number:
                    self.wrong.append(f"number {number} of {sender} is left behind number {last[channel, sender]}")
                last[channel, sender] = number
                self.note_received((sender, number, channel), self.left)
        members = set(layer.group_channels("changing"))
        for channel, is_member in self.memberships.items():
            if is_member is not None and is_member != (channel in members):
                self.wrong.append(f"{channel} is {'not ' * is_member}in the group")
            layer.group_discard("changing", channel)
        if members - self.memberships.keys():
            self.wrong.append(f"nobody added {members - self.memberships.keys()}")

    def count_sections(self) -> None:
        words, scratch = self.storm.scratch.words, self.storm.scratch
        workers = range(self.storm.started)
        self.sections = 0
        for number in (0, 1):
            counted = sum(words[scratch.worker(index) + Scratch.COUNTED + number] for index in workers)
            count = words[scratch.mutex(number) + Scratch.COUNT]
            if not counted <= count <= counted + len(self.storm.killed):
                self.wrong.append(f"mutex {number} counted {count} sections, and the workers {counted}")
            self.sections += count
        self.longest = max(words[scratch.worker(index) + Scratch.LONGEST] for index in workers) / 1e9
        if self.longest > LONGEST_WAIT:
            self.wrong.append(f"an operation took {self.longest:.1f} s")


def run(seconds: float, seed: str, prefix: str) -> List[str]:
    """Storm for so many seconds, and say what happened. What was wrong, a sentence each."""
    left = seconds
    rounds = 0
    while left > 0:
        span = min(left, ROUND)
        directory = tempfile.mkdtemp(prefix="asgi_ipc-storm-")
        try:
            with open_layer(prefix) as layer:
                share(layer, prefix)
                for channel in MEMBERS:
                    layer.group_add("everyone", channel)
                before = epochs(layer)
            storm = Storm(prefix, f"{seed}/{rounds}", directory, span)
            storm.blow()
            books = Books(storm)
            books.balance()
            with open_layer(prefix) as layer:
                repairs = (epochs(layer) - before) // 2
        finally:
            shutil.rmtree(directory)
        left -= span
        rounds += 1
        say(
            f"{span:.0f} s: {len(books.sent)} messages sent, {books.refused} refused, {len(books.received)} received, "
            f"{len(books.left)} left, {books.lost} lost with a receiver, {len(books.unknown)} unknown with a sender; "
            f"{len(storm.killed)} processes killed, {storm.stops} stopped, {repairs} repairs; "
            f"{books.sections} sections watched; "
            f"longest wait {books.longest:.3f} s"
        )
        wrong = storm.wrong + books.wrong
        if wrong:
            return wrong
    return []


def share(layer: IPCChannelLayer, prefix: str) -> None:
    """
    Receive from each inbox in two processes that live, so that it is everybody's for good.

    An inbox of one process is emptied when that process dies, as it should be, and its messages could not be counted.
    """

    def look(layer: IPCChannelLayer) -> None:
        for inbox in BOXES:
            layer.receive([inbox])

    look(layer)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            with open_layer(prefix) as another:
                look(another)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError("the inboxes could not be shared")


def epochs(layer: IPCChannelLayer) -> int:
    """The sum of both stores' epochs, each of which moves by two with every repair."""
    stores = (layer.message_store, layer.group_store)
    return sum(int(store.sections.bound[0].words[AT_EPOCH]) for store in stores)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description="Kill and stop processes that use a layer, and balance the books.")
    parser.add_argument("--seconds", type=float, default=60, help="how long")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what chooses the troubles")
    parser.add_argument("--prefix", default=f"asgi_ipc-storm-{os.getpid()}", help="of the shared memory")
    options = parser.parse_args()
    say(f"seed {options.seed}")
    try:
        wrong = run(options.seconds, options.seed, options.prefix)
    finally:
        with open_layer(options.prefix) as layer:
            layer.unlink()
    for sentence in wrong[:20]:
        say(sentence)
    say(f"{len(wrong)} things are wrong" if wrong else "all is well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
