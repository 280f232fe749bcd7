"""
Damage: words of a live segment are overwritten, and every operation must still end, well or with a documented error.

A case overwrites some words of a segment that is in use, runs every operation, flushes, and then the layer must work
as if it were new.  Thousands of cases are cheap because the segment is built once, kept as bytes, and copied back
before each of them.  They run in child processes that this one watches: a case that hangs or dies of a signal fails.

A case is chosen by its number alone, and a failure names its own.  With ``--exhaustive``, all cases run, and
``ASGI_IPC_CORRUPTION_CASES`` makes more of them; without it, a sample.
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
from typing import Any, Callable, Dict, Iterator, List, Sequence, Set, Tuple, Union

import pytest
from helpers.extent import Extent

from asgi_ipc import IPCChannelLayer, exceptions
from asgi_ipc.check import check_stores
from asgi_ipc.locking import mutex as mutexes
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
#: Seconds after which a case hangs: a hundred times what the longest takes.
HANGS = 30
RANDOM_CASES = int(os.environ.get("ASGI_IPC_CORRUPTION_CASES", "1200"))
#: Cases of each sort that run without ``--exhaustive``.
SAMPLE = 250
OPTIONS: Dict[str, Any] = {
    "message_memory": 192 * 1024, "group_memory": 96 * 1024, "capacity": 30, "patience": 0.2
}  # fmt: skip
EVIL = [0, 1, 2, 3, 2**64 - 1, 2**64 - 2, 2**63, 2**63 - 1, 2**62, 2**62 - 1, 2**61, 2**48, 2**32, 2**31 - 1, 2**20]

Writes = List[Tuple[int, int]]
Counts = List[Tuple[str, int]]
Case = Tuple[str, Callable[["Victim", random.Random], Writes]]


# -- what is damaged ------------------------------------------------------------------------------------------


class Victim:
    """One store of the layer under test, with a copy of its sound memory and a map of what lies where."""

    def __init__(self, store: Union[MessageStore, GroupStore]) -> None:
        self.store = store
        words = self.words
        self.image = bytes(self.segment.data)
        self.end = len(words)
        self.reserved = words[at.AT_RESERVED]
        self.heap_at = self.segment.geometry.heap_at
        #: Kind of word -> where such words are. Offsets of all live objects.
        self.places: Dict[str, List[int]] = {}
        self.objects: List[int] = []
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

    def _map_messages(self, records: List[int]) -> None:
        words = self.words
        bodies: Set[int] = set()
        pages: Set[int] = set()
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
        fifo = first_bell = words[at.AT_FIFOS]
        while fifo:
            self.object("FIFO", fifo, wt.FIFO_WORDS)
            waiter = first = words[fifo + wt.OF_FIFO]
            while waiter:
                self.object("waiter", waiter, wt.WAITER_WORDS)
                waiter = words[waiter + wt.NEXT_OF_FIFO]
                if waiter == first:
                    break
            fifo = words[fifo + wt.NEXT_FIFO]
            if fifo == first_bell:
                break

    def restore(self, number: int) -> None:
        """
        Make the memory sound again.

        With an epoch and a generation of its own for each case: what this process remembers of the last one must not
        fit by chance, as it never would if the memory were not turned back.
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

    def value(self, dice: random.Random, word: int) -> int:
        """Something that somebody might find, or put, into a word."""
        now = self.words[word]
        kind = dice.randrange(9)
        if kind <= 1:
            return dice.choice(EVIL)
        if kind == 2:
            return dice.randrange(at.HEADER_WORDS)
        if kind == 3:
            return dice.randrange(self.end + 10)
        if kind == 4:
            return dice.choice([self.end, self.end - 1, self.reserved, self.reserved - 1, self.heap_at, word])
        if kind == 5:
            return (now + dice.choice([-64, -8, -5, -4, -2, -1, 1, 2, 4, 5, 8, 64])) % 2**64
        if kind == 6:
            for _ in range(dice.randint(1, 3)):
                now ^= 1 << dice.randrange(64 if dice.random() < 0.5 else 18)
            return now
        return dice.choice(self.objects) + dice.choice([0, 0, 0, 0, -1, 1])


# -- the cases ------------------------------------------------------------------------------------------------


