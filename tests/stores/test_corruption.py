"""
Corruption: words of a live segment are overwritten. Every operation must return or raise a documented error.

A case overwrites some words of a segment that is in use, runs every operation and flushes. Then the layer
must work as if it were new. Thousands of cases are cheap, because the segment is built once, kept as bytes,
and copied back before each case. Cases run in child processes. A case that hangs or dies of a signal fails.

A case depends on nothing but its number, and the message of a failure contains its case. With
``--exhaustive``, all cases run, and ``ASGI_IPC_CORRUPTION_CASES`` makes more of them; without it, a sample.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union

import pytest
from helpers.extent import Extent

from asgi_ipc import IPCChannelLayer, exceptions
from asgi_ipc.check import check_stores
from asgi_ipc.locking import contention, recovery
from asgi_ipc.shm import layout as at
from asgi_ipc.shm import segment as segments
from asgi_ipc.shm.wakeup_fifo import WakeupFifo
from asgi_ipc.stores.groups import members as mb
from asgi_ipc.stores.groups.store import GroupStore
from asgi_ipc.stores.messages import channels as ch
from asgi_ipc.stores.messages import records as qu
from asgi_ipc.stores.messages import waiters as wt
from asgi_ipc.stores.messages.receiving import Registered
from asgi_ipc.stores.messages.store import MessageStore

DOCUMENTED = (exceptions.ChannelFull, exceptions.MessageTooLarge, exceptions.SegmentError)
#: Seconds after which a case counts as hung: a hundred times what the longest case takes.
TIMEOUT = 30
RANDOM_CASES = int(os.environ.get("ASGI_IPC_CORRUPTION_CASES", "1200"))
#: Cases of each sort that run without ``--exhaustive``.
SAMPLE = 250
OPTIONS: dict[str, Any] = {
    "message_memory": 192 * 1024, "group_memory": 96 * 1024, "capacity": 30, "patience": 0.2
}  # fmt: skip
EDGES = [0, 1, 2, 3, 2**64 - 1, 2**64 - 2, 2**63, 2**63 - 1, 2**62, 2**62 - 1, 2**61, 2**48, 2**32, 2**31 - 1, 2**20]

Writes = list[tuple[int, int]]
Counts = list[tuple[str, int]]
Case = tuple[str, Callable[["Subject", random.Random], Writes]]


# -- what is damaged -----------------------------------------------------------------------------------------


class Subject:
    """One store of the layer under test, with a copy of its consistent memory and a map of its words."""

    def __init__(self, store: Union[MessageStore, GroupStore]) -> None:
        self.store = store
        words = self.words
        self.image = bytes(self.segment.data)
        liveness = store.sections.opened().liveness
        self.slot = liveness.slot, liveness._mine
        self.end = len(words)
        self.reserved = words[at.AT_RESERVED]
        self.heap_at = self.segment.geometry.heap_at
        #: The offsets of all words of one kind, by kind.
        self.places: dict[str, list[int]] = {}
        #: The offsets of all live objects.
        self.objects: list[int] = []
        self._map()

    @property
    def segment(self) -> Any:
        assert self.store.sections.attachment is not None
        return self.store.sections.attachment.segment

    @property
    def words(self) -> memoryview:
        found: memoryview = self.segment.words
        return found

    def place(self, kind: str, *offsets: int) -> None:
        self.places.setdefault(kind, []).extend(offset for offset in offsets if offset < self.end)

    def object(self, kind: str, offset: int, size: int) -> None:
        self.objects.append(offset)
        for word in range(size):
            self.place(f"{kind}[{word}]", offset + word)

    def chains(self, heads: int, count: int) -> Iterator[int]:
        for head in range(heads, heads + count):
            record = self.words[head]
            if record:
                self.place("bucket in use", head)
            while record:
                yield record
                record = self.words[record]

    def _map(self) -> None:
        words, geometry = self.words, self.segment.geometry
        self.place("slot", *range(at.AT_SLOTS, at.AT_SLOTS + 16))
        self.place("heap table", *range(at.AT_POWER_MAP, at.AT_BUCKETS))
        self.place("heap table in use", *(i for i in range(at.AT_POWER_MAP, at.AT_BUCKETS) if words[i]))
        self.place("bucket", *range(at.AT_BUCKETS, geometry.heap_at))
        header = geometry.heap_at
        while header < self.reserved - 1:
            self.place("block header", header)
            self.place("block link", header + 1, header + 2)
            header += words[header] >> 2
        self.place("end of memory", header, self.reserved, self.reserved + 1)
        records = list(self.chains(at.AT_BUCKETS, geometry.buckets))
        if self.segment.kind == at.KIND_MESSAGES:
            self._map_messages(records)
        else:
            for record in records:
                self.object("group", record, mb.GROUP_NAME + 1)
                member = words[record + mb.FIRST]
                while member:
                    self.object("member", member, mb.MEMBER_NAME + 1)
                    member = words[member + mb.NEXT]
            list(self.chains(geometry.index_at, geometry.indexes))

    def _map_messages(self, records: list[int]) -> None:
        words = self.words
        bodies: set[int] = set()
        pages: set[int] = set()
        for record in records:
            if words[record + ch.WAITING]:
                kind = "awaited"
            elif words[record + ch.INBOX]:
                kind = "local"
            elif words[record + ch.LOCALS]:
                kind = "inbox"
            else:
                kind = "channel" if words[record + ch.HEAD] else "idle"
            self.object(kind, record, ch.NAME + 1)
            pages.add(words[record + ch.PAGE])
            message = words[record + ch.HEAD]
            while message:
                self.object("message", message, qu.BODY + 1)
                if words[message + qu.LENGTH] >= qu.SHARED:
                    bodies.add(words[message + qu.BODY])
                message = words[message + qu.NEXT]
        for body in sorted(bodies):
            self.object("body", body, qu.BODY_DATA)
        for page in sorted(pages):
            self.object("page", page, 4)
            self.place("free record", words[page + 2], words[page + 2] + 2)
        fifo = first_fifo = words[at.AT_FIFOS]
        while fifo:
            self.object("FIFO", fifo, wt.FIFO_WORDS)
            waiter = first = words[fifo + wt.OF_FIFO]
            while waiter:
                self.object("waiter", waiter, wt.WAITER_WORDS)
                waiter = words[waiter + wt.NEXT_OF_FIFO]
                if waiter == first:
                    break
            fifo = words[fifo + wt.NEXT_FIFO]
            if fifo == first_fifo:
                break

    def restore(self, number: int) -> None:
        """
        Restore the consistent memory.

        Each case gets an epoch and a generation that no case had before. So nothing that this process
        remembers of an earlier case is valid by chance, which is impossible where memory is never restored.
        """
        segment = self.segment
        epoch = 1000 * (number + 1)
        segment.semaphores.create(epoch)
        segment.semaphores.unlink(segment.words[at.AT_EPOCH] & ~1)
        segment.data[:] = self.image
        segment.words[at.AT_NONCE] = segment.semaphores.nonce
        segment.words[at.AT_CHECKSUM] = at.fixed_checksum(segment.words)
        segment.words[at.AT_GENERATION] = epoch
        segment.words[at.AT_EPOCH] = epoch
        # A case that damages the slot makes this process acquire another one, which the restored memory does not know.
        attachment = self.store.sections.opened()
        attachment.liveness.slot, attachment.liveness._mine = self.slot
        attachment.liveness._lost_slot = -1
        attachment.mutex.slot_at = at.AT_SLOTS + attachment.liveness.slot * at.SLOT_WORDS

    def value(self, rng: random.Random, word: int) -> int:
        """Return a value to overwrite a word with: an edge value, an offset, or a change of what is there."""
        now = self.words[word]
        kind = rng.randrange(9)
        if kind <= 1:
            return rng.choice(EDGES)
        if kind == 2:
            return rng.randrange(at.HEADER_WORDS)
        if kind == 3:
            return rng.randrange(self.end + 10)
        if kind == 4:
            return rng.choice([self.end, self.end - 1, self.reserved, self.reserved - 1, self.heap_at, word])
        if kind == 5:
            return (now + rng.choice([-64, -8, -5, -4, -2, -1, 1, 2, 4, 5, 8, 64])) % 2**64
        if kind == 6:
            for _ in range(rng.randint(1, 3)):
                now ^= 1 << rng.randrange(64 if rng.random() < 0.5 else 18)
            return now
        return rng.choice(self.objects) + rng.choice([0, 0, 0, 0, -1, 1])


# -- the cases -----------------------------------------------------------------------------------------------


def header_cases() -> list[Case]:
    """Every header word with every edge value, and with some values that are valid in the segment."""

    def case(word: int, choice: int) -> Case:
        def writes(subject: Subject, rng: random.Random) -> Writes:
            fitting = [rng.choice(subject.objects), subject.heap_at, subject.end, subject.words[word] + 2, word]
            return [(word, EDGES[choice] if choice < len(EDGES) else fitting[choice - len(EDGES)] % 2**64)]

        return f"header word {word}, value {choice}", writes

    return [case(word, choice) for word in range(at.HEADER_WORDS) for choice in range(len(EDGES) + 5)]


def random_cases(count: int) -> list[Case]:
    """One to four words of random kinds, overwritten with random values."""

    def writes(subject: Subject, rng: random.Random) -> Writes:
        found = []
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            if rng.random() < 0.1:
                word = rng.randrange(subject.end)
            else:
                word = rng.choice(subject.places[rng.choice(sorted(subject.places))])
            found.append((word, subject.value(rng, word)))
        return found

    return [(f"random {number}", writes) for number in range(count)]


def aimed_cases(kind: str) -> list[Case]:
    """Cycles and huge counts in everything that is walked."""

    def link_to(link: str, target: str, counts: Counts) -> Case:
        def writes(subject: Subject, rng: random.Random) -> Writes:
            made = []
            for _ in range(rng.choice([1, 1, 3])):
                word = rng.choice(subject.places[link])
                if target == "itself":  # the object that contains the word
                    value = word - int(link.partition("[")[2].rstrip("]") or 0)
                elif target == "value":  # the object that another such word points to
                    value = subject.words[rng.choice(subject.places[link])]
                else:
                    value = rng.choice(subject.objects if target == "any" else subject.places[f"{target}[0]"])
                made.append((word, value))
            return made + [(place, value) for count, value in counts for place in subject.places[count]]

        return f"{link} to {target}, {counts}", writes

    return [
        link_to(link, target, counts)
        for links, all_counts in ((LINKS["both"] + LINKS[kind], COUNTS[kind]), WAITING[kind])
        for link, object_kind in links
        for target in ("itself", "value", object_kind)
        for counts in all_counts
    ]


#: Words that hold offsets, and the kind of object that they point to; ``kind[3]`` is word 3 of each object.
LINKS = {
    "both": [("heap table in use", "any"), ("block link", "any"), ("block header", "any")],
    "messages": [
        ("bucket in use", "channel"), ("channel[0]", "channel"), ("idle[0]", "channel"), ("inbox[0]", "channel"),
        ("message[0]", "message"), ("channel[5]", "message"), ("channel[6]", "message"), ("local[5]", "message"),
        ("inbox[5]", "message"), ("local[10]", "inbox"), ("inbox[11]", "local"), ("local[12]", "local"),
        ("local[13]", "local"), ("channel[4]", "page"), ("message[4]", "body"), ("page[0]", "page"),
        ("page[2]", "channel"), ("free record", "channel"),
    ],
    "groups": [
        ("bucket in use", "group"), ("bucket in use", "member"), ("group[0]", "group"), ("group[4]", "member"),
        ("group[5]", "member"), ("member[0]", "member"), ("member[2]", "group"), ("member[4]", "member"),
        ("member[5]", "member"),
    ],
}  # fmt: skip
#: The same for waiters and FIFOs, with the words that are overwritten at the same time.
WAITING: dict[str, tuple[list[tuple[str, str]], list[Counts]]] = {
    "messages": (
        [
            ("FIFO[0]", "FIFO"), ("FIFO[4]", "waiter"), ("FIFO[5]", "waiter"), ("waiter[0]", "waiter"),
            ("waiter[2]", "channel"), ("waiter[3]", "FIFO"), ("waiter[5]", "waiter"), ("awaited[17]", "waiter"),
            ("inbox[17]", "waiter"), ("channel[17]", "waiter"),
        ],
        [
            [], [("awaited[18]", 0)], [("awaited[18]", 2**62)], [("waiter[4]", 0)], [("waiter[4]", 1)],
            [("inbox[19]", 2**62 + 1)], [("inbox[19]", 0), ("inbox[20]", 7)], [("FIFO[3]", 2**20)],
        ],
    ),
    "groups": ([], []),
}  # fmt: skip
#: Counters and times, and the values that overwrite them in all objects of their kind at the same time.
COUNTS: dict[str, list[Counts]] = {
    "messages": [
        [], [("channel[7]", 2**62)], [("channel[8]", 2**62)], [("channel[8]", 2**64 - 1)], [("channel[9]", 0)],
        [("channel[7]", 2**62), ("channel[9]", 0)], [("local[7]", 2**62), ("local[9]", 0)], [("inbox[7]", 2**62)],
        [("inbox[7]", 2**62), ("inbox[9]", 0), ("inbox[14]", 2**62)], [("inbox[14]", 2**62)], [("message[2]", 0)],
        [("message[2]", 0), ("channel[7]", 2**62), ("channel[9]", 0)], [("message[2]", 2**63 - 1)],
        [("page[3]", 2**62)], [("body[0]", 2**62)],
    ],
    "groups": [
        [], [("group[2]", 2**62)], [("group[2]", 2**64 - 1)], [("group[6]", 0)], [("group[2]", 2**62), ("group[6]", 0)],
        [("member[6]", 0)], [("member[6]", 2**63)],
    ],
}  # fmt: skip


# -- one case ------------------------------------------------------------------------------------------------


class Bench:
    """The layer under test, in a child process, and the operations on it."""
    CHANNELS = ("plain-0", "plain-1", "plain-2", "single?x", "in!", "out!")
    LOCALS = ("in!0", "in!1", "in!2", "out!0", "out!1")
    GROUPS = ("group-0", "group-1", "group-2")
    #: The channels that this process waits for, by FIFO.
    AWAITED = (("wait-0", "wait-1", "lone!"), ("wait-0", "wait-2"), ("wait-3",), ("wait-0", "lone!", "wait-3"))

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.time = time.monotonic_ns()
        self.layer = self.make_layer()
        self.wrong: list[str] = []
        self.fifos: list[WakeupFifo] = []
        self.places: list[tuple[Any, int, int, int]] = []

    def make_layer(self) -> IPCChannelLayer:
        layer = IPCChannelLayer(self.prefix, block_timeout=0.0001, **OPTIONS)
        layer.message_store.sections.clock = layer.group_store.sections.clock = self.clock
        return layer

    def clock(self) -> int:
        self.time += 1_000_000  # a millisecond later at each call: so every operation sweeps
        return self.time

    def populate(self) -> None:
        """Fill the stores: queues, shared bodies, expired messages, groups, waiters, free blocks."""
        layer, rng = self.layer, random.Random(1)
        for expiry in (1, 3600, 60):
            layer.message_store.expiry = int(expiry * 1e9)
            for channel in (*self.CHANNELS[:4], *self.LOCALS):
                for number in range(rng.randint(1, 3)):
                    layer.send(channel, {"n": number, "data": rng.randbytes(rng.choice((0, 30, 90, 90, 400, 3000)))})
        for number, group in enumerate(self.GROUPS):
            layer.group_store.expiry = int((1, 86400, 3600)[number] * 1e9)
            for channel in (*self.CHANNELS[:4], *self.LOCALS)[: 3 + 2 * number]:
                layer.group_add(group, channel)
            layer.send_group(group, {"group": group, "data": rng.randbytes(200)})
        for channel in ("plain-0", "in!"):
            layer.receive([channel])
        for awaited in self.AWAITED:
            self.fifos.append(layer.message_store.wakeups.new_fifo())
            assert isinstance(layer.message_store.wakeups.pop_again(awaited, self.fifos[-1]), Registered)
        for channel in ("wait-0", "lone!1", "wait-2"):  # each notifies one waiter
            layer.send(channel, {"n": 1})
        self.places = [(fifo.home, fifo.record, fifo.wait_generation, fifo.registration) for fifo in self.fifos]
        for number in range(30):  # so that there are several pages of channel records
            layer.send(f"idle-{number}", {"n": number})
            layer.receive([f"idle-{number}"])

    def restore_fifos(self) -> None:
        """Restore this process's FIFOs to their state at the end of ``populate``."""
        for fifo, place in zip(self.fifos, self.places):
            fifo.home, fifo.record, fifo.wait_generation, fifo.registration = place
            fifo.drain()

    def wait(self, number: int, rng: random.Random) -> None:
        """Run everything that a receiver does at its FIFO, in random order."""
        store, fifo, awaited = self.layer.message_store, self.fifos[number], self.AWAITED[number]
        steps: list[Callable[[], Any]] = [
            lambda: store.wakeups.pop_again(awaited, fifo),
            lambda: store.wakeups.pop_or_register(awaited, fifo),
            lambda: store.wakeups.take_notified(fifo, []),
            lambda: store.wakeups.poll(fifo, len(awaited), []),
            lambda: store.wakeups.unregister_all(fifo),
            lambda: store.wakeups.cancel(fifo, fifo.registration, [], awaited),
            lambda: store.wakeups.unregister_dead(fifo.token),
            lambda: self.layer.receive(awaited, block=True),
        ]
        rng.shuffle(steps)
        for step in steps:
            self.attempt("wait", step)
            self.attempt("send", lambda: self.layer.send(rng.choice(("wait-0", "wait-3", "lone!2")), {"n": 2}))

    def attempt(self, what: str, operation: Callable[[], Any], check: Callable[[Any], bool] = lambda _: True) -> Any:
        """Run an operation that may raise documented errors only; note any other error, or a wrong result."""
        try:
            result = operation()
        except DOCUMENTED:
            return None
        except BaseException:
            self.wrong.append(f"{what}: {traceback.format_exc()}")
            return None
        if not check(result):
            self.wrong.append(f"{what} returned {result!r:.200}")
        return result

    def drain(self, channel: str) -> None:
        """Receive until the channel is empty. Only messages may come, and no more than were ever sent."""

        def is_message(result: Any) -> bool:
            name, message = result
            return message is None or (isinstance(name, str) and isinstance(message, dict))

        for _ in range(400):
            taken = self.attempt(f"receive {channel}", lambda: self.layer.receive([channel]), is_message)
            if taken == (None, None):
                return
        self.wrong.append(f"{channel} never becomes empty")

    def operations(self) -> list[Callable[[], Any]]:
        layer, attempt = self.layer, self.attempt
        channels = (*self.CHANNELS[:4], *self.LOCALS)
        steps: list[Callable[[], Any]] = [
            lambda: attempt("statistics", layer.global_statistics, lambda found: isinstance(found, dict)),
            lambda: attempt("snapshot", layer.message_store.snapshot, lambda found: isinstance(found, dict)),
            lambda: attempt("groups", layer.group_store.snapshot, lambda found: isinstance(found, dict)),
            lambda: attempt("new_channel", lambda: layer.new_channel("new?"), lambda name: name.startswith("new?")),
            lambda: attempt("send", lambda: layer.send("plain-2", {"data": bytes(9000)})),
            lambda: attempt("send", lambda: layer.send("plain-2", {"data": bytes(20000)})),
        ]
        for number in range(40):
            steps.append(lambda name=f"new-{number}": attempt("send", lambda: layer.send(name, {"data": bytes(30)})))
        for channel in channels:
            steps.append(lambda name=channel: attempt("send", lambda: layer.send(name, {"a": b"b" * 40})))
            steps.append(
                lambda name=channel: attempt(
                    "figures", lambda: layer.channel_statistics(name.partition("!")[0] + "!" * ("!" in name))
                )
            )
        for group in (*self.GROUPS, "group-new"):
            steps += [
                lambda name=group: attempt("group_add", lambda: layer.group_add(name, "plain-9")),
                lambda name=group: attempt("group_discard", lambda: layer.group_discard(name, "plain-1")),
                lambda name=group: attempt("send_group", lambda: layer.send_group(name, {"a": bytes(90)})),
                lambda name=group: attempt(
                    "group_channels", lambda: layer.group_channels(name), lambda found: isinstance(found, list)
                ),
            ]
        steps += [lambda name=channel: self.drain(name) for channel in self.CHANNELS]
        return steps

    def use(self, rng: random.Random) -> None:
        """Run every operation, in random order."""
        steps = self.operations()
        steps += [lambda number=number: self.wait(number, rng) for number in rng.sample(range(len(self.fifos)), 2)]
        rng.shuffle(steps)
        for step in steps:
            step()

    def fill(self) -> None:
        """Send until no memory is left, which merges all free blocks."""
        for number in range(2000):
            try:
                self.layer.message_store.append(f"fill-{number % 3}", 10**6, bytes(900))
            except exceptions.MemoryFull:
                return
            except DOCUMENTED:
                continue
            except BaseException:
                self.wrong.append(f"fill: {traceback.format_exc()}")
                return

    def must_recover(self) -> None:
        """Cause a recovery, which cuts off damaged truth. The rest must be consistent and usable."""
        layer = self.layer

        def section() -> None:
            raise Crash

        try:
            for store in (layer.message_store, layer.group_store):
                store._check_due = 0
                self.attempt("check_name", store.sections.check_name)  # ``exclusively`` does not check it
                with pytest.raises(Crash):
                    store.sections.exclusively(section)
            assert check_stores(layer.message_store) == []
            assert check_stores(layer.group_store) == []
            with contextlib.suppress(exceptions.ChannelFull):  # the memory may be full
                for channel, inbox in (("fresh", "fresh"), ("fresh!1", "fresh!")):
                    layer.send(channel, {"n": 1})
                    assert layer.receive([inbox]) == (channel, {"n": 1})
                layer.group_add("fresh", "fresh")
                assert layer.group_channels("fresh") == ["fresh"]
                layer.group_discard("fresh", "fresh")
        except BaseException:
            self.wrong.append(f"after a recovery: {traceback.format_exc()}")

    def must_work(self) -> None:
        """The layer must be empty and work like a new one."""
        layer = self.layer
        try:
            assert layer.message_store.snapshot() == {}
            assert layer.group_store.snapshot() == {}
            for channel, inbox in (("plain-1", "plain-1"), ("in!0", "in!"), ("late?a", "late?a")):
                sent = [{"n": number, "data": bytes(number * 300)} for number in range(5)]
                for message in sent:
                    layer.send(channel, message)
                assert [layer.receive([inbox]) for _ in sent] == [(channel, message) for message in sent]
                assert layer.receive([inbox]) == (None, None)
            for channel in ("in!1", "plain-2"):
                layer.group_add("group-0", channel)
            assert layer.group_channels("group-0") == ["in!1", "plain-2"]
            layer.send_group("group-0", {"all": 1})
            assert layer.receive(["in!"]) == ("in!1", {"all": 1})
            layer.group_discard("group-0", "in!1")
            assert layer.group_channels("group-0") == ["plain-2"]
            self.must_wait()
            assert layer.global_statistics()["messages_pending"] == 1
            assert check_stores(layer.message_store) == []
            assert check_stores(layer.group_store) == []
        except BaseException:
            self.wrong.append(f"after the flush: {traceback.format_exc()}")

    def must_wait(self) -> None:
        """A receiver that waits must be notified and get its message."""
        store = self.layer.message_store
        fifo = store.wakeups.new_fifo()
        for channel in ("awaited", "late!1"):
            outcome = store.wakeups.pop_again(["awaited", "late!"], fifo)
            assert isinstance(outcome, Registered)
            assert len(outcome.waiters) in (1, 2)
            self.layer.send(channel, {"n": 1})
            assert fifo.wait(0)
            taken = store.wakeups.pop_again(["awaited", "late!"], fifo)
            assert taken[0] == channel
        store.wakeups.dismiss(fifo)

    def run(self, writes: Callable[[], Writes], rng: random.Random, neighbour: Neighbour, visits: bool) -> list[str]:
        """Run one case and return what went wrong. With ``visits`` another process uses the layer, too."""
        self.wrong = []
        if rng.random() < 0.5:  # let this process remember where the channels are, which becomes wrong
            for channel in self.CHANNELS:
                self.layer.receive([channel])
        changed = [(word, value) for word, value in writes() if self.subject.words[word] != value]
        for word, value in changed:
            self.subject.words[word] = value
        if rng.random() < 0.3:
            self.time += int(100e9)  # most messages have expired
        # A segment without magic is unfinished: another process that attaches would make a new one.
        visits = visits and bool(self.subject.words[at.AT_MAGIC])
        if visits:
            said = self.visit(neighbour, b"v")
            if any(word <= at.AT_CHECKSUM for word, _ in changed) and said != "refused":
                self.wrong.append("another process accepted a damaged header")
        recovery = rng.choice(("at once", "later", "never"))
        if recovery == "at once":
            self.must_recover()
        self.use(rng)
        if rng.random() < 0.1:
            self.fill()
        if recovery == "later":
            self.must_recover()
        try:
            self.layer.flush()
        except exceptions.SegmentError:
            self.layer.unlink()
        except BaseException:
            self.wrong.append(f"flush: {traceback.format_exc()}")
        self.must_work()
        if visits and self.visit(neighbour, b"s") == "refused":  # a flush does not fix the header
            self.layer.unlink()
            self.must_work()
            if self.visit(neighbour, b"s") == "refused":
                self.wrong.append("another process is refused after an unlink")
        return self.wrong

    def visit(self, neighbour: Neighbour, kind: bytes) -> str:
        """Let the other process use the layer, and note what went wrong."""
        said = neighbour.visit(kind)
        if said not in ("", "refused"):
            self.wrong.append(said)
        return said


