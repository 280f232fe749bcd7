"""
A storm: processes send and receive while others are killed and stopped at random; then journals are compared.

To run it by hand: ``python tests/storm/storm.py --seconds 600`` in the checkout. ``test_storm.py`` runs it
for some seconds. It exits with 0 if all of this was true:

- Every message whose ``send`` returned was received once or is still in its channel, except at most one
  message for each killed receiver: the one that it had taken. No message came twice, none had a wrong
  checksum, and none that had been refused came. A message whose sender was killed during the send may be
  there or not.
- For each channel and sender, a receiver got the messages in the order in which they were sent.
- No two processes were ever in critical sections of one mutex. A holder writes its mark into an owner word,
  and clears it at the end. At the start it must find no mark, or that of a dead process; at the end, its own.
  A holder also counts, and changes a pair of words one after the other. If the pair differs although its last
  owner has cleared its mark, or if the count is too low, there were two holders.
- The members of groups were those that the last changes had left.
- No operation took longer than ``LONGEST_WAIT``, without the time for which its process was stopped. No
  message stayed longer than that in a channel for which a receiver always waits.

Workers write journals to files opened for appending: one ``write`` a line, which SIGKILL does not interrupt.
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
from asgi_ipc.locking import contention
from asgi_ipc.locking.contention import SUSPICION
from asgi_ipc.locking.token import Token
from asgi_ipc.shm.layout import AT_EPOCH
from asgi_ipc.stores.base import CriticalSections
from asgi_ipc.stores.messages.parts import MessageParts
from asgi_ipc.stores.messages.queues import Queues

#: Seconds that one operation may take. The longest seen on an idle machine is a twentieth of a second.
LONGEST_WAIT = 10.0
#: Seconds of a round, after which the journals are compared: longer journals would not fit into memory.
ROUND = 20.0
#: Seconds that the workers have to end when told to.
STOP_TIMEOUT = 30.0
#: The kinds of the workers that run at a time.
KINDS = ("sender", "sender", "sender", "receiver", "receiver", "receiver", "both", "visitor", "waiter", "waiter")
#: Seconds for which the workers wait for intents: less than usual, so that they recover although no process has died.
INTENT_BOUND = contention.INTENT_BOUND = 0.02
#: Timeout of a blocking receive in seconds.
BLOCK_TIMEOUT = 1.0

PLAIN = tuple(f"plain-{number}" for number in range(4))
LOCALS = tuple(f"box-{box}!{number}" for box in "ab" for number in range(4))
INBOXES = ("box-a!", "box-b!")
#: Channels to which little is sent: their receivers wait most of the time.
QUIET = ("quiet-0", "quiet-1")
MEMBERS = (*(f"member-{number}" for number in range(6)), "box-a!member", "box-b!member")
TO_RECEIVE = (*PLAIN, *MEMBERS[:6], *INBOXES)
ALL = (*TO_RECEIVE, *QUIET)
SIZES = (0, 10, 100, 100, 100, 300, 1000, 1100, 5000, 20_000, 20_000, 200_000)

#: Identifies a message: (sender, the sender's number of the message, channel).
Key = Tuple[int, int, str]


class Scratch:
    """Shared memory beside the layer's: words of the storm, of each mutex, and of each worker."""

    STOP = 0
    MUTEXES, MUTEX_WORDS = 8, 4
    OWNER, FIRST, SECOND, COUNT = 0, 1, 2, 3
    WORKERS, WORKER_WORDS = 16, 8
    PID, DEAD, STOPPED, LONGEST, COUNTED = 0, 1, 2, 3, 4  # there is one COUNTED for each mutex
    MOST_WORKERS = 60_000

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, (self.WORKERS + self.MOST_WORKERS * self.WORKER_WORDS) * 8)).cast("Q")

    def mutex(self, number: int) -> int:
        return self.MUTEXES + number * self.MUTEX_WORDS

    def worker(self, index: int) -> int:
        return self.WORKERS + index * self.WORKER_WORDS

    def is_dead(self, index: int) -> bool:
        """Return True if a worker has ended. One that is just dying has five seconds to end."""
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
    """Two processes held one mutex at the same time."""