def header_cases() -> List[Case]:
    """Every header word with every evil value, and with some that fit the segment."""

    def case(word: int, choice: int) -> Case:
        def writes(victim: Victim, dice: random.Random) -> Writes:
            fitting = [dice.choice(victim.objects), victim.heap_at, victim.end, victim.words[word] + 2, word]
            return [(word, EVIL[choice] if choice < len(EVIL) else fitting[choice - len(EVIL)] % 2**64)]

        return f"header word {word}, value {choice}", writes

    return [case(word, choice) for word in range(at.HEADER_WORDS) for choice in range(len(EVIL) + 5)]


def random_cases(count: int) -> List[Case]:
    """One to four words of random kinds, overwritten with something random."""

    def writes(victim: Victim, dice: random.Random) -> Writes:
        found = []
        for _ in range(dice.choice([1, 1, 1, 2, 4])):
            if dice.random() < 0.1:
                word = dice.randrange(victim.end)
            else:
                word = dice.choice(victim.places[dice.choice(sorted(victim.places))])
            found.append((word, victim.value(dice, word)))
        return found

    return [(f"random {number}", writes) for number in range(count)]


def aimed_cases(kind: str) -> List[Case]:
    """Circles and huge counts, wherever something is walked."""

    def link_to(link: str, target: str, counts: Counts) -> Case:
        def writes(victim: Victim, dice: random.Random) -> Writes:
            made = []
            for _ in range(dice.choice([1, 1, 3])):
                word = dice.choice(victim.places[link])
                if target == "itself":  # the object that the word is in
                    value = word - int(link.partition("[")[2].rstrip("]") or 0)
                elif target == "value":  # what another such word leads to
                    value = victim.words[dice.choice(victim.places[link])]
                else:
                    value = dice.choice(victim.objects if target == "any" else victim.places[f"{target}[0]"])
                made.append((word, value))
            return made + [(place, value) for count, value in counts for place in victim.places[count]]

        return f"{link} to {target}, {counts}", writes

    return [
        link_to(link, target, counts)
        for links, all_counts in ((LINKS["both"] + LINKS[kind], COUNTS[kind]), WAITING[kind])
        for link, object_kind in links
        for target in ("itself", "value", object_kind)
        for counts in all_counts
    ]