# -- child processes -----------------------------------------------------------------------------------------


def shorten_pauses() -> None:
    """Shorten every pause of the mutex: no holder is really slow here."""
    logging.disable()
    contention.SUSPICION, recovery.VISIBILITY, contention.LONGEST_NAP = 0.001, 0.0001, 0.0002
    # A new segment gets the key of the old one, so that the copy of the memory is valid in it.
    randbits = secrets.randbits
    segments.secrets.randbits = lambda bits: 0x123456789ABCDEF if bits == 64 else randbits(bits)


class Crash(Exception):
    """An exception for a critical section to raise, so that it ends like a crash."""


class Neighbour:
    """Another process, which attaches, uses the layer and detaches whenever told to."""

    def __init__(self, prefix: str) -> None:
        ask, self._ask = os.pipe()
        self._answer, answer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._serve(prefix, ask, answer)
            finally:
                os._exit(1)
        os.close(ask)
        os.close(answer)

    def _serve(self, prefix: str, ask: int, answer: int) -> None:
        os.close(self._ask)
        while True:
            kind = os.read(ask, 1)
            if not kind:
                return
            said = ""
            try:
                with IPCChannelLayer(prefix, **OPTIONS) as layer:
                    self._use(layer, tolerant=kind == b"v")
            except exceptions.SegmentMismatch:
                said = "refused"
            except BaseException as error:
                if kind == b"s" or not isinstance(error, DOCUMENTED):
                    said = f"another process: {traceback.format_exc()}"
            os.write(answer, said.encode()[-3000:] + b"\0")

    def _use(self, layer: IPCChannelLayer, tolerant: bool) -> None:
        for step in (
            lambda: layer.send("plain-2", {"n": 1}),
            lambda: layer.receive(["in!", "plain-2"]),
            lambda: layer.group_add("group-0", "plain-2"),
            lambda: layer.group_channels("group-0"),
            lambda: layer.global_statistics(),
        ):
            with contextlib.suppress(*DOCUMENTED if tolerant else ()):
                step()

    def visit(self, kind: bytes) -> str:
        """Let it use the layer; return "", "refused" if it could not attach, or what else went wrong."""
        os.write(self._ask, kind)
        said = b""
        while not said.endswith(b"\0"):
            more = os.read(self._answer, 4096)
            if not more:
                return "another process died"
            said += more
        return said[:-1].decode()