# -- mutual exclusion ----------------------------------------------------------------------------------------


class Monitor:
    """Runs a worker's critical sections of one mutex, and checks that no other process is in one."""

    def __init__(self, scratch: Scratch, mutex: int, index: int, rng: random.Random) -> None:
        self.words, self.scratch = scratch.words, scratch
        self.at = scratch.mutex(mutex)
        self.counted = scratch.worker(index) + scratch.COUNTED + mutex
        self.mark = index + 1
        self.rng = rng

    def enter(self) -> None:
        words, at, scratch = self.words, self.at, self.scratch
        owner = words[at + scratch.OWNER]
        words[at + scratch.OWNER] = self.mark
        if owner and (owner == self.mark or not scratch.is_dead(owner - 1)):
            raise Violation(f"worker {self.mark - 1} found worker {owner - 1}, which is alive, in a critical section")
        if words[at + scratch.FIRST] != words[at + scratch.SECOND]:
            if not owner:
                raise Violation(f"worker {self.mark - 1} found different words of the pair after a regular end")
            words[at + scratch.SECOND] = words[at + scratch.FIRST]

    def leave(self) -> None:
        words, at, scratch = self.words, self.at, self.scratch
        value, count = self.rng.getrandbits(60), words[at + scratch.COUNT]
        words[at + scratch.FIRST] = value
        for _ in range(self.rng.choice((0, 0, 5, 50, 500))):
            pass
        words[at + scratch.COUNT] = count + 1
        words[self.counted] += 1
        words[at + scratch.SECOND] = value
        if words[at + scratch.OWNER] != self.mark:
            raise Violation(f"worker {self.mark - 1} was not alone: worker {words[at + scratch.OWNER] - 1} entered")
        words[at + scratch.OWNER] = 0

    def section(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            self.enter()
            result = inner(*args)
            self.leave()
            return result

        return run


class MonitoredQueues:
    """The queues with monitors around the two critical sections that do not use ``RobustMutex.run``."""

    def __init__(self, queues: Queues, monitor: Monitor) -> None:
        self._queues = queues
        self.enqueue = monitor.section(queues.enqueue)
        self.dequeue = monitor.section(queues.dequeue)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queues, name)


def watch(sections: CriticalSections[Any], monitor: Monitor) -> None:
    """Put a monitor around every critical section of a store."""
    mutex, parts, part_of = sections.bound
    run = mutex.run
    mutex.run = lambda section, *args, **named: run(  # type: ignore[method-assign]
        monitor.section(section), *args, **named
    )
    sections.exclusively = run  # type: ignore[method-assign]  # for ``run_own_section``, which has a monitor
    if isinstance(parts, MessageParts):
        seen = copy.copy(parts)
        seen.queues = MonitoredQueues(parts.queues, monitor)  # type: ignore[assignment]
        sections.bound = mutex, seen, part_of


def slow_down(rng: random.Random) -> None:
    """
    Make this process slow between the acquisition of the token and the write of its slot word, and before the
    release, for longer than the others wait for an intent.

    They recover the store then. So the token becomes invalid, and only the check of the epoch keeps this process out.
    """

    def slowly(operation: Callable[..., Any], after: bool) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            slow = rng.random() < 0.005
            if slow and not after:
                time.sleep(2 * (SUSPICION + INTENT_BOUND))
            failed = operation(*args)
            if slow and after and not failed:
                time.sleep(2 * (SUSPICION + INTENT_BOUND))
            return failed

        return run

    make = Token.__init__

    def make_slow(token: Token, *args: Any) -> None:
        make(token, *args)
        token.acquire, token.acquire_keeping_gil = slowly(token.acquire, True), slowly(token.acquire_keeping_gil, True)
        token.post = slowly(token.post, False)

    Token.__init__ = make_slow  # type: ignore[method-assign]