#: Words that lead somewhere, and to what kind of object; kind[3] is word 3 of each such object.
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
#: The same of those who wait, with what is overwritten at the same time.
WAITING: Dict[str, Tuple[List[Tuple[str, str]], List[Counts]]] = {
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
#: Words that count or date, overwritten in all objects of their kind at the same time, and with what.
COUNTS: Dict[str, List[Counts]] = {
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


# -- one case -------------------------------------------------------------------------------------------------


class Bench:
    """The layer under test, in a child process, and what is done to it."""

    CHANNELS = ("plain-0", "plain-1", "plain-2", "single?x", "in!", "out!")
    LOCALS = ("in!0", "in!1", "in!2", "out!0", "out!1")
    GROUPS = ("group-0", "group-1", "group-2")
    #: What this process waits for at its wakeup FIFOs.
    AWAITED = (("wait-0", "wait-1", "lone!"), ("wait-0", "wait-2"), ("wait-3",), ("wait-0", "lone!", "wait-3"))

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.time = time.monotonic_ns()
        self.layer = self.make_layer()
        self.wrong: List[str] = []
        self.fifos: List[WakeupFifo] = []
        self.places: List[Tuple[Any, int, int, int]] = []

    def make_layer(self) -> IPCChannelLayer:
        layer = IPCChannelLayer(self.prefix, block_timeout=0.0001, **OPTIONS)
        layer.message_store.sections.clock = layer.group_store.sections.clock = self.clock
        return layer

    def clock(self) -> int:
        self.time += 1_000_000  # each look at the clock is a millisecond later: so everything is swept all the time
        return self.time

    def populate(self) -> None:
        """Something of everything: long queues and short ones, shared bodies, what has expired, free blocks."""
        layer, dice = self.layer, random.Random(1)
        for life in (1, 3600, 60):
            layer.message_store.expiry = int(life * 1e9)
            for channel in (*self.CHANNELS[:4], *self.LOCALS):
                for number in range(dice.randint(1, 3)):
                    layer.send(channel, {"n": number, "data": dice.randbytes(dice.choice((0, 30, 90, 90, 400, 3000)))})
        for number, group in enumerate(self.GROUPS):
            layer.group_store.expiry = int((1, 86400, 3600)[number] * 1e9)
            for channel in (*self.CHANNELS[:4], *self.LOCALS)[: 3 + 2 * number]:
                layer.group_add(group, channel)
            layer.send_group(group, {"group": group, "data": dice.randbytes(200)})
        for channel in ("plain-0", "in!"):
            layer.receive([channel])
        for awaited in self.AWAITED:
            self.fifos.append(layer.message_store.wakeups.new_fifo())
            assert isinstance(layer.message_store.wakeups.pop_again(awaited, self.fifos[-1]), Registered)
        for channel in ("wait-0", "lone!1", "wait-2"):  # each calls somebody
            layer.send(channel, {"n": 1})
        self.places = [(fifo.home, fifo.record, fifo.wait_generation, fifo.registration) for fifo in self.fifos]
        for number in range(30):  # so that there is more than a page of channel records
            layer.send(f"idle-{number}", {"n": number})
            layer.receive([f"idle-{number}"])

    def settle(self) -> None:
        """Let the wakeup FIFOs be as they were when the memory was sound."""
        for fifo, place in zip(self.fifos, self.places):
            fifo.home, fifo.record, fifo.wait_generation, fifo.registration = place
            fifo.drain()

    def wait(self, number: int, dice: random.Random) -> None:
        """Whatever one who waits does at his wakeup FIFO."""
        store, fifo, awaited = self.layer.message_store, self.fifos[number], self.AWAITED[number]
        steps: List[Callable[[], Any]] = [
            lambda: store.wakeups.pop_again(awaited, fifo),
            lambda: store.wakeups.pop_or_register(awaited, fifo),
            lambda: store.wakeups.take_notified(fifo),
            lambda: store.wakeups.poll(fifo, len(awaited)),
            lambda: store.wakeups.unregister_all(fifo),
            lambda: store.wakeups.cancel(fifo, fifo.registration, [], awaited),
            lambda: store.wakeups.unregister_dead(fifo.token),
            lambda: self.layer.receive(awaited, block=True),
        ]
        dice.shuffle(steps)
        for step in steps:
            self.attempt("wait", step)
            self.attempt("send", lambda: self.layer.send(dice.choice(("wait-0", "wait-3", "lone!2")), {"n": 2}))

    def attempt(self, what: str, operation: Callable[[], Any], check: Callable[[Any], bool] = lambda _: True) -> Any:
        """Run an operation that may raise what is documented, and nothing else."""
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
        """Receive until nothing comes; what comes must be messages, and not more than were ever sent."""

        def is_message(result: Any) -> bool:
            name, message = result
            return message is None or (isinstance(name, str) and isinstance(message, dict))

        for _ in range(400):
            taken = self.attempt(f"receive {channel}", lambda: self.layer.receive([channel]), is_message)
            if taken == (None, None):
                return
        self.wrong.append(f"{channel} never becomes empty")

    def operations(self) -> List[Callable[[], Any]]:
        layer, attempt = self.layer, self.attempt
        channels = (*self.CHANNELS[:4], *self.LOCALS)
        steps: List[Callable[[], Any]] = [
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

    def use(self, dice: random.Random) -> None:
        """Every operation, in some order."""
        steps = self.operations()
        steps += [lambda number=number: self.wait(number, dice) for number in dice.sample(range(len(self.fifos)), 2)]
        dice.shuffle(steps)
        for step in steps:
            step()

    def fill(self) -> None:
        """Until there is no memory left, which merges all that is free."""
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

    def must_be_mended(self) -> None:
        """A recovery cuts off what it cannot trust; all that is left must be sound, and take new messages."""
        layer = self.layer

        def section() -> None:
            raise Interruption

        try:
            for store in (layer.message_store, layer.group_store):
                store._check_due = 0
                self.attempt("look", store.sections.check_name)  # such a section does not look for a new segment itself
                with pytest.raises(Interruption):
                    store.sections.exclusively(section)
            assert check_stores(layer.message_store) == []
            assert check_stores(layer.group_store) == []
            with contextlib.suppress(exceptions.ChannelFull):  # it may be full, and say so
                for channel, inbox in (("fresh", "fresh"), ("fresh!1", "fresh!")):
                    layer.send(channel, {"n": 1})
                    assert layer.receive([inbox]) == (channel, {"n": 1})
                layer.group_add("fresh", "fresh")
                assert layer.group_channels("fresh") == ["fresh"]
                layer.group_discard("fresh", "fresh")
        except BaseException:
            self.wrong.append(f"after a recovery: {traceback.format_exc()}")

    def must_work(self) -> None:
        """The layer is empty and as good as new."""
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
        """Whoever waits is rung, and gets what he waits for."""
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

    def run(self, writes: Callable[[], Writes], dice: random.Random, neighbour: Neighbour, visits: bool) -> List[str]:
        """One case; what went wrong in it. With ``visits`` another process comes by, before and after the flush."""
        self.wrong = []
        if dice.random() < 0.5:  # what this process remembers of the channels must not mislead it
            for channel in self.CHANNELS:
                self.layer.receive([channel])
        changed = [(word, value) for word, value in writes() if self.victim.words[word] != value]
        for word, value in changed:
            self.victim.words[word] = value
        if dice.random() < 0.3:
            self.time += int(100e9)  # most messages have expired
        # A segment without magic is one that nobody has finished: whoever comes makes it anew, under its users.
        visits = visits and bool(self.victim.words[at.AT_MAGIC])
        if visits:
            said = self.visit(neighbour, b"v")
            if any(word <= at.AT_CHECKSUM for word, _ in changed) and said != "refused":
                self.wrong.append("another process believed a damaged header")
        mended = dice.choice(("at once", "later", "never"))
        if mended == "at once":
            self.must_be_mended()
        self.use(dice)
        if dice.random() < 0.1:
            self.fill()
        if mended == "later":
            self.must_be_mended()
        try:
            self.layer.flush()
        except exceptions.SegmentError:
            self.layer.unlink()
        except BaseException:
            self.wrong.append(f"flush: {traceback.format_exc()}")
        self.must_work()
        if visits and self.visit(neighbour, b"s") == "refused":  # the header is damaged: no flush mends that
            self.layer.unlink()
            self.must_work()
            if self.visit(neighbour, b"s") == "refused":
                self.wrong.append("another process is refused after an unlink")
        return self.wrong

    def visit(self, neighbour: Neighbour, kind: bytes) -> str:
        said = neighbour.visit(kind)
        if said not in ("", "refused"):
            self.wrong.append(said)
        return said


# -- child processes ------------------------------------------------------------------------------------------


def hurry() -> None:
    """Shorten every pause of the mutex: nobody is really slow here."""
    logging.disable()
    mutexes.SUSPICION, mutexes.VISIBILITY, mutexes.FIRST_NAP, mutexes.LONGEST_NAP = 0.001, 0.0001, 0.00005, 0.0002
    # A new segment gets the key of the old one, so that the copy of the memory fits it.
    randbits = secrets.randbits
    segments.secrets.randbits = lambda bits: 0x123456789ABCDEF if bits == 64 else randbits(bits)


class Interruption(Exception):
    """What a section raises to end like a crash."""


class Neighbour:
    """Another process, which attaches when told to, uses the layer and leaves."""

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
                    self._open_semaphore(layer, tolerant=kind == b"v")
            except exceptions.SegmentMismatch:
                said = "refused"
            except BaseException as error:
                if kind == b"s" or not isinstance(error, DOCUMENTED):
                    said = f"another process: {traceback.format_exc()}"
            os.write(answer, said.encode()[-3000:] + b"\0")

    def _open_semaphore(self, layer: IPCChannelLayer, tolerant: bool) -> None:
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
        """Let it come: "" if all went well, "refused" if it could not attach, else what went wrong."""
        os.write(self._ask, kind)
        said = b""
        while not said.endswith(b"\0"):
            more = os.read(self._answer, 4096)
            if not more:
                return "another process died"
            said += more
        return said[:-1].decode()


def run_cases(prefix: str, kind: str, cases: List[Case], numbers: Sequence[int], say: int) -> None:
    """In a child: run the cases with these numbers, and say into a pipe how each went."""
    hurry()
    neighbour = Neighbour(prefix)
    bench = Bench(prefix)
    bench.populate()
    victims = {"messages": Victim(bench.layer.message_store), "groups": Victim(bench.layer.group_store)}
    bench.victim = victims[kind]
    start = bench.time
    for number in numbers:
        what, writes = cases[number]
        dice = random.Random(f"{kind} {what} {number}")
        os.write(say, f"begin\t{number}\n".encode())
        signal.alarm(2 * HANGS)  # nobody may watch any more
        for victim in victims.values():
            victim.restore(number)
        bench.settle()
        bench.time = start
        found: Writes = []

        def choose(writes: Any = writes, dice: random.Random = dice, found: Writes = found) -> Writes:
            found += writes(bench.victim, dice)
            return found

        visits = "header" in what or dice.random() < 0.2
        wrong = bench.run(choose, dice, neighbour, visits)
        if wrong:
            said = f"{kind}, {what}, {found}: {wrong[0][-2500:]}".replace("\n", "\r")
            os.write(say, f"wrong\t{number}\t{said}\n".encode())
    bench.layer.unlink()
    bench.layer.close()
    os.write(say, b"done\n")


def kill_group(pid: int) -> int:
    """End a child and its children; how it ended, as ``waitpid`` says."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def watch(prefix: str, kind: str, cases: List[Case], numbers: Sequence[int], most: int = 5) -> List[str]:
    """Run the cases in children, one child after the other: each ends with its cases, with a hang, or with a signal."""
    failures: List[str] = []
    first = 0
    while (rest := [number for number in numbers if number >= first]) and len(failures) < most:
        hear, say = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.setpgid(0, 0)
                os.close(hear)
                run_cases(f"{prefix}-{first}", kind, cases, rest, say)
            except BaseException:
                os.write(say, f"wrong\t-1\t{traceback.format_exc()}".replace("\n", "\r").encode() + b"\n")
            finally:
                os._exit(0)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        os.close(say)
        last, text, ended = first, b"", ""
        while not ended:
            ready, _, _ = select.select([hear], [], [], HANGS)
            more = os.read(hear, 65536) if ready else b""
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
        os.close(hear)
        status = kill_group(pid)
        if ended != "done":
            how = f"died of signal {status & 127}" if ended == "died" else "hangs"
            failures.append(f"{kind}, case {last} ({cases[min(last, len(cases) - 1)][0]}) {how}")
        first = last + 1
    return failures


@pytest.mark.parametrize("kind", ["messages", "groups"])
@pytest.mark.parametrize("sort", ["header", "aimed", "random"])
def test_damage_ends_well_or_with_a_documented_error(prefix: str, extent: Extent, kind: str, sort: str) -> None:
    makers = {"header": header_cases, "aimed": lambda: aimed_cases(kind), "random": lambda: random_cases(RANDOM_CASES)}
    cases = makers[sort]()
    failures = watch(prefix, kind, cases, extent.sample(range(len(cases)), SAMPLE, f"{kind} {sort}"))
    assert not failures, "\n\n".join(failures)


@pytest.mark.parametrize("shared", [False, True])
def test_an_altered_payload_is_another_message_or_an_error(layer: IPCChannelLayer, shared: bool) -> None:
    """Whatever bytes a message is made of: what comes out is a message or an error, and the next one is whole."""
    dice = random.Random(int(shared))
    queues = layer.message_store.sections.parts.queues
    words, data = queues.words, queues.data
    outcomes: Dict[str, int] = {"message": 0, "error": 0}
    for member in ("altered", "other"):  # one member alone would get a copy of its own
        layer.group_add("group", member)
    for _ in range(1500):
        message = {
            "text": "t" * dice.randrange(60),
            "nested": {"list": [dice.randrange(2**40), None, True, 1.5, {"key": b"x" * dice.randrange(9)}]},
        }
        (layer.send_group if shared else layer.send)("group" if shared else "altered", message)
        layer.receive(["other"])
        layer.send("altered", {"next": 1})
        head = words[queues.channels.find("altered") + ch.HEAD]
        length = words[head + qu.LENGTH] % qu.SHARED
        start = (words[head + qu.BODY] + qu.BODY_DATA if shared else head + qu.BODY) * at.WORD
        for _ in range(dice.randint(1, 3)):
            data[start + dice.randrange(length)] = dice.choice([dice.randrange(256), 0xC1, 0xDD, 0xDF, 0xC6, 0xC9])
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


def test_a_layer_survives_that_it_cannot_attach_anew(layer: IPCChannelLayer) -> None:
    """Somebody puts junk in the segment's place: every operation says so, until the junk is gone."""
    layer.send("channel", {"n": 1})
    path = f"/dev/shm/{layer.message_store.name}"
    layer.message_store.unlink()
    with open(path, "wb") as junk:
        os.fchmod(junk.fileno(), 0o600)
        junk.write(b"junk" * 4096)
    operations: List[Callable[[], Any]] = [
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