def run_cases(prefix: str, kind: str, cases: list[Case], numbers: Sequence[int], report: int) -> None:
    """In a child: run the cases with these numbers, and write each outcome to the pipe ``report``."""
    shorten_pauses()
    neighbour = Neighbour(prefix)
    bench = Bench(prefix)
    bench.populate()
    subjects = {"messages": Subject(bench.layer.message_store), "groups": Subject(bench.layer.group_store)}
    bench.subject = subjects[kind]
    start = bench.time
    for number in numbers:
        what, writes = cases[number]
        rng = random.Random(f"{kind} {what} {number}")
        os.write(report, f"begin\t{number}\n".encode())
        signal.alarm(2 * TIMEOUT)  # the parent may be dead
        for subject in subjects.values():
            subject.restore(number)
        bench.restore_fifos()
        bench.time = start
        found: Writes = []

        def choose(writes: Any = writes, rng: random.Random = rng, found: Writes = found) -> Writes:
            found += writes(bench.subject, rng)
            return found

        visits = "header" in what or rng.random() < 0.2
        wrong = bench.run(choose, rng, neighbour, visits)
        if wrong:
            said = f"{kind}, {what}, {found}: {wrong[0][-2500:]}".replace("\n", "\r")
            os.write(report, f"wrong\t{number}\t{said}\n".encode())
    bench.layer.unlink()
    bench.layer.close()
    os.write(report, b"done\n")