class Crash(Exception):
    """An exception for a critical section to raise, so that it ends like a crash."""


# -- the workers ---------------------------------------------------------------------------------------------


class Worker:
    """One process of the storm, with its journal."""

    def __init__(self, kind: str, index: int, prefix: str, directory: str, seed: str, scratch: Scratch) -> None:
        self.kind, self.index, self.prefix, self.scratch = kind, index, prefix, scratch
        self.rng = random.Random(f"{seed} {index}")
        self.parent = os.getppid()
        self.mine = scratch.worker(index)
        self.journal = os.open(os.path.join(directory, f"{kind}-{index}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.number = 0
        self.missed: List[str] = []

    def write(self, line: str) -> None:
        os.write(self.journal, f"{line}\n".encode())

    def timed(self, operation: Callable[..., Any], *args: Any, may_block: float = 0.0) -> Any:
        """
        Run an operation and note how long it took.

        The time for which this process was stopped does not count, and neither do the seconds that it may
        block.
        """
        words, scratch = self.scratch.words, self.scratch
        began, stopped = time.monotonic_ns(), words[self.mine + scratch.STOPPED]
        try:
            return operation(*args)
        finally:
            took = time.monotonic_ns() - began - (words[self.mine + scratch.STOPPED] - stopped) - int(may_block * 1e9)
            words[self.mine + scratch.LONGEST] = max(took, words[self.mine + scratch.LONGEST])

    def open(self) -> IPCChannelLayer:
        layer: IPCChannelLayer = self.timed(open_layer, self.prefix)
        self.monitors = [Monitor(self.scratch, number, self.index, self.rng) for number in (0, 1)]
        if self.index % 2:  # the other workers have no monitors, except in ``run_own_section``
            for store, monitor in zip((layer.message_store, layer.group_store), self.monitors):
                watch(store.sections, monitor)
        append_each = layer.message_store.append_each

        def noted(targets: Sequence[Tuple[str, int]], body: bytes) -> List[str]:
            self.missed = append_each(targets, body)
            return self.missed

        layer.message_store.append_each = noted  # type: ignore[method-assign]
        return layer

    def run(self) -> None:
        """Work until told to stop."""
        if self.index % 4 == 3:
            slow_down(self.rng)
        layer = self.open()
        kinds = {"sender": (self.send,), "receiver": (self.receive,), "waiter": (self.wait,)}
        steps = kinds.get(self.kind, (self.send, self.receive))
        while not self.scratch.words[Scratch.STOP] and os.getppid() == self.parent:
            self.rng.choice(steps)(layer)
            if self.rng.random() < 0.05:
                self.run_own_section(layer)
            if self.rng.random() < 0.02:
                self.change_group(layer)
            if self.kind == "visitor" and self.rng.random() < 0.1:
                self.timed(layer.close)
                layer = self.open()
        layer.close()
        self.write("end")

    def send(self, layer: IPCChannelLayer) -> None:
        self.number += 1
        number, data = self.number, self.rng.randbytes(self.rng.choice(SIZES))
        if self.rng.random() < 0.1:
            message = {"from": self.index, "number": number, "data": data, "sum": checksum(self.index, number, data)}
            self.write(f"will-all {number}")
            self.timed(layer.send_group, "everyone", message)
            self.write(f"did-all {number} {' '.join(self.missed)}")
        else:
            channel = self.rng.choice(QUIET if self.rng.random() < 0.03 else (*PLAIN, *LOCALS))
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
        if self.rng.random() < 0.5:
            time.sleep(0.0002)

    def receive(self, layer: IPCChannelLayer) -> None:
        wanted = list(TO_RECEIVE) if self.rng.random() < 0.7 else self.rng.sample(TO_RECEIVE, 3)
        channel, message = self.timed(layer.receive, wanted, self.rng.random() < 0.5, may_block=BLOCK_TIMEOUT)
        if channel is None:
            time.sleep(0.0005)
        else:
            self.note(channel, message)

    def wait(self, layer: IPCChannelLayer) -> None:
        """Wait for a message in channels that are empty most of the time."""
        wanted = list(QUIET) if self.rng.random() < 0.5 else [self.rng.choice(QUIET)]
        words, stopped_at = self.scratch.words, self.mine + self.scratch.STOPPED
        stopped = words[stopped_at]
        channel, message = self.timed(layer.receive, wanted, True, may_block=BLOCK_TIMEOUT)
        if channel is None:
            return
        lay = time.monotonic_ns() - message["at"] - (words[stopped_at] - stopped)
        words[self.mine + self.scratch.LONGEST] = max(lay, words[self.mine + self.scratch.LONGEST])
        self.note(channel, message)

    def note(self, channel: str, message: Dict[str, Any]) -> None:
        """Write a received message to the journal."""
        if message["sum"] != checksum(message["from"], message["number"], message["data"]):
            self.write(f"inconsistent {channel} {message!r:.200}")
        else:
            self.write(f"got {message['from']} {message['number']} {channel}")

    def run_own_section(self, layer: IPCChannelLayer) -> None:
        """Run a critical section that only checks exclusion; some are slow, and some end like a crash."""
        crash, spin = self.rng.random() < 0.02, self.rng.random() < 0.01
        number = self.rng.randrange(2)
        monitor = self.monitors[number]
        store = (layer.message_store, layer.group_store)[number]

        def section() -> None:
            monitor.enter()
            if spin:
                time.sleep(1.5 * SUSPICION)  # a slow holder must not be taken for dead
            monitor.leave()
            if crash:
                raise Crash

        with contextlib.suppress(Crash):
            self.timed(store.sections.exclusively, section)

    def change_group(self, layer: IPCChannelLayer) -> None:
        members = self.timed(layer.group_channels, "everyone")
        if sorted(members) != sorted(MEMBERS):
            self.write(f"wrong the group has the members {members}")
        channel = f"changing-{self.index}-{self.rng.randrange(5)}"
        what = self.rng.choice(("add", "discard"))
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
        block_timeout=BLOCK_TIMEOUT,
    )


def checksum(sender: int, number: int, data: bytes) -> int:
    return zlib.crc32(f"{sender} {number} ".encode() + data)


def work(kind: str, index: int, prefix: str, directory: str, seed: str, scratch: Scratch, limit: float) -> None:
    """Run a worker's process."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(limit))  # ends the process even if the parent was killed
    worker = Worker(kind, index, prefix, directory, seed, scratch)
    try:
        worker.run()
    except BaseException:
        worker.write("wrong " + traceback.format_exc().replace("\n", "\r"))


# -- the storm -----------------------------------------------------------------------------------------------


class Storm:
    """Starts the workers, kills and stops them, replaces and reaps them."""

    def __init__(self, prefix: str, seed: str, directory: str, seconds: float) -> None:
        self.prefix, self.seed = prefix, seed
        self.rng = random.Random(seed)
        self.directory, self.seconds = directory, seconds
        self.scratch = Scratch()
        self.started = self.stops = 0
        #: pid -> (kind, index); pid -> (when it was stopped in ns, until when); index -> kind.
        self.running: Dict[int, Tuple[str, int]] = {}
        self.stopped: Dict[int, Tuple[int, float]] = {}
        self.killed: Dict[int, str] = {}
        self.wrong: List[str] = []

    def run(self) -> None:
        """Run the storm. No process of it is left when this returns or raises."""
        try:
            for kind in KINDS:
                self.start(kind)
            end = time.monotonic() + self.seconds
            while time.monotonic() < end:
                time.sleep(self.rng.uniform(0.002, 0.03))
                self.disturb()
            self.stop_all()
        finally:
            for pid in list(self.running):
                self.end(pid)

    def start(self, kind: str) -> None:
        index, self.started = self.started, self.started + 1
        pid = os.fork()
        if not pid:
            code = 1
            try:
                mine = self.scratch.worker(index)
                self.scratch.words[mine + Scratch.PID] = os.getpid()
                limit = self.seconds + STOP_TIMEOUT + 30
                work(kind, index, self.prefix, self.directory, self.seed, self.scratch, limit)
                code = 0
            finally:
                os._exit(code)
        self.running[pid] = (kind, index)

    def disturb(self) -> None:
        """Resume workers that were stopped long enough; then kill or stop a worker at random."""
        now = time.monotonic()
        for pid, (since, until) in list(self.stopped.items()):
            if now >= until:
                self.resume(pid, since)
        for pid in self.ended():
            self.wrong.append(f"worker {self.running.pop(pid)} has ended by itself")
            self.stopped.pop(pid, None)
        if not self.running:
            return
        pid = self.rng.choice(list(self.running))
        chance = self.rng.random()
        if chance < 0.6:
            kind, index = self.running[pid]
            self.end(pid)
            self.killed[index] = kind
            self.start(kind)
        elif pid not in self.stopped:
            os.kill(pid, signal.SIGSTOP)
            self.stops += 1
            self.stopped[pid] = (time.monotonic_ns(), now + self.rng.choice((0.001, 0.01, 0.05, 0.15)))

    def resume(self, pid: int, since: int) -> None:
        del self.stopped[pid]
        mine = self.scratch.worker(self.running[pid][1])
        self.scratch.words[mine + Scratch.STOPPED] += time.monotonic_ns() - since
        os.kill(pid, signal.SIGCONT)

    def ended(self) -> Iterator[int]:
        for pid in list(self.running):
            found, _ = os.waitpid(pid, os.WNOHANG)
            if found:
                yield pid

    def end(self, pid: int) -> None:
        """Kill a worker, wherever it is, and reap it."""
        _, index = self.running.pop(pid)
        self.stopped.pop(pid, None)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.scratch.words[self.scratch.worker(index) + Scratch.DEAD] = 1

    def stop_all(self) -> None:
        """Tell all workers to stop, and wait until they have."""
        self.scratch.words[Scratch.STOP] = 1
        for pid, (since, _) in list(self.stopped.items()):
            self.resume(pid, since)
        deadline = time.monotonic() + STOP_TIMEOUT
        while self.running and time.monotonic() < deadline:
            time.sleep(0.01)
            for pid in self.ended():
                del self.running[pid]
        self.wrong += [f"worker {worker} did not stop" for worker in self.running.values()]


# -- the comparison of the journals --------------------------------------------------------------------------


class Journals:
    """Compares all journals of a round with each other and with the content of the store."""

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        self.wrong: List[str] = []
        self.sent: Set[Key] = set()
        self.unknown: Set[Key] = set()
        self.refused = 0
        self.received: Set[Key] = set()
        self.left: Set[Key] = set()
        self.memberships: Dict[str, Optional[bool]] = {}

    def compare(self) -> None:
        for path in sorted(Path(self.storm.directory).iterdir()):
            self.read(path)
        with open_layer(self.storm.prefix) as layer:
            self.check_rest(layer)
        for key in sorted((self.received | self.left) - self.sent - self.unknown):
            self.wrong.append(f"message {key} came although it was never sent, or refused")
        lost = self.sent - self.received - self.left
        receivers = [kind for kind in self.storm.killed.values() if kind != "sender"]
        if len(lost) > len(receivers):
            some = sorted(lost)[:9]
            self.wrong.append(f"{len(lost)} messages are lost, but only {len(receivers)} receivers were killed: {some}")
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
            self.wrong.append(f"{path.name} ended too early")

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

    def check_rest(self, layer: IPCChannelLayer) -> None:
        """Check that the store is consistent, receive every message that is left, and check the group."""
        self.wrong += map(str, check_stores(layer.message_store, layer.group_store))
        for wanted in ALL:
            last: Dict[Tuple[str, int], int] = {}
            while True:
                channel, message = layer.receive([wanted])
                if channel is None or message is None:
                    break
                sender, number = message["from"], message["number"]
                if message["sum"] != checksum(sender, number, message["data"]):
                    self.wrong.append(f"a message that is left in {channel} has a wrong checksum")
                if last.get((channel, sender), 0) >= number:
                    self.wrong.append(f"number {number} of {sender} is left after number {last[channel, sender]}")
                last[channel, sender] = number
                self.note_received((sender, number, channel), self.left)
        members = set(layer.group_channels("changing"))
        for channel, is_member in self.memberships.items():
            if is_member is not None and is_member != (channel in members):
                self.wrong.append(f"{channel} is {'not ' * is_member}in the group")
            layer.group_discard("changing", channel)
        if members - self.memberships.keys():
            self.wrong.append(f"members that were never added: {members - self.memberships.keys()}")

    def count_sections(self) -> None:
        words, scratch = self.storm.scratch.words, self.storm.scratch
        workers = range(self.storm.started)
        self.sections = 0
        for number in (0, 1):
            counted = sum(words[scratch.worker(index) + Scratch.COUNTED + number] for index in workers)
            count = words[scratch.mutex(number) + Scratch.COUNT]
            if not counted <= count <= counted + len(self.storm.killed):
                self.wrong.append(f"mutex {number} counted {count} critical sections, but the workers {counted}")
            self.sections += count
        self.longest = max(words[scratch.worker(index) + Scratch.LONGEST] for index in workers) / 1e9
        if self.longest > LONGEST_WAIT:
            self.wrong.append(f"an operation took {self.longest:.1f} s")


def run(seconds: float, seed: str, prefix: str) -> List[str]:
    """Run storms for so many seconds and print what happened; return what was wrong, as sentences."""
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
            storm.run()
            journals = Journals(storm)
            journals.compare()
            with open_layer(prefix) as layer:
                recoveries = (epochs(layer) - before) // 2
        finally:
            shutil.rmtree(directory)
        left -= span
        rounds += 1
        say(
            f"{span:.0f} s: {len(journals.sent)} messages sent, {journals.refused} refused, "
            f"{len(journals.received)} received, {len(journals.left)} left, {journals.lost} lost with a receiver, "
            f"{len(journals.unknown)} unknown with a sender; "
            f"{len(storm.killed)} processes killed, {storm.stops} stopped, {recoveries} recoveries; "
            f"{journals.sections} critical sections monitored; "
            f"longest wait {journals.longest:.3f} s"
        )
        wrong = storm.wrong + journals.wrong
        if wrong:
            return wrong
    return []


def share(layer: IPCChannelLayer, prefix: str) -> None:
    """
    Make the inboxes shared: receive from each of them in two live processes.

    Otherwise the messages of an inbox would be dropped when its owner dies, and could not be counted.
    """

    def receive_from_all(layer: IPCChannelLayer) -> None:
        for inbox in INBOXES:
            layer.receive([inbox])

    receive_from_all(layer)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            with open_layer(prefix) as another:
                receive_from_all(another)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError("the inboxes could not be shared")


def epochs(layer: IPCChannelLayer) -> int:
    """Return the sum of both stores' epochs. Each recovery adds two to one of them."""
    stores = (layer.message_store, layer.group_store)
    return sum(int(store.sections.bound[0].words[AT_EPOCH]) for store in stores)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Kill and stop processes that use a layer; nothing may be lost.")
    parser.add_argument("--seconds", type=float, default=60, help="how long")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of the random choices")
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
    say(f"{len(wrong)} problems" if wrong else "no problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