def kill_group(pid: int) -> int:
    """Kill a child and its children; return its status from ``waitpid``."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def watch(prefix: str, kind: str, cases: list[Case], numbers: Sequence[int], most: int = 5) -> list[str]:
    """
    Run the cases in children and return the failures.

    A case that hangs or dies of a signal ends its child. The next child continues with the next case.
    """
    failures: list[str] = []
    first = 0
    while (rest := [number for number in numbers if number >= first]) and len(failures) < most:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.setpgid(0, 0)
                os.close(read_end)
                run_cases(f"{prefix}-{first}", kind, cases, rest, write_end)
            except BaseException:
                os.write(write_end, f"wrong\t-1\t{traceback.format_exc()}".replace("\n", "\r").encode() + b"\n")
            finally:
                os._exit(0)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        os.close(write_end)
        last, text, ended = first, b"", ""
        while not ended:
            ready, _, _ = select.select([read_end], [], [], TIMEOUT)
            more = os.read(read_end, 65536) if ready else b""
            *lines, text = (text + more).split(b"\n")
            for line in lines:
                word, *said = line.decode().split("\t", 2)
                if word == "begin":
                    last = int(said[0])
                elif word == "wrong":
                    failures.append(said[1].replace("\r", "\n"))
                elif word == "done":
                    ended, last = "done", len(cases)
            if not more and not ended:
                ended = "died" if ready else "hangs"
        os.close(read_end)
        status = kill_group(pid)
        if ended != "done":
            how = f"died of signal {status & 127}" if ended == "died" else "hangs"
            failures.append(f"{kind}, case {last} ({cases[min(last, len(cases) - 1)][0]}) {how}")
        first = last + 1
    return failures


@pytest.mark.parametrize("kind", ["messages", "groups"])
@pytest.mark.parametrize("sort", ["header", "aimed", "random"])
def test_operations_on_a_damaged_segment_return_or_raise_a_documented_error(
    prefix: str, extent: Extent, kind: str, sort: str
) -> None:
    makers = {"header": header_cases, "aimed": lambda: aimed_cases(kind), "random": lambda: random_cases(RANDOM_CASES)}
    cases = makers[sort]()
    failures = watch(prefix, kind, cases, extent.sample(range(len(cases)), SAMPLE, f"{kind} {sort}"))
    assert not failures, "\n\n".join(failures)


@pytest.mark.parametrize("shared", [False, True])
def test_an_altered_body_gives_another_message_or_an_error(layer: IPCChannelLayer, shared: bool) -> None:
    """The next message of the channel is not affected."""
    rng = random.Random(int(shared))
    queues = layer.message_store.sections.parts.queues
    words, data = queues.words, queues.data
    outcomes: dict[str, int] = {"message": 0, "error": 0}
    for member in ("altered", "other"):  # a body is shared only if there are several members
        layer.group_add("group", member)
    for _ in range(1500):
        message = {
            "text": "t" * rng.randrange(60),
            "nested": {"list": [rng.randrange(2**40), None, True, 1.5, {"key": b"x" * rng.randrange(9)}]},
        }
        (layer.send_group if shared else layer.send)("group" if shared else "altered", message)
        layer.receive(["other"])
        layer.send("altered", {"next": 1})
        head = words[queues.channels.find("altered") + ch.HEAD]
        length = words[head + qu.LENGTH] % qu.SHARED
        start = (words[head + qu.BODY] + qu.BODY_DATA if shared else head + qu.BODY) * at.WORD
        for _ in range(rng.randint(1, 3)):
            data[start + rng.randrange(length)] = rng.choice([rng.randrange(256), 0xC1, 0xDD, 0xDF, 0xC6, 0xC9])
        try:
            channel, found = layer.receive(["altered"])
            assert channel == "altered"
            assert isinstance(found, dict)
            outcomes["message"] += 1
        except exceptions.SegmentCorrupt:
            outcomes["error"] += 1
        assert layer.receive(["altered"]) == ("altered", {"next": 1})
        assert layer.receive(["altered"]) == (None, None)
    assert min(outcomes.values()) > 100
    assert check_stores(layer.message_store) == []


def test_a_layer_works_again_after_it_could_not_attach(layer: IPCChannelLayer) -> None:
    """A file that is no segment takes its place: every operation raises until the file is removed."""
    layer.send("channel", {"n": 1})
    path = f"/dev/shm/{layer.message_store.name}"
    layer.message_store.unlink()
    with open(path, "wb") as junk:
        os.fchmod(junk.fileno(), 0o600)
        junk.write(b"junk" * 4096)
    operations: list[Callable[[], Any]] = [
        lambda: layer.send("channel", {"n": 2}),
        lambda: layer.receive(["channel"]),
        layer.global_statistics,
        layer.flush,
        layer.unlink,
        lambda: layer.send("channel", {"n": 3}),
    ]
    for operation in operations:
        with pytest.raises(exceptions.SegmentMismatch, match="asgi-ipc unlink"):
            operation()
    os.unlink(path)
    layer.send("channel", {"n": 4})
    assert layer.receive(["channel"]) == ("channel", {"n": 4})
    layer.unlink()
